//! What the progress row holds from session to session: how far the slot is settled, and why the
//! relay does not run.

use std::time::Duration;

use postgres_types::PgLsn;
use tokio::time::Instant;
use tokio_postgres::Client;
use tracing::{debug, warn};

use super::STOP_TIMEOUT;
use super::past::{Past, ServerMemory};
use super::readings::Readings;
use crate::board::Board;
use crate::config::{Config, Table};
use crate::core::event::{ChangeLsn, Position};
use crate::core::former::FormerShares;
use crate::core::relay::{End, Memory};
use crate::error::{Fault, Kind, Side};
use crate::postgres::identity::Identity;
use crate::postgres::parking::locker;
use crate::postgres::sql;
use crate::postgres::{self, classify, column, query};
use crate::slot::{self, Coverage, Digest, SlotState, record_coverage};
use crate::slot::{cause, known};
use crate::upkeep::reconcile::Trigger;
use crate::within::in_time;

/// Says in the progress row why nothing is delivered and since when, for `pgoutbox status`. It
/// stands there until something is delivered ([`clear_fault`]). Not where another relay holds the
/// slot: the row is about that one.
pub(super) async fn record_fault(
    config: &Config,
    past: &Past,
    board: &Board,
    client: &Client,
    end: &End,
) {
    record(config, past.walsender, board, client, end).await;
    let End::Fault(Fault { kind, .. }) = end else { return };
    // Rows of another shape are read from the table, once that has the columns again: a column was
    // renamed and back, say. Where no list can be made, they can only be mapped as they were.
    let is_left = *kind == Kind::Shape && config.is_catching_up();
    if *kind == Kind::PassedBy || is_left {
        // Whoever puts it right leaves no trace: it is written down that something was wrong.
        let noted = record_coverage(client, &config.postgres.slot, 0);
        if !matches!(in_time(STOP_TIMEOUT, noted).await, Some(Ok(()))) {
            debug!("that rows passed by the slot was not recorded");
        }
    }
}

/// As [`record_fault`]; `walsender` is our own.
pub(super) async fn record(
    config: &Config,
    walsender: Option<i32>,
    board: &Board,
    client: &Client,
    end: &End,
) {
    let (fault, position) = match end {
        End::Drained => return,
        End::Fault(fault) => (fault.clone(), None),
        End::Stuck(stuck) => (stuck.fault(), Some(stuck)),
    };
    let mut json = serde_json::json!({
        "class": format!("{:?}", fault.class).to_lowercase(),
        "cause": cause(&fault),
        "what": fault.what,
        "hint": fault.hint,
    });
    if let (Some(stuck), Some(json)) = (position, json.as_object_mut()) {
        json.insert("event_id".into(), stuck.id.clone().into());
        json.insert("table".into(), stuck.table.clone().into());
        json.insert("commit_lsn".into(), stuck.position.commit_lsn.to_string().into());
        json.insert("index".into(), stuck.position.index.into());
    }
    let text = json.to_string();
    let lasted = board.outage().map_or(Duration::ZERO, |outage| outage.lasted(Instant::now()));
    let write = async {
        let statement = client.prepare(sql::PROGRESS_FAULT).await?;
        let slot = &config.postgres.slot;
        let lasted = lasted.as_secs_f64();
        client.execute(&statement, &[slot, &text, &lasted, &walsender]).await
    };
    // Best effort: the log has it too.
    match in_time(STOP_TIMEOUT, write).await {
        Some(Ok(_)) => {}
        Some(Err(error)) => debug!("the fault was not recorded: {}", classify(&error)),
        None => debug!("the fault was not recorded: no answer"),
    }
}

/// The outage is over.
pub(super) async fn clear_fault(config: &Config, client: &Client) -> Result<(), Fault> {
    let sql = sql::render(sql::PROGRESS_CLEAR_FAULT, &[("slot", config.postgres.slot.as_str())])?;
    query(client, &sql).await.map(drop)
}

/// What is known of the slot at the start of a session.
pub(super) struct SlotMemory {
    pub(super) memory: Memory,
    /// Everything before is settled, as the progress row says on disk.
    pub(super) durable: PgLsn,
    /// Why rows may have passed by the slot; `None` where they have not.
    pub(super) gap: Option<String>,
    /// Where the WAL ended.
    pub(super) end: PgLsn,
    /// Where it ended on disk: the stream comes so far by itself.
    pub(super) end_on_disk: PgLsn,
    /// Where the slot stands: its stream begins there.
    pub(super) confirmed: PgLsn,
    /// Which publishing ids were used may not be known: they are used under another name from now on.
    pub(super) is_doubtful: bool,
    /// How events were read and sent on.
    pub(super) kept: KeptSettings,
    /// Of the name that streams are published to under; `None` where there is no stream.
    pub(super) name: Option<NameInRow>,
    /// What relays settled that the outbox was spread over before.
    pub(super) former: FormerShares,
}

/// What the row says of the name that streams are published to under.
#[derive(Debug, Clone, Copy)]
pub(super) struct NameInRow {
    epoch: Option<i64>,
    /// The server runs on since the name was found to be right.
    pub(super) is_same_start: bool,
    /// When the server was started, in microseconds since 2000-01-01 UTC.
    pub(super) started: i64,
    /// The publishing id of the last event before the place of the row.
    pub(super) settled: u64,
    /// The highest publishing id that a stream has confirmed under the name.
    pub(super) confirmed: u64,
}

impl NameInRow {
    async fn read(client: &Client, slot: &str, settled: u64) -> Result<Option<Self>, Fault> {
        let rows =
            query(client, &sql::render(sql::PROGRESS_KNOWN_NAME, &[("slot", slot)])?).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(Self {
            epoch: column(row, "publishing_epoch")?,
            is_same_start: column(row, "is_same_start")?,
            started: column(row, "started")?,
            settled,
            confirmed: u64::try_from(column::<i64>(row, "confirmed_id")?).unwrap_or(0),
        }))
    }

    /// The name; `None` where there is none yet.
    pub(super) fn reference(&self, slot: &str, identity: &Identity) -> Option<String> {
        self.epoch.map(|epoch| reference(slot, identity, epoch))
    }
}

fn reference(slot: &str, identity: &Identity, epoch: i64) -> String {
    let Identity { system_identifier, timeline } = identity;
    format!("pgoutbox/{slot}/{system_identifier}/{timeline}/{epoch}")
}

/// Who asks, and writes: the server, and the session's id.
#[derive(Clone, Copy)]
pub(super) struct RowOwner<'a> {
    pub(super) identity: &'a Identity,
    pub(super) session: &'a str,
    /// It counts messages.
    pub(super) has_messages: bool,
}

/// Rows that the slot does not bring may wait in the table.
///
/// # Errors
/// Nothing could bring those rows, so the relay must not go on.
fn refuse_gap(config: &Config, why: &str) -> Result<(), Fault> {
    if config.is_catching_up() {
        return Ok(());
    }
    let what = format!("rows may have passed by slot \"{}\": {why}", config.postgres.slot);
    Err(Fault::halt(what, slot::ways_past(config)))
}

/// How earlier sessions read events, and sent them on.
#[derive(Debug, Clone, Default)]
pub(super) struct KeptSettings {
    /// Which streams events went to that may be in flight.
    pub(super) routes: Option<String>,
    /// By what was read what is before the place; `None` where that is not known.
    pub(super) readings: Option<Readings>,
}

/// The progress row.
#[derive(Debug, Clone)]
struct Row {
    identity: Identity,
    position: Position,
    /// The first change of its transaction that is not before the place.
    from: Option<ChangeLsn>,
    /// `None` where an older version wrote it.
    coverage: Option<i64>,
    /// Its place counts messages.
    has_messages: bool,
    /// The publishing id of the last event before its place.
    publishing_id: u64,
    kept: KeptSettings,
    /// Its places are of the WAL of its server.
    former: FormerShares,
}

impl Row {
    async fn read(
        board: &Board,
        client: &Client,
        slot: &str,
        session: &str,
    ) -> Result<Option<Self>, Fault> {
        let variables = [("slot", slot), ("session", session)];
        let recall = sql::render(sql::PROGRESS_RECALL, &variables)?;
        // All of it onto the wire at once: whatever becomes of the query, COMMIT ends the transaction.
        let (begin, rows, commit) = tokio::join!(
            biased;
            postgres::execute(client, "BEGIN; SET LOCAL synchronous_commit = local"),
            query(client, &recall),
            postgres::execute(client, "COMMIT"),
        );
        begin?;
        let rows = match rows {
            Err(fault) if postgres::is_lock(&fault) => {
                let (who, hint) = locker(client, "pgoutbox.progress").await;
                let what =
                    format!("the row of slot \"{slot}\" in pgoutbox.progress is locked by {who}");
                return Err(Fault::transient(what).on(Side::Audit).hint(hint));
            }
            rows => rows?,
        };
        commit?;
        let Some(row) = rows.first() else { return Ok(None) };
        inherit(board, row)?;
        let identity = Identity {
            system_identifier: column(row, "system_identifier")?,
            timeline: column(row, "timeline")?,
        };
        let coverage: Option<i64> = column(row, "coverage")?;
        // It says a fault, and of no server how far anything is settled: the row that did was removed, or never made.
        if identity.system_identifier.is_empty() && coverage.is_none() {
            return Ok(None);
        }
        Ok(Some(Self {
            identity,
            position: position(row)?,
            from: from(row)?,
            coverage,
            has_messages: column(row, "has_messages")?,
            publishing_id: u64::try_from(column::<i64>(row, "publishing_id")?).unwrap_or(0),
            kept: KeptSettings {
                routes: column(row, "routes")?,
                readings: Readings::kept(column::<Option<String>>(row, "readings")?.as_deref()),
            },
            former: former(column(row, "former")?)?,
        }))
    }
}

impl Row {
    /// Other tables, or another publication: it may bring other changes of the same transactions.
    fn is_asked_otherwise(&self, coverage: &Coverage) -> bool {
        self.coverage.is_none_or(|kept| Digest::of(kept).asked != coverage.digest().asked)
    }

    /// What is remembered, where the row says more. Of the same place this process may know a later id.
    fn extend(&self, memory: &mut Memory) {
        if self.position > memory.delivered {
            (memory.delivered, memory.from) = (self.position, self.from);
            memory.publishing_id = self.publishing_id;
        } else if self.position == memory.delivered {
            memory.publishing_id = memory.publishing_id.max(self.publishing_id);
        }
    }
}

/// What is known to be settled on this server and timeline: from the progress row, and from the
/// sessions before. To be asked once the slot is held. All of it is compared with the server, which
/// may have been restored from a copy, and with the slot, which somebody may have made again.
pub(super) async fn recall(
    config: &Config,
    past: &mut Past,
    board: &Board,
    client: &Client,
    own: RowOwner<'_>,
    coverage: &Coverage,
    attached: Option<String>,
) -> Result<SlotMemory, Fault> {
    let (identity, slot) = (own.identity, config.postgres.slot.as_str());
    let place = Place::of(slot::state(client, slot).await?);
    let confirmed = place.confirmed;
    let mut row = Row::read(board, client, slot, own.session).await?;
    let publication = &config.postgres.publication;
    let counted = count_anew(past, row.as_mut(), own.has_messages, publication);
    let is_counted = counted == Counting::AsBefore;
    let (end, end_on_disk) = wal_end(client).await?;
    let mut same = row.as_ref().filter(|row| row.identity == *identity);
    let (mut memory, is_forgotten) = remembered(past, identity, same, end);
    let is_ahead = same.is_some_and(|row| row.position.commit_lsn > end);
    if is_ahead {
        forget_ahead(past, client, slot, end).await?;
        same = None;
    }
    let name = remember_by_row(config, client, same, &mut memory).await?;
    let mut durable = same.map_or(PgLsn::from(0), |row| row.position.commit_lsn);
    let why = match row.as_ref().filter(|_| !is_ahead) {
        Some(row) => why_gap(config, past, row, identity, place, coverage),
        None if is_ahead => past.coverage.as_ref().and_then(|earlier| earlier.change(coverage)),
        None => why_gap_without_row(config, past, identity, place, coverage),
    };
    let gap = unstreamed(config, past, client, coverage, why.or(attached)).await?;
    past.coverage = Some(coverage.clone());
    if gap.is_some() && row.is_none() {
        // Only this process knows, and it may end.
        record_reach(client, slot, own, (confirmed, memory.publishing_id, 0), true).await?;
        record_coverage(client, slot, 0).await?;
    }
    gap.as_ref().map_or(Ok(()), |why| refuse_gap(config, why))?;
    // Nobody is known to have moved it: an older version wrote the row, or there is none yet. The row
    // of a catch-up stands just before its slot, and counts the rows of the list that are settled:
    // written over, all of them would be taken for delivered.
    let is_catching_up = u64::from(confirmed) == u64::from(durable) + 1;
    let is_moved = gap.is_none() && confirmed > durable && !is_catching_up;
    if is_moved {
        record_reach(client, slot, own, (confirmed, memory.publishing_id, 0), true).await?;
        durable = confirmed;
    }
    if !is_counted {
        record_count(client, slot, own, counted).await?;
    }
    remember_coverage(past, client, slot, gap.is_some()).await;
    // Where events are counted otherwise, or the server is not what it was, an id may stand for another event.
    let is_otherwise = row.as_ref().is_some_and(|row| row.is_asked_otherwise(coverage));
    let is_doubtful =
        gap.is_some() || is_ahead || is_moved || is_forgotten || !is_counted || is_otherwise;
    Ok(SlotMemory {
        memory,
        durable,
        gap,
        end,
        end_on_disk,
        confirmed,
        is_doubtful,
        name,
        former: same.map(|row| row.former.clone()).unwrap_or_default(),
        kept: row.as_ref().map(|row| row.kept.clone()).unwrap_or_default(),
    })
}

/// The row is of a history that this server has not.
async fn forget_ahead(past: &Past, client: &Client, slot: &str, end: PgLsn) -> Result<(), Fault> {
    warn!(
        %end,
        "pgoutbox.progress is ahead of the server, which was restored from a copy: it does not count"
    );
    postgres::execute(client, &sql::render(sql::PROGRESS_FORGET, &[("slot", slot)])?).await?;
    past.reconcile.as_ref().map(Trigger::now);
    Ok(())
}

/// What is remembered, with what the row says; and what that says of the name of streams, where there are some. Where the
/// server was started since, perhaps from a copy, only the row counts: what was delivered and is not in it comes again,
/// and a stream drops it if the server is what it was.
async fn remember_by_row(
    config: &Config,
    client: &Client,
    row: Option<&Row>,
    memory: &mut Memory,
) -> Result<Option<NameInRow>, Fault> {
    let settled = row.map_or(0, |row| row.publishing_id);
    let name = match config.has_streams() {
        true => NameInRow::read(client, &config.postgres.slot, settled).await?,
        false => None,
    };
    if name.is_some_and(|name| !name.is_same_start) {
        *memory = std::mem::take(memory).without_place();
    }
    row.into_iter().for_each(|row| row.extend(memory));
    Ok(name)
}

/// How the changes of a transaction are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counting {
    AsBefore,
    /// The server shows others of them: what was settled is known by where it is in the WAL.
    OtherNumbers,
    /// Others are asked for: of what was settled some may be new events.
    Otherwise,
}

/// A place in the middle of a transaction that was counted otherwise is no place: the transaction comes
/// again. Returns whether the row says how it is counted.
fn count_anew(
    past: &mut Past,
    row: Option<&mut Row>,
    has_messages: bool,
    publication: &str,
) -> Counting {
    let has_other_numbers = past.memory.as_ref().is_some_and(|it| it.memory.is_shown_otherwise);
    let is_other =
        |it: &ServerMemory| it.has_messages != has_messages || it.publication != publication;
    if let Some(it) = past.memory.as_mut().filter(|it| is_other(it)) {
        (it.memory.delivered.index, it.memory.from) = (0, None);
    }
    if has_other_numbers && let Some(it) = &mut past.memory {
        it.memory.delivered.index = 0;
    }
    let Some(row) = row else {
        return if has_messages { Counting::Otherwise } else { Counting::AsBefore };
    };
    let kept = row.kept.readings.as_ref();
    let is_counted =
        row.has_messages == has_messages && kept.is_none_or(|kept| kept.publication == publication);
    if !is_counted {
        (row.position.index, row.from, row.kept.readings) = (0, None, None);
        return Counting::Otherwise;
    }
    if has_other_numbers {
        row.position.index = 0;
        return Counting::OtherNumbers;
    }
    Counting::AsBefore
}

/// Keeps by what is read what is before the place. Waits for the disk.
pub(super) async fn record_readings(
    client: &Client,
    slot: &str,
    session: &str,
    readings: &Readings,
) -> Result<(), Fault> {
    let readings = readings.text();
    let variables = [("slot", slot), ("session", session), ("readings", &readings)];
    postgres::execute(client, &sql::render(sql::PROGRESS_READINGS, &variables)?).await
}

/// Says in the row how this session counts.
async fn record_count(
    client: &Client,
    slot: &str,
    own: RowOwner<'_>,
    counted: Counting,
) -> Result<(), Fault> {
    let messages = own.has_messages.to_string();
    let keeps = (counted == Counting::OtherNumbers).to_string();
    let variables =
        [("slot", slot), ("session", own.session), ("messages", &messages), ("keeps", &keeps)];
    postgres::execute(client, &sql::render(sql::PROGRESS_COUNT_MESSAGES, &variables)?).await
}

/// What the sessions before remember, where the server's history still holds it; and whether it does not:
/// then other events may come under the publishing ids that were used.
fn remembered(past: &Past, identity: &Identity, row: Option<&Row>, end: PgLsn) -> (Memory, bool) {
    let Some(ServerMemory { identity: of, memory, recorded, .. }) = past.memory.clone() else {
        return (Memory::default(), false);
    };
    let said = row.map(|row| row.position.commit_lsn);
    if of != *identity {
        let (server_before, server) = (&of.system_identifier, &identity.system_identifier);
        let (timeline_before, timeline) = (of.timeline, identity.timeline);
        warn!(
            server_before,
            timeline_before,
            server,
            timeline,
            "another server or timeline: what was remembered does not count"
        );
    } else if memory.delivered.commit_lsn > end || said.is_some_and(|said| said < recorded) {
        warn!(
            remembered = %memory.delivered, recorded = %said.unwrap_or(PgLsn::from(0)), %end,
            "Postgres was restored from a copy: what was remembered does not count"
        );
    } else if said.is_none() {
        // The copy may be of a time before the row was written: what is remembered counts here neither.
        warn!(
            remembered = %memory.delivered,
            "the row of this slot in pgoutbox.progress was removed: what was remembered does not count"
        );
    } else if past.is_started_anew {
        // Perhaps from a copy that is close behind: then a place that the row does not say may be that of another event.
        // What was delivered and is not in the row comes again, as after a crash.
        return (memory.without_place(), false);
    } else {
        return (memory, false);
    }
    // The server may lack what was delivered, or hold what nobody saw.
    past.reconcile.as_ref().map(Trigger::now);
    (Memory::default(), true)
}

/// Notes whether the server was started since the last session: a copy of its files is started before anybody writes to it.
pub(super) async fn note_start(past: &mut Past, client: &Client) -> Result<(), Fault> {
    let rows = query(client, sql::SERVER_STARTED).await?;
    let row = rows.first().ok_or_else(|| Fault::transient("the query returned no rows"))?;
    let started: i64 = column(row, "started")?;
    let before = past.started.replace(started);
    past.is_started_anew = before.is_some_and(|before| before != started);
    Ok(())
}

/// Whether this session owns the slot, and no later one has taken it over.
pub(super) async fn is_ours(client: &Client, slot: &str, session: &str) -> Result<bool, Fault> {
    let variables = [("slot", slot), ("session", session)];
    let rows = query(client, &sql::render(sql::PROGRESS_IS_OURS, &variables)?).await?;
    let row = rows.first().ok_or_else(|| Fault::transient("the query returned no rows"))?;
    column(row, "is_ours")
}

/// Where the slot stands.
#[derive(Debug, Clone, Copy)]
struct Place {
    confirmed: PgLsn,
    /// A server that was promoted has it from the primary of before.
    is_synced: bool,
}

impl Place {
    fn of(state: Option<SlotState>) -> Self {
        let is_synced = state.as_ref().is_some_and(|slot| slot.is_synced);
        let confirmed = state.and_then(|slot| slot.confirmed_flush_lsn?.parse().ok());
        Self { confirmed: confirmed.unwrap_or(PgLsn::from(0)), is_synced }
    }

    /// Why it is not where the relay left it, which acknowledged no more than `settled`. The list of a
    /// catch-up stands just before its slot.
    fn moved(self, slot: &str, settled: PgLsn) -> Option<String> {
        let confirmed = self.confirmed;
        (u64::from(confirmed) > u64::from(settled) + 1).then(|| {
            format!(
                "slot \"{slot}\" stands at {confirmed}, and was acknowledged up to {settled} at most: \
                 somebody made it again, or advanced it"
            )
        })
    }
}

/// Why rows may have passed by the slot; `None` where they have not.
fn why_gap(
    config: &Config,
    past: &Past,
    row: &Row,
    identity: &Identity,
    place: Place,
    coverage: &Coverage,
) -> Option<String> {
    let (slot, kept) = (&config.postgres.slot, row.coverage?);
    if row.identity.system_identifier != identity.system_identifier {
        // Places of two servers cannot be compared.
        return Some(format!(
            "pgoutbox.progress is of another server (system identifier {}): this database was \
             restored from a dump, or the server was upgraded",
            row.identity.system_identifier
        ));
    }
    // A slot that came from the primary is the one that was acknowledged there, whatever of the row
    // this server had received when it was promoted.
    let is_known = row.identity == *identity || config.is_catching_up() || !place.is_synced;
    if is_known && let Some(moved) = place.moved(slot, row.position.commit_lsn) {
        return Some(moved);
    }
    if let Some(earlier) = &past.coverage {
        if let Some(change) = earlier.change(coverage) {
            return Some(change);
        }
        // What has become of the tables since then is known without the row.
        if kept == earlier.digest().number() {
            return None;
        }
    }
    if kept == 0 {
        return Some("rows that passed by it before were not caught up with yet".to_owned());
    }
    let (kept, now) = (Digest::of(kept), coverage.digest());
    if kept.asked != now.asked {
        return config
            .is_catching_up()
            .then(|| "other tables are asked for than when the slot was last read".to_owned());
    }
    (kept.covered != now.covered).then(|| {
        let name = &coverage.name;
        format!("publication \"{name}\" or a table of it was changed while no relay was running")
    })
}

/// As [`why_gap`], where no row tells. A process that starts cannot know whether there was one: the
/// slot may have been made by hand.
fn why_gap_without_row(
    config: &Config,
    past: &Past,
    identity: &Identity,
    place: Place,
    coverage: &Coverage,
) -> Option<String> {
    let earlier = past.coverage.as_ref();
    if let Some(change) = earlier.and_then(|earlier| earlier.change(coverage)) {
        return Some(change);
    }
    let recorded = past.memory.as_ref().filter(|it| it.identity == *identity)?.recorded;
    let slot = &config.postgres.slot;
    place.moved(slot, recorded).or_else(|| {
        // What was parked, or on the list of a catch-up, went with it.
        config.is_catching_up().then(|| {
            format!("the row of slot \"{slot}\" in pgoutbox.progress was removed: perhaps the whole schema")
        })
    })
}

/// Why rows may have passed by the slot, where it is not known already: a table that matches a pattern and is
/// new may hold rows that the stream does not bring.
async fn unstreamed(
    config: &Config,
    past: &Past,
    client: &Client,
    coverage: &Coverage,
    known: Option<String>,
) -> Result<Option<String>, Fault> {
    let earlier = past.coverage.as_ref().filter(|_| known.is_none() && config.is_catching_up());
    let Some(earlier) = earlier else { return Ok(known) };
    for it in earlier.news(coverage) {
        let is_it = |table: &&Table| sql::qualified(&table.schema, &table.name) == it.table;
        let Some(table) = config.tables.iter().find(is_it).filter(|it| it.has_marks()) else {
            continue;
        };
        let is_whole = match &it.made_with {
            _ if past.passed_over.contains(&it.relation) => false,
            // What that transaction wrote may stand before the publication had the table.
            Some(xid) => !slot::is_written_by(client, table, xid).await?,
            None => it.is_older,
        };
        // What was written under another name was passed over, perhaps by another process.
        let has_earlier = match &it.named_by {
            Some(xid) if is_whole => slot::is_written_before(client, table, xid).await?,
            _ => false,
        };
        if !is_whole || has_earlier {
            let table = &it.table;
            return Ok(Some(format!(
                "{table} is new, and may hold rows of before it was in the publication"
            )));
        }
    }
    Ok(None)
}

/// Keeps by what the tables are covered, or that rows are still to be caught up with.
async fn remember_coverage(past: &mut Past, client: &Client, slot: &str, is_gap: bool) {
    let digest = past.coverage.as_ref().map_or(0, |coverage| coverage.digest().number());
    let outcome = record_coverage(client, slot, if is_gap { 0 } else { digest }).await;
    if let Err(fault) = outcome
        && past.warned.insert("progress.coverage".to_owned())
    {
        let hint = "pgoutbox init  -- adds what is missing";
        warn!(hint, "how the tables are covered cannot be kept: {}", fault.what);
    }
}

/// Writes down that everything before `lsn` is settled, on disk, with the publishing id of the last of it, and the highest that
/// a stream has confirmed (the row keeps what it has, if that is higher); returns where the WAL ends then. Only a session that `begins` makes the row: one that found it is not to make up for it where it is gone.
pub(super) async fn record_reach(
    client: &Client,
    slot: &str,
    own: RowOwner<'_>,
    (lsn, publishing_id, confirmed_id): (PgLsn, u64, u64),
    begins: bool,
) -> Result<PgLsn, Fault> {
    let Identity { system_identifier, timeline } = own.identity;
    let (timeline, lsn) = (timeline.to_string(), lsn.to_string());
    let (publishing_id, confirmed_id) = (publishing_id.to_string(), confirmed_id.to_string());
    let variables = [
        ("slot", slot),
        ("system", system_identifier.as_str()),
        ("timeline", timeline.as_str()),
        ("lsn", lsn.as_str()),
        ("publishing_id", publishing_id.as_str()),
        ("confirmed_id", confirmed_id.as_str()),
        ("session", own.session),
        ("begins", if begins { "true" } else { "false" }),
    ];
    postgres::execute(client, &sql::render(sql::PROGRESS_REACH, &variables)?).await?;
    Ok(wal_end(client).await?.0)
}

/// Where the WAL ends, and where it ends on disk.
async fn wal_end(client: &Client) -> Result<(PgLsn, PgLsn), Fault> {
    let rows = query(client, sql::SERVER_WAL_POSITION).await?;
    let row = rows.first().ok_or_else(|| Fault::transient("the query returned no rows"))?;
    let lsn = |at| row.try_get(at).map_err(|error| classify(&error));
    Ok((lsn(0)?, lsn(1)?))
}

/// The name under which streams are published to: that of before, unless there is doubt which ids were used
/// under it. Then events that are sent again are there again; under the old name they might be missing.
pub(super) async fn publishing_name(
    client: &Client,
    slot: &str,
    own: RowOwner<'_>,
    renews: bool,
    routes: &serde_json::Value,
) -> Result<String, Fault> {
    let routes = routes.to_string();
    let variables = [
        ("slot", slot),
        ("session", own.session),
        ("renews", if renews { "true" } else { "false" }),
        ("routes", &routes),
    ];
    let rows = query(client, &sql::render(sql::PROGRESS_PUBLISHING_NAME, &variables)?).await?;
    let row = rows.first().ok_or_else(|| {
        Fault::transient(format!("slot \"{slot}\" has no row of this session in pgoutbox.progress"))
    })?;
    Ok(reference(slot, own.identity, column(row, "publishing_epoch")?))
}

/// Nothing is in flight to a stream.
pub(super) async fn forget_routes(client: &Client, slot: &str, session: &str) -> Result<(), Fault> {
    let variables = [("slot", slot), ("session", session)];
    postgres::execute(client, &sql::render(sql::PROGRESS_FORGET_ROUTES, &variables)?).await
}

/// The rows that wait are listed, and how the tables are covered is seen to: all of them that passed by the slot are on the
/// list. What is before the slot in its stream is nothing that anybody waits for; the stream's other events come under
/// another name.
pub(super) async fn record_listed(
    client: &Client,
    slot: &str,
    own: RowOwner<'_>,
    (confirmed, publishing_id): (PgLsn, u64),
    coverage: Digest,
) -> Result<(), Fault> {
    record_reach(client, slot, own, (confirmed, publishing_id, 0), true).await?;
    let coverage = coverage.number().to_string();
    let variables = [("slot", slot), ("session", own.session), ("coverage", &coverage)];
    postgres::execute(client, &sql::render(sql::PROGRESS_LISTED, &variables)?).await
}

/// No stream gets past where the slot stands: from here on it is to be made again, and
/// the rows that wait are to be listed, whatever happens to this process.
pub(super) async fn begin_catch_up(
    config: &Config,
    client: &Client,
    why: &str,
    coverage: &Coverage,
) -> Result<(), Fault> {
    let slot = config.postgres.slot.as_str();
    let variables = [("slot", slot), ("why", why)];
    postgres::execute(client, &sql::render(sql::CATCH_UP_BEGIN, &variables)?).await?;
    record_coverage(client, slot, coverage.digest().number()).await
}

/// What an earlier process could not deliver either has lasted since then.
fn inherit(board: &Board, row: &tokio_postgres::Row) -> Result<(), Fault> {
    let fault: Option<String> = column(row, "fault")?;
    let fault = fault.and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
    let Some(fault) = fault else { return Ok(()) };
    let text = |key: &str| fault.get(key).and_then(serde_json::Value::as_str).unwrap_or_default();
    let seconds: f64 = column(row, "fault_seconds")?;
    let lasted = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    // As version 0.1 wrote it.
    let hint = [text("hint"), text("mend")].into_iter().find(|hint| !hint.is_empty());
    let fault = Fault::transient(text("what")).hint(hint.unwrap_or_default());
    board.inherit(fault.found(known(text("cause"))), lasted);
    Ok(())
}

fn lsn(text: String) -> Result<PgLsn, Fault> {
    text.parse().map_err(|_| Fault::transient(format!("pgoutbox.progress holds no LSN: {text}")))
}

/// Where the place is inside a transaction.
fn from(row: &tokio_postgres::Row) -> Result<Option<ChangeLsn>, Fault> {
    if column::<Option<String>>(row, "commit_lsn")?.is_none() {
        return Ok(None);
    }
    let Some(at) = column::<Option<String>>(row, "change_lsn")? else { return Ok(None) };
    let number = column::<Option<i32>>(row, "change_number")?.unwrap_or(0);
    Ok(Some(ChangeLsn { lsn: lsn(at)?, number: u32::try_from(number).unwrap_or(0) }))
}

fn former(json: Option<String>) -> Result<FormerShares, Fault> {
    let places: Vec<String> =
        json.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default();
    Ok(FormerShares::new(places.into_iter().map(lsn).collect::<Result<_, _>>()?))
}

fn position(row: &tokio_postgres::Row) -> Result<Position, Fault> {
    let settled: i64 = column(row, "settled")?;
    Ok(match column::<Option<String>>(row, "commit_lsn")? {
        Some(commit_lsn) => {
            Position { commit_lsn: lsn(commit_lsn)?, index: u64::try_from(settled).unwrap_or(0) }
        }
        None => Position::after_commit(lsn(column(row, "end_lsn")?)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A place that only the process knows counts as long as the server runs on which it was seen.
    #[test]
    fn what_is_remembered_counts_until_the_server_is_started_again() {
        let identity = Identity { system_identifier: "7".to_owned(), timeline: 1 };
        let place = |lsn: u64| Position { commit_lsn: PgLsn::from(lsn), index: 3 };
        let row = Row {
            identity: identity.clone(),
            position: place(100),
            from: None,
            coverage: None,
            has_messages: false,
            publishing_id: 0,
            kept: KeptSettings::default(),
            former: FormerShares::default(),
        };
        let before = ServerMemory {
            identity: identity.clone(),
            memory: Memory { delivered: place(200), ..Memory::default() },
            has_messages: false,
            publication: "pgoutbox".to_owned(),
            recorded: PgLsn::from(100),
            acknowledged: PgLsn::from(100),
        };
        let mut past = Past { memory: Some(before), ..Past::default() };
        for (is_started_anew, end, delivered, is_forgotten) in [
            (false, 300, place(200), false),
            // A copy that has come past it: the row and the end of the WAL say nothing.
            (true, 300, Position::start(), false),
            (false, 150, Position::start(), true),
        ] {
            past.is_started_anew = is_started_anew;
            let known = remembered(&past, &identity, Some(&row), PgLsn::from(end));
            assert_eq!((known.0.delivered, known.1), (delivered, is_forgotten), "{end}");
        }
    }
}
