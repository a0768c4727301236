//! Makes the slot, and lists the rows that its stream will not bring.

use std::pin::pin;
use std::time::Duration;

use postgres_types::PgLsn;
use tokio::time::{Instant, interval_at};
use tokio_postgres::Client;
use tracing::{info, warn};

use super::list::{Rows, list};
use super::raising::{TableTrial, tell};
use super::report::report;
use super::{CatchUp, finish};
use crate::config::Config;
use crate::core::event::Position;
use crate::error::{Fault, codes};
use crate::postgres::identity::Identity;
use crate::postgres::outbox;
use crate::postgres::outbox_table::OutboxTable;
use crate::postgres::raising;
use crate::postgres::sql;
use crate::postgres::turn::Turn;
use crate::postgres::{self, classify, is_of_shown_row};
use crate::slot::former_marks;
use crate::slot::{self, SlotState};
use crate::wal::{NewSlot, SlotKind, Wal};

/// How often it is said whom a new slot waits for.
const NOTICE: Duration = Duration::from_secs(30);

/// How long the making of a slot may wait for transactions that are writing.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For any one of them.
    pub each: Duration,
    /// For all of them together.
    pub all: Duration,
    /// It is tried again by itself.
    pub is_retried: bool,
}

impl Patience {
    /// The running relay's: it has nothing else to do meanwhile, and each try waits from the
    /// start.
    pub const RELAY: Self = Self {
        each: Duration::from_secs(10 * 60),
        all: Duration::from_secs(30 * 60),
        is_retried: true,
    };

    /// A command's, whose user waits.
    pub(crate) fn command(timeout: Duration) -> Self {
        Self { each: timeout, all: timeout * 2 + Duration::from_secs(10), is_retried: false }
    }
}

/// Makes the slot, or recreates it, and lists the rows that wait where its stream begins;
/// returns how many. Whatever list there was is replaced.
///
/// # Errors
/// Names the transactions that it waited for; transient where another is at it, or holds the
/// slot. What was begun is begun again by the next call.
pub async fn prepare(
    config: &Config,
    client: &Client,
    outboxes: &[OutboxTable],
    why: &str,
    patience: Patience,
) -> Result<u64, Fault> {
    let slot = config.postgres.slot.as_str();
    if !config.has_marks() {
        return Err(slot::nothing_tells(config));
    }
    let Some(_turn) = Turn::take(config, "catch-up").await? else {
        return Err(Fault::transient(format!("another pgoutbox is making slot \"{slot}\"")));
    };
    // What waited in a table that was renamed meanwhile waits there still.
    let away = slot::away(client, config, outboxes).await?;
    let (all, outboxes) = slot::with_away(config, outboxes, &away);
    let outcome = prepare_locked(&all, client, &outboxes, why, patience).await;
    if outcome.is_err() {
        // Of a transaction that was not committed.
        let _ = client.batch_execute("ROLLBACK").await;
    }
    outcome
}

async fn prepare_locked(
    config: &Config,
    client: &Client,
    outboxes: &[OutboxTable],
    why: &str,
    patience: Patience,
) -> Result<u64, Fault> {
    let slot = config.postgres.slot.as_str();
    let begin = sql::render(sql::CATCH_UP_BEGIN, &[("slot", slot), ("why", why)])?;
    // Open until the snapshot is taken: it would go with the connection.
    let (mut wal, identity) = Wal::connect(&config.postgres).await?;
    postgres::execute(client, &begin).await?;
    if let Some(state) = slot::state(client, slot).await? {
        drop_slot(config, &mut wal, &state).await?;
    }
    former_marks::tell(client, config).await;
    let is_failover = config.postgres.is_failover;
    let kind = SlotKind::Kept { name: slot, is_failover };
    let new = create(config, client, &mut wal, kind, patience).await?;
    write(config, client, outboxes, why, &new).await?;
    drop(wal);
    for table in config.unmarked() {
        let hint = "publish what was committed meanwhile yourself; postgres.on_slot_loss = \"halt\" stops instead";
        let table = table.title();
        warn!(
            hint,
            table,
            "rows that no stream brings: without marks there is no record of which rows of this table wait"
        );
    }
    record(client, slot, &identity, &new).await?;
    let total = total(client, slot).await?;
    if total == 0 {
        finish(client, slot).await?;
    }
    Ok(total)
}

/// Lists the rows that wait beside a slot that is read on: those that were committed before a point of its stream,
/// which is then to be passed up to there. Whatever list there was is replaced, in one transaction. To be called by
/// who holds the slot.
///
/// # Errors
/// As of [`prepare`]; or no slot is free for the snapshot. Nothing is changed then.
pub(crate) async fn list_beside(
    config: &Config,
    client: &Client,
    outboxes: &[OutboxTable],
    why: &str,
) -> Result<CatchUp, Fault> {
    let slot = config.postgres.slot.as_str();
    let Some(_turn) = Turn::take(config, "catch-up").await? else {
        return Err(Fault::transient(format!("another pgoutbox is making slot \"{slot}\"")));
    };
    let away = slot::away(client, config, outboxes).await?;
    let (all, outboxes) = slot::with_away(config, outboxes, &away);
    former_marks::tell(client, config).await;
    let listed = async {
        let (mut wal, _) = Wal::connect(&config.postgres).await?;
        let kind = SlotKind::ForSnapshot;
        let new = create(config, client, &mut wal, kind, Patience::RELAY).await?;
        write(&all, client, &outboxes, why, &new).await?;
        Ok(new)
    };
    let listed = listed.await;
    if listed.is_err() {
        // Of a transaction that was not committed.
        let _ = client.batch_execute("ROLLBACK").await;
    }
    let NewSlot { consistent_lsn, .. } = listed?;
    let total = total(client, slot).await?;
    Ok(CatchUp { consistent_lsn, total, why: why.to_owned() })
}

/// Rows on the list that was just written.
async fn total(client: &Client, slot: &str) -> Result<u64, Fault> {
    let listed = report(client, slot).await?.filter(|report| report.is_listed);
    let total = listed.and_then(|report| u64::try_from(report.total).ok());
    total.ok_or_else(|| Fault::transient("somebody else has begun a catch-up meanwhile"))
}

/// Writes the list. A row that fails it is left out, and named.
async fn write(
    config: &Config,
    client: &Client,
    outboxes: &[OutboxTable],
    why: &str,
    new: &NewSlot,
) -> Result<(), Fault> {
    let mut rows = Rows::find(config, client, outboxes).await?;
    let filters = rows.iter().map(|rows| &*rows.filter).filter(|filter| *filter != "true");
    let filters = filters.collect::<Vec<_>>().join("; ");
    let filters = if filters.is_empty() { "true" } else { filters.as_str() };
    let explain = |fault| outbox::explain_filter(fault, "the list of rows that wait", filters);
    let listed = client.batch_execute(&list(config, outboxes, &rows, why, new)?).await;
    let Err(error) = listed else { return Ok(()) };
    let fault = classify(&error);
    if !is_of_shown_row(&fault) {
        return Err(explain(fault));
    }
    postgres::execute(client, "ROLLBACK").await?;
    let snapshot = new.snapshot.as_str();
    let mut raising = Vec::new();
    for ((table, outbox), rows) in config.tables.iter().zip(outboxes).zip(&mut rows) {
        if !table.has_marks() {
            continue;
        }
        let trial = TableTrial { config, table, outbox, rows, snapshot };
        let of_table = raising::raising(client, outbox.relation, &trial).await.map_err(explain)?;
        rows.among = raising::all_but(&of_table);
        raising.push((table, of_table));
    }
    if raising.iter().all(|(_, of_table)| of_table.is_empty()) {
        return Err(explain(fault));
    }
    postgres::execute(client, &list(config, outboxes, &rows, why, new)?).await.map_err(explain)?;
    for (table, of_table) in &raising {
        tell(client, table, of_table).await;
    }
    Ok(())
}

/// Only a slot that is ours and that nobody reads.
async fn drop_slot(config: &Config, wal: &mut Wal, state: &SlotState) -> Result<(), Fault> {
    let slot = &config.postgres.slot;
    let database = Some(config.postgres.audit.database.as_str());
    if state.plugin.as_deref() != Some("pgoutput") || state.database.as_deref() != database {
        return Err(Fault::definite(
            format!("slot \"{slot}\" is not pgoutbox's"),
            "choose another name: postgres.slot",
        ));
    }
    if state.is_active {
        let pid = state.active_pid.unwrap_or_default();
        return Err(Fault::transient(format!(
            "cannot recreate slot \"{slot}\": in use by pid {pid}"
        )));
    }
    wal.drop_slot(slot, config.postgres.connect_timeout).await
}

async fn create(
    config: &Config,
    client: &Client,
    wal: &mut Wal,
    kind: SlotKind<'_>,
    patience: Patience,
) -> Result<NewSlot, Fault> {
    let slot = config.postgres.slot.as_str();
    let mut created = pin!(wal.create_slot(kind, patience.each, patience.all));
    let mut notice = interval_at(Instant::now() + NOTICE, NOTICE);
    let outcome = loop {
        tokio::select! {
            outcome = &mut created => break outcome,
            _ = notice.tick() => {
                let (blockers, _) = slot::blockers(client).await?;
                info!(slot, waits_for = blockers.join("; "), "the new slot waits for transactions that are writing");
            }
        }
    };
    match outcome {
        Err(fault) if fault.is_code(codes::LOCK_NOT_AVAILABLE) => {
            let mut fault = slot::blocked(client, slot, patience.each).await?;
            if patience.is_retried {
                fault.class = crate::error::Class::Transient;
            }
            Err(fault)
        }
        outcome => outcome,
    }
}

/// Everything before the list is settled on this server and timeline. That there is a row is
/// also what tells a slot that was there from a name that never was one.
async fn record(
    client: &Client,
    slot: &str,
    identity: &Identity,
    new: &NewSlot,
) -> Result<(), Fault> {
    let before = Position::before(new.consistent_lsn).commit_lsn;
    let Identity { system_identifier, timeline } = identity;
    let written = record_place(client, slot, (system_identifier, *timeline), before).await;
    written.map_err(|error| classify(&error))
}

/// Everything before this LSN is settled, and nothing of a transaction behind it.
async fn record_place(
    client: &Client,
    slot: &str,
    (system_identifier, timeline): (&str, i32),
    lsn: PgLsn,
) -> Result<(), tokio_postgres::Error> {
    let progress: [&(dyn postgres_types::ToSql + Sync); 10] = [
        &slot,
        &system_identifier,
        &timeline,
        &lsn,
        &0_i64,
        &None::<&str>,
        &0_i64,
        &0_i64,
        &None::<PgLsn>,
        &None::<i32>,
    ];
    client.execute(sql::PROGRESS_RECORD, &progress).await.map(|_| ())
}

/// Keeps where the stream of a slot begins that was made without a list. Best effort: the first
/// session does it as well.
pub(crate) async fn record_new(config: &Config, client: &Client, lsn: &str) {
    let Ok(consistent_lsn) = lsn.parse::<PgLsn>() else { return };
    let slot = config.postgres.slot.as_str();
    let Ok((wal, Identity { system_identifier, timeline })) = Wal::connect(&config.postgres).await
    else {
        return;
    };
    drop(wal);
    let _ = record_place(client, slot, (&system_identifier, timeline), consistent_lsn).await;
}
