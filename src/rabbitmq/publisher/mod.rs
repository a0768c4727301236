//! The connection to RabbitMQ: publishes out, confirms and returns back. The only place that
//! knows lapin.
//!
//! One connection used for nothing else, and one channel. lapin logs in, opens the channel,
//! turns confirms on, sends heartbeats and says goodbye; what is done for every event is done
//! here: a publish is written as its bytes, and its answer is read as it stands on the wire
//! ([`link`]). So a return is known to come before its ack, whichever message it is of.
//! Any error ends it, but for one: where the broker closes the channel over a message and keeps the
//! connection, a new channel goes on. There is no other recovery in place, since publishes that go on
//! after an error would overtake those that failed.

mod frames;
mod link;
pub(crate) mod probe;
mod runtime;
mod tags;

use std::net::Shutdown;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use lapin::options::ConfirmSelectOptions;
use lapin::protocol::{AMQPError, AMQPErrorKind};
use lapin::tcp::AsyncTcpStream;
use lapin::types::ShortString;
use lapin::uri::{
    AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism,
};
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind, Event};
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) use frames::read_anything;
use frames::{BrokerAnswer, Closing};
use link::{LapinEnd, Link, LinkEnd, Mover};
use tags::Tags;

use crate::config::{Amqp, Broker, TlsMode};
use crate::core::event::FRAME_MAX;
use crate::core::message::{Limits, Message};
use crate::core::relay::window::Answer;
use crate::error::{About, Fault, Handshake, Kind, Peer, table};
use crate::net;
use crate::tls;
use crate::within::{in_time, within};

/// How long a farewell may take. A blocked connection cannot even say goodbye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// What lapin may log: nothing. Its warning about a returned message holds the body, and each
/// of its errors we report ourselves, with a hint.
pub(crate) const LOG: [&str; 1] = ["lapin=off"];

/// What comes back from the broker.
#[derive(Debug)]
pub enum Signal {
    /// What it says of messages, in its order.
    Answers(Vec<Answer>),
    /// The broker blocks the connection (an alarm), or no longer does.
    Blocked(Option<String>),
    /// There is a new channel; messages are numbered from 0 again.
    Reopened,
}

/// How a connection ends.
#[derive(Debug)]
pub enum Closure {
    /// The broker closed it over something that was published.
    Refused(String),
    /// It closed the channel alone, likewise: [`Publisher::reopen`] opens another. With its limit for a body, where that
    /// was the reason.
    RefusedOnChannel(String, Option<usize>),
    /// It ended, and nobody said over what. Perhaps over something that was published.
    Dropped(Fault),
    /// It was lost, or forced closed: not over anything that was published.
    Lost(Fault),
}

/// A channel in the making.
type Opening = Pin<Box<dyn Future<Output = Result<Channel, Fault>> + Send>>;

/// One connection and its channel.
pub struct Publisher {
    connection: Arc<Connection>,
    channel: Channel,
    /// The next one, once the broker has closed that.
    opening: Option<Opening>,
    events: Pin<Box<dyn Stream<Item = Event> + Send>>,
    socket: socket2::Socket,
    link: Arc<Link>,
    mover: AbortHandle,
    /// Messages that the broker has not confirmed.
    tags: Tags,
    /// What lapin says the connection ended of; what came before it is handed out first.
    ended: Option<lapin::Error>,
    /// Why nothing that comes counts any more.
    broken: Option<String>,
    /// Used again and again.
    said: Vec<BrokerAnswer>,
    limits: Limits,
}

impl Publisher {
    /// Connects, opens the channel and turns confirms on: before the first publish, since
    /// one published earlier would shift the delivery tags.
    ///
    /// # Errors
    /// Transient, whatever it is: a wrong password may be in the middle of its rotation.
    pub async fn connect(broker: &Broker, amqp: &Amqp) -> Result<Self, Fault> {
        let broker = &amqp.renewed(broker).await;
        let place = format!("RabbitMQ at {}:{}", broker.host, broker.port);
        let dialled = net::dial(&broker.host, broker.port, amqp.connect_timeout).await;
        let stream = dialled.map_err(|error| {
            let mut fault = unreachable(&error);
            fault.what = format!("{place}: {}", fault.what);
            fault
        })?;
        let kill = Kill::default();
        let connecting = Self::connect_within(broker, amqp, stream, &kill);
        let outcome = within(amqp.connect_timeout, connecting, |bound| {
            let what = format!("no answer within {}", crate::text::span(bound));
            Fault::of(Kind::Timeout, Peer::RabbitMq, what)
        });
        outcome.await.map_err(|mut fault| {
            // It says so by an alert, which the reset that follows may overtake.
            let is_certless = broker.tls.mode != TlsMode::Disable && broker.tls.cert_file.is_none();
            if is_certless && fault.kind == Kind::Io(std::io::ErrorKind::ConnectionReset) {
                fault.hint = HINT_CERTLESS.to_owned();
            }
            if matches!(fault.kind, Kind::Amqp(_, About::Login)) {
                fault.hint = login_hint(broker);
            }
            fault.what = format!("{place}: {}", fault.what);
            fault
        })
    }

    async fn connect_within(
        broker: &Broker,
        amqp: &Amqp,
        stream: TcpStream,
        kill: &Kill,
    ) -> Result<Self, Fault> {
        let socket = prepare(&stream, amqp).map_err(|error| unreachable(&error))?;
        let handle = socket.try_clone().map_err(|error| unreachable(&error))?;
        kill.arm(handle);

        let link = Arc::new(Link::default());
        let mover = match broker.tls.mode {
            TlsMode::Disable => tokio::spawn(Mover::new(stream, Arc::clone(&link)).run()),
            _ => {
                let stream = secure(stream, broker).await?;
                tokio::spawn(Mover::new(stream, Arc::clone(&link)).run())
            }
        };
        let mover = mover.abort_handle();
        let lapins = Mutex::new(Some(LapinEnd(Arc::clone(&link))));
        let properties = ConnectionProperties::default()
            .with_connection_name(amqp.connection_name.as_str().into());
        let connection = Connection::connector(
            uri(broker, amqp),
            runtime::current(),
            async move |_, _| {
                let taken = lapins.lock().unwrap_or_else(PoisonError::into_inner).take();
                taken.map(AsyncTcpStream::Plain).ok_or_else(|| {
                    lapin::Error::from(std::io::Error::other("a connection is made only once"))
                })
            },
            properties,
        )
        .await
        .map_err(|error| refused(&error))?;
        // Before anything is published: it misses what happened before it was asked for.
        let events = Box::pin(connection.events_listener());
        let channel = open(&connection).await?;
        link.take_over(channel.id(), frame_max(&connection));
        kill.disarm();
        Ok(Self {
            limits: Limits {
                body: amqp.max_message_bytes,
                header_frame: frame_max(&connection).saturating_sub(frames::OVERHEAD),
                stream: None,
            },
            connection: Arc::new(connection),
            channel,
            opening: None,
            events,
            socket,
            link,
            mover,
            tags: Tags::default(),
            ended: None,
            broken: None,
            said: Vec::new(),
        })
    }

    /// The channel, for declaring; the relay itself never does.
    pub(crate) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// What the broker takes.
    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// Queues a message; messages are numbered from 0. It is written together with those that
    /// are queued before the task yields.
    /// Where the channel is closed, [`next`](Self::next) says why.
    pub fn publish(&mut self, message: Message) {
        self.tags.publish();
        self.link.publish(message);
    }

    /// Opens a new channel on the same connection, once the broker has closed the one before and that
    /// was told. lapin's numbers for channels rise, and nothing of the old one comes behind its end:
    /// so no confirm of it is taken for one of the new. [`next`](Self::next) says when it is there.
    pub(crate) fn reopen(&mut self, amqp: &Amqp) {
        let (connection, bound) = (Arc::clone(&self.connection), amqp.connect_timeout);
        self.opening = Some(Box::pin(async move {
            within(bound, open(&connection), |bound| {
                let what = format!("no new channel within {}", crate::text::span(bound));
                Fault::of(Kind::Timeout, Peer::RabbitMq, what)
            })
            .await
        }));
    }

    /// Waits for what comes back. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// The connection is closed, by the broker or by a fault of the network: nothing in flight will
    /// be confirmed.
    pub async fn next(&mut self) -> Result<Signal, Closure> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`next`](Self::next).
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Signal, Closure>> {
        if let Some(why) = &self.broken {
            return Poll::Ready(Err(lost(why)));
        }
        while self.ended.is_none()
            && let Poll::Ready(event) = self.events.poll_next_unpin(cx)
        {
            match event {
                Some(Event::ConnectionBlocked(why)) => {
                    return Poll::Ready(Ok(Signal::Blocked(Some(why))));
                }
                Some(Event::ConnectionUnblocked) => return Poll::Ready(Ok(Signal::Blocked(None))),
                // Of a channel that the broker closed it is known by its frame; lapin tells it late.
                Some(Event::Error(_)) if self.connection.status().connected() => {}
                Some(Event::Error(error)) => self.ended = Some(error),
                Some(_) => {}
                None => self.ended = Some(std::io::Error::other("the connection is gone").into()),
            }
        }
        if let Some(opening) = &mut self.opening {
            let opened = ready!(opening.as_mut().poll(cx));
            self.opening = None;
            return Poll::Ready(
                opened.map_err(Closure::Lost).map(|channel| self.reopened(channel)),
            );
        }
        match self.link.listen(cx, &mut self.said) {
            Poll::Ready(None) => Poll::Ready(Ok(Signal::Answers(self.answers()))),
            Poll::Ready(Some(LinkEnd::Closed(Closing { is_channel, why: Ok(error) })))
                if is_over_a_publish(&error) =>
            {
                let why = error.to_string();
                Poll::Ready(Err(match is_channel {
                    true => Closure::RefusedOnChannel(why, max_body(&error)),
                    false => Closure::Refused(why),
                }))
            }
            Poll::Ready(Some(LinkEnd::Closed(Closing { why: closing, .. }))) => {
                let is_forced = closing.as_ref().is_ok_and(|error| error.get_id() == FORCED);
                let why = closing.map_or_else(|words| words, |error| error.to_string());
                let closure = lost(why);
                Poll::Ready(Err(if is_forced { closure } else { closure.perhaps_over_a_publish() }))
            }
            Poll::Ready(Some(LinkEnd::Lost(why))) => {
                // Before the socket ends, lapin gives up a broker of which it hears nothing.
                let is_silent = self.ended.as_ref().is_some_and(is_heartbeat);
                let why = self.ended.as_ref().map_or(why, ToString::to_string);
                let closure = lost(why);
                Poll::Ready(Err(if is_silent { closure } else { closure.perhaps_over_a_publish() }))
            }
            Poll::Pending => match &self.ended {
                Some(error) => Poll::Ready(Err(lost(error))),
                None => Poll::Pending,
            },
        }
    }

    fn reopened(&mut self, channel: Channel) -> Signal {
        self.link.take_over(channel.id(), frame_max(&self.connection));
        (self.channel, self.tags) = (channel, Tags::default());
        Signal::Reopened
    }

    /// What was said, of each message by its number.
    fn answers(&mut self) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(self.said.len());
        for said in self.said.drain(..) {
            let (tag, is_multiple, is_ack) = match said {
                BrokerAnswer::Confirm { tag, is_multiple, is_ack } => (tag, is_multiple, is_ack),
                BrokerAnswer::Return(returned) => {
                    answers.push(Answer::Return(returned));
                    continue;
                }
                BrokerAnswer::Unreadable(what) => {
                    self.broken = Some(format!("RabbitMQ sent {what} that cannot be read"));
                    break;
                }
            };
            let tell = |number| answers.push(Answer::Confirm { number, is_ack });
            if self.tags.confirm(tag, is_multiple, tell).is_err() {
                // Nobody can say what it means: nothing is settled by it, nor by what follows.
                self.broken =
                    Some(format!("RabbitMQ confirmed delivery tag {tag}, which is not in flight"));
                break;
            }
        }
        answers
    }

    /// Says goodbye, within a bound, and makes sure that lapin's thread ends.
    pub async fn close(self) {
        let farewell = self.connection.close(200, ShortString::default());
        let _ = in_time(CLOSE_TIMEOUT, farewell).await;
    }
}

/// A channel with confirms.
async fn open(connection: &Connection) -> Result<Channel, Fault> {
    let channel = connection.create_channel().await.map_err(|error| refused(&error))?;
    let options = ConfirmSelectOptions::default();
    channel.confirm_select(options).await.map_err(|error| refused(&error))?;
    Ok(channel)
}

fn frame_max(connection: &Connection) -> usize {
    usize::try_from(connection.configuration().frame_max()).unwrap_or(usize::MAX)
}

/// The socket of a connection in the making. However that ends (the time is up, or it is dropped in
/// the middle), the socket is shut: only that ends lapin's thread.
#[derive(Default)]
struct Kill(Mutex<Option<socket2::Socket>>);

impl Kill {
    fn arm(&self, socket: socket2::Socket) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(socket);
    }

    /// The connection is made: its owner shuts it.
    fn disarm(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Drop for Kill {
    fn drop(&mut self) {
        if let Some(socket) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
        self.mover.abort();
    }
}

pub(super) fn prepare(stream: &TcpStream, amqp: &Amqp) -> std::io::Result<socket2::Socket> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(amqp.heartbeat))?;
    // No bound on how long the broker may leave bytes where they are: with an alarm it reads
    // nothing for as long as that lasts. A host that is gone sends no heartbeat either.
    socket.try_clone()
}

/// lapin is built without TLS: what it is given in place of a socket needs none.
pub(super) async fn secure(
    stream: TcpStream,
    broker: &Broker,
) -> Result<TlsStream<TcpStream>, Fault> {
    let connector = TlsConnector::from(Arc::new(tls::client_config(&broker.tls)?));
    let name = ServerName::try_from(broker.host.clone()).map_err(|error| {
        let what = format!("{} is not a name that TLS can verify: {error}", broker.host);
        Fault::of(Kind::Tls(Handshake::Name), Peer::RabbitMq, what)
    })?;
    let secured = connector.connect(name, stream).await;
    secured.map_err(|error| {
        let kind = tls::trouble(&error).map_or(Kind::Io(error.kind()), Kind::Tls);
        Fault::of(kind, Peer::RabbitMq, error.to_string()).because(error)
    })
}

fn uri(broker: &Broker, amqp: &Amqp) -> AMQPUri {
    let heartbeat = u16::try_from(amqp.heartbeat.as_secs()).unwrap_or(u16::MAX);
    let mechanism = if broker.is_external { SASLMechanism::External } else { SASLMechanism::Plain };
    AMQPUri {
        scheme: match broker.tls.mode {
            TlsMode::Disable => AMQPScheme::AMQP,
            _ => AMQPScheme::AMQPS,
        },
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo {
                username: broker.user.clone(),
                password: broker.password.expose().to_owned(),
            },
            host: broker.host.clone(),
            port: broker.port,
        },
        vhost: broker.vhost.clone(),
        query: AMQPQueryString {
            heartbeat: Some(heartbeat),
            auth_mechanism: Some(mechanism),
            frame_max: Some(FRAME_MAX),
            ..AMQPQueryString::default()
        },
    }
}

/// For a broker that hangs up on a client without a certificate.
const HINT_CERTLESS: &str = "check the client certificate: none is set (amqp.cert_file, amqp.key_file), and a broker that asks for one hangs up";

fn login_hint(broker: &Broker) -> String {
    let (user, place) = (&broker.user, &broker.password_place);
    format!(
        "check user and password in {place}: rabbitmqctl authenticate_user {user} PASSWORD; \"guest\" may log in from the broker's own machine alone"
    )
}

pub(super) fn unreachable(error: &std::io::Error) -> Fault {
    Fault::of(Kind::Io(error.kind()), Peer::RabbitMq, error.to_string())
}

/// What an error of lapin means.
pub(crate) fn classify(error: &lapin::Error) -> Fault {
    Fault::of(kind(error), Peer::RabbitMq, error.to_string()).because(error.clone())
}

fn kind(error: &lapin::Error) -> Kind {
    match error.kind() {
        ErrorKind::ProtocolError(error) => {
            Kind::Amqp(error.get_id(), about(error.get_id(), error.get_message().as_str()))
        }
        ErrorKind::IOError(error) => {
            tls::trouble(error.as_ref()).map_or(Kind::Io(error.kind()), Kind::Tls)
        }
        ErrorKind::MissingHeartbeatError => Kind::Timeout,
        ErrorKind::InvalidConnectionState(_) | ErrorKind::InvalidChannelState(..) => Kind::Closed,
        ErrorKind::ParsingError(_) | ErrorKind::InvalidProtocolVersion(_) => Kind::Protocol,
        _ => Kind::Own,
    }
}

/// The broker has one code for all that has to do with a vhost, and tells them apart by its words,
/// which are English always.
fn about(code: u16, message: &str) -> About {
    let says = |words: &str| message.contains(words);
    match code {
        530 if says("user connection limit") => About::UserLimit,
        530 if says("node connection limit") => About::NodeLimit,
        530 if says("connection limit") => About::VhostLimit,
        530 if says("access to vhost") => About::VhostForbidden,
        530 if says("vhost") && says("not found") => About::VhostMissing,
        530 if says("vhost") && says("down") => About::VhostDown,
        _ => About::Code,
    }
}

/// While connecting: what is refused then is the login.
fn refused(error: &lapin::Error) -> Fault {
    let fault = classify(error);
    match fault.kind {
        Kind::Amqp(403, _) => {
            let kind = Kind::Amqp(403, About::Login);
            fault.kind(kind).hint(table::entry(kind, Peer::RabbitMq).hint)
        }
        _ => fault,
    }
}

impl Closure {
    fn perhaps_over_a_publish(self) -> Self {
        match self {
            Self::Lost(fault) => Self::Dropped(fault),
            other => other,
        }
    }
}

/// The limit that a body was over. The broker says it nowhere but in the words of this error ("message size 200000 is
/// larger than configured max size 100000"), so they are read; another wording is a refusal like any other.
fn max_body(error: &AMQPError) -> Option<usize> {
    if error.get_id() != PRECONDITION_FAILED {
        return None;
    }
    let words = error.to_string();
    let (_, limit) = words.split_once("is larger than ")?.1.rsplit_once("max size ")?;
    limit.trim().parse().ok()
}

/// PRECONDITION_FAILED.
const PRECONDITION_FAILED: u16 = 406;

/// CONNECTION_FORCED: an operator closed it, or the broker stops.
const FORCED: u16 = 320;

fn is_heartbeat(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::MissingHeartbeatError)
}

fn lost(why: impl std::fmt::Display) -> Closure {
    let what = format!("the connection to RabbitMQ was lost: {why}");
    Closure::Lost(Fault::of(Kind::Closed, Peer::RabbitMq, what))
}

fn protocol_error(error: &lapin::Error) -> Option<&AMQPError> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error),
        _ => None,
    }
}

/// A missing exchange, no permission, a bad property, an oversized frame: some message did
/// it. What an operator or a shutdown does to the connection is none of a message's doing.
fn is_over_a_publish(error: &AMQPError) -> bool {
    match error.kind() {
        AMQPErrorKind::Soft(_) => true,
        AMQPErrorKind::Hard(_) => matches!(error.get_id(), 501 | 502 | 503 | 505 | 540),
    }
}
