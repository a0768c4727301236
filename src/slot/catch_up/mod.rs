//! Rows that the slot does not hold: those that waited before it was made, and those of the
//! time when it was gone.
//!
//! A new slot comes with a snapshot that sees exactly what its stream will not bring. The ids of
//! the rows that wait there become a list, in the order in which they are published; the relay
//! publishes the list before it reads the stream. Nothing is told from ids or times but the
//! order within the list.
//!
//! That a slot is being made is written down before it is made, and the list is written whole,
//! in one transaction. So after a crash there is either a list to go on with, or a slot to be
//! dropped and made again; a slot whose list was never written is never streamed from.
//!
//! Where rows passed by a slot that is there (the publication was altered, a table is configured anew) the slot is not
//! made again: messages, and rows of tables without marks, are nowhere but in its stream. The list is made beside it, by
//! the snapshot of a temporary slot, and is of a point of the stream. As long as the slot stands before that point,
//! a session passes its stream up to there, leaving the rows of the list out; the next one publishes the list. Where the slot
//! stands says which of the two it is, whatever became of the process.
//!
//! `ensure` looks whether the slot alone brings every row, `prepare` makes the slot and its list, `list`
//! is the SQL of the list, `raising` finds rows that fail it, `fetch` reads rows of it, and `report` says how far it is.

mod ensure;
mod fetch;
mod list;
mod prepare;
mod raising;
mod report;

use postgres_types::PgLsn;
use tokio_postgres::Client;
use tracing::warn;

pub use ensure::ensure_slot;
pub(crate) use ensure::soften;
pub(crate) use fetch::Chunk;
pub use fetch::fetch;
pub(crate) use list::count;
pub(super) use list::waiting_in;
pub use prepare::{Patience, prepare};
pub(crate) use prepare::{list_beside, record_new};
pub(crate) use report::{CatchUpReport, is_known, report};

use crate::core::event::Position;
use crate::error::Fault;
use crate::postgres::outbox_table::OutboxTable;
use crate::postgres::sql;
use crate::postgres::{self, column, query};

/// A list of rows that is to be published before the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatchUp {
    /// Where the slot's stream begins. The place of row `n` of the list is number `n` of the
    /// LSN just before.
    pub consistent_lsn: PgLsn,
    /// Rows on the list.
    pub total: u64,
    /// Why there is one.
    pub why: String,
}

impl CatchUp {
    /// The commit LSN under which the rows of the list are placed: before all that the stream
    /// brings, and behind all that was relayed before.
    pub fn commit_lsn(&self) -> PgLsn {
        Position::before(self.consistent_lsn).commit_lsn
    }

    /// Up to where the stream of a slot that stands at `confirmed` is to be passed before the list is published; `None`
    /// where it is the list's turn.
    pub(crate) fn passes_until(&self, confirmed: PgLsn) -> Option<PgLsn> {
        let until = self.commit_lsn();
        (confirmed < until).then_some(until)
    }
}

/// The list that is to be published before the stream is read. To be asked once the slot is
/// held: the one before may have finished it.
///
/// # Errors
/// Transient where the list is not written yet: the slot must not be streamed from then. Or the
/// server cannot be asked.
pub async fn pending(client: &Client, slot: &str) -> Result<Option<CatchUp>, Fault> {
    let Some(report) = report(client, slot).await? else { return Ok(None) };
    let consistent_lsn = report.consistent_lsn.as_ref().and_then(|lsn| lsn.parse().ok());
    match (report.is_listed, consistent_lsn) {
        (true, Some(consistent_lsn)) => Ok(Some(CatchUp {
            consistent_lsn,
            total: u64::try_from(report.total).unwrap_or(0),
            why: report.why,
        })),
        _ => Err(Fault::transient(format!(
            "slot \"{slot}\" is being recreated, and the rows that wait are not listed yet"
        ))),
    }
}

/// Says how many rows of the list are of none of these tables, if any are: they are passed over.
pub(crate) async fn tell_orphans(
    client: &Client,
    slot: &str,
    outboxes: &[OutboxTable],
) -> Result<(), Fault> {
    let relations = outboxes.iter().map(|outbox| outbox.relation.to_string());
    let relations = format!("{{{}}}", relations.collect::<Vec<_>>().join(","));
    let variables = [("slot", slot), ("relations", &relations)];
    let rows = query(client, &sql::render(sql::CATCH_UP_ORPHANS, &variables)?).await?;
    let rows: i64 = rows.first().map_or(Ok(0), |row| column(row, "rows"))?;
    if rows > 0 {
        warn!(
            rows,
            hint = "GRANT SELECT on it, or publish what it held yourself",
            "listed rows are of a table that is gone, or that this role may not read: they are passed over"
        );
    }
    Ok(())
}

/// The list is done: takes it away. What it leaves where it is interrupted hurts nobody, and
/// goes with the next list.
///
/// # Errors
/// The server refuses it, or the connection is lost: the catch-up stands as it was, and the next
/// session ends it.
pub async fn finish(client: &Client, slot: &str) -> Result<(), Fault> {
    postgres::execute(client, &sql::render(sql::CATCH_UP_FINISH, &[("slot", slot)])?).await?;
    let sweep = sql::render(sql::CATCH_UP_SWEEP, &[("slot", slot)])?;
    loop {
        let rows = query(client, &sweep).await?;
        let swept: i64 = rows.first().map_or(Ok(0), |row| column(row, "rows"))?;
        if swept == 0 {
            return Ok(());
        }
    }
}
