//! Records of `pgoutbox.parked` as queries return them, and as parameters.

use std::sync::Arc;

use postgres_types::PgLsn;
use tokio_postgres::Row;

use super::access::Scope;
use crate::core::event::Position;
use crate::core::event::pgoutput::{Column, StoredRow, Tuple};
use crate::core::parked::{Aggregate, ParkedRow, ParkedState};
use crate::error::Fault;
use crate::postgres::column;

/// A state as the parking has it, and the milliseconds to the next try.
pub(super) fn state_and_pause(state: ParkedState) -> (&'static str, Option<i64>) {
    match state {
        ParkedState::Parked(pause) => {
            ("parked", Some(i64::try_from(pause.as_millis()).unwrap_or(i64::MAX)))
        }
        ParkedState::Queued => ("queued", None),
        ParkedState::Failed => ("failed", None),
        ParkedState::DeadLettered => ("dead_lettered", None),
    }
}

/// Its number among the events of its transaction, as SQL has it.
pub(super) fn number_of(position: Position) -> i64 {
    i64::try_from(position.index).unwrap_or(i64::MAX)
}

pub(super) fn position(row: &Row) -> Result<Position, Fault> {
    let index: i64 = column(row, "index")?;
    Ok(Position {
        commit_lsn: column::<PgLsn>(row, "commit_lsn")?,
        index: u64::try_from(index).unwrap_or(0),
    })
}

pub(super) fn aggregate(row: &Row) -> Result<Option<Aggregate>, Fault> {
    let aggregate_type: Option<String> = column(row, "aggregate_type")?;
    let aggregate_id: Option<String> = column(row, "aggregate_id")?;
    Ok(Aggregate::new(aggregate_type.as_deref(), aggregate_id.as_deref()))
}

impl Scope {
    pub(super) fn rows(&self, rows: &[Row]) -> Result<Vec<ParkedRow>, Fault> {
        let mut shapes: Vec<(String, Arc<[Column]>)> = Vec::new();
        let mut parked = Vec::new();
        for row in rows {
            let shape: String = column(row, "columns")?;
            let columns = match shapes.iter().find(|(known, _)| *known == shape) {
                Some((_, columns)) => Arc::clone(columns),
                None => {
                    let columns = columns_of(&shape)?;
                    shapes.push((shape, Arc::clone(&columns)));
                    columns
                }
            };
            parked.push(self.row(row, columns)?);
        }
        Ok(parked)
    }

    pub(super) fn row(&self, row: &Row, columns: Arc<[Column]>) -> Result<ParkedRow, Fault> {
        let source = self.source(row)?;
        let cells: Vec<Option<&[u8]>> = column(row, "cells")?;
        let tuple = Tuple::of_texts(cells.iter().copied())
            .map_err(|error| Fault::transient(format!("pgoutbox.parked: {error}")))?;
        let attempts: i32 = column(row, "attempts")?;
        let xid = |name| -> Result<Option<u32>, Fault> {
            Ok(column::<Option<i64>>(row, name)?.and_then(|xid| u32::try_from(xid).ok()))
        };
        let written_by = xid("xid")?;
        Ok(ParkedRow {
            seq: column(row, "seq")?,
            position: position(row)?,
            id: column(row, "event_id")?,
            aggregate: aggregate(row)?,
            is_holding: column(row, "is_holding")?,
            attempts: u32::try_from(attempts).unwrap_or(0),
            is_alone: column(row, "is_closed")?,
            xid_end: xid("xid_end")?.filter(|_| written_by.is_some()),
            row: StoredRow {
                table: source,
                columns,
                tuple,
                commit_time: column(row, "commit_micros")?,
                xid: written_by,
            },
        })
    }
}

/// Reads `pgoutbox.parked.columns`.
///
/// # Errors
/// Somebody changed it: it is not what the store writes there. The session ends, and the next meets it
/// again.
pub(super) fn columns_of(json: &str) -> Result<Arc<[Column]>, Fault> {
    let wrong = || Fault::transient(format!("pgoutbox.parked.columns cannot be read: {json}"));
    let columns: Vec<serde_json::Value> = serde_json::from_str(json).map_err(|_| wrong())?;
    let column = |value: &serde_json::Value| {
        let type_oid = value.get("type_oid")?.as_u64()?;
        let name = value.get("name")?.as_str()?.to_owned();
        Some(Column { name, type_oid: u32::try_from(type_oid).ok()? })
    };
    columns.iter().map(column).collect::<Option<Vec<_>>>().map(Arc::from).ok_or_else(wrong)
}
