//! What decides: bytes of the stream become events, events become messages, and what comes of them
//! becomes what is marked, parked and acknowledged.
//!
//! **Invariant:** nothing here knows a socket, a clock, a task, SQL or a client library. Time comes
//! in as an argument, and what is to be done goes out as a value, for [`crate::session`] to do.

pub mod event;
pub mod guard;
pub mod message;
pub mod parked;
pub mod partition;
pub mod relay;
pub mod span;
pub mod tally;
