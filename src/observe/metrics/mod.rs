//! Every metric, as data: one row each, with how it is read off a snapshot. What `/metrics`
//! answers and `docs/observability.md` both follow from [`METRICS`].
//!
//! The format is written by [`encode`], not by a client library: those keep counters that code
//! raises, while here a snapshot is given. `prometheus-client` could encode one, but speaks
//! OpenMetrics only, whose counters `promtool check metrics` takes for misnamed.

mod encode;
mod process;

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

pub use encode::MetricKind;
pub(crate) use encode::Samples;
pub(crate) use process::Process;

use crate::board::snapshot::Snapshot;
use crate::board::{EndReason, RelayState, ServerView};
use crate::core::guard::Level;
use crate::core::relay::View;
use crate::observe::http::ready::{CODES, Readiness};

/// What metrics are read off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures<'a> {
    /// The board.
    pub snapshot: &'a Snapshot,
    /// The process as the operating system counts it.
    pub process: &'a Process,
}

impl Figures<'_> {
    fn view(&self) -> Option<&View> {
        self.snapshot.shown.view.as_ref()
    }

    fn seen(&self) -> Option<&ServerView> {
        self.snapshot.shown.seen.as_ref().map(|(_, seen)| seen)
    }
}

/// One metric.
pub struct Metric {
    /// Its name, units last.
    pub name: &'static str,
    /// What it is.
    pub kind: MetricKind,
    /// Its labels with their values.
    pub labels: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// What to do when it moves.
    pub moves: &'static str,
    read: fn(Figures<'_>, &mut Samples<'_>),
}

impl std::fmt::Debug for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

const fn counter(
    name: &'static str,
    labels: &'static str,
    help: &'static str,
    moves: &'static str,
    read: fn(Figures<'_>, &mut Samples<'_>),
) -> Metric {
    Metric { name, kind: MetricKind::Counter, labels, help, moves, read }
}

const fn gauge(
    name: &'static str,
    labels: &'static str,
    help: &'static str,
    moves: &'static str,
    read: fn(Figures<'_>, &mut Samples<'_>),
) -> Metric {
    Metric { name, kind: MetricKind::Gauge, labels, help, moves, read }
}

const fn histogram(
    name: &'static str,
    help: &'static str,
    moves: &'static str,
    read: fn(Figures<'_>, &mut Samples<'_>),
) -> Metric {
    Metric { name, kind: MetricKind::Histogram, labels: "", help, moves, read }
}

/// States of a slot as metrics name them: Postgres' own, and one for a slot that is not there.
const WAL_STATUS: [&str; 5] = ["reserved", "extended", "unreserved", "lost", "missing"];

/// All metrics, in the order in which they are shown.
#[rustfmt::skip]
pub const METRICS: &[Metric] = &[
    gauge("pgoutbox_build_info", "version", "1, with the version that runs.",
        "after an upgrade, as it should",
        |_, out| out.put(&[("version", env!("CARGO_PKG_VERSION"))], 1_u64)),
    gauge("pgoutbox_session_state", "state: connecting, standby, catching_up, running, paused, draining, waiting, stopped", "1 for the state that holds, 0 for the others.",
        "`waiting` or `connecting` for minutes: `/readyz` and `pgoutbox status` name the fault and how to fix it",
        |it, out| for state in RelayState::ALL {
            out.put(&[("state", state.name())], state == it.snapshot.shown.state);
        }),
    gauge("pgoutbox_blocked_seconds", "reason: connecting, fault, draining, stopped, loop_silent, broker_blocked, postgres_silent, stalled, slot_lost", "How long nothing has been delivered for this reason, which is the code of `/readyz`, through all failed sessions and restarts; 0 for all others, and for all where nothing is wrong.",
        "above 0 for minutes: `pgoutbox status` names the fault, since when it lasts and what to do",
        |it, out| {
            let blocked = Readiness::blocked(it.snapshot);
            for code in CODES {
                let lasted = blocked.filter(|(blocked, _)| *blocked == code).map(|(_, lasted)| lasted);
                out.put(&[("reason", code)], lasted.unwrap_or_default());
            }
        }),
    counter("pgoutbox_sessions_total", "", "Sessions begun.",
        "it rises steadily: see `pgoutbox_session_ends_total` for the side that fails",
        |it, out| out.only(it.snapshot.shown.sessions)),
    counter("pgoutbox_session_ends_total", "reason: drained, stream, audit, broker, event, definite, other", "Sessions ended, by what ended them.",
        "`stream` or `audit`: look at Postgres; `broker`: look at RabbitMQ; `event`: one event blocks all others, see the log",
        |it, out| for reason in EndReason::ALL {
            let ends = it.snapshot.shown.ends.get(&reason).copied().unwrap_or(0);
            out.put(&[("reason", reason.name())], ends);
        }),
    counter("pgoutbox_events_total", "outcome: delivered, parked, queued, dead_lettered, delivered_before, came_marked, left_out, ignored, not_transactional", "Events by what became of them; delivered_before are those that an earlier session had settled, came_marked are rows inserted with their mark already set, left_out those that tables.N.only or except leave out, ignored are changes that are no inserts of an outbox table and messages of other prefixes, not_transactional are messages of [[messages]] that are no events since they are not transactional.",
        "`delivered` stands still while the application writes: `/readyz`. `parked` rises: `pgoutbox parked list` says why",
        |it, out| {
            let tally = &it.snapshot.shown.tally;
            for (outcome, count) in [
                ("delivered", tally.delivered),
                ("parked", tally.parked),
                ("queued", tally.queued),
                ("dead_lettered", tally.dead_lettered),
                ("delivered_before", tally.repeated),
                ("came_marked", tally.came_marked),
                ("left_out", tally.left_out),
                ("ignored", tally.ignored),
                ("not_transactional", tally.not_transactional),
            ] {
                out.put(&[("outcome", outcome)], count);
            }
        }),
    counter("pgoutbox_table_events_total", "table; outcome: delivered, parked", "Events of each table or `message:prefix` by what became of them, parked also behind one of their aggregate; of the first 100 tables that have any, of all others together as `other`.",
        "`parked` rises of one table alone: look at its mapping and its queues; `delivered` of one stands still: `pgoutbox check` says whether it is left out",
        |it, out| for (table, tally) in it.snapshot.shown.by_table.iter() {
            out.put(&[("table", table), ("outcome", "delivered")], tally.delivered);
            out.put(&[("table", table), ("outcome", "parked")], tally.parked);
        }),
    counter("pgoutbox_destination_events_total", "kind: exchange, stream, other; name; outcome: delivered, parked", "Events by where they went and what became of them, parked those that were refused there; of the first 100 exchanges and streams that have any, of all others together as `other`.",
        "`parked` rises of one alone: look at its bindings, its queues and the rights on it",
        |it, out| for (title, tally) in it.snapshot.shown.by_destination.iter() {
            let (kind, name) = title.split_once(':').unwrap_or((title, ""));
            out.put(&[("kind", kind), ("name", name), ("outcome", "delivered")], tally.delivered);
            out.put(&[("kind", kind), ("name", name), ("outcome", "parked")], tally.parked);
        }),
    counter("pgoutbox_stream_forgotten_total", "stream", "Sessions that found a stream without events that it had confirmed.",
        "above 0, and the stream is not new: it was deleted and made again, or brokers lost power; `pgoutbox replay --relayed-since …` sends what is gone",
        |it, out| for (stream, sessions) in it.snapshot.shown.forgotten.iter() {
            out.put(&[("stream", stream)], sessions);
        }),
    gauge("pgoutbox_stream_in_flight_messages", "stream, leader", "Messages that the stream has not confirmed; leader is the node that they are published to.",
        "one stays high while the others are low: it holds up the rest; look at its leader",
        |it, out| for one in &it.snapshot.shown.streams {
            out.put(&[("stream", &one.stream), ("leader", &one.leader)], u64::try_from(one.in_flight).unwrap_or(u64::MAX));
        }),
    gauge("pgoutbox_stream_is_watched", "stream", "1 where the highest publishing id of the stream may be asked for, so that another publisher under the relay's name is noticed.",
        "0: grant the relay's user read on the stream",
        |it, out| for one in &it.snapshot.shown.streams {
            out.put(&[("stream", &one.stream)], one.is_watched);
        }),
    counter("pgoutbox_messages_published_total", "", "Messages handed to the broker's connection, repeats included.",
        "far above `delivered`: messages are refused, or sessions end and repeat",
        |it, out| out.only(it.snapshot.shown.tally.published)),
    counter("pgoutbox_messages_refused_total", "why: returned, nacked, unreadable, closed", "Messages that could not be delivered: no queue took them, the broker nacked them, they are unreadable or over a limit, or the broker closed the channel over them.",
        "`returned`: bind a queue; `nacked`: a queue is full or has no majority; `unreadable`, `closed`: the event's `last_error` says what is wrong",
        |it, out| {
            let tally = &it.snapshot.shown.tally;
            for (why, count) in [
                ("returned", tally.returned),
                ("nacked", tally.nacked),
                ("unreadable", tally.unreadable),
                ("closed", tally.closed),
            ] {
                out.put(&[("why", why)], count);
            }
        }),
    counter("pgoutbox_parked_retries_total", "", "Tries of parked events.",
        "it rises as long as events are parked; nothing to do by itself",
        |it, out| out.only(it.snapshot.shown.tally.retried)),
    histogram("pgoutbox_commit_to_publish_seconds", "Time from an event's commit to its being handed to the broker's connection.",
        "slow: the window is full (broker slow, see the next one), transactions are huge, or the machine is busy; the clocks of both machines count too",
        |it, out| out.histogram(&it.snapshot.shown.tally.to_publish)),
    histogram("pgoutbox_commit_to_confirm_seconds", "Time from an event's commit to the broker's confirm; not of parked events.",
        "slow while `commit_to_publish` is not: the broker confirms slowly; look at its disks and its quorum queues",
        |it, out| out.histogram(&it.snapshot.shown.tally.to_confirm)),
    gauge("pgoutbox_window_messages", "", "Messages published and not settled.",
        "as many as the window holds for long: the broker is what limits",
        |it, out| if let Some(view) = it.view() { out.only(view.window_messages) }),
    gauge("pgoutbox_window_size_messages", "", "Messages that may be in flight; with `window.sizing` adaptive as many as keep the broker busy.",
        "at its limit for long: the broker is far away or confirms late; raise window.messages if it is to be faster",
        |it, out| if let Some(view) = it.view() { out.only(view.window_size) }),
    gauge("pgoutbox_window_bytes", "", "Bytes of their bodies.",
        "at its limit for long: the broker is what limits, or bodies are large",
        |it, out| if let Some(view) = it.view() { out.only(view.window_bytes) }),
    gauge("pgoutbox_window_limit_messages", "", "Setting window.messages.",
        "after a change of the setting",
        |it, out| out.only(it.snapshot.facts.window_messages)),
    gauge("pgoutbox_window_limit_bytes", "", "Setting window.bytes.",
        "after a change of the setting",
        |it, out| out.only(it.snapshot.facts.window_bytes)),
    gauge("pgoutbox_waiting_messages", "", "Events taken in that wait behind others of their aggregate, or for room.",
        "it stays high with `strict` ordering: few aggregates have most of the events",
        |it, out| if let Some(view) = it.view() { out.only(view.waiting) }),
    gauge("pgoutbox_unsettled_seconds", "", "Age since its commit of the oldest event taken in and not settled, through the sessions of an outage; 0 where there is none.",
        "it grows: nothing is confirmed; `/readyz` says why",
        |it, out| if let Some(unsettled) = it.snapshot.unsettled { out.only(unsettled) }),
    gauge("pgoutbox_broker_is_blocked", "", "1 while RabbitMQ blocks the connection.",
        "clear the alarm: `rabbitmq-diagnostics alarms`; nothing is published meanwhile, and WAL is kept",
        |it, out| if let Some(view) = it.view() { out.only(view.is_blocked) }),
    counter("pgoutbox_marks_total", "outcome: written, given_up", "Marks of delivered events.",
        "`given_up` rises: rows are locked or the right is missing; they stay unmarked, see `pgoutbox verify`",
        |it, out| {
            let tally = &it.snapshot.shown.tally;
            out.put(&[("outcome", "written")], tally.marked);
            out.put(&[("outcome", "given_up")], tally.unmarked);
        }),
    gauge("pgoutbox_marks_pending", "", "Marks that are to be written.",
        "it stays high: the outbox table is locked, or Postgres writes slowly",
        |it, out| if let Some(view) = it.view() { out.only(view.marks_pending) }),
    gauge("pgoutbox_catch_up_rows", "", "Rows that a catch-up publishes; absent where there is none.",
        "a slot was lost or recreated, and its rows are published first",
        |it, out| if let Some(view) = it.snapshot.shown.catch_up { out.only(view.total) }),
    gauge("pgoutbox_catch_up_rows_left", "", "Those of them that are not taken in yet; absent where there is none.",
        "it should fall; where it does not, `/readyz` says why",
        |it, out| if let Some(view) = it.snapshot.shown.catch_up { out.only(view.total.saturating_sub(view.done)) }),
    gauge("pgoutbox_slot_retained_wal_bytes", "", "WAL that the slot keeps on the server's disk.",
        "it grows: the relay does not acknowledge, or a long transaction holds it; the guard's line in the log says which",
        |it, out| if let Some(seen) = it.seen() { out.only(seen.slot.retained_bytes) }),
    gauge("pgoutbox_slot_confirmed_lag_bytes", "", "WAL written since what was acknowledged last.",
        "it grows: events come faster than they are delivered, or not at all",
        |it, out| if let Some(seen) = it.seen() { out.only(seen.slot.confirmed_lag_bytes) }),
    gauge("pgoutbox_slot_safe_wal_bytes", "", "WAL that may be written before the slot may be lost; absent where there is no limit.",
        "near 0: remove what holds the relay up, or raise `max_slot_wal_keep_size`",
        |it, out| if let Some(bytes) = it.seen().and_then(|seen| seen.slot.safe_bytes) { out.only(bytes) }),
    gauge("pgoutbox_slot_full_in_seconds", "", "Projected time until the WAL's limit is reached; absent where it does not fill up.",
        "below an hour: as for retained WAL, now",
        |it, out| {
            let full_in = it.seen().and_then(|seen| seen.slot.verdict).and_then(|verdict| verdict.full_in);
            if let Some(full_in) = full_in { out.only(full_in) }
        }),
    gauge("pgoutbox_slot_wal_status", "status: reserved, extended, unreserved, lost, missing", "1 for the slot's wal_status, 0 for the others.",
        "`unreserved`: the slot is about to be lost; `lost`, `missing`: see *When the slot is lost*",
        |it, out| if let Some(seen) = it.seen() {
            let now = seen.slot.wal_status.as_deref().unwrap_or("missing");
            for status in WAL_STATUS {
                out.put(&[("status", status)], status == now);
            }
        }),
    gauge("pgoutbox_slot_is_active", "", "1 while a walsender uses the slot.",
        "0 for minutes: no relay runs, or it cannot take the slot",
        |it, out| if let Some(seen) = it.seen() { out.only(seen.slot.is_active) }),
    counter("pgoutbox_slot_spilled_bytes_total", "", "Bytes of transactions that the slot's walsender had to put on disk.",
        "it rises fast: transactions are larger than `logical_decoding_work_mem`; raise it",
        |it, out| if let Some(seen) = it.seen() { out.only(seen.slot.spilled_bytes) }),
    gauge("pgoutbox_guard_level", "level: calm, warning, critical", "1 for the guard's level, 0 for the others.",
        "not `calm`: WAL fills up; the log and `pgoutbox status` say how fast, and how to fix it",
        |it, out| if let Some(seen) = it.seen() {
            for (name, level) in [("calm", Level::Calm), ("warning", Level::Warning), ("critical", Level::Critical)] {
                out.put(&[("level", name)], seen.slot.level() == level);
            }
        }),
    gauge("pgoutbox_parked_events", "state: parked, queued, failed; reason", "Events put aside and not done with.",
        "above 0: `pgoutbox parked list`; `failed` ones wait for you",
        |it, out| if let Some(seen) = it.seen() {
            for state in crate::operator::OPEN {
                let mut is_there = false;
                for parked in seen.parked.iter().filter(|parked| parked.state == state) {
                    is_there = true;
                    out.put(&[("state", state), ("reason", &parked.reason)], parked.events);
                }
                // A series that is always there can be alerted on.
                if !is_there {
                    out.put(&[("state", state), ("reason", "")], 0_u64);
                }
            }
        }),
    gauge("pgoutbox_parked_oldest_seconds", "", "How long ago the oldest of them was put aside; 0 where there is none.",
        "it grows: what refuses the event does not go away by itself",
        |it, out| if let Some(seen) = it.seen() {
            out.only(seen.parked.iter().map(|parked| parked.oldest_seconds).fold(0.0, f64::max));
        }),
    gauge("pgoutbox_held_aggregates", "", "Aggregates that wait behind a parked event.",
        "above 0: their later events are not delivered until the first one is, or is discarded",
        |it, out| if let Some(seen) = it.seen() { out.only(seen.held_aggregates) }),
    gauge("pgoutbox_observed_age_seconds", "", "Age of the slot's and the parked events' figures.",
        "above a few `guard.interval`: Postgres cannot be asked, and they are out of date",
        |it, out| if let Some(ago) = it.snapshot.seen_ago { out.only(ago) }),
    counter("pgoutbox_spans_total", "outcome: exported, dropped, failed", "Spans of tries to publish, where `otlp.endpoint` is set: taken by the collector, dropped because the queue was full, or failed.",
        "`dropped`: the collector is too slow or away; `failed`: it refuses them or is away, the log says why. Events are not touched by it",
        |it, out| {
            let spans = &it.snapshot.shown.spans;
            for (outcome, count) in [("exported", spans.exported), ("dropped", spans.dropped), ("failed", spans.failed)] {
                out.put(&[("outcome", outcome)], count);
            }
        }),
    counter("pgoutbox_log_lines_lost_total", "", "Lines of the log that could not be written: nobody reads standard error, or its disk is full.",
        "read the log, or make room; events go on, and the log says so once it can",
        |it, out| out.only(it.process.lost_log_lines)),
    counter("process_cpu_seconds_total", "", "CPU time of the process.",
        "one core is the most that the relay itself uses",
        |it, out| if let Some(cpu) = it.process.cpu { out.only(cpu) }),
    gauge("process_resident_memory_bytes", "", "Resident memory.",
        "it is bounded by `window.bytes` and the largest transaction's rows in flight; growth beyond that is a fault of ours",
        |it, out| if let Some(bytes) = it.process.resident_bytes { out.only(bytes) }),
    gauge("process_open_fds", "", "Open file descriptors.",
        "some twenty, and one for each HTTP client",
        |it, out| if let Some(fds) = it.process.open_fds { out.only(fds) }),
    gauge("process_start_time_seconds", "", "When the process began, in seconds since 1970.",
        "it changes: the process was restarted",
        |it, out| out.only(unix(it.snapshot.shown.began))),
];

/// Seconds since 1970.
fn unix(at: SystemTime) -> Duration {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// All of them in Prometheus' text format.
pub(crate) fn render(snapshot: &Snapshot, process: &Process) -> String {
    let mut out = String::with_capacity(16 << 10);
    for metric in METRICS {
        let mut samples = Samples::new(&mut out, metric.name, metric.kind, metric.help);
        (metric.read)(Figures { snapshot, process }, &mut samples);
    }
    out
}

/// A Markdown table of all metrics, which `docs/observability.md` holds.
pub fn docs_markdown() -> String {
    let mut text = String::from(
        "| Metric | Kind | Labels | Meaning | When it moves |\n|---|---|---|---|---|\n",
    );
    for Metric { name, kind, labels, help, moves, .. } in METRICS {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| `{name}` | {} | {labels} | {help} | {moves} |", kind.name());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_base_units_and_say_what_they_are() {
        let mut names = std::collections::BTreeSet::new();
        for metric in METRICS {
            assert!(names.insert(metric.name), "{metric:?} stands there twice");
            assert_eq!(
                metric.kind == MetricKind::Counter,
                metric.name.ends_with("_total"),
                "{metric:?}"
            );
            for unit in ["milli", "_ms", "micro", "_kb", "_mb", "lsn"] {
                assert!(!metric.name.contains(unit), "{metric:?}");
            }
            assert!(metric.help.ends_with('.') && !metric.moves.is_empty(), "{metric:?}");
        }
    }
}
