//! Writes events that are to be parked.

use futures_util::future::join_all;
use postgres_types::ToSql;
use serde_json::json;
use tokio_postgres::{Error, Statement};
use tracing::warn;

use super::access::Access;
use super::form::Form;
use super::record::{number_of, state_and_pause};
use crate::core::parked::{Aggregate, Park};
use crate::postgres::{classify, is_of_row};

/// The statement, of one session.
pub(super) struct Parks {
    pub(super) park: Statement,
}

impl Parks {
    /// All of them, inside the transaction of the marks, without waiting for answers in between.
    pub(super) async fn write(&self, access: Access<'_>, parks: &[Park]) -> Result<(), Error> {
        let parks = join_all(parks.iter().map(|park| self.park(access, park, Form::Whole)));
        parks.await.into_iter().collect()
    }

    /// One by itself, in the first form that the server takes: an event that is nowhere would hold up all
    /// others.
    pub(super) async fn write_somehow(&self, access: Access<'_>, park: &Park) -> Result<(), Error> {
        let mut last = match access.alone(self.park(access, park, Form::Whole)).await {
            Err(error) if is_of_row(&error) => error,
            outcome => return outcome,
        };
        for (form, what) in Form::LESSER {
            match access.alone(self.park(access, park, form)).await {
                Ok(()) => {
                    let (id, position) =
                        (park.id.as_deref().unwrap_or("without id"), park.position);
                    warn!(
                        hint = "look at its row in the outbox, and at constraints and triggers of pgoutbox.parked",
                        event_id = park.id,
                        %position,
                        "event {id} (commit {position}) is parked {what}, since pgoutbox.parked refuses it: {}",
                        classify(&last).what
                    );
                    return Ok(());
                }
                Err(error) if is_of_row(&error) => last = error,
                outcome => return outcome,
            }
        }
        Err(last)
    }

    async fn park(&self, access: Access<'_>, park: &Park, form: Form) -> Result<(), Error> {
        let Park { position, id, aggregate, mapping, tuple, commit_time, is_holding, .. } = park;
        let has_keys = form < Form::WithoutKeys;
        let (id, aggregate) =
            (id.as_ref().filter(|_| has_keys), aggregate.as_ref().filter(|_| has_keys));
        let outbox = access.scope.oids.get(mapping.table).copied().unwrap_or_default();
        let prefix = access.scope.prefix(mapping.table);
        let (aggregate_type, aggregate_id) = match aggregate.map(Aggregate::parts) {
            Some((aggregate_type, id)) => (aggregate_type, Some(id)),
            None => (None, None),
        };
        let index = number_of(*position);
        let (state, next_ms) = state_and_pause(park.state);
        let reason = park.refusal.as_ref().map(|refusal| refusal.reason());
        let error = park.refusal.as_ref().map(|refusal| form.text(&refusal.to_string()));
        let hint = park.refusal.as_ref().map(|refusal| refusal.hint());
        let attempts = i32::from(park.refusal.is_some());
        let columns = mapping.columns.iter();
        let columns: serde_json::Value = columns
            .map(|column| json!({"name": column.name, "type_oid": column.type_oid}))
            .collect();
        let columns = columns.to_string();
        let mut cells = Vec::new();
        // It was read before, so it can be.
        let _ = tuple.read_into(&mut cells);
        let cells: Vec<Option<&[u8]>> = match form {
            Form::WithoutCells => Vec::new(),
            _ => cells.into_iter().map(|cell| tuple.text(cell)).collect(),
        };
        let occurred_at = mapping.occurred_at.and_then(|at| cells.get(at).copied().flatten());
        let occurred_at = occurred_at.and_then(|text| std::str::from_utf8(text).ok());
        let xid = park.xid.map(i64::from);
        let parameters: [&(dyn ToSql + Sync); 20] = [
            &access.scope.slot,
            &outbox,
            &id,
            &aggregate_type,
            &aggregate_id,
            &position.commit_lsn,
            &index,
            commit_time,
            &state,
            is_holding,
            &reason,
            &error,
            &hint,
            &attempts,
            &next_ms,
            &columns,
            &cells,
            &xid,
            &occurred_at,
            &prefix,
        ];
        access.client.execute(&self.park, &parameters).await.map(|_| ())
    }
}
