//! What runs beside the relay, on connections of its own: rows and partitions that are old, rows that
//! were missed, and the WAL on disk.
//!
//! **Invariant:** events go on, whatever fails here.

pub(crate) mod horizon;
pub(crate) mod ledger;
pub(crate) mod prune;
pub(crate) mod reconcile;
pub(crate) mod watch;
