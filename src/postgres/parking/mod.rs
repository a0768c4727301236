//! Events put aside: written in the transaction of the marks, and looked up when due.
//!
//! `pgoutbox.parked` has a record for each. [`ParkingStore`] is made of parts that own their statements:
//! `parks` writes events that are parked (`large` those whose rows are), `outcomes` what became of tries, `looks` reads what is due,
//! `claims` takes it, `unmarked` ends the records of events once they are marked. `access` is what they
//! share; `locks`, `deferred` and `refused_records` are what is known of records that cannot be written.

mod access;
mod attempt_columns;
mod claims;
mod deferred;
mod form;
mod large;
mod locks;
mod log;
mod looks;
mod outcomes;
mod park_record;
mod parks;
mod record;
mod refused_records;
mod unmarked;

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use tokio_postgres::{Client, Error};
use tracing::debug;

pub(crate) use locks::{is_locked, locker};

use crate::config::Config;
use crate::core::event::Position;
use crate::core::parked::{Aggregate, Attempt, Head, ParkedRow, ParkingBatch, Schedule};
use crate::core::relay::marks::Mark;
use crate::error::Fault;
use crate::postgres::outbox_table::OutboxTable;
use crate::postgres::sql;
use crate::postgres::{classify, is_lock};
use access::{Access, Scope, UnwrittenRecords};
use attempt_columns::AttemptColumns;
use claims::Claims;
use locks::table_locker;
use log::ParkingLog;
use looks::Looks;
use outcomes::{Leaving, OutcomeWriter};
use parks::Parks;
use unmarked::UnmarkedRecords;

/// The channel on which changes of the parking are notified; the payload is the slot's name.
pub(crate) const CHANNEL: &str = "pgoutbox_parked";

/// Writes and reads the parking, for one session.
pub struct ParkingStore {
    scope: Scope,
    unwritten: UnwrittenRecords,
    parks: Parks,
    outcomes: OutcomeWriter,
    unmarked: UnmarkedRecords,
    looks: Looks,
    claims: Claims,
    /// By table.
    columns: Vec<AttemptColumns>,
    said: Mutex<ParkingLog>,
}

impl ParkingStore {
    /// Prepares the statements, and listens for changes.
    ///
    /// # Errors
    /// The tables of the parking are not there or not of this version, a right is missing, or the
    /// connection is lost.
    pub async fn prepare(
        client: &Client,
        config: &Config,
        outboxes: &[OutboxTable],
        session: &str,
    ) -> Result<Self, Fault> {
        match Self::prepare_all(client, config, outboxes, session).await {
            Err(mut fault) if is_lock(&fault) => {
                let (table, (who, hint)) = table_locker(client).await;
                fault.what = format!(
                    "{table} is locked by {who}: which aggregates wait is not known, and nothing is published"
                );
                Err(fault.hint(hint))
            }
            outcome => outcome,
        }
    }

    async fn prepare_all(
        client: &Client,
        config: &Config,
        outboxes: &[OutboxTable],
        session: &str,
    ) -> Result<Self, Fault> {
        let prepare = async |sql| client.prepare(sql).await.map_err(|error| classify(&error));
        let listen = format!("LISTEN {CHANNEL}");
        if let Err(error) = client.batch_execute(&listen).await {
            // A transaction pooler: polling is the net.
            debug!("no notifications: {}", classify(&error));
        }
        let mut columns = Vec::new();
        for (table, outbox) in config.tables.iter().zip(outboxes) {
            columns.push(AttemptColumns::prepare(client, table, outbox).await?);
        }
        Ok(Self {
            scope: Scope {
                slot: config.postgres.slot.clone(),
                session: session.to_owned(),
                oids: outboxes.iter().map(|outbox| outbox.relation).collect(),
                prefixes: config.messages.iter().map(|source| source.name.clone()).collect(),
                still_ours: prepare(sql::PROGRESS_STILL_OURS).await?,
            },
            unwritten: UnwrittenRecords::default(),
            parks: Parks { park: prepare(sql::PARK).await?, postgres: config.postgres.clone() },
            outcomes: OutcomeWriter {
                delivered: prepare(sql::PARK_DELIVERED).await?,
                kept: prepare(sql::PARK_KEPT).await?,
                still: prepare(sql::PARKED_STILL).await?,
                refused: prepare(sql::PARK_REFUSED).await?,
                noted: prepare(sql::PARK_NOTED).await?,
                withdrawn: prepare(sql::PARK_WITHDRAWN).await?,
            },
            unmarked: UnmarkedRecords::new(
                prepare(sql::PARK_UNMARKED).await?,
                prepare(sql::PARK_MARKED).await?,
            ),
            looks: Looks {
                due: prepare(sql::PARKED_DUE).await?,
                unclaimed: prepare(sql::PARKED_UNCLAIMED).await?,
                held: prepare(sql::PARKED_HELD).await?,
                waiting: prepare(sql::PARKED_WAITING).await?,
                ahead: prepare(sql::PARKED_AHEAD).await?,
                next: prepare(sql::PARKED_NEXT).await?,
                among: prepare(sql::PARKED_AMONG).await?,
            },
            claims: Claims {
                claim: prepare(sql::PARKED_CLAIM).await?,
                first: prepare(sql::PARKED_FIRST).await?,
                claim_alone: prepare(sql::PARKED_CLAIM_ALONE).await?,
            },
            columns,
            said: Mutex::default(),
        })
    }

    fn access<'a>(&'a self, client: &'a Client) -> Access<'a> {
        Access { client, scope: &self.scope, unwritten: &self.unwritten }
    }

    /// Writes what is to be written, inside the transaction of the marks; all of it goes onto
    /// the wire without waiting for answers. What was delivered stays until its mark is known to be
    /// written, where that is wanted. Returns of how many tries the outcome was written: of those
    /// that are missing, somebody has a lock on the row ([`defer`](Self::defer)), or it is gone.
    ///
    /// # Errors
    /// The server refuses something of it, or the connection is lost: the transaction is rolled back.
    pub async fn write(
        &self,
        client: &Client,
        parking: &ParkingBatch,
        keeps: bool,
    ) -> Result<usize, Error> {
        let (access, leaving) = (self.access(client), Leaving::new(keeps, &self.unmarked));
        let (parks, attempts) = tokio::join!(
            biased;
            self.parks.write(access, &parking.parks),
            self.outcomes.write(access, &parking.attempts, leaving),
        );
        parks?;
        attempts
    }

    /// Writes each by itself and in order, where the server refuses one of them. An event that it
    /// refuses is parked in a form that it takes: one that is nowhere would hold up all others.
    ///
    /// # Errors
    /// An event is refused in all forms, somebody has a lock on all of the parking, a later session owns
    /// the slot, or the connection is lost. What was written before stays.
    pub(crate) async fn write_each(
        &self,
        client: &Client,
        parking: &ParkingBatch,
        keeps: bool,
    ) -> Result<(), Error> {
        let (access, leaving) = (self.access(client), Leaving::new(keeps, &self.unmarked));
        for park in &parking.parks {
            self.parks.write_somehow(access, park).await?;
        }
        let mut written = Vec::new();
        for attempt in &parking.attempts {
            if self.outcomes.write_one(access, attempt, leaving).await? {
                written.push(attempt.clone());
            }
        }
        self.outcomes.defer(access, &written).await
    }

    /// Of outcomes that were to be written, keeps those that a lock was in the way of. They are
    /// written with the next look that finds the row free.
    ///
    /// # Errors
    /// The connection is lost: the session ends.
    pub(crate) async fn defer(&self, client: &Client, attempts: &[Attempt]) -> Result<(), Error> {
        self.outcomes.defer(self.access(client), attempts).await
    }

    /// Somebody has a lock on all of the parking: says who, once a minute. What is about the parking
    /// waits until it is free, without asking again and again on the connection of the marks.
    pub(crate) async fn met_table_lock(&self, client: &Client) {
        self.unwritten.locks.met_table_lock(client).await;
    }

    /// Whether nobody has a lock on all of the parking. Asks the server only where somebody had.
    ///
    /// # Errors
    /// The connection is lost: the session ends.
    pub(crate) async fn is_free(&self, client: &Client) -> Result<bool, Error> {
        self.unwritten.locks.is_free(client).await
    }

    /// Somebody has a lock on the row of the progress: says who, once a minute.
    pub(crate) async fn locked_progress(&self, client: &Client) {
        self.unwritten.locks.locked_progress(client, &self.scope.slot).await;
    }

    /// Events that left the parking delivered, and whose marks are not known to be written: their
    /// numbers, and the marks of those that have an id and whose table is configured.
    ///
    /// # Errors
    /// The query fails, over a lock on all of the parking for one, or the connection is lost. They are
    /// read again with the next look.
    pub(crate) async fn unmarked(
        &self,
        client: &Client,
    ) -> Result<Vec<(i64, Option<Mark>)>, Error> {
        self.unmarked.read(self.access(client)).await
    }

    /// The marks of these are written: their records end.
    ///
    /// # Errors
    /// Somebody has a lock on all of the parking, or the connection is lost. A record that the server
    /// refuses to end is left for a while.
    pub(crate) async fn marked(&self, client: &Client, seqs: &[i64]) -> Result<(), Error> {
        self.unmarked.end(self.access(client), seqs).await
    }

    /// Of the marks of events that an earlier session settled, the places of parked ones: they
    /// are not to be written.
    ///
    /// # Errors
    /// The query fails, or the connection is lost: nothing of the batch is written.
    pub(crate) async fn among(
        &self,
        client: &Client,
        marks: &[Mark],
    ) -> Result<BTreeSet<Position>, Fault> {
        self.looks.among(self.access(client), marks).await
    }

    /// Looks at what is due, and who waits; the first time, from a place of the stream on. What could
    /// not be written before is written first.
    ///
    /// # Errors
    /// A query fails, over a lock on all of the parking for one, or the connection is lost. To be looked at
    /// again.
    pub async fn look(&self, client: &Client, from: Option<Position>) -> Result<Schedule, Fault> {
        let (access, failed) = (self.access(client), |error: Error| classify(&error));
        self.outcomes.flush(access, &self.unmarked).await.map_err(failed)?;
        self.follow(client).await;
        self.outcomes.end_delivered(access, &self.unmarked).await.map_err(failed)?;
        self.looks.look(access, from).await
    }

    /// Takes the next events of an aggregate behind a row.
    ///
    /// # Errors
    /// The connection is lost, or a record cannot be read: the session ends. A lock or a trigger is not an
    /// error: the head waits.
    pub async fn claim(
        &self,
        client: &Client,
        aggregate: &Aggregate,
        after: i64,
    ) -> Result<Head, Fault> {
        self.claims.claim(self.access(client), aggregate, after).await
    }

    /// Takes events that nobody waits for; those that were taken out are missing in the answer.
    ///
    /// # Errors
    /// The connection is lost, or a record cannot be read: the session ends. What is locked or refused by
    /// a trigger is missing in the answer.
    pub async fn claim_alone(
        &self,
        client: &Client,
        seqs: &[i64],
    ) -> Result<Vec<ParkedRow>, Fault> {
        self.claims.claim_alone(self.access(client), seqs).await
    }

    /// Brings the columns up to date in which a row of the outbox shows the tries of its event.
    /// Best effort: what counts is in the parking.
    pub(crate) async fn follow(&self, client: &Client) {
        for columns in &self.columns {
            columns.follow(client).await;
        }
    }

    /// Failed events that were delivered after all: their rows no longer say that they failed.
    /// Best effort.
    pub(crate) async fn clear_failed(&self, client: &Client, parking: &ParkingBatch) {
        for (table, columns) in self.columns.iter().enumerate() {
            columns.clear_failed(client, table, parking).await;
        }
    }

    /// Says in the log what is put aside.
    pub(crate) fn log(&self, config: &Config, parking: &ParkingBatch) {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).log(config, parking);
    }
}
