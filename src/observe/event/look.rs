//! Asks the database.

use std::collections::{BTreeSet, VecDeque};

use tokio_postgres::{Client, Row};

use super::{EventFilter, EventState, EventTrace, RowTrace, TraceReport, Tries, state_of};
use crate::config::{AuditMode, Config};
use crate::core::event::Refusal;
use crate::core::message::Message;
use crate::core::relay::HeldEvent;
use crate::error::{Fault, Kind};
use crate::operator::replay::{Replay, RowFilter};
use crate::operator::{self, DONE, OPEN, ParkedEvent, ParkedFilter, usual_limits};
use crate::postgres::outbox::Outbox;
use crate::postgres::sql;
use crate::postgres::{column, query};
use crate::rabbitmq::resend::{Fate, Item};
use crate::slot;
use crate::text::span_seconds;
use crate::upkeep::horizon::{self, SlotReach};

/// Looks for events. `held` is what the relay said before that it has in memory.
///
/// # Errors
/// The parking, the slot or the tries of an event cannot be read. What cannot be read of one table is noted.
pub(crate) async fn look(
    client: &Client,
    config: &Config,
    filter: &EventFilter,
    held: Vec<HeldEvent>,
) -> Result<TraceReport, Fault> {
    let records = records(client, config, filter).await?;
    let known = LookBasis { held: held.clone(), xmin: "" };
    let (mut report, mut left) = tables(client, config, filter, known).await?;
    // Whether it is on its way, or missing: that takes a while to know, and few ask for such.
    if report.events.iter().any(|event| event.state == EventState::Waiting && event.held.is_none())
    {
        let xmin = passed(client, config, filter).await?;
        if !xmin.is_empty() {
            let known = LookBasis { held, xmin: &xmin };
            (report, left) = tables(client, config, filter, known).await?;
        }
    }
    let Remainder { taken, mut held } = left;
    for record in records.into_iter().filter(|record| !taken.contains(&record.seq)) {
        report.events.push(alone(record, &mut held));
    }
    report.events.extend(held.into_iter().map(of_memory));
    for event in &mut report.events {
        complete(client, config, event).await?;
    }
    order(&mut report, filter);
    explain(client, config, filter, &mut report).await?;
    Ok(report)
}

/// What is known before the tables are looked into.
struct LookBasis<'a> {
    held: Vec<HeldEvent>,
    xmin: &'a str,
}

/// What no row was found of.
struct Remainder {
    /// Records that rows were found of.
    taken: BTreeSet<i64>,
    held: VecDeque<HeldEvent>,
}

/// The rows of all tables.
async fn tables(
    client: &Client,
    config: &Config,
    filter: &EventFilter,
    known: LookBasis<'_>,
) -> Result<(TraceReport, Remainder), Fault> {
    let mut left = Remainder { taken: BTreeSet::new(), held: known.held.into() };
    let mut report = TraceReport::default();
    let commit_times = commit_times(client).await?;
    for number in 0..config.tables.len() {
        let looked = async {
            let outbox = Outbox::find(client, config, number).await?;
            let rows = rows(client, &outbox, filter, known.xmin, commit_times).await?;
            let records = records_of(client, config, &rows).await?;
            Ok::<_, Fault>((outbox, rows, records))
        };
        match looked.await {
            Ok((outbox, rows, records)) => {
                let first = report.events.len();
                report
                    .events
                    .extend(rows.into_iter().map(|row| row.trace(&outbox, &records, &mut left)));
                let new = report.events.get_mut(first..).unwrap_or_default();
                if let Err(fault) = messages(client, config, &outbox, new).await {
                    let title = outbox.title();
                    report.notes.push(format!("{title}: its messages are not shown: {fault}"));
                }
            }
            // A table that is not there, or may not be read: the others are.
            Err(fault) => report.notes.push(fault.to_string()),
        }
    }
    Ok((report, left))
}

/// The latest last, and no more than asked for.
pub(super) fn order(found: &mut TraceReport, filter: &EventFilter) {
    let at = |event: &EventTrace| {
        let row = event.row.as_ref().and_then(|row| row.occurred_at.clone());
        row.or_else(|| event.record.as_ref().map(|record| record.parked_at.clone()))
    };
    found.events.sort_by_key(at);
    let excess = found.events.len().saturating_sub(filter.limit);
    found.has_more |= excess > 0;
    found.events.drain(..excess);
}

/// The first transaction that the slot may not have passed; empty where it has passed none.
async fn passed(client: &Client, config: &Config, filter: &EventFilter) -> Result<String, Fault> {
    let point = horizon::point(client).await?;
    let reached = horizon::wait(client, &config.postgres.slot, &point, filter.wait).await?;
    Ok(match reached {
        SlotReach::Passed => point.xmin,
        SlotReach::NoSlot | SlotReach::Behind { .. } => String::new(),
    })
}

async fn commit_times(client: &Client) -> Result<&'static str, Fault> {
    let rows = query(client, sql::SERVER).await?;
    let is_on = rows.first().map_or(Ok(false), |row| column(row, "has_commit_times"))?;
    Ok(if is_on { "on" } else { "off" })
}

/// The records of rows, however those were chosen.
async fn records_of(
    client: &Client,
    config: &Config,
    rows: &[FoundRow],
) -> Result<Vec<ParkedEvent>, Fault> {
    let seqs: Vec<i64> = rows.iter().flat_map(|row| &row.seqs).copied().collect();
    if seqs.is_empty() {
        return Ok(Vec::new());
    }
    let filter = ParkedFilter { states: any_state(), seqs, ..ParkedFilter::default() };
    operator::list(client, &config.postgres.slot, &filter).await
}

fn any_state() -> Vec<String> {
    OPEN.into_iter().chain(DONE).chain(["delivered"]).map(str::to_owned).collect()
}

/// Records by what they say themselves, whether there are rows to them or not.
async fn records(
    client: &Client,
    config: &Config,
    filter: &EventFilter,
) -> Result<Vec<ParkedEvent>, Fault> {
    // By time rows are chosen alone: a record says when its event was parked.
    if filter.ids.is_empty() && filter.aggregate.is_none() {
        return Ok(Vec::new());
    }
    let (aggregate_type, aggregate_id) = filter.aggregate.clone().unzip();
    let filter = ParkedFilter {
        states: any_state(),
        ids: filter.ids.clone(),
        aggregate_type,
        aggregate_id,
        limit: u64::try_from(filter.limit).ok(),
        ..ParkedFilter::default()
    };
    operator::list(client, &config.postgres.slot, &filter).await
}

/// A row as the query says it.
struct FoundRow {
    id: Option<String>,
    aggregate: Option<String>,
    seqs: Vec<i64>,
    row: RowTrace,
}

impl FoundRow {
    fn read(outbox: &Outbox, row: &Row) -> Result<Self, Fault> {
        let kind: Option<String> = column(row, "aggregate_type")?;
        let aggregate: Option<String> = column(row, "aggregate_id")?;
        let aggregate = aggregate.map(|id| match kind {
            Some(kind) => format!("{kind}/{id}"),
            None => id,
        });
        Ok(Self {
            id: column(row, "id")?,
            aggregate,
            seqs: column(row, "seqs")?,
            row: RowTrace {
                occurred_at: column(row, "occurred_at")?,
                committed_at: column(row, "committed_at")?,
                is_marked: column(row, "is_marked")?,
                marked_at: column(row, "marked_at")?,
                is_published: column(row, "is_published")?,
                is_passed: column(row, "is_passed")?,
                has_marks: outbox.table.audit_mode != AuditMode::None,
            },
        })
    }

    fn trace(self, outbox: &Outbox, records: &[ParkedEvent], left: &mut Remainder) -> EventTrace {
        left.taken.extend(&self.seqs);
        let record = records.iter().rev().find(|record| self.seqs.contains(&record.seq)).cloned();
        let held = take_held(&mut left.held, &outbox.title());
        let state = state_of(Some(&self.row), record.as_ref(), held.as_ref());
        EventTrace {
            aggregate: self.aggregate,
            row: Some(self.row),
            record,
            held,
            ..EventTrace::new(outbox.title(), self.id, state)
        }
    }
}

/// What the relay has in memory is asked for by id, so a table tells which it is.
fn take_held(held: &mut VecDeque<HeldEvent>, table: &str) -> Option<HeldEvent> {
    let at = held.iter().position(|held| held.table == table)?;
    held.remove(at)
}

async fn rows(
    client: &Client,
    outbox: &Outbox,
    filter: &EventFilter,
    xmin: &str,
    commit_times: &str,
) -> Result<Vec<FoundRow>, Fault> {
    let limit = filter.limit.saturating_add(1).to_string();
    let mut found = Vec::new();
    for among in among(client, outbox, filter).await? {
        let variables = [
            ("among", among.as_str()),
            ("xmin", xmin),
            ("commit_times", commit_times),
            ("limit", &limit),
        ];
        let rows = query(client, &outbox.render(sql::EVENT_ROWS, &variables)?).await;
        let rows = match rows {
            // An id of another type is that of no row here.
            Err(fault) if !filter.ids.is_empty() && is_data(&fault) => continue,
            rows => rows?,
        };
        for row in &rows {
            found.push(FoundRow::read(outbox, row)?);
        }
    }
    Ok(found)
}

/// A value cannot be read as its type.
fn is_data(fault: &Fault) -> bool {
    matches!(fault.kind, Kind::Sql(code) if code.class() == "22")
}

/// Conditions over a row, each for a query of its own; none where the table cannot say what is asked.
async fn among(
    client: &Client,
    outbox: &Outbox,
    filter: &EventFilter,
) -> Result<Vec<String>, Fault> {
    if !filter.ids.is_empty() {
        return Ok(filter.ids.iter().map(|id| outbox.has_id(id)).collect());
    }
    let names = &outbox.table.columns;
    let mut all = Vec::new();
    if let Some((kind, id)) = &filter.aggregate {
        let wanted = [
            (outbox.has_aggregate.0, &names.aggregate_type.name, kind),
            (outbox.has_aggregate.1, &names.aggregate_id.name, id),
        ];
        for (has, name, text) in wanted {
            if !has {
                return Ok(Vec::new());
            }
            all.push(format!("outbox.{}::text = {}", sql::identifier(name), sql::literal(text)));
        }
    }
    for (at, is_before) in [(filter.since, false), (filter.until, true)] {
        let Some(at) = at else { continue };
        match outbox.is_when(client, is_before, at).await? {
            Some(condition) => all.push(condition),
            None => return Ok(Vec::new()),
        }
    }
    Ok(if all.is_empty() { Vec::new() } else { vec![all.join(" AND ")] })
}

/// The messages of rows, as they would be published now.
async fn messages(
    client: &Client,
    config: &Config,
    outbox: &Outbox,
    events: &mut [EventTrace],
) -> Result<(), Fault> {
    let ids: Vec<String> = events.iter().filter_map(|event| event.id.clone()).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let mut built: Vec<(String, Result<Box<Message>, Refusal>)> = Vec::new();
    let mut report = |item: &Item, fate: &Fate| match fate {
        Fate::Dry(message) => built.push((item.id.clone(), Ok(message.clone()))),
        Fate::Refused(refusal) => built.push((item.id.clone(), Err(refusal.clone()))),
        Fate::Delivered | Fate::Held => {}
    };
    let outboxes = std::slice::from_ref(outbox);
    let filter = RowFilter { ids, ..RowFilter::default() };
    let limits = usual_limits(config);
    let mut replay = Replay::dry(config, client, outboxes, limits, &mut report).plain();
    replay.rows(outbox, &filter).await?;
    drop(replay);
    for event in events {
        let is_it = |(id, _): &(String, _)| event.id.as_ref() == Some(id);
        event.message = built.iter().position(is_it).map(|at| built.remove(at).1);
    }
    Ok(())
}

/// A record whose row is gone, or that never had one.
fn alone(record: ParkedEvent, held: &mut VecDeque<HeldEvent>) -> EventTrace {
    let held = take_held(held, &record.table_title());
    let state = state_of(None, Some(&record), held.as_ref());
    EventTrace {
        aggregate: record.aggregate(),
        held,
        ..EventTrace::new(record.table_title(), record.event_id.clone(), state)
    }
    .with(record)
}

impl EventTrace {
    fn with(self, record: ParkedEvent) -> Self {
        Self { record: Some(record), ..self }
    }
}

/// An event that only the relay knows: one that was emitted, or whose row is gone.
fn of_memory(held: HeldEvent) -> EventTrace {
    let state = EventState::of_stand(held.stand);
    EventTrace { held: Some(held.clone()), ..EventTrace::new(held.table, None, state) }
}

/// The tries of a parked event, and its message where no row has told that.
async fn complete(client: &Client, config: &Config, event: &mut EventTrace) -> Result<(), Fault> {
    let Some(record) = &event.record else { return Ok(()) };
    let sql = sql::render(sql::EVENT_TRIES, &[("seq", &record.seq.to_string())])?;
    let rows = query(client, &sql).await?;
    let tries: Option<String> = rows.first().map(|row| column(row, "tries")).transpose()?;
    let tries: Option<Vec<Tries>> = tries.and_then(|tries| serde_json::from_str(&tries).ok());
    event.tries = tries.unwrap_or_default();
    if let Ok(Some(row)) = operator::row(client, config, record).await {
        let built = operator::message(client, config, record, (&row, usual_limits(config))).await?;
        event.message = Some(built.map(|built| Box::new(built.message)));
    }
    Ok(())
}

/// What keeps events waiting, and what it means that nothing is known of an id.
async fn explain(
    client: &Client,
    config: &Config,
    filter: &EventFilter,
    found: &mut TraceReport,
) -> Result<(), Fault> {
    let is_known = |id: &&String| {
        found.events.iter().any(|event| event.id.as_ref() == Some(*id) || event.row.is_none())
    };
    let unknown: Vec<String> = filter.ids.iter().filter(|id| !is_known(id)).cloned().collect();
    let waits = |event: &EventTrace| event.state == EventState::Waiting && event.held.is_none();
    if found.events.iter().any(waits) {
        found.notes.extend(why_waiting(client, config).await?);
    }
    if unknown.is_empty() {
        return Ok(());
    }
    let mut means = "no outbox table and no record has it: it was delivered and its row removed (audit.mode, pruning), \
                     deleted, or is not committed"
        .to_owned();
    if !config.messages.is_empty() {
        means += "; an event that was emitted has no row, and leaves no trace once it is delivered";
    }
    found.unknown = unknown.into_iter().map(|id| (id, means.clone())).collect();
    found.notes.extend(uncommitted(client, config).await?);
    Ok(())
}

async fn why_waiting(client: &Client, config: &Config) -> Result<Option<String>, Fault> {
    let name = &config.postgres.slot;
    let Some(slot) = slot::state(client, name).await? else {
        return Ok(Some(format!("there is no slot \"{name}\": pgoutbox init makes it")));
    };
    let pause = operator::pause_of(client, name).await.ok().flatten();
    if let Some(reason) = slot.why_lost() {
        let loss = slot::Loss::of(config);
        let hint = loss.hint(true, pause.is_some());
        return Ok(Some(format!("{}: {hint}", loss.what(Some(reason)))));
    }
    let lag = slot.confirmed_lag_bytes.unwrap_or(0);
    let lsn = slot.confirmed_flush_lsn.unwrap_or_default();
    let behind = format!("slot \"{name}\" stands at {lsn}, {lag} bytes before the end of the WAL");
    if let Some((by, at, _)) = pause {
        return Ok(Some(format!(
            "the relay is paused by {by} since {at}: {behind}; pgoutbox resume"
        )));
    }
    Ok(Some(match slot.is_active {
        true => {
            format!("what waits is read in order: {behind}; pgoutbox status says what holds it up")
        }
        false => format!("no relay reads the slot: {behind}; start pgoutbox run"),
    }))
}

/// Transactions whose rows nobody sees yet.
async fn uncommitted(client: &Client, config: &Config) -> Result<Option<String>, Fault> {
    let mut relations = Vec::new();
    for number in 0..config.tables.len() {
        if let Ok(outbox) = Outbox::find(client, config, number).await {
            relations.push(outbox.relation.to_string());
        }
    }
    let relations = format!("{{{}}}", relations.join(","));
    let rows = query(client, &sql::render(sql::EVENT_OPEN, &[("relations", &relations)])?).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let (count, oldest): (i64, Option<f64>) =
        (column(row, "transactions")?, column(row, "oldest_seconds")?);
    let who: Option<String> = column(row, "who")?;
    let since =
        oldest.map_or_else(String::new, |it| format!(", the oldest for {}", span_seconds(it)));
    let are = if count == 1 { "transaction has" } else { "transactions have" };
    Ok((count > 0).then(|| {
        format!(
            "{count} {are} written to an outbox table and not ended{since} ({}): nobody sees their events yet",
            who.unwrap_or_default()
        )
    }))
}
