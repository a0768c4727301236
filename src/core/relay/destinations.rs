//! What became of events, by where they go: exchanges and streams, by the names that messages have for them.
//!
//! A template may make any number of names, so only so many have figures of their own.

use std::collections::BTreeMap;

use crate::core::message::Message;
use crate::core::tally::TableTally;

/// Names that have figures of their own in a session.
const NAMED: usize = 100;
/// All others.
const OTHER: &str = "other";

/// Which of the destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Destination(usize);

/// Exchanges and streams, in the order in which they were met.
#[derive(Debug, Default)]
pub(super) struct Destinations {
    all: Vec<(String, TableTally)>,
    exchanges: BTreeMap<Box<str>, Destination>,
    streams: BTreeMap<Box<str>, Destination>,
}

impl Destinations {
    /// Where a message goes. Only what was never met before costs an allocation.
    pub(super) fn of(&mut self, message: &Message) -> Destination {
        let (kind, names, name) = match message.stream() {
            Some(stream) => ("stream", &mut self.streams, stream),
            None => ("exchange", &mut self.exchanges, message.exchange()),
        };
        if let Some(known) = names.get(name) {
            return *known;
        }
        let next = Destination(self.all.len().min(NAMED));
        if next.0 < NAMED {
            names.insert(name.into(), next);
            self.all.push((format!("{kind}:{name}"), TableTally::default()));
        } else if self.all.len() == NAMED {
            self.all.push((OTHER.to_owned(), TableTally::default()));
        }
        next
    }

    /// The figures of one of them.
    pub(super) fn tally(&mut self, of: Option<Destination>) -> Option<&mut TableTally> {
        self.all.get_mut(of?.0).map(|(_, tally)| tally)
    }

    /// Each, as `exchange:NAME` or `stream:NAME`.
    pub(super) fn all(&self) -> &[(String, TableTally)] {
        &self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(exchange: &str) -> Message {
        Message::new(exchange, "key", &Default::default(), Default::default()).unwrap()
    }

    #[test]
    fn many_names_take_a_bounded_room() {
        let mut all = Destinations::default();
        for number in 0..3 * NAMED {
            for _ in 0..2 {
                let of = all.of(&to(&format!("e{number}")));
                all.tally(Some(of)).unwrap().delivered += 1;
            }
        }
        assert_eq!(all.all().len(), NAMED + 1);
        assert_eq!((all.all()[7].0.as_str(), all.all()[7].1.delivered), ("exchange:e7", 2));
        let (name, tally) = all.all().last().unwrap();
        assert_eq!((name.as_str(), tally.delivered), (OTHER, 2 * 2 * NAMED as u64));
    }

    #[test]
    fn the_default_exchange_is_one_too() {
        let mut all = Destinations::default();
        let (one, other) = (all.of(&to("")), all.of(&to("outbox")));
        assert_ne!(one, other);
        assert_eq!(all.of(&to("")), one);
        assert_eq!(all.all()[0].0, "exchange:");
    }
}
