//! What number a message of one connection has among those of all.

use std::collections::VecDeque;

use crate::core::relay::window::Answer;

/// The messages of one connection that are not confirmed. The connection numbers them from 0.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    /// From the oldest that is not confirmed, each one's number among all.
    open: VecDeque<Option<u64>>,
    /// The connection's number of the first of these.
    first: u64,
}

impl Numbers {
    /// One more was published.
    pub(super) fn push(&mut self, among_all: u64) {
        self.open.push_back(Some(among_all));
    }

    /// Renumbers what the connection says. A confirm of what is not in flight is left out: it settles nothing.
    pub(super) fn among_all(&mut self, answers: &mut Vec<Answer>) {
        answers.retain_mut(|answer| match answer {
            Answer::Return(_) => true,
            Answer::Confirm { number, .. } => match self.take(*number) {
                Some(among_all) => {
                    *number = among_all;
                    true
                }
                None => false,
            },
        });
    }

    fn take(&mut self, number: u64) -> Option<u64> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let taken = self.open.get_mut(at)?.take();
        while let Some(None) = self.open.front() {
            self.open.pop_front();
            self.first += 1;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_message_has_its_number_once(
            steps in prop::collection::vec((any::<bool>(), 0..4_u64, any::<prop::sample::Index>()), 1..200)
        ) {
            let (mut numbers, mut model) = (Numbers::default(), Vec::new());
            let mut among_all = 0;
            for (is_publish, gap, index) in steps {
                if is_publish {
                    among_all += 1 + gap;
                    numbers.push(among_all);
                    model.push(Some(among_all));
                    continue;
                }
                let number = index.index(model.len() + 2);
                let mut answers = vec![Answer::Confirm { number: number as u64, is_ack: true }];
                numbers.among_all(&mut answers);
                let expected = model.get_mut(number).and_then(Option::take);
                let told: Vec<_> = answers.iter().map(|answer| match answer {
                    Answer::Confirm { number, .. } => *number,
                    Answer::Return(_) => u64::MAX,
                }).collect();
                prop_assert_eq!(told, expected.into_iter().collect::<Vec<_>>());
                prop_assert!(numbers.open.front().is_none_or(Option::is_some));
            }
        }
    }
}
