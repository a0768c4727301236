//! One life from connect to error: it connects, turns what happens into inputs of the
//! [`Relay`](crate::core::relay::Relay) and does what the relay says.
//!
//! **Invariant:** it decides nothing itself, and any error of a connection ends it: there is one way of
//! recovery, the start of the next session.
//!
//! `begin` begins it, step by step; `shard` chooses one before, where any will do; `standby` takes the slot, once nobody else has it; `progress_row` is
//! what is kept from session to session in the database, and `past` what is kept in the process; `readings` says whether
//! what it says was delivered is that still. `work` is
//! the loop. It has `broker`, the connection to RabbitMQ; `jobs`, what is asked of the database over the
//! `audit` connection (`checks` are some of it); `recording`, which writes down how far all is settled
//! (`reach` says what may be acknowledged); and `bulletin`, which says what the session is at (`recovery`
//! knows when an outage is over, `event_log` writes what became of each event).

mod audit;
mod begin;
mod broker;
mod bulletin;
mod checks;
mod event_log;
mod jobs;
mod past;
mod progress_row;
mod reach;
mod readings;
mod recording;
mod recovery;
mod routes;
pub(crate) mod shard;
mod standby;
pub(crate) mod supervisor;
mod work;

use std::sync::Arc;
use std::time::Duration;

use audit::{AuditConnection, answered};
use begin::Setup;
use past::Past;
use progress_row::record_fault;
use work::{Account, Session};

use crate::board::{Board, EndReason, RelayState};
use crate::config::Config;
use crate::core::relay::End;
use crate::error::{Fault, Side};
use crate::shutdown::Shutdown;
use crate::slot;

/// How long an orderly end waits for the last acknowledgement to be on its way.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs one session to its end, and says how it ended; [`End::Drained`] is the only good way. And
/// whether it began at all: one that could not connect has sent nothing.
pub(crate) async fn run(
    config: &Arc<Config>,
    past: &mut Past,
    shutdown: &mut Shutdown,
    broker: usize,
    board: &Board,
) -> (End, bool) {
    board.session_begins();
    board.enter(RelayState::Connecting, "connects to Postgres and RabbitMQ");
    let (end, ended) = begin_and_run(config, past, shutdown, broker, board).await;
    let reason = match &end {
        End::Drained => EndReason::Drained,
        End::Fault(fault) => EndReason::of(fault),
        End::Stuck(_) => EndReason::Event,
    };
    let has_begun = ended.is_some();
    let (done, unsettled) = ended.unzip();
    board.session_ends(reason, done.as_ref(), unsettled.flatten());
    (end, has_begun)
}

async fn begin_and_run(
    config: &Arc<Config>,
    past: &mut Past,
    shutdown: &mut Shutdown,
    broker: usize,
    board: &Board,
) -> (End, Option<Account>) {
    let audit = tokio::select! {
        biased;
        () = shutdown.wait() => return (End::Drained, None),
        audit = AuditConnection::connect(config) => match audit {
            Ok(audit) => audit,
            Err(fault) => return (fault.on(Side::Audit).into(), None),
        },
    };
    // Another host may take itself for the primary as well.
    let config = config.streaming_from(&audit.host);
    let expanded = tokio::select! {
        biased;
        () = shutdown.wait() => return (End::Drained, None),
        expanded = expanded(&config, &audit) => expanded,
    };
    let config = &match expanded {
        Ok(expanded) => expanded,
        Err(fault) => {
            let end = fault.on(Side::Audit).into();
            record_fault(&config, past, board, &audit.client, &end).await;
            return (end, None);
        }
    };
    let end = tokio::select! {
        biased;
        () = shutdown.wait() => End::Drained,
        session = Session::begin(Setup { config, audit: &audit, broker, board }, past) => match session {
            Err(fault) => fault.into(),
            Ok(session) => {
                let (end, ended) = session.run_to_end(past, shutdown, audit).await;
                return (end, Some(ended));
            }
        },
    };
    record_fault(config, past, board, &audit.client, &end).await;
    (end, None)
}

/// With the tables that match patterns.
async fn expanded(config: &Arc<Config>, audit: &AuditConnection) -> Result<Arc<Config>, Fault> {
    if !config.has_patterns() {
        return Ok(Arc::clone(config));
    }
    answered(config, slot::expand(&audit.client, config)).await.map(Arc::new)
}
