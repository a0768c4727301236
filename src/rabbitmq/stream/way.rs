//! The way to the node that leads a stream: which address is tried next.
//!
//! A node says under which address it is to be reached (`stream.advertised_host`, `stream.advertised_port`). Where it
//! is not, for there is a load balancer in between, an address that leads to another node each time is tried until it leads to that one.

use super::frames::Place;

/// Tries where the advertised addresses are to be reached.
const TRIES: usize = 16;
/// Tries where all go by addresses that may lead to any node.
const TRIES_BY_ENTRIES: usize = 48;

/// The addresses that are tried, one after the other.
#[derive(Debug)]
pub(super) struct Way {
    /// Those that are configured; there is one at least.
    entries: Vec<Place>,
    at: usize,
    place: Place,
    /// No other than these is tried.
    is_by_entries: bool,
    /// Of these, one after the other, that failed.
    failed: usize,
    left: usize,
}

impl Way {
    /// Begins with the first of `entries`; `is_by_entries`: what nodes advertise is to be reached by nobody here.
    pub(super) fn new(first: Place, others: Vec<Place>, is_by_entries: bool) -> Self {
        let place = first.clone();
        let entries: Vec<_> = [first].into_iter().chain(others).collect();
        let left = if is_by_entries { TRIES_BY_ENTRIES } else { TRIES };
        Self { entries, at: 0, place, is_by_entries, failed: 0, left }
    }

    /// What is tried now.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// It led to another node than this one, which leads the stream. Returns whether there is a next one to try.
    pub(super) fn led_elsewhere(&mut self, leader: &Place) -> bool {
        self.failed = 0;
        match self.is_by_entries || self.place == *leader {
            true => self.enter(),
            false => self.place = leader.clone(),
        }
        self.is_left()
    }

    /// Nothing is to be reached there. Returns whether there is a next one to try.
    pub(super) fn failed(&mut self) -> bool {
        match self.is_entry() {
            true => self.failed += 1,
            // It was advertised: whoever answers at an entry says the same again.
            false => self.is_by_entries = true,
        }
        self.enter();
        self.failed < self.entries.len() && self.is_left()
    }

    /// What is tried now is configured, and not advertised alone.
    fn is_entry(&self) -> bool {
        self.entries.contains(&self.place)
    }

    fn enter(&mut self) {
        // The first one again, if it was left for an advertised one.
        if self.entries.get(self.at) == Some(&self.place) {
            self.at = (self.at + 1) % self.entries.len().max(1);
        }
        if let Some(entry) = self.entries.get(self.at) {
            self.place = entry.clone();
        }
    }

    fn is_left(&mut self) -> bool {
        self.left = self.left.saturating_sub(1);
        self.left > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str) -> Place {
        Place { host: host.to_owned(), port: 5552 }
    }

    /// Tries until one leads to `leader`: where each leads to, in the order of the tries; `None`: nowhere.
    fn walk(
        mut way: Way,
        leader: &str,
        leads: impl Fn(&str, usize) -> Option<&'static str>,
    ) -> (Vec<String>, bool) {
        let mut tried = Vec::new();
        loop {
            let place = way.place().host.clone();
            tried.push(place.clone());
            let goes_on = match leads(&place, tried.len()) {
                Some(node) if node == leader => return (tried, true),
                Some(_) => way.led_elsewhere(&at(leader)),
                None => way.failed(),
            };
            if !goes_on {
                return (tried, false);
            }
        }
    }

    #[test]
    fn a_node_says_where_the_leader_is() {
        let way = Way::new(at("a"), Vec::new(), false);
        let direct = |place: &str, _: usize| Some(if place == "a" { "a" } else { "b" });
        assert_eq!(walk(way, "b", direct), (vec!["a".into(), "b".into()], true));
    }

    #[test]
    fn a_load_balancer_is_asked_until_it_leads_there() {
        let nodes = ["a", "b", "c"];
        let balanced = |place: &str, number: usize| (place == "lb").then(|| nodes[number % 3]);
        // What is advertised cannot be reached.
        let (tried, is_there) = walk(Way::new(at("lb"), Vec::new(), false), "a", balanced);
        assert_eq!(
            (tried.as_slice(), is_there),
            (&["lb".into(), "a".into(), "lb".into()][..], true)
        );
        // Nor is it tried where that is said.
        let (tried, is_there) = walk(Way::new(at("lb"), Vec::new(), true), "a", balanced);
        assert_eq!(
            (tried.as_slice(), is_there),
            (&["lb".into(), "lb".into(), "lb".into()][..], true)
        );
        // What is advertised is the balancer itself.
        let way = Way::new(at("lb"), Vec::new(), false);
        let to_itself = |_: &str, number: usize| Some(if number < 5 { "b" } else { "lb" });
        assert_eq!(walk(way, "lb", to_itself).0.len(), 5);
    }

    #[test]
    fn each_of_several_addresses_is_tried() {
        let others = || vec![at("b"), at("c")];
        let only_c = |place: &str, _: usize| (place == "c").then_some("c");
        assert_eq!(
            walk(Way::new(at("a"), others(), true), "c", only_c),
            (vec!["a".into(), "b".into(), "c".into()], true)
        );
        let nobody = |_: &str, _: usize| None;
        assert_eq!(walk(Way::new(at("a"), others(), true), "c", nobody).0, ["a", "b", "c"]);
        assert_eq!(walk(Way::new(at("a"), Vec::new(), false), "c", nobody).0, ["a"]);
    }

    #[test]
    fn it_ends_where_none_leads_there() {
        for is_by_entries in [false, true] {
            let way = Way::new(at("lb"), Vec::new(), is_by_entries);
            let (tried, is_there) = walk(way, "a", |place, _| (place == "lb").then_some("b"));
            assert!(!is_there && tried.len() <= TRIES_BY_ENTRIES, "{}", tried.len());
        }
    }
}
