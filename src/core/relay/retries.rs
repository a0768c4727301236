//! What stands in the parking, and when to look at it.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::arrival::{Arrival, Ready, Source};
use super::outcome::Try;
use super::{Effect, Relay};
use crate::core::event::Refusal;
use crate::core::event::pgoutput::StoredRow;
use crate::core::parked::{Aggregate, Attempt, Due, Head, Looked, ParkedRow, Tried};

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
    /// Claims that were not answered yet.
    claims: usize,
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

    /// The parking is asked for events to be tried.
    pub(super) fn is_claiming(&self) -> bool {
        self.claims > 0
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
        let Looked { due, held, waiting, next_due, paused_by, ahead } = looked;
        self.paused_by = paused_by;
        // While it is paused, what is due stays due: the look after the pause finds it.
        let next_due = next_due.filter(|_| self.paused_by.is_none());
        let poll = self.rules.parking.poll_interval;
        let is_first = self.attention.looked(now, next_due.map_or(poll, |due| due.min(poll)));
        let held: BTreeSet<Aggregate> = held.into_iter().collect();
        if is_first {
            self.ahead = ahead;
            for aggregate in held.iter().cloned().chain(waiting) {
                self.lanes.hold_as_seen(aggregate);
            }
        }
        if self.paused_by.is_some() {
            return;
        }
        self.due(now, due, effects);
        // Somebody took out what an aggregate waited for, or an earlier session ended between two
        // of its events.
        for aggregate in self.lanes.without_first(&held) {
            self.look_for_first(now, &aggregate, effects);
        }
    }

    /// The time of parked events has come.
    fn due(&mut self, now: Duration, due: Vec<Due>, effects: &mut Vec<Effect>) {
        let mut alone = Vec::new();
        for Due { seq, aggregate, is_alone } in due {
            match self.attention.busy.get(&seq) {
                Some(None) => continue,
                // The look does not show its outcome yet.
                Some(Some(_)) => {
                    self.attention.due(now + PAUSE);
                    continue;
                }
                None => {}
            }
            if now < ALONE_AFTER && (is_alone || self.memory.suspects.contains(&seq)) {
                self.attention.due(ALONE_AFTER);
                continue;
            }
            match aggregate {
                Some(aggregate) => {
                    self.lanes.hold_as_seen(aggregate.clone());
                    self.look_for_first(now, &aggregate, effects);
                }
                None => alone.push(seq),
            }
        }
        if !alone.is_empty() && self.ending.is_none() {
            self.attention.busy.extend(alone.iter().map(|seq| (*seq, None)));
            self.attention.claims += 1;
            effects.push(Effect::ClaimAlone(alone));
        }
    }

    fn look_for_first(&mut self, now: Duration, aggregate: &Aggregate, effects: &mut Vec<Effect>) {
        let seen = self.attention.written;
        match self.lanes.look_for_first(aggregate.borrow(), seen) {
            true => self.advance(aggregate, effects),
            // The look was too early, for one: the next is not.
            false => self.attention.due(now + PAUSE),
        }
    }

    /// Asks the parking for the next event of an aggregate, which it marks as taken. From here on
    /// it is in flight, so it is only asked for where it can go.
    pub(super) fn claim(&mut self, aggregate: &Aggregate, after: i64, effects: &mut Vec<Effect>) {
        self.attention.claims += 1;
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
        self.attention.claims = self.attention.claims.saturating_sub(1);
        match self.lanes.claimed(aggregate.borrow(), head) {
            Ok(None) => self.advance(aggregate, effects),
            Ok(Some(row)) => self.retry(now, row),
            // It stopped to be asked for.
            Err(row) => self.withdraw(now, &row),
        }
    }

    /// The parking answered for events that nobody waits for: some may have been taken out.
    pub(super) fn claimed_alone(&mut self, now: Duration, asked: Vec<i64>, rows: Vec<ParkedRow>) {
        self.attention.claims = self.attention.claims.saturating_sub(1);
        for seq in asked {
            self.attention.busy.remove(&seq);
        }
        for row in rows {
            self.retry(now, row);
        }
    }

    fn is_to_be_alone(&self, row: &ParkedRow) -> bool {
        row.is_alone || self.memory.suspects.contains(&row.seq)
    }

    /// Tries a parked event that was claimed.
    fn retry(&mut self, now: Duration, row: ParkedRow) {
        if self.ending.is_some() || self.paused_by.is_some() {
            return self.withdraw(now, &row);
        }
        self.tally.retried += 1;
        self.attention.busy.insert(row.seq, None);
        let is_alone = self.is_to_be_alone(&row);
        let lane = row.aggregate.filter(|_| row.is_holding);
        let ParkedRow { seq, attempts, position, id, xid_end, row, .. } = row;
        let id = id.unwrap_or_default();
        let mapping = match self.shape(&row) {
            Ok(mapping) => mapping,
            Err(errors) => {
                let refusal = Refusal::unreadable("row", errors.join("; "));
                let table = row.table;
                return self.tried(now, Try { seq, attempts, position, table, id, lane }, refusal);
            }
        };
        // As its message has it, by which a return is known: the record may lack it, or be of another
        // mapping.
        let read = self.read(&mapping, &row.tuple).map(|()| self.id(&mapping, &row.tuple));
        let id = read.ok().filter(|id| !id.is_empty()).unwrap_or(id);
        let source = Source::Parked { seq, attempts };
        let StoredRow { tuple, commit_time, xid, .. } = row;
        let arrival = Arrival {
            lane,
            xid,
            xid_end,
            ..Arrival::new(source, position, id, mapping, tuple, commit_time)
        };
        self.ready.push_back(Ready { arrival, letter: None, is_alone });
    }

    /// A parked event that was claimed is not tried now.
    fn withdraw(&mut self, now: Duration, row: &ParkedRow) {
        let lane = row.aggregate.as_ref().filter(|_| row.is_holding);
        self.withdrawn(now, row.seq, row.row.table, row.id.clone(), lane);
    }

    fn withdrawn(
        &mut self,
        now: Duration,
        seq: i64,
        table: usize,
        id: Option<String>,
        lane: Option<&Aggregate>,
    ) {
        self.unrecorded_since.get_or_insert(now);
        let outcome = Tried::Withdrawn;
        let op = self.unwritten.attempt(Attempt { seq, table, id, outcome });
        self.attention.tried(seq, op);
        if let Some(aggregate) = lane {
            self.lanes.withdraw(aggregate.borrow(), op);
        }
    }

    /// Parked events that were claimed and have not gone are not sent any more: the relay is
    /// paused, or about to end, and what an operator does meanwhile is to count.
    pub(super) fn withdraw_ready(&mut self, now: Duration) {
        if self.ready.is_empty() {
            return;
        }
        let (parked, kept): (Vec<Ready>, Vec<Ready>) = std::mem::take(&mut self.ready)
            .into_iter()
            .partition(|ready| matches!(ready.arrival.source, Source::Parked { .. }));
        self.ready = kept.into();
        for Ready { arrival, .. } in parked {
            let Source::Parked { seq, .. } = arrival.source else { continue };
            let id = Some(arrival.id).filter(|id| !id.is_empty());
            self.withdrawn(now, seq, arrival.mapping.table, id, arrival.lane.as_ref());
        }
    }
}
