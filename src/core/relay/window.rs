//! The messages in flight, and which of them were delivered.
//!
//! The broker sends the return of a message before its ack. So with the answers taken in as they
//! stand on the wire:
//!
//! 1. a message that is acked and was not returned before was delivered, and settles once all
//!    before it have;
//! 2. a return is of the first message in flight that it can be of: by the event's place, which its
//!    headers say, and by its `message_id`. Two messages may have one `message_id`;
//! 3. a return that is of none in flight means that it is not understood what was delivered: nothing
//!    is settled by it, nor by what follows;
//! 4. from a return or a nack on nothing more is published, until all in flight is confirmed.

use std::collections::VecDeque;

use crate::core::event::Position;
use crate::error::{Fault, Side};

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
    /// Its `message_id`; empty where it has none.
    pub message_id: String,
    /// The place of its event, where its headers say that.
    pub position: Option<Position>,
    /// The broker's words.
    pub why: String,
}

/// A return of what is not in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stray;

impl Stray {
    /// What was delivered is not known any more: the session ends.
    pub(crate) fn fault(self) -> Fault {
        Fault::transient("RabbitMQ returned a message that is not in flight")
            .on(Side::Broker)
            .hint("nothing is settled by it: what is in flight is published again. If it comes again, report it with the broker's version and plugins")
    }
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryOutcome {
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
    /// The return may be of this message.
    fn is(&self, returned: &Return) -> bool;
    /// Bytes of its body.
    fn bytes(&self) -> usize;
}

#[derive(Debug)]
struct Entry<T> {
    item: T,
    state: State,
    /// The broker's words, where no queue took it.
    returned: Option<String>,
}

/// The window: bounded by its owner, which asks [`len`](Self::len) and [`bytes`](Self::bytes).
#[derive(Debug)]
pub struct Window<T> {
    entries: VecDeque<Entry<T>>,
    first: u64,
    bytes: usize,
    /// Something was returned or nacked.
    has_refused: bool,
    unconfirmed: usize,
}

impl<T> Default for Window<T> {
    fn default() -> Self {
        Self { entries: VecDeque::new(), first: 0, bytes: 0, has_refused: false, unconfirmed: 0 }
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
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A return or a nack was seen: publish nothing until the window is empty.
    pub fn must_empty(&self) -> bool {
        self.has_refused
    }

    /// The oldest message in flight.
    pub(crate) fn front(&self) -> Option<&T> {
        self.entries.front().map(|entry| &entry.item)
    }

    /// All messages in flight, the oldest first.
    pub(crate) fn items(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|entry| &entry.item)
    }

    /// Likewise.
    pub(crate) fn into_items(self) -> Vec<T> {
        self.entries.into_iter().map(|entry| entry.item).collect()
    }

    /// Takes in a message that is published now. Messages are numbered from 0 in the order
    /// of these calls; an [`Answer`] names them by that number.
    pub fn push(&mut self, item: T) {
        self.bytes += item.bytes();
        self.unconfirmed += 1;
        self.entries.push_back(Entry { item, state: State::Open, returned: None });
    }

    /// Takes in an answer. A confirm of a number that is not in flight, or a second one, is ignored.
    ///
    /// # Errors
    /// A return of what is not in flight: nothing may be settled any more.
    pub fn take(&mut self, answer: Answer) -> Result<(), Stray> {
        match answer {
            Answer::Return(returned) => self.returned(returned),
            Answer::Confirm { number, is_ack } => {
                self.confirmed(number, is_ack);
                Ok(())
            }
        }
    }

    fn returned(&mut self, returned: Return) -> Result<(), Stray> {
        // Its confirm has not come yet.
        let is_it = |entry: &&mut Entry<T>| {
            entry.state == State::Open && entry.returned.is_none() && entry.item.is(&returned)
        };
        let entry = self.entries.iter_mut().find(is_it).ok_or(Stray)?;
        entry.returned = Some(returned.why);
        self.has_refused = true;
        Ok(())
    }

    fn confirmed(&mut self, number: u64, is_ack: bool) {
        let index = number.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let Some(entry) = index.and_then(|index| self.entries.get_mut(index)) else { return };
        if entry.state != State::Open {
            return;
        }
        self.unconfirmed -= 1;
        entry.state = if is_ack { State::Acked } else { State::Nacked };
        self.has_refused |= !is_ack;
    }

    /// Settles what the answers so far prove, the oldest first.
    pub fn settle(&mut self, mut settled: impl FnMut(T, DeliveryOutcome)) {
        while let Some((item, outcome)) = self.next_settled() {
            settled(item, outcome);
        }
    }

    /// The oldest message, where the answers so far prove what became of it.
    pub(crate) fn next_settled(&mut self) -> Option<(T, DeliveryOutcome)> {
        let is_open = match self.has_refused {
            true => self.unconfirmed > 0,
            false => self.entries.front()?.state != State::Acked,
        };
        if is_open {
            return None;
        }
        let entry = self.entries.pop_front()?;
        self.first += 1;
        self.bytes -= entry.item.bytes();
        self.has_refused &= !self.entries.is_empty();
        let outcome = match (entry.returned, entry.state) {
            (Some(why), _) => DeliveryOutcome::Returned(why),
            (None, State::Nacked) => DeliveryOutcome::Nacked,
            (None, State::Open | State::Acked) => DeliveryOutcome::Delivered,
        };
        Some((entry.item, outcome))
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
        fn is(&self, returned: &Return) -> bool {
            returned.message_id == self.1 && returned.position.is_none_or(|at| at == place(self.0))
        }

        fn bytes(&self) -> usize {
            1
        }
    }

    /// Few, so that messages with one id are in flight together.
    fn id(number: u64) -> String {
        format!("m{}", number % 5)
    }

    fn place(number: u64) -> Position {
        Position { index: number, ..Position::start() }
    }

    #[test]
    fn a_return_of_nothing_in_flight_is_told() {
        let mut window = Window::default();
        let of = |number, message_id: &str| {
            let (position, why) = (Some(place(number)), "312 NO_ROUTE".to_owned());
            Answer::Return(Return { message_id: message_id.to_owned(), position, why })
        };
        assert_eq!(window.take(of(0, "m0")), Err(Stray), "nothing is in flight");
        window.push(Numbered(0, id(0)));
        assert_eq!(window.take(of(1, "m0")), Err(Stray), "it is of another event");
        assert_eq!(window.take(of(0, "m1")), Err(Stray), "it has another id");
        assert_eq!(window.take(of(0, "m0")), Ok(()));
        assert_eq!(window.take(of(0, "m0")), Err(Stray), "it was returned before");
        window.push(Numbered(1, id(1)));
        assert_eq!(window.take(Answer::Confirm { number: 1, is_ack: true }), Ok(()));
        assert_eq!(window.take(of(1, "m1")), Err(Stray), "it was acked before");
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
                                let (message_id, position) = (id(number), Some(place(number)));
                                wire.push_back(Answer::Return(Return { message_id, position, why: String::new() }));
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
                        for answer in wire.drain(..count.min(wire.len())) {
                            prop_assert_eq!(window.take(answer), Ok(()));
                        }
                        window.settle(|message, outcome| settled.push((message.0, outcome)));
                    }
                }
            }
            for (expected, (number, outcome)) in settled.iter().enumerate() {
                prop_assert_eq!(*number, expected as u64, "settled out of order");
                let truth = if unroutable.contains(number) {
                    DeliveryOutcome::Returned(String::new())
                } else if nacked.contains(number) {
                    DeliveryOutcome::Nacked
                } else {
                    DeliveryOutcome::Delivered
                };
                prop_assert_eq!(outcome, &truth, "message {}", number);
            }
            prop_assert_eq!(settled.len() as u64, published);
            prop_assert!(window.is_empty() && window.bytes() == 0);
        }
    }
}
