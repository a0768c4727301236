//! Writes what became of tries: a record goes once its event is delivered, and shows its error where it was
//! refused. What cannot be written is kept in mind, and the others go on.

use futures_util::future::join_all;
use postgres_types::ToSql;
use tokio_postgres::{Error, Statement};

use super::access::Access;
use super::form::Form;
use super::locks::is_locked;
use super::record::state_and_pause;
use super::refused_records::Write;
use super::unmarked::UnmarkedRecords;
use crate::core::parked::{Attempt, AttemptOutcome};
use crate::postgres::{is_of_row, is_refused};

/// The statements, of one session.
pub(super) struct OutcomeWriter {
    pub(super) delivered: Statement,
    pub(super) kept: Statement,
    pub(super) still: Statement,
    pub(super) refused: Statement,
    pub(super) noted: Statement,
    pub(super) withdrawn: Statement,
}

/// What becomes of the record of an event that is delivered.
#[derive(Clone, Copy)]
pub(super) enum Leaving<'a> {
    /// It goes.
    AtOnce,
    /// It stays until the event's mark is known to be written.
    Unmarked(&'a UnmarkedRecords),
}

impl<'a> Leaving<'a> {
    pub(super) fn new(keeps: bool, unmarked: &'a UnmarkedRecords) -> Self {
        if keeps { Self::Unmarked(unmarked) } else { Self::AtOnce }
    }
}

impl OutcomeWriter {
    fn leave(&self, leaving: Leaving<'_>) -> &Statement {
        match leaving {
            Leaving::AtOnce => &self.delivered,
            Leaving::Unmarked(unmarked) => {
                unmarked.expect_some();
                &self.kept
            }
        }
    }

    /// All of them, inside the transaction of the marks, without waiting for answers in between. Returns
    /// how many were written.
    pub(super) async fn write(
        &self,
        access: Access<'_>,
        attempts: &[Attempt],
        leaving: Leaving<'_>,
    ) -> Result<usize, Error> {
        let refused = attempts.iter();
        let refused = join_all(refused.map(|attempt| self.refused(access, attempt, Form::Whole)));
        let (refused, done) = tokio::join!(biased; refused, self.done(access, attempts, leaving));
        let mut count = 0;
        for outcome in refused.into_iter().chain([done]) {
            count += outcome?;
        }
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// What became of tries that were not refused.
    async fn done(
        &self,
        access: Access<'_>,
        attempts: &[Attempt],
        leaving: Leaving<'_>,
    ) -> Result<u64, Error> {
        let those = |is_it: fn(&AttemptOutcome) -> bool| -> Vec<i64> {
            let those = attempts.iter().filter(|attempt| is_it(&attempt.outcome));
            those.map(|attempt| attempt.seq).collect()
        };
        let delivered = those(|outcome| matches!(outcome, AttemptOutcome::Delivered { .. }));
        let withdrawn = those(|outcome| matches!(outcome, AttemptOutcome::Withdrawn));
        let execute = async |statement, seqs: &Vec<i64>| match seqs.is_empty() {
            true => Ok(0),
            false => access.client.execute(statement, &[seqs]).await,
        };
        let leave = if delivered.is_empty() { &self.delivered } else { self.leave(leaving) };
        let (deleted, noted, withdrawn) = tokio::join!(
            biased;
            execute(leave, &delivered),
            execute(&self.noted, &delivered),
            execute(&self.withdrawn, &withdrawn),
        );
        Ok(deleted? + noted? + withdrawn?)
    }

    /// Writes what became of one try. Where that is refused, nothing is lost: the event is left alone
    /// for a while.
    pub(super) async fn write_one(
        &self,
        access: Access<'_>,
        attempt: &Attempt,
        leaving: Leaving<'_>,
    ) -> Result<bool, Error> {
        let seq = attempt.seq;
        let (what, outcome) = match &attempt.outcome {
            AttemptOutcome::Refused { .. } => {
                let refused = |form| access.alone(self.refused(access, attempt, form));
                let mut outcome = refused(Form::Whole).await;
                if outcome.as_ref().is_err_and(is_of_row) {
                    outcome = refused(Form::Plain).await;
                }
                (Write::Outcome, outcome)
            }
            AttemptOutcome::Delivered { .. } => {
                (Write::Delivered, self.end(access, seq, leaving).await)
            }
            AttemptOutcome::Withdrawn => {
                let seqs = vec![seq];
                let withdrawn: [&(dyn ToSql + Sync); 1] = [&seqs];
                let withdrawn = access.client.execute(&self.withdrawn, &withdrawn);
                (Write::Outcome, access.alone(withdrawn).await)
            }
        };
        match outcome {
            // A lock on the row is passed over: this one is on the table.
            Err(error) if is_locked(&error) => Err(error),
            Err(error) if is_refused(&error) => {
                access.unwritten.refused.put_off(seq, what, &error);
                Ok(false)
            }
            outcome => {
                outcome?;
                access.unwritten.refused.forget(seq);
                Ok(true)
            }
        }
    }

    /// An event is delivered: its record ends.
    async fn end(&self, access: Access<'_>, seq: i64, leaving: Leaving<'_>) -> Result<u64, Error> {
        let (client, leave) = (access.client, self.leave(leaving));
        let seqs = vec![seq];
        let seqs: [&(dyn ToSql + Sync); 1] = [&seqs];
        let both = async {
            let (left, noted) = tokio::join!(
                biased;
                client.execute(leave, &seqs),
                client.execute(&self.noted, &seqs),
            );
            left.and(noted)
        };
        access.alone(both).await
    }

    async fn refused(
        &self,
        access: Access<'_>,
        attempt: &Attempt,
        form: Form,
    ) -> Result<u64, Error> {
        let AttemptOutcome::Refused { attempts, state, refusal } = &attempt.outcome else {
            return Ok(0);
        };
        let (state, next_ms) = state_and_pause(*state);
        let attempts = i32::try_from(*attempts).unwrap_or(i32::MAX);
        let error = form.text(&refusal.to_string());
        let (reason, hint) = (refusal.reason(), refusal.hint());
        let parameters: [&(dyn ToSql + Sync); 7] =
            [&attempt.seq, &state, &attempts, &next_ms, &reason, &error, &hint];
        access.client.execute(&self.refused, &parameters).await
    }

    /// Of outcomes that were to be written, keeps those that a lock was in the way of. They are written
    /// with the next look that finds the row free.
    pub(super) async fn defer(
        &self,
        access: Access<'_>,
        attempts: &[Attempt],
    ) -> Result<(), Error> {
        let seqs: Vec<i64> = attempts.iter().map(|attempt| attempt.seq).collect();
        let still = self.still(access, &seqs).await?;
        let Some(first) = still.first() else { return Ok(()) };
        access.unwritten.deferred.add(attempts, &still);
        access.unwritten.locks.met_lock(access.client, Some(*first)).await;
        Ok(())
    }

    /// Which of these are there as they were before their try.
    async fn still(&self, access: Access<'_>, seqs: &[i64]) -> Result<Vec<i64>, Error> {
        let rows = access.client.query(&self.still, &[&seqs]).await?;
        rows.iter().map(|row| row.try_get(0)).collect()
    }

    /// Writes what was deferred, as far as that can be done now.
    pub(super) async fn flush(
        &self,
        access: Access<'_>,
        unmarked: &UnmarkedRecords,
    ) -> Result<(), Error> {
        let unwritten = access.unwritten;
        let deferred = unwritten.deferred.all();
        if deferred.is_empty() {
            return Ok(());
        }
        for attempt in deferred.iter().filter(|attempt| !unwritten.refused.rests(attempt.seq)) {
            self.write_one(access, attempt, Leaving::Unmarked(unmarked)).await?;
        }
        let seqs: Vec<i64> = deferred.iter().map(|attempt| attempt.seq).collect();
        let still = self.still(access, &seqs).await?;
        unwritten.deferred.retain(&seqs, &still);
        if let Some(first) = still.first() {
            unwritten.locks.met_lock(access.client, Some(*first)).await;
        }
        Ok(())
    }

    /// The records of events that are delivered end, where they could not before.
    pub(super) async fn end_delivered(
        &self,
        access: Access<'_>,
        unmarked: &UnmarkedRecords,
    ) -> Result<(), Error> {
        let refused = &access.unwritten.refused;
        for seq in refused.delivered() {
            match self.end(access, seq, Leaving::Unmarked(unmarked)).await {
                Err(error) if is_refused(&error) => refused.put_off(seq, Write::Delivered, &error),
                outcome => {
                    outcome?;
                    refused.forget(seq);
                }
            }
        }
        Ok(())
    }
}
