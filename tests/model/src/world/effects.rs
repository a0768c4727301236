//! What the relay asks for is done, and judged.

use super::*;

impl World {
    pub(super) fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::GivenUp(marks) => {
                for mark in marks {
                    let place = self.postgres.place(&mark.id).expect("an event");
                    self.ledger.given_up(place);
                }
            }
            Effect::NotTransactional(_) => {}
            Effect::Publish(message) => self.publish(message),
            Effect::Reopen => {
                let Some(session) = &mut self.session else { return };
                assert!(session.closed_with.is_some(), "a new channel beside one that is open");
                session.is_reopening = true;
            }
            Effect::Mark(batch) => self.mark(*batch),
            Effect::Check => {
                let Some(session) = &mut self.session else { return };
                assert!(session.check.is_none(), "one check at a time");
                session.watch.checks_begun += 1;
                session.check = Some(Check { answer: None });
                self.say(format_args!("check"));
            }
            Effect::Resolve { relation: oid, .. } => {
                let Some(session) = &mut self.session else { return };
                assert!(session.resolving.is_none(), "one relation at a time");
                session.resolving = Some(oid);
            }
            Effect::Look { from } => {
                let Some(session) = &mut self.session else { return };
                assert!(session.look.is_none(), "one look at a time");
                session.look = Some((from, None));
            }
            Effect::Claim { aggregate, after } => {
                self.say(format_args!("claim what is behind {after} of {aggregate}"));
                let Some(session) = &mut self.session else { return };
                session.claims.push((aggregate, after, None));
            }
            Effect::ClaimAlone(seqs) => {
                self.say(format_args!("claim {seqs:?}"));
                let Some(session) = &mut self.session else { return };
                session.claims_alone.push((seqs, None));
            }
            Effect::CatchUp(from) => {
                let Some(session) = &mut self.session else { return };
                assert!(session.catching_up.is_none(), "one fetch at a time");
                session.catching_up = Some((from, None));
            }
            Effect::CaughtUp => {
                self.say(format_args!("the list is done"));
                let listed = self.postgres.listed(0, usize::MAX);
                let parked = self.postgres.parking.places();
                for (n, _) in listed {
                    let place = usize::try_from(n).unwrap();
                    let is_settled = self.ledger.is_accepted(place) || parked.contains(&place);
                    assert!(is_settled, "event {place} is listed, and forgotten");
                }
                let Some(session) = &mut self.session else { return };
                session.finishing = Some(false);
            }
            Effect::Acknowledge(lsn) => {
                let Some(session) = &mut self.session else { return };
                let lsn = u64::from(lsn);
                session.watch.acknowledge(lsn, self.now, &self.postgres, &mut self.ledger);
                session.acks.push_back((lsn, session.relay.acknowledged_id()));
                self.tally.acknowledged += 1;
                self.say(format_args!("acknowledge {lsn:X}"));
            }
        }
    }

    pub(super) fn publish(&mut self, message: Message) {
        let place = self.ledger.check_message(&self.postgres, &message);
        self.say(format_args!("publish event {place} to {}", message.routing_key()));
        let bound = if self.mode.is_parking {
            usize::MAX
        } else {
            self.rules.window_messages + self.rules.audit.batch
        };
        self.ledger.published(place, &self.postgres, bound);
        self.ledger.check_given_up(place, &self.postgres);
        let Some(session) = &mut self.session else { return };
        let watch = &mut session.watch;
        assert!(!watch.is_paused || watch.is_draining, "published while paused");
        if self.mode.is_parking {
            if watch.unconfirmed.is_empty() {
                watch.has_seen_refusal = false;
            }
            if self.mode.is_holding {
                let mut holding = self.postgres.parking.holding();
                holding.extend(&watch.parking);
                let number = |number: &u64| usize::try_from(*number).unwrap();
                // With strict ordering nothing is behind anything in flight.
                let in_flight = watch.unconfirmed.keys().filter(|_| !self.mode.is_strict);
                let in_flight = in_flight.map(|it| watch.published[number(it)]).collect();
                self.ledger.check_hold(place, &self.postgres, &holding, &in_flight);
            }
            let is_of_stream = self.mode.is_of_stream(&self.postgres.events[place]);
            if self.mode.is_strict && self.mode.is_holding && !is_of_stream {
                let aggregate = self.postgres.events[place].aggregate;
                let in_flight = watch.unconfirmed.keys();
                let mut in_flight = in_flight.map(|number| {
                    &self.postgres.events[watch.published[usize::try_from(*number).unwrap()]]
                });
                let is_alone = in_flight
                    .all(|other| other.aggregate != aggregate || self.mode.is_of_stream(other));
                assert!(is_alone, "event {place} is not alone of its aggregate");
            }
        } else {
            let is_again = session.in_doubt.contains(&place);
            assert!(!watch.is_draining || is_again, "published during a drain");
            let last = watch.published.last();
            assert!(last.is_none_or(|last| *last < place), "published out of order");
        }
        assert!(!watch.has_seen_refusal, "published behind a refused message");
        // Relays that go step by step, up to the event that made the broker refuse.
        let through = session.memory.cautious_through;
        let last = watch.published.last().map(|last| position_of(&self.postgres.events[*last]));
        let is_cautious = !self.mode.is_parking
            && through.is_some_and(|through| last.is_none_or(|last| last <= pair(through)));
        let (messages, bytes) =
            (watch.unconfirmed.len(), watch.unconfirmed.values().sum::<usize>());
        let most = if is_cautious { 1 } else { self.rules.window_messages };
        assert!(messages < most, "{messages} messages are in flight already");
        assert!(bytes < self.rules.window_bytes, "{bytes} bytes are in flight already");
        if is_cautious {
            let last = watch.published.last();
            assert!(
                last.is_none_or(|last| self.ledger.is_accepted(*last)),
                "event {place} is published before it is known what became of the one before"
            );
        }
        let number = watch.published.len() as u64;
        watch.published.push(place);
        watch.unconfirmed.insert(number, message.body.len());
        session.connection.sent.push_back(Sent {
            number,
            place,
            id: self.postgres.events[place].id.clone(),
            exchange: message.exchange().to_owned(),
            routing_key: message.routing_key().to_owned(),
            is_to_stream: !message.sections_bytes().is_empty(),
            publishing_id: message.publishing_id.map(|id| (session.name, id)),
        });
    }

    pub(super) fn mark(&mut self, batch: Batch) {
        let most = self.rules.audit.batch + batch.parking.attempts.len();
        assert!(batch.marks.len() <= most, "too large a batch");
        let highest = self.session.as_ref().map_or(0, |session| self.broker.highest(session.name));
        assert!(batch.confirmed_id <= highest, "written as confirmed, and the stream has less");
        let mut parked = self.postgres.parking.places();
        for mark in &batch.marks {
            assert_ne!(self.marking, Marking::None, "a mark where none is wanted");
            let place = self.postgres.place(&mark.id).expect("a mark of an event");
            let is_delivered = self.ledger.is_accepted(place) && !self.broker.dead.contains(&place);
            let is_passed_over = mark.is_repeat && parked.contains(&place);
            let is_marked = is_delivered || is_passed_over || self.ledger.dead.contains(&place);
            assert!(is_marked, "event {place} is marked, and no queue has it");
        }
        for park in &batch.parking.parks {
            let place = self.postgres.place(park.id.as_deref().unwrap()).expect("an event");
            parked.insert(place);
            self.tally.parked += u64::from(park.refusal.is_some());
            self.tally.queued += u64::from(park.refusal.is_none());
            self.say(format_args!("park event {place}: {:?}", park.state));
            let Some(session) = &mut self.session else { return };
            if park.is_holding {
                session.watch.parking.insert(place);
            }
        }
        for attempt in &batch.parking.attempts {
            self.say(format_args!("parked {} was tried: {:?}", attempt.seq, attempt.outcome));
            self.tally.retried += 1;
        }
        let position = pair(batch.place.position);
        self.ledger.check_delivered(&self.postgres, &parked, position, "recorded position");
        self.say(format_args!("mark {} events, {position:X?}", batch.marks.len()));
        let Some(session) = &mut self.session else { return };
        assert!(session.marks.is_none(), "one batch at a time");
        session.watch.recorded = position;
        session.marks = Some(Marks { batch, written: None });
    }
}
