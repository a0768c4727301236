//! The deadlines of the servers.

use std::time::Duration;

use postgres_types::PgLsn;

use super::{End, Relay};
use crate::error::{Fault, Kind, Peer, Side};
use crate::text::span;

/// Keepalives that ask for a reply and bring no WAL, in one second, that mean a server which
/// waits for us to let it shut down (`walsender.c`, `WalSndDone`).
const STORM: u32 = 20;

/// Which part of the silence that ends a session is told.
const UNUSUAL: (u32, u32) = (8, 15);

/// When something was last heard of the servers.
#[derive(Debug, Default)]
pub(super) struct Watch {
    last_frame_at: Duration,
    was_not_reading: bool,
    blocked_since: Option<Duration>,
    unblocked_at: Duration,
    storm: (Duration, u32),
}

impl Watch {
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
}

impl Relay {
    pub(super) fn keepalive(
        &mut self,
        now: Duration,
        wal_end: PgLsn,
        is_reply_requested: bool,
    ) -> Result<(), End> {
        let is_new = wal_end > self.progress.received_lsn();
        self.progress.barrier(wal_end, self.checks_begun + 1);
        let (since, count) = &mut self.watch.storm;
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

    /// Whether one of the servers kept us waiting for too long.
    pub(super) fn watch(&mut self, now: Duration) -> Result<(), End> {
        let is_reading = self.is_reading();
        if is_reading && self.watch.was_not_reading {
            self.watch.last_frame_at = now;
        }
        self.watch.was_not_reading = !is_reading;
        if self.silence_ends().is_some_and(|at| at <= now) {
            let what = format!(
                "the walsender sent nothing for {}; connecting again",
                span(self.rules.silence)
            );
            return Err(Fault::of(Kind::Timeout, Peer::Postgres, what).on(Side::Stream).into());
        }
        if self.block_ends().is_some_and(|at| at <= now) {
            return Err(Fault::transient(format!(
                "RabbitMQ has blocked the connection for {}",
                span(self.rules.blocked_timeout)
            ))
            .on(Side::Broker)
            .hint("clear its memory or disk alarm: rabbitmq-diagnostics alarms")
            .into());
        }
        if self.confirm_ends().is_some_and(|at| at <= now) {
            return Err(Fault::transient(format!(
                "RabbitMQ has not confirmed a message for {}",
                span(self.rules.confirm_timeout)
            ))
            .on(Side::Broker)
            .hint("look at the queues behind the exchange: a quorum queue without a majority confirms nothing")
            .into());
        }
        Ok(())
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.watch.blocked_since.is_some()
    }

    /// How long the walsender has said nothing, where that is longer than it ever takes: it is
    /// asked to answer several times within it.
    pub(super) fn silent(&self, now: Duration) -> Option<Duration> {
        let silent = now.saturating_sub(self.watch.last_frame_at);
        let is_long = silent > self.rules.silence * UNUSUAL.0 / UNUSUAL.1;
        (is_long && !self.watch.was_not_reading).then_some(silent)
    }

    fn silence_ends(&self) -> Option<Duration> {
        (!self.watch.was_not_reading).then(|| self.watch.last_frame_at + self.rules.silence)
    }

    fn block_ends(&self) -> Option<Duration> {
        self.watch.blocked_since.map(|since| since + self.rules.blocked_timeout)
    }

    fn confirm_ends(&self) -> Option<Duration> {
        match (self.watch.blocked_since, self.window.front()) {
            (None, Some(front)) => {
                Some(front.at.max(self.watch.unblocked_at) + self.rules.confirm_timeout)
            }
            _ => None,
        }
    }

    /// The next of the deadlines.
    pub(super) fn next_watch(&self) -> Option<Duration> {
        let all = [self.silence_ends(), self.block_ends(), self.confirm_ends()];
        all.into_iter().flatten().min()
    }
}
