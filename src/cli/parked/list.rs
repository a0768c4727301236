//! `pgoutbox parked list`.

use serde_json::{Value, json};

use super::{Which, say, span, unparked};
use crate::cli::connect_to_tables;
use crate::config::Config;
use crate::error::Fault;
use crate::operator::{self, Destination, ParkedEvent};
use crate::text::Printable;

/// How much of a text a line shows.
const SHORT: usize = 60;

/// Lists parked events in commit order; by default all that are not done with.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// At most so many
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: u64,
    /// Also those that only wait behind another of their aggregate
    #[arg(long)]
    waiting: bool,
    /// As JSON; those that wait are always in it
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: &Args, config: &Config) -> Result<(), Fault> {
    let (client, config) = &connect_to_tables(config).await?;
    // One bad event may hold many: those are counted at its side.
    let is_folded = !args.waiting && !args.which.wants_waiting();
    // One more than asked for shows whether there are more.
    let mut filter = args.which.filter(Some(args.limit.saturating_add(1)));
    if is_folded && !args.json {
        filter.states.retain(|state| state != "queued");
    }
    let mut found = operator::list_all(client, &config.slots(), &filter).await?;
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let has_more = found.len() > limit;
    found.truncate(limit);
    if args.json {
        let mut events = Vec::new();
        for event in &found {
            let to = operator::target(client, config, event).await;
            events.push(as_json(event, to.as_ref()));
        }
        crate::cli::say_json(json!({ "events": events, "has_more": has_more }));
        return Ok(());
    }
    if found.is_empty() {
        say(unparked::told(client, config, args.which.ids()).await);
        return Ok(());
    }
    let header = [
        "SEQ",
        "STATE",
        "AGE",
        "TRIES",
        "NEXT",
        "REASON",
        "EVENT",
        "AGGREGATE",
        "WAITING",
        "TO",
        "ERROR",
    ];
    let mut rows = vec![header.map(str::to_owned)];
    for event in &found {
        let to = operator::target(client, config, event).await;
        rows.push(line(event, to.as_ref()));
    }
    print(&rows);
    let waiting: i64 = found.iter().map(|event| event.followers).sum();
    if is_folded && waiting > 0 {
        say(format_args!("{} behind these: --waiting lists them", super::waits(waiting)));
    }
    if has_more {
        say(format_args!("… and more: --limit {} shows the first {limit} only", args.limit));
    }
    Ok(())
}

fn line(event: &ParkedEvent, to: Option<&Destination>) -> [String; 11] {
    let dash = || "-".to_owned();
    let next = match (event.state.as_str(), event.next_in_seconds) {
        ("parked", Some(seconds)) if seconds > 0.0 => span(seconds),
        ("parked", _) => "now".to_owned(),
        _ => dash(),
    };
    let short = |text: &str, most: usize| {
        let cut: String = text.chars().take(most).collect();
        let end = if cut.len() < text.len() { "…" } else { "" };
        format!("{}{end}", Printable(&cut))
    };
    let or_dash = |text: Option<&str>, most| text.map_or_else(dash, |text| short(text, most));
    let to = to.map(|to| format!("{}/{}", to.exchange, to.routing_key));
    [
        event.seq.to_string(),
        event.state.clone(),
        span(event.age_seconds),
        event.attempts.to_string(),
        next,
        or_dash(event.reason.as_deref(), SHORT),
        or_dash(event.event_id.as_deref(), SHORT),
        or_dash(event.aggregate().as_deref(), SHORT),
        event.followers.to_string(),
        or_dash(to.as_deref(), SHORT),
        or_dash(event.last_error.as_deref(), SHORT),
    ]
}

/// Columns as wide as their widest cell; the last as it is.
fn print<const N: usize>(rows: &[[String; N]]) {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        say(cells.join("  ").trim_end());
    }
}

pub(super) fn as_json(event: &ParkedEvent, to: Option<&Destination>) -> Value {
    json!({
        "seq": event.seq,
        "state": event.state,
        "table": event.table_title(),
        "event_id": event.event_id,
        "aggregate_type": event.aggregate_type,
        "aggregate_id": event.aggregate_id,
        "is_holding": event.is_holding,
        "waiting_behind_it": event.followers,
        "exchange": to.map(|to| to.exchange.as_str()),
        "routing_key": to.map(|to| to.routing_key.as_str()),
        "reason": event.reason,
        "last_error": event.last_error,
        "hint": event.hint,
        "attempts": event.attempts,
        "next_attempt_in_seconds": event.next_in_seconds,
        "parked_at": event.parked_at,
        "age_seconds": event.age_seconds,
        "commit_lsn": event.position.commit_lsn.to_string(),
        "index": event.position.index,
        "changed_at": event.changed_at,
        "changed_by": event.changed_by,
        "note": event.note,
    })
}
