//! What a session says of itself, on the board and in the log: what it is at, and when an outage begins and
//! ends.

use std::time::Duration;

use postgres_types::PgLsn;
use tokio::time::Instant;
use tracing::{info, warn};

use super::event_log::EventLog;
use super::recovery::Recovery;
use crate::board::outage::News;
use crate::board::{Board, RelayState};
use crate::config::Log;
use crate::core::relay::{Doing, Relay};
use crate::error::Fault;
use crate::slot::cause;
use crate::text::span;

/// What was said so far.
pub(super) struct Bulletin {
    pub(super) board: Board,
    /// What the board says it is at.
    doing: Option<Doing>,
    /// What decides that an outage is over; `None` where there is none.
    recovery: Option<Recovery>,
    /// Where the WAL ended at the start.
    wal_end: PgLsn,
    /// Earlier sessions of the outage came as far: they have said all there is to say.
    is_quiet: bool,
    /// Where a line of each event goes.
    events: Option<EventLog>,
}

impl Bulletin {
    /// At the start of a session, on a slot that stands at `acknowledged`, with the WAL up to `wal_end`.
    pub(super) fn new(
        board: &Board,
        log: &Log,
        (acknowledged, wal_end): (PgLsn, PgLsn),
        is_quiet: bool,
    ) -> Self {
        let recovery = board.outage().map(|_| Recovery::new(acknowledged, wal_end));
        let events = log.has_events.then(EventLog::start).flatten();
        Self { board: board.clone(), doing: None, recovery, wal_end, is_quiet, events }
    }

    /// Says what became of each event, where that is wanted.
    pub(super) fn tell_events(&self, relay: &mut Relay) {
        if let Some(events) = &self.events {
            events.put(relay.take_lines());
        }
    }

    /// The end of this session is no news.
    pub(super) fn is_quiet(&self) -> bool {
        self.is_quiet
    }

    /// When an outage may be over, if nothing else happens first.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.recovery.as_ref().and_then(Recovery::deadline)
    }

    /// Says on the board what it is at.
    pub(super) fn tell(&mut self, relay: &Relay) {
        let doing = relay.doing();
        let before = self.doing.replace(doing);
        if before == Some(doing) {
            return;
        }
        if before == Some(Doing::Paused) && relay.paused_by().is_none() {
            info!("resumed: events are published again");
        }
        let (state, what) = match doing {
            Doing::CatchingUp => {
                (RelayState::CatchingUp, "publishes the rows that the slot does not hold")
            }
            Doing::Passing => (
                RelayState::CatchingUp,
                "reads what the slot holds, in which rows are missing: then the listed rows without a mark come, before what was committed since",
            ),
            Doing::Streaming => (RelayState::Running, "reads the stream"),
            Doing::Paused => {
                let by = relay.paused_by().unwrap_or_default();
                warn!(
                    hint = "pgoutbox resume",
                    "paused by {by}: nothing is published, WAL is kept"
                );
                return self.board.pause(by);
            }
            Doing::Draining => (RelayState::Draining, "finishes what is in flight"),
            // What has failed is said when the session has ended.
            Doing::Failing => return,
        };
        self.board.enter(state, what);
    }

    /// Nothing is delivered, and the session lives.
    pub(super) fn hinder(&mut self, fault: &Fault, acknowledged: PgLsn) {
        if self.board.hinder(fault) != News::None {
            warn!(cause = cause(fault), hint = fault.hint, "{}", fault.what);
        }
        let wal_end = self.wal_end;
        self.recovery.get_or_insert_with(|| Recovery::new(acknowledged, wal_end));
    }

    /// All was read that was there when the session began, and nothing of it waits.
    pub(super) fn has_read_all(&self, relay: &Relay) -> bool {
        relay.has_read(self.wal_end)
    }

    /// Says that the outage is over, once it is.
    pub(super) fn recover(&mut self, now: Duration, relay: &Relay) -> bool {
        let is_over = self.recovery.as_mut().is_some_and(|it| it.is_over(now, relay));
        if !is_over {
            return false;
        }
        self.recovery = None;
        self.is_quiet = false;
        if let Some(outage) = self.board.recover() {
            let lasted = span(outage.lasted(Instant::now()));
            info!(lasted, failures = outage.failures, "events are delivered again");
        }
        true
    }
}
