//! Time passes, and all comes to its end.

use super::*;

impl World {
    /// Time passes; the relay is woken where it asked to be.
    pub(super) fn wait(&mut self, ms: u64) {
        let until = self.now + ms;
        while self.now < until {
            self.wait_once(until);
        }
    }

    pub(super) fn wait_once(&mut self, until: u64) {
        let Some(session) = &mut self.session else {
            self.now = until;
            return;
        };
        let keepalive = session.last_frame + KEEPALIVE_MS;
        let at = Duration::from_millis(self.now - session.began);
        // Woken a part of a millisecond early, it would only ask to be woken again.
        let deadline = session.relay.deadline(at).map(|at| session.began + millis_up(at));
        let next = deadline.unwrap_or(u64::MAX).min(keepalive).clamp(self.now, until);
        self.now = next;
        if keepalive <= next {
            session.last_frame = next;
            self.keepalive();
            self.read(1);
        }
        if deadline.is_some_and(|at| at <= next) {
            self.tick();
        }
    }

    /// Rule: a relay that was woken has done what it wanted to be woken for.
    pub(super) fn tick(&mut self) {
        self.handle(Input::Tick);
        let Some(session) = &self.session else { return };
        let at = Duration::from_millis(self.now - session.began);
        let deadline = session.relay.deadline(at);
        assert!(deadline.is_none_or(|deadline| deadline > at), "the relay spins");
    }

    /// All trouble ends. Rule: then every event is delivered and marked, the slot reaches the
    /// end of the WAL, and a drain ends.
    pub(super) fn finish(&mut self) {
        self.say(format_args!("all trouble ends"));
        self.pause(false);
        self.repair_broker();
        let limit = self.session.as_ref().map(|session| session.body_limit);
        if self.mode.is_parking && limit.is_some_and(|limit| limit < self.body_limit) {
            // With a limit that was too low, events would be refused for ever.
            self.end(End::Fault(Fault::transient("the settings were repaired")));
        }
        if self.postgres.is_publication_broken {
            self.end(End::Fault(Fault::definite("the publication lacks a table", "add it")));
        }
        let mut steps = 0..LAST_STEPS;
        while !self.is_done() {
            assert!(
                steps.next().is_some(),
                "no end: {}; slot at {:X}, WAL ends at {:X}",
                self.ledger.missing(&self.postgres),
                self.postgres.confirmed,
                self.postgres.end
            );
            self.retry_failed();
            self.calm_step();
        }
        let drained = self.tally.drained;
        self.drain();
        while self.tally.drained == drained {
            assert!(steps.next().is_some(), "the drain does not end");
            if self.session.is_none() {
                self.begin();
            }
            let is_looking = self.session.as_ref().is_some_and(|it| it.relay.is_looking_ahead());
            if !is_looking {
                self.drain();
            }
            self.calm_step();
        }
        let copies = self.ledger.copies;
        self.begin();
        for _ in 0..5 {
            self.calm_step();
        }
        assert_eq!(self.ledger.copies, copies, "repeated after a drain");
    }

    pub(super) fn is_done(&self) -> bool {
        self.ledger.is_complete(&self.postgres) && self.postgres.confirmed >= self.postgres.end
    }

    pub(super) fn calm_step(&mut self) {
        if self.session.is_none() {
            self.begin();
        }
        self.block(false);
        self.postgres.flush();
        while self.broker.haunt(&self.script) {}
        if let Some(session) = &mut self.session {
            while session.walsender.send(&self.postgres, &self.script) {}
            session.walsender.keepalive(false);
        }
        self.read(u64::MAX);
        self.process(u64::MAX);
        self.connection(|connection, script| connection.confirm(script, true));
        for _ in 0..2 {
            self.look();
        }
        self.execute();
        self.answer();
        self.answer();
        for _ in 0..5 {
            self.deliver_ack();
        }
        self.wait_once(self.now + 200);
    }
}
