//! What about an outbox table would keep its rows out of the stream, or marks out of its rows.

use tokio_postgres::{Client, Row};

use super::Finding;
use super::coverage_row::CoverageRow;
use crate::config::{AuditMode, MarkValue, Table};
use crate::error::Fault;
use crate::postgres::mark::MarkSql;
use crate::postgres::sql;
use crate::postgres::{column, query};

/// Where Timescale keeps the pieces of its tables.
const CHUNKS: &str = "_timescaledb_internal.";

/// Looks at the table and all that it is made of.
pub(super) async fn look(client: &Client, table: &Table, oid: u32) -> Result<Vec<Finding>, Fault> {
    let relation = oid.to_string();
    let event = match table.audit_mode {
        AuditMode::Update => "u",
        AuditMode::Delete => "d",
        AuditMode::SideTable | AuditMode::None => "-",
    };
    let names = MarkSql::of(table).names();
    let variables = [("relation", relation.as_str()), ("mark_names", &names), ("event", event)];
    let rows = query(client, &sql::render(sql::CHECK_PITFALLS, &variables)?).await?;
    let Some(row) = rows.first() else { return Ok(Vec::new()) };
    let mut findings = Vec::new();
    if table.is_marked_in_rows() {
        findings.extend(mark_default(table, row)?);
    }
    findings.extend(unidentified(table, row)?);
    findings.extend(references(table, row)?);
    Ok(findings)
}

/// What of the table is not in the stream, or comes under names that nobody looks for. The running
/// relay asks it again and again.
pub(super) fn parts(table: &Table, answer: &CoverageRow) -> Vec<Finding> {
    if !answer.is_table {
        return Vec::new();
    }
    let children = children(table, &answer.parts.children);
    let unlogged = unlogged(table, answer);
    let foreign = foreign(table, &answer.parts.foreign);
    [children, unlogged, foreign].into_iter().flatten().collect()
}

fn each(names: &[String], sql: impl Fn(&str) -> String) -> String {
    names.iter().map(|name| sql(name)).collect::<Vec<_>>().join(" ")
}

fn children(table: &Table, children: &[String]) -> Option<Finding> {
    if children.is_empty() {
        return None;
    }
    let quoted = sql::qualified(&table.schema, &table.name);
    let what = format!(
        "{} has tables that inherit from it ({}): rows in them come under those names, and would not be relayed",
        table.title(),
        children.join(", ")
    );
    let hint = match children.iter().any(|child| child.starts_with(CHUNKS)) {
        true => "use an ordinary table, or one that is partitioned (PARTITION BY RANGE), as the outbox: the rows of a hypertable are in its chunks".to_owned(),
        false => format!(
            "{}  -- then name those that hold events under [[tables]], or attach them to a partitioned table",
            each(children, |child| format!("ALTER TABLE {child} NO INHERIT {quoted};"))
        ),
    };
    Some(Finding::error("table-children", what, hint))
}

fn unlogged(table: &Table, answer: &CoverageRow) -> Option<Finding> {
    let (name, unlogged) = (table.title(), &answer.parts.unlogged);
    let quoted = [sql::qualified(&table.schema, &table.name)];
    let set_logged =
        |names: &[String]| each(names, |name| format!("ALTER TABLE {name} SET LOGGED;"));
    if answer.is_unlogged {
        let what = format!("{name} is unlogged: its rows are not in the WAL");
        return Some(Finding::error("table-unlogged", what, set_logged(&quoted)));
    }
    if unlogged.is_empty() {
        return None;
    }
    let names = unlogged.join(", ");
    let what =
        format!("partitions of {name} are unlogged ({names}): their rows are not in the WAL");
    Some(Finding::error("table-unlogged", what, set_logged(unlogged)))
}

fn foreign(table: &Table, foreign: &[String]) -> Option<Finding> {
    if foreign.is_empty() {
        return None;
    }
    let quoted = sql::qualified(&table.schema, &table.name);
    let names = foreign.join(", ");
    Some(Finding::error(
        "partition-foreign",
        format!(
            "partitions of {} are foreign tables ({names}): their rows are not in this server's WAL",
            table.title()
        ),
        format!(
            "{}  -- where it is a partition of a partition, detach it from that one",
            each(foreign, |name| format!("ALTER TABLE {quoted} DETACH PARTITION {name};"))
        ),
    ))
}

/// A row that comes with its mark is taken for one that was relayed.
fn mark_default(table: &Table, row: &Row) -> Result<Option<Finding>, Fault> {
    let marks: String = column(row, "marks")?;
    let marks: Vec<(String, Option<String>, bool)> = serde_json::from_str(&marks)
        .map_err(|error| Fault::transient(format!("what the catalog says of marks: {error}")))?;
    let mut first = None;
    for wanted in &table.mark.0 {
        let found = marks.iter().find(|(name, _, _)| *name == wanted.name);
        let Some((_, default, is_required)) = found else { return Ok(None) };
        let comes = match &wanted.value {
            MarkValue::Now => default.is_some() || *is_required,
            MarkValue::Constant(text) => {
                default.as_deref().is_some_and(|default| is_constant(default, text))
            }
        };
        // Where one column does not hold its value, the row is not marked.
        if !comes {
            return Ok(None);
        }
        first = first.or(Some((&wanted.name, &wanted.value, default, *is_required)));
    }
    let Some((mark, value, default, is_required)) = first else { return Ok(None) };
    let why = match default {
        Some(default) => format!("has the default {default}"),
        None => "is NOT NULL".to_owned(),
    };
    let column = sql::identifier(mark);
    let alter = match (default, is_required) {
        (Some(_), _) if *value != MarkValue::Now => format!("ALTER {column} DROP DEFAULT"),
        (Some(_), false) => format!("ALTER {column} SET DEFAULT NULL"),
        (None, true) => format!("ALTER {column} DROP NOT NULL"),
        _ => format!("ALTER {column} SET DEFAULT NULL, ALTER {column} DROP NOT NULL"),
    };
    Ok(Some(Finding::error(
        "mark-default",
        format!(
            "{mark} of {} {why}: each row is inserted with its mark, and would not be published",
            table.title()
        ),
        format!(
            "ALTER TABLE {} {alter};  -- where the column's type is a domain, its own default and NOT NULL too",
            sql::qualified(&table.schema, &table.name)
        ),
    )))
}

/// Whether a column's default, as the catalog writes it, is this constant: `'DONE'::text`, `1`, `true`.
fn is_constant(default: &str, text: &str) -> bool {
    let value = default.split_once("'::").map_or(default, |(value, _)| value);
    let value = value.trim_matches(['\'', '(', ')']).replace("''", "'");
    value == text
}

fn unidentified(table: &Table, row: &Row) -> Result<Option<Finding>, Fault> {
    let unidentified: Vec<String> = column(row, "unidentified")?;
    if unidentified.is_empty() {
        return Ok(None);
    }
    let publications = column::<Vec<String>>(row, "sent_by")?.join(", ");
    let quoted = sql::qualified(&table.schema, &table.name);
    let full = each(&unidentified, |name| format!("ALTER TABLE {name} REPLICA IDENTITY FULL;"));
    let id = sql::identifier(&table.columns.id.name);
    Ok(Some(Finding::error(
        "replica-identity-missing",
        format!(
            "{} has no replica identity, and is in a publication that sends more than inserts ({publications}): Postgres refuses every mark",
            table.title()
        ),
        format!("{full}  -- or, at less WAL: ALTER TABLE {quoted} ADD PRIMARY KEY ({id});"),
    )))
}

fn references(table: &Table, row: &Row) -> Result<Option<Finding>, Fault> {
    let references: Vec<String> = column(row, "references_to")?;
    if references.is_empty() {
        return Ok(None);
    }
    let named: Vec<_> = references.iter().filter_map(|name| name.rsplit_once(':')).collect();
    let tables = named.iter().map(|(table, _)| *table).collect::<Vec<_>>().join(", ");
    let drops = named.iter().map(|(of, name)| format!("ALTER TABLE {of} DROP CONSTRAINT {name};"));
    Ok(Some(Finding::warning(
        "table-referenced",
        format!(
            "rows of {tables} refer to rows of {}: those cannot be deleted as their mark (audit.mode = delete)",
            table.title()
        ),
        format!(
            "{}  -- or make it ON DELETE CASCADE or SET NULL, or choose another audit.mode",
            drops.collect::<Vec<_>>().join(" ")
        ),
    )))
}
