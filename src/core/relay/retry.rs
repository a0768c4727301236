//! How often a parked event is tried, and how many may be parked before it is the whole that
//! is at fault.

use std::time::Duration;

use crate::backoff::Backoff;
use crate::config::Parking;
use crate::core::event::Position;
use crate::core::parked::ParkedState;

/// Where an event stands after so many tries. The pause doubles with each try, less a part of
/// up to half, by the event: what was parked together should not come back together.
pub(crate) fn after_tries(rules: &Parking, attempts: u32, position: Position) -> ParkedState {
    if attempts >= rules.max_attempts {
        return ParkedState::Failed;
    }
    let backoff = Backoff::new(rules.backoff_min, rules.backoff_max);
    let share = scatter(u64::from(position.commit_lsn) ^ position.index ^ u64::from(attempts));
    ParkedState::Parked(backoff.spread(attempts, share))
}

/// Any number to an even spread over 16 bits.
fn scatter(value: u64) -> u16 {
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
    u16::try_from(value.wrapping_add(1).wrapping_mul(GOLDEN) >> 48).unwrap_or(u16::MAX)
}

/// How long, in periods, no more is parked once the bound is reached.
const PERIODS: u32 = 10;

/// Bounds how many events are parked in a row because they were refused. Over the bound, the
/// fault is taken for one of the whole (an exchange that is gone, a user without permission, a
/// mapping that reads nothing), and no more is parked until something is delivered again: or the
/// stream would move into the parking, event by event. Events that are bad among others that are
/// delivered never reach it, however many. Where nothing is delivered for long, some more may go:
/// perhaps it is only a great many bad ones.
#[derive(Debug, Clone, Default)]
pub struct Budget {
    /// Since the last delivery.
    in_a_row: usize,
    /// Behind the last that was counted. Where it could not be written that an event is parked, the
    /// next session has it refused once more.
    counted: Option<Position>,
    /// By the clock of the session.
    spent_until: Option<Duration>,
}

impl Budget {
    /// One more may be parked, and counts.
    pub(crate) fn take(&mut self, now: Duration, rules: &Parking, event: Position) -> bool {
        if self.counted.is_some_and(|counted| event <= counted) {
            return true;
        }
        if self.spent_until.is_some_and(|until| until <= now) {
            self.renew();
        }
        if self.in_a_row >= rules.limit {
            self.spent_until.get_or_insert(now + rules.period * PERIODS);
            return false;
        }
        self.in_a_row += 1;
        self.counted = Some(event);
        true
    }

    /// Something was delivered: the broker takes messages after all.
    pub(crate) fn renew(&mut self) {
        *self = Self::default();
    }

    /// For the next session, whose clock begins again.
    #[must_use]
    pub(crate) fn rebased(self, now: Duration) -> Self {
        let spent_until = self.spent_until.map(|until| until.saturating_sub(now));
        Self { spent_until, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules(limit: usize) -> Parking {
        Parking {
            max_attempts: 20,
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(300),
            limit,
            period: Duration::from_secs(60),
            poll_interval: Duration::from_secs(10),
        }
    }

    #[test]
    fn the_bound_holds_until_something_is_delivered() {
        let (rules, second) = (rules(3), Duration::from_secs(1));
        let mut budget = Budget::default();
        assert!(
            (0..3).all(|at| budget.take(at * 100 * second, &rules, place(at))),
            "whatever time it takes"
        );
        assert!(!budget.take(300 * second, &rules, place(3)));
        assert!(!budget.take(899 * second, &rules, place(4)));
        budget.renew();
        assert!(budget.take(899 * second, &rules, place(5)));
    }

    fn place(index: u32) -> Position {
        Position { index: index.into(), ..Position::start() }
    }

    #[test]
    fn an_event_counts_once_however_often_it_comes() {
        let (rules, second) = (rules(3), Duration::from_secs(1));
        let mut budget = Budget::default();
        assert!((0..100).all(|_| budget.take(second, &rules, place(7))));
        assert!((8..10).all(|at| budget.take(second, &rules, place(at))));
        assert!(!budget.take(second, &rules, place(10)));
        assert!(budget.take(second, &rules, place(9)));
    }

    #[test]
    fn time_renews_it_too() {
        let (rules, second) = (rules(3), Duration::from_secs(1));
        let mut budget = Budget::default();
        for round in 0..3 {
            let at = |event: u32| place(10 * round + event);
            assert!((0..3).all(|event| budget.take(second, &rules, at(event))));
            assert!(!budget.take(second, &rules, at(3)));
            // Over sessions, too.
            budget = budget.rebased(500 * second);
            assert!(!budget.take(second, &rules, at(3)));
            budget = budget.rebased(110 * second);
        }
    }

    #[test]
    fn bad_ones_among_good_ones_never_reach_it() {
        let (rules, second) = (rules(100), Duration::from_secs(1));
        let mut budget = Budget::default();
        for event in 0..6_600 {
            match event % 60 {
                0 => assert!(budget.take(second, &rules, place(event))),
                _ => budget.renew(),
            }
        }
    }

    proptest! {
        #[test]
        fn pauses_double_up_to_the_longest_and_end(attempts in 1_u32..40, lsn: u64, index: u64) {
            let rules = rules(1);
            let position = Position { commit_lsn: lsn.into(), index };
            match after_tries(&rules, attempts, position) {
                ParkedState::Failed => prop_assert!(attempts >= 20),
                ParkedState::Parked(pause) => {
                    let full = Duration::from_secs(1 << (attempts - 1).min(20)).min(rules.backoff_max);
                    prop_assert!(attempts < 20 && pause >= full / 2 && pause <= full, "{pause:?}");
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
