//! The choices of one round: drawn from a seed, and written down as they are made.

use std::cell::RefCell;
use std::fmt::Display;
use std::ops::Range;

/// Draws and notes.
pub(crate) struct Script {
    random: RefCell<fastrand::Rng>,
    lines: RefCell<Vec<String>>,
}

impl Script {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: RefCell::new(fastrand::Rng::with_seed(seed)), lines: RefCell::default() }
    }

    /// One of the range; its start where the range is empty.
    pub(crate) fn within(&self, range: Range<u64>) -> u64 {
        if range.is_empty() { range.start } else { self.random.borrow_mut().u64(range) }
    }

    /// Up to `len`, `len` itself included.
    pub(crate) fn up_to(&self, len: usize) -> usize {
        self.random.borrow_mut().usize(0..=len)
    }

    pub(crate) fn one_in(&self, n: u64) -> bool {
        self.within(0..n) == 0
    }

    pub(crate) fn is_heads(&self) -> bool {
        self.one_in(2)
    }

    pub(crate) fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[self.random.borrow_mut().usize(0..from.len())]
    }

    /// Draws by weight.
    pub(crate) fn weighted<T: Copy>(&self, from: &[(u32, T)]) -> T {
        let total: u32 = from.iter().map(|(weight, _)| weight).sum();
        let mut at = self.random.borrow_mut().u32(0..total);
        for (weight, item) in from {
            match at.checked_sub(*weight) {
                None => return *item,
                Some(rest) => at = rest,
            }
        }
        unreachable!("the weights were summed up")
    }

    pub(crate) fn shuffle<T>(&self, items: &mut [T]) {
        self.random.borrow_mut().shuffle(items);
    }

    /// Takes each item with even odds; what is left stays in its order.
    pub(crate) fn take_some<T>(&self, items: &mut Vec<T>) -> Vec<T> {
        items.extract_if(.., |_| self.is_heads()).collect()
    }

    pub(crate) fn note(&self, line: impl Display) {
        self.lines.borrow_mut().push(line.to_string());
    }

    /// The last lines, the newest at the end.
    pub(crate) fn last(&self, count: usize) -> Vec<String> {
        let lines = self.lines.borrow();
        lines[lines.len().saturating_sub(count)..].to_vec()
    }
}
