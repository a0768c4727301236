//! How many messages may be in flight: as many as keep the broker busy.
//!
//! More than that only wait in the broker, and all that is in flight is published again after a crash. By
//! Little's law a broker is kept busy by its rate times the round trip of a message that meets no other. Both are
//! measured, as BBR does it for TCP:
//!
//! - the *rate* in slices of time during which the window was full again and again: otherwise it says how many
//!   events there are, and not what the broker can do;
//! - the *lowest round trip* by messages that are sent with next to nothing in flight. Where events come singly,
//!   each is one. In a backlog the window is emptied for them now and then; and at once where the rate has
//!   fallen, since the way to the broker may be longer now, which looks like a broker that is slower.
//!
//! The window is larger than that by a share, by which it grows as long as it is what bounds the rate; and
//! by a number of messages, for brokers that confirm in bursts. A broker that writes to disk what came meanwhile, all
//! of it together, is the faster the more that is: no round trip shows that. So the double window is tried now and
//! then, in slices with it and without it, in turns: where it is worth it, it stays.

use std::collections::VecDeque;
use std::time::Duration;

/// Messages in flight beside those that rate and round trip make necessary; and at the least, where the bound is
/// not lower.
const BESIDE: usize = 192;
/// What is necessary, and a share more.
const GAIN: f64 = 1.25;
/// So many in flight are next to nothing.
const FEW: usize = 4;
/// Round trips of messages that meet no other, of which the lowest counts, each time that the window is emptied.
const TRIES: u32 = 2;
/// A slice lasts at least so long, and two round trips.
const SLICE: Duration = Duration::from_millis(50);
/// The rate is the highest of so many slices: a broker that has paused for a moment is as fast as before.
const SLICES: usize = 8;
/// A rate below this share of it has fallen.
const FALLEN: f64 = 0.75;
/// How old the lowest round trip may be.
const STALE: Duration = Duration::from_secs(10);
/// How old it may be where the rate has fallen; and so many round trips, so that emptying the window costs little.
const STALE_IF_FALLEN: (Duration, u32) = (Duration::from_millis(500), 100);
/// By how much the double window must be faster; as a logarithm, about three in a hundred.
const WORTH: f64 = 0.03;
/// Pairs of slices of a trial, at least and at most.
const PAIRS: (f64, f64) = (4.0, 16.0);
/// Between trials that changed nothing.
const REST: Duration = Duration::from_secs(5);
/// What is sent later than so long after the last answer did not wait for it.
const PAUSE: Duration = Duration::from_millis(2);

/// A message whose answer ends a round trip.
#[derive(Debug, Clone, Copy)]
struct RoundTrip {
    /// How many were sent before it.
    number: u64,
    at: Duration,
    /// How many had left the window by then.
    answered: u64,
    /// It was sent with next to nothing in flight.
    is_alone: bool,
    /// The window was full since then.
    was_full: bool,
}

/// Round trips, one after the other, in each of which the window was full.
#[derive(Debug, Clone, Copy)]
struct Slice {
    began: Duration,
    /// How many had left the window by then.
    answered: u64,
    round_trips: u32,
}

/// Whether the double window is worth it: slices without it and with it, in turns.
#[derive(Debug, Default)]
struct Trial {
    /// The rate of the slice without it, once there is one: the next has it.
    single: Option<f64>,
    pairs: f64,
    /// Of the logarithms of both rates' ratio, and of their squares.
    sum: f64,
    squares: f64,
}

/// What a trial has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Worth,
    NotWorth,
}

impl Trial {
    fn is_double(&self) -> bool {
        self.single.is_some()
    }

    /// Takes in the rate of the slice that is over.
    fn take(&mut self, rate: f64) -> Option<Verdict> {
        let Some(single) = self.single.take() else {
            self.single = Some(rate);
            return None;
        };
        let gain = (rate / single).ln();
        self.pairs += 1.0;
        self.sum += gain;
        self.squares += gain * gain;
        if self.pairs < PAIRS.0 {
            return None;
        }
        let mean = self.sum / self.pairs;
        let variance = (self.squares / self.pairs - mean * mean).max(0.0);
        let error = (variance / (self.pairs - 1.0)).sqrt();
        if mean - error > WORTH {
            Some(Verdict::Worth)
        } else if mean + error < WORTH || self.pairs >= PAIRS.1 {
            Some(Verdict::NotWorth)
        } else {
            None
        }
    }
}

/// The size of the window.
#[derive(Debug)]
pub(super) struct WindowSize {
    /// Setting `window.messages`.
    most: usize,
    is_fixed: bool,
    size: usize,
    sent: u64,
    answered: u64,
    last_answer: Duration,
    current: Option<RoundTrip>,
    slice: Option<Slice>,
    /// Of the last slices, in messages per second.
    rates: VecDeque<f64>,
    /// The lowest round trip, and when it was measured.
    lowest: Option<(Duration, Duration)>,
    /// The window is emptied for messages that meet no other: how many more of them.
    tries: u32,
    /// The lowest round trip of those before.
    tried: Option<Duration>,
    /// How many times what is necessary it is.
    factor: f64,
    trial: Trial,
    /// When the next trial may begin.
    rests_until: Duration,
    /// The last trial made it smaller.
    has_shrunk: bool,
    /// The next round trip is no measure: the size is new.
    is_new: bool,
}

impl WindowSize {
    /// At most so many messages; always so many where it `is_fixed`.
    pub(super) fn new(most: usize, is_fixed: bool) -> Self {
        Self {
            most,
            is_fixed,
            size: if is_fixed { most } else { most.min(BESIDE + BESIDE / 2) },
            sent: 0,
            answered: 0,
            last_answer: Duration::ZERO,
            current: None,
            slice: None,
            rates: VecDeque::with_capacity(SLICES),
            lowest: None,
            tries: 0,
            tried: None,
            factor: 1.0,
            trial: Trial::default(),
            rests_until: Duration::ZERO,
            has_shrunk: false,
            is_new: false,
        }
    }

    /// So many may be in flight, but for a moment in which it is emptied.
    pub(super) fn usual(&self) -> usize {
        self.size
    }

    /// So many may be in flight now.
    pub(super) fn now(&self) -> usize {
        if self.tries > 0 { self.size.min(FEW) } else { self.size }
    }

    /// A message is sent, and so many are in flight with it.
    pub(super) fn sent(&mut self, now: Duration, in_flight: usize) {
        if self.is_fixed {
            return;
        }
        let number = self.sent;
        self.sent += 1;
        let was_full = in_flight >= self.size;
        if let Some(current) = &mut self.current {
            current.was_full |= was_full;
            return;
        }
        if now.saturating_sub(self.last_answer) > PAUSE {
            self.slice = None;
        }
        let (answered, is_alone) = (self.answered, in_flight <= FEW);
        self.current = Some(RoundTrip { number, at: now, answered, is_alone, was_full });
    }

    /// So many messages have left the window, the oldest first.
    pub(super) fn answered(&mut self, now: Duration, count: usize) {
        if self.is_fixed || count == 0 {
            return;
        }
        self.answered += u64::try_from(count).unwrap_or(0);
        self.last_answer = now;
        let Some(over) = self.current.take_if(|it| it.number < self.answered) else { return };
        let took = now.saturating_sub(over.at);
        if self.tries > 0 {
            return self.tried(now, took);
        }
        // Nor was more than that sent behind it: what is confirmed at once leaves the window empty for a moment.
        let behind = self.sent - over.number;
        if over.is_alone && behind <= FEW as u64 {
            self.measured(now, took);
        }
        self.slice = self.slice.take().filter(|_| over.was_full);
        if over.was_full && !std::mem::take(&mut self.is_new) {
            self.go_on(now, over);
        }
    }

    /// What is in flight tells nothing: the broker was kept from answering, has refused something, or so many
    /// messages are gone with the channel.
    pub(super) fn interrupted(&mut self, gone: usize) {
        self.answered += u64::try_from(gone).unwrap_or(0);
        (self.current, self.slice) = (None, None);
    }

    fn go_on(&mut self, now: Duration, over: RoundTrip) {
        let RoundTrip { at: began, answered, .. } = over;
        let slice = self.slice.get_or_insert(Slice { began, answered, round_trips: 0 });
        slice.round_trips += 1;
        let lasted = now.saturating_sub(slice.began);
        if slice.round_trips < 2 || lasted < SLICE {
            return;
        }
        let count = self.answered - slice.answered;
        self.slice = None;
        #[allow(clippy::cast_precision_loss)] // messages of a moment
        self.has_rate(now, count as f64 / lasted.as_secs_f64());
    }

    /// So many messages per second left a window that was full.
    fn has_rate(&mut self, now: Duration, rate: f64) {
        let has_fallen = rate < FALLEN * self.rate();
        if self.rates.len() == SLICES {
            self.rates.pop_front();
        }
        self.rates.push_back(rate);
        let may_be_old = |lowest: Duration| match has_fallen {
            true => STALE.min(STALE_IF_FALLEN.0.max(lowest * STALE_IF_FALLEN.1)),
            false => STALE,
        };
        let is_old = |(lowest, at)| now.saturating_sub(at) >= may_be_old(lowest);
        if self.lowest.is_none_or(is_old) {
            (self.tries, self.tried) = (TRIES, None);
            self.trial.single = None;
        } else if now >= self.rests_until {
            let verdict = self.trial.take(rate);
            self.is_new = true;
            verdict.into_iter().for_each(|verdict| self.judge(now, verdict));
        }
        self.resize();
    }

    fn judge(&mut self, now: Duration, verdict: Verdict) {
        self.trial = Trial::default();
        let is_least = self.factor <= 1.0;
        let changes_nothing = match verdict {
            Verdict::Worth => self.has_shrunk,
            Verdict::NotWorth => is_least,
        };
        self.factor = match verdict {
            Verdict::Worth => (2.0 * self.factor).min(self.most_factor()),
            Verdict::NotWorth => (self.factor / 2.0).max(1.0),
        };
        self.has_shrunk = verdict == Verdict::NotWorth && !is_least;
        if changes_nothing {
            self.rests_until = now + REST;
        }
    }

    /// A message that met no other was answered, for which the window was emptied.
    fn tried(&mut self, now: Duration, took: Duration) {
        let lowest = self.tried.map_or(took, |tried| tried.min(took));
        self.tried = Some(lowest);
        self.tries -= 1;
        if self.tries == 0 {
            self.lowest = Some((lowest, now));
            self.resize();
        }
    }

    /// A message that met no other was answered: events come singly.
    fn measured(&mut self, now: Duration, took: Duration) {
        let is_kept = |(lowest, at)| took > lowest && now.saturating_sub(at) < STALE;
        if !self.lowest.is_some_and(is_kept) {
            self.lowest = Some((took, now));
            self.resize();
        }
    }

    fn rate(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }

    /// By rate and round trip; `None` before they are known.
    fn necessary(&self) -> Option<f64> {
        let (lowest, _) = self.lowest.filter(|_| !self.rates.is_empty())?;
        Some(GAIN * self.rate() * lowest.as_secs_f64() + BESIDE as f64)
    }

    /// With it, it is as large as it may be.
    fn most_factor(&self) -> f64 {
        self.necessary().map_or(1.0, |necessary| (self.most as f64 / necessary).max(1.0))
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates, and is never negative
    fn resize(&mut self) {
        let Some(necessary) = self.necessary() else { return };
        let double = if self.trial.is_double() { 2.0 } else { 1.0 };
        self.size = ((double * self.factor * necessary).ceil() as usize).min(self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A broker that takes messages one after the other, some way off, and a relay with a backlog before it.
    struct Line {
        size: WindowSize,
        now: Duration,
        /// There and back again.
        way: Duration,
        /// What a message costs the broker.
        costs: Duration,
        /// It confirms together what it took in since so long.
        burst: Duration,
        is_free_at: Duration,
        /// When each of those in flight is confirmed.
        in_flight: VecDeque<Duration>,
        /// The sizes that the window had, while it was not emptied.
        sizes: Vec<usize>,
    }

    impl Line {
        /// Of 10,000 messages per second.
        fn new(way: Duration) -> Self {
            Self {
                size: WindowSize::new(1_000, false),
                now: Duration::ZERO,
                way,
                costs: Duration::from_micros(100),
                burst: Duration::from_micros(1),
                is_free_at: Duration::ZERO,
                in_flight: VecDeque::new(),
                sizes: Vec::new(),
            }
        }

        fn send(&mut self) {
            let begins = self.is_free_at.max(self.now + self.way / 2);
            self.is_free_at = begins + self.costs;
            let burst = self.burst.as_micros();
            let together = self.is_free_at.as_micros().div_ceil(burst) * burst;
            let together = Duration::from_micros(u64::try_from(together).unwrap());
            self.in_flight.push_back(together + self.way / 2);
            self.size.sent(self.now, self.in_flight.len());
        }

        /// The next that is confirmed, with all that are by then.
        fn answer(&mut self) -> u64 {
            self.now = self.now.max(*self.in_flight.front().expect("something is in flight"));
            let count = self.in_flight.iter().take_while(|at| **at <= self.now).count();
            self.in_flight.drain(..count);
            self.size.answered(self.now, count);
            count as u64
        }

        /// With a backlog; the share of what the broker can do.
        fn runs(&mut self, lasts: Duration) -> f64 {
            let (began, mut count) = (self.now, 0);
            self.sizes.clear();
            while self.now < began + lasts {
                while self.in_flight.len() < self.size.now() {
                    self.send();
                }
                count += self.answer();
                if self.size.tries == 0 {
                    self.sizes.push(self.size.now());
                }
            }
            count as f64 * self.costs.as_secs_f64() / (self.now - began).as_secs_f64()
        }

        /// The double window is tried now and then.
        fn least_and_usual(&self) -> (usize, usize) {
            let mut sizes = self.sizes.clone();
            sizes.sort_unstable();
            (sizes[0], sizes[sizes.len() / 2])
        }
    }

    #[test]
    fn it_holds_what_keeps_the_broker_busy_and_stays_there() {
        for (way, most) in [(ms(0), 200), (ms(1), 215), (ms(5), 270), (ms(20), 470), (ms(50), 930)]
        {
            let mut line = Line::new(way);
            line.runs(ms(1_000));
            let busy = line.runs(ms(30_000));
            let (least, usual) = line.least_and_usual();
            assert!(busy >= 0.97, "{way:?}: {busy}");
            assert!(usual <= most && least * 5 >= usual * 4, "{way:?}: {least} {usual}");
        }
    }

    #[test]
    fn it_finds_its_size_within_a_moment() {
        for way in [ms(1), ms(20), ms(50)] {
            let mut line = Line::new(way);
            line.runs(ms(500));
            let busy = line.runs(ms(500));
            assert!(busy >= 0.9, "{way:?}: {busy}");
        }
    }

    #[test]
    fn it_grows_at_once_where_the_way_becomes_longer() {
        for (before, after) in [(ms(1), ms(21)), (ms(20), ms(60))] {
            let mut line = Line::new(before);
            line.runs(ms(5_000));
            line.way = after;
            line.runs(ms(1_000));
            let busy = line.runs(ms(3_000));
            assert!(busy >= 0.95, "{before:?} to {after:?}: {busy}");
        }
    }

    #[test]
    fn a_broker_that_becomes_slower_is_not_taken_for_one_further_away() {
        let mut line = Line::new(ms(10));
        line.runs(ms(5_000));
        let (_, fast) = line.least_and_usual();
        line.costs *= 5;
        line.runs(ms(2_000));
        let busy = line.runs(ms(20_000));
        let (_, slow) = line.least_and_usual();
        assert!(busy >= 0.97 && slow < fast && slow <= 230, "{busy} {slow} {fast}");
        line.costs /= 5;
        line.runs(ms(1_000));
        assert!(line.runs(ms(3_000)) >= 0.95, "it is fast again");
    }

    #[test]
    fn a_broker_that_confirms_in_bursts_is_kept_busy() {
        for burst in [ms(5), ms(25)] {
            let mut line = Line::new(ms(1));
            line.burst = burst;
            line.runs(ms(2_000));
            let busy = line.runs(ms(20_000));
            assert!(busy >= 0.97, "{burst:?}: {busy}");
            let (_, usual) = line.least_and_usual();
            assert!(usual <= 550, "{burst:?}: {usual}");
        }
    }

    /// It takes what has come, writes all of it, and confirms it, before it takes more; some writes take longer.
    fn committing(
        size: &mut WindowSize,
        now: &mut Duration,
        lasts: Duration,
        (write, each): (f64, f64),
    ) -> f64 {
        let mut random = fastrand::Rng::with_seed(7);
        let (began, mut count) = (*now, 0);
        while *now < began + lasts {
            let together = size.now();
            (1..=together).for_each(|in_flight| size.sent(*now, in_flight));
            let longer = 0.85 + 0.3 * random.f64();
            *now += Duration::from_secs_f64(longer * (write + each * together as f64) / 1e6);
            size.answered(*now, together);
            count += together;
        }
        count as f64 / (*now - began).as_secs_f64()
    }

    #[test]
    fn a_broker_that_is_faster_the_more_it_writes_together_gets_more() {
        for of in [(1_800.0, 55.0), (5_000.0, 40.0), (500.0, 40.0)] {
            let (mut size, mut now) = (WindowSize::new(1_000, false), Duration::ZERO);
            committing(&mut size, &mut now, ms(10_000), of);
            let rate = committing(&mut size, &mut now, ms(30_000), of);
            let (mut fixed, mut now) = (WindowSize::new(1_000, true), Duration::ZERO);
            let most = committing(&mut fixed, &mut now, ms(30_000), of);
            assert!(rate >= 0.95 * most, "{of:?}: {} of {most}", rate / most);
        }
    }

    #[test]
    fn events_that_come_singly_say_how_far_it_is_and_not_what_the_broker_can_do() {
        let mut line = Line::new(ms(3));
        line.runs(ms(3_000));
        while !line.in_flight.is_empty() {
            line.answer();
        }
        let (size, rates) = (line.size.now(), line.size.rates.clone());
        for _ in 0..5_000 {
            line.now += ms(20);
            line.send();
            while !line.in_flight.is_empty() {
                line.answer();
            }
        }
        assert_eq!(line.size.rates, rates);
        assert!(line.size.now().abs_diff(size) <= 2, "{} {size}", line.size.now());
        assert!(line.runs(ms(1_000)) >= 0.97, "a backlog comes");
    }

    #[test]
    fn a_block_and_a_lost_channel_are_no_measure() {
        let mut line = Line::new(ms(2));
        line.runs(ms(3_000));
        let size = line.size.now();
        line.send();
        line.size.interrupted(0);
        line.now += ms(60_000);
        line.is_free_at = line.now;
        line.size.interrupted(0);
        line.runs(ms(100));
        assert!(line.size.size.abs_diff(size) <= size / 4, "{} {size}", line.size.size);
        let gone = line.in_flight.len();
        line.in_flight.clear();
        line.size.interrupted(gone);
        assert!(line.runs(ms(3_000)) >= 0.97);
    }

    #[test]
    fn a_fixed_one_is_what_was_asked_for() {
        let mut line = Line::new(ms(2));
        line.size = WindowSize::new(1_000, true);
        line.runs(ms(1_000));
        assert_eq!(line.least_and_usual(), (1_000, 1_000));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Send,
        Answer(usize),
        Wait(u64),
        Interrupt,
        LoseChannel,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            20 => Just(Step::Send),
            10 => (1..50_usize).prop_map(Step::Answer),
            5 => (0..100_000_u64).prop_map(Step::Wait),
            1 => Just(Step::Interrupt),
            1 => Just(Step::LoseChannel),
        ]
    }

    proptest! {
        #[test]
        fn there_is_always_room_for_one_and_never_for_more_than_was_asked_for(
            most in prop_oneof![1..200_usize, Just(65_535)],
            steps in prop::collection::vec(step(), 1..2_000),
        ) {
            let mut size = WindowSize::new(most, false);
            let (mut now, mut in_flight) = (Duration::ZERO, 0_usize);
            for step in steps {
                match step {
                    Step::Send if in_flight < size.now() => {
                        in_flight += 1;
                        size.sent(now, in_flight);
                    }
                    Step::Send => {}
                    Step::Answer(count) => {
                        let count = count.min(in_flight);
                        in_flight -= count;
                        size.answered(now, count);
                    }
                    Step::Wait(micros) => now += Duration::from_micros(micros),
                    Step::Interrupt => size.interrupted(0),
                    Step::LoseChannel => {
                        size.interrupted(in_flight);
                        in_flight = 0;
                    }
                }
                prop_assert!((1..=most).contains(&size.now()));
            }
            // Whatever came before: it is emptied no longer than a few messages take.
            let mut left = TRIES + 1;
            while size.tries > 0 {
                prop_assert!(left > 0);
                left -= 1;
                in_flight += 1;
                size.sent(now, in_flight);
                now += ms(1);
                size.answered(now, std::mem::take(&mut in_flight));
            }
        }
    }
}
