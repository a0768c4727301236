//! Tables that were an outbox and have another name now, while a new table has theirs. What they hold
//! may still be in the stream, or on the list of a catch-up, and is marked there, not in the new table,
//! whose rows may well have the same ids.

use postgres_types::PgLsn;
use tokio_postgres::Client;

use super::table;
use crate::config::{Config, Table};
use crate::core::event::relation::Mapping;
use crate::error::Fault;
use crate::postgres::outbox_table::OutboxTable;
use crate::postgres::sql;
use crate::postgres::{self, column, query};

/// A table that was an outbox.
#[derive(Debug, Clone)]
pub(crate) struct FormerOutbox {
    /// The schema and the name that it had as an outbox.
    pub was: (String, String),
    /// It is done with once the slot is settled up to here; `None`: that is not known yet.
    pub until: Option<PgLsn>,
    table: Table,
    outbox: OutboxTable,
}

impl FormerOutbox {
    /// Its oid.
    pub(crate) fn relation(&self) -> u32 {
        self.outbox.relation
    }
}

/// Those that this slot's relay has read, that are there still, and that can be read as before.
pub(crate) async fn away(
    client: &Client,
    config: &Config,
    outboxes: &[OutboxTable],
) -> Result<Vec<FormerOutbox>, Fault> {
    let mut found = Vec::new();
    let kept = sql::render(sql::PROGRESS_OUTBOXES, &[("slot", config.postgres.slot.as_str())])?;
    for row in query(client, &kept).await? {
        let relation: u32 = column(&row, "relation")?;
        let was: (String, String) = (column(&row, "schema")?, column(&row, "name")?);
        let is_it = |table: &Table| table.schema == was.0 && table.name == was.1;
        let Some(number) = config.tables.iter().position(is_it) else { continue };
        let Some(heir) = outboxes.get(number) else { continue };
        if outboxes.iter().any(|outbox| outbox.relation == relation) {
            continue;
        }
        let Some(table) = config.tables.get(number) else { continue };
        let table = Table {
            schema: column(&row, "schema_now")?,
            name: column(&row, "name_now")?,
            ..table.clone()
        };
        let outbox = table::outbox(client, config, &table, relation).await?;
        let needs_mark = table.is_marked_in_rows();
        let is_readable = |outbox: &OutboxTable| {
            Mapping::compile(number, &table, &outbox.columns, needs_mark).is_ok()
        };
        let Some(outbox) = outbox.filter(is_readable) else { continue };
        let until = column::<Option<String>>(&row, "until")?.and_then(|lsn| lsn.parse().ok());
        let outbox = OutboxTable { heir: Some(heir.relation), ..outbox };
        found.push(FormerOutbox { was, until, table, outbox });
    }
    Ok(found)
}

/// The configured tables and, behind them, those that are away.
pub(crate) fn with_away(
    config: &Config,
    outboxes: &[OutboxTable],
    away: &[FormerOutbox],
) -> (Config, Vec<OutboxTable>) {
    let (mut config, mut outboxes) = (config.clone(), outboxes.to_vec());
    config.tables.extend(away.iter().map(|it| it.table.clone()));
    outboxes.extend(away.iter().map(|it| it.outbox.clone()));
    (config, outboxes)
}

/// Keeps which tables are read, by oid.
///
/// # Errors
/// An older version made `pgoutbox.progress`, which lacks the column then; or the connection is
/// lost.
pub(crate) async fn record_outboxes(
    client: &Client,
    config: &Config,
    outboxes: &[OutboxTable],
    away: &[FormerOutbox],
) -> Result<(), Fault> {
    let tables = config.tables.iter().zip(outboxes).map(|(table, outbox)| {
        let Table { schema, name, .. } = table;
        let publication = &config.postgres.publication;
        serde_json::json!({ "relation": outbox.relation, "schema": schema, "name": name, "publication": publication, "is_marked": table.has_marks() })
    });
    let away = away.iter().map(|it| {
        let until = it.until.map(|until| until.to_string());
        let (schema, name) = &it.was;
        serde_json::json!({ "relation": it.relation(), "schema": schema, "name": name, "until": until })
    });
    let tables = serde_json::Value::Array(tables.chain(away).collect()).to_string();
    let variables = [("slot", config.postgres.slot.as_str()), ("tables", &tables)];
    postgres::execute(client, &sql::render(sql::PROGRESS_RECORD_OUTBOXES, &variables)?).await
}
