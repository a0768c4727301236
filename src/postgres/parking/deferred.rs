//! Outcomes of tries whose records somebody has a lock on. `pgoutbox.parked` shows these events as they
//! were, and they are not to be tried again before their outcome is written.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::core::parked::Attempt;

/// All of them, of one session.
#[derive(Default)]
pub(super) struct DeferredAttempts(Mutex<Vec<Attempt>>);

impl DeferredAttempts {
    fn attempts(&self) -> MutexGuard<'_, Vec<Attempt>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps those whose records are still there.
    pub(super) fn add(&self, attempts: &[Attempt], still: &[i64]) {
        let attempts = attempts.iter().filter(|attempt| still.contains(&attempt.seq));
        self.attempts().extend(attempts.cloned());
    }

    /// All of them. They stay until they are written: what is claimed meanwhile is compared with them.
    pub(super) fn all(&self) -> Vec<Attempt> {
        self.attempts().clone()
    }

    /// Of those that were tried, only these could not be written.
    pub(super) fn retain(&self, tried: &[i64], still: &[i64]) {
        let is_written = |seq| tried.contains(&seq) && !still.contains(&seq);
        self.attempts().retain(|attempt| !is_written(attempt.seq));
    }

    pub(super) fn contains(&self, seq: i64) -> bool {
        self.attempts().iter().any(|attempt| attempt.seq == seq)
    }

    pub(super) fn seqs(&self) -> Vec<i64> {
        self.attempts().iter().map(|attempt| attempt.seq).collect()
    }
}
