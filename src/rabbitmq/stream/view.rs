//! What can be seen of a stream's connection.

use std::sync::Arc;

/// A stream at one moment of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StreamView {
    /// Its name; of a super stream a partition's.
    pub(crate) stream: Arc<str>,
    /// Host and port of the node that leads it.
    pub(crate) leader: String,
    /// The name under which the broker drops repeats.
    pub(crate) name: Option<String>,
    /// The broker says which is the highest id under that name.
    pub(crate) is_watched: bool,
    /// Messages that are not confirmed.
    pub(crate) in_flight: usize,
    /// The highest publishing id that was sent.
    pub(crate) sent_id: u64,
    /// Up to which all are confirmed.
    pub(crate) confirmed_id: u64,
    /// It was found without events that it had confirmed.
    pub(crate) has_forgotten: bool,
}
