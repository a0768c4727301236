//! What is said to a collector of traces about one try to publish an event.

mod context;

pub(crate) use context::Context;

/// What became of one try to publish an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    /// The span that the event was written in.
    pub context: Context,
    /// When the event was committed, in microseconds since 2000-01-01 UTC.
    pub began_micros: i64,
    /// When it was known what became of it, likewise.
    pub ended_micros: i64,
    /// Its `message_id`; empty where it cannot be read.
    pub message_id: String,
    /// Its exchange; empty where it is not known.
    pub exchange: String,
    /// Its routing key; empty where it is not known.
    pub routing_key: String,
    /// Why it was refused, in a word and in full; `None` where it was delivered.
    pub refusal: Option<(&'static str, String)>,
}
