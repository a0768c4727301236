//! All of it in a line, with the code that `/readyz` and metrics have for it: one state has one name everywhere.

use serde_json::{Value, json};

use crate::error::Fault;
use crate::operator::OPEN;
use crate::slot::cause;

use super::live::Live;
use super::{Facts, Mood, UnmarkedRows, has_events, no_relay};

/// All of it in a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) mood: Mood,
    /// For programs: the code of `/readyz` where there is one.
    code: String,
    /// Which fault it is, as `check` calls it; empty where the code says it.
    cause: String,
    what: String,
}

impl Summary {
    fn new(mood: Mood, code: &str, what: impl Into<String>) -> Self {
        Self { mood, code: code.to_owned(), cause: String::new(), what: what.into() }
    }

    fn by(mut self, cause: &str) -> Self {
        cause.clone_into(&mut self.cause);
        self
    }

    /// The most severe of what is known.
    pub(super) fn of(facts: &Facts, unmarked: &[UnmarkedRows]) -> Self {
        let bad = |code: &str, what: String| Self::new(Mood::Bad, code, what);
        // What the process that runs here says comes first: it knows why there is no slot.
        if let Some(reason) = facts.live.first("/reasons") {
            return bad(reason.code, reason.what.to_owned()).by(reason.cause);
        }
        let Some(slot) = &facts.slot else {
            return bad("slot_missing", "the slot does not exist".to_owned());
        };
        if let Some(why) = slot.why_lost() {
            return bad("slot_lost", facts.loss.what(Some(why)));
        }
        if let Some(fault) = &facts.taken {
            return bad("fault", fault.what.clone()).by(cause(fault));
        }
        // What the process that runs here says is newer.
        let recorded = facts.progress.as_ref().filter(|_| !facts.live.is_told());
        if let Some((progress, (what, _))) = recorded.and_then(|it| Some((it, it.stuck()?))) {
            return bad("fault", what).by(progress.cause());
        }
        if let Some(lag) = facts.unread().filter(|_| has_events(unmarked)) {
            return bad("no_relay", no_relay(lag));
        }
        Self::good(facts)
    }

    /// By what a process says, where Postgres cannot be asked.
    pub(super) fn alone(live: &Live, fault: &Fault) -> Self {
        match live.first("/reasons") {
            Some(reason) => Self::new(Mood::Bad, reason.code, reason.what).by(reason.cause),
            None => Self::new(Mood::Bad, "fault", fault.what.as_str()).by(cause(fault)),
        }
    }

    fn good(facts: &Facts) -> Self {
        let warning = |code: &str, what: String| Self::new(Mood::Warning, code, what);
        let text = |of: &Value, key: &str| {
            of.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        if let Some(paused) = &facts.paused {
            return warning("paused", format!("paused by {}", text(paused, "by")));
        }
        if let Some(reason) = facts.live.first("/degraded") {
            return warning(reason.code, reason.what.to_owned()).by(reason.cause);
        }
        if facts.catch_up.is_some() {
            return warning(
                "catching_up",
                "rows that the slot does not hold are published".to_owned(),
            );
        }
        // By the code of `/readyz`. What was discarded is done with.
        let open = |is_failed: bool| {
            let those = facts.parked.iter().filter(|parked| OPEN.contains(&parked.state.as_str()));
            let those = those.filter(|parked| (parked.state == "failed") == is_failed);
            those.map(|parked| parked.events).sum::<i64>()
        };
        let (failed, parked) = (open(true), open(false));
        if failed > 0 {
            let what = format!("parked events that have used up their tries: {failed}");
            return warning("failed_events", what);
        }
        if parked > 0 {
            let what = format!("parked events that are tried again: {parked}");
            return warning("parked_events", what);
        }
        if let Some(other) = facts.unread_slots.first() {
            return warning("slot_unread_other", other.what()).by("slot-unread-other");
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
        let cause = if self.cause.is_empty() { "" } else { ", " };
        format!("{:<10}{}{cause}{}: {}", self.mood.word(), self.code, self.cause, self.what)
    }

    pub(super) fn json(&self) -> Value {
        json!({ "mood": self.mood.word(), "code": self.code, "cause": Some(&self.cause).filter(|cause| !cause.is_empty()), "what": self.what })
    }
}
