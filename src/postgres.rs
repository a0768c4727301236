//! One ordinary Postgres connection, and what its errors mean.

use std::error::Error as _;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::{AsyncMessage, Client, NoTls, Notification, Row};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::debug;

use crate::config::{Server, TlsMode};
use crate::error::Fault;
use crate::event::POSTGRES_EPOCH_MICROS;
use crate::tls;

/// What tokio-postgres may log: not the parameters of its statements, among which are the rows of
/// parked events.
pub const LOG: [&str; 1] = ["tokio_postgres=info"];

/// Connects and logs in, within the timeout. The task drives the connection; it ends with
/// the fault that ended the connection, or without one once the client is dropped. `options`
/// are the server's command line: `-c synchronous_commit=off`, a space within a value
/// escaped by a backslash.
///
/// # Errors
/// Transient, unless the server says that only a person can mend it.
pub async fn connect(
    server: &Server,
    application_name: &str,
    connect_timeout: Duration,
    options: &str,
) -> Result<(Client, JoinHandle<Result<(), Fault>>), Fault> {
    connect_and_hear(server, application_name, connect_timeout, options, None).await
}

/// What is done with a notification.
pub type Notified = Box<dyn Fn(&Notification) + Send>;

/// As [`connect`]; notifications of the channels that the client listens to are told.
///
/// # Errors
/// As [`connect`].
pub async fn connect_and_hear(
    server: &Server,
    application_name: &str,
    connect_timeout: Duration,
    options: &str,
    notified: Option<Notified>,
) -> Result<(Client, JoinHandle<Result<(), Fault>>), Fault> {
    let config = client_config(server, application_name, connect_timeout, options);
    let connecting = async {
        // libpq knows no TLS on a unix socket either.
        if server.tls.mode == TlsMode::Disable || server.host.starts_with('/') {
            let (client, connection) = config.connect(NoTls).await.map_err(|e| classify(&e))?;
            return Ok((client, tokio::spawn(drive(connection, notified))));
        }
        let tls = MakeRustlsConnect::new(tls::client_config(&server.tls)?);
        let (client, connection) = config.connect(tls).await.map_err(|e| classify(&e))?;
        Ok((client, tokio::spawn(drive(connection, notified))))
    };
    let outcome = tokio::time::timeout(connect_timeout, connecting).await;
    let outcome = outcome.unwrap_or_else(|_| {
        Err(Fault::transient(format!(
            "no answer within {}",
            humantime::format_duration(connect_timeout)
        )))
    });
    outcome.map_err(|mut fault| {
        fault.what = format!("Postgres at {}: {}", address(server), fault.what);
        fault
    })
}

async fn drive<S, T>(
    mut connection: tokio_postgres::Connection<S, T>,
    notified: Option<Notified>,
) -> Result<(), Fault>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
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
pub fn address(server: &Server) -> String {
    format!("{}:{}/{}", server.host, server.port, server.database)
}

fn client_config(
    server: &Server,
    application_name: &str,
    connect_timeout: Duration,
    options: &str,
) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config
        .host(&server.host)
        .port(server.port)
        .user(&server.user)
        .dbname(&server.database)
        .application_name(application_name)
        .options(options)
        .connect_timeout(connect_timeout)
        // A dead server shows within some 25 s, on an idle connection or a busy one; the
        // system's own defaults would take hours.
        .keepalives_idle(Duration::from_secs(10))
        .keepalives_interval(Duration::from_secs(5))
        .keepalives_retries(3)
        .tcp_user_timeout(Duration::from_secs(20))
        // Verifying is the connector's part.
        .ssl_mode(match server.tls.mode {
            TlsMode::Disable => SslMode::Disable,
            _ => SslMode::Require,
        });
    if server.host.starts_with('/') {
        config.ssl_mode(SslMode::Disable);
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
pub fn now_micros() -> i64 {
    let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let micros = i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX);
    micros.saturating_sub(POSTGRES_EPOCH_MICROS)
}

/// Runs statements that answer nothing of interest.
///
/// # Errors
/// As [`classify`].
pub async fn execute(client: &Client, sql: &str) -> Result<(), Fault> {
    client.batch_execute(sql).await.map_err(|error| classify(&error))
}

/// A column of a row; one that the query does not have is a defect.
///
/// # Errors
/// The column is missing or of another type.
pub fn column<'a, T: postgres_types::FromSql<'a>>(row: &'a Row, name: &str) -> Result<T, Fault> {
    row.try_get(name).map_err(|error| {
        Fault::definite(
            format!("catalog query: {error}"),
            "this is a defect of pgoutbox: please report it",
        )
    })
}

/// What an error of the connection means.
pub fn classify(error: &tokio_postgres::Error) -> Fault {
    if let Some(db) = error.as_db_error() {
        return classify_sqlstate(db.code().code(), db.message());
    }
    let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    let what = format!("{error}");
    let what = if what.contains(source.trim_start_matches(": ")) { what } else { what + &source };
    let fault = Fault::transient(what.clone());
    // The server asked for a password where none is set, or for a method that is not built in.
    if what.contains("password") || what.contains("authentication") {
        return fault.mend(MEND_LOGIN);
    }
    match tls::mend(&what) {
        Some(mend) => fault.mend(mend),
        None => fault,
    }
}

/// What a server's error means, from the text in which pgwire-replication hands it on:
/// `message (SQLSTATE 42704)`.
pub fn classify_text(text: &str) -> Fault {
    let parts = text.trim_end().strip_suffix(')').and_then(|text| text.rsplit_once(" (SQLSTATE "));
    match parts {
        Some((message, code)) => classify_sqlstate(code, message),
        None => Fault::transient(text),
    }
}

/// What mends a login that the server refused.
pub(crate) const MEND_LOGIN: &str = "check user and password in DATABASE_URL, and the server's pg_hba.conf; it is tried again until then";
const MEND_CHECK: &str = "run `pgoutbox check`: it names what is wrong, and the SQL that mends it";

/// What a server's error means. Messages may be in any language, so the code alone decides.
/// Transient unless proven otherwise: a relay that gives up is worse than one that tries.
pub fn classify_sqlstate(code: &str, message: &str) -> Fault {
    let what = format!("{message} (SQLSTATE {code})");
    match code {
        // A password may be in the middle of its rotation: said, and tried again.
        "28P01" | "28000" => Fault::transient(what).mend(MEND_LOGIN),
        "55006" => Fault::transient(what)
            .mend("another pgoutbox holds the slot; this one waits as its standby"),
        "53300" => Fault::transient(what).mend("raise max_connections, or use fewer"),
        "53400" => Fault::definite(
            what,
            "ALTER SYSTEM SET max_replication_slots = 20;  -- then restart Postgres; or drop a slot that nobody uses",
        ),
        "3D000" => Fault::definite(what, "create the database, or mend its name in DATABASE_URL"),
        // Publication, slot or plugin's option. Which one, `check` finds out.
        "42704" | "55000" => Fault::definite(what, MEND_CHECK),
        "42501" => Fault::definite(
            what,
            "run `pgoutbox check` for the GRANT that is missing; `pgoutbox schema --stream-role NAME --audit-role NAME` shows them all",
        ),
        "58P01" => Fault::definite(
            what,
            "a file of the server's is missing: the pgoutput plugin (part of Postgres itself), or WAL that was removed by hand",
        ),
        // Schema, table, column or function.
        "3F000" | "42P01" | "42703" | "42883" => Fault::definite(what, MEND_CHECK),
        "42601" | "42P02" => {
            Fault::definite(what, "this is a defect of pgoutbox: please report it")
        }
        _ => Fault::transient(what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    #[test]
    fn codes_decide() {
        for (code, class) in [
            ("57P01", Class::Transient),
            ("57P03", Class::Transient),
            ("55006", Class::Transient),
            ("28P01", Class::Transient),
            ("28000", Class::Transient),
            ("40001", Class::Transient),
            ("XX000", Class::Transient),
            ("3D000", Class::Definite),
            ("42704", Class::Definite),
            ("55000", Class::Definite),
            ("58P01", Class::Definite),
            ("42501", Class::Definite),
            ("42P01", Class::Definite),
        ] {
            assert_eq!(classify_sqlstate(code, "m").class, class, "{code}");
        }
    }

    #[test]
    fn whatever_a_person_must_mend_says_how() {
        for code in ["28P01", "28000", "3D000", "42704", "55000", "58P01", "42501", "53400"] {
            assert!(!classify_sqlstate(code, "m").mend.is_empty(), "{code}");
        }
    }

    #[test]
    fn reads_the_code_out_of_text() {
        let fault = classify_text("publication \"p (x)\" does not exist (SQLSTATE 42704)");
        assert_eq!(fault.class, Class::Definite);
        assert_eq!(fault.what, "publication \"p (x)\" does not exist (SQLSTATE 42704)");
        assert_eq!(classify_text("connection reset").class, Class::Transient);
        assert_eq!(classify_text(")").class, Class::Transient);
    }
}
