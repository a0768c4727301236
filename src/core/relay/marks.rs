//! Which settled events still wait for their mark.
//!
//! A mark can be late: the row is not yet visible to others when its event arrives (the
//! walsender may send a commit before the server ends it), or somebody holds a lock on it. Or
//! the server refuses it: a trigger raises, a constraint is violated, a right is gone.
//! Such a mark is tried again, holds the LSN for a bounded time, and is counted when given up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use postgres_types::{PgLsn, ToSql};

use crate::core::event::{Moment, Position, PublishingPlace};
use crate::core::parked::ParkingBatch;

/// Pauses before the tries of a mark that could not be written; the last one repeats.
const PAUSES_MS: [u64; 5] = [10, 50, 250, 1_000, 5_000];
/// The same for a mark that the server refused: hardly anything but a person ends that.
const REFUSED_PAUSES_MS: [u64; 3] = [1_000, 5_000, 15_000];
/// The same for a mark that was not tried by itself: there is nothing to wait for.
const SUSPECTED_PAUSE_MS: u64 = 10;
/// Most marks that wait to be tried again; of more, the oldest are given up.
const MISSING_LIMIT: usize = 50_000;
/// So many of them are given up at once.
const MISSING_EXCESS: usize = 5_000;
/// As many of them that still hold the LSN that no more events should come.
const MISSING_MANY: usize = 40_000;

/// Why the server refused a mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkError {
    /// The SQLSTATE.
    pub code: String,
    /// Its words.
    pub message: String,
    /// Somebody holds a lock on the whole table.
    pub is_lock: bool,
    /// The database's own code raised it: its code says nothing of the statement's rights and tables.
    pub is_of_trigger: bool,
}

/// Why a mark could not be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// Its row is locked, or not visible yet.
    Waits,
    /// The server refused it.
    Refused(Arc<MarkError>),
    /// The server refused others that it was to be written with, and it was not tried without them:
    /// that is done soon.
    Suspected,
}

/// What tells the row of an event from others with its id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The transaction that wrote it.
    pub xid: Option<u32>,
    /// The first transaction that had not begun then; `None`: that has not when the mark is written.
    pub xid_end: Option<u32>,
    /// When the event happened, by the row's own account: as text, for a mark that does not stand in the row
    /// itself.
    pub occurred_at: Option<Box<str>>,
}

/// Many of them, as `mark_side_table.sql` takes them.
#[derive(Debug, Default)]
pub(crate) struct Origins<'a> {
    xids: Vec<Option<i64>>,
    xid_ends: Vec<Option<i64>>,
    times: Vec<Option<&'a str>>,
}

impl<'a> FromIterator<&'a Origin> for Origins<'a> {
    fn from_iter<T: IntoIterator<Item = &'a Origin>>(origins: T) -> Self {
        let mut all = Self::default();
        for Origin { xid, xid_end, occurred_at } in origins {
            all.xids.push(xid.map(i64::from));
            all.xid_ends.push(xid_end.map(i64::from));
            all.times.push(occurred_at.as_deref());
        }
        all
    }
}

impl Origins<'_> {
    /// The parameters of the statement, behind the ids.
    pub(crate) fn parameters(&self) -> [&(dyn ToSql + Sync); 3] {
        [&self.xids, &self.xid_ends, &self.times]
    }
}

/// A mark to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Number of the event; `None` where no LSN waits for it.
    pub number: Option<u64>,
    /// Which of the configured tables.
    pub table: usize,
    /// Id of the row.
    pub id: String,
    /// The event's place in commit order: what the parking knows it by.
    pub position: Position,
    /// The transaction that inserted the row: once it has ended, a row that is not there is
    /// gone. `None`: it has ended long since.
    pub xid: Option<u32>,
    /// An earlier session settled it: perhaps it was parked and not delivered.
    pub is_repeat: bool,
    /// What its row's column of the time holds, where that was read: it tells the row, and its partition.
    pub moment: Option<Moment>,
    /// What distinguishes its row from others with its id.
    pub origin: Origin,
    tries: usize,
    /// When it could first not be written.
    missing_since: Option<Duration>,
    /// Why the server refused it the last time.
    refused: Option<Arc<MarkError>>,
    /// It was to be written with others that the server refused.
    is_suspected: bool,
}

impl Mark {
    /// A mark that was not tried yet.
    pub(crate) fn new(number: Option<u64>, table: usize, id: String, xid: Option<u32>) -> Self {
        Self {
            number,
            table,
            id,
            position: Position::start(),
            xid,
            is_repeat: false,
            moment: None,
            origin: Origin::default(),
            tries: 0,
            missing_since: None,
            refused: None,
            is_suspected: false,
        }
    }

    /// The mark of a row whose column of the time holds this.
    #[must_use]
    pub(crate) fn at(self, moment: Option<Moment>) -> Self {
        Self { moment, ..self }
    }

    /// The mark of the row with this origin.
    #[must_use]
    pub(crate) fn from(self, origin: Origin) -> Self {
        Self { origin, ..self }
    }

    /// The mark of the event at this place.
    #[must_use]
    pub(crate) fn of(self, position: Position) -> Self {
        Self { position, ..self }
    }

    /// The mark of an event that an earlier session settled.
    #[must_use]
    pub(crate) fn repeated(self) -> Self {
        Self { is_repeat: true, ..self }
    }

    /// It could not be written before.
    pub(crate) fn is_retry(&self) -> bool {
        self.tries > 0
    }

    /// Why the server refused it the last time; `None` where it did not.
    pub(crate) fn refused(&self) -> Option<&Arc<MarkError>> {
        self.refused.as_ref()
    }

    /// It is not to be written together with others: one that was refused would be again, and takes
    /// those along that are written in the same statement.
    pub fn goes_apart(&self) -> bool {
        self.refused.is_some() || self.is_suspected
    }
}

/// How a batch is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Extent {
    /// In one transaction.
    #[default]
    Whole,
    /// Its marks, and then the rest: somebody had a lock on that.
    Apart,
    /// There is nothing but marks in it: somebody has a lock on the rest.
    MarksAlone,
}

/// What of a batch is not written besides its marks, since somebody has a lock on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Left {
    /// All of it is written.
    #[default]
    Nothing,
    /// How far the events are settled.
    Progress,
    /// Nor what is put aside and was tried.
    ParkingAndProgress,
}

/// Marks that are written in one transaction, with the progress row.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch {
    /// How it is written.
    pub extent: Extent,
    /// The marks.
    pub marks: Vec<Mark>,
    /// What is put aside, and what became of what was.
    pub parking: ParkingBatch,
    /// Everything before this place is settled.
    pub place: PublishingPlace,
    /// The highest one that a stream has confirmed; 0 where none has yet in this session.
    pub confirmed_id: u64,
    /// Events settled when the batch was made.
    pub settled: u64,
}

impl Batch {
    /// Nothing is written but the place.
    pub(crate) fn is_progress_alone(&self) -> bool {
        self.extent == Extent::Whole && self.marks.is_empty() && self.parking.is_empty()
    }
}

/// What became of a [`Batch`].
#[derive(Debug)]
pub struct WrittenBatch {
    /// The batch.
    pub batch: Batch,
    /// Which of its marks could not be written, ascending.
    pub missing: Vec<UnwrittenMark>,
    /// What else could not: it goes with a later one.
    pub left: Left,
    /// Behind the batch in the WAL.
    pub written_lsn: PgLsn,
    /// The WAL is on disk up to here.
    pub flushed_lsn: PgLsn,
}

impl WrittenBatch {
    /// The progress row says its place.
    pub(crate) fn is_recorded(&self) -> bool {
        self.left == Left::Nothing && self.batch.extent != Extent::MarksAlone
    }
}

/// A mark that could not be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnwrittenMark {
    /// Its place in the batch.
    pub place: usize,
    /// Why.
    pub why: Why,
}

impl UnwrittenMark {
    /// Its row is locked, or not visible yet.
    pub fn waits(place: usize) -> Self {
        Self { place, why: Why::Waits }
    }
}

#[derive(Debug)]
struct MissingMark {
    mark: Mark,
    since: Duration,
    next_try: Duration,
}

/// How long marks may wait; see [`Audit`](crate::config::Audit).
#[derive(Debug, Clone, Copy)]
pub(crate) struct MarkPatience {
    /// A mark that cannot be written holds the LSN for so long …
    pub hold: Duration,
    /// … and is tried for so long.
    pub give_up: Duration,
}

/// The marks of one session.
#[derive(Debug)]
pub(crate) struct Marks {
    patience: MarkPatience,
    pending: VecDeque<Mark>,
    /// They are not in the order of their numbers: events may settle in another.
    is_shuffled: bool,
    /// Marks that go with the next batch, whatever its size.
    urgent: Vec<Mark>,
    is_writing: bool,
    /// The lowest number of the batch that is being written.
    in_flight: Option<u64>,
    missing: Vec<MissingMark>,
    /// Written, but in the WAL only: lost if the server crashes now
    /// (`synchronous_commit = off`). The lowest number of each batch.
    unflushed: Vec<(Option<u64>, PgLsn)>,
    given_up: u64,
    /// Of these, those that were not reported yet.
    untold: Vec<Mark>,
    is_crowded: bool,
}

impl Marks {
    /// No marks wait.
    pub(crate) fn new(patience: MarkPatience) -> Self {
        Self {
            patience,
            pending: VecDeque::new(),
            is_shuffled: false,
            urgent: Vec::new(),
            is_writing: false,
            in_flight: None,
            missing: Vec::new(),
            unflushed: Vec::new(),
            given_up: 0,
            untold: Vec::new(),
            is_crowded: false,
        }
    }

    /// An event is settled: it gets its mark.
    pub(crate) fn push(&mut self, mark: Mark) {
        let last = self.pending.back().map(|last| last.number);
        self.is_shuffled &= last.is_some();
        self.is_shuffled |= last.is_some_and(|last| last > mark.number);
        self.pending.push_back(mark);
    }

    fn lowest_pending(&self) -> Option<u64> {
        match self.is_shuffled {
            true => self.pending.iter().filter_map(|mark| mark.number).min(),
            false => self.pending.front().and_then(|mark| mark.number),
        }
    }

    /// A parked event is delivered: its mark is written together with its leaving the parking,
    /// after which nobody would know of it. No LSN waits for it.
    pub(crate) fn push_urgent(&mut self, mark: Mark) {
        self.urgent.push(mark);
    }

    /// Marks that wait for their first try or for another.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &Mark> {
        let missing = self.missing.iter().map(|missing| &missing.mark);
        self.urgent.iter().chain(&self.pending).chain(missing)
    }

    /// Marks that wait for their first try.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// A batch is being written.
    pub(crate) fn is_writing(&self) -> bool {
        self.is_writing
    }

    /// Marks given up so far: the row stays unmarked although its event was delivered.
    pub(crate) fn given_up(&self) -> u64 {
        self.given_up
    }

    /// Marks that were given up since the last call.
    pub(crate) fn take_given_up(&mut self) -> Vec<Mark> {
        std::mem::take(&mut self.untold)
    }

    /// Marks that could not be written yet.
    #[cfg(test)]
    fn missing(&self) -> usize {
        self.missing.len()
    }

    /// So many could not be written, and hold the LSN, that more should not be settled. Those
    /// that hold it no longer stop nobody: a table that takes no marks is not to stop the others.
    pub(crate) fn is_crowded(&self) -> bool {
        self.is_crowded
    }

    fn count_crowd(&mut self, now: Duration) {
        let hold = self.patience.hold;
        let held = self.missing.iter().filter(|missing| now < missing.since + hold).count();
        self.is_crowded = held >= MISSING_MANY;
    }

    /// Nothing waits to be written, to be tried again or to reach the disk. What has been
    /// tried for longer than it may hold the LSN does not hold up the end of a session either.
    pub(crate) fn is_idle(&self, now: Duration) -> bool {
        let is_held = |missing: &MissingMark| now < missing.since + self.patience.hold;
        self.through(now).is_none()
            && !self.is_writing
            && self.urgent.is_empty()
            && !self.missing.iter().any(is_held)
    }

    /// Something is written and not known to be on disk.
    pub(crate) fn is_unflushed(&self) -> bool {
        !self.unflushed.is_empty()
    }

    /// When the next mark is to be tried again.
    pub(crate) fn next_try(&self) -> Option<Duration> {
        self.missing.iter().map(|missing| missing.next_try).min()
    }

    /// When a mark stops holding the LSN.
    pub(crate) fn next_release(&self, now: Duration) -> Option<Duration> {
        let releases = self.missing.iter().map(|missing| missing.since + self.patience.hold);
        releases.filter(|at| *at > now).min()
    }

    /// Takes up to `limit` marks to be written now: those due again first, for they are older,
    /// but leaving half of the room to new ones.
    pub(crate) fn take(&mut self, now: Duration, limit: usize) -> Vec<Mark> {
        debug_assert!(!self.is_writing, "one batch at a time");
        self.count_crowd(now);
        let due = self.missing.extract_if(.., |missing| missing.next_try <= now);
        let due = due.take(limit.div_ceil(2)).map(|missing| missing.mark);
        let mut marks: Vec<Mark> = self.urgent.drain(..).chain(due).collect();
        let room = limit.saturating_sub(marks.len());
        marks.extend(self.pending.drain(..room.min(self.pending.len())));
        (self.is_writing, self.in_flight) = (true, lowest(&marks));
        marks
    }

    /// As [`take`](Self::take), without those that go with what is written of the parking.
    pub(crate) fn take_alone(&mut self, now: Duration, limit: usize) -> Vec<Mark> {
        let urgent = std::mem::take(&mut self.urgent);
        let marks = self.take(now, limit);
        self.urgent = urgent;
        marks
    }

    /// Takes in what became of a batch.
    pub(crate) fn written(&mut self, now: Duration, written: WrittenBatch) {
        (self.is_writing, self.in_flight) = (false, None);
        if !written.batch.marks.is_empty() {
            self.unflushed.push((lowest(&written.batch.marks), written.written_lsn));
        }
        let mut missing = written.missing.into_iter().peekable();
        for (place, mut mark) in written.batch.marks.into_iter().enumerate() {
            if let Some(missed) = missing.next_if(|missed| missed.place == place) {
                mark.is_suspected = missed.why == Why::Suspected;
                match missed.why {
                    Why::Waits => mark.refused = None,
                    Why::Refused(why) => mark.refused = Some(why),
                    Why::Suspected => {}
                }
                self.retry(now, mark);
            }
        }
        self.make_room();
        self.count_crowd(now);
        self.flushed(written.flushed_lsn);
    }

    fn retry(&mut self, now: Duration, mut mark: Mark) {
        let since = *mark.missing_since.get_or_insert(now);
        if now.saturating_sub(since) >= self.patience.give_up {
            return self.give_up(mark);
        }
        let is_suspected = mark.is_suspected;
        let pauses = if mark.refused.is_some() { &REFUSED_PAUSES_MS[..] } else { &PAUSES_MS[..] };
        let pause = pauses.get(mark.tries).or(pauses.last()).copied().unwrap_or_default();
        let pause = if is_suspected { SUSPECTED_PAUSE_MS } else { pause };
        // Not after its time is over: it would wait for nothing then.
        let next_try = now + Duration::from_millis(pause);
        let next_try = next_try.min(since + self.patience.give_up).max(now);
        mark.tries += usize::from(!is_suspected);
        self.missing.push(MissingMark { mark, since, next_try });
    }

    /// The session is over, and all is acknowledged: nobody tries them again.
    pub(crate) fn leave(&mut self) {
        let missing = std::mem::take(&mut self.missing);
        missing.into_iter().for_each(|missing| self.give_up(missing.mark));
    }

    fn give_up(&mut self, mark: Mark) {
        self.given_up += 1;
        self.untold.push(mark);
    }

    fn make_room(&mut self) {
        if self.missing.len() <= MISSING_LIMIT {
            return;
        }
        self.missing.sort_by_key(|missing| missing.since);
        let oldest: Vec<MissingMark> = self.missing.drain(..MISSING_EXCESS).collect();
        oldest.into_iter().for_each(|missing| self.give_up(missing.mark));
    }

    /// The WAL is on disk up to here.
    pub(crate) fn flushed(&mut self, lsn: PgLsn) {
        self.unflushed.retain(|(_, written)| *written > lsn);
    }

    /// Every event before this number has its mark safe, or has waited for it long enough; `None`:
    /// all have.
    pub(crate) fn through(&self, now: Duration) -> Option<u64> {
        let held = self.missing.iter().filter(|missing| now < missing.since + self.patience.hold);
        let open = [
            self.lowest_pending(),
            self.in_flight,
            held.filter_map(|missing| missing.mark.number).min(),
            self.unflushed.iter().filter_map(|(number, _)| *number).min(),
        ];
        open.into_iter().flatten().min()
    }
}

fn lowest(marks: &[Mark]) -> Option<u64> {
    marks.iter().filter_map(|mark| mark.number).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_that_waits_too_long_holds_up_nothing() {
        let seconds = Duration::from_secs;
        let lsn = PgLsn::from(100);
        let mut marks = Marks::new(MarkPatience { hold: seconds(10), give_up: seconds(300) });
        marks.push(Mark::new(Some(0), 0, "a".into(), Some(7)));
        assert_eq!(marks.through(seconds(0)), Some(0), "it is not written");
        let batch = Batch {
            extent: Extent::Whole,
            marks: marks.take(seconds(0), 9),
            parking: ParkingBatch::default(),
            place: PublishingPlace::start(),
            confirmed_id: 0,
            settled: 1,
        };
        let written = WrittenBatch {
            left: Left::Nothing,
            batch,
            missing: vec![UnwrittenMark::waits(0)],
            written_lsn: lsn,
            flushed_lsn: lsn,
        };
        marks.written(seconds(0), written);
        assert_eq!(marks.through(seconds(9)), Some(0), "it was missed, and holds the LSN");
        assert!(!marks.is_idle(seconds(9)));
        assert_eq!(marks.through(seconds(10)), None);
        assert!(marks.is_idle(seconds(10)), "the end of a session does not wait for it either");
        assert_eq!((marks.missing(), marks.given_up()), (1, 0), "it is tried on");
    }

    fn refused(marks: &mut Marks, now: Duration, limit: usize) -> usize {
        let batch = Batch {
            extent: Extent::Whole,
            marks: marks.take(now, limit),
            parking: ParkingBatch::default(),
            place: PublishingPlace::start(),
            confirmed_id: 0,
            settled: 1,
        };
        let why = Arc::new(MarkError {
            code: "P0001".into(),
            message: "no".into(),
            is_lock: false,
            is_of_trigger: true,
        });
        let refused = |place| UnwrittenMark { place, why: Why::Refused(Arc::clone(&why)) };
        let count = batch.marks.len();
        let missing = (0..count).map(refused).collect();
        let lsn = PgLsn::from(100);
        marks.written(
            now,
            WrittenBatch {
                batch,
                missing,
                left: Left::Nothing,
                written_lsn: lsn,
                flushed_lsn: lsn,
            },
        );
        count
    }

    #[test]
    fn a_table_that_takes_no_marks_stops_nobody_and_is_bounded() {
        let seconds = Duration::from_secs;
        let mut marks = Marks::new(MarkPatience { hold: seconds(10), give_up: seconds(300) });
        let mut number = 0;
        for second in 0..200 {
            for _ in 0..1_000 {
                marks.push(Mark::new(Some(number), 0, number.to_string(), None));
                number += 1;
            }
            while marks.pending() > 0 {
                let before = marks.pending();
                refused(&mut marks, seconds(second), 500);
                assert!(before - marks.pending() >= 250, "what is due again takes all the room");
            }
            assert!(!marks.is_crowded(), "at {second} s with {}", marks.missing());
            assert!(marks.missing() <= MISSING_LIMIT);
        }
        let gone: Vec<u64> = marks.take_given_up().iter().filter_map(|mark| mark.number).collect();
        let all = number - u64::try_from(marks.missing()).unwrap_or(0);
        assert_eq!(u64::try_from(gone.len()).unwrap_or(0), all, "each is missing or told of");
        assert!(gone.iter().all(|number| *number < all + 1_000), "the oldest go first");
    }

    #[test]
    fn many_that_hold_the_lsn_are_waited_for() {
        let seconds = Duration::from_secs;
        let mut marks = Marks::new(MarkPatience { hold: seconds(10), give_up: seconds(300) });
        for number in 0..40_000 {
            marks.push(Mark::new(Some(number), 0, number.to_string(), None));
        }
        while marks.pending() > 0 {
            refused(&mut marks, seconds(0), 500);
        }
        assert!(marks.is_crowded());
        refused(&mut marks, seconds(11), 500);
        assert!(!marks.is_crowded());
    }
}
