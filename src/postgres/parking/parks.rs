//! Writes events that are to be parked.

use futures_util::future::join_all;
use postgres_types::ToSql;
use tokio_postgres::{Error, Statement};
use tracing::warn;

use super::access::Access;
use super::form::Form;
use super::large;
use super::park_record::ParkRecord;
use crate::config::Postgres;
use crate::core::parked::Park;
use crate::postgres::{classify, is_of_row};

/// The statement, of one session, and where those are written that it is not for.
pub(super) struct Parks {
    pub(super) park: Statement,
    pub(super) postgres: Postgres,
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
        let mut last = match self.write_alone(access, park, Form::Whole).await {
            Err(error) if is_of_row(&error) => error,
            outcome => return outcome,
        };
        for (form, what) in Form::LESSER {
            match self.write_alone(access, park, form).await {
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

    async fn write_alone(&self, access: Access<'_>, park: &Park, form: Form) -> Result<(), Error> {
        if park.is_large() && form != Form::WithoutCells {
            let record = ParkRecord::new(access, park, form);
            if let Some(written) = large::write(&self.postgres, access, &record, &park.tuple).await
            {
                return written;
            }
        }
        access.alone(self.park(access, park, form)).await
    }

    async fn park(&self, access: Access<'_>, park: &Park, form: Form) -> Result<(), Error> {
        let record = ParkRecord::new(access, park, form);
        let cells: Vec<Option<&[u8]>> =
            record.cells.iter().map(|cell| park.tuple.text(*cell)).collect();
        let parameters: [&(dyn ToSql + Sync); 20] = [
            &record.slot,
            &record.outbox,
            &record.id,
            &record.aggregate_type,
            &record.aggregate_id,
            &record.commit_lsn,
            &record.index,
            &record.commit_time,
            &record.state,
            &record.is_holding,
            &record.reason,
            &record.error,
            &record.hint,
            &record.attempts,
            &record.next_ms,
            &record.columns,
            &cells,
            &record.xid,
            &record.occurred_at,
            &record.prefix,
        ];
        access.client.execute(&self.park, &parameters).await.map(|_| ())
    }
}
