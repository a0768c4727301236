//! pgoutbox's own schema.

use tokio_postgres::Client;

use super::{Finding, statements};
use crate::config::{AuditMode, Config};
use crate::error::Fault;
use crate::postgres::sql;
use crate::postgres::{column, query};

/// pgoutbox's own tables.
pub(super) struct OwnTables {
    pub(super) findings: Vec<Finding>,
    /// Those of the catch-up are there and can be read.
    pub(super) has_catch_up: bool,
    /// `pgoutbox.layout` is there.
    pub(super) has_layout: bool,
}

pub(super) async fn look(client: &Client, config: &Config) -> Result<OwnTables, Fault> {
    let rows = query(client, sql::CHECK_SCHEMA).await?;
    let row = rows.first().ok_or_else(|| Fault::transient("the query returned no rows"))?;
    let is = |name: &str| Ok::<_, Fault>(column::<Option<bool>>(row, name)?.unwrap_or(false));
    let has_layout = is("usage")? && is("has_layout")?;
    let role = &config.postgres.audit.user;
    let quoted = sql::identifier(role);
    let uses_relayed = config.tables.iter().any(|table| table.audit_mode == AuditMode::SideTable);
    let has_messages = config.messages.is_empty() || is("has_messages")?;
    // Only those that are spread cannot do without.
    let has_layout_or_none = config.postgres.shards.of == 1 || is("has_layout")?;
    let has_all = has_layout_or_none
        && is("has_progress")?
        && is("has_catch_up")?
        && is("has_parked")?
        && has_messages;
    let missing: Vec<String> = column(row, "missing")?;
    let what = format!(
        "schema pgoutbox lacks tables, indexes or functions of the relay's own: {}",
        missing.join(", ")
    );
    if !has_all || (uses_relayed && !is("has_relayed")?) {
        let findings = vec![Finding::error("schema-missing", what, "pgoutbox init")];
        return Ok(OwnTables { findings, has_catch_up: false, has_layout });
    }
    let mut findings = Vec::new();
    if !missing.is_empty() {
        findings.push(Finding::warning("schema-outdated", what, "pgoutbox init"));
    }
    if is("has_guard")? && !is("can_guard")? {
        findings.push(Finding::warning(
            "grant-guard",
            format!("role \"{role}\" may not write down what the guard over the WAL found"),
            format!("GRANT SELECT, INSERT, UPDATE ON pgoutbox.guard TO {quoted};"),
        ));
    }
    let has_records = config.has_marks() || !config.messages.is_empty();
    let is_pruning = config.prune.keep.is_some() && has_records;
    if is_pruning && is("has_relayed")? && !is("can_prune")? {
        findings.push(Finding::warning(
            "grant-prune-own",
            format!("role \"{role}\" may not delete old marks and records (prune.keep)"),
            format!(
                "GRANT SELECT, DELETE, UPDATE ON pgoutbox.relayed, pgoutbox.parked TO {quoted};"
            ),
        ));
    }
    if !is("usage")? || !is("can_progress")? {
        findings.push(Finding::error(
            "grant-progress",
            format!("role \"{role}\" may not keep its progress"),
            format!("GRANT USAGE ON SCHEMA pgoutbox TO {quoted}; GRANT SELECT, INSERT, UPDATE ON pgoutbox.progress TO {quoted};"),
        ));
    }
    if !is("can_park")? {
        findings.push(Finding::error(
            "grant-parked",
            format!("role \"{role}\" may not put events aside"),
            format!("GRANT SELECT, INSERT, UPDATE, DELETE ON pgoutbox.parked TO {quoted}; GRANT SELECT ON pgoutbox.pause TO {quoted};"),
        ));
    }
    let has_catch_up = is("usage")? && is("can_progress")? && is("can_catch_up")?;
    if !is("can_catch_up")? {
        findings.push(Finding::error(
            "grant-catch-up-list",
            format!("role \"{role}\" may not keep the list of a catch-up"),
            format!("GRANT SELECT, INSERT, UPDATE, DELETE ON pgoutbox.catch_up, pgoutbox.catch_up_rows TO {quoted}; GRANT SELECT ON pgoutbox.parked TO {quoted};"),
        ));
    }
    if uses_relayed && !is("can_relayed")? {
        findings.push(Finding::error(
            "grant-relayed",
            format!("role \"{role}\" may not write marks in pgoutbox.relayed"),
            statements(&sql::render(sql::GRANTS_SIDE_TABLE, &[("audit_role", role)])?),
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::good("schema", "schema pgoutbox is there"));
    }
    Ok(OwnTables { findings, has_catch_up, has_layout })
}
