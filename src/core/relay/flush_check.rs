//! When to check the publication, and to ask how far the WAL is on disk.

use std::time::Duration;

/// Checks of the publication, numbered from 1 in the order in which they begin; one at a time.
#[derive(Debug, Default)]
pub(super) struct FlushCheck {
    begun: u64,
    passed: u64,
    /// The stream is read on once this one has passed.
    needed: u64,
    /// When the last one began.
    at: Option<Duration>,
}

impl FlushCheck {
    /// The number of the first check that begins after now.
    pub(super) fn next_number(&self) -> u64 {
        self.begun + 1
    }

    /// The last that has passed.
    pub(super) fn passed(&self) -> u64 {
        self.passed
    }

    /// The stream is read no further before a check that begins after now has passed.
    pub(super) fn require(&mut self) {
        self.needed = self.next_number();
    }

    /// The stream waits for a check.
    pub(super) fn is_required(&self) -> bool {
        self.passed < self.needed
    }

    /// The one under way has passed.
    pub(super) fn pass(&mut self) {
        self.passed = self.begun;
    }

    /// When the next one is due: at once where one is `urgent`, else so long after the last, where
    /// there is something to be learnt. `None` while one is under way.
    pub(super) fn due(&self, is_urgent: bool, pause: Option<Duration>) -> Option<Duration> {
        if self.begun != self.passed {
            return None;
        }
        if is_urgent {
            return Some(Duration::ZERO);
        }
        pause.map(|pause| self.at.map_or(Duration::ZERO, |at| at + pause))
    }

    /// One begins.
    pub(super) fn begin(&mut self, now: Duration) {
        self.begun += 1;
        self.at = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_check_that_begins_after_it_was_required_counts() {
        let mut check = FlushCheck::default();
        check.begin(Duration::ZERO);
        check.require();
        check.pass();
        assert!(check.is_required(), "that one had begun before");
        assert_eq!(check.due(true, None), Some(Duration::ZERO));
        check.begin(Duration::ZERO);
        check.pass();
        assert!(!check.is_required());
    }

    #[test]
    fn one_at_a_time_and_with_a_pause() {
        let second = Duration::from_secs(1);
        let mut check = FlushCheck::default();
        assert_eq!(check.due(false, None), None, "there is nothing to be learnt");
        assert_eq!(check.due(false, Some(second)), Some(Duration::ZERO), "the first at once");
        check.begin(5 * second);
        assert_eq!(check.due(true, Some(second)), None, "one is under way");
        check.pass();
        assert_eq!(check.due(false, Some(second)), Some(6 * second));
    }
}
