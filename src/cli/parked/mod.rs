//! `pgoutbox parked`: events put aside, as an operator sees and handles them.

mod list;
mod show;
mod unparked;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;

use super::attend::{Attendant, ended};
use super::{connect, say};
use crate::config::{Config, Needs, Sources};
use crate::error::Fault;
use crate::gauge::Gauge;
use crate::operator::{self, DiscardReport, OPEN, ParkedEvent, ParkedFilter};
use crate::output;
use crate::text::{Printable, thousands};

/// Events that could not be delivered: lists them, shows one, has them tried again, or gives them
/// up. A running relay acts on it at once.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Needs SELECT and UPDATE on pgoutbox.parked: the relay's audit role has them, or an \
    operator's own role:\n  GRANT USAGE ON SCHEMA pgoutbox TO operator;\n  \
    GRANT SELECT, UPDATE ON pgoutbox.parked TO operator;\n\n\
    Examples:\n  pgoutbox parked list --reason returned --older-than 10m\n  \
    pgoutbox parked show --seq 7\n  pgoutbox parked retry --aggregate order/7\n  \
    pgoutbox parked discard --id 0191… --note 'duplicate, see TICKET-1'"
)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Command {
    List(list::Args),
    Show(show::Args),
    Retry(Retry),
    Discard(Discard),
}

/// Has parked and failed events tried again at once. One that waits behind another of its
/// aggregate waits on: it would overtake.
#[derive(Debug, Clone, clap::Args)]
struct Retry {
    #[command(flatten)]
    which: Which,
    /// Count their tries from 0 again
    #[arg(long)]
    reset_attempts: bool,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,
}

/// Gives events up: they are not delivered. The record stays, with who and why; `pgoutbox replay
/// --parked SEQ` can still send them. What waits behind them goes on.
#[derive(Debug, Clone, clap::Args)]
struct Discard {
    #[command(flatten)]
    which: Which,
    /// Ask nothing
    #[arg(long)]
    yes: bool,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,
}

/// Which parked events are meant: all that fit everything said.
#[derive(Debug, Clone, Default, clap::Args)]
struct Which {
    /// With this event id; may be repeated
    #[arg(long = "id", value_name = "ID", value_parser = super::bounds::event_id("choose it by --seq"))]
    ids: Vec<String>,
    /// With this number, as `list` shows it; may be repeated
    #[arg(long = "seq", value_name = "SEQ")]
    seqs: Vec<i64>,
    /// Of this aggregate
    #[arg(long, value_name = "TYPE/ID", value_parser = aggregate)]
    aggregate: Option<(String, String)>,
    /// Of the aggregates with this id, of whatever type
    #[arg(long, value_name = "ID", conflicts_with = "aggregate")]
    aggregate_id: Option<String>,
    /// Parked for this reason: returned, nacked, closed, unreadable, …
    #[arg(long, value_name = "REASON", value_parser = NonEmptyStringValueParser::new())]
    reason: Option<String>,
    /// Parked at least so long ago
    #[arg(long, value_name = "TIME", value_parser = super::bounds::span)]
    older_than: Option<Duration>,
    /// In this state; by default all that are not done with
    #[arg(long, value_name = "STATE",
          value_parser = ["parked", "queued", "failed", "dead_lettered", "discarded", "delivered", "all"])]
    state: Option<String>,
    /// Of this table, or `message:PREFIX`
    #[arg(long, value_name = "SCHEMA.TABLE", value_parser = NonEmptyStringValueParser::new())]
    table: Option<String>,
    /// All of them: retry and discard want it said
    #[arg(long)]
    all: bool,
}

/// The two parts of `order/7`; the id may hold further slashes, and either may be empty.
pub(super) fn aggregate(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('/').map(|(kind, id)| (kind.to_owned(), id.to_owned()));
    parts.ok_or_else(|| "write TYPE/ID, such as order/7".to_owned())
}

impl Which {
    fn is_empty(&self) -> bool {
        self.ids.is_empty()
            && self.seqs.is_empty()
            && self.aggregate.is_none()
            && self.aggregate_id.is_none()
            && self.reason.is_none()
            && self.older_than.is_none()
            && self.state.is_none()
            && self.table.is_none()
    }

    fn ids(&self) -> &[String] {
        &self.ids
    }

    /// What waits behind another event of its aggregate is asked for.
    fn wants_waiting(&self) -> bool {
        self.names_events()
            || self.aggregate.is_some()
            || self.aggregate_id.is_some()
            || self.state.is_some()
    }

    /// An event named by itself is looked for in whatever state it is.
    fn names_events(&self) -> bool {
        !self.ids.is_empty() || !self.seqs.is_empty()
    }

    fn filter(&self, limit: Option<u64>) -> ParkedFilter {
        let (aggregate_type, aggregate_id) = self.aggregate.clone().unzip();
        let all = || OPEN.into_iter().chain(operator::DONE).map(str::to_owned).collect();
        ParkedFilter {
            states: match self.state.as_deref() {
                Some("all") => all(),
                Some(state) => vec![state.to_owned()],
                None if self.names_events() => all(),
                None => OPEN.map(str::to_owned).to_vec(),
            },
            ids: self.ids.clone(),
            seqs: self.seqs.clone(),
            table: self.table.clone().unwrap_or_default(),
            aggregate_type,
            aggregate_id: self.aggregate_id.clone().or(aggregate_id),
            reason: self.reason.clone().unwrap_or_default(),
            older_than_seconds: self.older_than.unwrap_or_default().as_secs(),
            after: 0,
            behind: None,
            text: String::new(),
            limit,
        }
    }

    /// To change everything takes `--all`.
    fn must_be_said(&self, verb: &str) -> Result<(), Fault> {
        if self.is_empty() && !self.all {
            return Err(Fault::usage(
                format!("{verb} which events? None are selected"),
                format!(
                    "pgoutbox parked {verb} --id ID, --aggregate TYPE/ID, --reason REASON, --older-than TIME, or --all"
                ),
            ));
        }
        Ok(())
    }
}

/// Does what is asked, and says whether anything fitted.
///
/// # Errors
/// Postgres cannot be asked, or the arguments are wrong.
pub(super) async fn run(args: &Args, sources: &Sources) -> Result<bool, Fault> {
    let config = Config::load(sources, Needs::POSTGRES)?;
    match &args.command {
        Command::List(args) => list::run(args, &config).await.map(|()| true),
        Command::Show(args) => show::run(args, &config).await,
        Command::Retry(args) => retry(args, &config).await,
        Command::Discard(args) => discard(args, &config).await,
    }
}

/// Events that one statement changes: whoever else wants these rows waits no longer than for so many.
const BATCH: usize = 1000;

async fn retry(args: &Retry, config: &Config) -> Result<bool, Fault> {
    args.which.must_be_said("retry")?;
    let client = connect(config).await?;
    let found = operator::list_all(&client, &config.slots(), &args.which.filter(None)).await?;
    // Those that wait, or are done with, are left alone.
    let fits = |event: &&ParkedEvent| event.state != "queued" && !event.is_done();
    let meant = by_slot(found.iter().filter(fits));
    let mut retried = 0;
    let batches = meant.iter().flat_map(|(slot, seqs)| seqs.chunks(BATCH).map(|it| (*slot, it)));
    let outcome = in_batches("retried", batches.collect(), async |slot, seqs| {
        retried += operator::retry(&client, slot, seqs, args.reset_attempts, &args.note).await?;
        Ok(())
    })
    .await;
    say(format_args!("{} tried again now", events(retried)));
    outcome?;
    if args.which.names_events() {
        for event in &found {
            if event.state == "queued" {
                let head = operator::neighbours(&client, event.seq).await?.head;
                let head =
                    head.map_or_else(|| "none that is left".to_owned(), |seq| format!("seq {seq}"));
                say(format_args!(
                    "{} waits behind {head}: it follows once that is delivered or discarded",
                    event.title()
                ));
            } else if event.is_done() {
                say(done_with(event));
            }
        }
    } else {
        let queued = found.iter().filter(|event| event.state == "queued").count();
        if queued > 0 {
            say(format_args!(
                "{queued} more wait behind others of their aggregates and follow them"
            ));
        }
    }
    Ok(retried > 0)
}

fn done_with(event: &ParkedEvent) -> String {
    format!("{} is done with: pgoutbox replay --parked {}", event.title(), event.seq)
}

/// How the rest is changed.
const GO_ON: &str = "go on with the same command: those are not chosen again";

/// The numbers of events by their slots, in each the oldest first.
fn by_slot<'a>(events: impl Iterator<Item = &'a ParkedEvent>) -> BTreeMap<&'a str, Vec<i64>> {
    let mut seqs: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for event in events {
        seqs.entry(&event.slot).or_default().push(event.seq);
    }
    seqs
}

/// Changes events of a slot batch by batch, each in a transaction. At a signal what is done is done, and the rest is left.
async fn in_batches(
    verb: &str,
    batches: Vec<(&str, &[i64])>,
    mut change: impl AsyncFnMut(&str, &[i64]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let (mut attendant, gauge) = (Attendant::begin(), Gauge::default());
    gauge.expect(batches.iter().map(|(_, seqs)| seqs.len() as u64).sum());
    let stop = attendant.shutdown();
    let work = async {
        for (slot, seqs) in batches {
            if stop.is_asked() {
                return Ok(());
            }
            change(slot, seqs).await?;
            gauge.advance(seqs.len() as u64);
        }
        Ok(())
    };
    let outcome = attendant.attend(|| format!("{verb}:"), &gauge, work).await;
    let done = format!("{} {verb}", gauge.counted());
    outcome.unwrap_or(Ok(())).map_err(|fault| ended(fault, &done, GO_ON))?;
    match attendant.signal {
        Some(signal) if !gauge.is_full() => {
            Err(Fault::transient(format!("{signal}: {done}")).hint(GO_ON))
        }
        _ => Ok(()),
    }
}

async fn discard(args: &Discard, config: &Config) -> Result<bool, Fault> {
    args.which.must_be_said("discard")?;
    // Before anything is looked for: whether anybody can be asked does not hang on it.
    if !args.yes && !output::is_somebody_there() {
        return Err(Fault::usage(
            "discard asks before it gives events up, and nobody is there to answer",
            "pgoutbox parked discard … --yes",
        ));
    }
    let client = connect(config).await?;
    let found = operator::list_all(&client, &config.slots(), &args.which.filter(None)).await?;
    for event in found.iter().filter(|event| event.is_done() && args.which.names_events()) {
        say(done_with(event));
    }
    let meant: Vec<&ParkedEvent> = found.iter().filter(|event| !event.is_done()).collect();
    if meant.is_empty() {
        say("no event fits");
        return Ok(false);
    }
    // Who names all means the bad ones perhaps, and not what waits behind them.
    let waiting = meant.iter().filter(|event| event.state == "queued").count();
    if !args.yes && !agreed(&meant, waiting) {
        say("nothing was discarded");
        return Ok(false);
    }
    // Those that were listed, and no other; the last of an aggregate first: a later batch would free what an
    // earlier one leaves behind it, and it would be sent.
    let meant = by_slot(meant.into_iter());
    let mut done = DiscardReport::default();
    let batches = meant.iter().flat_map(|(slot, seqs)| seqs.rchunks(BATCH).map(|it| (*slot, it)));
    let outcome = in_batches("discarded", batches.collect(), async |slot, seqs| {
        let batch = operator::discard(&client, slot, seqs, &args.note).await?;
        done.events += batch.events;
        done.freed += batch.freed;
        done.in_flight += batch.in_flight;
        Ok(())
    })
    .await;
    let behind = if outcome.is_ok() { behind(waiting) } else { String::new() };
    say(format_args!("{} discarded{behind}", events(done.events)));
    if done.freed > 0 {
        say(format_args!("{} that waited behind tried now", events(done.freed)));
    }
    if done.in_flight > 0 {
        say(format_args!(
            "{} in flight at that moment: pgoutbox parked show says in the note what became of it",
            events(done.in_flight)
        ));
    }
    outcome?;
    Ok(done.events > 0)
}

/// How many are listed before it is asked.
const LISTED: usize = 10;

/// Lists what is meant, and asks.
fn agreed(meant: &[&ParkedEvent], waiting: usize) -> bool {
    let aggregates: BTreeSet<String> = meant.iter().filter_map(|event| event.aggregate()).collect();
    for event in meant.iter().take(LISTED) {
        let reason = event.reason.as_deref().unwrap_or("waits behind another");
        let aggregate = event.aggregate().unwrap_or_default();
        say(format_args!(
            "  seq {}  {}  {}  {}",
            event.seq,
            Printable(event.event_id.as_deref().unwrap_or("an unreadable id")),
            Printable(&aggregate),
            Printable(reason)
        ));
    }
    if let Some(more) = meant.len().checked_sub(LISTED).filter(|more| *more > 0) {
        say(format_args!(
            "  … and {} more: pgoutbox parked list --waiting lists them",
            thousands(more as u64)
        ));
    }
    let of = match aggregates.len() {
        0 => String::new(),
        1 => " of 1 aggregate".to_owned(),
        several => format!(" of {} aggregates", thousands(several as u64)),
    };
    let count = events(i64::try_from(meant.len()).unwrap_or(i64::MAX));
    output::agrees(&format!(
        "discard {count}{of}{}? They are not delivered; [y/N] ",
        behind(waiting)
    ))
}

/// How many of them were never tried.
fn behind(waiting: usize) -> String {
    match waiting {
        0 => String::new(),
        _ => format!(
            ", of which {} only wait behind another and were never tried",
            thousands(waiting as u64)
        ),
    }
}

fn waits(count: i64) -> String {
    let shown = thousands(count.unsigned_abs());
    if count == 1 { "1 event waits".to_owned() } else { format!("{shown} events wait") }
}

pub(super) fn events(count: i64) -> String {
    let shown = thousands(count.unsigned_abs());
    if count == 1 { "1 event".to_owned() } else { format!("{shown} events") }
}

pub(super) use crate::text::span_seconds as span;

#[cfg(test)]
mod tests {
    use super::aggregate;

    #[test]
    fn an_aggregate_has_two_parts() {
        assert_eq!(aggregate("order/7"), Ok(("order".into(), "7".into())));
        assert_eq!(aggregate("a/b/c"), Ok(("a".into(), "b/c".into())));
        assert_eq!(aggregate("a/"), Ok(("a".into(), String::new())), "the empty text is one too");
        assert_eq!(aggregate("/7"), Ok((String::new(), "7".into())));
        assert!(aggregate("7").is_err() && aggregate("").is_err());
    }
}
