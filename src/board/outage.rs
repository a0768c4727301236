//! What keeps events from being delivered, from its first failure to its end. Sessions come and go
//! within it; it is over once something was acknowledged, or nothing waits for a while.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::error::{Fault, Kind, Side};

/// A fault that stays the same is logged again this often.
const REMINDER: Duration = Duration::from_secs(300);
/// Kinds of faults that are distinguished within one outage.
const KINDS: usize = 64;

/// How much of a failure is news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// The outage begins with it.
    First,
    /// Another fault than those of the outage so far.
    Other,
    /// The same for a while.
    Reminder,
    /// The same as shortly before.
    None,
}

/// What keeps events from being delivered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outage {
    /// What failed last.
    pub fault: Fault,
    /// When the first failure was.
    pub since: SystemTime,
    /// Failures so far.
    pub failures: u32,
    /// A session has come to run within it, and failed.
    has_run: bool,
    /// How long it had lasted when this process came to know of it.
    before: Duration,
    began: Instant,
    /// When each kind of fault was logged last.
    logged: BTreeMap<String, Instant>,
}

impl Outage {
    /// It began so long ago: an earlier process may have seen it first.
    pub(crate) fn new(fault: Fault, before: Duration) -> Self {
        let now = SystemTime::now();
        Self {
            fault,
            since: now.checked_sub(before).unwrap_or(now),
            failures: 0,
            has_run: false,
            before,
            began: Instant::now(),
            logged: BTreeMap::new(),
        }
    }

    /// How long it has lasted at `now`.
    pub(crate) fn lasted(&self, now: Instant) -> Duration {
        self.before + now.saturating_duration_since(self.began)
    }

    /// A session runs; whether an earlier one of the outage did.
    pub(crate) fn run(&mut self) -> bool {
        std::mem::replace(&mut self.has_run, true)
    }

    /// The fault of something that runs beside the sessions, on Postgres, is the one that they failed of
    /// last: said once is enough.
    pub(crate) fn is_of(&self, fault: &Fault) -> bool {
        let side = self.fault.side;
        side != Side::Broker && kind(&fault.clone().on(side)) == kind(&self.fault)
    }

    /// One failure more.
    pub(crate) fn fail(&mut self, fault: &Fault, now: Instant) -> News {
        self.fault = fault.clone();
        self.failures = self.failures.saturating_add(1);
        let kind = kind(fault);
        let news = match self.logged.get(&kind) {
            _ if self.logged.is_empty() => News::First,
            None => News::Other,
            Some(at) if now.saturating_duration_since(*at) >= REMINDER => News::Reminder,
            Some(_) => return News::None,
        };
        // Texts that are never the same twice must not grow without end.
        if self.logged.len() >= KINDS {
            self.logged.clear();
        }
        self.logged.insert(kind, now);
        news
    }
}

/// A server that goes away shows in many ways. Faults without a code differ by pids, LSNs and ids.
fn kind(fault: &Fault) -> String {
    let (class, side) = (fault.class, fault.side);
    match fault.kind {
        Kind::Io(_) | Kind::Closed | Kind::Timeout => format!("{class:?} {side:?} unreachable"),
        Kind::Own => {
            let words = fault.what.split(|c: char| !c.is_alphabetic());
            let words: Vec<_> = words.filter(|word| word.len() > 2).collect();
            format!("{class:?} {side:?} {}", words.join(" "))
        }
        kind => format!("{class:?} {side:?} {kind:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Peer, SqlState};

    #[test]
    fn the_same_fault_is_news_once_in_a_while() {
        let mut outage = Outage::new(Fault::transient("down"), Duration::ZERO);
        let start = Instant::now();
        let other = Fault::transient("the password is wrong");
        let at = |secs| start + Duration::from_secs(secs);
        let steps = [
            ("down (pid 7)", 0, News::First),
            ("down (pid 18)", 1, News::None),
            (other.what.as_str(), 2, News::Other),
            ("down (pid 18)", 3, News::None),
            (other.what.as_str(), 4, News::None),
            ("down (pid 18)", 299, News::None),
            ("down (pid 18)", 300, News::Reminder),
            ("down (pid 19)", 301, News::None),
        ];
        for (what, secs, news) in steps {
            assert_eq!(outage.fail(&Fault::transient(what), at(secs)), news, "{what} at {secs}");
        }
        assert_eq!(outage.failures, 8);
        assert_eq!(outage.fault.what, "down (pid 19)");
    }

    #[test]
    fn what_runs_beside_the_sessions_fails_of_the_same() {
        let of = |kind, what| Fault::of(kind, Peer::Postgres, what);
        let sql = |code| Kind::Sql(SqlState::new(code));
        let login = of(sql("28P01"), "password authentication failed").on(Side::Stream);
        let outage = Outage::new(login, Duration::ZERO);
        assert!(outage.is_of(&of(sql("28P01"), "Postgres: password authentication failed")));
        assert!(!outage.is_of(&of(sql("42501"), "permission denied")));
        let outage = Outage::new(of(Kind::Closed, "closed").on(Side::Stream), Duration::ZERO);
        assert!(outage.is_of(&of(Kind::Timeout, "no answer")));
        let broker = Fault::of(Kind::Closed, Peer::RabbitMq, "closed").on(Side::Broker);
        let outage = Outage::new(broker, Duration::ZERO);
        assert!(!outage.is_of(&of(Kind::Closed, "closed")), "that is another server");
    }

    #[test]
    fn it_lasts_since_its_first_failure_whoever_saw_it() {
        let minute = Duration::from_secs(60);
        let outage = Outage::new(Fault::transient("down"), minute);
        assert_eq!(outage.lasted(outage.began + minute), 2 * minute);
        assert!(SystemTime::now().duration_since(outage.since).unwrap() >= minute);
    }

    #[test]
    fn texts_without_end_take_a_bounded_room() {
        let mut outage = Outage::new(Fault::transient("down"), Duration::ZERO);
        for n in 0..10 * KINDS {
            outage.fail(&Fault::transient("z".repeat(n)), Instant::now());
        }
        assert!(outage.logged.len() <= KINDS);
    }
}
