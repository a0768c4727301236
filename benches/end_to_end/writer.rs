//! Steady load: one event per transaction, at a rate, whatever the relay does.
//!
//! On threads of its own with a runtime each, and between two events the thread sleeps: the
//! runtime's own timer is only good to a millisecond.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use tokio_postgres::types::Type;

use crate::bare::Publisher;
use crate::fill::payload;
use crate::times::Times;

/// What one connection keeps up with, one transaction after the other.
const RATE_OF_ONE: u64 = 1_000;

/// What is written, and when.
#[derive(Clone)]
pub struct Load {
    pub rate: u64,
    pub events: usize,
    pub payload: usize,
    /// The first event's time.
    pub start: Instant,
}

impl Load {
    /// Sleeps until this event is due.
    fn wait(&self, number: usize) {
        let due = self.start + Duration::from_secs_f64(number as f64 / self.rate as f64);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }

    pub fn length(&self) -> Duration {
        Duration::from_secs_f64(self.events as f64 / self.rate as f64)
    }
}

pub struct Threads(Vec<JoinHandle<Result<()>>>);

impl Threads {
    /// Waits for all without blocking the runtime.
    pub async fn finish(self) -> Result<()> {
        let all = tokio::task::spawn_blocking(|| {
            self.0.into_iter().try_for_each(|thread| {
                thread.join().map_err(|_| anyhow!("a thread of the load panicked"))?
            })
        });
        all.await?
    }
}

/// Commits events to the outbox; `sent` is when `COMMIT` is sent.
pub fn commit(url: &str, load: &Load, sent: &Arc<Times>) -> Result<Threads> {
    let count = load.rate.div_ceil(RATE_OF_ONE).max(1);
    let count = usize::try_from(count)?;
    let start = |first: usize| {
        let (url, load, sent) = (url.to_owned(), load.clone(), Arc::clone(sent));
        let writer = std::thread::Builder::new().name("writer".to_owned());
        Ok(writer.spawn(move || write(&url, &load, first, count, &sent))?)
    };
    Ok(Threads((0..count).map(start).collect::<Result<_>>()?))
}

fn write(url: &str, load: &Load, first: usize, step: usize, sent: &Times) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let insert =
        "INSERT INTO public.outbox_messages (aggregate_type, aggregate_id, event_type, payload)
        VALUES ('order', $1, 'paid', $2::text::jsonb)";
    let (client, insert) = runtime.block_on(async {
        let client = harness::postgres::connect(url).await?;
        let insert = client.prepare_typed(insert, &[Type::TEXT, Type::TEXT]).await?;
        anyhow::Ok((client, insert))
    })?;
    for number in (first..load.events).step_by(step) {
        let body = payload(number as u64, load.payload);
        let aggregate = format!("order-{}", number % 1_000);
        load.wait(number);
        runtime.block_on(async {
            client.batch_execute("BEGIN").await?;
            client.execute(&insert, &[&aggregate, &body]).await?;
            sent.note(number);
            client.batch_execute("COMMIT").await
        })?;
    }
    Ok(())
}

/// Publishes as many messages of the same size by itself; `sent` is when each is queued.
pub fn publish(url: &str, load: &Load, sent: &Arc<Times>) -> Result<Threads> {
    let (url, load, sent) = (url.to_owned(), load.clone(), Arc::clone(sent));
    let publish = move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut publisher = runtime.block_on(Publisher::connect(&url))?;
        for number in 0..load.events {
            let body = payload(number as u64, load.payload).into_bytes();
            load.wait(number);
            runtime.block_on(async {
                sent.note(number);
                publisher.publish(number as u64, 1_000, body);
                // lapin's own tasks get their turn.
                tokio::task::yield_now().await;
                publisher.settle()
            })?;
        }
        runtime.block_on(publisher.make_room(1))
    };
    Ok(Threads(vec![std::thread::Builder::new().name("publisher".to_owned()).spawn(publish)?]))
}
