//! What a server shows of itself before anybody logs in: its certificates, and a broker its
//! version.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use amq_protocol::frame::{AMQPFrame, parse_frame};
use amq_protocol::protocol::{AMQPClass, connection};
use amq_protocol::types::AMQPValue;
use postgres_protocol::message::frontend;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConnection, StreamOwned};

use crate::config::{Tls, TlsMode};
use crate::tls::chain::{self, ChainRecorder};

/// The largest greeting of a broker that is waited for.
const MOST: usize = 64 * 1024;

/// Who is greeted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Postgres,
    /// Its version, where that is wanted: a broker's log complains of who asks and does not log in.
    Broker {
        wants_version: bool,
    },
}

/// What was shown.
#[derive(Debug, Clone, Default)]
pub(super) struct Greeting {
    /// The server's certificate, and those that lead to its authority.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// Of a broker, such as `4.0.5`.
    pub(super) version: Option<String>,
}

/// Looks, within a bound for each step. What cannot be seen is left out: who logs in next hears
/// why.
pub(super) async fn greet(
    kind: Kind,
    (host, port): (&str, u16),
    tls: &Tls,
    bound: Duration,
) -> Greeting {
    let is_plain = tls.mode == TlsMode::Disable;
    if host.starts_with('/') || (is_plain && kind != (Kind::Broker { wants_version: true })) {
        return Greeting::default();
    }
    let (host, tls) = (host.to_owned(), tls.clone());
    let greeting = tokio::task::spawn_blocking(move || look(kind, &host, port, &tls, bound));
    greeting.await.unwrap_or_default()
}

fn look(kind: Kind, host: &str, port: u16, tls: &Tls, bound: Duration) -> Greeting {
    let mut greeting = Greeting::default();
    let Ok(mut socket) = connect(host, port, bound) else { return greeting };
    if tls.mode == TlsMode::Disable {
        greeting.version = version(&mut socket).ok().flatten();
        return greeting;
    }
    let Ok((config, recorder)) = chain::recording(tls) else { return greeting };
    let is_ready = kind != Kind::Postgres || ask_for_tls(&mut socket).is_ok();
    let name = ServerName::try_from(host.to_owned());
    let (true, Ok(name)) = (is_ready, name) else { return greeting };
    let Ok(session) = ClientConnection::new(Arc::new(config), name) else { return greeting };
    greeting.version = speak(kind, StreamOwned::new(session, socket));
    greeting.chain = ChainRecorder::chain(&recorder);
    greeting
}

fn connect(host: &str, port: u16, bound: Duration) -> io::Result<TcpStream> {
    let mut outcome = Err(io::Error::from(io::ErrorKind::NotFound));
    for address in (host, port).to_socket_addrs()? {
        outcome = TcpStream::connect_timeout(&address, bound);
        if outcome.is_ok() {
            break;
        }
    }
    let socket = outcome?;
    socket.set_read_timeout(Some(bound))?;
    socket.set_write_timeout(Some(bound))?;
    Ok(socket)
}

fn ask_for_tls(socket: &mut TcpStream) -> io::Result<()> {
    let mut request = bytes::BytesMut::new();
    frontend::ssl_request(&mut request);
    socket.write_all(&request)?;
    let mut answer = [0];
    socket.read_exact(&mut answer)?;
    if answer == *b"S" { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
}

fn speak(kind: Kind, mut stream: StreamOwned<ClientConnection, TcpStream>) -> Option<String> {
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).ok()?;
    }
    let version = match kind {
        Kind::Postgres | Kind::Broker { wants_version: false } => None,
        Kind::Broker { wants_version: true } => version(&mut stream).ok().flatten(),
    };
    stream.conn.send_close_notify();
    let _ = stream.flush();
    version
}

/// A broker gives its version to anyone who speaks its protocol.
fn version(stream: &mut (impl Read + Write)) -> io::Result<Option<String>> {
    stream.write_all(b"AMQP\x00\x00\x09\x01")?;
    stream.flush()?;
    let (mut said, mut part) = (Vec::new(), [0; 4096]);
    while said.len() < MOST {
        let count = stream.read(&mut part)?;
        if count == 0 {
            break;
        }
        said.extend_from_slice(part.get(..count).unwrap_or_default());
        if let Ok((_, frame)) = parse_frame(said.as_slice()) {
            return Ok(version_of(frame));
        }
    }
    Ok(None)
}

fn version_of(frame: AMQPFrame) -> Option<String> {
    let AMQPFrame::Method(_, AMQPClass::Connection(connection::AMQPMethod::Start(start))) = frame
    else {
        return None;
    };
    match start.server_properties.inner().get("version")? {
        AMQPValue::LongString(version) => String::from_utf8(version.as_bytes().to_vec()).ok(),
        AMQPValue::ShortString(version) => Some(version.to_string()),
        _ => None,
    }
}
