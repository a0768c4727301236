//! Whether the role of the stream may stream.

use tokio_postgres::Client;

use super::Finding;
use crate::config::Config;
use crate::error::Fault;
use crate::postgres::sql;
use crate::postgres::{column, query};

/// Everything that stands against it; nothing where the name is none of a role: one that
/// `pg_ident.conf` maps to a role shows when it logs in.
pub(super) async fn look(client: &Client, config: &Config) -> Result<Vec<Finding>, Fault> {
    let role = config.postgres.stream.user.as_str();
    let rows =
        query(client, &sql::render(sql::CHECK_STREAM_ROLE, &[("stream_role", role)])?).await?;
    let quoted = sql::identifier(role);
    let Some(row) = rows.first() else { return Ok(Vec::new()) };
    let database = sql::identifier(&config.postgres.stream.database);
    let mut findings = Vec::new();
    if !column(row, "can_stream")? {
        findings.push(Finding::error(
            "role-replication",
            format!("role \"{role}\" may not stream"),
            format!("ALTER ROLE {quoted} REPLICATION;  -- RDS: GRANT rds_replication TO {quoted};"),
        ));
    }
    if !column(row, "can_login")? {
        findings.push(Finding::error(
            "role-login",
            format!("role \"{role}\" may not log in"),
            format!("ALTER ROLE {quoted} LOGIN;"),
        ));
    }
    if !column(row, "can_connect")? {
        findings.push(Finding::error(
            "role-connect",
            format!("role \"{role}\" may not connect to the database"),
            format!("GRANT CONNECT ON DATABASE {database} TO {quoted};"),
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::good("role-replication", format!("role \"{role}\" may stream")));
    }
    Ok(findings)
}
