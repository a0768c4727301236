//! Rows that cannot be listed, since something in them raises: they are left out, and named.

use tokio_postgres::{Client, SimpleQueryMessage};

use super::fetch::tell_passed_over;
use super::list::{Rows, waiting};
use crate::config::{Config, Table};
use crate::error::Fault;
use crate::postgres::outbox_table::OutboxTable;
use crate::postgres::raising::{RaisingRow, Trial};
use crate::postgres::{classify, sql};

/// A table whose rows are tried, as its list sees them.
pub(super) struct TableTrial<'a> {
    pub(super) config: &'a Config,
    pub(super) table: &'a Table,
    pub(super) outbox: &'a OutboxTable,
    pub(super) rows: &'a Rows,
    pub(super) snapshot: &'a str,
}

impl Trial for TableTrial<'_> {
    async fn rows(&self, client: &Client, among: &str) -> Result<u64, Fault> {
        let mut sql = sql::render(sql::CATCH_UP_TRY_OPEN, &[("snapshot", self.snapshot)])?;
        let waiting = waiting(self.config, self.table, self.outbox, self.rows, among)?;
        sql.push_str("WITH waiting AS MATERIALIZED (\n");
        sql.push_str(waiting.trim_end().trim_end_matches(';'));
        sql.push_str(")\n");
        let variables = [
            ("schema", self.table.schema.as_str()),
            ("table", &self.table.name),
            ("texts", &self.rows.texts),
        ];
        sql.push_str(&sql::render(sql::CATCH_UP_TRY, &variables)?);
        let answer = client.simple_query(&sql).await.map_err(|error| classify(&error))?;
        let rows = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
            _ => None,
        });
        Ok(rows.unwrap_or(0))
    }
}

/// Names each of them.
pub(super) async fn tell(client: &Client, table: &Table, raising: &[RaisingRow]) {
    for row in raising {
        let (id, place) = (row.id(client, table).await, row.place());
        tell_passed_over(table, id.as_deref(), (&row.leaf_name, &place), &row.fault);
    }
}
