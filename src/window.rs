//! The messages in flight, and which of them were delivered.
//!
//! The broker sends the return of a message before its ack, and names it by its `message_id`
//! only. So with the answers taken in as they stand on the wire:
//!
//! 1. a message that is acked while no return waits was delivered, and settles once all before
//!    it have;
//! 2. from a return or a nack on nothing more is published, until all in flight is confirmed;
//!    then the returns are matched by `message_id`, and all is settled.

use std::collections::VecDeque;

/// What the broker says of messages, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// No queue took a message. Its confirm comes later.
    Return(Return),
    /// A message is confirmed.
    Confirm {
        /// Its number: see [`Window::push`].
        number: u64,
        /// `false`: a nack.
        is_ack: bool,
    },
}

/// A message that no queue took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Return {
    /// Its `message_id`.
    pub message_id: String,
    /// The broker's words.
    pub why: String,
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A queue took it.
    Delivered,
    /// No queue took it.
    Returned(String),
    /// The broker nacked it.
    Nacked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Acked,
    Nacked,
}

/// A message in flight.
pub trait InFlight {
    /// Its `message_id`: what a return is known by.
    fn message_id(&self) -> &str;
    /// Bytes of its body.
    fn bytes(&self) -> usize;
}

#[derive(Debug)]
struct Entry<T> {
    item: T,
    state: State,
}

/// The window: bounded by its owner, which asks [`len`](Self::len) and [`bytes`](Self::bytes).
#[derive(Debug)]
pub struct Window<T> {
    entries: VecDeque<Entry<T>>,
    first: u64,
    bytes: usize,
    returned: Vec<Return>,
    has_nack: bool,
    unconfirmed: usize,
}

impl<T> Default for Window<T> {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            first: 0,
            bytes: 0,
            returned: Vec::new(),
            has_nack: false,
            unconfirmed: 0,
        }
    }
}

impl<T: InFlight> Window<T> {
    /// Messages in flight.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of the bodies in flight.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A return or a nack was seen: publish nothing until the window is empty.
    pub fn must_empty(&self) -> bool {
        self.has_nack || !self.returned.is_empty()
    }

    /// The oldest message in flight.
    pub fn front(&self) -> Option<&T> {
        self.entries.front().map(|entry| &entry.item)
    }

    /// All messages in flight, the oldest first.
    pub fn items(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|entry| &entry.item)
    }

    /// Likewise.
    pub fn into_items(self) -> Vec<T> {
        self.entries.into_iter().map(|entry| entry.item).collect()
    }

    /// Takes in a message that is published now. Messages are numbered from 0 in the order
    /// of these calls; an [`Answer`] names them by that number.
    pub fn push(&mut self, item: T) {
        self.bytes += item.bytes();
        self.unconfirmed += 1;
        self.entries.push_back(Entry { item, state: State::Open });
    }

    /// Takes in an answer. One to a number that is not in flight, or a second one, is ignored.
    pub fn take(&mut self, answer: Answer) {
        let (number, is_ack) = match answer {
            Answer::Return(returned) => return self.returned.push(returned),
            Answer::Confirm { number, is_ack } => (number, is_ack),
        };
        let index = number.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let Some(entry) = index.and_then(|index| self.entries.get_mut(index)) else { return };
        if entry.state != State::Open {
            return;
        }
        self.unconfirmed -= 1;
        entry.state = if is_ack { State::Acked } else { State::Nacked };
        self.has_nack |= !is_ack;
    }

    /// Settles what the answers so far prove, the oldest first.
    pub fn settle(&mut self, mut settled: impl FnMut(T, Outcome)) {
        if self.must_empty() {
            if self.unconfirmed == 0 {
                self.settle_all(settled);
            }
            return;
        }
        while matches!(self.entries.front(), Some(entry) if entry.state == State::Acked) {
            let Some(entry) = self.entries.pop_front() else { return };
            self.first += 1;
            self.bytes -= entry.item.bytes();
            settled(entry.item, Outcome::Delivered);
        }
    }

    fn settle_all(&mut self, mut settled: impl FnMut(T, Outcome)) {
        let returned = std::mem::take(&mut self.returned);
        self.has_nack = false;
        self.bytes = 0;
        for entry in self.entries.drain(..) {
            self.first += 1;
            let returned =
                returned.iter().find(|returned| returned.message_id == entry.item.message_id());
            let outcome = match (returned, entry.state) {
                (Some(returned), _) => Outcome::Returned(returned.why.clone()),
                (None, State::Nacked) => Outcome::Nacked,
                (None, _) => Outcome::Delivered,
            };
            settled(entry.item, outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[derive(Debug, Clone)]
    enum Step {
        Publish {
            is_routable: bool,
            is_nacked: bool,
        },
        /// The broker looks at this many more.
        Route {
            count: usize,
        },
        /// It confirms this many of those, in an order given by the seed.
        Confirm {
            count: usize,
            seed: u64,
        },
        /// The relay takes this many answers in.
        Take {
            count: usize,
        },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (prop::bool::weighted(0.9), prop::bool::weighted(0.05))
                .prop_map(|(is_routable, is_nacked)| Step::Publish { is_routable, is_nacked }),
            2 => (1..12usize).prop_map(|count| Step::Route { count }),
            2 => (1..12usize, any::<u64>()).prop_map(|(count, seed)| Step::Confirm { count, seed }),
            3 => (0..12usize).prop_map(|count| Step::Take { count }),
        ]
    }

    #[derive(Debug)]
    struct Numbered(u64, String);

    impl InFlight for Numbered {
        fn message_id(&self) -> &str {
            &self.1
        }

        fn bytes(&self) -> usize {
            1
        }
    }

    fn id(number: u64) -> String {
        format!("m{number}")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn nothing_is_settled_wrongly(steps in prop::collection::vec(step(), 1..200)) {
            let mut window = Window::default();
            let (mut unroutable, mut nacked) = (HashSet::new(), HashSet::new());
            let (mut published, mut routed) = (0, 0);
            let mut unconfirmed = Vec::new();
            let mut wire = VecDeque::new();
            let mut settled = Vec::new();
            // Enough at the end to settle everything.
            let all = usize::MAX;
            let end = [Step::Route { count: all }, Step::Confirm { count: all, seed: 7 }, Step::Take { count: all }];
            for step in steps.into_iter().chain(end) {
                match step {
                    Step::Publish { .. } if window.must_empty() => {}
                    Step::Publish { is_routable, is_nacked } => {
                        window.push(Numbered(published, id(published)));
                        if !is_routable {
                            unroutable.insert(published);
                        } else if is_nacked {
                            nacked.insert(published);
                        }
                        published += 1;
                    }
                    Step::Route { count } => {
                        for number in (routed..published).take(count) {
                            if unroutable.contains(&number) {
                                wire.push_back(Answer::Return(Return { message_id: id(number), why: String::new() }));
                            }
                            unconfirmed.push(number);
                            routed = number + 1;
                        }
                    }
                    Step::Confirm { count, seed } => {
                        fastrand::Rng::with_seed(seed).shuffle(&mut unconfirmed);
                        for number in unconfirmed.drain(..count.min(unconfirmed.len())) {
                            wire.push_back(Answer::Confirm { number, is_ack: !nacked.contains(&number) });
                        }
                    }
                    Step::Take { count } => {
                        wire.drain(..count.min(wire.len())).for_each(|answer| window.take(answer));
                        window.settle(|message, outcome| settled.push((message.0, outcome)));
                    }
                }
            }
            for (expected, (number, outcome)) in settled.iter().enumerate() {
                prop_assert_eq!(*number, expected as u64, "settled out of order");
                let truth = if unroutable.contains(number) {
                    Outcome::Returned(String::new())
                } else if nacked.contains(number) {
                    Outcome::Nacked
                } else {
                    Outcome::Delivered
                };
                prop_assert_eq!(outcome, &truth, "message {}", number);
            }
            prop_assert_eq!(settled.len() as u64, published);
            prop_assert!(window.is_empty() && window.bytes() == 0);
        }
    }
}
