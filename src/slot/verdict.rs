//! What the state of the slot means for a relay.

use tokio_postgres::{Client, Row};

use super::{Finding, Loss, SlotState, UnreadSlot, never_there};
use crate::config::Config;
use crate::error::Fault;
use crate::postgres::column;
use crate::postgres::sql;
use crate::slot::catch_up;

/// What this database knows of the slot.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SlotHistory {
    /// It never was one of a relay here.
    None,
    /// It was one.
    Known,
    /// Rows wait for it to be made, or to be published before its stream.
    CatchUp,
}

/// From pgoutbox's own tables.
pub(super) async fn history(
    client: &Client,
    config: &Config,
    has_catch_up: bool,
) -> Result<SlotHistory, Fault> {
    let slot = &config.postgres.slot;
    if !has_catch_up {
        return Ok(SlotHistory::None);
    }
    Ok(if catch_up::report(client, slot).await?.is_some() {
        SlotHistory::CatchUp
    } else if catch_up::is_known(client, slot).await? {
        SlotHistory::Known
    } else {
        SlotHistory::None
    })
}

/// Whether `run` would read rows from the table now.
pub(super) fn is_table_read(
    config: &Config,
    slot: Option<&SlotState>,
    history: SlotHistory,
) -> bool {
    let is_gone = slot.is_none_or(|slot| slot.why_lost().is_some());
    let is_remade = is_gone && history != SlotHistory::None;
    config.is_catching_up() && (is_remade || history == SlotHistory::CatchUp)
}

/// The relay is to stop: its slot is gone or lost, and it is not to make a new one.
pub(super) fn is_halting(config: &Config, slot: Option<&SlotState>, history: SlotHistory) -> bool {
    let is_gone = slot.is_none_or(|slot| slot.why_lost().is_some());
    is_gone && (slot.is_some() || history != SlotHistory::None) && !config.is_catching_up()
}

/// A slot that is gone, or lost for this reason.
fn gone(config: &Config, reason: Option<&str>, is_paused: bool) -> Finding {
    let name = if reason.is_some() { "slot-lost" } else { "slot-missing" };
    let loss = Loss::of(config);
    let (what, hint) = (loss.what(reason), loss.hint(reason.is_some(), is_paused));
    if config.is_catching_up() {
        return Finding::warning(
            name,
            format!(
                "{what}; a relay that runs makes a new one, and publishes the rows that wait in the \
                 table first (postgres.on_slot_loss)"
            ),
            hint,
        );
    }
    let shown = match config.has_marks() {
        false => "",
        true => ": the rows without a mark show them",
    };
    Finding::error(name, format!("{what}{shown}"), hint)
}

/// Everything that stands against reading it, at once.
pub(super) fn findings(
    server: &Row,
    slot: Option<&SlotState>,
    (history, unread): (SlotHistory, &[UnreadSlot]),
    config: &Config,
    is_paused: bool,
) -> Result<Vec<Finding>, Fault> {
    let Some(slot) = slot else {
        return missing(server, (history, unread), config, is_paused);
    };
    let database: String = column(server, "database")?;
    let mut findings = foreign(config, slot, &database);
    if let (true, Some(reason)) = (findings.is_empty(), slot.why_lost()) {
        findings.push(gone(config, Some(reason), is_paused));
    }
    if !findings.is_empty() {
        return Ok(findings);
    }
    let name = &config.postgres.slot;
    findings.push(Finding::good(
        "slot",
        match slot.active_pid {
            Some(pid) => format!("slot \"{name}\" exists, in use by pid {pid}"),
            None => format!("slot \"{name}\" exists"),
        },
    ));
    if slot.wal_status.as_deref() == Some("unreserved") {
        findings.push(Finding::warning(
            "slot-unreserved",
            format!("slot \"{name}\" is about to be lost: it needs WAL beyond max_slot_wal_keep_size"),
            "ALTER SYSTEM SET max_slot_wal_keep_size = '100GB'; SELECT pg_reload_conf();  -- what you can spare; and start the relay: pgoutbox run",
        ));
    }
    if config.postgres.is_failover && slot.is_failover == Some(false) {
        findings.push(Finding::warning(
            "slot-failover",
            format!("slot \"{name}\" is not a failover slot, though postgres.failover is true"),
            format!("ALTER_REPLICATION_SLOT {name} (FAILOVER true);  -- on a replication connection: psql 'dbname={database} replication=database'; relay stopped"),
        ));
    }
    Ok(findings)
}

fn missing(
    server: &Row,
    (history, unread): (SlotHistory, &[UnreadSlot]),
    config: &Config,
    is_paused: bool,
) -> Result<Vec<Finding>, Fault> {
    let (slots, most): (i32, i32) = (column(server, "slots")?, column(server, "max_slots")?);
    let mut findings = vec![match history {
        SlotHistory::None => {
            let Fault { what, hint, .. } = never_there(config, unread);
            Finding::error("slot-missing", what, hint)
        }
        SlotHistory::Known | SlotHistory::CatchUp => gone(config, None, is_paused),
    }];
    if slots >= most {
        findings.push(Finding::error(
            "max-replication-slots",
            format!("all {most} replication slots are in use: none can be made"),
            format!("ALTER SYSTEM SET max_replication_slots = {};  -- then restart Postgres; or drop a slot that nobody uses", most + 10),
        ));
    }
    Ok(findings)
}

/// Slots of the name that no relay of this database can read.
fn foreign(config: &Config, slot: &SlotState, database: &str) -> Vec<Finding> {
    let name = &config.postgres.slot;
    let drop = format!("SELECT pg_drop_replication_slot({});", sql::literal(name));
    let mut findings = Vec::new();
    if slot.plugin.as_deref() != Some("pgoutput") {
        let plugin = slot.plugin.as_deref().unwrap_or("none: it is a physical slot");
        findings.push(Finding::error(
            "slot-plugin",
            format!("slot \"{name}\" has another plugin than pgoutput ({plugin})"),
            format!(
                "choose another name (postgres.slot), or, if nobody uses it: {drop} then pgoutbox init"
            ),
        ));
    }
    if slot.database.as_deref().is_some_and(|of| of != database) {
        findings.push(Finding::error(
            "slot-database",
            format!(
                "slot \"{name}\" belongs to database \"{}\", not \"{database}\"",
                slot.database.as_deref().unwrap_or_default()
            ),
            "choose another name (postgres.slot): slots are one per server and name",
        ));
    }
    if slot.is_temporary {
        findings.push(Finding::error(
            "slot-temporary",
            format!("slot \"{name}\" is temporary: it goes with the session that made it"),
            "end that session, then: pgoutbox init",
        ));
    }
    if slot.is_two_phase {
        findings.push(Finding::error(
            "slot-two-phase",
            format!(
                "slot \"{name}\" was made with two_phase: a prepared transaction would be sent before \
                 anybody knows that it is committed"
            ),
            format!(
                "{drop} then: pgoutbox init  -- makes a new one, and lists the rows that wait; relay stopped"
            ),
        ));
    }
    findings
}
