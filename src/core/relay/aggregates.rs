//! Who has to wait for whom: the aggregates that do not flow freely, because one of their
//! events is parked, or because the ordering is strict and one of their messages is in flight.
//!
//! Which parked event of an aggregate is the next one is never remembered here. The parking says
//! so each time, and marks the event as taken in the same statement: what an operator did to it
//! before that, holds.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::arrival::Arrival;
use crate::core::event::Row;
use crate::core::event::pgoutput::Cell;
use crate::core::parked::{Aggregate, Head, ParkedRow};

/// One aggregate that does not flow freely.
#[derive(Debug, Default)]
struct Queue {
    stand: Stand,
    /// Events received that wait in memory, unsettled.
    waiting: VecDeque<Arrival>,
}

/// What an aggregate waits for.
#[derive(Debug, Default)]
enum Stand {
    /// For nothing: its next event may go.
    #[default]
    Free,
    /// For an event that is in flight.
    Busy,
    /// Some of its events stand in the parking.
    Held(Hold),
}

/// Events of an aggregate stand in the parking. Those that arrive meanwhile go behind them;
/// once the first is delivered, the others follow, and the hold is lifted when the parking has no
/// more of them.
#[derive(Debug, Default)]
struct Hold {
    turn: Turn,
    /// The outcome of the last that was tried, or the first that was parked: until so much is
    /// written, the parking shows an earlier state of the first.
    head_op: u64,
    /// The last that was put behind: until it is written, the parking does not show it.
    last_op: u64,
    /// The last that was claimed and given back: until that is written, none is claimed, or the parking would
    /// show as free what is in flight.
    given_back_op: u64,
    /// Few are left: what arrives now waits in memory. Where it went on to be parked, an
    /// aggregate that never rests would never be free again.
    is_tail: bool,
}

/// Whose turn it is in a held aggregate.
#[derive(Debug, Default)]
enum Turn {
    /// The first waits for its time, or for an operator.
    #[default]
    Rests,
    /// An event that left before the hold was known is still in flight.
    Leaving,
    /// The next one behind this row.
    Next(i64),
    /// The next one behind this row was asked for, with so much written.
    Asked { after: i64, written: u64 },
    /// There was none, with so much written, and there is more to be written.
    Unwritten { after: i64, written: u64 },
    /// A parked event is being tried. These were taken with it, and go once it is delivered.
    Tried(VecDeque<ParkedRow>),
    /// The first of these, which were taken with one that is done with.
    Taken(VecDeque<ParkedRow>),
    /// Several are being tried, one behind the other, as events of the stream are.
    Flight(Flight),
}

/// Parked events of an aggregate that were handed out together, behind one that is done with.
#[derive(Debug)]
struct Flight {
    /// Of which it is not known what became of them.
    seqs: BTreeSet<i64>,
    /// Up to here all are done with, once these are: the last of them, or before the first that was given back.
    through: i64,
    /// One of them was: the aggregate rests once what became of all others is known.
    is_refused: bool,
}

impl Flight {
    fn of(rows: &VecDeque<ParkedRow>) -> Self {
        let seqs: BTreeSet<i64> = rows.iter().map(|row| row.seq).collect();
        Self { through: seqs.last().copied().unwrap_or_default(), seqs, is_refused: false }
    }

    /// What follows once it is known what became of one of them.
    fn landed(mut self, seq: i64) -> Turn {
        self.seqs.remove(&seq);
        match (self.seqs.is_empty(), self.is_refused) {
            (false, _) => Turn::Flight(self),
            (true, true) => Turn::Rests,
            (true, false) => Turn::Next(self.through),
        }
    }
}

impl Hold {
    /// It rests; where several are tried, once what became of the others is known. Returns what was taken out
    /// of the parking and has not gone.
    fn take(&mut self) -> VecDeque<ParkedRow> {
        match std::mem::take(&mut self.turn) {
            Turn::Tried(rows) | Turn::Taken(rows) => rows,
            turn @ Turn::Flight(_) => {
                self.turn = turn;
                VecDeque::new()
            }
            _ => VecDeque::new(),
        }
    }

    fn flight(&mut self) -> Option<&mut Flight> {
        match &mut self.turn {
            Turn::Flight(flight) => Some(flight),
            _ => None,
        }
    }

    /// It is known what became of one of several.
    fn land(&mut self, seq: i64) {
        self.turn = match std::mem::take(&mut self.turn) {
            Turn::Flight(flight) => flight.landed(seq),
            turn => turn,
        };
    }
}

/// What an aggregate does next.
#[derive(Debug)]
pub(super) enum Next {
    /// It waits: for a confirm, a row, or its time.
    Wait,
    /// It waits until what was put behind is written.
    WaitForWrite,
    /// Publish this event.
    Arrival(Arrival),
    /// Try these events, which were taken out of the parking.
    Taken(VecDeque<ParkedRow>),
    /// Ask the parking for the next behind this row.
    Claim(i64),
    /// It flows freely.
    Free,
}

impl Queue {
    fn next(&mut self, written: u64, is_strict: bool) -> Next {
        let hold = match &mut self.stand {
            Stand::Free => return self.waiting.pop_front().map_or(Next::Free, Next::Arrival),
            Stand::Busy => return Next::Wait,
            Stand::Held(hold) => hold,
        };
        match &mut hold.turn {
            Turn::Next(_) | Turn::Unwritten { .. } if hold.given_back_op > written => {
                Next::WaitForWrite
            }
            Turn::Rests | Turn::Leaving | Turn::Asked { .. } | Turn::Tried(_) | Turn::Flight(_) => {
                Next::Wait
            }
            Turn::Unwritten { written: before, .. } if *before >= written => Next::WaitForWrite,
            Turn::Next(after) | Turn::Unwritten { after, .. } => {
                let after = *after;
                hold.turn = Turn::Asked { after, written };
                Next::Claim(after)
            }
            Turn::Taken(rows) if is_strict || rows.len() == 1 => {
                let first = rows.pop_front();
                hold.turn = Turn::Tried(std::mem::take(rows));
                first.map_or(Next::Wait, |row| Next::Taken(VecDeque::from([row])))
            }
            Turn::Taken(rows) => {
                let rows = std::mem::take(rows);
                hold.turn = Turn::Flight(Flight::of(&rows));
                Next::Taken(rows)
            }
        }
    }

    /// Whether an event that arrives now waits in memory, not in the parking.
    fn waits_in_memory(&self) -> bool {
        match &self.stand {
            Stand::Free | Stand::Busy => true,
            Stand::Held(hold) => hold.is_tail,
        }
    }

    fn hold(&mut self) -> Option<&mut Hold> {
        match &mut self.stand {
            Stand::Held(hold) => Some(hold),
            Stand::Free | Stand::Busy => None,
        }
    }
}

/// The aggregates that do not flow freely.
#[derive(Debug, Default)]
pub(super) struct Aggregates {
    queues: BTreeMap<Aggregate, Queue>,
    waiting: usize,
    bytes: usize,
    /// Of those that wait, the ones that go to a stream under their publishing ids.
    named: usize,
    /// Those that wait for a batch to be written.
    unwritten: BTreeSet<Aggregate>,
    /// Those whose next event may go.
    freed: Vec<Aggregate>,
    /// The key that is looked up.
    key: String,
}

/// Where an event goes that has arrived.
#[derive(Debug)]
pub(super) enum Admission {
    /// To the broker.
    Send(Arrival),
    /// Into the parking, behind others of its aggregate.
    Park(Arrival),
    /// It waits here.
    Waits,
}

impl Aggregates {
    /// Every aggregate flows freely.
    pub(super) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Aggregates that do not flow freely.
    pub(super) fn len(&self) -> usize {
        self.queues.len()
    }

    /// Events that wait in memory, and the bytes of their rows.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.waiting, self.bytes)
    }

    /// An event waits that has a publishing id: it is to be sent before any with a higher one.
    pub(super) fn is_any_named_waiting(&self) -> bool {
        self.named > 0
    }

    /// All that wait in memory.
    pub(super) fn in_memory(&self) -> impl Iterator<Item = &Arrival> {
        self.queues.values().flat_map(|queue| &queue.waiting)
    }

    /// An event has arrived, whose row stands in `cells`, and has to keep the order of its
    /// aggregate, if it has one. Where the ordering is strict, the next waits for it.
    pub(super) fn admit(
        &mut self,
        mut arrival: Arrival,
        cells: &[Cell],
        is_strict: bool,
    ) -> Admission {
        let (row, mapping) = (Row { tuple: &arrival.tuple, cells }, &arrival.mapping);
        let (aggregate_type, id) = (row.aggregate_type(mapping), row.aggregate_id(mapping));
        if !Aggregate::write(aggregate_type, id, &mut self.key) {
            return Admission::Send(arrival);
        }
        match self.queues.get_mut(self.key.as_str()) {
            None if is_strict => {
                let aggregate = Aggregate::written(&self.key);
                self.set_busy(&aggregate);
                arrival.waiter = Some(aggregate);
                Admission::Send(arrival)
            }
            None => Admission::Send(arrival),
            Some(queue) if queue.waits_in_memory() => {
                self.waiting += 1;
                self.bytes += arrival.tuple.size();
                self.named += usize::from(arrival.publishing_id.is_some());
                queue.waiting.push_back(arrival);
                Admission::Waits
            }
            Some(_) => Admission::Park(arrival),
        }
    }

    /// Some of its events stand in the parking.
    pub(super) fn is_held(&self, key: &str) -> bool {
        self.queues.get(key).is_some_and(|queue| matches!(queue.stand, Stand::Held(_)))
    }

    /// An event of it is on its way, and the next waits for that; `false` where that cannot be,
    /// since another one is on its way, or parked.
    pub(super) fn set_busy(&mut self, aggregate: &Aggregate) -> bool {
        let queue = self.queues.entry(aggregate.clone()).or_default();
        let is_free = matches!(queue.stand, Stand::Free);
        if is_free {
            queue.stand = Stand::Busy;
        }
        is_free
    }

    /// The event for which [`set_busy`](Self::set_busy) was called is settled, whatever became
    /// of it.
    pub(super) fn set_free(&mut self, key: &str) {
        let Some(queue) = self.queues.get_mut(key) else { return };
        match &mut queue.stand {
            Stand::Busy => queue.stand = Stand::Free,
            Stand::Held(Hold { turn: turn @ Turn::Leaving, .. }) => *turn = Turn::Rests,
            Stand::Free | Stand::Held(_) => {}
        }
    }

    /// Likewise; and its next event goes once there is room.
    pub(super) fn set_free_later(&mut self, aggregate: Aggregate) {
        self.set_free(aggregate.borrow());
        self.freed.push(aggregate);
    }

    /// Those whose next event may go.
    pub(super) fn take_freed(&mut self) -> Vec<Aggregate> {
        std::mem::take(&mut self.freed)
    }

    /// The parking holds events of it: it was said by a look.
    pub(super) fn hold_as_seen(&mut self, aggregate: Aggregate) {
        let queue = self.queues.entry(aggregate).or_default();
        let turn = match queue.stand {
            Stand::Free => Turn::Rests,
            Stand::Busy => Turn::Leaving,
            Stand::Held(_) => return,
        };
        queue.stand = Stand::Held(Hold { turn, ..Hold::default() });
    }

    /// Its first event was parked, or `seq` was tried and refused, which is to be written as `op`: it
    /// waits for its time. What waits in memory is to be parked by the caller, and what is returned was taken
    /// for nothing.
    #[must_use]
    pub(super) fn rest(
        &mut self,
        aggregate: &Aggregate,
        seq: Option<i64>,
        op: u64,
    ) -> VecDeque<ParkedRow> {
        let queue = self.queues.entry(aggregate.clone()).or_default();
        let mut taken = VecDeque::new();
        let (mut turn, mut given_back_op) = (Turn::default(), 0);
        if let Some(hold) = queue.hold() {
            taken = hold.take();
            if let (Some(seq), Some(flight)) = (seq, hold.flight()) {
                flight.is_refused = true;
                hold.land(seq);
            }
            (turn, given_back_op) = (std::mem::take(&mut hold.turn), hold.given_back_op);
        }
        let hold = Hold { turn, head_op: op, last_op: op, given_back_op, ..Hold::default() };
        queue.stand = Stand::Held(hold);
        taken
    }

    fn flight(&self, key: &str) -> Option<&Flight> {
        match self.queues.get(key).map(|queue| &queue.stand) {
            Some(Stand::Held(Hold { turn: Turn::Flight(flight), .. })) => Some(flight),
            _ => None,
        }
    }

    /// Several parked events of it are being tried.
    pub(super) fn is_in_flight(&self, key: &str) -> bool {
        self.flight(key).is_some()
    }

    /// One of several that are being tried was refused.
    pub(super) fn is_flight_refused(&self, key: &str) -> bool {
        self.flight(key).is_some_and(|flight| flight.is_refused)
    }

    /// An event was put behind others in the parking, which is to be written as `op`.
    pub(super) fn put_behind(&mut self, key: &str, op: u64) {
        if let Some(hold) = self.queues.get_mut(key).and_then(Queue::hold) {
            hold.last_op = op;
        }
    }

    /// A parked event of it is done with, which is to be written as `op`: the next behind it
    /// may go.
    pub(super) fn done(&mut self, key: &str, seq: i64, op: u64) {
        if let Some(hold) = self.queues.get_mut(key).and_then(Queue::hold) {
            hold.head_op = op;
            if hold.flight().is_some() {
                return hold.land(seq);
            }
            let taken = hold.take();
            hold.turn = if taken.is_empty() { Turn::Next(seq) } else { Turn::Taken(taken) };
        }
    }

    /// A parked event of it is not tried now, which is to be written as `op`: the next look
    /// finds it again. What is returned was taken with it, and is not tried either.
    #[must_use]
    pub(super) fn withdraw(&mut self, key: &str, seq: i64, op: u64) -> VecDeque<ParkedRow> {
        let Some(hold) = self.queues.get_mut(key).and_then(Queue::hold) else {
            return VecDeque::new();
        };
        hold.head_op = op;
        if let Some(flight) = hold.flight() {
            flight.through = flight.through.min(seq - 1);
            flight.seqs.remove(&seq);
            // With nothing more in flight, the next look finds it.
            if flight.seqs.is_empty() {
                hold.turn = Turn::Rests;
            }
            hold.given_back_op = op;
        }
        hold.take()
    }

    /// A parked event of it that was claimed is given back, which is to be written as `op`.
    pub(super) fn given_back(&mut self, key: &str, op: u64) {
        if let Some(hold) = self.queues.get_mut(key).and_then(Queue::hold) {
            hold.given_back_op = op;
        }
    }

    /// Takes what was claimed together with an event that is being tried.
    pub(super) fn take_untried(&mut self) -> Vec<(Aggregate, VecDeque<ParkedRow>)> {
        let taken = self.queues.iter_mut().filter_map(|(aggregate, queue)| {
            let Stand::Held(Hold { turn: Turn::Tried(rows), .. }) = &mut queue.stand else {
                return None;
            };
            (!rows.is_empty()).then(|| (aggregate.clone(), std::mem::take(rows)))
        });
        taken.collect()
    }

    /// The next one is not asked for after all: the next look finds it again.
    pub(super) fn let_rest(&mut self, key: &str) {
        if let Some(hold) = self.queues.get_mut(key).and_then(Queue::hold) {
            hold.turn = Turn::Rests;
        }
    }

    /// The first of it is to be looked for, by a look that showed all that was written until
    /// `seen`; `false` where the look came too early, or it is on its way already.
    pub(super) fn look_for_first(&mut self, key: &str, seen: u64) -> bool {
        let Some(hold) = self.queues.get_mut(key).and_then(Queue::hold) else { return false };
        let is_due = matches!(hold.turn, Turn::Rests) && hold.head_op <= seen;
        if is_due {
            hold.turn = Turn::Next(0);
        }
        is_due
    }

    /// The parking answered for the next ones. What is returned nobody waits for any more.
    #[must_use]
    pub(super) fn claimed(&mut self, key: &str, head: Head) -> VecDeque<ParkedRow> {
        let Some(queue) = self.queues.get_mut(key) else { return unexpected(head) };
        let Stand::Held(hold) = &mut queue.stand else { return unexpected(head) };
        let Turn::Asked { after, written } = hold.turn else { return unexpected(head) };
        match head {
            Head::Claimed { rows, is_tail } => {
                hold.turn = Turn::Taken(rows);
                hold.is_tail |= is_tail;
            }
            Head::Waits => hold.turn = Turn::Rests,
            Head::None if hold.last_op > written => {
                hold.is_tail = true;
                hold.turn = Turn::Unwritten { after, written };
            }
            Head::None => queue.stand = Stand::Free,
        }
        VecDeque::new()
    }

    /// An event waits behind others of its aggregate.
    pub(super) fn wait(&mut self, key: &str, arrival: Arrival) {
        if let Some(queue) = self.queues.get_mut(key) {
            self.waiting += 1;
            self.bytes += arrival.tuple.size();
            self.named += usize::from(arrival.publishing_id.is_some());
            queue.waiting.push_back(arrival);
        }
    }

    /// Aggregates of which events wait in memory for the parking.
    pub(super) fn held_in_memory(&self) -> Vec<Aggregate> {
        let is_held =
            |queue: &Queue| matches!(queue.stand, Stand::Held(_)) && !queue.waiting.is_empty();
        let held = self.queues.iter().filter(|(_, queue)| is_held(queue));
        held.map(|(aggregate, _)| aggregate.clone()).collect()
    }

    /// Takes what waits in memory, since it goes into the parking.
    pub(super) fn park_waiting(&mut self, key: &str) -> VecDeque<Arrival> {
        let Some(queue) = self.queues.get_mut(key) else { return VecDeque::new() };
        if let Some(hold) = queue.hold() {
            hold.is_tail = false;
        }
        let waiting = std::mem::take(&mut queue.waiting);
        self.waiting -= waiting.len();
        self.bytes -= waiting.iter().map(|arrival| arrival.tuple.size()).sum::<usize>();
        self.named -= waiting.iter().filter(|arrival| arrival.publishing_id.is_some()).count();
        waiting
    }

    /// What an aggregate does next, with as much written as `written`.
    pub(super) fn next(&mut self, key: &str, written: u64, is_strict: bool) -> Next {
        let Some(queue) = self.queues.get_mut(key) else { return Next::Free };
        let next = queue.next(written, is_strict);
        match &next {
            Next::Arrival(arrival) => {
                self.waiting -= 1;
                self.bytes -= arrival.tuple.size();
                self.named -= usize::from(arrival.publishing_id.is_some());
            }
            Next::Free => {
                self.queues.remove(key);
            }
            Next::WaitForWrite => {
                self.unwritten.insert(Aggregate::written(key));
            }
            Next::Wait | Next::Claim(_) | Next::Taken(_) => {}
        }
        next
    }

    /// A batch was written: those who waited for one.
    pub(super) fn take_unwritten(&mut self) -> BTreeSet<Aggregate> {
        std::mem::take(&mut self.unwritten)
    }

    /// Aggregates that rest, and whose first event was never tried or is gone, by a look that
    /// told whose first waits for its time: somebody took out what they waited for.
    pub(super) fn without_first(&self, held: &BTreeSet<Aggregate>) -> Vec<Aggregate> {
        let is_at_rest = |queue: &Queue| matches!(&queue.stand, Stand::Held(hold) if matches!(hold.turn, Turn::Rests));
        let without = self.queues.iter();
        let without =
            without.filter(|(aggregate, queue)| is_at_rest(queue) && !held.contains(*aggregate));
        without.map(|(aggregate, _)| aggregate.clone()).collect()
    }
}

fn unexpected(head: Head) -> VecDeque<ParkedRow> {
    match head {
        Head::Claimed { rows, .. } => rows,
        Head::Waits | Head::None => VecDeque::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::event::Position;
    use crate::core::event::pgoutput::{StoredRow, Tuple};

    fn row(seq: i64) -> ParkedRow {
        let tuple = Tuple::of_texts(std::iter::empty()).unwrap();
        let row = StoredRow { table: 0, columns: [].into(), tuple, commit_time: 0, xid: None };
        ParkedRow {
            seq,
            position: Position::start(),
            id: None,
            aggregate: None,
            is_holding: true,
            attempts: 0,
            is_alone: false,
            xid_end: None,
            row,
        }
    }

    /// Nothing is claimed while the parking may still be told that it is free.
    #[test]
    fn what_was_given_back_is_claimed_once_that_is_written() {
        let aggregate = Aggregate::new(Some("order"), Some("7")).unwrap();
        let key: &str = aggregate.borrow();
        let mut all = Aggregates::default();
        assert!(all.rest(&aggregate, None, 1).is_empty());
        assert!(all.look_for_first(key, 1));
        assert!(matches!(all.next(key, 1, true), Next::Claim(0)));
        let rows = [3, 4, 5].map(row).into();
        assert!(all.claimed(key, Head::Claimed { rows, is_tail: true }).is_empty());
        assert!(matches!(all.next(key, 1, true), Next::Taken(rows) if rows[0].seq == 3));
        assert!(matches!(all.next(key, 1, true), Next::Wait));
        all.done(key, 3, 2);
        assert!(matches!(all.next(key, 1, true), Next::Taken(rows) if rows[0].seq == 4));
        let taken = all.take_untried();
        assert_eq!(taken.iter().map(|(_, rows)| rows.len()).collect::<Vec<_>>(), [1]);
        all.given_back(key, 3);
        all.done(key, 4, 4);
        assert!(matches!(all.next(key, 2, true), Next::WaitForWrite));
        assert!(matches!(all.next(key, 3, true), Next::Claim(4)));
    }

    /// The parked events of one aggregate, of which the first is delivered, and 4 to 6 taken behind it.
    fn in_flight(aggregate: &Aggregate) -> Aggregates {
        let key: &str = aggregate.borrow();
        let mut all = Aggregates::default();
        assert!(all.rest(aggregate, None, 1).is_empty());
        assert!(all.look_for_first(key, 1));
        assert!(matches!(all.next(key, 1, false), Next::Claim(0)));
        let head = Head::Claimed { rows: [3].map(row).into(), is_tail: false };
        assert!(all.claimed(key, head).is_empty());
        assert!(matches!(all.next(key, 1, false), Next::Taken(rows) if rows.len() == 1));
        all.done(key, 3, 2);
        assert!(matches!(all.next(key, 1, false), Next::Claim(3)));
        let rows = [4, 5, 6].map(row).into();
        assert!(all.claimed(key, Head::Claimed { rows, is_tail: true }).is_empty());
        assert!(matches!(all.next(key, 1, false), Next::Taken(rows) if rows.len() == 3));
        assert!(matches!(all.next(key, 1, false), Next::Wait));
        all
    }

    #[test]
    fn behind_one_that_is_delivered_several_go_at_once() {
        let aggregate = Aggregate::new(Some("order"), Some("7")).unwrap();
        let key: &str = aggregate.borrow();
        let mut all = in_flight(&aggregate);
        for (seq, op) in [(4, 3), (6, 4)] {
            all.done(key, seq, op);
            assert!(matches!(all.next(key, 9, false), Next::Wait), "5 is in flight");
        }
        all.done(key, 5, 5);
        assert!(matches!(all.next(key, 9, false), Next::Claim(6)));
    }

    #[test]
    fn behind_one_that_is_refused_nothing_follows() {
        let aggregate = Aggregate::new(Some("order"), Some("7")).unwrap();
        let key: &str = aggregate.borrow();
        let mut all = in_flight(&aggregate);
        assert!(all.rest(&aggregate, Some(4), 3).is_empty());
        assert!(!all.look_for_first(key, 9), "others are in flight");
        assert!(all.is_flight_refused(key));
        assert!(all.withdraw(key, 6, 4).is_empty());
        all.done(key, 5, 5);
        assert!(matches!(all.next(key, 9, false), Next::Wait), "it rests");
        assert!(all.look_for_first(key, 5));
        assert!(matches!(all.next(key, 3, false), Next::WaitForWrite), "6 is not given back yet");
        assert!(matches!(all.next(key, 5, false), Next::Claim(0)));
    }

    #[test]
    fn what_is_given_back_of_several_is_claimed_again_behind_the_others() {
        let aggregate = Aggregate::new(Some("order"), Some("7")).unwrap();
        let key: &str = aggregate.borrow();
        let mut all = in_flight(&aggregate);
        assert!(all.withdraw(key, 5, 3).is_empty());
        assert!(all.withdraw(key, 6, 4).is_empty());
        all.done(key, 4, 5);
        assert!(matches!(all.next(key, 3, false), Next::WaitForWrite));
        assert!(matches!(all.next(key, 5, false), Next::Claim(4)));
    }
}
