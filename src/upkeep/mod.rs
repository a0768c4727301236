//! What runs beside the relay, on connections of its own: rows and partitions that are old, rows that
//! were missed, and the WAL on disk.
//!
//! **Invariant:** events go on, whatever fails here.

pub mod horizon;
pub mod ledger;
pub(crate) mod place;
pub mod prune;
pub mod reconcile;
pub mod watch;
