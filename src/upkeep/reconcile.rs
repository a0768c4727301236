//! Searches the outbox for rows that the relay has passed and that are neither marked nor parked:
//! a mark that was given up, a row that the stream did not bring, marks lost in a failover.
//!
//! It runs beside the sessions on a connection of its own, and if it fails, the relay goes
//! on. A round takes a [`horizon`], waits until the slot has passed it, waits `reconcile.age` for
//! the marks, and then walks the tables by ranges of pages: no index on the mark is wanted, and a
//! table of many million relayed rows must not be read in one go.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;
use tracing::{debug, info, warn};

use crate::board::Board;
use crate::config::{Config, Table};
use crate::error::{Class, Fault, codes};
use crate::log_throttle::LogThrottle;
use crate::operator::replay::{Key, MarkFilter, Replay};
use crate::postgres::outbox::{Outbox, explain_filter};
use crate::postgres::row_range::{PLACES, middle, tid};
use crate::postgres::sql;
use crate::postgres::turn::Turn;
use crate::postgres::{self, Role, column, query, server_error};
use crate::rabbitmq::resend::{Fate, Item, Resender};
use crate::slot::{self, statements};
use crate::upkeep::horizon::{self, SlotReach};

/// Pages read in one step: 100 MB.
const STEP_PAGES: i64 = 12_800;
/// How often the slot is looked at while it is waited for.
const POLL: Duration = Duration::from_secs(1);
/// How long after a fault it is tried again, at most.
const RETRY: Duration = Duration::from_secs(60);
/// Statements that may fail in one step, while rows are looked for that cannot be looked at.
const FAILURES: u32 = 1000;
/// Rows sent once more in one round at most; the next round has the others.
const MOST: usize = 10_000;
/// Rows sent once more that are remembered at most.
const MOST_SENT: usize = 200_000;
/// Of those, events in a second: the relay's own come first.
const RATE: u32 = 100;

/// The running task; it ends when this is dropped.
pub struct Reconciler {
    now: Trigger,
    task: JoinHandle<()>,
}

/// Asks for a round at once, as after a failover of Postgres.
#[derive(Debug, Clone, Default)]
pub struct Trigger(Arc<Notify>);

impl Trigger {
    /// A round begins now: again, where one waits for the slot or for marks.
    pub fn now(&self) {
        self.0.notify_one();
    }
}

impl Reconciler {
    /// To be handed to those who know when a round is due.
    pub fn trigger(&self) -> Trigger {
        self.now.clone()
    }
}

impl Drop for Reconciler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts it, where rows are marked at all.
pub(crate) fn spawn(config: &Config, board: &Board) -> Reconciler {
    let now = Trigger::default();
    let (config, trigger, board) = (config.clone(), now.clone(), board.clone());
    let task = tokio::spawn(async move {
        if config.has_marks() {
            run(&config, &trigger, &board).await;
        }
    });
    Reconciler { now, task }
}

/// What is kept when the connection is lost: the walk goes on where it was.
#[derive(Default)]
struct Walk {
    /// `None`: no round is under way.
    xmin: Option<String>,
    /// All that are walked through.
    tables: Vec<String>,
    table: usize,
    leaf: String,
    block: i64,
    found: Vec<MissingRows>,
    /// Tables of the last round that lacked something.
    lacking: usize,
    /// Rows that were sent once more and have no mark all the same: they will not get one.
    sent: HashSet<SentKey>,
    told: LogThrottle,
}

impl Walk {
    /// Begins at the first table again, where there are others now: they have numbers.
    fn is_of(&mut self, config: &Config) {
        let tables: Vec<_> = config.tables.iter().map(Table::title).collect();
        if self.tables != tables {
            self.tables = tables;
            self.found.clear();
            (self.table, self.leaf, self.block) = (0, String::new(), 0);
        }
    }

    /// Says what is not looked at, once in a while.
    fn pass_over(&mut self, what: &str, fault: &Fault) {
        let table = what.split(':').next().unwrap_or_default();
        if self.told.is_due(&format!("{table} {:?}", fault.code())) {
            warn!(hint = fault.hint, "reconciliation: {what} is skipped: {}", fault.what);
        }
    }
}

/// Table, id and time of a row. Not its transaction: a mark that a trigger undoes writes it again.
type SentKey = (u32, Option<String>, String);

/// Rows of one table.
#[derive(Debug, Default)]
struct MissingRows {
    rows: i64,
    oldest: Option<String>,
    /// The first of them.
    first: Vec<UnmarkedRow>,
}

/// A row that is neither marked nor parked.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct UnmarkedRow {
    time: String,
    id: Option<String>,
    leaf: String,
    place: String,
}

async fn run(config: &Config, trigger: &Trigger, board: &Board) {
    let mut walk = Walk::default();
    let mut told = None;
    loop {
        let Err(fault) = session(config, trigger, &mut walk).await else { continue };
        if board.is_said(&fault).await {
            debug!(hint = fault.hint, "reconciliation: {}", fault.what);
        } else if told.as_ref() != Some(&fault.what) {
            warn!(hint = fault.hint, "reconciliation: {}", fault.what);
            told = Some(fault.what);
        }
        sleep(config.reconcile.interval.min(RETRY)).await;
    }
}

async fn session(config: &Config, trigger: &Trigger, walk: &mut Walk) -> Result<(), Fault> {
    let postgres = &config.postgres;
    let turn = loop {
        match Turn::take(config, "reconcile").await? {
            Some(turn) => break turn,
            None => sleep(config.reconcile.interval.min(RETRY)).await,
        }
    };
    let (client, _driver) = postgres::connect(Role::Reconcile, postgres).await?;
    let asked = config;
    while !turn.is_lost() {
        let began = Instant::now();
        if walk.xmin.is_none() {
            begin(&client, asked, trigger, walk).await?;
        }
        let config = &slot::expand(&client, asked).await?;
        walk.is_of(config);
        go_on(&client, config, walk).await?;
        report(&client, config, walk).await?;
        let rest = config.reconcile.interval.saturating_sub(began.elapsed());
        tokio::select! {
            () = trigger.0.notified() => {}
            () = sleep(rest) => {}
        }
    }
    Ok(())
}

/// Waits until everything that is committed now was passed by the relay, and for its marks.
async fn begin(
    client: &Client,
    config: &Config,
    trigger: &Trigger,
    walk: &mut Walk,
) -> Result<(), Fault> {
    let slot = &config.postgres.slot;
    loop {
        let point = horizon::point(client).await?;
        let waited = async {
            while horizon::reached(client, slot, &point).await? != SlotReach::Passed {
                sleep(POLL).await;
            }
            sleep(config.reconcile.age).await;
            Ok::<(), Fault>(())
        };
        tokio::select! {
            biased;
            waited = waited => waited?,
            () = trigger.0.notified() => continue,
        }
        let lacking = walk.lacking;
        let (sent, told) = (std::mem::take(&mut walk.sent), std::mem::take(&mut walk.told));
        *walk = Walk { xmin: Some(point.xmin), lacking, sent, told, ..Walk::default() };
        return Ok(());
    }
}

/// Walks from where it was to the end of the last table. What cannot be looked at keeps nobody from
/// the rest: it is said, and passed over.
async fn go_on(client: &Client, config: &Config, walk: &mut Walk) -> Result<(), Fault> {
    while let Some(table) = config.tables.get(walk.table) {
        if walk.found.len() <= walk.table {
            walk.found.push(MissingRows::default());
        }
        if !table.has_marks() {
            walk.table += 1;
            continue;
        }
        match one_table(client, config, table, walk).await {
            Err(fault) if client.is_closed() || fault.code().is_none() => return Err(fault),
            Err(fault) => walk.pass_over(&table.title(), &fault),
            Ok(()) => {}
        }
        walk.table += 1;
        (walk.leaf, walk.block) = (String::new(), 0);
    }
    Ok(())
}

async fn one_table(
    client: &Client,
    config: &Config,
    table: &Table,
    walk: &mut Walk,
) -> Result<(), Fault> {
    let xmin = walk.xmin.clone().unwrap_or_default();
    let outbox = Outbox::find(client, config, walk.table).await?;
    for (schema, name, pages) in leaves(client, &outbox).await? {
        let leaf = format!("{schema}.{name}");
        // In the order of their names, so that those before were walked.
        if leaf < walk.leaf {
            continue;
        }
        if leaf != walk.leaf {
            (walk.leaf, walk.block) = (leaf.clone(), 0);
        }
        while walk.block < pages {
            let began = Instant::now();
            let to = walk.block.saturating_add(STEP_PAGES);
            let blocks = (walk.block, to);
            let found = range(client, &outbox, (&schema, &name), blocks, &xmin, walk).await;
            match found.map_err(|fault| with_grant(fault, config, table)) {
                Err(fault) if client.is_closed() || fault.code().is_none() => return Err(fault),
                // The other leaves can be looked through all the same.
                Err(fault) => {
                    walk.pass_over(&leaf, &fault);
                    break;
                }
                Ok(found) => {
                    if let Some(missing) = walk.found.get_mut(walk.table) {
                        missing.add(found);
                    }
                }
            }
            walk.block = to;
            // Half of the time for others.
            sleep(began.elapsed()).await;
        }
    }
    Ok(())
}

/// Looks through some pages. Where the server refuses that over what is in them, they are halved
/// until the row stands alone that it refuses.
async fn range(
    client: &Client,
    outbox: &Outbox,
    (schema, name): (&str, &str),
    (from, to): (i64, i64),
    xmin: &str,
    walk: &mut Walk,
) -> Result<MissingRows, Fault> {
    let places = |block: i64| u64::try_from(block).unwrap_or(0).saturating_mul(PLACES);
    let mut found = MissingRows::default();
    let (mut work, mut failures) = (vec![(places(from), places(to))], 0);
    while let Some((from, to)) = work.pop() {
        let fault = match step(client, outbox, (schema, name), (from, to), xmin).await {
            Ok(rows) => {
                found.add(rows);
                continue;
            }
            Err(fault) => fault,
        };
        failures += 1;
        if client.is_closed() || !is_of_rows(&fault) {
            return Err(fault);
        }
        if to - from <= 1 || failures > FAILURES {
            walk.pass_over(&format!("{schema}.{name}: row {}", tid(from)), &fault);
            continue;
        }
        let middle = middle(from, to);
        work.extend([(middle, to), (from, middle)]);
    }
    Ok(found)
}

/// Something in the rows may be the cause, not the statement, its rights or a lock on the table.
fn is_of_rows(fault: &Fault) -> bool {
    let Some(error) = server_error(fault) else { return false };
    let is_of_table = fault.class == Class::Definite || fault.is_code(codes::LOCK_NOT_AVAILABLE);
    error.is_within_function || !is_of_table
}

async fn leaves(client: &Client, outbox: &Outbox) -> Result<Vec<(String, String, i64)>, Fault> {
    let rows = query(client, &outbox.render(sql::TABLE_LEAVES, &[])?).await?;
    let leaf = |row| Ok((column(row, "schema")?, column(row, "name")?, column(row, "pages")?));
    let mut leaves: Vec<(String, String, i64)> =
        rows.iter().map(leaf).collect::<Result<_, Fault>>()?;
    leaves.sort_by_key(|(schema, name, _)| format!("{schema}.{name}"));
    Ok(leaves)
}

async fn step(
    client: &Client,
    outbox: &Outbox,
    (schema, name): (&str, &str),
    (from, to): (u64, u64),
    xmin: &str,
) -> Result<MissingRows, Fault> {
    let (from, to) = (tid(from), tid(to));
    let variables =
        [("schema", schema), ("table", name), ("from", &from), ("to", &to), ("xmin", xmin)];
    let rows = query(client, &outbox.render(sql::RECONCILE, &variables)?)
        .await
        .map_err(|fault| explain_filter(fault, &outbox.title(), &outbox.filter))?;
    let Some(row) = rows.first() else { return Ok(MissingRows::default()) };
    let first: Vec<[Option<String>; 4]> =
        serde_json::from_str(&column::<String>(row, "first")?).unwrap_or_default();
    let oldest: Option<String> = column(row, "oldest")?;
    Ok(MissingRows {
        rows: column(row, "rows")?,
        oldest: oldest.filter(|_| outbox.time.is_some()),
        first: first.into_iter().map(UnmarkedRow::of).collect(),
    })
}

impl MissingRows {
    fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.oldest = match (self.oldest.take(), other.oldest) {
            (Some(one), Some(another)) => Some(one.min(another)),
            (one, another) => one.or(another),
        };
        let room = MOST.saturating_sub(self.first.len());
        self.first.extend(other.first.into_iter().take(room));
    }
}

impl UnmarkedRow {
    fn of([time, id, leaf, place]: [Option<String>; 4]) -> Self {
        let [time, leaf, place] = [time, leaf, place].map(Option::unwrap_or_default);
        Self { time, id, leaf, place }
    }

    fn sent(&self, table: u32) -> SentKey {
        (table, self.id.clone(), self.time.clone())
    }
}

fn with_grant(fault: Fault, config: &Config, table: &Table) -> Fault {
    if !fault.is_code(codes::INSUFFICIENT_PRIVILEGE) {
        return fault;
    }
    let role = &config.postgres.audit.user;
    let grants = if config.reconcile.republishes {
        slot::grants_for(sql::GRANTS_REPLAY, table, role)
    } else {
        slot::grants_for(sql::GRANTS_RECONCILE, table, role)
    };
    fault.hint(grants.map(|sql| statements(&sql)).unwrap_or_default())
}

/// Ends the round: says what is missing, and sends it once more where that is wanted.
async fn report(client: &Client, config: &Config, walk: &mut Walk) -> Result<(), Fault> {
    let found = std::mem::take(&mut walk.found);
    walk.xmin = None;
    let lacking = found.iter().filter(|missing| missing.rows > 0).count();
    if lacking == 0 {
        if walk.lacking > 0 {
            info!("reconciliation: every row is marked, parked or on its way again");
        } else {
            debug!("reconciliation: every row is marked, parked or on its way");
        }
    }
    walk.lacking = lacking;
    for (number, missing) in found.into_iter().enumerate().filter(|(_, found)| found.rows > 0) {
        let outbox = Outbox::find(client, config, number).await?;
        let (table, rows) = (outbox.title(), missing.rows);
        let oldest = missing.oldest.clone().unwrap_or_else(|| "unknown".to_owned());
        let hint = format!("pgoutbox replay --table {table} --only unrelayed --mark");
        if config.reconcile.republishes {
            warn!(
                table,
                rows, oldest, "rows are neither marked nor parked: they are sent once more"
            );
            let sent = republish(client, config, outbox, missing, &mut walk.sent).await;
            sent.map_err(|fault| {
                config
                    .tables
                    .get(number)
                    .map_or(fault.clone(), |table| with_grant(fault, config, table))
            })?;
        } else {
            warn!(table, rows, oldest, hint, "rows are neither marked nor parked");
        }
    }
    Ok(())
}

async fn republish(
    client: &Client,
    config: &Config,
    outbox: Outbox,
    missing: MissingRows,
    sent: &mut HashSet<SentKey>,
) -> Result<(), Fault> {
    let mut found = missing.first;
    let all = found.len();
    found.retain(|row| !sent.contains(&row.sent(outbox.relation)));
    if found.len() < all {
        warn!(
            table = outbox.title(),
            rows = all - found.len(),
            hint = "look for what undoes the mark, a trigger or a rule on the table, or a missing right: pgoutbox check; \
                    they are sent again by the next process, or by pgoutbox replay",
            "reconciliation: rows that were sent once more have no mark all the same: they are not sent again"
        );
    }
    if found.is_empty() {
        return Ok(());
    }
    found.sort_unstable();
    let mut ids: HashMap<&Option<String>, usize> = HashMap::new();
    found.iter().for_each(|row| *ids.entry(&row.id).or_default() += 1);
    let is_shared = |id: &Option<String>| id.is_none() || ids.get(id).is_some_and(|rows| *rows > 1);
    let key = |row: &UnmarkedRow| Key {
        id: row.id.clone(),
        leaf: row.leaf.clone(),
        place: row.place.clone(),
        is_shared: is_shared(&row.id),
    };
    let keys: Vec<Key> = found.iter().map(key).collect();
    let outboxes = [outbox];
    let [outbox] = &outboxes;
    let mut report = |item: &Item, fate: &Fate| {
        if let Fate::Refused(refusal) = fate {
            warn!(
                event_id = item.id,
                hint = refusal.hint(),
                "reconciliation: event cannot be delivered: {refusal}"
            );
        }
    };
    let resender = Resender::connect(config, RATE).await?;
    let mut replay = Replay::new(config, client, &outboxes, resender, true, &mut report);
    for keys in keys.chunks(200) {
        if let Err(fault) = replay.keys(outbox, keys, MarkFilter::Unrelayed).await {
            replay.give_up().await;
            return Err(fault);
        }
    }
    let (tally, outcome) = replay.finish().await;
    outcome?;
    let in_vain: HashSet<&String> = tally.in_vain.iter().collect();
    let is_in_vain = |row: &&UnmarkedRow| row.id.as_ref().is_some_and(|id| in_vain.contains(id));
    // What has no room is sent again: as many in a round as any round may send.
    let room = MOST_SENT.saturating_sub(sent.len());
    sent.extend(found.iter().filter(is_in_vain).take(room).map(|row| row.sent(outbox.relation)));
    info!(
        delivered = tally.delivered,
        refused = tally.refused.len(),
        held = tally.held.len(),
        "reconciliation: sent once more"
    );
    Ok(())
}
