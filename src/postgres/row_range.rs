//! Places of rows in a table's file, as numbers, so that a range of them can be halved.

/// Places in one block, more than any block has.
pub(crate) const PLACES: u64 = 2048;

/// A place as a tid.
pub(crate) fn tid(place: u64) -> String {
    format!("({},{})", place / PLACES, place % PLACES)
}

/// Where to halve a range of places: between two blocks, as long as there is more than one.
pub(crate) fn middle(from: u64, to: u64) -> u64 {
    let middle = from + (to - from) / 2;
    let block = middle / PLACES * PLACES;
    if block > from { block } else { middle }
}
