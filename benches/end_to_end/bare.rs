//! A bare lapin publisher with confirms: ceiling (b).
//!
//! It does what the relay must do to publish, and nothing else: the same messages, the same
//! window, each publish polled once so that it is queued, confirms awaited as the window rolls.
//! For a backlog it is a process of its own (this program started again), so that its CPU is.

use std::collections::VecDeque;
use std::pin::Pin;
use std::process::Command;
use std::task::{Context, Waker};

use anyhow::{Context as _, Result, bail};
use futures_util::future::{MaybeDone, maybe_done};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection};

use crate::child::Running;
use crate::fill::{Shape, payload};
use crate::servers::{EXCHANGE, Servers};

/// The hidden subcommand.
pub const SUBCOMMAND: &str = "bare-publisher";
/// Starts it as a process.
pub fn start(servers: &Servers, events: u64, shape: Shape) -> Result<Running> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(SUBCOMMAND).arg(servers.amqp_url());
    command.args([events, shape.payload as u64, shape.aggregates].map(|number| number.to_string()));
    command.arg(servers.setting("window.messages").unwrap_or("1000"));
    Running::spawn("the bare publisher", command)
}

/// The process itself: ends when all is confirmed.
pub fn run(arguments: &[String]) -> Result<()> {
    let [url, events, bytes, aggregates, window] = arguments else {
        bail!("{SUBCOMMAND} URL EVENTS BYTES AGGREGATES WINDOW")
    };
    let (events, window) = (events.parse()?, window.parse()?);
    let (bytes, aggregates) = (bytes.parse()?, aggregates.parse()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(publish_all(url, events, bytes, aggregates, window))
}

async fn publish_all(
    url: &str,
    events: u64,
    bytes: usize,
    aggregates: u64,
    window: usize,
) -> Result<()> {
    let bodies: Vec<String> = (0..64).map(|_| payload(0, bytes)).collect();
    let mut publisher = Publisher::connect(url).await?;
    for (number, body) in (0..events).zip(bodies.iter().cycle()) {
        publisher.make_room(window).await?;
        publisher.publish(number, aggregates, body.as_bytes().to_vec());
    }
    publisher.make_room(1).await
}

type Publishing = Pin<Box<MaybeDone<Pin<Box<dyn Future<Output = Result<()>> + Send>>>>>;

/// One connection, one channel, one window.
pub struct Publisher {
    _connection: Connection,
    channel: Channel,
    window: VecDeque<Publishing>,
}

impl Publisher {
    pub async fn connect(url: &str) -> Result<Self> {
        let connection = harness::rabbitmq::connect(url).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { _connection: connection, channel, window: VecDeque::new() })
    }

    /// Waits until fewer than `most` are in flight.
    pub async fn make_room(&mut self, most: usize) -> Result<()> {
        while self.window.len() >= most {
            let Some(mut oldest) = self.window.pop_front() else { return Ok(()) };
            oldest.as_mut().await;
            oldest.as_mut().take_output().context("a confirm")??;
            self.settle()?;
        }
        Ok(())
    }

    /// Takes out what is confirmed already, without waiting.
    pub fn settle(&mut self) -> Result<()> {
        let mut asleep = Context::from_waker(Waker::noop());
        while let Some(oldest) = self.window.front_mut() {
            if oldest.as_mut().poll(&mut asleep).is_pending() {
                return Ok(());
            }
            oldest.as_mut().take_output().context("a confirm")??;
            self.window.pop_front();
        }
        Ok(())
    }

    /// Queues a message with the properties and headers that the relay gives it.
    pub fn publish(&mut self, number: u64, aggregates: u64, body: Vec<u8>) {
        let channel = self.channel.clone();
        let publishing = async move {
            let options = BasicPublishOptions { mandatory: true, immediate: false };
            let (exchange, key) = (ShortString::from(EXCHANGE), ShortString::from("order.paid"));
            let properties = properties(number, aggregates);
            let confirm = channel.basic_publish(exchange, key, options, &body, properties).await?;
            match confirm.await? {
                Confirmation::Ack(None) => Ok(()),
                refused => bail!("the broker answered {refused:?}"),
            }
        };
        let publishing: Pin<Box<dyn Future<Output = Result<()>> + Send>> = Box::pin(publishing);
        let mut publishing = Box::pin(maybe_done(publishing));
        let _ = publishing.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        self.window.push_back(publishing);
    }
}

fn properties(number: u64, aggregates: u64) -> BasicProperties {
    let random = format!("{:032x}", fastrand::u128(..));
    let part = |range: std::ops::Range<usize>| random.get(range).unwrap_or_default();
    let id = [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-");
    let mut headers = FieldTable::default();
    let mut text = |name: &str, value: String| {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    };
    text("aggregate_type", "order".to_owned());
    text("aggregate_id", format!("order-{}", number % aggregates.max(1)));
    text("pgoutbox-commit-lsn", format!("{:08X}/{:08X}", number >> 32, number & 0xFFFF_FFFF));
    headers.insert("pgoutbox-index".into(), AMQPValue::LongLongInt(0));
    BasicProperties::default()
        .with_message_id(id.into())
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
        .with_timestamp(1_700_000_000)
        .with_type("paid".into())
        .with_headers(headers)
}
