//! The settings, parsed and checked before anything connects.
//!
//! Later wins: defaults, variables that other programs read too (`DATABASE_URL`, `AMQP_URL`, `OTEL_…`),
//! the file, `PGOUTBOX_SECTION__KEY`, flags. The file beats the shared variables because it
//! was written for pgoutbox, while they may be there for a neighbour. `PG*` fill only what
//! the database's URL leaves out. A setting of its own (`postgres.password`,
//! `postgres.sslmode`, `amqp.heartbeat`) beats the same thing said inside a URL.
//!
//! A secret may stand in a file of its own: `url_file` and `password_file` in the TOML,
//! `…_FILE` for a variable. Paths in the file are relative to its directory.
//!
//! Plain text is what a URL means that does not ask for TLS, to whatever host: never a
//! silent fallback, and the same for `postgres://` as for `amqp://`. TLS means that the chain and the
//! name are verified, unless `sslmode` says less.
//!
//! **Invariant:** nothing here connects to anything; it reads files and variables only.
//!
//! # Layout
//! `settings` is the table of all settings, by `kind`; `source` finds what was written, in `flags`, variables
//! and a `file`, with its `origin`, as `raw`; `value` reads it (`postgres_url`, `amqp_url`, `http_url`,
//! `template`), `values` holds what won; `postgres`, `amqp`, `otlp`, `tables` and `message_map` put the sections
//! together, `contradiction` checks them against each other; `explain` and `docs` show them.

mod kind;
mod raw;
mod settings;

mod address;
mod amqp_url;
mod http_url;
mod postgres_url;
mod ssl_mode;
mod template;
mod value;

mod file;
mod flags;
mod origin;
mod source;
mod values;

mod amqp;
mod contradiction;
mod load;
mod mark;
mod message;
mod message_map;
mod otlp;
mod pattern;
mod postgres;
mod preset;
mod problem;
mod reload;
mod renewal;
mod rule;
mod shards;
mod stream_sink;
mod effective;
mod tables;
mod tls;
mod upkeep;

mod docs;
mod explain;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

pub use docs::docs_markdown;
pub(crate) use explain::SettingsReport;
pub use flags::Flags;
pub use load::{Needs, load};
pub(crate) use mark::{MarkColumn, MarkColumns, MarkValue};
pub(crate) use message::{CloudEvents, Field, MessageMap, Property, ValueType};
pub(crate) use message::{OF_SCHEMA, OF_TABLE, title};
pub(crate) use pattern::FoundTable;
pub(crate) use reload::{InForce, plan};
pub(crate) use renewal::{Place, Renewal};
pub(crate) use rule::{Condition, RowRule};
pub(crate) use settings::MOST_SHARDS;
pub(crate) use shards::{Shards, Share};
pub use source::Sources;
pub(crate) use stream_sink::StreamSink;
pub(crate) use tls::FileDigest;

/// A value that never shows in a log, an error or `Debug`, and is overwritten where it is not needed any more.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a secret.
    pub(crate) fn new(value: impl Into<String>) -> Self {
        Self(Zeroizing::new(value.into()))
    }

    /// The secret itself, for the call that needs it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Everything `pgoutbox run` needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The Postgres side.
    pub postgres: Postgres,
    /// The RabbitMQ side.
    pub amqp: Amqp,
    /// The outbox tables; at least one, unless there are messages or patterns.
    pub tables: Vec<Table>,
    /// Messages that are events, by prefix: tables that have no rows.
    pub messages: Vec<Table>,
    /// What tables were looked for by; empty until then.
    pub patterns: Vec<Table>,
    /// The tables that match: those that are read are among `tables`.
    pub found: Vec<FoundTable>,
    /// How much may be in flight.
    pub window: WindowSettings,
    /// How delivered events are marked.
    pub audit: Audit,
    /// Events put aside.
    pub parking: Parking,
    /// The search for rows that are neither marked nor parked.
    pub reconcile: Reconcile,
    /// Life from connect to error.
    pub session: Session,
    /// Rows that nobody needs any more.
    pub prune: Prune,
    /// The guard over the WAL.
    pub guard: Guard,
    /// Metrics, probes and the console.
    pub http: Http,
    /// Where spans go. Default `None`: there are none.
    pub otlp: Option<Otlp>,
    /// Logging.
    pub log: Log,
    /// What `init --declare` declares.
    pub declare: Declare,
}

impl Config {
    /// Whether a lost slot is made up for from the tables that have marks. Without marks there is no record of
    /// which rows wait.
    pub(crate) fn is_catching_up(&self) -> bool {
        self.postgres.on_slot_loss == OnSlotLoss::CatchUp && self.has_marks()
    }

    /// Whether events of a source go to a stream.
    pub(crate) fn has_streams(&self) -> bool {
        self.sources().any(|source| source.stream.is_some())
    }

    /// Whether events of a source go to an exchange.
    pub(crate) fn has_exchanges(&self) -> bool {
        self.sources().any(|source| source.stream.is_none())
    }

    /// The streams, each once.
    pub(crate) fn streams(&self) -> BTreeSet<&str> {
        self.stream_sinks().flat_map(|sink| sink.partitions.iter().map(|name| &**name)).collect()
    }

    /// The streams and super streams.
    pub(crate) fn stream_sinks(&self) -> impl Iterator<Item = &StreamSink> + Clone {
        self.sources().filter_map(|source| source.stream.as_ref())
    }

    /// Where events go that go to exchanges.
    pub(crate) fn exchanges(&self) -> Vec<String> {
        let sources = self.sources().filter(|source| source.stream.is_none());
        let mut exchanges: Vec<String> = Vec::new();
        for exchange in sources.map(|source| source.exchange.to_string()) {
            if !exchanges.contains(&exchange) {
                exchanges.push(exchange);
            }
        }
        exchanges
    }

    /// Whether a table has marks.
    pub(crate) fn has_marks(&self) -> bool {
        self.tables.iter().chain(&self.patterns).any(Table::has_marks)
    }

    /// The tables without marks.
    pub(crate) fn unmarked(&self) -> impl Iterator<Item = &Table> {
        self.tables.iter().filter(|table| !table.has_marks())
    }

    /// All that events come from. Where one has a number, it is its place here.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &Table> + Clone {
        self.tables.iter().chain(&self.messages).chain(&self.patterns)
    }

    /// The source of a number.
    pub(crate) fn source(&self, number: usize) -> Option<&Table> {
        self.sources().nth(number)
    }
}

/// The Postgres side: `[postgres]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Postgres {
    /// Where the audit connection (marks, checks, one-shot commands) goes: `postgres.url`,
    /// `DATABASE_URL` or `PG*`.
    pub audit: Server,
    /// Where the replication stream goes: `postgres.stream_url`; the same server and
    /// database as `audit`, perhaps another role.
    pub stream: Server,
    /// Name of the logical replication slot. Default `pgoutbox`.
    pub slot: String,
    /// Name of the publication. Default `pgoutbox`.
    pub publication: String,
    /// How the outbox is spread over relays. Default: over none. Slot and publication above are then those
    /// of the share.
    pub shards: Shards,
    /// Which share this relay has; `None`: all, or any where the outbox is spread.
    pub share: Option<Share>,
    /// What the relay does where its slot is gone or lost. Default [`OnSlotLoss::CatchUp`]; with
    /// messages [`OnSlotLoss::Halt`], since nothing else has them.
    pub on_slot_loss: OnSlotLoss,
    /// A slot made here is a failover slot: standbys keep a copy of it. Default `false`; needs
    /// Postgres 17.
    pub is_failover: bool,
    /// Name shown in `pg_stat_activity` and `pg_stat_replication`. Default `pgoutbox/<slot>`.
    pub application_name: String,
    /// `wal_sender_timeout` asked for on the stream. Default 10 s, 1 s to 10 min.
    pub wal_sender_timeout: Duration,
    /// Bound on connect, TLS and authentication. Default 10 s.
    pub connect_timeout: Duration,
    /// How often the publication may be checked while WAL moves. Default 1 s, at most 60 s.
    pub check_interval: Duration,
    /// How its secrets are read again.
    pub renewal: Renewal,
}

/// What the relay does where its slot is gone or lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnSlotLoss {
    /// It makes a new one, and publishes the rows that wait in the table before what comes
    /// through it.
    CatchUp,
    /// It stops.
    Halt,
}

/// Where a Postgres server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Host name, IP address, or the directory of a unix socket (starts with `/`).
    pub name: String,
    /// TCP port, or the unix socket's number.
    pub port: u16,
}

/// One Postgres connection's address and credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Host name, IP address, or the directory of a unix socket (starts with `/`).
    pub host: String,
    /// TCP port, or the unix socket's number.
    pub port: u16,
    /// Further hosts, one of which is the primary where the first is not. Empty for most.
    pub others: Vec<Host>,
    /// Role.
    pub user: String,
    /// Password; empty when none is given.
    pub password: Secret,
    /// Where the password, or what it would be in, stands.
    pub password_place: Place,
    /// Database.
    pub database: String,
    /// TLS.
    pub tls: Tls,
}

impl Host {
    /// Where Postgres is, unless somebody says otherwise.
    pub(crate) fn local() -> Self {
        Self { name: "localhost".to_owned(), port: 5432 }
    }

    /// It is the directory of a unix socket.
    pub(crate) fn is_socket(&self) -> bool {
        self.name.starts_with('/')
    }
}

impl Server {
    /// All its hosts, in the order in which they are tried.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = Host> {
        let first = Host { name: self.host.clone(), port: self.port };
        std::iter::once(first).chain(self.others.iter().cloned())
    }

    /// The same login on one of its hosts.
    pub(crate) fn at(&self, host: Host) -> Self {
        Self { host: host.name, port: host.port, others: Vec::new(), ..self.clone() }
    }
}

impl Config {
    /// With the stream from that host alone, where both connections have the same hosts.
    pub(crate) fn streaming_from(self: &Arc<Self>, host: &Host) -> Arc<Self> {
        let Postgres { audit, stream, .. } = &self.postgres;
        if stream.others.is_empty() || !stream.hosts().eq(audit.hosts()) {
            return Arc::clone(self);
        }
        let stream = stream.at(host.clone());
        Arc::new(Self {
            postgres: Postgres { stream, ..self.postgres.clone() },
            ..Self::clone(self)
        })
    }
}

/// TLS of one connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// How much is asked of the server.
    pub mode: TlsMode,
    /// PEM file with the authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file with the client certificate.
    pub cert_file: Option<PathBuf>,
    /// PEM file with the client certificate's key.
    pub key_file: Option<PathBuf>,
    /// What they held when the settings were read: other certificates are another configuration.
    pub content: FileDigest,
}

/// libpq's `sslmode`, less the modes that fall back to plain text in silence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// Plain text.
    #[default]
    Disable,
    /// TLS without verification; only when asked for by this name.
    Require,
    /// TLS with the chain verified.
    VerifyCa,
    /// TLS with chain and host name verified: what a certificate file or `amqps` means.
    VerifyFull,
}

/// The RabbitMQ side: `[amqp]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Amqp {
    /// The brokers to try in turn: `amqp.url` or `AMQP_URL`, comma-separated. At least one
    /// where [`Needs::amqp`] asked for it; else it may be empty.
    pub brokers: Vec<Broker>,
    /// Heartbeat asked for. Default 10 s.
    pub heartbeat: Duration,
    /// Bound on connect, handshake, channel open and `confirm.select`. Default 10 s.
    pub connect_timeout: Duration,
    /// How long a published message may wait for its confirm, blocked time not counted.
    /// Default 30 s.
    pub confirm_timeout: Duration,
    /// How long the broker may keep the connection blocked (an alarm) before the session is
    /// ended. Default 10 min.
    pub blocked_timeout: Duration,
    /// Largest body that is published. Default 16 MiB, RabbitMQ 4's own limit.
    pub max_message_bytes: usize,
    /// Name shown in RabbitMQ's connection list. Default `pgoutbox/<slot>`.
    pub connection_name: String,
    /// Port of the stream protocol. Default 5552, or 5551 with TLS.
    pub stream_port: Option<u16>,
    /// Hosts, with their ports where they say them, by which the nodes of streams are reached, and by no others. Default:
    /// the broker's host, and what nodes advertise.
    pub stream_addresses: Vec<(String, Option<u16>)>,
    /// How its secrets are read again.
    pub renewal: Renewal,
}

/// One broker's address and credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Host name or IPv4 address (lapin mangles IPv6 literals: refused).
    pub host: String,
    /// Port.
    pub port: u16,
    /// User; with `external` empty unless the URL names one: the broker takes the
    /// certificate's.
    pub user: String,
    /// Password.
    pub password: Secret,
    /// Where the password stands.
    pub password_place: Place,
    /// Virtual host, decoded; never empty.
    pub vhost: String,
    /// TLS; [`TlsMode::Disable`] for `amqp://`.
    pub tls: Tls,
    /// SASL `EXTERNAL` instead of `PLAIN`.
    pub is_external: bool,
}

/// What events come from: an outbox table (`[[tables]]`), or the messages of a prefix
/// (`[[messages]]`), whose columns are the members of an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Schema. Default `public`. Empty where it is not a table: no schema of Postgres is.
    pub schema: String,
    /// Table, default `outbox_messages`; or the prefix of the messages.
    pub name: String,
    /// Schema and name are a pattern: it stands for all tables that match. Default `false`.
    pub is_pattern: bool,
    /// Column of each field.
    pub columns: Columns,
    /// The streams that its messages go to; default `None`: to an exchange.
    pub stream: Option<StreamSink>,
    /// Exchange of its messages, a template. Default `outbox`.
    pub exchange: Template,
    /// Routing key of its messages, a template.
    /// Default `{topic} | {aggregate_type}.{event_type}`.
    pub routing_key: Template,
    /// `content_type` of its messages where the row has none. Default `application/json`.
    pub content_type: String,
    /// `app_id` of its messages. Default none.
    pub app_id: Option<String>,
    /// What becomes of an event that cannot be delivered. Default [`OnFailure::Park`].
    pub on_failure: OnFailure,
    /// Whether later events of its aggregate wait behind a parked one. Default `true`.
    pub is_holding: bool,
    /// Whether the broker returns a message that no queue takes. Default `true`.
    pub is_mandatory: bool,
    /// What makes it, where its preset knows: it is not for pgoutbox to make.
    pub maker: Option<&'static str>,
    /// What its messages have beside what follows from the columns. Default nothing.
    pub message: MessageMap,
    /// Whether each header of a row is sent as a text. Default `false`: by its type in JSON.
    pub has_text_headers: bool,
    /// What `attempt` holds before the first try. Default 0.
    pub first_attempt: u32,
    /// What a row holds whose tries have ended, by column. Default nothing.
    pub failed: Vec<(String, String)>,
    /// Which of its rows are published. Default: all.
    pub rule: RowRule,
    /// Which share of them is this relay's; `None`: all.
    pub share: Option<Share>,
    /// How its delivered events are marked. Default: as `audit.mode` says.
    pub audit_mode: AuditMode,
    /// What a marked row holds. Default: a time in `relayed_at`.
    pub mark: MarkColumns,
}

/// What becomes of an event that cannot be delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OnFailure {
    /// It is put aside in `pgoutbox.parked` and tried again from there.
    Park,
    /// Everything waits for it.
    Block,
    /// It is published to another exchange, with the reason in headers.
    DeadLetter {
        /// That exchange.
        exchange: String,
        /// Its routing key there; the message's own where there is none.
        routing_key: Option<String>,
    },
}

/// Which column holds which field of an event. A default column that the table lacks is left
/// out; one that the configuration names must exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    /// The key of a row, becomes `message_id`: uuid, text or bigint. Default `id`.
    pub id: ColumnRef,
    /// Another column that becomes `message_id`. Default none.
    pub message_id: ColumnRef,
    /// Default `aggregate_type`.
    pub aggregate_type: ColumnRef,
    /// Default `aggregate_id`.
    pub aggregate_id: ColumnRef,
    /// Becomes `type`. Default `event_type`.
    pub event_type: ColumnRef,
    /// Default `topic`.
    pub topic: ColumnRef,
    /// The body: jsonb, json, text or bytea. Default `payload`.
    pub payload: ColumnRef,
    /// An object of headers: jsonb or json. Default `headers`.
    pub headers: ColumnRef,
    /// Becomes `timestamp`: timestamptz or timestamp (read as UTC). Default `occurred_at`.
    pub occurred_at: ColumnRef,
    /// Default `correlation_id`.
    pub correlation_id: ColumnRef,
    /// Default `content_type`.
    pub content_type: ColumnRef,
    /// Becomes the header of the W3C's trace context. Default `traceparent`.
    pub traceparent: ColumnRef,
    /// Becomes the header `tracestate` of the same standard. Default `tracestate`.
    pub tracestate: ColumnRef,
    /// Tries of a parked event: integer or bigint. Default `attempt`.
    pub attempt: ColumnRef,
    /// Why its last try failed: text. Default `last_error`.
    pub last_error: ColumnRef,
    /// When its tries ended: timestamptz or timestamp. Default `failed_at`.
    pub failed_at: ColumnRef,
}

impl Columns {
    /// Those of an event, by the names of their fields.
    pub(crate) fn fields(&self) -> [(&'static str, &ColumnRef); 13] {
        [
            ("id", &self.id),
            ("message_id", &self.message_id),
            ("aggregate_type", &self.aggregate_type),
            ("aggregate_id", &self.aggregate_id),
            ("event_type", &self.event_type),
            ("topic", &self.topic),
            ("payload", &self.payload),
            ("headers", &self.headers),
            ("occurred_at", &self.occurred_at),
            ("correlation_id", &self.correlation_id),
            ("content_type", &self.content_type),
            ("traceparent", &self.traceparent),
            ("tracestate", &self.tracestate),
        ]
    }

    /// The columns of all fields, by the name of each.
    pub(crate) fn each(mut of: impl FnMut(&'static str) -> ColumnRef) -> Self {
        Self {
            id: of("id"),
            message_id: of("message_id"),
            aggregate_type: of("aggregate_type"),
            aggregate_id: of("aggregate_id"),
            event_type: of("event_type"),
            topic: of("topic"),
            payload: of("payload"),
            headers: of("headers"),
            occurred_at: of("occurred_at"),
            correlation_id: of("correlation_id"),
            content_type: of("content_type"),
            traceparent: of("traceparent"),
            tracestate: of("tracestate"),
            attempt: of("attempt"),
            last_error: of("last_error"),
            failed_at: of("failed_at"),
        }
    }
}

/// A column of one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnRef {
    /// Name of the column; empty when the configuration says there is none (`""`).
    pub name: String,
    /// Named by the configuration, so it must exist.
    pub is_explicit: bool,
}

/// A template over columns, such as `{topic} | {aggregate_type}.{event_type}`: alternatives
/// separated by `|`, the first whose columns are all set wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(pub Vec<Vec<Piece>>);

/// A part of a [`Template`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text as it stands.
    Text(String),
    /// The value of a field or, where no field has this name, of a column.
    Column(String),
    /// The hash of such a value, modulo a number.
    Hash(String, u32),
}

/// How much may be in flight: `[window]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSettings {
    /// Messages published and not settled, at most. Default 1,000.
    pub messages: usize,
    /// Only as many are in flight as keep the broker busy. Default `false`: fixed.
    pub is_adaptive: bool,
    /// Bytes of their bodies. Default 32 MiB. One larger message alone still passes.
    pub bytes: usize,
    /// At most one message in flight per aggregate. Default `false`: pipelined.
    pub is_strict: bool,
}

/// How delivered events are marked: `[audit]`. What a mark is, each table says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Most marks in one statement. Default 500.
    pub batch: usize,
    /// How long a mark may wait for its batch to fill. Default 50 ms.
    pub linger: Duration,
    /// How long a mark that cannot be written holds the LSN. Default 10 s.
    pub hold: Duration,
    /// How long it is tried before it is counted as missing. Default 5 min.
    pub give_up: Duration,
}

/// What a mark is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditMode {
    /// `UPDATE … SET relayed_at = now()`, or what [`Table::mark`] says.
    Update,
    /// `DELETE` the row.
    Delete,
    /// `INSERT` into `pgoutbox.relayed`.
    SideTable,
    /// No mark; only the progress row is written.
    None,
}

/// Events put aside: `[parking]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parking {
    /// Tries of an event, the first one included, before it counts as failed. Default 20.
    pub max_attempts: u32,
    /// Pause before the second try; doubles with each. Default 1 s.
    pub backoff_min: Duration,
    /// Longest pause. Default 5 min.
    pub backoff_max: Duration,
    /// How many refused events may be parked within `period` before it is taken for a fault
    /// of the whole. Default 100.
    pub limit: usize,
    /// See `limit`. Default 1 min.
    pub period: Duration,
    /// How often the parking is looked at where no notification comes. Default 10 s.
    pub poll_interval: Duration,
}

/// The search for rows that are neither marked nor parked: `[reconcile]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reconcile {
    /// How often. Default 10 min.
    pub interval: Duration,
    /// How long after the relay has passed a row it counts as missing. Default 5 min.
    pub age: Duration,
    /// Whether missing rows are sent once more. Default `false`.
    pub republishes: bool,
}

/// Life from connect to error: `[session]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// First pause after a failed session. Default 100 ms.
    pub backoff_min: Duration,
    /// Longest pause. Default 10 s.
    pub backoff_max: Duration,
    /// How long a drain may take after SIGTERM. Default 30 s.
    pub drain_timeout: Duration,
}

/// Rows that nobody needs any more: `[prune]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prune {
    /// Age of its mark after which a relayed row goes. Default `None`: never.
    pub keep: Option<Duration>,
    /// How often a pass begins. Default 1 min.
    pub interval: Duration,
    /// Most rows that one statement deletes. Default 1,000.
    pub batch: usize,
    /// Pause between two statements. Default 50 ms.
    pub pause: Duration,
    /// How many partitions are made ahead of the present one. Default 3.
    pub partitions_ahead: usize,
    /// How much time a partition holds. `None`: as the names of those that pgoutbox made say; where
    /// it made none, partitions are somebody else's business.
    pub partition_span: Option<PartitionSpan>,
}

/// How much time a partition holds; all begin and end by the UTC calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionSpan {
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// A week, from Monday on.
    Week,
    /// A month.
    Month,
}

/// The guard over the WAL: `[guard]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    /// What happens at `act_percent`. Default [`GuardPolicy::Alert`].
    pub policy: GuardPolicy,
    /// How often the guard looks. Default 10 s.
    pub interval: Duration,
    /// Projected time until WAL is full that is worth a warning. Default 1 h.
    pub warn_at: Duration,
    /// Share of the limit that is worth a warning, in per cent. Default 70.
    pub warn_percent: usize,
    /// Share of the limit at which the policy is carried out, in per cent. Default 90.
    pub act_percent: usize,
    /// How much WAL the server's disk can hold, in bytes; SQL cannot ask. Default `None`.
    pub disk_limit: Option<u64>,
}

/// What happens before the WAL is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardPolicy {
    /// It is said, in the log and by `pgoutbox status`.
    Alert,
    /// The relay ends with exit code 1. The slot stays, and so does the WAL.
    Stop,
    /// The slot is dropped, so that Postgres can remove the WAL.
    DropSlot,
}

/// Metrics, probes and the console: `[http]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Where they are served. Default 127.0.0.1:8976; `None` where it is `off`.
    pub address: Option<SocketAddr>,
    /// What a request has to show, save for the probes. Default none.
    pub token: Option<Secret>,
    /// Where the token stands.
    pub token_place: Place,
    /// How it is read again.
    pub renewal: Renewal,
}

/// Where spans go: `[otlp]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Otlp {
    /// Host name or IP address, without brackets.
    pub host: String,
    /// Port; by default that of the scheme.
    pub port: u16,
    /// Path, as it is requested.
    pub path: String,
    /// TLS; [`TlsMode::Disable`] for `http://`.
    pub tls: Tls,
    /// Headers of each request.
    pub headers: Vec<(String, Secret)>,
    /// Bound on one request. Default 10 s.
    pub timeout: Duration,
    /// `service.name` of the spans. Default `pgoutbox`.
    pub service_name: String,
    /// How its secrets are read again.
    pub renewal: Renewal,
}

/// Logging: `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Level or filter directives, as tracing's `EnvFilter` reads them. Default `info`.
    pub level: String,
    /// `text` or `json`. Default `text`.
    pub is_json: bool,
    /// A line for each event and what became of it. Default `false`.
    pub has_events: bool,
    /// Those of one event in so many. Default 1.
    pub events_one_in: usize,
}

/// What `init --declare` declares: `[declare]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declare {
    /// Exchange type. Default `topic`.
    pub exchange_type: String,
    /// Queues with their bindings; none by default: `[[declare.queues]]`.
    pub queues: Vec<Queue>,
}

/// A queue that `init --declare` declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Name; `{n}` in it is the number of the queue.
    pub name: String,
    /// How many of them there are. Default 1.
    pub count: u32,
    /// `x-queue-type`: `quorum` (default), `classic` or `stream`.
    pub queue_type: String,
    /// Binding keys to the exchange. Default `#`.
    pub bindings: Vec<String>,
    /// Exchange to bind to, where there is more than one. Default: the first table's.
    pub exchange: Option<String>,
    /// Its arguments, as RabbitMQ names them.
    pub arguments: Vec<(String, String)>,
}

impl Declare {
    /// Each queue by itself, with the index of its setting: numbers stand for `{n}`.
    pub(crate) fn each(&self) -> impl Iterator<Item = (usize, Queue)> {
        self.queues.iter().enumerate().flat_map(|(index, queue)| {
            (0..queue.count).map(move |number| {
                let number = number.to_string();
                let numbered = |text: &String| text.replace("{n}", &number);
                let bindings = queue.bindings.iter().map(numbered).collect();
                let argument = |(name, value): &(String, String)| (name.clone(), numbered(value));
                let arguments = queue.arguments.iter().map(argument).collect();
                let name = numbered(&queue.name);
                (index, Queue { name, bindings, arguments, count: 1, ..queue.clone() })
            })
        })
    }
}
