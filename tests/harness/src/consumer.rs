//! A consumer that keeps what it gets, with the time it came.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ExchangeKind};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::rabbitmq::connect;
use crate::wait::{retry, wait_until};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum QueueType {
    Quorum,
    Classic,
    Stream,
}

#[derive(Clone, Debug)]
pub struct Options {
    pub queue: String,
    pub queue_type: QueueType,
    pub exchange: String,
    /// Declare the exchange too: durable, topic.
    pub declare_exchange: bool,
    pub binding: String,
    /// Keep bodies and properties. Without them half a million deliveries take some 50 MB.
    pub keep_content: bool,
    /// Deliveries under way at most. Few, and a delay on the wire, make a slow consumer.
    pub prefetch: u16,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            queue: "consumer".to_owned(),
            queue_type: QueueType::Quorum,
            exchange: "outbox".to_owned(),
            declare_exchange: true,
            binding: "#".to_owned(),
            keep_content: true,
            prefetch: 2_000,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Delivery {
    /// The `message_id`, if it is a UUID.
    pub id: Option<Uuid>,
    pub arrived: SystemTime,
    /// The broker gave it out before, to a connection that was lost before it acknowledged: not the relay's doing.
    pub redelivered: bool,
    /// Empty, as are the next two, without [`Options::keep_content`].
    pub routing_key: String,
    pub properties: BasicProperties,
    pub body: Vec<u8>,
}

impl Delivery {
    pub fn header(&self, name: &str) -> Option<&AMQPValue> {
        self.properties.headers().as_ref()?.inner().get(name)
    }

    pub fn json(&self) -> Result<serde_json::Value> {
        Ok(serde_json::from_slice(&self.body)?)
    }
}

/// Consumes until dropped; connects again when the connection is lost.
pub struct Consumer {
    kept: Arc<Mutex<Kept>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Kept {
    deliveries: Vec<Delivery>,
    ids: HashSet<Uuid>,
}

impl Consumer {
    /// Declares a durable queue, binds it and consumes, on the current runtime.
    pub async fn start(url: &str, options: Options) -> Result<Consumer> {
        let (connection, channel) = open(url).await?;
        declare(&channel, &options).await?;
        let kept = Arc::<Mutex<Kept>>::default();
        let task = tokio::spawn(consume_for_ever(
            connection,
            channel,
            url.to_owned(),
            options,
            Arc::clone(&kept),
        ));
        Ok(Consumer { kept, task })
    }

    /// Deliveries so far, repeats counted.
    pub fn total(&self) -> usize {
        self.kept().deliveries.len()
    }

    /// Different messages so far.
    pub fn distinct(&self) -> usize {
        self.kept().ids.len()
    }

    pub async fn wait_distinct(&self, count: usize, within: Duration) -> Result<()> {
        let what = format!("{count} different messages");
        let waited = wait_until(&what, within, async || Ok(self.distinct() >= count)).await;
        waited.with_context(|| format!("{} came, {} different", self.total(), self.distinct()))
    }

    /// Waits for so many more than there are now.
    pub async fn wait_more(&self, count: usize, within: Duration) -> Result<()> {
        self.wait_distinct(self.distinct() + count, within).await
    }

    /// A look at what came so far, in order.
    pub fn deliveries<T>(&self, look: impl FnOnce(&[Delivery]) -> T) -> T {
        look(&self.kept().deliveries)
    }

    /// Stops, and hands over what came, in order.
    pub fn finish(self) -> Vec<Delivery> {
        self.task.abort();
        std::mem::take(&mut self.kept().deliveries)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        lock(&self.kept)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

async fn open(url: &str) -> Result<(Connection, Channel)> {
    let connection = connect(url).await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}

/// Declares the queue, its binding and, if asked, the exchange.
pub async fn declare(channel: &Channel, options: &Options) -> Result<()> {
    let exchange = ShortString::from(options.exchange.as_str());
    if options.declare_exchange {
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        channel
            .exchange_declare(exchange.clone(), ExchangeKind::Topic, durable, FieldTable::default())
            .await?;
    }
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    let queue_type = match options.queue_type {
        QueueType::Quorum => "quorum",
        QueueType::Classic => "classic",
        QueueType::Stream => "stream",
    };
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(queue_type.into()));
    let queue = ShortString::from(options.queue.as_str());
    channel.queue_declare(queue.clone(), durable, arguments).await?;
    let binding = ShortString::from(options.binding.as_str());
    channel
        .queue_bind(queue, exchange, binding, QueueBindOptions::default(), FieldTable::default())
        .await?;
    Ok(())
}

async fn consume_for_ever(
    mut connection: Connection,
    mut channel: Channel,
    url: String,
    options: Options,
    kept: Arc<Mutex<Kept>>,
) {
    loop {
        // Whatever ended it, the broker will be back, or the test ends this task.
        tokio::select! {
            _ = consume(&channel, &options, &kept) => {}
            () = lost(&connection) => {}
        }
        drop(connection);
        let patience = Duration::from_secs(600);
        let Ok(opened) = retry("the broker", patience, || open(&url)).await else { return };
        (connection, channel) = opened;
    }
}

/// lapin 4.12 leaves an acknowledgement pending for ever if the connection dies while it is being written.
async fn lost(connection: &Connection) {
    while connection.status().connected() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn consume(channel: &Channel, options: &Options, kept: &Mutex<Kept>) -> Result<()> {
    channel.basic_qos(options.prefetch, BasicQosOptions::default()).await?;
    let queue = ShortString::from(options.queue.as_str());
    let consumer = channel
        .basic_consume(
            queue,
            "harness".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let mut batches = consumer.ready_chunks(500);
    while let Some(batch) = batches.next().await {
        let arrived = SystemTime::now();
        let mut last = None;
        for delivery in batch {
            let delivery = delivery?;
            last = Some(delivery.acker.clone());
            keep(&mut lock(kept), delivery, arrived, options.keep_content);
        }
        if let Some(acker) = last {
            acker.ack(BasicAckOptions { multiple: true }).await?;
        }
    }
    Ok(())
}

fn keep(kept: &mut Kept, delivery: lapin::message::Delivery, arrived: SystemTime, content: bool) {
    let id =
        delivery.properties.message_id().as_ref().and_then(|id| Uuid::parse_str(id.as_str()).ok());
    kept.ids.extend(id);
    let bare = Delivery {
        id,
        arrived,
        redelivered: delivery.redelivered,
        routing_key: String::new(),
        properties: BasicProperties::default(),
        body: Vec::new(),
    };
    kept.deliveries.push(if content {
        Delivery {
            routing_key: delivery.routing_key.to_string(),
            properties: delivery.properties,
            body: delivery.data,
            ..bare
        }
    } else {
        bare
    });
}
