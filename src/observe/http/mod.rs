//! Metrics, probes, status and the console, on a port of their own.
//!
//! A thread of its own with a runtime of its own: whatever clients do, the relay's loop does
//! not wait for them. Each connection is asked one thing and closed; there are so many of them
//! at most ([`mod@accept`]), each lives so long at most, and all of them together have the loop
//! asked a few times a second at most ([`snapshot_cache`]).
//!
//! hyper without a framework: `axum::serve` bounds neither the time to read a header nor the
//! number of connections, so the loop below would be there all the same, and a framework
//! would only save the one `match` of [`router`].
//!
//! # Layout
//! `router` answers requests, after `access` has said who may ask; `ready` and `status` are pure,
//! over a [`snapshot`](crate::board::snapshot). The console is the page of `console`, with `history`
//! for its plots, `events` to stay live, and `parked` to list and handle parked events. `client`
//! is the other end, for `pgoutbox status`.

pub(crate) mod client;
mod console;
mod router;
mod accept;
mod event;
mod events;
mod access;
mod history;
mod snapshot_cache;
mod parked;
pub(crate) mod ready;
mod status;

pub(crate) use event::read_anything;
pub(crate) use router::read_any_request;

use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{Error, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, sink};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use crate::board::Board;
use crate::config::{Config, Http};
use crate::error::Fault;
use crate::within::in_time;
use accept::{Door, Visit};
use router::{Desk, LongLived};

/// How long the request's line and headers may take.
const HEADERS: Duration = Duration::from_secs(5);
/// How long a connection may live, the answer included.
const LIFE: Duration = Duration::from_secs(15);
/// How long one that listens to events may live, the browser asks again then.
const LONG_LIFE: Duration = Duration::from_secs(600);
/// How long what a client still sends is read after its answer, and how much of it.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: u64 = 16 << 20;
/// The most that is read of a request's line and headers.
const HEADER_BYTES: usize = 16 << 10;
/// How many connections wait to be accepted, as std has it.
const BACKLOG: i32 = 128;
/// Pause after a connection could not be accepted: there are no file descriptors left, say.
const PAUSE: Duration = Duration::from_millis(100);

/// A port that is taken, and not served yet.
#[derive(Debug)]
pub(crate) struct Port {
    listener: TcpListener,
    address: SocketAddr,
}

/// Takes the port, before anything is connected to; `None` where HTTP is off.
///
/// # Errors
/// Definite: another process has the port, or the role may not open it.
pub(crate) fn bind(http: &Http) -> Result<Option<Port>, Fault> {
    let Some(address) = http.address else { return Ok(None) };
    let taken = listen(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Port { listener, address })
    });
    taken.map(Some).map_err(|error| refused(address, &error))
}

/// `[::]` is each address of the machine, the old ones too, whatever its default for that is; and
/// those alone where it has no new ones.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    if address.ip() != Ipv6Addr::UNSPECIFIED {
        return TcpListener::bind(address);
    }
    let both = Socket::new(Domain::IPV6, Type::STREAM, None).and_then(|socket| {
        socket.set_reuse_address(true)?;
        socket.set_only_v6(false)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(TcpListener::from(socket))
    });
    match both {
        Err(error) if error.kind() != ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).map_err(|_| error)
        }
        outcome => outcome,
    }
}

fn refused(address: SocketAddr, error: &Error) -> Fault {
    let port = address.port();
    let hint = match error.kind() {
        ErrorKind::AddrInUse => format!(
            "see who has it: ss -ltnp 'sport = :{port}'; end that process, or choose another port or none for this one: http.address = \"127.0.0.1:{}\" or \"off\"",
            if port == u16::MAX { port - 1 } else { port + 1 }
        ),
        ErrorKind::PermissionDenied => {
            "choose a port from 1024 on, such as http.address = \"127.0.0.1:8976\"".to_owned()
        }
        _ => "choose an address of this machine, such as http.address = \"127.0.0.1:8976\", or \"off\""
            .to_owned(),
    };
    Fault::definite(format!("http.address {address} cannot be listened on: {error}"), hint)
}

/// Serves the board there until the process ends.
///
/// # Errors
/// The system does not give the process a thread or the runtime its sockets.
pub(crate) fn serve(port: Port, config: &Config, board: &Board) -> Result<(), Fault> {
    let failed = |error: Error| Fault::transient(format!("HTTP cannot be served: {error}"));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let address = port.address;
    info!(%address, "HTTP is served: the console at /, /livez, /readyz, /metrics, /status");
    if config.http.token.is_none() && !address.ip().is_loopback() {
        warn!(
            hint = "set http.token, or an http.address of 127.0.0.1",
            "http.token is not set: anyone who reaches {address} can read metrics and status, which name hosts and tables"
        );
    }
    let desk = Arc::new(Desk::new(config, board, address));
    let serving = move || {
        let outcome = runtime.block_on(accept(port.listener, desk));
        // Nothing else ends with it: events go on.
        error!("HTTP server stopped: {outcome}");
    };
    std::thread::Builder::new().name("http".to_owned()).spawn(serving).map_err(failed)?;
    Ok(())
}

async fn accept(listener: TcpListener, desk: Arc<Desk>) -> Error {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return error,
    };
    let door = Door::default();
    tokio::spawn({
        let desk = desk.clone();
        async move { desk.remember().await }
    });
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                if let Some(visit) = door.enter() {
                    let visit = Arc::new(visit);
                    let desk = desk.clone();
                    let task = tokio::spawn(attend(stream, remote, visit.clone(), desk));
                    visit.waits(task.abort_handle());
                }
            }
            Err(error) => {
                debug!("a connection could not be accepted: {error}");
                sleep(PAUSE).await;
            }
        }
        // Who came before is heard before the next one, whose coming may end it.
        tokio::task::yield_now().await;
    }
}

/// One connection, from its request to its answer.
async fn attend(stream: TcpStream, remote: SocketAddr, visit: Arc<Visit>, desk: Arc<Desk>) {
    let is_long = AtomicBool::new(false);
    let answer = |request| {
        visit.asks();
        let (desk, is_long) = (desk.clone(), &is_long);
        Box::pin(async move {
            let answer = desk.answer(request, remote).await?;
            is_long.store(answer.extensions().get::<LongLived>().is_some(), Ordering::Relaxed);
            Ok::<_, Infallible>(answer)
        })
    };
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(HEADER_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    let mut served = poll_fn(|context| connection.poll_without_shutdown(context));
    let mut outcome = in_time(LIFE, &mut served).await;
    if outcome.is_none() && is_long.load(Ordering::Relaxed) {
        outcome = in_time(LONG_LIFE, &mut served).await;
    }
    match outcome {
        Some(Ok(())) => {}
        Some(Err(error)) => debug!(%remote, "an HTTP connection ended: {error}"),
        None => return debug!(%remote, "an HTTP connection was too slow"),
    }
    linger(connection.into_parts().io.into_inner()).await;
}

/// Closes so that the answer is read: where bytes are left unread, the client's system is told of
/// a reset connection, and throws the answer away.
async fn linger(mut stream: TcpStream) {
    if stream.shutdown().await.is_ok() {
        let mut rest = stream.take(LINGER_BYTES);
        let _ = in_time(LINGER, copy(&mut rest, &mut sink())).await;
    }
}
