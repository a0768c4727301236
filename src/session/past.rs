//! What outlives a session.

use std::collections::BTreeSet;

use postgres_types::PgLsn;

use crate::core::relay::Memory;
use crate::otlp;
use crate::postgres::identity::Identity;
use crate::slot::{Coverage, KnownPartitions};
use crate::upkeep::reconcile::Trigger;

/// What outlives a session.
#[derive(Debug, Default)]
pub(crate) struct Past {
    pub(super) memory: Option<ServerMemory>,
    pub(super) coverage: Option<Coverage>,
    /// Partitions that hold nothing that no stream brings.
    pub(super) looked: KnownPartitions,
    /// Failed sessions in a row that brought nothing on.
    pub failures: u32,
    /// Something was acknowledged in the last session, or it stood for longer than the longest
    /// pause. What it delivered does not count: it may be the same events again and again.
    pub(super) brought_on: bool,
    /// The walsender of the last stream: the server may not have noticed yet that it is gone.
    pub(crate) walsender: Option<i32>,
    /// Has the outbox tables looked through for rows that were missed.
    pub reconcile: Option<Trigger>,
    /// Where spans go; `None` where nobody wants them.
    pub spans: Option<otlp::SpanQueue>,
    pub(super) warned: BTreeSet<String>,
}

impl Past {
    /// A session has failed; returns how many did in a row without bringing anything on, this
    /// one included.
    pub(crate) fn failed(&mut self) -> u32 {
        if std::mem::take(&mut self.brought_on) {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        self.failures
    }
}

/// What a session leaves to the next one on the same server.
#[derive(Debug, Clone)]
pub(super) struct ServerMemory {
    pub(super) identity: Identity,
    pub(super) memory: Memory,
    /// Places count messages.
    pub(super) has_messages: bool,
    /// What the progress row was known to say, on disk.
    pub(super) recorded: PgLsn,
}
