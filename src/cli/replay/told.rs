//! What a replay says: of each event that is not delivered, of all of them, and how the rest is sent.

use serde_json::json;

use super::Args;
use crate::cli::attend::Attendant;
use crate::cli::say;
use crate::core::message::Message;
use crate::error::Fault;
use crate::gauge::Gauge;
use crate::operator::replay::{ReplayPlace, ReplayTally};
use crate::postgres::outbox::Outbox;
use crate::rabbitmq::resend::{Fate, Item};
use crate::text::Printable;

/// What an operator is told who has ended it.
pub(super) fn interrupted(attendant: &Attendant, gauge: &Gauge, go_on: Option<&str>) -> Fault {
    let signal = attendant.signal.unwrap_or("SIGINT");
    let what = format!("{signal}: {} sent", gauge.counted());
    Fault::transient(what)
        .hint(go_on.unwrap_or("what was in flight may have arrived; run it again"))
}

/// How the rest is sent.
pub(super) fn go_on(outboxes: &[Outbox], last: Option<&ReplayPlace>) -> String {
    let after = match last {
        None => return "go on with the same command".to_owned(),
        Some(ReplayPlace::Nameless) => {
            return "the last that was sent has no id of its own: choose the rest by --since"
                .to_owned();
        }
        Some(ReplayPlace::Parked(seq)) => seq.to_string(),
        Some(ReplayPlace::Row { table, id }) => {
            let outbox = outboxes.iter().find(|outbox| outbox.number == *table);
            match outbox.filter(|_| outboxes.len() > 1) {
                Some(outbox) => format!("{}:{id}", outbox.title()),
                None => id.clone(),
            }
        }
    };
    format!("go on with the same command and --after {}", Printable(&shell_word(&after)))
}

/// As a shell takes it for one word.
fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/@%+=,".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// Reads what [`go_on`] has said.
pub(super) fn place(args: &Args, outboxes: &[Outbox], after: &str) -> Result<ReplayPlace, Fault> {
    if args.wants_parked() {
        let seq = after.parse().map_err(|_| {
            Fault::usage(
                format!("--after {after} is not the number of a parked event"),
                "pgoutbox parked list",
            )
        })?;
        return Ok(ReplayPlace::Parked(seq));
    }
    for outbox in outboxes {
        let prefix = format!("{}:", outbox.title());
        if let Some(id) = after.strip_prefix(&prefix) {
            return Ok(ReplayPlace::Row { table: outbox.number, id: id.to_owned() });
        }
    }
    match outboxes {
        [outbox] => Ok(ReplayPlace::Row { table: outbox.number, id: after.to_owned() }),
        _ => Err(Fault::usage(
            "--after names no table, and there are several",
            "write it as --after SCHEMA.TABLE:ID",
        )),
    }
}

/// Says what became of one that was not delivered. `last_hint` is what was said to help before: of many that fail alike,
/// once.
pub(super) fn print(item: &Item, fate: &Fate, is_json: bool, last_hint: &mut String) {
    if is_json {
        return;
    }
    let id = if item.id.is_empty() { "a row without an id" } else { item.id.as_str() };
    let id = Printable(id);
    match fate {
        Fate::Delivered => {}
        Fate::Refused(refusal) => {
            say(format_args!("refused  {id}: {}", Printable(&refusal.to_string())));
            let hint = refusal.hint();
            if hint != *last_hint {
                say(format_args!("         hint: {hint}"));
                *last_hint = hint.to_owned();
            }
        }
        Fate::Held => {
            say(format_args!("held     {id}: an event before it of its aggregate was refused"));
        }
        Fate::Dry(message) => say(would_send(item, message)),
    }
}

fn would_send(item: &Item, message: &Message) -> String {
    let aggregate = item.aggregate.as_ref().map(|(kind, id)| match kind {
        Some(kind) => format!(", {kind}/{id}"),
        None => format!(", {id}"),
    });
    format!(
        "would send {}{}: exchange {}, routing key {}, {} bytes",
        Printable(&item.id),
        Printable(&aggregate.unwrap_or_default()),
        Printable(message.exchange()),
        Printable(message.routing_key()),
        message.body.len()
    )
}

pub(super) fn summary(args: &Args, tally: &ReplayTally) {
    if args.json {
        let refused: Vec<_> = tally
            .refused
            .iter()
            .map(|(id, refusal)| json!({ "id": id, "why": refusal.to_string(), "hint": refusal.hint() }))
            .collect();
        say(format_args!(
            "{:#}",
            json!({
                "delivered": tally.delivered, "refused": refused, "held": tally.held,
                "gone": tally.gone, "marked": tally.marked, "would_send": tally.dry,
                "undated": tally.undated, "unknown": tally.unknown,
                "shared": tally.shared.iter().map(|(id, rows)| json!({ "id": id, "rows": rows })).collect::<Vec<_>>(),
            })
        ));
        return;
    }
    if tally.undated > 0 {
        say(format_args!(
            "{} rows have no time of commit, written as they were before track_commit_timestamp was on or long \
             ago: none of them is among these; choose those by --since and --until",
            tally.undated
        ));
    }
    for id in &tally.unknown {
        say(format_args!("unknown  {}: no row that fits has this id", Printable(id)));
    }
    for (id, rows) in &tally.shared {
        say(format_args!(
            "shared   {}: {rows} rows have this id: each is an event of its own, sent once and in order",
            Printable(id)
        ));
    }
    if args.dry_run {
        say(format_args!("{} would be sent, {} cannot be", tally.dry, tally.refused.len()));
        return;
    }
    say(format_args!(
        "{} delivered, {} refused, {} skipped behind those, {} no longer there, {} marked",
        tally.delivered,
        tally.refused.len(),
        tally.held.len(),
        tally.gone,
        tally.marked
    ));
}
