//! A connection in replication mode: reached, logged in to, and asked things. tokio-postgres
//! has no such mode.

use std::io;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use pgwire_replication::protocol::parse_auth_request;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::frames::{Frame, Frames, ended};
use crate::config::{Server, TlsMode};
use crate::error::{Fault, Handshake, Kind, Peer};
use crate::net;
use crate::postgres::role::APPLIED;
use crate::postgres::{STANDBY, ServerError, no_answer, socket_path, unreachable, watch_over};
use crate::tls;
use crate::within::within;

/// The bytes of a connection, whatever carries them.
pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Socket for S {}

/// A row of an answer, as text.
pub(super) type TextRow = Vec<Option<String>>;

/// A connection that waits for commands.
pub(super) struct Connection {
    frames: Frames<Box<dyn Socket>>,
    pid: Option<i32>,
    /// The server's.
    pub(super) version: String,
    /// Whether the options came through.
    pub(super) is_applied: bool,
    /// `None` where the server does not say.
    pub(super) is_standby: Option<bool>,
}

impl Connection {
    /// Logs in on a socket. `options` are the server's command line.
    ///
    /// # Errors
    /// Transient where the server cannot be reached; where it refuses the login, what it says
    /// ([`ServerError::fault`]).
    pub(super) async fn open(
        server: &Server,
        reached: PlainSocket,
        application_name: &str,
        options: &str,
    ) -> Result<Self, Fault> {
        let frames = Frames::new(secure(server, reached).await?);
        let mut connection =
            Self { frames, pid: None, version: String::new(), is_applied: false, is_standby: None };
        let parameters = [
            ("user", server.user.as_str()),
            ("database", &server.database),
            ("replication", "database"),
            ("client_encoding", "UTF8"),
            ("application_name", application_name),
            ("options", options),
        ];
        let mut startup = BytesMut::new();
        frontend::startup_message(parameters, &mut startup).map_err(|e| unsendable(&e))?;
        connection.send(&startup).await?;
        if connection.log_in(server).await? {
            // It would end the stream at the first text that is not UTF-8; so its bytes come as they are.
            connection.query("SET client_encoding = 'SQL_ASCII'").await?;
        }
        Ok(connection)
    }

    /// The server's process for it.
    pub(super) fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// Runs one command, and gives its rows.
    ///
    /// # Errors
    /// What the server says ([`ServerError::fault`]): the connection can be used on then. Or the
    /// connection is lost.
    pub(super) async fn query(&mut self, sql: &str) -> Result<Vec<TextRow>, Fault> {
        self.send_query(sql).await?;
        let mut outcome = Ok(Vec::new());
        loop {
            let frame = self.frames.next().await?;
            match (frame.tag, &mut outcome) {
                (b'D', Ok(rows)) => rows.push(text_row(frame.body)?),
                (b'E', _) => outcome = Err(server_fault(&frame.body)),
                (b'Z', _) => return outcome,
                _ => {}
            }
        }
    }

    /// Runs the command that begins a stream; what the server sends next is the stream.
    pub(super) async fn begin_stream(
        mut self,
        sql: &str,
    ) -> Result<Frames<Box<dyn Socket>>, Fault> {
        self.send_query(sql).await?;
        loop {
            let frame = self.frames.next().await?;
            match frame.tag {
                b'W' => {
                    let gone: Box<dyn Socket> = Box::new(tokio::io::empty());
                    return Ok(std::mem::replace(&mut self.frames, Frames::new(gone)));
                }
                b'E' => return Err(server_fault(&frame.body)),
                _ => {}
            }
        }
    }

    async fn send_query(&mut self, sql: &str) -> Result<(), Fault> {
        let mut query = BytesMut::new();
        frontend::query(sql, &mut query).map_err(|error| unsendable(&error))?;
        self.send(&query).await
    }

    async fn send(&mut self, message: &[u8]) -> Result<(), Fault> {
        let socket = self.frames.reader_mut();
        socket.write_all(message).await.map_err(|error| ended(&error))?;
        socket.flush().await.map_err(|error| ended(&error))
    }

    /// Whether the server's texts may be any bytes.
    async fn log_in(&mut self, server: &Server) -> Result<bool, Fault> {
        let mut is_of_any_bytes = false;
        loop {
            let frame = self.frames.next().await?;
            match frame.tag {
                b'R' => self.authenticate(server, &frame).await?,
                b'K' => self.pid = frame.body.clone().try_get_i32().ok(),
                b'E' => return Err(server_fault(&frame.body)),
                b'S' => {
                    is_of_any_bytes |= frame.body.starts_with(b"server_encoding\0SQL_ASCII\0");
                    self.learn(&frame.body);
                }
                b'Z' => return Ok(is_of_any_bytes),
                _ => {}
            }
        }
    }

    /// A parameter that the server reports.
    fn learn(&mut self, body: &[u8]) {
        let mut texts = body.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        let (Some(name), Some(value)) = (texts.next(), texts.next()) else { return };
        if name == "server_version" {
            self.version = value.into_owned();
        } else if name == APPLIED.0 {
            self.is_applied = value == APPLIED.1;
        } else if name == STANDBY {
            self.is_standby = Some(value == "on");
        }
    }

    async fn authenticate(&mut self, server: &Server, asked: &Frame) -> Result<(), Fault> {
        let (method, data) = request(&asked.body)?;
        let password = server.password.expose().as_bytes();
        if method != 0 && password.is_empty() {
            return Err(refused("the server asks for a password, and none is set"));
        }
        let mut answer = BytesMut::new();
        match method {
            // It is in.
            0 => return Ok(()),
            3 => frontend::password_message(password, &mut answer),
            5 => {
                let salt = data.first_chunk().ok_or_else(|| ended(&"a salt of md5 is missing"))?;
                let hash = md5_hash(server.user.as_bytes(), password, *salt);
                frontend::password_message(hash.as_bytes(), &mut answer)
            }
            10 => return self.scram(password, &data).await,
            _ => return Err(refused(&format!("the server asks for method {method}"))),
        }
        .map_err(|error| unsendable(&error))?;
        self.send(&answer).await
    }

    async fn scram(&mut self, password: &[u8], mechanisms: &[u8]) -> Result<(), Fault> {
        if !mechanisms.split(|byte| *byte == 0).any(|name| name == SCRAM_SHA_256.as_bytes()) {
            return Err(refused("the server does not offer SCRAM-SHA-256"));
        }
        let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
        let mut first = BytesMut::new();
        frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), &mut first)
            .map_err(|error| unsendable(&error))?;
        self.send(&first).await?;
        let challenge = self.sasl(11).await?;
        scram.update(&challenge).map_err(|error| refused(&error.to_string()))?;
        let mut proof = BytesMut::new();
        frontend::sasl_response(scram.message(), &mut proof).map_err(|error| unsendable(&error))?;
        self.send(&proof).await?;
        let verdict = self.sasl(12).await?;
        scram.finish(&verdict).map_err(|error| refused(&error.to_string()))
    }

    /// The server's next word in a SCRAM exchange.
    async fn sasl(&mut self, expected: i32) -> Result<Bytes, Fault> {
        loop {
            let frame = self.frames.next().await?;
            match frame.tag {
                b'R' => {
                    let (step, data) = request(&frame.body)?;
                    if step == expected {
                        return Ok(data);
                    }
                    return Err(refused(&format!("step {step} of SCRAM came out of turn")));
                }
                b'E' => return Err(server_fault(&frame.body)),
                _ => {}
            }
        }
    }
}

impl Drop for Connection {
    /// Says goodbye as far as that takes no waiting: a server logs clients that were
    /// lost.
    fn drop(&mut self) {
        let mut terminate = BytesMut::new();
        frontend::terminate(&mut terminate);
        let mut cx = Context::from_waker(Waker::noop());
        let socket = self.frames.reader_mut();
        let _ = Pin::new(&mut *socket).poll_write(&mut cx, &terminate);
        let _ = Pin::new(socket).poll_flush(&mut cx);
    }
}

/// A socket, before TLS.
pub(super) enum PlainSocket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// Reaches a server; each of its addresses has the bound.
///
/// # Errors
/// Nothing listens there, or does not answer within the bound: transient.
pub(super) async fn reach(server: &Server, bound: Duration) -> Result<PlainSocket, Fault> {
    if let Some(path) = socket_path(server) {
        let connecting = async { UnixStream::connect(path).await.map_err(unreachable) };
        return Ok(PlainSocket::Unix(within(bound, connecting, no_answer).await?));
    }
    let stream = net::dial(&server.host, server.port, bound).await.map_err(unreachable)?;
    watch_over(&stream).map_err(unreachable)?;
    Ok(PlainSocket::Tcp(stream))
}

async fn secure(server: &Server, reached: PlainSocket) -> Result<Box<dyn Socket>, Fault> {
    let failed = unreachable;
    let mut socket = match reached {
        // libpq knows no TLS on a unix socket either.
        PlainSocket::Unix(socket) => return Ok(Box::new(socket)),
        PlainSocket::Tcp(socket) => socket,
    };
    if server.tls.mode == TlsMode::Disable {
        return Ok(Box::new(socket));
    }
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    socket.write_all(&request).await.map_err(failed)?;
    // Not a byte more: what follows an S belongs to TLS.
    if tokio::io::AsyncReadExt::read_u8(&mut socket).await.map_err(failed)? != b'S' {
        let kind = Kind::Tls(Handshake::Unsupported);
        return Err(Fault::of(kind, Peer::Postgres, "the server does not support TLS"));
    }
    let mut make = MakeRustlsConnect::new(tls::client_config(&server.tls)?);
    let connector = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut make, &server.host)
        .map_err(|error| Fault::transient(error.to_string()))?;
    let socket = connector.connect(socket).await.map_err(|error| {
        let trouble = tls::trouble(&error).map_or(Kind::Io(error.kind()), Kind::Tls);
        Fault::of(trouble, Peer::Postgres, format!("TLS handshake: {error}"))
    })?;
    Ok(Box::new(socket))
}

/// What the server says in an ErrorResponse.
pub(super) fn server_fault(body: &[u8]) -> Fault {
    ServerError::parse(body).fault()
}

fn request(body: &Bytes) -> Result<(i32, Bytes), Fault> {
    let (method, data) = parse_auth_request(body).map_err(|error| ended(&error))?;
    Ok((method, body.slice_ref(data)))
}

/// What else a server may say, out of any bytes.
pub(super) fn read_anything(body: Bytes) {
    let _ = request(&body);
    let _ = text_row(body);
}

fn refused(what: &str) -> Fault {
    Fault::of(Kind::Login, Peer::Postgres, what)
}

fn unsendable(error: &io::Error) -> Fault {
    Fault::definite(
        format!("a name in the settings cannot be sent to Postgres: {error}"),
        "remove the NUL character from user, database, slot or publication",
    )
}

fn text_row(mut body: Bytes) -> Result<TextRow, Fault> {
    let short = |_| ended(&"a row ends too early");
    let count = body.try_get_u16().map_err(short)?;
    let mut row = Vec::new();
    for _ in 0..count {
        let length = body.try_get_i32().map_err(short)?;
        row.push(match usize::try_from(length) {
            Err(_) => None,
            Ok(length) if length > body.len() => return Err(ended(&"a row ends too early")),
            Ok(length) => Some(String::from_utf8_lossy(&body.split_to(length)).into_owned()),
        });
    }
    Ok(row)
}
