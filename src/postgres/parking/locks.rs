//! Locks of others on `pgoutbox.parked`, on one of its rows, or on the row of the progress: who has
//! them, said once a minute.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use postgres_types::Type;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};
use tracing::warn;

use crate::log_throttle::LogThrottle;
use crate::postgres::sql;
use crate::postgres::{classify, is_lock};

/// Events that somebody has a lock on are not looked at again before.
pub(super) const LOCKED: Duration = Duration::from_secs(1);

/// What is known of them.
#[derive(Default)]
pub(super) struct Locks(Mutex<State>);

#[derive(Default)]
struct State {
    /// A lock was met lately.
    locked_at: Option<Instant>,
    /// Somebody has a lock on all of the parking: asking would only wait for it.
    is_locked: bool,
    told: LogThrottle,
}

impl Locks {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lock on a parked event was met just now.
    pub(super) fn is_recent(&self) -> bool {
        self.state().locked_at.is_some_and(|at| at.elapsed() < LOCKED)
    }

    /// One lock leads to the next: there is one line a minute for all of them.
    fn is_due(&self) -> bool {
        self.state().told.is_due("lock")
    }

    /// Somebody has a lock on a parked event: says who, once a minute.
    pub(super) async fn met_lock(&self, client: &Client, seq: Option<i64>) {
        self.state().locked_at = Some(Instant::now());
        if !self.is_due() {
            return;
        }
        let event = seq.map_or("parked events are".to_owned(), |seq| {
            format!("the parked event with seq {seq} is")
        });
        let (who, hint) = locker(client, "pgoutbox.parked").await;
        warn!(
            hint,
            "{event} locked by {who}: its aggregate waits until that transaction ends, and nobody else does"
        );
    }

    /// Somebody has a lock on all of the parking: says who, once a minute. What is about the parking
    /// waits until it is free, without asking again and again on the connection of the marks.
    pub(super) async fn met_table_lock(&self, client: &Client) {
        self.state().is_locked = true;
        if !self.is_due() {
            return;
        }
        let (table, (who, hint)) = table_locker(client).await;
        warn!(
            hint,
            "{table} is locked by {who}: parked events and those to be parked wait until that transaction ends, others go on for a window"
        );
    }

    /// Whether nobody has a lock on all of the parking. Asks the server only where somebody had.
    pub(super) async fn is_free(&self, client: &Client) -> Result<bool, Error> {
        if !self.state().is_locked {
            return Ok(true);
        }
        match client.batch_execute(sql::PARKED_FREE).await {
            Err(error) if is_locked(&error) => {
                self.met_table_lock(client).await;
                return Ok(false);
            }
            // Whatever else it is, those who ask will meet it.
            Err(error) if error.as_db_error().is_some() => {}
            outcome => outcome?,
        }
        self.state().is_locked = false;
        Ok(true)
    }

    /// Somebody has a lock on the row of the progress: says who, once a minute.
    pub(super) async fn locked_progress(&self, client: &Client, slot: &str) {
        if !self.is_due() {
            return;
        }
        let (who, hint) = locker(client, "pgoutbox.progress").await;
        warn!(
            hint,
            "the row of slot \"{slot}\" in pgoutbox.progress is locked by {who}: a window of events goes on, and no more until that transaction ends; WAL is kept"
        );
    }
}

/// A lock stood in the way, says the server, and no trigger.
pub(crate) fn is_locked(error: &Error) -> bool {
    error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) && is_lock(&classify(error))
}

/// Who has locked all of the parking, or all pauses.
pub(super) async fn table_locker(client: &Client) -> (&'static str, (String, String)) {
    for table in ["pgoutbox.parked", "pgoutbox.pause"] {
        if let Some(locker) = known_locker(client, table).await {
            return (table, locker);
        }
    }
    ("pgoutbox.parked", unknown_locker())
}

fn unknown_locker() -> (String, String) {
    (
        "another session".to_owned(),
        "end the transaction that has it locked: pg_locks names it".to_owned(),
    )
}

/// Who has locked rows of a table, and what to do about it.
pub(crate) async fn locker(client: &Client, table: &str) -> (String, String) {
    known_locker(client, table).await.unwrap_or_else(unknown_locker)
}

async fn known_locker(client: &Client, table: &str) -> Option<(String, String)> {
    let rows = client
        .query_typed(sql::SERVER_LOCKED_BY, &[(&table, Type::TEXT)])
        .await
        .unwrap_or_default();
    rows.first().and_then(|row| {
        let pid: i32 = row.try_get(0).ok()?;
        let state: Option<String> = row.try_get(1).ok()?;
        let name: Option<String> = row.try_get(2).ok()?;
        let seconds: Option<f64> = row.try_get(3).ok()?;
        let lasted = Duration::from_secs_f64(seconds.unwrap_or_default().max(0.0));
        let (state, name) = (state.unwrap_or_default(), name.unwrap_or_default());
        let lasted = crate::text::span(lasted);
        Some((
            format!("pid {pid} (application \"{name}\", {state}, its transaction is {lasted} old)"),
            format!("end that transaction, or: SELECT pg_terminate_backend({pid});"),
        ))
    })
}
