//! The deadlines of the servers.

use std::time::Duration;

use super::input::{End, Rules};
use crate::error::{Fault, Kind, Peer, Side};
use crate::text::span;

/// Keepalives that ask for a reply and bring no WAL, in one second, that mean a server which
/// waits for us to let it shut down (`walsender.c`, `WalSndDone`).
const STORM: u32 = 20;

/// Where no confirm comes.
const QUEUE_HINT: &str =
    "look at the queues behind the exchange: a quorum queue without a majority confirms nothing";
const STREAM_HINT: &str = "look at the stream: rabbitmq-streams stream_status NAME  -- without a majority of its replicas it confirms nothing; nor while the broker has a disk alarm, of which a stream tells nobody: rabbitmq-diagnostics alarms";

/// Which part of the silence that ends a session is shown.
const UNUSUAL: (u32, u32) = (8, 15);

/// When something was last heard of the servers, and how long each may be silent.
#[derive(Debug)]
pub(super) struct Deadlines {
    silence: Duration,
    blocked_timeout: Duration,
    confirm_timeout: Duration,
    /// Later by as long as the stream was not read since.
    last_frame_at: Duration,
    not_reading_since: Option<Duration>,
    blocked_since: Option<Duration>,
    unblocked_at: Duration,
    storm: (Duration, u32),
}

impl Deadlines {
    /// Everybody was heard of just now.
    pub(super) fn new(rules: &Rules) -> Self {
        Self {
            silence: rules.silence,
            blocked_timeout: rules.blocked_timeout,
            confirm_timeout: rules.confirm_timeout,
            last_frame_at: Duration::ZERO,
            not_reading_since: None,
            blocked_since: None,
            unblocked_at: Duration::ZERO,
            storm: (Duration::ZERO, 0),
        }
    }

    /// The walsender sent something.
    pub(super) fn heard(&mut self, now: Duration) {
        self.last_frame_at = now;
    }

    /// The broker blocks the connection, or no longer does.
    pub(super) fn blocked(&mut self, now: Duration, is_blocked: bool) {
        if is_blocked {
            self.blocked_since.get_or_insert(now);
        } else {
            self.blocked_since = None;
            self.unblocked_at = now;
        }
    }

    /// The broker blocks the connection.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked_since.is_some()
    }

    /// A keepalive came, which `is_new` or repeats what the last one said.
    ///
    /// # Errors
    /// The server shuts down, and waits for us.
    pub(super) fn keepalive(
        &mut self,
        now: Duration,
        is_new: bool,
        is_reply_requested: bool,
    ) -> Result<(), End> {
        let (since, count) = &mut self.storm;
        if is_new || now.saturating_sub(*since) >= Duration::from_secs(1) {
            (*since, *count) = (now, 0);
        }
        *count += u32::from(is_reply_requested);
        if *count > STORM {
            let what = "Postgres is shutting down and waits for the relay: it is let go";
            return Err(Fault::of(Kind::Closed, Peer::Postgres, what).on(Side::Stream).into());
        }
        Ok(())
    }

    /// Whether the stream is read; and the oldest message in flight: since when, and whether it goes to a
    /// RabbitMQ stream.
    ///
    /// # Errors
    /// One of the servers kept us waiting for too long.
    pub(super) fn check(
        &mut self,
        now: Duration,
        is_reading: bool,
        oldest: Option<(Duration, bool)>,
    ) -> Result<(), End> {
        self.reads(now, is_reading);
        if self.silence_ends().is_some_and(|at| at <= now) {
            let what =
                format!("the walsender sent nothing for {}; connecting again", span(self.silence));
            return Err(Fault::of(Kind::Timeout, Peer::Postgres, what).on(Side::Stream).into());
        }
        if self.block_ends().is_some_and(|at| at <= now) {
            return Err(Fault::transient(format!(
                "RabbitMQ has blocked the connection for {}",
                span(self.blocked_timeout)
            ))
            .on(Side::Broker)
            .hint("clear its memory or disk alarm: rabbitmq-diagnostics alarms")
            .into());
        }
        let is_to_stream = oldest.is_some_and(|(_, is_to_stream)| is_to_stream);
        if self.confirm_ends(oldest.map(|(at, _)| at)).is_some_and(|at| at <= now) {
            return Err(Fault::transient(format!(
                "RabbitMQ has not confirmed a message for {}",
                span(self.confirm_timeout)
            ))
            .on(Side::Broker)
            .hint(if is_to_stream { STREAM_HINT } else { QUEUE_HINT })
            .into());
        }
        Ok(())
    }

    /// While the stream is not read nothing is heard, and that is no silence. What was silence before stays it: each
    /// event that is sent, and each try of a parked one, keeps the stream waiting for a moment.
    fn reads(&mut self, now: Duration, is_reading: bool) {
        match self.not_reading_since {
            Some(since) if is_reading => {
                let heard = self.last_frame_at + now.saturating_sub(since);
                self.last_frame_at = heard.min(now);
                self.not_reading_since = None;
            }
            None if !is_reading => self.not_reading_since = Some(now),
            _ => {}
        }
    }

    /// How long the walsender has said nothing, where that is longer than it ever takes: it is
    /// asked to answer several times within it.
    pub(super) fn silent(&self, now: Duration) -> Option<Duration> {
        let silent = now.saturating_sub(self.last_frame_at);
        let is_long = silent > self.silence * UNUSUAL.0 / UNUSUAL.1;
        (is_long && self.not_reading_since.is_none()).then_some(silent)
    }

    fn silence_ends(&self) -> Option<Duration> {
        self.not_reading_since.is_none().then(|| self.last_frame_at + self.silence)
    }

    fn block_ends(&self) -> Option<Duration> {
        self.blocked_since.map(|since| since + self.blocked_timeout)
    }

    fn confirm_ends(&self, oldest: Option<Duration>) -> Option<Duration> {
        match (self.blocked_since, oldest) {
            (None, Some(at)) => Some(at.max(self.unblocked_at) + self.confirm_timeout),
            _ => None,
        }
    }

    /// The next of the deadlines.
    pub(super) fn next(&self, oldest: Option<Duration>) -> Option<Duration> {
        let all = [self.silence_ends(), self.block_ends(), self.confirm_ends(oldest)];
        all.into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn deadlines() -> Deadlines {
        Deadlines {
            silence: 15 * SECOND,
            blocked_timeout: 60 * SECOND,
            confirm_timeout: 60 * SECOND,
            last_frame_at: Duration::ZERO,
            not_reading_since: None,
            blocked_since: None,
            unblocked_at: Duration::ZERO,
            storm: (Duration::ZERO, 0),
        }
    }

    /// A parked event is tried again each second: the stream waits for a moment each time.
    #[test]
    fn moments_without_reading_do_not_hide_a_silence() {
        let (mut deadlines, moment) = (deadlines(), SECOND / 100);
        let mut check = |now, is_reading| {
            let ended = deadlines.check(now, is_reading, None).is_err();
            (deadlines.silent(now).is_some(), ended)
        };
        let mut seen = (None, None);
        for second in 1..20 {
            let now = second * SECOND;
            check(now, false);
            let (is_silent, is_ended) = check(now + moment, true);
            seen.0 = seen.0.or(is_silent.then_some(second));
            seen.1 = seen.1.or(is_ended.then_some(second));
        }
        assert_eq!(seen, (Some(9), Some(16)));
    }

    #[test]
    fn what_is_not_read_is_no_silence() {
        let mut deadlines = deadlines();
        let mut is_well = |second: u32, is_reading| {
            let now = second * SECOND;
            deadlines.check(now, is_reading, None).is_ok() && deadlines.silent(now).is_none()
        };
        assert!(is_well(5, false) && is_well(100, false) && is_well(101, true));
        assert!(is_well(103, true), "seven seconds of silence");
        assert!(!is_well(105, true), "nine");
    }
}
