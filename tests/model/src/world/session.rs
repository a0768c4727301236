//! A relay from its begin to its end, and what it reads.

use postgres_types::PgLsn;

use super::*;

/// Where an event is in the WAL: they are written in the order of their places.
fn lsn_of(what: What) -> PgLsn {
    match what {
        What::Event(place) => PgLsn::from(u64::try_from(place).unwrap() + 1),
        What::Commit(_) | What::Relation(_) | What::Rest => PgLsn::from(0),
    }
}

impl World {
    pub(super) fn begin(&mut self) {
        // Nobody starts on a publication that lacks a table.
        self.repair_publication();
        // What earlier ones left behind comes in time, now and then.
        while !self.zombies.is_empty() && self.tally.sessions % 8 == 7 {
            self.haunt_postgres();
        }
        // Read in a transaction that waits for the disk.
        self.postgres.flush();
        self.tally.sessions += 1;
        self.postgres.session = self.tally.sessions;
        let (commit_lsn, index) = self.postgres.progress();
        let row = Position { commit_lsn: commit_lsn.into(), index };
        let mut memory = self.memory.clone();
        let known = self.known_name();
        if self.mode.is_stream && !known.is_same_start {
            memory = memory.without_place();
        }
        if row >= memory.delivered {
            memory.publishing_id =
                self.postgres.publishing_id().max(match row == memory.delivered {
                    true => memory.publishing_id,
                    false => 0,
                });
            // The row of this world keeps numbers alone.
            memory.from = memory.from.filter(|_| row == memory.delivered);
            memory.delivered = row;
        }
        let delivered = pair(memory.delivered);
        let parked = self.postgres.parking.places();
        self.ledger.check_delivered(&self.postgres, &parked, delivered, "remembered position");
        let catch_up = self.postgres.catch_up().map(|lsn| CatchUpCursor::new(lsn.into()));
        for (n, row) in self.postgres.listed(0, usize::MAX) {
            if row.tuple.size() > self.body_limit {
                self.ledger.oversized.insert(usize::try_from(n).unwrap());
            }
        }
        let mut rules = self.rules.clone();
        rules.limits.body = self.body_limit;
        self.say(format_args!("session {} with {memory:X?}", self.tally.sessions));
        let mut relay = Relay::new(rules.clone(), memory.clone(), catch_up);
        let name = self.name(known, &mut relay);
        self.session = Some(Session {
            name,
            number: self.tally.sessions,
            watch: Watch::new(&self.postgres, millis(rules.audit.hold)),
            relay,
            memory,
            began: self.now,
            walsender: self.postgres.start_replication(),
            acks: VecDeque::new(),
            connection: self.broker.connect(),
            body_limit: self.body_limit,
            closed_with: None,
            is_reopening: false,
            in_doubt: BTreeSet::new(),
            blocked_told: false,
            marks: None,
            check: None,
            resolving: None,
            look: None,
            claims: Vec::new(),
            claims_alone: Vec::new(),
            catching_up: None,
            finishing: None,
            last_frame: self.now,
        });
    }

    /// What is known of the name that streams are published to under.
    fn known_name(&self) -> KnownName {
        let (started, name) = (self.postgres.started, self.postgres.name);
        let is_same_start = name.is_some_and(|(_, of)| of == started);
        KnownName {
            is_doubtful: name.is_none() || !is_same_start && self.postgres.catch_up().is_some(),
            is_same_start,
            settled: self.postgres.publishing_id(),
            end: self.postgres.end.into(),
            looked: self.looked.filter(|(of, _)| *of == started).map(|(_, found)| found),
        }
    }

    /// The name of a session; one that is to look ahead publishes nothing.
    fn name(&mut self, known: KnownName, relay: &mut Relay) -> u64 {
        if !self.mode.is_stream {
            return 0;
        }
        let before = self.postgres.name.map_or(0, |(name, _)| name);
        let highest = self.broker.highest(before);
        let naming = known.decide(Some(highest));
        self.say(format_args!("the name: {naming:?}, {known:?}, highest {highest}"));
        match naming {
            Naming::Keep => {}
            Naming::Change | Naming::Doubt => {
                self.names += 1;
                self.ledger.renamed(self.broker.on_their_way());
            }
            Naming::LookAhead => {
                self.tally.looked_ahead += 1;
                let (started, end) = (micros(self.postgres.started), self.postgres.flushed.into());
                relay.look_ahead(LookAhead::new(highest, started, end));
                return 0;
            }
        }
        let name = if naming == Naming::Keep { before } else { self.names };
        self.postgres.name = Some((name, self.postgres.started));
        self.postgres.transaction(true);
        name
    }

    /// The stream is read where the relay lets it.
    pub(super) fn read(&mut self, count: u64) {
        for _ in 0..count {
            let Some(session) = &mut self.session else { return };
            if !session.relay.is_reading() {
                return;
            }
            let Some(frame) = session.walsender.queue.pop_front() else { return };
            session.last_frame = self.now;
            match frame {
                Frame::KeepAlive { wal_end, is_reply_requested } => {
                    session.watch.received(wal_end);
                    let wal_end = wal_end.into();
                    self.handle(Input::KeepAlive { wal_end, is_reply_requested });
                }
                Frame::Data(bytes, what) => self.read_data(&bytes, what),
            }
        }
    }

    pub(super) fn read_data(&mut self, bytes: &bytes::Bytes, what: What) {
        let message = pgoutput::decode(bytes).expect("the model speaks pgoutput");
        let Some(session) = &mut self.session else { return };
        if session.relay.is_looking_ahead() {
            return self.handle(Input::Stream { lsn: lsn_of(what), message });
        }
        if let What::Commit(end_lsn) = what {
            session.watch.received(end_lsn);
        }
        let before = session.watch.published.len();
        let place = match what {
            What::Event(place) => place,
            _ => {
                self.handle(Input::Stream { lsn: lsn_of(what), message });
                let published = self.session.as_ref().map(|session| session.watch.published.len());
                assert!(published.is_none_or(|after| after == before), "published out of nothing");
                return;
            }
        };
        let event = &self.postgres.events[place];
        let delivered = session.memory.delivered;
        let is_repeated = position_of(event) < pair(delivered);
        let is_too_large = event.body.len() > session.body_limit;
        if is_too_large {
            self.ledger.oversized.insert(place);
        }
        self.handle(Input::Stream { lsn: lsn_of(what), message });
        // The row waits until it is known what its relation is.
        let is_held = |session: &&Session| session.resolving.is_none();
        let Some(session) = self.session.as_ref().filter(is_held) else { return };
        let published = &session.watch.published[before..];
        if self.mode.is_parking {
            assert!(
                !is_repeated || !published.contains(&place),
                "event {place} was settled and is published again"
            );
        } else if is_repeated {
            assert!(published.is_empty(), "event {place} was delivered and is published again");
        } else if published.is_empty() {
            assert!(is_too_large, "event {place} was received and not published");
            assert!(!session.relay.is_reading(), "event {place} was refused, and more is read");
        } else {
            assert_eq!(published, [place], "another event than the one received is published");
        }
    }

    pub(super) fn handle(&mut self, input: Input) {
        let Some(session) = &mut self.session else { return };
        let at = Duration::from_millis(self.now - session.began);
        let mut effects = Vec::new();
        // Frames come one at a time, or many at once.
        let is_frame = matches!(input, Input::Stream { .. } | Input::KeepAlive { .. });
        let outcome = match is_frame && self.now.is_multiple_of(3) {
            true => session.relay.take_in(at, input, &mut effects),
            false => session.relay.handle(at, input, &mut effects),
        };
        for effect in effects {
            self.perform(effect);
        }
        if let Err(end) = outcome {
            return self.end(end);
        }
        let Some(session) = self.session.as_ref().filter(|it| it.closed_with.is_none()) else {
            return;
        };
        let (messages, bytes) = session.relay.in_flight();
        let unconfirmed = &session.watch.unconfirmed;
        assert!(messages >= unconfirmed.len(), "a message left the window without its confirm");
        assert!(bytes >= unconfirmed.values().sum(), "bytes left the window without their confirm");
    }

    pub(super) fn lose(&mut self, what: &str) {
        self.tally.connections_lost += 1;
        self.end(End::Fault(Fault::transient(what)));
    }

    pub(super) fn drain(&mut self) {
        let Some(session) = &mut self.session else { return };
        if !std::mem::replace(&mut session.watch.is_draining, true) {
            self.say(format_args!("drain"));
            self.handle(Input::Drain);
        }
    }

    pub(super) fn kill(&mut self) {
        let exposed = self.ledger.exposed(&self.postgres) as u64;
        self.say(format_args!("kill -9, with {exposed} events to be repeated"));
        self.tally.kills += 1;
        self.tally.most_repeated_by_a_kill = self.tally.most_repeated_by_a_kill.max(exposed);
        let Some(session) = self.session.take() else { return };
        self.memory = Memory::default();
        self.looked = None;
        self.ledger.stuck = None;
        self.leave(session);
    }

    pub(super) fn end(&mut self, end: End) {
        let Some(mut session) = self.session.take() else { return };
        self.say(format_args!("the session ends: {end:?}"));
        if session.relay.is_looking_ahead() {
            let found = session.relay.looked_ahead();
            self.tally.met += u64::from(found.is_some_and(|found| found.is_met));
            self.looked = found.map(|found| (self.postgres.started, found));
            assert!(session.watch.published.is_empty(), "published by a session that only looks");
            return self.leave(session);
        }
        let at = Duration::from_millis(self.now - session.began);
        self.memory = session.relay.remember(at, &end);
        self.check_memory(&session);
        match &end {
            End::Fault(_) => {}
            End::Drained => self.drained(&mut session),
            End::Stuck(stuck) => {
                self.tally.stuck += 1;
                // Where there are dead letters, the session after the close says so.
                if matches!(stuck.refusal, Refusal::Closed { .. }) && !self.mode.has_letters {
                    assert_eq!(session.closed_with, Some(1), "convicted among several: {stuck:?}");
                }
                let place = self.postgres.place(&stuck.id).expect("stuck on an event");
                let event = &self.postgres.events[place];
                let number = session.connection.number;
                let is_refused = self.broker.refused.iter().any(|(connection, refused)| {
                    *refused == place && (*connection == number || self.mode.has_letters)
                });
                let is_too_large = event.body.len() > session.body_limit;
                assert!(is_refused || is_too_large, "nobody refused event {place}");
                let parked = self.postgres.parking.places();
                if !self.mode.is_parking {
                    let position = position_of(event);
                    self.ledger.check_delivered(&self.postgres, &parked, position, "stuck event");
                    self.ledger.stuck = Some(place);
                }
            }
        }
        if !matches!(end, End::Drained) {
            self.now += self.script.within(0..200);
        }
        self.leave(session);
    }

    /// Rule: what is known to be delivered stays known, so that the next session does not
    /// publish it again.
    pub(super) fn check_memory(&self, session: &Session) {
        let watch = &session.watch;
        let delivered = pair(self.memory.delivered);
        assert!(delivered >= pair(session.memory.delivered), "delivered, and forgotten");
        // What is parked and not on disk may have to be parked again.
        let is_forgotten = delivered < watch.recorded && watch.parking.is_empty();
        assert!(!is_forgotten || self.mode.is_parking, "recorded, and forgotten");
        if watch.has_seen_refusal || self.mode.is_parking {
            return;
        }
        let known = watch
            .unconfirmed
            .first_key_value()
            .map_or(watch.published.len(), |(number, _)| usize::try_from(*number).unwrap());
        if let Some(last) = known.checked_sub(1) {
            let place = watch.published[last];
            let position = position_of(&self.postgres.events[place]);
            assert!(delivered > position, "event {place} was delivered, and is forgotten");
        }
    }

    /// Rule: after a drain nothing is left to be repeated.
    pub(super) fn drained(&mut self, session: &mut Session) {
        self.tally.drained += 1;
        for (lsn, publishing_id) in session.acks.drain(..) {
            self.postgres.reach(lsn, publishing_id);
        }
        // The one over which the channel was closed is parked, and needs no confirm.
        let is_convicted = self.mode.is_parking && session.closed_with == Some(1);
        let is_settled = session.watch.unconfirmed.is_empty() || is_convicted;
        assert!(is_settled, "drained with messages in flight");
        let row = match self.marking {
            Marking::None => self.postgres.progress(),
            _ => self.postgres.progress_on_disk(),
        };
        let delivered = pair(session.memory.delivered);
        let visible = self.postgres.progress();
        assert!(
            visible >= delivered,
            "drained, and {delivered:X?} was delivered and is not recorded"
        );
        for place in session.watch.earlier.iter().chain(&session.watch.published) {
            // What left the parking may stand behind an event that the stream is yet to bring again.
            let was_parked = self.postgres.parking.on_disk(u64::MAX).contains(place);
            if was_parked || self.ledger.dead.contains(place) {
                continue;
            }
            let event = &self.postgres.events[*place];
            // Nothing waits for the disk where there is no mark.
            let row = if event.is_message { visible } else { row };
            let is_recorded = position_of(event) < row;
            assert!(is_recorded, "drained, and event {place} is not recorded");
        }
        let received = session.watch.points.last_key_value().map_or(0, |(lsn, _)| *lsn);
        let acknowledged = session.watch.acknowledged;
        assert!(acknowledged >= received, "drained, and {received:X} is not acknowledged");
        // The next relay is a new process.
        (self.memory, self.looked) = (Memory::default(), None);
        self.ledger.stuck = None;
    }

    /// What a session leaves behind: bytes on their way to the servers.
    pub(super) fn leave(&mut self, session: Session) {
        let mut missing: Vec<usize> = session.watch.missing_since.keys().copied().collect();
        // The server could not write these, and its answer never came.
        if let Some(Marks { batch, written: Some(written) }) = &session.marks {
            let ids = written.missing.iter().map(|missed| &batch.marks[missed.place].id);
            missing.extend(ids.filter_map(|id| self.postgres.place(id)));
        }
        self.ledger.left_unmarked(missing.iter(), &self.postgres);
        self.ledger.session_ended(&self.postgres);
        for (lsn, publishing_id) in session.acks {
            if self.script.is_heads() {
                break;
            }
            self.postgres.reach(lsn, publishing_id);
        }
        if let Some(Marks { batch, written: None }) = session.marks
            && self.script.is_heads()
        {
            self.zombies.push((session.number, batch));
        }
        self.broker.abandon(session.connection, &self.script);
    }
}
