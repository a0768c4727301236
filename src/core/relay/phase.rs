//! Where a session stands between its start and its end.

use super::{End, StuckEvent};
use crate::error::Fault;

/// Where a session stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// Events are taken in.
    Running,
    /// What was taken in is finished, and nothing more is taken in.
    Draining,
    /// What is in flight is finished; what was taken in and not sent comes again.
    Failing(Fault),
    /// Likewise; of the stream nothing counts any more, for it is behind this event.
    Stuck(StuckEvent),
}

impl Phase {
    /// Nothing more is taken in.
    pub(super) fn is_ending(&self) -> bool {
        *self != Self::Running
    }

    /// What was taken in may still be sent.
    pub(super) fn is_sending(&self) -> bool {
        matches!(self, Self::Running | Self::Draining)
    }

    /// How the session ends, once nothing is in flight.
    pub(super) fn end(&self) -> Option<End> {
        match self {
            Self::Running => None,
            Self::Draining => Some(End::Drained),
            Self::Failing(fault) => Some(End::Fault(fault.clone())),
            Self::Stuck(stuck) => Some(End::Stuck(stuck.clone())),
        }
    }
}
