//! Who has to wait for whom: the aggregates that do not flow freely, because one of their
//! events is parked, or because the ordering is strict and one of their messages is in flight.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::arrival::Arrival;
use crate::parked::{Aggregate, ParkedRow};

/// One aggregate that does not flow freely.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Some of its events are parked.
    pub(super) hold: Option<Hold>,
    /// One of its messages is in flight, and the next has to wait for it.
    pub(super) is_busy: bool,
    /// Events received that wait in memory, unsettled.
    waiting: VecDeque<Arrival>,
}

/// Events of an aggregate stand in the parking. Those that arrive meanwhile go behind them;
/// once the first is delivered, the others follow one by one, and the hold is lifted when the
/// parking has no more of them.
#[derive(Debug, Default)]
pub(super) struct Hold {
    /// The last that was put behind: until it is written, the parking does not show it.
    pub(super) last_op: u64,
    /// What stands in the parking is being delivered.
    pub(super) is_releasing: bool,
    /// Few are left: what arrives now waits in memory. Where it went on to be parked, an
    /// aggregate that never rests would never be free again.
    is_tail: bool,
    /// The last parked row that was fetched.
    after: i64,
    rows: VecDeque<ParkedRow>,
    /// Rows were asked for; what `last_op` was then.
    asked: Option<u64>,
}

/// What an aggregate does next.
#[derive(Debug)]
pub(super) enum Next {
    /// It waits: for a confirm, a row, or its time.
    Wait,
    /// It waits until what was put behind is written.
    WaitForWrite,
    /// Publish this parked row.
    Parked(ParkedRow),
    /// Publish this event.
    Arrival(Arrival),
    /// Fetch what stands behind this row in the parking.
    Fetch(i64),
    /// It flows freely.
    Free,
}

impl Hold {
    /// The first of the parking is delivered or taken out: the others follow.
    pub(super) fn release(&mut self, after: i64) {
        self.is_releasing = true;
        self.after = self.after.max(after);
    }
}

impl Lane {
    /// Whether an event that arrives now waits in memory, not in the parking.
    pub(super) fn waits_in_memory(&self) -> bool {
        self.hold.as_ref().is_none_or(|hold| hold.is_tail)
    }

    fn next(&mut self, written: u64) -> Next {
        if self.is_busy {
            return Next::Wait;
        }
        let Some(hold) = &mut self.hold else {
            return self.waiting.pop_front().map_or(Next::Free, Next::Arrival);
        };
        if !hold.is_releasing || hold.asked.is_some() {
            return Next::Wait;
        }
        if let Some(row) = hold.rows.pop_front() {
            return Next::Parked(row);
        }
        if hold.last_op > written {
            return Next::WaitForWrite;
        }
        hold.asked = Some(hold.last_op);
        Next::Fetch(hold.after)
    }

    fn fetched(&mut self, rows: Vec<ParkedRow>, limit: usize) {
        let Some(hold) = &mut self.hold else { return };
        let asked = hold.asked.take();
        hold.is_tail |= rows.len() < limit;
        if rows.is_empty() && asked == Some(hold.last_op) {
            self.hold = None;
            return;
        }
        hold.after = rows.last().map_or(hold.after, |row| row.seq);
        hold.rows.extend(rows);
    }
}

/// The aggregates that do not flow freely.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: BTreeMap<Aggregate, Lane>,
    waiting: usize,
    bytes: usize,
    /// Those that wait for a batch to be written.
    unwritten: BTreeSet<Aggregate>,
}

impl Lanes {
    /// Every aggregate flows freely.
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Aggregates that do not flow freely.
    pub(super) fn len(&self) -> usize {
        self.lanes.len()
    }

    /// Events that wait in memory.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Bytes of their rows.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// An aggregate that does not flow freely.
    pub(super) fn find(&mut self, key: &str) -> Option<&mut Lane> {
        self.lanes.get_mut(key)
    }

    /// An aggregate, which does not flow freely from now on.
    pub(super) fn enter(&mut self, aggregate: Aggregate) -> &mut Lane {
        self.lanes.entry(aggregate).or_default()
    }

    /// An event waits behind others of its aggregate.
    pub(super) fn wait(&mut self, key: &str, arrival: Arrival) {
        if let Some(lane) = self.lanes.get_mut(key) {
            self.waiting += 1;
            self.bytes += arrival.tuple.len();
            lane.waiting.push_back(arrival);
        }
    }

    /// Aggregates of which events wait in memory for the parking.
    pub(super) fn held_in_memory(&self) -> Vec<Aggregate> {
        let is_held = |lane: &Lane| lane.hold.is_some() && !lane.waiting.is_empty();
        let held = self.lanes.iter().filter(|(_, lane)| is_held(lane));
        held.map(|(aggregate, _)| aggregate.clone()).collect()
    }

    /// Takes what waits in memory, since it goes into the parking. The hold begins anew.
    pub(super) fn park_waiting(&mut self, key: &str) -> VecDeque<Arrival> {
        let Some(lane) = self.lanes.get_mut(key) else { return VecDeque::new() };
        let hold = lane.hold.get_or_insert_default();
        *hold = Hold { last_op: hold.last_op, ..Hold::default() };
        let waiting = std::mem::take(&mut lane.waiting);
        self.waiting -= waiting.len();
        self.bytes -= waiting.iter().map(|arrival| arrival.tuple.len()).sum::<usize>();
        waiting
    }

    /// What an aggregate does next, with as much written as `written`.
    pub(super) fn next(&mut self, key: &str, written: u64) -> Next {
        let Some(lane) = self.lanes.get_mut(key) else { return Next::Free };
        let next = lane.next(written);
        match &next {
            Next::Arrival(arrival) => {
                self.waiting -= 1;
                self.bytes -= arrival.tuple.len();
            }
            Next::Free => {
                self.lanes.remove(key);
            }
            Next::WaitForWrite => {
                self.unwritten.insert(Aggregate::written(key));
            }
            Next::Wait | Next::Parked(_) | Next::Fetch(_) => {}
        }
        next
    }

    /// What was asked for came: fewer than `limit` where there are no more.
    pub(super) fn fetched(&mut self, key: &str, rows: Vec<ParkedRow>, limit: usize) {
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.fetched(rows, limit);
        }
    }

    /// A batch was written: those who waited for one.
    pub(super) fn take_unwritten(&mut self) -> BTreeSet<Aggregate> {
        std::mem::take(&mut self.unwritten)
    }

    /// Aggregates whose hold rests on nothing in the parking, by a look that showed all that
    /// was written until `seen`: somebody took the parked event out.
    pub(super) fn without_head(&self, held: &BTreeSet<Aggregate>, seen: u64) -> Vec<Aggregate> {
        let rests_on_nothing = |(aggregate, lane): &(&Aggregate, &Lane)| {
            let is_at_rest = |hold: &Hold| !hold.is_releasing && hold.last_op <= seen;
            !lane.is_busy
                && lane.hold.as_ref().is_some_and(is_at_rest)
                && !held.contains(*aggregate)
        };
        let without = self.lanes.iter().filter(rests_on_nothing);
        without.map(|(aggregate, _)| aggregate.clone()).collect()
    }
}
