//! What SQL about one outbox table needs to know of it.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use postgres_types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use crate::config::{AuditMode, Config, Table};
use crate::core::event::Epoch;
use crate::core::event::pgoutput::Column;
use crate::core::event::relation::TimeKind;
use crate::core::relay::marks::{Origin, Origins};
use crate::error::{Fault, Kind};
use crate::postgres::content::Content;
use crate::postgres::event_rows::{EventRow, EventRows};
use crate::postgres::mark::MarkSql;
use crate::postgres::share;
use crate::postgres::sql;
use crate::postgres::{ColumnType, classify, column, execute, query};

/// An outbox table as the catalog has it.
#[derive(Debug, Clone)]
pub(crate) struct Outbox {
    /// Which of the configured tables it is.
    pub number: usize,
    /// Its configuration.
    pub table: Table,
    /// Its oid; the root's, where it is partitioned.
    pub relation: u32,
    /// Its columns.
    pub columns: Vec<Column>,
    /// How its column of the time is read, where it has one.
    pub time: Option<TimeKind>,
    /// It has columns of these fields.
    pub has_aggregate: (bool, bool),
    marks: MarkSql,
    slot: String,
    /// Which rows the publication has: see [`row_filter`].
    pub filter: String,
    id_type: ColumnType,
    time_type: ColumnType,
    content: Content,
}

impl Outbox {
    /// Looks a configured table up.
    ///
    /// # Errors
    /// The table, or a column that the configuration names, is not there; or the server cannot be
    /// asked.
    pub(crate) async fn find(
        client: &Client,
        config: &Config,
        number: usize,
    ) -> Result<Self, Fault> {
        let table = config.tables.get(number).cloned().ok_or_else(|| {
            Fault::definite("no such table in the configuration", "pgoutbox config")
        })?;
        let title = table.title();
        let missing = |what: String| Fault::definite(what, "pgoutbox check");
        let row = look_up(client, &table).await?;
        let row = row.ok_or_else(|| missing(format!("table {title} does not exist")))?;
        let relation: u32 = column(&row, "oid")?;
        let columns = columns(client, relation).await?;
        let find = |name: &str| columns.iter().find(|column| column.name == name);
        let time_column = find(&table.columns.occurred_at.name);
        let time = time_column.and_then(|column| TimeKind::of(column.type_oid));
        let id = table.columns.id.name.as_str();
        let id_type = ColumnType::find(client, relation, id)
            .await?
            .ok_or_else(|| missing(format!("{title} has no column \"{id}\" for id")))?;
        let time_type = match time_column {
            Some(column) => ColumnType::find(client, relation, &column.name).await?,
            None => None,
        };
        let is_lacking = |name: &&str| table.is_marked_in_rows() && find(name).is_none();
        if let Some(lacking) = table.mark.names().find(is_lacking) {
            return Err(missing(format!("{title} has no column \"{lacking}\" for the mark")));
        }
        Ok(Self {
            number,
            relation,
            time,
            has_aggregate: (
                find(&table.columns.aggregate_type.name).is_some(),
                find(&table.columns.aggregate_id.name).is_some(),
            ),
            marks: MarkSql::of(&table),
            slot: config.postgres.slot.clone(),
            filter: row_filter(client, config, &table, relation).await?,
            content: Content::find(client, relation, &table).await?,
            time_type: time_type.unwrap_or_else(|| id_type.clone()),
            id_type,
            columns,
            table,
        })
    }

    /// `schema.table`.
    pub(crate) fn title(&self) -> String {
        self.table.title()
    }

    /// Puts its names into a file, and what else the file needs. A field that the table lacks
    /// is named by its id: the file then asks nothing of it.
    pub(crate) fn render(&self, file: &str, more: &[(&str, &str)]) -> Result<String, Fault> {
        let relation = self.relation.to_string();
        let names = &self.table.columns;
        let or_id =
            |has: bool, name: &'_ str| if has { name.to_owned() } else { names.id.name.clone() };
        let occurred_at = or_id(self.time.is_some(), &names.occurred_at.name);
        let aggregate_type = or_id(self.has_aggregate.0, &names.aggregate_type.name);
        let aggregate_id = or_id(self.has_aggregate.1, &names.aggregate_id.name);
        let is_same_table = sql::is_same_table(&self.table.schema, &self.table.name, self.relation);
        let own = [
            ("schema", self.table.schema.as_str()),
            ("table", &self.table.name),
            ("relation", &relation),
            ("is_same_table", &is_same_table),
            ("id", &names.id.name),
            ("occurred_at", &occurred_at),
            ("aggregate_type", &aggregate_type),
            ("aggregate_id", &aggregate_id),
            ("mode", self.table.audit_mode.name()),
            ("slot", &self.slot),
            ("filter", &self.filter),
            ("time", self.time.map_or("none", time_name)),
        ];
        let is_given = |name: &str| more.iter().any(|(given, _)| *given == name);
        let own = own.into_iter().chain(self.id_type.of_id()).chain(self.time_type.of_time());
        let own = own.chain(self.content.variables()).chain(self.marks.variables());
        let own = own.filter(|(name, _)| sql::has(file, name) && !is_given(name));
        let all: Vec<_> = own.chain(more.iter().copied()).collect();
        sql::render(file, &all)
    }

    /// A condition over a row of the name `outbox`: it has this id.
    pub(crate) fn has_id(&self, id: &str) -> String {
        let name = sql::identifier(&self.table.columns.id.name);
        let kind = sql::qualified(&self.id_type.schema, &self.id_type.name);
        format!("outbox.{name}::{kind} = {}::text::{kind}", sql::literal(id))
    }

    /// Likewise: it happened before a time, or not before; `None` where it has no time.
    ///
    /// # Errors
    /// Postgres cannot say in which unit the column counts, where it holds numbers.
    pub(crate) async fn is_when(
        &self,
        client: &Client,
        is_before: bool,
        at: Timestamp,
    ) -> Result<Option<String>, Fault> {
        if self.time.is_none() {
            return Ok(None);
        }
        let name = sql::identifier(&self.table.columns.occurred_at.name);
        let kind = sql::qualified(&self.time_type.schema, &self.time_type.name);
        let at = sql::literal(&self.time_literal(client, at).await?);
        let sign = if is_before { "<" } else { ">=" };
        Ok(Some(format!("outbox.{name}::{kind} {sign} {at}::text::{kind}")))
    }

    /// A time as its column would say it: where that holds numbers, in the unit of those that are there.
    pub(crate) async fn time_literal(
        &self,
        client: &Client,
        at: Timestamp,
    ) -> Result<String, Fault> {
        Ok(match self.time {
            Some(TimeKind::Epoch) => {
                let rows = query(client, &self.render(sql::TABLE_EPOCH, &[])?).await?;
                let number = rows.first().map(|row| column::<i64>(row, "number")).transpose()?;
                let unit = number.map_or(Epoch::Millis, Epoch::of);
                unit.number(at.as_microsecond()).to_string()
            }
            Some(TimeKind::Timestamp) => at.to_zoned(TimeZone::UTC).datetime().to_string(),
            _ => at.to_string(),
        })
    }

    /// When a text of its column of the time is.
    pub(crate) fn time_of(&self, text: &str) -> Option<Timestamp> {
        match self.time? {
            TimeKind::Timestamptz => text.parse().ok(),
            TimeKind::Timestamp => {
                let at: jiff::civil::DateTime = text.parse().ok()?;
                Some(at.to_zoned(TimeZone::UTC).ok()?.timestamp())
            }
            TimeKind::Epoch => Timestamp::from_microsecond(Epoch::micros(text.parse().ok()?)).ok(),
        }
    }

    /// Marks delivered events as the relay does.
    pub(crate) async fn mark(
        &self,
        client: &Client,
        rows: &[(String, Origin)],
    ) -> Result<MarkReport, Fault> {
        let (mark, still) = match self.table.audit_mode {
            AuditMode::Update => (sql::MARK_UPDATE, Some(sql::MARK_STILL_UNMARKED)),
            AuditMode::Delete => (sql::MARK_DELETE, Some(sql::MARK_STILL_THERE)),
            AuditMode::SideTable => (sql::MARK_SIDE_TABLE, None),
            AuditMode::None => return Ok(MarkReport::default()),
        };
        let rows_of = EventRows::find(client, &EventRows::sql(self.relation, &self.table)?).await;
        let rows_of = rows_of.map_err(|error| classify(&error))?;
        // In one transaction, so that nobody takes a mark away before it is looked at.
        execute(client, "BEGIN").await?;
        let marked = async {
            let told = self.told(client, (mark, rows_of), rows).await?;
            let in_vain = match still {
                Some(still) => self.told(client, (still, rows_of), rows).await?,
                None => Vec::new(),
            };
            let rows = told.iter().filter(|id| !in_vain.contains(id)).count();
            Ok(MarkReport { rows, in_vain })
        };
        let marked = marked.await;
        execute(client, if marked.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
        marked
    }

    async fn told(
        &self,
        client: &Client,
        (file, rows_of): (&str, EventRows),
        rows: &[(String, Origin)],
    ) -> Result<Vec<String>, Fault> {
        let told = if self.table.audit_mode == AuditMode::SideTable {
            let sql = self.render(file, &[])?;
            let ids: Vec<&str> = rows.iter().map(|(id, _)| id.as_str()).collect();
            let origins: Origins<'_> = rows.iter().map(|(_, origin)| origin).collect();
            let types = [Type::INT8_ARRAY, Type::INT8_ARRAY, Type::TEXT_ARRAY];
            let mut parameters: Vec<(&(dyn ToSql + Sync), Type)> = vec![(&ids, Type::TEXT_ARRAY)];
            parameters.extend(origins.parameters().into_iter().zip(types));
            client.query_typed(&sql, &parameters).await
        } else {
            let is_event = rows_of.condition(&self.table, &self.id_type);
            let sql = self.render(file, &[("is_event", &is_event)])?;
            let keys = rows_of.keys(rows.iter().map(|(id, origin)| {
                let text = origin.occurred_at.as_deref();
                let moment = text.and_then(|text| rows_of.moment(text));
                EventRow { id, xid: origin.xid, moment }
            }));
            let parameters: Vec<_> = keys.parameters().into_iter().zip(rows_of.types()).collect();
            client.query_typed(&sql, &parameters).await
        };
        let told = told.map_err(|error| classify(&error))?;
        told.iter().map(|row| row.try_get(0).map_err(|error| classify(&error))).collect()
    }
}

/// What became of marks.
#[derive(Debug, Default)]
pub(crate) struct MarkReport {
    /// Rows that had no mark before.
    pub rows: usize,
    /// Ids of rows that have none all the same: a trigger or a rule undoes it.
    pub in_vain: Vec<String>,
}

fn time_name(kind: TimeKind) -> &'static str {
    match kind {
        TimeKind::Timestamptz => "timestamptz",
        TimeKind::Timestamp => "timestamp",
        TimeKind::Epoch => "bigint",
    }
}

/// A table as the catalog has it, by its name: see `check/table.sql`.
pub(crate) async fn look_up(client: &Client, table: &Table) -> Result<Option<Row>, Fault> {
    let marks = MarkSql::of(table);
    let names = [("schema", table.schema.as_str()), ("table", &table.name)];
    let variables: Vec<_> = names.into_iter().chain(marks.variables()).collect();
    let rows = query(client, &sql::render_some(sql::CHECK_TABLE, &variables)?).await?;
    Ok(rows.into_iter().next())
}

/// Which rows of a table are this relay's: those that the row filter of the publication, the share and the table's
/// own rule let pass. An expression that is `true` where all are.
pub(crate) async fn row_filter(
    client: &Client,
    config: &Config,
    table: &Table,
    relation: u32,
) -> Result<String, Fault> {
    let relation = relation.to_string();
    let publication = config.postgres.publication.as_str();
    let variables = [("publication", publication), ("relation", relation.as_str())];
    let rows = query(client, &sql::render(sql::TABLE_ROW_FILTER, &variables)?).await?;
    let published: Option<String> = rows.first().map(|row| column(row, "filter")).transpose()?;
    let published = published.filter(|filter| filter != "true");
    let own = own_filter(client, table, &relation).await?;
    Ok(joined(published.into_iter().chain(own)))
}

/// What of a [`row_filter`] is not of the publication.
async fn own_filter(client: &Client, table: &Table, relation: &str) -> Result<Vec<String>, Fault> {
    let share = match table.share {
        None => None,
        Some(_) => {
            let columns = columns_of(client, relation).await?;
            share::of_rows(table, |name| columns.iter().any(|column| column.name == name))
        }
    };
    Ok(share.into_iter().chain(rule(table)).collect())
}

fn joined(conditions: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = conditions.collect();
    if all.is_empty() { "true".to_owned() } else { all.join(" AND ") }
}

/// Nothing of a [`row_filter`] is of the publication.
///
/// # Errors
/// The connection is lost, or the catalog is locked.
pub(crate) async fn is_own_alone(
    client: &Client,
    table: &Table,
    relation: u32,
    filter: &str,
) -> Result<bool, Fault> {
    let own = own_filter(client, table, &relation.to_string()).await?;
    Ok(joined(own.into_iter()) == filter)
}

/// The table's own rule as an expression, each condition by itself.
fn rule(table: &Table) -> impl Iterator<Item = String> {
    table.rule.0.iter().map(|condition| {
        let column = sql::identifier(table.column_of(&condition.name));
        let values = condition.values.iter().map(|text| sql::literal(text));
        let values = values.collect::<Vec<_>>().join(", ");
        match condition.is_except {
            true => format!("({column}::text IN ({values})) IS NOT TRUE"),
            false => format!("({column}::text IN ({values})) IS TRUE"),
        }
    })
}

/// What to say where SQL about a table failed: a row filter that cannot be worked out for some row
/// fails the whole statement.
pub(crate) fn explain_filter(fault: Fault, table: &str, filter: &str) -> Fault {
    let is_data = matches!(fault.kind, Kind::Sql(code) if code.class() == "22");
    if !is_data || filter == "true" {
        return fault;
    }
    let what =
        format!("{table}: {}, perhaps in the row filter of the publication: {filter}", fault.what);
    let hint = "give the publication a filter that works for every row of the table: ALTER PUBLICATION … SET TABLE … WHERE (…); \
                or correct the row that it fails for";
    let mut fault = fault.hint(hint);
    fault.what = what;
    fault
}

/// The columns of a table as the stream shows them.
pub(crate) async fn columns(client: &Client, relation: u32) -> Result<Vec<Column>, Fault> {
    columns_of(client, &relation.to_string()).await
}

async fn columns_of(client: &Client, relation: &str) -> Result<Vec<Column>, Fault> {
    let variables = [("relation", relation), ("publication", "")];
    let rows = query(client, &sql::render(sql::CHECK_COLUMNS, &variables)?).await?;
    let one = |row| Ok(Column { name: column(row, "name")?, type_oid: column(row, "type_oid")? });
    rows.iter().map(one).collect()
}
