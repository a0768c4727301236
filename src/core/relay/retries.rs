//! What stands in the parking, and when to look at it.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use postgres_types::PgLsn;

use super::arrival::{Arrival, Source};
use super::settle::Try;
use super::{Effect, Relay};
use crate::core::event::envelope;
use crate::core::event::pgoutput::StoredRow;
use crate::core::event::{Position, Refusal};
use crate::core::parked::{
    Aggregate, Ahead, Attempt, AttemptOutcome, Due, Head, ParkedRow, Schedule,
};

/// Shortest pause between looks: what is due may be on its way already.
const PAUSE: Duration = Duration::from_millis(100);

/// A session is so old before it tries an event over which the broker may close the channel: the
/// stream has its turn first, or such an event would end session after session before it.
const ALONE_AFTER: Duration = Duration::from_secs(2);

/// When to look at the parking, and what is known from the last look.
#[derive(Debug, Default)]
pub(super) struct Retries {
    has_looked: bool,
    is_asked: bool,
    next: Duration,
    last: Option<Duration>,
    /// How much was written when the look under way began.
    written: u64,
    /// Parked events that are being tried, or whose outcome is to be written, and until where.
    /// The parking still shows them as they were.
    busy: BTreeMap<i64, Option<u64>>,
    /// Claims that were not answered yet.
    claims: usize,
    /// Parked events that were in flight when the broker closed the channel: the next try of
    /// each is made alone.
    suspects: BTreeSet<i64>,
    /// Events that were put aside, and that the stream brings again.
    ahead: Ahead,
}

/// Parked events whose time has come.
#[derive(Debug, Default)]
struct DueEvents {
    /// The aggregates that wait for one.
    waited_for: Vec<Aggregate>,
    /// Those that nobody waits for.
    alone: Vec<i64>,
}

impl Retries {
    /// With what earlier sessions have learnt.
    pub(super) fn new(suspects: BTreeSet<i64>) -> Self {
        Self { suspects, ..Self::default() }
    }

    /// Parked events whose next try is made alone.
    pub(super) fn suspects(&self) -> &BTreeSet<i64> {
        &self.suspects
    }

    /// The broker closed the channel while it was in flight with others.
    pub(super) fn suspect(&mut self, seq: i64) {
        self.suspects.insert(seq);
    }

    /// The event at this place was put aside by an earlier session, which could not record so much.
    /// Returns where in the WAL that is known from, and the place that its record has.
    pub(super) fn take_ahead(
        &mut self,
        position: Position,
        table: usize,
        id: Option<&str>,
    ) -> Option<(PgLsn, Position)> {
        if self.ahead.events.is_empty() {
            return None;
        }
        self.ahead.take(position, table, id)
    }

    /// It is known who waits for whom.
    pub(super) fn has_looked(&self) -> bool {
        self.has_looked
    }

    /// Somebody changed the parking.
    pub(super) fn notified(&mut self, now: Duration) {
        self.next = self.next.min(now);
    }

    /// An event is due then.
    pub(super) fn due(&mut self, at: Duration) {
        self.next = self.next.min(at);
    }

    /// When the next look is due.
    pub(super) fn next_look(&self) -> Option<Duration> {
        (!self.is_asked).then(|| self.last.map_or(self.next, |last| self.next.max(last + PAUSE)))
    }

    /// Begins a look, if one is due.
    pub(super) fn look_if_due(&mut self, now: Duration, written: u64) -> bool {
        let is_due = self.next_look().is_some_and(|at| at <= now);
        if is_due {
            self.is_asked = true;
            self.last = Some(now);
            self.next = Duration::MAX;
            self.written = written;
        }
        is_due
    }

    /// The parking is asked for events to be tried.
    pub(super) fn is_claiming(&self) -> bool {
        self.claims > 0
    }

    /// It is tried.
    fn begin(&mut self, seq: i64) {
        self.busy.insert(seq, None);
    }

    /// The outcome of a try is to be written, as so much.
    pub(super) fn tried(&mut self, seq: i64, op: u64) {
        self.suspects.remove(&seq);
        self.busy.insert(seq, Some(op));
    }

    /// It was not tried after all, which is to be written, as so much.
    fn withdrawn(&mut self, seq: i64, op: u64) {
        self.busy.insert(seq, Some(op));
    }

    /// A claim was answered.
    fn answered(&mut self) {
        self.claims = self.claims.saturating_sub(1);
    }

    /// Sorts what is due: what is on its way already is left out, and what has to wait is due later.
    fn sort(&mut self, now: Duration, due: Vec<Due>) -> DueEvents {
        let mut sorted = DueEvents::default();
        for Due { seq, aggregate, is_alone } in due {
            match self.busy.get(&seq) {
                Some(None) => continue,
                // The look does not show its outcome yet.
                Some(Some(_)) => {
                    self.due(now + PAUSE);
                    continue;
                }
                None => {}
            }
            if now < ALONE_AFTER && (is_alone || self.suspects.contains(&seq)) {
                self.due(ALONE_AFTER);
                continue;
            }
            match aggregate {
                Some(aggregate) => sorted.waited_for.push(aggregate),
                None => sorted.alone.push(seq),
            }
        }
        sorted
    }

    fn looked(&mut self, now: Duration, next: Duration) -> bool {
        let written = self.written;
        self.busy.retain(|_, op| op.is_none_or(|op| op > written));
        self.is_asked = false;
        self.next = self.next.min(now + next);
        !std::mem::replace(&mut self.has_looked, true)
    }
}

impl Relay {
    /// The parking was looked at.
    pub(super) fn looked(&mut self, now: Duration, looked: Schedule, effects: &mut Vec<Effect>) {
        let Schedule { due, held, waiting, next_due, paused_by, ahead } = looked;
        self.outgoing.pause(paused_by);
        // While it is paused, what is due stays due: the look after the pause finds it.
        let next_due = next_due.filter(|_| !self.outgoing.is_paused());
        let poll = self.rules.parking.poll_interval;
        let is_first = self.retries.looked(now, next_due.map_or(poll, |due| due.min(poll)));
        let held: BTreeSet<Aggregate> = held.into_iter().collect();
        if is_first {
            self.retries.ahead = ahead;
            for aggregate in held.iter().cloned().chain(waiting) {
                self.aggregates.hold_as_seen(aggregate);
            }
        }
        if self.outgoing.is_paused() {
            return;
        }
        self.due(now, due, effects);
        // Somebody took out what an aggregate waited for, or an earlier session ended between two
        // of its events.
        for aggregate in self.aggregates.without_first(&held) {
            self.look_for_first(now, &aggregate, effects);
        }
    }

    /// The time of parked events has come.
    fn due(&mut self, now: Duration, due: Vec<Due>, effects: &mut Vec<Effect>) {
        let DueEvents { waited_for, alone } = self.retries.sort(now, due);
        for aggregate in waited_for {
            self.aggregates.hold_as_seen(aggregate.clone());
            self.look_for_first(now, &aggregate, effects);
        }
        if !alone.is_empty() && !self.phase.is_ending() {
            alone.iter().for_each(|seq| self.retries.begin(*seq));
            self.retries.claims += 1;
            effects.push(Effect::ClaimAlone(alone));
        }
    }

    fn look_for_first(&mut self, now: Duration, aggregate: &Aggregate, effects: &mut Vec<Effect>) {
        let seen = self.retries.written;
        match self.aggregates.look_for_first(aggregate.borrow(), seen) {
            true => self.advance(now, aggregate, effects),
            // The look was too early, for one: the next is not.
            false => self.retries.due(now + PAUSE),
        }
    }

    /// Asks the parking for the next event of an aggregate, which it marks as taken. From here on
    /// it is in flight, so it is only asked for where it can go.
    pub(super) fn claim(&mut self, aggregate: &Aggregate, after: i64, effects: &mut Vec<Effect>) {
        self.retries.claims += 1;
        effects.push(Effect::Claim { aggregate: aggregate.clone(), after });
    }

    /// The parking answered for the next event of an aggregate.
    pub(super) fn claimed(
        &mut self,
        now: Duration,
        aggregate: &Aggregate,
        head: Head,
        effects: &mut Vec<Effect>,
    ) {
        self.retries.answered();
        // It may have stopped to be asked for.
        let taken = self.aggregates.claimed(aggregate.borrow(), head);
        self.give_back(now, aggregate, taken);
        self.advance(now, aggregate, effects);
    }

    /// Parked events that were claimed with another one are not tried now.
    pub(super) fn give_back(
        &mut self,
        now: Duration,
        aggregate: &Aggregate,
        taken: VecDeque<ParkedRow>,
    ) {
        for row in taken {
            let op = self.withdrawn(now, row.seq, row.row.table, row.id);
            self.aggregates.given_back(aggregate.borrow(), op);
        }
    }

    /// Somebody changed the parking: an event that was discarded after it was claimed is not to go for the
    /// only reason that another one goes first.
    pub(super) fn notified(&mut self, now: Duration) {
        self.retries.notified(now);
        for (aggregate, taken) in self.aggregates.take_untried() {
            self.give_back(now, &aggregate, taken);
        }
        let aggregates = &self.aggregates;
        let is_it = |aggregate: &Aggregate| aggregates.is_in_flight(aggregate.borrow());
        let ready = self.outgoing.take_parked(|arrival| arrival.waiter.as_ref().is_some_and(is_it));
        self.withdraw_all(now, ready);
    }

    /// A parked event of an aggregate was refused: those of it that were taken behind it and have not gone
    /// do not pass it.
    pub(super) fn stop_flight(&mut self, now: Duration, aggregate: &Aggregate) {
        if !self.aggregates.is_in_flight(aggregate.borrow()) {
            return;
        }
        let ready = self.outgoing.take_parked(|arrival| arrival.waiter.as_ref() == Some(aggregate));
        self.withdraw_all(now, ready);
    }

    /// The parking answered for events that nobody waits for: some may have been taken out.
    pub(super) fn claimed_alone(&mut self, now: Duration, asked: Vec<i64>, rows: Vec<ParkedRow>) {
        self.retries.answered();
        for seq in asked {
            self.retries.busy.remove(&seq);
        }
        for row in rows {
            self.retry(now, row);
        }
    }

    fn is_to_be_alone(&self, row: &ParkedRow) -> bool {
        row.is_alone || self.retries.suspects.contains(&row.seq)
    }

    /// Tries a parked event that was claimed.
    pub(super) fn retry(&mut self, now: Duration, row: ParkedRow) {
        let waiter = row.aggregate.as_ref().filter(|_| row.is_holding);
        let is_refused =
            waiter.is_some_and(|waiter| self.aggregates.is_flight_refused(waiter.borrow()));
        if self.phase.is_ending() || self.outgoing.is_paused() || is_refused {
            let waiter = row.aggregate.filter(|_| row.is_holding);
            return self.withdraw(now, (row.seq, row.row.table), row.id, waiter.as_ref());
        }
        self.tally.retried += 1;
        self.retries.begin(row.seq);
        let is_alone = self.is_to_be_alone(&row);
        let waiter = row.aggregate.filter(|_| row.is_holding);
        let ParkedRow { seq, attempts, position, id, xid_end, row, .. } = row;
        let row = envelope::renewed(row);
        let mapping = match self.decoder.shape(&row) {
            Ok(mapping) => mapping,
            Err(errors) => {
                let refusal = Refusal::Former { why: errors.join("; ") };
                let table = row.table;
                let tried = Try { seq, attempts, position, table, id, waiter };
                return self.tried(now, tried, refusal);
            }
        };
        // As its message has it, by which a return is known: the record may lack it, or be of another
        // mapping.
        let read = self.decoder.read(&mapping, &row.tuple);
        let id = read.ok().and_then(|()| self.decoder.id(&mapping, &row.tuple)).or(id);
        let source = Source::Parked { seq, attempts };
        let StoredRow { tuple, commit_time, xid, .. } = row;
        let arrival = Arrival {
            waiter,
            xid,
            xid_end,
            ..Arrival::new(source, position, id, mapping, tuple, commit_time)
        };
        self.outgoing.push(arrival, is_alone);
    }

    /// A parked event, by its `seq` and its table, that was claimed is not tried now, nor those that were
    /// claimed with it.
    fn withdraw(
        &mut self,
        now: Duration,
        (seq, table): (i64, usize),
        id: Option<String>,
        waiter: Option<&Aggregate>,
    ) {
        let op = self.withdrawn(now, seq, table, id);
        if let Some(aggregate) = waiter {
            let taken = self.aggregates.withdraw(aggregate.borrow(), seq, op);
            self.give_back(now, aggregate, taken);
        }
    }

    fn withdrawn(&mut self, now: Duration, seq: i64, table: usize, id: Option<String>) -> u64 {
        let outcome = AttemptOutcome::Withdrawn;
        let op = self.recorder.attempt(now, Attempt { seq, table, id, outcome });
        self.retries.withdrawn(seq, op);
        op
    }

    /// Parked events that were claimed and have not gone are not sent any more: the relay is
    /// paused, or about to end, and what an operator does meanwhile is to count.
    pub(super) fn withdraw_ready(&mut self, now: Duration) {
        let ready = self.outgoing.take_parked(|_| true);
        self.withdraw_all(now, ready);
    }

    fn withdraw_all(&mut self, now: Duration, arrivals: Vec<Arrival>) {
        for arrival in arrivals {
            let Source::Parked { seq, .. } = arrival.source else { continue };
            let place = (seq, arrival.mapping.table);
            self.withdraw(now, place, arrival.id, arrival.waiter.as_ref());
        }
    }
}
