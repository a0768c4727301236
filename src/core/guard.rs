//! The guard over the WAL that the slot keeps: how fast it grows, when it will fill its limit,
//! and how severe that is. Samples come in, a verdict goes out; nothing here acts.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// Samples after which a `restart_lsn` that does not move counts as stuck.
const STUCK: usize = 6;
/// Samples over which growth is measured while it moves: in steps, by a segment or more.
const WINDOW: usize = 30;
/// How far below a threshold, in per cent of the limit, the level falls again.
const SLACK_PERCENT: f64 = 5.0;
/// So many calm samples in a row before the level falls.
const CALM: u32 = 3;
/// Samples in which nothing is acknowledged or settled before the policy is carried out: a relay
/// that works off what piled up is given its chance.
const SILENT: usize = 3;
/// They cover as much time at least, however often is looked: a server that is short of time writes
/// the progress less often.
const SILENCE: Duration = Duration::from_secs(5);
/// From here on, in per cent, no chance is given.
const LAST_PERCENT: f64 = 98.0;
/// A transaction younger than this holds nothing up.
pub(crate) const YOUNG: Duration = Duration::from_secs(10);
/// As many bytes `restart_lsn` may lie behind what is acknowledged: a segment.
const HELD_BYTES: u64 = 16 << 20;

/// What was seen at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sample {
    /// When, from any beginning.
    pub at: Duration,
    /// Where the WAL ends.
    pub wal: u64,
    /// From where on the slot keeps it.
    pub restart: u64,
    /// What was acknowledged last.
    pub confirmed: u64,
    /// How far events are settled, as the progress row has it: where, and how many of the
    /// transaction there. It moves within a transaction and within a catch-up, while nothing can
    /// be acknowledged, and whichever process it is that works.
    pub settled: (u64, u64),
    /// Bytes that may be written before the slot may be lost; `None` without a limit.
    pub safe: Option<i64>,
    /// `max_slot_wal_keep_size` in bytes; `None` without a limit.
    pub keep: Option<u64>,
    /// How much WAL there is on the server's disk, no matter who keeps it.
    pub on_disk: u64,
    /// The slot is lost.
    pub is_lost: bool,
}

/// What ends first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    /// `max_slot_wal_keep_size`: beyond it the slot is lost.
    Slot,
    /// `guard.disk_limit`: beyond it Postgres stops.
    Disk,
}

/// Its severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// There is room for long.
    Calm,
    /// It is worth a look.
    Warning,
    /// The policy is to be carried out.
    Critical,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Calm => "calm",
            Self::Warning => "warning",
            Self::Critical => "critical",
        })
    }
}

/// When which level holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Thresholds {
    /// Projected time that is worth a warning.
    pub warn_at: Duration,
    /// Share that is worth a warning, in per cent.
    pub warn_percent: usize,
    /// Share at which the policy is carried out, in per cent.
    pub act_percent: usize,
    /// How much WAL the disk can hold, in bytes.
    pub disk_limit: Option<u64>,
}

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct GuardVerdict {
    /// Its severity.
    pub level: Level,
    /// Whether that is news.
    pub is_news: bool,
    /// WAL that the slot keeps, in bytes.
    pub retained: u64,
    /// By how many bytes a second it grows.
    pub growth: f64,
    /// What ends first, how much of it is used in per cent, and how many bytes are left;
    /// `None` where nothing limits it.
    pub room: Option<Room>,
    /// When that will be full, at this growth.
    pub full_in: Option<Duration>,
    /// The policy is to be carried out: it is critical, it would help, and the relay does not
    /// come forward by itself.
    pub is_due: bool,
    /// `restart_lsn` does not move although the relay acknowledges: a transaction holds it.
    pub is_held: bool,
}

/// The limit that is nearer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Room {
    /// Which one.
    pub bound: Bound,
    /// How much of it is used, in per cent.
    pub percent: f64,
    /// How many bytes are left.
    pub left: u64,
}

/// Since when nothing is acknowledged or settled.
#[derive(Debug, Clone, Copy)]
struct Still {
    /// The first sample with what is settled now.
    first: Sample,
    /// How many have been seen with it.
    count: usize,
    /// Another was seen before it.
    has_moved: bool,
}

impl Still {
    fn with(before: Option<Self>, now: Sample) -> Self {
        let is_same = |s: Sample| s.confirmed == now.confirmed && s.settled == now.settled;
        match before {
            Some(still) if is_same(still.first) => Self { count: still.count + 1, ..still },
            before => Self { first: now, count: 1, has_moved: before.is_some() },
        }
    }

    fn is_silent(&self, now: Sample) -> bool {
        self.count >= SILENT && now.at.saturating_sub(self.first.at) >= SILENCE
    }
}

/// What was seen before, and how severe it was.
#[derive(Debug)]
pub(crate) struct WalGuard {
    thresholds: Thresholds,
    seen: VecDeque<Sample>,
    /// The first sample with the `restart_lsn` of now, and how many have been seen since.
    stuck: Option<(Sample, usize)>,
    /// `None` before the first sample.
    still: Option<Still>,
    level: Level,
    calm: u32,
}

impl WalGuard {
    /// Nothing was seen yet.
    pub(crate) fn new(thresholds: Thresholds) -> Self {
        Self {
            thresholds,
            seen: VecDeque::new(),
            stuck: None,
            still: None,
            level: Level::Calm,
            calm: 0,
        }
    }

    /// Takes a sample in and says how it stands. Samples come in the order of their time.
    pub(crate) fn observe(&mut self, sample: Sample) -> GuardVerdict {
        let was_lost = self.seen.back().is_some_and(|last| last.is_lost);
        self.remember(sample);
        let growth = self.growth(sample);
        let room = room(&sample, self.thresholds.disk_limit);
        let full_in = room.and_then(|room| full_in(room.left, growth));
        let before = self.level;
        self.settle(sample.is_lost, room, full_in);
        GuardVerdict {
            level: self.level,
            // That the slot is lost is news, however near it was before.
            is_news: self.level != before || (sample.is_lost && !was_lost),
            retained: sample.wal.saturating_sub(sample.restart),
            growth,
            room,
            full_in,
            is_due: self.is_due(sample, room),
            is_held: self.is_held(sample),
        }
    }

    fn remember(&mut self, sample: Sample) {
        // A server that was set back, or another slot of that name: what was seen says nothing.
        if self
            .seen
            .back()
            .is_some_and(|last| sample.wal < last.wal || sample.restart < last.restart)
        {
            self.seen.clear();
            (self.stuck, self.still) = (None, None);
        }
        self.still = Some(Still::with(self.still, sample));
        self.stuck = match self.stuck {
            Some((first, count)) if first.restart == sample.restart => Some((first, count + 1)),
            _ => Some((sample, 0)),
        };
        self.seen.push_back(sample);
        if self.seen.len() > WINDOW {
            self.seen.pop_front();
        }
    }

    /// How fast retained WAL grows, in bytes a second. Since `restart_lsn` got stuck, where it
    /// is; else over a time in which it moved often enough for its steps not to count.
    fn growth(&self, now: Sample) -> f64 {
        let since = match self.stuck {
            Some((first, count)) if count >= STUCK => Some(first),
            _ => self.seen.front().copied().filter(|_| self.seen.len() > WINDOW / 2),
        };
        let Some(then) = since else { return 0.0 };
        let seconds = now.at.saturating_sub(then.at).as_secs_f64();
        if seconds <= 0.0 {
            return 0.0;
        }
        let retained = |sample: Sample| bytes(sample.wal.saturating_sub(sample.restart));
        ((retained(now) - retained(then)) / seconds).max(0.0)
    }

    fn is_held(&self, now: Sample) -> bool {
        self.stuck.is_some_and(|(first, count)| {
            count >= STUCK
                && now.at.saturating_sub(first.at) >= YOUNG
                && now.confirmed > first.confirmed
                && now.confirmed.saturating_sub(now.restart) > HELD_BYTES
        })
    }

    fn is_due(&self, now: Sample, room: Option<Room>) -> bool {
        let Some(room) = room.filter(|_| self.level == Level::Critical && !now.is_lost) else {
            return false;
        };
        // WAL that others keep stays, whatever becomes of this slot.
        let retained = now.wal.saturating_sub(now.restart);
        if room.bound == Bound::Disk && retained < now.on_disk / 2 {
            return false;
        }
        let is_silent = self.still.is_some_and(|still| still.is_silent(now));
        let is_moving = !is_silent && self.still.is_some_and(|still| still.has_moved);
        // The server drops what it keeps for the slot by itself, and not before it must: a relay
        // that works may still be in time. A full disk stops everything.
        let has_time = is_moving && room.bound == Bound::Slot;
        is_silent || (room.percent >= LAST_PERCENT && !has_time)
    }

    /// Rises at once, and falls one step once it has been calm for a while.
    fn settle(&mut self, is_lost: bool, room: Option<Room>, full_in: Option<Duration>) {
        let Thresholds { warn_at, warn_percent, act_percent, .. } = self.thresholds;
        let percent = room.map_or(0.0, |room| room.percent);
        let level = |slack: f64, warn_at: Duration| {
            if is_lost || percent >= share(act_percent) - slack {
                Level::Critical
            } else if percent >= share(warn_percent) - slack
                || full_in.is_some_and(|full_in| full_in <= warn_at)
            {
                Level::Warning
            } else {
                Level::Calm
            }
        };
        let now = level(0.0, warn_at);
        if now > self.level {
            self.level = now;
            self.calm = 0;
            return;
        }
        let fallen = level(SLACK_PERCENT, warn_at.saturating_mul(3) / 2);
        if fallen >= self.level {
            self.calm = 0;
            return;
        }
        self.calm += 1;
        if self.calm >= CALM {
            self.level = fallen;
            self.calm = 0;
        }
    }
}

/// The limit that is nearer in bytes.
fn room(sample: &Sample, disk_limit: Option<u64>) -> Option<Room> {
    let of_slot = sample.safe.map(|safe| {
        let left = u64::try_from(safe).unwrap_or(0);
        let retained = sample.wal.saturating_sub(sample.restart);
        // What is left and what is used make the whole: the server rounds to segments.
        let whole = left.saturating_add(retained).max(1);
        let whole = sample.keep.map_or(whole, |keep| keep.max(1));
        let used = whole.saturating_sub(left);
        Room { bound: Bound::Slot, percent: 100.0 * bytes(used) / bytes(whole), left }
    });
    let of_disk = disk_limit.map(|limit| Room {
        bound: Bound::Disk,
        percent: 100.0 * bytes(sample.on_disk) / bytes(limit.max(1)),
        left: limit.saturating_sub(sample.on_disk),
    });
    of_slot.into_iter().chain(of_disk).min_by_key(|room| room.left)
}

/// `None`: never, or in over a hundred years.
fn full_in(left: u64, growth: f64) -> Option<Duration> {
    if growth <= 0.0 {
        return None;
    }
    let seconds = bytes(left) / growth;
    if seconds > 3.2e9 { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

#[allow(clippy::cast_precision_loss)] // figures for people
fn bytes(count: u64) -> f64 {
    count as f64
}

#[allow(clippy::cast_precision_loss)] // at most 100
fn share(percent: usize) -> f64 {
    percent as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn thresholds() -> Thresholds {
        Thresholds {
            warn_at: Duration::from_secs(3600),
            warn_percent: 70,
            act_percent: 90,
            disk_limit: None,
        }
    }

    /// A slot that keeps so much, under a limit.
    fn sample(at: u64, wal: u64, restart: u64, keep: Option<u64>) -> Sample {
        let retained = wal - restart;
        Sample {
            at: Duration::from_secs(at),
            wal,
            restart,
            confirmed: restart,
            settled: (0, 0),
            safe: keep.map(|keep| i64::try_from(keep).unwrap() - i64::try_from(retained).unwrap()),
            keep,
            on_disk: retained,
            is_lost: false,
        }
    }

    #[test]
    fn projects_when_the_slot_is_lost() {
        let mut guard = WalGuard::new(thresholds());
        let mut last = None;
        for n in 0..20 {
            // 10 MB/s under a limit of 100 GiB: full in three hours.
            last = Some(guard.observe(sample(n * 10, n * 100_000_000, 0, Some(100 * GIB))));
        }
        let verdict = last.unwrap();
        assert!((verdict.growth - 1e7).abs() < 1.0, "{verdict:?}");
        let left = 100 * GIB - 1_900_000_000;
        assert_eq!(verdict.full_in.unwrap().as_secs(), left / 10_000_000);
        assert_eq!(verdict.level, Level::Calm);
    }

    #[test]
    fn warns_once_then_acts_once_and_calms_down_late() {
        let mut guard = WalGuard::new(thresholds());
        let mut news = Vec::new();
        let mut see = |guard: &mut WalGuard, at: u64, retained: u64| {
            let verdict =
                guard.observe(sample(at, 1000 * GIB + retained, 1000 * GIB, Some(100 * GIB)));
            if verdict.is_news {
                news.push((at, verdict.level));
            }
        };
        // Slowly, so that the share alone decides; then it stays where it is.
        for hour in 0..=95 {
            see(&mut guard, hour * 36_000, hour * GIB);
        }
        assert_eq!(news, [(70 * 36_000, Level::Warning), (90 * 36_000, Level::Critical)]);
    }

    #[test]
    fn one_good_sample_is_no_relief() {
        let mut guard = WalGuard::new(thresholds());
        let bad = |at| sample(at, 1095 * GIB, 1000 * GIB, Some(100 * GIB));
        let good = |at| sample(at, 1095 * GIB, 1094 * GIB, Some(100 * GIB));
        assert_eq!(guard.observe(bad(0)).level, Level::Critical);
        for at in 1..3 {
            assert_eq!(guard.observe(good(at)).level, Level::Critical);
        }
        let verdict = guard.observe(good(3));
        assert_eq!((verdict.level, verdict.is_news), (Level::Calm, true));
    }

    #[test]
    fn a_slot_that_moves_in_steps_is_no_growth() {
        let mut guard = WalGuard::new(thresholds());
        for n in 0..200_u64 {
            // 50 MB/s, acknowledged all the time; restart_lsn follows every 20 s.
            let verdict = guard.observe(sample(
                n * 10,
                n * 500_000_000,
                (n - n % 2) * 500_000_000,
                Some(100 * GIB),
            ));
            assert_eq!(verdict.level, Level::Calm, "{n} {verdict:?}");
        }
    }

    #[test]
    fn without_a_limit_there_is_nothing_to_fill() {
        let mut guard = WalGuard::new(thresholds());
        for n in 0..100 {
            let verdict = guard.observe(sample(n, n * GIB, 0, None));
            assert_eq!((verdict.level, verdict.room, verdict.full_in), (Level::Calm, None, None));
        }
    }

    #[test]
    fn the_nearer_limit_counts() {
        let limits = Thresholds { disk_limit: Some(10 * GIB), ..thresholds() };
        let verdict = WalGuard::new(limits).observe(sample(0, 8 * GIB, 0, Some(100 * GIB)));
        assert_eq!(verdict.room.unwrap().bound, Bound::Disk);
        assert_eq!(verdict.level, Level::Warning);
        let verdict = WalGuard::new(limits).observe(sample(0, GIB, 0, Some(2 * GIB)));
        assert_eq!(verdict.room.unwrap().bound, Bound::Slot);
    }

    #[test]
    fn says_that_a_transaction_holds_the_wal() {
        let mut guard = WalGuard::new(thresholds());
        let mut held = Vec::new();
        for n in 0..10_u64 {
            let wal = GIB + n * (8 << 20);
            let sample = Sample { confirmed: wal, ..sample(n * 10, wal, GIB, None) };
            held.push(guard.observe(sample).is_held);
        }
        assert_eq!(held.iter().position(|is_held| *is_held), Some(STUCK));
        // A relay that does not acknowledge is another matter.
        let mut guard = WalGuard::new(thresholds());
        let at = |n: u64| sample(n * 10, GIB + n * (8 << 20), GIB, None);
        assert!((0..10).all(|n| !guard.observe(at(n)).is_held));
        // Nor is one of a few seconds.
        let mut guard = WalGuard::new(thresholds());
        let at = |n: u64| {
            let wal = GIB + n * (8 << 20);
            Sample { confirmed: wal, ..sample(n / 10, wal, GIB, None) }
        };
        assert!((0..99).all(|n| !guard.observe(at(n)).is_held));
    }

    #[test]
    fn a_lost_slot_is_critical() {
        let lost = Sample { is_lost: true, ..sample(0, GIB, GIB, None) };
        assert_eq!(WalGuard::new(thresholds()).observe(lost).level, Level::Critical);
    }

    #[test]
    fn that_a_slot_is_lost_is_news_once() {
        let mut guard = WalGuard::new(thresholds());
        let near = guard.observe(sample(0, 1099 * GIB, 1000 * GIB, Some(GIB)));
        assert!(near.level == Level::Critical && near.is_news);
        let lost = |n| Sample { is_lost: true, ..sample(n, 1101 * GIB, 1101 * GIB, None) };
        let news: Vec<bool> = (1..4).map(|n| guard.observe(lost(n)).is_news).collect();
        assert_eq!(news, [true, false, false]);
    }

    #[test]
    fn a_relay_that_works_it_off_is_given_its_chance() {
        let at = |n: u64, confirmed: u64| Sample {
            confirmed,
            ..sample(n, 1095 * GIB, 1000 * GIB, Some(100 * GIB))
        };
        let mut guard = WalGuard::new(thresholds());
        assert!((0..9).all(|n| !guard.observe(at(n, 1000 * GIB + n)).is_due), "it acknowledges");
        let mut guard = WalGuard::new(thresholds());
        let due = |guard: &mut WalGuard, step: u64| -> Vec<_> {
            (0..4).map(|n| guard.observe(at(n * step, 1000 * GIB)).is_due).collect()
        };
        assert_eq!(due(&mut guard, 10), [false, false, true, true], "it does not");
        let mut guard = WalGuard::new(thresholds());
        assert_eq!(due(&mut guard, 2), [false, false, false, true], "nor for five seconds");
        // Within one transaction, or a catch-up, nothing is acknowledged.
        let within = |n: u64| Sample { settled: (7, n), ..at(n, 1000 * GIB) };
        let mut guard = WalGuard::new(thresholds());
        assert!((0..9).all(|n| !guard.observe(within(n)).is_due), "it settles");
        let stopped = |n| Sample { settled: (7, 8), ..at(n, 1000 * GIB) };
        assert!(
            !guard.observe(stopped(10)).is_due && guard.observe(stopped(13)).is_due,
            "it stops"
        );
        let full = sample(0, 1099 * GIB, 1000 * GIB, Some(100 * GIB));
        assert!(WalGuard::new(thresholds()).observe(full).is_due, "there is no time left");
        // Who works is never the reason, where the server itself sees to the limit.
        let mut guard = WalGuard::new(thresholds());
        let full = |n: u64| Sample {
            settled: (7, n),
            ..sample(n, 1099 * GIB, 1000 * GIB, Some(100 * GIB))
        };
        guard.observe(full(0));
        assert!((1..9).all(|n| !guard.observe(full(n)).is_due));
        let disk = Thresholds { disk_limit: Some(100 * GIB), ..thresholds() };
        let mut guard = WalGuard::new(disk);
        guard.observe(Sample { safe: None, ..full(0) });
        assert!(guard.observe(Sample { safe: None, ..full(1) }).is_due, "a full disk stops all");
    }

    #[test]
    fn wal_that_others_keep_is_no_reason_to_act() {
        let limits = Thresholds { disk_limit: Some(10 * GIB), ..thresholds() };
        let mut guard = WalGuard::new(limits);
        for n in 0..10 {
            let others = Sample { on_disk: 10 * GIB, ..sample(n, 101 * GIB, 100 * GIB, None) };
            let verdict = guard.observe(others);
            assert_eq!((verdict.level, verdict.is_due), (Level::Critical, false));
        }
    }

    fn samples() -> impl Strategy<Value = Vec<(u64, u64, u8)>> {
        prop::collection::vec((0_u64..100, 0_u64..2 * GIB, 0_u8..=100), 1..80)
    }

    /// As a server would show it: the WAL grows, the slot follows to some part of it.
    fn played(steps: &[(u64, u64, u8)], keep: Option<u64>) -> Vec<Sample> {
        let (mut at, mut wal, mut restart) = (0, GIB, GIB);
        let step = |(seconds, written, moved): &(u64, u64, u8)| {
            at += seconds;
            wal += written;
            restart += (wal - restart) / 100 * u64::from(*moved);
            sample(at, wal, restart, keep)
        };
        steps.iter().map(step).collect()
    }

    proptest! {
        #[test]
        fn never_too_late_and_never_without_a_reason(steps in samples(), keep in 1_u64..200) {
            let keep = keep * GIB;
            let mut guard = WalGuard::new(thresholds());
            let mut before = Level::Calm;
            for sample in played(&steps, Some(keep)) {
                let verdict = guard.observe(sample);
                let percent = verdict.room.unwrap().percent;
                prop_assert!(verdict.growth >= 0.0 && verdict.growth.is_finite());
                prop_assert!((0.0..=100.0).contains(&percent));
                if percent >= 90.0 {
                    prop_assert_eq!(verdict.level, Level::Critical);
                }
                if percent >= 70.0 {
                    prop_assert!(verdict.level >= Level::Warning);
                }
                if verdict.level > before {
                    let is_soon = verdict.full_in.is_some_and(|t| t <= Duration::from_secs(3600));
                    prop_assert!(percent >= 70.0 || is_soon);
                }
                prop_assert_eq!(verdict.is_news, verdict.level != before);
                before = verdict.level;
            }
        }

        #[test]
        fn falls_again_once_all_is_well(steps in samples(), keep in 1_u64..200) {
            let keep = keep * GIB;
            let mut guard = WalGuard::new(thresholds());
            let all = played(&steps, Some(keep));
            for sample in &all {
                guard.observe(*sample);
            }
            let last = all.last().unwrap();
            let calm = (1..=u64::try_from(WINDOW).unwrap() + 10).map(|n| {
                guard.observe(sample(last.at.as_secs() + n * 10, last.wal, last.wal, Some(keep))).level
            });
            prop_assert_eq!(calm.last(), Some(Level::Calm));
        }
    }
}
