//! Which events a replay sends: rows of tables, or records of the parking.

use jiff::Timestamp;
use tokio_postgres::Client;

use super::Args;
use crate::cli::parked::events;
use crate::cli::say;
use crate::config::Config;
use crate::core::event::POSTGRES_EPOCH_MICROS;
use crate::error::Fault;
use crate::operator::replay::{ChosenRows, Replay, ReplayPlace, RowFilter};
use crate::operator::{self, ParkedEvent};
use crate::output;
use crate::postgres::outbox::Outbox;
use crate::text::{Printable, thousands};

/// What is to be sent, in order.
pub(super) enum Chosen<'a> {
    Rows(Vec<ChosenRows<'a>>),
    Parked(Vec<ParkedEvent>),
}

impl Chosen<'_> {
    pub(super) fn total(&self) -> u64 {
        match self {
            Self::Rows(tables) => tables.iter().map(|chosen| chosen.rows).sum(),
            Self::Parked(events) => events.len() as u64,
        }
    }

    /// The first of them, for people.
    fn first(&self) -> Vec<String> {
        let shown = |id: Option<&str>, aggregate: Option<&str>| {
            let aggregate = aggregate.map(|aggregate| format!("  {}", Printable(aggregate)));
            let id = id.unwrap_or("a row without an id");
            format!("  {}{}", Printable(id), aggregate.unwrap_or_default())
        };
        match self {
            Self::Rows(tables) => {
                let rows = tables.iter().flat_map(|chosen| &chosen.first);
                rows.map(|(id, aggregate)| shown(id.as_deref(), aggregate.as_deref())).collect()
            }
            Self::Parked(events) => events
                .iter()
                .map(|event| shown(event.event_id.as_deref(), event.aggregate().as_deref()))
                .collect(),
        }
    }

    /// Sends them, until all are or it is asked to stop.
    pub(super) async fn send(&self, ids: &[String], replay: &mut Replay<'_>) -> Result<(), Fault> {
        match self {
            Self::Rows(tables) => {
                for chosen in tables {
                    replay.chosen(chosen).await?;
                }
                if replay.is_lost() {
                    return Err(Fault::usage(
                        "the event that --after names is not among those that are chosen: nothing was sent",
                        "choose as before; where its row is gone, begin behind another one",
                    ));
                }
                replay.expect(ids);
            }
            Self::Parked(events) => {
                for event in events {
                    replay.parked(event).await?;
                }
            }
        }
        Ok(())
    }
}

/// How many are listed before it is asked.
const LISTED: usize = 10;

/// Chooses; `None` where somebody was asked and did not agree.
pub(super) async fn choose<'a>(
    args: &Args,
    client: &Client,
    config: &Config,
    outboxes: &'a [Outbox],
    xmin: &str,
    after: Option<&ReplayPlace>,
    replay: &mut Replay<'a>,
) -> Result<Option<Chosen<'a>>, Fault> {
    let chosen = if args.wants_parked() {
        Chosen::Parked(done_with(args, client, config, after).await?)
    } else {
        Chosen::Rows(rows(args, client, outboxes, xmin, replay).await?)
    };
    let total = chosen.total();
    let is_asked = !args.yes && !args.json && !args.dry_run && output::is_somebody_there();
    if !is_asked || total == 0 {
        return Ok(Some(chosen));
    }
    let first = chosen.first();
    first.iter().take(LISTED).for_each(say);
    let more = total.saturating_sub(first.len().min(LISTED) as u64);
    if more > 0 {
        say(format_args!("  … and {} more: --dry-run lists all", thousands(more)));
    }
    let question = format!(
        "send {} once more, {} a second? [y/N] ",
        events(i64::try_from(total).unwrap_or(i64::MAX)),
        args.rate
    );
    Ok(output::agrees(&question).then_some(chosen))
}

async fn rows<'a>(
    args: &Args,
    client: &Client,
    outboxes: &'a [Outbox],
    xmin: &str,
    replay: &mut Replay<'a>,
) -> Result<Vec<ChosenRows<'a>>, Fault> {
    let (aggregate_type, aggregate_id) = args.aggregate.clone().unzip();
    let mut chosen = Vec::new();
    for outbox in outboxes {
        let literal = async |at: Option<Timestamp>| match at {
            Some(at) => outbox.time_literal(client, at).await,
            None => Ok(String::new()),
        };
        let filter = RowFilter {
            ids: args.ids.clone(),
            aggregate_type: aggregate_type.clone(),
            aggregate_id: aggregate_id.clone(),
            since: literal(args.since).await?,
            until: literal(args.until).await?,
            committed_since: absolute(args.committed_since),
            committed_until: absolute(args.committed_until),
            relayed_since: absolute(args.relayed_since),
            relayed_until: absolute(args.relayed_until),
            only: args.only(),
            xmin: xmin.to_owned(),
        };
        chosen.push(replay.choose(outbox, &filter).await?);
    }
    Ok(chosen)
}

fn absolute(at: Option<Timestamp>) -> String {
    at.map(|at| at.to_string()).unwrap_or_default()
}

/// Discarded and dead-lettered events, in commit order. Others are the relay's.
async fn done_with(
    args: &Args,
    client: &Client,
    config: &Config,
    after: Option<&ReplayPlace>,
) -> Result<Vec<ParkedEvent>, Fault> {
    let (aggregate_type, aggregate_id) = args.aggregate.clone().unzip();
    let states = [("discarded", args.discarded), ("dead_lettered", args.dead_lettered)];
    let states = states.into_iter().filter(|(_, is_wanted)| *is_wanted);
    let mut filter = operator::ParkedFilter {
        states: states.map(|(state, _)| state.to_owned()).collect(),
        table: args.table.clone().unwrap_or_default(),
        aggregate_type,
        aggregate_id,
        ..operator::ParkedFilter::default()
    };
    if !args.seqs.is_empty() {
        filter.seqs = args.seqs.clone();
        filter.states =
            operator::OPEN.into_iter().chain(operator::DONE).map(str::to_owned).collect();
    }
    let mut found = operator::list_all(client, &config.slots(), &filter).await?;
    if let Some(open) = found.iter().find(|event| !event.is_done()) {
        return Err(Fault::definite(
            format!("{} is not done with: the relay itself will send it", open.title()),
            format!("pgoutbox parked retry --seq {}", open.seq),
        ));
    }
    if let Some(missing) = args.seqs.iter().find(|seq| found.iter().all(|event| event.seq != **seq))
    {
        return Err(Fault::definite(
            format!("no parked event has the number {missing}"),
            "pgoutbox parked list --state all",
        ));
    }
    found.retain(|event| {
        let at = event.position.commit_lsn;
        args.from_lsn.is_none_or(|from| at >= from) && args.to_lsn.is_none_or(|to| at < to)
    });
    found.retain(|event| {
        let at = event.commit_time.saturating_add(POSTGRES_EPOCH_MICROS);
        args.committed_since.is_none_or(|since| at >= since.as_microsecond())
            && args.committed_until.is_none_or(|until| at < until.as_microsecond())
    });
    // In the order of their numbers, so that a record that is gone by now is no reason to stop.
    if let Some(ReplayPlace::Parked(after)) = after {
        found.retain(|event| event.seq > *after);
    }
    Ok(found)
}
