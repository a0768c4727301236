//! Looks at the WAL for the [`guard`](crate::core::guard), says what it thinks of it, and does what
//! `guard.policy` asks for. Beside the relay, on a connection of its own: a broker that is down
//! and a session that hangs are just what it is there for.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;
use tracing::{debug, error, info, warn};

use crate::board::{Board, ParkedView, ServerView, SlotView};
use crate::config::{Config, GuardPolicy};
use crate::core::guard::{Bound, GuardVerdict, Level, Sample, Thresholds, WalGuard, YOUNG};
use crate::error::Fault;
use crate::log_throttle::LogThrottle;
use crate::postgres::sql;
use crate::postgres::{self, Role, classify, column, query};
use crate::shutdown::Shutdown;
use crate::slot::{Loss, why_lost};

/// How often what is not calm is said again.
const REMIND: Duration = Duration::from_secs(600);

/// A relay that starts again reads its slot before so many looks in a row.
const LOOKS: u32 = 12;

/// Looks every `guard.interval`, until asked to stop.
///
/// # Errors
/// Definite: the WAL is about to be full, and `guard.policy` is `stop`. Nothing else: a server
/// that cannot be asked is tried again.
pub(crate) async fn run(
    config: &Config,
    mut shutdown: Shutdown,
    board: &Board,
) -> Result<(), Fault> {
    let mut watch = Watch::new(config, board);
    loop {
        let outcome = tokio::select! {
            biased;
            () = shutdown.wait() => return Ok(()),
            outcome = watch.look() => outcome,
        };
        match outcome {
            Ok(()) => {}
            Err(Ending::Stop(fault)) => return Err(fault),
            Err(Ending::Failed(fault)) => watch.failed(&fault).await,
        }
        tokio::select! {
            biased;
            () = shutdown.wait() => return Ok(()),
            () = sleep(config.guard.interval) => {}
        }
    }
}

/// Why a look came to no good end.
enum Ending {
    /// The relay is to stop.
    Stop(Fault),
    /// It is tried again.
    Failed(Fault),
}

impl From<Fault> for Ending {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault)
    }
}

struct Watch<'a> {
    config: &'a Config,
    board: &'a Board,
    guard: WalGuard,
    began: Instant,
    client: Option<Client>,
    /// The right to see the WAL's directory is missing, and that was said.
    is_blind: bool,
    is_failing: bool,
    said_at: Option<Instant>,
    /// Level and verdict that `pgoutbox status` is still to be given.
    unrecorded: Option<(String, String)>,
    /// What an earlier process recorded was looked at.
    has_compared: bool,
    told: LogThrottle,
    held_by: String,
    /// The slot can never be read again: why.
    why_lost: Option<String>,
    /// Slots of other relays that nobody reads, with the looks in a row that found them so.
    unread: HashMap<String, u32>,
}

impl<'a> Watch<'a> {
    fn new(config: &'a Config, board: &'a Board) -> Self {
        let guard = &config.guard;
        let thresholds = Thresholds {
            warn_at: guard.warn_at,
            warn_percent: guard.warn_percent,
            act_percent: guard.act_percent,
            disk_limit: guard.disk_limit,
        };
        Self {
            config,
            board,
            guard: WalGuard::new(thresholds),
            began: Instant::now(),
            client: None,
            is_blind: false,
            is_failing: false,
            said_at: None,
            unrecorded: None,
            has_compared: false,
            told: LogThrottle::default(),
            held_by: String::new(),
            why_lost: None,
            unread: HashMap::new(),
        }
    }

    /// Once for each time that it fails, unless the sessions say the same.
    async fn failed(&mut self, fault: &Fault) {
        self.client = None;
        if self.board.is_said(fault).await {
            debug!(hint = fault.hint, "WAL guard: cannot query the server: {}", fault.what);
        } else if !std::mem::replace(&mut self.is_failing, true) {
            warn!(hint = fault.hint, "WAL guard: cannot query the server: {}", fault.what);
        }
    }

    async fn look(&mut self) -> Result<(), Ending> {
        let client = match self.client.take() {
            Some(client) if !client.is_closed() => client,
            _ => connect(self.config, Role::Guard).await?,
        };
        let sample = self.sample(&client).await?;
        self.is_failing = false;
        self.say_who_is_unread(&client).await?;
        // Without a slot nothing is kept; that it is missing is the session's to say.
        let Some((sample, mut slot)) = sample else {
            self.board.saw(seen(&client, self.config, SlotView::default()).await?);
            self.client = Some(client);
            return Ok(());
        };
        let verdict = self.guard.observe(sample);
        let verdict = self.compared(&client, verdict).await;
        slot.verdict = Some(verdict);
        self.board.saw(seen(&client, self.config, slot).await?);
        self.tell(&client, verdict).await?;
        self.record(&client).await;
        self.say_who_holds(&client, verdict).await?;
        self.client = Some(client);
        if !verdict.is_due || self.config.guard.policy == GuardPolicy::Alert {
            return Ok(());
        }
        let pause = match &self.client {
            Some(client) => self.pause(client).await,
            None => None,
        };
        self.act(verdict, pause.as_deref()).await
    }

    async fn sample(&mut self, client: &Client) -> Result<Option<(Sample, SlotView)>, Fault> {
        let slot = ("slot", self.config.postgres.slot.as_str());
        let rows = query(client, &sql::render(sql::GUARD_SAMPLE, &[slot])?).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let number = |name: &str| Ok::<_, Fault>(column::<Option<i64>>(row, name)?.map(positive));
        let wal = number("wal")?.unwrap_or(0);
        // A lost slot has none: it keeps nothing.
        let restart = number("restart")?.unwrap_or(wal);
        let on_disk = match self.config.guard.disk_limit {
            Some(_) => self.on_disk(client).await?,
            None => None,
        };
        let wal_status: Option<String> = column(row, "wal_status")?;
        let invalidation: Option<String> = column(row, "invalidation_reason")?;
        let why_lost = why_lost(wal_status.as_deref(), invalidation.as_deref()).map(str::to_owned);
        let sample = Sample {
            at: self.began.elapsed(),
            wal,
            restart,
            confirmed: number("confirmed")?.unwrap_or(restart),
            settled: (number("place")?.unwrap_or(0), number("settled")?.unwrap_or(0)),
            safe: column(row, "safe_wal_size")?,
            keep: number("keep")?,
            on_disk: on_disk.unwrap_or(wal.saturating_sub(restart)),
            is_lost: why_lost.is_some(),
        };
        let slot = SlotView {
            wal_status,
            why_lost: why_lost.clone(),
            is_active: column(row, "active")?,
            retained_bytes: wal.saturating_sub(sample.restart),
            confirmed_lag_bytes: wal.saturating_sub(sample.confirmed),
            safe_bytes: sample.safe,
            spilled_bytes: column::<Option<i64>>(row, "spilled")?.unwrap_or(0),
            verdict: None,
        };
        self.why_lost = why_lost;
        Ok(Some((sample, slot)))
    }

    /// `None` where the right is missing: then what the slot keeps stands for all of it.
    async fn on_disk(&mut self, client: &Client) -> Result<Option<u64>, Fault> {
        if self.is_blind {
            return Ok(None);
        }
        match client.query_typed(sql::SERVER_WAL_ON_DISK, &[]).await {
            Ok(rows) => {
                let bytes = rows.first().map(|row| column::<Option<i64>>(row, "bytes"));
                Ok(bytes.transpose()?.flatten().map(positive))
            }
            Err(error)
                if error.code()
                    == Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE) =>
            {
                self.is_blind = true;
                let role = sql::identifier(&self.config.postgres.audit.user);
                warn!(
                    hint = format!("GRANT pg_monitor TO {role};"),
                    "guard.disk_limit: only the WAL that the slot keeps can be counted"
                );
                Ok(None)
            }
            Err(error) => Err(classify(&error)),
        }
    }

    /// With the first look: where an earlier process has recorded another level, this one is news.
    async fn compared(&mut self, client: &Client, verdict: GuardVerdict) -> GuardVerdict {
        if std::mem::replace(&mut self.has_compared, true) {
            return verdict;
        }
        let slot = [("slot", self.config.postgres.slot.as_str())];
        let Ok(recorded) = sql::render(sql::GUARD, &slot) else { return verdict };
        let rows = query(client, &recorded).await.unwrap_or_default();
        let level = rows.first().and_then(|row| column::<String>(row, "level").ok());
        let is_other = level.is_some_and(|level| level != verdict.level.to_string());
        GuardVerdict { is_news: verdict.is_news || is_other, ..verdict }
    }

    /// Once for each change, and now and then while it lasts.
    async fn tell(&mut self, client: &Client, verdict: GuardVerdict) -> Result<(), Fault> {
        let is_calm = verdict.level == Level::Calm;
        let is_due = self.said_at.is_none_or(|at| at.elapsed() >= REMIND);
        if !verdict.is_news && (is_calm || !is_due) {
            return Ok(());
        }
        self.said_at = Some(Instant::now());
        let pause = if is_calm { None } else { self.pause(client).await };
        let what = self.words(verdict, pause.as_deref());
        let hint = self.hint(verdict, pause.is_some());
        let retained_wal_bytes = verdict.retained;
        match verdict.level {
            Level::Calm => info!(retained_wal_bytes, "{what}"),
            Level::Warning => warn!(hint, retained_wal_bytes, "{what}"),
            Level::Critical if self.why_lost.is_some() => {
                error!(hint, cause = "slot-lost", "{what}")
            }
            Level::Critical => error!(hint, retained_wal_bytes, "{what}"),
        }
        let room = verdict.room;
        let json = json!({
            "what": what,
            "hint": hint,
            "retained_wal_bytes": verdict.retained,
            "growth_bytes_per_second": verdict.growth.round(),
            "limit": room.map(|room| limit(room.bound)),
            "used_percent": room.map(|room| (room.percent * 10.0).round() / 10.0),
            "left_bytes": room.map(|room| room.left),
            "full_in_seconds": verdict.full_in.map(|full_in| full_in.as_secs()),
        });
        self.unrecorded = Some((verdict.level.to_string(), json.to_string()));
        Ok(())
    }

    /// For `pgoutbox status`: what cannot be written now is tried again with the next look.
    async fn record(&mut self, client: &Client) {
        let Some((level, verdict)) = &self.unrecorded else { return };
        let write = async {
            let statement = client.prepare(sql::GUARD_RECORD).await?;
            client.execute(&statement, &[&self.config.postgres.slot, level, verdict]).await
        };
        let Err(error) = write.await else {
            self.unrecorded = None;
            return;
        };
        let fault = classify(&error);
        if self.told.is_due(&format!("{:?}", fault.kind)) {
            warn!(
                hint = fault.hint,
                "the guard's verdict is not recorded yet, and the status shows an earlier one: {}",
                fault.what
            );
        }
    }

    /// Who paused the relay, and when: a pause is the operator's own doing, and looks like a relay
    /// that is stuck. Best effort: a schema of an earlier version has none.
    async fn pause(&self, client: &Client) -> Option<String> {
        let paused = sql::render(sql::PAUSE_STATE, &[("slot", &self.config.postgres.slot)]).ok()?;
        let rows = query(client, &paused).await.ok()?;
        let row = rows.first()?;
        let [at, by] = ["paused_at", "paused_by"].map(|name| column::<String>(row, name));
        Some(format!("the relay is paused since {} by {}", at.ok()?, by.ok()?))
    }

    /// How it stands, in a sentence.
    fn words(&self, verdict: GuardVerdict, pause: Option<&str>) -> String {
        let how = match self.why_lost.as_deref() {
            Some(reason) => Loss::of(self.config).what(Some(reason)),
            None => figures(verdict),
        };
        match pause {
            Some(pause) => format!("{how}; {pause}"),
            None => how,
        }
    }

    fn hint(&self, verdict: GuardVerdict, is_paused: bool) -> String {
        if verdict.level == Level::Calm {
            return String::new();
        }
        if self.why_lost.is_some() {
            return Loss::of(self.config).hint(true, is_paused);
        }
        let first = match is_paused {
            true => "pgoutbox resume",
            false => "see `pgoutbox status` for what holds the relay up, and remove it",
        };
        let slot = sql::literal(&self.config.postgres.slot);
        let give_up = format!(
            "or give the slot up, and catch up from the rows with relayed_at IS NULL: SELECT pg_drop_replication_slot({slot});"
        );
        match verdict.room.map(|room| room.bound) {
            Some(Bound::Disk) => format!(
                "{first}; or give the disk more room, and raise guard.disk_limit; {give_up}"
            ),
            _ => format!(
                "{first}; or, with room on the disk: ALTER SYSTEM SET max_slot_wal_keep_size = '100GB'; SELECT pg_reload_conf(); {give_up}"
            ),
        }
    }

    /// An open transaction keeps WAL that the relay is long done with.
    async fn say_who_holds(&mut self, client: &Client, verdict: GuardVerdict) -> Result<(), Fault> {
        if !verdict.is_held {
            self.held_by.clear();
            return Ok(());
        }
        let names = [
            ("application_name", self.config.postgres.application_name.as_str()),
            ("seconds", &YOUNG.as_secs().to_string()),
        ];
        let rows = query(client, &sql::render(sql::GUARD_HOLDERS, &names)?).await?;
        let (mut who, mut hints) = (Vec::new(), Vec::new());
        for row in &rows {
            who.push(column::<String>(row, "who")?);
            hints.push(column::<String>(row, "hint")?);
        }
        let who = who.join("; ");
        if !rows.is_empty() && who != self.held_by {
            warn!(
                hint = hints.join(" "),
                retained_wal_bytes = verdict.retained,
                "the relay acknowledges, but open transactions keep the WAL: {who}"
            );
            self.held_by = who;
        }
        Ok(())
    }

    /// A slot of ours that no relay reads fills the disk as well: once for each time that it is left.
    async fn say_who_is_unread(&mut self, client: &Client) -> Result<(), Fault> {
        let unread = crate::slot::unread(client, self.config).await?;
        self.unread.retain(|name, _| unread.iter().any(|one| one.name == *name));
        for one in unread {
            let looks = self.unread.entry(one.name.clone()).or_default();
            *looks = looks.saturating_add(1);
            if *looks == LOOKS {
                warn!(hint = one.hint(), retained_wal_bytes = one.retained_bytes, "{}", one.what());
            }
        }
        Ok(())
    }

    async fn act(&self, verdict: GuardVerdict, pause: Option<&str>) -> Result<(), Ending> {
        let words = self.words(verdict, pause);
        match self.config.guard.policy {
            GuardPolicy::Alert => Ok(()),
            GuardPolicy::Stop => Err(Ending::Stop(Fault::halt(
                format!("guard.policy stop: {words}"),
                self.hint(verdict, pause.is_some()),
            ))),
            GuardPolicy::DropSlot => Ok(self.drop_slot(&words).await?),
        }
    }

    /// With the stream's role: it may drop slots, and end its own walsender.
    async fn drop_slot(&self, words: &str) -> Result<(), Fault> {
        let postgres = &self.config.postgres;
        let client = connect(self.config, Role::Drop).await?;
        let names = [
            ("slot", postgres.slot.as_str()),
            ("application_name", postgres.application_name.as_str()),
        ];
        postgres::execute(&client, &sql::render(sql::SLOT_DROP, &names)?).await?;
        let slot = &postgres.slot;
        match crate::slot::state(&client, slot).await? {
            None => error!(
                hint =
                    "none is needed where postgres.on_slot_loss is catch_up; else: pgoutbox init",
                "guard.policy drop_slot_and_catch_up_later: slot \"{slot}\" was dropped: {words}"
            ),
            Some(state) => error!(
                hint = format!("SELECT pg_drop_replication_slot({});", sql::literal(slot)),
                "slot \"{slot}\" was to be dropped, but pid {} uses it, which is not a pgoutbox relay",
                state.active_pid.unwrap_or_default()
            ),
        }
        Ok(())
    }
}

async fn seen(client: &Client, config: &Config, slot: SlotView) -> Result<ServerView, Fault> {
    let sql = sql::render(sql::PARKED_OPEN, &[("slot", &config.postgres.slot)])?;
    // A schema of an earlier version has no parking: `check` says so.
    let rows = query(client, &sql).await.unwrap_or_default();
    let parked = |row| {
        Ok::<_, Fault>(ParkedView {
            state: column(row, "state")?,
            reason: column(row, "reason")?,
            events: column(row, "events")?,
            oldest_seconds: column(row, "oldest_seconds")?,
        })
    };
    let held_aggregates = rows.first().map_or(Ok(0), |row| column(row, "held"))?;
    let parked = rows.iter().map(parked).collect::<Result<_, _>>()?;
    Ok(ServerView { slot, parked, held_aggregates })
}

async fn connect(config: &Config, role: Role) -> Result<Client, Fault> {
    let (client, _driver) = postgres::connect(role, &config.postgres).await?;
    Ok(client)
}

fn positive(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn limit(bound: Bound) -> &'static str {
    match bound {
        Bound::Slot => "max_slot_wal_keep_size",
        Bound::Disk => "guard.disk_limit",
    }
}

fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).to_string()
}

fn figures(verdict: GuardVerdict) -> String {
    let retained = size(verdict.retained);
    let Some(room) = verdict.room else {
        return format!("the slot keeps {retained} of WAL, without a limit");
    };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a figure for people
    let growth = verdict.growth as u64;
    let then = match room.bound {
        Bound::Slot => "the slot is lost",
        Bound::Disk => "Postgres stops",
    };
    let when = match verdict.full_in {
        Some(full_in) => format!(
            "at {}/s it is full in {}, and then {then}",
            size(growth),
            crate::text::span(Duration::from_secs(full_in.as_secs()))
        ),
        None => "it does not grow".to_owned(),
    };
    format!(
        "the slot keeps {retained} of WAL; {:.0} % of {} is used, {} are left; {when}",
        room.percent,
        limit(room.bound),
        size(room.left)
    )
}
