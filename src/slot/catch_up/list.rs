//! The SQL of the list: which rows wait, and in which order they are published.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use postgres_types::Type;
use tokio_postgres::Client;

use crate::config::{Config, Table};
use crate::error::Fault;
use crate::postgres::content::Content;
use crate::postgres::mark::MarkSql;
use crate::postgres::outbox;
use crate::postgres::outbox_table::OutboxTable;
use crate::postgres::raising::{self, CountQuery, RaisingRow, Trial as _};
use crate::postgres::{self, column, is_of_shown_row, query, sql};
use crate::wal::NewSlot;

/// What the SQL of the list takes of a table from the catalog.
pub(super) struct Rows {
    /// Which rows the publication has.
    pub(super) filter: String,
    content: Content,
    /// All columns, as a row of the list keeps them: with what each is known by.
    pub(super) texts: String,
    /// Those that are looked at.
    pub(super) among: String,
}

impl Rows {
    /// Looks it up for each table.
    pub(super) async fn find(
        config: &Config,
        client: &Client,
        outboxes: &[OutboxTable],
    ) -> Result<Vec<Self>, Fault> {
        let mut found = Vec::new();
        for (table, outbox) in config.tables.iter().zip(outboxes) {
            let relation = outbox.relation;
            let mut filter = outbox::row_filter(client, config, table, relation).await?;
            // One that is published no more is filtered as the one that has its name.
            if let Some(heir) = outbox.heir
                && outbox::is_own_alone(client, table, relation, &filter).await?
            {
                filter = outbox::row_filter(client, config, table, heir).await?;
            }
            let content = Content::find(client, relation, table).await?;
            let types = outbox.columns.iter().map(|it| (&it.name, it.type_oid));
            let types = serde_json::to_string(&types.collect::<BTreeMap<_, _>>());
            let types = types.map_err(|error| Fault::transient(error.to_string()))?;
            let variables = [("relation", &*relation.to_string()), ("types", &*types)];
            let texts = query(client, &sql::render(sql::TABLE_TEXTS, &variables)?).await?;
            let texts = texts.first().map_or_else(|| Ok(String::new()), |row| column(row, "texts"));
            found.push(Self { filter, content, texts: texts?, among: "true".to_owned() });
        }
        Ok(found)
    }
}

/// One message to the server, so that nothing comes in between.
pub(super) fn list(
    config: &Config,
    outboxes: &[OutboxTable],
    rows: &[Rows],
    why: &str,
    new: &NewSlot,
) -> Result<String, Fault> {
    let slot = config.postgres.slot.as_str();
    let open = [("slot", slot), ("snapshot", new.snapshot.as_str())];
    let mut out = sql::render(sql::CATCH_UP_OPEN, &open)?;
    let tables = || config.tables.iter().zip(outboxes).zip(rows);
    let mut parts = Vec::new();
    // Without marks there is no record of which rows wait.
    for ((table, outbox), rows) in tables().filter(|((table, _), _)| table.has_marks()) {
        let waiting = waiting(config, table, outbox, rows, &rows.among)?;
        parts.push(format!("{}\n", waiting.trim_end().trim_end_matches(';')));
    }
    let consistent_lsn = new.consistent_lsn.to_string();
    // There is none yet that matches a pattern.
    if !parts.is_empty() {
        let waiting = parts.join("UNION ALL\n");
        let list = sql::render(sql::CATCH_UP_LIST, &[("slot", slot)])?;
        let _ = write!(out, "WITH waiting AS (\n{waiting})\n{list}");
    }
    for ((table, outbox), rows) in tables() {
        let relation = outbox.relation.to_string();
        let variables = [
            ("slot", slot),
            ("schema", &table.schema),
            ("table", &table.name),
            ("relation", &relation),
            ("texts", &rows.texts),
        ];
        out.push_str(&sql::render(sql::CATCH_UP_KEEP, &variables)?);
    }
    let close = [("slot", slot), ("why", why), ("consistent_lsn", &consistent_lsn)];
    out.push_str(&sql::render(sql::CATCH_UP_LISTED, &close)?);
    Ok(out)
}

/// The rows of `read` that wait: the table itself, or a partition of it.
pub(in crate::slot) async fn waiting_in(
    client: &Client,
    config: &Config,
    read: &Table,
    outbox: &OutboxTable,
) -> Result<String, Fault> {
    let filter = outbox::row_filter(client, config, read, outbox.relation).await?;
    let content = Content::find(client, outbox.relation, read).await?;
    let rows = Rows { filter, content, texts: String::new(), among: "true".to_owned() };
    let waiting = waiting(config, read, outbox, &rows, &rows.among)?;
    Ok(waiting.trim_end().trim_end_matches(';').to_owned())
}

/// Rows of a table that wait for a slot that is yet to be made.
pub(crate) struct WaitingRows {
    /// How many.
    pub rows: u64,
    raising: Vec<RaisingRow>,
}

impl WaitingRows {
    /// Says which cannot be read, where there are such.
    pub(crate) fn unreadable(&self, title: &str) -> Option<String> {
        let first = self.raising.first()?;
        let (rows, place) = (self.raising.len(), first.place());
        Some(format!(
            "{rows} rows of {title} cannot be read, and are passed over: the first is {} ctid '{place}': {}",
            first.leaf_name, first.fault.what
        ))
    }
}

/// Counts the rows of a table that wait for a slot that is yet to be made. Without its outbox nothing of
/// pgoutbox's own is there, so that none is parked and none is marked beside the table.
pub(crate) async fn count(
    client: &Client,
    config: &Config,
    table: &Table,
    outbox: Option<&OutboxTable>,
) -> Result<WaitingRows, Fault> {
    let relation = match outbox {
        Some(outbox) => outbox.relation,
        None => match outbox::look_up(client, table).await? {
            Some(row) => column(&row, "oid")?,
            None => 0,
        },
    };
    let filter = outbox::row_filter(client, config, table, relation).await?;
    let content = Content::find(client, relation, table).await?;
    let rows = Rows { filter, content, texts: String::new(), among: "true".to_owned() };
    let trial = CountQuery {
        sql: |among: &str| counted(config, table, outbox, &rows, among),
        rows: "rows",
    };
    postgres::execute(client, raising::BEGIN).await?;
    let counted = async {
        match trial.rows(client, "true").await {
            Err(fault) if is_of_shown_row(&fault) => {
                let raising = raising::raising(client, relation, &trial).await?;
                let rows = trial.rows(client, &raising::all_but(&raising)).await?;
                Ok(WaitingRows { rows, raising })
            }
            rows => Ok(WaitingRows { rows: rows?, raising: Vec::new() }),
        }
    };
    let counted = counted.await;
    postgres::execute(client, "ROLLBACK").await?;
    counted
}

fn counted(
    config: &Config,
    table: &Table,
    outbox: Option<&OutboxTable>,
    rows: &Rows,
    among: &str,
) -> Result<String, Fault> {
    if let Some(outbox) = outbox {
        let waiting = waiting(config, table, outbox, rows, among)?;
        let waiting = waiting.trim_end().trim_end_matches(';');
        return Ok(format!("SELECT count(*) AS rows FROM (\n{waiting}) AS waiting"));
    }
    let marks = MarkSql::of(table);
    let own = [
        ("schema", table.schema.as_str()),
        ("table", &table.name),
        ("mode", table.audit_mode.name()),
        ("filter", &rows.filter),
        ("among", among),
    ];
    let all: Vec<_> = own.into_iter().chain(marks.variables()).collect();
    sql::render_some(sql::INIT_WAITING, &all)
}

pub(super) fn waiting(
    config: &Config,
    table: &Table,
    outbox: &OutboxTable,
    rows: &Rows,
    among: &str,
) -> Result<String, Fault> {
    let (names, marks) = (Names::of(table, outbox), MarkSql::of(table));
    let relation = outbox.relation.to_string();
    let own = [
        ("slot", config.postgres.slot.as_str()),
        ("schema", &table.schema),
        ("table", &table.name),
        ("relation", &relation),
        ("mode", names.mode),
        ("id", names.id),
        ("occurred_at", names.occurred_at),
        ("time", names.time),
        ("filter", &rows.filter),
        ("among", among),
    ];
    let all: Vec<_> =
        own.into_iter().chain(rows.content.variables()).chain(marks.variables()).collect();
    sql::render_some(sql::CATCH_UP_WAITING, &all)
}

/// Columns as the SQL wants them named: where one has no part to play, any will do.
pub(super) struct Names<'a> {
    pub(super) mode: &'static str,
    pub(super) id: &'a str,
    pub(super) occurred_at: &'a str,
    pub(super) time: &'static str,
}

impl<'a> Names<'a> {
    pub(super) fn of(table: &'a Table, outbox: &OutboxTable) -> Self {
        let columns = &table.columns;
        let id = columns.id.name.as_str();
        let time = outbox.columns.iter().find(|column| column.name == columns.occurred_at.name);
        let time = match time.and_then(|column| Type::from_oid(column.type_oid)) {
            Some(Type::TIMESTAMPTZ) => "timestamptz",
            Some(Type::TIMESTAMP) => "timestamp",
            Some(Type::INT8) => "bigint",
            _ => "none",
        };
        Self {
            mode: table.audit_mode.name(),
            id,
            occurred_at: if time == "none" { id } else { columns.occurred_at.name.as_str() },
            time,
        }
    }
}
