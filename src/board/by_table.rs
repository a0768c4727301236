//! What became of events, by table: so many tables by their names, all others together.

use std::collections::BTreeMap;

use crate::core::tally::SourceTally;

/// Tables that have figures of their own: a series each, for as long as the process lives.
const NAMED: usize = 100;
/// All others.
const OTHER: &str = "other";

/// Figures by table.
#[derive(Debug, Clone, Default)]
pub(crate) struct ByTable(BTreeMap<String, SourceTally>);

impl ByTable {
    /// Has those of them that have any figures named, as long as there is room: the first that come, so that no
    /// series ever falls.
    pub(super) fn name(&mut self, sources: &[(String, SourceTally)]) {
        for (source, tally) in sources {
            let has_room = self.0.len() < NAMED;
            if has_room && *tally != SourceTally::default() && !self.0.contains_key(source) {
                self.0.insert(source.clone(), SourceTally::default());
            }
        }
    }

    /// Adds a session's, each to its own or to the others'.
    pub(super) fn add(&mut self, sources: &[(String, SourceTally)]) {
        self.name(sources);
        for (source, tally) in sources.iter().filter(|(_, it)| *it != SourceTally::default()) {
            let key = if self.0.contains_key(source) { source } else { OTHER };
            self.0.entry(key.to_owned()).or_default().add(tally);
        }
    }

    /// Each with its name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &SourceTally)> {
        self.0.iter().map(|(name, tally)| (name.as_str(), tally))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_tables_keep_their_names_and_no_figure_falls() {
        let of = |number: usize, delivered| {
            (format!("tenant_{number:04}.outbox"), SourceTally { delivered, parked: 0 })
        };
        let mut past = ByTable::default();
        // The last ones first: others come before them in order, and later.
        past.name(&(900..1000).map(|number| of(number, 1)).collect::<Vec<_>>());
        let session: Vec<_> = (0..1000).map(|number| of(number, 2)).collect();
        let mut shown = past.clone();
        shown.add(&session);
        past.add(&session);
        past.add(&session);
        for (now, factor) in [(shown, 1), (past, 2)] {
            assert_eq!(now.iter().count(), NAMED + 1);
            let figures: BTreeMap<_, _> =
                now.iter().map(|(name, it)| (name.to_owned(), it.delivered)).collect();
            assert_eq!(figures["tenant_0999.outbox"], 2 * factor);
            assert_eq!(figures[OTHER], 900 * 2 * factor);
        }
    }
}
