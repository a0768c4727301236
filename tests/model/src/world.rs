//! The world around the relay: what happens next, and to whom.
//!
//! One file for each actor.

mod broker;
mod clock;
mod effects;
mod operator;
mod postgres;
mod session;
mod setup;
mod tally;

use std::collections::{BTreeSet, VecDeque};
use std::ops::AddAssign;
use std::rc::Rc;
use std::time::Duration;

use pgoutbox::error::Fault;
use pgoutbox::testing::config::{
    Audit, AuditMode, OnFailure, Parking, Table as TableConfig, Template,
};
use pgoutbox::testing::core::event::{Position, Refusal};

use pgoutbox::testing::core::event::pgoutput;
use pgoutbox::testing::core::event::pgoutput::StoredRow;
use pgoutbox::testing::core::message::{Limits, Message};
use pgoutbox::testing::core::parked::{Aggregate, Head, ParkedRow, Schedule};
use pgoutbox::testing::core::relay::marks::{
    Batch, Extent, Left, UnwrittenMark, Why, WrittenBatch,
};
use pgoutbox::testing::core::relay::window::Answer;
use pgoutbox::testing::core::relay::{
    CatchUpCursor, Effect, End, Input, KnownName, LookAhead, LookedAhead, Memory, Naming, Relay,
    Resolution, Rules,
};

use crate::broker::{Broker, Connection, DEAD, Sent};
use crate::postgres::{
    Frame, Marking, MarksWritten, Postgres, Row, Table, Walsender, What, micros,
};
use crate::rules::{Ledger, Mode, Watch, position_of};
use crate::script::Script;

pub use tally::Tally;

use setup::{mode, rules, weights};

/// Silence of the server after which a keepalive is due.
const KEEPALIVE_MS: u64 = 5_000;
/// Bound on the end of a round: what takes longer does not end.
const LAST_STEPS: usize = 20_000;

/// A batch of marks: sent, then executed by the server, then answered.
struct Marks {
    batch: Batch,
    written: Option<MarksWritten>,
}

/// A check of the publication, likewise.
struct Check {
    answer: Option<Result<u64, ()>>,
}

/// Rows of the list of a catch-up, with their numbers.
type Listed = Vec<(u64, StoredRow)>;

/// A relay and its connections.
struct Session {
    number: u64,
    /// The name that streams are published to under.
    name: u64,
    relay: Relay,
    memory: Memory,
    began: u64,
    walsender: Walsender,
    /// Acknowledged, and not yet at the server: with the publishing id of the last change before.
    acks: VecDeque<(u64, u64)>,
    connection: Connection,
    body_limit: usize,
    /// How many messages were in flight when the broker closed the channel.
    closed_with: Option<usize>,
    /// A new channel is on its way.
    is_reopening: bool,
    /// Were in flight on a channel that was closed: they go again.
    in_doubt: BTreeSet<usize>,
    blocked_told: bool,
    marks: Option<Marks>,
    check: Option<Check>,
    resolving: Option<u32>,
    /// The look that is under way: not answered, then with what the server says.
    look: Option<(Option<Position>, Option<Schedule>)>,
    claims: Vec<(Aggregate, i64, Option<Head>)>,
    claims_alone: Vec<(Vec<i64>, Option<Vec<ParkedRow>>)>,
    catching_up: Option<(u64, Option<Listed>)>,
    /// The list is to be removed; it was.
    finishing: Option<bool>,
    last_frame: u64,
    watch: Watch,
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Commit,
    Noise,
    DeleteRow,
    LockRow,
    RefuseMark,
    CloseTable,
    Flush,
    Checkpoint,
    Send,
    KeepAlive,
    Read,
    Process,
    Confirm,
    Haunt,
    Look,
    /// Much at once, as it is where the machine is quick.
    Burst,
    Execute,
    Answer,
    DeliverAck,
    Wait,
    WaitLong,
    Unbind,
    Refuse,
    DropExchange,
    LowerLimit,
    RepairBroker,
    Block,
    Unblock,
    CutBroker,
    CutPostgres,
    Crash,
    Restart,
    Copy,
    Restore,
    BreakPublication,
    Storm,
    Drain,
    Discard,
    Retry,
    Replay,
    Pause,
    Resume,
    UnbindDead,
    Notify,
    Kill,
}

/// Everything.
pub struct World {
    script: Rc<Script>,
    now: u64,
    postgres: Postgres,
    broker: Broker,
    session: Option<Session>,
    memory: Memory,
    /// What a session has found that looked ahead, and when the server was started on which it did.
    looked: Option<(u64, LookedAhead)>,
    /// The files of Postgres, of some time before.
    copy: Option<Box<Postgres>>,
    /// Names that were made, for streams.
    names: u64,
    /// Batches of marks of relays that are gone, which the server may still execute.
    zombies: Vec<(u64, Batch)>,
    ledger: Ledger,
    mode: Mode,
    rules: Rules,
    marking: Marking,
    body_limit: usize,
    largest_body: u64,
    largest_transaction: u64,
    weights: Vec<(u32, Act)>,
    tally: Tally,
}

/// Where events go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sinks {
    Exchange,
    Stream,
    Both,
}

impl World {
    /// Events go to an exchange.
    pub fn new(script: Rc<Script>) -> Self {
        Self::of(script, Sinks::Exchange)
    }

    /// Events go to a stream.
    pub fn of_streams(script: Rc<Script>) -> Self {
        Self::of(script, Sinks::Stream)
    }

    /// Events of one table go to a stream, the others to exchanges.
    pub fn of_both(script: Rc<Script>) -> Self {
        Self::of(script, Sinks::Both)
    }

    fn of(script: Rc<Script>, sinks: Sinks) -> Self {
        let marking = script.weighted(&[
            (5, Marking::Update),
            (2, Marking::Delete),
            (2, Marking::SideTable),
            (2, Marking::None),
        ]);
        let mode = mode(&script, sinks);
        let rules = rules(&script, marking, mode);
        script.note(format_args!(
            "window {} messages {} bytes, {:?}, {mode:?}, {:?}",
            rules.window_messages, rules.window_bytes, rules.audit, rules.parking
        ));
        let largest_transaction = script.pick(&[1, 3, 10, 60]);
        let mut world = Self {
            now: 0,
            mode,
            postgres: Postgres::new(marking, script.is_heads()),
            broker: Broker::new(script.is_heads()),
            session: None,
            memory: Memory::default(),
            looked: None,
            copy: None,
            names: 0,
            zombies: Vec::new(),
            ledger: Ledger::default(),
            rules,
            marking,
            body_limit: 10_000,
            largest_body: script.pick(&[1, 50, 400]),
            largest_transaction,
            weights: weights(&script, largest_transaction, mode),
            tally: Tally::default(),
            script,
        };
        if world.script.one_in(3) {
            world.list();
        }
        world
    }

    /// Rows were there before the slot.
    fn list(&mut self) {
        let count = self.script.within(1..20);
        let mut rows: Vec<Row> = (0..count).map(|_| self.row(0)).collect();
        rows.retain(|row| row.table.is_outbox() && !row.table.is_message());
        let count = rows.len();
        self.postgres.list(rows);
        self.ledger.committed(0..count, false);
        self.tally.listed += count as u64;
        self.say(format_args!("{count} rows are there already, and listed"));
    }

    /// Runs a round: `steps` of anything, then everything is repaired and must come to its end.
    pub fn run(mut self, steps: u64) -> Tally {
        for _ in 0..steps {
            if self.session.is_none() {
                self.begin();
            }
            let act = self.script.weighted(&self.weights);
            self.act(act);
            self.ledger.look_at_queue(&self.broker, &self.postgres, self.mode);
        }
        self.finish();
        self.tally.events = self.postgres.events.len() as u64;
        (self.tally.copies, self.tally.repeats) = (self.ledger.copies, self.ledger.repeats);
        self.tally.dropped = self.broker.dropped;
        self.tally.marks_released = self.ledger.released_count;
        self.tally.simulated_ms = self.now;
        self.tally
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Commit => self.commit(),
            Act::Noise => self.postgres.noise(self.script.within(1..5_000)),
            Act::DeleteRow => self.with_recent_event("deleted", |event, _| event.is_deleted = true),
            Act::LockRow => {
                self.with_recent_event("locked", |event, until| event.locked_until = until)
            }
            Act::RefuseMark => {
                let is_for_ever = self.script.is_heads();
                self.with_recent_event("refused its mark", |event, until| {
                    event.refused_until = if is_for_ever { u64::MAX } else { until };
                });
            }
            Act::CloseTable => self.close_table(),
            Act::Flush => self.postgres.flush(),
            Act::Checkpoint => self.postgres.checkpoint(),
            Act::Send => self.send(),
            Act::KeepAlive => self.keepalive(),
            Act::Read => self.read(self.script.within(1..30)),
            Act::Process => self.process(self.script.within(1..20)),
            Act::Confirm => self.connection(|connection, script| connection.confirm(script, false)),
            Act::Haunt => {
                self.broker.haunt(&self.script);
            }
            Act::Look => self.look(),
            Act::Burst => self.burst(),
            Act::Execute => self.execute(),
            Act::Answer => self.answer(),
            Act::DeliverAck => self.deliver_ack(),
            Act::Wait => self.wait(self.script.within(0..40)),
            Act::WaitLong => self.wait(self.script.within(0..4_000)),
            Act::Unbind => self.trouble("unbound", |broker| &mut broker.unbound),
            Act::Refuse => self.trouble("full", |broker| &mut broker.full),
            Act::DropExchange => self.drop_exchange(),
            Act::LowerLimit => self.lower_limit(),
            Act::RepairBroker => self.repair_broker(),
            Act::Block => self.block(true),
            Act::Unblock => self.block(false),
            Act::CutBroker => self.lose("the broker's connection is lost"),
            Act::CutPostgres => self.lose("the stream or the audit connection is lost"),
            Act::Crash => self.crash(),
            Act::Restart => self.restart(),
            Act::Copy => self.copy(),
            Act::Restore => self.restore(),
            Act::BreakPublication => self.break_publication(),
            Act::Storm => self.storm(),
            Act::Drain => self.drain(),
            Act::Discard => self.discard(),
            Act::Retry => self.retry(),
            Act::Replay => self.replay(),
            Act::Pause => self.pause(true),
            Act::Resume => self.pause(false),
            Act::UnbindDead => self.broker.is_dead_unbound = true,
            Act::Notify => self.handle(Input::Notified),
            Act::Kill => self.kill(),
        }
    }

    fn say(&self, line: std::fmt::Arguments<'_>) {
        self.script.note(format_args!("{:>7} ms  {line}", self.now));
    }
}

fn pair(position: Position) -> (u64, u64) {
    (position.commit_lsn.into(), position.index)
}

fn millis_up(duration: Duration) -> u64 {
    millis(duration + Duration::from_nanos(999_999))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
