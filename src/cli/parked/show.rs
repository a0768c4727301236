//! `pgoutbox parked show`.

use serde_json::{Value, json};

use super::{Which, events, list, say, span, unparked};
use crate::cli::connect_to_tables;
use crate::config::Config;
use crate::core::event::Refusal;
use crate::core::message::Message;
use crate::error::Fault;
use crate::operator::{self, Neighbours, ParkedEvent, shown, usual_limits};
use crate::output;
use crate::text::Printable;

/// Shows everything of one event, and its message as it would be published now.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// The body's bytes, and nothing else
    #[arg(long, conflicts_with = "json")]
    body: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: &Args, config: &Config) -> Result<bool, Fault> {
    let (client, config) = &connect_to_tables(config).await?;
    let found = operator::list_all(client, &config.slots(), &args.which.filter(Some(2))).await?;
    let event = match found.as_slice() {
        [event] => event,
        [] => {
            say(unparked::told(client, config, args.which.ids()).await);
            return Ok(false);
        }
        _ => {
            return Err(Fault::usage(
                "more than one event fits, and show shows one",
                "pgoutbox parked list … for their numbers, then pgoutbox parked show --seq SEQ",
            ));
        }
    };
    let Some(row) = operator::row(client, config, event).await? else {
        say(format_args!("{} has been delivered meanwhile", event.title()));
        return Ok(false);
    };
    let neighbours = operator::neighbours(client, event.seq).await?;
    let built = operator::message(client, config, event, (&row, usual_limits(config))).await?;
    let message = built.map(|built| built.message);
    if args.body {
        return body(message);
    }
    if args.json {
        crate::cli::say_json(as_json(event, neighbours, &message));
    } else {
        print(event, neighbours, &message);
    }
    Ok(true)
}

fn body(message: Result<Message, Refusal>) -> Result<bool, Fault> {
    match message {
        Ok(message) => {
            // A pipe gets the bytes, a terminal what they show.
            match output::is_terminal() {
                true => say(shown::body(&message)),
                false => output::out(&message.body),
            }
            Ok(true)
        }
        Err(refusal) => Err(Fault::definite(refusal.to_string(), refusal.hint())),
    }
}

fn print(event: &ParkedEvent, neighbours: Neighbours, message: &Result<Message, Refusal>) {
    let line = |name: &str, value: &str| say(format_args!("{name:<12}{}", Printable(value)));
    let optional = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            line(name, value);
        }
    };
    line("event", event.event_id.as_deref().unwrap_or("its id cannot be read"));
    line("seq", &event.seq.to_string());
    line("table", &event.table_title());
    optional("aggregate", event.aggregate().as_deref());
    line("committed", &format!("at {}", event.position));
    line("state", &state(event));
    line("parked", &format!("{}, {} ago", event.parked_at, span(event.age_seconds)));
    optional("reason", event.reason.as_deref());
    optional("error", event.last_error.as_deref());
    optional("hint", event.hint.as_deref().filter(|hint| !hint.is_empty()));
    if let Some(by) = &event.changed_by {
        line("changed", &format!("by {by}, {}", event.changed_at));
    }
    optional("note", event.note.as_deref());
    if event.state == "queued" {
        let head = neighbours
            .head
            .map_or_else(|| "none that is left".to_owned(), |seq| format!("seq {seq}"));
        line("waits", &format!("behind {head}"));
    }
    line("behind it", &events(neighbours.behind));
    match message {
        Ok(message) => print_message(message),
        Err(refusal) => {
            line("message", &format!("cannot be built: {refusal}"));
            line("", &format!("hint: {}", refusal.hint()));
        }
    }
}

fn state(event: &ParkedEvent) -> String {
    let tries =
        if event.attempts == 1 { "1 try".to_owned() } else { format!("{} tries", event.attempts) };
    match (event.state.as_str(), event.next_in_seconds) {
        ("parked", Some(seconds)) if seconds > 0.0 => {
            format!("parked, {tries}, the next in {}", span(seconds))
        }
        ("parked", _) => format!("parked, {tries}, the next is due"),
        (state, _) => format!("{state}, {tries}"),
    }
}

fn print_message(message: &Message) {
    say("message");
    let line = |name: &str, value: &str| {
        say(format_args!("  {:<24}{}", Printable(name).to_string(), Printable(value)))
    };
    line("exchange", message.exchange());
    line("routing key", message.routing_key());
    for (name, value) in shown::properties(message) {
        line(name, &text(&value));
    }
    for (name, value) in shown::headers(message) {
        line(&format!("header {name}"), &text(&value));
    }
    line("body", &format!("{} bytes", message.body.len()));
    say(shown::body(message));
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn as_json(
    event: &ParkedEvent,
    neighbours: Neighbours,
    message: &Result<Message, Refusal>,
) -> Value {
    let mut shown = list::as_json(event, None);
    let message = match message {
        Ok(message) => {
            let is_text = std::str::from_utf8(&message.body).is_ok();
            let mut message_shown = shown::json(message);
            message_shown
                .insert("body_encoding".to_owned(), json!(if is_text { "text" } else { "hex" }));
            message_shown.insert("body".to_owned(), json!(shown::body(message)));
            Value::Object(message_shown)
        }
        Err(refusal) => json!({ "why_not": refusal.to_string(), "hint": refusal.hint() }),
    };
    if let Some(shown) = shown.as_object_mut() {
        for key in ["exchange", "routing_key"] {
            shown.insert(key.to_owned(), message.get(key).cloned().unwrap_or_default());
        }
        shown.insert("waits_behind_seq".to_owned(), json!(neighbours.head));
        shown.insert("waiting_behind_it".to_owned(), json!(neighbours.behind));
        shown.insert("message".to_owned(), message);
    }
    shown
}
