//! How far a catch-up is.

use tokio_postgres::Client;

use crate::error::Fault;
use crate::postgres::sql;
use crate::postgres::{column, query};

/// How far a catch-up is, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CatchUpReport {
    /// The list is written; else the slot is still being made.
    pub is_listed: bool,
    /// Why there is one.
    pub why: String,
    /// Where the slot's stream begins.
    pub consistent_lsn: Option<String>,
    /// Rows on the list.
    pub total: i64,
    /// Rows of it that are settled.
    pub done: i64,
    /// Since when, in UTC.
    pub begun_at: String,
}

/// How far the slot's catch-up is; `None` where there is none.
pub(crate) async fn report(client: &Client, slot: &str) -> Result<Option<CatchUpReport>, Fault> {
    let rows = query(client, &sql::render(sql::CATCH_UP, &[("slot", slot)])?).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    Ok(Some(CatchUpReport {
        is_listed: column::<String>(row, "state")? == "listed",
        why: column(row, "why")?,
        consistent_lsn: column(row, "consistent_lsn")?,
        total: column(row, "total")?,
        done: column(row, "done")?,
        begun_at: column(row, "begun_at")?,
    }))
}

/// Whether the name was ever the slot of a relay of this database.
pub(crate) async fn is_known(client: &Client, slot: &str) -> Result<bool, Fault> {
    let rows = query(client, &sql::render(sql::SLOT_KNOWN, &[("slot", slot)])?).await?;
    rows.first().map_or(Ok(false), |row| column(row, "is_known"))
}
