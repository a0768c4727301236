//! Which server it is.

/// Which server, and which history of it: LSNs mean nothing on another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// `system_identifier` of the cluster.
    pub system_identifier: String,
    /// Its timeline: a promotion begins a new one.
    pub timeline: i32,
}
