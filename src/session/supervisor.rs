//! Session after session, until drained or until only a person can help.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::backoff::Backoff;
use crate::board::outage::News;
use crate::board::{Board, RelayState};
use crate::config::Config;
use crate::core::relay::End;
use crate::error::{Class, Fault, Kind};
use crate::otlp::SpanQueue;
use crate::session::{self, past::Past};
use crate::shutdown::Shutdown;
use crate::slot::cause;
use crate::text::span;
use crate::upkeep::reconcile::Trigger;

/// Runs sessions until one is drained.
///
/// # Errors
/// What a policy says to stop for, and what a setting of its own is wrong with: whatever may pass
/// by itself, or be fixed beside it, is waited out. Where any shard will do, also that another relay has this one.
pub(crate) async fn run(
    config: Config,
    mut shutdown: Shutdown,
    reconcile: Trigger,
    spans: Option<SpanQueue>,
    board: &Board,
) -> Result<(), Fault> {
    let config = Arc::new(config);
    let mut past = Past { reconcile: Some(reconcile), spans, ..Past::default() };
    let mut broker = 0;
    loop {
        let now = config.renewed().await;
        let (end, has_begun) = session::run(&now, &mut past, &mut shutdown, broker, board).await;
        let fault = match end {
            End::Drained if past.renewal.take().is_some() && !shutdown.is_asked() => continue,
            End::Drained => {
                info!("drained");
                board.enter(RelayState::Stopped, "drained");
                return Ok(());
            }
            End::Stuck(stuck) => stuck.fault(),
            End::Fault(fault) => fault,
        };
        // Another relay has it: there may be one for this.
        if fault.kind == Kind::ShardTaken {
            return Err(fault);
        }
        // A session that ends before a bad event has settled all else, and one that never began has
        // nothing to settle: it is drained, whether it was asked to stop in its last moments or in
        // the pause that follows.
        let is_undrained = shutdown.is_asked() && has_begun && fault.class != Class::Event;
        if matches!(fault.class, Class::Halt | Class::Usage) || is_undrained {
            board.stop(&fault);
            return Err(fault);
        }
        let backoff = Backoff::new(config.session.backoff_min, config.session.backoff_max);
        // Relays that failed together should not come back together.
        let pause = backoff.spread(past.failed(), fastrand::u16(..));
        let news = board.wait(&fault, pause);
        log(&fault, news, pause, board);
        tokio::select! {
            biased;
            () = shutdown.wait() => {
                info!("stopped while waiting to try again");
                board.enter(RelayState::Stopped, "asked to stop");
                return Ok(());
            }
            () = tokio::time::sleep(pause) => {}
        }
        broker += 1;
    }
}

/// One line for what is new of it: an outage of hours is no reason for thousands.
pub(super) fn log(fault: &Fault, news: News, pause: Duration, board: &Board) {
    let (hint, again_in) = (&fault.hint, span(pause));
    let failures = board.outage().map_or(1, |outage| outage.failures);
    if news == News::None {
        return debug!(hint, again_in, failures, "still: {}", fault.what);
    }
    let lasted = match news {
        News::First => None,
        _ => board.outage().map(|outage| span(outage.lasted(Instant::now()))),
    };
    let cause = cause(fault);
    if fault.class == Class::Event {
        let what = &fault.what;
        error!(
            cause,
            hint, again_in, failures, lasted, "{what}: nothing behind it is published, WAL is kept"
        );
    } else if fault.class == Class::Definite {
        error!(cause, hint, again_in, failures, lasted, "{}", fault.what);
    } else {
        warn!(cause, hint, again_in, failures, lasted, "{}", fault.what);
    }
}
