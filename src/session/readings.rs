//! By what the changes of each table, and the messages of each prefix, are told to be events.
//!
//! A place in the stream says that all before it is settled: events were delivered, and changes that were none of the
//! session's events were passed over. So a row before the place was delivered only where its table was read then as
//! it is read now. Where it was not (the table was not configured, or its rule left the row out, or it was inserted with its mark) the row is an event that
//! nobody has sent, and comes again while the slot stands before it.
//!
//! What a place is counted by is kept beside it in `pgoutbox.progress.readings`: never more than both the session that
//! wrote the place and the one that goes on from it read alike, until the slot has left that place behind.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::config::{Config, Table};
use crate::postgres::outbox_table::OutboxTable;

/// By what a session reads: of each table, known by its oid, and each prefix of messages its rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Readings {
    /// A place within a transaction counts the changes that this one brings.
    pub(super) publication: String,
    of: BTreeMap<String, String>,
}

impl Readings {
    /// Of a session with these sources; `outboxes` are its tables, in their order.
    pub(super) fn of(config: &Config, outboxes: &[OutboxTable]) -> Self {
        let of = keys(config, outboxes)
            .zip(config.sources())
            .filter_map(|(key, source)| Some((key?, rule(source))));
        Self { publication: config.postgres.publication.clone(), of: of.collect() }
    }

    /// As it was kept; `None` where nothing was, or by an older version.
    pub(super) fn kept(text: Option<&str>) -> Option<Self> {
        serde_json::from_str(text?).ok()
    }

    /// As it is kept.
    pub(super) fn text(&self) -> String {
        serde_json::json!(self).to_string()
    }

    /// Of nothing is it known how it was read.
    pub(super) fn none(&self) -> Self {
        Self { publication: self.publication.clone(), of: BTreeMap::new() }
    }

    /// What both read alike.
    pub(super) fn common(&self, other: &Self) -> Self {
        let is_alike = |(key, rule): &(&String, &String)| other.of.get(*key) == Some(*rule);
        let of = self.of.iter().filter(is_alike);
        let of = of.map(|(key, rule)| (key.clone(), rule.clone())).collect();
        Self { publication: self.publication.clone(), of }
    }

    /// Tables of before that are gone, and the sources, by their numbers, whose rows theirs are taken for today, by their
    /// name: they were read alike.
    pub(super) fn gone(
        &self,
        kept: Option<&Self>,
        config: &Config,
        are_new: &[bool],
    ) -> BTreeSet<(u32, usize)> {
        let gone = kept.into_iter().flat_map(|kept| &kept.of);
        let gone = gone.filter(|(key, _)| !self.of.contains_key(*key));
        let gone = gone.filter_map(|(key, rule)| Some((key.parse().ok()?, rule)));
        let gone: Vec<(u32, &String)> = gone.collect();
        let new = config.sources().enumerate().zip(are_new).filter(|(_, is_new)| **is_new);
        let pairs = new.flat_map(|((number, source), _)| {
            let now = rule(source);
            gone.iter().filter(move |(_, rule)| **rule == now).map(move |(oid, _)| (*oid, number))
        });
        pairs.collect()
    }

    /// Of each source of this session, by its number: whether it was read otherwise, or not at all.
    pub(super) fn are_new(
        &self,
        kept: Option<&Self>,
        config: &Config,
        outboxes: &[OutboxTable],
    ) -> Vec<bool> {
        let is_new = |key: Option<String>| {
            let Some(key) = key else { return false };
            kept.is_none_or(|kept| kept.of.get(&key) != self.of.get(&key))
        };
        keys(config, outboxes).map(is_new).collect()
    }
}

/// Under what each source is kept; a pattern is nothing that anything comes from.
fn keys<'a>(
    config: &'a Config,
    outboxes: &'a [OutboxTable],
) -> impl Iterator<Item = Option<String>> + 'a {
    let tables = config.tables.len();
    config.sources().enumerate().map(move |(number, source)| {
        if source.is_pattern {
            return None;
        }
        match number < tables {
            true => outboxes.get(number).map(|outbox| outbox.relation.to_string()),
            false => Some(source.title()),
        }
    })
}

/// Which rows it passes over: those that its rule leaves out, and those that come with their mark.
pub(super) fn rule(source: &Table) -> String {
    format!("{:?} {:?} {:?}", source.rule, source.audit_mode, source.mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(of: &[(&str, &str)]) -> Readings {
        let of = of.iter().map(|(key, rule)| ((*key).to_owned(), (*rule).to_owned())).collect();
        Readings { publication: "pgoutbox".to_owned(), of }
    }

    #[test]
    fn only_what_both_read_alike_is_kept_until_the_place_is_behind() {
        let before = readings(&[("1", "all"), ("2", "all"), ("message:m", "all")]);
        let now = readings(&[("1", "all"), ("2", "some"), ("3", "all")]);
        let common = readings(&[("1", "all")]);
        assert_eq!(before.common(&now), common);
        // What was read in between and is not any more must not be known when it is read again.
        assert_eq!(before.common(&now).common(&before), common);
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let all = readings(&[("1", "all"), ("message:m", "RowRule([])")]);
        assert_eq!(Readings::kept(Some(&all.text())), Some(all));
        for nothing in [None, Some("?"), Some("{}")] {
            assert_eq!(Readings::kept(nothing), None, "{nothing:?}");
        }
    }
}
