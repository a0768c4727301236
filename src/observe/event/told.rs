//! What was found, in words and as JSON.

use std::time::Duration;

use serde_json::{Value, json};

use super::{EventState, EventTrace, RowTrace, TraceReport};
use crate::core::event::POSTGRES_EPOCH_MICROS;
use crate::core::relay::{HeldEvent, Stand};
use crate::operator::{ParkedEvent, shown};
use crate::text::{span, span_seconds};

impl EventTrace {
    /// What becomes of it, in a sentence.
    pub(crate) fn about(&self) -> String {
        let record = self.record.as_ref();
        match self.state {
            EventState::Delivered => {
                let at = self.row.as_ref().and_then(|row| row.marked_at.as_ref());
                at.map_or_else(|| "its row is marked".to_owned(), |at| format!("marked at {at}"))
            }
            EventState::Unmarked => "delivered; its mark is still to be written".to_owned(),
            EventState::InFlight => in_flight(self.held.as_ref()),
            EventState::Waiting => waiting(self.held.as_ref()),
            EventState::Parked | EventState::Failed => record.map_or_else(String::new, tried),
            EventState::Queued => "waits behind a parked event of its aggregate".to_owned(),
            EventState::DeadLettered => "refused, and sent to the dead-letter exchange".to_owned(),
            EventState::Discarded => record.map_or_else(String::new, discarded),
            EventState::LeftOut => {
                "left out: the publication's row filter or the table's rule does not let it pass".to_owned()
            }
            EventState::Missing => {
                "missing: the slot has passed it, and it is neither marked nor parked. pgoutbox replay --only unrelayed --mark sends it".to_owned()
            }
            EventState::Passed => {
                "the slot has passed it and it is not parked, so it was settled; audit.mode is none, and says no more".to_owned()
            }
        }
    }

    /// Where its commit record starts, and its number in that transaction.
    pub(crate) fn position(&self) -> Option<String> {
        let held = self.held.as_ref().map(|held| held.position.clone());
        held.or_else(|| self.record.as_ref().map(|record| record.position.to_string()))
    }

    /// When it was committed, where anybody knows.
    pub(crate) fn committed_at(&self) -> Option<String> {
        let row = self.row.as_ref().and_then(|row| row.committed_at.clone());
        let held = || self.held.as_ref().map(|held| held.commit_micros);
        let record = || self.record.as_ref().map(|record| record.commit_time);
        row.or_else(|| time(record().or_else(held)?))
    }

    /// Exchange and routing key.
    pub(crate) fn destination(&self) -> Option<(String, String)> {
        if let Some(Ok(message)) = &self.message {
            return Some((message.exchange().to_owned(), message.routing_key().to_owned()));
        }
        let held = self.held.as_ref()?;
        Some((held.exchange.clone()?, held.routing_key.clone()?))
    }

    fn json(&self) -> Value {
        let message = self.message.as_ref().map(|message| match message {
            Ok(message) => {
                let mut all = shown::json(message);
                all.insert("body_bytes".to_owned(), json!(message.body.len()));
                Value::Object(all)
            }
            Err(refusal) => json!({ "why_not": refusal.to_string(), "hint": refusal.hint() }),
        });
        let (exchange, routing_key) = self.destination().unzip();
        json!({
            "event_id": self.id,
            "table": self.table,
            "aggregate": self.aggregate,
            "state": self.state.name(),
            "what": self.about(),
            "commit": self.position(),
            "committed_at": self.committed_at(),
            "exchange": exchange,
            "routing_key": routing_key,
            "row": self.row.as_ref().map(row),
            "parked": self.record.as_ref().map(record),
            "tries": self.tries,
            "relay": self.held,
            "message": message,
        })
    }
}

impl TraceReport {
    /// As JSON.
    pub(crate) fn json(&self) -> Value {
        let unknown = self.unknown.iter().map(|(id, what)| json!({ "event_id": id, "what": what }));
        json!({
            "events": self.events.iter().map(EventTrace::json).collect::<Vec<_>>(),
            "has_more": self.has_more,
            "unknown": unknown.collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }
}

fn row(row: &RowTrace) -> Value {
    json!({
        "occurred_at": row.occurred_at,
        "is_marked": row.is_marked,
        "marked_at": row.marked_at,
        "is_published": row.is_published,
        "is_passed": row.is_passed,
    })
}

fn record(record: &ParkedEvent) -> Value {
    json!({
        "seq": record.seq,
        "state": record.state,
        "attempts": record.attempts,
        "next_attempt_in_seconds": record.next_in_seconds,
        "reason": record.reason,
        "last_error": record.last_error,
        "hint": record.hint,
        "parked_at": record.parked_at,
        "waiting_behind_it": record.followers,
        "changed_at": record.changed_at,
        "changed_by": record.changed_by,
        "note": record.note,
    })
}

fn in_flight(held: Option<&HeldEvent>) -> String {
    let Some(held) = held else { return "in flight".to_owned() };
    let lasted = held.for_seconds.and_then(|it| Duration::try_from_secs_f64(it).ok());
    let lasted = lasted.map_or_else(String::new, |it| format!(" for {}", span(it)));
    match held.is_dead_letter {
        true => format!("its dead letter is published, and not confirmed{lasted}"),
        false => format!("published, and not confirmed{lasted}"),
    }
}

fn waiting(held: Option<&HeldEvent>) -> String {
    let what = match held.map(|held| held.stand) {
        Some(Stand::Behind) => "waits for an older event of its aggregate",
        Some(Stand::OnTrial) => {
            "was refused, and the next events are to tell whether the fault is its own"
        }
        Some(_) => "was received, and waits for its turn to be published",
        None => "committed, and waits in the WAL: the relay has not come to it",
    };
    what.to_owned()
}

fn tried(record: &ParkedEvent) -> String {
    let tries = if record.attempts == 1 { "1 try" } else { &format!("{} tries", record.attempts) };
    let reason = record.reason.as_deref().unwrap_or("refused");
    match (record.state.as_str(), record.next_in_seconds) {
        ("failed", _) => {
            format!("{reason}, {tries}: it is tried no more until pgoutbox parked retry")
        }
        (_, Some(next)) if next > 0.0 => {
            format!("{reason}, {tries}, the next in {}", span_seconds(next))
        }
        _ => format!("{reason}, {tries}, the next is due"),
    }
}

fn discarded(record: &ParkedEvent) -> String {
    let by = record.changed_by.as_deref().unwrap_or("somebody");
    let note = record.note.as_ref().map_or_else(String::new, |note| format!(": {note}"));
    format!("discarded by {by} at {}{note}", record.changed_at)
}

/// Of microseconds since 2000; 0 is no time.
fn time(micros: i64) -> Option<String> {
    if micros == 0 {
        return None;
    }
    let at = micros.checked_add(POSTGRES_EPOCH_MICROS)?;
    let at = jiff::Timestamp::from_microsecond(at).ok()?;
    Some(at.round(jiff::Unit::Millisecond).ok()?.to_string())
}
