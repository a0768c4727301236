//! One connection, from its greeting to its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame};
use amq_protocol::protocol::basic::{self, AMQPProperties, parse_properties};
use amq_protocol::protocol::{AMQPClass, channel, confirm, connection, exchange, queue};
use amq_protocol::types::{AMQPValue, FieldTable, ShortString};
use anyhow::{Result, anyhow, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep_until};

use super::script::{Answer, Answers, Publish};
use super::{Published, Shared, frames};
use frames::Frame;

const GREETING: &[u8] = b"AMQP\0\0\x09\x01";
pub(super) const FRAME_MAX: u32 = 131_072;
const HEARTBEAT_SECONDS: u16 = 60;
/// Often enough for any heartbeat that a client may ask for.
const HEARTBEAT_PAUSE: Duration = Duration::from_millis(500);
/// What is read at a time at most.
const READ_BYTES: usize = 1 << 20;

/// A message of which not all has come.
#[derive(Default)]
struct Incoming {
    exchange: String,
    routing_key: String,
    is_mandatory: bool,
    properties: AMQPProperties,
    body: Vec<u8>,
    left: usize,
}

struct Connection {
    number: u64,
    shared: Arc<Shared>,
    out: Vec<u8>,
    /// The channel that is open.
    channel: u16,
    tag: u64,
    incoming: Option<Incoming>,
    answers: Answers,
    /// By when they are due, and in their order.
    due: BTreeMap<(Instant, u64), Answer>,
    order: u64,
    is_blocked: bool,
    is_silent: bool,
    is_cut: bool,
    /// The broker has closed the channel or the connection: what still comes is not for anybody.
    is_closing: bool,
    is_over: bool,
}

pub(super) async fn serve(
    mut stream: TcpStream,
    number: u64,
    shared: Arc<Shared>,
    mut orders: UnboundedReceiver<Vec<Answer>>,
) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut greeting = [0; GREETING.len()];
    stream.read_exact(&mut greeting).await?;
    ensure!(greeting == GREETING, "no AMQP 0-9-1");
    let mut connection = Connection::new(number, shared);
    connection.method(0, start())?;
    let mut input = Vec::new();
    let mut heartbeat = Instant::now() + HEARTBEAT_PAUSE;
    while !connection.is_over {
        connection.answer_what_is_due()?;
        if !connection.out.is_empty() {
            stream.write_all(&connection.out).await?;
            connection.out.clear();
        }
        if connection.is_cut {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            return Ok(());
        }
        if input.capacity() - input.len() < READ_BYTES / 4 {
            input.reserve(READ_BYTES);
        }
        let next = connection.due.first_key_value().map(|((at, _), _)| *at);
        let wake = next.map_or(heartbeat, |at| at.min(heartbeat));
        tokio::select! {
            read = stream.read_buf(&mut input), if !connection.is_blocked => {
                if read? == 0 {
                    return Ok(());
                }
                let used = connection.take_in(&input)?;
                input.drain(..used);
            }
            Some(answers) = orders.recv() => {
                for answer in answers {
                    connection.push(Instant::now(), answer);
                }
            }
            () = sleep_until(wake) => {}
        }
        if Instant::now() >= heartbeat {
            heartbeat = Instant::now() + HEARTBEAT_PAUSE;
            if !connection.is_silent {
                frames::put(&mut connection.out, &AMQPFrame::Heartbeat)?;
            }
        }
    }
    stream.write_all(&connection.out).await?;
    Ok(())
}

impl Connection {
    fn new(number: u64, shared: Arc<Shared>) -> Self {
        Self {
            number,
            shared,
            out: Vec::new(),
            channel: 0,
            tag: 0,
            incoming: None,
            answers: Answers::default(),
            due: BTreeMap::new(),
            order: 0,
            is_blocked: false,
            is_silent: false,
            is_cut: false,
            is_closing: false,
            is_over: false,
        }
    }

    /// How many of the bytes were whole frames.
    fn take_in(&mut self, bytes: &[u8]) -> Result<usize> {
        let shared = Arc::clone(&self.shared);
        let mut script = shared.script();
        let keeps = script.keeps();
        let mut used = 0;
        let before = self.tag;
        while let Some(frame) = Frame::first(bytes.get(used..).unwrap_or_default())? {
            used += frame.bytes.len();
            let is_whole = match frame.kind {
                frames::METHOD => match frame.publish() {
                    Some(arguments) => self.begin(arguments, keeps)?,
                    None => self.called(frame.channel, frame.method()?)?,
                },
                frames::HEADER => self.header(frame.payload, keeps)?,
                frames::BODY => self.body(frame.payload, keeps)?,
                // A heartbeat.
                _ => false,
            };
            if !is_whole || self.is_closing {
                continue;
            }
            let (id, number) = self.came(keeps);
            let publish =
                Publish { connection: self.number, tag: self.tag, number, id: id.as_str() };
            script.publish(&publish, &mut self.answers);
            self.schedule();
        }
        if self.tag > before {
            script.pause(&mut self.answers);
            self.schedule();
        }
        Ok(used)
    }

    fn begin(&mut self, arguments: &[u8], keeps: bool) -> Result<bool> {
        let mut incoming = Incoming::default();
        if keeps {
            let (exchange, rest) = frames::short_string(arguments)?;
            let (routing_key, rest) = frames::short_string(rest)?;
            let is_mandatory = rest.first().is_some_and(|bits| bits & 1 == 1);
            incoming = Incoming { exchange, routing_key, is_mandatory, ..incoming };
        }
        self.incoming = Some(incoming);
        Ok(false)
    }

    fn header(&mut self, payload: &[u8], keeps: bool) -> Result<bool> {
        let Some(incoming) = &mut self.incoming else { bail!("a header of no message") };
        incoming.left = frames::body_size(payload)?;
        if keeps {
            let properties = parse_properties(payload.get(12..).unwrap_or_default());
            incoming.properties = properties.map_err(|error| anyhow!("{error:?}"))?.1;
        }
        Ok(incoming.left == 0)
    }

    fn body(&mut self, payload: &[u8], keeps: bool) -> Result<bool> {
        let Some(incoming) = &mut self.incoming else { bail!("a body of no message") };
        if keeps {
            incoming.body.extend_from_slice(payload);
        }
        incoming.left = incoming.left.saturating_sub(payload.len());
        Ok(incoming.left == 0)
    }

    /// All of a message is there: its id, and its number.
    fn came(&mut self, keeps: bool) -> (ShortString, u64) {
        self.tag += 1;
        let incoming = self.incoming.take().unwrap_or_default();
        let mut log = self.shared.log();
        log.published += 1;
        let id = incoming.properties.message_id().clone().unwrap_or_default();
        if keeps {
            log.kept.push(Published {
                connection: self.number,
                tag: self.tag,
                id: id.to_string(),
                exchange: incoming.exchange,
                routing_key: incoming.routing_key,
                is_mandatory: incoming.is_mandatory,
                properties: incoming.properties,
                body: incoming.body,
                acked: None,
                is_nacked: false,
                is_returned: false,
            });
        }
        (id, log.published)
    }

    /// A method other than publish; never ends a message.
    fn called(&mut self, channel: u16, method: AMQPClass) -> Result<bool> {
        use AMQPClass::{Channel, Confirm, Connection, Exchange, Queue};
        let answer = match method {
            Connection(connection::AMQPMethod::StartOk(_)) => tune(self.shared.frame_max),
            Connection(connection::AMQPMethod::TuneOk(_)) => return Ok(false),
            Connection(connection::AMQPMethod::Open(_)) => {
                Connection(connection::AMQPMethod::OpenOk(connection::OpenOk {}))
            }
            Connection(connection::AMQPMethod::Close(_)) => {
                self.is_over = true;
                Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {}))
            }
            Connection(connection::AMQPMethod::CloseOk(_)) => {
                self.is_over = true;
                return Ok(false);
            }
            Channel(channel::AMQPMethod::Open(_)) => {
                if self.is_closing {
                    // Its messages are told from those of the one before by another number.
                    let mut log = self.shared.log();
                    log.connections += 1;
                    (self.number, self.tag, self.is_closing) = (log.connections, 0, false);
                }
                self.channel = channel;
                Channel(channel::AMQPMethod::OpenOk(channel::OpenOk {}))
            }
            Channel(channel::AMQPMethod::Close(_)) => {
                Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}))
            }
            Channel(channel::AMQPMethod::CloseOk(_)) => return Ok(false),
            Confirm(confirm::AMQPMethod::Select(_)) => {
                Confirm(confirm::AMQPMethod::SelectOk(confirm::SelectOk {}))
            }
            Exchange(exchange::AMQPMethod::Declare(_)) => {
                Exchange(exchange::AMQPMethod::DeclareOk(exchange::DeclareOk {}))
            }
            Queue(queue::AMQPMethod::Declare(declare)) => {
                let (queue, message_count, consumer_count) = (declare.queue, 0, 0);
                let answer = queue::DeclareOk { queue, message_count, consumer_count };
                Queue(queue::AMQPMethod::DeclareOk(answer))
            }
            Queue(queue::AMQPMethod::Bind(_)) => Queue(queue::AMQPMethod::BindOk(queue::BindOk {})),
            other => bail!("a publisher does not say {other:?}"),
        };
        self.method(channel, answer)?;
        Ok(false)
    }

    fn method(&mut self, channel: u16, method: AMQPClass) -> Result<()> {
        frames::put(&mut self.out, &AMQPFrame::Method(channel, method))
    }

    fn schedule(&mut self) {
        let now = Instant::now();
        let mut answers = std::mem::take(&mut self.answers);
        for (delay, answer) in answers.take() {
            self.push(now + delay, answer);
        }
        self.answers = answers;
    }

    fn push(&mut self, at: Instant, answer: Answer) {
        self.due.insert((at, self.order), answer);
        self.order += 1;
    }

    fn answer_what_is_due(&mut self) -> Result<()> {
        while let Some(entry) = self.due.first_entry() {
            if entry.key().0 > Instant::now() || self.is_cut {
                break;
            }
            let answer = entry.remove();
            if !self.is_silent {
                self.answer(answer)?;
            }
        }
        Ok(())
    }

    fn answer(&mut self, answer: Answer) -> Result<()> {
        let (number, channel) = (self.number, self.channel);
        let shared = Arc::clone(&self.shared);
        match answer {
            Answer::Ack { tag, is_multiple } => {
                shared.log().answered(number, tag, is_multiple, true);
                frames::put_ack(&mut self.out, channel, tag, is_multiple);
            }
            Answer::Nack { tag, is_multiple } => {
                shared.log().answered(number, tag, is_multiple, false);
                frames::put_nack(&mut self.out, channel, tag, is_multiple);
            }
            Answer::Return { tag } => {
                let mut log = shared.log();
                let Some(published) = log.returned(number, tag) else {
                    bail!("message {tag} never came, or is not kept");
                };
                self.give_back(published)?;
            }
            Answer::ReturnOf { id } => {
                self.no_route("", "")?;
                let properties =
                    AMQPProperties::default().with_message_id(ShortString::try_new(id)?);
                let header = AMQPContentHeader { class_id: 60, body_size: 0, properties };
                frames::put(&mut self.out, &AMQPFrame::Header(channel, header))?;
            }
            Answer::UnreadableReturn => {
                self.no_route("", "")?;
                frames::put_unreadable_header(&mut self.out, channel);
            }
            Answer::Blocked(why) => {
                self.is_blocked = true;
                let blocked = connection::Blocked { reason: ShortString::try_new(why)? };
                let blocked = connection::AMQPMethod::Blocked(blocked);
                self.method(0, AMQPClass::Connection(blocked))?;
            }
            Answer::Unblocked => {
                self.is_blocked = false;
                let unblocked = connection::AMQPMethod::Unblocked(connection::Unblocked {});
                self.method(0, AMQPClass::Connection(unblocked))?;
            }
            Answer::CloseChannel(reply_code, why) => {
                self.close();
                let reply_text = ShortString::try_new(why)?;
                let close = channel::Close { reply_code, reply_text, class_id: 0, method_id: 0 };
                self.method(channel, AMQPClass::Channel(channel::AMQPMethod::Close(close)))?;
            }
            Answer::CloseConnection(reply_code, why) => {
                self.close();
                let reply_text = ShortString::try_new(why)?;
                let close = connection::Close { reply_code, reply_text, class_id: 0, method_id: 0 };
                self.method(0, AMQPClass::Connection(connection::AMQPMethod::Close(close)))?;
            }
            Answer::HalfAnAck { tag } => {
                let mut ack = Vec::new();
                frames::put_ack(&mut ack, channel, tag, true);
                ack.truncate(ack.len() / 2);
                self.out.extend(ack);
            }
            Answer::Silence => self.is_silent = true,
            Answer::Cut => self.is_cut = true,
        }
        Ok(())
    }

    fn close(&mut self) {
        self.is_closing = true;
        self.due.clear();
    }

    fn no_route(&mut self, exchange: &str, routing_key: &str) -> Result<()> {
        let method = basic::AMQPMethod::Return(basic::Return {
            reply_code: 312,
            reply_text: ShortString::try_new("NO_ROUTE")?,
            exchange: ShortString::try_new(exchange)?,
            routing_key: ShortString::try_new(routing_key)?,
        });
        self.method(self.channel, AMQPClass::Basic(method))
    }

    fn give_back(&mut self, published: &Published) -> Result<()> {
        self.no_route(&published.exchange, &published.routing_key)?;
        let header = AMQPContentHeader {
            class_id: 60,
            body_size: u64::try_from(published.body.len())?,
            properties: published.properties.clone(),
        };
        frames::put(&mut self.out, &AMQPFrame::Header(self.channel, header))?;
        for part in published.body.chunks(usize::try_from(FRAME_MAX)? - 8) {
            frames::put(&mut self.out, &AMQPFrame::Body(self.channel, part.to_vec()))?;
        }
        Ok(())
    }
}

fn start() -> AMQPClass {
    let mut capabilities = FieldTable::default();
    for name in ["publisher_confirms", "basic.nack", "connection.blocked"] {
        capabilities.insert(name.into(), AMQPValue::Boolean(true));
    }
    let mut server_properties = FieldTable::default();
    server_properties.insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
    server_properties.insert("product".into(), AMQPValue::LongString("fake broker".into()));
    AMQPClass::Connection(connection::AMQPMethod::Start(connection::Start {
        version_major: 0,
        version_minor: 9,
        server_properties,
        mechanisms: "PLAIN".into(),
        locales: "en_US".into(),
    }))
}

fn tune(frame_max: u32) -> AMQPClass {
    AMQPClass::Connection(connection::AMQPMethod::Tune(connection::Tune {
        channel_max: 2_047,
        frame_max,
        heartbeat: HEARTBEAT_SECONDS,
    }))
}
