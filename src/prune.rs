//! Removes what nobody needs any more: rows relayed long ago, in small batches or with their
//! whole partition, and the records of events done with. Makes partitions ahead of time.
//!
//! Beside the relay, on a connection of its own for each pass: what goes wrong here is said, and
//! tried again at the next pass. Rows not relayed, parked or failed are never touched.

mod partitions;
mod rows;
mod target;

use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::Client;
use tracing::{debug, info, warn};

use crate::config::{AuditMode, Config};
use crate::error::Fault;
use crate::postgres::{self, column, query};
use crate::session::Shutdown;
use crate::sql;
use target::Target;

/// What the server's command line is for a pass. Rows that come back after a crash are marked
/// still; times are read as UTC; and nobody waits long for a lock held here, or here for one.
const OPTIONS: &str = "-c synchronous_commit=off -c lock_timeout=1s -c statement_timeout=10min \
    -c timezone=UTC -c datestyle=ISO -c client_min_messages=warning";

/// What a pass is to do.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    /// Age of its mark after which a row goes; `None`: no row goes.
    pub keep: Option<Duration>,
    /// Only look.
    pub is_dry: bool,
}

/// What a pass did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Somebody else prunes right now: nothing was done.
    pub is_busy: bool,
    /// One for each table.
    pub tables: Vec<TableReport>,
}

/// What a pass did to one table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableReport {
    /// Its name, with the schema.
    pub table: String,
    /// Rows deleted; with audit.mode `side_table` the marks, whose rows went too.
    pub rows: u64,
    /// Records of events dead-lettered or discarded, deleted with their rows.
    pub parked: u64,
    /// Partitions made.
    pub made: Vec<String>,
    /// Partitions dropped.
    pub dropped: Vec<String>,
    /// Partitions old enough that stay for a row in them.
    pub kept: Vec<String>,
    /// What could not be done.
    pub troubles: Vec<Fault>,
    /// Whether its partitions are pgoutbox's to make and drop.
    pub is_managed: bool,
}

impl Report {
    fn has_done_something(&self) -> bool {
        self.tables
            .iter()
            .any(|t| t.rows > 0 || t.parked > 0 || !t.made.is_empty() || !t.dropped.is_empty())
    }
}

/// Prunes every `prune.interval`, until asked to stop. Ends early where there is nothing that it
/// could ever do.
pub async fn run(config: &Config, mut shutdown: Shutdown) {
    let order = Order { keep: config.prune.keep, is_dry: false };
    let mut failures = 0_u32;
    let mut said: Vec<String> = Vec::new();
    loop {
        let outcome = tokio::select! {
            biased;
            () = shutdown.wait() => return,
            outcome = pass(config, order) => outcome,
        };
        let rest = match outcome {
            Ok(report) => {
                failures = 0;
                tell(&report, &mut said);
                let is_idle = report.tables.iter().all(|table| !table.is_managed);
                if order.keep.is_none() && is_idle && !report.is_busy {
                    debug!("prune.keep is not set, and no partitions are to be made");
                    return;
                }
                config.prune.interval
            }
            Err(fault) => {
                failures = failures.saturating_add(1);
                let rest =
                    config.prune.interval.saturating_mul(2_u32.saturating_pow(failures.min(4)));
                let again_in = humantime::format_duration(rest).to_string();
                warn!(mend = fault.mend, again_in, "pruning: {}", fault.what);
                rest
            }
        };
        tokio::select! {
            biased;
            () = shutdown.wait() => return,
            () = sleep(rest) => {}
        }
    }
}

fn tell(report: &Report, said: &mut Vec<String>) {
    if report.has_done_something() {
        for table in &report.tables {
            info!(
                table = table.table,
                rows = table.rows,
                parked = table.parked,
                partitions_made = table.made.join(", "),
                partitions_dropped = table.dropped.join(", "),
                "pruned"
            );
        }
    }
    // Once each, as long as it lasts: a pass a minute would fill the log.
    let troubles: Vec<&Fault> = report.tables.iter().flat_map(|table| &table.troubles).collect();
    for fault in troubles.iter().filter(|fault| !said.contains(&fault.what)) {
        warn!(mend = fault.mend, "pruning: {}", fault.what);
    }
    *said = troubles.iter().map(|fault| fault.what.clone()).collect();
}

/// One pass over all tables. Stopping it in the middle, by dropping it, is safe.
///
/// # Errors
/// The connection's, and a right that is missing.
pub async fn pass(config: &Config, order: Order) -> Result<Report, Fault> {
    let client = connect(config).await?;
    let lock = sql::render(sql::PRUNE_LOCK, &[("slot", &config.postgres.slot)])?;
    let rows = query(&client, &lock).await?;
    if !rows.first().map_or(Ok(false), |row| column(row, "is_free"))? {
        return Ok(Report { is_busy: true, tables: Vec::new() });
    }
    let mut report = Report::default();
    for table in &config.tables {
        let Some(target) = Target::find(&client, table).await? else { continue };
        report.tables.push(one_table(&client, config, &target, order).await?);
    }
    Ok(report)
}

async fn one_table(
    client: &Client,
    config: &Config,
    target: &Target,
    order: Order,
) -> Result<TableReport, Fault> {
    let mut report = TableReport { table: target.title(), ..TableReport::default() };
    let parts = partitions::list(client, config, target).await?;
    report.is_managed = parts.span.is_some();
    partitions::make(client, config, target, &parts, order, &mut report).await?;
    let Some(keep) = order.keep else { return Ok(report) };
    if config.audit.mode == AuditMode::None {
        return Err(Fault::usage(
            "audit.mode none leaves nothing that says which rows were relayed",
            "choose another audit.mode",
        ));
    }
    let work = rows::Work { client, prune: &config.prune, target, keep, is_dry: order.is_dry };
    report.parked = work.parked().await?;
    if report.is_managed {
        partitions::drop_old(client, config, target, &parts, order, keep, &mut report).await?;
    }
    report.rows = match config.audit.mode {
        AuditMode::Update => work.marked(&parts).await?,
        AuditMode::SideTable => work.marked_beside(&parts).await?,
        AuditMode::Delete | AuditMode::None => 0,
    };
    Ok(report)
}

/// A connection for a pass: never the relay's, whose marks should wait for nothing.
async fn connect(config: &Config) -> Result<Client, Fault> {
    let postgres = &config.postgres;
    let name: String = format!("{}/prune", postgres.application_name).chars().take(63).collect();
    let timeout = postgres.connect_timeout;
    let (client, _driver) = postgres::connect(&postgres.audit, &name, timeout, OPTIONS).await?;
    Ok(client)
}
