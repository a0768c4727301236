//! The relay, and what runs beside it.

use tokio::sync::{oneshot, watch};
use tracing::{debug, info};

use crate::board::{Board, RelayState};
use crate::config::Config;
use crate::error::{Fault, Kind};
use crate::otlp::SpanQueue;
use crate::session::{shard, supervisor};
use crate::shutdown::Shutdown;
use crate::upkeep::{prune, reconcile, watch as guard};

/// Relays until asked to stop. `is_stopping` is called where the guard asks.
///
/// # Errors
/// What a policy says to stop for, a setting that is wrong, or a drain that was not done in time.
pub(crate) async fn relay(
    config: &Config,
    stop: watch::Sender<bool>,
    mut shutdown: Shutdown,
    spans: Option<SpanQueue>,
    board: &Board,
    is_stopping: impl Fn(),
) -> Result<(), Fault> {
    loop {
        let Some(own) = shard::choose(config, &mut shutdown, board).await? else {
            info!("stopped before it had a shard");
            board.enter(RelayState::Stopped, "asked to stop");
            return Ok(());
        };
        if config.is_of_any_share() {
            board.put_in_force(&own);
        }
        let end = one(&own, &stop, shutdown.clone(), spans.clone(), board, &is_stopping).await;
        match end {
            Err(fault) if fault.kind == Kind::ShardTaken => debug!("{}", fault.what),
            end => return end,
        }
    }
}

/// The relay of one slot.
async fn one(
    config: &Config,
    stop: &watch::Sender<bool>,
    shutdown: Shutdown,
    spans: Option<SpanQueue>,
    board: &Board,
    is_stopping: &impl Fn(),
) -> Result<(), Fault> {
    let (pruning, upkeep, seen) = (shutdown.clone(), config.clone(), board.clone());
    let (taken, is_taken) = oneshot::channel();
    tokio::spawn(async move {
        tokio::select! {
            () = prune::run(&upkeep, pruning, &seen) => {}
            // Otherwise it comes to its own end.
            Ok(()) = is_taken => {}
        }
    });
    // Ends with this function.
    let reconciler = reconcile::spawn(config, board);
    let guarding = shutdown.clone();
    let relaying = supervisor::run(config.clone(), shutdown, reconciler.trigger(), spans, board);
    tokio::pin!(relaying);
    let end = tokio::select! {
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
    };
    if matches!(&end, Err(fault) if fault.kind == Kind::ShardTaken) {
        // Somebody else sees to the rows of this share.
        let _ = taken.send(());
    }
    end
}
