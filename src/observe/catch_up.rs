//! How far a catch-up is, in the log: one of millions of rows takes its time, and nobody may be watching.

use std::time::Duration;

use tokio::time::{Instant, interval_at};
use tracing::info;

use crate::board::{Board, RelayState};
use crate::text::span;

/// Between two lines.
const PERIOD: Duration = Duration::from_secs(10);

/// Tells as long as there is a catch-up that gets on. Never ends.
pub(crate) async fn run(board: Board) {
    let mut ticks = interval_at(Instant::now() + PERIOD, PERIOD);
    let mut told = 0;
    loop {
        ticks.tick().await;
        if board.shown().state != RelayState::CatchingUp {
            continue;
        }
        let Some(view) = board.look(PERIOD / 2).await.catch_up else { continue };
        let Some((rate, left)) = view.pace().filter(|_| view.done != told) else { continue };
        told = view.done;
        let (rows_a_second, left) = (rate.round(), span(left));
        info!(done = view.done, rows = view.total, rows_a_second, left, "catching up: so far");
    }
}
