//! How the relay fares, as `status` and `verify` name it: whoever looks here alone is to know it too.

use tokio_postgres::Client;

use crate::cli::status;
use crate::cli::status::Live;
use crate::config::Config;
use crate::error::Fault;
use crate::slot::{self, Finding, Preflight, Severity, SlotState, UnreadSlot, catch_up, known};

const UNREADABLE: &str = "correct the row, or the row filter of the publication that raises for it";

/// What `init` would list before it makes the slot.
pub(super) async fn waiting(client: &Client, config: &Config, flight: &Preflight) -> Vec<Finding> {
    let mut findings = Vec::new();
    let is_whole = flight.tables.len() == config.tables.len();
    if flight.slot.is_some() || !is_whole {
        return findings;
    }
    for (table, outbox) in config.tables.iter().zip(&flight.tables) {
        if !table.has_marks() {
            continue;
        }
        let whole = catch_up::count(client, config, table, Some(outbox)).await;
        let waiting = match whole {
            // Nothing of pgoutbox's own may be there yet.
            Err(_) => catch_up::count(client, config, table, None).await,
            whole => whole,
        };
        let Ok(waiting) = waiting else { continue };
        let title = table.title();
        if waiting.rows > 0 {
            let what = format!(
                "{} rows of {title} wait: they are listed, and published first",
                waiting.rows
            );
            findings.push(Finding::warning("rows-waiting", what, "pgoutbox init"));
        }
        if let Some(what) = waiting.unreadable(&title) {
            findings.push(Finding::warning("rows-unreadable", what, UNREADABLE));
        }
    }
    findings
}

/// What keeps the relay that runs here, by its own account, where nothing that was found says it.
pub(super) fn told(live: &Live, found: &[Finding]) -> Option<Finding> {
    let reason = live.first("/reasons")?;
    let is_said = |finding: &Finding| {
        let is_it = finding.name == reason.cause || finding.name == "relay-stuck";
        is_it && finding.severity < Severity::Good
    };
    let what = format!("the relay is stuck: {}", reason.what);
    // By the name that it has wherever else one looks.
    let name = known(reason.cause).unwrap_or("relay-stuck");
    (!found.iter().any(is_said)).then(|| Finding::warning(name, what, reason.hint))
}

/// A relay that is kept from delivering, or none where rows wait.
pub(super) async fn look(
    client: &Client,
    config: &Config,
    slot: Option<&SlotState>,
) -> Result<Vec<Finding>, Fault> {
    let mut findings = Vec::new();
    let progress = status::progress(client, config).await?;
    if let Some((what, hint)) = progress.and_then(|progress| progress.stuck()) {
        findings.push(Finding::warning("relay-stuck", what, hint));
    }
    let unread = slot.filter(|slot| !slot.is_active && slot.why_lost().is_none());
    let waiting = unread.and_then(|slot| slot.confirmed_lag_bytes).filter(|lag| *lag > 0);
    if let Some(waiting) = waiting
        && status::has_waiting(client, config).await
    {
        let what = status::no_relay(waiting);
        findings.push(Finding::warning("slot-unread", what, status::START));
    }
    findings.extend(slot::unread(client, config).await?.iter().map(UnreadSlot::finding));
    Ok(findings)
}
