//! Which server it is, and which session writes to it.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;

/// Which server, and which history of it: LSNs mean nothing on another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// `system_identifier` of the cluster.
    pub system_identifier: String,
    /// Its timeline: a promotion begins a new one.
    pub timeline: i32,
}

/// A session's id in the progress row: a UUID that no other has.
///
/// The second half alone may be drawn alike by two hosts that were started together.
pub(crate) fn new_session() -> String {
    let of_the_system = RandomState::new().hash_one(0);
    format!("{of_the_system:016x}{:016x}", fastrand::u64(..))
}
