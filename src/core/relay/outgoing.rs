//! What goes to the broker: events that are ready to be sent, and messages in flight.

use std::collections::VecDeque;
use std::time::Duration;

use super::arrival::{Arrival, Outbound, PublishedEvent, Source};
use super::input::Rules;
use super::waiting::{Waiting, first};
use super::window::{Answer, DeliveryOutcome, Stray, Window};
use super::window_size::WindowSize;
use crate::core::message::Message;

/// What goes to the broker.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// Taken in, and not published yet.
    ready: VecDeque<Outbound>,
    window: Window<PublishedEvent>,
    size: WindowSize,
    most_messages: usize,
    most_bytes: usize,
    /// Who asked that nothing more is published; `None` where nobody did.
    paused_by: Option<String>,
    /// The channel is gone, and there is no new one yet.
    is_closed: bool,
}

impl Outgoing {
    /// Nothing is on its way.
    pub(super) fn new(rules: &Rules) -> Self {
        Self {
            ready: VecDeque::new(),
            window: Window::default(),
            size: WindowSize::new(rules.window_messages, rules.is_window_fixed),
            most_messages: rules.window_messages,
            most_bytes: rules.window_bytes,
            paused_by: None,
            is_closed: false,
        }
    }

    /// Somebody asked that nothing more is published.
    pub(super) fn is_paused(&self) -> bool {
        self.paused_by.is_some()
    }

    /// Who did.
    pub(super) fn paused_by(&self) -> Option<&str> {
        self.paused_by.as_deref()
    }

    /// Somebody asked for it, or for the contrary.
    pub(super) fn pause(&mut self, by: Option<String>) {
        self.paused_by = by;
    }

    /// Messages in flight, and their bytes.
    pub(super) fn in_flight(&self) -> (usize, usize) {
        (self.window.len(), self.window.bytes())
    }

    /// A message is in flight.
    pub(super) fn is_any_in_flight(&self) -> bool {
        !self.window.is_empty()
    }

    /// The oldest message in flight.
    pub(super) fn oldest(&self) -> Option<&PublishedEvent> {
        self.window.front()
    }

    /// The oldest event that is in flight or ready.
    pub(super) fn oldest_arrival(&self) -> Option<&Arrival> {
        let in_flight = self.window.front().map(|published| &published.arrival);
        in_flight.or_else(|| self.ready.front().map(|ready| &ready.arrival))
    }

    /// All that is in flight, the oldest first.
    pub(super) fn published(&self) -> impl Iterator<Item = &PublishedEvent> {
        self.window.items()
    }

    /// All that is ready, the next first.
    pub(super) fn outbound(&self) -> impl Iterator<Item = &Outbound> {
        self.ready.iter()
    }

    /// Events that are ready.
    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// An event is ready.
    pub(super) fn is_any_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// An event of the stream is ready, and not sent.
    pub(super) fn is_any_new_ready(&self) -> bool {
        self.ready.iter().any(|ready| matches!(ready.arrival.source, Source::Stream(_)))
    }

    /// What keeps one more message from being in flight, with so many events and bytes counted
    /// beside those that are.
    pub(super) fn waits_for(&self, is_cautious: bool, beside: (usize, usize)) -> Option<Waiting> {
        let wants_alone = self.ready.front().is_some_and(|ready| ready.is_alone);
        let is_one_alone = self.window.front().is_some_and(|front| front.is_alone);
        let is_alone = is_cautious || wants_alone || is_one_alone;
        let (most, all) = if is_alone { (1, 1) } else { (self.size.now(), self.most_messages) };
        first([
            (self.is_closed, Waiting::Channel),
            (self.window.must_empty(), Waiting::Refusal),
            (self.window.len() >= most, Waiting::Room),
            (self.window.len() + beside.0 >= all, Waiting::Room),
            (self.window.bytes() + beside.1 >= self.most_bytes, Waiting::Bytes),
        ])
    }

    /// An event is ready, behind the others.
    pub(super) fn push(&mut self, arrival: Arrival, is_alone: bool) {
        self.ready.push_back(Outbound { arrival, dead_letter: None, is_alone });
    }

    /// An event is to go next.
    pub(super) fn push_first(&mut self, ready: Outbound) {
        self.ready.push_front(ready);
    }

    /// The next that is ready.
    pub(super) fn next_ready(&mut self) -> Option<Outbound> {
        self.ready.pop_front()
    }

    /// Takes out the parked events of a kind that are ready, since they are not to be sent now.
    pub(super) fn take_parked(&mut self, is_it: impl Fn(&Arrival) -> bool) -> Vec<Arrival> {
        if self.ready.is_empty() {
            return Vec::new();
        }
        let is_parked = |ready: &Outbound| {
            matches!(ready.arrival.source, Source::Parked { .. }) && is_it(&ready.arrival)
        };
        let (parked, kept): (Vec<Outbound>, Vec<Outbound>) =
            std::mem::take(&mut self.ready).into_iter().partition(is_parked);
        self.ready = kept.into();
        parked.into_iter().map(|ready| ready.arrival).collect()
    }

    /// A message is published.
    pub(super) fn publish(&mut self, at: Duration, ready: Outbound, message: &Message) {
        let Outbound { arrival, dead_letter, is_alone } = ready;
        let (bytes, is_to_stream) = (message.body.len(), message.stream().is_some());
        self.window.push(PublishedEvent {
            arrival,
            dead_letter,
            is_alone,
            bytes,
            at,
            is_to_stream,
        });
        self.size.sent(at, self.window.len());
    }

    /// Takes in what the broker says.
    pub(super) fn answered(&mut self, answers: Vec<Answer>) -> Result<(), Stray> {
        answers.into_iter().try_for_each(|answer| self.window.take(answer))
    }

    /// The next message of which it is known what became of it, in the order of their publishing.
    pub(super) fn next_settled(&mut self) -> Option<(PublishedEvent, DeliveryOutcome)> {
        self.window.next_settled()
    }

    /// So many messages were settled by what the broker has said.
    pub(super) fn settled(&mut self, now: Duration, count: usize) {
        self.size.answered(now, count);
        if self.window.must_empty() {
            self.size.interrupted(0);
        }
    }

    /// So many messages may be in flight.
    pub(super) fn window_size(&self) -> usize {
        self.size.usual()
    }

    /// The broker takes nothing, or takes messages again.
    pub(super) fn blocked(&mut self) {
        self.size.interrupted(0);
    }

    /// The channel is gone, and all that was in flight with it; a new one is to come.
    pub(super) fn close(&mut self) -> Vec<PublishedEvent> {
        self.is_closed = true;
        self.take_window()
    }

    /// There is a new channel.
    pub(super) fn reopened(&mut self) {
        self.is_closed = false;
    }

    /// What was in flight goes again, before all else that is ready. What comes from the parking goes
    /// alone, as the stream does by then.
    pub(super) fn put_back(&mut self, window: Vec<PublishedEvent>) {
        for PublishedEvent { arrival, dead_letter, is_alone, .. } in window.into_iter().rev() {
            let is_parked = matches!(arrival.source, Source::Parked { .. });
            let is_alone = is_alone || is_parked;
            self.ready.push_front(Outbound { arrival, dead_letter, is_alone });
        }
    }

    /// The channel is gone, and all that was in flight with it.
    pub(super) fn take_window(&mut self) -> Vec<PublishedEvent> {
        self.size.interrupted(self.window.len());
        std::mem::take(&mut self.window).into_items()
    }
}
