//! What the process is asked to do, by signals.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::Fault;

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SignalRequest {
    /// To stop: SIGTERM or SIGINT.
    Stop(&'static str),
    /// To read the configuration again: SIGHUP.
    Reload,
    /// To say more in the log, or no longer: SIGUSR1.
    Louder,
}

/// Signals of the process.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user: Signal,
}

impl Signals {
    /// From now on they do not end the process.
    ///
    /// # Errors
    /// The system does not let the process catch one of the signals.
    pub(super) fn catch() -> Result<Self, Fault> {
        let on = |kind| {
            signal(kind)
                .map_err(|error| Fault::transient(format!("signals cannot be caught: {error}")))
        };
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hangup: on(SignalKind::hangup())?,
            user: on(SignalKind::user_defined1())?,
        })
    }

    /// Waits for the next.
    pub(super) async fn next(&mut self) -> SignalRequest {
        tokio::select! {
            _ = self.terminate.recv() => SignalRequest::Stop("SIGTERM"),
            _ = self.interrupt.recv() => SignalRequest::Stop("SIGINT"),
            _ = self.hangup.recv() => SignalRequest::Reload,
            _ = self.user.recv() => SignalRequest::Louder,
        }
    }
}
