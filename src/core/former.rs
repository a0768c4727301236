//! How far the relays had come that an outbox was spread over before.

use postgres_types::PgLsn;

use crate::core::event::Position;
use crate::core::share;

/// Up to where each share of before is settled. A slot that came after those begins where the last of them stood:
/// what the others had delivered from there on is not delivered again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormerShares {
    places: Vec<PgLsn>,
    /// From here on no relay of before has delivered anything.
    until: PgLsn,
}

impl Default for FormerShares {
    /// Nobody was before.
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl FormerShares {
    /// In the order of the shares.
    pub(crate) fn new(places: Vec<PgLsn>) -> Self {
        let until = places.iter().copied().max().unwrap_or(PgLsn::from(0));
        Self { places, until }
    }

    /// Some events may have been settled by them.
    pub(crate) fn may_have(&self, position: Position) -> bool {
        position.commit_lsn < self.until
    }

    /// An event was settled by them whose aggregate's id has this text.
    pub(crate) fn has(&self, position: Position, aggregate_id: &[u8]) -> bool {
        let of = u16::try_from(self.places.len()).unwrap_or(u16::MAX);
        let number = share::number(aggregate_id, of);
        let place = self.places.get(usize::from(number));
        place.is_some_and(|place| position.commit_lsn < *place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_was_settled_up_to_the_place_of_its_share() {
        let former = FormerShares::new(vec![PgLsn::from(100), PgLsn::from(300)]);
        let at = |lsn: u64| Position { commit_lsn: PgLsn::from(lsn), index: 7 };
        for id in ["1", "2", "3", "order-7", ""] {
            let until = if share::number(id.as_bytes(), 2) == 0 { 100 } else { 300 };
            for lsn in [0, 99, 100, 299, 300, 1000] {
                let was = former.may_have(at(lsn)) && former.has(at(lsn), id.as_bytes());
                assert_eq!(was, lsn < until, "{id} at {lsn}");
            }
        }
        assert!(!FormerShares::default().may_have(at(0)), "nobody was before");
    }
}
