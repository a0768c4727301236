//! Who reads the slot.

use tokio_postgres::Client;

use crate::config::Config;
use crate::error::Fault;
use crate::postgres::{column, query, sql};
use crate::slot::Finding;

/// Who reads the slot, where that is no relay of its own: `run` would only wait.
pub(super) async fn user(config: &Config, client: &Client) -> Result<Option<Finding>, Fault> {
    let (slot, own) = (&config.postgres.slot, &config.postgres.application_name);
    let rows = query(client, &sql::render(sql::CHECK_SLOT_USER, &[("slot", slot)])?).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let (pid, name): (i32, String) = (column(row, "pid")?, column(row, "application_name")?);
    if name == *own {
        return Ok(None);
    }
    let (role, address): (String, String) = (column(row, "role")?, column(row, "address")?);
    Ok(Some(Finding::warning(
        "slot-in-use",
        format!(
            "slot \"{slot}\" is in use by \"{name}\" (role {role}, {address}, pid {pid}), which is no \
             relay of this name: `pgoutbox run` waits until it ends"
        ),
        format!(
            "SELECT pg_terminate_backend({pid});  -- or stop it at its source, otherwise it reconnects"
        ),
    )))
}
