//! Tells when an outage is over.

use std::time::Duration;

use postgres_types::PgLsn;

use crate::core::relay::{Doing, Relay};

/// So long nothing may wait, with all connections there, until that counts as good.
const IDLE: Duration = Duration::from_secs(5);

/// An outage is not over once a session runs: many faults show only with the first event. It is
/// over once something was acknowledged that was not before it, or all was read that is there and nothing waits
/// for a while: as long as the server decodes, nothing comes either.
#[derive(Debug)]
pub(super) struct Recovery {
    acknowledged_before: PgLsn,
    wal_end: PgLsn,
    idle_since: Option<Duration>,
}

impl Recovery {
    /// What was acknowledged when it began, and where the WAL ended at the start of the session.
    pub(super) fn new(acknowledged_before: PgLsn, wal_end: PgLsn) -> Self {
        Self { acknowledged_before, wal_end, idle_since: None }
    }

    /// When it has to be looked at again.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.idle_since.map(|since| since + IDLE)
    }

    /// Looks at `now`, the time since the session began.
    pub(super) fn is_over(&mut self, now: Duration, relay: &Relay) -> bool {
        if relay.is_hindered() || relay.doing() == Doing::Failing {
            self.idle_since = None;
            return false;
        }
        let has_passed = relay.acknowledged() > self.acknowledged_before;
        // What a catch-up publishes, the slot does not count.
        let has_caught_up = relay.doing() == Doing::CatchingUp && relay.tally().delivered > 0;
        if has_passed || has_caught_up {
            return true;
        }
        let is_idle = relay.has_read(self.wal_end) || relay.paused_by().is_some();
        if !is_idle {
            self.idle_since = None;
            return false;
        }
        now.saturating_sub(*self.idle_since.get_or_insert(now)) >= IDLE
    }
}
