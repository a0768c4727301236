//! The choices of one round: drawn from a seed, or taken from bytes by which a fuzzer steers, and
//! written down as they are made.

use std::cell::RefCell;
use std::fmt::Display;
use std::ops::Range;

/// Draws and notes.
pub struct Script {
    /// Choices made in advance; the generator makes those that are left.
    bytes: RefCell<std::vec::IntoIter<u8>>,
    random: RefCell<fastrand::Rng>,
    lines: RefCell<Vec<String>>,
}

impl Script {
    pub fn new(seed: u64) -> Self {
        Self::of(seed, Vec::new())
    }

    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self::of(0, bytes.to_vec())
    }

    fn of(seed: u64, bytes: Vec<u8>) -> Self {
        let random = RefCell::new(fastrand::Rng::with_seed(seed));
        Self { bytes: RefCell::new(bytes.into_iter()), random, lines: RefCell::default() }
    }

    /// A number below another, where there are bytes left: one byte where one is enough.
    fn steered(&self, below: u64) -> Option<u64> {
        let mut bytes = self.bytes.borrow_mut();
        let first = u64::from(bytes.next()?);
        let more = if below > 256 { 4 } else { 0 };
        let number = bytes.by_ref().take(more).fold(first, |all, byte| all << 8 | u64::from(byte));
        Some(number % below.max(1))
    }

    fn steered_index(&self, below: usize) -> Option<usize> {
        self.steered(below as u64)?.try_into().ok()
    }

    /// One of the range; its start where the range is empty.
    pub fn within(&self, range: Range<u64>) -> u64 {
        if range.is_empty() {
            return range.start;
        }
        let steered = self.steered(range.end - range.start).map(|number| range.start + number);
        steered.unwrap_or_else(|| self.random.borrow_mut().u64(range))
    }

    /// Up to `len`, `len` itself included.
    pub fn up_to(&self, len: usize) -> usize {
        let steered = self.steered_index(len + 1);
        steered.unwrap_or_else(|| self.random.borrow_mut().usize(0..=len))
    }

    pub fn one_in(&self, n: u64) -> bool {
        self.within(0..n) == 0
    }

    pub fn is_heads(&self) -> bool {
        self.one_in(2)
    }

    pub fn pick<T: Copy>(&self, from: &[T]) -> T {
        let steered = self.steered_index(from.len());
        from[steered.unwrap_or_else(|| self.random.borrow_mut().usize(0..from.len()))]
    }

    /// Draws by weight.
    pub fn weighted<T: Copy>(&self, from: &[(u32, T)]) -> T {
        let total: u32 = from.iter().map(|(weight, _)| weight).sum();
        let steered = self.steered(total.into()).and_then(|number| number.try_into().ok());
        let mut at = steered.unwrap_or_else(|| self.random.borrow_mut().u32(0..total));
        for (weight, item) in from {
            match at.checked_sub(*weight) {
                None => return *item,
                Some(rest) => at = rest,
            }
        }
        unreachable!("the weights were summed up")
    }

    pub fn shuffle<T>(&self, items: &mut [T]) {
        self.random.borrow_mut().shuffle(items);
    }

    pub fn note(&self, line: impl Display) {
        self.lines.borrow_mut().push(line.to_string());
    }

    /// The last lines, the newest at the end.
    pub fn last(&self, count: usize) -> Vec<String> {
        let lines = self.lines.borrow();
        lines[lines.len().saturating_sub(count)..].to_vec()
    }
}
