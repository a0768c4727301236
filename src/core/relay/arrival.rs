//! An event on its way: out of the stream, the list of a catch-up, or the parking.

use std::sync::Arc;
use std::time::Duration;

use crate::core::event::pgoutput::Tuple;
use crate::core::event::relation::Mapping;
use crate::core::event::{Moment, Position, Refusal};
use crate::core::parked::Aggregate;
use crate::core::relay::destinations::Destination;
use crate::core::relay::window::{InFlight, Return};

/// Where an event comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// The stream, or the list of a catch-up; its number.
    Stream(u64),
    /// The parking.
    Parked {
        /// Its number there.
        seq: i64,
        /// Tries before this one.
        attempts: u32,
    },
}

/// An event on its way.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) source: Source,
    /// Its place in commit order.
    pub(super) position: Position,
    /// Its id; `None` where it cannot be read.
    pub(super) id: Option<String>,
    pub(super) mapping: Arc<Mapping>,
    pub(super) tuple: Tuple,
    /// In microseconds since 2000-01-01 UTC.
    pub(super) commit_time: i64,
    pub(super) xid: Option<u32>,
    /// The first transaction that had not begun when its row was known; `None`: that has not yet.
    pub(super) xid_end: Option<u32>,
    /// What its row's column of the time holds, once its message was made.
    pub(super) moment: Option<Moment>,
    /// Its publishing id; `None` where it goes to no stream, or to one without it.
    pub(super) publishing_id: Option<u64>,
    /// Where its message was sent last.
    pub(super) destination: Option<Destination>,
    /// The aggregate that waits for it.
    pub(super) waiter: Option<Aggregate>,
}

impl Arrival {
    /// One that no aggregate waits for, of a transaction that has ended long since.
    pub(super) fn new(
        source: Source,
        position: Position,
        id: Option<String>,
        mapping: Arc<Mapping>,
        tuple: Tuple,
        commit_time: i64,
    ) -> Self {
        Self {
            source,
            position,
            id,
            mapping,
            tuple,
            commit_time,
            xid: None,
            xid_end: None,
            moment: None,
            publishing_id: None,
            destination: None,
            waiter: None,
        }
    }

    /// Its id, for a text.
    pub(super) fn id(&self) -> &str {
        self.id.as_deref().unwrap_or_default()
    }
}

/// What is sent to the broker next.
#[derive(Debug)]
pub(super) struct Outbound {
    pub(super) arrival: Arrival,
    /// It is sent to the dead-letter exchange, for this reason.
    pub(super) dead_letter: Option<Refusal>,
    /// Nothing else may be in flight with it.
    pub(super) is_alone: bool,
}

/// A published event.
#[derive(Debug)]
pub(super) struct PublishedEvent {
    pub(super) arrival: Arrival,
    pub(super) dead_letter: Option<Refusal>,
    pub(super) is_alone: bool,
    pub(super) bytes: usize,
    pub(super) at: Duration,
    pub(super) is_to_stream: bool,
}

impl InFlight for PublishedEvent {
    /// A message of ours says its place, whatever else it lacks: a dead letter has no `message_id`
    /// where the event's id is too long for one.
    fn is(&self, returned: &Return) -> bool {
        if self.is_to_stream {
            return false;
        }
        let has_id = returned.message_id == self.arrival.id();
        // A column of its own says the `message_id`: the place tells all the same.
        let is_any = returned.message_id.is_empty() || self.arrival.mapping.message_id.is_some();
        match returned.position {
            Some(position) => position == self.arrival.position && (has_id || is_any),
            None => has_id,
        }
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}
