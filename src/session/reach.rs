//! How far the slot may be acknowledged: no further than the progress row says on disk.
//!
//! So a slot that stands further on than its row was moved by somebody else: it was dropped and
//! made again, or advanced, and what was committed in between is not in its stream. Commits are
//! recorded with their marks. A keepalive alone is recorded by itself, and only where it brings
//! more than what the recording wrote: an idle relay writes nothing.

use std::time::Duration;

use postgres_types::PgLsn;
use tokio::time::Instant;

/// Pause between recordings of their own, which wait for the disk.
const PAUSE: Duration = Duration::from_secs(1);
/// WAL behind a recording that is only its echo: the server notes the running transactions once
/// after each write.
const ECHO: u64 = 192;
/// So many echoes of a recording are recorded too. Where a recording ended is read after it: what others wrote
/// in between looks like its echo, and would never be acknowledged on a server where nothing else happens.
const FOLLOWED: u8 = 2;
/// So much is worth a recording, whatever wrote it.
const MUCH: u64 = 64 << 10;

/// What may be acknowledged.
#[derive(Debug)]
pub(super) struct Reach {
    /// The row says at least this, on disk.
    durable: PgLsn,
    /// What the row says, and where in the WAL that was written.
    written: Vec<(PgLsn, PgLsn)>,
    /// Behind our last write.
    end: PgLsn,
    /// All before it is settled.
    wanted: PgLsn,
    acknowledged: PgLsn,
    is_writing: bool,
    /// Echoes that are still to be recorded.
    follows: u8,
    next_at: Instant,
    /// An echo is recorded from then on: as long as batches come, the next one does it.
    quiet_at: Instant,
}

impl Reach {
    /// At the start of a session, with what the row says on disk.
    pub(super) fn new(durable: PgLsn) -> Self {
        let zero = PgLsn::from(0);
        Self {
            durable,
            written: Vec::new(),
            end: zero,
            wanted: zero,
            acknowledged: zero,
            is_writing: false,
            follows: 0,
            next_at: Instant::now(),
            quiet_at: Instant::now(),
        }
    }

    /// What the row is known to say, on disk.
    pub(super) fn durable(&self) -> PgLsn {
        self.durable
    }

    /// Everything before this LSN is settled. Returns what may be acknowledged now, if anything.
    pub(super) fn settled(&mut self, lsn: PgLsn) -> Option<PgLsn> {
        self.wanted = self.wanted.max(lsn);
        self.due()
    }

    /// A batch of marks says in the row that all before `lsn` is settled. Returns as [`settled`](Self::settled).
    pub(super) fn wrote(
        &mut self,
        now: Instant,
        lsn: PgLsn,
        end: PgLsn,
        flushed: PgLsn,
    ) -> Option<PgLsn> {
        self.quiet_at = now + PAUSE;
        self.follows = FOLLOWED;
        self.put(lsn, end, flushed)
    }

    fn put(&mut self, lsn: PgLsn, end: PgLsn, flushed: PgLsn) -> Option<PgLsn> {
        self.end = self.end.max(end);
        if lsn > self.durable {
            self.written.push((lsn, end));
        }
        self.flushed(flushed)
    }

    /// The WAL is on disk up to here. Returns as [`settled`](Self::settled).
    pub(super) fn flushed(&mut self, flushed: PgLsn) -> Option<PgLsn> {
        let on_disk = self.written.extract_if(.., |(_, end)| *end <= flushed);
        let last = on_disk.map(|(lsn, _)| lsn).max();
        self.durable = self.durable.max(last.unwrap_or(self.durable));
        self.due()
    }

    /// A recording of its own was written, and waited for the disk; `None` where it could not be.
    pub(super) fn recorded(&mut self, written: Option<(PgLsn, PgLsn)>) -> Option<PgLsn> {
        self.is_writing = false;
        let (lsn, end) = written?;
        self.put(lsn, end, end)
    }

    fn due(&mut self) -> Option<PgLsn> {
        let lsn = self.wanted.min(self.durable);
        if lsn <= self.acknowledged {
            return None;
        }
        self.acknowledged = lsn;
        Some(lsn)
    }

    /// What is settled, and not to be acknowledged before it is recorded.
    pub(super) fn unrecorded(&self) -> Option<PgLsn> {
        (self.wanted > self.durable).then_some(self.wanted)
    }

    /// When that is worth a recording of its own.
    pub(super) fn next_write(&self) -> Option<Instant> {
        let wanted = u64::from(self.unrecorded()?);
        let is_much = wanted > u64::from(self.acknowledged.max(self.durable)) + MUCH;
        let at = match !self.is_echo() || is_much {
            true => Some(self.next_at),
            false => (self.follows > 0).then(|| self.next_at.max(self.quiet_at)),
        };
        at.filter(|_| !self.is_writing)
    }

    fn is_echo(&self) -> bool {
        u64::from(self.wanted) <= u64::from(self.end) + ECHO
    }

    /// The recording to be written now, if one is.
    pub(super) fn begin_write(&mut self, now: Instant) -> Option<PgLsn> {
        if self.next_write()? > now {
            return None;
        }
        self.follows = if self.is_echo() { self.follows.saturating_sub(1) } else { FOLLOWED };
        self.is_writing = true;
        self.next_at = now + PAUSE;
        Some(self.wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsn(at: u64) -> PgLsn {
        PgLsn::from(at)
    }

    #[test]
    fn nothing_is_acknowledged_before_it_is_recorded_on_disk() {
        let (mut reach, now) = (Reach::new(lsn(1_000)), Instant::now());
        assert_eq!(reach.settled(lsn(900)), Some(lsn(900)), "an earlier session recorded it");
        assert_eq!(reach.settled(lsn(1_100)), Some(lsn(1_000)));
        assert_eq!(reach.wrote(now, lsn(1_100), lsn(1_300), lsn(1_200)), None, "not on disk yet");
        assert_eq!(reach.flushed(lsn(1_250)), None);
        assert_eq!(reach.flushed(lsn(1_300)), Some(lsn(1_100)));
        assert_eq!(reach.unrecorded(), None);
    }

    #[test]
    fn an_idle_relay_writes_nothing_and_a_busy_neighbour_is_followed() {
        let (mut reach, mut now) = (Reach::new(lsn(1_000)), Instant::now());
        reach.settled(lsn(1_100));
        let wanted = reach.begin_write(now).unwrap();
        assert_eq!(wanted, lsn(1_100));
        assert_eq!(reach.next_write(), None, "one at a time");
        assert_eq!(reach.recorded(Some((wanted, lsn(1_400)))), Some(lsn(1_100)));
        // Its own write comes back as a keepalive, and once more with the running transactions. The
        // first of them are followed: a neighbour may have written before that write's end was read.
        for (echo, end) in [(1_400, 1_700), (1_700, 2_000)] {
            assert_eq!(reach.settled(lsn(echo)), None);
            assert_eq!(reach.begin_write(now), None, "not so soon again");
            now += PAUSE;
            let follows = reach.begin_write(now).unwrap();
            assert_eq!(reach.recorded(Some((follows, lsn(end)))), Some(lsn(echo)));
        }
        for echo in [2_000, 2_100] {
            assert_eq!(reach.settled(lsn(echo)), None);
            assert_eq!(reach.next_write(), None);
        }
        reach.settled(lsn(2_500));
        assert_eq!(reach.begin_write(now + PAUSE), Some(lsn(2_500)));
    }

    /// The end of a batch is read after its commit: what others committed in between is behind what the batch
    /// recorded, and before that end.
    #[test]
    fn what_a_neighbour_wrote_before_the_end_of_a_batch_was_read_is_acknowledged() {
        let (mut reach, now) = (Reach::new(lsn(1_000)), Instant::now());
        reach.settled(lsn(1_100));
        assert_eq!(reach.wrote(now, lsn(1_100), lsn(1_600), lsn(1_600)), Some(lsn(1_100)));
        // A keepalive: the neighbour's commit ends at 1,500, the batch at 1,400.
        assert_eq!(reach.settled(lsn(1_600)), None);
        assert_eq!(reach.begin_write(now), None, "a batch may come");
        let follows = reach.begin_write(now + PAUSE).unwrap();
        assert_eq!(reach.recorded(Some((follows, lsn(1_900)))), Some(lsn(1_600)));
        // What others write is not put off by batches.
        let now = now + PAUSE + PAUSE;
        reach.wrote(now, lsn(1_800), lsn(2_000), lsn(2_000));
        reach.settled(lsn(9_000));
        assert_eq!(reach.begin_write(now), Some(lsn(9_000)));
    }
}
