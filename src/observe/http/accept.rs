//! Who may come in: so many connections, each for so long.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

/// Connections at one time. More than probes, scrapers and a few browsers need, and far below
/// what a process may open.
pub(super) const CONNECTIONS: usize = 64;

#[derive(Debug, Default)]
struct Permit {
    /// Connections so far; the number of the next.
    next: u64,
    open: usize,
    /// Those that have not asked for anything yet, the oldest first.
    idle: BTreeMap<u64, AbortHandle>,
}

/// Counts connections, and makes room for new ones: a probe gets in past a flood of clients
/// that connect and say nothing.
#[derive(Debug, Clone, Default)]
pub(super) struct Door(Arc<Mutex<Permit>>);

impl Door {
    fn inside(&self) -> MutexGuard<'_, Permit> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more comes in. Where it is full, the one goes that has waited longest without
    /// asking for anything; `None` where there is none such.
    pub(super) fn enter(&self) -> Option<Visit> {
        let mut inside = self.inside();
        if inside.open >= CONNECTIONS {
            let (_, oldest) = inside.idle.pop_first()?;
            oldest.abort();
        }
        inside.open += 1;
        inside.next += 1;
        Some(Visit { door: self.clone(), number: inside.next })
    }
}

/// A connection, counted until this is dropped.
#[derive(Debug)]
pub(super) struct Visit {
    door: Door,
    number: u64,
}

impl Visit {
    /// It has asked for nothing yet, and may be ended.
    pub(super) fn waits(&self, task: AbortHandle) {
        self.door.inside().idle.insert(self.number, task);
    }

    /// It has asked for something.
    pub(super) fn asks(&self) {
        self.door.inside().idle.remove(&self.number);
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut inside = self.door.inside();
        inside.idle.remove(&self.number);
        inside.open -= 1;
    }
}
