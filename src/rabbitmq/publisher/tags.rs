//! Which messages a confirm is about.

use std::collections::VecDeque;

/// The messages of a channel that the broker has not confirmed. Numbered from 0 in the order in
/// which they were published; the broker counts them from 1, and calls that the delivery tag.
#[derive(Debug, Default)]
pub(super) struct Tags {
    /// Whether each is confirmed, from the oldest that is not.
    confirmed: VecDeque<bool>,
    /// Number of that one.
    first: u64,
}

/// A confirm of what is not in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UnknownTag;

impl Tags {
    /// One more was published.
    pub(super) fn publish(&mut self) {
        self.confirmed.push_back(false);
    }

    /// Tells the numbers that a confirm is about, the oldest first.
    ///
    /// # Errors
    /// The tag is not in flight: what such a confirm means, nobody can say.
    pub(super) fn confirm(
        &mut self,
        tag: u64,
        is_multiple: bool,
        mut tell: impl FnMut(u64),
    ) -> Result<(), UnknownTag> {
        let published = self.first + self.confirmed.len() as u64;
        // "If the multiple field is 1, and the delivery tag is zero, this indicates
        // acknowledgement of all outstanding messages."
        let end = if is_multiple && tag == 0 { published } else { tag };
        if end == 0 || end > published {
            return Err(UnknownTag);
        }
        let past = end.checked_sub(self.first).and_then(|past| usize::try_from(past).ok());
        if is_multiple {
            // One that says nothing new is no news, and does no harm.
            let through = past.unwrap_or(0).min(self.confirmed.len());
            for (number, is_confirmed) in (self.first..).zip(self.confirmed.drain(..through)) {
                if !is_confirmed {
                    tell(number);
                }
            }
            self.first += through as u64;
        } else {
            let at = past.and_then(|past| past.checked_sub(1)).ok_or(UnknownTag)?;
            let is_confirmed = self.confirmed.get_mut(at).ok_or(UnknownTag)?;
            if std::mem::replace(is_confirmed, true) {
                return Err(UnknownTag);
            }
            tell(end - 1);
        }
        while self.confirmed.front() == Some(&true) {
            self.confirmed.pop_front();
            self.first += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn each_message_is_told_once_and_nothing_else(
            steps in prop::collection::vec((any::<bool>(), 0..40u64, any::<bool>()), 1..200)
        ) {
            let mut tags = Tags::default();
            let mut open = BTreeSet::new();
            let mut published = 0;
            for (is_publish, tag, is_multiple) in steps {
                if is_publish {
                    tags.publish();
                    open.insert(published);
                    published += 1;
                    continue;
                }
                let all = is_multiple && tag == 0;
                let expected: Vec<u64> = if all {
                    open.iter().copied().collect()
                } else if is_multiple {
                    open.iter().copied().filter(|number| *number < tag).collect()
                } else {
                    open.iter().copied().filter(|number| number + 1 == tag).collect()
                };
                let is_known = if is_multiple {
                    if all { published > 0 } else { tag <= published }
                } else {
                    !expected.is_empty()
                };
                let mut told = Vec::new();
                let outcome = tags.confirm(tag, is_multiple, |number| told.push(number));
                prop_assert_eq!(outcome.is_ok(), is_known, "tag {} of {}", tag, published);
                if is_known {
                    prop_assert_eq!(&told, &expected);
                    open.retain(|number| !told.contains(number));
                } else {
                    prop_assert!(told.is_empty());
                }
            }
        }
    }
}
