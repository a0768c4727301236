//! A connection: dialled, logged in, with the settings of its role, and driven until its end.
//!
//! **Invariant:** every ordinary connection comes from [`connect`]; what it was set to is one list for
//! each [`Role`].

use std::pin::Pin;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{AsyncMessage, Client, NoTls, Notification};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::debug;

use super::denial::{Denial, not_in};
use super::execute;
use super::farewell::OpenConnection;
use super::hosts::Search;
use super::role::{self, Role};
use super::server_error::{classify, no_answer, server_error, unreachable};
use crate::config::{self, Host, Server, TlsMode};
use crate::error::Fault;
use crate::net;
use crate::tls;
use crate::within::within;

/// What tokio-postgres may log: not the parameters of its statements, among which are the rows of
/// parked events.
pub(crate) const LOG: [&str; 1] = ["tokio_postgres=info"];

/// A client, and the task that drives its connection: it ends with the fault that ended the
/// connection, or without one once the client is dropped.
pub(crate) type DrivenClient = (Client, JoinHandle<Result<(), Fault>>);

/// Connects and logs in, within the timeout, with the settings of the [`Role`].
///
/// # Errors
/// No server can be reached, or it does not let the role in: transient, unless only a person can
/// fix it.
pub async fn connect(role: Role, config: &config::Postgres) -> Result<DrivenClient, Fault> {
    connect_and_hear(role, config, None).await.map(|(connected, _)| connected)
}

/// What is done with a notification.
pub(crate) type NotificationHandler = Box<dyn Fn(&Notification) + Send>;

/// As [`connect`]; notifications of the channels that the client listens to are passed on. Says on
/// which host the server was found.
pub(crate) async fn connect_and_hear(
    role: Role,
    config: &config::Postgres,
    notified: Option<NotificationHandler>,
) -> Result<(DrivenClient, Host), Fault> {
    let config = &config.renewed().await;
    let (server, link) = find(role, config).await?;
    let Link { client, version, is_applied, drive, .. } = link;
    let driver = tokio::spawn(drive(notified));
    let rest = role.rest(config, &version, is_applied).into_iter();
    // What may end the others is turned off before them, by itself.
    let (first, rest): (Vec<_>, Vec<_>) = rest.partition(|(name, _)| *name == "statement_timeout");
    for settings in [first, rest].into_iter().filter(|settings| !settings.is_empty()) {
        let sql = role::statements(&settings)?;
        let set = within(config.connect_timeout, execute(&client, &sql), no_answer).await;
        set.map_err(|fault| not_in(&server, false, fault))?;
    }
    Ok(((client, driver), Host { name: server.host, port: server.port }))
}

/// Logs in to the primary.
async fn find(role: Role, config: &config::Postgres) -> Result<(Server, Link), Fault> {
    let options = role::options(&role.settings(config));
    let mut search = Search::new(role.server(config), false);
    while let Some(server) = search.next() {
        let connected = match log_in(role, config, &server, Some(&options)).await {
            // A pooler that knows no options: they are set by statements.
            Err(fault) if is_poolers(&fault) => log_in(role, config, &server, None).await,
            outcome => outcome,
        };
        match connected {
            Ok(link) if search.is_found(&server, link.is_standby) => return Ok((server, link)),
            Ok(_) => {}
            Err(fault) => search.failed(&server, fault)?,
        }
    }
    Err(search.end())
}

/// "unsupported startup parameter": a server of Postgres' own names the function that reports.
fn is_poolers(fault: &Fault) -> bool {
    let denied = server_error(fault).and_then(|error| Denial::of(error, false));
    denied == Some(Denial::Pooler)
}

type Driver = Pin<Box<dyn Future<Output = Result<(), Fault>> + Send>>;

/// A connection that is logged in, and what the server said of itself.
struct Link {
    client: Client,
    version: String,
    is_applied: bool,
    /// `None`: a pooler does not say.
    is_standby: Option<bool>,
    drive: Box<dyn FnOnce(Option<NotificationHandler>) -> Driver + Send>,
}

async fn log_in(
    role: Role,
    config: &config::Postgres,
    server: &Server,
    options: Option<&str>,
) -> Result<Link, Fault> {
    let bound = config.connect_timeout;
    let login = client_config(server, &role.application_name(config), options);
    // libpq knows no TLS on a unix socket either.
    if let Some(path) = socket_path(server) {
        let stream = async { UnixStream::connect(path).await.map_err(unreachable) };
        let stream = within(bound, stream, no_answer).await?;
        return within(bound, start(&login, stream, NoTls), no_answer).await;
    }
    let stream = net::dial(&server.host, server.port, bound).await.map_err(unreachable)?;
    watch_over(&stream).map_err(unreachable)?;
    if server.tls.mode == TlsMode::Disable {
        return within(bound, start(&login, stream, NoTls), no_answer).await;
    }
    let mut tls = MakeRustlsConnect::new(tls::client_config(&server.tls)?);
    let tls = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut tls, &server.host)
        .map_err(|never| match never {})?;
    within(bound, start(&login, stream, tls), no_answer).await
}

async fn start<S, T>(config: &tokio_postgres::Config, stream: S, tls: T) -> Result<Link, Fault>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: TlsConnect<S>,
    T::Stream: Send + 'static,
{
    let (client, connection) =
        config.connect_raw(stream, tls).await.map_err(|error| classify(&error))?;
    let (name, value) = role::APPLIED;
    let version = connection.parameter("server_version").unwrap_or_default().to_owned();
    let is_applied = connection.parameter(name) == Some(value);
    let is_standby = connection.parameter(STANDBY).map(|value| value == "on");
    let drive = Box::new(|notified| Box::pin(drive(connection, notified)) as Driver);
    Ok(Link { client, version, is_applied, is_standby, drive })
}

/// What a server reports of itself, from Postgres 14 on: whether it is a standby.
pub(crate) const STANDBY: &str = "in_hot_standby";

/// Where a server's socket is, if it is one of this machine's.
pub(crate) fn socket_path(server: &Server) -> Option<String> {
    let is_socket = server.host.starts_with('/');
    is_socket.then(|| format!("{}/.s.PGSQL.{}", server.host, server.port))
}

/// A dead server shows within some 25 s, on an idle connection or a busy one; the system's own
/// defaults would take hours.
pub(crate) fn watch_over(stream: &TcpStream) -> std::io::Result<()> {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(10))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(Duration::from_secs(20)))
}

async fn drive<S, T>(
    mut connection: tokio_postgres::Connection<S, T>,
    notified: Option<NotificationHandler>,
) -> Result<(), Fault>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let _driven = OpenConnection::begin();
    while let Some(message) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
        match (message.map_err(|error| classify(&error))?, &notified) {
            (AsyncMessage::Notification(notification), Some(notified)) => notified(&notification),
            (AsyncMessage::Notice(notice), _) => debug!("Postgres says: {}", notice.message()),
            _ => {}
        }
    }
    Ok(())
}

fn client_config(
    server: &Server,
    application_name: &str,
    options: Option<&str>,
) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.user(&server.user).dbname(&server.database).application_name(application_name);
    // Verifying is the connector's part.
    config.ssl_mode(match server.tls.mode {
        TlsMode::Disable => SslMode::Disable,
        _ if socket_path(server).is_some() => SslMode::Disable,
        _ => SslMode::Require,
    });
    if let Some(options) = options {
        config.options(options);
    }
    let password = server.password.expose();
    if !password.is_empty() {
        config.password(password);
    }
    config
}
