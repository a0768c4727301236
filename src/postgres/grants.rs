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

/// A file of `sql/grants/`, rendered for a table and the role that is to have them.
pub(crate) fn grants_for(file: &str, table: &Table, role: &str) -> Result<String, Fault> {
    let (columns, failed, mark) = (&table.columns, table.failed_names(), MarkSql::of(table));
    let rule_names = table.rule_names();
    let own = [
        ("rule_names", rule_names.as_str()),
        ("schema", table.schema.as_str()),
        ("table", &table.name),
        ("id", &columns.id.name),
        ("occurred_at", &columns.occurred_at.name),
        ("attempt", &columns.attempt.name),
        ("last_error", &columns.last_error.name),
        ("failed_at", &columns.failed_at.name),
        ("failed_names", &failed),
        ("audit_role", role),
    ];
    let all: Vec<_> = own.into_iter().chain(mark.variables()).collect();
    sql::render_some(file, &all)
}

/// SQL without its comment lines, on one line.
pub(crate) fn statements(sql: &str) -> String {
    let lines = sql.lines().filter(|line| !line.starts_with("--"));
    lines.map(str::trim).collect::<Vec<_>>().join(" ")
}
