//! What stands in the parking, and when to look at it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::arrival::{Arrival, Ready, Source};
use super::outcome::Try;
use super::{Effect, Relay};
use crate::event::Refusal;
use crate::parked::{Aggregate, Looked, ParkedRow};
use crate::pgoutput::StoredRow;

/// Rows that are fetched at once behind a parked event. One fetch that brings fewer shows
/// that the parking has no more.
pub(super) const BEHIND: usize = 64;
/// Shortest pause between looks: what is due may be on its way already.
const PAUSE: Duration = Duration::from_millis(100);

/// A session is so old before it tries an event over which the broker may close the channel: the
/// stream has its turn first, or such an event would end session after session before it.
const ALONE_AFTER: Duration = Duration::from_secs(2);

/// When to look at the parking, and what is known from the last look.
#[derive(Debug, Default)]
pub(super) struct Attention {
    has_looked: bool,
    is_asked: bool,
    next: Duration,
    last: Option<Duration>,
    /// How much was written when the look under way began.
    written: u64,
    /// Parked events that are being tried, or whose outcome is to be written, and until where.
    /// The parking still shows them as they were.
    busy: BTreeMap<i64, Option<u64>>,
}

impl Attention {
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

    /// The outcome of a try is to be written, as so much.
    pub(super) fn tried(&mut self, seq: i64, op: u64) {
        self.busy.insert(seq, Some(op));
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
    pub(super) fn looked(&mut self, now: Duration, looked: Looked, effects: &mut Vec<Effect>) {
        let Looked { due, held, queued, next_due, paused_by } = looked;
        self.paused_by = paused_by;
        // While it is paused, what is due stays due: the look after the pause finds it.
        let next_due = next_due.filter(|_| self.paused_by.is_none());
        let poll = self.rules.parking.poll_interval;
        let is_first = self.attention.looked(now, next_due.map_or(poll, |due| due.min(poll)));
        let held: BTreeSet<Aggregate> = held.into_iter().collect();
        if is_first {
            for aggregate in held.iter().cloned().chain(queued) {
                self.lanes.enter(aggregate).hold.get_or_insert_default();
            }
        }
        let due = if self.paused_by.is_none() { due } else { Vec::new() };
        for row in due {
            if !self.attention.busy.contains_key(&row.seq) {
                self.retry_head(now, row);
            }
        }
        // Somebody took out what an aggregate waited for.
        for aggregate in self.lanes.without_head(&held, self.attention.written) {
            let key: &str = std::borrow::Borrow::borrow(&aggregate);
            if let Some(hold) = self.lanes.find(key).and_then(|lane| lane.hold.as_mut()) {
                hold.release(0);
            }
            self.advance(now, &aggregate, effects);
        }
    }

    /// What was asked for came.
    pub(super) fn behind(
        &mut self,
        now: Duration,
        aggregate: &Aggregate,
        rows: Vec<ParkedRow>,
        effects: &mut Vec<Effect>,
    ) {
        self.lanes.fetched(std::borrow::Borrow::borrow(aggregate), rows, BEHIND);
        self.advance(now, aggregate, effects);
    }

    fn is_to_be_alone(&self, row: &ParkedRow) -> bool {
        row.is_alone || self.memory.suspects.contains(&row.seq)
    }

    /// The time of a parked event has come.
    fn retry_head(&mut self, now: Duration, row: ParkedRow) {
        if now < ALONE_AFTER && self.is_to_be_alone(&row) {
            self.attention.due(ALONE_AFTER);
            return;
        }
        if row.is_holding
            && let Some(aggregate) = &row.aggregate
        {
            let lane = self.lanes.enter(aggregate.clone());
            let hold = lane.hold.get_or_insert_default();
            if lane.is_busy || hold.is_releasing {
                return;
            }
        }
        self.retry(now, row);
    }

    /// Tries a parked event.
    pub(super) fn retry(&mut self, now: Duration, row: ParkedRow) {
        if self.ending.is_some() {
            return;
        }
        self.tally.retried += 1;
        self.attention.busy.insert(row.seq, None);
        let is_alone = self.is_to_be_alone(&row);
        let lane = row.aggregate.filter(|_| row.is_holding);
        if let Some(aggregate) = &lane {
            self.lanes.enter(aggregate.clone()).is_busy = true;
        }
        let ParkedRow { seq, attempts, position, id, row, .. } = row;
        let id = id.unwrap_or_default();
        let mapping = match self.shape(&row) {
            Ok(mapping) => mapping,
            Err(errors) => {
                let refusal = Refusal::unreadable("row", errors.join("; "));
                let table = row.table;
                return self.tried(now, Try { seq, attempts, position, table, id, lane }, refusal);
            }
        };
        let source = Source::Parked { seq, attempts };
        let StoredRow { tuple, commit_time, .. } = row;
        let arrival =
            Arrival { lane, ..Arrival::new(source, position, id, mapping, tuple, commit_time) };
        self.ready.push_back(Ready { arrival, letter: None, is_alone });
    }
}
