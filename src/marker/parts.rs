//! A batch in parts: what of it goes into the common transaction, and what does not.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::tables::LOCKED;
use super::{Key, Wanted};
use crate::marks::{Mark, MarkError};

/// Marks of one table that are written apart from the others.
#[derive(Default)]
pub(super) struct Group<'a> {
    pub(super) table: usize,
    pub(super) ids: Vec<&'a str>,
}

/// The marks of a batch.
pub(super) struct Parts<'a> {
    /// By table, what is written together.
    wanted: Vec<Wanted<'a>>,
    /// What is not.
    groups: Vec<Group<'a>>,
    /// Known without a row: refused, or else locked.
    known: HashMap<(usize, &'a str), Option<Arc<MarkError>>>,
    count: usize,
}

impl<'a> Parts<'a> {
    pub(super) fn new(wanted: Vec<Wanted<'a>>) -> Self {
        Self { wanted, groups: Vec::new(), known: HashMap::new(), count: 0 }
    }

    /// It goes with the others.
    pub(super) fn together(&mut self, mark: &'a Mark) {
        if let Some(wanted) = self.wanted.get_mut(mark.table) {
            self.count += 1;
            wanted.add(mark);
        }
    }

    /// It goes apart, with those of its table that do.
    pub(super) fn apart(&mut self, mark: &'a Mark) {
        self.count += 1;
        match self.groups.iter_mut().find(|group| group.table == mark.table) {
            Some(group) => group.ids.push(&mark.id),
            None => self.groups.push(Group { table: mark.table, ids: vec![&mark.id] }),
        }
    }

    /// It is not tried.
    pub(super) fn skip(&mut self, mark: &'a Mark, why: &Arc<MarkError>) {
        self.count += 1;
        self.know(mark.table, &[&mark.id], Some(why).filter(|why| why.code != LOCKED));
    }

    pub(super) fn wanted(&self) -> &[Wanted<'a>] {
        &self.wanted
    }

    /// The common transaction failed: each table goes apart.
    pub(super) fn take_apart(&mut self) {
        let wanted = self.wanted.iter_mut().enumerate();
        let ids =
            wanted.map(|(table, wanted)| Group { table, ids: std::mem::take(&mut wanted.ids) });
        let mut groups: Vec<Group<'a>> = ids.filter(|group| !group.ids.is_empty()).collect();
        // What was not refused before goes first.
        groups.append(&mut self.groups);
        self.groups = groups;
    }

    /// Something goes apart.
    pub(super) fn has_any(&self) -> bool {
        !self.groups.is_empty()
    }

    pub(super) fn take_groups(&mut self) -> Vec<Group<'a>> {
        std::mem::take(&mut self.groups)
    }

    /// These cannot be written: refused, or else locked.
    pub(super) fn know(&mut self, table: usize, ids: &[&'a str], why: Option<&Arc<MarkError>>) {
        self.known.extend(ids.iter().map(|id| ((table, *id), why.cloned())));
    }

    pub(super) fn is_known(&self, mark: &Mark) -> bool {
        self.refused(mark).is_some()
    }

    /// What is known of a mark without a row: why it is refused, or else that it is locked.
    pub(super) fn refused(&self, mark: &Mark) -> Option<Option<Arc<MarkError>>> {
        self.known.get(&(mark.table, mark.id.as_str())).cloned()
    }

    pub(super) fn is_all_found(&self, found: &HashSet<Key>) -> bool {
        found.len() >= self.count
    }
}
