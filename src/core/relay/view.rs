//! What can be seen of the relay at one moment.

use std::time::Duration;

use postgres_types::PgLsn;

use super::Relay;
use super::phase::Phase;
use super::waiting::Waiting;
use crate::core::tally::{SourceTally, TableTally, Tally};

/// The relay at one moment.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// What this session has done.
    pub tally: Tally,
    /// The same by table, as they are configured.
    pub tables: Vec<TableTally>,
    /// And of the events of each table.
    pub by_source: Vec<(String, SourceTally)>,
    /// And by where they went: `exchange:NAME` or `stream:NAME`.
    pub by_destination: Vec<(String, TableTally)>,
    /// Messages published and not settled.
    pub window_messages: usize,
    /// Messages that may be in flight.
    pub window_size: usize,
    /// Bytes of those that are.
    pub window_bytes: usize,
    /// Events taken in that wait behind others of their aggregate, or for room.
    pub waiting: usize,
    /// How long ago the oldest event was committed that is taken in and not settled.
    pub unsettled: Option<Duration>,
    /// Aggregates that do not flow freely.
    pub lanes: usize,
    /// Marks that are to be written.
    pub marks_pending: usize,
    /// What keeps it from taking in one more event, or from ending.
    pub waits_for: Option<Waiting>,
    /// The broker blocks the connection.
    pub is_blocked: bool,
    /// How long the walsender has said nothing, where that is unusual.
    pub silent: Option<Duration>,
    /// The last LSN received that may be acknowledged at all.
    pub received_lsn: PgLsn,
    /// The last LSN acknowledged; 0/0 before the first.
    pub acknowledged_lsn: PgLsn,
}

/// What a relay is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    /// It publishes rows that the slot does not hold.
    CatchingUp,
    /// It passes a stream by which rows may have passed: they are listed once all of it was read.
    Passing,
    /// It reads the stream.
    Streaming,
    /// It finishes what is in flight and publishes nothing more, because somebody paused it.
    Paused,
    /// It finishes what is in flight, because it was asked to.
    Draining,
    /// It finishes what is in flight, because of a fault.
    Failing,
}

impl Relay {
    /// The relay as it is now.
    pub(crate) fn view(&self, now: Duration) -> View {
        let on_trial = self.outcomes.first_on_trial().map(|(arrival, _)| arrival);
        let oldest = on_trial.or_else(|| self.outgoing.oldest_arrival());
        let (window_messages, window_bytes) = self.outgoing.in_flight();
        View {
            tally: self.tally(),
            tables: self.by_table.clone(),
            by_source: self.tally_by_source(),
            by_destination: self.destinations.all().collect(),
            window_messages,
            window_size: self.outgoing.window_size(),
            window_bytes,
            waiting: self.aggregates.size().0 + self.outgoing.ready(),
            unsettled: oldest.map(|arrival| self.age(now, arrival.commit_time)),
            lanes: self.aggregates.len(),
            marks_pending: self.recorder.unwritten_marks().count(),
            waits_for: self.waits_for(now),
            is_blocked: self.deadlines.is_blocked(),
            silent: self.deadlines.silent(now),
            received_lsn: self.progress.received_lsn(),
            acknowledged_lsn: self.progress.acknowledged(),
        }
    }

    /// What the relay is at.
    pub(crate) fn doing(&self) -> Doing {
        match &self.phase {
            Phase::Draining => Doing::Draining,
            Phase::Failing(_) | Phase::Stuck(_) => Doing::Failing,
            Phase::Running if self.outgoing.is_paused() => Doing::Paused,
            Phase::Running if self.catch_up.is_some() => Doing::CatchingUp,
            Phase::Running if self.rules.passes_until.is_some() => Doing::Passing,
            Phase::Running => Doing::Streaming,
        }
    }

    /// Nothing that was taken in waits for anything.
    pub(crate) fn is_idle(&self) -> bool {
        !self.outgoing.is_any_in_flight()
            && !self.outgoing.is_any_ready()
            && self.aggregates.size().0 == 0
            && self.recorder.pending() == 0
    }

    /// The stream was read up to this LSN, and nothing of it waits.
    pub(crate) fn has_read(&self, lsn: PgLsn) -> bool {
        self.progress.received_lsn() >= lsn && self.is_idle()
    }

    /// The broker takes nothing.
    pub(crate) fn is_hindered(&self) -> bool {
        self.deadlines.is_blocked()
    }

    /// Rows of a catch-up's list that were taken in.
    pub(crate) fn caught_up(&self) -> u64 {
        self.catch_up.as_ref().map_or(0, |catch_up| catch_up.taken())
    }

    /// Who paused it, and their note.
    pub(crate) fn paused_by(&self) -> Option<&str> {
        self.outgoing.paused_by()
    }

    /// The wall clock says `micros` since 2000-01-01 UTC where the session's says zero. Set
    /// again now and then: somebody may have set the wall clock.
    pub(crate) fn set_clock(&mut self, micros: i64) {
        self.began_micros = micros;
    }

    /// How long ago something was committed. Clocks that disagree make it zero, not negative.
    pub(super) fn age(&self, now: Duration, commit_time: i64) -> Duration {
        let before = self.began_micros.saturating_sub(commit_time);
        let now = i64::try_from(now.as_micros()).unwrap_or(i64::MAX);
        Duration::from_micros(u64::try_from(before.saturating_add(now)).unwrap_or(0))
    }
}
