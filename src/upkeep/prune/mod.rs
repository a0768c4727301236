//! Removes what nobody needs any more: rows relayed long ago, in small batches or with their
//! whole partition, and the records of events done with. Makes partitions ahead of time.
//!
//! Beside the relay, on a connection of its own for each pass: what goes wrong here is said, and
//! tried again at the next pass. Rows not relayed, parked or failed are never touched.

mod partitions;
mod rows;
mod undeletable;
mod target;

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;
use tracing::{debug, info, warn};

use crate::backoff::Backoff;
use crate::board::Board;
use crate::config::{AuditMode, Config, Table};
use crate::error::Fault;
use crate::gauge::Gauge;
use crate::postgres::sql;
use crate::postgres::turn::Turn;
use crate::postgres::{self, Role, column, execute, query};
use crate::shutdown::Shutdown;
use crate::slot;
use crate::text::span;
use target::Target;
pub(crate) use undeletable::UndeletablePlaces;

/// How long rows that could not be deleted are left alone, and what was said is not said again.
const RETRY: Duration = Duration::from_secs(3600);

/// How far a pass is, for who watches it.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Blocks of the tables that were looked through.
    pub blocks: Gauge,
    /// Rows that are deleted.
    pub rows: Gauge,
    /// It pauses: whoever ends it now loses no count of what a statement did.
    rests: watch::Sender<bool>,
}

impl Pace {
    /// Whether it pauses.
    pub(crate) fn rests(&self) -> watch::Receiver<bool> {
        self.rests.subscribe()
    }

    /// Between two statements.
    async fn pause(&self, pause: Duration) {
        self.rests.send_replace(true);
        // Also where there is no pause: who waits for this one sees it.
        yield_now().await;
        sleep(pause).await;
        self.rests.send_replace(false);
    }
}

/// What a pass is to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order<'a> {
    /// Age of its mark after which a row goes; `None`: no row goes.
    pub keep: Option<Duration>,
    /// Only look.
    pub is_dry: bool,
    /// Told as it goes.
    pub pace: &'a Pace,
}

/// What stood in the way of one thing. The rest went on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// The thing and what was wrong with it, without what changes from pass to pass: said once.
    key: String,
    /// In words.
    pub fault: Fault,
}

impl Trouble {
    fn new(key: impl Into<String>, fault: Fault) -> Self {
        Self { key: key.into(), fault }
    }
}

/// What a pass did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Somebody else prunes right now: nothing was done.
    pub is_busy: bool,
    /// One for each table.
    pub tables: Vec<TableReport>,
}

/// What a pass did to one table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TableReport {
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
    pub troubles: Vec<Trouble>,
    /// What is left to others, and why.
    pub notes: Vec<Trouble>,
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
pub(crate) async fn run(config: &Config, mut shutdown: Shutdown, board: &Board) {
    let pace = Pace::default();
    let order = Order { keep: config.prune.keep, is_dry: false, pace: &pace };
    let interval = config.prune.interval;
    let pauses = Backoff::new(interval.saturating_mul(2), interval.saturating_mul(16));
    let mut failures = 0_u32;
    let (mut said, mut known, mut since) =
        (BTreeSet::new(), UndeletablePlaces::default(), Instant::now());
    loop {
        let mut report = Report::default();
        let is_whole = since.elapsed() >= RETRY;
        if is_whole {
            (known, since) = (UndeletablePlaces::default(), Instant::now());
        }
        let outcome = tokio::select! {
            biased;
            () = shutdown.wait() => return,
            outcome = pass(config, order, &mut known, &mut report) => outcome,
        };
        tell(&report, &mut said, is_whole);
        let rest = match outcome {
            Ok(()) => {
                failures = 0;
                let is_idle = |t: &TableReport| !t.is_managed && t.troubles.is_empty();
                let is_idle = report.tables.iter().all(is_idle);
                let is_idle = is_idle && !config.has_patterns();
                if order.keep.is_none() && is_idle && !report.is_busy {
                    debug!("prune.keep is not set, and no partitions are to be made");
                    return;
                }
                interval
            }
            Err(fault) => {
                failures = failures.saturating_add(1);
                let rest = pauses.after(failures);
                let again_in = span(rest);
                if board.is_said(&fault).await {
                    debug!(hint = fault.hint, again_in, "pruning: {}", fault.what);
                } else {
                    warn!(hint = fault.hint, again_in, "pruning: {}", fault.what);
                }
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

fn tell(report: &Report, said: &mut BTreeSet<String>, is_whole: bool) {
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
    let mut lasting = BTreeSet::new();
    for table in &report.tables {
        for trouble in &table.troubles {
            if lasting.insert(trouble.key.clone()) && !said.contains(&trouble.key) {
                warn!(hint = trouble.fault.hint, "pruning: {}", trouble.fault.what);
            }
        }
        for note in &table.notes {
            if lasting.insert(note.key.clone()) && !said.contains(&note.key) {
                info!(hint = note.fault.hint, "pruning: {}", note.fault.what);
            }
        }
    }
    // Only a pass that tried everything, and was not another relay's, says what has ended.
    if is_whole && !report.is_busy {
        said.clear();
    }
    said.extend(lasting);
}

/// One pass over all tables; `known` outlives it, and `report` grows as it
/// goes. Stopping it in the middle, by dropping it,
/// is safe. What stands in the way of a row, a partition or a table is in the report, and does not
/// end the pass.
///
/// # Errors
/// A setting leaves nothing to prune by, or the server refuses a statement: what was removed until
/// then stays removed.
pub(crate) async fn pass(
    config: &Config,
    order: Order<'_>,
    known: &mut UndeletablePlaces,
    report: &mut Report,
) -> Result<(), Fault> {
    if order.keep.is_some() && !config.has_marks() && config.messages.is_empty() {
        return Err(Fault::usage(
            "audit.mode none leaves nothing that says which rows were relayed",
            "choose another audit.mode",
        ));
    }
    // A dry run changes nothing; rows that it locks for a moment, a pass leaves to the next one.
    let turn = if order.is_dry { None } else { Turn::take(config, "prune").await? };
    if turn.is_none() && !order.is_dry {
        report.is_busy = true;
        return Ok(());
    }
    let outcome = all_tables(config, order, known, report).await;
    if let Some(turn) = turn {
        turn.end().await;
    }
    outcome
}

async fn all_tables(
    config: &Config,
    order: Order<'_>,
    known: &mut UndeletablePlaces,
    report: &mut Report,
) -> Result<(), Fault> {
    let client = connect(config).await?;
    let config = &slot::expand(&client, config).await?;
    for table in &config.tables {
        let title = table.title();
        report.tables.push(TableReport { table: title.clone(), ..TableReport::default() });
        let Some(of_table) = report.tables.last_mut() else { continue };
        match one_table(&client, config, table, order, known, of_table).await {
            Ok(true) => {}
            Ok(false) => {
                report.tables.pop();
            }
            Err(fault) if client.is_closed() => return Err(fault),
            Err(mut fault) => {
                // Of a transaction that was under way.
                execute(&client, "ROLLBACK").await?;
                fault.what = format!("{title}: {}", fault.what);
                of_table.troubles.push(Trouble::new(fault.what.clone(), fault));
            }
        }
    }
    for messages in config.messages.iter().filter(|_| order.keep.is_some()) {
        let mut of_prefix = TableReport { table: messages.title(), ..TableReport::default() };
        let outcome = emitted(&client, config, messages, order, &mut of_prefix).await;
        report.tables.push(of_prefix);
        outcome?;
    }
    Ok(())
}

/// Records of events that were emitted: they have no row, so that each is done with by itself.
async fn emitted(
    client: &Client,
    config: &Config,
    messages: &Table,
    order: Order<'_>,
    report: &mut TableReport,
) -> Result<(), Fault> {
    let keep = order.keep.unwrap_or_default().as_secs_f64().to_string();
    let batch = config.prune.batch.to_string();
    let variables = [
        ("slot", config.postgres.slot.as_str()),
        ("prefix", &messages.name),
        ("keep", &keep),
        ("batch", &batch),
        ("dry", if order.is_dry { "true" } else { "false" }),
    ];
    let sql = sql::render(sql::PRUNE_EMITTED, &variables)?;
    loop {
        let rows = query(client, &sql).await?;
        let rows: i64 = rows.first().map_or(Ok(0), |row| column(row, "rows"))?;
        let rows = u64::try_from(rows).unwrap_or(0);
        report.parked += rows;
        if order.is_dry || rows < config.prune.batch as u64 {
            return Ok(());
        }
        order.pace.pause(config.prune.pause).await;
    }
}

/// `false` where there is no such table: that it is missing, others say.
async fn one_table(
    client: &Client,
    config: &Config,
    table: &Table,
    order: Order<'_>,
    known: &mut UndeletablePlaces,
    report: &mut TableReport,
) -> Result<bool, Fault> {
    let Some(target) = Target::find(client, config, table).await? else { return Ok(false) };
    let target = &target;
    let parts = partitions::list(client, config, target).await?;
    report.is_managed = parts.span.is_some();
    partitions::make(client, config, target, &parts, order, report).await?;
    let Some(keep) = order.keep.filter(|_| table.has_marks()) else { return Ok(true) };
    if table.is_marked_in_rows() && !target.has_age() {
        return Err(Fault::definite(
            "nothing says how old a relayed row is: its mark has no time, and the table no column for occurred_at",
            "add a column with \"now()\" to [tables.mark], or map [tables.columns] occurred_at",
        ));
    }
    report.notes.extend(parts.unmarked(target));
    let mut work = rows::Work::new(client, &config.prune, target, keep, order, known);
    work.parked(report).await?;
    if parts.has_ours() {
        partitions::drop_old(client, target, &parts, order, keep, report).await?;
    }
    match table.audit_mode {
        AuditMode::Update => work.marked(&parts, report).await?,
        AuditMode::SideTable => work.marked_beside(&parts, report).await?,
        AuditMode::Delete | AuditMode::None => {}
    }
    Ok(true)
}

/// A connection for a pass: never the relay's, whose marks should wait for nothing.
async fn connect(config: &Config) -> Result<Client, Fault> {
    let (client, _driver) = postgres::connect(Role::Prune, &config.postgres).await?;
    Ok(client)
}
