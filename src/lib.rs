//! pgoutbox relays the rows of a Postgres outbox table to RabbitMQ: in commit order, within
//! milliseconds, losing none.
//!
//! # The picture
//!
//! ```text
//!   Postgres                                                                    RabbitMQ
//!      │ pgoutput bytes                                                            ▲
//!      ▼                                                                           │
//!   wal ──► pgoutput ──► relation ──► event ──► message ──► window ──► publisher ──┘
//!   (IO)    bytes→msg    columns      row       AMQP form   in flight  (IO) │
//!      ▲                                                                    │
//!      │                         relay  ◄────── confirms and returns ───────┘
//!      └── acknowledge(LSN) ◄── (decides) ──► batch of marks ──► marker (IO) ──► relayed_at
//!                               progress, marks                                  and progress
//!                               parked, retry ──► events put aside ──► parking (IO) ─┘   ▲
//!                                   ▲                                                    │
//!                                   └──────────── what is due, and who waits ────────────┘
//! ```
//!
//! WAL bytes enter at [`wal`], become an event in [`core::event`] and an AMQP message in
//! [`core::message`], wait in the window and leave through [`rabbitmq::publisher`]. Confirms come
//! back to [`core::relay`], which settles events, has them marked by [`postgres::marker`] and
//! acknowledges the LSN once nothing before it is open ([`core::relay::progress`],
//! [`core::relay::marks`]). An event that cannot be delivered is put aside in the same transaction
//! ([`core::parked`], [`postgres::parking`]), which settles it too; it is tried again from there, and
//! its aggregate waits.
//!
//! One task owns all state. [`session`] selects what happens next, hands it to the relay as
//! an input, and performs the effects that the relay answers with. [`session::supervisor`] runs
//! session after session. [`observe::service`] reports the state to systemd.
//!
//! # What holds, always
//!
//! 1. An LSN is acknowledged only if it is the `end_lsn` of a commit all of whose events,
//!    and those of every commit before it, are settled, or a keepalive's `wal_end` that was
//!    received behind them. Never one from another connection, and never past a place where
//!    the publication may have stopped covering an outbox table.
//! 2. Events are published in commit order, but for those that wait behind an older one of
//!    their aggregate: parked, or in flight where the ordering is strict. What counts as
//!    settled, for the LSN and after a crash, is the event before which all are. After a lost
//!    connection everything from there on is published again: repeats happen, overtaking
//!    within an aggregate does not.
//! 3. A returned message is not delivered, whatever its confirm says.
//! 4. The window is bounded in messages and bytes. A transaction of any size flows through
//!    it; the server sends committed transactions only, so nothing is buffered until commit.
//! 5. What is marked was confirmed, and an LSN waits until its marks are on disk. A mark that
//!    cannot be written holds the LSN for a bounded time only: a full disk is worse. What is
//!    parked holds it until it is on disk, whatever that takes.
//! 6. A crash repeats at most what the window and one batch of marks hold: the progress row,
//!    written with each batch and after each 100 settled events, names the place also in the middle
//!    of a transaction. The window may be held to what keeps the broker busy.
//! 7. Any error of a connection ends the session. There is one way of recovery, the start of
//!    a session, and it is used daily.
//!
//! # Layout
//!
//! A folder for what a byte meets. Each says in its own page what may enter, and what it must not know;
//! `docs/architecture.md` has these invariants in one list. Public are [`Relay`] with its builder, [`outbox`],
//! [`cli::main`] and [`error`]; nothing else is.
//!
//! - [`wal`]: where bytes come in; alone in knowing the replication protocol.
//! - [`core`]: what decides; pure.
//! - [`rabbitmq`]: where bytes leave, to an exchange or to streams; alone in knowing AMQP and the stream protocol.
//! - [`postgres`]: ordinary SQL: connections and their settings, marks, parked events.
//! - [`slot`]: slot, publication, tables and roles: looked at, made, and made again after a loss.
//! - [`session`]: runs it: what happens next, and what is done about it.
//! - [`upkeep`]: beside the relay, on connections of its own: rows and partitions that are old, rows
//!   that were missed, the WAL on disk.
//! - [`operator`]: what people have done: parked events, and events sent once more.
//! - [`board`]: what the process knows of itself, for [`observe`]: HTTP and the console, metrics,
//!   systemd. [`otlp`] sends spans to a collector.
//! - [`embed`]: the relay inside another program, and what runs beside it; [`outbox`] writes events.
//! - [`cli`]: a file for each verb; what only `check` looks at is below `cli/check/`.
//! - [`config`], [`error`], [`text`], [`tls`], [`backoff`], [`gauge`], [`within`], and [`output`], which alone writes to standard output
//!   and error, are known to all.
//!
//! # What it depends on, and why
//!
//! Each crate in `Cargo.toml` stands here with what would have to be written without it.
//!
//! - The servers' protocols: `lapin` with `amq-protocol` (AMQP, and its types in messages),
//!   `async-rs` (what lapin calls a socket and a runtime), `pgwire-replication` and
//!   `postgres-protocol` (the stream's messages and login), `tokio-postgres` with `postgres-types`
//!   (ordinary SQL), `opentelemetry-proto` and `prost` (spans for a collector).
//! - The runtime: `tokio`, `futures-util`, `bytes`, `smallvec` (lists that need no memory of their
//!   own: a row's headers), `socket2` (keepalives of TCP, which decide how soon a dead server is noticed).
//! - TLS, by one library without a system's: `rustls`, `tokio-rustls`, `tokio-postgres-rustls`,
//!   `rustls-native-certs` (the system's authorities), `x509-cert` (`check` reads a chain); `zeroize` overwrites secrets.
//! - HTTP: `hyper`, `hyper-util`, `http-body-util`, without a framework: see [`observe::http`]. `subtle`
//!   compares the token in constant time.
//! - Arguments, settings and what is shown: `clap`, `clap_complete`, `clap_mangen`, `toml_edit` (it
//!   knows the line of an error), `humantime`, `bytesize`, `jiff` (calendar), `strsim` (the setting
//!   that was meant), `percent-encoding` (URLs), `terminal_size`, `serde` and `serde_json`.
//! - `base64` (bytes in a JSON body), `thiserror`, `tracing` and `tracing-subscriber` (the log),
//!   `sd-notify` (systemd's protocol), `rustix` (nobody else reads the process's memory: prctl without unsafe code),
//!   `fastrand` (jitter), `tikv-jemallocator` (three microseconds less an event: see `main`; the demo
//!   is built without it).
//!
//! # What was rejected
//!
//! `docs/architecture.md` has the designs that were tried or considered, and why they were left.

// What a task of the HTTP server holds goes down to lapin's own types, deeper than rustc looks by itself.
#![recursion_limit = "256"]

// Ground: known to all.
mod backoff;
mod config;
pub mod error;
mod gauge;
mod net;
mod output;
mod shutdown;
mod text;
mod tls;
mod log_throttle;
mod within;

// Decides.
mod core;

// The ends, and ordinary SQL.
mod otlp;
mod postgres;
mod rabbitmq;
mod wal;

// What is there, and what is shown of it.
mod board;
mod slot;

// Runs.
mod observe;
mod operator;
mod session;
mod upkeep;

// The command line, and the relay within another program.
pub mod cli;
mod embed;
pub mod outbox;

pub use embed::{Builder, Now, Relay, Status};

#[doc(hidden)]
pub mod testing;
