//! The replication stream: WAL bytes in, acknowledged LSNs out. The only place that knows the
//! replication protocol.
//!
//! pgwire-replication frames and parses it; the connection is our own, since its client takes a
//! task, a channel and a copy for each message, has no timeouts, and cannot say what it has sent.
//!
//! **Invariant:** the replication protocol is known here alone. What a row means is not known here.

mod connection;
mod frames;
mod status;

use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt;
use pgwire_replication::protocol::{ReplicationCopyData, parse_copy_data};
use postgres_protocol::message::frontend;
use postgres_types::PgLsn;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use connection::{Connection, Socket, TextRow, server_fault};
use frames::{Frame, Frames, ended};
use status::StatusUpdates;

use crate::config::{Postgres, Server};
use crate::core::event::pgoutput;
use crate::core::relay::Input;
use crate::error::{Fault, Kind, Peer, codes};
use crate::postgres::hosts::Search;
use crate::postgres::identity::Identity;
use crate::postgres::role::{self, Role};
use crate::postgres::{ServerError, no_answer, server_error};
use crate::within::{in_time, within};

const ROLE: Role = Role::Stream;
/// The server is asked for a word this often in each `wal_sender_timeout`: twice it may get lost.
const PINGS: u32 = 3;

/// Which slot is made.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SlotKind<'a> {
    /// One that is to be read, under this name.
    Kept { name: &'a str, is_failover: bool },
    /// One that serves its snapshot, and is gone with the connection.
    ForSnapshot,
}

impl SlotKind<'_> {
    fn creation(self) -> String {
        let (name, options) = match self {
            // Postgres 14 takes only the keyword; an option of 17 only goes into parentheses.
            Self::Kept { name, is_failover: true } => {
                (name.to_owned(), "LOGICAL pgoutput (SNAPSHOT 'export', FAILOVER true)")
            }
            Self::Kept { name, is_failover: false } => {
                (name.to_owned(), "LOGICAL pgoutput EXPORT_SNAPSHOT")
            }
            // Of all databases no two have the same.
            Self::ForSnapshot => (
                format!("pgoutbox_list_{:016x}", fastrand::u64(..)),
                "TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT",
            ),
        };
        let name = postgres_protocol::escape::escape_identifier(&name);
        format!("CREATE_REPLICATION_SLOT {name} {options}")
    }
}

/// A slot just made, and what was committed before its stream begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewSlot {
    /// Where its stream begins: what was committed before is not in it, what is committed
    /// later is.
    pub consistent_lsn: PgLsn,
    /// Name of a snapshot that sees exactly what is not in the stream. It lives until the next
    /// command on the connection, or its end.
    pub snapshot: String,
}

/// One replication connection, before its stream.
pub(crate) struct Wal {
    connection: Connection,
    slot: String,
    publication: String,
    wal_sender_timeout: Duration,
}

/// The stream of one connection.
pub(crate) struct WalStream {
    frames: Frames<ReadHalf<Box<dyn Socket>>>,
    acknowledged: watch::Sender<u64>,
    told: StatusUpdates,
    reporting: JoinHandle<Option<WriteHalf<Box<dyn Socket>>>>,
    pid: Option<i32>,
}

impl Wal {
    /// Connects, and asks the server who it is.
    pub(crate) async fn connect(config: &Postgres) -> Result<(Self, Identity), Fault> {
        let config = &config.renewed().await;
        let mut search = Search::new(ROLE.server(config), true);
        let (connection, identity) = loop {
            let Some(server) = search.next() else { return Err(search.end()) };
            match log_in(config, &server).await {
                Ok(found) if search.is_found(&server, found.0.is_standby) => break found,
                Ok(_) => {}
                Err(fault) => search.failed(&server, fault)?,
            }
        };
        let wal = Self {
            connection,
            slot: config.slot.clone(),
            publication: config.publication.clone(),
            wal_sender_timeout: config.wal_sender_timeout,
        };
        Ok((wal, identity))
    }

    /// Makes a slot. No single transaction that is writing is waited for longer than
    /// `lock_timeout`, by the server's own clock: a client that just gives up leaves the server
    /// waiting, and then a slot that nobody knows of. (`statement_timeout` does not count for
    /// replication commands.)
    ///
    /// # Errors
    /// SQLSTATE 55P03 where a transaction took too long; no slot is left behind then. Or whatever
    /// else the server says.
    pub(crate) async fn create_slot(
        &mut self,
        kind: SlotKind<'_>,
        lock_timeout: Duration,
        bound: Duration,
    ) -> Result<NewSlot, Fault> {
        let timeout = format!("SET lock_timeout = '{}ms'", lock_timeout.as_millis());
        let create = kind.creation();
        let asked = async {
            self.connection.query(&timeout).await?;
            self.connection.query(&create).await
        };
        let rows = within(bound, asked, no_answer).await?;
        let column = |number| {
            cell(&rows, number)
                .ok_or_else(|| Fault::transient("CREATE_REPLICATION_SLOT answered nothing"))
        };
        let (lsn, snapshot) = (column(1)?, column(2)?);
        let consistent_lsn = lsn
            .parse()
            .map_err(|_| Fault::transient(format!("CREATE_REPLICATION_SLOT answered {lsn}")))?;
        Ok(NewSlot { consistent_lsn, snapshot: snapshot.to_owned() })
    }

    /// Drops a slot that nobody reads.
    ///
    /// # Errors
    /// SQLSTATE 55006 where another connection holds the slot. Or whatever else the server says.
    pub(crate) async fn drop_slot(&mut self, slot: &str, bound: Duration) -> Result<(), Fault> {
        let name = postgres_protocol::escape::escape_identifier(slot);
        let drop = format!("DROP_REPLICATION_SLOT {name}");
        within(bound, self.connection.query(&drop), no_answer).await.map(|_| ())
    }

    /// Starts the stream, which takes hold of the slot. Always from 0/0: the server then
    /// starts where the slot stands. With `has_messages`, what `pg_logical_emit_message` wrote comes too.
    /// An LSN of our own would be taken for acknowledged, and
    /// on a server that is behind it would skip what is written next.
    ///
    /// # Errors
    /// SQLSTATE 55006 where another connection holds the slot. Or whatever else the server says.
    pub(crate) async fn start(
        self,
        has_messages: bool,
        bound: Duration,
    ) -> Result<WalStream, Fault> {
        let Self { connection, slot, publication, wal_sender_timeout } = self;
        // The server parses the names as identifiers: unquoted, MyPub would be folded to mypub.
        let slot = postgres_protocol::escape::escape_identifier(&slot);
        let publication = postgres_protocol::escape::escape_identifier(&publication);
        let start = format!(
            "START_REPLICATION SLOT {slot} LOGICAL 0/0 (proto_version '1', publication_names '{}'{})",
            publication.replace('\'', "''"),
            // Anybody's, of any prefix: the server cannot choose.
            if has_messages { ", messages 'true'" } else { "" }
        );
        let pid = connection.pid();
        let (socket, read) =
            within(bound, connection.begin_stream(&start), no_answer).await?.into_parts();
        let (reader, writer) = tokio::io::split(socket);
        let (acknowledged, receiver) = watch::channel(0);
        let told = StatusUpdates::default();
        let ping = wal_sender_timeout / PINGS;
        let reporting = tokio::spawn(status::report(writer, receiver, told.clone(), ping));
        let frames = Frames::of_parts(reader, read);
        Ok(WalStream { frames, acknowledged, told, reporting, pid })
    }
}

/// Reads bytes as a server would have sent them, whatever they are: for the fuzzer.
#[doc(hidden)]
pub fn read_anything(bytes: &[u8]) {
    let mut frames = Frames::new(bytes);
    while let Some(Ok(frame)) = frames.next().now_or_never() {
        match frame.tag {
            b'd' => {
                if let Ok(ReplicationCopyData::XLogData { data, .. }) = parse_copy_data(frame.body)
                {
                    let _ = pgoutput::decode(&data);
                }
            }
            b'E' | b'N' => drop(server_fault(&frame.body)),
            _ => connection::read_anything(frame.body),
        }
    }
}

impl WalStream {
    /// The walsender's process, as the server named it.
    pub(crate) fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// Waits for what the server sends next. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// The connection has ended, or its bytes are no valid message.
    pub(crate) async fn next(&mut self) -> Result<Input, Fault> {
        loop {
            let frame = self.frames.next().await?;
            if let Some(input) = self.input(frame)? {
                return Ok(input);
            }
        }
    }

    /// What the server has sent already.
    pub(crate) fn next_now(&mut self) -> Option<Result<Input, Fault>> {
        self.next().now_or_never()
    }

    /// Tells Postgres that everything before this LSN is safe.
    pub(crate) fn acknowledge(&self, lsn: PgLsn) {
        self.acknowledged.send_replace(lsn.into());
    }

    /// Ends the stream, with a last word on what is acknowledged.
    pub(crate) async fn stop(mut self, bound: Duration) {
        let farewell = async {
            self.told.is_over.notify_one();
            let mut writer = (&mut self.reporting).await.ok()??;
            // The server may still be sending; it answers once it has read our end.
            while self.frames.next().await.ok()?.tag != b'Z' {}
            let mut terminate = BytesMut::new();
            frontend::terminate(&mut terminate);
            writer.write_all(&terminate).await.ok()?;
            writer.shutdown().await.ok()
        };
        let _ = in_time(bound, farewell).await;
    }

    fn input(&self, frame: Frame) -> Result<Option<Input>, Fault> {
        match frame.tag {
            b'd' => {}
            b'E' => return Err(at_a_row(server_fault(&frame.body))),
            b'c' => {
                let what = "Postgres has ended the replication stream";
                return Err(Fault::of(Kind::Closed, Peer::Postgres, what));
            }
            // A notice, or a parameter that has changed.
            _ => return Ok(None),
        }
        Ok(Some(match parse_copy_data(frame.body).map_err(|error| ended(&error))? {
            ReplicationCopyData::KeepAlive { wal_end, reply_requested, .. } => {
                if reply_requested {
                    self.told.is_asked.notify_one();
                }
                let wal_end = PgLsn::from(wal_end.0);
                Input::KeepAlive { wal_end, is_reply_requested: reply_requested }
            }
            // Of a change it says where its record starts (`ReorderBufferChange.lsn`).
            ReplicationCopyData::XLogData { wal_start, data, .. } => Input::Stream {
                lsn: PgLsn::from(wal_start.0),
                message: pgoutput::decode(&data).map_err(|error| {
                    let what = format!("protocol error in the replication stream: {error}");
                    Fault::of(Kind::Protocol, Peer::Postgres, what)
                })?,
            },
        }))
    }
}

/// What the walsender raised, told apart where one row is the cause: a filter of the publication that cannot be
/// worked out for it, text that has no UTF-8, more than a message holds. Neither changes by itself, and a filter
/// holds for the WAL that was written under it: the server decodes with the catalog of that time.
fn at_a_row(fault: Fault) -> Fault {
    let is_of_row = |error: &ServerError| ["22", "54"].contains(&error.code.class());
    if fault.is_code(codes::INTERNAL_ERROR) {
        let hint = format!(
            "{}; if it lasts, a row may be too long to be sent, more than 1 GB as text: with on_slot_loss = \"catch_up\" and marks the slot is then made again by itself, and the other rows are read from the table",
            fault.hint
        );
        return fault.hint(hint);
    }
    if !server_error(&fault).is_some_and(is_of_row) {
        return fault;
    }
    let what = format!("the walsender cannot pass a row: {}", fault.what);
    Fault::of(Kind::RowInStream, Peer::Postgres, what)
}

impl Drop for WalStream {
    fn drop(&mut self) {
        // It would hold the connection, and so the slot.
        self.reporting.abort();
    }
}

/// Logs in, and asks the server who it is.
async fn log_in(config: &Postgres, server: &Server) -> Result<(Connection, Identity), Fault> {
    let bound = config.connect_timeout;
    let reached = connection::reach(server, bound).await?;
    let connecting = async {
        let options = role::options(&ROLE.settings(config));
        let name = ROLE.application_name(config);
        let mut connection = Connection::open(server, reached, &name, &options).await?;
        let rest = ROLE.rest(config, &connection.version, connection.is_applied);
        let set = role::statements(&rest)?;
        if !set.is_empty() {
            connection.query(&set).await?;
        }
        let rows = connection.query("IDENTIFY_SYSTEM").await?;
        Ok((connection, identity(&rows)?))
    };
    within(bound, connecting, no_answer).await
}

fn cell(rows: &[TextRow], number: usize) -> Option<&str> {
    rows.first().and_then(|row| row.get(number)).and_then(Option::as_deref)
}

fn identity(rows: &[TextRow]) -> Result<Identity, Fault> {
    let timeline = cell(rows, 1).and_then(|timeline| timeline.parse().ok());
    match (cell(rows, 0), timeline) {
        (Some(system_identifier), Some(timeline)) => {
            Ok(Identity { system_identifier: system_identifier.to_owned(), timeline })
        }
        _ => Err(Fault::transient("IDENTIFY_SYSTEM answered nothing that makes sense")),
    }
}
