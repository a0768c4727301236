//! The messages in flight, and which of them were delivered.
//!
//! lapin hands a returned message to whichever confirm it resolves next, and resolves a
//! `multiple` ack in no order, so the confirm that carries a return is often another
//! message's. The rule that is sound all the same: each resolution takes the oldest waiting
//! return along, so a confirm that resolved as a plain ack proves that no return was waiting
//! at that moment; and the broker sends a message's return before its ack. Hence the return
//! of message *r*, if there is one, hangs on a confirm that resolved *before* r did:
//!
//! 1. r's plain ack is seen;
//! 2. the whole window is polled once more, so every confirm that resolved before r is seen;
//! 3. if none of them carries a return, r is delivered;
//! 4. if one does, nothing more is published, the window empties, and the returns are matched
//!    by `message_id`; only then is what was open settled.

use std::collections::VecDeque;

/// The broker's answer to a publish, as lapin tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirm {
    /// `false`: a nack.
    pub is_ack: bool,
    /// A return that hangs on this confirm; whose it is, its `message_id` says.
    pub returned: Option<Return>,
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
    /// Acked; seen in the pass of this number.
    Acked(u64),
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

impl<T> Entry<T> {
    fn was_acked_before(&self, pass: u64) -> bool {
        matches!(self.state, State::Acked(seen) if seen < pass)
    }
}

/// The window: bounded by its owner, which asks [`len`](Self::len) and [`bytes`](Self::bytes).
#[derive(Debug)]
pub struct Window<T> {
    entries: VecDeque<Entry<T>>,
    first: u64,
    bytes: usize,
    returned: Vec<Return>,
    has_nack: bool,
    unresolved: usize,
    pass: u64,
}

impl<T> Default for Window<T> {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            first: 0,
            bytes: 0,
            returned: Vec::new(),
            has_nack: false,
            unresolved: 0,
            pass: 0,
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
    /// of these calls; [`resolve`](Self::resolve) names them by that number.
    pub fn push(&mut self, item: T) {
        self.bytes += item.bytes();
        self.unresolved += 1;
        self.entries.push_back(Entry { item, state: State::Open });
    }

    /// Takes in the confirm of a message. A number that is not in flight, or a second confirm
    /// of one, is ignored.
    pub fn resolve(&mut self, number: u64, confirm: Confirm) {
        let index = number.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let Some(entry) = index.and_then(|index| self.entries.get_mut(index)) else { return };
        if entry.state != State::Open {
            return;
        }
        self.unresolved -= 1;
        if confirm.is_ack {
            entry.state = State::Acked(self.pass);
        } else {
            entry.state = State::Nacked;
            self.has_nack = true;
        }
        self.returned.extend(confirm.returned);
    }

    /// The whole window is polled from here on: confirms taken in until now were seen before.
    pub fn begin_pass(&mut self) {
        self.pass += 1;
    }

    /// Every message in flight has been polled since [`begin_pass`](Self::begin_pass): settles
    /// what that proves, the oldest first.
    pub fn end_pass(&mut self, mut settled: impl FnMut(T, Outcome)) {
        if self.must_empty() {
            if self.unresolved == 0 {
                self.settle_all(settled);
            }
            return;
        }
        while matches!(self.entries.front(), Some(entry) if entry.was_acked_before(self.pass)) {
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
    use std::collections::{BTreeSet, HashSet};

    /// lapin as read in its source: a queue of returns without tags, confirms that each take
    /// the oldest one along, and acks that resolve a batch in any order.
    struct Lapin {
        open: BTreeSet<u64>,
        waiting: VecDeque<Return>,
        resolved: Vec<(u64, Confirm)>,
    }

    impl Lapin {
        fn settle(&mut self, number: u64, is_ack: bool) {
            if self.open.remove(&number) {
                self.resolved
                    .push((number, Confirm { is_ack, returned: self.waiting.pop_front() }));
            }
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Publish {
            is_routable: bool,
            is_nacked: bool,
        },
        /// The broker settles this many of the oldest, in an order given by the seed.
        Ack {
            count: usize,
            seed: u64,
        },
        /// The relay looks: it sees some of what resolved, then polls the whole window, while
        /// the last `during` of the resolutions are being made.
        Look {
            during: usize,
            mask: u64,
        },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (prop::bool::weighted(0.9), prop::bool::weighted(0.05))
                .prop_map(|(is_routable, is_nacked)| Step::Publish { is_routable, is_nacked }),
            2 => (1..12usize, any::<u64>()).prop_map(|(count, seed)| Step::Ack { count, seed }),
            3 => (0..6usize, any::<u64>()).prop_map(|(during, mask)| Step::Look { during, mask }),
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
        fn nothing_is_settled_wrongly_whatever_confirm_a_return_hangs_on(
            steps in prop::collection::vec(step(), 1..200)
        ) {
            let mut window = Window::default();
            let mut lapin = Lapin { open: BTreeSet::new(), waiting: VecDeque::new(), resolved: Vec::new() };
            let (mut unroutable, mut nacked) = (HashSet::new(), HashSet::new());
            let mut published = 0;
            let mut settled = Vec::new();
            let mut unseen = Vec::new();
            // Enough at the end to settle everything.
            let look = Step::Look { during: 0, mask: u64::MAX };
            let end = [Step::Ack { count: usize::MAX, seed: 7 }, look.clone(), look];
            for step in steps.into_iter().chain(end) {
                match step {
                    Step::Publish { .. } if window.must_empty() => {}
                    Step::Publish { is_routable, is_nacked } => {
                        window.push(Numbered(published, id(published)));
                        lapin.open.insert(published);
                        if !is_routable {
                            unroutable.insert(published);
                            lapin.waiting.push_back(Return { message_id: id(published), why: String::new() });
                        } else if is_nacked {
                            nacked.insert(published);
                        }
                        published += 1;
                    }
                    Step::Ack { count, seed } => {
                        let mut batch: Vec<_> = lapin.open.iter().copied().take(count).collect();
                        fastrand::Rng::with_seed(seed).shuffle(&mut batch);
                        for number in batch {
                            lapin.settle(number, !nacked.contains(&number));
                        }
                    }
                    Step::Look { during, mask } => {
                        let mut random = fastrand::Rng::with_seed(mask);
                        let mut see = |from: &mut Vec<(u64, Confirm)>, window: &mut Window<Numbered>| {
                            from.retain(|(number, confirm)| {
                                let is_seen = random.bool();
                                if is_seen {
                                    window.resolve(*number, confirm.clone());
                                }
                                !is_seen
                            });
                        };
                        let tail = lapin.resolved.len().saturating_sub(during);
                        let mut late = lapin.resolved.split_off(tail);
                        unseen.append(&mut lapin.resolved);
                        see(&mut unseen, &mut window);
                        window.begin_pass();
                        // The pass sees all that resolved before it began …
                        unseen.drain(..).for_each(|(number, confirm)| window.resolve(number, confirm));
                        // … and some of what resolves while it runs.
                        see(&mut late, &mut window);
                        unseen = late;
                        window.end_pass(|message, outcome| settled.push((message.0, outcome)));
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
