//! One outbox table, as the statements of a pass name it.

use tokio_postgres::Client;

use crate::config::{Config, Table};
use crate::error::Fault;
use crate::postgres::outbox::{self, Content};
use crate::postgres::{column, query, sql};

/// A table that is there.
pub(super) struct Target {
    pub(super) schema: String,
    pub(super) table: String,
    pub(super) relation: u32,
    relation_text: String,
    pub(super) id: String,
    id_schema: String,
    id_type: String,
    relayed_at: String,
    /// The column of the time, or the id where there is none.
    occurred_at: String,
    time: &'static str,
    content: Content,
    /// What the publication has of it: the rest is another relay's, or nobody's.
    filter: String,
    slot: String,
}

impl Target {
    /// `None` where there is no such table: that it is missing, others say.
    pub(super) async fn find(
        client: &Client,
        config: &Config,
        table: &Table,
    ) -> Result<Option<Self>, Fault> {
        let (schema, name) = (("schema", table.schema.as_str()), ("table", table.name.as_str()));
        let mark = table.columns.relayed_at.name.as_str();
        let found = sql::render(sql::CHECK_TABLE, &[schema, name, ("relayed_at", mark)])?;
        let found = query(client, &found).await?;
        let Some(found) = found.first() else { return Ok(None) };
        let relation: u32 = column(found, "oid")?;
        let relation_text = relation.to_string();
        let id = table.columns.id.name.as_str();
        let id_type = sql::render(sql::TABLE_ID_TYPE, &[("relation", &relation_text), ("id", id)])?;
        let rows = query(client, &id_type).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let columns = outbox::columns(client, relation).await?;
        let time = &table.columns.occurred_at.name;
        let has_time = columns.iter().any(|column| column.name == *time);
        Ok(Some(Self {
            schema: table.schema.clone(),
            table: table.name.clone(),
            relation,
            relation_text,
            id: id.to_owned(),
            id_schema: column(row, "schema")?,
            id_type: column(row, "name")?,
            relayed_at: mark.to_owned(),
            occurred_at: if has_time { time.clone() } else { id.to_owned() },
            time: if has_time { "some" } else { "none" },
            content: Content::find(client, relation, table).await?,
            filter: outbox::row_filter(client, config, relation).await?,
            slot: config.postgres.slot.clone(),
        }))
    }

    /// The publication has only some of its rows.
    pub(super) fn is_shared(&self) -> bool {
        self.filter != "true"
    }

    pub(super) fn title(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }

    /// A file of `sql/`, with this table's names and some more; a later one goes before.
    pub(super) fn render(&self, sql: &str, more: &[(&str, &str)]) -> Result<String, Fault> {
        let own = [
            ("schema", self.schema.as_str()),
            ("table", self.table.as_str()),
            ("relation", self.relation_text.as_str()),
            ("id", self.id.as_str()),
            ("id_schema", self.id_schema.as_str()),
            ("id_type", self.id_type.as_str()),
            ("relayed_at", self.relayed_at.as_str()),
            ("occurred_at", self.occurred_at.as_str()),
            ("time", self.time),
            ("filter", self.filter.as_str()),
            ("slot", self.slot.as_str()),
        ];
        let is_given = |name: &str| more.iter().any(|(given, _)| *given == name);
        let mut variables = more.to_vec();
        let own = own.into_iter().chain(self.content.variables());
        variables.extend(own.filter(|(name, _)| !is_given(name)));
        sql::render_some(sql, &variables)
    }
}
