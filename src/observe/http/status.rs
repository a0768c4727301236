//! The board as JSON. Names are stable, times are RFC 3339 in UTC or ages in seconds. No
//! secrets, no payloads, no ids of events.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::ready::{Readiness, list};
use crate::board::snapshot::Snapshot;
use crate::board::{CatchUpView, Change, ParkedView, SlotView};
use crate::core::guard::Bound;
use crate::core::relay::View;
use crate::core::tally::{Histogram, Tally};
use crate::rabbitmq::stream::StreamView;
use crate::slot::cause;

/// The kind of a destination that is a stream.
const STREAM: &str = "stream";

/// All of it; `recent` is what was done in the last seconds.
pub(super) fn json(snapshot: &Snapshot, recent: Value) -> Value {
    let shown = &snapshot.shown;
    let seen = shown.seen.as_ref().map(|(_, seen)| seen);
    let ready = Readiness::of(snapshot);
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "slot_name": snapshot.facts.slot,
        "began_at": time(shown.began),
        "state": shown.state.name(),
        "state_seconds": seconds(snapshot.state_for),
        "why": shown.why,
        "is_ready": ready.is_ready(),
        "reasons": list(&ready.reasons, true),
        "degraded": list(&ready.degraded, true),
        "fault": shown.outage.as_ref().map(|outage| json!({
            "since": time(outage.since),
            "lasted_seconds": snapshot.outage_for.map(seconds),
            "failures": outage.failures,
            "cause": cause(&outage.fault),
            "what": outage.fault.what,
            "hint": outage.fault.hint,
        })),
        "again_in_seconds": snapshot.again_in.map(seconds),
        "recent": recent,
        "events": tally(&shown.tally),
        "tables": tables(snapshot),
        "destinations": destinations(snapshot),
        "commit_to_publish": latency(&shown.tally.to_publish),
        "commit_to_confirm": latency(&shown.tally.to_confirm),
        "relay": shown.view.as_ref().map(|view| relay(snapshot, view)),
        "window": {
            "limit_messages": snapshot.facts.window_messages,
            "limit_bytes": snapshot.facts.window_bytes,
        },
        "sessions": {
            "begun": shown.sessions,
            "ended": shown.ends.iter().map(|(reason, count)| (reason.name(), *count))
                .collect::<std::collections::BTreeMap<_, _>>(),
        },
        "catch_up": shown.catch_up.as_ref().map(catch_up),
        "seen_seconds_ago": snapshot.seen_ago.map(seconds),
        "slot": seen.map(|seen| slot(&seen.slot)),
        "parked": seen.map(|seen| seen.parked.iter().map(parked).collect::<Vec<_>>()),
        "held_aggregates": seen.map(|seen| seen.held_aggregates),
        "changes": shown.changes.iter().map(change).collect::<Vec<_>>(),
    })
}

/// By table, what this session has done; null where none runs.
fn tables(snapshot: &Snapshot) -> Value {
    let Some(view) = &snapshot.shown.view else { return Value::Null };
    // Those that match a pattern go where it says, which may depend on the table.
    let to = |table: &String| {
        let mut named = snapshot.facts.tables.iter();
        named.find(|(it, _)| it == table).map_or("", |(_, to)| to.as_str())
    };
    let told = view.by_source.iter().zip(&view.tables).map(|((table, _), tally)| {
        let to = to(table);
        json!({
            "table": table,
            "to": to,
            "delivered": tally.delivered,
            "commit_to_confirm": latency(&tally.to_confirm),
        })
    });
    told.collect()
}

/// By where its events went, what this session has done; null where none runs.
fn destinations(snapshot: &Snapshot) -> Value {
    let Some(view) = &snapshot.shown.view else { return Value::Null };
    let stream = |name: &str| {
        let mut streams = snapshot.shown.streams.iter();
        streams.find(|it| *it.stream == *name).map(connection)
    };
    let told = view.by_destination.iter().map(|(title, tally)| {
        let (kind, name) = title.split_once(':').unwrap_or((title, ""));
        json!({
            "kind": kind,
            "name": name,
            "delivered": tally.delivered,
            "parked": tally.parked,
            "commit_to_confirm": latency(&tally.to_confirm),
            "stream": stream(name).filter(|_| kind == STREAM),
        })
    });
    let is_met = |it: &&StreamView| {
        let title = format!("{STREAM}:{}", it.stream);
        view.by_destination.iter().any(|(met, _)| *met == title)
    };
    // One that is connected to is seen before the first event.
    let quiet = snapshot.shown.streams.iter().filter(|it| !is_met(it)).map(|it| {
        json!({
            "kind": STREAM,
            "name": *it.stream,
            "delivered": 0,
            "parked": 0,
            "commit_to_confirm": latency(&Histogram::default()),
            "stream": connection(it),
        })
    });
    told.chain(quiet).collect()
}

/// The connection to a stream. Ids are texts: a program may have no integer that is large enough.
fn connection(it: &StreamView) -> Value {
    json!({
        "leader": it.leader,
        "in_flight": it.in_flight,
        "publisher": it.name,
        "sent_id": it.sent_id.to_string(),
        "confirmed_id": it.confirmed_id.to_string(),
        "is_watched": it.is_watched,
        "has_forgotten": it.has_forgotten,
    })
}

fn catch_up(view: &CatchUpView) -> Value {
    let pace = view.pace();
    json!({
        "rows": view.total,
        "done": view.done,
        "per_second": pace.map(|(rate, _)| (rate * 10.0).round() / 10.0),
        "left_seconds": pace.map(|(_, left)| left.as_secs()),
    })
}

fn tally(tally: &Tally) -> Value {
    json!({
        "published": tally.published,
        "delivered": tally.delivered,
        "delivered_before": tally.repeated,
        "came_marked": tally.came_marked,
        "left_out": tally.left_out,
        "returned": tally.returned,
        "nacked": tally.nacked,
        "closed": tally.closed,
        "unreadable": tally.unreadable,
        "parked": tally.parked,
        "queued": tally.queued,
        "retried": tally.retried,
        "dead_lettered": tally.dead_lettered,
        "marked": tally.marked,
        "marks_given_up": tally.unmarked,
        "ignored": tally.ignored,
        "not_transactional": tally.not_transactional,
    })
}

fn latency(histogram: &Histogram) -> Value {
    json!({
        "count": histogram.count(),
        "p50_seconds": histogram.quantile(0.5),
        "p99_seconds": histogram.quantile(0.99),
    })
}

fn relay(snapshot: &Snapshot, view: &View) -> Value {
    json!({
        "answered_seconds_ago": snapshot.viewed_ago.map(seconds),
        "window_messages": view.window_messages,
        "window_size": view.window_size,
        "window_bytes": view.window_bytes,
        "waiting": view.waiting,
        "unsettled_seconds": snapshot.unsettled.filter(|age| !age.is_zero()).map(seconds),
        "stalled_seconds": seconds(snapshot.stalled_for),
        "lanes": view.lanes,
        "marks_pending": view.marks_pending,
        "waits_for": view.waits_for.map(|what| what.to_string()),
        "is_blocked": view.is_blocked,
        "walsender_silent_seconds": view.silent.map(seconds),
        "received_lsn": view.received_lsn.to_string(),
        "acknowledged_lsn": view.acknowledged_lsn.to_string(),
    })
}

fn slot(slot: &SlotView) -> Value {
    let room = slot.verdict.and_then(|verdict| verdict.room);
    json!({
        "wal_status": slot.wal_status.as_deref().unwrap_or("missing"),
        "is_active": slot.is_active,
        "retained_wal_bytes": slot.retained_bytes,
        "confirmed_lag_bytes": slot.confirmed_lag_bytes,
        "safe_wal_bytes": slot.safe_bytes,
        "spilled_bytes": slot.spilled_bytes,
        "guard": slot.level().to_string(),
        "growth_bytes_per_second": slot.verdict.map(|verdict| verdict.growth.round()),
        "full_in_seconds": slot.verdict.and_then(|verdict| verdict.full_in).map(seconds),
        "limit": room.map(|room| match room.bound {
            Bound::Slot => "max_slot_wal_keep_size",
            Bound::Disk => "guard.disk_limit",
        }),
        "used_percent": room.map(|room| (room.percent * 10.0).round() / 10.0),
        "left_bytes": room.map(|room| room.left),
        "is_held": slot.verdict.map(|verdict| verdict.is_held),
    })
}

fn parked(parked: &ParkedView) -> Value {
    json!({
        "state": parked.state,
        "reason": parked.reason,
        "events": parked.events,
        "oldest_seconds": parked.oldest_seconds,
    })
}

fn change(change: &Change) -> Value {
    json!({
        "at": time(change.at),
        "state": change.state.name(),
        "what": change.what,
        "hint": change.hint,
    })
}

/// To a millisecond: more is noise.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e3).round() / 1e3
}

fn time(at: SystemTime) -> Value {
    match jiff::Timestamp::try_from(at).and_then(|at| at.round(jiff::Unit::Millisecond)) {
        Ok(at) => json!(at.to_string()),
        Err(_) => Value::Null,
    }
}
