//! Who gets the events under steady load: a consumer of the queue, and a consumer of a slot as
//! simple as `pg_recvlogical`. On threads of their own, so that each has its own clock readings.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::StreamExt;
use harness::consumer::QueueType;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use pgwire_replication::{ReplicationClient, ReplicationConfig, ReplicationEvent};
use tokio::sync::oneshot;

use crate::fill::number;
use crate::queue::Queue;
use crate::servers::Servers;
use crate::times::Times;

const READY: Duration = Duration::from_secs(30);
/// Deliveries under way at most.
const PREFETCH: u16 = 1_000;

/// Told to end by dropping it.
pub struct Receiver {
    _stop: oneshot::Sender<()>,
}

/// Notes when each event comes out of the queue, or of the stream.
pub async fn consume(servers: &Servers, queue: &Queue, came: &Arc<Times>) -> Result<Receiver> {
    let is_stream = queue.queue_type() == QueueType::Stream;
    let (vhost, queue, came) = (servers.amqp_url(), queue.name().to_owned(), Arc::clone(came));
    start("consumer", async move |ready| {
        let connection = harness::rabbitmq::connect(&vhost).await?;
        let channel = connection.create_channel().await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        // Of a stream each delivery is acknowledged: the broker wants it so.
        let options = BasicConsumeOptions { no_ack: !is_stream, ..Default::default() };
        let consuming =
            channel.basic_consume(queue.into(), "bench".into(), options, FieldTable::default());
        let mut deliveries = consuming.await?;
        let _ = ready.send(());
        let mut unacked = 0;
        while let Some(delivery) = deliveries.next().await {
            let delivery = delivery?;
            if let Some(number) = number(&delivery.data) {
                came.note(number);
            }
            unacked += u16::from(is_stream);
            if unacked == PREFETCH / 4 {
                unacked = 0;
                delivery.acker.ack(BasicAckOptions { multiple: true }).await?;
            }
        }
        bail!("the consumer was cancelled")
    })
    .await
}

/// Notes when each event comes out of the slot, and acknowledges at once.
pub async fn stream(servers: &Servers, slot: &str, came: &Arc<Times>) -> Result<Receiver> {
    let config = ReplicationConfig::new(
        "127.0.0.1",
        "postgres",
        "",
        servers.database.clone(),
        slot.to_owned(),
        "pgoutbox".to_owned(),
    )
    .with_port(servers.postgres.port());
    let came = Arc::clone(came);
    start("stream", async move |ready| {
        let mut client = ReplicationClient::connect(config).await?;
        client.wait_started().await?;
        let _ = ready.send(());
        while let Some(event) = client.recv().await? {
            match event {
                ReplicationEvent::XLogData { data, .. } => {
                    if let Some(number) = number(&data) {
                        came.note(number);
                    }
                }
                ReplicationEvent::Commit { end_lsn, .. } => client.update_applied_lsn(end_lsn),
                _ => {}
            }
        }
        bail!("the stream ended")
    })
    .await
}

/// Runs it on a thread and waits until it is ready.
async fn start<F>(
    name: &'static str,
    work: impl FnOnce(oneshot::Sender<()>) -> F + Send + 'static,
) -> Result<Receiver>
where
    F: Future<Output = Result<()>>,
{
    let (stop, stopped) = oneshot::channel::<()>();
    let (ready, is_ready) = oneshot::channel();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        let ended = runtime.block_on(async {
            tokio::select! {
                ended = work(ready) => ended,
                _ = stopped => Ok(()),
            }
        });
        if let Err(error) = ended {
            // What it did not note is missed by anyone who waits for it.
            eprintln!("{name}: {error:#}");
        }
    })?;
    let waited = tokio::time::timeout(READY, is_ready).await;
    waited.with_context(|| format!("{name} is not ready"))?.with_context(|| name)?;
    Ok(Receiver { _stop: stop })
}

/// Waits until all events have come, or says how many are missing.
pub async fn all_came(what: &str, came: &Times, events: usize, within: Duration) -> Result<()> {
    let deadline = Instant::now() + within;
    while came.count() < events {
        if Instant::now() > deadline {
            bail!("{what}: {} of {events} events came", came.count());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
