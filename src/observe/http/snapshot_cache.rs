//! Looks at the board for all who ask, at most a few times a second and whenever its state has
//! changed: a flood of requests asks the loop no more often than one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use crate::board::Board;
use crate::board::snapshot::{Facts, Snapshot, Stall};

/// How long the loop is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long an answer holds.
const FRESH: Duration = Duration::from_millis(200);

/// Looks at the board for all who ask.
#[derive(Debug)]
pub(super) struct Looker {
    board: Board,
    began: Instant,
    kept: Mutex<SnapshotCache>,
}

#[derive(Debug, Default)]
struct SnapshotCache {
    last: Option<CachedSnapshot>,
    stall: Stall,
}

#[derive(Debug)]
struct CachedSnapshot {
    at: Instant,
    /// Changes of the state until then.
    changes: u64,
    snapshot: Arc<Snapshot>,
}

impl Looker {
    pub(super) fn new(board: Board) -> Self {
        Self { board, began: Instant::now(), kept: Mutex::default() }
    }

    /// Tells of each change of the state.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.board.changes()
    }

    /// How long ago looking began.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// The board, at most [`FRESH`] old, and of the state that it is in. Who asks while another
    /// waits for the loop is given the same answer.
    pub(super) async fn look(&self) -> Arc<Snapshot> {
        let mut kept = self.kept.lock().await;
        // Before the look: a change in between has the next one look again.
        let changes = *self.changes().borrow();
        if let Some(last) = &kept.last
            && last.changes == changes
            && last.at.elapsed() < FRESH
        {
            return last.snapshot.clone();
        }
        let shown = self.board.look(PATIENCE).await;
        let now = Instant::now();
        let facts = self.board.in_force().map(|config| Facts::of(&config)).unwrap_or_default();
        let mut snapshot = Snapshot::new(facts, shown, now);
        snapshot.stalled_for =
            kept.stall.observe(now - self.began, snapshot.settled(), snapshot.is_waiting());
        let snapshot = Arc::new(snapshot);
        kept.last = Some(CachedSnapshot { at: now, changes, snapshot: snapshot.clone() });
        snapshot
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::RelayState;

    #[tokio::test]
    async fn an_answer_holds_until_the_state_is_another_one() {
        let board = Board::new();
        let looker = Looker::new(board.clone());
        board.enter(RelayState::Connecting, "connects");
        let first = looker.look().await;
        assert!(Arc::ptr_eq(&first, &looker.look().await), "asked again at once");
        board.enter(RelayState::Standby, "another relay has the slot");
        assert_eq!(looker.look().await.shown.state, RelayState::Standby);
    }
}
