//! A table that somebody has locked: its events are delivered, and none of its rows is marked.

use tokio_postgres::Client;

use crate::config::{Config, Table};
use crate::error::Fault;
use crate::postgres::sql;
use crate::postgres::{column, query};
use crate::slot::Finding;
use crate::text::span_seconds;

/// A lock of less is nothing to tell of: CREATE INDEX takes one too.
const SECONDS: &str = "5";

/// Looks at each table. What cannot be asked, others say.
pub(super) async fn look(client: &Client, config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for table in config.tables.iter().filter(|table| table.has_marks()) {
        if let Ok(found) = of_table(client, table).await {
            findings.extend(found);
        }
    }
    findings
}

async fn of_table(client: &Client, table: &Table) -> Result<Option<Finding>, Fault> {
    let variables =
        [("schema", table.schema.as_str()), ("table", &table.name), ("seconds", SECONDS)];
    let rows = query(client, &sql::render(sql::CHECK_LOCKED, &variables)?).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let (pid, state): (i32, String) = (column(row, "pid")?, column(row, "state")?);
    let (name, lasted): (String, f64) = (column(row, "application_name")?, column(row, "seconds")?);
    let what = format!(
        "somebody has locked all of {}: pid {pid} (application \"{name}\", {state}, its transaction is {} old); events \
         that were delivered get their marks after that",
        table.title(),
        span_seconds(lasted)
    );
    let hint = format!("end that transaction, or: SELECT pg_terminate_backend({pid});");
    Ok(Some(Finding::warning("table-locked", what, hint)))
}
