//! All of it in a line, with the code that `/readyz` and metrics have for it: one state has one name everywhere.

use serde_json::{Value, json};

use super::{Facts, UnmarkedRows, has_events, no_relay};

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    /// Events get through.
    Good,
    /// They do, or nobody wants them to; worth a look.
    Warning,
    /// They do not.
    Bad,
}

impl Mood {
    /// Its word, and what a terminal shows it in.
    pub(super) fn shown(self) -> (&'static str, &'static str) {
        match self {
            Self::Good => ("ok", "\x1b[32m"),
            Self::Warning => ("warning", "\x1b[33m"),
            Self::Bad => ("down", "\x1b[1;31m"),
        }
    }
}

/// All of it in a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) mood: Mood,
    /// For programs: the code of `/readyz` where there is one.
    code: String,
    what: String,
}

impl Summary {
    fn new(mood: Mood, code: &str, what: impl Into<String>) -> Self {
        Self { mood, code: code.to_owned(), what: what.into() }
    }

    /// The most severe of what is known.
    pub(super) fn of(facts: &Facts, unmarked: &[UnmarkedRows]) -> Self {
        let bad = |code: &str, what: String| Self::new(Mood::Bad, code, what);
        let Some(slot) = &facts.slot else {
            return bad("slot_missing", "the slot does not exist".to_owned());
        };
        if let Some(why) = slot.why_lost() {
            return bad("slot_lost", format!("the slot is lost: {why}"));
        }
        if let Some((code, what)) = facts.live.first("/reasons") {
            return bad(code, what.to_owned());
        }
        // What the process that runs here says is newer.
        let recorded = facts.progress.as_ref().filter(|_| !facts.live.is_told());
        if let Some((what, _)) = recorded.and_then(|progress| progress.stuck()) {
            return bad("fault", what);
        }
        if let Some(lag) = facts.unread().filter(|_| has_events(unmarked)) {
            return bad("no_relay", no_relay(lag));
        }
        Self::good(facts)
    }

    fn good(facts: &Facts) -> Self {
        let warning = |code: &str, what: String| Self::new(Mood::Warning, code, what);
        let text = |of: &Value, key: &str| {
            of.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        if let Some(paused) = &facts.paused {
            return warning("paused", format!("paused by {}", text(paused, "by")));
        }
        if let Some((code, what)) = facts.live.first("/degraded") {
            return warning(code, what.to_owned());
        }
        if facts.catch_up.is_some() {
            return warning(
                "catching_up",
                "rows that the slot does not hold are published".to_owned(),
            );
        }
        let parked: i64 = facts.parked.iter().map(|parked| parked.events).sum();
        if parked > 0 {
            return warning(
                "parked",
                format!("{parked} events could not be delivered, or wait behind such"),
            );
        }
        let told = facts.live.json();
        let state = text(&told, "state");
        match (state.as_str(), facts.slot.as_ref().is_some_and(|slot| slot.is_active)) {
            ("", true) => Self::new(Mood::Good, "running", "a relay reads the slot"),
            ("", false) => Self::new(Mood::Good, "idle", "no relay runs, and no event waits"),
            (state, _) => Self::new(Mood::Good, state, text(&told, "why")),
        }
    }

    /// As a line.
    pub(super) fn line(&self) -> String {
        format!("{:<10}{}: {}", self.mood.shown().0, self.code, self.what)
    }

    pub(super) fn json(&self) -> Value {
        json!({ "mood": self.mood.shown().0, "code": self.code, "what": self.what })
    }
}
