//! `pgoutbox verify`: the ledger, and whether anything in it is wrong.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::mood::Mood;
use super::parked::{events, span};
use super::status::{self, ProgressRow, bytes};
use super::{say, say_coloured};
use crate::config::{Config, Needs, Sources};
use crate::error::{Fault, codes};
use crate::postgres::outbox::{Outbox, explain_filter};
use crate::postgres::raising::{self, RaisingRow};
use crate::postgres::{self, Role, execute, sql};
use crate::slot::{self, Finding, Loss, Severity, SlotState, former_marks, grants_for, statements};
use crate::text::thousands;
use crate::upkeep::horizon::{self, SlotReach};
use crate::upkeep::ledger::{self, Count, Counting, ParkedCount, TableLedger};

/// Rows that cannot be read and are named, of one table.
const NAMED: usize = 5;
const UNREADABLE: &str = "correct the row: what its columns hold cannot be shown, or worked out";

/// Prints the ledger: of every row that was committed, whether it was delivered, is parked or
/// waits; and the slot. Exit code 1 where something is wrong: a row that is none of these, an
/// event that failed, a slot that is missing, lost or not read while WAL waits.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(
    after_help = "A row without a mark is unmarked once the slot has passed its commit and it is older than \
    reconcile.age; before that it waits. For the slot to come to what is committed now, verify \
    waits a little.\n\nAll counts are of one moment. Of a table over 100 MB a sample is counted; \
    --exact reads it all.\n\nNeeds what the relay's audit role has, or an operator's own role with\n  \
    GRANT SELECT ON outbox_messages, pgoutbox.parked, pgoutbox.progress, pgoutbox.relayed TO operator;\n\n\
    Examples:\n  pgoutbox verify\n  pgoutbox verify --exact --json | jq '.tables[].unmarked.rows'"
)]
pub(super) struct Args {
    /// Count every row, however large the table
    #[arg(long)]
    pub exact: bool,
    /// How long the relay may take to come to what is committed now
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = super::bounds::span)]
    pub wait: Duration,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

struct Ledger {
    at: Timestamp,
    reached: SlotReach,
    tables: Vec<TableLedger>,
    unreadable: Vec<Unreadable>,
    parked: Vec<ParkedCount>,
    slot: Option<SlotState>,
    is_paused: bool,
    progress: Option<ProgressRow>,
}

/// Rows of one table that are in none of its counts.
struct Unreadable {
    what: String,
    hint: String,
}

impl Unreadable {
    /// Names the first of them.
    async fn of(client: &Client, outbox: &Outbox, raising: &[RaisingRow]) -> Self {
        let mut named = Vec::new();
        for row in raising.iter().take(NAMED) {
            let id = match row.id(client, &outbox.table).await {
                Some(id) => format!(", id {id}"),
                None => String::new(),
            };
            named.push(format!("{} ctid '{}'{id}: {}", row.leaf_name, row.place(), row.fault.what));
        }
        let more = match raising.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        let count = i64::try_from(raising.len()).unwrap_or(i64::MAX);
        let fault = raising.first().map(|row| row.fault.clone());
        let fault = fault.unwrap_or_else(|| Fault::transient("")).hint(UNREADABLE);
        Self {
            what: format!(
                "{} of {} cannot be read, and {} in no count: {}{more}",
                rows(count, false),
                outbox.title(),
                if count == 1 { "is" } else { "are" },
                named.join("; "),
            ),
            hint: explain_filter(fault, "", &outbox.filter).hint,
        }
    }
}

/// Looks, prints, and says whether all is well.
///
/// # Errors
/// Postgres cannot be asked, or the configuration is wrong.
pub(super) async fn run(args: &Args, sources: &Sources) -> Result<bool, Fault> {
    let config = Config::load(sources, Needs::OF_RELAY)?;
    let (client, _driver) = postgres::connect(Role::Replay, &config.postgres).await?;
    let config = slot::expand(&client, &config).await?;
    let ledger = look(args, &client, &config).await?;
    let mut findings = findings(&config, &ledger);
    for number in 0..config.tables.len() {
        // A row that cannot be read was told of with the counts.
        if let Ok(Some(former)) = former_marks(&client, &config, number).await {
            findings.push(Finding::warning("mark-former", former.what, former.hint));
        }
    }
    if args.json {
        crate::cli::say_json(as_json(&config, &ledger, &findings));
    } else {
        let worst = findings.iter().map(|finding| finding.severity).min();
        say_coloured(Mood::of(worst), Mood::of(worst).word(), WIDTH, summary(&ledger, &findings));
        print(&config, &ledger);
        findings.iter().for_each(print_finding);
    }
    Ok(findings.iter().all(|finding| finding.severity != Severity::Error))
}

async fn look(args: &Args, client: &Client, config: &Config) -> Result<Ledger, Fault> {
    let slot = &config.postgres.slot;
    // Before the counts: a mark of what the slot has passed is seen by them.
    let point = horizon::point(client).await?;
    let reached = horizon::wait(client, slot, &point, args.wait).await?;
    let xmin = match reached {
        // Without a slot nothing is on its way.
        SlotReach::Passed | SlotReach::NoSlot => point.xmin,
        SlotReach::Behind { .. } => String::new(),
    };
    let at = Timestamp::now();
    let before = at.checked_sub(config.reconcile.age).unwrap_or(at);
    execute(client, raising::BEGIN).await?;
    let (mut tables, mut unreadable) = (Vec::new(), Vec::new());
    for number in 0..config.tables.len() {
        let outbox = Outbox::find(client, config, number).await?;
        let explained = |fault| {
            explain_filter(with_grant(fault, config, &outbox), &outbox.title(), &outbox.filter)
        };
        let counting = Counting::of(client, &outbox, &xmin, before, args.exact).await?;
        let (table, raising) = ledger::readable(client, &counting).await.map_err(explained)?;
        tables.push(table);
        if !raising.is_empty() {
            unreadable.push(Unreadable::of(client, &outbox, &raising).await);
        }
    }
    let parked = ledger::parked(client, slot).await?;
    let progress = status::progress(client, config).await?;
    execute(client, "COMMIT").await?;
    let slot = slot::state(client, slot).await?;
    let is_paused = slot::is_paused(client, config).await;
    Ok(Ledger { at, reached, tables, unreadable, parked, slot, is_paused, progress })
}

fn with_grant(fault: Fault, config: &Config, outbox: &Outbox) -> Fault {
    if !fault.is_code(codes::INSUFFICIENT_PRIVILEGE) {
        return fault;
    }
    let grants = grants_for(sql::GRANTS_RECONCILE, &outbox.table, &config.postgres.audit.user);
    fault.hint(grants.map(|sql| statements(&sql)).unwrap_or_default())
}

fn findings(config: &Config, ledger: &Ledger) -> Vec<Finding> {
    let mut findings = Vec::new();
    for table in &ledger.tables {
        if table.unmarked.rows > 0 {
            findings.push(Finding::error(
                "rows-unmarked",
                format!(
                    "{} of {} neither delivered, parked nor waiting",
                    rows(table.unmarked.rows, table.is_estimate),
                    table.title
                ),
                format!("pgoutbox replay --table {} --only unrelayed --mark", table.title),
            ));
        }
    }
    findings.extend(ledger.unreadable.iter().map(|unreadable| {
        Finding::error("rows-unreadable", unreadable.what.clone(), unreadable.hint.clone())
    }));
    let failed = ledger.parked.iter().filter(|parked| parked.state == "failed");
    let failed: i64 = failed.map(|parked| parked.events).sum();
    if failed > 0 {
        findings.push(Finding::error(
            "events-failed",
            format!("{} failed: no more tries are made", events(failed)),
            "pgoutbox parked list --state failed; then pgoutbox parked retry --state failed, or discard",
        ));
    }
    findings.extend(slot_finding(config, ledger));
    if let Some((what, hint)) = ledger.progress.as_ref().and_then(status::ProgressRow::stuck) {
        findings.push(Finding::error("relay-stuck", what, hint));
    }
    findings
}

fn slot_finding(config: &Config, ledger: &Ledger) -> Option<Finding> {
    let name = &config.postgres.slot;
    let Some(slot) = &ledger.slot else {
        let what = format!("slot \"{name}\" does not exist");
        return Some(Finding::error("slot-missing", what, "pgoutbox init"));
    };
    if let Some(reason) = slot.why_lost() {
        let loss = Loss::of(config);
        let hint = loss.hint(true, ledger.is_paused);
        return Some(Finding::error("slot-lost", loss.what(Some(reason)), hint));
    }
    match ledger.reached {
        SlotReach::Behind { bytes: behind, is_active: false } => Some(Finding::error(
            "slot-unread",
            format!("nobody reads slot \"{name}\", and {} of WAL wait for it", bytes(Some(behind))),
            "pgoutbox run",
        )),
        SlotReach::Behind { bytes: behind, is_active: true } => Some(Finding::warning(
            "relay-behind",
            format!(
                "the relay is {} of WAL behind: rows without a mark count as waiting",
                bytes(Some(behind))
            ),
            "wait until it has caught up, or longer: --wait 5m",
        )),
        SlotReach::Passed | SlotReach::NoSlot => None,
    }
}

fn rows(count: i64, is_estimate: bool) -> String {
    let about = if is_estimate { "about " } else { "" };
    let rows = if count == 1 { "row" } else { "rows" };
    format!("{about}{count} {rows}")
}

fn age(ledger: &Ledger, at: Timestamp) -> f64 {
    ledger.at.duration_since(at).as_secs_f64()
}

fn print(config: &Config, ledger: &Ledger) {
    for table in &ledger.tables {
        let estimate =
            if table.is_estimate { ", estimated from a sample: --exact counts" } else { "" };
        say(format_args!("table     {}{estimate}", table.title));
        let line = |name: &str, count: &Count| {
            let oldest = count
                .oldest
                .filter(|_| count.rows > 0)
                .map(|at| format!(", the oldest of {at:.0} ({} ago)", span(age(ledger, at))));
            say(format_args!("          {name:<10} {}{}", count.rows, oldest.unwrap_or_default()));
        };
        line("committed", &table.committed);
        match &table.delivered {
            Some(delivered) => line("delivered", delivered),
            None => say("          delivered  unknown: rows carry no mark (audit.mode)"),
        }
        say(format_args!("          {:<10} {}", "parked", table.parked));
        line("waiting", &table.waiting);
        line("unmarked", &table.unmarked);
    }
    for parked in &ledger.parked {
        say(format_args!(
            "parking   {} {} of {}, the oldest of {} ({} ago)",
            parked.events,
            parked.state,
            parked.table,
            parked.oldest,
            span(parked.age_seconds)
        ));
    }
    if let Some(slot) = &ledger.slot {
        let lsn = slot.confirmed_flush_lsn.as_deref().unwrap_or("nothing");
        let usage = if slot.is_active { "in use" } else { "not in use" };
        say(format_args!(
            "slot      {}, {usage}, acknowledged to {lsn}, {} behind",
            config.postgres.slot,
            bytes(slot.confirmed_lag_bytes)
        ));
    }
    match &ledger.progress {
        Some(progress) => say(format_args!(
            "progress  settled to {} and {} after it, written {}",
            progress.end_lsn,
            events(progress.settled),
            progress.updated_at
        )),
        None => say("progress  none yet"),
    }
}

/// Where a line's text begins.
const WIDTH: usize = 10;

/// All of it in a line: what is wrong first, or that every row is accounted for.
fn summary(ledger: &Ledger, findings: &[Finding]) -> String {
    if let Some(worst) = findings.iter().min_by_key(|finding| finding.severity) {
        return format!("{}: {}", worst.name, worst.what);
    }
    let sum = |of: fn(&TableLedger) -> i64| ledger.tables.iter().map(of).sum::<i64>();
    let about = if ledger.tables.iter().any(|table| table.is_estimate) { "about " } else { "" };
    let shown = |count: i64| thousands(count.unsigned_abs());
    format!(
        "accounted: {about}{} committed, {} of them parked, {} waiting",
        shown(sum(|table| table.committed.rows)),
        shown(sum(|table| table.parked)),
        shown(sum(|table| table.waiting.rows))
    )
}

fn print_finding(finding: &Finding) {
    let name = if finding.severity == Severity::Error { "wrong" } else { "warning" };
    say_coloured(Mood::of(Some(finding.severity)), name, WIDTH, &finding.what);
    if !finding.hint.is_empty() {
        say(format_args!("          hint: {}", finding.hint));
    }
}

fn as_json(config: &Config, ledger: &Ledger, findings: &[Finding]) -> Value {
    let count = |count: &Count| {
        json!({
            "rows": count.rows,
            "oldest": count.oldest.map(|at| at.to_string()),
            "age_seconds": count.oldest.map(|at| age(ledger, at)),
        })
    };
    let tables: Vec<Value> = ledger
        .tables
        .iter()
        .map(|table| {
            json!({
                "table": table.title,
                "is_estimate": table.is_estimate,
                "committed": count(&table.committed),
                "delivered": table.delivered.as_ref().map(count),
                "parked": { "rows": table.parked },
                "waiting": count(&table.waiting),
                "unmarked": count(&table.unmarked),
            })
        })
        .collect();
    let parked: Vec<Value> = ledger
        .parked
        .iter()
        .map(|parked| {
            json!({
                "table": parked.table, "state": parked.state, "events": parked.events,
                "oldest": parked.oldest, "age_seconds": parked.age_seconds,
            })
        })
        .collect();
    let slot = ledger.slot.as_ref().map(|slot| {
        json!({
            "name": config.postgres.slot,
            "is_active": slot.is_active,
            "wal_status": slot.wal_status,
            "confirmed_flush_lsn": slot.confirmed_flush_lsn,
            "confirmed_lag_bytes": slot.confirmed_lag_bytes,
            "has_passed_what_was_committed": ledger.reached == SlotReach::Passed,
        })
    });
    let progress = ledger.progress.as_ref().map(|progress| {
        json!({
            "end_lsn": progress.end_lsn,
            "settled_after_it": progress.settled,
            "updated_at": progress.updated_at,
        })
    });
    let is_well = findings.iter().all(|finding| finding.severity != Severity::Error);
    let worst = findings.iter().map(|finding| finding.severity).min();
    let what = summary(ledger, findings);
    let findings: Vec<Value> = findings
        .iter()
        .map(|finding| {
            let is_error = finding.severity == Severity::Error;
            json!({ "name": finding.name, "severity": if is_error { "error" } else { "warning" }, "what": finding.what, "hint": finding.hint })
        })
        .collect();
    json!({
        "is_well": is_well, "summary": { "mood": Mood::of(worst).word(), "what": what }, "at": ledger.at.to_string(), "tables": tables, "parking": parked,
        "slot": slot, "progress": progress, "findings": findings,
    })
}
