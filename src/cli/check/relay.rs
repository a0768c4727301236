//! How the relay fares, as `status` and `verify` name it: whoever looks here alone is to know it too.

use tokio_postgres::Client;

use crate::cli::status;
use crate::config::Config;
use crate::error::Fault;
use crate::slot::{Finding, SlotState};

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
    Ok(findings)
}
