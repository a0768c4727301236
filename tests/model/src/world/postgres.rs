//! What Postgres does, and the applications that write to it.

use super::*;

impl World {
    pub(super) fn commit(&mut self) {
        let count = self.script.within(0..self.largest_transaction + 1);
        let mut shape = self.script.pick(&[0, 0, 1, 2]);
        let mut rows = Vec::new();
        for _ in 0..count {
            if self.script.one_in(10) {
                shape = self.script.pick(&[0, 1, 2]);
            }
            rows.push(self.row(shape));
        }
        let delay = self.script.weighted(&[(20, 0), (2, 20), (1, 3_000), (1, 30_000)]);
        let visible_at = if delay == 0 { 0 } else { self.now + self.script.within(0..delay) };
        let is_synchronous = !self.script.one_in(8);
        let before = self.postgres.events.len();
        let times = (self.now, visible_at);
        self.postgres.commit(&self.script, rows, times, is_synchronous);
        let after = self.postgres.events.len();
        self.ledger.committed(before..after, self.postgres.is_publication_broken);
        let how = if is_synchronous { "" } else { ", asynchronously" };
        self.say(format_args!(
            "commit of events {before}..{after} ends at {:X}, visible at {visible_at}{how}",
            self.postgres.end
        ));
    }

    pub(super) fn row(&self, shape: u8) -> Row {
        let script = &self.script;
        let body = "x".repeat(usize::try_from(script.within(0..self.largest_body)).unwrap());
        Row {
            table: script.weighted(&[
                (6, Table::Known),
                (3, Table::Named),
                (3, Table::Leaf),
                (2, Table::Other),
                (3, Table::Emitted),
                (1, Table::Foreign),
            ]),
            shape,
            id: String::new(),
            aggregate: script.within(0..4),
            topic: (!script.one_in(4)).then(|| format!("k{}", script.within(0..5))),
            exchange: script.one_in(12).then_some("second"),
            body: format!("\"{body}\""),
        }
    }

    pub(super) fn with_recent_event(
        &mut self,
        what: &str,
        change: impl Fn(&mut crate::postgres::Event, u64),
    ) {
        let count = self.postgres.events.len();
        if count == 0 {
            return;
        }
        let place = count - 1 - self.script.up_to(count.min(20) - 1);
        let until = self.now + self.script.within(0..20_000);
        let event = &mut self.postgres.events[place];
        // A listed row that is gone was never an event of the stream's: nobody could deliver it.
        let is_listed = event.end_lsn == 0;
        if is_listed || event.locked_until > self.now || event.end_lsn > self.postgres.flushed {
            return;
        }
        change(event, until);
        self.say(format_args!("the row of event {place} is {what} (until {until})"));
    }

    /// A table takes no marks any more: a trigger raises, a right is gone.
    pub(super) fn close_table(&mut self) {
        let table = self.script.up_to(1);
        let until = self.now + self.script.pick(&[100, 5_000, 60_000, 600_000]);
        self.postgres.close_table(table, until);
        self.tally.tables_closed += 1;
        self.say(format_args!("table {table} takes no marks until {until}"));
    }

    pub(super) fn send(&mut self) {
        let count = self.script.within(1..5);
        let Some(session) = &mut self.session else { return };
        for _ in 0..count {
            session.walsender.send(&self.postgres, &self.script);
        }
    }

    pub(super) fn keepalive(&mut self) {
        let is_reply_requested = self.script.one_in(4);
        let Some(session) = &mut self.session else { return };
        session.walsender.send(&self.postgres, &self.script);
        session.walsender.keepalive(is_reply_requested);
    }

    /// The server executes what a relay that is gone had sent.
    pub(super) fn haunt_postgres(&mut self) {
        let (session, batch) = self.zombies.remove(0);
        match self.write(session, &batch) {
            Some(_) => {
                self.tally.late_batches += 1;
                self.say(format_args!("a batch of a relay that is gone is written after all"));
            }
            None => {
                self.tally.late_batches_refused += 1;
                self.say(format_args!("a batch of session {session} comes late, and is refused"));
            }
        }
    }

    pub(super) fn execute(&mut self) {
        if !self.zombies.is_empty() && self.script.is_heads() {
            self.haunt_postgres();
            return;
        }
        let Some(session) = &mut self.session else { return };
        if let Some(check) = &mut session.check {
            let answer = if self.postgres.is_publication_broken {
                Err(())
            } else {
                Ok(self.postgres.flushed)
            };
            check.answer.get_or_insert(answer);
        }
        if let Some((from, look @ None)) = &mut session.look {
            let lsn = self.postgres.transaction(false);
            *look = Some(self.postgres.parking.look(self.now, lsn, *from));
        }
        for (aggregate, after, head) in &mut session.claims {
            let lsn = self.postgres.transaction(false);
            let parking = &mut self.postgres.parking;
            head.get_or_insert_with(|| parking.claim(self.now, lsn, aggregate, *after));
        }
        for (seqs, rows) in &mut session.claims_alone {
            let lsn = self.postgres.transaction(false);
            let parking = &mut self.postgres.parking;
            rows.get_or_insert_with(|| parking.claim_alone(self.now, lsn, seqs));
        }
        if let Some((from, rows @ None)) = &mut session.catching_up {
            *rows = Some(self.postgres.listed(*from, 3));
        }
        if let Some(is_done @ false) = &mut session.finishing {
            *is_done = true;
            self.postgres.remove_list();
        }
        let Some(mut marks) = session.marks.take() else { return };
        if marks.written.is_none() {
            let number = self.session.as_ref().map_or(0, |session| session.number);
            marks.written = self.write(number, &marks.batch);
            assert!(marks.written.is_some(), "the session that owns the slot is refused");
        }
        if let Some(session) = &mut self.session {
            session.marks = Some(marks);
        }
    }

    pub(super) fn write(&mut self, session: u64, batch: &Batch) -> Option<MarksWritten> {
        let position = pair(batch.place.position);
        let may_be_locked = batch.extent != Extent::MarksAlone;
        let is_locked = may_be_locked && self.script.one_in(20);
        let left = match is_locked {
            false => Left::Nothing,
            true if self.script.is_heads() => Left::Progress,
            true => Left::ParkingAndProgress,
        };
        self.tally.rests_locked += u64::from(is_locked);
        let written = self.postgres.write(self.now, session, batch, position, left);
        self.ledger.recorded(&self.postgres);
        written
    }

    pub(super) fn answer(&mut self) {
        let Some(session) = &mut self.session else { return };
        let is_looked = |look: &mut (Option<Position>, Option<Schedule>)| look.1.is_some();
        if let Some((_, Some(looked))) = session.look.take_if(is_looked) {
            session.watch.is_paused = looked.paused_by.is_some();
            return self.handle(Input::Looked(looked));
        }
        let answered = session.claims.iter().position(|(_, _, head)| head.is_some());
        if let Some((aggregate, _, Some(head))) = answered.map(|at| session.claims.swap_remove(at))
        {
            return self.handle(Input::Claimed { aggregate, head });
        }
        let answered = session.claims_alone.iter().position(|(_, rows)| rows.is_some());
        if let Some((asked, Some(rows))) = answered.map(|at| session.claims_alone.swap_remove(at)) {
            return self.handle(Input::ClaimedAlone { asked, rows });
        }
        let is_listed = |it: &mut (u64, Option<Vec<_>>)| it.1.is_some();
        if let Some((_, Some(rows))) = session.catching_up.take_if(is_listed) {
            let next = rows.last().map_or(0, |(n, _)| n + 1);
            let is_last = rows.is_empty();
            return self.handle(Input::CatchUp { rows, next, is_last });
        }
        if session.finishing.take_if(|is_done| *is_done).is_some() {
            return self.handle(Input::CaughtUp);
        }
        if let Some(oid) = session.resolving.take() {
            let resolution = match Table::from_oid(oid) {
                Table::Leaf => Resolution::Partition(1),
                Table::Other => Resolution::Other,
                table => panic!("{table:?} is known and need not be resolved"),
            };
            return self.handle(Input::Resolved(resolution));
        }
        let is_written = session.marks.as_ref().is_some_and(|marks| marks.written.is_some());
        if is_written && self.script.is_heads() {
            let Some(Marks { batch, written: Some(written) }) = session.marks.take() else {
                unreachable!("looked at above");
            };
            let MarksWritten { missing, left, written_lsn, flushed_lsn } = written;
            for UnwrittenMark { place: at, why } in &missing {
                let place = self.postgres.place(&batch.marks[*at].id).expect("an event");
                session.watch.missing_since.entry(place).or_insert(self.now);
                if matches!(why, Why::Refused(_)) {
                    self.ledger.refused.insert(place);
                    self.tally.marks_refused += 1;
                }
            }
            if !missing.is_empty() {
                self.say(format_args!("{} marks could not be written", missing.len()));
            }
            let (written_lsn, flushed_lsn) = (written_lsn.into(), flushed_lsn.into());
            return self.handle(Input::Written(WrittenBatch {
                batch,
                missing,
                left,
                written_lsn,
                flushed_lsn,
            }));
        }
        let answer = session.check.as_ref().and_then(|check| check.answer);
        let Some(answer) = answer else { return };
        session.check = None;
        match answer {
            Ok(flushed_lsn) => {
                session.watch.checks_passed = session.watch.checks_begun;
                self.handle(Input::Checked { flushed_lsn: flushed_lsn.into() });
            }
            Err(()) => {
                self.end(End::Fault(Fault::definite("the publication lacks a table", "add it")));
            }
        }
    }

    pub(super) fn deliver_ack(&mut self) {
        let Some(session) = &mut self.session else { return };
        if let Some((lsn, publishing_id)) = session.acks.pop_front() {
            assert!(lsn <= session.walsender.sent, "{lsn:X} was never sent");
            self.postgres.reach(lsn, publishing_id);
            self.ledger.recorded(&self.postgres);
        }
    }

    pub(super) fn crash(&mut self) {
        self.say(format_args!(
            "Postgres crashes: {:X} of {:X} was on disk",
            self.postgres.flushed, self.postgres.end
        ));
        self.tally.server_crashes += 1;
        let started = self.start_postgres();
        self.postgres.crash(started);
        self.ledger.taken_back(self.postgres.events.len());
        self.end(End::Fault(Fault::transient("Postgres crashed")));
        // Nothing that was not executed by now ever is.
        self.zombies.clear();
    }

    pub(super) fn restart(&mut self) {
        self.say(format_args!("Postgres restarts"));
        let is_slot_saved = self.script.is_heads();
        let started = self.start_postgres();
        self.postgres.restart(is_slot_saved, started);
        self.end(End::Fault(Fault::transient("Postgres restarted")));
        self.zombies.clear();
    }

    /// It is later than all that was committed before.
    fn start_postgres(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    /// Somebody copies the files of the server, which runs on.
    pub(super) fn copy(&mut self) {
        self.say(format_args!("the files of Postgres are copied"));
        if self.script.is_heads() {
            self.postgres.flush();
        }
        self.copy = Some(Box::new(self.postgres.clone()));
    }

    /// The copy is put in place, and started. The relay lives through it, or is started again as well.
    pub(super) fn restore(&mut self) {
        let Some(copy) = self.copy.take() else { return };
        self.ledger.look_at_queue(&self.broker, &self.postgres, self.mode);
        match self.script.is_heads() {
            true => self.end(End::Fault(Fault::transient("Postgres is gone"))),
            false => self.kill(),
        }
        self.zombies.clear();
        let started = self.start_postgres();
        let was_parked = self.postgres.parking.places();
        self.postgres = *copy;
        self.postgres.crash(started);
        let count = self.postgres.events.len();
        // What was put aside since the copy was made, and is not any more, may have later ones in the stream: nobody
        // knows of it.
        let is_parked = self.postgres.parking.places();
        for place in was_parked.difference(&is_parked).filter(|place| **place < count) {
            self.ledger.discarded(*place);
        }
        self.broker.history_ends(count);
        self.ledger.history_ends(count, self.postgres.progress());
        let Memory { delivered, publishing_id, .. } = self.memory;
        self.memory = Memory { delivered, publishing_id, ..Memory::default() };
        self.tally.restored += 1;
        self.say(format_args!("Postgres is restored from a copy with {count} events"));
    }

    pub(super) fn break_publication(&mut self) {
        if !self.postgres.is_publication_broken {
            self.say(format_args!("the publication loses its tables"));
            self.tally.publication_broken += 1;
            self.postgres.alter_publication(true);
        }
    }

    pub(super) fn repair_publication(&mut self) {
        if self.postgres.is_publication_broken {
            self.say(format_args!("the publication is repaired"));
            self.postgres.alter_publication(false);
            self.ledger.noticed();
        }
    }

    /// A fast shutdown: the walsender waits until everything it sent is acknowledged, and asks
    /// and asks. A relay that is reading either acknowledges or lets go.
    pub(super) fn storm(&mut self) {
        self.say(format_args!("Postgres is to shut down, and waits for the relay"));
        self.tally.storms += 1;
        self.postgres.flush();
        for _ in 0..60 {
            let Some(session) = &mut self.session else { return };
            while session.walsender.send(&self.postgres, &self.script) {}
            if self.postgres.confirmed >= session.walsender.sent {
                break;
            }
            session.walsender.keepalive(true);
            self.read(u64::MAX);
            self.deliver_ack();
            self.now += 1;
        }
        let Some(session) = &self.session else { return };
        let is_let_go = self.postgres.confirmed >= session.walsender.sent;
        assert!(is_let_go || !session.relay.is_reading(), "the storm did not end");
        self.restart();
    }
}
