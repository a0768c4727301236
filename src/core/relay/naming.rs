//! Under which name streams are published to: that of before, or a new one.
//!
//! The broker drops an event whose id is not above the highest that it has under the name. That is right as long
//! as what it has is what this server wrote. It is not where the server was restored from a copy of its files: then
//! other events come to have the ids that the broker has seen, and are dropped in silence.
//!
//! A copy has to be started. So as long as the server runs on that ran when the name was made, there is one history,
//! and the name is good. Where it was started since, the history is the same up to the highest id if
//! - that is not above the last id that the progress row calls settled: the row stands behind that event in the WAL, or
//! - the very event is in the WAL, from before the server was started. For that the relay looks, and publishes
//!   nothing meanwhile ([`LookAhead`]).
//!
//! Anything else is doubt, and a new name: what is sent again is there again.

use postgres_types::PgLsn;

use super::ids;
use crate::core::event::Position;

/// What is known of the name that the progress row has.
#[derive(Debug, Clone, Copy)]
pub struct KnownName {
    /// Which ids were used under it is not known for another reason, or there is none.
    pub is_doubtful: bool,
    /// The server has run on since the name was made, or was last found to be right.
    pub is_same_start: bool,
    /// The publishing id of the last event before the place that the row calls settled.
    pub settled: u64,
    /// Where the WAL ended when the session began.
    pub end: PgLsn,
    /// What an earlier session of this process has found, since the server was started.
    pub looked: Option<LookedAhead>,
}

/// What follows for the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// It is the name from here on as well.
    Keep,
    /// Nothing is in flight under it: another one costs nothing, and is nobody else's.
    Change,
    /// What the broker has under it may be other events.
    Doubt,
    /// It is to be looked first whether the event of the highest id is in the WAL.
    LookAhead,
}

impl KnownName {
    /// The broker has to be asked for the highest id under the name.
    pub fn needs_highest(&self) -> bool {
        !self.is_doubtful && !self.is_same_start
    }

    /// What follows for the name, with the highest id that the broker has under it; `None` where that cannot be
    /// asked for.
    pub fn decide(&self, highest: Option<u64>) -> Naming {
        let looked = self.looked.filter(|looked| Some(looked.highest) == highest);
        match highest {
            _ if self.is_doubtful => Naming::Doubt,
            _ if self.is_same_start => Naming::Keep,
            None => Naming::Doubt,
            Some(highest) if highest <= self.settled => Naming::Change,
            Some(highest) if highest > ids::ceiling(Position::after_commit(self.end)) => {
                Naming::Doubt
            }
            Some(_) => match looked {
                Some(LookedAhead { is_met: true, .. }) => Naming::Keep,
                Some(LookedAhead { is_met: false, .. }) => Naming::Doubt,
                None => Naming::LookAhead,
            },
        }
    }
}

/// What a session has found that looked ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LookedAhead {
    /// The highest id that the broker had under the name.
    pub highest: u64,
    /// Its event is in the WAL, from before the server was started.
    pub is_met: bool,
}

/// Looks for the event of the highest id, before anything is published.
#[derive(Debug, Clone, Copy)]
pub struct LookAhead {
    highest: u64,
    /// When the server was started, in microseconds since 2000-01-01 UTC, as commits say their time.
    started: i64,
    /// Where the WAL ended when the session began.
    end: PgLsn,
    found: Option<bool>,
}

impl LookAhead {
    /// Nothing is found yet.
    pub fn new(highest: u64, started: i64, end: PgLsn) -> Self {
        Self { highest, started, end, found: None }
    }

    /// What was found; `None` as long as it is not known.
    pub(super) fn found(&self) -> Option<LookedAhead> {
        self.found.map(|is_met| LookedAhead { highest: self.highest, is_met })
    }

    /// An event comes that has this id. One that was committed since the server was started cannot have been
    /// sent by a session of before.
    pub(super) fn event(&mut self, id: u64, commit_time: i64) {
        if id >= self.highest {
            self.found.get_or_insert(id == self.highest && commit_time < self.started);
        }
    }

    /// Everything before this LSN has come.
    pub(super) fn passed(&mut self, lsn: PgLsn) {
        if lsn >= self.end {
            self.found.get_or_insert(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: u64 = 1 << 30;

    fn natural(lsn: u64) -> u64 {
        (lsn / 32) << 12
    }

    #[test]
    fn what_follows_for_the_name() {
        let (settled, later, beyond) = (natural(1 << 20), natural(1 << 21), natural(1 << 40));
        let (met, unmet) = (|highest| Some((highest, true)), |highest| Some((highest, false)));
        // doubtful, same start, highest, looked
        let table = [
            (true, true, Some(later), None, Naming::Doubt),
            (true, false, Some(settled), met(settled), Naming::Doubt),
            (false, true, None, None, Naming::Keep),
            (false, true, Some(beyond), unmet(beyond), Naming::Keep),
            (false, false, None, None, Naming::Doubt),
            (false, false, Some(0), None, Naming::Change),
            (false, false, Some(settled), None, Naming::Change),
            (false, false, Some(settled + 1), None, Naming::LookAhead),
            (false, false, Some(later), None, Naming::LookAhead),
            (false, false, Some(later), met(later), Naming::Keep),
            (false, false, Some(later), unmet(later), Naming::Doubt),
            // It has risen since: what was on its way has come.
            (false, false, Some(later), met(later - 1), Naming::LookAhead),
            (false, false, Some(later), unmet(later - 1), Naming::LookAhead),
            (false, false, Some(beyond), None, Naming::Doubt),
            (false, false, Some(beyond), met(beyond), Naming::Doubt),
        ];
        for (is_doubtful, is_same_start, highest, looked, expected) in table {
            let looked = looked.map(|(highest, is_met)| LookedAhead { highest, is_met });
            let known = KnownName { is_doubtful, is_same_start, settled, end: END.into(), looked };
            assert_eq!(known.decide(highest), expected, "{known:?} {highest:?}");
        }
    }

    #[test]
    fn only_the_very_event_of_before_the_start_is_met() {
        let (highest, started) = (natural(4_096), 1_000);
        let seen = |events: &[(u64, i64)], passed: Option<u64>| {
            let mut look = LookAhead::new(highest, started, PgLsn::from(8_192));
            events.iter().for_each(|(id, time)| look.event(*id, *time));
            passed.into_iter().for_each(|lsn| look.passed(lsn.into()));
            look.found().map(|found| found.is_met)
        };
        assert_eq!(seen(&[(highest - 1, 1), (highest, 999)], None), Some(true));
        assert_eq!(seen(&[(highest, 999), (highest + 1, 2_000)], Some(9_000)), Some(true));
        assert_eq!(seen(&[(highest, 1_000)], None), Some(false), "committed since the start");
        assert_eq!(seen(&[(highest + 1, 1)], None), Some(false), "there is none of this id");
        assert_eq!(seen(&[(highest - 1, 1)], Some(8_191)), None);
        assert_eq!(seen(&[(highest - 1, 1)], Some(8_192)), Some(false), "the WAL ends before it");
    }
}
