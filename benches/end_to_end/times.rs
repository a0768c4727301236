//! When numbered events passed a place, by one clock for all threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub struct Times {
    since: Instant,
    at: Vec<AtomicU64>,
}

impl Times {
    pub fn new(since: Instant, count: usize) -> Self {
        Self { since, at: (0..count).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Now, unless this event has passed before: a repeat is no later delivery.
    pub fn note(&self, number: usize) {
        let now = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1);
        if let Some(at) = self.at.get(number) {
            let _ = at.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    pub fn get(&self, number: usize) -> Option<Duration> {
        let at = self.at.get(number)?.load(Ordering::Relaxed);
        (at > 0).then(|| Duration::from_nanos(at))
    }

    /// How many have passed.
    pub fn count(&self) -> usize {
        self.at.iter().filter(|at| at.load(Ordering::Relaxed) > 0).count()
    }

    /// What each of these events took from there to here, in milliseconds.
    pub fn since(&self, there: &Self, numbers: std::ops::Range<usize>) -> Vec<Option<f64>> {
        let took =
            |number| Some((self.get(number)?.checked_sub(there.get(number)?)?).as_secs_f64());
        numbers.map(|number| took(number).map(|seconds| seconds * 1e3)).collect()
    }
}

/// The value below which this share of them lies.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let index = (sorted.len() as f64 * share).ceil() as usize;
    sorted
        .get(index.saturating_sub(1).min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}
