//! `pgoutbox prune`: one pass of pruning, now.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::say;
use crate::config::{Config, Needs, Sources};
use crate::error::Fault;
use crate::upkeep::prune::{self, Order, Report, TableReport, Trouble, UndeletablePlaces};

/// Deletes rows relayed long ago, drops old partitions and makes new ones: what `run` does every
/// prune.interval. Rows that are not relayed, parked or failed stay.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Examples:\n  \
    pgoutbox prune --keep 30days --dry-run\n  \
    pgoutbox prune --keep 30days --json | jq .tables[].rows")]
pub(super) struct Args {
    /// Age of its mark after which a relayed row goes, instead of prune.keep
    #[arg(long, value_name = "AGE", value_parser = super::bounds::span)]
    pub keep: Option<Duration>,
    /// Say what would go, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// Prunes, prints what it did, and says whether nothing stood in its way.
///
/// # Errors
/// Postgres cannot be asked, a right is missing, or the configuration is wrong.
pub(super) async fn run(args: &Args, sources: &Sources) -> Result<bool, Fault> {
    let config = Config::load(sources, Needs::POSTGRES)?;
    let order = Order { keep: args.keep.or(config.prune.keep), is_dry: args.dry_run };
    let (mut report, mut known) = (Report::default(), UndeletablePlaces::default());
    let outcome = tokio::select! {
        biased;
        name = interrupted() => Err(Fault::transient(format!(
            "{name}: the pass has ended before it was done; what is said above was done"
        ))),
        outcome = prune::pass(&config, order, &mut known, &mut report) => outcome,
    };
    if args.json {
        // Else the fault is all that is printed: two objects would be no JSON.
        if outcome.is_ok() {
            crate::cli::say_json(as_json(&report, order));
        }
    } else {
        print(&report, order);
    }
    outcome?;
    Ok(!report.is_busy && report.tables.iter().all(|table| table.troubles.is_empty()))
}

fn as_json(report: &Report, order: Order) -> Value {
    let table = |table: &TableReport| {
        let troubles = listed(&table.troubles);
        let notes = listed(&table.notes);
        json!({
            "table": table.table,
            "rows": table.rows,
            "parked": table.parked,
            "partitions_made": table.made,
            "partitions_dropped": table.dropped,
            "partitions_kept": table.kept,
            "troubles": troubles,
            "notes": notes,
        })
    };
    json!({
        "is_dry_run": order.is_dry,
        "keep_seconds": order.keep.map(|keep| keep.as_secs_f64()),
        "is_busy": report.is_busy,
        "tables": report.tables.iter().map(table).collect::<Vec<_>>(),
    })
}

fn listed(troubles: &[Trouble]) -> Vec<Value> {
    let one = |it: &Trouble| json!({ "what": it.fault.what, "hint": it.fault.hint });
    troubles.iter().map(one).collect()
}

/// By a signal: what was done until then is to be said.
async fn interrupted() -> &'static str {
    let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = (terminate, interrupt) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

fn print(report: &Report, order: Order) {
    if report.is_busy {
        say("another pass is under way: nothing was done");
        return;
    }
    if order.keep.is_none() {
        say("prune.keep is not set: no row is deleted, no partition dropped");
    }
    let would = if order.is_dry { "would be " } else { "" };
    for table in &report.tables {
        let name = &table.table;
        say(format_args!("{name}: {} rows {would}deleted", table.rows));
        if table.parked > 0 {
            say(format_args!(
                "{name}: {} records of dead-lettered or discarded events {would}deleted",
                table.parked
            ));
        }
        for partition in &table.made {
            say(format_args!("{name}: partition {partition} {would}made"));
        }
        for partition in &table.dropped {
            say(format_args!("{name}: partition {partition} {would}dropped"));
        }
        for partition in &table.kept {
            say(format_args!("{name}: partition {partition} stays: a row in it must"));
        }
        for Trouble { fault, .. } in &table.troubles {
            say(format_args!("warning {}\n        hint: {}", fault.what, fault.hint));
        }
        for Trouble { fault, .. } in &table.notes {
            say(format_args!("note    {}\n        hint: {}", fault.what, fault.hint));
        }
    }
}
