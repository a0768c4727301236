//! What an operator does.

use super::*;

impl World {
    /// An operator pauses the relay, or resumes it; it hears of that, or finds it out.
    pub(super) fn pause(&mut self, is_paused: bool) {
        let parking = &mut self.postgres.parking;
        if std::mem::replace(&mut parking.is_paused, is_paused) == is_paused {
            return;
        }
        self.tally.pauses += u64::from(is_paused);
        self.say(format_args!("paused: {is_paused}"));
        self.hears();
    }

    /// Some of the parked events, in whatever place of their aggregates.
    pub(super) fn some_parked(&self) -> Vec<i64> {
        let open = self.postgres.parking.open();
        let count = self.script.pick(&[1, 1, 1, 2, 3, open.len()]).min(open.len());
        (0..count).map(|_| open[self.script.up_to(open.len() - 1)]).collect()
    }

    /// An operator takes out parked events; what waits behind them goes on.
    pub(super) fn discard(&mut self) {
        let seqs = self.some_parked();
        let lsn = self.postgres.transaction(self.script.is_heads());
        let done = self.postgres.parking.discard(lsn, &seqs);
        self.say(format_args!("{seqs:?} are discarded: {done:?}"));
        for place in done.places {
            self.ledger.discarded(place);
            self.tally.discarded += 1;
        }
        self.tally.discarded_in_flight += done.in_flight as u64;
        self.tally.freed += done.freed as u64;
        self.hears();
    }

    /// An operator has parked events tried at once.
    pub(super) fn retry(&mut self) {
        let seqs = self.some_parked();
        let lsn = self.postgres.transaction(self.script.is_heads());
        let is_reset = self.script.is_heads();
        let count = self.postgres.parking.retry(self.now, lsn, &seqs, is_reset);
        self.say(format_args!("of {seqs:?} {count} are to be tried at once"));
        self.tally.asked_for += count as u64;
        self.hears();
    }

    /// What was over a limit is not tried again by itself: an operator who has raised the limit asks for it.
    pub(super) fn retry_failed(&mut self) {
        let parking = &self.postgres.parking;
        let is_failed = |row: &&crate::parking::Row| {
            row.is_open() && row.state == pgoutbox::testing::core::parked::ParkedState::Failed
        };
        let failed: Vec<i64> = parking.rows().filter(is_failed).map(|row| row.row.seq).collect();
        if failed.is_empty() {
            return;
        }
        let lsn = self.postgres.transaction(true);
        let count = self.postgres.parking.retry(self.now, lsn, &failed, false);
        self.say(format_args!("of {failed:?}, which have failed, {count} are to be tried at once"));
        self.handle(Input::Notified);
    }

    /// An operator sends an event that was done with once more, beside the relay.
    pub(super) fn replay(&mut self) {
        let records = self.postgres.parking.records();
        let Some(place) = records.get(self.script.up_to(records.len().max(1) - 1)) else { return };
        self.say(format_args!("event {place} is replayed"));
        self.broker.queue.push(crate::broker::Copy {
            place: *place,
            connection: usize::MAX,
            is_named: false,
        });
        self.tally.replayed += 1;
    }

    /// The relay hears of what an operator did, or finds it out.
    pub(super) fn hears(&mut self) {
        if self.script.is_heads() {
            self.handle(Input::Notified);
        }
    }
}
