//! `pgoutbox event`: where events stand, from the row to the confirm.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::bounds::in_order;
use super::parked::aggregate;
use super::replay::time;
use super::{connect_to_tables, say};
use crate::config::{Config, Needs, Sources};
use crate::core::relay::HeldEvent;
use crate::error::Fault;
use crate::observe::event::{EventFilter, EventState, EventTrace, TraceReport, look_everywhere};
use crate::observe::http::client;
use crate::operator::shown;
use crate::text::Printable;

/// How long the process that runs here may take to say what it has in memory.
const PATIENCE: Duration = Duration::from_secs(2);
/// How much of a text a line of the list shows.
const SHORT: usize = 60;
/// What cannot be known of an event that was delivered.
const ONLY_ITS_MARK: &str = "of a delivered event its mark alone is kept: where its commit was in the WAL, and whether it was replayed, stands in the log (log.events)";

/// Says where events stand: not yet read, in flight, delivered and when, parked and why, discarded and by
/// whom; with commit, exchange, routing key, headers and size of the body. Of an event that was delivered
/// only its mark is left: where it cannot be known what became of one, it says so. Asks the process that
/// runs here at http.address what it has in memory. Exit code 1 where nothing is found.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "States: delivered, unmarked (delivered, its mark is still to be written), in_flight, waiting, parked, queued \
    (behind a parked one), failed, dead_lettered, discarded, left_out (by the publication or the table's rule), missing (the slot \
    has passed it, and nothing is known of it), passed (likewise, of a table without marks).\n\n\
    Needs SELECT on the outbox table and on pgoutbox.parked and pgoutbox.relayed: better an operator's own role than the relay's.\n\n\
    Examples:\n  pgoutbox event 0191…\n  pgoutbox event --aggregate order/7\n  \
    pgoutbox event --since 10m --json | jq '.events[] | select(.state != \"delivered\")'"
)]
pub(super) struct Args {
    /// The event with this id; may be repeated
    #[arg(value_name = "ID", value_parser = super::bounds::event_id("choose it by --aggregate or --since"),
          required_unless_present_any = ["aggregate", "since", "until"])]
    ids: Vec<String>,
    /// Events of this aggregate
    #[arg(long, value_name = "TYPE/ID", value_parser = aggregate, conflicts_with = "ids")]
    aggregate: Option<(String, String)>,
    /// Whose occurred_at is not before: 2026-11-22T10:00:00Z, 2026-11-22 (UTC), or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with = "ids")]
    since: Option<Timestamp>,
    /// Whose occurred_at is before
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with = "ids")]
    until: Option<Timestamp>,
    /// At most so many, the latest
    #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    limit: u16,
    /// How long the relay may take to come to what is committed now, before an event counts as missing
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = super::bounds::span)]
    wait: Duration,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Looks, prints, and says whether anything was found.
///
/// # Errors
/// Postgres cannot be asked, or the arguments are wrong.
pub(super) async fn run(args: &Args, sources: &Sources) -> Result<bool, Fault> {
    in_order(("--since", args.since), ("--until", args.until))?;
    let config = Config::load(sources, Needs::POSTGRES)?;
    let filter = EventFilter {
        ids: args.ids.clone(),
        aggregate: args.aggregate.clone(),
        since: args.since,
        until: args.until,
        limit: args.limit.into(),
        wait: args.wait,
    };
    let (client, config) = connect_to_tables(&config).await?;
    // Before the row is read: what is delivered meanwhile is marked then.
    let mut held = Vec::new();
    for id in &filter.ids {
        held.extend(in_memory(&config, id).await);
    }
    let found = look_everywhere(&client, &config, &filter, held).await?;
    if args.json {
        crate::cli::say_json(found.json());
    } else {
        print(&found, args.ids.is_empty());
    }
    Ok(!found.events.is_empty())
}

/// What the process that runs here has in memory; nothing where none does.
async fn in_memory(config: &Config, id: &str) -> Vec<HeldEvent> {
    let id = percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC);
    let path = format!("/event?memory&id={id}");
    match client::get(&config.http, &path, PATIENCE).await {
        Ok((200, told)) => serde_json::from_str(&told).unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// Its first characters, with a sign that there are more.
fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

fn print(found: &TraceReport, is_list: bool) {
    let title = |event: &EventTrace| {
        let id = event.id.as_deref().unwrap_or("with an unreadable id");
        Printable(id).to_string()
    };
    for (number, event) in found.events.iter().enumerate() {
        if is_list {
            let about = shortened(&event.about(), SHORT);
            say(format_args!("{:<13} {}  {}", event.state.name(), title(event), Printable(&about)));
            continue;
        }
        if number > 0 {
            say("");
        }
        say(format_args!("event       {}", title(event)));
        print_event(event);
    }
    for (id, means) in &found.unknown {
        say(format_args!("event       {}\nstate       unknown: {means}", Printable(id)));
    }
    if found.has_more {
        say("… and more before these: --limit");
    }
    for note in &found.notes {
        say(format_args!("note        {}", Printable(note)));
    }
    if found.events.is_empty() && found.unknown.is_empty() {
        say("no event fits");
    }
}

fn print_event(event: &EventTrace) {
    let line = |name: &str, value: &str| say(format_args!("{name:<12}{}", Printable(value)));
    let optional = |name: &str, value: Option<&str>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            line(name, value);
        }
    };
    line("table", &event.table);
    optional("aggregate", event.aggregate.as_deref());
    line("state", &format!("{}: {}", event.state.name(), event.about()));
    if let Some(row) = &event.row {
        optional("occurred", row.occurred_at.as_deref());
    }
    optional("committed", event.committed_at().as_deref());
    optional("commit", event.position().as_deref());
    if let Some(record) = &event.record {
        line("parked", &format!("seq {}, at {}", record.seq, record.parked_at));
        for tries in &event.tries {
            let times = if tries.times == 1 {
                String::new()
            } else {
                format!(" {} times until {}", tries.times, tries.last)
            };
            line("tried", &format!("{}{times}: {}", tries.first, tries.error));
        }
        if event.tries.is_empty() {
            optional("error", record.last_error.as_deref());
        }
        optional("hint", record.hint.as_deref());
        if let Some(by) = &record.changed_by {
            line("changed", &format!("by {by}, {}", record.changed_at));
        }
        optional("note", record.note.as_deref());
        if record.followers > 0 {
            line("behind it", &format!("{} events of its aggregate", record.followers));
        }
    }
    if event.state == EventState::Delivered && event.position().is_none() {
        line("note", ONLY_ITS_MARK);
    }
    print_message(event);
}

fn print_message(event: &EventTrace) {
    let line = |name: &str, value: &str| {
        say(format_args!("{:<12}{}", Printable(name).to_string(), Printable(value)));
    };
    if let Some((exchange, routing_key)) = event.destination() {
        let exchange = if exchange.is_empty() { "(default)" } else { &exchange };
        line("exchange", exchange);
        line("routing key", &routing_key);
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match &event.message {
        Some(Ok(message)) => {
            for (name, value) in shown::headers(message) {
                line("header", &format!("{name} = {}", text(&value)));
            }
            line("body", &format!("{} bytes", message.body.len()));
        }
        Some(Err(refusal)) => {
            line("message", &format!("cannot be built: {refusal}"));
            line("", &format!("hint: {}", refusal.hint()));
        }
        None => {}
    }
}
