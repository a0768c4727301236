//! The state machine of one session: inputs in, effects out. It knows no socket, task or
//! clock; `now` is the time since the session began.
//!
//! # Layout
//! `input` holds what goes in and out. [`Relay`] is a handful of owners and a `match`; an owner has
//! its fields to itself:
//!
//! - `decoder` reads the stream: transactions, relations, rows, and `messages` that are events;
//! - `outgoing` has what is ready to be sent and what is in flight ([`window`]), of which `window_size` says how much; [`ids`] gives events the ids
//!   by which a stream knows them again, `naming` decides under which name;
//! - `aggregates` knows who has to wait for whom;
//! - `outcomes` has learnt from the broker's answers, and decides what becomes of what was refused;
//! - `retries` knows when to look at the parking, and what it was asked for;
//! - [`progress`] is how far the stream is settled, `recorder` what of it is written ([`marks`]);
//! - `flush_check` numbers the checks of the publication, `deadlines` watches the servers' silence,
//!   `phase` is where the session stands.
//!
//! What follows from an input stands in `intake` (an event comes), `settle` (its answer comes),
//! `closed` (the channel is gone), `trial` (so many are refused that it may be the whole) and
//! `retries` (a parked event is tried). `waiting` has the tables of what the relay waits for,
//! `view` shows how it all stands, `find` where one event does, `spans` and `lines` what became of each try.

pub(crate) mod marks;
pub(crate) mod progress;
pub(crate) mod retry;
pub(crate) mod window;
mod aggregates;
mod arrival;
mod closed;
mod deadlines;
mod decoder;
mod delivered;
mod destinations;
mod find;
mod flush_check;
pub(crate) mod ids;
mod input;
mod intake;
mod lines;
mod messages;
mod naming;
mod outcomes;
mod outgoing;
mod phase;
mod recorder;
mod retries;
mod settle;
mod spans;
mod trial;
mod view;
mod waiting;
mod window_size;

use std::time::Duration;

use postgres_types::PgLsn;

pub(crate) use find::{HeldEvent, Stand};
pub(crate) use input::StuckEvent;
pub use input::{Effect, End, Input, Memory, Resolution, Rules};
pub use intake::CatchUpCursor;
pub(crate) use lines::EventLine;
pub use naming::{KnownName, LookAhead, LookedAhead, Naming};
pub(crate) use view::{Doing, View};

use aggregates::Aggregates;
use arrival::Arrival;
use deadlines::Deadlines;
use decoder::Decoder;
use delivered::DeliveredPlace;
use destinations::Destinations;
use flush_check::FlushCheck;
use ids::PublishingIds;
use lines::Lines;
use outcomes::Outcomes;
use outgoing::Outgoing;
use phase::Phase;
use recorder::Recorder;
use retries::Retries;

use crate::core::event::Position;
use crate::core::relay::marks::{Batch, WrittenBatch};
use crate::core::relay::progress::Progress;
use crate::core::span::Span;
use crate::core::tally::{SessionTally, SourceTally, TableTally, Tally};

/// Pause between checks during a drain.
const HASTY_CHECK: Duration = Duration::from_millis(50);
/// Pause between checks where the last marks only wait to reach the disk, which Postgres
/// sees to every `wal_writer_delay`, 200 ms by default.
const FLUSH_CHECK: Duration = Duration::from_millis(250);

/// The state machine.
#[derive(Debug)]
pub struct Relay {
    rules: Rules,
    /// Events before this place were settled by earlier sessions.
    delivered: DeliveredPlace,
    phase: Phase,
    /// What is to be published before the stream; it is read no further until that is done.
    catch_up: Option<CatchUpCursor>,
    decoder: Decoder,
    outgoing: Outgoing,
    ids: PublishingIds,
    /// The stream was passed up to where the list was made: nothing more of it is taken in.
    is_passed: bool,
    /// The session publishes nothing, and only looks whether an event is in the WAL.
    look_ahead: Option<LookAhead>,
    aggregates: Aggregates,
    outcomes: Outcomes,
    retries: Retries,
    progress: Progress,
    recorder: Recorder,
    check: FlushCheck,
    deadlines: Deadlines,
    tally: Tally,
    /// As the tables are configured.
    by_table: Vec<TableTally>,
    destinations: Destinations,
    /// Of tries that have ended; `None` where nobody wants them.
    spans: Option<Vec<Span>>,
    /// For the log, one for each event and outcome; `None` where nobody wants them.
    lines: Option<Lines>,
    /// The wall clock at the start of the session, in microseconds since 2000-01-01 UTC.
    began_micros: i64,
}

impl Relay {
    /// A session begins. The server may send again what came before `memory.delivered`.
    pub fn new(mut rules: Rules, memory: Memory, catch_up: Option<CatchUpCursor>) -> Self {
        let (body, place) = (rules.limits.body, memory.place());
        rules.limits.body = memory.max_body.map_or(body, |limit| limit.min(body));
        let drops_repeats = rules.tables.iter().all(|table| table.stream.is_some());
        Self {
            delivered: DeliveredPlace::new(place),
            phase: Phase::Running,
            catch_up,
            decoder: Decoder::new(&rules),
            outgoing: Outgoing::new(&rules),
            ids: PublishingIds::new(memory.publishing_id),
            is_passed: false,
            look_ahead: None,
            aggregates: Aggregates::default(),
            outcomes: Outcomes::new(&memory),
            retries: Retries::new(memory.suspects),
            progress: Progress::new(place),
            recorder: Recorder::new(&rules.audit, rules.window_bytes, drops_repeats),
            check: FlushCheck::default(),
            deadlines: Deadlines::new(&rules),
            tally: Tally::default(),
            by_table: vec![TableTally::default(); rules.tables.len()],
            destinations: Destinations::new(rules.tables.len()),
            spans: None,
            lines: None,
            began_micros: 0,
            rules,
        }
    }

    /// The session is to publish nothing, and to look whether an event is in the WAL.
    pub fn look_ahead(&mut self, look_ahead: LookAhead) {
        self.look_ahead = Some(look_ahead);
    }

    /// What it has found; `None` where it does not look, or has not found it out.
    pub fn looked_ahead(&self) -> Option<LookedAhead> {
        self.look_ahead.as_ref().and_then(LookAhead::found)
    }

    /// It publishes nothing, and only looks.
    pub fn is_looking_ahead(&self) -> bool {
        self.look_ahead.is_some()
    }

    /// What the next session is to know, after this one ended with `end`.
    pub fn remember(&self, now: Duration, end: &End) -> Memory {
        let place = self.recorder.safe_place(&self.progress);
        let suspects = self.retries.suspects().clone();
        let is_shown_otherwise = self.delivered.is_shown_otherwise();
        let learnt = self.outcomes.remember(now, end, place.position);
        let (from, publishing_id) = (place.from, place.publishing_id);
        Memory { suspects, from, publishing_id, is_shown_otherwise, ..learnt }
    }

    /// Progress that is not in the progress row yet, for a session that ended in a fault: the
    /// next process would publish those events again. Their marks are written when the slot
    /// brings them again.
    pub(crate) fn unrecorded_progress(&self) -> Option<Batch> {
        self.recorder.unrecorded_progress(&self.progress, self.delivered.position())
    }

    /// The session was drained: nobody tries again the marks that could not be written, and that no LSN waited for any
    /// more. Returns them.
    pub(crate) fn leave_marks(&mut self) -> Vec<marks::Mark> {
        self.recorder.leave_marks();
        self.recorder.take_given_up()
    }

    /// Counts what became of an event: for its table, and for where it went.
    fn count(&mut self, arrival: &Arrival, counted: impl Fn(&mut TableTally)) {
        let of_table = self.by_table.get_mut(arrival.mapping.table);
        let of_destination = arrival.destination.and_then(|of| self.destinations.tally(of));
        of_table.into_iter().chain(of_destination).for_each(counted);
    }

    /// What was done so far.
    pub fn tally(&self) -> Tally {
        Tally { unmarked: self.recorder.given_up(), ..self.tally }
    }

    /// Relations with rows that were passed over, since no table of ours had their name.
    pub(crate) fn passed_over(&self) -> impl Iterator<Item = u32> {
        self.decoder.passed_over()
    }

    /// The same of each table, by name.
    fn tally_by_source(&self) -> Vec<(String, SourceTally)> {
        let tallies = self.by_table.iter().map(|it| SourceTally::from(*it));
        self.rules.tables.iter().map(|table| table.title()).zip(tallies).collect()
    }

    /// All of it.
    pub(crate) fn account(&self) -> SessionTally {
        let destinations = self.destinations.all();
        SessionTally {
            all: self.tally(),
            by_source: self.tally_by_source(),
            by_destination: destinations
                .map(|(name, tally)| (name, SourceTally::from(tally)))
                .collect(),
        }
    }

    /// Messages in flight, and their bytes.
    pub fn in_flight(&self) -> (usize, usize) {
        self.outgoing.in_flight()
    }

    /// The last LSN acknowledged.
    pub(crate) fn acknowledged(&self) -> PgLsn {
        self.progress.acknowledged()
    }

    /// The publishing id of the last event before it.
    pub fn acknowledged_id(&self) -> u64 {
        self.progress.acknowledged_id()
    }

    /// The highest publishing id that a stream has confirmed; 0 where none has in this session.
    pub(crate) fn confirmed_id(&self) -> u64 {
        self.progress.confirmed_id()
    }

    /// The stream is to be read. Where this is `false`, the server waits: that is the
    /// back-pressure.
    pub fn is_reading(&self) -> bool {
        if let Some(look_ahead) = &self.look_ahead {
            let is_over = look_ahead.found().is_some() || self.phase.is_ending();
            return !is_over && !self.decoder.is_waiting();
        }
        self.catch_up.is_none()
            && !self.is_passed
            && !self.decoder.is_waiting()
            && !self.check.is_required()
            && self.has_room()
    }

    /// One more event may be taken in.
    fn has_room(&self) -> bool {
        self.intake_waits_for().is_none()
    }

    /// Takes in what happened and returns what to do about it.
    ///
    /// # Errors
    /// The session is over: why, and what the next one is to know, is in [`End`].
    pub fn handle(
        &mut self,
        now: Duration,
        input: Input,
        effects: &mut Vec<Effect>,
    ) -> Result<(), End> {
        self.take_in(now, input, effects)?;
        self.follow_up(now, effects)
    }

    /// Takes in what happened, and returns only what follows from that alone. Of many frames that
    /// came at once each is taken in, and then [`follow_up`](Self::follow_up) is called.
    ///
    /// # Errors
    /// The session is over: why, and what the next one is to know, is in [`End`].
    pub fn take_in(
        &mut self,
        now: Duration,
        input: Input,
        effects: &mut Vec<Effect>,
    ) -> Result<(), End> {
        match input {
            Input::Stream { lsn, message } => {
                self.deadlines.heard(now);
                self.stream(now, lsn, message, effects)?;
            }
            Input::KeepAlive { wal_end, is_reply_requested } => {
                self.deadlines.heard(now);
                let is_new = wal_end > self.progress.received_lsn();
                match &mut self.look_ahead {
                    Some(look_ahead) => look_ahead.passed(wal_end),
                    None => self.heard_of(wal_end),
                }
                self.deadlines.keepalive(now, is_new, is_reply_requested)?;
            }
            Input::Answers(answers) => self.answers(now, answers, effects)?,
            Input::Blocked(is_blocked) => {
                self.deadlines.blocked(now, is_blocked);
                self.outgoing.blocked();
            }
            Input::Closed(why) => self.closed(now, &why),
            Input::ChannelClosed { why, max_body } => {
                self.channel_closed(now, &why, max_body, effects);
            }
            Input::Reopened => self.outgoing.reopened(),
            Input::Dropped(fault) => self.dropped(now, fault)?,
            Input::Written(written) => self.written(now, written, effects),
            Input::Checked { flushed_lsn } => {
                self.check.pass();
                self.recorder.flushed(flushed_lsn);
            }
            Input::Resolved(resolution) => self.decoder.resolved(resolution)?,
            Input::Looked(looked) => self.looked(now, looked, effects),
            Input::Claimed { aggregate, head } => self.claimed(now, &aggregate, head, effects),
            Input::ClaimedAlone { asked, rows } => self.claimed_alone(now, asked, rows),
            Input::Notified => self.notified(now),
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
        if self.phase.is_ending() {
            return;
        }
        self.enter(Phase::Draining);
        for aggregate in self.aggregates.held_in_memory() {
            self.park_waiting(now, &aggregate);
        }
    }

    /// A drain is not over before the row says what earlier sessions delivered: they may have ended
    /// before they could record it, and the next process knows only what the row says.
    fn enter(&mut self, phase: Phase) {
        let is_draining = matches!(phase, Phase::Draining);
        let least = if is_draining { self.delivered.position() } else { Position::start() };
        self.recorder.must_reach(least);
        self.phase = phase;
    }

    /// Tells what follows from the state, whatever was taken in.
    ///
    /// # Errors
    /// The session is over: why, and what the next one is to know, is in [`End`].
    pub(crate) fn follow_up(
        &mut self,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) -> Result<(), End> {
        let is_reading = self.is_reading();
        let oldest = self.outgoing.oldest().map(|oldest| (oldest.at, oldest.is_to_stream));
        self.deadlines.check(now, is_reading, oldest)?;
        if self.look_ahead.is_some() {
            return self.follow_look_ahead(now, effects);
        }
        if self.phase.is_ending() || self.outgoing.is_paused() {
            self.withdraw_ready(now);
        }
        self.take_resolved(now, effects)?;
        for aggregate in self.aggregates.take_freed() {
            self.advance(now, &aggregate, effects);
        }
        self.send_ready(now, effects);
        self.catch_up(now, effects)?;
        self.end_trial_if_over(now);
        let is_last = self.phase.is_ending() && !self.outgoing.is_any_in_flight();
        let nothing_more_comes = is_last || self.is_hole_open();
        let batch = self.recorder.take_if_due(now, &self.progress, nothing_more_comes);
        effects.extend(batch.map(|batch| Effect::Mark(Box::new(batch))));
        if !self.phase.is_ending() && self.retries.look_if_due(now, self.recorder.written()) {
            let are_all_known = !self.rules.are_new.contains(&true);
            let from = if are_all_known { self.delivered.position() } else { Position::start() };
            let from = (!self.retries.has_looked()).then_some(from);
            effects.push(Effect::Look { from });
        }
        if self.next_check().is_some_and(|at| at <= now) {
            self.check.begin(now);
            effects.push(Effect::Check);
        }
        let marked_through = self.recorder.through(now);
        let acknowledged = self.progress.acknowledge(marked_through, self.check.passed());
        effects.extend(acknowledged.map(Effect::Acknowledge));
        self.end_if_done(now)
    }

    /// All that a session has to do that looks ahead.
    fn follow_look_ahead(&mut self, now: Duration, effects: &mut Vec<Effect>) -> Result<(), End> {
        self.take_resolved(now, effects)?;
        match self.looked_ahead().is_some() || self.phase.is_ending() {
            true => Err(End::Drained),
            false => Ok(()),
        }
    }

    fn end_if_done(&self, now: Duration) -> Result<(), End> {
        match self.phase.end().filter(|_| self.end_waits_for(now).is_none()) {
            Some(end) => Err(end),
            None => Ok(()),
        }
    }

    /// The session passed the stream up to where the list was made, and all of that is acknowledged.
    pub(crate) fn has_passed(&self) -> bool {
        self.rules.passes_until.is_some_and(|until| self.progress.acknowledged() >= until)
    }

    fn is_recorded(&self) -> bool {
        self.recorder.is_recorded(&self.progress)
    }

    fn written(&mut self, now: Duration, written: WrittenBatch, effects: &mut Vec<Effect>) {
        let marked = self.recorder.wrote(now, written);
        self.tally.marked += u64::try_from(marked).unwrap_or(0);
        let given_up = self.recorder.take_given_up();
        if !given_up.is_empty() {
            effects.push(Effect::GivenUp(given_up));
        }
        for aggregate in self.aggregates.take_unwritten() {
            self.advance(now, &aggregate, effects);
        }
    }

    fn next_check(&self) -> Option<Duration> {
        let is_urgent = self.check.is_required() && !self.phase.is_ending();
        self.check.due(is_urgent, self.check_pause())
    }

    /// Pause between checks; `None` where no check would bring anything on.
    fn check_pause(&self) -> Option<Duration> {
        if !self.progress.is_settled_point_waiting() && !self.recorder.is_unflushed() {
            return None;
        }
        let pause = if self.phase.is_ending() {
            HASTY_CHECK
        } else if !self.outgoing.is_any_in_flight() && self.is_recorded() {
            FLUSH_CHECK
        } else {
            self.rules.check_interval
        };
        Some(pause.min(self.rules.check_interval))
    }

    /// When a [`Input::Tick`] is due, if nothing else happens first.
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        if self.look_ahead.is_some() {
            let is_over = self.looked_ahead().is_some() || self.phase.is_ending();
            return if is_over { Some(now) } else { self.deadlines.next(None) };
        }
        let look = (!self.phase.is_ending()).then(|| self.retries.next_look()).flatten();
        let watched = self.deadlines.next(self.outgoing.oldest().map(|oldest| oldest.at));
        let others = [self.next_check(), look, watched, self.trial_ends()];
        self.recorder.deadlines(now).into_iter().chain(others).flatten().min()
    }
}
