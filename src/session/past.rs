//! What outlives a session.

use std::collections::BTreeSet;

use postgres_types::PgLsn;

use super::readings::Readings;
use crate::config::Config;
use crate::core::relay::{LookedAhead, Memory};
use crate::otlp;
use crate::postgres::identity::Identity;
use crate::slot::{Coverage, KnownPartitions};
use crate::upkeep::reconcile::Trigger;

/// What outlives a session.
#[derive(Debug, Default)]
pub(crate) struct Past {
    pub(super) memory: Option<ServerMemory>,
    /// When the server of the last session was started, in microseconds since 1970.
    pub(super) started: Option<i64>,
    /// It was started since the session before.
    pub(super) is_started_anew: bool,
    pub(super) coverage: Option<Coverage>,
    /// Why the session ended in order, where another is to begin.
    pub(crate) renewal: Option<String>,
    /// What the last session has found that looked ahead, and when the server was started on which it did.
    pub(super) looked_ahead: Option<(i64, LookedAhead)>,
    /// Tables that were left out, or had another name than one of ours: what of them was in the stream is passed.
    pub(super) passed_over: BTreeSet<u32>,
    /// By what was read when the list was made, beside the slot, that this process made.
    pub(super) listed: Option<Readings>,
    /// Up to which transaction it was looked for tables that were written anew.
    pub(super) rewritten_since: Option<String>,
    /// Partitions that hold nothing that no stream brings.
    pub(super) looked: KnownPartitions,
    /// Failed sessions in a row that brought nothing on.
    pub failures: u32,
    /// Something was acknowledged in the last session, or it stood for longer than the longest
    /// pause, with all read and nothing to do. What it delivered does not count: it may be the same events
    /// again and again.
    pub(super) brought_on: bool,
    /// Internal errors of the walsender.
    pub(super) internal: SamePlace,
    /// The walsender of the last stream: the server may not have noticed yet that it is gone.
    pub(crate) walsender: Option<i32>,
    /// Has the outbox tables looked through for rows that were missed.
    pub reconcile: Option<Trigger>,
    /// Where spans go; `None` where nobody wants them.
    pub spans: Option<otlp::SpanQueue>,
    pub(super) warned: BTreeSet<String>,
}

/// Counts what happens again and again at one place of the stream.
#[derive(Debug, Default)]
pub(super) struct SamePlace {
    /// An LSN.
    reached: u64,
    times: u32,
}

impl SamePlace {
    /// It has happened where sessions had come so far; how often by now.
    pub(super) fn count(&mut self, reached: PgLsn) -> u32 {
        let reached = u64::from(reached);
        if reached > self.reached {
            *self = Self { reached, times: 0 };
        }
        self.times = self.times.saturating_add(1);
        self.times
    }
}

impl Past {
    /// How far a session has come on this server.
    pub(super) fn acknowledged(&self, identity: &Identity) -> PgLsn {
        let memory = self.memory.as_ref().filter(|it| it.identity == *identity);
        memory.map_or(PgLsn::from(0), |it| it.acknowledged)
    }

    /// Takes in which relations a session has passed over, until one is found to be a table of ours.
    pub(super) fn pass_over(&mut self, config: &Config, by_name: impl Iterator<Item = u32>) {
        if config.patterns.is_empty() {
            return;
        }
        self.passed_over.extend(by_name);
        for (relation, is_left_out) in config.found_relations() {
            match is_left_out {
                true => self.passed_over.insert(relation),
                false => self.passed_over.remove(&relation),
            };
        }
    }

    /// A session has failed; returns how many did in a row without bringing anything on, this
    /// one included.
    pub(crate) fn failed(&mut self) -> u32 {
        if std::mem::take(&mut self.brought_on) {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        self.failures
    }
}

/// What a session leaves to the next one on the same server.
#[derive(Debug, Clone)]
pub(super) struct ServerMemory {
    pub(super) identity: Identity,
    pub(super) memory: Memory,
    /// Places count messages.
    pub(super) has_messages: bool,
    /// Whose changes places count.
    pub(super) publication: String,
    /// What the progress row was known to say, on disk.
    pub(super) recorded: PgLsn,
    /// How far a session has come. The slot stands before it where the server ended the stream before it
    /// read so.
    pub(super) acknowledged: PgLsn,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_at_one_place_is_counted_until_sessions_come_further() {
        let mut seen = SamePlace::default();
        // A session that ends before anything is acknowledged has come no further.
        let steps = [(7, 1), (0, 2), (7, 3), (8, 1), (8, 2), (0, 3)];
        for (lsn, times) in steps {
            assert_eq!(seen.count(PgLsn::from(lsn)), times, "{lsn}");
        }
    }
}
