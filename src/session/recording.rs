//! What may be acknowledged, and the writes to the progress row that this waits for.

use std::pin::Pin;
use std::sync::Arc;

use postgres_types::PgLsn;
use tokio::time::Instant;
use tokio_postgres::Client;
use tracing::warn;

use super::STOP_TIMEOUT;
use super::audit::answered;
use super::progress_row::{RowOwner, record_reach};
use super::reach::Reach;
use crate::config::Config;
use crate::core::relay::Input;
use crate::postgres::identity::Identity;
use crate::within::in_time;

/// What was written down, and where the WAL ends then; `None` where it could not be.
type Write = Pin<Box<dyn Future<Output = Option<(PgLsn, PgLsn)>>>>;

/// Each LSN that it returns is to be acknowledged.
pub(super) struct Recording {
    pub(super) config: Arc<Config>,
    pub(super) client: Arc<Client>,
    pub(super) identity: Identity,
    /// The session's id, in the progress row.
    pub(super) session: String,
    /// Places count messages.
    pub(super) has_messages: bool,
    reach: Reach,
    /// The publishing id of the last event before what is settled.
    publishing_id: u64,
    /// The highest one that a stream has confirmed in this session.
    confirmed_id: u64,
    write: Option<Write>,
}

impl Recording {
    /// At the start of a session, with what the row says on disk.
    pub(super) fn new(
        config: &Arc<Config>,
        client: &Arc<Client>,
        (identity, session, has_messages): (Identity, String, bool),
        (durable, publishing_id): (PgLsn, u64),
    ) -> Self {
        let (config, client) = (Arc::clone(config), Arc::clone(client));
        let reach = Reach::new(durable);
        Self {
            config,
            client,
            identity,
            session,
            has_messages,
            reach,
            publishing_id,
            confirmed_id: 0,
            write: None,
        }
    }

    /// What the row is known to say, on disk.
    pub(super) fn durable(&self) -> PgLsn {
        self.reach.durable()
    }

    /// All before it is settled; the last of that has this publishing id, and a stream has confirmed them up to that one.
    pub(super) fn settled(
        &mut self,
        lsn: PgLsn,
        publishing_id: u64,
        confirmed_id: u64,
    ) -> Option<PgLsn> {
        (self.publishing_id, self.confirmed_id) = (publishing_id, confirmed_id);
        self.reach.settled(lsn)
    }

    /// When something is to be written, if nothing else happens first.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.reach.next_write()
    }

    /// Waits for the write that is under way; for ever, where none is.
    pub(super) async fn next(&mut self) -> Option<PgLsn> {
        let written = match &mut self.write {
            Some(write) => write.await,
            None => std::future::pending().await,
        };
        self.write = None;
        self.reach.recorded(written)
    }

    /// Learns from an input what is on disk.
    pub(super) fn learn(&mut self, input: &Input) -> Option<PgLsn> {
        match input {
            // Somebody has a lock on the row.
            Input::Written(written) if !written.is_recorded() => {
                self.reach.flushed(written.flushed_lsn)
            }
            Input::Written(written) => {
                let lsn = written.batch.place.position.commit_lsn;
                self.reach.wrote(Instant::now(), lsn, written.written_lsn, written.flushed_lsn)
            }
            Input::Checked { flushed_lsn } => self.reach.flushed(*flushed_lsn),
            _ => None,
        }
    }

    /// Begins to write what is worth it.
    pub(super) fn begin(&mut self) {
        let Some(lsn) = self.reach.begin_write(Instant::now()) else { return };
        let (client, identity) = (Arc::clone(&self.client), self.identity.clone());
        let (config, session) = (Arc::clone(&self.config), self.session.clone());
        let (has_messages, place) =
            (self.has_messages, (lsn, self.publishing_id, self.confirmed_id));
        self.write = Some(Box::pin(async move {
            let slot = &config.postgres.slot;
            let own = RowOwner { identity: &identity, session: &session, has_messages };
            match answered(&config, record_reach(&client, slot, own, place, false)).await {
                Ok(end) => Some((lsn, end)),
                // Somebody has a lock on the row, say: it is tried again. Where the connection is
                // gone, the session ends over that.
                Err(fault) => {
                    warn!(hint = fault.hint, "what is settled was not recorded: {}", fault.what);
                    None
                }
            }
        }));
    }

    /// The session ends: what is under way is not waited for.
    pub(super) fn stop(&mut self) {
        self.write = None;
    }

    /// The last of it is on disk before the slot is left.
    pub(super) async fn record_last(&mut self) -> Option<PgLsn> {
        let lsn = self.reach.unrecorded()?;
        let slot = &self.config.postgres.slot;
        let has_messages = self.has_messages;
        let own = RowOwner { identity: &self.identity, session: &self.session, has_messages };
        let written = record_reach(
            &self.client,
            slot,
            own,
            (lsn, self.publishing_id, self.confirmed_id),
            false,
        );
        let end = in_time(STOP_TIMEOUT, written).await?.ok()?;
        self.reach.recorded(Some((lsn, end)))
    }
}
