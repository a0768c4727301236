//! Tables by pattern: which there are, which of them can be read, and what is the matter with the others.
//!
//! One that cannot be read is left out, and keeps nobody from the others: its rows wait in it, and are caught
//! up with once it can be read.

use tokio_postgres::Client;

use super::{Finding, Severity, coverage, pitfalls, table};
use crate::config::{Config, FoundTable, Table};
use crate::error::Fault;
use crate::postgres::sql;
use crate::postgres::{column, query};

/// The configuration with all tables that match in the place of each pattern.
///
/// # Errors
/// The connection is lost, or something of the catalog is locked for too long.
async fn matching(client: &Client, config: &Config) -> Result<Config, Fault> {
    let mut config = config.clone();
    if !config.has_patterns() {
        return Ok(config);
    }
    let (patterns, named): (Vec<_>, Vec<_>) =
        config.tables.iter().cloned().partition(|table| table.is_pattern);
    config.patterns = patterns;
    let mut found = Vec::new();
    for (pattern, table) in look_up(client, &config).await? {
        let is_it = |named: &Table| named.schema == table.schema && named.name == table.name;
        if named.iter().any(is_it) {
            continue;
        }
        found.extend(config.patterns.get(pattern).map(|pattern| {
            let (schema, name) = (table.schema.clone(), table.name.clone());
            Table { schema, name, is_pattern: false, ..pattern.clone() }
        }));
        config.found.push(table);
    }
    config.tables = named;
    config.tables.extend(found);
    Ok(config)
}

/// The same without those that cannot be read.
///
/// # Errors
/// The connection is lost, or something of the catalog is locked for too long.
pub(crate) async fn expand(client: &Client, config: &Config) -> Result<Config, Fault> {
    without(client, config, |_| true).await
}

/// The same without those that cannot be read whatever is granted and put into a publication: for those that
/// are about to do so.
///
/// # Errors
/// The connection is lost, or something of the catalog is locked for too long.
pub(crate) async fn expand_to_make(client: &Client, config: &Config) -> Result<Config, Fault> {
    let is_left = |name: &str| ["publication-", "grant-"].iter().any(|it| name.starts_with(it));
    without(client, config, |finding| !is_left(finding.name)).await
}

/// Without those of which such an error is found.
async fn without(
    client: &Client,
    config: &Config,
    counts: impl Fn(&Finding) -> bool,
) -> Result<Config, Fault> {
    let mut config = matching(client, config).await?;
    if config.found.is_empty() {
        return Ok(config);
    }
    let named = config.tables.len() - config.found.len();
    let answers = coverage::ask(client, &config).await?;
    let mut is_read = vec![true; config.tables.len()];
    for (number, table) in config.tables.iter().enumerate().skip(named) {
        let Some(answer) = answers.get(number) else { continue };
        let is_caught_up = config.is_catching_up() && table.has_marks();
        let generated = answer.has_generated;
        let looked = table::look(client, &config, (number, table), generated, is_caught_up).await;
        // What is wrong with the table comes first: to put it into the publication would not help yet.
        let mut findings = looked?.0;
        findings.extend(pitfalls::parts(table, answer));
        findings.extend(coverage::table_finding(&config, table, answer));
        let is_against = |finding: &Finding| finding.severity == Severity::Error && counts(finding);
        let first = findings.into_iter().find(is_against);
        let (Some(first), Some(is_read)) = (first, is_read.get_mut(number)) else { continue };
        *is_read = false;
        if let Some(found) = config.found.get_mut(number - named) {
            found.left_out = Some((first.what, first.hint));
        }
    }
    let mut is_read = is_read.into_iter();
    config.tables.retain(|_| is_read.next().unwrap_or(true));
    Ok(config)
}

/// What has become of the tables that match since they were looked up.
pub(crate) struct TableChanges {
    /// In words.
    pub what: String,
    /// The configuration without those that are gone.
    pub there: Config,
}

/// What has become of the tables that match since they were looked up; `None` where that is nothing.
///
/// # Errors
/// The connection is lost, or something of the catalog is locked for too long.
pub(crate) async fn change(
    client: &Client,
    config: &Config,
) -> Result<Option<TableChanges>, Fault> {
    if config.patterns.is_empty() {
        return Ok(None);
    }
    let now: Vec<_> = look_up(client, config).await?.into_iter().map(|(_, table)| table).collect();
    let Some(what) = news(config, &now).or_else(|| gone(config, &now)) else { return Ok(None) };
    let mut there = config.clone();
    there.tables.retain(|table| {
        let found = config.found.iter().find(|it| is_same_name(it, table));
        found.is_none_or(|found| now.iter().any(|it| is_same(it, found)))
    });
    Ok(Some(TableChanges { what, there }))
}

fn news(config: &Config, now: &[FoundTable]) -> Option<String> {
    now.iter().find_map(|table| {
        let title = crate::config::title(&table.schema, &table.name);
        match config.found.iter().find(|it| is_same(it, table)) {
            // One that is named is no news.
            None if config.tables.iter().any(|it| is_same_name(table, it))
                && !config.found.iter().any(|it| is_named_alike(it, table)) =>
            {
                None
            }
            None => Some(format!("table {title} is new")),
            Some(before) if before.left_out.is_some() && before.version != table.version => {
                Some(format!("table {title} was altered, and is looked at again"))
            }
            Some(_) => None,
        }
    })
}

fn gone(config: &Config, now: &[FoundTable]) -> Option<String> {
    let gone = config.found.iter().find(|it| !now.iter().any(|table| is_same(it, table)))?;
    Some(format!("table {} is gone", crate::config::title(&gone.schema, &gone.name)))
}

fn is_same(one: &FoundTable, other: &FoundTable) -> bool {
    one.relation == other.relation && is_named_alike(one, other)
}

fn is_named_alike(one: &FoundTable, other: &FoundTable) -> bool {
    one.schema == other.schema && one.name == other.name
}

fn is_same_name(found: &FoundTable, table: &Table) -> bool {
    found.schema == table.schema && found.name == table.name
}

/// What is said of those that are left out.
pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let mut findings: Vec<_> = config
        .patterns
        .iter()
        .filter(|pattern| !config.found.iter().any(|it| pattern.matches(&it.schema, &it.name)))
        .map(|pattern| {
            let what = format!("no table matches {}", pattern.title());
            let hint =
                "those that are made later are found; else correct the pattern under [[tables]]";
            Finding::warning("pattern-empty", what, hint)
        })
        .collect();
    for table in &config.found {
        let Some((why, hint)) = &table.left_out else { continue };
        let title = crate::config::title(&table.schema, &table.name);
        let what =
            format!("{title} matches a pattern and is left out, until that is put right: {why}");
        findings.push(Finding::warning("table-left-out", what, hint.clone()));
    }
    findings
}

/// All that match, with the number of the pattern of each.
async fn look_up(client: &Client, config: &Config) -> Result<Vec<(usize, FoundTable)>, Fault> {
    let patterns = serde_json::json!(config.patterns.iter().map(Table::like).collect::<Vec<_>>());
    let patterns = patterns.to_string();
    let variables =
        [("patterns", patterns.as_str()), ("publication", &config.postgres.publication)];
    let rows = query(client, &sql::render(sql::TABLE_MATCHING, &variables)?).await?;
    let found = |row| {
        let pattern: i32 = column(row, "pattern")?;
        let table = FoundTable {
            schema: column(row, "schema")?,
            name: column(row, "name")?,
            relation: column(row, "relation")?,
            version: column(row, "version")?,
            left_out: None,
        };
        Ok((usize::try_from(pattern).unwrap_or(usize::MAX), table))
    };
    rows.iter().map(found).collect()
}

/// Whether a table has rows that were written before a transaction.
///
/// # Errors
/// Postgres cannot be asked, or the role may not read the table.
pub(crate) async fn is_written_before(
    client: &Client,
    table: &Table,
    xid: &str,
) -> Result<bool, Fault> {
    let variables = [("schema", table.schema.as_str()), ("table", &table.name), ("xid", xid)];
    let rows = query(client, &sql::render(sql::TABLE_WRITTEN_BEFORE, &variables)?).await?;
    rows.first().map_or(Ok(false), |row| column(row, "is_written"))
}

/// Whether a transaction left rows in a table.
///
/// # Errors
/// Postgres cannot be asked, or the role may not read the table.
pub(crate) async fn is_written_by(
    client: &Client,
    table: &Table,
    xid: &str,
) -> Result<bool, Fault> {
    let variables = [("schema", table.schema.as_str()), ("table", &table.name), ("xid", xid)];
    let rows = query(client, &sql::render(sql::TABLE_WRITTEN_BY, &variables)?).await?;
    rows.first().map_or(Ok(false), |row| column(row, "is_written"))
}
