//! Pauses between tries, which double.

use std::time::Duration;

/// What is tried again and again waits for the first of these, then for twice as long each time, up to
/// the longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest }
    }

    /// After so many failures in a row; the first is number 1.
    pub(crate) fn after(self, failures: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1).min(31));
        self.first.saturating_mul(doubled).min(self.longest)
    }

    /// After a pause; the first, where there was none.
    pub(crate) fn next(self, before: Option<Duration>) -> Duration {
        before.map_or(self.first, |pause| pause.saturating_mul(2)).min(self.longest)
    }

    /// As [`after`](Self::after), less a part of up to half: what failed together should not come back
    /// together. A `share` of nothing is half of it, the largest all.
    pub(crate) fn spread(self, failures: u32, share: u16) -> Duration {
        let half = self.after(failures) / 2;
        half + half * u32::from(share) / u32::from(u16::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn doubles_from_the_first_to_the_longest() {
        let backoff = Backoff::new(SECOND, SECOND * 10);
        let pauses = [0, 1, 2, 3, 4, 5, u32::MAX].map(|failures| backoff.after(failures).as_secs());
        assert_eq!(pauses, [1, 1, 2, 4, 8, 10, 10]);
        let mut before = None;
        for pause in [1, 2, 4, 8, 10, 10] {
            before = Some(backoff.next(before));
            assert_eq!(before, Some(SECOND * pause));
        }
    }

    proptest! {
        #[test]
        fn a_spread_pause_is_between_half_and_all(failures: u32, share: u16, first: u32, longest: u32) {
            let backoff = Backoff::new(
                Duration::from_millis(first.into()), Duration::from_secs(longest.into()),
            );
            let full = backoff.after(failures);
            let pause = backoff.spread(failures, share);
            prop_assert!(pause >= full / 2 && pause <= full, "{pause:?} of {full:?}");
        }
    }
}
