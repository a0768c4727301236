//! One outbox table, as the statements of a pass name it.

use tokio_postgres::Client;

use crate::config::{AuditMode, Config, Table};
use crate::core::event::relation::TimeKind;
use crate::error::Fault;
use crate::postgres::content::Content;
use crate::postgres::mark::MarkSql;
use crate::postgres::outbox;
use crate::postgres::{ColumnType, column, sql};

/// A table that is there.
pub(super) struct Target {
    pub(super) schema: String,
    pub(super) table: String,
    pub(super) relation: u32,
    relation_text: String,
    pub(super) id: String,
    id_type: ColumnType,
    pub(super) audit_mode: AuditMode,
    marks: MarkSql,
    has_age: bool,
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
        let Some(found) = outbox::look_up(client, table).await? else { return Ok(None) };
        let relation: u32 = column(&found, "oid")?;
        let relation_text = relation.to_string();
        let id = table.columns.id.name.as_str();
        let Some(id_type) = ColumnType::find(client, relation, id).await? else { return Ok(None) };
        let columns = outbox::columns(client, relation).await?;
        let time = &table.columns.occurred_at.name;
        let time_column = columns.iter().find(|column| column.name == *time);
        let has_time = time_column.is_some();
        let kind = time_column.and_then(|column| TimeKind::of(column.type_oid));
        Ok(Some(Self {
            schema: table.schema.clone(),
            table: table.name.clone(),
            relation,
            relation_text,
            id: id.to_owned(),
            id_type,
            audit_mode: table.audit_mode,
            has_age: kind.is_some() || table.mark.time_column().is_some(),
            marks: MarkSql::of(table).marked_at(&event_time(time, kind)),
            occurred_at: if has_time { time.clone() } else { id.to_owned() },
            time: if has_time { "some" } else { "none" },
            content: Content::find(client, relation, table).await?,
            filter: outbox::row_filter(client, config, table, relation).await?,
            slot: config.postgres.slot.clone(),
        }))
    }

    /// Something says how long ago a row was marked, or at least when its event happened.
    pub(super) fn has_age(&self) -> bool {
        self.has_age
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
            ("occurred_at", self.occurred_at.as_str()),
            ("time", self.time),
            ("filter", self.filter.as_str()),
            ("slot", self.slot.as_str()),
        ];
        let is_given = |name: &str| more.iter().any(|(given, _)| *given == name);
        let mut variables = more.to_vec();
        let own = own.into_iter().chain(self.id_type.of_id());
        let own = own.chain(self.content.variables()).chain(self.marks.variables());
        variables.extend(own.filter(|(name, _)| !is_given(name)));
        sql::render_some(sql, &variables)
    }
}

/// When an event happened, as an expression: what the age of a row is told by whose mark has no time.
fn event_time(column: &str, kind: Option<TimeKind>) -> String {
    let column = sql::identifier(column);
    match kind {
        None => "NULL::timestamptz".to_owned(),
        Some(TimeKind::Timestamptz) => format!("outbox.{column}"),
        Some(TimeKind::Timestamp) => format!("outbox.{column} AT TIME ZONE 'UTC'"),
        // Its size gives the unit: seconds, milliseconds, microseconds, nanoseconds.
        Some(TimeKind::Epoch) => format!(
            "to_timestamp(outbox.{column}::float8 / CASE WHEN abs(outbox.{column}::numeric) < 1e11 THEN 1 \
             WHEN abs(outbox.{column}::numeric) < 1e14 THEN 1e3 WHEN abs(outbox.{column}::numeric) < 1e17 THEN 1e6 \
             ELSE 1e9 END)"
        ),
    }
}
