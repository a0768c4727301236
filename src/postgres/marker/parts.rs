//! A batch in parts: what of it goes into the common transaction, and what does not.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Key, TableMarks};
use crate::core::relay::marks::{Mark, MarkError, Why};

/// Marks of one table that are written apart from the others.
#[derive(Default)]
pub(super) struct Group<'a> {
    pub(super) table: usize,
    pub(super) marks: Vec<&'a Mark>,
}

/// The marks of a batch.
pub(super) struct Parts<'a> {
    /// By table, what is written together.
    wanted: Vec<TableMarks<'a>>,
    /// What is not.
    groups: Vec<Group<'a>>,
    /// Of these it is known why they are not written.
    known: HashMap<(usize, &'a str), Why>,
    count: usize,
}

impl<'a> Parts<'a> {
    pub(super) fn new(wanted: Vec<TableMarks<'a>>) -> Self {
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
            Some(group) => group.marks.push(mark),
            None => self.groups.push(Group { table: mark.table, marks: vec![mark] }),
        }
    }

    /// It is not tried.
    pub(super) fn skip(&mut self, mark: &'a Mark, why: &Arc<MarkError>) {
        self.count += 1;
        self.know(mark.table, &[mark], &why_of(why));
    }

    pub(super) fn wanted(&self) -> &[TableMarks<'a>] {
        &self.wanted
    }

    /// The common transaction failed: each table goes apart.
    pub(super) fn take_apart(&mut self) {
        let wanted = self.wanted.iter_mut().enumerate();
        let groups =
            wanted.map(|(table, wanted)| Group { table, marks: std::mem::take(&mut wanted.marks) });
        let mut groups: Vec<Group<'a>> = groups.filter(|group| !group.marks.is_empty()).collect();
        // What was not refused before goes first.
        groups.append(&mut self.groups);
        self.groups = groups;
    }

    /// All of it is written together.
    pub(super) fn is_whole(&self) -> bool {
        self.groups.is_empty() && self.known.is_empty()
    }

    /// Something goes apart.
    pub(super) fn has_any(&self) -> bool {
        !self.groups.is_empty()
    }

    pub(super) fn take_groups(&mut self) -> Vec<Group<'a>> {
        std::mem::take(&mut self.groups)
    }

    /// These are not written.
    pub(super) fn know(&mut self, table: usize, marks: &[&'a Mark], why: &Why) {
        self.known.extend(marks.iter().map(|mark| ((table, mark.id.as_str()), why.clone())));
    }

    /// Why it is not written, where that is known.
    pub(super) fn why(&self, mark: &Mark) -> Option<Why> {
        self.known.get(&(mark.table, mark.id.as_str())).cloned()
    }

    pub(super) fn is_all_found(&self, found: &HashSet<Key>) -> bool {
        found.len() >= self.count
    }
}

/// What an error means for a mark that it was raised over.
pub(super) fn why_of(error: &Arc<MarkError>) -> Why {
    if error.is_lock { Why::Waits } else { Why::Refused(Arc::clone(error)) }
}
