//! A connection in the making: login, and the way to the node that leads a stream.
//!
//! Messages are published on a connection to that node and on no other: a node in between passes them on by
//! a link that may lose some of them and go on with later ones, whose ids would keep those out for ever.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::frames::{self, First, Frame, Place, code, key, words};
use super::way::Way;
use crate::config::{Amqp, Broker, TlsMode};
use crate::core::event::STREAM_FRAME_MAX;
use crate::error::{About, Fault, Kind, Peer};
use crate::net;
use crate::rabbitmq::publisher::{prepare, secure, unreachable};
use crate::within::within;

/// The ports that RabbitMQ listens on as installed.
const PORT: u16 = 5552;
const TLS_PORT: u16 = 5551;
/// What `check` calls it where there is no way to the streams, and what else keeps one from being published to.
pub(super) const NO_WAY: &str = "broker-stream-connection";
const MISSING: &str = "broker-stream-missing";
const PERMISSION: &str = "broker-stream-permission";
/// A failed login is answered after three seconds, so that nobody tries many.
const LOGIN_BYTES: usize = 64 << 10;

/// A socket, whatever is between.
pub(super) trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Socket for S {}

/// A connection that is logged in, to the node that leads its stream.
pub(super) struct LeaderConnection {
    pub(super) socket: Box<dyn Socket>,
    /// Read, and not looked at yet.
    pub(super) read: Vec<u8>,
    pub(super) handle: socket2::Socket,
    pub(super) leader: Place,
    pub(super) frame_max: usize,
    /// In seconds; 0: none.
    pub(super) heartbeat: u32,
    /// It can be asked for the partitions of a super stream: up to RabbitMQ 3.11.0 the answer has a key that nobody
    /// waits for.
    pub(super) tells_partitions: bool,
    /// What it says that its version is; it may say nothing.
    pub(super) version: String,
    /// It reads filter values: RabbitMQ 3.13 is the first that does.
    pub(super) takes_filters: bool,
}

/// Connects to the node that leads a stream.
///
/// # Errors
/// The node cannot be reached, refuses the login, or does not know the stream; or the stream has no leader.
pub(super) async fn connect(
    broker: &Broker,
    amqp: &Amqp,
    stream: &str,
) -> Result<LeaderConnection, Fault> {
    let broker = &amqp.renewed(broker).await;
    let port = port(broker, amqp);
    let mut given = amqp
        .stream_addresses
        .iter()
        .map(|(host, own)| Place { host: host.clone(), port: own.unwrap_or(port) });
    let usual = || Place { host: broker.host.clone(), port };
    let first = given.next().unwrap_or_else(usual);
    let mut way = Way::new(first, given.collect(), !amqp.stream_addresses.is_empty());
    let mut unreachable = None;
    loop {
        let place = way.place().clone();
        let (mut talk, leader) = match led(broker, amqp, &place, stream).await {
            Ok(led) => led,
            Err(fault) if is_of_way(&fault) && way.failed() => {
                unreachable = Some(fault);
                continue;
            }
            Err(fault) => return Err(fault),
        };
        // A node that does not say where it is was reached where the leader is said to be.
        let is_there = talk.advertised.as_ref().map_or(place == leader, |it| *it == leader);
        if is_there {
            talk.connected.leader = leader;
            return Ok(talk.connected);
        }
        if !way.led_elsewhere(&leader) {
            return Err(not_led_to(stream, &leader, unreachable));
        }
    }
}

/// Logs in there, and asks where the leader of the stream is.
async fn led(
    broker: &Broker,
    amqp: &Amqp,
    place: &Place,
    stream: &str,
) -> Result<(Talk, Place), Fault> {
    let too_late = |bound| {
        let what = format!("no answer within {}", crate::text::span(bound));
        Fault::of(Kind::Timeout, Peer::RabbitMq, what)
    };
    let made = within(amqp.connect_timeout, Talk::begin(broker, amqp, place), too_late);
    let mut talk = made.await.map_err(|fault| told(fault, place))?;
    let leader = within(amqp.connect_timeout, talk.leader(stream), too_late).await;
    let leader = leader.map_err(|fault| told(fault, place))?;
    Ok((talk, leader))
}

fn not_led_to(stream: &str, leader: &Place, unreachable: Option<Fault>) -> Fault {
    let (host, port) = (&leader.host, leader.port);
    let why = unreachable.map(|fault| format!("; {}", fault.what)).unwrap_or_default();
    let what = format!(
        "stream \"{stream}\" is led by {host}:{port}, and no address leads there: the others lead to other nodes{why}"
    );
    Fault::of(Kind::Protocol, Peer::RabbitMq, what).hint(
        "let the relay reach each node under its advertised name (stream.advertised_host, stream.advertised_port in rabbitmq.conf), or name a load balancer before all nodes: amqp.stream_addresses",
    ).found(Some(NO_WAY))
}

/// The port of the stream protocol.
pub(super) fn port(broker: &Broker, amqp: &Amqp) -> u16 {
    let usual = if broker.tls.mode == TlsMode::Disable { PORT } else { TLS_PORT };
    amqp.stream_port.unwrap_or(usual)
}

/// Whether a broker of this version reads filter values.
fn takes_filters(version: &str) -> bool {
    let mut numbers = version.split('.').map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (3, 13)
}

fn told(mut fault: Fault, at: &Place) -> Fault {
    fault.what = format!("RabbitMQ's streams at {}:{}: {}", at.host, at.port, fault.what);
    let named = fault.finding.or(is_of_way(&fault).then_some(NO_WAY));
    fault.found(named)
}

/// Nobody answers there who speaks the protocol: at another address there may be one.
fn is_of_way(fault: &Fault) -> bool {
    matches!(fault.kind, Kind::Io(_) | Kind::Timeout | Kind::Closed | Kind::Protocol)
}

/// Questions and answers, one after the other.
struct Talk {
    connected: LeaderConnection,
    advertised: Option<Place>,
    number: u32,
    tune: Option<(u32, u32)>,
}

impl Talk {
    async fn begin(broker: &Broker, amqp: &Amqp, place: &Place) -> Result<Self, Fault> {
        let dialled = net::dial(&place.host, place.port, amqp.connect_timeout).await;
        let stream = dialled.map_err(|error| closed_port(&error))?;
        let handle = prepare(&stream, amqp).map_err(|error| unreachable(&error))?;
        let at = Broker { host: place.host.clone(), port: place.port, ..broker.clone() };
        let socket: Box<dyn Socket> = match broker.tls.mode {
            TlsMode::Disable => Box::new(stream),
            _ => Box::new(secure(stream, &at).await?),
        };
        let connected = LeaderConnection {
            socket,
            read: Vec::new(),
            handle,
            leader: place.clone(),
            frame_max: LOGIN_BYTES,
            heartbeat: 0,
            tells_partitions: false,
            version: String::new(),
            takes_filters: false,
        };
        let mut talk = Self { connected, advertised: None, number: 0, tune: None };
        talk.log_in(broker, amqp).await?;
        Ok(talk)
    }

    async fn log_in(&mut self, broker: &Broker, amqp: &Amqp) -> Result<(), Fault> {
        let version = env!("CARGO_PKG_VERSION");
        let own = [
            ("product", "pgoutbox"),
            ("version", version),
            ("connection_name", amqp.connection_name.as_str()),
        ];
        let (_, theirs) = self.ask(key::PEER_PROPERTIES, |out| frames::pairs(out, &own)).await?;
        let version = frames::value(&theirs, "version").unwrap_or_default();
        self.connected.tells_partitions =
            !["3.9.", "3.10.", "3.11.0"].iter().any(|old| version.starts_with(old));
        self.connected.takes_filters = takes_filters(&version);
        self.connected.version = version;
        let (_, offered) = self.ask(key::SASL_HANDSHAKE, |_| {}).await?;
        let mechanism = if broker.is_external { "EXTERNAL" } else { "PLAIN" };
        let offered = frames::listed(&offered).ok_or_else(unreadable)?;
        if !offered.iter().any(|it| it == mechanism) {
            let what = format!("it offers no login by {mechanism}: {}", offered.join(", "));
            return Err(Fault::of(Kind::Amqp(403, About::Login), Peer::RabbitMq, what));
        }
        let plain = format!("\0{}\0{}", broker.user, broker.password.expose());
        let secret = (!broker.is_external).then_some(plain.as_bytes());
        let (said, _) = self
            .ask(key::SASL_AUTHENTICATE, |out| {
                frames::text(out, mechanism);
                frames::bytes(out, secret);
            })
            .await?;
        if said != code::OK {
            return Err(refused(said, Kind::Amqp(403, About::Login), "the login is refused"));
        }
        let (frame_max, heartbeat) = self.tuned().await?;
        let at_most = |theirs: u32, ours: u32| if theirs == 0 { ours } else { theirs.min(ours) };
        let frame_max = at_most(frame_max, STREAM_FRAME_MAX);
        let asked = u32::try_from(amqp.heartbeat.as_secs()).unwrap_or(u32::MAX);
        let heartbeat = at_most(heartbeat, asked);
        let mut out = Vec::new();
        frames::frame(&mut out, key::TUNE, |out| {
            out.extend_from_slice(&frame_max.to_be_bytes());
            out.extend_from_slice(&heartbeat.to_be_bytes());
        });
        self.write(&out).await?;
        self.connected.frame_max = usize::try_from(frame_max).unwrap_or(usize::MAX);
        self.connected.heartbeat = heartbeat;
        let (said, rest) = self.ask(key::OPEN, |out| frames::text(out, &broker.vhost)).await?;
        if said == code::NO_VHOST {
            let kind = Kind::Amqp(530, About::VhostForbidden);
            return Err(refused(said, kind, &format!("vhost \"{}\"", broker.vhost)));
        }
        if said != code::OK {
            return Err(refused(said, Kind::Protocol, "the connection is not opened"));
        }
        self.advertised = frames::advertised(&rest);
        Ok(())
    }

    /// Where the leader of a stream is.
    async fn leader(&mut self, stream: &str) -> Result<Place, Fault> {
        let number = self.next_number();
        let mut out = Vec::new();
        frames::request(&mut out, key::METADATA, number, |out| frames::texts(out, &[stream]));
        self.write(&out).await?;
        let (said, place) = loop {
            let frame = self.receive().await?;
            match frames::read(&frame).ok_or_else(unreadable)? {
                Frame::Metadata { number: of, rest } if of == number => {
                    break frames::leader(rest).ok_or_else(unreadable)?;
                }
                other => self.other(&other)?,
            }
        };
        match (said, place) {
            (code::OK, Some(place)) => Ok(place),
            (code::OK | code::NOT_AVAILABLE, _) => {
                let what = format!("stream \"{stream}\" has no leader at the moment");
                Err(Fault::of(Kind::Closed, Peer::RabbitMq, what).found(Some(NO_WAY)))
            }
            (said, _) => Err(no_stream(said, stream)),
        }
    }

    async fn tuned(&mut self) -> Result<(u32, u32), Fault> {
        loop {
            if let Some(tune) = self.tune.take() {
                return Ok(tune);
            }
            let frame = self.receive().await?;
            let frame = frames::read(&frame).ok_or_else(unreadable)?;
            self.other(&frame)?;
        }
    }

    fn next_number(&mut self) -> u32 {
        self.number += 1;
        self.number
    }

    /// Asks, and waits for the answer: its code, and what else it says.
    async fn ask(
        &mut self,
        key: u16,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(u16, Vec<u8>), Fault> {
        let number = self.next_number();
        let mut out = Vec::new();
        frames::request(&mut out, key, number, write);
        self.write(&out).await?;
        loop {
            let frame = self.receive().await?;
            match frames::read(&frame).ok_or_else(unreadable)? {
                Frame::Answer { key: of, number: to, code, rest } if of == key && to == number => {
                    return Ok((code, rest.to_vec()));
                }
                other => self.other(&other)?,
            }
        }
    }

    /// A frame that is no answer.
    fn other(&mut self, frame: &Frame<'_>) -> Result<(), Fault> {
        match frame {
            Frame::Tune { frame_max, heartbeat } => self.tune = Some((*frame_max, *heartbeat)),
            Frame::Close { code, reason, .. } => {
                let what = format!("it closed the connection: {reason} ({})", words(*code));
                return Err(Fault::of(Kind::Closed, Peer::RabbitMq, what));
            }
            _ => {}
        }
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let socket = &mut self.connected.socket;
        let written = async {
            socket.write_all(bytes).await?;
            socket.flush().await
        };
        written.await.map_err(|error| unreachable(&error))
    }

    async fn receive(&mut self) -> Result<Vec<u8>, Fault> {
        let LeaderConnection { socket, read, .. } = &mut self.connected;
        loop {
            match frames::first(read) {
                First::Whole(frame, taken) => {
                    let frame = frame.to_vec();
                    read.drain(..taken);
                    return Ok(frame);
                }
                First::None => return Err(unreadable()),
                First::Part => {}
            }
            if socket.read_buf(read).await.map_err(|error| unreachable(&error))? == 0 {
                return Err(Fault::of(Kind::Closed, Peer::RabbitMq, "it hung up"));
            }
        }
    }
}

/// Nobody listens: perhaps the plugin is off.
fn closed_port(error: &std::io::Error) -> Fault {
    let fault = unreachable(error);
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => {
            fault.hint("rabbitmq-plugins enable rabbitmq_stream  -- or correct amqp.stream_port")
        }
        _ => fault,
    }
}

fn unreadable() -> Fault {
    let what = "what it says is not of the stream protocol";
    Fault::of(Kind::Protocol, Peer::RabbitMq, what)
        .hint("check that amqp.stream_port is that of the plugin rabbitmq_stream (5552, or 5551 with TLS)")
}

fn refused(said: u16, kind: Kind, what: &str) -> Fault {
    Fault::of(kind, Peer::RabbitMq, format!("{what}: {} ({said})", words(said)))
}

/// The broker does not let this stream be published to.
pub(super) fn no_stream(said: u16, stream: &str) -> Fault {
    let what = format!("stream \"{stream}\": {} ({said})", words(said));
    let fault = Fault::transient(what);
    match said {
        code::NO_STREAM => fault.kind(Kind::Amqp(404, About::Code)).found(Some(MISSING)).hint(format!(
            "pgoutbox init --declare  -- or: rabbitmqadmin declare queue name={stream} durable=true arguments='{{\"x-queue-type\":\"stream\"}}'"
        )),
        code::REFUSED => fault.kind(Kind::Amqp(403, About::Code)).found(Some(PERMISSION)).hint(format!(
            "rabbitmqctl set_permissions USER '^$' '^{stream}$' '^{stream}$'  -- with read, the last id there is compared"
        )),
        code::PRECONDITION => fault.hint("clear the broker's disk alarm: rabbitmq-diagnostics alarms"),
        _ => fault.kind(Kind::Closed),
    }
}
