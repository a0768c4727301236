//! Whether the slot alone brings every row, and what is done where it does not.

use postgres_types::PgLsn;
use tokio_postgres::Client;
use tracing::{info, warn};

use super::finish;
use super::prepare::{Patience, prepare};
use super::report::{CatchUpReport, is_known, report};
use crate::config::Config;
use crate::error::Fault;
use crate::postgres::outbox_table::OutboxTable;
use crate::slot::{self, SlotState};

/// Sees to it that there is a slot that, with its list, holds every row that waits. To be asked
/// after the preflight and before the slot is taken. Says why, where it made one.
///
/// # Errors
/// Definite where the policy is to stop, where there is no record of which rows wait, or where the slot
/// was never there; transient where another relay is at it.
pub async fn ensure_slot(
    config: &Config,
    client: &Client,
    outboxes: &[OutboxTable],
) -> Result<Option<String>, Fault> {
    let name = &config.postgres.slot;
    let Some(why) = what_is_wrong(config, client).await? else { return Ok(None) };
    if !config.is_catching_up() {
        return Err(Fault::halt(format!("slot \"{name}\": {why}"), slot::ways_out(config, false)));
    }
    warn!(slot = name, why, "recreating the slot and listing the rows that wait");
    let total = prepare(config, client, outboxes, &why, Patience::RELAY).await?;
    info!(slot = name, rows = total, "listed the rows that wait: they are published first");
    Ok(Some(why))
}

/// A slot that was lost between the preflight and its use is no reason to end the process: the
/// next session recreates it. To be asked about the fault of a stream that does not start: it
/// comes back transient where a new session helps.
pub(crate) async fn soften(config: &Config, client: &Client, fault: Fault) -> Fault {
    if !config.is_catching_up() {
        return fault;
    }
    match what_is_wrong(config, client).await {
        Ok(Some(why)) => Fault::transient(format!("slot \"{}\": {why}", config.postgres.slot)),
        Ok(None) | Err(_) => fault,
    }
}

/// Why the slot alone would not bring every row; `None` where it does, with its list if there is
/// one.
async fn what_is_wrong(config: &Config, client: &Client) -> Result<Option<String>, Fault> {
    let name = &config.postgres.slot;
    let (slot, report) = (slot::state(client, name).await?, report(client, name).await?);
    let Some(slot) = slot else {
        return match report {
            Some(report) if report.is_listed => {
                Ok(Some("it went while a catch-up was under way".to_owned()))
            }
            Some(report) => Ok(Some(report.why)),
            None if is_known(client, name).await? => Ok(Some(slot::GONE.to_owned())),
            None => Err(slot::never_there(config, &slot::unread(client, config).await?)),
        };
    };
    if let Some(reason) = slot.why_lost() {
        return Ok(Some(format!("it is lost ({reason})")));
    }
    let Some(report) = report else { return Ok(None) };
    if !report.is_listed {
        return Ok(Some(report.why));
    }
    if !is_ahead(&slot, &report) {
        return Ok(None);
    }
    if report.done >= report.total {
        finish(client, name).await?;
        return Ok(None);
    }
    // The stream is only read once the list is done, so this is not the slot of the list.
    Ok(Some("somebody recreated it while a catch-up was under way".to_owned()))
}

fn is_ahead(slot: &SlotState, report: &CatchUpReport) -> bool {
    let lsn = |text: &Option<String>| text.as_ref()?.parse::<PgLsn>().ok();
    match (lsn(&slot.confirmed_flush_lsn), lsn(&report.consistent_lsn)) {
        (Some(confirmed), Some(consistent)) => confirmed > consistent,
        _ => false,
    }
}
