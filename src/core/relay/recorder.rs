//! What is to be written down: marks, what is put aside or was tried, and how far the events are
//! settled. All of it goes in batches, one transaction each.

use std::time::Duration;

use postgres_types::PgLsn;

use super::marks::{Batch, Extent, Left, Mark, MarkPatience, Marks, WrittenBatch};
use super::progress::Progress;
use super::waiting::{Waiting, first};
use crate::config::Audit;
use crate::core::event::{Position, PublishingPlace};
use crate::core::parked::{Attempt, Park, ParkingBatch, UnwrittenBatch};

/// Most marks that wait for their batch, in batches, before more events are taken in.
const PENDING_BATCHES: usize = 10;

/// Settled events after which the progress row is written, by itself where their marks do not fill a batch: a crash
/// repeats what it does not say, and a row alone costs next to nothing.
const PROGRESS_STEP: usize = 100;

/// What somebody has a lock on is not tried again before.
const LOCKED: Duration = Duration::from_secs(1);

/// What waits to be written, and what is known to be written.
#[derive(Debug)]
pub(super) struct Recorder {
    marks: Marks,
    unwritten: UnwrittenBatch,
    /// Most marks in one batch.
    batch: usize,
    /// Settled events after which the progress row is written.
    step: u64,
    /// Most bytes that wait to be put aside.
    most_bytes: usize,
    /// How long a mark may wait for its batch to fill.
    linger: Duration,
    /// Events whose place is in the progress row.
    recorded: u64,
    /// The progress row says at least this.
    position: Position,
    /// The session does not end before the row says at least this.
    least: Position,
    /// Since when something is settled that the row does not say.
    unrecorded_since: Option<Duration>,
    /// Somebody has a lock on what is written besides marks, which go on: when it is tried again.
    locked_until: Option<Duration>,
    /// It was written without a mark that is waited for: where in the WAL that is.
    unflushed: Option<PgLsn>,
}

impl Recorder {
    /// Nothing is to be written. Where `drops_repeats`, whatever takes the events drops those that come again.
    pub(super) fn new(audit: &Audit, most_bytes: usize, drops_repeats: bool) -> Self {
        let step = if drops_repeats { audit.batch } else { audit.batch.min(PROGRESS_STEP) };
        Self {
            step: u64::try_from(step).unwrap_or(u64::MAX),
            most_bytes,
            marks: Marks::new(MarkPatience { hold: audit.hold, give_up: audit.give_up }),
            unwritten: UnwrittenBatch::default(),
            batch: audit.batch,
            linger: audit.linger,
            recorded: 0,
            position: Position::start(),
            least: Position::start(),
            unrecorded_since: None,
            locked_until: None,
            unflushed: None,
        }
    }

    /// Something was settled.
    pub(super) fn settled(&mut self, now: Duration) {
        self.unrecorded_since.get_or_insert(now);
    }

    /// An event is settled: it gets its mark.
    pub(super) fn mark(&mut self, mark: Mark) {
        self.marks.push(mark);
    }

    /// A parked event is delivered: its mark goes with the next batch.
    pub(super) fn mark_urgently(&mut self, mark: Mark) {
        self.marks.push_urgent(mark);
    }

    /// An event is put aside, at this place. Returns how much is to be written until here.
    pub(super) fn park(&mut self, park: Park, place: PublishingPlace) -> u64 {
        self.unwritten.park(park, place)
    }

    /// A parked event was tried. Returns how much is to be written until here.
    pub(super) fn attempt(&mut self, now: Duration, attempt: Attempt) -> u64 {
        self.settled(now);
        self.unwritten.attempt(attempt)
    }

    /// An event that an earlier session put aside came again.
    pub(super) fn parked_before(
        &mut self,
        number: u64,
        place: PublishingPlace,
        written_lsn: PgLsn,
    ) {
        self.unwritten.parked_before(number, place, written_lsn);
    }

    /// How much is written of what was put aside and tried.
    pub(super) fn written(&self) -> u64 {
        self.unwritten.written()
    }

    /// The session does not end before the row says at least this.
    pub(super) fn must_reach(&mut self, least: Position) {
        self.least = least;
    }

    /// The row says how far all is settled, for the next process.
    pub(super) fn is_recorded(&self, progress: &Progress) -> bool {
        self.recorded >= progress.settled() && self.position >= self.least
    }

    /// Nothing waits to be written or tried again, but for marks that no LSN waits for any more.
    pub(super) fn is_idle(&self, now: Duration) -> bool {
        self.marks.is_idle(now) && self.unwritten.is_empty() && self.unflushed.is_none()
    }

    /// Events that a crash of this process has published again.
    fn unrecorded(&self, progress: &Progress) -> u64 {
        progress.received() - self.recorded
    }

    /// What keeps one more event from being taken in, where so many may be lost to the progress row.
    pub(super) fn waits_for(
        &self,
        progress: &Progress,
        most_unrecorded: Option<usize>,
    ) -> Option<Waiting> {
        let most = most_unrecorded.and_then(|most| u64::try_from(most).ok());
        let is_crowded =
            self.marks.is_crowded() || self.marks.pending() >= PENDING_BATCHES * self.batch;
        first([
            (most.is_some_and(|most| self.unrecorded(progress) >= most), Waiting::Progress),
            (is_crowded, Waiting::Marks),
            (self.unwritten.bytes() >= self.most_bytes, Waiting::Parking),
        ])
    }

    /// Marks that wait for their first try.
    pub(super) fn pending(&self) -> usize {
        self.marks.pending()
    }

    /// Marks that are still to be written, but for those of the batch under way.
    pub(super) fn unwritten_marks(&self) -> impl Iterator<Item = &Mark> {
        self.marks.waiting()
    }

    /// Marks given up so far.
    pub(super) fn given_up(&self) -> u64 {
        self.marks.given_up()
    }

    /// The session is over, and all is acknowledged: marks that could not be written are given up.
    pub(super) fn leave_marks(&mut self) {
        self.marks.leave();
    }

    /// Marks that were given up since the last call.
    pub(super) fn take_given_up(&mut self) -> Vec<Mark> {
        self.marks.take_given_up()
    }

    /// Takes the next batch, if one is due. Where nothing more comes, nothing is gained by waiting.
    pub(super) fn take_if_due(
        &mut self,
        now: Duration,
        progress: &Progress,
        nothing_more_comes: bool,
    ) -> Option<Batch> {
        if self.marks.is_writing() {
            return None;
        }
        let is_marking = self.is_due(now, progress, nothing_more_comes);
        if !is_marking && !self.is_behind(progress) {
            return None;
        }
        let extent = match self.locked_until {
            None => Extent::Whole,
            Some(until) if until <= now => Extent::Apart,
            Some(_) => Extent::MarksAlone,
        };
        if extent == Extent::MarksAlone {
            return Some(Batch {
                extent,
                marks: self.marks.take_alone(now, self.batch),
                parking: ParkingBatch::default(),
                place: PublishingPlace { position: self.position, ..PublishingPlace::start() },
                confirmed_id: 0,
                settled: self.recorded,
            });
        }
        let marks = self.marks.take(now, if is_marking { self.batch } else { 0 });
        // Marks that are left go on lingering.
        if is_marking || self.marks.pending() == 0 {
            self.unrecorded_since = None;
        }
        Some(Batch {
            extent,
            marks,
            parking: self.unwritten.take(),
            place: progress.place(),
            confirmed_id: progress.confirmed_id(),
            settled: progress.settled(),
        })
    }

    /// The progress row is behind, and may be written. What somebody has a lock on has its own time.
    fn is_behind(&self, progress: &Progress) -> bool {
        self.locked_until.is_none() && progress.settled() - self.recorded >= self.step
    }

    fn is_due(&self, now: Duration, progress: &Progress, nothing_more_comes: bool) -> bool {
        let is_rest = match self.locked_until.is_none() {
            true => !self.is_recorded(progress) || self.unwritten.is_pending(),
            false => self.marks.pending() > 0,
        };
        self.locked_until.is_some_and(|until| until <= now)
            || nothing_more_comes && is_rest
            || self.marks.pending() >= self.batch
            || self.linger_ends().is_some_and(|at| at <= now)
            || self.marks.next_try().is_some_and(|at| at <= now)
    }

    fn linger_ends(&self) -> Option<Duration> {
        let unrecorded = self.unrecorded_since.filter(|_| self.locked_until.is_none());
        let since = unrecorded.or((self.marks.pending() > 0).then_some(Duration::ZERO));
        since.map(|since| since + self.linger)
    }

    /// When the next batch is due, and when a mark stops holding the LSN.
    pub(super) fn deadlines(&self, now: Duration) -> [Option<Duration>; 3] {
        let release = self.marks.next_release(now);
        match self.marks.is_writing() {
            true => [None, None, release],
            false => {
                let rest = [self.linger_ends(), self.locked_until].into_iter().flatten().min();
                [rest, self.marks.next_try(), release]
            }
        }
    }

    /// A batch was written. Returns how many of its marks are.
    pub(super) fn wrote(&mut self, now: Duration, mut written: WrittenBatch) -> usize {
        let marked = written.batch.marks.len() - written.missing.len();
        if written.batch.extent != Extent::MarksAlone {
            let parking = std::mem::take(&mut written.batch.parking);
            match written.left {
                Left::ParkingAndProgress => self.unwritten.give_back(parking),
                _ => self.unwritten.wrote(&parking, written.written_lsn),
            }
            self.locked_until = (written.left != Left::Nothing).then(|| now + LOCKED);
        }
        if written.is_recorded() {
            self.recorded = self.recorded.max(written.batch.settled);
            self.position = self.position.max(written.batch.place.position);
            let is_alone = written.batch.extent == Extent::Apart && written.batch.marks.is_empty();
            self.unflushed = is_alone.then_some(written.written_lsn).or(self.unflushed);
        }
        self.flushed_alone(written.flushed_lsn);
        self.unwritten.flushed(written.flushed_lsn);
        self.marks.written(now, written);
        marked
    }

    fn flushed_alone(&mut self, lsn: PgLsn) {
        self.unflushed = self.unflushed.filter(|written| *written > lsn);
    }

    /// The WAL is on disk up to here.
    pub(super) fn flushed(&mut self, lsn: PgLsn) {
        self.flushed_alone(lsn);
        self.marks.flushed(lsn);
        self.unwritten.flushed(lsn);
    }

    /// Something is put aside and not known to be on disk: it is never given up.
    pub(super) fn is_parking_unflushed(&self) -> bool {
        self.unwritten.is_unflushed()
    }

    /// Something is written and not known to be on disk.
    pub(super) fn is_unflushed(&self) -> bool {
        self.marks.is_unflushed() || self.unwritten.is_unflushed() || self.unflushed.is_some()
    }

    /// Every event before this number is safe, or has waited for its mark for long enough;
    /// `None`: all are.
    pub(super) fn through(&self, now: Duration) -> Option<u64> {
        [self.marks.through(now), self.unwritten.through()].into_iter().flatten().min()
    }

    /// Everything before this place is delivered, or parked for good: what is parked and not on
    /// disk yet, the server may still forget.
    pub(super) fn safe_place(&self, progress: &Progress) -> PublishingPlace {
        let place = progress.place();
        let first = self.unwritten.first_unsafe();
        first.filter(|first| first.is_before(&place)).unwrap_or(place)
    }

    /// Progress behind `delivered` that is not in the row.
    pub(super) fn unrecorded_progress(
        &self,
        progress: &Progress,
        delivered: Position,
    ) -> Option<Batch> {
        let place = self.safe_place(progress);
        (place.position > self.position.max(delivered)).then(|| Batch {
            extent: Extent::Whole,
            marks: Vec::new(),
            parking: ParkingBatch::default(),
            place,
            confirmed_id: progress.confirmed_id(),
            settled: progress.settled(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::relay::marks::UnwrittenMark;

    const LINGER: Duration = Duration::from_millis(50);

    fn audit() -> Audit {
        Audit {
            batch: 2,
            linger: LINGER,
            hold: Duration::from_secs(10),
            give_up: Duration::from_secs(300),
        }
    }

    fn begun(index: u64) -> PublishingPlace {
        PublishingPlace { position: place(index), ..PublishingPlace::start() }
    }

    fn place(index: u64) -> Position {
        Position { index, ..Position::start() }
    }

    /// Events that were received, settled and are to be marked.
    fn settle(recorder: &mut Recorder, progress: &mut Progress, count: u64) {
        for index in progress.received()..progress.received() + count {
            let number = progress.receive(place(index), None, 0);
            progress.settle(number);
            recorder.settled(Duration::ZERO);
            recorder.mark(Mark::new(Some(number), 0, index.to_string(), None));
        }
    }

    fn wrote(recorder: &mut Recorder, batch: Batch, missing: Vec<UnwrittenMark>) -> usize {
        let lsn = PgLsn::from(100);
        let left = Left::Nothing;
        let written = WrittenBatch { batch, missing, left, written_lsn: lsn, flushed_lsn: lsn };
        recorder.wrote(Duration::ZERO, written)
    }

    #[test]
    fn marks_go_on_where_somebody_has_a_lock_on_the_rest() {
        let (mut recorder, mut progress) =
            (Recorder::new(&audit(), 1_000, false), Progress::new(begun(0)));
        let (zero, lsn) = (Duration::ZERO, PgLsn::from(100));
        settle(&mut recorder, &mut progress, 2);
        let batch = recorder.take_if_due(zero, &progress, false).expect("it is full");
        assert_eq!(batch.extent, Extent::Whole);
        let left = Left::Progress;
        let written =
            WrittenBatch { batch, missing: Vec::new(), left, written_lsn: lsn, flushed_lsn: lsn };
        assert_eq!(recorder.wrote(zero, written), 2);
        assert!(!recorder.is_recorded(&progress));
        assert_eq!(recorder.take_if_due(zero, &progress, true), None, "no mark waits");
        assert_eq!(recorder.deadlines(zero), [Some(LOCKED), None, None]);
        settle(&mut recorder, &mut progress, 1);
        let batch = recorder.take_if_due(zero, &progress, true).expect("a mark");
        assert_eq!((batch.extent, batch.marks.len()), (Extent::MarksAlone, 1));
        assert_eq!(wrote(&mut recorder, batch, Vec::new()), 1);
        assert!(!recorder.is_recorded(&progress) && recorder.unrecorded(&progress) == 3);
        let batch = recorder.take_if_due(LOCKED, &progress, false).expect("it is time");
        assert_eq!((batch.extent, batch.settled), (Extent::Apart, 3));
        assert_eq!(wrote(&mut recorder, batch, Vec::new()), 0);
        assert!(recorder.is_recorded(&progress));
        assert_eq!(recorder.deadlines(LOCKED), [None; 3]);
    }

    #[test]
    fn a_batch_goes_when_it_is_full_when_it_lingered_or_when_nothing_more_comes() {
        let (mut recorder, mut progress) =
            (Recorder::new(&audit(), 1_000, false), Progress::new(begun(0)));
        assert_eq!(
            recorder.take_if_due(LINGER, &progress, true),
            None,
            "there is nothing to write"
        );
        settle(&mut recorder, &mut progress, 1);
        let zero = Duration::ZERO;
        assert_eq!(recorder.take_if_due(zero, &progress, false), None, "it may fill");
        assert_eq!(recorder.deadlines(zero), [Some(LINGER), None, None]);
        let batch = recorder.take_if_due(zero, &progress, true).expect("nothing more comes");
        assert_eq!(recorder.deadlines(zero), [None; 3], "one batch at a time");
        assert_eq!(wrote(&mut recorder, batch, Vec::new()), 1);
        settle(&mut recorder, &mut progress, 1);
        assert!(recorder.take_if_due(LINGER, &progress, false).is_some(), "it lingered");
        let (mut recorder, mut progress) =
            (Recorder::new(&audit(), 1_000, false), Progress::new(begun(0)));
        settle(&mut recorder, &mut progress, 3);
        let batch = recorder.take_if_due(zero, &progress, false).expect("it is full");
        assert_eq!((batch.marks.len(), batch.settled, batch.place.position), (2, 3, place(3)));
    }

    #[test]
    fn progress_is_recorded_before_the_marks_fill_their_batch() {
        let audit = Audit { batch: 500, ..audit() };
        let (mut recorder, mut progress) =
            (Recorder::new(&audit, 1_000, false), Progress::new(begun(0)));
        let zero = Duration::ZERO;
        settle(&mut recorder, &mut progress, 99);
        assert_eq!(recorder.take_if_due(zero, &progress, false), None);
        settle(&mut recorder, &mut progress, 1);
        let batch = recorder.take_if_due(zero, &progress, false).expect("it is far enough");
        assert_eq!((batch.marks.len(), batch.settled, batch.place.position), (0, 100, place(100)));
        assert!(batch.is_progress_alone());
        settle(&mut recorder, &mut progress, 100);
        assert_eq!(recorder.take_if_due(zero, &progress, false), None, "one at a time");
        wrote(&mut recorder, batch, Vec::new());
        let batch = recorder.take_if_due(zero, &progress, false).expect("it is far enough again");
        assert_eq!((batch.marks.len(), batch.settled), (0, 200));
        wrote(&mut recorder, batch, Vec::new());
        assert_eq!(recorder.unrecorded(&progress), 0);
        assert_eq!(recorder.through(zero), Some(0), "their marks hold the LSN");
        assert_eq!(recorder.deadlines(zero)[0], Some(LINGER), "which go on lingering");
        let batch = recorder.take_if_due(LINGER, &progress, false).expect("they lingered");
        assert_eq!((batch.marks.len(), batch.settled), (200, 200));
        wrote(&mut recorder, batch, Vec::new());
        assert!(recorder.take_if_due(LINGER, &progress, true).is_none(), "all is written");
        settle(&mut recorder, &mut progress, 600);
        let batch = recorder.take_if_due(LINGER, &progress, false).expect("they fill a batch");
        assert_eq!((batch.marks.len(), batch.settled), (500, 800));

        let mut dropping = Recorder::new(&audit, 1_000, true);
        let mut progress = Progress::new(begun(0));
        settle(&mut dropping, &mut progress, 499);
        assert_eq!(dropping.take_if_due(zero, &progress, false), None, "repeats are dropped");
    }

    #[test]
    fn progress_is_recorded_with_a_batch_though_its_marks_are_missing() {
        let (mut recorder, mut progress) =
            (Recorder::new(&audit(), 1_000, false), Progress::new(begun(0)));
        settle(&mut recorder, &mut progress, 2);
        assert_eq!(recorder.unrecorded(&progress), 2);
        assert_eq!(recorder.waits_for(&progress, Some(2)), Some(Waiting::Progress));
        let batch = recorder.take_if_due(Duration::ZERO, &progress, false).expect("it is full");
        assert!(!recorder.is_recorded(&progress));
        assert_eq!(wrote(&mut recorder, batch, vec![UnwrittenMark::waits(1)]), 1);
        assert!(recorder.is_recorded(&progress));
        assert_eq!(recorder.unrecorded(&progress), 0);
        assert_eq!(recorder.through(Duration::ZERO), Some(1), "the second holds the LSN");
        assert!(!recorder.is_idle(Duration::ZERO));
        assert_eq!(recorder.unrecorded_progress(&progress, place(0)), None);
    }

    #[test]
    fn an_end_waits_until_the_row_says_what_was_delivered_before() {
        let (mut recorder, progress) =
            (Recorder::new(&audit(), 1_000, false), Progress::new(begun(7)));
        assert!(recorder.is_recorded(&progress));
        recorder.must_reach(place(7));
        assert!(!recorder.is_recorded(&progress), "an earlier session could not record it");
        let batch = recorder.take_if_due(Duration::ZERO, &progress, true).expect("it is written");
        wrote(&mut recorder, batch, Vec::new());
        assert!(recorder.is_recorded(&progress));
    }
}
