//! `pgoutbox parked list`.

use serde_json::{Value, json};

use super::{Which, say, span};
use crate::commands::connect;
use crate::config::Config;
use crate::error::Fault;
use crate::operator::{self, Parked};

/// How much of an error a line shows.
const SHORT: usize = 60;

/// Lists parked events in commit order; by default all that are not done with.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// At most so many
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: u64,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: &Args, config: &Config) -> Result<(), Fault> {
    let client = connect(config).await?;
    // One more than asked for tells whether there are more.
    let filter = args.which.filter(Some(args.limit.saturating_add(1)));
    let mut found = operator::list(&client, &config.postgres.slot, &filter).await?;
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let has_more = found.len() > limit;
    found.truncate(limit);
    if args.json {
        let found: Vec<Value> = found.iter().map(as_json).collect();
        say(format_args!("{:#}", json!({ "events": found, "has_more": has_more })));
        return Ok(());
    }
    if found.is_empty() {
        say("no parked event fits");
        return Ok(());
    }
    let header = ["SEQ", "STATE", "AGE", "TRIES", "NEXT", "REASON", "EVENT", "AGGREGATE", "ERROR"];
    let rows: Vec<[String; 9]> =
        std::iter::once(header.map(str::to_owned)).chain(found.iter().map(line)).collect();
    print(&rows);
    if has_more {
        say(format_args!("… and more: --limit {} shows the first {limit} only", args.limit));
    }
    Ok(())
}

fn line(event: &Parked) -> [String; 9] {
    let dash = || "-".to_owned();
    let next = match (event.state.as_str(), event.next_in_seconds) {
        ("parked", Some(seconds)) if seconds > 0.0 => span(seconds),
        ("parked", _) => "now".to_owned(),
        _ => dash(),
    };
    let error: String = event.last_error.as_deref().unwrap_or("-").chars().take(SHORT).collect();
    [
        event.seq.to_string(),
        event.state.clone(),
        span(event.age_seconds),
        event.attempts.to_string(),
        next,
        event.reason.clone().unwrap_or_else(dash),
        event.event_id.clone().unwrap_or_else(dash),
        event.aggregate().unwrap_or_else(dash),
        error.replace(char::is_control, " "),
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

pub(super) fn as_json(event: &Parked) -> Value {
    json!({
        "seq": event.seq,
        "state": event.state,
        "table": event.table_title(),
        "event_id": event.event_id,
        "aggregate_type": event.aggregate_type,
        "aggregate_id": event.aggregate_id,
        "is_holding": event.is_holding,
        "reason": event.reason,
        "last_error": event.last_error,
        "mend": event.mend,
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
