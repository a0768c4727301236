//! `pgoutbox prune`: one pass of pruning, now.

use std::time::Duration;

use serde_json::{Value, json};

use super::attend::{Attendant, ended};
use super::say;
use crate::config::{Config, Needs, Sources};
use crate::error::Fault;
use crate::output;
use crate::upkeep::prune::{self, Order, Pace, Report, TableReport, Trouble, UndeletablePlaces};

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
    /// Ask nothing, on a terminal either
    #[arg(long)]
    pub yes: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// Prunes, prints what it did, and says whether nothing stood in its way.
///
/// # Errors
/// Postgres cannot be asked, a right is missing, or the configuration is wrong.
pub(super) async fn run(args: &Args, sources: &Sources) -> Result<bool, Fault> {
    let config = Config::load(sources, Needs::OF_RELAY)?;
    let pace = Pace::default();
    let order = Order { keep: args.keep.or(config.prune.keep), is_dry: args.dry_run, pace: &pace };
    let mut known = UndeletablePlaces::default();
    let is_asked = !(args.yes || args.dry_run || args.json) && output::is_somebody_there();
    if is_asked && !agreed(&config, order).await? {
        say("nothing was deleted");
        return Ok(false);
    }
    let (mut attendant, mut report) = (Attendant::begin(), Report::default());
    let outcome = pass(&config, order, &mut attendant, &mut known, &mut report).await;
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

/// How the rest is deleted.
const GO_ON: &str = "go on with the same command: what is deleted is not looked for again";

/// One pass, which may be interrupted: then the report says what was done.
async fn pass(
    config: &Config,
    order: Order<'_>,
    attendant: &mut Attendant,
    known: &mut UndeletablePlaces,
    report: &mut Report,
) -> Result<(), Fault> {
    let Pace { blocks, rows, .. } = order.pace;
    let verb = if order.is_dry { "may go" } else { "deleted" };
    let what = || format!("prune: {} rows {verb}; blocks", rows.counted());
    let passed = prune::pass(config, order, known, report);
    let outcome = attendant.attend_droppable(what, blocks, passed, order.pace.rests()).await;
    // Before anything was done there is nothing to go on with.
    let has_begun = !order.is_dry && report.tables.iter().any(|table| table.rows > 0);
    let outcome = outcome.map(|outcome| match outcome {
        Err(fault) if has_begun => {
            Err(ended(fault, &format!("at block {}", blocks.counted()), GO_ON))
        }
        outcome => outcome,
    });
    outcome.unwrap_or_else(|| {
        let name = attendant.signal.unwrap_or("SIGINT");
        let what = format!(
            "{name}: the pass has ended before it was done, at block {}; what is said above was done",
            blocks.counted()
        );
        Err(Fault::transient(what).hint(GO_ON))
    })
}

/// Says what would go, and asks.
async fn agreed(config: &Config, order: Order<'_>) -> Result<bool, Fault> {
    let (pace, mut report) = (Pace::default(), Report::default());
    let dry = Order { is_dry: true, pace: &pace, ..order };
    let mut known = UndeletablePlaces::default();
    pass(config, dry, &mut Attendant::watching(), &mut known, &mut report).await?;
    print(&report, dry);
    let goes =
        |table: &TableReport| table.rows > 0 || table.parked > 0 || !table.dropped.is_empty();
    if !report.tables.iter().any(goes) {
        return Ok(true);
    }
    Ok(output::agrees("go on? What is deleted is not to be had back; [y/N] "))
}

fn as_json(report: &Report, order: Order<'_>) -> Value {
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

fn print(report: &Report, order: Order<'_>) {
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
