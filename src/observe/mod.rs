//! What the process shows: HTTP and the console, metrics, and systemd; and where one event stands.
//!
//! **Invariant:** all of it reads [`crate::board`]; nothing here decides, and nothing here can hold up
//! an event.

pub(crate) mod catch_up;
pub(crate) mod event;
pub(crate) mod http;
pub(crate) mod metrics;
pub(crate) mod service;
