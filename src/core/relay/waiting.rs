//! What keeps the relay from taking in an event, from sending one, and from ending: one table of
//! conditions for each. Where all three wait, something must be under way that ends it.

use std::fmt;
use std::time::Duration;

use super::Relay;

/// What the relay waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// For the end of the session: nothing more is taken in.
    End,
    /// For the first look at the parking, which tells who waits for whom.
    Look,
    /// For somebody to resume it.
    Resume,
    /// For events that were taken in before to be sent.
    Turn,
    /// For a new channel, since the broker closed the one before.
    Channel,
    /// For all in flight to be confirmed, since one message was returned or nacked.
    Refusal,
    /// For room in the window.
    Room,
    /// For room in the window, in bytes.
    Bytes,
    /// For the progress row, which bounds what a crash repeats.
    Progress,
    /// For marks to be written.
    Marks,
    /// For events that were put aside to be written.
    Parking,
    /// For the broker's answers.
    Confirms,
    /// For the parking's answers.
    Claims,
    /// For the check of the publication after which the last LSN is acknowledged.
    Check,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::End => "the end of the session",
            Self::Look => "the first look at the parked events",
            Self::Resume => "pgoutbox resume",
            Self::Turn => "events that were received before to be published",
            Self::Channel => "a new channel to the broker",
            Self::Refusal => "confirms of everything in flight, since a message was refused",
            Self::Room => "room in the window",
            Self::Bytes => "room in the window, in bytes",
            Self::Progress => "the progress row",
            Self::Marks => "marks",
            Self::Parking => "parked events to be written",
            Self::Confirms => "confirms",
            Self::Claims => "parked events that were asked for",
            Self::Check => "the check of the publication",
        })
    }
}

/// The first of these that holds.
pub(super) fn first<const N: usize>(conditions: [(bool, Waiting); N]) -> Option<Waiting> {
    // Asked for each event: an array that is iterated by value costs thrice as much.
    conditions.iter().find(|(holds, _)| *holds).map(|(_, what)| *what)
}

impl Relay {
    /// What keeps it from taking in one more event.
    pub(super) fn intake_waits_for(&self) -> Option<Waiting> {
        let is_cautious = self.outcomes.is_cautious();
        first([
            (self.phase.is_ending(), Waiting::End),
            (!self.retries.has_looked(), Waiting::Look),
            (self.outgoing.is_paused(), Waiting::Resume),
            (self.outgoing.is_any_ready(), Waiting::Turn),
            // What waits in memory may have the lowest id of all that is to be sent.
            (self.aggregates.is_any_named_waiting(), Waiting::Turn),
            (self.is_hole_open(), Waiting::Parking),
        ])
        .or_else(|| self.outgoing.waits_for(is_cautious, self.aggregates.size()))
        .or_else(|| self.recorder.waits_for(&self.progress, self.most_unrecorded(is_cautious)))
    }

    /// An event was put aside, and not sent, which may still be lost: behind a higher id, its own would
    /// never be taken again.
    pub(super) fn is_hole_open(&self) -> bool {
        self.rules.has_streams && self.recorder.is_parking_unflushed()
    }

    /// What is not in the progress row is repeated after a crash. `None`: nothing bounds it where
    /// one event goes at a time.
    fn most_unrecorded(&self, is_cautious: bool) -> Option<usize> {
        let most = self.rules.window_messages + self.rules.audit.batch;
        (!is_cautious).then_some(most)
    }

    /// What keeps it from sending what is ready.
    pub(super) fn sending_waits_for(&self) -> Option<Waiting> {
        // A drain finishes what was taken in, paused or not.
        let is_paused = self.outgoing.is_paused() && !self.phase.is_ending();
        first([
            (!self.phase.is_sending(), Waiting::End),
            (is_paused, Waiting::Resume),
            (self.is_hole_open(), Waiting::Parking),
        ])
        .or_else(|| self.outgoing.waits_for(self.outcomes.is_cautious(), (0, 0)))
    }

    /// What keeps it from ending.
    pub(super) fn end_waits_for(&self, now: Duration) -> Option<Waiting> {
        let is_any_unsent = self.outgoing.is_any_ready() || self.aggregates.size().0 > 0;
        first([
            (self.outgoing.is_any_in_flight(), Waiting::Confirms),
            (self.phase.is_sending() && is_any_unsent, Waiting::Turn),
            (!self.recorder.is_idle(now), Waiting::Marks),
            (self.recorder.is_parking_unflushed(), Waiting::Parking),
            (self.retries.is_claiming(), Waiting::Claims),
            (!self.recorder.is_recorded(&self.progress), Waiting::Progress),
            (self.progress.is_settled_point_waiting(), Waiting::Check),
        ])
    }

    /// What it waits for, whatever it is at; `None` where it only waits for the stream.
    pub(crate) fn waits_for(&self, now: Duration) -> Option<Waiting> {
        match self.phase.is_ending() {
            true => self.end_waits_for(now),
            false => self.intake_waits_for(),
        }
    }
}
