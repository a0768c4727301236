//! The state machine of one session: inputs in, effects out. It knows no socket, task or
//! clock; `now` is the time since the session began.

use std::sync::Arc;
use std::time::Duration;

use postgres_types::PgLsn;

use crate::config::{Audit, AuditMode, Table};
use crate::error::{Class, Fault};
use crate::event::{Event, Position, Refusal, Row, event_id};
use crate::marks::{Batch, Mark, Marks, Patience, Written};
use crate::message::{Limits, Message};
use crate::pgoutput::{self, Cell, RelationMessage, Tuple};
use crate::progress::Progress;
use crate::relation::{Mapping, Relation, Relations, table_named};
use crate::window::{Confirm, InFlight, Outcome, Window};

/// Most marks that wait for their batch, in batches, before the stream is read no further.
const PENDING_BATCHES: usize = 10;
/// Keepalives that ask for a reply and bring no WAL, in one second, that mean a server which
/// waits for us to let it shut down (`walsender.c`, `WalSndDone`).
const STORM: u32 = 20;
/// Pause between checks during a drain.
const HASTY_CHECK: Duration = Duration::from_millis(50);
/// Pause between checks where the last marks only wait to reach the disk, which Postgres
/// sees to every `wal_writer_delay`, 200 ms by default.
const FLUSH_CHECK: Duration = Duration::from_millis(250);

/// What a session is held to.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The outbox tables.
    pub tables: Arc<[Table]>,
    /// Their oids, in the same order.
    pub oids: Vec<u32>,
    /// What the broker takes.
    pub limits: Limits,
    /// Bound on the window, in messages.
    pub window_messages: usize,
    /// Bound on the window, in bytes.
    pub window_bytes: usize,
    /// How events are marked.
    pub audit: Audit,
    /// How long a message may wait for its confirm.
    pub confirm_timeout: Duration,
    /// How long the broker may block the connection.
    pub blocked_timeout: Duration,
    /// Pause between checks of the publication.
    pub check_interval: Duration,
    /// Silence of the server after which it is taken for dead.
    pub silence: Duration,
}

/// What outlives a session, on the same server and timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Events before this place were delivered: they are marked and not published again.
    pub delivered: Position,
    /// Up to this place, events are published one at a time: one of them made the broker
    /// refuse, and what follows it would be published again with each try.
    pub cautious_through: Option<Position>,
}

impl Default for Memory {
    fn default() -> Self {
        Self { delivered: Position::start(), cautious_through: None }
    }
}

/// What happens to a session.
#[derive(Debug)]
pub enum Input {
    /// A message of the stream.
    Stream(pgoutput::Message),
    /// A keepalive of the stream.
    KeepAlive {
        /// What the server has sent everything before.
        wal_end: PgLsn,
        /// It wants an answer at once, which the client library gives.
        is_reply_requested: bool,
    },
    /// Confirms, by the message's number: `seen` resolved before, `polled` while the whole
    /// window was polled.
    Confirms {
        /// Seen before the window was polled.
        seen: Vec<(u64, Confirm)>,
        /// Seen while it was.
        polled: Vec<(u64, Confirm)>,
    },
    /// The broker blocks the connection, or no longer does.
    Blocked(bool),
    /// The broker closed the channel or the connection over something published; its words.
    Closed(String),
    /// A batch of marks was written.
    Written(Written),
    /// The publication was checked and found as it should be.
    Checked {
        /// The WAL is on disk up to here.
        flushed_lsn: PgLsn,
    },
    /// What an unknown relation is.
    Resolved(Resolution),
    /// Time has passed.
    Tick,
    /// Finish what is in flight, take nothing new.
    Drain,
}

/// What an unknown relation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// This configured table, or a partition of it.
    Partition(usize),
    /// A table that is none of ours.
    Other,
    /// It no longer exists.
    Gone,
}

/// What the session is to do.
#[derive(Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly all of them are the large one")]
pub enum Effect {
    /// Publish the next message.
    Publish(Message),
    /// Write marks and progress in one transaction.
    Mark(Batch),
    /// Check the publication, and ask how far the WAL is on disk.
    Check,
    /// Find out what this relation is.
    Resolve(u32),
    /// Tell Postgres that everything before this LSN is safe.
    Acknowledge(PgLsn),
}

/// How a session ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Everything in flight is settled, marked and acknowledged.
    Drained,
    /// Something failed.
    Fault(Fault),
    /// One event cannot be delivered; everything before it is settled.
    Stuck(Stuck),
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// The event that a relay cannot get past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// `schema.table`.
    pub table: String,
    /// Its id.
    pub id: String,
    /// Its place in commit order.
    pub position: Position,
    /// Why it cannot be delivered.
    pub refusal: Refusal,
}

impl Stuck {
    /// The fault as an operator reads it.
    pub fn fault(&self) -> Fault {
        let Self { table, id, position, refusal } = self;
        Fault::new(
            Class::Event,
            format!("event {id} of {table} (commit {position}) cannot be delivered: {refusal}"),
            refusal.mend(),
        )
    }
}

/// What a session has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages published.
    pub published: u64,
    /// Messages that a queue took.
    pub delivered: u64,
    /// Events that an earlier session had delivered.
    pub repeated: u64,
    /// Marks written.
    pub marked: u64,
    /// Rows of relations that are no outbox table, and changes that are no inserts.
    pub ignored: u64,
}

#[derive(Debug)]
struct Transaction {
    position: Position,
    commit_time: i64,
    xid: u32,
}

/// A published event.
#[derive(Debug)]
struct Published {
    number: u64,
    position: Position,
    table: usize,
    id: String,
    bytes: usize,
    xid: u32,
    at: Duration,
}

impl InFlight for Published {
    fn message_id(&self) -> &str {
        &self.id
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The state machine.
#[derive(Debug)]
pub struct Relay {
    rules: Rules,
    memory: Memory,
    relations: Relations,
    transaction: Option<Transaction>,
    unresolved: Option<RelationMessage>,
    window: Window<Published>,
    progress: Progress,
    marks: Marks,
    /// Events whose place is in the progress row.
    recorded: u64,
    /// The progress row says at least this.
    recorded_position: Position,
    unrecorded_since: Option<Duration>,
    checks_begun: u64,
    checks_passed: u64,
    checked_at: Option<Duration>,
    last_frame_at: Duration,
    was_reading: bool,
    blocked_since: Option<Duration>,
    unblocked_at: Duration,
    storm: (Duration, u32),
    /// Intake is stopped; how the session ends once nothing is in flight.
    ending: Option<End>,
    /// The broker refused a message of the window; those behind it do not count.
    has_refused: bool,
    counts: Counts,
    cells: Vec<Cell>,
}

impl Relay {
    /// A session begins. The server may send again what came before `memory.delivered`.
    pub fn new(rules: Rules, memory: Memory) -> Self {
        let patience = Patience { hold: rules.audit.hold, give_up: rules.audit.give_up };
        Self {
            memory,
            relations: Relations::default(),
            transaction: None,
            unresolved: None,
            window: Window::default(),
            progress: Progress::new(memory.delivered),
            marks: Marks::new(patience),
            recorded: 0,
            recorded_position: Position::start(),
            unrecorded_since: None,
            checks_begun: 0,
            checks_passed: 0,
            checked_at: None,
            last_frame_at: Duration::ZERO,
            was_reading: true,
            blocked_since: None,
            unblocked_at: Duration::ZERO,
            storm: (Duration::ZERO, 0),
            ending: None,
            has_refused: false,
            counts: Counts::default(),
            cells: Vec::new(),
            rules,
        }
    }

    /// What the next session is to know, after this one ended with `end`.
    pub fn remember(&self, end: &End) -> Memory {
        let cautious_through = match end {
            End::Stuck(stuck) => Some(stuck.position),
            _ => None,
        };
        let delivered = self.progress.position();
        let earlier = self.memory.cautious_through.filter(|through| *through >= delivered);
        Memory { delivered, cautious_through: cautious_through.max(earlier) }
    }

    /// Progress that is not in the progress row yet, for a session that ended in a fault: the
    /// next process would publish those events again. Their marks are written when the slot
    /// brings them again.
    pub fn unrecorded_progress(&self) -> Option<Batch> {
        let position = self.progress.position();
        (self.progress.settled() > self.recorded).then(|| Batch {
            marks: Vec::new(),
            position,
            settled: self.progress.settled(),
        })
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Messages in flight, and their bytes.
    pub fn in_flight(&self) -> (usize, usize) {
        (self.window.len(), self.window.bytes())
    }

    /// Marks given up so far.
    pub fn marks_given_up(&self) -> u64 {
        self.marks.given_up()
    }

    /// The last LSN acknowledged.
    pub fn acknowledged(&self) -> PgLsn {
        self.progress.acknowledged()
    }

    /// The stream is to be read. Where this is `false`, the server waits: that is the
    /// back-pressure.
    pub fn is_reading(&self) -> bool {
        let (messages, unrecorded) = if self.is_cautious() {
            (1, usize::MAX)
        } else {
            // What is not in the progress row is repeated after a crash.
            (self.rules.window_messages, self.rules.window_messages + self.rules.audit.batch)
        };
        self.ending.is_none()
            && self.unresolved.is_none()
            && !self.window.must_empty()
            && self.window.len() < messages
            && self.window.bytes() < self.rules.window_bytes
            && self.unrecorded() < u64::try_from(unrecorded).unwrap_or(u64::MAX)
            && !self.marks.is_crowded()
            && self.marks.pending() < PENDING_BATCHES * self.rules.audit.batch
    }

    fn unrecorded(&self) -> u64 {
        self.progress.received() - self.recorded
    }

    fn is_cautious(&self) -> bool {
        self.memory.cautious_through.is_some()
    }

    /// Takes in what happened and tells what to do about it.
    ///
    /// # Errors
    /// The session has ended.
    pub fn handle(
        &mut self,
        now: Duration,
        input: Input,
        effects: &mut Vec<Effect>,
    ) -> Result<(), End> {
        match input {
            Input::Stream(message) => {
                self.last_frame_at = now;
                self.stream(now, message, effects)?;
            }
            Input::KeepAlive { wal_end, is_reply_requested } => {
                self.last_frame_at = now;
                self.keepalive(now, wal_end, is_reply_requested)?;
            }
            Input::Confirms { seen, polled } => self.confirms(now, seen, polled),
            Input::Blocked(is_blocked) => self.blocked(now, is_blocked),
            Input::Closed(why) => self.closed(&why),
            Input::Written(written) => self.written(now, written),
            Input::Checked { flushed_lsn } => {
                self.checks_passed = self.checks_begun;
                self.marks.flushed(flushed_lsn);
            }
            Input::Resolved(resolution) => self.resolved(resolution)?,
            Input::Tick => {}
            Input::Drain => {
                self.ending.get_or_insert(End::Drained);
            }
        }
        self.watch(now)?;
        self.follow_up(now, effects)
    }

    /// What follows from the state, whatever was taken in.
    fn follow_up(&mut self, now: Duration, effects: &mut Vec<Effect>) -> Result<(), End> {
        if self.is_batch_due(now) {
            let limit = self.rules.audit.batch;
            let batch = Batch {
                marks: self.marks.take(now, limit),
                position: self.progress.position(),
                settled: self.progress.settled(),
            };
            self.unrecorded_since = None;
            effects.push(Effect::Mark(batch));
        }
        if self.is_check_due(now) {
            self.checks_begun += 1;
            self.checked_at = Some(now);
            effects.push(Effect::Check);
        }
        if let Some(lsn) = self.progress.acknowledge(self.marks.through(now), self.checks_passed) {
            effects.push(Effect::Acknowledge(lsn));
        }
        self.end_if_done(now)
    }

    fn end_if_done(&self, now: Duration) -> Result<(), End> {
        let is_quiet = self.window.is_empty()
            && self.marks.is_idle(now)
            && self.is_recorded()
            && !self.progress.is_settled_point_waiting();
        match &self.ending {
            Some(end) if is_quiet => Err(end.clone()),
            _ => Ok(()),
        }
    }

    fn is_recorded(&self) -> bool {
        // An earlier session may have ended before it could record what was delivered. The next
        // process knows of that only what the row says.
        let is_known_to_the_next = !matches!(self.ending, Some(End::Drained))
            || self.recorded_position >= self.memory.delivered;
        self.recorded >= self.progress.settled() && is_known_to_the_next
    }

    fn stream(
        &mut self,
        now: Duration,
        message: pgoutput::Message,
        effects: &mut Vec<Effect>,
    ) -> Result<(), End> {
        match message {
            pgoutput::Message::Begin { commit_lsn, commit_time, xid } => {
                let position = Position { commit_lsn, index: 0 };
                self.transaction = Some(Transaction { position, commit_time, xid });
            }
            pgoutput::Message::Commit { end_lsn, .. } => {
                self.transaction = None;
                self.progress.commit(end_lsn, self.checks_begun + 1);
            }
            pgoutput::Message::Relation(relation) => self.relation(relation, effects)?,
            pgoutput::Message::Insert { relation, tuple } => {
                self.insert(now, relation, &tuple, effects)?;
            }
            pgoutput::Message::Update { .. }
            | pgoutput::Message::Delete { .. }
            | pgoutput::Message::Truncate { .. }
            | pgoutput::Message::Emitted { .. } => self.counts.ignored += 1,
            pgoutput::Message::Origin { .. } | pgoutput::Message::Type { .. } => {}
        }
        Ok(())
    }

    fn relation(
        &mut self,
        relation: RelationMessage,
        effects: &mut Vec<Effect>,
    ) -> Result<(), End> {
        // By oid first: rows written before a rename come under the old name.
        let by_oid = self.rules.oids.iter().position(|oid| *oid == relation.oid);
        match by_oid.or_else(|| table_named(&self.rules.tables, &relation)) {
            Some(table) => self.map(table, &relation),
            None => {
                effects.push(Effect::Resolve(relation.oid));
                self.unresolved = Some(relation);
                Ok(())
            }
        }
    }

    fn resolved(&mut self, resolution: Resolution) -> Result<(), End> {
        let Some(relation) = self.unresolved.take() else { return Ok(()) };
        match resolution {
            Resolution::Partition(table) => self.map(table, &relation),
            Resolution::Other => {
                self.relations.insert(relation.oid, Relation::Other);
                Ok(())
            }
            Resolution::Gone => {
                let name = format!("{}.{}", relation.schema, relation.name);
                Err(Fault::definite(
                    format!(
                        "the WAL holds rows of {name} (oid {}), which no longer exists and is no configured table: they may be events of a dropped partition",
                        relation.oid
                    ),
                    format!("add [[tables]] with name = \"{name}\" and the outbox's mapping to the configuration, to relay them"),
                )
                .into())
            }
        }
    }

    fn map(&mut self, table: usize, relation: &RelationMessage) -> Result<(), End> {
        let Some(config) = self.rules.tables.get(table) else { return Ok(()) };
        // The mark goes to the table of today; what the row looked like then does not matter.
        match Mapping::compile(table, config, &relation.columns, false) {
            Ok(mapping) => {
                self.relations.insert(relation.oid, Relation::Outbox(Arc::new(mapping)));
                Ok(())
            }
            Err(errors) => Err(Fault::definite(
                errors.join("; "),
                "the WAL holds rows of this older or newer shape: map the columns as they were, let the relay pass these rows, then change the mapping",
            )
            .into()),
        }
    }

    fn insert(
        &mut self,
        now: Duration,
        relation: u32,
        tuple: &Tuple,
        effects: &mut Vec<Effect>,
    ) -> Result<(), End> {
        let mapping = match self.relations.find(relation) {
            Some(Relation::Outbox(mapping)) => Arc::clone(mapping),
            Some(Relation::Other) => {
                self.counts.ignored += 1;
                return Ok(());
            }
            None => return Err(protocol(format!("a row of relation {relation}, never announced"))),
        };
        let Some(transaction) = &mut self.transaction else {
            return Err(protocol("a row outside a transaction"));
        };
        let (position, xid, commit_time) =
            (transaction.position, transaction.xid, transaction.commit_time);
        transaction.position.index += 1;

        let mut cells = std::mem::take(&mut self.cells);
        let read = tuple.read_into(&mut cells);
        let row = Row { tuple, cells: &cells };
        let result = match read {
            Err(error) => Err(protocol(error.to_string())),
            Ok(()) if cells.len() != mapping.width => Err(protocol(format!(
                "a row of {} columns in a relation of {}",
                cells.len(),
                mapping.width
            ))),
            Ok(()) => {
                self.event(now, row, &mapping, Origin { position, xid, commit_time }, effects);
                Ok(())
            }
        };
        self.cells = cells;
        result
    }

    fn event(
        &mut self,
        now: Duration,
        row: Row<'_>,
        mapping: &Mapping,
        origin: Origin,
        effects: &mut Vec<Effect>,
    ) {
        let Origin { position, xid, commit_time } = origin;
        let id = event_id(mapping, row).unwrap_or_default();
        if position < self.memory.delivered {
            self.counts.repeated += 1;
            let number = self.progress.receive();
            self.settle(now, number, mapping.table, id.to_owned(), position, xid);
            return;
        }
        let message = match self.message(row, mapping, position, commit_time) {
            Ok(message) => message,
            Err(refusal) => {
                let stuck = self.stuck(mapping.table, id, position, refusal);
                self.ending = Some(End::Stuck(stuck));
                return;
            }
        };
        if self.memory.cautious_through.is_some_and(|through| position > through) {
            self.memory.cautious_through = None;
        }
        self.counts.published += 1;
        self.window.push(Published {
            number: self.progress.receive(),
            position,
            table: mapping.table,
            id: id.to_owned(),
            bytes: message.body.len(),
            xid,
            at: now,
        });
        effects.push(Effect::Publish(message));
    }

    fn message(
        &self,
        row: Row<'_>,
        mapping: &Mapping,
        position: Position,
        commit_time: i64,
    ) -> Result<Message, Refusal> {
        let event = Event::read(mapping, row, commit_time)?;
        let table = self
            .rules
            .tables
            .get(mapping.table)
            .ok_or_else(|| Refusal::unreadable("table", "it is not configured"))?;
        Message::build(&event, row, position, mapping, table, self.rules.limits)
    }

    fn stuck(&self, table: usize, id: &str, position: Position, refusal: Refusal) -> Stuck {
        let table = self.rules.tables.get(table);
        let table =
            table.map_or_else(String::new, |table| format!("{}.{}", table.schema, table.name));
        Stuck { table, id: id.to_owned(), position, refusal }
    }

    fn confirms(&mut self, now: Duration, seen: Vec<(u64, Confirm)>, polled: Vec<(u64, Confirm)>) {
        for (number, confirm) in seen {
            self.window.resolve(number, confirm);
        }
        self.window.begin_pass();
        for (number, confirm) in polled {
            self.window.resolve(number, confirm);
        }
        let mut window = std::mem::take(&mut self.window);
        window.end_pass(|event, outcome| self.outcome(now, event, outcome));
        self.window = window;
    }

    fn outcome(&mut self, now: Duration, event: Published, outcome: Outcome) {
        let refusal = match outcome {
            // Behind a refused one, nothing counts as settled, delivered or not.
            _ if self.has_refused => return,
            Outcome::Delivered => {
                self.counts.delivered += 1;
                self.settle(now, event.number, event.table, event.id, event.position, event.xid);
                return;
            }
            Outcome::Returned(why) => Refusal::Returned { why },
            Outcome::Nacked => Refusal::Nacked,
        };
        self.has_refused = true;
        let stuck = self.stuck(event.table, &event.id, event.position, refusal);
        self.ending = Some(End::Stuck(stuck));
    }

    fn settle(
        &mut self,
        now: Duration,
        number: u64,
        table: usize,
        id: String,
        position: Position,
        xid: u32,
    ) {
        self.progress.settle(position);
        self.unrecorded_since.get_or_insert(now);
        if self.rules.audit.mode != AuditMode::None {
            self.marks.push(Mark::new(number, table, id, xid));
        }
    }

    /// The broker does not say over which publish it closed the channel. With one message in
    /// flight it is that one. The session goes on without the broker until what was delivered
    /// before has its marks: the next one comes to the same message, and could write them no
    /// better.
    fn closed(&mut self, why: &str) {
        let window = std::mem::take(&mut self.window);
        let end = match (window.front(), window.len()) {
            (Some(event), 1) => {
                let refusal = Refusal::Closed { why: why.to_owned() };
                End::Stuck(self.stuck(event.table, &event.id, event.position, refusal))
            }
            (_, count) => {
                let last = window.items().last().map(|event| event.position);
                self.memory.cautious_through = self.memory.cautious_through.max(last);
                End::Fault(Fault::transient(format!(
                    "the broker closed the channel with {count} messages in flight: {why}. They are published again one at a time, to find which it was"
                )))
            }
        };
        self.ending = Some(end);
    }

    fn blocked(&mut self, now: Duration, is_blocked: bool) {
        if is_blocked {
            self.blocked_since.get_or_insert(now);
        } else {
            self.blocked_since = None;
            self.unblocked_at = now;
        }
    }

    fn keepalive(
        &mut self,
        now: Duration,
        wal_end: PgLsn,
        is_reply_requested: bool,
    ) -> Result<(), End> {
        let is_new = wal_end > self.progress.received_lsn();
        self.progress.barrier(wal_end, self.checks_begun + 1);
        let (since, count) = &mut self.storm;
        if is_new || now.saturating_sub(*since) >= Duration::from_secs(1) {
            (*since, *count) = (now, 0);
        }
        *count += u32::from(is_reply_requested);
        if *count > STORM {
            return Err(Fault::transient(
                "Postgres is shutting down and waits for the relay: it is let go",
            )
            .into());
        }
        Ok(())
    }

    fn written(&mut self, now: Duration, written: Written) {
        self.recorded = self.recorded.max(written.batch.settled);
        self.recorded_position = self.recorded_position.max(written.batch.position);
        let (all, missing) = (written.batch.marks.len(), written.missing.len());
        self.counts.marked += u64::try_from(all - missing).unwrap_or(0);
        self.marks.written(now, written);
    }

    fn is_batch_due(&self, now: Duration) -> bool {
        let batch = u64::try_from(self.rules.audit.batch).unwrap_or(u64::MAX);
        let is_full = self.progress.settled() - self.recorded >= batch;
        // Nothing to gain from waiting where nothing more comes.
        let is_last = self.ending.is_some() && self.window.is_empty() && !self.is_recorded();
        !self.marks.is_writing()
            && (is_full
                || is_last
                || self.marks.pending() >= self.rules.audit.batch
                || self.linger_ends().is_some_and(|at| at <= now)
                || self.marks.next_try().is_some_and(|at| at <= now))
    }

    fn linger_ends(&self) -> Option<Duration> {
        let since = self.unrecorded_since.or((self.marks.pending() > 0).then_some(Duration::ZERO));
        since.map(|since| since + self.rules.audit.linger)
    }

    fn is_check_due(&self, now: Duration) -> bool {
        self.checks_begun == self.checks_passed && self.next_check().is_some_and(|at| at <= now)
    }

    fn next_check(&self) -> Option<Duration> {
        if !self.progress.is_settled_point_waiting() && !self.marks.is_unflushed() {
            return None;
        }
        let pause = if self.ending.is_some() {
            HASTY_CHECK
        } else if self.window.is_empty() && self.is_recorded() {
            FLUSH_CHECK
        } else {
            self.rules.check_interval
        }
        .min(self.rules.check_interval);
        Some(self.checked_at.map_or(Duration::ZERO, |at| at + pause))
    }

    /// Deadlines of the servers.
    fn watch(&mut self, now: Duration) -> Result<(), End> {
        let is_reading = self.is_reading();
        if is_reading && !self.was_reading {
            self.last_frame_at = now;
        }
        self.was_reading = is_reading;
        if self.silence_ends().is_some_and(|at| at <= now) {
            return Err(Fault::transient(format!(
                "no word from the walsender for {:?}: it is taken for dead",
                self.rules.silence
            ))
            .into());
        }
        if self.block_ends().is_some_and(|at| at <= now) {
            return Err(Fault::transient(format!(
                "RabbitMQ has blocked the connection for {:?}",
                self.rules.blocked_timeout
            ))
            .mend("clear its memory or disk alarm: rabbitmq-diagnostics alarms")
            .into());
        }
        if self.confirm_ends().is_some_and(|at| at <= now) {
            return Err(Fault::transient(format!(
                "RabbitMQ has not confirmed a message for {:?}",
                self.rules.confirm_timeout
            ))
            .mend("look at the queues behind the exchange: a quorum queue without a majority confirms nothing")
            .into());
        }
        Ok(())
    }

    fn silence_ends(&self) -> Option<Duration> {
        self.was_reading.then(|| self.last_frame_at + self.rules.silence)
    }

    fn block_ends(&self) -> Option<Duration> {
        self.blocked_since.map(|since| since + self.rules.blocked_timeout)
    }

    fn confirm_ends(&self) -> Option<Duration> {
        match (self.blocked_since, self.window.front()) {
            (None, Some(front)) => {
                Some(front.at.max(self.unblocked_at) + self.rules.confirm_timeout)
            }
            _ => None,
        }
    }

    /// When a [`Input::Tick`] is due, if nothing else happens first.
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        let (mut batch, mut check) = (None, None);
        if !self.marks.is_writing() {
            batch = [self.linger_ends(), self.marks.next_try()].into_iter().flatten().min();
        }
        if self.checks_begun == self.checks_passed {
            check = self.next_check();
        }
        [
            batch,
            check,
            self.marks.next_release(now),
            self.silence_ends(),
            self.block_ends(),
            self.confirm_ends(),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

/// Where an event comes from.
struct Origin {
    position: Position,
    xid: u32,
    commit_time: i64,
}

/// The server says what it cannot say: perhaps bytes were lost on the way.
fn protocol(what: impl std::fmt::Display) -> End {
    End::Fault(Fault::transient(format!("the stream makes no sense: {what}")))
}
