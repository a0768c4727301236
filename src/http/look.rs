//! Looks at the board for all who ask, at most a few times a second: a flood of requests asks
//! the loop no more often than one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use crate::board::Board;
use crate::snapshot::{Facts, Snapshot, Stall};

/// How long the loop is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long an answer holds.
const FRESH: Duration = Duration::from_millis(200);

/// Looks at the board for all who ask.
#[derive(Debug)]
pub(super) struct Looker {
    board: Board,
    facts: Facts,
    began: Instant,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    last: Option<(Instant, Arc<Snapshot>)>,
    stall: Stall,
}

impl Looker {
    pub(super) fn new(board: Board, facts: Facts) -> Self {
        Self { board, facts, began: Instant::now(), kept: Mutex::default() }
    }

    /// Tells of each change of the state.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.board.changes()
    }

    /// How long ago looking began.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// The board, at most [`FRESH`] old. Who asks while another waits for the loop is given
    /// the same answer.
    pub(super) async fn look(&self) -> Arc<Snapshot> {
        let mut kept = self.kept.lock().await;
        if let Some((at, snapshot)) = &kept.last
            && at.elapsed() < FRESH
        {
            return snapshot.clone();
        }
        let shown = self.board.look(PATIENCE).await;
        let now = Instant::now();
        let mut snapshot = Snapshot::new(self.facts.clone(), shown, now);
        snapshot.stalled_for =
            kept.stall.observe(now - self.began, snapshot.settled(), snapshot.is_waiting());
        let snapshot = Arc::new(snapshot);
        kept.last = Some((now, snapshot.clone()));
        snapshot
    }
}
