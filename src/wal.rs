//! The replication stream: WAL bytes in, acknowledged LSNs out. The only file that knows
//! pgwire-replication.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::FutureExt;
use pgwire_replication::{
    Lsn, PgWireError, ReplicationClient, ReplicationConfig, ReplicationEvent, SslMode, TlsConfig,
};
use postgres_types::PgLsn;
use tokio::time::timeout;

use crate::config::{Postgres, Server, TlsMode};
use crate::error::Fault;
use crate::pgoutput::{self, Message};
use crate::postgres;
use crate::relay::Input;

/// Messages between the client's task and ours. More gains nothing, and each may hold a
/// large row.
const BUFFER: usize = 16;
/// Well below half of any `wal_sender_timeout`.
const STATUS_INTERVAL: Duration = Duration::from_millis(500);
/// How often it is looked whether an acknowledged LSN has been sent.
const SENT_POLL: Duration = Duration::from_millis(20);

/// What the client library may log: nothing, since we tell each of its errors ourselves.
pub const LOG: [&str; 1] = ["pgwire_replication=off"];

/// Which server, and which history of it: LSNs mean nothing on another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// `system_identifier` of the cluster.
    pub system_identifier: String,
    /// Its timeline: a promotion begins a new one.
    pub timeline: i32,
}

/// A slot just made, and what was committed before its stream begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSlot {
    /// Where its stream begins: what was committed before is not in it, what is committed
    /// later is.
    pub consistent_lsn: PgLsn,
    /// Name of a snapshot that sees exactly what is not in the stream. It lives until the next
    /// command on the connection, or its end.
    pub snapshot: String,
}

/// One replication connection.
pub struct Wal {
    client: ReplicationClient,
}

impl Wal {
    /// Connects, and asks the server who it is.
    ///
    /// # Errors
    /// As [`postgres::classify_sqlstate`].
    pub async fn connect(config: &Postgres) -> Result<(Self, Identity), Fault> {
        let replication = replication_config(config);
        let client = ReplicationClient::connect_gated(replication).await.map_err(fault)?;
        let mut wal = Self { client };
        let identity =
            wal.within(config.connect_timeout, async |client| client.identify_system().await);
        let identity = identity.await.map_err(|mut fault| {
            fault.what = format!(
                "Postgres at {} (stream): {}",
                postgres::address(&config.stream),
                fault.what
            );
            fault
        })?;
        let timeline = i32::try_from(identity.timeline).unwrap_or(i32::MAX);
        Ok((wal, Identity { system_identifier: identity.system_id, timeline }))
    }

    /// Makes a slot. No single transaction that is writing is waited for longer than
    /// `lock_timeout`, by the server's own clock: a client that just gives up leaves the server
    /// waiting, and then a slot that nobody knows of. (`statement_timeout` does not count for
    /// replication commands.)
    ///
    /// # Errors
    /// As [`postgres::classify_sqlstate`]; SQLSTATE 55P03 where a transaction took too long,
    /// and no slot is left behind then.
    pub async fn create_slot(
        &mut self,
        slot: &str,
        is_failover: bool,
        lock_timeout: Duration,
        bound: Duration,
    ) -> Result<NewSlot, Fault> {
        let timeout = format!("SET lock_timeout = '{}ms'", lock_timeout.as_millis());
        let name = postgres_protocol::escape::escape_identifier(slot);
        // Postgres 14 takes only the keyword; an option of 17 only goes into parentheses.
        let options =
            if is_failover { "(SNAPSHOT 'export', FAILOVER true)" } else { "EXPORT_SNAPSHOT" };
        let create = format!("CREATE_REPLICATION_SLOT {name} LOGICAL pgoutput {options}");
        let rows = self.within(bound, async |client| {
            client.simple_query(&timeout).await?;
            client.simple_query(&create).await
        });
        let rows = rows.await?;
        let column = |number: usize| {
            let cell = rows.first().and_then(|row| row.get(number)).and_then(Option::as_ref);
            cell.map(|text| String::from_utf8_lossy(text).into_owned())
                .ok_or_else(|| Fault::transient("CREATE_REPLICATION_SLOT answered nothing"))
        };
        let (lsn, snapshot) = (column(1)?, column(2)?);
        let consistent_lsn = lsn
            .parse()
            .map_err(|_| Fault::transient(format!("CREATE_REPLICATION_SLOT answered {lsn}")))?;
        Ok(NewSlot { consistent_lsn, snapshot })
    }

    /// Drops a slot that nobody reads.
    ///
    /// # Errors
    /// As [`postgres::classify_sqlstate`]; SQLSTATE 55006 where another holds it.
    pub async fn drop_slot(&mut self, slot: &str, bound: Duration) -> Result<(), Fault> {
        let name = postgres_protocol::escape::escape_identifier(slot);
        let drop = format!("DROP_REPLICATION_SLOT {name}");
        self.within(bound, async |client| client.simple_query(&drop).await).await.map(|_| ())
    }

    /// Starts the stream, which takes hold of the slot. Always from 0/0: the server then
    /// starts where the slot stands. An LSN of our own would be taken for acknowledged, and
    /// on a server that is behind it would skip what is written next.
    ///
    /// # Errors
    /// As [`postgres::classify_sqlstate`]; SQLSTATE 55006 where another holds the slot.
    pub async fn start(&mut self, bound: Duration) -> Result<(), Fault> {
        self.within(bound, async |client| {
            client.start().await?;
            client.wait_started().await
        })
        .await
    }

    /// The client has no timeouts of its own, and its task outlives it unless it is aborted.
    async fn within<T>(
        &mut self,
        bound: Duration,
        call: impl AsyncFnOnce(&mut ReplicationClient) -> pgwire_replication::Result<T>,
    ) -> Result<T, Fault> {
        match timeout(bound, call(&mut self.client)).await {
            Ok(outcome) => outcome.map_err(fault),
            Err(_) => {
                self.client.abort();
                Err(Fault::transient(format!(
                    "no answer within {}",
                    humantime::format_duration(bound)
                )))
            }
        }
    }

    /// Waits for what the server sends next. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// The connection has ended, or its bytes make no sense.
    pub async fn next(&mut self) -> Result<Input, Fault> {
        loop {
            match self.client.recv().await {
                Ok(Some(event)) => match input(event)? {
                    Some(input) => return Ok(input),
                    None => continue,
                },
                Ok(None) => {
                    return Err(Fault::transient("Postgres has ended the replication stream"));
                }
                Err(error) => return Err(fault(error)),
            }
        }
    }

    /// What the server has sent already.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn next_now(&mut self) -> Option<Result<Input, Fault>> {
        self.next().now_or_never()
    }

    /// Tells Postgres that everything before this LSN is safe.
    pub fn acknowledge(&self, lsn: PgLsn) {
        self.client.update_applied_lsn(Lsn(lsn.into()));
    }

    /// Ends the stream, once the last acknowledged LSN is on its way: the client would drop it.
    pub async fn stop(mut self, acknowledged: PgLsn, bound: Duration) {
        let target = Lsn(acknowledged.into());
        let metrics = self.client.metrics();
        let sent = async {
            let mut poll = tokio::time::interval(SENT_POLL);
            while metrics.last_applied_lsn() < target && self.client.is_running() {
                poll.tick().await;
            }
        };
        let _ = timeout(bound, sent).await;
        self.client.stop();
        if timeout(bound, self.client.shutdown()).await.is_err() {
            self.client.abort();
        }
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        // A task stuck in the middle of a message would go on for ever, holding the slot.
        self.client.abort();
    }
}

fn input(event: ReplicationEvent) -> Result<Option<Input>, Fault> {
    let message = match event {
        ReplicationEvent::KeepAlive { wal_end, reply_requested, .. } => {
            return Ok(Some(Input::KeepAlive {
                wal_end: lsn(wal_end),
                is_reply_requested: reply_requested,
            }));
        }
        ReplicationEvent::Begin { final_lsn, xid, commit_time_micros } => {
            Message::Begin { commit_lsn: lsn(final_lsn), commit_time: commit_time_micros, xid }
        }
        ReplicationEvent::Commit { lsn: commit_lsn, end_lsn, commit_time_micros } => {
            Message::Commit {
                commit_lsn: lsn(commit_lsn),
                end_lsn: lsn(end_lsn),
                commit_time: commit_time_micros,
            }
        }
        ReplicationEvent::XLogData { data, .. } => pgoutput::decode(&data)
            .map_err(|error| Fault::transient(format!("the stream makes no sense: {error}")))?,
        ReplicationEvent::Message { transactional, lsn: at, prefix, content } => {
            Message::Emitted { is_transactional: transactional, lsn: lsn(at), prefix, content }
        }
        ReplicationEvent::StoppedAt { .. } => return Ok(None),
    };
    Ok(Some(Input::Stream(message)))
}

fn lsn(lsn: Lsn) -> PgLsn {
    PgLsn::from(lsn.0)
}

fn fault(error: PgWireError) -> Fault {
    match error {
        PgWireError::Server(text) => postgres::classify_text(&text),
        PgWireError::Auth(text) => postgres::classify_sqlstate("28P01", &text),
        PgWireError::Tls(text) => Fault::transient(text)
            .mend("check the CA file, the server's certificate and that its name is the host connected to"),
        error => Fault::transient(format!("the replication stream has ended: {error}")),
    }
}

fn replication_config(config: &Postgres) -> ReplicationConfig {
    let server = &config.stream;
    let timeout_ms = config.wal_sender_timeout.as_millis();
    // Values are rendered by the session's settings, and a role may have others. The TCP ones
    // let the server notice a client whose host is gone.
    let options = format!(
        "-c datestyle=ISO -c timezone=UTC -c intervalstyle=iso_8601 -c bytea_output=hex \
         -c extra_float_digits=1 -c wal_sender_timeout={timeout_ms}ms \
         -c tcp_user_timeout={timeout_ms} -c tcp_keepalives_idle=10"
    );
    ReplicationConfig::new(
        &server.host,
        &server.user,
        server.password.expose(),
        &server.database,
        &config.slot,
        // Parsed by the server as identifiers: unquoted, MyPub would be folded to mypub.
        postgres_protocol::escape::escape_identifier(&config.publication),
    )
    .with_port(server.port)
    .with_tls(tls(server))
    .with_application_name(&config.application_name)
    .with_options(options)
    .with_status_interval(STATUS_INTERVAL)
    // Longer than the server's own patience: it is the server's pings to a silent client that
    // show that it is alive, also in the middle of a long decode.
    .with_wakeup_interval(config.wal_sender_timeout * 3)
    .with_buffer_size(BUFFER)
}

fn tls(server: &Server) -> TlsConfig {
    let tls = &server.tls;
    if server.host.starts_with('/') {
        return TlsConfig::disabled();
    }
    let mut config = TlsConfig {
        mode: match tls.mode {
            TlsMode::Disable => SslMode::Disable,
            TlsMode::Require => SslMode::Require,
            TlsMode::VerifyCa => SslMode::VerifyCa,
            TlsMode::VerifyFull => SslMode::VerifyFull,
        },
        ca_pem_path: tls.ca_file.clone().or_else(system_authorities),
        ..TlsConfig::default()
    };
    if server.host.parse::<std::net::IpAddr>().is_ok() {
        // The client refuses an IP address unless it is given as a name.
        config = config.with_sni_hostname(&server.host);
    }
    if let (Some(cert), Some(key)) = (&tls.cert_file, &tls.key_file) {
        config = config.with_client_cert(cert, key);
    }
    config
}

/// The system's authorities as a file, where it is at its usual place; the client knows only
/// its own list otherwise.
fn system_authorities() -> Option<PathBuf> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let usual = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];
    named.into_iter().chain(usual.map(PathBuf::from)).find(|path| path.is_file())
}
