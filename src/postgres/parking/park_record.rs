//! What is written of an event that is put aside.

use postgres_types::PgLsn;
use serde_json::json;

use super::access::Access;
use super::form::Form;
use super::record::{number_of, state_and_pause};
use crate::core::event::pgoutput::Cell;
use crate::core::parked::{Aggregate, Park};

/// What is written of an event, but for the row itself.
pub(super) struct ParkRecord<'a> {
    pub(super) slot: &'a str,
    pub(super) outbox: u32,
    pub(super) id: Option<&'a str>,
    pub(super) aggregate_type: Option<&'a str>,
    pub(super) aggregate_id: Option<&'a str>,
    pub(super) commit_lsn: PgLsn,
    pub(super) index: i64,
    pub(super) commit_time: i64,
    pub(super) state: &'static str,
    pub(super) next_ms: Option<i64>,
    pub(super) is_holding: bool,
    pub(super) reason: Option<&'static str>,
    pub(super) error: Option<String>,
    pub(super) hint: Option<&'static str>,
    pub(super) attempts: i32,
    /// JSON.
    pub(super) columns: String,
    pub(super) xid: Option<i64>,
    pub(super) occurred_at: Option<&'a str>,
    pub(super) prefix: Option<&'a str>,
    /// Where the row's values stand.
    pub(super) cells: Vec<Cell>,
}

impl<'a> ParkRecord<'a> {
    pub(super) fn new(access: Access<'a>, park: &'a Park, form: Form) -> Self {
        let Park { position, id, aggregate, mapping, tuple, commit_time, is_holding, .. } = park;
        let has_keys = form < Form::WithoutKeys;
        let (id, aggregate) =
            (id.as_deref().filter(|_| has_keys), aggregate.as_ref().filter(|_| has_keys));
        let (aggregate_type, aggregate_id) = match aggregate.map(Aggregate::parts) {
            Some((aggregate_type, id)) => (aggregate_type, Some(id)),
            None => (None, None),
        };
        let (state, next_ms) = state_and_pause(park.state);
        let columns = mapping.columns.iter();
        let columns: serde_json::Value = columns
            .map(|column| json!({"name": column.name, "type_oid": column.type_oid}))
            .collect();
        let mut cells = Vec::new();
        if form != Form::WithoutCells {
            // It was read before, so it can be.
            let _ = tuple.read_into(&mut cells);
        }
        let occurred_at = mapping.occurred_at.and_then(|at| tuple.text(*cells.get(at)?));
        Self {
            slot: &access.scope.slot,
            outbox: access.scope.oids.get(mapping.table).copied().unwrap_or_default(),
            id,
            aggregate_type,
            aggregate_id,
            commit_lsn: position.commit_lsn,
            index: number_of(*position),
            commit_time: *commit_time,
            state,
            next_ms,
            is_holding: *is_holding,
            reason: park.refusal.as_ref().map(|refusal| refusal.reason()),
            error: park.refusal.as_ref().map(|refusal| form.text(&refusal.to_string())),
            hint: park.refusal.as_ref().map(|refusal| refusal.hint()),
            attempts: i32::from(park.refusal.is_some()),
            columns: columns.to_string(),
            xid: park.xid.map(i64::from),
            occurred_at: occurred_at.and_then(|text| std::str::from_utf8(text).ok()),
            prefix: access.scope.prefix(mapping.table),
            cells,
        }
    }
}
