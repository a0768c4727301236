//! The audit connection: marks, progress and checks go over it, and each question has a bound.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::config::{Config, Host};
use crate::core::relay::Input;
use crate::error::{Fault, Kind, Peer, Side};
use crate::postgres::parking;
use crate::postgres::{self, Role};
use crate::within::within;

/// Silence, in `wal_sender_timeout`s, after which the session is ended. It pings a
/// silent client after half of one.
const SILENCE: (u32, u32) = (3, 2);

/// The audit connection: marks, progress, checks.
pub(super) struct AuditConnection {
    pub(super) client: Arc<Client>,
    /// Where it is.
    pub(super) host: Host,
    /// Somebody changed the parking.
    pub(super) notified: Arc<Notify>,
    /// Drives it.
    pub(super) connection: JoinHandle<Result<(), Fault>>,
}

impl AuditConnection {
    /// Connects, and listens to changes of `pgoutbox.parked`.
    ///
    /// # Errors
    /// The server cannot be reached, or does not let the role in: the next session tries again.
    pub(super) async fn connect(config: &Config) -> Result<Self, Fault> {
        let postgres = &config.postgres;
        let notified = Arc::new(Notify::new());
        let (slot, tell) = (postgres.slot.clone(), Arc::clone(&notified));
        let ((client, connection), host) = postgres::connect_and_hear(
            Role::Session,
            postgres,
            Some(Box::new(move |notification| {
                let (channel, payload) = (notification.channel(), notification.payload());
                if channel == parking::CHANNEL && (payload.is_empty() || payload == slot) {
                    tell.notify_one();
                }
            })),
        )
        .await?;
        Ok(Self { client: Arc::new(client), host, notified, connection })
    }

    /// Waits for its end: a server that shuts down ends it at once, while the walsender would
    /// wait for the relay.
    pub(super) async fn ended(connection: JoinHandle<Result<(), Fault>>) -> Result<Input, Fault> {
        Err(match connection.await {
            Ok(Err(fault)) => fault,
            Ok(Ok(())) | Err(_) => {
                Fault::of(Kind::Closed, Peer::Postgres, "the audit connection has ended")
            }
        }
        .on(Side::Audit))
    }
}

/// How long a server of which nothing is heard may still be alive.
pub(super) fn silence(config: &Config) -> Duration {
    config.postgres.wal_sender_timeout * SILENCE.0 / SILENCE.1
}

/// What the audit connection answers, within bounds: a server, a pooler or a network that
/// stops in the middle of an answer and keeps the connection would hold the relay for ever.
pub(super) async fn answered<T>(
    config: &Config,
    asked: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    answered_within(silence(config), asked).await
}

/// Bytes that a server takes at least, a second: of a row that is far larger than most.
const TAKEN_A_SECOND: usize = 4 << 20;

/// As [`answered`], where so many bytes are to be written first.
pub(super) async fn answered_with<T>(
    config: &Config,
    bytes: usize,
    asked: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    let seconds = u64::try_from(bytes / TAKEN_A_SECOND).unwrap_or(u64::MAX);
    answered_within(silence(config).saturating_add(Duration::from_secs(seconds)), asked).await
}

async fn answered_within<T>(
    patience: Duration,
    asked: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    within(patience, asked, |patience| {
        let patience = crate::text::span(patience);
        let what = format!("no answer on the audit connection for {patience}; connecting again");
        Fault::of(Kind::Timeout, Peer::Postgres, what).on(Side::Audit)
    })
    .await
}
