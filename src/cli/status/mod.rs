//! `pgoutbox status`: how far the relay is, and what holds it up.

mod live;
mod page;
mod summary;
mod watch;

use jiff::Timestamp;
pub(super) use live::Live;
use page::Page;
use serde_json::{Value, json};
use summary::Summary;
use tokio_postgres::Client;

use super::mood::Mood;
use crate::config::{Config, Needs, Sources, Table};
use crate::error::Fault;
use crate::operator;
use crate::postgres::outbox::Outbox;
use crate::postgres::sql;
use crate::postgres::{self, Role, column, query};
use crate::slot::catch_up::{self, CatchUpReport};
use crate::slot::{self, Loss, SlotState, UnreadSlot};
use crate::text::{span_seconds, thousands};
use crate::upkeep::ledger::{self, Counting, ParkedCount};

/// Shows the slot, the progress, what the relay is stuck on, and how many rows have no mark.
/// Where a process with the same http.address runs on this machine, also what it is at.
/// Exit code 1 where the relay is kept from delivering, no relay runs while events wait for it, or the
/// slot is missing or lost.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(
    after_help = "Examples:\n  pgoutbox status\n  pgoutbox status --watch\n  pgoutbox status --json | jq .slot.retained_wal_bytes"
)]
pub(super) struct Args {
    /// As JSON
    #[arg(long, conflicts_with = "watch")]
    pub json: bool,
    /// Refresh every second, until Ctrl-C
    #[arg(long)]
    pub watch: bool,
}

/// What starts a relay.
pub(super) const START: &str =
    "start pgoutbox run (systemctl start pgoutbox), and see the end of its log";

struct UnmarkedRows {
    table: String,
    rows: Option<i64>,
    is_estimate: bool,
    why_not: Option<String>,
}

/// The slot's row of progress.
pub(super) struct ProgressRow {
    pub(super) end_lsn: String,
    pub(super) settled: i64,
    pub(super) updated_at: String,
    pub(super) fault: Option<Value>,
    fault_at: Option<String>,
    fault_seconds: Option<f64>,
}

impl ProgressRow {
    /// What `check` calls that; empty where a version before this one has written it.
    pub(super) fn cause(&self) -> &str {
        let cause = self.fault.as_ref().and_then(|fault| fault.get("cause"));
        cause.and_then(Value::as_str).unwrap_or_default()
    }

    /// What keeps the relay from delivering, and what helps.
    pub(super) fn stuck(&self) -> Option<(String, String)> {
        let fault = self.fault.as_ref()?;
        let text = |key: &str| fault.get(key).and_then(Value::as_str).unwrap_or_default();
        Some((format!("the relay is stuck: {}", text("what")), text("hint").to_owned()))
    }
}

/// What waits where no relay reads the slot.
pub(super) fn no_relay(lag: i64) -> String {
    format!("no relay runs: {} of WAL wait, and the server keeps them on disk", bytes(Some(lag)))
}

/// Whether any row waits for the relay, as far as that can be seen.
pub(super) async fn has_waiting(client: &Client, config: &Config) -> bool {
    has_events(&unmarked(client, config).await)
}

/// Without marks there is no record of whether events are among what waits.
fn has_events(unmarked: &[UnmarkedRows]) -> bool {
    unmarked.iter().any(|one| one.rows != Some(0))
}

/// Looks, prints, and says whether all is well.
///
/// # Errors
/// Postgres cannot be asked, or the configuration is wrong.
pub(super) async fn run(args: &Args, sources: &Sources) -> Result<bool, Fault> {
    let config = Config::load(sources, Needs::OF_RELAY)?;
    if args.watch {
        return watch::run(&config).await;
    }
    let client = match client(&config).await {
        Ok(client) => client,
        Err(fault) if args.json => return Err(fault),
        Err(fault) => return without_postgres(&config, fault).await,
    };
    let unmarked = unmarked(&client, &config).await;
    let facts = Facts::look(&client, &config).await?;
    if args.json {
        crate::cli::say_json(facts.json(&config, &unmarked));
    } else {
        facts.page(&config, &unmarked).print();
    }
    Ok(facts.is_well(&unmarked))
}

/// Where Postgres cannot be asked, what the process that runs here says of itself.
async fn without_postgres(config: &Config, fault: Fault) -> Result<bool, Fault> {
    let live = Live::ask(config).await;
    if live.is_told() {
        let mut page = Page::default();
        let summary = Summary::alone(&live, &fault);
        page.begin(summary.mood, summary.line());
        live.print(&mut page);
        page.print();
    }
    Err(fault)
}

async fn client(config: &Config) -> Result<Client, Fault> {
    let (client, _driver) = postgres::connect(Role::Status, &config.postgres).await?;
    Ok(client)
}

/// What can be had at little cost.
struct Facts {
    live: Live,
    /// What it means where the slot is lost.
    loss: Loss,
    slot: Option<SlotState>,
    /// Another program has the slot, and no relay.
    taken: Option<Fault>,
    progress: Option<ProgressRow>,
    catch_up: Option<CatchUpReport>,
    guard: Option<Value>,
    paused: Option<Value>,
    parked: Vec<ParkedCount>,
    /// Of other relays, which do not run.
    unread_slots: Vec<UnreadSlot>,
}

impl Facts {
    async fn look(client: &Client, config: &Config) -> Result<Self, Fault> {
        let user = slot::user(client, &config.postgres.slot).await?;
        Ok(Self {
            live: Live::ask(config).await,
            loss: Loss::of(config),
            slot: slot::state(client, &config.postgres.slot).await?,
            taken: user.and_then(|user| user.fault(config)),
            progress: progress(client, config).await?,
            catch_up: catch_up(client, config).await?,
            guard: guard(client, config).await?,
            paused: paused(client, config).await,
            // A schema of an earlier version has no parking; `check` says so.
            parked: ledger::parked(client, &config.postgres.slot).await.unwrap_or_default(),
            unread_slots: slot::unread(client, config).await?,
        })
    }

    fn is_well(&self, unmarked: &[UnmarkedRows]) -> bool {
        let has_events = has_events(unmarked);
        let is_slot_well = self.slot.as_ref().is_some_and(|slot| slot.why_lost().is_none());
        let is_stuck = self.progress.as_ref().is_some_and(|progress| progress.fault.is_some());
        is_slot_well
            && self.taken.is_none()
            && !is_stuck
            && self.live.is_ready()
            && !(has_events && self.unread().is_some())
    }

    /// WAL that waits while no relay runs: none here says that it does, and none uses the slot.
    fn unread(&self) -> Option<i64> {
        // A lost slot keeps nothing.
        let is_unread = |slot: &&SlotState| !slot.is_active && slot.why_lost().is_none();
        let slot = self.slot.as_ref().filter(|slot| is_unread(slot) && !self.live.runs())?;
        slot.confirmed_lag_bytes.filter(|lag| *lag > 0)
    }

    fn json(&self, config: &Config, unmarked: &[UnmarkedRows]) -> Value {
        let mut json = as_json(
            config,
            self.slot.as_ref(),
            self.progress.as_ref(),
            self.catch_up.as_ref(),
            self.guard.as_ref(),
            &self.parked,
            unmarked,
        );
        if let Some(json) = json.as_object_mut() {
            json.insert("paused".to_owned(), json!(self.paused));
            json.insert("live".to_owned(), self.live.json());
            json.insert("summary".to_owned(), Summary::of(self, unmarked).json());
            json.insert("is_well".to_owned(), json!(self.is_well(unmarked)));
            let unread =
                self.unread().map(|lag| json!({ "waiting_wal_bytes": lag, "hint": START }));
            json.insert("no_relay_runs".to_owned(), json!(unread));
            let others = self.unread_slots.iter().map(|it| {
                json!({ "slot": it.name, "retained_wal_bytes": it.retained_bytes, "hint": it.hint() })
            });
            json.insert("unread_slots".to_owned(), others.collect());
        }
        json
    }

    fn page(&self, config: &Config, unmarked: &[UnmarkedRows]) -> Page {
        let mut page = Page::default();
        let summary = Summary::of(self, unmarked);
        page.begin(summary.mood, summary.line());
        self.live.print(&mut page);
        let name = &config.postgres.slot;
        match &self.slot {
            None => page.say(format_args!(
                "slot      {name} does not exist\n          hint: see `pgoutbox check`"
            )),
            Some(slot) => {
                let hint = self.loss.hint(true, self.paused.is_some());
                print_slot(&mut page, name, slot, &hint);
            }
        }
        print(&mut page, self.progress.as_ref(), self.catch_up.as_ref(), unmarked);
        if let Some(lag) = self.unread() {
            page.say(format_args!("relay     {}\n          hint: {START}", no_relay(lag)));
        }
        if let Some(Fault { what, hint, .. }) = &self.taken {
            page.say(format_args!("relay     {what}\n          hint: {hint}"));
        }
        for it in &self.unread_slots {
            page.say(format_args!("other     {}\n          hint: {}", it.what(), it.hint()));
        }
        self.paused.iter().for_each(|paused| print_paused(&mut page, paused));
        // A lost slot keeps no WAL.
        let is_lost = self.slot.as_ref().is_some_and(|slot| slot.why_lost().is_some());
        let guard = self.guard.iter().filter(|_| !is_lost);
        guard.for_each(|guard| print_guard(&mut page, guard));
        self.parked.iter().for_each(|parked| print_parked(&mut page, parked));
        page
    }
}

async fn unmarked(client: &Client, config: &Config) -> Vec<UnmarkedRows> {
    let Ok(config) = &slot::expand(client, config).await else { return Vec::new() };
    let mut unmarked = Vec::new();
    for (number, table) in config.tables.iter().enumerate() {
        unmarked.push(count(client, config, number, table).await);
    }
    unmarked
}

pub(super) async fn progress(
    client: &Client,
    config: &Config,
) -> Result<Option<ProgressRow>, Fault> {
    let own = query(client, sql::CHECK_SCHEMA).await?;
    let Some(own) = own.first() else { return Ok(None) };
    if !column::<bool>(own, "has_progress")? {
        return Ok(None);
    }
    let sql = sql::render(sql::PROGRESS, &[("slot", &config.postgres.slot)])?;
    let rows = query(client, &sql).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let fault: Option<String> = column(row, "fault")?;
    Ok(Some(ProgressRow {
        end_lsn: column(row, "end_lsn")?,
        settled: column(row, "settled")?,
        updated_at: column(row, "updated_at")?,
        fault: fault.and_then(|fault| serde_json::from_str(&fault).ok()),
        fault_at: column(row, "fault_at")?,
        fault_seconds: column(row, "fault_seconds")?,
    }))
}

async fn catch_up(client: &Client, config: &Config) -> Result<Option<CatchUpReport>, Fault> {
    let own = query(client, sql::CHECK_SCHEMA).await?;
    let Some(own) = own.first() else { return Ok(None) };
    if column::<Option<bool>>(own, "can_catch_up")? != Some(true) {
        return Ok(None);
    }
    catch_up::report(client, &config.postgres.slot).await
}

/// Who paused the relay; `None` also where the schema is of an earlier version, or may not be read.
async fn paused(client: &Client, config: &Config) -> Option<Value> {
    let (by, at, note) = operator::pause_of(client, &config.postgres.slot).await.ok()??;
    Some(json!({"by": by, "at": at, "note": note}))
}

/// How the guard last found the WAL; `None` where it has said nothing yet, or may not be asked.
async fn guard(client: &Client, config: &Config) -> Result<Option<Value>, Fault> {
    let sql = sql::render(sql::GUARD, &[("slot", &config.postgres.slot)])?;
    let Ok(rows) = query(client, &sql).await else { return Ok(None) };
    let Some(row) = rows.first() else { return Ok(None) };
    let verdict: String = column(row, "verdict")?;
    let mut verdict: Value = serde_json::from_str(&verdict).unwrap_or_default();
    if let Some(object) = verdict.as_object_mut() {
        for name in ["level", "since", "seen_at"] {
            object.insert(name.to_owned(), json!(column::<String>(row, name)?));
        }
    }
    Ok(Some(verdict))
}

/// Rows that are neither marked nor parked, by the ledger's own account: `verify` says which of them
/// wait and which are missing.
async fn count(client: &Client, config: &Config, number: usize, table: &Table) -> UnmarkedRows {
    let unmarked = |counted: Result<ledger::TableLedger, String>| UnmarkedRows {
        table: table.title(),
        rows: counted.as_ref().ok().map(|ledger| ledger.waiting.rows + ledger.unmarked.rows),
        is_estimate: counted.as_ref().is_ok_and(|ledger| ledger.is_estimate),
        why_not: counted.err(),
    };
    if !table.has_marks() {
        return unmarked(Err("audit.mode = none".to_owned()));
    }
    let counted = async {
        let outbox = Outbox::find(client, config, number).await?;
        // Whether the slot has passed them does not matter here.
        let counting = Counting::of(client, &outbox, "", Timestamp::now(), false).await?;
        ledger::table(client, &counting).await
    };
    // No such column, no right to read it, or a lock: the rest of the status still counts.
    unmarked(counted.await.map_err(|fault| fault.what))
}

fn as_json(
    config: &Config,
    slot: Option<&SlotState>,
    progress: Option<&ProgressRow>,
    catch_up: Option<&CatchUpReport>,
    guard: Option<&Value>,
    parked: &[ParkedCount],
    unmarked: &[UnmarkedRows],
) -> Value {
    let slot = slot.map(|slot| {
        json!({
            "name": config.postgres.slot,
            "is_active": slot.is_active,
            "active_pid": slot.active_pid,
            "wal_status": slot.wal_status,
            "invalidation_reason": slot.invalidation_reason,
            "confirmed_flush_lsn": slot.confirmed_flush_lsn,
            "restart_lsn": slot.restart_lsn,
            "confirmed_lag_bytes": slot.confirmed_lag_bytes,
            "retained_wal_bytes": slot.retained_wal_bytes,
            "safe_wal_size_bytes": slot.safe_wal_size,
        })
    });
    let shown = progress.map(|progress| {
        json!({
            "end_lsn": progress.end_lsn,
            "settled_after_it": progress.settled,
            "updated_at": progress.updated_at,
        })
    });
    let fault = progress.and_then(|progress| progress.fault.clone()).map(|mut fault| {
        if let (Some(object), Some(at)) =
            (fault.as_object_mut(), progress.and_then(|p| p.fault_at.as_deref()))
        {
            object.entry("since").or_insert_with(|| json!(at));
            object
                .insert("lasted_seconds".to_owned(), json!(progress.and_then(|p| p.fault_seconds)));
        }
        fault
    });
    let unmarked: Vec<_> = unmarked
        .iter()
        .map(|u| json!({ "table": u.table, "rows": u.rows, "is_estimate": u.is_estimate, "why_not": u.why_not }))
        .collect();
    let catch_up = catch_up.map(|report| {
        json!({
            "is_listed": report.is_listed,
            "why": report.why,
            "done": report.done,
            "total": report.total,
            "begun_at": report.begun_at,
        })
    });
    json!({
        "slot": slot,
        "progress": shown,
        "catch_up": catch_up,
        "fault": fault,
        "guard": guard,
        "parked": parked.iter().map(parked_json).collect::<Vec<_>>(),
        "unmarked": unmarked,
    })
}

pub(super) fn bytes(bytes: Option<i64>) -> String {
    let bytes = bytes.map(|bytes| u64::try_from(bytes).unwrap_or(0));
    bytes.map_or_else(|| "unknown".to_owned(), |bytes| bytesize::ByteSize(bytes).to_string())
}

fn print(
    page: &mut Page,
    progress: Option<&ProgressRow>,
    catch_up: Option<&CatchUpReport>,
    unmarked: &[UnmarkedRows],
) {
    match progress {
        None => page.say("progress  none yet"),
        Some(progress) => {
            page.say(format_args!(
                "progress  settled to {}, written {}",
                progress.end_lsn, progress.updated_at
            ));
            print_fault(page, progress);
        }
    }
    if let Some(report) = catch_up {
        print_catch_up(page, report);
    }
    for one in unmarked {
        match (one.rows, &one.why_not) {
            (Some(rows), _) => {
                let about = if one.is_estimate { "about " } else { "" };
                page.say(format_args!("unmarked  {about}{rows} rows of {}", one.table));
            }
            (None, why) => page.say(format_args!(
                "unmarked  unknown for {}: {}",
                one.table,
                why.as_deref().unwrap_or_default()
            )),
        }
    }
}

fn print_catch_up(page: &mut Page, report: &CatchUpReport) {
    if report.is_listed {
        let shown = |rows: i64| thousands(rows.unsigned_abs());
        page.say(format_args!(
            "catch-up  {} of {} rows are published",
            shown(report.done),
            shown(report.total)
        ));
    } else {
        page.say("catch-up  pending: recreate the slot, then list the rows that wait");
    }
    page.say(format_args!("          since {}: {}", report.begun_at, report.why));
}

fn parked_json(parked: &ParkedCount) -> Value {
    json!({
        "table": parked.table,
        "state": parked.state,
        "events": parked.events,
        "oldest": parked.oldest,
    })
}

fn print_parked(page: &mut Page, parked: &ParkedCount) {
    let ParkedCount { table, state, events, oldest, .. } = parked;
    page.say(format_args!("parked    {events} {state} of {table}, the oldest since {oldest}"));
    if state == "failed" {
        page.say("          hint: pgoutbox parked list --state failed; then retry or discard");
    }
}

fn print_paused(page: &mut Page, paused: &Value) {
    let text = |key: &str| paused.get(key).and_then(Value::as_str).unwrap_or_default();
    let note = match text("note") {
        "" => String::new(),
        note => format!(": {note}"),
    };
    page.say(format_args!("paused    since {} by {}{note}", text("at"), text("by")));
    page.say("          nothing is published, WAL is kept\n          hint: pgoutbox resume");
}

fn print_guard(page: &mut Page, guard: &Value) {
    let text = |key: &str| guard.get(key).and_then(Value::as_str).unwrap_or_default();
    let level = text("level");
    if level == "calm" {
        return;
    }
    page.say(format_args!("guard     {level} since {}, seen {}", text("since"), text("seen_at")));
    page.say(format_args!("          {}", text("what")));
    page.say(format_args!("          hint: {}", text("hint")));
}

fn print_slot(page: &mut Page, name: &str, slot: &SlotState, hint: &str) {
    let usage = match slot.active_pid {
        Some(pid) => format!("in use by pid {pid}"),
        None => "not in use".to_owned(),
    };
    page.say(format_args!("slot      {name}, {usage}"));
    page.say(format_args!(
        "lag       {} not acknowledged, {} of WAL kept on disk",
        bytes(slot.confirmed_lag_bytes),
        bytes(slot.retained_wal_bytes)
    ));
    let status = slot.wal_status.as_deref().unwrap_or("unknown");
    if let Some(reason) = slot.why_lost() {
        page.say(format_args!("wal       lost ({reason})\n          hint: {hint}"));
        return;
    }
    let limit = match slot.safe_wal_size {
        Some(size) => format!("{} until it may be lost", bytes(Some(size.max(0)))),
        None => "kept without limit (max_slot_wal_keep_size is -1)".to_owned(),
    };
    page.say(format_args!("wal       {status}, {limit}"));
}

fn print_fault(page: &mut Page, progress: &ProgressRow) {
    let Some(fault) = &progress.fault else { return };
    let text = |key: &str| fault.get(key).and_then(Value::as_str);
    page.say(format_args!("stuck     {}", text("what").unwrap_or("for an unknown reason")));
    if let Some(event) = text("event_id") {
        page.say(format_args!(
            "          event {event} of {}",
            text("table").unwrap_or("an unknown table")
        ));
    }
    let since = text("since").or(progress.fault_at.as_deref());
    let lasted = progress.fault_seconds.map(|seconds| format!(", for {}", span_seconds(seconds)));
    page.say(format_args!(
        "          since {}{}",
        since.unwrap_or("unknown"),
        lasted.unwrap_or_default()
    ));
    if let Some(hint) = text("hint").filter(|hint| !hint.is_empty()) {
        page.say(format_args!("          hint: {hint}"));
    }
}
