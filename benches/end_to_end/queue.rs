//! The queue that everything is published to, counted from outside.
//!
//! Nobody consumes while a backlog is drained: a consumer would take CPU from what is measured.
//! So that the broker's memory stays what it is, the queue is purged when it has grown; the
//! broker says how many messages that were, and the count goes on.

use std::time::Duration;

use anyhow::Result;
use harness::consumer::{self, QueueType};
use harness::stream;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection};

use crate::servers::{EXCHANGE, Servers};

/// How often a count is asked for: what it costs the broker is not to be seen.
pub const POLL: Duration = Duration::from_millis(20);
/// Messages and bytes that the queue may hold.
const MOST: u64 = 250_000;
const MOST_BYTES: u64 = 256 << 20;

pub struct Queue {
    _connection: Connection,
    channel: Channel,
    name: ShortString,
    queue_type: QueueType,
    /// Who says how long a stream is: by AMQP the broker says it every five seconds anew.
    length: Option<stream::Length>,
    purged: u64,
    most: u64,
}

impl Queue {
    /// A new queue, bound to the exchange.
    pub async fn make(servers: &Servers, queue_type: QueueType, payload: usize) -> Result<Self> {
        let connection = servers.rabbitmq.connect(&servers.vhost).await?;
        let channel = connection.create_channel().await?;
        let name = format!("bench-{:08x}", fastrand::u32(..));
        let options = consumer::Options {
            queue: name.clone(),
            queue_type,
            exchange: EXCHANGE.to_owned(),
            declare_exchange: false,
            ..Default::default()
        };
        consumer::declare(&channel, &options).await?;
        let length = match queue_type {
            QueueType::Quorum | QueueType::Classic => None,
            QueueType::Stream => {
                let port = servers.rabbitmq.stream_port();
                Some(stream::Length::of(port, &servers.vhost, &name).await?)
            }
        };
        let queue = Self::of(connection, channel, &name, (queue_type, payload));
        Ok(Self { length, ..queue })
    }

    /// A queue that is there already.
    pub async fn open(servers: &Servers, name: &str, payload: usize) -> Result<Self> {
        let connection = servers.rabbitmq.connect(&servers.vhost).await?;
        let channel = connection.create_channel().await?;
        Ok(Self::of(connection, channel, name, (QueueType::Quorum, payload)))
    }

    fn of(
        connection: Connection,
        channel: Channel,
        name: &str,
        (queue_type, payload): (QueueType, usize),
    ) -> Self {
        let most = MOST.min(MOST_BYTES / payload.max(1) as u64);
        let name = name.into();
        Self { _connection: connection, channel, name, queue_type, length: None, purged: 0, most }
    }

    /// What the relay must be told to publish to it.
    pub fn settings(&self, servers: &Servers) -> Vec<String> {
        match self.queue_type {
            QueueType::Quorum | QueueType::Classic => Vec::new(),
            QueueType::Stream => vec![
                "tables.0.sink=stream".to_owned(),
                format!("tables.0.stream={}", self.name),
                format!("amqp.stream_port={}", servers.rabbitmq.stream_port()),
            ],
        }
    }

    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    pub fn queue_type(&self) -> QueueType {
        self.queue_type
    }

    /// Messages that came since it was made.
    pub async fn count(&mut self) -> Result<u64> {
        if let Some(length) = &mut self.length {
            return length.now().await;
        }
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let queue =
            self.channel.queue_declare(self.name.clone(), passive, FieldTable::default()).await?;
        let waiting = u64::from(queue.message_count());
        if waiting < self.most {
            return Ok(self.purged + waiting);
        }
        self.purge().await?;
        Ok(self.purged)
    }

    pub async fn delete(self) -> Result<()> {
        self.channel.queue_delete(self.name, QueueDeleteOptions::default()).await?;
        Ok(())
    }

    async fn purge(&mut self) -> Result<()> {
        let options = QueuePurgeOptions::default();
        self.purged += u64::from(self.channel.queue_purge(self.name.clone(), options).await?);
        Ok(())
    }
}
