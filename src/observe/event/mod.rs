//! Where events stand, from the row to the confirm: what the row, its mark, the parking and the relay's own
//! memory say of each. One answer for the command line and the console.
//!
//! What was delivered leaves little behind: a mark, or not even that. Where it cannot be known what became
//! of an event, that is the answer.

mod look;
mod shards;
mod told;

pub(crate) use look::look;
pub(crate) use shards::look_everywhere;

use crate::core::event::Refusal;
use crate::core::message::Message;
use crate::core::relay::{HeldEvent, Stand};
use crate::operator::ParkedEvent;

/// Which events are meant; what is empty is not asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct EventFilter {
    /// With one of these ids.
    pub ids: Vec<String>,
    /// Of this aggregate, type and id.
    pub aggregate: Option<(String, String)>,
    /// Whose `occurred_at` is not before.
    pub since: Option<jiff::Timestamp>,
    /// Whose `occurred_at` is before.
    pub until: Option<jiff::Timestamp>,
    /// At most so many, the latest.
    pub limit: usize,
    /// How long the slot may take to come to what is committed now.
    pub wait: std::time::Duration,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct TraceReport {
    /// The events, the latest last.
    pub events: Vec<EventTrace>,
    /// There are more.
    pub has_more: bool,
    /// Ids that were asked for and that nothing is known of, and what that means.
    pub unknown: Vec<(String, String)>,
    /// What could not be looked at, and what keeps events waiting.
    pub notes: Vec<String>,
}

/// What becomes of an event. The names never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventState {
    /// A queue took it, and its row is marked.
    Delivered,
    /// A queue took it; its mark is still to be written.
    Unmarked,
    /// It is published, and not confirmed.
    InFlight,
    /// The relay has not come to it, or it waits for its turn.
    Waiting,
    /// It was refused, and is tried again.
    Parked,
    /// It waits behind a parked one of its aggregate.
    Queued,
    /// It was refused, and waits for a person.
    Failed,
    /// The dead-letter exchange took it.
    DeadLettered,
    /// A person gave it up.
    Discarded,
    /// The publication or the table's rule leaves it out.
    LeftOut,
    /// The slot has passed it, and it is neither marked nor parked.
    Missing,
    /// The slot has passed it and it is not parked; its table has no marks that would say more.
    Passed,
}

impl EventState {
    /// Its name in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Unmarked => "unmarked",
            Self::InFlight => "in_flight",
            Self::Waiting => "waiting",
            Self::Parked => "parked",
            Self::Queued => "queued",
            Self::Failed => "failed",
            Self::DeadLettered => "dead_lettered",
            Self::Discarded => "discarded",
            Self::LeftOut => "left_out",
            Self::Missing => "missing",
            Self::Passed => "passed",
        }
    }

    fn of_record(state: &str) -> Self {
        match state {
            "queued" => Self::Queued,
            "failed" => Self::Failed,
            "dead_lettered" => Self::DeadLettered,
            "discarded" => Self::Discarded,
            "delivered" => Self::Unmarked,
            _ => Self::Parked,
        }
    }

    fn of_stand(stand: Stand) -> Self {
        match stand {
            Stand::InFlight => Self::InFlight,
            Stand::Unmarked => Self::Unmarked,
            Stand::Ready | Stand::Behind | Stand::OnTrial => Self::Waiting,
        }
    }
}

/// Its row, where it has one.
#[derive(Debug, Clone)]
pub(crate) struct RowTrace {
    /// When it happened, by the row's own account.
    pub occurred_at: Option<String>,
    /// When it was committed, where the server keeps that.
    pub committed_at: Option<String>,
    /// Its mark is written.
    pub is_marked: bool,
    /// When, where its mark says so.
    pub marked_at: Option<String>,
    /// The relay is to publish it.
    pub is_published: bool,
    /// The slot has passed it.
    pub is_passed: bool,
    /// Rows of its table carry marks, or are deleted once they are delivered.
    pub has_marks: bool,
}

/// Its tries that ended alike, one after the other.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(crate) struct Tries {
    /// `returned`, `nacked` and so on.
    pub reason: String,
    /// The reason in full.
    pub error: String,
    /// How many.
    pub times: u64,
    /// When the first ended.
    pub first: String,
    /// When the last ended.
    pub last: String,
}

/// One event.
#[derive(Debug)]
pub(crate) struct EventTrace {
    /// `schema.table`, or `message:PREFIX`.
    pub table: String,
    /// Its id, where that can be read.
    pub id: Option<String>,
    /// `type/id` of its aggregate.
    pub aggregate: Option<String>,
    /// What becomes of it.
    pub state: EventState,
    /// Its row.
    pub row: Option<RowTrace>,
    /// Its record in the parking.
    pub record: Option<ParkedEvent>,
    /// Its tries.
    pub tries: Vec<Tries>,
    /// What the relay has of it in memory.
    pub held: Option<HeldEvent>,
    /// Its message as it would be published now.
    pub message: Option<Result<Box<Message>, Refusal>>,
}

impl EventTrace {
    fn new(table: String, id: Option<String>, state: EventState) -> Self {
        let (aggregate, row, record, held, message) = (None, None, None, None, None);
        Self { table, id, aggregate, state, row, record, tries: Vec::new(), held, message }
    }
}

/// What becomes of an event, from all that is known of it: the row's mark goes first, for it is written last.
fn state_of(
    row: Option<&RowTrace>,
    record: Option<&ParkedEvent>,
    held: Option<&HeldEvent>,
) -> EventState {
    if row.is_some_and(|row| row.is_marked) {
        return EventState::Delivered;
    }
    match (record, held) {
        // A try is under way.
        (_, Some(held)) if matches!(held.stand, Stand::InFlight | Stand::Unmarked) => {
            EventState::of_stand(held.stand)
        }
        (Some(record), _) => EventState::of_record(&record.state),
        (None, Some(held)) => EventState::of_stand(held.stand),
        (None, None) => match row {
            Some(row) if !row.is_published => EventState::LeftOut,
            Some(row) if row.is_passed && !row.has_marks => EventState::Passed,
            Some(row) if row.is_passed => EventState::Missing,
            _ => EventState::Waiting,
        },
    }
}
