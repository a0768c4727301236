//! What the broker does.

use super::*;

impl World {
    pub(super) fn connection(&mut self, act: impl FnOnce(&mut Connection, &Script)) {
        if let Some(session) = &mut self.session {
            act(&mut session.connection, &self.script);
        }
    }

    pub(super) fn process(&mut self, count: u64) {
        let Some(session) = &mut self.session else { return };
        for _ in 0..count {
            if !self.broker.take(&mut session.connection, &self.script) {
                break;
            }
        }
        self.ledger.look_at_queue(&self.broker, &self.postgres, self.mode);
    }

    pub(super) fn trouble(
        &mut self,
        what: &str,
        of: impl Fn(&mut Broker) -> &mut BTreeSet<String>,
    ) {
        let key = format!("k{}", self.script.within(0..5));
        self.say(format_args!("{key} is {what}"));
        of(&mut self.broker).insert(key);
    }

    pub(super) fn drop_exchange(&mut self) {
        self.say(format_args!("the second exchange is deleted"));
        self.broker.missing_exchanges.insert("second".to_owned());
    }

    /// The operator's limit counts from the next session on.
    pub(super) fn lower_limit(&mut self) {
        self.body_limit = usize::try_from(self.script.within(1..500)).unwrap();
        self.say(format_args!("the largest body is now {}", self.body_limit));
    }

    pub(super) fn repair_broker(&mut self) {
        self.say(format_args!("the broker's queues and exchanges are repaired"));
        self.broker.unbound.clear();
        self.broker.full.clear();
        self.broker.missing_exchanges.clear();
        self.broker.is_dead_unbound = false;
        self.body_limit = 10_000;
    }

    pub(super) fn block(&mut self, is_blocked: bool) {
        let Some(session) = &mut self.session else { return };
        session.connection.is_blocked = is_blocked;
        if session.blocked_told != is_blocked {
            session.blocked_told = is_blocked;
            self.say(format_args!("the broker blocks: {is_blocked}"));
            self.handle(Input::Blocked(is_blocked));
        }
    }

    pub(super) fn burst(&mut self) {
        if let Some(session) = &mut self.session {
            while session.walsender.queue.len() < 40
                && session.walsender.send(&self.postgres, &self.script)
            {}
        }
        self.read(30);
        self.process(u64::MAX);
        self.connection(|connection, script| connection.confirm(script, true));
        self.look();
    }

    /// The relay looks at its confirms.
    pub(super) fn look(&mut self) {
        let Some(session) = &mut self.session else { return };
        if session.is_reopening {
            return self.reopen();
        }
        if session.closed_with.is_some() {
            return;
        }
        let is_closed = session.connection.closed.is_some();
        if session.connection.has_news() && !(is_closed && self.script.is_heads()) {
            let answers = session.connection.look(&self.script);
            return self.answers(answers);
        }
        if let Some(why) = session.connection.closed.clone() {
            self.tally.channels_closed += 1;
            let published = &session.watch.published;
            let window = &published[published.len() - session.relay.in_flight().0..];
            let exchanged =
                |place: &&usize| !self.mode.is_of_stream(&self.postgres.events[**place]);
            session.closed_with = Some(window.iter().filter(exchanged).count());
            // Now and then with the connection.
            let is_channel = !self.now.is_multiple_of(4);
            self.say(format_args!("the broker closed the channel; alone: {is_channel}"));
            self.handle(match is_channel {
                true => Input::ChannelClosed { why, max_body: None },
                false => Input::Closed(why),
            });
        }
    }

    /// The new channel is there. What was in flight on the old one is in doubt, and goes again; one at
    /// a time, where there were several.
    fn reopen(&mut self) {
        let Some(session) = &mut self.session else { return };
        session.is_reopening = false;
        let watch = &mut session.watch;
        let in_flight: Vec<usize> = std::mem::take(&mut watch.unconfirmed)
            .keys()
            .map(|number| watch.published[usize::try_from(*number).unwrap()])
            .collect();
        if session.closed_with.take() > Some(1) {
            let last =
                in_flight.iter().map(|place| position_of(&self.postgres.events[*place])).max();
            let through =
                last.map(|(commit_lsn, index)| Position { commit_lsn: commit_lsn.into(), index });
            session.memory.cautious_through = session.memory.cautious_through.max(through);
        }
        // Messages are numbered anew.
        watch.earlier.append(&mut watch.published);
        watch.has_seen_refusal = false;
        session.in_doubt.extend(in_flight);
        let closed = std::mem::replace(&mut session.connection, self.broker.connect());
        session.connection.is_blocked = closed.is_blocked;
        self.broker.abandon(closed, &self.script);
        self.tally.channels_reopened += 1;
        self.say(format_args!("there is a new channel"));
        self.handle(Input::Reopened);
    }

    pub(super) fn answers(&mut self, answers: Vec<Answer>) {
        let Some(session) = &mut self.session else { return };
        if answers.is_empty() {
            return;
        }
        for answer in &answers {
            match answer {
                Answer::Return(_) => session.watch.has_seen_refusal = true,
                Answer::Confirm { number, is_ack } => {
                    session.watch.unconfirmed.remove(number);
                    session.watch.has_seen_refusal |= !is_ack;
                }
            }
        }
        let short = |answer: &Answer| match answer {
            Answer::Return(returned) => format!("return {}", returned.message_id),
            Answer::Confirm { number, is_ack: true } => number.to_string(),
            Answer::Confirm { number, is_ack: false } => format!("{number} nack"),
        };
        self.say(format_args!("answers: {:?}", answers.iter().map(short).collect::<Vec<_>>()));
        self.handle(Input::Answers(answers));
    }
}
