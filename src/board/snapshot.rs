//! The board at one moment, with ages instead of clock readings, so that what is made of it
//! needs no clock.

use std::time::Duration;

use tokio::time::Instant;

use crate::board::BoardContent;
use crate::config::{Config, Table};
use crate::slot::Loss;

/// What a configuration says, as long as it is in force.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// The slot's name.
    pub slot: String,
    /// What it means where the slot is lost.
    pub loss: Loss,
    /// Most messages in flight.
    pub window_messages: usize,
    /// Most bytes in flight.
    pub window_bytes: usize,
    /// Tables and prefixes of messages, each with the exchange, its template or the stream that it goes to.
    pub tables: Vec<(String, String)>,
}

impl Facts {
    /// Of a configuration.
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            slot: config.postgres.slot.clone(),
            loss: Loss::of(config),
            window_messages: config.window.messages,
            window_bytes: config.window.bytes,
            tables: config.sources().map(table).collect(),
        }
    }
}

fn table(table: &Table) -> (String, String) {
    let to = match &table.stream {
        Some(stream) => format!("stream {}", stream.name),
        None => table.exchange.to_string(),
    };
    (table.title(), to)
}

/// The board at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    /// What the configuration in force says.
    pub facts: Facts,
    /// What the board shows.
    pub shown: BoardContent,
    /// How long the state has held.
    pub state_for: Duration,
    /// How long ago the loop answered.
    pub viewed_ago: Option<Duration>,
    /// How long ago Postgres was looked at.
    pub seen_ago: Option<Duration>,
    /// How long the outage has lasted.
    pub outage_for: Option<Duration>,
    /// Age of the oldest event taken in and not settled, through the failed sessions of an outage.
    pub unsettled: Option<Duration>,
    /// How long until a failed session is tried again.
    pub again_in: Option<Duration>,
    /// How long events have waited while none was settled.
    pub stalled_for: Duration,
}

impl Snapshot {
    /// The board as it was shown, at `now`.
    pub(crate) fn new(facts: Facts, shown: BoardContent, now: Instant) -> Self {
        let ago = |at: Instant| now.saturating_duration_since(at);
        let left = shown.left_unsettled.filter(|_| shown.outage.is_some());
        let left = left.map(|(at, age)| age + ago(at));
        let taken_in = shown.view.as_ref().map(|view| view.unsettled.unwrap_or_default());
        Self {
            outage_for: shown.outage.as_ref().map(|outage| outage.lasted(now)),
            unsettled: taken_in.max(left),
            state_for: ago(shown.since),
            viewed_ago: shown.viewed_at.map(ago),
            seen_ago: shown.seen.as_ref().map(|(at, _)| ago(*at)),
            again_in: shown.again_at.map(|at| at.saturating_duration_since(now)),
            stalled_for: Duration::ZERO,
            facts,
            shown,
        }
    }

    /// Events that have come to an end of some kind, in all sessions.
    pub(crate) fn settled(&self) -> u64 {
        let tally = &self.shown.tally;
        tally.delivered
            + tally.repeated
            + tally.came_marked
            + tally.left_out
            + tally.parked
            + tally.queued
            + tally.dead_lettered
            + tally.retried
    }

    /// Events are taken in and not settled.
    pub(crate) fn is_waiting(&self) -> bool {
        self.shown.view.as_ref().is_some_and(|view| view.window_messages + view.waiting > 0)
    }
}

/// Tells for how long events have waited while none was settled.
#[derive(Debug, Default)]
pub(crate) struct Stall {
    settled: u64,
    since: Option<Duration>,
}

impl Stall {
    /// Takes in what was seen at `now`, which never runs backwards.
    pub(crate) fn observe(&mut self, now: Duration, settled: u64, is_waiting: bool) -> Duration {
        if !is_waiting || settled != self.settled {
            self.settled = settled;
            self.since = None;
        }
        if !is_waiting {
            return Duration::ZERO;
        }
        now.saturating_sub(*self.since.get_or_insert(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn readings_of_the_clock_become_ages() {
        let mut shown = crate::board::Board::new().shown();
        let began = shown.since;
        (shown.viewed_at, shown.again_at) = (Some(began + secs(2)), Some(began + secs(9)));
        shown.tally.delivered = 3;
        shown.tally.parked = 4;
        let facts = Facts { window_messages: 1, window_bytes: 1, ..Facts::default() };
        let snapshot = Snapshot::new(facts, shown, began + secs(5));
        assert_eq!(snapshot.state_for, secs(5));
        assert_eq!(snapshot.viewed_ago, Some(secs(3)));
        assert_eq!(snapshot.again_in, Some(secs(4)));
        assert_eq!((snapshot.seen_ago, snapshot.settled()), (None, 7));
        assert!(!snapshot.is_waiting(), "no session");
    }

    #[test]
    fn only_events_that_wait_stall() {
        let mut stall = Stall::default();
        assert_eq!(stall.observe(secs(0), 0, false), secs(0));
        assert_eq!(stall.observe(secs(100), 0, true), secs(0), "they have only just come");
        assert_eq!(stall.observe(secs(110), 0, true), secs(10));
        assert_eq!(stall.observe(secs(111), 1, true), secs(0), "one was settled");
        assert_eq!(stall.observe(secs(141), 1, true), secs(30));
        assert_eq!(stall.observe(secs(142), 1, false), secs(0));
        assert_eq!(stall.observe(secs(150), 1, true), secs(0), "others");
    }
}
