//! What rounds came to.

use super::*;

/// What rounds came to.
#[derive(Debug, Default)]
pub struct Tally {
    pub(super) events: u64,
    pub(super) copies: u64,
    pub(super) repeats: u64,
    pub(super) sessions: u64,
    pub(super) kills: u64,
    pub(super) server_crashes: u64,
    pub(super) connections_lost: u64,
    pub(super) channels_closed: u64,
    pub(super) channels_reopened: u64,
    pub(super) stuck: u64,
    pub(super) drained: u64,
    pub(super) publication_broken: u64,
    pub(super) storms: u64,
    pub(super) acknowledged: u64,
    pub(super) marks_released: u64,
    pub(super) marks_refused: u64,
    pub(super) tables_closed: u64,
    pub(super) rests_locked: u64,
    pub(super) most_repeated_by_a_kill: u64,
    pub(super) simulated_ms: u64,
    pub(super) parked: u64,
    pub(super) queued: u64,
    pub(super) retried: u64,
    pub(super) discarded: u64,
    pub(super) discarded_in_flight: u64,
    pub(super) freed: u64,
    pub(super) asked_for: u64,
    pub(super) replayed: u64,
    pub(super) listed: u64,
    pub(super) pauses: u64,
    pub(super) late_batches: u64,
    pub(super) late_batches_refused: u64,
    pub(super) dropped: u64,
    pub(super) restored: u64,
    pub(super) looked_ahead: u64,
    pub(super) met: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.copies += other.copies;
        self.repeats += other.repeats;
        self.sessions += other.sessions;
        self.kills += other.kills;
        self.server_crashes += other.server_crashes;
        self.connections_lost += other.connections_lost;
        self.channels_closed += other.channels_closed;
        self.channels_reopened += other.channels_reopened;
        self.stuck += other.stuck;
        self.drained += other.drained;
        self.publication_broken += other.publication_broken;
        self.storms += other.storms;
        self.acknowledged += other.acknowledged;
        self.marks_released += other.marks_released;
        self.marks_refused += other.marks_refused;
        self.tables_closed += other.tables_closed;
        self.rests_locked += other.rests_locked;
        self.most_repeated_by_a_kill =
            self.most_repeated_by_a_kill.max(other.most_repeated_by_a_kill);
        self.simulated_ms += other.simulated_ms;
        self.parked += other.parked;
        self.queued += other.queued;
        self.retried += other.retried;
        self.discarded += other.discarded;
        self.discarded_in_flight += other.discarded_in_flight;
        self.freed += other.freed;
        self.asked_for += other.asked_for;
        self.replayed += other.replayed;
        self.listed += other.listed;
        self.pauses += other.pauses;
        self.late_batches += other.late_batches;
        self.late_batches_refused += other.late_batches_refused;
        self.dropped += other.dropped;
        self.restored += other.restored;
        self.looked_ahead += other.looked_ahead;
        self.met += other.met;
    }
}

impl Tally {
    /// Each thing that may happen did.
    pub fn check_that_it_was_worth_it(&self) {
        let counts = [
            self.kills,
            self.server_crashes,
            self.connections_lost,
            self.channels_closed,
            self.channels_reopened,
            self.stuck,
            self.drained,
            self.publication_broken,
            self.storms,
            self.acknowledged,
            self.marks_released,
            self.marks_refused,
            self.tables_closed,
            self.most_repeated_by_a_kill,
            self.parked,
            self.queued,
            self.retried,
            self.discarded,
            self.discarded_in_flight,
            self.freed,
            self.asked_for,
            self.replayed,
            self.listed,
            self.pauses,
            self.rests_locked,
            self.late_batches,
            self.late_batches_refused,
            self.dropped,
            self.restored,
            self.looked_ahead,
            self.met,
        ];
        assert!(counts.iter().all(|count| *count > 0), "something never happened");
    }
}
