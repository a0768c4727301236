//! What decides: bytes of the stream become events, events become messages, and what comes of them
//! becomes what is marked, parked and acknowledged.
//!
//! **Invariant:** nothing here knows a socket, a clock, a task, SQL or a client library. Time comes
//! in as an argument, and what is to be done goes out as a value, for [`crate::session`] to do.

pub(crate) mod event;
pub(crate) mod former;
pub(crate) mod guard;
pub(crate) mod hash;
pub(crate) mod message;
pub(crate) mod octets;
pub(crate) mod parked;
pub(crate) mod partition;
pub(crate) mod relay;
pub(crate) mod share;
pub(crate) mod span;
pub(crate) mod tally;
