//! Publishing ids: by which a RabbitMQ stream knows an event again.
//!
//! The broker keeps the highest id that it took under a name, drops what is not above it, and confirms
//! that as a success. So two things must hold, or events are lost in silence: ids rise from event to event,
//! and an event that comes again has the id that it had.
//!
//! An id follows from the event's place. No counter is kept: a slot that was made again, or a row of
//! progress that was lost, goes on above what was used. Two commits are at least 40 bytes of WAL apart (the
//! size of a commit record), so each 32 bytes of it have room for 4,096 ids of their own. Where in the first half of
//! the room a transaction begins follows from the transaction: in another history of the server (it was restored
//! from a copy) one that has the same place in the WAL has other ids. A larger transaction reaches into the room of later ones, which then begin behind it: the id of the last event
//! before a place is written down with the place.

use crate::core::event::Position;

/// WAL that no two commits share.
const GRAIN: u64 = 32;
/// Bits of an id that tell the events of a commit apart.
const ROOM_BITS: u32 = 12;
/// Clients in other languages have no larger integer.
const LARGEST: u64 = i64::MAX as u64;
/// Events by which a transaction may reach beyond its room, where that is only estimated.
const CARRY: u64 = 1 << 24;

/// What tells a transaction from another one that has its place in another history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint(u64);

impl Fingerprint {
    /// Of the transaction with this id, committed at this time.
    pub(super) fn of(xid: u32, commit_time: i64) -> Self {
        // Fibonacci hashing: the uppermost bits are the best mixed ones.
        let mixed = (commit_time.cast_unsigned() ^ u64::from(xid) << 32)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self(mixed >> (u64::BITS - (ROOM_BITS - 1)))
    }
}

/// The id that follows from a place alone.
fn natural(position: Position, Fingerprint(first): Fingerprint) -> u64 {
    let commit = u64::from(position.commit_lsn) / GRAIN;
    let base = commit.checked_mul(1 << ROOM_BITS).map_or(LARGEST, |base| base.min(LARGEST));
    base.saturating_add(first).saturating_add(position.index)
}

/// No event that was committed before this place of the WAL has a higher id.
pub(crate) fn ceiling(end: Position) -> u64 {
    natural(end, Fingerprint(0)).saturating_add(CARRY)
}

/// Gives events their ids.
#[derive(Debug, Clone, Copy)]
pub(super) struct PublishingIds {
    last: u64,
    /// The highest that was sent.
    sent: u64,
}

impl PublishingIds {
    /// `last` is the id of the last event before the place where the session goes on.
    pub(super) fn new(last: u64) -> Self {
        Self { last, sent: last }
    }

    /// The id of the last event that has one.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// The id of the event at this place, which comes behind all that were given one.
    pub(super) fn assign(&mut self, position: Position, of: Fingerprint) -> u64 {
        self.last = natural(position, of).max(self.last.saturating_add(1));
        self.last
    }

    /// An event is sent under its id; `false` where that is not above the ones that were sent: the broker
    /// would drop it, and call that a success.
    pub(super) fn send(&mut self, id: u64) -> bool {
        let is_above = id > self.sent;
        self.sent = self.sent.max(id);
        is_above
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(commit: u64, index: u64) -> Position {
        Position { commit_lsn: commit.into(), index }
    }

    /// Of the transaction that was committed there.
    fn print_of(position: Position) -> Fingerprint {
        let lsn = u64::from(position.commit_lsn);
        Fingerprint::of(
            u32::try_from(lsn % 4_294_967_291).unwrap_or(0),
            (lsn.wrapping_mul(31)).cast_signed(),
        )
    }

    /// Commits: how far each is behind the one before, in WAL, and how many events it has.
    fn commits() -> impl Strategy<Value = Vec<(u64, u64)>> {
        let apart = prop_oneof![Just(40_u64), 40..200_u64, 40..1_000_000_u64];
        let events = prop_oneof![4 => 1..5_u64, 1 => 4_000..9_000_u64];
        prop::collection::vec((apart, events), 1..30)
    }

    proptest! {
        #[test]
        fn ids_rise_and_come_again_from_any_place(
            commits in commits(),
            start in prop_oneof![0..1_000_u64, Just(1 << 60), Just(u64::MAX - (1 << 40))],
            from in any::<prop::sample::Index>(),
        ) {
            let mut lsn = start;
            let mut places = Vec::new();
            for (apart, events) in commits {
                lsn += apart;
                places.extend((0..events).map(|index| at(lsn, index)));
            }
            let mut ids = PublishingIds::new(0);
            let given: Vec<u64> = places.iter().map(|place| ids.assign(*place, print_of(*place))).collect();
            prop_assert!(given.windows(2).all(|pair| pair[0] < pair[1]));
            // A session that goes on from any of them, with the id of the one before.
            let from = from.index(places.len());
            let before = from.checked_sub(1).map_or(0, |before| given[before]);
            let mut again = PublishingIds::new(before);
            for (place, id) in places.iter().zip(&given).skip(from) {
                prop_assert_eq!(again.assign(*place, print_of(*place)), *id);
            }
        }
    }

    #[test]
    fn what_is_not_above_is_not_sent() {
        let mut ids = PublishingIds::new(4);
        assert!(!ids.send(4));
        assert!(ids.send(6) && !ids.send(6) && !ids.send(5));
        assert!(ids.send(7));
    }

    /// Transactions of one place in two histories: one in two thousand begins with the same id.
    #[test]
    fn another_history_has_other_ids_at_the_same_place() {
        let first = |xid, time| natural(at(4_096, 0), Fingerprint::of(xid, time));
        let begun = 817_000_000_000_000;
        let same =
            (1..=200_000).filter(|later| first(700, begun) == first(700, begun + later * 997));
        assert!((50..200).contains(&same.count()));
        let same = (1..=200_000).filter(|more| first(700, begun) == first(700 + more, begun));
        assert!((0..400).contains(&same.count()));
    }

    #[test]
    fn nothing_before_an_end_is_above_its_ceiling() {
        let mut ids = PublishingIds::new(0);
        let most = Fingerprint((1 << (ROOM_BITS - 1)) - 1);
        let last = (0..100_000).map(|index| ids.assign(at(1_000, index), most)).last();
        assert!(last.is_some_and(|last| last < ceiling(at(1_040, 0))));
    }
}
