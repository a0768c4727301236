//! What earlier sessions have settled of the transaction in which they ended.
//!
//! A place inside a transaction is told by the change in the WAL, which is the same in every session. That an event has
//! the number that it had is not sure: a row of another table more or fewer is shown where a publication was altered
//! while the transaction was open ([`ChangeLsn`]). Publishing ids and parked events are known by numbers. So where the
//! first change behind the place has another number than the place says, the session ends before anything of it is
//! sent, and the next one counts anew.

use super::End;
use crate::core::event::{ChangeLsn, Position, PublishingPlace};
use crate::error::Fault;

/// What was settled by earlier sessions.
#[derive(Debug)]
pub(super) struct DeliveredPlace {
    place: PublishingPlace,
    numbers: Numbers,
}

/// The numbers of the events in the transaction of the place.
#[derive(Debug, PartialEq, Eq)]
enum Numbers {
    /// The first change behind the place has not come.
    Unknown,
    /// They are what they were, as far as that can be told.
    Same,
    /// They are others.
    Other,
}

impl DeliveredPlace {
    /// Everything before this place.
    pub(super) fn new(place: PublishingPlace) -> Self {
        // At the beginning of a transaction there is nothing to compare.
        let is_inside = place.position.index > 0 && place.from.is_some();
        let numbers = if is_inside { Numbers::Unknown } else { Numbers::Same };
        Self { place, numbers }
    }

    /// The place, by its number.
    pub(super) fn position(&self) -> Position {
        self.place.position
    }

    /// Whether a change is before the place.
    pub(super) fn has(&self, position: Position, change: Option<ChangeLsn>) -> bool {
        let of = PublishingPlace { position, from: change, publishing_id: 0 };
        of.is_before(&self.place)
    }

    /// There is nothing more to compare.
    pub(super) fn is_passed(&self) -> bool {
        self.numbers == Numbers::Same
    }

    /// The numbers are not what they were.
    pub(super) fn is_shown_otherwise(&self) -> bool {
        self.numbers == Numbers::Other
    }

    /// A change has come.
    ///
    /// # Errors
    /// It is the first one behind the place, and has another number than the place says.
    pub(super) fn compare(
        &mut self,
        position: Position,
        change: Option<ChangeLsn>,
    ) -> Result<(), End> {
        if self.has(position, change) {
            return Ok(());
        }
        let is_of_it = position.commit_lsn == self.place.position.commit_lsn;
        if is_of_it && change.is_some() && position != self.place.position {
            self.numbers = Numbers::Other;
            let what = format!(
                "the transaction of commit {} comes with other rows than before, since a publication was altered while it was open: its events are counted anew",
                position.commit_lsn
            );
            return Err(Fault::transient(what).into());
        }
        self.numbers = Numbers::Same;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: u64 = 9_000;

    fn at(index: u64) -> Position {
        Position { commit_lsn: COMMIT.into(), index }
    }

    fn change(lsn: u64) -> Option<ChangeLsn> {
        Some(ChangeLsn { lsn: lsn.into(), number: 0 })
    }

    fn delivered(index: u64, from: Option<ChangeLsn>) -> DeliveredPlace {
        DeliveredPlace::new(PublishingPlace { position: at(index), from, publishing_id: 0 })
    }

    #[test]
    fn what_is_before_the_place_the_wal_says() {
        let delivered = delivered(4, change(500));
        // Twice as many were counted then as come now, and half as many.
        for (index, lsn, is_before) in
            [(1, 480, true), (2, 500, false), (8, 499, true), (9, 501, false)]
        {
            assert_eq!(delivered.has(at(index), change(lsn)), is_before, "{index} {lsn}");
        }
        let of_others = |commit: u64| Position { commit_lsn: commit.into(), index: 9 };
        assert!(delivered.has(of_others(COMMIT - 1), change(700)));
        assert!(!delivered.has(of_others(COMMIT + 1), change(100)));
    }

    #[test]
    fn where_the_wal_is_not_known_the_number_says() {
        assert!(delivered(4, None).has(at(3), change(900)));
        assert!(!delivered(4, None).has(at(4), change(100)));
        assert!(delivered(4, change(500)).has(at(3), None));
    }

    #[test]
    fn other_numbers_are_seen_before_anything_is_sent() {
        for (index, is_other) in [(3, true), (4, false), (5, true)] {
            let mut delivered = delivered(4, change(500));
            assert!(delivered.compare(at(index - 1), change(490)).is_ok());
            assert!(!delivered.is_passed());
            assert_eq!(delivered.compare(at(index), change(510)).is_err(), is_other);
            assert_eq!(delivered.is_shown_otherwise(), is_other);
        }
        // Nothing of the transaction came behind the place.
        let mut passed = delivered(4, change(500));
        let next = Position { commit_lsn: (COMMIT + 40).into(), index: 0 };
        assert!(passed.compare(next, change(505)).is_ok() && passed.is_passed());
        assert!(delivered(0, change(500)).is_passed(), "counted anew");
        assert!(delivered(4, None).is_passed(), "written by an older version");
    }
}
