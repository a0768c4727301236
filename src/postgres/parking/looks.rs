//! Looks at which events are due, and which aggregates wait.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::try_join;
use postgres_types::{PgLsn, ToSql};
use tokio_postgres::{Row, Statement};
use tracing::warn;

use super::access::Access;
use super::locks::LOCKED;
use super::record::{aggregate, number_of, position};
use crate::core::event::Position;
use crate::core::parked::{Aggregate, Ahead, Due, Schedule};
use crate::core::relay::marks::Mark;
use crate::error::Fault;
use crate::postgres::{classify, column};

/// The statements, of one session.
pub(super) struct Looks {
    pub(super) due: Statement,
    pub(super) unclaimed: Statement,
    pub(super) held: Statement,
    pub(super) waiting: Statement,
    pub(super) ahead: Statement,
    pub(super) next: Statement,
    pub(super) among: Statement,
}

impl Looks {
    /// What is due, and who waits; the first time, from a place of the stream on.
    pub(super) async fn look(
        &self,
        access: Access<'_>,
        from: Option<Position>,
    ) -> Result<Schedule, Fault> {
        let client = access.client;
        let (waiting, ahead) = match from {
            None => (Vec::new(), Ahead::default()),
            Some(from) => (self.waiting(access).await?, self.ahead(access, from).await?),
        };
        let passed_over = access.passed_over();
        let slot: [&(dyn ToSql + Sync); 1] = [&access.scope.slot];
        let those: [&(dyn ToSql + Sync); 2] = [&access.scope.slot, &passed_over];
        let due = client.query(&self.due, &those);
        let rest = try_join(client.query(&self.held, &slot), client.query_one(&self.next, &those));
        let looked = try_join(due, rest).await;
        let (due, (held, next)) = looked.map_err(|error| classify(&error))?;
        let next_ms: Option<i64> = column(&next, "next_ms")?;
        let mut next_due = next_ms.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0)));
        let due = due.iter().map(|row| {
            let is_holding: bool = column(row, "is_holding")?;
            Ok(Due {
                seq: column(row, "seq")?,
                aggregate: aggregate(row)?.filter(|_| is_holding),
                is_alone: column(row, "is_closed")?,
            })
        });
        let mut due: Vec<Due> = due.collect::<Result<_, Fault>>()?;
        // What is due and locked would be looked at again and again.
        if access.unwritten.locks.is_recent() {
            due.clear();
            next_due = next_due.map(|due| due.max(LOCKED));
        }
        Ok(Schedule {
            due,
            held: aggregates(&held)?,
            waiting,
            next_due: [next_due, access.unwritten.refused.next()].into_iter().flatten().min(),
            paused_by: column(&next, "paused_by")?,
            ahead,
        })
    }

    /// The aggregates that wait, at the begin of a session: what an earlier one had taken is given back.
    async fn waiting(&self, access: Access<'_>) -> Result<Vec<Aggregate>, Fault> {
        let slot: [&(dyn ToSql + Sync); 1] = [&access.scope.slot];
        match access.client.execute(&self.unclaimed, &slot).await {
            // They only go on to be shown as taken by a relay, until they are tried again.
            Err(error) if error.as_db_error().is_some() => {
                let fault = classify(&error);
                warn!(
                    hint = fault.hint,
                    "what an earlier session had taken of the parking is not given back: {}",
                    fault.what
                );
            }
            outcome => drop(outcome.map_err(|error| classify(&error))?),
        }
        let waiting = access.client.query(&self.waiting, &slot).await;
        aggregates(&waiting.map_err(|error| classify(&error))?)
    }

    async fn ahead(&self, access: Access<'_>, from: Position) -> Result<Ahead, Fault> {
        let index = number_of(from);
        let rows =
            access.client.query(&self.ahead, &[&access.scope.slot, &from.commit_lsn, &index]).await;
        let mut ahead = Ahead::default();
        for row in rows.map_err(|error| classify(&error))? {
            let event = (access.scope.source(&row)?, column(&row, "event_id")?);
            ahead.events.insert(position(&row)?, event);
            ahead.written_lsn = Some(column(&row, "written_lsn")?);
        }
        Ok(ahead)
    }

    /// Of the marks of events that an earlier session settled, the places of parked ones: they
    /// are not to be written.
    pub(super) async fn among(
        &self,
        access: Access<'_>,
        marks: &[Mark],
    ) -> Result<BTreeSet<Position>, Fault> {
        let repeated = marks.iter().filter(|mark| mark.is_repeat);
        let (lsns, numbers): (Vec<PgLsn>, Vec<i64>) =
            repeated.map(|mark| (mark.position.commit_lsn, number_of(mark.position))).unzip();
        let rows = access.client.query(&self.among, &[&access.scope.slot, &lsns, &numbers]).await;
        rows.map_err(|error| classify(&error))?.iter().map(position).collect()
    }
}

fn aggregates(rows: &[Row]) -> Result<Vec<Aggregate>, Fault> {
    let aggregates = rows.iter().map(aggregate).collect::<Result<Vec<_>, _>>()?;
    Ok(aggregates.into_iter().flatten().collect())
}
