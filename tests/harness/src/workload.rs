//! Concurrent writers that know what they committed.
//!
//! Within an aggregate events carry `n`, which rises by one in commit order: anyone who inserts takes `n` from a row of a
//! helper table and so holds that row's lock until the transaction is over. A rolled back `n` is given out again.

mod ledger;
mod transaction;
mod writer;

pub use ledger::{Event, Ledger};

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::postgres::connect;
use crate::wait::retry;

/// For tests of the harness itself and for demonstrations without the product's own schema.
pub const TABLE: &str = "CREATE TABLE IF NOT EXISTS outbox_messages (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregate_type text, aggregate_id text, event_type text,
    topic text, payload jsonb, headers jsonb, occurred_at timestamptz DEFAULT now(), relayed_at timestamptz)";

#[derive(Clone, Debug)]
pub struct Options {
    pub table: String,
    pub writers: usize,
    pub aggregates: usize,
    pub until: Until,
    /// What a writer waits between transactions, half to one and a half times.
    pub pause: Duration,
    /// Of filler in each payload.
    pub payload_bytes: usize,
    /// Events of a large transaction.
    pub large: usize,
    pub mix: Mix,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            table: "public.outbox_messages".to_owned(),
            writers: 4,
            aggregates: 40,
            until: Until::Transactions(500),
            pause: Duration::ZERO,
            payload_bytes: 100,
            large: 1_000,
            mix: Mix::default(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Until {
    Elapsed(Duration),
    /// Of all writers together, rolled back ones counted.
    Transactions(u64),
    /// [`Workload::stop`] is called.
    Stopped,
}

/// How often each kind of transaction comes, relative to the others.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// One event, one statement, no explicit transaction.
    pub single: u32,
    /// Some events of some aggregates.
    pub several: u32,
    /// The same, then `ROLLBACK`.
    pub rolled_back: u32,
    /// Some savepoints, some of them rolled back.
    pub savepoints: u32,
    /// [`Options::large`] events.
    pub large: u32,
}

impl Default for Mix {
    fn default() -> Mix {
        Mix { single: 600, several: 200, rolled_back: 100, savepoints: 98, large: 2 }
    }
}

impl Mix {
    pub const SINGLE: Mix = Mix { single: 1, several: 0, rolled_back: 0, savepoints: 0, large: 0 };
}

/// Running writers.
pub struct Workload {
    url: String,
    shared: Arc<Shared>,
    writers: JoinSet<Result<()>>,
}

struct Shared {
    options: Options,
    deadline: Option<Instant>,
    stopped: AtomicBool,
    begun: AtomicU64,
    ledger: Mutex<Ledger>,
}

impl Workload {
    /// The writers run on the current runtime, each with a connection of its own, which it makes again when it is lost.
    pub async fn start(url: &str, options: Options) -> Result<Workload> {
        prepare(&connect(url).await?, options.aggregates).await?;
        let deadline = match options.until {
            Until::Elapsed(duration) => Some(Instant::now() + duration),
            Until::Transactions(_) | Until::Stopped => None,
        };
        let count = options.writers;
        let shared = Arc::new(Shared {
            options,
            deadline,
            stopped: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            ledger: Mutex::default(),
        });
        let mut writers = JoinSet::new();
        for _ in 0..count {
            let (url, shared) = (url.to_owned(), Arc::clone(&shared));
            writers.spawn(async move {
                let written = writer::write(url, &shared).await;
                // One writer's failure ends all, or it would be told only at the very end.
                shared.stopped.fetch_or(written.is_err(), Ordering::Relaxed);
                written
            });
        }
        Ok(Workload { url: url.to_owned(), shared, writers })
    }

    /// Events committed so far, for certain.
    pub fn committed(&self) -> usize {
        self.ledger(|ledger| ledger.committed.len())
    }

    /// A look at what is known so far.
    pub fn ledger<T>(&self, look: impl FnOnce(&Ledger) -> T) -> T {
        look(&self.shared.ledger())
    }

    /// Ends it early.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
    }

    /// Whether no new transaction begins.
    pub fn is_over(&self) -> bool {
        self.shared.is_over()
    }

    /// Waits for the writers, then asks the table about each commit whose answer was lost.
    pub async fn finish(&mut self) -> Result<Ledger> {
        while let Some(writer) = self.writers.join_next().await {
            writer??;
        }
        let mut ledger = std::mem::take(&mut *self.shared.ledger());
        if !ledger.unknown.is_empty() {
            let client = retry("Postgres", Duration::from_secs(30), || connect(&self.url)).await?;
            let resolved = ledger.resolve(&client, &self.shared.options.table).await;
            resolved.context("resolving lost commits")?;
        }
        Ok(ledger)
    }
}

impl Shared {
    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn is_over(&self) -> bool {
        let limit_reached = match self.options.until {
            Until::Transactions(limit) => self.begun.load(Ordering::Relaxed) >= limit,
            Until::Elapsed(_) | Until::Stopped => {
                self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
            }
        };
        limit_reached || self.stopped.load(Ordering::Relaxed)
    }

    /// Whether one more transaction is wanted.
    fn begin(&self) -> bool {
        if self.is_over() {
            return false;
        }
        let before = self.begun.fetch_add(1, Ordering::Relaxed);
        !matches!(self.options.until, Until::Transactions(limit) if before >= limit)
    }
}

/// The helper table. It is not the outbox: what happens in it must not be relayed.
async fn prepare(client: &Client, aggregates: usize) -> Result<()> {
    let sql = "CREATE SCHEMA IF NOT EXISTS harness;
        CREATE TABLE IF NOT EXISTS harness.aggregates (id text PRIMARY KEY, n bigint NOT NULL) WITH (fillfactor = 50)";
    client.batch_execute(sql).await?;
    let ids: Vec<String> = (0..aggregates).map(aggregate_id).collect();
    let sql = "INSERT INTO harness.aggregates SELECT id, 0 FROM unnest($1::text[]) AS id ON CONFLICT DO NOTHING";
    client.execute(sql, &[&ids]).await?;
    Ok(())
}

/// The text of an aggregate's id. Its numbers have one length, so they sort like the text.
pub fn aggregate_id(number: usize) -> String {
    format!("order-{number:06}")
}
