//! The connection of the stream: made, and asked who it is. The slot is left to its relay.

use super::database::Database;
use super::refused::{self, POOLER};
use crate::config::Config;
use crate::postgres::sql;
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

/// What it found, seen together with what the other connection found.
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
