//! Up to where the relay has had its chance: what is neither marked nor parked before here is
//! missing, what is behind it may be on its way.
//!
//! `occurred_at` cannot tell: the application writes it, and a transaction may stay open for an
//! hour after. The time of the last acknowledged commit cannot either: it says nothing of commits
//! that were seen between. So a transaction id and an LSN are taken together (`sql/reconcile/horizon.sql`),
//! and the slot's `confirmed_flush_lsn` is compared with that LSN.

use std::time::Duration;

use tokio_postgres::Client;

use crate::error::{Fault, codes};
use crate::postgres::sql;
use crate::postgres::{column, query};
use crate::slot;

/// How often the slot is looked at while it is waited for.
const POLL: Duration = Duration::from_millis(100);

/// Every transaction before `xmin` has ended, and its commit stands before `lsn`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Point {
    /// A transaction id, without its epoch.
    pub xmin: String,
    /// An LSN.
    pub lsn: String,
}

/// How a slot stands to a [`Point`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SlotReach {
    /// It has passed it: everything before was settled.
    Passed,
    /// It has not.
    Behind {
        /// By so many bytes of WAL.
        bytes: i64,
        /// Somebody reads it.
        is_active: bool,
    },
    /// There is no such slot: nothing is on its way.
    NoSlot,
}

/// The point where the server stands now.
pub(crate) async fn point(client: &Client) -> Result<Point, Fault> {
    let asked = query(client, sql::RECONCILE_HORIZON).await;
    // A standby has no WAL of its own to compare with: said as everywhere.
    let rows =
        asked.map_err(|fault| match fault.is_code(codes::OBJECT_NOT_IN_PREREQUISITE_STATE) {
            true => slot::standby(),
            false => fault,
        })?;
    let row = rows.first().ok_or_else(|| Fault::transient("the query returned no rows"))?;
    let point = Point { xmin: column(row, "xmin")?, lsn: column(row, "lsn")? };
    // It only makes it quicker: a role that may not, or a full disk, is no reason to stop here.
    let _ = query(client, sql::RECONCILE_HORIZON_FLUSH).await;
    Ok(point)
}

/// Whether the slot has passed a point.
pub(crate) async fn reached(
    client: &Client,
    slot: &str,
    point: &Point,
) -> Result<SlotReach, Fault> {
    let variables = [("slot", slot), ("lsn", point.lsn.as_str())];
    let rows = query(client, &sql::render(sql::RECONCILE_HORIZON_PASSED, &variables)?).await?;
    let Some(row) = rows.first() else { return Ok(SlotReach::NoSlot) };
    if column::<Option<bool>>(row, "is_passed")?.unwrap_or(false) {
        return Ok(SlotReach::Passed);
    }
    Ok(SlotReach::Behind {
        bytes: column::<Option<i64>>(row, "behind_bytes")?.unwrap_or(0),
        is_active: column(row, "is_active")?,
    })
}

/// Waits until the slot has passed a point, for so long, and while somebody reads it.
pub(crate) async fn wait(
    client: &Client,
    slot: &str,
    point: &Point,
    within: Duration,
) -> Result<SlotReach, Fault> {
    let deadline = tokio::time::Instant::now() + within;
    loop {
        let reached = reached(client, slot, point).await?;
        let is_coming = matches!(reached, SlotReach::Behind { is_active: true, .. });
        if !is_coming || tokio::time::Instant::now() >= deadline {
            return Ok(reached);
        }
        tokio::time::sleep(POLL).await;
    }
}
