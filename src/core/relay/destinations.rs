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

/// One of them.
#[derive(Debug)]
struct DestinationTally {
    is_stream: bool,
    name: Box<str>,
    tally: TableTally,
}

impl DestinationTally {
    fn is_of(&self, message: &Message) -> bool {
        match message.stream() {
            Some(stream) => self.is_stream && *self.name == *stream,
            None => !self.is_stream && self.name.as_bytes() == message.exchange_bytes(),
        }
    }
}

/// Exchanges and streams, in the order in which they were met.
#[derive(Debug, Default)]
pub(super) struct Destinations {
    all: Vec<DestinationTally>,
    /// Of all that have no figures of their own.
    other: Option<TableTally>,
    exchanges: BTreeMap<Box<str>, Destination>,
    streams: BTreeMap<Box<str>, Destination>,
    /// Where each table's last event went: most often the next goes there too.
    last: Vec<Option<Destination>>,
}

impl Destinations {
    /// Where nothing was sent yet from any of so many tables.
    pub(super) fn new(tables: usize) -> Self {
        Self { last: vec![None; tables], ..Self::default() }
    }

    /// Where a message of this table goes. Where that is where the one before went, a name is compared, and that
    /// is all; only what was never met before costs an allocation.
    pub(super) fn of(&mut self, table: usize, message: &Message) -> Destination {
        let last = self.last.get(table).copied().flatten();
        let is_again = |it: &Destination| self.all.get(it.0).is_some_and(|it| it.is_of(message));
        if let Some(last) = last.filter(is_again) {
            return last;
        }
        let found = self.find(message);
        if let Some(last) = self.last.get_mut(table) {
            *last = Some(found);
        }
        found
    }

    fn find(&mut self, message: &Message) -> Destination {
        let (names, name) = match message.stream() {
            Some(stream) => (&mut self.streams, stream),
            None => (&mut self.exchanges, message.exchange()),
        };
        if let Some(known) = names.get(name) {
            return *known;
        }
        let next = Destination(self.all.len());
        if next.0 < NAMED {
            names.insert(name.into(), next);
            let (is_stream, tally) = (message.stream().is_some(), TableTally::default());
            self.all.push(DestinationTally { is_stream, name: name.into(), tally });
        } else {
            self.other.get_or_insert_default();
        }
        next
    }

    /// The figures of one of them.
    pub(super) fn tally(&mut self, of: Destination) -> Option<&mut TableTally> {
        let named = self.all.get_mut(of.0).map(|it| &mut it.tally);
        named.or(self.other.as_mut())
    }

    /// Each, as `exchange:NAME` or `stream:NAME`.
    pub(super) fn all(&self) -> impl Iterator<Item = (String, TableTally)> {
        let named = self.all.iter().map(|it| {
            let kind = if it.is_stream { "stream" } else { "exchange" };
            (format!("{kind}:{}", it.name), it.tally)
        });
        named.chain(self.other.map(|tally| (OTHER.to_owned(), tally)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(exchange: &str) -> Message {
        Message::new(exchange, "key", &Default::default(), Default::default()).unwrap()
    }

    fn names(all: &Destinations) -> Vec<(String, u64)> {
        all.all().map(|(name, tally)| (name, tally.delivered)).collect()
    }

    #[test]
    fn many_names_take_a_bounded_room() {
        let mut all = Destinations::new(1);
        for number in 0..3 * NAMED {
            for _ in 0..2 {
                let of = all.of(0, &to(&format!("e{number}")));
                all.tally(of).unwrap().delivered += 1;
            }
        }
        let names = names(&all);
        assert_eq!(names.len(), NAMED + 1);
        assert_eq!(names[7], ("exchange:e7".to_owned(), 2));
        assert_eq!(names.last(), Some(&(OTHER.to_owned(), 2 * 2 * NAMED as u64)));
    }

    #[test]
    fn the_default_exchange_is_one_too() {
        let mut all = Destinations::new(1);
        let (one, other) = (all.of(0, &to("")), all.of(0, &to("outbox")));
        assert_ne!(one, other);
        assert_eq!(all.of(0, &to("")), one);
        assert_eq!(names(&all)[0].0, "exchange:");
    }

    #[test]
    fn each_event_counts_where_it_went_whatever_its_table_sent_before() {
        let mut all = Destinations::new(2);
        // A name that begins as another does, tables that take turns, and a table that nobody configured.
        let sent =
            [(0, "a"), (1, "ab"), (0, "a"), (0, "ab"), (1, "a"), (1, "a"), (0, "a"), (7, "ab")];
        for (table, exchange) in sent {
            let of = all.of(table, &to(exchange));
            all.tally(of).unwrap().delivered += 1;
        }
        assert_eq!(names(&all), [("exchange:a".to_owned(), 5), ("exchange:ab".to_owned(), 3)]);
    }
}
