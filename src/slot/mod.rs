//! The slot, the publication, and whether everything the relay needs is in place.
//!
//! `init` creates things, `check` and the start of `run` look at them ([`preflight()`]), and the running
//! relay asks one cheap question again and again ([`coverage()`]).
//!
//! **Invariant:** looking changes nothing, and a slot that somebody uses is never dropped. Nothing here
//! knows the broker or the relay.

pub(crate) mod catch_up;
mod attached;
mod former_marks;
mod former_outbox;
mod hand_over;
mod coverage;
mod coverage_row;
mod cause;
mod finding;
mod found;
mod leaf_filters;
mod loss;
mod messages;
mod own_tables;
mod pitfalls;
mod preflight;
mod privileges;
mod reshard;
mod rewritten;
mod role;
mod server;
mod shards;
mod sharing;
mod table;
mod unread;
mod user;
mod verdict;

use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

pub(crate) use crate::postgres::grants::{grants_for, statements};
pub(crate) use attached::{KnownPartitions, attached};
pub(crate) use cause::{cause, known, of_broker};
pub(crate) use coverage::{Coverage, Digest, coverage, record_coverage};
pub(crate) use finding::one_of_each;
pub use finding::{Finding, NAMES, Severity};
pub(crate) use former_marks::former_marks;
pub(crate) use former_outbox::{FormerOutbox, away, record_outboxes, with_away};
pub(crate) use found::{
    TableChanges, change, expand, expand_to_make, is_written_before, is_written_by,
};
pub(crate) use hand_over::Predecessor;
pub(crate) use loss::{Loss, is_paused};
pub(crate) use messages::MESSAGES;
pub(crate) use preflight::Prerequisites;
pub use preflight::preflight;
pub(crate) use preflight::{Preflight, standby};
pub(crate) use reshard::Reshard;
pub(crate) use rewritten::{Rewrites, now, rewritten};
pub(crate) use shards::{Layout, is_of_layout};
pub(crate) use sharing::sharing;
pub(crate) use table::columns_of_today;
pub(crate) use unread::{UnreadSlot, unread};
pub(crate) use user::{SlotUser, user};

use crate::config::{Config, Table};
use crate::core::relay::Resolution;
use crate::error::Fault;
use crate::postgres::sql;
use crate::postgres::{self, column, query};

/// The slot as the server sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotState {
    /// Output plugin; `None` for a physical slot.
    pub plugin: Option<String>,
    /// Database; `None` for a physical slot.
    pub database: Option<String>,
    /// Gone with its session.
    pub is_temporary: bool,
    /// Prepared transactions come before their commit.
    pub is_two_phase: bool,
    /// A walsender reads it now.
    pub is_active: bool,
    /// That walsender.
    pub active_pid: Option<i32>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Bytes of WAL until the slot may be lost; `None` where no limit is set.
    pub safe_wal_size: Option<i64>,
    /// Why it was lost: from Postgres 17 on.
    pub invalidation_reason: Option<String>,
    /// Standbys keep a copy of it: from Postgres 17 on.
    pub is_failover: Option<bool>,
    /// It came from the primary of before, with its place: from Postgres 17 on.
    pub is_synced: bool,
    /// What the relay acknowledged last.
    pub confirmed_flush_lsn: Option<String>,
    /// From where on WAL is kept for it.
    pub restart_lsn: Option<String>,
    /// WAL between `confirmed_flush_lsn` and the server's end.
    pub confirmed_lag_bytes: Option<i64>,
    /// WAL between `restart_lsn` and the server's end: what the slot keeps on disk.
    pub retained_wal_bytes: Option<i64>,
}

impl SlotState {
    /// Why it can never be read again, where that is so.
    pub(crate) fn why_lost(&self) -> Option<&str> {
        why_lost(self.wal_status.as_deref(), self.invalidation_reason.as_deref())
    }
}

/// Why a slot with this status can never be read again, where that is so.
pub(crate) fn why_lost<'a>(
    wal_status: Option<&str>,
    invalidation_reason: Option<&'a str>,
) -> Option<&'a str> {
    let is_lost = wal_status == Some("lost");
    invalidation_reason.or(is_lost.then_some("the WAL it needs was removed"))
}

/// What became of a slot that was there and is not.
pub(crate) const GONE: &str = "it was dropped, or this server was promoted without it";

/// The slot's state; `None` where it does not exist.
pub(crate) async fn state(client: &Client, slot: &str) -> Result<Option<SlotState>, Fault> {
    let rows = query(client, &sql::render(sql::SLOT_STATE, &[("slot", slot)])?).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    Ok(Some(SlotState {
        plugin: column(row, "plugin")?,
        database: column(row, "database")?,
        is_temporary: column(row, "is_temporary")?,
        is_two_phase: column(row, "is_two_phase")?,
        is_active: column(row, "is_active")?,
        active_pid: column(row, "active_pid")?,
        wal_status: column(row, "wal_status")?,
        safe_wal_size: column(row, "safe_wal_size")?,
        invalidation_reason: column(row, "invalidation_reason")?,
        is_failover: column(row, "is_failover")?,
        is_synced: column(row, "is_synced")?,
        confirmed_flush_lsn: column(row, "confirmed_flush_lsn")?,
        restart_lsn: column(row, "restart_lsn")?,
        confirmed_lag_bytes: column(row, "confirmed_lag_bytes")?,
        retained_wal_bytes: column(row, "retained_wal_bytes")?,
    }))
}

/// Creates the slot, after the publication; returns the LSN its stream begins at. Waits for
/// every transaction that is writing, at most `timeout`. Rows that are there already are not in
/// it: [`catch_up::prepare`] lists those as well.
///
/// # Errors
/// Names the transactions that it waited for. No slot is left behind then.
pub(crate) async fn create(
    client: &Client,
    config: &Config,
    timeout: Duration,
) -> Result<String, Fault> {
    let slot = config.postgres.slot.as_str();
    let sql = creation(config, timeout)?;
    let outcome = client.batch_execute(&sql).await;
    match outcome {
        Ok(()) => {}
        Err(error) if error.code().is_some_and(took_too_long) => {
            postgres::execute(client, "RESET statement_timeout; RESET lock_timeout").await?;
            return Err(blocked(client, slot, timeout).await?);
        }
        Err(error) => return Err(postgres::classify(&error)),
    }
    // What the server says now counts, not what it said then.
    let state = state(client, slot).await?;
    state.and_then(|state| state.confirmed_flush_lsn).ok_or_else(|| {
        Fault::transient(format!("slot \"{slot}\" was created and is gone again"))
            .hint("somebody else drops slots on this server; run `pgoutbox init` again")
    })
}

/// The server's own ways to say so: the statement's time was up, or that of one of its locks.
fn took_too_long(code: &SqlState) -> bool {
    [SqlState::QUERY_CANCELED, SqlState::LOCK_NOT_AVAILABLE].contains(code)
}

/// The SQL that makes the slot.
pub(crate) fn creation(config: &Config, timeout: Duration) -> Result<String, Fault> {
    let options = if config.postgres.is_failover { ", failover => true" } else { "" };
    let millis = format!("{}ms", timeout.as_millis());
    let variables =
        [("slot", config.postgres.slot.as_str()), ("timeout", &millis), ("options", options)];
    sql::render(sql::SLOT_CREATE, &variables)
}

/// Who keeps a slot from being made, and the SQL that ends each.
pub(crate) async fn blockers(client: &Client) -> Result<(Vec<String>, Vec<String>), Fault> {
    let (mut blockers, mut hints) = (Vec::new(), Vec::new());
    for row in query(client, sql::SLOT_BLOCKERS).await? {
        blockers.push(column::<String>(&row, "who")?);
        hints.push(column::<String>(&row, "hint")?);
    }
    Ok((blockers, hints))
}

/// A slot that took too long.
pub(crate) async fn blocked(
    client: &Client,
    slot: &str,
    timeout: Duration,
) -> Result<Fault, Fault> {
    let waited = crate::text::span(timeout);
    let what = format!(
        "slot \"{slot}\" could not be created within {waited}: \
        it must wait for every transaction that is writing, in any database"
    );
    let (blockers, mut hints) = blockers(client).await?;
    if blockers.is_empty() {
        return Ok(Fault::transient(what).hint("they have ended by now: run `pgoutbox init` again"));
    }
    hints.push("then run `pgoutbox init` again".to_owned());
    Ok(Fault::definite(format!("{what}\n  {}", blockers.join("\n  ")), hints.join("\n  ")))
}

/// What to do about a slot that is gone or lost, where the relay does not see to it itself.
pub(crate) fn ways_out(config: &Config, is_there: bool) -> String {
    let drop = match is_there {
        true => format!(
            "SELECT pg_drop_replication_slot({}); then: ",
            sql::literal(&config.postgres.slot)
        ),
        false => String::new(),
    };
    let init = "pgoutbox init  -- makes a new one";
    let messages = match config.messages.is_empty() {
        true => "",
        false => "\n  messages have no rows: what was emitted meanwhile is yours to emit again",
    };
    if config.tables.is_empty() {
        return format!("{drop}{init}{messages}");
    }
    if !config.has_marks() {
        return format!(
            "{drop}{init}; with audit.mode = none there is no record of what was delivered: what was committed \
             meanwhile is yours to publish{messages}"
        );
    }
    format!(
        "{drop}{init}, and lists the rows that wait: the next run publishes them first\n  \
         or set postgres.on_slot_loss = \"catch_up\": run does that by itself{messages}"
    )
}

/// What to do about rows that may have passed by a slot that is there, where the relay does not see
/// to it itself.
pub(crate) fn ways_past(config: &Config) -> String {
    let slot = [("slot", config.postgres.slot.as_str())];
    // A file of our own without its comments: it cannot fail.
    let sql = sql::render(sql::PROGRESS_FORGET_COVERAGE, &slot).unwrap_or_default();
    let sql = sql.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join(" ");
    let go_on = format!("{sql}  -- then start it again: it goes on with the stream");
    if !config.has_marks() {
        return format!(
            "with audit.mode = none there is no record of what was delivered: publish what was committed \
             meanwhile yourself, then: {go_on}"
        );
    }
    format!(
        "set postgres.on_slot_loss = \"catch_up\": run publishes the rows that wait first\n  \
         or leave them: {go_on}"
    )
}

/// A name that was never the slot of a relay of this database.
pub(crate) fn never_there(config: &Config, unread: &[UnreadSlot]) -> Fault {
    let slot = &config.postgres.slot;
    let what = format!("slot \"{slot}\" does not exist, and no relay of this database ever had it");
    match unread.iter().find_map(|one| one.predecessor(slot)) {
        Some(Fault { what: before, hint, .. }) => {
            Fault::definite(format!("{what}; {before}"), hint)
        }
        None => Fault::definite(what, "pgoutbox init  -- or correct the name: postgres.slot"),
    }
}

/// Without marks every row of the table might wait, or none.
pub(crate) fn nothing_tells(config: &Config) -> Fault {
    Fault::halt(
        format!(
            "the rows that slot \"{}\" does not hold cannot be caught up with: with audit.mode \
             none there is no record of what was delivered",
            config.postgres.slot
        ),
        ways_out(config, false),
    )
}

/// Finds the configured table that a relation is, or is a partition of. Asked once for each
/// relation that the stream announces under a name that is not configured, with the transaction of
/// its first row.
pub(crate) async fn partition_of(
    client: &Client,
    (relation_oid, xid): (u32, u32),
    config: &Config,
) -> Result<Resolution, Fault> {
    let (relation, xid, tables) = (relation_oid.to_string(), xid.to_string(), tables_json(config));
    let variables = [
        ("relation", relation.as_str()),
        ("xid", &xid),
        ("publication", &config.postgres.publication),
        ("tables", &tables),
    ];
    let sql = sql::render(sql::TABLE_PARTITION_ROOT, &variables)?;
    let rows = query(client, &sql).await?;
    if rows.is_empty() {
        return Ok(Resolution::Gone);
    }
    let (mut is_published, mut was_part) = (false, false);
    for row in &rows {
        is_published |= column::<bool>(row, "is_published")?;
        was_part |= column::<bool>(row, "was_part")?;
        let schema: String = column(row, "schema")?;
        let name: String = column(row, "name")?;
        let is_it = |table: &Table| table.schema == schema && table.name == name;
        if let Some(table) = config.tables.iter().position(is_it) {
            return Ok(Resolution::Partition(table));
        }
    }
    // What is sent and is not in the publication was in it as a part of something. One for all tables
    // has what was detached as well.
    Ok(if is_published && !was_part { Resolution::Other } else { Resolution::Detached })
}

/// The configured tables as the SQL files want them: `[["schema", "name"], …]`.
fn tables_json(config: &Config) -> String {
    let pairs = config.tables.iter().map(|table| serde_json::json!([table.schema, table.name]));
    serde_json::Value::Array(pairs.collect()).to_string()
}
