//! The broker closed the channel or the connection, perhaps over something that was published.

use std::time::Duration;

use super::arrival::{PublishedEvent, Source};
use super::outcomes::Suspicion;
use super::phase::Phase;
use super::{Effect, End, Relay};
use crate::config::OnFailure;
use crate::core::event::Refusal;
use crate::error::{Fault, Side};

impl Relay {
    /// The broker closed the channel and keeps the connection. What was in flight is in doubt, and
    /// goes again on a new channel, in its order; one at a time, where it is not known over which it
    /// was. Where nothing was in flight it was over nothing of ours, and may be closed again at once:
    /// then, and while the session ends, it is as if the connection had gone. So it is where streams are
    /// published to as well: what is in flight to them would go again in this session, behind higher ids.
    ///
    /// Where it was over the size of a body, the broker has said how large one may be: those that are larger are
    /// refused before they are sent, and all others go again.
    pub(super) fn channel_closed(
        &mut self,
        now: Duration,
        why: &str,
        max_body: Option<usize>,
        effects: &mut Vec<Effect>,
    ) {
        let is_running = self.phase == Phase::Running;
        if is_running && let Some(limit) = max_body.filter(|limit| *limit < self.rules.limits.body)
        {
            self.rules.limits.body = limit;
            return self.closed_over_size(why, effects);
        }
        let is_over = !is_running || self.rules.has_streams;
        if is_over || !self.outgoing.is_any_in_flight() {
            return self.closed(now, why);
        }
        let mut window = self.outgoing.close();
        match window.pop() {
            Some(PublishedEvent { arrival, dead_letter, .. }) if window.is_empty() => {
                self.refused(now, arrival, dead_letter, Refusal::Closed { why: why.to_owned() });
            }
            last => {
                window.extend(last);
                self.suspect(&window);
                self.outgoing.put_back(window);
            }
        }
        if self.phase == Phase::Running {
            effects.push(Effect::Reopen);
        }
    }

    fn closed_over_size(&mut self, why: &str, effects: &mut Vec<Effect>) {
        if self.rules.has_streams {
            let fault = Fault::transient(format!("the broker closed the channel: {why}"));
            self.outcomes.keep_max_body(self.rules.limits.body);
            return self.enter(Phase::Failing(fault.on(Side::Broker)));
        }
        let window = self.outgoing.close();
        self.outgoing.put_back(window);
        effects.push(Effect::Reopen);
    }

    /// The broker does not say over which publish it closed the channel. With one message in
    /// flight it is that one. The session goes on without the broker until what was delivered
    /// before has its marks: the next one comes to the same message, and could write them no
    /// better.
    pub(super) fn closed(&mut self, now: Duration, why: &str) {
        let (mut window, is_more_unsettled) = self.take_exchanged();
        if window.len() == 1
            && let Some(published) = window.pop()
        {
            self.closed_over(now, published, why, is_more_unsettled);
            return;
        }
        self.suspect(&window);
        let count = window.len();
        self.enter(Phase::Failing(Fault::transient(format!(
            "the broker closed the channel with {count} messages in flight: {why}. They are published again one at a time, to find which it was"
        ))
        .on(Side::Broker)));
    }

    /// The connection ended, and nobody said over what: a broker that stops, a network that
    /// fails; or a message that it cannot bear. That is seen when it comes again: with the same
    /// first message in flight for the second time they are published one at a time, and the one
    /// that was alone in flight twice is the one.
    pub(super) fn dropped(&mut self, now: Duration, fault: Fault) -> Result<(), End> {
        let (mut window, is_more_unsettled) = self.take_exchanged();
        let Some(first) = window.first().map(|published| published.arrival.position) else {
            return Err(End::Fault(fault));
        };
        let is_alone = window.len() == 1;
        match self.outcomes.dropped(first, is_alone) {
            Suspicion::Convicted => {
                let Some(published) = window.pop() else { return Err(End::Fault(fault)) };
                self.closed_over(now, published, &fault.what, is_more_unsettled);
                return Ok(());
            }
            Suspicion::Suspected => self.suspect(&window),
            Suspicion::None => {}
        }
        Err(End::Fault(fault))
    }

    /// Takes what was in flight. Over what went to a stream no channel is closed: it is left out, and told.
    fn take_exchanged(&mut self) -> (Vec<PublishedEvent>, bool) {
        let mut window = self.outgoing.take_window();
        let count = window.len();
        window.retain(|published| !published.is_to_stream);
        let is_more = window.len() < count;
        (window, is_more)
    }

    /// One of these made the broker close the channel: the next session publishes them one at a
    /// time.
    fn suspect(&mut self, window: &[PublishedEvent]) {
        for published in window {
            match published.arrival.source {
                Source::Stream(_) => self.outcomes.suspect(published.arrival.position),
                Source::Parked { seq, .. } => self.retries.suspect(seq),
            }
        }
    }

    /// `is_more_unsettled`: other messages were in flight, to streams, and are sent again as well.
    fn closed_over(
        &mut self,
        now: Duration,
        published: PublishedEvent,
        why: &str,
        is_more_unsettled: bool,
    ) {
        let PublishedEvent { arrival, dead_letter, .. } = published;
        let fault = Fault::transient(format!(
            "the broker closed the channel over event {} of {}: {why}",
            arrival.id(),
            self.table_name(&arrival)
        ))
        .on(Side::Broker)
        .hint(Refusal::Closed { why: String::new() }.hint());
        let table = self.rules.tables.get(arrival.mapping.table);
        let has_dead_letter =
            table.is_some_and(|table| matches!(table.on_failure, OnFailure::DeadLetter { .. }));
        if has_dead_letter && dead_letter.is_none() {
            // Its dead letter takes a channel: the next session sends that at once.
            self.outcomes.convict(arrival.position, why);
            // It is not settled: a drain has failed.
            self.enter(Phase::Failing(fault));
            return;
        }
        self.refused(now, arrival, dead_letter, Refusal::Closed { why: why.to_owned() });
        // What was taken in and not sent has no channel to go by: a drain that waited for it would
        // not end.
        if is_more_unsettled || self.is_any_unsent() || !self.phase.is_ending() {
            self.enter(Phase::Failing(fault));
        }
    }

    /// An event of the stream was taken in and waits to be sent.
    fn is_any_unsent(&self) -> bool {
        self.aggregates.size().0 > 0 || self.outgoing.is_any_new_ready()
    }
}
