//! Which messages a confirm is about.

use std::collections::VecDeque;

/// The messages of one publisher that the broker has not confirmed, by their publishing ids, which rise.
#[derive(Debug, Default)]
pub(super) struct OpenMessages {
    /// Id, number, and whether it is confirmed, from the oldest that is not.
    open: VecDeque<(u64, u64, bool)>,
    /// The highest id before which all are confirmed.
    through: u64,
}

/// A confirm of what is not in flight: what such a confirm means, nobody can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UnknownId;

impl OpenMessages {
    /// One more was published, under an id above the ones before.
    pub(super) fn publish(&mut self, id: u64, number: u64) {
        debug_assert!(self.open.back().is_none_or(|(last, ..)| *last < id), "ids rise");
        self.open.push_back((id, number, false));
    }

    /// The number of the message of this id.
    ///
    /// # Errors
    /// It is not in flight.
    pub(super) fn confirm(&mut self, id: u64) -> Result<u64, UnknownId> {
        let at = match self.open.front() {
            Some((first, ..)) if *first == id => 0,
            _ => self.open.binary_search_by_key(&id, |(id, ..)| *id).map_err(|_| UnknownId)?,
        };
        let (_, number, is_confirmed) = self.open.get_mut(at).ok_or(UnknownId)?;
        if std::mem::replace(is_confirmed, true) {
            return Err(UnknownId);
        }
        let number = *number;
        while let Some((id, _, true)) = self.open.front() {
            self.through = *id;
            self.open.pop_front();
        }
        Ok(number)
    }

    /// How many are not confirmed.
    pub(super) fn count(&self) -> usize {
        self.open.iter().filter(|(.., is_confirmed)| !is_confirmed).count()
    }

    /// All up to this id are confirmed.
    pub(super) fn through(&self) -> u64 {
        self.through
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn each_message_is_told_once_and_nothing_else(
            steps in prop::collection::vec((any::<bool>(), 1..9_u64, any::<prop::sample::Index>()), 1..200)
        ) {
            let (mut unconfirmed, mut open) = (OpenMessages::default(), BTreeMap::new());
            let (mut id, mut number) = (0, 0);
            for (is_publish, gap, index) in steps {
                if is_publish {
                    id += gap;
                    unconfirmed.publish(id, number);
                    open.insert(id, number);
                    number += 1;
                    continue;
                }
                let asked = index.index(usize::try_from(id + 3).unwrap()) as u64;
                prop_assert_eq!(unconfirmed.confirm(asked), open.remove(&asked).ok_or(UnknownId));
                let first = open.keys().next().copied().unwrap_or(u64::MAX);
                prop_assert!(unconfirmed.through() < first);
                prop_assert_eq!(unconfirmed.count(), open.len());
            }
        }
    }
}
