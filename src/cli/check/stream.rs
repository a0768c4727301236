//! The connection of the stream: made, and asked who it is. The slot is left to its relay.

use tokio_postgres::Client;

use super::database::Database;
use super::refused::{self, POOLER};
use crate::config::Config;
use crate::error::Fault;
use crate::postgres::sql;
use crate::postgres::{column, query};
use crate::slot::{Finding, Severity};
use crate::wal::Wal;

/// Whether a replication connection of the stream's role comes about.
pub(super) async fn look(config: &Config) -> Finding {
    let server = &config.postgres.stream;
    let mut finding = match Wal::connect(&config.postgres).await {
        Ok(_) => {
            let role = &server.user;
            Finding::good("stream", format!("Postgres takes role \"{role}\" in replication mode"))
        }
        Err(fault) => refused::finding(server, true, fault),
    };
    if finding.name == POOLER {
        finding.hint = "connect the stream to Postgres itself: postgres.stream_url".to_owned();
    }
    finding
}

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

/// The same, seen together with what the other connection found.
pub(super) fn in_context(
    finding: Finding,
    config: &Config,
    database: &Database,
) -> Option<Finding> {
    let role = sql::identifier(&config.postgres.stream.user);
    let is_role_error =
        |found: &Finding| found.severity == Severity::Error && found.name.starts_with("role-");
    let has_role_error = database.findings.iter().any(is_role_error);
    match finding.name {
        // A slot that is in use has the walsender that a relay would need.
        "max-wal-senders" if database.is_slot_active => {
            Some(finding.with_severity(Severity::Warning))
        }
        // Postgres has one code for all who may not log in, and tells them apart in words alone.
        "pg-hba" if database.is_role_missing => Some(Finding::error(
            "role-missing",
            finding.what,
            format!(
                "CREATE ROLE {role} LOGIN REPLICATION;  -- and its password: \\password {role}"
            ),
        )),
        // And one for each right that is missing: which, stands there with its own name.
        "pg-hba" | "role-replication" | "role-connect" | "role-login" if has_role_error => None,
        _ => Some(finding),
    }
}
