//! Ordinary Postgres connections, what their errors mean, and what is kept by them.
//!
//! **Invariant:** every connection comes from [`connect`], with its settings for each [`Role`] in one
//! list, and its SQL from [`sql`]. The replication protocol is not known here.

pub(crate) mod grants;
pub(crate) mod identity;
pub(crate) mod marker;
pub(crate) mod outbox;
pub(crate) mod outbox_table;
pub(crate) mod parking;
pub(crate) mod sql;
pub(crate) mod turn;
pub(crate) mod role;

use std::error::Error as _;
use std::fmt;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::DbError;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{AsyncMessage, Client, NoTls, Notification, Row};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::debug;

pub use role::Role;

use crate::config::{self, Server, TlsMode};
use crate::core::event::POSTGRES_EPOCH_MICROS;
use crate::error::{Class, Fault, Handshake, Kind, Peer, SqlState, codes, table};
use crate::net;
use crate::tls;

/// What tokio-postgres may log: not the parameters of its statements, among which are the rows of
/// parked events.
pub(crate) const LOG: [&str; 1] = ["tokio_postgres=info"];

/// A client, and the task that drives its connection: it ends with the fault that ended the
/// connection, or without one once the client is dropped.
pub(crate) type Connected = (Client, JoinHandle<Result<(), Fault>>);

/// Connects and logs in, within the timeout, with the settings of the [`Role`].
///
/// # Errors
/// Transient, unless the server says that only a person can fix it.
pub async fn connect(role: Role, config: &config::Postgres) -> Result<Connected, Fault> {
    connect_and_hear(role, config, None).await
}

/// What is done with a notification.
pub(crate) type Notified = Box<dyn Fn(&Notification) + Send>;

/// As [`connect`]; notifications of the channels that the client listens to are passed on.
///
/// # Errors
/// As [`connect`].
pub(crate) async fn connect_and_hear(
    role: Role,
    config: &config::Postgres,
    notified: Option<Notified>,
) -> Result<Connected, Fault> {
    let config = &config.renewed().await;
    let server = role.server(config);
    let options = role::options(&role.settings(config));
    let connected = match log_in(role, config, Some(&options)).await {
        // A pooler that knows no options: they are set by statements.
        Err(fault) if is_poolers(&fault) => log_in(role, config, None).await,
        outcome => outcome,
    };
    let Link { client, version, is_applied, drive } =
        connected.map_err(|fault| not_in(server, false, fault))?;
    let driver = tokio::spawn(drive(notified));
    let rest = role.rest(config, &version, is_applied).into_iter();
    // What may end the others is turned off before them, by itself.
    let (first, rest): (Vec<_>, Vec<_>) = rest.partition(|(name, _)| *name == "statement_timeout");
    for settings in [first, rest].into_iter().filter(|settings| !settings.is_empty()) {
        let sql = role::statements(&settings)?;
        let set = within(config.connect_timeout, execute(&client, &sql)).await;
        set.map_err(|fault| not_in(server, false, fault))?;
    }
    Ok((client, driver))
}

/// "unsupported startup parameter": a server of Postgres' own names the function that reports.
fn is_poolers(fault: &Fault) -> bool {
    let denied = server_error(fault).and_then(|error| Denied::of(error, false));
    denied == Some(Denied::Pooler)
}

type Driver = Pin<Box<dyn Future<Output = Result<(), Fault>> + Send>>;

/// A connection that is logged in, and what the server said of itself.
struct Link {
    client: Client,
    version: String,
    is_applied: bool,
    drive: Box<dyn FnOnce(Option<Notified>) -> Driver + Send>,
}

async fn log_in(
    role: Role,
    config: &config::Postgres,
    options: Option<&str>,
) -> Result<Link, Fault> {
    let (server, bound) = (role.server(config), config.connect_timeout);
    let login = client_config(server, &role.application_name(config), options);
    // libpq knows no TLS on a unix socket either.
    if let Some(path) = socket_path(server) {
        let stream = within(bound, async { UnixStream::connect(path).await.map_err(unreachable) });
        return within(bound, start(&login, stream.await?, NoTls)).await;
    }
    let stream = net::dial(&server.host, server.port, bound).await.map_err(unreachable)?;
    watch_over(&stream).map_err(unreachable)?;
    if server.tls.mode == TlsMode::Disable {
        return within(bound, start(&login, stream, NoTls)).await;
    }
    let mut tls = MakeRustlsConnect::new(tls::client_config(&server.tls)?);
    let tls = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut tls, &server.host)
        .map_err(|never| match never {})?;
    within(bound, start(&login, stream, tls)).await
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
    let drive = Box::new(|notified| Box::pin(drive(connection, notified)) as Driver);
    Ok(Link { client, version, is_applied, drive })
}

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

/// A server that cannot be reached.
#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
pub(crate) fn unreachable(error: std::io::Error) -> Fault {
    Fault::of(Kind::Io(error.kind()), Peer::Postgres, error.to_string())
}

async fn within<T>(
    bound: Duration,
    asked: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    tokio::time::timeout(bound, asked).await.unwrap_or_else(|_| Err(no_answer(bound)))
}

/// How long [`say_goodbye`] waits. What is still in use by then is cut off by the end of the process.
const GOODBYE: Duration = Duration::from_millis(200);
/// Connections that are driven, and who waits for their end.
static DRIVEN: AtomicUsize = AtomicUsize::new(0);
static GONE: Notify = Notify::const_new();

/// Counted while it lives.
struct Driven;

impl Driven {
    fn begin() -> Self {
        DRIVEN.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        DRIVEN.fetch_sub(1, Ordering::Relaxed);
        GONE.notify_waiters();
    }
}

/// Waits until the connections that nobody uses any more have taken leave of their servers. For the
/// end of a process: the server logs a connection that is cut off within a transaction, as that of
/// a [`Turn`](crate::postgres::turn::Turn) would be.
pub(crate) async fn say_goodbye() {
    let all_gone = async {
        loop {
            // Asked for before the look: what ends in between is heard.
            let mut gone = pin!(GONE.notified());
            gone.as_mut().enable();
            if DRIVEN.load(Ordering::Relaxed) == 0 {
                return;
            }
            gone.await;
        }
    };
    let _ = tokio::time::timeout(GOODBYE, all_gone).await;
}

async fn drive<S, T>(
    mut connection: tokio_postgres::Connection<S, T>,
    notified: Option<Notified>,
) -> Result<(), Fault>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let _driven = Driven::begin();
    while let Some(message) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
        match (message.map_err(|error| classify(&error))?, &notified) {
            (AsyncMessage::Notification(notification), Some(notified)) => notified(&notification),
            (AsyncMessage::Notice(notice), _) => debug!("Postgres says: {}", notice.message()),
            _ => {}
        }
    }
    Ok(())
}

/// Where a server is, for people. Never a password.
pub(crate) fn address(server: &Server) -> String {
    format!("{}:{}/{}", server.host, server.port, server.database)
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

/// Runs one query without parameters, in one round trip and without a named statement, so
/// that it also works through a transaction pooler.
///
/// # Errors
/// As [`classify`].
pub async fn query(client: &Client, sql: &str) -> Result<Vec<Row>, Fault> {
    client.query_typed(sql, &[]).await.map_err(|error| classify(&error))
}

/// This machine's clock as Postgres counts: in microseconds since 2000-01-01 UTC.
pub(crate) fn now_micros() -> i64 {
    let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let micros = i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX);
    micros.saturating_sub(POSTGRES_EPOCH_MICROS)
}

/// Runs statements that answer nothing of interest.
///
/// # Errors
/// As [`classify`].
pub(crate) async fn execute(client: &Client, sql: &str) -> Result<(), Fault> {
    client.batch_execute(sql).await.map_err(|error| classify(&error))
}

/// A column of a row; one that the query does not have is a defect.
///
/// # Errors
/// The column is missing or of another type.
pub(crate) fn column<'a, T: postgres_types::FromSql<'a>>(
    row: &'a Row,
    name: &str,
) -> Result<T, Fault> {
    row.try_get(name)
        .map_err(|error| Fault::definite(format!("catalog query: {error}"), table::DEFECT))
}

/// What a server says in an error, as data. Its DETAIL and CONTEXT may hold a row's values: they are
/// kept for deciding, and shown to nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerError {
    /// The SQLSTATE.
    pub code: SqlState,
    /// In the server's language.
    pub message: String,
    /// The function of the server's source that reports it; a pooler has none.
    pub routine: Option<String>,
    /// The table that it is about.
    pub table: Option<String>,
    /// The column that it is about.
    pub column: Option<String>,
    /// The constraint that it is about.
    pub constraint: Option<String>,
    /// Whether it was raised within a function or trigger of the database.
    pub is_within_function: bool,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.message, self.code)
    }
}

impl std::error::Error for ServerError {}

impl ServerError {
    /// Reads the body of an ErrorResponse of a walsender: a letter and a text for each field.
    ///
    /// Its context (field `W`) names the output plugin's callback. It runs no function of the database.
    pub(crate) fn parse(mut body: &[u8]) -> Self {
        let mut error = Self {
            code: SqlState::new(""),
            message: String::new(),
            routine: None,
            table: None,
            column: None,
            constraint: None,
            is_within_function: false,
        };
        while let Some((&field, rest)) = body.split_first() {
            let length = rest.iter().position(|byte| *byte == 0);
            let (Some(length), true) = (length, field != 0) else { break };
            let (text, after) = rest.split_at(length);
            let text = String::from_utf8_lossy(text).into_owned();
            match field {
                b'C' => error.code = SqlState::new(&text),
                b'M' => error.message = text,
                b'R' => error.routine = Some(text),
                b't' => error.table = Some(text),
                b'c' => error.column = Some(text),
                b'n' => error.constraint = Some(text),
                _ => {}
            }
            body = after.get(1..).unwrap_or_default();
        }
        error
    }

    fn of(db: &DbError) -> Self {
        let text = |text: Option<&str>| text.map(ToOwned::to_owned);
        Self {
            code: SqlState::new(db.code().code()),
            message: db.message().to_owned(),
            routine: text(db.routine()),
            table: text(db.table()),
            column: text(db.column()),
            constraint: text(db.constraint()),
            is_within_function: db.where_().is_some(),
        }
    }

    /// A function of the database raised it, with a code of its choice: that says nothing of the
    /// server.
    fn is_raised(&self) -> bool {
        self.is_within_function && self.routine.as_deref() == Some("exec_stmt_raise")
    }

    /// What it means.
    pub(crate) fn fault(self) -> Fault {
        let mut fault = Fault::of(Kind::Sql(self.code), Peer::Postgres, self.to_string());
        // What the database's own code raises says nothing of the statement's tables and rights.
        let is_own = self.code.as_str() == codes::TAKEN_OVER;
        if !is_own
            && (self.is_raised() || self.is_within_function && fault.class == Class::Definite)
        {
            fault.class = Class::Transient;
            fault = fault.hint(table::TRIGGER);
        }
        fault.because(self)
    }
}

/// What the server said, if a fault is an error of Postgres.
pub(crate) fn server_error(fault: &Fault) -> Option<&ServerError> {
    std::error::Error::source(fault)?.downcast_ref()
}

/// Whether one row is the cause of an error, or what the database's own code does with that row:
/// without the row, or in another form of it, the statement may do.
pub(crate) fn is_of_row(error: &tokio_postgres::Error) -> bool {
    let Some(db) = error.as_db_error() else { return false };
    if is_taken_over(error) {
        return false;
    }
    let error = ServerError::of(db);
    // What may pass by itself is no fault of a row's, unless somebody says so.
    let may_pass = ["08", "25", "40", "53", "55", "57", "58", "XX"].contains(&error.code.class());
    let entry = table::entry(Kind::Sql(error.code), Peer::Postgres);
    entry.verdict == table::Verdict::OfRow
        || error.is_raised()
        || error.is_within_function && !may_pass
}

/// A later session owns the slot: nothing more of this one's is to be written.
pub(crate) fn is_taken_over(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| code.code() == codes::TAKEN_OVER)
}

/// The server refuses it, and another form of it, or a part, may do.
pub(crate) fn is_refused(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some() && !is_taken_over(error)
}

/// Somebody has a lock: the server says so, not a trigger that raises the same code.
pub(crate) fn is_lock(fault: &Fault) -> bool {
    fault.is_code(codes::LOCK_NOT_AVAILABLE)
        && !server_error(fault).is_some_and(ServerError::is_raised)
}

/// What an error of the connection means.
pub(crate) fn classify(error: &tokio_postgres::Error) -> Fault {
    if let Some(db) = error.as_db_error() {
        return ServerError::of(db).fault();
    }
    let mut said = error.to_string();
    // Some say what is below them, some do not.
    if let Some(below) = error.source().map(ToString::to_string)
        && !said.ends_with(&below)
    {
        said = format!("{said}: {below}");
    }
    Fault::of(kind(error), Peer::Postgres, said)
}

/// The library keeps its own kinds to itself, but for a few.
fn kind(error: &tokio_postgres::Error) -> Kind {
    if error.is_closed() {
        return Kind::Closed;
    }
    if let Some(trouble) = tls::trouble(error) {
        return Kind::Tls(trouble);
    }
    let mut below = error.source();
    while let Some(error) = below {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return Kind::Io(error.kind());
        }
        below = error.source();
    }
    // Its words, in English always: the kinds have no other face.
    let text = error.to_string();
    let is = |kind: &str| text.starts_with(kind);
    if is("error performing TLS handshake") {
        // The server said N.
        Kind::Tls(Handshake::Unsupported)
    } else if is("invalid configuration") || is("authentication error") {
        // No password where one is asked for, or a method that is not supported.
        Kind::Login
    } else if is("timeout") {
        Kind::Timeout
    } else if is("unexpected message") || is("error parsing response") {
        Kind::Protocol
    } else {
        Kind::Own
    }
}

/// Why a server did not let a connection in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// A pooler does not know a parameter of the connection.
    Pooler,
    /// The role does not exist.
    RoleMissing,
    /// The role may not log in.
    RoleLogin,
    /// One of the two: the server's language does not tell.
    Role,
    /// No line of `pg_hba.conf` lets it in.
    Hba,
    /// Wrong password, or a role that does not exist.
    Password,
    /// The database does not exist.
    DatabaseMissing,
    /// The database takes no connections.
    DatabaseClosed,
    /// The role may not stream.
    Replication,
    /// The role may not connect to the database.
    Connect,
    /// All walsenders are in use.
    WalSenders,
    /// The role has as many connections as it may.
    RoleLimit,
    /// The database has as many connections as it may.
    DatabaseLimit,
    /// The server has as many connections as it may.
    Connections,
}

impl Denied {
    /// Of an error while connecting. One code stands for several things, so the reporting function
    /// tells them apart, which no language changes; of two things that one function reports under
    /// one code, the words, where they are English.
    pub(crate) fn of(error: &ServerError, streams: bool) -> Option<Self> {
        let routine = error.routine.as_deref();
        Some(match (error.code.as_str(), routine) {
            (codes::PROTOCOL_VIOLATION, None) => Self::Pooler,
            (codes::INVALID_AUTHORIZATION_SPECIFICATION, Some("InitializeSessionUserId")) => {
                Self::of_role(&error.message)
            }
            (codes::INVALID_AUTHORIZATION_SPECIFICATION, _) => Self::Hba,
            (codes::INVALID_PASSWORD, _) => Self::Password,
            (codes::INVALID_CATALOG_NAME, _) => Self::DatabaseMissing,
            (codes::OBJECT_NOT_IN_PREREQUISITE_STATE, Some("CheckMyDatabase" | "InitPostgres")) => {
                Self::DatabaseClosed
            }
            (codes::INSUFFICIENT_PRIVILEGE, Some("InitPostgres")) if streams => Self::Replication,
            (codes::INSUFFICIENT_PRIVILEGE, Some("CheckMyDatabase")) => Self::Connect,
            (codes::TOO_MANY_CONNECTIONS, Some("InitializeSessionUserId")) => Self::RoleLimit,
            (codes::TOO_MANY_CONNECTIONS, Some("CheckMyDatabase")) => Self::DatabaseLimit,
            // Walsenders have places of their own.
            (codes::TOO_MANY_CONNECTIONS, Some("InitProcess")) if streams => Self::WalSenders,
            (codes::TOO_MANY_CONNECTIONS, _) => Self::Connections,
            _ => return None,
        })
    }

    fn of_role(message: &str) -> Self {
        if message.ends_with("does not exist") {
            Self::RoleMissing
        } else if message.ends_with("is not permitted to log in") {
            Self::RoleLogin
        } else {
            Self::Role
        }
    }

    /// What lets it in.
    pub(crate) fn hint(self, server: &Server, message: &str, streams: bool) -> String {
        let (role, database) = (sql::identifier(&server.user), sql::identifier(&server.database));
        let login = if streams { "LOGIN REPLICATION" } else { "LOGIN" };
        match self {
            Self::Pooler => "a pooler in between refuses it, and its log says why; or connect to Postgres itself: postgres.url and postgres.stream_url".to_owned(),
            Self::RoleMissing => format!(
                "CREATE ROLE {role} {login};  -- and its password: \\password {role}; then its \
                 grants: pgoutbox init --stream-role NAME --audit-role NAME"
            ),
            Self::RoleLogin => format!("ALTER ROLE {role} LOGIN;"),
            Self::Role => format!("CREATE ROLE {role} {login};  -- where it is there: ALTER ROLE {role} LOGIN;"),
            Self::Hba => format!(
                "put this line into pg_hba.conf, before the one that refuses: {}  -- then: SELECT pg_reload_conf();",
                hba_line(server, message)
            ),
            // The server says the same of a role that it does not have.
            Self::Password => format!(
                "\\password {role}  -- in psql, where the role is there; or check user and password in {}",
                server.password_place
            ),
            Self::DatabaseMissing => {
                format!("CREATE DATABASE {database};  -- or correct its name in the configuration")
            }
            Self::DatabaseClosed => format!("ALTER DATABASE {database} ALLOW_CONNECTIONS true;"),
            Self::Replication => {
                format!("ALTER ROLE {role} REPLICATION;  -- RDS: GRANT rds_replication TO {role};")
            }
            Self::Connect => format!("GRANT CONNECT ON DATABASE {database} TO {role};"),
            Self::WalSenders => "ALTER SYSTEM SET max_wal_senders = 20;  -- then restart Postgres; or end one that nobody needs: SELECT pid, application_name FROM pg_stat_replication;".to_owned(),
            Self::RoleLimit => format!("ALTER ROLE {role} CONNECTION LIMIT -1;"),
            Self::DatabaseLimit => format!("ALTER DATABASE {database} CONNECTION LIMIT -1;"),
            Self::Connections => table::entry(
                Kind::Sql(SqlState::new(codes::TOO_MANY_CONNECTIONS)),
                Peer::Postgres,
            )
            .hint
            .to_owned(),
        }
    }
}

/// The server names the address that it saw us come from.
fn hba_line(server: &Server, message: &str) -> String {
    let (database, role) = (hba_name(&server.database), hba_name(&server.user));
    if server.host.starts_with('/') {
        return format!("local {database} {role} scram-sha-256");
    }
    let seen = message.split_once("host \"").and_then(|(_, rest)| rest.split('"').next());
    let address = match seen {
        Some(seen) if seen.contains(':') => format!("{seen}/128"),
        Some(seen) if seen.contains('.') => format!("{seen}/32"),
        _ => "ADDRESS/32".to_owned(),
    };
    format!("host {database} {role} {address} scram-sha-256")
}

/// As `pg_hba.conf` reads names.
fn hba_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What is said of a connection that did not come about: where to, and what lets it in.
pub(crate) fn not_in(server: &Server, streams: bool, mut fault: Fault) -> Fault {
    let denied = server_error(&fault)
        .and_then(|error| Some((Denied::of(error, streams)?, error.message.clone())));
    if let Some((denied, message)) = denied {
        fault = fault.hint(denied.hint(server, &message, streams));
    } else if fault.kind == Kind::Login {
        fault = fault.hint(format!(
            "check user and password in {}, and the server's pg_hba.conf; it is tried again until then",
            server.password_place
        ));
    }
    let stream = if streams { " (stream)" } else { "" };
    fault.what = format!("Postgres at {}{stream}: {}", address(server), fault.what);
    fault
}

/// No answer, of an ordinary connection or of the stream's.
pub(crate) fn no_answer(bound: Duration) -> Fault {
    let what = format!("no answer within {}", crate::text::span(bound));
    Fault::of(Kind::Timeout, Peer::Postgres, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        Server {
            host: "db".to_owned(),
            port: 5432,
            user: "relay".to_owned(),
            password: crate::config::Secret::default(),
            password_place: crate::config::Place::default(),
            database: "app".to_owned(),
            tls: crate::config::Tls::default(),
        }
    }

    fn body(fields: &[(u8, &str)]) -> Vec<u8> {
        let mut body = Vec::new();
        for (field, text) in fields {
            body.push(*field);
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
        body.push(0);
        body
    }

    #[test]
    fn reads_an_error_response() {
        let error = ServerError::parse(&body(&[
            (b'S', "FEHLER"),
            (b'V', "ERROR"),
            (b'C', "42704"),
            (b'M', "publication \"p (SQLSTATE 42501)\" does not exist"),
            (b'R', "get_publication_oid"),
            (b'W', "slot \"s\", output plugin \"pgoutput\", in the change callback"),
        ]));
        assert_eq!(error.routine.as_deref(), Some("get_publication_oid"));
        let fault = error.fault();
        assert_eq!((fault.class, fault.code()), (Class::Definite, Some("42704")));
        assert_eq!(server_error(&fault).map(|error| error.is_within_function), Some(false));
        for broken in [&b""[..], b"M", b"Mx", b"C42", b"\0\0", b"C42704\0M"] {
            assert!(!ServerError::parse(broken).fault().hint.is_empty());
        }
    }

    #[test]
    fn what_a_function_raises_waits_for_nobody() {
        for code in ["42501", "42P01", "55000", "3D000", "42601", "58P01"] {
            let mut raised = ServerError::parse(&body(&[(b'C', code), (b'M', "m")]));
            raised.is_within_function = true;
            let fault = raised.fault();
            assert_eq!((fault.class, fault.hint.as_str()), (Class::Transient, table::TRIGGER));
        }
    }

    #[test]
    fn a_code_of_a_connection_is_told_apart_by_who_reports_it() {
        let routines = [
            ("28000", "InitializeSessionUserId", "role \"x\" does not exist", Denied::RoleMissing),
            (
                "28000",
                "InitializeSessionUserId",
                "role \"x\" is not permitted to log in",
                Denied::RoleLogin,
            ),
            ("28000", "InitializeSessionUserId", "Rolle »x« existiert nicht", Denied::Role),
            ("28000", "ClientAuthentication", "kein Eintrag für Host »::1«", Denied::Hba),
            ("28P01", "auth_failed", "m", Denied::Password),
            ("3D000", "InitPostgres", "m", Denied::DatabaseMissing),
            ("55000", "CheckMyDatabase", "m", Denied::DatabaseClosed),
            ("42501", "InitPostgres", "m", Denied::Replication),
            ("42501", "CheckMyDatabase", "m", Denied::Connect),
            ("53300", "InitProcess", "m", Denied::WalSenders),
            ("53300", "InitializeSessionUserId", "m", Denied::RoleLimit),
            ("53300", "CheckMyDatabase", "m", Denied::DatabaseLimit),
            ("53300", "InitPostgres", "m", Denied::Connections),
        ];
        for (code, routine, message, denied) in routines {
            let error =
                ServerError::parse(&body(&[(b'C', code), (b'M', message), (b'R', routine)]));
            assert_eq!(Denied::of(&error, true), Some(denied), "{code} {routine}");
            assert!(!denied.hint(&server(), message, true).is_empty());
        }
        let pooler = ServerError::parse(&body(&[
            (b'C', "08P01"),
            (b'M', "unsupported startup parameter: options"),
        ]));
        assert_eq!(Denied::of(&pooler, false), Some(Denied::Pooler));
    }

    #[test]
    fn the_line_for_pg_hba_has_the_address_that_the_server_saw() {
        let what = "no pg_hba.conf entry for host \"10.0.0.7\", user \"relay\"";
        let line = "host \"app\" \"relay\" 10.0.0.7/32 scram-sha-256";
        assert_eq!(hba_line(&server(), what), line);
        assert!(hba_line(&server(), "kein Eintrag für Host »::1«").contains("ADDRESS"));
        assert!(hba_line(&server(), "host \"fe80::1\"").contains("fe80::1/128"));
    }
}
