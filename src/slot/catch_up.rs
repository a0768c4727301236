//! Rows that the slot does not hold: those that waited before it was made, and those of the
//! time when it was gone.
//!
//! A new slot comes with a snapshot that sees exactly what its stream will not bring. The ids of
//! the rows that wait there become a list, in the order in which they are published; the relay
//! publishes the list before it reads the stream. Nothing is told from ids or times but the
//! order within the list.
//!
//! That a slot is being made is written down before it is made, and the list is written whole,
//! in one transaction. So after a crash there is either a list to go on with, or a slot to be
//! dropped and made again; a slot whose list was never written is never streamed from.

use std::pin::pin;
use std::time::Duration;

use postgres_types::{PgLsn, Type};
use tokio::time::{Instant, interval_at};
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};
use tracing::{info, warn};

use crate::config::{AuditMode, Config, Table};
use crate::core::event::Position;
use crate::core::event::pgoutput::{StoredRow, Tuple};
use crate::error::{Fault, codes};
use crate::postgres::identity::Identity;
use crate::postgres::outbox::{self, Content};
use crate::postgres::outbox_table::OutboxTable;
use crate::postgres::sql;
use crate::postgres::turn::Turn;
use crate::postgres::{self, classify, column, is_of_row, query};
use crate::slot::{self, SlotState};
use crate::wal::{NewSlot, Wal};

/// Bytes of payload, as they are stored, in one chunk; one larger row alone still comes.
const CHUNK_BYTES: u64 = 8 << 20;
/// Columns of `catch_up_fetch.sql` before the table's own: number, last number, bytes before,
/// time of the commit, the transaction that wrote it.
const META: usize = 5;
/// Rows that cannot be read, of one chunk in which no other can: then it is no fault of theirs.
const MOST_UNREADABLE: u32 = 100;
/// How often it is said whom a new slot waits for.
const NOTICE: Duration = Duration::from_secs(30);

/// How long the making of a slot may wait for transactions that are writing.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For any one of them.
    pub each: Duration,
    /// For all of them together.
    pub all: Duration,
    /// It is tried again by itself.
    pub is_retried: bool,
}

impl Patience {
    /// The running relay's: it has nothing else to do meanwhile, and each try waits from the
    /// start.
    pub const RELAY: Self = Self {
        each: Duration::from_secs(10 * 60),
        all: Duration::from_secs(30 * 60),
        is_retried: true,
    };

    /// A command's, whose user waits.
    pub(crate) fn command(timeout: Duration) -> Self {
        Self { each: timeout, all: timeout * 2 + Duration::from_secs(10), is_retried: false }
    }
}

/// A list of rows that is to be published before the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatchUp {
    /// Where the slot's stream begins. The place of row `n` of the list is number `n` of the
    /// LSN just before.
    pub consistent_lsn: PgLsn,
    /// Rows on the list.
    pub total: u64,
    /// Why there is one.
    pub why: String,
}

impl CatchUp {
    /// The commit LSN under which the rows of the list are placed: before all that the stream
    /// brings, and behind all that was relayed before.
    pub fn commit_lsn(&self) -> PgLsn {
        Position::before(self.consistent_lsn).commit_lsn
    }
}

/// Some rows of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The rows with their numbers, in order. Numbers of rows that are gone or marked meanwhile
    /// are missing.
    pub rows: Vec<(u64, StoredRow)>,
    /// Where the next chunk begins: the end of the list, where this was the last.
    pub next: u64,
}

/// How far a catch-up is, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    /// The list is written; else the slot is still being made.
    pub is_listed: bool,
    /// Why there is one.
    pub why: String,
    /// Where the slot's stream begins.
    pub consistent_lsn: Option<String>,
    /// Rows on the list.
    pub total: i64,
    /// Rows of it that are settled.
    pub done: i64,
    /// Since when, in UTC.
    pub begun_at: String,
}

/// How far the slot's catch-up is; `None` where there is none.
///
/// # Errors
/// The connection's.
pub(crate) async fn report(client: &Client, slot: &str) -> Result<Option<Report>, Fault> {
    let rows = query(client, &sql::render(sql::CATCH_UP, &[("slot", slot)])?).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    Ok(Some(Report {
        is_listed: column::<String>(row, "state")? == "listed",
        why: column(row, "why")?,
        consistent_lsn: column(row, "consistent_lsn")?,
        total: column(row, "total")?,
        done: column(row, "done")?,
        begun_at: column(row, "begun_at")?,
    }))
}

/// Whether the name was ever the slot of a relay of this database.
///
/// # Errors
/// The connection's.
pub(crate) async fn is_known(client: &Client, slot: &str) -> Result<bool, Fault> {
    let rows = query(client, &sql::render(sql::SLOT_KNOWN, &[("slot", slot)])?).await?;
    rows.first().map_or(Ok(false), |row| column(row, "is_known"))
}

/// Sees to it that there is a slot that, with its list, holds every row that waits. To be asked
/// after the preflight and before the slot is taken. Says why, where it made one.
///
/// # Errors
/// Definite where the policy is to stop, where nothing tells which rows wait, or where the slot
/// was never there; transient where another relay is at it.
pub async fn ensure_slot(
    config: &Config,
    client: &Client,
    outboxes: &[OutboxTable],
) -> Result<Option<String>, Fault> {
    let name = &config.postgres.slot;
    let Some(why) = what_is_wrong(config, client).await? else { return Ok(None) };
    if !config.is_catching_up() {
        return Err(Fault::halt(format!("slot \"{name}\": {why}"), slot::ways_out(config, false)));
    }
    warn!(slot = name, why, "recreating the slot and listing the rows that wait");
    let total = prepare(config, client, outboxes, &why, Patience::RELAY).await?;
    info!(slot = name, rows = total, "listed the rows that wait: they are published first");
    Ok(Some(why))
}

/// A slot that was lost between the preflight and its use is no reason to end the process: the
/// next session recreates it. To be asked about the fault of a stream that does not start: it
/// comes back transient where a new session helps.
pub(crate) async fn soften(config: &Config, client: &Client, fault: Fault) -> Fault {
    if !config.is_catching_up() {
        return fault;
    }
    match what_is_wrong(config, client).await {
        Ok(Some(why)) => Fault::transient(format!("slot \"{}\": {why}", config.postgres.slot)),
        Ok(None) | Err(_) => fault,
    }
}

/// Why the slot alone would not bring every row; `None` where it does, with its list if there is
/// one.
async fn what_is_wrong(config: &Config, client: &Client) -> Result<Option<String>, Fault> {
    let name = &config.postgres.slot;
    let (slot, report) = (slot::state(client, name).await?, report(client, name).await?);
    let Some(slot) = slot else {
        return match report {
            Some(report) if report.is_listed => {
                Ok(Some("it went while a catch-up was under way".to_owned()))
            }
            Some(report) => Ok(Some(report.why)),
            None if is_known(client, name).await? => Ok(Some(slot::GONE.to_owned())),
            None => Err(slot::never_there(config)),
        };
    };
    if let Some(reason) = slot.why_lost() {
        return Ok(Some(format!("it is lost ({reason})")));
    }
    let Some(report) = report else { return Ok(None) };
    if !report.is_listed {
        return Ok(Some(report.why));
    }
    if !is_ahead(&slot, &report) {
        return Ok(None);
    }
    if report.done >= report.total {
        finish(client, name).await?;
        return Ok(None);
    }
    // The stream is only read once the list is done, so this is not the slot of the list.
    Ok(Some("somebody recreated it while a catch-up was under way".to_owned()))
}

fn is_ahead(slot: &SlotState, report: &Report) -> bool {
    let lsn = |text: &Option<String>| text.as_ref()?.parse::<PgLsn>().ok();
    match (lsn(&slot.confirmed_flush_lsn), lsn(&report.consistent_lsn)) {
        (Some(confirmed), Some(consistent)) => confirmed > consistent,
        _ => false,
    }
}

/// Makes the slot, or recreates it, and lists the rows that wait where its stream begins;
/// returns how many. Whatever list there was is replaced.
///
/// # Errors
/// Names the transactions that it waited for; transient where another is at it, or holds the
/// slot. What was begun is begun again by the next call.
pub async fn prepare(
    config: &Config,
    client: &Client,
    outboxes: &[OutboxTable],
    why: &str,
    patience: Patience,
) -> Result<u64, Fault> {
    let slot = config.postgres.slot.as_str();
    if config.audit.mode == AuditMode::None {
        return Err(slot::nothing_tells(config));
    }
    let Some(_turn) = Turn::take(config, "catch-up").await? else {
        return Err(Fault::transient(format!("another pgoutbox is making slot \"{slot}\"")));
    };
    // What waited in a table that was renamed meanwhile waits there still.
    let away = slot::away(client, config, outboxes).await?;
    let (all, outboxes) = slot::with_away(config, outboxes, &away);
    let outcome = prepare_locked(&all, client, &outboxes, why, patience).await;
    if outcome.is_err() {
        // Of a transaction that was not committed.
        let _ = client.batch_execute("ROLLBACK").await;
    }
    outcome
}

async fn prepare_locked(
    config: &Config,
    client: &Client,
    outboxes: &[OutboxTable],
    why: &str,
    patience: Patience,
) -> Result<u64, Fault> {
    let slot = config.postgres.slot.as_str();
    let begin = sql::render(sql::CATCH_UP_BEGIN, &[("slot", slot), ("why", why)])?;
    // Open until the snapshot is taken: it would go with the connection.
    let (mut wal, identity) = Wal::connect(&config.postgres).await?;
    postgres::execute(client, &begin).await?;
    if let Some(state) = slot::state(client, slot).await? {
        drop_slot(config, &mut wal, &state).await?;
    }
    let new = create(config, client, &mut wal, patience).await?;
    let filters = filters(config, client, outboxes).await?;
    let contents = contents(config, client, outboxes).await?;
    let listed = list(config, outboxes, &filters, &contents, why, &new)?;
    postgres::execute(client, &listed).await.map_err(|fault| {
        let filters = filters.iter().filter(|filter| *filter != "true").cloned();
        let filters = filters.collect::<Vec<_>>().join("; ");
        let filters = if filters.is_empty() { "true" } else { filters.as_str() };
        outbox::explain_filter(fault, "the list of rows that wait", filters)
    })?;
    drop(wal);
    record(client, slot, &identity, &new).await?;
    let listed = report(client, slot).await?.filter(|report| report.is_listed);
    let total = listed.and_then(|report| u64::try_from(report.total).ok());
    let total =
        total.ok_or_else(|| Fault::transient("somebody else has begun a catch-up meanwhile"))?;
    if total == 0 {
        finish(client, slot).await?;
    }
    Ok(total)
}

/// Only a slot that is ours and that nobody reads.
async fn drop_slot(config: &Config, wal: &mut Wal, state: &SlotState) -> Result<(), Fault> {
    let slot = &config.postgres.slot;
    let database = Some(config.postgres.audit.database.as_str());
    if state.plugin.as_deref() != Some("pgoutput") || state.database.as_deref() != database {
        return Err(Fault::definite(
            format!("slot \"{slot}\" is not pgoutbox's"),
            "choose another name: postgres.slot",
        ));
    }
    if state.is_active {
        let pid = state.active_pid.unwrap_or_default();
        return Err(Fault::transient(format!(
            "cannot recreate slot \"{slot}\": in use by pid {pid}"
        )));
    }
    wal.drop_slot(slot, config.postgres.connect_timeout).await
}

async fn create(
    config: &Config,
    client: &Client,
    wal: &mut Wal,
    patience: Patience,
) -> Result<NewSlot, Fault> {
    let slot = config.postgres.slot.as_str();
    let is_failover = config.postgres.is_failover;
    let mut created = pin!(wal.create_slot(slot, is_failover, patience.each, patience.all));
    let mut notice = interval_at(Instant::now() + NOTICE, NOTICE);
    let outcome = loop {
        tokio::select! {
            outcome = &mut created => break outcome,
            _ = notice.tick() => {
                let (blockers, _) = slot::blockers(client).await?;
                info!(slot, waits_for = blockers.join("; "), "the new slot waits for transactions that are writing");
            }
        }
    };
    match outcome {
        Err(fault) if fault.is_code(codes::LOCK_NOT_AVAILABLE) => {
            let mut fault = slot::blocked(client, slot, patience.each).await?;
            if patience.is_retried {
                fault.class = crate::error::Class::Transient;
            }
            Err(fault)
        }
        outcome => outcome,
    }
}

/// One message to the server, so that nothing comes in between.
fn list(
    config: &Config,
    outboxes: &[OutboxTable],
    filters: &[String],
    contents: &[Content],
    why: &str,
    new: &NewSlot,
) -> Result<String, Fault> {
    let slot = config.postgres.slot.as_str();
    let open = [("slot", slot), ("snapshot", new.snapshot.as_str())];
    let mut out = sql::render(sql::CATCH_UP_OPEN, &open)?;
    out.push_str("WITH waiting AS (\n");
    let tables = || config.tables.iter().zip(outboxes);
    let parts = tables().zip(filters).zip(contents);
    for (number, (((table, outbox), filter), content)) in parts.enumerate() {
        if number > 0 {
            out.push_str("UNION ALL\n");
        }
        let waiting = waiting(config, table, outbox, filter, content)?;
        out.push_str(waiting.trim_end().trim_end_matches(';'));
        out.push('\n');
    }
    out.push_str(")\n");
    let consistent_lsn = new.consistent_lsn.to_string();
    out.push_str(&sql::render(sql::CATCH_UP_LIST, &[("slot", slot)])?);
    for (table, outbox) in tables() {
        let relation = outbox.relation.to_string();
        let variables = [
            ("slot", slot),
            ("schema", &table.schema),
            ("table", &table.name),
            ("relation", &relation),
        ];
        out.push_str(&sql::render(sql::CATCH_UP_KEEP, &variables)?);
    }
    let close = [("slot", slot), ("why", why), ("consistent_lsn", &consistent_lsn)];
    out.push_str(&sql::render(sql::CATCH_UP_LISTED, &close)?);
    Ok(out)
}

async fn filters(
    config: &Config,
    client: &Client,
    outboxes: &[OutboxTable],
) -> Result<Vec<String>, Fault> {
    let mut filters = Vec::new();
    for table in outboxes {
        let filter = outbox::row_filter(client, config, table.relation).await?;
        // One that is published no more is filtered as the one that has its name.
        filters.push(match table.heir {
            Some(heir) if filter == "true" => outbox::row_filter(client, config, heir).await?,
            _ => filter,
        });
    }
    Ok(filters)
}

async fn contents(
    config: &Config,
    client: &Client,
    outboxes: &[OutboxTable],
) -> Result<Vec<Content>, Fault> {
    let mut contents = Vec::new();
    for (table, outbox) in config.tables.iter().zip(outboxes) {
        contents.push(Content::find(client, outbox.relation, table).await?);
    }
    Ok(contents)
}

/// The rows of `read` that wait: the table itself, or a partition of it.
pub(super) async fn waiting_in(
    client: &Client,
    config: &Config,
    read: &Table,
    outbox: &OutboxTable,
) -> Result<String, Fault> {
    let filter = outbox::row_filter(client, config, outbox.relation).await?;
    let content = Content::find(client, outbox.relation, read).await?;
    let waiting = waiting(config, read, outbox, &filter, &content)?;
    Ok(waiting.trim_end().trim_end_matches(';').to_owned())
}

fn waiting(
    config: &Config,
    table: &Table,
    outbox: &OutboxTable,
    filter: &str,
    content: &Content,
) -> Result<String, Fault> {
    let names = Names::of(config, table, outbox);
    let [payload, topic, of_type, of_id] = content.variables();
    sql::render(
        sql::CATCH_UP_WAITING,
        &[
            payload,
            topic,
            of_type,
            of_id,
            ("slot", config.postgres.slot.as_str()),
            ("schema", &table.schema),
            ("table", &table.name),
            ("relation", &outbox.relation.to_string()),
            ("mode", names.mode),
            ("id", names.id),
            ("relayed_at", names.relayed_at),
            ("occurred_at", names.occurred_at),
            ("time", names.time),
            ("filter", filter),
        ],
    )
}

/// Columns as the SQL wants them named: where one has no part to play, any will do.
struct Names<'a> {
    mode: &'static str,
    id: &'a str,
    relayed_at: &'a str,
    occurred_at: &'a str,
    time: &'static str,
}

impl<'a> Names<'a> {
    fn of(config: &Config, table: &'a Table, outbox: &OutboxTable) -> Self {
        let columns = &table.columns;
        let id = columns.id.name.as_str();
        let time = outbox.columns.iter().find(|column| column.name == columns.occurred_at.name);
        let time = match time.and_then(|column| Type::from_oid(column.type_oid)) {
            Some(Type::TIMESTAMPTZ) => "timestamptz",
            Some(Type::TIMESTAMP) => "timestamp",
            Some(Type::INT8) => "bigint",
            _ => "none",
        };
        let mode = match config.audit.mode {
            AuditMode::Update => "update",
            AuditMode::Delete => "delete",
            AuditMode::SideTable => "side_table",
            AuditMode::None => "none",
        };
        let is_update = config.audit.mode == AuditMode::Update;
        Self {
            mode,
            id,
            relayed_at: if is_update { columns.relayed_at.name.as_str() } else { id },
            occurred_at: if time == "none" { id } else { columns.occurred_at.name.as_str() },
            time,
        }
    }
}

/// Everything before the list is settled on this server and timeline. That there is a row is
/// also what tells a slot that was there from a name that never was one.
async fn record(
    client: &Client,
    slot: &str,
    identity: &Identity,
    new: &NewSlot,
) -> Result<(), Fault> {
    let before = Position::before(new.consistent_lsn).commit_lsn;
    let Identity { system_identifier, timeline } = identity;
    let progress: [&(dyn postgres_types::ToSql + Sync); 6] =
        [&slot, system_identifier, timeline, &before, &0_i64, &None::<&str>];
    let written = client.execute(sql::PROGRESS_RECORD, &progress).await;
    written.map(|_| ()).map_err(|error| classify(&error))
}

/// Keeps where the stream of a slot begins that was made without a list. Best effort: the first
/// session does it as well.
pub(crate) async fn record_new(config: &Config, client: &Client, lsn: &str) {
    let Ok(consistent_lsn) = lsn.parse::<PgLsn>() else { return };
    let slot = config.postgres.slot.as_str();
    let Ok((wal, Identity { system_identifier, timeline })) = Wal::connect(&config.postgres).await
    else {
        return;
    };
    drop(wal);
    let progress: [&(dyn postgres_types::ToSql + Sync); 6] =
        [&slot, &system_identifier, &timeline, &consistent_lsn, &0_i64, &None::<&str>];
    let _ = client.execute(sql::PROGRESS_RECORD, &progress).await;
}

/// The list that is to be published before the stream is read. To be asked once the slot is
/// held: the one before may have finished it.
///
/// # Errors
/// The connection's; transient where the list is not written, since the slot must not be
/// streamed from then.
pub async fn pending(client: &Client, slot: &str) -> Result<Option<CatchUp>, Fault> {
    let Some(report) = report(client, slot).await? else { return Ok(None) };
    let consistent_lsn = report.consistent_lsn.as_ref().and_then(|lsn| lsn.parse().ok());
    match (report.is_listed, consistent_lsn) {
        (true, Some(consistent_lsn)) => Ok(Some(CatchUp {
            consistent_lsn,
            total: u64::try_from(report.total).unwrap_or(0),
            why: report.why,
        })),
        _ => Err(Fault::transient(format!(
            "slot \"{slot}\" is being recreated, and the rows that wait are not listed yet"
        ))),
    }
}

/// Says how many rows of the list are of none of these tables, if any are: they are passed over.
///
/// # Errors
/// The connection's.
pub(crate) async fn tell_orphans(
    client: &Client,
    slot: &str,
    outboxes: &[OutboxTable],
) -> Result<(), Fault> {
    let relations = outboxes.iter().map(|outbox| outbox.relation.to_string());
    let relations = format!("{{{}}}", relations.collect::<Vec<_>>().join(","));
    let variables = [("slot", slot), ("relations", &relations)];
    let rows = query(client, &sql::render(sql::CATCH_UP_ORPHANS, &variables)?).await?;
    let rows: i64 = rows.first().map_or(Ok(0), |row| column(row, "rows"))?;
    if rows > 0 {
        warn!(
            rows,
            hint = "GRANT SELECT on it, or publish what it held yourself",
            "listed rows are of a table that is gone, or that this role may not read: they are passed over"
        );
    }
    Ok(())
}

/// Rows of the list from number `from` on, up to `limit` numbers, and fewer where they are large.
///
/// # Errors
/// The connection's; transient where a table's shape changed.
pub async fn fetch(
    client: &Client,
    config: &Config,
    outboxes: &[OutboxTable],
    catch_up: &CatchUp,
    from: u64,
    limit: u64,
) -> Result<Chunk, Fault> {
    let mut next = catch_up.total.min(from.saturating_add(limit));
    let mut rows = Vec::new();
    for (number, (table, outbox)) in config.tables.iter().zip(outboxes).enumerate() {
        let part = fetch_table(client, config, (number, table, outbox), from, next).await?;
        next = next.min(part.next);
        rows.extend(part.rows);
    }
    rows.retain(|(n, _)| *n < next);
    rows.sort_unstable_by_key(|(n, _)| *n);
    Ok(Chunk { rows, next })
}

/// Rows of one table. One that the server cannot show, since something in it raises or is no text, is
/// passed over, and the others come: where a statement fails over what is in its rows, it is halved until
/// that row stands alone.
async fn fetch_table(
    client: &Client,
    config: &Config,
    (number, table, outbox): (usize, &Table, &OutboxTable),
    from: u64,
    to: u64,
) -> Result<Chunk, Fault> {
    let (mut rows, mut unreadable) = (Vec::new(), 0);
    let mut work = vec![(from, to)];
    while let Some((from, to)) = work.pop() {
        let fetched = fetch_range(client, config, (number, table, outbox), from, to).await?;
        let fault = match fetched {
            Ok(part) => {
                rows.extend(part.rows);
                // Rows were left out at the end where they were too many bytes.
                if part.next < to {
                    return Ok(Chunk { rows, next: part.next });
                }
                continue;
            }
            Err(fault) => fault,
        };
        if to - from > 1 {
            let middle = from + (to - from) / 2;
            work.extend([(middle, to), (from, middle)]);
            continue;
        }
        unreadable += 1;
        if unreadable > MOST_UNREADABLE && rows.is_empty() {
            return Err(fault);
        }
        pass_over(client, config, table, from, &fault).await?;
    }
    Ok(Chunk { rows, next: to })
}

/// A row of the list that cannot be read. It stays without a mark, so that whoever looks for such rows
/// finds it.
async fn pass_over(
    client: &Client,
    config: &Config,
    table: &Table,
    n: u64,
    fault: &Fault,
) -> Result<(), Fault> {
    let variables = [("slot", config.postgres.slot.as_str()), ("n", &n.to_string())];
    let rows = query(client, &sql::render(sql::CATCH_UP_ROW, &variables)?).await?;
    let Some(row) = rows.first() else { return Ok(()) };
    let (id, leaf, place): (Option<String>, String, String) =
        (column(row, "id")?, column(row, "leaf")?, column(row, "place")?);
    let title = table.title();
    let by = id.as_ref().map_or("--only unrelayed".to_owned(), |id| format!("--id {id}"));
    let hint = format!(
        "{}; correct the row (SELECT * FROM {leaf} WHERE ctid = '{place}'), then: pgoutbox replay --table {title} {by} --mark",
        fault.hint
    );
    warn!(
        hint,
        event_id = id,
        table = title,
        "a listed row cannot be read, and is passed over: it stays without a mark, and later ones of its aggregate go on: {}",
        fault.what
    );
    Ok(())
}

/// The inner error is of something in the rows.
async fn fetch_range(
    client: &Client,
    config: &Config,
    (number, table, outbox): (usize, &Table, &OutboxTable),
    from: u64,
    to: u64,
) -> Result<Result<Chunk, Fault>, Fault> {
    let sql = fetch_sql(config, table, outbox, from, to)?;
    // The simple protocol: its texts are made by the same functions as the stream's, which a
    // cast to text is not (boolean, char, inet).
    let answer = match client.simple_query(&sql).await {
        Err(error) if is_of_row(&error) => return Ok(Err(classify(&error))),
        answer => answer.map_err(|error| classify(&error))?,
    };
    let mut found = answer.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let Some(first) = found.next() else { return Ok(Ok(Chunk { rows: Vec::new(), next: to })) };
    let last_n: u64 = meta(&first, 1)?;
    let places = places(&first, table, outbox)?;
    let mut rows = Vec::new();
    for row in std::iter::once(first).chain(found) {
        rows.push((meta(&row, 0)?, stored(&row, number, outbox, &places)?));
    }
    let next = match rows.last() {
        Some((n, _)) if *n < last_n => n + 1,
        _ => to,
    };
    Ok(Ok(Chunk { rows, next }))
}

fn fetch_sql(
    config: &Config,
    table: &Table,
    outbox: &OutboxTable,
    from: u64,
    to: u64,
) -> Result<String, Fault> {
    let names = Names::of(config, table, outbox);
    sql::render(
        sql::CATCH_UP_FETCH,
        &[
            ("slot", config.postgres.slot.as_str()),
            ("from", &from.to_string()),
            ("to", &to.to_string()),
            ("bytes", &CHUNK_BYTES.to_string()),
            ("schema", &table.schema),
            ("table", &table.name),
            ("relation", &outbox.relation.to_string()),
            ("mode", names.mode),
            ("id", names.id),
            ("id_schema", &outbox.id_base.0),
            ("id_type", &outbox.id_base.1),
            ("payload", &table.columns.payload.name),
            ("relayed_at", names.relayed_at),
            ("occurred_at", names.occurred_at),
            ("time", names.time),
        ],
    )
}

fn meta<T: std::str::FromStr>(row: &SimpleQueryRow, at: usize) -> Result<T, Fault> {
    let text = row.try_get(at).map_err(|error| classify(&error))?.unwrap_or_default();
    text.parse().map_err(|_| Fault::transient(format!("the list of rows cannot be read: {text:?}")))
}

/// Where each column of the table is in the answer.
fn places(row: &SimpleQueryRow, table: &Table, outbox: &OutboxTable) -> Result<Vec<usize>, Fault> {
    let columns = row.columns().iter().enumerate().skip(META);
    let place = |name: &str| columns.clone().find(|(_, column)| column.name() == name);
    let places = outbox.columns.iter().map(|column| place(&column.name).map(|(at, _)| at));
    places.collect::<Option<_>>().ok_or_else(|| {
        Fault::transient(format!("{}.{} has changed its columns", table.schema, table.name))
    })
}

fn stored(
    row: &SimpleQueryRow,
    table: usize,
    outbox: &OutboxTable,
    places: &[usize],
) -> Result<StoredRow, Fault> {
    let texts = places.iter().map(|at| row.try_get(*at).map(|text| text.map(str::as_bytes)));
    let texts: Vec<_> = texts.collect::<Result<_, _>>().map_err(|error| classify(&error))?;
    let tuple = Tuple::of_texts(texts.into_iter());
    Ok(StoredRow {
        table,
        columns: outbox.columns.clone(),
        tuple: tuple.map_err(|error| Fault::transient(error.to_string()))?,
        commit_time: meta(row, 3)?,
        xid: Some(meta(row, 4)?),
    })
}

/// The list is done: takes it away. What it leaves where it is interrupted hurts nobody, and
/// goes with the next list.
///
/// # Errors
/// The connection's.
pub async fn finish(client: &Client, slot: &str) -> Result<(), Fault> {
    postgres::execute(client, &sql::render(sql::CATCH_UP_FINISH, &[("slot", slot)])?).await?;
    let sweep = sql::render(sql::CATCH_UP_SWEEP, &[("slot", slot)])?;
    loop {
        let rows = query(client, &sweep).await?;
        let swept: i64 = rows.first().map_or(Ok(0), |row| column(row, "rows"))?;
        if swept == 0 {
            return Ok(());
        }
    }
}
