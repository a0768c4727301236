//! What is put aside, and what becomes of it: the words that the relay and the parking have
//! in common.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use postgres_types::PgLsn;

use crate::core::event::pgoutput::{StoredRow, Tuple};
use crate::core::event::relation::Mapping;
use crate::core::event::{Moment, Position, PublishingPlace, Refusal};

/// The key within which order holds: type and id, whatever table the event is of.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Aggregate(String);

/// Parts type and id. Postgres has no such character in a text.
const SEPARATOR: char = '\0';

impl Aggregate {
    /// An event without an id of its aggregate has none, and no order to keep.
    pub fn new(aggregate_type: Option<&str>, aggregate_id: Option<&str>) -> Option<Self> {
        let mut key = String::new();
        Self::write(aggregate_type, aggregate_id, &mut key).then_some(Self(key))
    }

    /// Writes the key into `out`, to look one up without an allocation; `false` where the
    /// event has no aggregate.
    pub(crate) fn write(
        aggregate_type: Option<&str>,
        aggregate_id: Option<&str>,
        out: &mut String,
    ) -> bool {
        out.clear();
        let Some(id) = aggregate_id else { return false };
        if let Some(aggregate_type) = aggregate_type {
            out.push_str(aggregate_type);
            out.push(SEPARATOR);
        }
        out.push_str(id);
        true
    }

    /// A key that [`write`](Self::write) wrote.
    pub(crate) fn written(key: &str) -> Self {
        Self(key.to_owned())
    }

    /// Type and id.
    pub(crate) fn parts(&self) -> (Option<&str>, &str) {
        match self.0.split_once(SEPARATOR) {
            Some((aggregate_type, id)) => (Some(aggregate_type), id),
            None => (None, &self.0),
        }
    }
}

impl std::borrow::Borrow<str> for Aggregate {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts() {
            (Some(aggregate_type), id) => write!(f, "{aggregate_type}/{id}"),
            (None, id) => f.write_str(id),
        }
    }
}

/// Where a parked event stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParkedState {
    /// It is tried again after this pause.
    Parked(Duration),
    /// It waits behind an older one of its aggregate, and was never tried.
    Queued,
    /// Its tries are used up.
    Failed,
    /// The dead-letter exchange took it.
    DeadLettered,
}

/// An event to be put aside.
#[derive(Debug, Clone)]
pub struct Park {
    /// Number of the event.
    pub number: u64,
    /// Its place in commit order.
    pub position: Position,
    /// Its id, where it can be read.
    pub id: Option<String>,
    /// Its aggregate, if it has one.
    pub aggregate: Option<Aggregate>,
    /// Which of the configured tables it is of, and the columns of the row.
    pub mapping: Arc<Mapping>,
    /// The row.
    pub tuple: Tuple,
    /// When it was committed, in microseconds since 2000-01-01 UTC.
    pub commit_time: i64,
    /// The transaction that wrote the row, where that is known.
    pub xid: Option<u32>,
    /// Where it stands.
    pub state: ParkedState,
    /// Later events of its aggregate wait behind it.
    pub is_holding: bool,
    /// Why it could not be delivered; none where it only waits.
    pub refusal: Option<Refusal>,
}

impl PartialEq for Park {
    fn eq(&self, other: &Self) -> bool {
        (self.number, self.position, self.state) == (other.number, other.position, other.state)
    }
}

impl Eq for Park {}

/// What became of a try of a parked event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Which parked event.
    pub seq: i64,
    /// Which of the configured tables it is of.
    pub table: usize,
    /// Its id, where it can be read.
    pub id: Option<String>,
    /// The outcome.
    pub outcome: AttemptOutcome,
}

/// The outcome of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// A queue took it.
    Delivered {
        /// Tries that were refused before.
        attempts: u32,
        /// The transaction that wrote its row.
        xid: Option<u32>,
        /// What its row's column of the time holds.
        moment: Option<Moment>,
    },
    /// It was claimed, and not sent.
    Withdrawn,
    /// It was refused again.
    Refused {
        /// Tries so far.
        attempts: u32,
        /// Where it stands now.
        state: ParkedState,
        /// Why.
        refusal: Refusal,
    },
}

/// A parked event, to be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedRow {
    /// Its number in the parking, which rises in commit order.
    pub seq: i64,
    /// Its place in commit order.
    pub position: Position,
    /// Its id, where it can be read.
    pub id: Option<String>,
    /// Its aggregate, if it has one.
    pub aggregate: Option<Aggregate>,
    /// Later events of its aggregate wait behind it.
    pub is_holding: bool,
    /// Tries so far.
    pub attempts: u32,
    /// The broker closed the channel over it: nothing else should be in flight at its next try.
    pub is_alone: bool,
    /// The first transaction that had not begun when the row was known, where it is known which
    /// wrote it.
    pub xid_end: Option<u32>,
    /// The row.
    pub row: StoredRow,
}

/// The next events of an aggregate, as the parking says when it is asked for them to be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// They are marked as taken.
    Claimed {
        /// The events, in order: one at least.
        rows: VecDeque<ParkedRow>,
        /// Few are behind them.
        is_tail: bool,
    },
    /// There is one, and it waits for its time or for an operator.
    Waits,
    /// There is none.
    None,
}

/// A parked event whose time has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Its number in the parking.
    pub seq: i64,
    /// The aggregate that waits for it, if one does.
    pub aggregate: Option<Aggregate>,
    /// The broker closed the channel over it: nothing else should be in flight at its next try.
    pub is_alone: bool,
}

/// What a look at the parking found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schedule {
    /// Events whose time has come, the oldest first; not all of them, where there are many.
    pub due: Vec<Due>,
    /// Every aggregate whose first event was tried, and waits for its time or for an operator.
    pub held: Vec<Aggregate>,
    /// Every aggregate of which anything waits; filled by the first look of a session only.
    pub waiting: Vec<Aggregate>,
    /// Until the next event is due.
    pub next_due: Option<Duration>,
    /// Who paused the relay, and their note; `None` where nobody did.
    pub paused_by: Option<String>,
    /// Events that the stream brings again; filled by the first look of a session only.
    pub ahead: Ahead,
}

/// Events that were put aside, in whatever state they are now, and lie ahead in the stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ahead {
    /// By their places: which of the configured tables each is of, and its id.
    pub events: BTreeMap<Position, (usize, Option<String>)>,
    /// The WAL was written up to here when they were read.
    pub written_lsn: Option<PgLsn>,
}

/// An event that was put aside has this added to its number within the transaction where the changes of that are
/// counted otherwise since: `progress/count_messages.sql`. No transaction has so many changes.
pub(crate) const OTHER_COUNT: u64 = 1 << 40;

impl Ahead {
    /// The event at this place is one of them. Its id is asked as well: in a database that was
    /// moved to another server, LSNs begin again. Of a transaction that was counted otherwise when it was put aside
    /// ([`OTHER_COUNT`]) only the id is known, and the commit. Returns the place that its record has.
    pub(crate) fn take(
        &mut self,
        position: Position,
        table: usize,
        id: Option<&str>,
    ) -> Option<(PgLsn, Position)> {
        let is_it = |(of, known): &(usize, Option<String>)| *of == table && known.as_deref() == id;
        if let Some(known) = self.events.remove(&position) {
            return self.written_lsn.filter(|_| is_it(&known)).map(|lsn| (lsn, position));
        }
        let counted = |index| Position { index, ..position };
        let mut others = self.events.range(counted(OTHER_COUNT)..=counted(u64::MAX));
        let at = others.find_map(|(at, known)| is_it(known).then_some(*at))?;
        self.events.remove(&at);
        self.written_lsn.map(|lsn| (lsn, at))
    }
}

/// Everything that is written about parked events in one transaction.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ParkingBatch {
    /// Events put aside, in commit order within each aggregate.
    pub parks: Vec<Park>,
    /// What became of tries, in their order.
    pub attempts: Vec<Attempt>,
    /// How much was to be written until here, over the session.
    pub through: u64,
    /// Of each, as many were to be written before, and somebody had a lock on the parking.
    pub given_back: (usize, usize),
}

/// A row of more bytes than that is not written like the others: it would be in memory several times, and
/// all else would wait behind it.
const LARGE_BYTES: usize = 8 << 20;

impl Park {
    /// Its row is far larger than most.
    pub(crate) fn is_large(&self) -> bool {
        self.tuple.size() > LARGE_BYTES
    }
}

impl ParkingBatch {
    /// Bytes of rows that are far larger than most.
    pub(crate) fn large_bytes(&self) -> usize {
        let large = self.parks.iter().filter(|park| park.is_large());
        large.map(|park| park.tuple.size()).sum()
    }

    /// There is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.parks.is_empty() && self.attempts.is_empty()
    }
}

#[derive(Debug)]
struct Unsafe {
    number: u64,
    place: PublishingPlace,
    /// Where it is in the WAL, once written.
    written: Option<PgLsn>,
}

/// What is still to be written of them, and what is written but may be lost in a crash of the
/// server (`synchronous_commit = off`). Unlike a mark, it is never given up: an event that is
/// neither delivered nor parked is lost.
#[derive(Debug, Default)]
pub(crate) struct UnwrittenBatch {
    next: ParkingBatch,
    in_flight: bool,
    bytes: usize,
    pushed: u64,
    written: u64,
    open: Vec<Unsafe>,
}

impl UnwrittenBatch {
    /// An event is put aside, at this place; returns how much is to be written until here.
    pub(crate) fn park(&mut self, park: Park, place: PublishingPlace) -> u64 {
        self.open.push(Unsafe { number: park.number, place, written: None });
        self.bytes += park.tuple.size();
        self.next.parks.push(park);
        self.pushed += 1;
        self.pushed
    }

    /// An event that an earlier session put aside came again. That is known from this place of
    /// the WAL, and may be lost in a crash as what this session writes may be.
    pub(crate) fn parked_before(
        &mut self,
        number: u64,
        place: PublishingPlace,
        written_lsn: PgLsn,
    ) {
        self.open.push(Unsafe { number, place, written: Some(written_lsn) });
    }

    /// A parked event was tried; returns how much is to be written until here.
    pub(crate) fn attempt(&mut self, attempt: Attempt) -> u64 {
        self.next.attempts.push(attempt);
        self.pushed += 1;
        self.pushed
    }

    /// How much is written, of what was to be.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Nothing waits to be written.
    pub(crate) fn is_empty(&self) -> bool {
        self.next.is_empty() && !self.in_flight
    }

    /// Something waits for the next batch.
    pub(crate) fn is_pending(&self) -> bool {
        !self.next.is_empty()
    }

    /// Bytes that wait for the next batch.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes what waits.
    pub(crate) fn take(&mut self) -> ParkingBatch {
        let mut parking = std::mem::take(&mut self.next);
        parking.through = self.pushed;
        self.bytes = 0;
        self.in_flight = true;
        parking
    }

    /// What was taken could not be written: it goes with the next batch, before what came since.
    pub(crate) fn give_back(&mut self, parking: ParkingBatch) {
        self.in_flight = false;
        self.bytes += parking.parks.iter().map(|park| park.tuple.size()).sum::<usize>();
        self.next.given_back = (parking.parks.len(), parking.attempts.len());
        self.next.parks.splice(..0, parking.parks);
        self.next.attempts.splice(..0, parking.attempts);
    }

    /// A batch was written, behind this place of the WAL.
    pub(crate) fn wrote(&mut self, parking: &ParkingBatch, written_lsn: PgLsn) {
        self.in_flight = false;
        self.written = self.written.max(parking.through);
        let parks = parking.parks.len();
        let unwritten = self.open.iter_mut().filter(|open| open.written.is_none());
        unwritten.take(parks).for_each(|open| open.written = Some(written_lsn));
    }

    /// The WAL is on disk up to here.
    pub(crate) fn flushed(&mut self, lsn: PgLsn) {
        self.open.retain(|open| open.written.is_none_or(|written| written > lsn));
    }

    /// Something is written and not known to be on disk.
    pub(crate) fn is_unflushed(&self) -> bool {
        !self.open.is_empty()
    }

    /// Every event put aside before this number is safe; `None`: all are.
    pub(crate) fn through(&self) -> Option<u64> {
        self.open.iter().map(|open| open.number).min()
    }

    /// The first place of an event that is put aside and may still be lost.
    pub(crate) fn first_unsafe(&self) -> Option<PublishingPlace> {
        self.open.iter().map(|open| open.place).min_by_key(|place| place.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_was_counted_otherwise_is_known_by_its_commit_and_id() {
        let at = |commit: u64, index| Position { commit_lsn: PgLsn::from(commit), index };
        let (lsn, id) = (PgLsn::from(900), || Some("a".to_owned()));
        let events = [(at(100, 3), (0, id())), (at(200, OTHER_COUNT + 3), (0, id()))];
        let mut ahead = Ahead { events: events.into(), written_lsn: Some(lsn) };
        assert_eq!(ahead.take(at(100, 5), 0, Some("a")), None, "it is counted as ever");
        assert_eq!(ahead.take(at(200, 7), 1, Some("a")), None, "of another table");
        assert_eq!(ahead.take(at(200, 7), 0, Some("b")), None);
        assert_eq!(ahead.take(at(300, 3), 0, Some("a")), None);
        assert_eq!(ahead.take(at(200, 7), 0, Some("a")), Some((lsn, at(200, OTHER_COUNT + 3))));
        assert_eq!(ahead.take(at(200, 8), 0, Some("a")), None, "once");
        assert_eq!(ahead.take(at(100, 3), 0, Some("a")), Some((lsn, at(100, 3))));
    }
}
