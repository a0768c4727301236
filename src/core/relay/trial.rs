//! Events that wait for the next ones to show whether the fault is of the whole.

use std::time::Duration;

use super::arrival::{Arrival, Source};
use super::phase::Phase;
use super::{Relay, StuckEvent};
use crate::core::event::Refusal;

impl Relay {
    /// No more may be parked: the event waits until another is delivered, its aggregate behind it.
    pub(super) fn put_on_trial(&mut self, now: Duration, arrival: Arrival, refusal: Refusal) {
        let is_closed = matches!(refusal, Refusal::Closed { .. });
        // What ends the session ends the trial too.
        if self.phase.is_ending() || is_closed {
            let stuck = self.stuck(&arrival, refusal, true);
            let first = self.first_on_trial().unwrap_or(stuck);
            return self.enter(Phase::Stuck(first));
        }
        // Of a stream nothing passes it that could be sent: those of its aggregate need not wait, and in memory they
        // would keep others from being taken in.
        if self.is_of_stream(&arrival.mapping) {
            return self.outcomes.put_on_trial(now, arrival, refusal);
        }
        let arrival = match arrival.waiter {
            Some(_) => Some(arrival),
            None => self.wait_for_verdict(arrival),
        };
        if let Some(arrival) = arrival {
            self.outcomes.put_on_trial(now, arrival, refusal);
        }
    }

    /// The row of an event makes a message. Of a stream none may be sent before an older one that is on trial. Nor need
    /// it wait: a stream's event is refused by ourselves, over its row, so the fault is its own where another row makes a
    /// message. `true` where there were such: they are put aside, and it goes once that is written.
    pub(super) fn convicts_older(&mut self, now: Duration, arrival: &Arrival) -> bool {
        let is_new = matches!(arrival.source, Source::Stream(_));
        if !self.outcomes.is_any_on_trial() || !is_new || !self.is_of_stream(&arrival.mapping) {
            return false;
        }
        let rules = &self.rules;
        let refused = self.outcomes.take_from_trial(|of| rules.is_of_stream(&of.mapping));
        let were_any = !refused.is_empty();
        self.refused_for_themselves(now, refused);
        were_any
    }

    /// When it is over, unless something is still to be heard.
    pub(super) fn trial_ends(&self) -> Option<Duration> {
        let is_heard = !self.outgoing.is_any_in_flight() && !self.outgoing.is_any_ready();
        self.outcomes.trial_ends().filter(|_| is_heard)
    }

    /// Nothing was delivered: the session ends before the first of them.
    pub(super) fn end_trial_if_over(&mut self, now: Duration) {
        let is_over = self.trial_ends().is_some_and(|until| until <= now);
        match self.phase {
            Phase::Running if !is_over => {}
            Phase::Running | Phase::Draining => {
                let Some(first) = self.first_on_trial() else { return };
                self.outcomes.end_trial();
                self.enter(Phase::Stuck(first));
            }
            // It ends of something else: they come again.
            Phase::Failing(_) | Phase::Stuck(_) => self.outcomes.end_trial(),
        }
    }

    fn first_on_trial(&self) -> Option<StuckEvent> {
        let (arrival, refusal) = self.outcomes.first_on_trial()?;
        Some(self.stuck(arrival, refusal.clone(), true))
    }
}
