//! How far something long has got: written by what works, read by what shows it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::text::{grouped, span, thousands};

/// So many of so many.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    done: AtomicU64,
    /// 0 where it is not known.
    total: AtomicU64,
}

impl Gauge {
    /// There are so many more to do than was known.
    pub(crate) fn expect(&self, more: u64) {
        self.total.fetch_add(more, Ordering::Relaxed);
    }

    /// So many more are done.
    pub(crate) fn advance(&self, by: u64) {
        self.done.fetch_add(by, Ordering::Relaxed);
    }

    /// How many are done.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// How many there are, where that is known.
    pub(crate) fn total(&self) -> Option<u64> {
        Some(self.total.load(Ordering::Relaxed)).filter(|total| *total > 0)
    }

    /// There is no more to do.
    pub(crate) fn is_full(&self) -> bool {
        self.total().is_none_or(|total| self.done() >= total)
    }

    /// For people: `137 of 2,000`.
    pub(crate) fn counted(&self) -> String {
        match self.total() {
            Some(total) => format!("{} of {}", thousands(self.done()), thousands(total)),
            None => thousands(self.done()),
        }
    }

    /// The same with how fast it goes and how long it still takes, after so long.
    pub(crate) fn told(&self, after: Duration) -> String {
        let (done, seconds) = (self.done(), after.as_secs_f64());
        let mut told = self.counted();
        if done == 0 || seconds <= 0.0 {
            return told;
        }
        told.push_str(&format!(", {}/s", rate(done as f64 / seconds)));
        if let Some(left) = self.total().and_then(|total| left(done, total, after)) {
            told.push_str(&format!(", {} left", span(left)));
        }
        told
    }
}

/// To three figures where it is small.
fn rate(a_second: f64) -> String {
    match a_second {
        _ if a_second >= 10.0 => grouped(&format!("{a_second:.0}")),
        _ => format!("{a_second:.1}"),
    }
}

/// How long the rest takes at the pace so far, to a second; `None` before there is a pace.
pub(crate) fn left(done: u64, total: u64, after: Duration) -> Option<Duration> {
    let rest = total.checked_sub(done)?;
    let seconds = after.as_secs_f64() * rest as f64 / done as f64;
    Duration::try_from_secs_f64(seconds.ceil()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_how_far_how_fast_and_how_long_still() {
        let gauge = Gauge::default();
        let second = Duration::from_secs(1);
        assert_eq!(gauge.told(second), "0");
        gauge.expect(2_000);
        assert_eq!(gauge.told(second), "0 of 2,000");
        gauge.advance(137);
        assert_eq!(gauge.told(2 * second), "137 of 2,000, 68/s, 28s left");
        assert_eq!(gauge.told(Duration::ZERO), "137 of 2,000");
        assert_eq!(gauge.told(100 * second), "137 of 2,000, 1.4/s, 22m 40s left");
        gauge.advance(1_863);
        assert_eq!(gauge.told(20 * second), "2,000 of 2,000, 100/s, 0s left");
        // More than was expected: the rest is not known.
        gauge.advance(1);
        assert_eq!(gauge.told(20 * second), "2,001 of 2,000, 100/s");
        assert_eq!(left(0, 5, second), None);
        assert_eq!(left(1, u64::MAX, Duration::MAX), None);
    }
}
