//! The connection to RabbitMQ: publishes out, confirms and returns back. The only place that
//! knows lapin.
//!
//! One connection used for nothing else, one channel, one task: two tasks that publish on
//! one lapin channel can swap delivery tags, and confirms then settle the wrong messages.
//! Any error ends it; there is no recovery in place, since publishes that go on after one
//! would overtake those that failed.

mod flight;
pub(crate) mod probe;

use std::net::Shutdown;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_compat::CompatExt;
use futures_util::{Stream, StreamExt};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::protocol::{AMQPError, AMQPErrorKind};
use lapin::tcp::{AsyncTcpStream, RustlsConnector};
use lapin::types::ShortString;
use lapin::uri::{
    AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism,
};
use lapin::{Channel, Confirmation, Connection, ConnectionProperties, ErrorKind, Event};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::timeout;

use flight::{Answer, Answers, Flight};

use crate::config::{Amqp, Broker, TlsMode};
use crate::error::Fault;
use crate::message::{Limits, Message};
use crate::tls;
use crate::window::{Confirm, Return};

/// What a frame has around its payload.
const FRAME_OVERHEAD: usize = 8;
/// How long a farewell may take. A blocked connection cannot even say goodbye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// What lapin may log: nothing. Its warning about a returned message holds the body, and each
/// of its errors we tell ourselves, with what mends it.
pub const LOG: [&str; 1] = ["lapin=off"];

/// What comes back from the broker.
#[derive(Debug)]
pub enum Signal {
    /// Confirms by message number; see [`relay::Input::Confirms`](crate::relay::Input::Confirms).
    Confirms {
        /// Seen before the rest of the window was looked at.
        seen: Vec<(u64, Confirm)>,
        /// Seen then.
        polled: Vec<(u64, Confirm)>,
    },
    /// The broker blocks the connection (an alarm), or no longer does.
    Blocked(Option<String>),
}

/// How a connection ends.
#[derive(Debug)]
pub enum Closure {
    /// The broker closed it over something that was published.
    Refused(String),
    /// It was lost, or forced closed.
    Lost(Fault),
}

/// One connection and its channel.
pub struct Publisher {
    connection: Connection,
    channel: Arc<Channel>,
    events: Pin<Box<dyn Stream<Item = Event> + Send>>,
    socket: socket2::Socket,
    flight: Flight,
    limits: Limits,
}

impl Publisher {
    /// Connects, opens the channel and turns confirms on: before the first publish, since
    /// one published earlier would shift the delivery tags.
    ///
    /// # Errors
    /// Transient, whatever it is: a wrong password may be in the middle of its rotation.
    pub async fn connect(broker: &Broker, amqp: &Amqp) -> Result<Self, Fault> {
        let place = format!("RabbitMQ at {}:{}", broker.host, broker.port);
        // Kept outside, so that whatever lapin is doing when the time is up, its socket can
        // be shut: only that ends its thread.
        let kill = Arc::new(Mutex::new(None));
        let connecting = Self::connect_within(broker, amqp, Arc::clone(&kill));
        let outcome = match timeout(amqp.connect_timeout, connecting).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Fault::transient(format!(
                "no answer within {}",
                humantime::format_duration(amqp.connect_timeout)
            ))),
        };
        outcome.map_err(|mut fault| {
            if let Some(socket) = kill.lock().unwrap_or_else(PoisonError::into_inner).take() {
                let _ = socket2::Socket::shutdown(&socket, Shutdown::Both);
            }
            // It says so by an alert, which the reset that follows may overtake.
            let is_certless = broker.tls.mode != TlsMode::Disable && broker.tls.cert_file.is_none();
            if is_certless && fault.what.contains("reset") {
                fault.mend = MEND_CERTLESS.to_owned();
            }
            fault.what = format!("{place}: {}", fault.what);
            fault
        })
    }

    async fn connect_within(
        broker: &Broker,
        amqp: &Amqp,
        kill: Arc<Mutex<Option<socket2::Socket>>>,
    ) -> Result<Self, Fault> {
        let stream = TcpStream::connect((broker.host.as_str(), broker.port))
            .await
            .map_err(|error| Fault::transient(error.to_string()).mend(MEND_REACH))?;
        let socket = prepare(&stream, amqp).map_err(|error| Fault::transient(error.to_string()))?;
        let handle = socket.try_clone().map_err(|error| Fault::transient(error.to_string()))?;
        *kill.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle);

        let connector = match broker.tls.mode {
            TlsMode::Disable => None,
            _ => Some(RustlsConnector::from(Arc::new(tls::client_config(&broker.tls)?))),
        };
        let stream = Mutex::new(Some(stream));
        let host = broker.host.clone();
        let properties = ConnectionProperties::default()
            .with_connection_name(amqp.connection_name.as_str().into());
        let runtime = lapin::runtime::default_runtime().map_err(|error| refused(&error))?;
        let connection = Connection::connector(
            uri(broker, amqp),
            runtime,
            async move |_, _| {
                let taken = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
                let stream = taken.ok_or_else(|| {
                    lapin::Error::from(std::io::Error::other("a connection is made only once"))
                })?;
                let plain = AsyncTcpStream::Plain(stream.compat());
                match &connector {
                    None => Ok(plain),
                    Some(connector) => Ok(plain.into_rustls(connector, &host).await?),
                }
            },
            properties,
        )
        .await
        .map_err(|error| refused(&error))?;
        // Before anything is published: it misses what happened before it was asked for.
        let events = Box::pin(connection.events_listener());
        let channel = connection.create_channel().await.map_err(|error| refused(&error))?;
        let options = ConfirmSelectOptions::default();
        channel.confirm_select(options).await.map_err(|error| refused(&error))?;
        let frame_max =
            usize::try_from(connection.configuration().frame_max()).unwrap_or(usize::MAX);
        Ok(Self {
            limits: Limits {
                body: amqp.max_message_bytes,
                header_frame: frame_max.saturating_sub(FRAME_OVERHEAD),
            },
            connection,
            channel: Arc::new(channel),
            events,
            socket,
            flight: Flight::new(),
        })
    }

    /// The channel, for declaring; the relay itself never does.
    pub(crate) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// What the broker takes.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Queues a message; messages are numbered from 0. Awaiting each publish would cost a
    /// handover to lapin's thread and a write each, five times the CPU: polling it once is
    /// what puts it into lapin's queue, in order.
    /// Where the channel is closed, [`next`](Self::next) says why.
    pub fn publish(&mut self, message: Message) {
        let channel = Arc::clone(&self.channel);
        self.flight.push(async move {
            let options = BasicPublishOptions { mandatory: true, immediate: false };
            let Message { exchange, routing_key, properties, body } = message;
            channel.basic_publish(exchange, routing_key, options, &body, properties).await
        });
    }

    /// Waits for what comes back. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn next(&mut self) -> Result<Signal, Closure> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Signal, Closure>> {
        if let Poll::Ready(event) = self.events.poll_next_unpin(cx) {
            match event {
                Some(Event::ConnectionBlocked(why)) => {
                    return Poll::Ready(Ok(Signal::Blocked(Some(why))));
                }
                Some(Event::ConnectionUnblocked) => return Poll::Ready(Ok(Signal::Blocked(None))),
                Some(Event::Error(error)) => return Poll::Ready(Err(self.closure(&error))),
                Some(_) => cx.waker().wake_by_ref(),
                None => return Poll::Ready(Err(lost("the connection is gone"))),
            }
        }
        match self.flight.poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.closure(&error))),
            Poll::Ready(Ok(Answers { seen, rest })) => {
                let confirms = |answers: Vec<Answer>| answers.into_iter().map(confirm).collect();
                Poll::Ready(Ok(Signal::Confirms { seen: confirms(seen), polled: confirms(rest) }))
            }
        }
    }

    /// Publishes after a failure only say that the channel is in no state for it: the cause
    /// hangs on an older confirm.
    fn closure(&mut self, error: &lapin::Error) -> Closure {
        let cause = self.flight.errors().find_map(|error| protocol_error(&error).cloned());
        match protocol_error(error).cloned().or(cause) {
            Some(error) if is_over_a_publish(&error) => Closure::Refused(error.to_string()),
            Some(error) => lost(error.to_string()),
            None => lost(error.to_string()),
        }
    }

    /// Says goodbye, within a bound, and makes sure that lapin's thread ends.
    pub async fn close(self) {
        let farewell = self.connection.close(200, ShortString::default());
        let _ = timeout(CLOSE_TIMEOUT, farewell).await;
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

fn confirm((number, confirmation): Answer) -> (u64, Confirm) {
    let (is_ack, returned) = match confirmation {
        Confirmation::Ack(returned) => (true, returned),
        Confirmation::Nack(returned) => (false, returned),
        // Confirms are on from the start; were they not, nothing may count as delivered.
        Confirmation::NotRequested => (false, None),
    };
    let returned = returned.map(|returned| Return {
        message_id: returned
            .delivery
            .properties
            .message_id()
            .as_ref()
            .map(|id| id.as_str().to_owned())
            .unwrap_or_default(),
        why: format!("{} {}", returned.reply_code, returned.reply_text),
    });
    (number, Confirm { is_ack, returned })
}

fn prepare(stream: &TcpStream, amqp: &Amqp) -> std::io::Result<socket2::Socket> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(amqp.heartbeat))?;
    // Bytes that the broker's host does not take: the heartbeat sees only its silence.
    socket.set_tcp_user_timeout(Some(amqp.heartbeat * 3))?;
    socket.try_clone()
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
            ..AMQPQueryString::default()
        },
    }
}

const MEND_REACH: &str = "check amqp.url and that RabbitMQ runs; it is tried again until then";

/// For a broker that hangs up on a client without a certificate.
const MEND_CERTLESS: &str = "check the client certificate: none is set (amqp.cert_file, amqp.key_file), and a broker that asks for one hangs up";

fn refused(error: &lapin::Error) -> Fault {
    let fault = Fault::transient(error.to_string());
    match protocol_error(error).map(AMQPError::get_id) {
        Some(403) => fault.mend(
            "check user and password of amqp.url, and the user's permissions on the vhost: rabbitmqctl list_permissions; it is tried again until then",
        ),
        Some(530) => fault.mend(
            "check the vhost of amqp.url: rabbitmqctl list_vhosts; it is tried again until then",
        ),
        _ => {
            let mend = tls::mend(&fault.what).unwrap_or(MEND_REACH);
            fault.mend(mend)
        }
    }
}

fn lost(why: impl std::fmt::Display) -> Closure {
    Closure::Lost(Fault::transient(format!("the connection to RabbitMQ was lost: {why}")))
}

fn protocol_error(error: &lapin::Error) -> Option<&AMQPError> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error),
        _ => None,
    }
}

/// lapin closes the channel itself where the broker confirms a tag twice or one that was never
/// sent, with the code of a broker's refusal (`acknowledgement.rs`, spelled so).
const LAPIN_KNOWS_NO_SUCH_TAG: &str = "inexistant delivery_tag";

/// A missing exchange, no permission, a bad property, an oversized frame: some message did
/// it. What an operator or a shutdown does to the connection is none of a message's doing.
fn is_over_a_publish(error: &AMQPError) -> bool {
    if error.get_message().as_str().contains(LAPIN_KNOWS_NO_SUCH_TAG) {
        return false;
    }
    match error.kind() {
        AMQPErrorKind::Soft(_) => true,
        AMQPErrorKind::Hard(_) => matches!(error.get_id(), 501 | 502 | 503 | 505 | 540),
    }
}
