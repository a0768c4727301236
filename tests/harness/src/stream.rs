//! All that a RabbitMQ stream holds, as an AMQP consumer sees it.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use futures_util::StreamExt;
use lapin::message::Delivery as Raw;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::consumer::Delivery;
use crate::rabbitmq::connect;

/// The body of a message behind all others.
const LAST: &[u8] = b"the last of the stream ";
/// How long the next delivery may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reads a stream from its first message to its last: behind what is there now one more is published, so
/// that nothing that came late is left out.
pub async fn read(url: &str, stream: &str) -> Result<Vec<Raw>> {
    let connection = connect(url).await?;
    let channel = connection.create_channel().await?;
    let last = end(&channel, stream).await?;
    channel.basic_qos(500, BasicQosOptions::default()).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-stream-offset".into(), AMQPValue::LongString("first".into()));
    let options = BasicConsumeOptions::default();
    let mut consumer =
        channel.basic_consume(stream.into(), "reader".into(), options, arguments).await?;
    let mut all = Vec::new();
    loop {
        let next = tokio::time::timeout(PATIENCE, consumer.next()).await;
        let next = next.with_context(|| format!("only {} came of {stream}", all.len()))?;
        let Some(delivery) = next else { bail!("the consumer of {stream} ended") };
        let delivery = delivery?;
        delivery.acker.ack(BasicAckOptions::default()).await?;
        if delivery.data == last.as_bytes() {
            return Ok(all);
        }
        // Those of earlier reads are none of the relay's.
        if !delivery.data.starts_with(LAST) {
            all.push(delivery);
        }
    }
}

/// Publishes one more, which no other reader has published.
async fn end(channel: &Channel, stream: &str) -> Result<String> {
    let last = format!("{}{:016x}", String::from_utf8_lossy(LAST), fastrand::u64(..));
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    let published = channel
        .basic_publish("".into(), stream.into(), options, last.as_bytes(), properties)
        .await?;
    let confirmed = published.await?;
    if !confirmed.is_ack() {
        bail!("{stream} took nothing: {confirmed:?}");
    }
    Ok(last)
}

/// As the checker takes them.
pub fn kept(all: Vec<Raw>) -> Vec<Delivery> {
    let arrived = SystemTime::now();
    let kept = all.into_iter().map(|raw| Delivery {
        id: raw.properties.message_id().as_ref().and_then(|id| id.as_str().parse().ok()),
        arrived,
        redelivered: false,
        routing_key: raw.routing_key.to_string(),
        properties: raw.properties,
        body: raw.data,
    });
    kept.collect()
}

/// Publishes one message to a stream under a name, as this id: what another relay might do.
pub async fn publish_as(port: u16, vhost: &str, stream: &str, name: &str, id: u64) -> Result<()> {
    let mut peer = Peer::log_in(port, vhost).await?;
    peer.ask(1, 5, &[vec![1], text(name), text(stream)].concat()).await?;
    // One data section that holds nothing.
    let message = [0x00, 0x53, 0x75, 0xA0, 0x00];
    let count_and_id = [&1_u32.to_be_bytes()[..], &id.to_be_bytes()].concat();
    let length = u32::try_from(message.len())?.to_be_bytes();
    peer.send(2, &[&[1][..], &count_and_id, &length, &message].concat()).await?;
    peer.frame(3).await.map(drop)
}

/// How many messages a stream has, asked for again and again: of what the broker says by AMQP it makes up its
/// mind every five seconds.
pub struct Length {
    peer: Peer,
    stream: String,
    asked: u8,
}

impl Length {
    pub async fn of(port: u16, vhost: &str, stream: &str) -> Result<Self> {
        let peer = Peer::log_in(port, vhost).await?;
        Ok(Self { peer, stream: stream.to_owned(), asked: 0 })
    }

    /// Where its last chunk ends; nothing else is read. 0 where there is none that soon.
    pub async fn now(&mut self) -> Result<u64> {
        const SOON: Duration = Duration::from_millis(10);
        const LAST: [u8; 2] = [0, 2];
        const ONE_CHUNK: [u8; 2] = [0, 1];
        self.asked = self.asked.wrapping_add(1);
        let asked = [self.asked];
        let subscribe = [&asked[..], &text(&self.stream), &LAST, &ONE_CHUNK].concat();
        self.peer.ask(7, 6, &subscribe).await?;
        let delivery = async {
            loop {
                let frame = self.peer.frame(8).await?;
                // Others are of a question that was given up.
                if frame.get(4) == asked.first() {
                    return anyhow::Ok(frame);
                }
            }
        };
        let length = match tokio::time::timeout(SOON, delivery).await {
            Ok(frame) => end_of_chunk(&frame?).context("a chunk that is too short")?,
            Err(_) => 0,
        };
        self.peer.ask(12, 7, &asked).await?;
        Ok(length)
    }
}

/// Of a delivery: the number of the chunk's first message and how many there are (`osiris_log.erl`).
fn end_of_chunk(frame: &[u8]) -> Option<u64> {
    let chunk = frame.get(5..)?;
    let messages = u32::from_be_bytes(*chunk.get(4..)?.first_chunk()?);
    let first = u64::from_be_bytes(*chunk.get(24..)?.first_chunk()?);
    Some(first + u64::from(messages))
}

fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap_or(0);
    [&length.to_be_bytes(), text.as_bytes()].concat()
}

/// The other end of a connection by the stream protocol.
struct Peer {
    socket: TcpStream,
    /// Read, and not looked at yet: nothing is lost where a wait for a frame is given up.
    read: Vec<u8>,
}

impl Peer {
    /// As `guest`.
    async fn log_in(port: u16, vhost: &str) -> Result<Self> {
        let socket = TcpStream::connect(("127.0.0.1", port)).await?;
        socket.set_nodelay(true)?;
        let mut peer = Self { socket, read: Vec::new() };
        let login = b"\0guest\0guest";
        let length = u32::try_from(login.len())?.to_be_bytes();
        peer.ask(17, 1, &[0; 4]).await?;
        peer.ask(18, 2, &[]).await?;
        peer.ask(19, 3, &[&text("PLAIN"), &length[..], login].concat()).await?;
        let tune = peer.frame(20).await?;
        peer.send(20, tune.get(4..).unwrap_or_default()).await?;
        peer.ask(21, 4, &text(vhost)).await?;
        Ok(peer)
    }

    async fn send(&mut self, key: u16, rest: &[u8]) -> Result<()> {
        let size = u32::try_from(rest.len() + 4)?.to_be_bytes();
        let head = [&size[..], &key.to_be_bytes(), &1_u16.to_be_bytes()].concat();
        Ok(self.socket.write_all(&[&head, rest].concat()).await?)
    }

    /// Sends a request, and waits for an answer that says that all is well.
    async fn ask(&mut self, key: u16, number: u32, rest: &[u8]) -> Result<()> {
        self.send(key, &[&number.to_be_bytes(), rest].concat()).await?;
        let answer = self.frame(key | 0x8000).await?;
        let code = answer.get(8..10);
        anyhow::ensure!(code == Some(&[0, 1]), "the answer to {key} is {code:?}");
        Ok(())
    }

    /// The next frame of this key, from the key on.
    async fn frame(&mut self, key: u16) -> Result<Vec<u8>> {
        loop {
            if let Some((size, rest)) = self.read.split_first_chunk() {
                let size = usize::try_from(u32::from_be_bytes(*size))?;
                if let Some(frame) = rest.get(..size) {
                    let frame = frame.to_vec();
                    self.read.drain(..size + 4);
                    if frame.get(..2) == Some(&key.to_be_bytes()) {
                        return Ok(frame);
                    }
                    continue;
                }
            }
            anyhow::ensure!(self.socket.read_buf(&mut self.read).await? > 0, "it hung up");
        }
    }
}
