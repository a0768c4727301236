//! What was said in the log, and when: the same thing is not said again for a while.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The same thing is not said again before.
const AGAIN: Duration = Duration::from_secs(60);
/// Most things that are remembered.
const MOST: usize = 1_000;

/// What was said.
#[derive(Debug, Default)]
pub(crate) struct LogThrottle(BTreeMap<String, Instant>);

impl LogThrottle {
    /// It is time to say this, and it is said from now on.
    pub(crate) fn is_due(&mut self, what: &str) -> bool {
        let now = Instant::now();
        let is_old = |at: &Instant| now.saturating_duration_since(*at) >= AGAIN;
        let is_due = self.0.get(what).is_none_or(is_old);
        if is_due {
            if self.0.len() >= MOST {
                self.0.retain(|_, at| !is_old(at));
            }
            self.0.insert(what.to_owned(), now);
        }
        is_due
    }
}
