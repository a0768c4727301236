//! Parked events whose records the server does not let be changed: a trigger raises, somebody holds
//! a lock, a right is gone. Each is put off for a while that grows, and the others go on.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_postgres::Error;
use tracing::warn;

use crate::backoff::Backoff;
use crate::log_throttle::LogThrottle;
use crate::postgres::classify;

/// For how long an event is put off.
const PAUSES: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

/// What could not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Write {
    /// That it is about to be tried.
    Claim,
    /// That it was refused, or not sent.
    Outcome,
    /// That it is delivered, which ends its record: it is not to be tried again.
    Delivered,
    /// The same, and that its mark is written.
    Marked,
}

#[derive(Debug)]
struct Rest {
    pause: Duration,
    until: Instant,
    is_delivered: bool,
}

#[derive(Debug, Default)]
struct State {
    by_seq: BTreeMap<i64, Rest>,
    told: LogThrottle,
}

/// All of them, of one session. The next begins without: what was delivered and still has its record
/// is sent once more then.
#[derive(Debug, Default)]
pub(super) struct RefusedRecords(Mutex<State>);

impl RefusedRecords {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts one off, and says so.
    pub(super) fn put_off(&self, seq: i64, what: Write, error: &Error) {
        let mut state = self.state();
        let one = state.by_seq.get(&seq);
        let pause = PAUSES.next(one.map(|one| one.pause));
        let is_delivered = what == Write::Delivered || one.is_some_and(|one| one.is_delivered);
        let until = Instant::now() + pause;
        state.by_seq.insert(seq, Rest { pause, until, is_delivered });
        let fault = classify(error);
        let is_due = state.told.is_due(&format!("{what:?} {:?}", fault.code()));
        drop(state);
        if !is_due {
            return;
        }
        let (hint, pause) = (fault.hint, crate::text::span(pause));
        match what {
            Write::Claim => warn!(
                hint,
                "parked event {seq} cannot be tried, since pgoutbox.parked refuses that it is taken: {}. It is left for {pause}, and longer each time",
                fault.what
            ),
            Write::Outcome => warn!(
                hint,
                "what became of the try of parked event {seq} is not recorded, since pgoutbox.parked refuses it: {}. It is left for {pause}, and longer each time",
                fault.what
            ),
            Write::Delivered | Write::Marked => warn!(
                hint,
                "parked event {seq} is delivered, and still stands in the parking, since pgoutbox.parked refuses that it goes: {}. That is tried again in {pause}; a relay that starts before sends it once more",
                fault.what
            ),
        }
    }

    /// Its record was written after all.
    pub(super) fn forget(&self, seq: i64) {
        self.state().by_seq.remove(&seq);
    }

    /// It is left alone for a while.
    pub(super) fn rests(&self, seq: i64) -> bool {
        self.state().by_seq.get(&seq).is_some_and(|one| one.until > Instant::now())
    }

    /// Which are not to be tried now.
    pub(super) fn passed_over(&self) -> Vec<i64> {
        let (state, now) = (self.state(), Instant::now());
        let those = state.by_seq.iter().filter(|(_, one)| one.is_delivered || one.until > now);
        those.map(|(seq, _)| *seq).collect()
    }

    /// Those that are delivered, and whose records are to end now.
    pub(super) fn delivered(&self) -> Vec<i64> {
        let (state, now) = (self.state(), Instant::now());
        let those = state.by_seq.iter().filter(|(_, one)| one.is_delivered && one.until <= now);
        those.map(|(seq, _)| *seq).collect()
    }

    /// Until the first of them is to be looked at again.
    pub(super) fn next(&self) -> Option<Duration> {
        let (state, now) = (self.state(), Instant::now());
        let untils = state.by_seq.values().filter(|one| one.until > now).map(|one| one.until);
        untils.min().map(|until| until.saturating_duration_since(now))
    }
}
