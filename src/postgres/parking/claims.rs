//! Takes parked events, so that they are tried again.

use std::collections::VecDeque;

use postgres_types::ToSql;
use tokio_postgres::{Row, Statement};

use super::access::Access;
use super::locks::is_locked;
use super::refused_records::Write;
use crate::core::parked::{Aggregate, Head, ParkedRow};
use crate::error::Fault;
use crate::postgres::{classify, column, is_refused};

/// The statements, of one session.
pub(super) struct Claims {
    pub(super) claim: Statement,
    pub(super) first: Statement,
    pub(super) claim_alone: Statement,
}

impl Claims {
    /// Takes the next events of an aggregate behind a row.
    pub(super) async fn claim(
        &self,
        access: Access<'_>,
        aggregate: &Aggregate,
        after: i64,
    ) -> Result<Head, Fault> {
        let (aggregate_type, aggregate_id) = aggregate.parts();
        let passed_over = access.passed_over();
        let parameters: [&(dyn ToSql + Sync); 5] =
            [&access.scope.slot, &aggregate_type, &aggregate_id, &after, &passed_over];
        let (client, refused) = (access.client, &access.unwritten.refused);
        let failed = |error| classify(&error);
        if !access.unwritten.locks.is_free(client).await.map_err(failed)? {
            return Ok(Head::Waits);
        }
        let rows = match access.alone(client.query(&self.claim, &parameters)).await {
            Err(error) if is_locked(&error) => {
                access.unwritten.locks.met_table_lock(client).await;
                return Ok(Head::Waits);
            }
            // A trigger: its turn has not come.
            Err(error) if is_refused(&error) => {
                let first = parameters.get(..4).unwrap_or_default();
                let first = client.query_opt(&self.first, first).await.map_err(failed)?;
                if let Some(first) = first {
                    refused.put_off(column(&first, "seq")?, Write::Claim, &error);
                }
                return Ok(Head::Waits);
            }
            rows => rows.map_err(failed)?,
        };
        let Some(first) = rows.first() else { return Ok(Head::None) };
        if column(first, "is_locked")? {
            access.unwritten.locks.met_lock(client, None).await;
        }
        // Its turn has not come.
        if column::<Option<i64>>(first, "seq")?.is_none() {
            return Ok(Head::Waits);
        }
        let is_tail = column(first, "is_tail")?;
        let mut rows = VecDeque::from(access.scope.rows(&rows)?);
        // It was freed just now, and it is known what became of it.
        let is_known = |row: &ParkedRow| access.unwritten.deferred.contains(row.seq);
        let known = rows.iter().position(is_known);
        rows.truncate(known.unwrap_or(rows.len()));
        if rows.is_empty() {
            return Ok(Head::Waits);
        }
        Ok(Head::Claimed { rows, is_tail })
    }

    /// Takes events that nobody waits for; those that were taken out are missing in the answer.
    pub(super) async fn claim_alone(
        &self,
        access: Access<'_>,
        seqs: &[i64],
    ) -> Result<Vec<ParkedRow>, Fault> {
        let client = access.client;
        let failed = |error| classify(&error);
        if !access.unwritten.locks.is_free(client).await.map_err(failed)? {
            return Ok(Vec::new());
        }
        let those: [&(dyn ToSql + Sync); 2] = [&access.scope.slot, &seqs];
        let rows = match access.alone(client.query(&self.claim_alone, &those)).await {
            // Still due, they are found with the next look.
            Err(error) if is_locked(&error) => {
                access.unwritten.locks.met_table_lock(client).await;
                return Ok(Vec::new());
            }
            Err(error) if is_refused(&error) => self.claim_each(access, seqs).await?,
            rows => rows.map_err(failed)?,
        };
        let mut taken = Vec::new();
        let mut is_any_locked = false;
        for row in rows {
            is_any_locked |= column::<bool>(&row, "is_locked")?;
            if column::<Option<i64>>(&row, "seq")?.is_some() {
                taken.push(row);
            }
        }
        if is_any_locked {
            access.unwritten.locks.met_lock(client, None).await;
        }
        let mut rows = access.scope.rows(&taken)?;
        rows.retain(|row| !access.unwritten.deferred.contains(row.seq));
        rows.sort_by_key(|row| row.seq);
        Ok(rows)
    }

    /// One at a time, since one of them cannot be taken.
    async fn claim_each(&self, access: Access<'_>, seqs: &[i64]) -> Result<Vec<Row>, Fault> {
        let mut claimed = Vec::new();
        for seq in seqs {
            let one = vec![*seq];
            let those: [&(dyn ToSql + Sync); 2] = [&access.scope.slot, &one];
            match access.alone(access.client.query(&self.claim_alone, &those)).await {
                Err(error) if is_refused(&error) => {
                    access.unwritten.refused.put_off(*seq, Write::Claim, &error);
                }
                rows => claimed.extend(rows.map_err(|error| classify(&error))?),
            }
        }
        Ok(claimed)
    }
}
