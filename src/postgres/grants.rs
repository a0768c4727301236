//! The files of grants, rendered for a table.

use super::mark::MarkSql;
use super::sql;
use crate::config::{AuditMode, Table};
use crate::error::Fault;

/// The file of what marking rows of a table needs; `None` where nothing is marked.
pub(crate) fn mark_grants(mode: AuditMode) -> Option<&'static str> {
    match mode {
        AuditMode::Update => Some(sql::GRANTS_UPDATE),
        AuditMode::Delete => Some(sql::GRANTS_DELETE),
        AuditMode::SideTable => Some(sql::GRANTS_SIDE_TABLE),
        AuditMode::None => None,
    }
}

/// The grants of one table, rendered.
///
/// # Errors
/// None but a defect of the files.
pub(crate) fn grants_for(grants: &str, table: &Table, audit_role: &str) -> Result<String, Fault> {
    let (schema, name) = (("schema", table.schema.as_str()), ("table", table.name.as_str()));
    let id = ("id", table.columns.id.name.as_str());
    let mark = MarkSql::of(table);
    let mark = mark.variables();
    let role = ("audit_role", audit_role);
    if grants == sql::GRANTS_CATCH_UP {
        return sql::render(grants, &[schema, name, role]);
    }
    let all: Vec<_> = [schema, name, id, role].into_iter().chain(mark).collect();
    sql::render_some(grants, &all)
}

/// What reconciliation and `verify` read of a table.
///
/// # Errors
/// None but a defect of the files.
pub(crate) fn reconcile_grants(table: &Table, role: &str) -> Result<String, Fault> {
    let variables = [
        ("schema", table.schema.as_str()),
        ("table", &table.name),
        ("id", &table.columns.id.name),
        ("occurred_at", &table.columns.occurred_at.name),
        ("audit_role", role),
    ];
    sql::render(sql::GRANTS_RECONCILE, &variables)
}

/// What pruning a table needs.
///
/// # Errors
/// None but a defect of the files.
pub(crate) fn prune_grants(table: &Table, role: &str) -> Result<String, Fault> {
    let variables = [
        ("schema", table.schema.as_str()),
        ("table", &table.name),
        ("id", &table.columns.id.name),
        ("occurred_at", &table.columns.occurred_at.name),
        ("audit_role", role),
    ];
    sql::render(sql::GRANTS_PRUNE, &variables)
}

/// What showing the tries of parked events in their rows needs.
///
/// # Errors
/// None but a defect of the files.
pub(crate) fn parked_grants(table: &Table, role: &str) -> Result<String, Fault> {
    let (columns, failed) = (&table.columns, table.failed_names());
    let variables = [
        ("schema", table.schema.as_str()),
        ("table", &table.name),
        ("id", &columns.id.name),
        ("attempt", &columns.attempt.name),
        ("last_error", &columns.last_error.name),
        ("failed_at", &columns.failed_at.name),
        ("failed_names", &failed),
        ("audit_role", role),
    ];
    sql::render(sql::GRANTS_PARKED, &variables)
}

/// What casting an id to its type needs.
///
/// # Errors
/// None but a defect of the files.
pub(crate) fn type_grants(table: &Table, role: &str) -> Result<String, Fault> {
    let variables = [
        ("schema", table.schema.as_str()),
        ("table", &table.name),
        ("id", &table.columns.id.name),
        ("audit_role", role),
    ];
    sql::render(sql::GRANTS_TYPE, &variables)
}

/// What a replay reads of a table.
///
/// # Errors
/// None but a defect of the files.
pub(crate) fn replay_grants(table: &Table, role: &str) -> Result<String, Fault> {
    let variables =
        [("schema", table.schema.as_str()), ("table", &table.name), ("audit_role", role)];
    sql::render(sql::GRANTS_REPLAY, &variables)
}

/// SQL without its comment lines, on one line.
pub(crate) fn statements(sql: &str) -> String {
    let lines = sql.lines().filter(|line| !line.starts_with("--"));
    lines.map(str::trim).collect::<Vec<_>>().join(" ")
}
