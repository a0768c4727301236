//! Events that were refused when so many in a row had been that the fault may be of the whole: an
//! exchange that is gone, a mapping that reads nothing. Whether it is, the next ones tell. Once
//! one of them is delivered, these are parked each for itself; until then they wait, unsettled,
//! and in the parking there is nothing more of them.

use std::time::Duration;

use super::arrival::Arrival;
use super::{End, Relay, Stuck};
use crate::core::event::Refusal;

/// For so long the next ones may tell, where there are few.
const TRIAL: Duration = Duration::from_secs(2);

/// The events that wait for the verdict, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Trial {
    refused: Vec<(Arrival, Refusal)>,
    until: Duration,
}

impl Trial {
    pub(super) fn is_empty(&self) -> bool {
        self.refused.is_empty()
    }
}

impl Relay {
    /// No more may be parked: the event waits until another is delivered, its aggregate behind it.
    pub(super) fn put_on_trial(&mut self, now: Duration, arrival: Arrival, refusal: Refusal) {
        let is_closed = matches!(refusal, Refusal::Closed { .. });
        // What ends the session ends the trial too.
        if self.ending.is_some() || is_closed {
            let stuck = self.stuck(&arrival, refusal, true);
            return self.stick(self.first_on_trial().unwrap_or(stuck));
        }
        let arrival = match arrival.lane {
            Some(_) => arrival,
            None => match self.wait_for_verdict(arrival) {
                Some(arrival) => arrival,
                None => return,
            },
        };
        if self.trial.is_empty() {
            self.trial.until = now + TRIAL;
        }
        self.trial.refused.push((arrival, refusal));
    }

    /// Another one was delivered: these were refused each for itself.
    pub(super) fn acquit(&mut self, now: Duration) {
        for (arrival, refusal) in std::mem::take(&mut self.trial.refused) {
            self.put_aside(now, arrival, None, refusal);
        }
    }

    /// When it is over, unless something is still to be heard.
    pub(super) fn trial_ends(&self) -> Option<Duration> {
        let is_heard = self.window.is_empty() && self.ready.is_empty();
        (is_heard && !self.trial.is_empty()).then_some(self.trial.until)
    }

    /// Nothing was delivered: the session ends before the first of them.
    pub(super) fn end_trial_if_over(&mut self, now: Duration) {
        let is_over = self.trial_ends().is_some_and(|until| until <= now);
        match self.ending {
            None if !is_over => {}
            None | Some(End::Drained) => {
                let Some(first) = self.first_on_trial() else { return };
                self.trial.refused.clear();
                self.stick(first);
            }
            // It ends of something else: they come again.
            Some(_) => self.trial.refused.clear(),
        }
    }

    /// The oldest of them.
    pub(super) fn on_trial(&self) -> Option<&Arrival> {
        self.trial.refused.first().map(|(arrival, _)| arrival)
    }

    fn first_on_trial(&self) -> Option<Stuck> {
        let (arrival, refusal) = self.trial.refused.first()?;
        Some(self.stuck(arrival, refusal.clone(), true))
    }
}
