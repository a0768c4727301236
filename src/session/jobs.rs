//! What a session asks of the database while it goes on: each question is a job, and its answer an input of
//! the relay.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio_postgres::Client;
use tracing::info;

use super::audit::{answered, answered_with};
use super::checks::{LOCKED, Renewal, check, check_attached, resolve, watch_rewritten};
use super::progress_row::clear_fault;
use crate::config::Config;
use crate::core::event::Position;
use crate::core::parked::Aggregate;
use crate::core::relay::Input;
use crate::core::relay::marks::{Batch, Left};
use crate::error::Fault;
use crate::postgres;
use crate::postgres::marker::Marker;
use crate::postgres::outbox_table::OutboxTable;
use crate::slot::catch_up::{self, CatchUp, Chunk};
use crate::slot::{Coverage, KnownPartitions};

/// Rows of a catch-up's list that are fetched at once, at most; a session passes over those that
/// are marked already.
const CATCH_UP_ROWS: u64 = 500;

type Job = Pin<Box<dyn Future<Output = Result<Input, Fault>>>>;

/// The jobs of a session, and what they ask with.
pub(super) struct Jobs {
    /// With the tables that are away behind those that are configured.
    pub(super) config: Arc<Config>,
    /// As it was given.
    pub(super) asked: Arc<Config>,
    pub(super) client: Arc<Client>,
    pub(super) marker: Arc<Marker>,
    pub(super) outboxes: Arc<[OutboxTable]>,
    /// By what the tables are covered; another once something was altered that matters to no row.
    pub(super) coverage: Rc<RefCell<Coverage>>,
    pub(super) looked: Rc<RefCell<KnownPartitions>>,
    /// Up to which transaction it was looked for tables that were written anew; `None`: since the slot was acknowledged.
    pub(super) rewritten_since: Rc<RefCell<Option<String>>>,
    pub(super) renewal: Renewal,
    /// The database says over how many relays the outbox is spread.
    pub(super) has_layout: bool,
    /// What is published before the stream.
    pub(super) catch_up: Option<CatchUp>,
    pub(super) running: FuturesUnordered<Job>,
}

impl Jobs {
    /// The next answer; `None` where nothing is asked.
    pub(super) async fn next(&mut self) -> Option<Result<Input, Fault>> {
        self.running.next().await
    }

    pub(super) fn push(&self, job: impl Future<Output = Result<Input, Fault>> + 'static) {
        self.running.push(Box::pin(job));
    }

    /// Asks the audit connection something, within bounds.
    pub(super) fn ask<F>(&self, asked: F)
    where
        F: AsyncFnOnce(&Marker, &Client) -> Result<Input, Fault> + 'static,
    {
        let (marker, client) = (Arc::clone(&self.marker), Arc::clone(&self.client));
        let config = Arc::clone(&self.config);
        self.push(async move { answered(&config, asked(&marker, &client)).await });
    }

    /// Whether the publication still covers the tables, and how far the WAL is on disk.
    pub(super) fn check(&self) {
        let (client, config) = (Arc::clone(&self.client), Arc::clone(&self.asked));
        let (before, looked) = (Rc::clone(&self.coverage), Rc::clone(&self.looked));
        let (outboxes, renewal) = (Arc::clone(&self.outboxes), Rc::clone(&self.renewal));
        let has_layout = self.has_layout;
        self.push(async move {
            check_attached(&client, &config, &outboxes, &looked).await?;
            check(client, config, before, renewal, has_layout).await
        });
    }

    /// Whether a table is written anew, as long as the session runs. Where the stream is passed, what waits is listed in
    /// any case.
    pub(super) fn watch_rewritten(&self, is_passing: bool) {
        if is_passing {
            return;
        }
        let (client, config) = (Arc::clone(&self.client), Arc::clone(&self.asked));
        let (outboxes, since) = (Arc::clone(&self.outboxes), Rc::clone(&self.rewritten_since));
        self.push(watch_rewritten(client, config, outboxes, since));
    }

    /// Which parked events are due.
    pub(super) fn look(&self, from: Option<Position>) {
        let (marker, client) = (Arc::clone(&self.marker), Arc::clone(&self.client));
        let config = Arc::clone(&self.config);
        self.push(async move {
            loop {
                let looked = answered(&config, marker.look(&client, from)).await?;
                if let Some(looked) = looked {
                    return Ok(Input::Looked(looked));
                }
                tokio::time::sleep(LOCKED).await;
            }
        });
    }

    /// Takes the head of an aggregate's parked events.
    pub(super) fn claim(&self, aggregate: Aggregate, after: i64) {
        self.ask(async move |marker, client| {
            let head = marker.parking().claim(client, &aggregate, after).await?;
            Ok(Input::Claimed { aggregate, head })
        });
    }

    /// Takes parked events that nobody waits for.
    pub(super) fn claim_alone(&self, asked: Vec<i64>) {
        self.ask(async move |marker, client| {
            let rows = marker.parking().claim_alone(client, &asked).await?;
            Ok(Input::ClaimedAlone { asked, rows })
        });
    }

    /// What a relation is that the stream brings rows of.
    pub(super) fn resolve(&self, relation: u32, xid: u32) {
        let (client, config) = (Arc::clone(&self.client), Arc::clone(&self.config));
        self.push(resolve(client, config, (relation, xid), Rc::clone(&self.renewal)));
    }

    /// Writes a batch of marks, with what was put aside and how far all is settled.
    pub(super) fn write(&self, batch: Batch) {
        let (marker, client) = (Arc::clone(&self.marker), Arc::clone(&self.client));
        let config = Arc::clone(&self.config);
        let bytes = batch.parking.large_bytes();
        self.push(async move {
            let written = answered_with(&config, bytes, marker.write(&client, batch)).await?;
            // Only now: Postgres may refuse it, or somebody has a lock on the parking.
            if written.left != Left::ParkingAndProgress {
                marker.parking().log(&config, &written.batch.parking);
            }
            Ok(Input::Written(written))
        });
    }

    /// Fetches rows of the catch-up's list.
    pub(super) fn fetch(&self, from: u64) {
        let (config, outboxes) = (Arc::clone(&self.config), Arc::clone(&self.outboxes));
        let Some(listed) = self.catch_up.clone() else { return };
        self.ask(async move |_, client| {
            let (limit, total) = (CATCH_UP_ROWS, listed.total);
            let fetched = catch_up::fetch(client, &config, &outboxes, &listed, from, limit);
            let Chunk { rows, next } = fetched.await?;
            Ok(Input::CatchUp { rows, next, is_last: next >= total })
        });
    }

    pub(super) fn finish_catch_up(&self) {
        let slot = self.config.postgres.slot.clone();
        self.ask(async move |_, client| {
            catch_up::finish(client, &slot).await?;
            info!("caught up: the stream begins");
            Ok(Input::CaughtUp)
        });
    }

    /// The outage is over: the progress row no longer has a fault.
    pub(super) fn clear_fault(&self) {
        let config = Arc::clone(&self.config);
        let client = Arc::clone(&self.client);
        self.push(async move {
            loop {
                match answered(&config, clear_fault(&config, &client)).await {
                    // Somebody has a lock on the row: those who have more to write say so.
                    Err(fault) if postgres::is_lock(&fault) => {}
                    outcome => return outcome.map(|()| Input::Tick),
                }
                tokio::time::sleep(LOCKED).await;
            }
        });
    }
}
