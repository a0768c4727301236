//! What became of a message, and what follows for its event and those behind it.

use std::borrow::Borrow;
use std::time::Duration;

use tracing::trace;

use super::arrival::{Arrival, Outbound, PublishedEvent, Source};
use super::outcomes::{Policy, RefusalVerdict, RefusedMessage};
use super::phase::Phase;
use super::{Effect, End, Relay, StuckEvent};
use crate::config::AuditMode;
use crate::core::event::{Moment, Position, PublishingPlace, Refusal, moment};
use crate::core::parked::{Aggregate, Attempt, AttemptOutcome, Park, ParkedState};
use crate::core::relay::marks::{Mark, Origin};
use crate::core::relay::retry::after_tries;
use crate::core::relay::window::{Answer, DeliveryOutcome};
use crate::core::tally::Took;
use crate::error::{Fault, Side};

/// A try of a parked event.
#[derive(Debug)]
pub(super) struct Try {
    pub(super) seq: i64,
    /// Tries before this one.
    pub(super) attempts: u32,
    pub(super) position: Position,
    pub(super) table: usize,
    /// `None` where it cannot be read.
    pub(super) id: Option<String>,
    /// The aggregate that waits for it.
    pub(super) waiter: Option<Aggregate>,
}

impl Relay {
    pub(super) fn answers(
        &mut self,
        now: Duration,
        answers: Vec<Answer>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), End> {
        let taken = self.outgoing.answered(answers);
        taken.map_err(|stray| End::Fault(stray.fault()))?;
        let mut count = 0;
        while let Some((published, outcome)) = self.outgoing.next_settled() {
            count += 1;
            self.outcome(now, published, outcome, effects);
        }
        self.outgoing.settled(now, count);
        Ok(())
    }

    fn outcome(
        &mut self,
        now: Duration,
        published: PublishedEvent,
        outcome: DeliveryOutcome,
        effects: &mut Vec<Effect>,
    ) {
        let is_stuck = matches!(self.phase, Phase::Stuck(_));
        // Behind an event that the relay cannot get past nothing counts, delivered or not.
        if is_stuck && matches!(published.arrival.source, Source::Stream(_)) {
            return;
        }
        let PublishedEvent { arrival, dead_letter, .. } = published;
        trace!(event_id = arrival.id(), position = %arrival.position, ?outcome, "the broker answers");
        match outcome {
            DeliveryOutcome::Delivered => {
                if let Some(id) = arrival.publishing_id.filter(|_| dead_letter.is_none()) {
                    self.progress.confirm(id);
                }
                self.delivered(now, arrival, dead_letter, effects);
            }
            DeliveryOutcome::Returned(why) => {
                self.refused(now, arrival, dead_letter, Refusal::Returned { why });
            }
            DeliveryOutcome::Nacked => {
                if matches!(arrival.source, Source::Parked { .. }) {
                    self.nacked_again(now);
                }
                self.refused(now, arrival, dead_letter, Refusal::Nacked);
            }
        }
    }

    /// The session ends in good order, so that the next has a new channel, and nothing is
    /// repeated.
    fn nacked_again(&mut self, now: Duration) {
        if self.phase.is_ending() || !self.outcomes.is_out_of_patience(now) {
            return;
        }
        self.enter(Phase::Failing(
            Fault::transient(
                "RabbitMQ nacks parked events again and again: a new channel is opened, since an open one does not always resume once a queue has room again",
            )
            .on(Side::Broker)
            .hint(Refusal::Nacked.hint()),
        ));
    }

    fn delivered(
        &mut self,
        now: Duration,
        mut arrival: Arrival,
        dead_letter: Option<Refusal>,
        effects: &mut Vec<Effect>,
    ) {
        if dead_letter.is_none() {
            self.span(now, &arrival, None);
            self.line(now, "delivered", &arrival, None);
        }
        let waiter = arrival.waiter.take();
        let done = match (dead_letter, arrival.source.clone()) {
            (None, Source::Stream(number)) => {
                let took = Took::from(self.age(now, arrival.commit_time));
                self.tally.delivered += 1;
                self.tally.to_confirm.observe(took);
                self.count(&arrival, |it| {
                    it.delivered += 1;
                    it.to_confirm.observe(took);
                });
                self.taken(now);
                self.settle(now, number);
                self.mark(number, arrival, false);
                None
            }
            (None, Source::Parked { seq, attempts }) => {
                self.tally.delivered += 1;
                self.count(&arrival, |it| it.delivered += 1);
                self.outcomes.retry_delivered();
                self.taken(now);
                let (xid, moment) = (arrival.xid, arrival.moment);
                let outcome = AttemptOutcome::Delivered { attempts, xid, moment };
                let op =
                    self.attempted(now, seq, arrival.mapping.table, arrival.id.clone(), outcome);
                if let Some(mark) = self.mark_of(None, arrival) {
                    self.recorder.mark_urgently(mark);
                }
                Some((seq, op))
            }
            (Some(refusal), Source::Stream(_)) => {
                self.tally.dead_lettered += 1;
                self.park(now, arrival, ParkedState::DeadLettered, Some(refusal));
                None
            }
            (Some(refusal), Source::Parked { seq, attempts }) => {
                self.tally.dead_lettered += 1;
                self.line(now, "dead_lettered", &arrival, Some(&refusal));
                let state = ParkedState::DeadLettered;
                let outcome = AttemptOutcome::Refused { attempts: attempts + 1, state, refusal };
                let op =
                    self.attempted(now, seq, arrival.mapping.table, arrival.id.clone(), outcome);
                Some((seq, op))
            }
        };
        let Some(aggregate) = waiter else { return };
        match done {
            Some((seq, op)) => self.aggregates.done(aggregate.borrow(), seq, op),
            None => self.aggregates.set_free(aggregate.borrow()),
        }
        self.advance(now, &aggregate, effects);
    }

    /// The broker takes messages after all: what waits for that was refused each for itself.
    fn taken(&mut self, now: Duration) {
        let refused = self.outcomes.delivered();
        self.refused_for_themselves(now, refused);
    }

    /// They were refused each for itself, not over a fault of the whole.
    pub(super) fn refused_for_themselves(
        &mut self,
        now: Duration,
        refused: Vec<(Arrival, Refusal)>,
    ) {
        for (arrival, refusal) in refused {
            let verdict = self.case(&arrival, false).decide(false);
            self.follow(now, verdict, arrival, None, refusal);
        }
    }

    /// An event could not be delivered, or its dead letter could not.
    pub(super) fn refused(
        &mut self,
        now: Duration,
        arrival: Arrival,
        dead_letter: Option<Refusal>,
        refusal: Refusal,
    ) {
        if dead_letter.is_none() {
            self.span(now, &arrival, Some(&refusal));
        }
        self.count_refused(&refusal);
        if let (Source::Parked { .. }, Some(aggregate)) = (&arrival.source, &arrival.waiter) {
            self.stop_flight(now, aggregate);
        }
        let case = self.case(&arrival, dead_letter.is_some());
        let (rules, position) = (&self.rules.parking, arrival.position);
        let is_limit_reached =
            case.counts() && self.outcomes.is_limit_reached(now, rules, position);
        let verdict = case.decide(is_limit_reached);
        self.follow(now, verdict, arrival, dead_letter, refusal);
    }

    /// What was refused, as far as that decides.
    fn case(&mut self, arrival: &Arrival, is_dead_letter: bool) -> RefusedMessage {
        let was_parked = matches!(arrival.source, Source::Parked { .. });
        let is_new = !was_parked && !is_dead_letter;
        let is_behind = is_new && arrival.waiter.is_none() && self.is_held(arrival);
        let table = self.rules.tables.get(arrival.mapping.table);
        let policy = table.map_or(Policy::Park, |table| Policy::from(&table.on_failure));
        let is_content = arrival.mapping.is_content();
        RefusedMessage { was_parked, is_dead_letter, is_behind, is_content, policy }
    }

    /// Does what was decided.
    fn follow(
        &mut self,
        now: Duration,
        verdict: RefusalVerdict,
        arrival: Arrival,
        dead_letter: Option<Refusal>,
        refusal: Refusal,
    ) {
        match verdict {
            RefusalVerdict::Stick => {
                let stuck = self.stuck(&arrival, refusal, false);
                self.enter(Phase::Stuck(stuck));
            }
            RefusalVerdict::Wait => self.put_on_trial(now, arrival, refusal),
            RefusalVerdict::SendDeadLetter => self.send_dead_letter(arrival, refusal),
            RefusalVerdict::Park => {
                let refusal = in_full(dead_letter, refusal);
                let state = self.after_tries(1, arrival.position, &refusal);
                self.park(now, arrival, state, Some(refusal));
            }
            RefusalVerdict::Retry => {
                self.line(now, "refused", &arrival, Some(&refusal));
                let Source::Parked { seq, attempts } = arrival.source else { return };
                let tried = Try {
                    seq,
                    attempts,
                    position: arrival.position,
                    table: arrival.mapping.table,
                    id: arrival.id,
                    waiter: arrival.waiter,
                };
                self.tried(now, tried, in_full(dead_letter, refusal));
            }
        }
    }

    /// Its dead letter is sent next; until it is known what becomes of that, its aggregate waits.
    fn send_dead_letter(&mut self, arrival: Arrival, refusal: Refusal) {
        let is_new = matches!(arrival.source, Source::Stream(_)) && arrival.waiter.is_none();
        let arrival = if is_new { self.wait_for_verdict(arrival) } else { Some(arrival) };
        if let Some(arrival) = arrival {
            let dead_letter = Some(refusal);
            self.outgoing.push_first(Outbound { arrival, dead_letter, is_alone: false });
        }
    }

    fn count_refused(&mut self, refusal: &Refusal) {
        *match refusal {
            Refusal::Returned { .. } => &mut self.tally.returned,
            Refusal::Nacked => &mut self.tally.nacked,
            Refusal::Closed { .. } => &mut self.tally.closed,
            _ => &mut self.tally.unreadable,
        } += 1;
    }

    /// Its aggregate waits until it is known what becomes of it (of its dead letter; whether it
    /// may be parked): should it be parked, nothing of its aggregate may have passed. `None`: it
    /// has to wait itself, for an older one.
    pub(super) fn wait_for_verdict(&mut self, mut arrival: Arrival) -> Option<Arrival> {
        let table = self.rules.tables.get(arrival.mapping.table);
        if !table.is_some_and(|table| table.is_holding) {
            return Some(arrival);
        }
        let Some(aggregate) = self.decoder.aggregate_of(&arrival) else { return Some(arrival) };
        if self.aggregates.is_held(aggregate.borrow()) {
            return Some(arrival);
        }
        if !self.aggregates.set_busy(&aggregate) {
            self.aggregates.wait(aggregate.borrow(), arrival);
            return None;
        }
        arrival.waiter = Some(aggregate);
        Some(arrival)
    }

    /// An older event of its aggregate is parked.
    pub(super) fn is_held(&mut self, arrival: &Arrival) -> bool {
        let table = self.rules.tables.get(arrival.mapping.table);
        table.is_some_and(|table| table.is_holding)
            && self
                .decoder
                .aggregate_of(arrival)
                .is_some_and(|aggregate| self.aggregates.is_held(aggregate.borrow()))
    }

    /// Where an event stands that was refused so often, the last time over this.
    fn after_tries(&self, attempts: u32, position: Position, refusal: &Refusal) -> ParkedState {
        match refusal.is_definite() {
            true => ParkedState::Failed,
            false => after_tries(&self.rules.parking, attempts, position),
        }
    }

    /// A try of a parked event failed.
    pub(super) fn tried(&mut self, now: Duration, tried: Try, refusal: Refusal) {
        let attempts = tried.attempts.saturating_add(1);
        let state = self.after_tries(attempts, tried.position, &refusal);
        if let ParkedState::Parked(pause) = state {
            self.retries.due(now + pause);
        }
        let outcome = AttemptOutcome::Refused { attempts, state, refusal };
        let op = self.attempted(now, tried.seq, tried.table, tried.id, outcome);
        if let Some(aggregate) = tried.waiter {
            self.rest(now, &aggregate, Some(tried.seq), op);
        }
    }

    /// An event is put aside: that settles it.
    pub(super) fn park(
        &mut self,
        now: Duration,
        mut arrival: Arrival,
        state: ParkedState,
        refusal: Option<Refusal>,
    ) {
        let Source::Stream(number) = arrival.source else { return };
        let aggregate = self.decoder.aggregate_of(&arrival);
        let table = self.rules.tables.get(arrival.mapping.table);
        let is_open = state != ParkedState::DeadLettered;
        let is_holding = is_open && aggregate.is_some() && table.is_some_and(|t| t.is_holding);
        // Behind one that is parked already, refused itself or not.
        let is_behind = is_holding
            && aggregate
                .as_ref()
                .is_some_and(|aggregate| self.aggregates.is_held(aggregate.borrow()));
        let state = if is_behind { ParkedState::Queued } else { state };
        match state {
            ParkedState::Queued => self.tally.queued += 1,
            ParkedState::DeadLettered => {}
            ParkedState::Parked(pause) => {
                self.tally.parked += 1;
                self.retries.due(now + pause);
            }
            ParkedState::Failed => self.tally.parked += 1,
        }
        if is_open {
            self.count(&arrival, |it| it.parked += 1);
        }
        self.line(now, word(state), &arrival, refusal.as_ref());
        // It is in flight no more, whatever follows; who waits for it goes on below, or here.
        if let Some(aggregate) = arrival.waiter.take() {
            self.aggregates.set_free_later(aggregate);
        }
        let place = self.progress.place_of(number);
        let park = Park {
            number,
            position: arrival.position,
            id: arrival.id,
            aggregate: aggregate.clone(),
            mapping: arrival.mapping,
            tuple: arrival.tuple,
            commit_time: arrival.commit_time,
            xid: arrival.xid,
            state,
            is_holding,
            refusal,
        };
        let op = self.recorder.park(park, place.unwrap_or(PublishingPlace::start()));
        self.settle(now, number);
        match aggregate {
            Some(aggregate) if is_behind => self.aggregates.put_behind(aggregate.borrow(), op),
            Some(aggregate) if is_holding => self.rest(now, &aggregate, None, op),
            _ => {}
        }
    }

    /// An aggregate waits behind a parked event: what waited in memory goes there too.
    fn rest(&mut self, now: Duration, aggregate: &Aggregate, seq: Option<i64>, op: u64) {
        let taken = self.aggregates.rest(aggregate, seq, op);
        self.give_back(now, aggregate, taken);
        self.park_waiting(now, aggregate);
    }

    pub(super) fn park_waiting(&mut self, now: Duration, aggregate: &Aggregate) {
        for arrival in self.aggregates.park_waiting(aggregate.borrow()) {
            self.park(now, arrival, ParkedState::Queued, None);
        }
    }

    fn attempted(
        &mut self,
        now: Duration,
        seq: i64,
        table: usize,
        id: Option<String>,
        outcome: AttemptOutcome,
    ) -> u64 {
        let op = self.recorder.attempt(now, Attempt { seq, table, id, outcome });
        self.retries.tried(seq, op);
        op
    }

    pub(super) fn settle(&mut self, now: Duration, number: u64) {
        self.progress.settle(number);
        self.recorder.settled(now);
    }

    pub(super) fn mark(&mut self, number: u64, arrival: Arrival, is_repeat: bool) {
        let Some(mark) = self.mark_of(Some(number), arrival) else { return };
        self.recorder.mark(if is_repeat { mark.repeated() } else { mark });
    }

    fn mark_of(&mut self, number: Option<u64>, arrival: Arrival) -> Option<Mark> {
        let mode = self.rules.tables.get(arrival.mapping.table)?.audit_mode;
        if mode == AuditMode::None || arrival.id.is_none() {
            return None;
        }
        let (origin, moment) = match mode {
            AuditMode::SideTable => (self.origin(&arrival), None),
            _ => (
                Origin { xid: arrival.xid, xid_end: arrival.xid_end, occurred_at: None },
                self.moment(&arrival),
            ),
        };
        // What is parked is of a transaction that has ended long since.
        let xid = arrival.xid.filter(|_| matches!(arrival.source, Source::Stream(_)));
        let Arrival { id, mapping, position, .. } = arrival;
        let mark = Mark::new(number, mapping.table, id?, xid);
        Some(mark.at(moment).of(position).from(origin))
    }

    /// What its row's column of the time holds. Read again where no message was made of it.
    fn moment(&mut self, arrival: &Arrival) -> Option<Moment> {
        if arrival.moment.is_some() || arrival.mapping.occurred_at.is_none() {
            return arrival.moment;
        }
        moment(&arrival.mapping, self.decoder.reread(arrival)?).ok().flatten()
    }

    fn origin(&mut self, arrival: &Arrival) -> Origin {
        let Arrival { mapping, tuple, xid, xid_end, .. } = arrival;
        // It was read before, so it can be.
        let cell = mapping.occurred_at.and_then(|at| {
            self.decoder.reread(arrival)?;
            self.decoder.cell(at)
        });
        let text = cell.and_then(|cell| std::str::from_utf8(tuple.text(cell)?).ok());
        Origin { xid: *xid, xid_end: *xid_end, occurred_at: text.map(Box::from) }
    }

    pub(super) fn stuck(
        &self,
        arrival: &Arrival,
        refusal: Refusal,
        is_systemic: bool,
    ) -> StuckEvent {
        let (id, position) = (arrival.id().to_owned(), arrival.position);
        StuckEvent { table: self.table_name(arrival), id, position, refusal, is_systemic }
    }

    pub(super) fn table_name(&self, arrival: &Arrival) -> String {
        let table = self.rules.tables.get(arrival.mapping.table);
        table.map_or_else(String::new, |table| table.title())
    }
}

/// What a line of the log calls it.
fn word(state: ParkedState) -> &'static str {
    match state {
        ParkedState::Queued => "queued",
        ParkedState::Parked(_) => "parked",
        ParkedState::Failed => "failed",
        ParkedState::DeadLettered => "dead_lettered",
    }
}

/// Why an event, or its dead letter as well, could not be delivered.
fn in_full(dead_letter: Option<Refusal>, refusal: Refusal) -> Refusal {
    match dead_letter {
        None => refusal,
        Some(first) => Refusal::Unburied { first: Box::new(first), then: Box::new(refusal) },
    }
}
