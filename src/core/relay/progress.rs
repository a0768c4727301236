//! Which LSN may be acknowledged.
//!
//! Events are numbered as they are received. They settle in any order, where one of them
//! waits for an older one of its aggregate; what counts is that all before a place are
//! settled. Commits and keepalives stand in one queue, each behind the events
//! received before it. A keepalive's `wal_end` is safe there: the walsender moves it past a
//! commit only once all of that commit was sent on the same stream
//! (`walsender.c`, `XLogSendLogical`).

use std::collections::VecDeque;

use postgres_types::PgLsn;

use crate::core::event::{ChangeLsn, Position, PublishingPlace};

/// An LSN that may be acknowledged once what stands before it is done.
#[derive(Debug, Clone, Copy)]
struct Point {
    lsn: PgLsn,
    /// The publishing id of the last event before it.
    publishing_id: u64,
    /// Events received before it.
    after: u64,
    /// The first check that begins after it was received.
    check: u64,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    position: Position,
    change: Option<ChangeLsn>,
    publishing_id: u64,
    /// Of the last before it.
    before: u64,
    is_settled: bool,
}

/// How far the stream has come.
#[derive(Debug)]
pub(crate) struct Progress {
    settled: u64,
    /// Events received behind the last that is settled with all before it.
    open: VecDeque<Open>,
    place: PublishingPlace,
    /// Of the last event received.
    received_id: u64,
    /// Ends of transactions, each behind so many events, with the last publishing id before it.
    commits: VecDeque<(u64, PgLsn, u64)>,
    points: VecDeque<Point>,
    received_lsn: PgLsn,
    acknowledged: PgLsn,
    /// The publishing id of the last event before it.
    acknowledged_id: u64,
    /// The highest publishing id that a stream has confirmed in this session: whatever its place, the broker has it.
    confirmed_id: u64,
}

impl Progress {
    /// At the start of a session, with everything before `place` settled by an earlier one.
    pub(crate) fn new(place: PublishingPlace) -> Self {
        let publishing_id = place.publishing_id;
        Self {
            settled: 0,
            open: VecDeque::new(),
            place,
            received_id: publishing_id,
            commits: VecDeque::new(),
            points: VecDeque::new(),
            received_lsn: PgLsn::from(0),
            acknowledged: PgLsn::from(0),
            acknowledged_id: publishing_id,
            confirmed_id: 0,
        }
    }

    /// Takes in an event; returns its number, from 0. Its publishing id, or that of the last before it
    /// where it has none.
    pub(crate) fn receive(
        &mut self,
        position: Position,
        change: Option<ChangeLsn>,
        publishing_id: u64,
    ) -> u64 {
        let number = self.received();
        let before = std::mem::replace(&mut self.received_id, publishing_id);
        self.open.push_back(Open { position, change, publishing_id, before, is_settled: false });
        number
    }

    /// Something came that is no event, and has a publishing id.
    pub(crate) fn pass_over(&mut self, publishing_id: u64) {
        self.received_id = publishing_id;
    }

    /// Events received.
    pub(crate) fn received(&self) -> u64 {
        self.settled + u64::try_from(self.open.len()).unwrap_or(u64::MAX)
    }

    /// Where an event stands that is not settled.
    pub(crate) fn place_of(&self, number: u64) -> Option<PublishingPlace> {
        let at = number.checked_sub(self.settled).and_then(|at| usize::try_from(at).ok());
        let Open { position, change, before, .. } = *self.open.get(at?)?;
        Some(PublishingPlace { position, from: change, publishing_id: before })
    }

    /// An event has its final outcome.
    pub(crate) fn settle(&mut self, number: u64) {
        let at = number.checked_sub(self.settled).and_then(|at| usize::try_from(at).ok());
        let open = at.and_then(|at| self.open.get_mut(at));
        debug_assert!(
            open.as_ref().is_some_and(|open| !open.is_settled),
            "settled once, when open"
        );
        if let Some(open) = open {
            open.is_settled = true;
        }
        while let Some(Open { position, change, publishing_id, is_settled: true, .. }) =
            self.open.front().copied()
        {
            self.open.pop_front();
            self.place.publishing_id = publishing_id;
            self.settled += 1;
            let position = Position { index: position.index + 1, ..position };
            let next =
                PublishingPlace { position, from: change.map(ChangeLsn::next), publishing_id };
            if self.place.is_before(&next) {
                self.place = next;
            }
        }
        self.pass_commits();
    }

    /// Events settled, with all before them.
    pub(crate) fn settled(&self) -> u64 {
        self.settled
    }

    /// Everything before this place is settled.
    pub(crate) fn place(&self) -> PublishingPlace {
        self.place
    }

    /// Takes in the end of a transaction. `next_check` is the number of the next check to begin.
    pub(crate) fn commit(&mut self, end_lsn: PgLsn, next_check: u64) {
        self.commits.push_back((self.received(), end_lsn, self.received_id));
        self.pass_commits();
        self.push(end_lsn, next_check);
    }

    /// Takes in a keepalive.
    pub(crate) fn barrier(&mut self, wal_end: PgLsn, next_check: u64) {
        self.push(wal_end, next_check);
    }

    fn push(&mut self, lsn: PgLsn, check: u64) {
        // An idle server repeats its keepalive: nothing to do about that one.
        if lsn <= self.received_lsn {
            return;
        }
        self.received_lsn = lsn;
        let (publishing_id, after) = (self.received_id, self.received());
        let point = Point { lsn, publishing_id, after, check };
        match self.points.back_mut() {
            Some(last) if last.after == point.after && last.check == point.check => *last = point,
            _ => self.points.push_back(point),
        }
    }

    fn pass_commits(&mut self) {
        while let Some((after, end_lsn, publishing_id)) = self.commits.front().copied() {
            if after > self.settled {
                return;
            }
            let position = Position::after_commit(end_lsn);
            if self.place.position < position {
                (self.place.position, self.place.from) = (position, None);
            }
            self.place.publishing_id = self.place.publishing_id.max(publishing_id);
            self.commits.pop_front();
        }
    }

    /// An LSN whose events are all settled waits to be acknowledged.
    pub(crate) fn is_settled_point_waiting(&self) -> bool {
        self.points.front().is_some_and(|point| point.after <= self.settled)
    }

    /// The LSN to acknowledge now, if it is a new one: all events before it are settled, all
    /// marks before event `marked_through` are safe, or all where that is `None`, and check `passed` found the publication
    /// as it should be.
    pub(crate) fn acknowledge(
        &mut self,
        marked_through: Option<u64>,
        passed: u64,
    ) -> Option<PgLsn> {
        let done = marked_through.map_or(self.settled, |through| through.min(self.settled));
        let mut reached = None;
        while let Some(point) = self.points.front() {
            if point.after > done || point.check > passed {
                break;
            }
            reached = Some((point.lsn, point.publishing_id));
            self.points.pop_front();
        }
        let (reached, id) = reached.filter(|(lsn, _)| *lsn > self.acknowledged)?;
        debug_assert!(reached <= self.received_lsn, "acknowledged what was not received");
        (self.acknowledged, self.acknowledged_id) = (reached, id);
        Some(reached)
    }

    /// The last LSN acknowledged on this connection; 0/0 before the first.
    pub(crate) fn acknowledged(&self) -> PgLsn {
        self.acknowledged
    }

    /// The publishing id of the last event before that LSN.
    pub(crate) fn acknowledged_id(&self) -> u64 {
        self.acknowledged_id
    }

    /// A stream has confirmed this publishing id.
    pub(crate) fn confirm(&mut self, publishing_id: u64) {
        self.confirmed_id = self.confirmed_id.max(publishing_id);
    }

    /// The highest publishing id that a stream has confirmed; 0 where none has in this session.
    pub(crate) fn confirmed_id(&self) -> u64 {
        self.confirmed_id
    }

    /// The last LSN received on this connection that may be acknowledged at all.
    pub(crate) fn received_lsn(&self) -> PgLsn {
        self.received_lsn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsn(at: u64) -> PgLsn {
        PgLsn::from(at)
    }

    fn begun(position: Position, publishing_id: u64) -> Progress {
        Progress::new(PublishingPlace { position, from: None, publishing_id })
    }

    fn at(commit: u64, index: u64) -> Position {
        Position { commit_lsn: lsn(commit), index }
    }

    #[test]
    fn a_commit_waits_for_its_events_marks_and_check() {
        let mut progress = begun(Position::start(), 0);
        progress.receive(at(100, 0), None, 0);
        progress.receive(at(100, 1), None, 0);
        progress.commit(lsn(140), 1);
        assert_eq!(progress.acknowledge(Some(2), 1), None, "nothing is settled");
        progress.settle(0);
        assert_eq!(progress.acknowledge(Some(2), 1), None, "half is settled");
        assert_eq!(progress.place().position, at(100, 1));
        progress.settle(1);
        assert_eq!(progress.acknowledge(Some(1), 1), None, "one is not marked");
        assert_eq!(progress.acknowledge(Some(2), 0), None, "no check has passed");
        assert_eq!(progress.acknowledge(Some(2), 1), Some(lsn(140)));
        assert_eq!(progress.place().position, Position::after_commit(lsn(140)));
        assert!(!progress.is_settled_point_waiting());
    }

    #[test]
    fn a_keepalive_waits_behind_what_was_received_before_it() {
        let mut progress = begun(Position::start(), 0);
        progress.receive(at(100, 0), None, 0);
        progress.commit(lsn(140), 0);
        progress.barrier(lsn(900), 0);
        assert_eq!(progress.acknowledge(Some(0), 9), None);
        progress.settle(0);
        assert_eq!(progress.acknowledge(Some(1), 9), Some(lsn(900)));
        progress.barrier(lsn(900), 0);
        assert!(!progress.is_settled_point_waiting(), "a repeated keepalive is nothing new");
    }

    #[test]
    fn what_an_earlier_session_settled_stays_settled() {
        let mut progress = begun(at(100, 5), 0);
        progress.receive(at(100, 0), None, 0);
        progress.settle(0);
        assert_eq!(progress.place().position, at(100, 5));
    }

    #[test]
    fn what_settles_early_counts_once_all_before_it_has() {
        let mut progress = begun(Position::start(), 0);
        for index in 0..3 {
            progress.receive(at(100, index), None, 0);
        }
        progress.commit(lsn(140), 0);
        progress.settle(1);
        progress.settle(2);
        assert_eq!((progress.settled(), progress.place().position), (0, Position::start()));
        assert_eq!(progress.acknowledge(Some(3), 1), None);
        progress.settle(0);
        assert_eq!(progress.settled(), 3);
        assert_eq!(progress.acknowledge(Some(3), 1), Some(lsn(140)));
    }

    #[test]
    fn a_place_has_the_publishing_id_of_the_last_event_before_it() {
        let mut progress = begun(Position::start(), 5);
        for (index, id) in [(0, 7), (1, 8)] {
            progress.receive(at(100, index), None, id);
        }
        progress.commit(lsn(140), 0);
        progress.receive(at(200, 0), None, 20);
        assert_eq!(progress.place().publishing_id, 5);
        progress.settle(1);
        assert_eq!(progress.place().publishing_id, 5, "one before it is open");
        progress.settle(0);
        assert_eq!(progress.place().publishing_id, 8);
        progress.settle(2);
        assert_eq!(progress.acknowledge(None, 9), Some(lsn(140)));
        assert_eq!((progress.acknowledged_id(), progress.place().publishing_id), (8, 20));
    }

    #[test]
    fn what_is_no_event_has_a_publishing_id_that_counts_once_its_transaction_is_settled() {
        let mut progress = begun(Position::start(), 5);
        progress.receive(at(100, 0), None, 7);
        progress.pass_over(8);
        progress.settle(0);
        assert_eq!((progress.place().position, progress.place().publishing_id), (at(100, 1), 7));
        progress.pass_over(9);
        let number = progress.receive(at(100, 3), None, 10);
        let place = PublishingPlace { position: at(100, 3), from: None, publishing_id: 9 };
        assert_eq!(progress.place_of(number), Some(place), "what is passed over is before it");
        progress.settle(number);
        assert_eq!(progress.place_of(number), None);
        progress.pass_over(11);
        progress.commit(lsn(140), 0);
        assert_eq!(progress.place().position, Position::after_commit(lsn(140)));
        assert_eq!(progress.place().publishing_id, 11);
        assert_eq!(progress.acknowledge(None, 9), Some(lsn(140)));
        assert_eq!(progress.acknowledged_id(), 11);
        progress.receive(at(200, 0), None, 20);
        progress.pass_over(21);
        progress.commit(lsn(240), 0);
        assert_eq!(progress.place().publishing_id, 11, "its event is open");
        progress.settle(2);
        assert_eq!(progress.place().publishing_id, 21);
    }

    /// In a session to which more of the same transaction is shown, and in one to which less is.
    #[test]
    fn a_place_inside_a_transaction_never_goes_back_in_the_wal() {
        let change = |lsn: u64| Some(ChangeLsn { lsn: lsn.into(), number: 0 });
        let from = Some(ChangeLsn { lsn: 40.into(), number: 1 });
        let place = PublishingPlace { position: at(100, 5), from, publishing_id: 0 };
        for (earlier, later) in [(9, 11), (0, 2)] {
            let mut progress = Progress::new(place);
            let number = progress.receive(at(100, earlier), change(30), 0);
            progress.settle(number);
            assert_eq!(progress.place(), place);
            let number = progress.receive(at(100, later), change(60), 0);
            progress.settle(number);
            let from = Some(ChangeLsn { lsn: 60.into(), number: 1 });
            let position = at(100, later + 1);
            assert_eq!(progress.place(), PublishingPlace { position, from, publishing_id: 0 });
        }
    }
}
