//! Where bytes leave: the only place that knows AMQP and the stream protocol.
//!
//! **Invariant:** lapin is named here alone. What an answer of the broker means is not decided here,
//! but in [`crate::core::relay`].

pub(crate) mod declare;
pub(crate) mod publisher;
pub(crate) mod resend;
pub(crate) mod sink;
pub(crate) mod stream;
