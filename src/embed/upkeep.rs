//! The relay, and what runs beside it.

use tokio::sync::watch;

use crate::board::Board;
use crate::config::Config;
use crate::error::Fault;
use crate::otlp::SpanQueue;
use crate::session::supervisor;
use crate::shutdown::Shutdown;
use crate::upkeep::{prune, reconcile, watch as guard};

/// Relays until asked to stop. `is_stopping` is called where the guard asks.
///
/// # Errors
/// What a policy says to stop for, a setting that is wrong, or a drain that was not done in time.
pub(crate) async fn relay(
    config: &Config,
    stop: watch::Sender<bool>,
    shutdown: Shutdown,
    spans: Option<SpanQueue>,
    board: &Board,
    is_stopping: impl FnOnce(),
) -> Result<(), Fault> {
    let (pruning, upkeep, seen) = (shutdown.clone(), config.clone(), board.clone());
    tokio::spawn(async move { prune::run(&upkeep, pruning, &seen).await });
    // Ends with this function.
    let reconciler = reconcile::spawn(config, board);
    let guarding = shutdown.clone();
    let relaying = supervisor::run(config.clone(), shutdown, reconciler.trigger(), spans, board);
    tokio::pin!(relaying);
    tokio::select! {
        biased;
        end = &mut relaying => end,
        verdict = guard::run(config, guarding, board) => {
            // What is in flight may still be settled; the verdict stands, whatever comes of it.
            if verdict.is_err() {
                is_stopping();
                stop.send_replace(true);
            }
            let end = relaying.await;
            verdict.and(end)
        }
    }
}
