//! What streams have lost, in all sessions.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::rabbitmq::stream::StreamView;

/// Sessions that found a stream without events that it had confirmed, by stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct ForgottenByStream(BTreeMap<Arc<str>, u64>);

impl ForgottenByStream {
    /// Adds a session's.
    pub(super) fn add(&mut self, streams: &[StreamView]) {
        for it in streams {
            *self.0.entry(Arc::clone(&it.stream)).or_default() += u64::from(it.has_forgotten);
        }
    }

    /// Each stream with its count, 0 as well: an increase from nothing is none to Prometheus.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, sessions)| (&**name, *sessions))
    }
}
