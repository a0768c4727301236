//! What goes into the state machine, and what comes out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use postgres_types::PgLsn;

use crate::backoff::Backoff;
use crate::config::{Audit, Parking, Share, Table};
use crate::core::event::pgoutput::{self, Column, StoredRow};
use crate::core::event::relation::Mapping;
use crate::core::event::{ChangeLsn, Position, PublishingPlace, Refusal};
use crate::core::former::FormerShares;
use crate::core::message::{Limits, Message};
use crate::core::parked::{Aggregate, Head, ParkedRow, Schedule};
use crate::core::relay::marks::{Batch, Mark, WrittenBatch};
use crate::core::relay::retry::Budget;
use crate::core::relay::window::Answer;
use crate::error::{Class, Fault};

/// What a session is held to.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The outbox tables, then the messages: all that events come from.
    pub tables: Arc<[Table]>,
    /// Their oids, in the same order.
    pub oids: Vec<u32>,
    /// The columns that they have today, as the stream shows them, in the same order.
    pub columns: Vec<Arc<[Column]>>,
    /// What the broker takes.
    pub limits: Limits,
    /// Bound on the window, in messages.
    pub window_messages: usize,
    /// So many may be in flight always, and not only as many as keep the broker busy.
    pub is_window_fixed: bool,
    /// Bound on the window, in bytes.
    pub window_bytes: usize,
    /// At most one message in flight per aggregate.
    pub is_strict: bool,
    /// How events are marked.
    pub audit: Audit,
    /// How parked events are tried.
    pub parking: Parking,
    /// How long a message may wait for its confirm.
    pub confirm_timeout: Duration,
    /// How long the broker may block the connection.
    pub blocked_timeout: Duration,
    /// Pause between checks of the publication.
    pub check_interval: Duration,
    /// Silence of the server after which the session is ended.
    pub silence: Duration,
    /// Oids of tables that were configured under a schema and a name that another has now, and what
    /// they are in `tables`, behind those of `oids`. Their rows are those that come under that name.
    pub away: Vec<(u32, (String, String), usize)>,
    /// Tables whose partitions come under names and oids of their own.
    pub leaves: Vec<usize>,
    /// Events of some of the tables go to streams, under publishing ids: none of them may be sent behind one
    /// with a higher id, and one that is not sent must be on disk before a higher one is.
    pub has_streams: bool,
    /// The stream is passed up to here, and the session is over then: rows that were committed before are on the list
    /// that was made beside it, of all tables with marks that hold them today. Only what no list has is published.
    pub passes_until: Option<PgLsn>,
    /// Sources, by number, that earlier sessions did not read, or not so: of what is before the place they may have
    /// passed events over. None where it is empty.
    pub are_new: Vec<bool>,
    /// Tables that are gone, by oid, and which of these sources has the name: earlier sessions read them so.
    pub were_read: BTreeSet<(u32, usize)>,
    /// The share of the aggregates that is this relay's; `None`: all. The rest is neither published nor marked.
    pub share: Option<Share>,
    /// What relays settled that the outbox was spread over before.
    pub former: FormerShares,
}

impl Rules {
    /// Its events go to a stream.
    pub(super) fn is_of_stream(&self, mapping: &Mapping) -> bool {
        let table = self.tables.get(mapping.table);
        self.has_streams && table.is_some_and(|table| table.stream.is_some())
    }
}

/// A parked event that is nacked again by a channel so old may have a queue that has room:
/// RabbitMQ does not tell a channel each time that a quorum queue takes messages again
/// (`rabbit_fifo`: not where `max-length` is taken away). Only a new channel shows it.
/// It doubles with each channel that did not help.
pub(super) const NACK_PATIENCE: Backoff =
    Backoff::new(Duration::from_secs(60), Duration::from_secs(3_600));

/// What outlives a session, on the same server and timeline.
#[derive(Debug, Clone)]
pub struct Memory {
    /// Events before this place are settled: they are marked, unless they are parked, and not
    /// published again.
    pub delivered: Position,
    /// The first change of its transaction that is not before that place, where that is inside one and it is known.
    pub from: Option<ChangeLsn>,
    /// The publishing id of the last event before that place.
    pub publishing_id: u64,
    /// The transaction of that place is shown otherwise than it was when that was written: its events have other
    /// numbers now.
    pub is_shown_otherwise: bool,
    /// Up to this place, events are published one at a time: one of them made the broker
    /// refuse, and what follows it would be published again with each try.
    pub cautious_through: Option<Position>,
    /// Parked events that were in flight when the broker closed the channel: the next try of
    /// each is made alone.
    pub suspects: BTreeSet<i64>,
    /// The event over which the broker closed the channel, and its words.
    pub convicted: Option<(Position, String)>,
    /// Where connections to the broker were lost lately, one after the other.
    pub dropped: Option<LostConnections>,
    /// How many events were parked lately.
    pub budget: Budget,
    /// How old a session is before a parked event that is nacked again ends it.
    pub nack_patience: Duration,
    /// The broker's limit for a body, over which the session before ended. Not kept longer: it may be raised.
    pub max_body: Option<usize>,
}

impl Memory {
    /// All but what is settled, where that may not count any more.
    #[must_use]
    pub fn without_place(self) -> Self {
        Self { delivered: Position::start(), from: None, publishing_id: 0, ..self }
    }

    /// What is settled.
    pub(super) fn place(&self) -> PublishingPlace {
        let Self { delivered: position, from, publishing_id, .. } = *self;
        PublishingPlace { position, from, publishing_id }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            delivered: Position::start(),
            from: None,
            publishing_id: 0,
            is_shown_otherwise: false,
            cautious_through: None,
            suspects: BTreeSet::new(),
            convicted: None,
            dropped: None,
            budget: Budget::default(),
            nack_patience: NACK_PATIENCE.next(None),
            max_body: None,
        }
    }
}

/// Connections that were lost with the same message first in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostConnections {
    /// Its place.
    pub first: Position,
    /// How many, with others behind it.
    pub together: u32,
    /// How many, with nothing else in flight.
    pub alone: u32,
}

/// What happens to a session.
#[derive(Debug)]
pub enum Input {
    /// A message of the stream.
    Stream {
        /// Where the record of the change starts; 0 of what is none.
        lsn: PgLsn,
        /// The message.
        message: pgoutput::Message,
    },
    /// A keepalive of the stream.
    KeepAlive {
        /// What the server has sent everything before.
        wal_end: PgLsn,
        /// It wants an answer at once, which [`wal`](crate::wal) gives.
        is_reply_requested: bool,
    },
    /// What the broker says of messages, in its order.
    Answers(Vec<Answer>),
    /// The broker blocks the connection, or no longer does.
    Blocked(bool),
    /// The broker closed the connection over something published; its words.
    Closed(String),
    /// The broker closed the channel alone, likewise.
    ChannelClosed {
        /// Its words.
        why: String,
        /// Its limit for a body, where it was over the size of one.
        max_body: Option<usize>,
    },
    /// There is a new channel on the same connection.
    Reopened,
    /// The connection to the broker ended, perhaps over something published.
    Dropped(Fault),
    /// A batch of marks was written.
    Written(WrittenBatch),
    /// The publication was checked and found as it should be.
    Checked {
        /// The WAL is on disk up to here.
        flushed_lsn: PgLsn,
    },
    /// What an unknown relation is.
    Resolved(Resolution),
    /// The parking was looked at.
    Looked(Schedule),
    /// The parking answered for the next events of an aggregate.
    Claimed {
        /// The aggregate.
        aggregate: Aggregate,
        /// The events.
        head: Head,
    },
    /// The parking answered for events that nobody waits for.
    ClaimedAlone {
        /// Which were asked for.
        asked: Vec<i64>,
        /// Those that are to be tried.
        rows: Vec<ParkedRow>,
    },
    /// Somebody changed the parking.
    Notified,
    /// Rows of the catch-up's list that wait for their mark, with their numbers in it.
    CatchUp {
        /// The rows; perhaps none of a part of the list.
        rows: Vec<(u64, StoredRow)>,
        /// From where the next are to be fetched.
        next: u64,
        /// There are no more.
        is_last: bool,
    },
    /// The catch-up's list is gone.
    CaughtUp,
    /// Time has passed.
    Tick,
    /// Finish what is in flight, take nothing new.
    Drain,
}

/// What an unknown relation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// This configured table, or a partition of it.
    Partition(usize),
    /// A table that is not configured.
    Other,
    /// It exists, and is no longer a partition of anything that is published.
    Detached,
    /// It no longer exists.
    Gone,
}

/// What the session is to do.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// Publish the next message.
    Publish(Message),
    /// Open a new channel on the same connection. What is published next is numbered from 0 again.
    Reopen,
    /// Write marks, parked events and progress in one transaction. Boxed, so that a message is no larger for it.
    Mark(Box<Batch>),
    /// Tell that these marks are given up: their rows stay unmarked, though they are delivered.
    GivenUp(Vec<Mark>),
    /// Report that a message of this source is not an event, since it is not transactional: the first of
    /// the session.
    NotTransactional(usize),
    /// Check the publication, and ask how far the WAL is on disk.
    Check,
    /// Find out what this relation is.
    Resolve {
        /// Its oid.
        relation: u32,
        /// The transaction that wrote the row that waits for it.
        xid: u32,
    },
    /// Look at the parking: what is due, and who waits.
    Look {
        /// The first look of a session: what was put aside from this place of the stream on is
        /// told as well, and what an earlier session had taken is open again.
        from: Option<Position>,
    },
    /// Take the next events of an aggregate out of the parking, behind this row, to be tried.
    Claim {
        /// The aggregate.
        aggregate: Aggregate,
        /// The row's `seq`; before all of them where it is 0.
        after: i64,
    },
    /// Take these events out of the parking to be tried: nobody waits for them.
    ClaimAlone(Vec<i64>),
    /// Fetch rows of the catch-up's list, from this number on.
    CatchUp(u64),
    /// All of the catch-up's list is settled and recorded: remove it.
    CaughtUp,
    /// Tell Postgres that everything before this LSN is safe.
    Acknowledge(PgLsn),
}

/// How a session ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Everything in flight is settled, marked and acknowledged.
    Drained,
    /// Something failed.
    Fault(Fault),
    /// One event cannot be delivered; everything before it is settled.
    Stuck(StuckEvent),
}

impl End {
    /// The server says what it cannot say: perhaps bytes were lost on the way.
    pub(super) fn protocol(what: impl std::fmt::Display) -> Self {
        Self::Fault(Fault::transient(format!("protocol error in the replication stream: {what}")))
    }
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// The event that a relay cannot get past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StuckEvent {
    /// `schema.table`.
    pub table: String,
    /// Its id.
    pub id: String,
    /// Its place in commit order.
    pub position: Position,
    /// Why it cannot be delivered.
    pub refusal: Refusal,
    /// As many events as may be parked in a row were refused before it: the fault is not its own.
    pub is_systemic: bool,
}

impl StuckEvent {
    /// The fault as an operator reads it.
    pub(crate) fn fault(&self) -> Fault {
        let Self { table, id, position, refusal, is_systemic } = self;
        let what =
            format!("event {id} of {table} (commit {position}) cannot be delivered: {refusal}");
        if *is_systemic {
            return Fault::new(
                Class::Event,
                format!(
                    "{what}. parking.limit is reached: so many events were refused in a row that it looks like a failure of the whole system, and no more are parked until one is delivered, or for ten times parking.period"
                ),
                format!("{}; or, if all of them are bad, raise parking.limit", refusal.hint()),
            );
        }
        Fault::new(Class::Event, what, refusal.hint())
    }
}
