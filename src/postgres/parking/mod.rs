//! Events put aside: written in the transaction of the marks, and looked up when due.

mod shown;
mod stuck;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::{join_all, try_join};
use postgres_types::{PgLsn, ToSql, Type};
use serde_json::json;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, Row, Statement};
use tracing::{debug, info, warn};

use crate::config::Config;
use crate::core::event::Position;
use crate::core::event::pgoutput::{Column, StoredRow, Tuple};
use crate::core::parked::{
    Aggregate, Ahead, Attempt, Due, Head, Looked, Park, ParkedRow, Parking, State, Tried,
};
use crate::core::relay::marks::{Mark, Origin};
use crate::error::Fault;
use crate::postgres::outbox_table::OutboxTable;
use crate::postgres::sql;
use crate::postgres::{classify, column, is_lock, is_of_row, is_refused};
use shown::Shown;
use stuck::{Stuck, Write};

/// The channel on which changes of the parking are notified; the payload is the slot's name.
pub(crate) const CHANNEL: &str = "pgoutbox_parked";

/// Events that somebody has a lock on are not looked at again before.
const LOCKED: Duration = Duration::from_secs(1);
/// The same lock is not logged again before.
const TOLD_AGAIN: Duration = Duration::from_secs(60);

/// Writes and reads the parking, for one session.
pub struct ParkingStore {
    slot: String,
    session: String,
    still_ours: Statement,
    oids: Vec<u32>,
    /// Of messages, whose numbers are behind those of the tables.
    prefixes: Vec<String>,
    shown: Vec<Shown>,
    park: Statement,
    delivered: Statement,
    kept: Statement,
    unmarked: Statement,
    marked: Statement,
    still: Statement,
    refused: Statement,
    noted: Statement,
    withdrawn: Statement,
    due: Statement,
    claim: Statement,
    first: Statement,
    claim_alone: Statement,
    unclaimed: Statement,
    held: Statement,
    waiting: Statement,
    ahead: Statement,
    next: Statement,
    among: Statement,
    stuck: Stuck,
    mind: Mutex<Mind>,
    /// There may be events that left the parking delivered, and have no mark yet.
    has_unmarked: AtomicBool,
}

/// What the store knows of rows that it could not write.
#[derive(Default)]
struct Mind {
    /// Outcomes whose rows somebody has a lock on. The parking shows these events as they were: they
    /// are not to be tried again.
    deferred: Vec<Attempt>,
    /// A lock was met lately.
    locked_at: Option<Instant>,
    /// Somebody has a lock on all of the parking: asking would only wait for it.
    is_locked: bool,
    told_at: Option<Instant>,
}

impl ParkingStore {
    /// Prepares the statements, and listens for changes.
    ///
    /// # Errors
    /// The connection's.
    pub async fn prepare(
        client: &Client,
        config: &Config,
        outboxes: &[OutboxTable],
        session: &str,
    ) -> Result<Self, Fault> {
        match Self::prepare_all(client, config, outboxes, session).await {
            Err(mut fault) if is_lock(&fault) => {
                let (table, (who, hint)) = table_locker(client).await;
                fault.what = format!(
                    "{table} is locked by {who}: which aggregates wait is not known, and nothing is published"
                );
                Err(fault.hint(hint))
            }
            outcome => outcome,
        }
    }

    async fn prepare_all(
        client: &Client,
        config: &Config,
        outboxes: &[OutboxTable],
        session: &str,
    ) -> Result<Self, Fault> {
        let prepare = async |sql| client.prepare(sql).await.map_err(|error| classify(&error));
        let slot = config.postgres.slot.clone();
        let listen = format!("LISTEN {CHANNEL}");
        if let Err(error) = client.batch_execute(&listen).await {
            // A transaction pooler: polling is the net.
            debug!("no notifications: {}", classify(&error));
        }
        let mut shown = Vec::new();
        for (table, outbox) in config.tables.iter().zip(outboxes) {
            shown.push(Shown::prepare(client, table, outbox).await?);
        }
        Ok(Self {
            slot,
            session: session.to_owned(),
            still_ours: prepare(sql::PROGRESS_STILL_OURS).await?,
            oids: outboxes.iter().map(|outbox| outbox.relation).collect(),
            prefixes: config.messages.iter().map(|source| source.name.clone()).collect(),
            shown,
            park: prepare(sql::PARK).await?,
            delivered: prepare(sql::PARK_DELIVERED).await?,
            kept: prepare(sql::PARK_KEPT).await?,
            unmarked: prepare(sql::PARK_UNMARKED).await?,
            marked: prepare(sql::PARK_MARKED).await?,
            still: prepare(sql::PARKED_STILL).await?,
            refused: prepare(sql::PARK_REFUSED).await?,
            due: prepare(sql::PARKED_DUE).await?,
            noted: prepare(sql::PARK_NOTED).await?,
            withdrawn: prepare(sql::PARK_WITHDRAWN).await?,
            claim: prepare(sql::PARKED_CLAIM).await?,
            first: prepare(sql::PARKED_FIRST).await?,
            claim_alone: prepare(sql::PARKED_CLAIM_ALONE).await?,
            unclaimed: prepare(sql::PARKED_UNCLAIMED).await?,
            held: prepare(sql::PARKED_HELD).await?,
            waiting: prepare(sql::PARKED_WAITING).await?,
            ahead: prepare(sql::PARKED_AHEAD).await?,
            next: prepare(sql::PARKED_NEXT).await?,
            among: prepare(sql::PARKED_AMONG).await?,
            stuck: Stuck::default(),
            mind: Mutex::default(),
            has_unmarked: AtomicBool::new(true),
        })
    }

    /// Writes what is to be written, inside the transaction of the marks; all of it goes onto
    /// the wire without waiting for answers. What was delivered stays until its mark is known to be
    /// written, where that is wanted. Returns of how many tries the outcome was written: of those
    /// that are missing, somebody has a lock on the row ([`defer`](Self::defer)), or it is gone.
    ///
    /// # Errors
    /// The connection's.
    pub async fn write(
        &self,
        client: &Client,
        parking: &Parking,
        keeps: bool,
    ) -> Result<usize, Error> {
        let parks = join_all(parking.parks.iter().map(|park| self.park(client, park, Form::Whole)));
        let attempts = self.attempts(client, &parking.attempts, keeps);
        let (parks, attempts) = tokio::join!(biased; parks, attempts);
        for outcome in parks {
            outcome?;
        }
        attempts
    }

    async fn attempts(
        &self,
        client: &Client,
        attempts: &[Attempt],
        keeps: bool,
    ) -> Result<usize, Error> {
        let refused = attempts.iter();
        let refused = join_all(refused.map(|attempt| self.refused(client, attempt, Form::Whole)));
        let (refused, done) = tokio::join!(biased; refused, self.done(client, attempts, keeps));
        let mut count = 0;
        for outcome in refused.into_iter().chain([done]) {
            count += outcome?;
        }
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// What became of tries that were not refused.
    async fn done(&self, client: &Client, attempts: &[Attempt], keeps: bool) -> Result<u64, Error> {
        let those = |is_it: fn(&Tried) -> bool| -> Vec<i64> {
            let those = attempts.iter().filter(|attempt| is_it(&attempt.outcome));
            those.map(|attempt| attempt.seq).collect()
        };
        let leave = if keeps { &self.kept } else { &self.delivered };
        let delivered = those(|outcome| matches!(outcome, Tried::Delivered { .. }));
        if keeps && !delivered.is_empty() {
            self.has_unmarked.store(true, Ordering::Relaxed);
        }
        let withdrawn = those(|outcome| matches!(outcome, Tried::Withdrawn));
        let execute = async |statement, seqs: &Vec<i64>| match seqs.is_empty() {
            true => Ok(0),
            false => client.execute(statement, &[seqs]).await,
        };
        let (deleted, noted, withdrawn) = tokio::join!(
            biased;
            execute(leave, &delivered),
            execute(&self.noted, &delivered),
            execute(&self.withdrawn, &withdrawn),
        );
        Ok(deleted? + noted? + withdrawn?)
    }

    /// Writes each by itself and in order, where the server refuses one of them. An event that it
    /// refuses is parked in a form that it takes: one that is nowhere would hold up all others.
    ///
    /// # Errors
    /// The connection's, or those of all forms.
    pub(crate) async fn write_each(
        &self,
        client: &Client,
        parking: &Parking,
        keeps: bool,
    ) -> Result<(), Error> {
        for park in &parking.parks {
            self.park_somehow(client, park).await?;
        }
        let mut written = Vec::new();
        for attempt in &parking.attempts {
            if self.attempted(client, attempt, keeps).await? {
                written.push(attempt.clone());
            }
        }
        self.defer(client, &written).await
    }

    /// Writes what became of one try. Where that is refused, nothing is lost: the event is left alone
    /// for a while.
    async fn attempted(
        &self,
        client: &Client,
        attempt: &Attempt,
        keeps: bool,
    ) -> Result<bool, Error> {
        let seq = attempt.seq;
        let (what, outcome) = match &attempt.outcome {
            Tried::Refused { .. } => {
                let refused = |form| self.alone(client, self.refused(client, attempt, form));
                let mut outcome = refused(Form::Whole).await;
                if outcome.as_ref().is_err_and(is_of_row) {
                    outcome = refused(Form::Plain).await;
                }
                (Write::Outcome, outcome)
            }
            Tried::Delivered { .. } => (Write::Delivered, self.end(client, seq, keeps).await),
            Tried::Withdrawn => {
                let seqs = vec![seq];
                let withdrawn: [&(dyn ToSql + Sync); 1] = [&seqs];
                let withdrawn = client.execute(&self.withdrawn, &withdrawn);
                (Write::Outcome, self.alone(client, withdrawn).await)
            }
        };
        match outcome {
            // A lock on the row is passed over: this one is on the table.
            Err(error) if is_locked(&error) => Err(error),
            Err(error) if is_refused(&error) => {
                self.stuck.put_off(seq, what, &error);
                Ok(false)
            }
            outcome => {
                outcome?;
                self.stuck.forget(seq);
                Ok(true)
            }
        }
    }

    /// An event is delivered: its record ends.
    async fn end(&self, client: &Client, seq: i64, keeps: bool) -> Result<u64, Error> {
        if keeps {
            self.has_unmarked.store(true, Ordering::Relaxed);
        }
        let leave = if keeps { &self.kept } else { &self.delivered };
        let seqs = vec![seq];
        let seqs: [&(dyn ToSql + Sync); 1] = [&seqs];
        let both = async {
            let (left, noted) = tokio::join!(
                biased;
                client.execute(leave, &seqs),
                client.execute(&self.noted, &seqs),
            );
            left.and(noted)
        };
        self.alone(client, both).await
    }

    /// Writes something outside the transaction of the marks, unless a later session owns the slot.
    /// `write` is not to wait for an answer before all of it is on the wire.
    async fn alone<T>(
        &self,
        client: &Client,
        write: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let ours: [&(dyn ToSql + Sync); 2] = [&self.slot, &self.session];
        // The question last: whatever the write waits for, it holds up nobody who takes the slot over.
        let (begin, written, ours, commit) = tokio::join!(
            biased;
            client.batch_execute("BEGIN"),
            write,
            client.execute(&self.still_ours, &ours),
            client.batch_execute("COMMIT"),
        );
        begin?;
        let written = written?;
        ours?;
        commit?;
        Ok(written)
    }

    fn mind(&self) -> MutexGuard<'_, Mind> {
        self.mind.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of outcomes that were to be written, keeps those that a lock was in the way of. They are
    /// written with the next look that finds the row free.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) async fn defer(&self, client: &Client, attempts: &[Attempt]) -> Result<(), Error> {
        let seqs: Vec<i64> = attempts.iter().map(|attempt| attempt.seq).collect();
        let rows = client.query(&self.still, &[&seqs]).await?;
        let still: Vec<i64> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        let Some(first) = still.first() else { return Ok(()) };
        {
            let mut mind = self.mind();
            let attempts = attempts.iter().filter(|attempt| still.contains(&attempt.seq));
            mind.deferred.extend(attempts.cloned());
        }
        self.met_lock(client, Some(*first)).await;
        Ok(())
    }

    /// Writes what was deferred, as far as that can be done now.
    async fn flush(&self, client: &Client) -> Result<(), Error> {
        // They stay there until they are written: what is claimed meanwhile is compared with them.
        let deferred = self.mind().deferred.clone();
        if deferred.is_empty() {
            return Ok(());
        }
        for attempt in deferred.iter().filter(|attempt| !self.stuck.rests(attempt.seq)) {
            self.attempted(client, attempt, true).await?;
        }
        let seqs: Vec<i64> = deferred.iter().map(|attempt| attempt.seq).collect();
        let rows = client.query(&self.still, &[&seqs]).await?;
        let still: Vec<i64> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        let is_written = |seq| seqs.contains(&seq) && !still.contains(&seq);
        self.mind().deferred.retain(|attempt| !is_written(attempt.seq));
        if let Some(first) = still.first() {
            self.met_lock(client, Some(*first)).await;
        }
        Ok(())
    }

    /// Which are not to be tried now.
    fn passed_over(&self) -> Vec<i64> {
        let mut those = self.stuck.passed_over();
        those.extend(self.mind().deferred.iter().map(|attempt| attempt.seq));
        those
    }

    fn is_deferred(&self, seq: i64) -> bool {
        self.mind().deferred.iter().any(|attempt| attempt.seq == seq)
    }

    /// Somebody has a lock on a parked event: says who, once a minute.
    async fn met_lock(&self, client: &Client, seq: Option<i64>) {
        self.mind().locked_at = Some(Instant::now());
        if !self.is_to_tell() {
            return;
        }
        let event = seq.map_or("parked events are".to_owned(), |seq| {
            format!("the parked event with seq {seq} is")
        });
        let (who, hint) = locker(client, "pgoutbox.parked").await;
        warn!(
            hint,
            "{event} locked by {who}: its aggregate waits until that transaction ends, and nobody else does"
        );
    }

    /// Somebody has a lock on all of the parking: says who, once a minute. What is about the parking
    /// waits until it is free, without asking again and again on the connection of the marks.
    pub(crate) async fn met_table_lock(&self, client: &Client) {
        self.mind().is_locked = true;
        if !self.is_to_tell() {
            return;
        }
        let (table, (who, hint)) = table_locker(client).await;
        warn!(
            hint,
            "{table} is locked by {who}: parked events and those to be parked wait until that transaction ends, others go on for a window"
        );
    }

    /// Whether nobody has a lock on all of the parking. Asks the server only where somebody had.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) async fn is_free(&self, client: &Client) -> Result<bool, Error> {
        if !self.mind().is_locked {
            return Ok(true);
        }
        match client.batch_execute(sql::PARKED_FREE).await {
            Err(error) if is_locked(&error) => {
                self.met_table_lock(client).await;
                return Ok(false);
            }
            // Whatever else it is, those who ask will meet it.
            Err(error) if error.as_db_error().is_some() => {}
            outcome => outcome?,
        }
        self.mind().is_locked = false;
        Ok(true)
    }

    fn is_to_tell(&self) -> bool {
        let (now, mut mind) = (Instant::now(), self.mind());
        let is_told = mind.told_at.is_some_and(|at| now.saturating_duration_since(at) < TOLD_AGAIN);
        if !is_told {
            mind.told_at = Some(now);
        }
        !is_told
    }

    /// Somebody has a lock on the row of the progress: says who, once a minute.
    pub(crate) async fn locked_progress(&self, client: &Client, slot: &str) {
        if !self.is_to_tell() {
            return;
        }
        let (who, hint) = locker(client, "pgoutbox.progress").await;
        warn!(
            hint,
            "the row of slot \"{slot}\" in pgoutbox.progress is locked by {who}: a window of events goes on, and no more until that transaction ends; WAL is kept"
        );
    }

    /// Events that left the parking delivered, and whose marks are not known to be written: their
    /// numbers, and the marks of those that have an id and whose table is configured.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) async fn unmarked(
        &self,
        client: &Client,
    ) -> Result<Vec<(i64, Option<Mark>)>, Error> {
        if !self.has_unmarked.swap(false, Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        let resting = self.stuck.passed_over();
        let rows = client.query(&self.unmarked, &[&self.slot, &resting]).await?;
        if !(rows.is_empty() && resting.is_empty()) {
            // Looked at again, until there is none.
            self.has_unmarked.store(true, Ordering::Relaxed);
        }
        let xid = |row: &Row, name| -> Result<Option<u32>, Error> {
            Ok(row.try_get::<_, Option<i64>>(name)?.and_then(|xid| u32::try_from(xid).ok()))
        };
        let one = |row: &Row| {
            let table = self.table(row.try_get("outbox")?);
            let id: Option<String> = row.try_get("event_id")?;
            let occurred_at: Option<String> = row.try_get("occurred_at")?;
            let origin = Origin {
                xid: xid(row, "xid")?,
                xid_end: xid(row, "xid_end")?,
                occurred_at: occurred_at.map(String::into_boxed_str),
            };
            // What has no row has no mark.
            let is_row = row.try_get::<_, u32>("outbox")? != 0;
            let mark = id.filter(|_| is_row);
            let mark = mark.map(|id| Mark::new(None, table, id, None).from(origin));
            Ok((row.try_get("seq")?, mark))
        };
        // Those of a table that is configured no longer stay as they are.
        let is_configured = |one: &Result<(i64, Option<Mark>), Error>| match one {
            Ok((_, Some(mark))) => mark.table < self.oids.len(),
            Ok((_, None)) | Err(_) => true,
        };
        rows.iter().map(one).filter(is_configured).collect()
    }

    /// The marks of these are written.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) async fn marked(&self, client: &Client, seqs: &[i64]) -> Result<(), Error> {
        match client.execute(&self.marked, &[&seqs]).await {
            Err(error) if is_locked(&error) => return Err(error),
            Err(error) if error.as_db_error().is_some() => {}
            outcome => {
                outcome?;
                seqs.iter().for_each(|seq| self.stuck.forget(*seq));
                return Ok(());
            }
        }
        // One at a time, since one of them cannot go.
        for seq in seqs {
            match client.execute(&self.marked, &[&vec![*seq]]).await {
                Err(error) if error.as_db_error().is_some() => {
                    self.stuck.put_off(*seq, Write::Marked, &error);
                }
                outcome => {
                    outcome?;
                    self.stuck.forget(*seq);
                }
            }
        }
        Ok(())
    }

    async fn park_somehow(&self, client: &Client, park: &Park) -> Result<(), Error> {
        let mut last = match self.alone(client, self.park(client, park, Form::Whole)).await {
            Err(error) if is_of_row(&error) => error,
            outcome => return outcome,
        };
        for (form, what) in Form::LESSER {
            match self.alone(client, self.park(client, park, form)).await {
                Ok(()) => {
                    let (id, position) =
                        (park.id.as_deref().unwrap_or("without id"), park.position);
                    warn!(
                        hint = "look at its row in the outbox, and at constraints and triggers of pgoutbox.parked",
                        event_id = park.id,
                        %position,
                        "event {id} (commit {position}) is parked {what}, since pgoutbox.parked refuses it: {}",
                        classify(&last).what
                    );
                    return Ok(());
                }
                Err(error) if is_of_row(&error) => last = error,
                outcome => return outcome,
            }
        }
        Err(last)
    }

    async fn park(&self, client: &Client, park: &Park, form: Form) -> Result<(), Error> {
        let Park { position, id, aggregate, mapping, tuple, commit_time, is_holding, .. } = park;
        let has_keys = form < Form::WithoutKeys;
        let (id, aggregate) =
            (id.as_ref().filter(|_| has_keys), aggregate.as_ref().filter(|_| has_keys));
        let outbox = self.oids.get(mapping.table).copied().unwrap_or_default();
        let prefix = self.prefix(mapping.table);
        let (aggregate_type, aggregate_id) = match aggregate.map(Aggregate::parts) {
            Some((aggregate_type, id)) => (aggregate_type, Some(id)),
            None => (None, None),
        };
        let index = number_of(*position);
        let (state, next_ms) = told(park.state);
        let reason = park.refusal.as_ref().map(|refusal| refusal.reason());
        let error = park.refusal.as_ref().map(|refusal| form.text(&refusal.to_string()));
        let hint = park.refusal.as_ref().map(|refusal| refusal.hint());
        let attempts = i32::from(park.refusal.is_some());
        let columns = mapping.columns.iter();
        let columns: serde_json::Value = columns
            .map(|column| json!({"name": column.name, "type_oid": column.type_oid}))
            .collect();
        let columns = columns.to_string();
        let mut cells = Vec::new();
        // It was read before, so it can be.
        let _ = tuple.read_into(&mut cells);
        let cells: Vec<Option<&[u8]>> = match form {
            Form::WithoutCells => Vec::new(),
            _ => cells.into_iter().map(|cell| tuple.text(cell)).collect(),
        };
        let occurred_at = mapping.occurred_at.and_then(|at| cells.get(at).copied().flatten());
        let occurred_at = occurred_at.and_then(|text| std::str::from_utf8(text).ok());
        let xid = park.xid.map(i64::from);
        let parameters: [&(dyn ToSql + Sync); 20] = [
            &self.slot,
            &outbox,
            &id,
            &aggregate_type,
            &aggregate_id,
            &position.commit_lsn,
            &index,
            commit_time,
            &state,
            is_holding,
            &reason,
            &error,
            &hint,
            &attempts,
            &next_ms,
            &columns,
            &cells,
            &xid,
            &occurred_at,
            &prefix,
        ];
        client.execute(&self.park, &parameters).await.map(|_| ())
    }

    async fn refused(&self, client: &Client, attempt: &Attempt, form: Form) -> Result<u64, Error> {
        let Tried::Refused { attempts, state, refusal } = &attempt.outcome else { return Ok(0) };
        let (state, next_ms) = told(*state);
        let attempts = i32::try_from(*attempts).unwrap_or(i32::MAX);
        let error = form.text(&refusal.to_string());
        let (reason, hint) = (refusal.reason(), refusal.hint());
        let parameters: [&(dyn ToSql + Sync); 7] =
            [&attempt.seq, &state, &attempts, &next_ms, &reason, &error, &hint];
        client.execute(&self.refused, &parameters).await
    }

    /// Of the marks of events that an earlier session settled, the places of parked ones: they
    /// are not to be written.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) async fn among(
        &self,
        client: &Client,
        marks: &[Mark],
    ) -> Result<BTreeSet<Position>, Fault> {
        let repeated = marks.iter().filter(|mark| mark.is_repeat);
        let (lsns, numbers): (Vec<PgLsn>, Vec<i64>) =
            repeated.map(|mark| (mark.position.commit_lsn, number_of(mark.position))).unzip();
        let rows = client.query(&self.among, &[&self.slot, &lsns, &numbers]).await;
        rows.map_err(|error| classify(&error))?.iter().map(place).collect()
    }

    /// The records of events that are delivered end, where they could not before.
    async fn end_delivered(&self, client: &Client) -> Result<(), Error> {
        for seq in self.stuck.delivered() {
            match self.end(client, seq, true).await {
                Err(error) if is_refused(&error) => {
                    self.stuck.put_off(seq, Write::Delivered, &error);
                }
                outcome => {
                    outcome?;
                    self.stuck.forget(seq);
                }
            }
        }
        Ok(())
    }

    /// Looks at what is due, and who waits; the first time, from a place of the stream on.
    ///
    /// # Errors
    /// The connection's.
    pub async fn look(&self, client: &Client, from: Option<Position>) -> Result<Looked, Fault> {
        self.flush(client).await.map_err(|error| classify(&error))?;
        self.follow(client).await;
        let slot: [&(dyn ToSql + Sync); 1] = [&self.slot];
        let failed = |error| classify(&error);
        self.end_delivered(client).await.map_err(failed)?;
        let (waiting, ahead) = match from {
            None => (Vec::new(), Ahead::default()),
            Some(from) => {
                match client.execute(&self.unclaimed, &slot).await {
                    // They only go on to be told as taken by a relay, until they are tried again.
                    Err(error) if error.as_db_error().is_some() => {
                        let fault = classify(&error);
                        warn!(
                            hint = fault.hint,
                            "what an earlier session had taken of the parking is not given back: {}",
                            fault.what
                        );
                    }
                    outcome => drop(outcome.map_err(failed)?),
                }
                let waiting = client.query(&self.waiting, &slot).await.map_err(failed)?;
                (waiting, self.ahead(client, from).await?)
            }
        };
        let passed_over = self.passed_over();
        let those: [&(dyn ToSql + Sync); 2] = [&self.slot, &passed_over];
        let due = client.query(&self.due, &those);
        let rest = try_join(client.query(&self.held, &slot), client.query_one(&self.next, &those));
        let (due, (held, next)) = try_join(due, rest).await.map_err(failed)?;
        let next_ms: Option<i64> = column(&next, "next_ms")?;
        let paused_by: Option<String> = column(&next, "paused_by")?;
        let mut next_due = next_ms.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0)));
        let aggregates = |rows: &[Row]| -> Result<Vec<Aggregate>, Fault> {
            Ok(rows
                .iter()
                .map(aggregate)
                .collect::<Result<Vec<_>, _>>()?
                .into_iter()
                .flatten()
                .collect())
        };
        let due = due.iter().map(|row| {
            let is_holding: bool = column(row, "is_holding")?;
            Ok(Due {
                seq: column(row, "seq")?,
                aggregate: aggregate(row)?.filter(|_| is_holding),
                is_alone: column(row, "is_closed")?,
            })
        });
        let mut due: Vec<Due> = due.collect::<Result<_, Fault>>()?;
        // What is due and locked would be looked at again and again.
        let is_recent = |at: Instant| at.elapsed() < LOCKED;
        if self.mind().locked_at.is_some_and(is_recent) {
            due.clear();
            next_due = next_due.map(|due| due.max(LOCKED));
        }
        Ok(Looked {
            due,
            held: aggregates(&held)?,
            waiting: aggregates(&waiting)?,
            next_due: [next_due, self.stuck.next()].into_iter().flatten().min(),
            paused_by,
            ahead,
        })
    }

    async fn ahead(&self, client: &Client, from: Position) -> Result<Ahead, Fault> {
        let index = number_of(from);
        let rows = client.query(&self.ahead, &[&self.slot, &from.commit_lsn, &index]).await;
        let mut ahead = Ahead::default();
        for row in rows.map_err(|error| classify(&error))? {
            let event = (self.source(&row)?, column(&row, "event_id")?);
            ahead.events.insert(place(&row)?, event);
            ahead.written_lsn = Some(column(&row, "written_lsn")?);
        }
        Ok(ahead)
    }

    /// Which of the configured sources a record is of.
    fn source(&self, row: &Row) -> Result<usize, Fault> {
        let prefix: Option<String> = column(row, "prefix")?;
        let Some(prefix) = prefix else { return Ok(self.table(column(row, "outbox")?)) };
        let number = self.prefixes.iter().position(|known| *known == prefix);
        Ok(number.map_or(usize::MAX, |number| self.oids.len() + number))
    }

    /// The prefix of a source; `None` of a table.
    fn prefix(&self, source: usize) -> Option<&str> {
        let number = source.checked_sub(self.oids.len())?;
        self.prefixes.get(number).map(String::as_str)
    }

    /// Which of the configured tables it is: of one that is configured no longer its try says so.
    fn table(&self, outbox: u32) -> usize {
        self.oids.iter().position(|oid| *oid == outbox).unwrap_or(usize::MAX)
    }

    /// Takes the next event of an aggregate behind a row.
    ///
    /// # Errors
    /// The connection's.
    pub async fn claim(
        &self,
        client: &Client,
        aggregate: &Aggregate,
        after: i64,
    ) -> Result<Head, Fault> {
        let (aggregate_type, aggregate_id) = aggregate.parts();
        let passed_over = self.passed_over();
        let parameters: [&(dyn ToSql + Sync); 5] =
            [&self.slot, &aggregate_type, &aggregate_id, &after, &passed_over];
        let failed = |error| classify(&error);
        if !self.is_free(client).await.map_err(failed)? {
            return Ok(Head::Waits);
        }
        let rows = match self.alone(client, client.query(&self.claim, &parameters)).await {
            Err(error) if is_locked(&error) => {
                self.met_table_lock(client).await;
                return Ok(Head::Waits);
            }
            // A trigger: its turn has not come.
            Err(error) if is_refused(&error) => {
                let first = parameters.get(..4).unwrap_or_default();
                let first = client.query_opt(&self.first, first).await.map_err(failed)?;
                if let Some(first) = first {
                    self.stuck.put_off(column(&first, "seq")?, Write::Claim, &error);
                }
                return Ok(Head::Waits);
            }
            rows => rows.map_err(failed)?,
        };
        let Some(row) = rows.first() else { return Ok(Head::None) };
        if column(row, "is_locked")? {
            self.met_lock(client, None).await;
        }
        match column::<Option<i64>>(row, "seq")? {
            // Its turn has not come.
            None => return Ok(Head::Waits),
            // It was freed just now, and it is known what became of it.
            Some(seq) if self.is_deferred(seq) => return Ok(Head::Waits),
            Some(_) => {}
        }
        let is_tail = column(row, "is_tail")?;
        let row = self.row(row, columns_of(&column::<String>(row, "columns")?)?)?;
        Ok(Head::Claimed { row: Box::new(row), is_tail })
    }

    /// Takes events that nobody waits for; those that were taken out are missing in the answer.
    ///
    /// # Errors
    /// The connection's.
    pub async fn claim_alone(
        &self,
        client: &Client,
        seqs: &[i64],
    ) -> Result<Vec<ParkedRow>, Fault> {
        let failed = |error| classify(&error);
        if !self.is_free(client).await.map_err(failed)? {
            return Ok(Vec::new());
        }
        let those: [&(dyn ToSql + Sync); 2] = [&self.slot, &seqs];
        let rows = match self.alone(client, client.query(&self.claim_alone, &those)).await {
            // Still due, they are found with the next look.
            Err(error) if is_locked(&error) => {
                self.met_table_lock(client).await;
                return Ok(Vec::new());
            }
            Err(error) if is_refused(&error) => self.claim_each(client, seqs).await?,
            rows => rows.map_err(failed)?,
        };
        let mut taken = Vec::new();
        let mut is_any_locked = false;
        for row in rows {
            is_any_locked |= column::<bool>(&row, "is_locked")?;
            if column::<Option<i64>>(&row, "seq")?.is_some() {
                taken.push(row);
            }
        }
        if is_any_locked {
            self.met_lock(client, None).await;
        }
        let mut rows = self.rows(&taken)?;
        rows.retain(|row| !self.is_deferred(row.seq));
        rows.sort_by_key(|row| row.seq);
        Ok(rows)
    }

    /// One at a time, since one of them cannot be taken.
    async fn claim_each(&self, client: &Client, seqs: &[i64]) -> Result<Vec<Row>, Fault> {
        let mut claimed = Vec::new();
        for seq in seqs {
            let one = vec![*seq];
            let those: [&(dyn ToSql + Sync); 2] = [&self.slot, &one];
            match self.alone(client, client.query(&self.claim_alone, &those)).await {
                Err(error) if is_refused(&error) => {
                    self.stuck.put_off(*seq, Write::Claim, &error);
                }
                rows => claimed.extend(rows.map_err(|error| classify(&error))?),
            }
        }
        Ok(claimed)
    }

    fn rows(&self, rows: &[Row]) -> Result<Vec<ParkedRow>, Fault> {
        let mut shapes: Vec<(String, Arc<[Column]>)> = Vec::new();
        let mut parked = Vec::new();
        for row in rows {
            let shape: String = column(row, "columns")?;
            let columns = match shapes.iter().find(|(known, _)| *known == shape) {
                Some((_, columns)) => Arc::clone(columns),
                None => {
                    let columns = columns_of(&shape)?;
                    shapes.push((shape, Arc::clone(&columns)));
                    columns
                }
            };
            parked.push(self.row(row, columns)?);
        }
        Ok(parked)
    }

    fn row(&self, row: &Row, columns: Arc<[Column]>) -> Result<ParkedRow, Fault> {
        let source = self.source(row)?;
        let cells: Vec<Option<Vec<u8>>> = column(row, "cells")?;
        let tuple = Tuple::of_texts(cells.iter().map(Option::as_deref))
            .map_err(|error| Fault::transient(format!("pgoutbox.parked: {error}")))?;
        let attempts: i32 = column(row, "attempts")?;
        let xid = |name| -> Result<Option<u32>, Fault> {
            Ok(column::<Option<i64>>(row, name)?.and_then(|xid| u32::try_from(xid).ok()))
        };
        let written_by = xid("xid")?;
        Ok(ParkedRow {
            seq: column(row, "seq")?,
            position: place(row)?,
            id: column(row, "event_id")?,
            aggregate: aggregate(row)?,
            is_holding: column(row, "is_holding")?,
            attempts: u32::try_from(attempts).unwrap_or(0),
            is_alone: column(row, "is_closed")?,
            xid_end: xid("xid_end")?.filter(|_| written_by.is_some()),
            row: StoredRow {
                table: source,
                columns,
                tuple,
                commit_time: column(row, "commit_micros")?,
                xid: written_by,
            },
        })
    }

    /// Brings the columns up to date in which a row of the outbox shows the tries of its event.
    /// Best effort: what counts is in the parking.
    pub(crate) async fn follow(&self, client: &Client) {
        for shown in &self.shown {
            shown.follow(client).await;
        }
    }

    /// Failed events that were delivered after all: their rows no longer say that they failed.
    /// Best effort.
    pub(crate) async fn clear_failed(&self, client: &Client, parking: &Parking) {
        for (table, shown) in self.shown.iter().enumerate() {
            shown.clear_failed(client, table, parking).await;
        }
    }

    /// Says in the log what is put aside.
    pub(crate) fn log(&self, config: &Config, parking: &Parking) {
        for park in &parking.parks {
            let Some(refusal) = &park.refusal else { continue };
            let table = config.source(park.mapping.table);
            let table = table.map_or_else(String::new, |t| t.title());
            let (id, position) = (park.id.as_deref().unwrap_or("without id"), park.position);
            let what = match park.state {
                State::DeadLettered => "sent to the dead-letter exchange",
                State::Queued => "parked behind an older one of its aggregate",
                State::Parked(_) | State::Failed => "parked",
            };
            warn!(
                hint = refusal.hint(),
                event_id = park.id,
                table,
                %position,
                reason = refusal.reason(),
                aggregate = park.aggregate.as_ref().map(ToString::to_string),
                "event {id} of {table} (commit {position}) is {what}: {refusal}"
            );
        }
        for attempt in &parking.attempts {
            let (event_id, seq) = (attempt.id.as_deref(), attempt.seq);
            let id = event_id.unwrap_or("without id");
            let table = config.source(attempt.table);
            let table = table.map_or_else(String::new, |t| t.title());
            let (attempts, state, refusal) = match &attempt.outcome {
                Tried::Refused { attempts, state, refusal } => (attempts, state, refusal),
                Tried::Delivered { attempts: 0 } => {
                    debug!(
                        event_id,
                        table, seq, "event {id}, which waited behind a parked one, is delivered"
                    );
                    continue;
                }
                Tried::Delivered { attempts } => {
                    info!(
                        event_id,
                        table,
                        seq,
                        attempts,
                        "parked event {id} is delivered, after {attempts} refused tries"
                    );
                    continue;
                }
                Tried::Withdrawn => continue,
            };
            match state {
                State::Failed => warn!(
                    hint = refusal.hint(),
                    event_id,
                    table,
                    seq,
                    reason = refusal.reason(),
                    attempts,
                    "event {id} has failed after {attempts} tries: {refusal}. Once that is fixed: pgoutbox parked retry --id {id}"
                ),
                State::Parked(pause) => info!(
                    again_in = crate::text::span(*pause),
                    event_id,
                    table,
                    seq,
                    reason = refusal.reason(),
                    attempts,
                    "try {attempts} of parked event {id}: {refusal}"
                ),
                State::DeadLettered => {
                    let reason = refusal.reason();
                    info!(
                        event_id,
                        table,
                        seq,
                        reason,
                        "parked event {id} is sent to the dead-letter exchange: {refusal}"
                    );
                }
                State::Queued => {}
            }
        }
    }
}

/// A lock stood in the way, says the server, and no trigger.
pub(crate) fn is_locked(error: &Error) -> bool {
    error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) && is_lock(&classify(error))
}

/// Who has locked all of the parking, or all pauses.
async fn table_locker(client: &Client) -> (&'static str, (String, String)) {
    for table in ["pgoutbox.parked", "pgoutbox.pause"] {
        if let Some(locker) = known_locker(client, table).await {
            return (table, locker);
        }
    }
    ("pgoutbox.parked", unknown_locker())
}

fn unknown_locker() -> (String, String) {
    (
        "another session".to_owned(),
        "end the transaction that has it locked: pg_locks names it".to_owned(),
    )
}

/// Who has locked rows of a table, and what to do about it.
pub(crate) async fn locker(client: &Client, table: &str) -> (String, String) {
    known_locker(client, table).await.unwrap_or_else(unknown_locker)
}

async fn known_locker(client: &Client, table: &str) -> Option<(String, String)> {
    let rows = client
        .query_typed(sql::SERVER_LOCKED_BY, &[(&table, Type::TEXT)])
        .await
        .unwrap_or_default();
    rows.first().and_then(|row| {
        let pid: i32 = row.try_get(0).ok()?;
        let state: Option<String> = row.try_get(1).ok()?;
        let name: Option<String> = row.try_get(2).ok()?;
        let seconds: Option<f64> = row.try_get(3).ok()?;
        let lasted = Duration::from_secs_f64(seconds.unwrap_or_default().max(0.0));
        let (state, name) = (state.unwrap_or_default(), name.unwrap_or_default());
        let lasted = crate::text::span(lasted);
        Some((
            format!("pid {pid} (application \"{name}\", {state}, its transaction is {lasted} old)"),
            format!("end that transaction, or: SELECT pg_terminate_backend({pid});"),
        ))
    })
}

/// How much of an event is parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    Whole,
    /// Its error in ASCII: the broker's words may hold what the database's encoding has not.
    Plain,
    /// Without its id and its aggregate's, so that nothing waits behind it after a restart.
    WithoutKeys,
    /// Without its row too: it can only be looked up in the outbox.
    WithoutCells,
}

impl Form {
    const LESSER: [(Self, &'static str); 3] = [
        (Self::Plain, "with its error in ASCII"),
        (Self::WithoutKeys, "without its id and its aggregate's"),
        (Self::WithoutCells, "without its row"),
    ];

    /// Postgres has no NUL in a text.
    fn text(self, text: &str) -> String {
        match self {
            Self::Whole => text.replace('\0', "\u{FFFD}"),
            _ => text.escape_default().to_string(),
        }
    }
}

/// A state as the parking has it, and the milliseconds to the next try.
fn told(state: State) -> (&'static str, Option<i64>) {
    match state {
        State::Parked(pause) => {
            ("parked", Some(i64::try_from(pause.as_millis()).unwrap_or(i64::MAX)))
        }
        State::Queued => ("queued", None),
        State::Failed => ("failed", None),
        State::DeadLettered => ("dead_lettered", None),
    }
}

/// Its number among the events of its transaction, as SQL has it.
fn number_of(position: Position) -> i64 {
    i64::try_from(position.index).unwrap_or(i64::MAX)
}

fn place(row: &Row) -> Result<Position, Fault> {
    let index: i64 = column(row, "index")?;
    Ok(Position {
        commit_lsn: column::<PgLsn>(row, "commit_lsn")?,
        index: u64::try_from(index).unwrap_or(0),
    })
}

fn aggregate(row: &Row) -> Result<Option<Aggregate>, Fault> {
    let aggregate_type: Option<String> = column(row, "aggregate_type")?;
    let aggregate_id: Option<String> = column(row, "aggregate_id")?;
    Ok(Aggregate::new(aggregate_type.as_deref(), aggregate_id.as_deref()))
}

/// Reads `pgoutbox.parked.columns`.
///
/// # Errors
/// It is not what was written there.
pub(crate) fn columns_of(json: &str) -> Result<Arc<[Column]>, Fault> {
    let wrong = || Fault::transient(format!("pgoutbox.parked.columns cannot be read: {json}"));
    let columns: Vec<serde_json::Value> = serde_json::from_str(json).map_err(|_| wrong())?;
    let column = |value: &serde_json::Value| {
        let type_oid = value.get("type_oid")?.as_u64()?;
        let name = value.get("name")?.as_str()?.to_owned();
        Some(Column { name, type_oid: u32::try_from(type_oid).ok()? })
    };
    columns.iter().map(column).collect::<Option<Vec<_>>>().map(Arc::from).ok_or_else(wrong)
}
