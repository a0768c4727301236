//! What became of a message, and what follows for its event and those behind it.

use std::borrow::Borrow;
use std::time::Duration;

use tracing::trace;

use super::arrival::{Arrival, Published, Ready, Source};
use super::input::{Dropped, NACK_PATIENCE, NACK_PATIENCE_MAX};
use super::{Effect, End, Relay, Stuck};
use crate::config::{AuditMode, OnFailure};
use crate::core::event::{Position, Refusal};
use crate::core::parked::{Aggregate, Attempt, Park, State, Tried};
use crate::core::relay::marks::{Mark, Origin};
use crate::core::relay::retry::after_tries;
use crate::core::relay::window::{Answer, Outcome};
use crate::error::{Fault, Side};

/// Connections that were lost in the same place before a message is suspected, and convicted.
const DROPS: u32 = 2;
/// Number of an event that no LSN waits for.
const NO_NUMBER: u64 = u64::MAX;

/// A try of a parked event.
#[derive(Debug)]
pub(super) struct Try {
    pub(super) seq: i64,
    /// Tries before this one.
    pub(super) attempts: u32,
    pub(super) position: Position,
    pub(super) table: usize,
    /// Empty where it cannot be read.
    pub(super) id: String,
    /// The aggregate that waits for it.
    pub(super) lane: Option<Aggregate>,
}

impl Relay {
    pub(super) fn answers(
        &mut self,
        now: Duration,
        answers: Vec<Answer>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), End> {
        let mut window = std::mem::take(&mut self.window);
        let taken = answers.into_iter().try_for_each(|answer| window.take(answer));
        if taken.is_ok() {
            window.settle(|published, outcome| self.outcome(now, published, outcome, effects));
        }
        self.window = window;
        taken.map_err(|stray| stray.fault().into())
    }

    fn outcome(
        &mut self,
        now: Duration,
        published: Published,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        let is_stuck = matches!(self.ending, Some(End::Stuck(_)));
        // Behind an event that the relay cannot get past nothing counts, delivered or not.
        if is_stuck && matches!(published.arrival.source, Source::Stream(_)) {
            return;
        }
        let Published { arrival, letter, .. } = published;
        trace!(event_id = arrival.id, position = %arrival.position, ?outcome, "the broker answers");
        match outcome {
            Outcome::Delivered => self.delivered(now, arrival, letter, effects),
            Outcome::Returned(why) => {
                self.refused(now, arrival, letter, Refusal::Returned { why });
            }
            Outcome::Nacked => {
                if matches!(arrival.source, Source::Parked { .. }) {
                    self.nacked_again(now);
                }
                self.refused(now, arrival, letter, Refusal::Nacked);
            }
        }
    }

    /// The session ends in good order, so that the next has a new channel, and nothing is
    /// repeated.
    fn nacked_again(&mut self, now: Duration) {
        let patience = self.memory.nack_patience;
        if now < patience || self.ending.is_some() {
            return;
        }
        self.memory.nack_patience = (patience * 2).min(NACK_PATIENCE_MAX);
        self.ending = Some(End::Fault(
            Fault::transient(
                "RabbitMQ nacks parked events again and again: a new channel is opened, since it does not tell an old one each time that a queue has room again",
            )
            .on(Side::Broker)
            .hint(Refusal::Nacked.hint()),
        ));
    }

    fn delivered(
        &mut self,
        now: Duration,
        mut arrival: Arrival,
        letter: Option<Refusal>,
        effects: &mut Vec<Effect>,
    ) {
        if letter.is_none() {
            self.span(now, &arrival, None);
        }
        let lane = arrival.lane.take();
        let done = match (letter, arrival.source.clone()) {
            (None, Source::Stream(number)) => {
                self.tally.delivered += 1;
                self.tally.to_confirm.observe(self.age(now, arrival.commit_time));
                self.taken(now);
                self.settle(now, number);
                self.mark(number, arrival, false);
                None
            }
            (None, Source::Parked { seq, attempts }) => {
                self.tally.delivered += 1;
                self.memory.nack_patience = NACK_PATIENCE;
                self.taken(now);
                let outcome = Tried::Delivered { attempts };
                let op = self.attempted(now, seq, arrival.mapping.table, &arrival.id, outcome);
                if let Some(mark) = self.mark_of(NO_NUMBER, arrival) {
                    self.marks.push_urgent(mark);
                }
                Some((seq, op))
            }
            (Some(refusal), Source::Stream(_)) => {
                self.tally.dead_lettered += 1;
                self.park(now, arrival, State::DeadLettered, Some(refusal));
                None
            }
            (Some(refusal), Source::Parked { seq, attempts }) => {
                self.tally.dead_lettered += 1;
                let state = State::DeadLettered;
                let outcome = Tried::Refused { attempts: attempts + 1, state, refusal };
                let op = self.attempted(now, seq, arrival.mapping.table, &arrival.id, outcome);
                Some((seq, op))
            }
        };
        let Some(aggregate) = lane else { return };
        match done {
            Some((seq, op)) => self.lanes.done(aggregate.borrow(), seq, op),
            None => self.lanes.set_free(aggregate.borrow()),
        }
        self.advance(&aggregate, effects);
    }

    /// The broker takes messages after all.
    fn taken(&mut self, now: Duration) {
        self.memory.budget.renew();
        if !self.trial.is_empty() {
            self.acquit(now);
        }
    }

    /// An event could not be delivered, or its dead letter could not.
    pub(super) fn refused(
        &mut self,
        now: Duration,
        arrival: Arrival,
        letter: Option<Refusal>,
        refusal: Refusal,
    ) {
        if letter.is_none() {
            self.span(now, &arrival, Some(&refusal));
        }
        self.count_refused(&refusal);
        let table = self.rules.tables.get(arrival.mapping.table);
        let on_failure = table.map_or(&OnFailure::Park, |table| &table.on_failure);
        let is_new = matches!(arrival.source, Source::Stream(_)) && letter.is_none();
        if is_new && *on_failure == OnFailure::Block {
            return self.stick(self.stuck(&arrival, refusal, false));
        }
        // Behind one that is parked there is no more to find out.
        let is_counted = is_new && !(arrival.lane.is_none() && self.is_held(&arrival));
        if is_counted && !self.memory.budget.take(now, &self.rules.parking, arrival.position) {
            return self.put_on_trial(now, arrival, refusal);
        }
        self.put_aside(now, arrival, letter, refusal);
    }

    /// What becomes of an event that was refused, where the fault is its own.
    pub(super) fn put_aside(
        &mut self,
        now: Duration,
        mut arrival: Arrival,
        letter: Option<Refusal>,
        refusal: Refusal,
    ) {
        let table = self.rules.tables.get(arrival.mapping.table);
        let on_failure = table.map_or(&OnFailure::Park, |table| &table.on_failure);
        let is_new = matches!(arrival.source, Source::Stream(_)) && letter.is_none();
        let is_letter = matches!(on_failure, OnFailure::DeadLetter { .. }) && letter.is_none();
        if is_letter && is_new && arrival.lane.is_none() {
            match self.wait_for_verdict(arrival) {
                Some(back) => arrival = back,
                None => return,
            }
        }
        let is_held = arrival.lane.is_none() && is_new && self.is_held(&arrival);
        if is_letter && !is_held {
            self.ready.push_front(Ready { arrival, letter: Some(refusal), is_alone: false });
            return;
        }
        let refusal = match letter {
            None => refusal,
            Some(first) => Refusal::Unburied { first: Box::new(first), then: Box::new(refusal) },
        };
        match arrival.source.clone() {
            Source::Stream(_) => {
                let state = after_tries(&self.rules.parking, 1, arrival.position);
                self.park(now, arrival, state, Some(refusal));
            }
            Source::Parked { seq, attempts } => {
                let tried = Try {
                    seq,
                    attempts,
                    position: arrival.position,
                    table: arrival.mapping.table,
                    id: arrival.id,
                    lane: arrival.lane,
                };
                self.tried(now, tried, refusal);
            }
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
        let Some(aggregate) = self.aggregate_of(&arrival) else { return Some(arrival) };
        if self.lanes.is_held(aggregate.borrow()) {
            return Some(arrival);
        }
        if !self.lanes.set_busy(&aggregate) {
            self.lanes.wait(aggregate.borrow(), arrival);
            return None;
        }
        arrival.lane = Some(aggregate);
        Some(arrival)
    }

    fn aggregate_of(&mut self, arrival: &Arrival) -> Option<Aggregate> {
        let mut cells = std::mem::take(&mut self.cells);
        let aggregate = arrival.aggregate(&mut cells);
        self.cells = cells;
        aggregate
    }

    /// An older event of its aggregate is parked.
    fn is_held(&mut self, arrival: &Arrival) -> bool {
        let table = self.rules.tables.get(arrival.mapping.table);
        table.is_some_and(|table| table.is_holding)
            && self
                .aggregate_of(arrival)
                .is_some_and(|aggregate| self.lanes.is_held(aggregate.borrow()))
    }

    /// A try of a parked event failed.
    pub(super) fn tried(&mut self, now: Duration, tried: Try, refusal: Refusal) {
        let attempts = tried.attempts.saturating_add(1);
        let state = after_tries(&self.rules.parking, attempts, tried.position);
        if let State::Parked(pause) = state {
            self.attention.due(now + pause);
        }
        let outcome = Tried::Refused { attempts, state, refusal };
        let op = self.attempted(now, tried.seq, tried.table, &tried.id, outcome);
        if let Some(aggregate) = tried.lane {
            self.rest(now, &aggregate, op);
        }
    }

    /// An event is put aside: that settles it.
    pub(super) fn park(
        &mut self,
        now: Duration,
        mut arrival: Arrival,
        state: State,
        refusal: Option<Refusal>,
    ) {
        let Source::Stream(number) = arrival.source else { return };
        let aggregate = self.aggregate_of(&arrival);
        let table = self.rules.tables.get(arrival.mapping.table);
        let is_open = state != State::DeadLettered;
        let is_holding = is_open && aggregate.is_some() && table.is_some_and(|t| t.is_holding);
        // Behind one that is parked already, refused itself or not.
        let is_behind = is_holding
            && aggregate.as_ref().is_some_and(|aggregate| self.lanes.is_held(aggregate.borrow()));
        let state = if is_behind { State::Queued } else { state };
        match state {
            State::Queued => self.tally.queued += 1,
            State::DeadLettered => {}
            State::Parked(pause) => {
                self.tally.parked += 1;
                self.attention.due(now + pause);
            }
            State::Failed => self.tally.parked += 1,
        }
        // It is in flight no more, whatever follows; who waits for it goes on below, or here.
        if let Some(lane) = arrival.lane.take() {
            self.lanes.set_free(lane.borrow());
            self.freed.push(lane);
        }
        let op = self.unwritten.park(Park {
            number,
            position: arrival.position,
            id: Some(arrival.id).filter(|id| !id.is_empty()),
            aggregate: aggregate.clone(),
            mapping: arrival.mapping,
            tuple: arrival.tuple,
            commit_time: arrival.commit_time,
            xid: arrival.xid,
            state,
            is_holding,
            refusal,
        });
        self.settle(now, number);
        match aggregate {
            Some(aggregate) if is_behind => self.lanes.put_behind(aggregate.borrow(), op),
            Some(aggregate) if is_holding => self.rest(now, &aggregate, op),
            _ => {}
        }
    }

    /// An aggregate waits behind a parked event: what waited in memory goes there too.
    fn rest(&mut self, now: Duration, aggregate: &Aggregate, op: u64) {
        self.lanes.rest(aggregate, op);
        self.park_waiting(now, aggregate);
    }

    pub(super) fn park_waiting(&mut self, now: Duration, aggregate: &Aggregate) {
        for arrival in self.lanes.park_waiting(aggregate.borrow()) {
            self.park(now, arrival, State::Queued, None);
        }
    }

    fn attempted(
        &mut self,
        now: Duration,
        seq: i64,
        table: usize,
        id: &str,
        outcome: Tried,
    ) -> u64 {
        self.memory.suspects.remove(&seq);
        self.unrecorded_since.get_or_insert(now);
        let id = (!id.is_empty()).then(|| id.to_owned());
        let op = self.unwritten.attempt(Attempt { seq, table, id, outcome });
        self.attention.tried(seq, op);
        op
    }

    pub(super) fn settle(&mut self, now: Duration, number: u64) {
        self.progress.settle(number);
        self.unrecorded_since.get_or_insert(now);
    }

    pub(super) fn mark(&mut self, number: u64, arrival: Arrival, is_repeat: bool) {
        let Some(mark) = self.mark_of(number, arrival) else { return };
        self.marks.push(if is_repeat { mark.repeated() } else { mark });
    }

    fn mark_of(&mut self, number: u64, arrival: Arrival) -> Option<Mark> {
        if self.rules.audit.mode == AuditMode::None || arrival.id.is_empty() {
            return None;
        }
        let origin = match self.rules.audit.mode {
            AuditMode::SideTable => self.origin(&arrival),
            _ => Origin::default(),
        };
        // What is parked is of a transaction that has ended long since.
        let xid = arrival.xid.filter(|_| matches!(arrival.source, Source::Stream(_)));
        let Arrival { id, seconds, mapping, position, .. } = arrival;
        let mark = Mark::new(number, mapping.table, id, xid);
        Some(mark.at(seconds).of(position).from(origin))
    }

    fn origin(&mut self, arrival: &Arrival) -> Origin {
        let Arrival { mapping, tuple, xid, xid_end, .. } = arrival;
        // It was read before, so it can be.
        let occurred_at =
            mapping.occurred_at.filter(|_| mapping.read(tuple, &mut self.cells).is_ok());
        let cell = occurred_at.and_then(|at| self.cells.get(at).copied());
        let text = cell.and_then(|cell| std::str::from_utf8(tuple.text(cell)?).ok());
        Origin { xid: *xid, xid_end: *xid_end, occurred_at: text.map(Box::from) }
    }

    pub(super) fn stuck(&self, arrival: &Arrival, refusal: Refusal, is_systemic: bool) -> Stuck {
        let (id, position) = (arrival.id.clone(), arrival.position);
        Stuck { table: self.table_name(arrival), id, position, refusal, is_systemic }
    }

    pub(super) fn stick(&mut self, stuck: Stuck) {
        self.ending = Some(End::Stuck(stuck));
    }

    fn table_name(&self, arrival: &Arrival) -> String {
        let table = self.rules.tables.get(arrival.mapping.table);
        table.map_or_else(String::new, |table| format!("{}.{}", table.schema, table.name))
    }

    /// The broker does not say over which publish it closed the channel. With one message in
    /// flight it is that one. The session goes on without the broker until what was delivered
    /// before has its marks: the next one comes to the same message, and could write them no
    /// better.
    pub(super) fn closed(&mut self, now: Duration, why: &str) {
        let mut window = std::mem::take(&mut self.window).into_items();
        if window.len() == 1
            && let Some(published) = window.pop()
        {
            self.closed_over(now, published, why);
            return;
        }
        self.suspect(&window);
        let count = window.len();
        self.ending = Some(End::Fault(Fault::transient(format!(
            "the broker closed the channel with {count} messages in flight: {why}. They are published again one at a time, to find which it was"
        ))
        .on(Side::Broker)));
    }

    /// The connection ended, and nobody said over what: a broker that stops, a network that
    /// fails; or a message that it cannot bear. That is told by its coming again: with the same
    /// first message in flight for the second time they are published one at a time, and the one
    /// that was alone in flight twice is the one.
    pub(super) fn dropped(&mut self, now: Duration, fault: Fault) -> Result<(), End> {
        let mut window = std::mem::take(&mut self.window).into_items();
        let Some(first) = window.first().map(|published| published.arrival.position) else {
            return Err(End::Fault(fault));
        };
        let is_alone = window.len() == 1;
        let earlier = self.memory.dropped.filter(|earlier| earlier.first == first);
        let mut dropped = earlier.unwrap_or(Dropped { first, together: 0, alone: 0 });
        *(if is_alone { &mut dropped.alone } else { &mut dropped.together }) += 1;
        self.memory.dropped = Some(dropped);
        if let Some(published) = window.pop_if(|_| is_alone && dropped.alone >= DROPS) {
            self.memory.dropped = None;
            self.closed_over(now, published, &fault.what);
            return Ok(());
        }
        if dropped.together >= DROPS {
            self.suspect(&window);
        }
        Err(End::Fault(fault))
    }

    /// One of these made the broker close the channel: the next session publishes them one at a
    /// time.
    fn suspect(&mut self, window: &[Published]) {
        for published in window {
            match published.arrival.source {
                Source::Stream(_) => {
                    let position = Some(published.arrival.position);
                    self.memory.cautious_through = self.memory.cautious_through.max(position);
                }
                Source::Parked { seq, .. } => {
                    self.memory.suspects.insert(seq);
                }
            }
        }
    }

    fn closed_over(&mut self, now: Duration, published: Published, why: &str) {
        let Published { arrival, letter, .. } = published;
        let fault = Fault::transient(format!(
            "the broker closed the channel over event {} of {}: {why}",
            arrival.id,
            self.table_name(&arrival)
        ))
        .on(Side::Broker)
        .hint(Refusal::Closed { why: String::new() }.hint());
        let table = self.rules.tables.get(arrival.mapping.table);
        let has_letter =
            table.is_some_and(|table| matches!(table.on_failure, OnFailure::DeadLetter { .. }));
        if has_letter && letter.is_none() {
            // Its dead letter takes a channel: the next session sends that at once.
            self.memory.convicted = Some((arrival.position, why.to_owned()));
            // It is not settled: a drain has failed.
            self.ending = Some(End::Fault(fault));
            return;
        }
        self.refused(now, arrival, letter, Refusal::Closed { why: why.to_owned() });
        // What was taken in and not sent has no channel to go by: a drain that waited for it would
        // not end.
        if self.is_any_unsent() {
            self.ending = Some(End::Fault(fault));
        } else {
            self.ending.get_or_insert(End::Fault(fault));
        }
    }

    /// An event of the stream was taken in and waits to be sent.
    fn is_any_unsent(&self) -> bool {
        let is_new = |ready: &Ready| matches!(ready.arrival.source, Source::Stream(_));
        self.lanes.waiting() > 0 || self.ready.iter().any(is_new)
    }
}
