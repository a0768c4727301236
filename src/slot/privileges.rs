//! What the audit role may do to one outbox table.

use tokio_postgres::{Client, Row};

use super::{Finding, Severity};
use crate::config::{AuditMode, Config, Table};
use crate::error::Fault;
use crate::postgres::grants::{grants_for, statements};
use crate::postgres::mark::MarkSql;
use crate::postgres::sql;
use crate::postgres::{column, query};

/// Looks at the rights of the connected role.
pub(super) async fn look(
    client: &Client,
    config: &Config,
    table: &Table,
    oid: u32,
    is_catching_up: bool,
) -> Result<Vec<Finding>, Fault> {
    let relation = oid.to_string();
    let (names, failed) = (MarkSql::of(table).names(), table.failed_names());
    let rule_names = table.rule_names();
    let variables = [
        ("relation", relation.as_str()),
        ("id", &table.columns.id.name),
        ("mark_names", &names),
        ("occurred_at", &table.columns.occurred_at.name),
        ("attempt", &table.columns.attempt.name),
        ("last_error", &table.columns.last_error.name),
        ("failed_at", &table.columns.failed_at.name),
        ("failed_names", &failed),
        ("rule_names", &rule_names),
        ("publication", &config.postgres.publication),
    ];
    let rows = query(client, &sql::render(sql::CHECK_PRIVILEGES, &variables)?).await?;
    let Some(row) = rows.first() else { return Ok(Vec::new()) };
    let may = |name: &str| Ok::<_, Fault>(column::<Option<bool>>(row, name)?.unwrap_or(true));
    let (grants, is_enough) = match table.audit_mode {
        AuditMode::Update => (
            sql::GRANTS_UPDATE,
            may("usage")? && may("select_id")? && may("select_mark")? && may("update_mark")?,
        ),
        AuditMode::Delete => (
            sql::GRANTS_DELETE,
            may("usage")? && may("select_id")? && may("update_any")? && may("delete")?,
        ),
        AuditMode::SideTable => (sql::GRANTS_SIDE_TABLE, true),
        AuditMode::None => return Ok(shown_columns(config, table, row)?.into_iter().collect()),
    };
    let role = &config.postgres.audit.user;
    let mut findings = Vec::new();
    if config.is_catching_up() && !(may("usage")? && may("select_all")?) {
        let what = format!(
            "role \"{role}\" may not read {}: rows that a lost slot does not hold could not be \
             published (postgres.on_slot_loss)",
            table.title()
        );
        let hint = grants_for(sql::GRANTS_CATCH_UP, table, role)?;
        let severity = if is_catching_up { Severity::Error } else { Severity::Warning };
        let finding = Finding::error("grant-catch-up", what, statements(&hint));
        findings.push(finding.with_severity(severity));
    }
    if !is_enough {
        findings.push(Finding::error(
            "grant-mark",
            format!("role \"{role}\" may not write marks in {}", table.title()),
            statements(&grants_for(grants, table, role)?),
        ));
    }
    if let Some(schema) = column::<Option<String>>(row, "closed_type_schema")? {
        findings.push(Finding::error(
            "grant-type",
            format!(
                "role \"{role}\" may not use schema {schema}, which has the type of {}'s {}: no id can be cast to it",
                table.title(),
                table.columns.id.name
            ),
            format!("GRANT USAGE ON SCHEMA {schema} TO {};", sql::identifier(role)),
        ));
    }
    findings.extend(beside(config, table, row)?);
    if may("has_row_security")? {
        let quoted = sql::identifier(role);
        let bypass = format!("ALTER ROLE {quoted} BYPASSRLS;");
        // Where one takes rows away, no other gives them back.
        let hint = match may("has_restrictive_policy")? {
            true => bypass,
            false => format!(
                "CREATE POLICY {quoted} ON {} TO {quoted} USING (true);  -- or {bypass}",
                sql::qualified(&table.schema, &table.name)
            ),
        };
        // A row that is hidden has no mark ever, and is missing in a catch-up.
        let is_needed = table.audit_mode != AuditMode::SideTable || config.is_catching_up();
        let finding = Finding::error(
            "row-level-security",
            format!("row level security may hide rows of {} from role \"{role}\"", table.title()),
            hint,
        );
        let severity = if is_needed { Severity::Error } else { Severity::Warning };
        findings.push(finding.with_severity(severity));
    }
    Ok(findings)
}

/// What the tasks beside the relay may not do: the relay itself can do without.
fn beside(config: &Config, table: &Table, row: &Row) -> Result<Vec<Finding>, Fault> {
    let may = |name: &str| Ok::<_, Fault>(column::<Option<bool>>(row, name)?.unwrap_or(true));
    let role = &config.postgres.audit.user;
    let mut findings = Vec::new();
    let unreadable: Vec<String> = column(row, "unreadable")?;
    if !(may("usage")? && unreadable.is_empty()) {
        findings.push(Finding::warning(
            "grant-reconcile",
            format!(
                "role \"{role}\" may not look for rows of {} that were missed (reconciliation and pgoutbox verify)",
                table.title()
            ),
            grant(table, role, &[("SELECT", unreadable.clone())]),
        ));
    }
    findings.extend(leaves(config, table, row)?);
    if config.reconcile.republishes && !may("select_all")? {
        findings.push(Finding::warning(
            "grant-republish",
            format!(
                "role \"{role}\" may not send rows of {} once more (reconcile.republish)",
                table.title()
            ),
            statements(&grants_for(sql::GRANTS_REPLAY, table, role)?),
        ));
    }
    let is_pruning = config.prune.keep.is_some() && table.audit_mode != AuditMode::Delete;
    let has_rows = may("usage")? && !unreadable.iter().any(|name| name == "ctid");
    if is_pruning && !(has_rows && may("select_id")? && may("update_any")? && may("delete")?) {
        findings.push(Finding::warning(
            "grant-prune",
            format!(
                "role \"{role}\" may not delete relayed rows of {} (prune.keep)",
                table.title()
            ),
            statements(&grants_for(sql::GRANTS_PRUNE, table, role)?),
        ));
    }
    findings.extend(shown_columns(config, table, row)?);
    Ok(findings)
}

/// Partitions that somebody made without the grants that their table has.
fn leaves(config: &Config, table: &Table, row: &Row) -> Result<Vec<Finding>, Fault> {
    let role = &config.postgres.audit.user;
    let (unreadable, undeletable): (Vec<String>, Vec<String>) =
        (column(row, "unreadable_leaves")?, column(row, "undeletable_leaves")?);
    let mut findings = Vec::new();
    if !unreadable.is_empty() {
        findings.push(Finding::warning(
            "grant-reconcile",
            format!(
                "role \"{role}\" may not look for rows that were missed in partitions of {}: {}",
                table.title(),
                few(&unreadable)
            ),
            statements(&grants_for(sql::GRANTS_RECONCILE, table, role)?),
        ));
    }
    let is_pruning = config.prune.keep.is_some() && table.audit_mode != AuditMode::Delete;
    if is_pruning && !undeletable.is_empty() {
        findings.push(Finding::warning(
            "grant-prune",
            format!(
                "role \"{role}\" may not delete relayed rows in partitions of {} (prune.keep): {}",
                table.title(),
                few(&undeletable)
            ),
            statements(&grants_for(sql::GRANTS_PRUNE, table, role)?),
        ));
    }
    Ok(findings)
}

/// The first of many names.
fn few(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<_> = names.iter().take(SHOWN).map(String::as_str).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// The columns in which a row shows the tries of its event, where the relay may not write them.
fn shown_columns(config: &Config, table: &Table, row: &Row) -> Result<Option<Finding>, Fault> {
    let unwritable: Vec<String> = column(row, "unwritable")?;
    if unwritable.is_empty() {
        return Ok(None);
    }
    let role = &config.postgres.audit.user;
    let what = format!(
        "role \"{role}\" may not show in rows of {} how their parked events were tried: {}",
        table.title(),
        unwritable.join(", ")
    );
    // The row is found by its id.
    let readable = [vec![table.columns.id.name.clone()], unwritable.clone()].concat();
    Ok(Some(Finding::warning(
        "grant-attempts",
        what,
        grant(table, role, &[("SELECT", readable), ("UPDATE", unwritable)]),
    )))
}

fn grant(table: &Table, role: &str, privileges: &[(&str, Vec<String>)]) -> String {
    let (schema, role) = (sql::identifier(&table.schema), sql::identifier(role));
    let usage = format!("GRANT USAGE ON SCHEMA {schema} TO {role};");
    let privileges = privileges.iter().filter(|(_, columns)| !columns.is_empty());
    let privileges: Vec<_> = privileges
        .map(|(privilege, columns)| {
            let columns: Vec<_> = columns.iter().map(|name| sql::identifier(name)).collect();
            format!("{privilege} ({})", columns.join(", "))
        })
        .collect();
    if privileges.is_empty() {
        return usage;
    }
    let table = sql::qualified(&table.schema, &table.name);
    format!("{usage} GRANT {} ON {table} TO {role};", privileges.join(", "))
}
