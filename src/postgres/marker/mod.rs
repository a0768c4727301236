//! Writes marks and progress: one transaction a batch, all of it in one round trip.
//!
//! That is the usual way. Where the server refuses something of a batch, the transaction is
//! rolled back as a whole, and the batch is written in parts ([`parts`]), each a transaction of
//! its own: a mark takes no other along, whether a trigger raises at it, a constraint is
//! violated (also at commit), or its whole table takes none. Each table has one statement for all
//! of its marks first; after that so many statements may go into finding out which are refused, and
//! what was not reached is tried with the next batch. Nothing is ever awaited inside an
//! open transaction: anyone who else uses the connection would find itself within it.
//!
//! Once a later session owns the slot, nothing of a batch is written any more, in whatever way: the
//! session ends ([`is_taken_over`](crate::postgres::server_error::is_taken_over)).

mod parts;
mod tables;

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use postgres_types::{PgLsn, ToSql};
use tokio_postgres::{Client, Error, Row, Statement};

use crate::config::Config;
use crate::core::event::{Moment, Position, PublishingPlace};
use crate::core::parked::Schedule;
use crate::core::relay::marks::{Batch, Extent, Left, Mark, UnwrittenMark, WrittenBatch};
use crate::error::Fault;
use crate::postgres::event_rows::ColumnTime;
use crate::postgres::identity::Identity;
use crate::postgres::outbox_table::OutboxTable;
use crate::postgres::parking::{ParkingStore, is_locked};
use crate::postgres::sql;
use crate::postgres::{classify, is_lock, is_refused};
use parts::Parts;
use tables::{Statements, Tables};

/// A table of which no row can be marked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnmarkedView {
    /// Its name, and why.
    pub what: String,
    /// What helps.
    pub hint: String,
    /// What `check` calls it, where it has a name for it.
    pub cause: Option<&'static str>,
    /// How long it has lasted.
    pub lasted: std::time::Duration,
}

/// Events that were delivered and have no mark are not looked at again before.
const SETTLED: Duration = Duration::from_secs(1);

/// Begins a transaction whose commit waits for the disk.
const BEGIN_AND_AWAIT: &str = "BEGIN; SET LOCAL synchronous_commit = local";

/// A row: its table and its id.
type Key = (usize, String);

/// Which statement of a table is used.
#[derive(Clone, Copy)]
enum Choice {
    /// What is fastest.
    Usual,
    /// One that passes over rows with a lock on them.
    Unlocked,
}

/// What is to be marked in one table.
#[derive(Clone, Default)]
struct TableMarks<'a> {
    /// `None` where it takes no marks.
    statements: Option<Arc<Statements>>,
    marks: Vec<&'a Mark>,
    /// Of these, the first and the last time of those whose time is known.
    times: Option<(i64, i64)>,
    /// There are others.
    is_timeless: bool,
}

impl<'a> TableMarks<'a> {
    fn add(&mut self, mark: &'a Mark) {
        self.marks.push(mark);
        let kind =
            self.statements.as_ref().and_then(|it| it.within.as_ref()).map(|(_, kind)| *kind);
        let at = mark.moment.filter(|moment| Some(moment.kind) == kind).map(|moment| moment.value);
        match (at, self.times) {
            (None, _) => self.is_timeless = true,
            (Some(at), None) => self.times = Some((at, at)),
            (Some(at), Some((first, last))) => self.times = Some((first.min(at), last.max(at))),
        }
    }

    async fn write(
        &self,
        client: &Client,
        table: &Statements,
        choice: Choice,
    ) -> Result<Vec<Row>, Error> {
        let times = self.times.filter(|_| !self.is_timeless);
        match (choice, &table.within, times) {
            (Choice::Unlocked, _, _) => table.write(client, &table.unlocked, &self.marks).await,
            (Choice::Usual, Some((within, kind)), Some((first, last))) => {
                let bounds =
                    [first, last].map(|value| ColumnTime::from(Moment { kind: *kind, value }));
                let keys = table.keys(self.marks.iter().copied());
                let [ids, xids, times] = keys.parameters();
                let [from, to] = &bounds;
                client.query(within, &[ids, xids, times, from, to]).await
            }
            (Choice::Usual, _, _) => table.write(client, &table.mark, &self.marks).await,
        }
    }
}

/// Writes marks and progress for one session.
pub(crate) struct Marker {
    tables: Tables,
    record: Statement,
    wal_position: Statement,
    snapshot_xmin: Statement,
    slot: String,
    identity: Identity,
    session: String,
    parking: ParkingStore,
    /// What is put aside is waited for until it is on disk: nothing is sent to a stream before.
    awaits_disk: bool,
    /// When events that left the parking without a mark were looked at last.
    settled_at: Mutex<Option<Instant>>,
}

impl Marker {
    /// Prepares the statements.
    pub(crate) async fn prepare(
        client: &Client,
        config: &Config,
        outboxes: &[OutboxTable],
        identity: Identity,
        session: &str,
    ) -> Result<Self, Fault> {
        let prepare = async |sql| client.prepare(sql).await.map_err(|error| classify(&error));
        Ok(Self {
            tables: Tables::prepare(client, config, outboxes).await?,
            record: prepare(sql::PROGRESS_RECORD).await?,
            wal_position: prepare(sql::SERVER_WAL_POSITION).await?,
            snapshot_xmin: prepare(sql::SERVER_SNAPSHOT_XMIN).await?,
            slot: config.postgres.slot.clone(),
            identity,
            session: session.to_owned(),
            parking: ParkingStore::prepare(client, config, outboxes, session).await?,
            awaits_disk: config.has_streams(),
            settled_at: Mutex::default(),
        })
    }

    /// What is put aside.
    pub(crate) fn parking(&self) -> &ParkingStore {
        &self.parking
    }

    /// Tables that take no marks.
    pub(crate) fn refusing(&self) -> Vec<UnmarkedView> {
        self.tables.refusing()
    }

    /// Looks at the parking: see [`ParkingStore::look`]. `None` while somebody has a lock on all of it.
    pub(crate) async fn look(
        &self,
        client: &Client,
        from: Option<Position>,
    ) -> Result<Option<Schedule>, Fault> {
        if !self.parking.is_free(client).await.map_err(|error| classify(&error))? {
            return Ok(None);
        }
        let looked = match self.parking.look(client, from).await {
            Err(fault) if is_lock(&fault) => {
                self.parking.met_table_lock(client).await;
                return Ok(None);
            }
            looked => looked?,
        };
        let now = Instant::now();
        let is_due = {
            let mut settled_at = self.settled_at.lock().unwrap_or_else(PoisonError::into_inner);
            let is_due = settled_at.is_none_or(|at| now.saturating_duration_since(at) >= SETTLED);
            if is_due {
                *settled_at = Some(now);
            }
            is_due
        };
        if is_due {
            self.settle(client).await.map_err(|error| classify(&error))?;
        }
        Ok(Some(looked))
    }

    /// Where somebody has a lock on all of the parking, it is done later.
    async fn settle(&self, client: &Client) -> Result<(), Error> {
        match self.settle_unmarked(client).await {
            Err(error) if is_locked(&error) => self.parking.met_table_lock(client).await,
            outcome => outcome?,
        }
        Ok(())
    }

    /// Events that left the parking delivered, and whose marks could not be written then: perhaps by
    /// an earlier session, or another process. They leave no trace once they are marked.
    async fn settle_unmarked(&self, client: &Client) -> Result<(), Error> {
        let kept = self.parking.unmarked(client).await?;
        if kept.is_empty() {
            return Ok(());
        }
        let (seqs, marks): (Vec<i64>, Vec<Option<Mark>>) = kept.into_iter().unzip();
        let mut done: Vec<i64> = seqs
            .iter()
            .zip(&marks)
            .filter(|(_, mark)| mark.is_none())
            .map(|(seq, _)| *seq)
            .collect();
        let seqs = seqs.into_iter().zip(&marks).filter(|(_, mark)| mark.is_some());
        let seqs: Vec<i64> = seqs.map(|(seq, _)| seq).collect();
        let marks: Vec<Mark> = marks.into_iter().flatten().collect();
        let none = BTreeSet::new();
        let mut parts = self.tables.parts(&marks, &none);
        parts.take_apart();
        let found = self.tables.write_parts(client, &mut parts).await?;
        let missing = self.missing(client, &marks, &found, &none, &parts).await?;
        let is_missing = |place| missing.iter().any(|missed| missed.place == place);
        let marked = seqs.iter().enumerate().filter(|(place, _)| !is_missing(*place));
        done.extend(marked.map(|(_, seq)| *seq));
        self.parking.marked(client, &done).await
    }

    /// Says in the log which marks are given up.
    pub(crate) fn log_given_up(&self, marks: &[Mark]) {
        self.tables.log_given_up(marks);
    }

    /// Writes a batch. What somebody has a lock on besides its marks is left for a later one.
    ///
    /// # Errors
    /// The connection is lost, or a later session owns the slot. A mark that the server refuses is
    /// not an error: it comes back as missing.
    pub(crate) async fn write(&self, client: &Client, batch: Batch) -> Result<WrittenBatch, Fault> {
        let failed = |error: Error| classify(&error);
        let has_repeats = batch.marks.iter().any(|mark| mark.is_repeat);
        let parked = match has_repeats {
            true => self.parking.among(client, &batch.marks).await?,
            false => BTreeSet::new(),
        };
        let mut parts = self.tables.parts(&batch.marks, &parked);
        let is_whole = self.is_whole(client, &batch).await.map_err(failed)?;
        let usual = self.together(client, &batch, &parts, is_whole).await.map_err(failed)?;
        let mut left = Left::Nothing;
        let mut is_on_disk = usual.is_some() && self.is_awaited(&batch);
        let (mut found, mut wal) = match usual {
            Some((found, wal)) => {
                self.tables.took(&parts);
                (found, Some(wal))
            }
            None => {
                parts.take_apart();
                if is_whole {
                    left = self.without_marks(client, &batch).await.map_err(failed)?;
                }
                (HashSet::new(), None)
            }
        };
        if parts.has_any() {
            found.extend(self.tables.write_parts(client, &mut parts).await.map_err(failed)?);
            (wal, is_on_disk) = (None, false);
        }
        // Marks wait for nothing that somebody may have a lock on.
        if !is_whole && batch.extent != Extent::MarksAlone {
            left = self.rest(client, &batch, true).await.map_err(failed)?;
            (wal, is_on_disk) = (None, false);
        }
        let wal = match wal {
            Some(wal) => wal,
            None => client.query_one(&self.wal_position, &[]).await.map_err(failed)?,
        };
        let lsn = |at: usize| wal.try_get(at).map_err(failed);
        let (written_lsn, flushed_lsn): (PgLsn, PgLsn) = (lsn(0)?, lsn(1)?);
        // All of ours up to the commit; what others wrote behind it does not matter here.
        let flushed_lsn = if is_on_disk { flushed_lsn.max(written_lsn) } else { flushed_lsn };
        let missing = match parts.is_all_found(&found) {
            true => Vec::new(),
            false => {
                let missing = self.missing(client, &batch.marks, &found, &parked, &parts).await;
                missing.map_err(failed)?
            }
        };
        if left != Left::ParkingAndProgress && !batch.parking.is_empty() {
            self.parking.follow(client).await;
            self.parking.clear_failed(client, &batch.parking).await;
            self.settle(client).await.map_err(failed)?;
        }
        Ok(WrittenBatch { batch, missing, left, written_lsn, flushed_lsn })
    }

    /// All of it may go in one transaction. Where somebody had a lock on the parking, that is asked for first:
    /// to meet it again takes as long as a lock is waited for, and the marks along.
    async fn is_whole(&self, client: &Client, batch: &Batch) -> Result<bool, Error> {
        match batch.extent {
            Extent::Whole if batch.parking.is_empty() => Ok(true),
            // Marks do not wait for it.
            Extent::Whole if batch.parking.large_bytes() > 0 => Ok(false),
            Extent::Whole => self.parking.is_free(client).await,
            Extent::Apart | Extent::MarksAlone => Ok(false),
        }
    }

    /// All in one transaction; `None` where the server refuses something of it, and nothing is
    /// written.
    async fn together(
        &self,
        client: &Client,
        batch: &Batch,
        parts: &Parts<'_>,
        is_whole: bool,
    ) -> Result<Option<(HashSet<Key>, Row)>, Error> {
        // What was missed before may be locked still: no need to wait for that again.
        let is_retry = batch.marks.iter().any(Mark::is_retry);
        let first = if is_retry { Choice::Unlocked } else { Choice::Usual };
        let write = |choice| {
            // Of marks that are all written, or take the transaction with them.
            let keeps = !batch.marks.is_empty()
                && (matches!(choice, Choice::Unlocked) || !parts.is_whole());
            self.transaction(client, batch, parts.wanted(), choice, (keeps, is_whole))
        };
        let outcome = match write(first).await {
            Err(error) if is_locked(&error) && !is_retry => write(Choice::Unlocked).await,
            outcome => outcome,
        };
        match outcome {
            Err(error) if is_refused(&error) => Ok(None),
            outcome => outcome.map(Some),
        }
    }

    /// Parking and progress. They are not to wait for the marks. Returns what a lock stood in the way of.
    async fn without_marks(&self, client: &Client, batch: &Batch) -> Result<Left, Error> {
        let keeps = !batch.marks.is_empty();
        match self.transaction(client, batch, &[], Choice::Usual, (keeps, true)).await {
            Err(error) if is_refused(&error) => self.rest(client, batch, keeps).await,
            outcome => outcome.map(|_| Left::Nothing),
        }
    }

    /// Writes what there is besides marks, each by itself; returns what a lock stood in the way of.
    async fn rest(&self, client: &Client, batch: &Batch, keeps: bool) -> Result<Left, Error> {
        // In this order: what is recorded as settled is not parked any more.
        if !batch.parking.is_empty() {
            if !self.parking.is_free(client).await? {
                return Ok(Left::ParkingAndProgress);
            }
            match self.parking.write_each(client, &batch.parking, keeps).await {
                Err(error) if is_locked(&error) => {
                    self.parking.met_table_lock(client).await;
                    return Ok(Left::ParkingAndProgress);
                }
                outcome => outcome?,
            }
        }
        match self.record(client, batch).await {
            Err(error) if is_locked(&error) => {
                self.parking.locked_progress(client).await;
                Ok(Left::Progress)
            }
            outcome => outcome.map(|_| Left::Nothing),
        }
    }

    /// Its commit waits for the disk.
    fn is_awaited(&self, batch: &Batch) -> bool {
        self.awaits_disk && !batch.parking.parks.is_empty()
    }

    async fn record(&self, client: &Client, batch: &Batch) -> Result<u64, Error> {
        let PublishingPlace { position: Position { commit_lsn, index }, from, publishing_id } =
            batch.place;
        let settled = i64::try_from(index).unwrap_or(i64::MAX);
        let Identity { system_identifier, timeline } = &self.identity;
        let id = |id| i64::try_from(id).unwrap_or(i64::MAX);
        let (publishing_id, confirmed_id) = (id(publishing_id), id(batch.confirmed_id));
        let from_lsn = from.map(|from| from.lsn);
        let from_number = from.map(|from| i32::try_from(from.number).unwrap_or(i32::MAX));
        let progress: [&(dyn ToSql + Sync); 10] = [
            &self.slot,
            system_identifier,
            timeline,
            &commit_lsn,
            &settled,
            &self.session,
            &publishing_id,
            &confirmed_id,
            &from_lsn,
            &from_number,
        ];
        client.execute(&self.record, &progress).await
    }

    async fn transaction(
        &self,
        client: &Client,
        batch: &Batch,
        wanted: &[TableMarks<'_>],
        choice: Choice,
        (keeps, is_whole): (bool, bool),
    ) -> Result<(HashSet<Key>, Row), Error> {
        if batch.is_progress_alone() {
            // One statement is a transaction of its own.
            let record = self.record(client, batch);
            let (record, wal) =
                tokio::join!(biased; record, client.query_one(&self.wal_position, &[]));
            return record.and(wal).map(|wal| (HashSet::new(), wal));
        }
        let opening = if self.is_awaited(batch) { BEGIN_AND_AWAIT } else { "BEGIN" };
        let marks = wanted.iter().enumerate();
        let marks = marks.filter_map(|(number, wanted)| {
            let table = wanted.statements.as_ref().filter(|_| !wanted.marks.is_empty())?;
            Some((number, table, wanted))
        });
        let marks = join_all(marks.map(async |(number, table, wanted)| {
            let rows = wanted.write(client, table, choice).await?;
            let found = rows.iter().map(|row| Ok((number, row.try_get(0)?)));
            found.collect::<Result<Vec<Key>, Error>>()
        }));
        let parking = async {
            match is_whole {
                true => self.parking.write(client, &batch.parking, keeps).await,
                false => Ok(batch.parking.attempts.len()),
            }
        };
        let record = async { if is_whole { self.record(client, batch).await } else { Ok(0) } };
        // In this order onto the wire, without waiting for one another. Where one of them fails,
        // those behind it do, and COMMIT rolls back.
        let (begin, marks, parking, record, commit, wal) = tokio::join!(
            biased;
            client.batch_execute(opening),
            marks,
            parking,
            record,
            client.batch_execute("COMMIT"),
            client.query_one(&self.wal_position, &[]),
        );
        begin?;
        let mut found = HashSet::new();
        for marks in marks {
            found.extend(marks?);
        }
        let outcomes = parking?;
        record?;
        commit?;
        if outcomes < batch.parking.attempts.len() {
            self.parking.defer(client, &batch.parking.attempts).await?;
        }
        Ok((found, wal?))
    }

    /// Of the marks that found no row to write, those that are to be tried again: the server
    /// refused them, the row is locked, or not visible yet. What is marked already, or was
    /// removed, is done.
    async fn missing(
        &self,
        client: &Client,
        marks: &[Mark],
        found: &HashSet<Key>,
        parked: &BTreeSet<Position>,
        parts: &Parts<'_>,
    ) -> Result<Vec<UnwrittenMark>, Error> {
        let is_missing = |mark: &Mark| {
            !is_put_aside(mark, parked) && !found.contains(&(mark.table, mark.id.clone()))
        };
        // Before the rows are looked for: a transaction that has ended by now is seen by them.
        let xmin = client.query_one(&self.snapshot_xmin, &[]).await?;
        let xmin: i64 = xmin.try_get(0)?;
        let looked_for = marks.iter().filter(|mark| is_missing(mark) && parts.why(mark).is_none());
        let waiting = self.tables.still(client, looked_for).await?;
        let missed = marks.iter().enumerate().filter(|(_, mark)| is_missing(mark));
        let missed = missed.filter_map(|(place, mark)| {
            if let Some(why) = parts.why(mark) {
                return Some(UnwrittenMark { place, why });
            }
            let is_waiting = waiting.contains(&(mark.table, mark.id.clone()));
            (is_waiting || !has_ended(mark.xid, xmin)).then(|| UnwrittenMark::waits(place))
        });
        Ok(missed.collect())
    }
}

/// The stream brought a parked event again: not to be marked. The mark of the same event that
/// leaves the parking delivered may stand in the same batch, and is none of these.
fn is_put_aside(mark: &Mark, parked: &BTreeSet<Position>) -> bool {
    mark.is_repeat && parked.contains(&mark.position)
}

/// Transaction ids are compared in a circle of 32 bits; `xmin` comes with its epoch.
fn has_ended(xid: Option<u32>, xmin: i64) -> bool {
    let Some(xid) = xid else { return true };
    let Ok(xmin) = u32::try_from(xmin & i64::from(u32::MAX)) else { return false };
    let distance = xmin.wrapping_sub(xid);
    distance != 0 && distance < 1 << 31
}

#[cfg(test)]
mod tests {
    use super::has_ended;

    #[test]
    fn transaction_ids_go_round() {
        assert!(has_ended(Some(10), 11));
        assert!(!has_ended(Some(11), 11), "xmin itself still runs");
        assert!(!has_ended(Some(12), 11));
        let wrapped = (1_i64 << 32) + 5;
        assert!(has_ended(Some(u32::MAX), wrapped), "it ended before the ids wrapped");
        assert!(!has_ended(Some(6), wrapped));
    }
}
