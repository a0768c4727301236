//! The state machine of one session: inputs in, effects out. It knows no socket, task or
//! clock; `now` is the time since the session began.
//!
//! # Layout
//! `input` holds what goes in and out. `stream` reads the stream, `intake` takes in events,
//! whatever way they come, and sends them off; `outcome` says what became of them; `lanes`
//! knows who has to wait for whom; `parked` follows what stands in the parking; `watch` keeps
//! the deadlines; `view` shows how it all stands, `spans` what became of each try.

pub(crate) mod marks;
pub(crate) mod progress;
pub(crate) mod retry;
pub(crate) mod window;
mod arrival;
mod input;
mod intake;
mod lanes;
mod outcome;
mod retries;
mod spans;
mod stream;
mod trial;
mod view;
mod watch;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use postgres_types::PgLsn;

pub(crate) use input::Stuck;
pub use input::{Effect, End, Input, Memory, Resolution, Rules};
pub use intake::CatchUp;
pub(crate) use view::{Doing, View};

use arrival::{Published, Ready};
use intake::Shapes;
use lanes::Lanes;
use retries::Attention;
use stream::Transaction;
use trial::Trial;
use watch::Watch;

use crate::core::event::Position;
use crate::core::event::pgoutput::{Cell, RelationMessage, Tuple};
use crate::core::event::relation::Relations;
use crate::core::parked::{Aggregate, Ahead, Parking, Unwritten};
use crate::core::relay::marks::{Batch, Marks, Patience, Written};
use crate::core::relay::progress::Progress;
use crate::core::relay::window::Window;
use crate::core::span::Span;
use crate::core::tally::Tally;

/// Most marks that wait for their batch, in batches, before the stream is read no further.
const PENDING_BATCHES: usize = 10;
/// Pause between checks during a drain.
const HASTY_CHECK: Duration = Duration::from_millis(50);
/// Pause between checks where the last marks only wait to reach the disk, which Postgres
/// sees to every `wal_writer_delay`, 200 ms by default.
const FLUSH_CHECK: Duration = Duration::from_millis(250);

/// The state machine.
#[derive(Debug)]
pub struct Relay {
    rules: Rules,
    /// The wall clock at the start of the session, in microseconds since 2000-01-01 UTC.
    began_micros: i64,
    memory: Memory,
    relations: Relations,
    shapes: Shapes,
    transaction: Option<Transaction>,
    /// Relations that may be partitions, and of which no row has come yet.
    announced: BTreeMap<u32, RelationMessage>,
    /// A row of one of them, until it is known what that is.
    unresolved: Option<(u32, Tuple)>,
    /// Relations that hold today what their rows in the stream say.
    partitions: BTreeSet<u32>,
    /// Who asked that nothing more is published; `None` where nobody did.
    paused_by: Option<String>,
    /// What is to be published before the stream; it is read no further until that is done.
    catch_up: Option<CatchUp>,
    /// Taken in, and not published yet.
    ready: VecDeque<Ready>,
    lanes: Lanes,
    trial: Trial,
    /// Aggregates whose next event may go.
    freed: Vec<Aggregate>,
    attention: Attention,
    ahead: Ahead,
    window: Window<Published>,
    progress: Progress,
    marks: Marks,
    unwritten: Unwritten,
    /// Events whose place is in the progress row.
    recorded: u64,
    /// The progress row says at least this.
    recorded_position: Position,
    unrecorded_since: Option<Duration>,
    checks_begun: u64,
    checks_passed: u64,
    /// The stream is read on once this check has passed.
    recheck: u64,
    checked_at: Option<Duration>,
    watch: Watch,
    /// Intake is stopped; how the session ends once nothing is in flight.
    ending: Option<End>,
    tally: Tally,
    /// Of tries that have ended; `None` where nobody wants them.
    spans: Option<Vec<Span>>,
    cells: Vec<Cell>,
    key: String,
}

impl Relay {
    /// A session begins. The server may send again what came before `memory.delivered`.
    pub fn new(rules: Rules, memory: Memory, catch_up: Option<CatchUp>) -> Self {
        let patience = Patience { hold: rules.audit.hold, give_up: rules.audit.give_up };
        Self {
            relations: Relations::default(),
            shapes: Shapes::default(),
            transaction: None,
            announced: BTreeMap::new(),
            unresolved: None,
            partitions: BTreeSet::new(),
            paused_by: None,
            catch_up,
            ready: VecDeque::new(),
            lanes: Lanes::default(),
            trial: Trial::default(),
            freed: Vec::new(),
            attention: Attention::default(),
            ahead: Ahead::default(),
            window: Window::default(),
            progress: Progress::new(memory.delivered),
            marks: Marks::new(patience),
            unwritten: Unwritten::default(),
            recorded: 0,
            recorded_position: Position::start(),
            unrecorded_since: None,
            checks_begun: 0,
            checks_passed: 0,
            recheck: 0,
            checked_at: None,
            watch: Watch::default(),
            ending: None,
            tally: Tally::default(),
            spans: None,
            cells: Vec::new(),
            key: String::new(),
            began_micros: 0,
            memory,
            rules,
        }
    }

    /// What the next session is to know, after this one ended with `end`.
    pub fn remember(&self, now: Duration, end: &End) -> Memory {
        let cautious_through = match end {
            End::Stuck(stuck) => Some(stuck.position),
            _ => None,
        };
        let delivered = self.safe_position();
        let earlier = self.memory.cautious_through.filter(|through| *through >= delivered);
        Memory {
            delivered,
            cautious_through: cautious_through.max(earlier),
            suspects: self.memory.suspects.clone(),
            convicted: self.memory.convicted.clone(),
            dropped: self.memory.dropped,
            budget: self.memory.budget.clone().rebased(now),
            nack_patience: self.memory.nack_patience,
        }
    }

    /// Everything before this place is delivered, or parked for good: what is parked and not
    /// on disk yet, the server may still forget.
    fn safe_position(&self) -> Position {
        let position = self.progress.position();
        self.unwritten.first_unsafe().map_or(position, |first| first.min(position))
    }

    /// Progress that is not in the progress row yet, for a session that ended in a fault: the
    /// next process would publish those events again. Their marks are written when the slot
    /// brings them again.
    pub(crate) fn unrecorded_progress(&self) -> Option<Batch> {
        let position = self.safe_position();
        (position > self.recorded_position.max(self.memory.delivered)).then(|| Batch {
            marks: Vec::new(),
            parking: Parking::default(),
            position,
            settled: self.progress.settled(),
        })
    }

    /// What was done so far.
    pub fn tally(&self) -> Tally {
        Tally { unmarked: self.marks.given_up(), ..self.tally }
    }

    /// Messages in flight, and their bytes.
    pub fn in_flight(&self) -> (usize, usize) {
        (self.window.len(), self.window.bytes())
    }

    /// The last LSN acknowledged.
    pub(crate) fn acknowledged(&self) -> PgLsn {
        self.progress.acknowledged()
    }

    /// The stream is to be read. Where this is `false`, the server waits: that is the
    /// back-pressure.
    pub fn is_reading(&self) -> bool {
        self.catch_up.is_none()
            && self.unresolved.is_none()
            && self.checks_passed >= self.recheck
            && self.has_room()
    }

    /// One more event may be taken in.
    fn has_room(&self) -> bool {
        let (messages, unrecorded) = if self.is_cautious() {
            (1, usize::MAX)
        } else {
            // What is not in the progress row is repeated after a crash.
            (self.rules.window_messages, self.rules.window_messages + self.rules.audit.batch)
        };
        let pending = PENDING_BATCHES * self.rules.audit.batch;
        self.ending.is_none()
            && self.attention.has_looked()
            && self.paused_by.is_none()
            && self.ready.is_empty()
            && !self.window.must_empty()
            && !self.is_one_alone()
            && self.window.len() + self.lanes.waiting() < messages
            && self.window.bytes() + self.lanes.bytes() < self.rules.window_bytes
            && self.unrecorded() < u64::try_from(unrecorded).unwrap_or(u64::MAX)
            && !self.marks.is_crowded()
            && self.marks.pending() < pending
            && self.unwritten.bytes() < self.rules.window_bytes
    }

    fn unrecorded(&self) -> u64 {
        self.progress.received() - self.recorded
    }

    /// What is in flight wants nothing else beside it.
    fn is_one_alone(&self) -> bool {
        self.window.front().is_some_and(|front| front.is_alone)
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
        self.take_in(now, input, effects)?;
        self.follow_up(now, effects)
    }

    /// Takes in what happened, and tells only what follows from that alone. Of many frames that
    /// came at once each is taken in, and then [`follow_up`](Self::follow_up) is called.
    ///
    /// # Errors
    /// The session has ended.
    pub fn take_in(
        &mut self,
        now: Duration,
        input: Input,
        effects: &mut Vec<Effect>,
    ) -> Result<(), End> {
        match input {
            Input::Stream(message) => {
                self.watch.heard(now);
                self.stream(now, message, effects)?;
            }
            Input::KeepAlive { wal_end, is_reply_requested } => {
                self.watch.heard(now);
                self.keepalive(now, wal_end, is_reply_requested)?;
            }
            Input::Answers(answers) => self.answers(now, answers, effects)?,
            Input::Blocked(is_blocked) => self.watch.blocked(now, is_blocked),
            Input::Closed(why) => self.closed(now, &why),
            Input::Dropped(fault) => self.dropped(now, fault)?,
            Input::Written(written) => self.written(now, written, effects),
            Input::Checked { flushed_lsn } => {
                self.checks_passed = self.checks_begun;
                self.marks.flushed(flushed_lsn);
                self.unwritten.flushed(flushed_lsn);
            }
            Input::Resolved(resolution) => self.resolved(resolution)?,
            Input::Looked(looked) => self.looked(now, looked, effects),
            Input::Claimed { aggregate, head } => self.claimed(now, &aggregate, head, effects),
            Input::ClaimedAlone { asked, rows } => self.claimed_alone(now, asked, rows),
            Input::Notified => self.attention.notified(now),
            Input::CatchUp { rows, next, is_last } => self.caught(rows, next, is_last),
            Input::CaughtUp => self.catch_up = None,
            Input::Tick => {}
            Input::Drain => self.drain(now),
        }
        Ok(())
    }

    /// What was taken in is finished; what waits behind the parking goes there, and nothing
    /// more comes out of it.
    fn drain(&mut self, now: Duration) {
        if self.ending.is_some() {
            return;
        }
        self.ending = Some(End::Drained);
        for aggregate in self.lanes.held_in_memory() {
            self.park_waiting(now, &aggregate);
        }
    }

    /// What was taken in may still be sent.
    fn is_sending(&self) -> bool {
        matches!(self.ending, None | Some(End::Drained))
    }

    /// Tells what follows from the state, whatever was taken in.
    ///
    /// # Errors
    /// The session has ended.
    pub(crate) fn follow_up(
        &mut self,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) -> Result<(), End> {
        self.watch(now)?;
        if self.ending.is_some() || self.paused_by.is_some() {
            self.withdraw_ready(now);
        }
        self.take_held(now, effects)?;
        for aggregate in std::mem::take(&mut self.freed) {
            self.advance(&aggregate, effects);
        }
        self.send_ready(now, effects);
        self.catch_up(now, effects)?;
        self.end_trial_if_over(now);
        if self.is_batch_due(now) {
            let limit = self.rules.audit.batch;
            let batch = Batch {
                marks: self.marks.take(now, limit),
                parking: self.unwritten.take(),
                position: self.progress.position(),
                settled: self.progress.settled(),
            };
            self.unrecorded_since = None;
            effects.push(Effect::Mark(batch));
        }
        if self.ending.is_none() && self.attention.look_if_due(now, self.unwritten.written()) {
            let from = (!self.attention.has_looked()).then_some(self.memory.delivered);
            effects.push(Effect::Look { from });
        }
        if self.is_check_due(now) {
            self.checks_begun += 1;
            self.checked_at = Some(now);
            effects.push(Effect::Check);
        }
        let marked_through = self.marks.through(now).min(self.unwritten.through());
        if let Some(lsn) = self.progress.acknowledge(marked_through, self.checks_passed) {
            effects.push(Effect::Acknowledge(lsn));
        }
        self.end_if_done(now)
    }

    fn end_if_done(&self, now: Duration) -> Result<(), End> {
        let is_quiet = self.window.is_empty()
            && (!self.is_sending() || self.ready.is_empty() && self.lanes.waiting() == 0)
            && self.marks.is_idle(now)
            && self.unwritten.is_empty()
            && !self.unwritten.is_unflushed()
            && !self.attention.is_claiming()
            && self.is_recorded()
            && !self.progress.is_settled_point_waiting();
        match &self.ending {
            Some(end) if is_quiet => Err(end.clone()),
            _ => Ok(()),
        }
    }

    /// Everything that was committed before this LSN was received, and is done with.
    pub(crate) fn has_passed(&self, now: Duration, lsn: PgLsn) -> bool {
        self.progress.received_lsn() >= lsn
            && self.progress.settled() == self.progress.received()
            && self.is_recorded()
            && self.marks.is_idle(now)
            && self.unwritten.is_empty()
    }

    fn is_recorded(&self) -> bool {
        // An earlier session may have ended before it could record what was delivered. The next
        // process knows of that only what the row says.
        let is_known_to_the_next = !matches!(self.ending, Some(End::Drained))
            || self.recorded_position >= self.memory.delivered;
        self.recorded >= self.progress.settled() && is_known_to_the_next
    }

    fn written(&mut self, now: Duration, written: Written, effects: &mut Vec<Effect>) {
        self.recorded = self.recorded.max(written.batch.settled);
        self.recorded_position = self.recorded_position.max(written.batch.position);
        let (all, missing) = (written.batch.marks.len(), written.missing.len());
        self.tally.marked += u64::try_from(all - missing).unwrap_or(0);
        self.unwritten.wrote(&written.batch.parking, written.written_lsn);
        self.unwritten.flushed(written.flushed_lsn);
        self.marks.written(now, written);
        let given_up = self.marks.take_given_up();
        if !given_up.is_empty() {
            effects.push(Effect::GivenUp(given_up));
        }
        for aggregate in self.lanes.take_unwritten() {
            self.advance(&aggregate, effects);
        }
    }

    fn is_batch_due(&self, now: Duration) -> bool {
        let batch = u64::try_from(self.rules.audit.batch).unwrap_or(u64::MAX);
        let is_full = self.progress.settled() - self.recorded >= batch;
        // Nothing to gain from waiting where nothing more comes.
        let is_rest = !self.is_recorded() || self.unwritten.is_pending();
        let is_last = self.ending.is_some() && self.window.is_empty() && is_rest;
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
        if self.checks_passed < self.recheck && self.ending.is_none() {
            return Some(Duration::ZERO);
        }
        let is_unflushed = self.marks.is_unflushed() || self.unwritten.is_unflushed();
        if !self.progress.is_settled_point_waiting() && !is_unflushed {
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

    /// When a [`Input::Tick`] is due, if nothing else happens first.
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        let (mut batch, mut check) = (None, None);
        if !self.marks.is_writing() {
            batch = [self.linger_ends(), self.marks.next_try()].into_iter().flatten().min();
        }
        if self.checks_begun == self.checks_passed {
            check = self.next_check();
        }
        let look = self.ending.is_none().then(|| self.attention.next_look()).flatten();
        [batch, check, look, self.marks.next_release(now), self.next_watch(), self.trial_ends()]
            .into_iter()
            .flatten()
            .min()
    }
}
