//! What the broker's answers have taught: how many events were refused in a row, which message it
//! cannot bear, and what is to become of one that was refused.

use std::time::Duration;

use super::arrival::Arrival;
use super::input::{End, LostConnections, Memory, NACK_PATIENCE};
use super::retry::Budget;
use crate::config::{OnFailure, Parking};
use crate::core::event::{Position, Refusal};

/// Connections that were lost in the same place before a message is suspected, and convicted.
const DROPS: u32 = 2;
/// For so long the next events may show whether a fault is of the whole, where there are few.
const TRIAL: Duration = Duration::from_secs(2);

/// What becomes of an event that was refused, or whose dead letter was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RefusalVerdict {
    /// The relay goes no further.
    Stick,
    /// It waits for the next ones to show whether the fault is its own.
    Wait,
    /// Its dead letter is sent.
    SendDeadLetter,
    /// It is parked.
    Park,
    /// It was parked before, and is tried again later, or has failed.
    Retry,
}

/// What a table wants done with its refused events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    Block,
    Park,
    DeadLetter,
}

impl From<&OnFailure> for Policy {
    fn from(on_failure: &OnFailure) -> Self {
        match on_failure {
            OnFailure::Block => Self::Block,
            OnFailure::Park => Self::Park,
            OnFailure::DeadLetter { .. } => Self::DeadLetter,
        }
    }
}

/// What was refused, as far as that decides.
#[derive(Debug, Clone, Copy)]
pub(super) struct RefusedMessage {
    /// The event came out of the parking.
    pub(super) was_parked: bool,
    /// It is its dead letter that was refused.
    pub(super) is_dead_letter: bool,
    /// An older event of its aggregate is parked.
    pub(super) is_behind: bool,
    /// It is a message that is not an envelope, which anybody may write: it says nothing of the whole, and
    /// nobody waits for it.
    pub(super) is_content: bool,
    pub(super) policy: Policy,
}

impl RefusedMessage {
    /// It counts among those that were refused in a row. Behind an event that is parked there is
    /// no more to find out.
    pub(super) fn counts(self) -> bool {
        let is_new = !self.was_parked && !self.is_dead_letter && !self.is_behind;
        is_new && !self.is_content && self.policy != Policy::Block
    }

    /// What becomes of it; `is_limit_reached`: so many were refused in a row that the fault may be
    /// of the whole.
    pub(super) fn decide(self, is_limit_reached: bool) -> RefusalVerdict {
        match self {
            Self {
                policy: Policy::Block,
                was_parked: false,
                is_dead_letter: false,
                is_content: false,
                ..
            } => RefusalVerdict::Stick,
            _ if self.counts() && is_limit_reached => RefusalVerdict::Wait,
            Self {
                policy: Policy::DeadLetter, is_dead_letter: false, is_behind: false, ..
            } => RefusalVerdict::SendDeadLetter,
            Self { was_parked: true, .. } => RefusalVerdict::Retry,
            Self { was_parked: false, .. } => RefusalVerdict::Park,
        }
    }
}

/// Events that were refused when so many in a row had been that the fault may be of the whole: an
/// exchange that is gone, a mapping that reads nothing. Whether it is, the next ones show. Once
/// one of them is delivered, these are parked each for itself; until then they wait, unsettled,
/// and in the parking there is nothing more of them.
#[derive(Debug, Default)]
struct Trial {
    /// The oldest first.
    refused: Vec<(Arrival, Refusal)>,
    until: Duration,
}

/// What the broker's answers have taught.
#[derive(Debug)]
pub(super) struct Outcomes {
    trial: Trial,
    budget: Budget,
    /// Up to this place, events are published one at a time.
    cautious_through: Option<Position>,
    /// The event over which the broker closed the channel, and its words.
    convicted: Option<(Position, String)>,
    /// Where connections to the broker were lost lately, one after the other.
    dropped: Option<LostConnections>,
    /// How old a session is before a parked event that is nacked again ends it.
    nack_patience: Duration,
    /// The broker's limit for a body, for the next session: this one ends over it.
    max_body: Option<usize>,
}

impl Outcomes {
    /// With what earlier sessions have learnt.
    pub(super) fn new(memory: &Memory) -> Self {
        Self {
            trial: Trial::default(),
            budget: memory.budget.clone(),
            cautious_through: memory.cautious_through,
            convicted: memory.convicted.clone(),
            dropped: memory.dropped,
            nack_patience: memory.nack_patience,
            max_body: None,
        }
    }

    /// For the next session, with everything before `delivered` settled.
    pub(super) fn remember(&self, now: Duration, end: &End, delivered: Position) -> Memory {
        let stuck = match end {
            End::Stuck(stuck) => Some(stuck.position),
            End::Drained | End::Fault(_) => None,
        };
        let earlier = self.cautious_through.filter(|through| *through >= delivered);
        Memory {
            delivered,
            cautious_through: stuck.max(earlier),
            convicted: self.convicted.clone(),
            dropped: self.dropped,
            budget: self.budget.clone().rebased(now),
            nack_patience: self.nack_patience,
            max_body: self.max_body,
            ..Memory::default()
        }
    }

    /// Events are published one at a time.
    pub(super) fn is_cautious(&self) -> bool {
        self.cautious_through.is_some()
    }

    /// An event has come; behind the last that may be the one there is no need for caution.
    pub(super) fn arrived(&mut self, position: Position) {
        self.cautious_through.take_if(|through| position > *through);
    }

    /// The broker closed the channel with others in flight: up to here, they go one at a time.
    pub(super) fn suspect(&mut self, position: Position) {
        self.cautious_through = self.cautious_through.max(Some(position));
    }

    /// The broker closed the channel over this one: the next session knows it when it comes.
    pub(super) fn convict(&mut self, position: Position, why: &str) {
        self.convicted = Some((position, why.to_owned()));
    }

    /// The session ends over a body that is larger than this.
    pub(super) fn keep_max_body(&mut self, limit: usize) {
        self.max_body = Some(limit);
    }

    /// It has come.
    pub(super) fn take_convicted(&mut self, position: Position) -> Option<String> {
        let is_it = |convicted: &mut (Position, String)| convicted.0 == position;
        self.convicted.take_if(is_it).map(|(_, why)| why)
    }

    /// The connection ended with this message first in flight; perhaps over it, which is told by
    /// its coming again.
    pub(super) fn dropped(&mut self, first: Position, is_alone: bool) -> Suspicion {
        let earlier = self.dropped.filter(|earlier| earlier.first == first);
        let mut dropped = earlier.unwrap_or(LostConnections { first, together: 0, alone: 0 });
        *(if is_alone { &mut dropped.alone } else { &mut dropped.together }) += 1;
        self.dropped = Some(dropped);
        if is_alone && dropped.alone >= DROPS {
            self.dropped = None;
            return Suspicion::Convicted;
        }
        if dropped.together >= DROPS { Suspicion::Suspected } else { Suspicion::None }
    }

    /// A parked event was delivered: this channel is told when a queue has room again.
    pub(super) fn retry_delivered(&mut self) {
        self.nack_patience = NACK_PATIENCE.next(None);
    }

    /// A parked event was nacked: `true` where only a new channel shows whether its queue has room
    /// again.
    pub(super) fn is_out_of_patience(&mut self, now: Duration) -> bool {
        let is_out = now >= self.nack_patience;
        if is_out {
            self.nack_patience = NACK_PATIENCE.next(Some(self.nack_patience));
        }
        is_out
    }

    /// One more was refused, and counts: `true` where that is one too many in a row.
    pub(super) fn is_limit_reached(
        &mut self,
        now: Duration,
        rules: &Parking,
        event: Position,
    ) -> bool {
        !self.budget.take(now, rules, event)
    }

    /// The broker takes messages after all. Returns those that wait for that: they were refused
    /// each for itself.
    pub(super) fn delivered(&mut self) -> Vec<(Arrival, Refusal)> {
        self.budget.renew();
        std::mem::take(&mut self.trial.refused)
    }

    /// An event waits for what the next ones show.
    pub(super) fn put_on_trial(&mut self, now: Duration, arrival: Arrival, refusal: Refusal) {
        if self.trial.refused.is_empty() {
            self.trial.until = now + TRIAL;
        }
        self.trial.refused.push((arrival, refusal));
    }

    /// Events wait for what the next ones show.
    pub(super) fn is_any_on_trial(&self) -> bool {
        !self.trial.refused.is_empty()
    }

    /// Takes out those of a kind, of which it is known now; the oldest first.
    pub(super) fn take_from_trial(
        &mut self,
        is_it: impl Fn(&Arrival) -> bool,
    ) -> Vec<(Arrival, Refusal)> {
        let all = std::mem::take(&mut self.trial.refused);
        let (taken, kept) = all.into_iter().partition(|(arrival, _)| is_it(arrival));
        self.trial.refused = kept;
        taken
    }

    /// All of them, the oldest first.
    pub(super) fn on_trial(&self) -> impl Iterator<Item = &Arrival> {
        self.trial.refused.iter().map(|(arrival, _)| arrival)
    }

    /// The oldest of those that wait.
    pub(super) fn first_on_trial(&self) -> Option<&(Arrival, Refusal)> {
        self.trial.refused.first()
    }

    /// The next session decides about them.
    pub(super) fn end_trial(&mut self) {
        self.trial.refused.clear();
    }

    /// When the next ones have shown nothing for long enough; `None` where nobody waits.
    pub(super) fn trial_ends(&self) -> Option<Duration> {
        self.is_any_on_trial().then_some(self.trial.until)
    }
}

/// What is to be thought of a message that was first in flight when a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Suspicion {
    /// Nothing: a broker that stops, a network that fails.
    None,
    /// It, or one that was in flight with it, ends the connection.
    Suspected,
    /// It ends the connection.
    Convicted,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_of_a_refused_event() {
        use RefusalVerdict::{Park, Retry, SendDeadLetter, Stick, Wait};
        let (block, park, letter) = (Policy::Block, Policy::Park, Policy::DeadLetter);
        // on failure, parked before, dead letter refused, behind a parked one: below the limit, at it
        let table = [
            (block, false, false, false, Stick, Stick),
            (block, false, false, true, Stick, Stick),
            (block, true, false, false, Retry, Retry),
            (park, false, false, false, Park, Wait),
            (park, false, false, true, Park, Park),
            (park, true, false, false, Retry, Retry),
            (letter, false, false, false, SendDeadLetter, Wait),
            (letter, false, false, true, Park, Park),
            (letter, false, true, false, Park, Park),
            (letter, true, false, false, SendDeadLetter, SendDeadLetter),
            (letter, true, true, false, Retry, Retry),
        ];
        for (policy, was_parked, is_dead_letter, is_behind, below, at) in table {
            let is_content = false;
            let refused =
                RefusedMessage { was_parked, is_dead_letter, is_behind, is_content, policy };
            assert_eq!((refused.decide(false), refused.decide(true)), (below, at), "{refused:?}");
        }
    }

    /// Whoever may write a message could stop the relay with it.
    #[test]
    fn what_is_no_envelope_stops_nothing() {
        use RefusalVerdict::{Park, SendDeadLetter};
        let (block, park, letter) = (Policy::Block, Policy::Park, Policy::DeadLetter);
        for (policy, expected) in [(block, Park), (park, Park), (letter, SendDeadLetter)] {
            let refused = RefusedMessage {
                was_parked: false,
                is_dead_letter: false,
                is_behind: false,
                is_content: true,
                policy,
            };
            assert_eq!((refused.decide(false), refused.decide(true)), (expected, expected));
        }
    }

    fn place(index: u64) -> Position {
        Position { index, ..Position::start() }
    }

    #[test]
    fn a_message_that_ends_the_connection_is_found_by_its_coming_again() {
        let mut outcomes = Outcomes::new(&Memory::default());
        assert_eq!(outcomes.dropped(place(3), false), Suspicion::None, "perhaps the network");
        assert_eq!(outcomes.dropped(place(3), false), Suspicion::Suspected);
        assert_eq!(outcomes.dropped(place(3), true), Suspicion::Suspected);
        assert_eq!(outcomes.dropped(place(3), true), Suspicion::Convicted);
        assert_eq!(outcomes.dropped(place(3), true), Suspicion::None, "it begins again");
        assert_eq!(outcomes.dropped(place(4), true), Suspicion::None, "another one");
        assert_eq!(outcomes.dropped(place(3), true), Suspicion::None, "not one after the other");
    }

    #[test]
    fn caution_ends_behind_the_last_suspect() {
        let mut outcomes = Outcomes::new(&Memory::default());
        outcomes.suspect(place(4));
        outcomes.suspect(place(2));
        outcomes.arrived(place(4));
        assert!(outcomes.is_cautious());
        outcomes.arrived(place(5));
        assert!(!outcomes.is_cautious());
    }

    #[test]
    fn a_new_channel_is_opened_more_and_more_seldom() {
        let mut outcomes = Outcomes::new(&Memory::default());
        assert!(!outcomes.is_out_of_patience(NACK_PATIENCE.next(None) - Duration::from_secs(1)));
        assert!(outcomes.is_out_of_patience(NACK_PATIENCE.next(None)));
        assert!(!outcomes.is_out_of_patience(NACK_PATIENCE.next(None)));
        assert!(outcomes.is_out_of_patience(NACK_PATIENCE.next(None) * 2));
        outcomes.retry_delivered();
        assert!(outcomes.is_out_of_patience(NACK_PATIENCE.next(None)));
    }
}
