//! What an operator does to `pgoutbox.parked`: looks at events, has them tried again, discards them.
//! The relay hears of it by NOTIFY in the same transaction.
//!
//! **Invariant:** the database holds the state. The relay and a person meet in the same rows, under
//! locks; nothing here knows whether a relay runs.

pub(crate) mod replay;
pub(crate) mod shown;

use std::sync::Arc;

use postgres_types::PgLsn;
use tokio_postgres::{Client, Row};

use crate::config::{Config, Table, title};
use crate::core::event::pgoutput::{Column, StoredRow, Tuple};
use crate::core::event::stored::{self, StoredMessage};
use crate::core::event::{Position, Refusal};
use crate::core::message::Limits;
use crate::error::Fault;
use crate::postgres::sql;
use crate::postgres::{column, query};
use crate::slot;
use crate::text::Printable;

/// States of events that are not done with.
pub(crate) const OPEN: [&str; 3] = ["parked", "queued", "failed"];
/// States of events that are done with, and kept as a record.
pub(crate) const DONE: [&str; 2] = ["dead_lettered", "discarded"];

/// Which parked events are meant; what is empty is not asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct ParkedFilter {
    /// In one of these states.
    pub states: Vec<String>,
    /// With one of these ids.
    pub ids: Vec<String>,
    /// With one of these numbers.
    pub seqs: Vec<i64>,
    /// Of this table, as `schema.table`.
    pub table: String,
    /// Of this type of aggregate, which may be the empty text.
    pub aggregate_type: Option<String>,
    /// Of this aggregate, likewise.
    pub aggregate_id: Option<String>,
    /// Parked for this reason.
    pub reason: String,
    /// Parked at least so long ago, in seconds.
    pub older_than_seconds: u64,
    /// With a number above this one.
    pub after: i64,
    /// Of those that wait behind this one.
    pub behind: Option<i64>,
    /// With this text in its id, its aggregate or its error.
    pub text: String,
    /// At most so many; all where there is none.
    pub limit: Option<u64>,
}

/// Parked events that are tried, by why they are; and what waits behind them.
#[derive(Debug, Clone)]
pub(crate) struct ParkedGroup {
    /// `returned`, `nacked` and so on.
    pub reason: Option<String>,
    /// Their table.
    pub table: String,
    /// How many are tried, or have been.
    pub events: i64,
    /// Those of them that have used up their tries.
    pub failed: i64,
    /// How many wait behind them.
    pub waiting: i64,
    /// What helps, as one of them has it.
    pub hint: Option<String>,
    /// How many different ones there are.
    pub hints: i64,
    /// How long ago the oldest was parked.
    pub oldest_seconds: f64,
}

/// Parked events of a slot that are not done with, by reason and table, the most first.
///
/// # Errors
/// The server cannot be asked.
pub(crate) async fn groups(client: &Client, slot: &str) -> Result<Vec<ParkedGroup>, Fault> {
    let rows = query(client, &sql::render(sql::PARKED_GROUPS, &[("slot", slot)])?).await?;
    let group = |row| {
        Ok(ParkedGroup {
            reason: column(row, "reason")?,
            table: column(row, "table")?,
            events: column(row, "events")?,
            failed: column(row, "failed")?,
            waiting: column(row, "waiting")?,
            hint: column(row, "hint")?,
            hints: column(row, "hints")?,
            oldest_seconds: column(row, "oldest_seconds")?,
        })
    };
    rows.iter().map(group).collect()
}

/// A parked event, save its row.
#[derive(Debug, Clone)]
pub(crate) struct ParkedEvent {
    /// The slot that brought it.
    pub slot: String,
    /// Its number; rises in commit order.
    pub seq: i64,
    /// `parked`, `queued`, `failed`, `dead_lettered` or `discarded`.
    pub state: String,
    /// Later events of its aggregate wait behind it.
    pub is_holding: bool,
    /// How many.
    pub followers: i64,
    /// Its table, schema and name; `None` where it was dropped.
    pub table: Option<(String, String)>,
    /// Its id, where that can be read.
    pub event_id: Option<String>,
    /// The type of its aggregate.
    pub aggregate_type: Option<String>,
    /// The id of its aggregate.
    pub aggregate_id: Option<String>,
    /// Its place in commit order.
    pub position: Position,
    /// When it was committed, in microseconds since 2000.
    pub commit_time: i64,
    /// `returned`, `nacked` and so on.
    pub reason: Option<String>,
    /// The reason in full.
    pub last_error: Option<String>,
    /// How to fix it.
    pub hint: Option<String>,
    /// Tries so far.
    pub attempts: i32,
    /// Seconds until the next try.
    pub next_in_seconds: Option<f64>,
    /// When it was parked.
    pub parked_at: String,
    /// How long ago that was.
    pub age_seconds: f64,
    /// When it was retried or discarded last.
    pub changed_at: String,
    /// By whom.
    pub changed_by: Option<String>,
    /// What they said.
    pub note: Option<String>,
}

impl ParkedEvent {
    /// `type/id` of its aggregate, where it has one.
    pub(crate) fn aggregate(&self) -> Option<String> {
        let id = self.aggregate_id.as_ref()?;
        Some(match &self.aggregate_type {
            Some(kind) => format!("{kind}/{id}"),
            None => id.clone(),
        })
    }

    /// `schema.table`.
    pub(crate) fn table_title(&self) -> String {
        let title = self.table.as_ref().map(|(schema, name)| title(schema, name));
        title.unwrap_or_else(|| "a dropped table".to_owned())
    }

    /// Its id for people.
    pub(crate) fn title(&self) -> String {
        let id = self.event_id.as_deref().unwrap_or("with an unreadable id");
        format!("event {} (seq {}, {})", Printable(id), self.seq, self.state)
    }

    /// It is done with: neither tried again nor waited for.
    pub(crate) fn is_done(&self) -> bool {
        DONE.contains(&self.state.as_str())
    }
}

/// The parked events of a slot that a filter lets through, the oldest first.
pub(crate) async fn list(
    client: &Client,
    slot: &str,
    filter: &ParkedFilter,
) -> Result<Vec<ParkedEvent>, Fault> {
    let states = format!("{{{}}}", filter.states.join(","));
    let ids = serde_json::Value::from(filter.ids.clone()).to_string();
    let (seqs, limit) = (array(&filter.seqs), filter.limit.unwrap_or(1 << 40).to_string());
    let after = filter.after.to_string();
    let behind = filter.behind.map(|seq| seq.to_string()).unwrap_or_default();
    let older_than = format!("{}s", filter.older_than_seconds);
    let (types, of) = (wanted(&filter.aggregate_type), wanted(&filter.aggregate_id));
    let variables = [
        ("slot", slot),
        ("states", &states),
        ("ids", &ids),
        ("seqs", &seqs),
        ("table", &filter.table),
        ("aggregate_types", &types),
        ("aggregate_ids", &of),
        ("reason", &filter.reason),
        ("older_than", &older_than),
        ("after", &after),
        ("behind", &behind),
        ("text", &filter.text),
        ("limit", &limit),
    ];
    let rows = query(client, &sql::render(sql::PARKED_LIST, &variables)?).await?;
    rows.iter().map(|row| parked(slot, row)).collect()
}

/// Those of several slots, likewise.
pub(crate) async fn list_all(
    client: &Client,
    slots: &[String],
    filter: &ParkedFilter,
) -> Result<Vec<ParkedEvent>, Fault> {
    let mut found = Vec::new();
    for slot in slots {
        found.extend(list(client, slot, filter).await?);
    }
    found.sort_by_key(|event| event.seq);
    found.truncate(filter.limit.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX));
    Ok(found)
}

/// What a text has to be, for SQL: `[]` where it may be any. The empty text is a text.
fn wanted(text: &Option<String>) -> String {
    serde_json::Value::from_iter(text.as_deref()).to_string()
}

fn parked(slot: &str, row: &Row) -> Result<ParkedEvent, Fault> {
    let schema: Option<String> = column(row, "table_schema")?;
    let name: Option<String> = column(row, "table_name")?;
    let commit_lsn: String = column(row, "commit_lsn")?;
    let index: i64 = column(row, "index")?;
    let seq: i64 = column(row, "seq")?;
    Ok(ParkedEvent {
        slot: slot.to_owned(),
        seq,
        state: column(row, "state")?,
        is_holding: column(row, "is_holding")?,
        followers: column(row, "followers")?,
        table: schema.zip(name),
        event_id: column(row, "event_id")?,
        aggregate_type: column(row, "aggregate_type")?,
        aggregate_id: column(row, "aggregate_id")?,
        position: Position {
            commit_lsn: commit_lsn.parse().unwrap_or(PgLsn::from(0)),
            index: u64::try_from(index).unwrap_or(0),
        },
        commit_time: column(row, "commit_micros")?,
        reason: column(row, "reason")?,
        last_error: column(row, "last_error")?,
        hint: column(row, "hint")?,
        attempts: column(row, "attempts")?,
        next_in_seconds: column(row, "next_in_seconds")?,
        parked_at: column(row, "parked_at")?,
        age_seconds: column(row, "age_seconds")?,
        changed_at: column(row, "changed_at")?,
        changed_by: column(row, "changed_by")?,
        note: column(row, "note")?,
    })
}

/// The row of a parked event; `None` where it has gone meanwhile.
///
/// # Errors
/// The event is of a table that is not configured; or the server cannot be asked.
pub(crate) async fn row(
    client: &Client,
    config: &Config,
    parked: &ParkedEvent,
) -> Result<Option<StoredRow>, Fault> {
    let seq = parked.seq.to_string();
    let rows = query(client, &sql::render(sql::PARKED_ROW, &[("seq", &seq)])?).await?;
    let Some(found) = rows.first() else { return Ok(None) };
    let is_it = |table: &Table| {
        parked
            .table
            .as_ref()
            .is_some_and(|(schema, name)| table.schema == *schema && table.name == *name)
    };
    let table = config.sources().position(is_it).ok_or_else(|| {
        Fault::definite(
            format!("{}: its table {} is not configured", parked.title(), parked.table_title()),
            "name it under [[tables]] in the configuration",
        )
    })?;
    let broken = |what: &str| {
        Fault::definite(
            format!("{}: its {what} cannot be read", parked.title()),
            "pgoutbox parked discard",
        )
    };
    let columns: String = column(found, "columns")?;
    let columns: serde_json::Value =
        serde_json::from_str(&columns).map_err(|_| broken("columns"))?;
    let columns = columns.as_array().into_iter().flatten().map(|one| {
        let name = one.get("name")?.as_str()?.to_owned();
        let type_oid = u32::try_from(one.get("type_oid")?.as_u64()?).ok()?;
        Some(Column { name, type_oid })
    });
    let columns: Arc<[Column]> = columns.collect::<Option<_>>().ok_or_else(|| broken("columns"))?;
    let cells: Vec<Option<&[u8]>> = column(found, "cells")?;
    let tuple = Tuple::of_texts(cells.into_iter()).map_err(|_| broken("cells"))?;
    Ok(Some(StoredRow { table, columns, tuple, commit_time: parked.commit_time, xid: None }))
}

/// The message of a parked event, of its row as it is kept.
///
/// # Errors
/// No message can be made of the row: the inner one. Or the server cannot be asked.
pub(crate) async fn message(
    client: &Client,
    config: &Config,
    event: &ParkedEvent,
    (row, limits): (&StoredRow, Limits),
) -> Result<Result<StoredMessage, Refusal>, Fault> {
    let today = match config.tables.get(row.table) {
        Some(table) => slot::columns_of_today(client, config, table).await?,
        None => Vec::new(),
    };
    Ok(stored::build(config, row, event.position, limits, &today))
}

/// Where the message of a parked event would go now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Destination {
    /// Its exchange.
    pub exchange: String,
    /// Its routing key.
    pub routing_key: String,
}

/// `None` where no message can be made of the row, or it has gone.
pub(crate) async fn target(
    client: &Client,
    config: &Config,
    event: &ParkedEvent,
) -> Option<Destination> {
    let row = row(client, config, event).await.ok()??;
    let built = message(client, config, event, (&row, usual_limits(config))).await.ok()?.ok()?;
    let (exchange, routing_key) = (built.message.exchange(), built.message.routing_key());
    Some(Destination { exchange: exchange.to_owned(), routing_key: routing_key.to_owned() })
}

/// What RabbitMQ negotiates as the largest frame unless told otherwise, less the frame's own 8:
/// no broker is asked here.
const HEADER_FRAME: usize = 131_072 - 8;

/// What a broker takes, as far as that is known without asking one.
pub(crate) fn usual_limits(config: &Config) -> Limits {
    // Of a stream's frame nothing is known before there is a connection.
    Limits { body: config.amqp.max_message_bytes, header_frame: HEADER_FRAME, stream: None }
}

/// How a parked event stands among those of its aggregate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Neighbours {
    /// The one that it waits behind.
    pub head: Option<i64>,
    /// How many wait behind it.
    pub behind: i64,
}

/// How a parked event stands among those of its aggregate.
pub(crate) async fn neighbours(client: &Client, seq: i64) -> Result<Neighbours, Fault> {
    let sql = sql::render(sql::PARKED_NEIGHBOURS, &[("seq", &seq.to_string())])?;
    let rows = query(client, &sql).await?;
    let row = rows.first().ok_or_else(|| Fault::transient("the query returned no rows"))?;
    Ok(Neighbours { head: column(row, "head")?, behind: column(row, "behind")? })
}

/// Has parked and failed events tried again at once; returns how many. Others are left alone.
///
/// # Errors
/// The server refuses it, or the connection to it is lost: no event is retried then.
pub async fn retry(
    client: &Client,
    slot: &str,
    seqs: &[i64],
    resets_attempts: bool,
    note: &str,
) -> Result<i64, Fault> {
    let (seqs, reset) = (array(seqs), resets_attempts.to_string());
    let variables =
        [("slot", slot), ("seqs", seqs.as_str()), ("reset_attempts", &reset), ("note", note)];
    let rows = query(client, &sql::render(sql::PARKED_RETRY, &variables)?).await?;
    rows.first().map_or(Ok(0), |row| column(row, "events"))
}

/// What a discard did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiscardReport {
    /// Events given up.
    pub events: i64,
    /// Aggregates whose next event is tried now.
    pub freed: i64,
    /// Events that were in flight: their records say what becomes of them.
    pub in_flight: i64,
}

/// Gives events up, and lets the aggregates go on that they held.
///
/// # Errors
/// The server refuses it, or the connection to it is lost: no event is discarded then.
pub async fn discard(
    client: &Client,
    slot: &str,
    seqs: &[i64],
    note: &str,
) -> Result<DiscardReport, Fault> {
    let seqs = array(seqs);
    let variables = [("slot", slot), ("seqs", seqs.as_str()), ("note", note)];
    let rows = query(client, &sql::render(sql::PARKED_DISCARD, &variables)?).await?;
    let Some(row) = rows.first() else { return Ok(DiscardReport::default()) };
    let (events, freed) = (column(row, "events")?, column(row, "freed")?);
    Ok(DiscardReport { events, freed, in_flight: column(row, "in_flight")? })
}

/// Notes on discarded and dead-lettered events that they were replayed after all.
pub(crate) async fn note_replayed(client: &Client, seqs: &[i64]) -> Result<(), Fault> {
    query(client, &sql::render(sql::PARKED_REPLAYED, &[("seqs", &array(seqs))])?).await.map(drop)
}

fn array(seqs: &[i64]) -> String {
    let texts: Vec<String> = seqs.iter().map(ToString::to_string).collect();
    format!("{{{}}}", texts.join(","))
}

/// A pause of the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// Who paused it first.
    pub by: String,
    /// When.
    pub at: String,
    /// Their note, and what others said who paused it again.
    pub note: Option<String>,
    /// It was paused before.
    pub was_paused: bool,
}

/// Pauses the relay of a slot. Where it is paused already, that stands, and the note is added.
///
/// # Errors
/// The role may not write to `pgoutbox.pause`, or the connection is lost: whether it is paused,
/// [`pause_of`] says.
pub async fn pause(client: &Client, slot: &str, note: &str) -> Result<Pause, Fault> {
    let rows = query(client, &sql::render(sql::PAUSE, &[("slot", slot), ("note", note)])?).await?;
    let row = rows.first().ok_or_else(|| Fault::transient("the query returned no rows"))?;
    let (by, at) = paused(row)?;
    Ok(Pause { by, at, note: column(row, "note")?, was_paused: column(row, "was_paused")? })
}

/// Who paused the relay of a slot, when, and their note.
pub(crate) async fn pause_of(
    client: &Client,
    slot: &str,
) -> Result<Option<(String, String, Option<String>)>, Fault> {
    let rows = query(client, &sql::render(sql::PAUSE_STATE, &[("slot", slot)])?).await?;
    let pause = |row| {
        let (by, at) = paused(row)?;
        Ok((by, at, column(row, "note")?))
    };
    rows.first().map(pause).transpose()
}

/// Resumes the relay of a slot; who had paused it, and when, if anybody had.
///
/// # Errors
/// The role may not write to `pgoutbox.pause`, or the connection is lost: whether it is paused,
/// [`pause_of`] says.
pub async fn resume(client: &Client, slot: &str) -> Result<Option<(String, String)>, Fault> {
    let rows = query(client, &sql::render(sql::PAUSE_RESUME, &[("slot", slot)])?).await?;
    rows.first().map(paused).transpose()
}

fn paused(row: &Row) -> Result<(String, String), Fault> {
    Ok((column(row, "paused_by")?, column(row, "paused_at")?))
}
