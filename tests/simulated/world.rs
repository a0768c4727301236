//! The world around the relay: what happens next, and to whom.

use std::collections::{BTreeSet, VecDeque};
use std::ops::AddAssign;
use std::rc::Rc;
use std::time::Duration;

use pgoutbox::config::{
    Audit, AuditMode, ColumnRef, Columns, MessageMap, OnFailure, Parking, Piece,
    Table as TableConfig, Template,
};
use pgoutbox::error::Fault;
use pgoutbox::testing::core::event::{Position, Refusal};

use pgoutbox::testing::core::event::pgoutput;
use pgoutbox::testing::core::event::pgoutput::StoredRow;
use pgoutbox::testing::core::message::{Limits, Message};
use pgoutbox::testing::core::parked::{Aggregate, Head, Looked, ParkedRow};
use pgoutbox::testing::core::relay::marks::{Batch, Missed, Why, Written};
use pgoutbox::testing::core::relay::window::Answer;
use pgoutbox::testing::core::relay::{
    CatchUp, Effect, End, Input, Memory, Relay, Resolution, Rules,
};

use crate::broker::{Broker, Connection, DEAD, Sent};
use crate::postgres::{Frame, Marking, MarksWritten, Postgres, Row, Table, Walsender, What};
use crate::rules::{Ledger, Mode, Watch, position_of};
use crate::script::Script;

/// Silence of the server after which a keepalive is due.
const KEEPALIVE_MS: u64 = 5_000;
/// Bound on the end of a round: what takes longer does not end.
const LAST_STEPS: usize = 20_000;

/// What rounds came to.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    events: u64,
    copies: u64,
    repeats: u64,
    sessions: u64,
    kills: u64,
    server_crashes: u64,
    connections_lost: u64,
    channels_closed: u64,
    stuck: u64,
    drained: u64,
    publication_broken: u64,
    storms: u64,
    acknowledged: u64,
    marks_released: u64,
    marks_refused: u64,
    tables_closed: u64,
    most_repeated_by_a_kill: u64,
    simulated_ms: u64,
    parked: u64,
    queued: u64,
    retried: u64,
    discarded: u64,
    discarded_in_flight: u64,
    freed: u64,
    asked_for: u64,
    replayed: u64,
    listed: u64,
    pauses: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.copies += other.copies;
        self.repeats += other.repeats;
        self.sessions += other.sessions;
        self.kills += other.kills;
        self.server_crashes += other.server_crashes;
        self.connections_lost += other.connections_lost;
        self.channels_closed += other.channels_closed;
        self.stuck += other.stuck;
        self.drained += other.drained;
        self.publication_broken += other.publication_broken;
        self.storms += other.storms;
        self.acknowledged += other.acknowledged;
        self.marks_released += other.marks_released;
        self.marks_refused += other.marks_refused;
        self.tables_closed += other.tables_closed;
        self.most_repeated_by_a_kill =
            self.most_repeated_by_a_kill.max(other.most_repeated_by_a_kill);
        self.simulated_ms += other.simulated_ms;
        self.parked += other.parked;
        self.queued += other.queued;
        self.retried += other.retried;
        self.discarded += other.discarded;
        self.discarded_in_flight += other.discarded_in_flight;
        self.freed += other.freed;
        self.asked_for += other.asked_for;
        self.replayed += other.replayed;
        self.listed += other.listed;
        self.pauses += other.pauses;
    }
}

impl Tally {
    /// Each thing that may happen did.
    pub(crate) fn check_that_it_was_worth_it(&self) {
        let counts = [
            self.kills,
            self.server_crashes,
            self.connections_lost,
            self.channels_closed,
            self.stuck,
            self.drained,
            self.publication_broken,
            self.storms,
            self.acknowledged,
            self.marks_released,
            self.marks_refused,
            self.tables_closed,
            self.most_repeated_by_a_kill,
            self.parked,
            self.queued,
            self.retried,
            self.discarded,
            self.discarded_in_flight,
            self.freed,
            self.asked_for,
            self.replayed,
            self.listed,
            self.pauses,
        ];
        assert!(counts.iter().all(|count| *count > 0), "something never happened");
    }
}

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
    relay: Relay,
    memory: Memory,
    began: u64,
    walsender: Walsender,
    /// Acknowledged, and not yet at the server.
    acks: VecDeque<u64>,
    connection: Connection,
    body_limit: usize,
    /// How many messages were in flight when the broker closed the channel.
    closed_with: Option<usize>,
    blocked_told: bool,
    marks: Option<Marks>,
    check: Option<Check>,
    resolving: Option<u32>,
    /// The look that is under way: not answered, then with what the server says.
    look: Option<(Option<Position>, Option<Looked>)>,
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
    MendBroker,
    Block,
    Unblock,
    CutBroker,
    CutPostgres,
    Crash,
    Restart,
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
pub(crate) struct World {
    script: Rc<Script>,
    now: u64,
    postgres: Postgres,
    broker: Broker,
    session: Option<Session>,
    memory: Memory,
    /// Batches of marks of relays that are gone, which the server may still execute.
    zombies: Vec<Batch>,
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

impl World {
    pub(crate) fn new(script: Rc<Script>) -> Self {
        let marking = script.weighted(&[
            (5, Marking::Update),
            (2, Marking::Delete),
            (2, Marking::SideTable),
            (2, Marking::None),
        ]);
        let mode = mode(&script);
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
        rows.retain(|row| row.table != Table::Other);
        let count = rows.len();
        self.postgres.list(rows);
        self.ledger.committed(0..count, false);
        self.tally.listed += count as u64;
        self.say(format_args!("{count} rows are there already, and listed"));
    }

    /// Runs a round: `steps` of anything, then everything is repaired and must come to its end.
    pub(crate) fn run(mut self, steps: u64) -> Tally {
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
            Act::MendBroker => self.mend_broker(),
            Act::Block => self.block(true),
            Act::Unblock => self.block(false),
            Act::CutBroker => self.lose("the broker's connection is lost"),
            Act::CutPostgres => self.lose("the stream or the audit connection is lost"),
            Act::Crash => self.crash(),
            Act::Restart => self.restart(),
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

    // Postgres

    fn commit(&mut self) {
        let count = self.script.within(0..self.largest_transaction + 1);
        let mut shape = self.script.pick(&[0, 0, 1, 2]);
        let mut rows = Vec::new();
        for _ in 0..count {
            if self.script.one_in(10) {
                shape = self.script.pick(&[0, 1, 2]);
            }
            rows.push(self.row(shape));
        }
        let delay = self.script.weighted(&[(20, 0), (2, 20), (1, 3_000), (1, 30_000)]);
        let visible_at = if delay == 0 { 0 } else { self.now + self.script.within(0..delay) };
        let is_synchronous = !self.script.one_in(8);
        let before = self.postgres.events.len();
        self.postgres.commit(&self.script, rows, visible_at, is_synchronous);
        let after = self.postgres.events.len();
        self.ledger.committed(before..after, self.postgres.is_publication_broken);
        let how = if is_synchronous { "" } else { ", asynchronously" };
        self.say(format_args!(
            "commit of events {before}..{after} ends at {:X}, visible at {visible_at}{how}",
            self.postgres.end
        ));
    }

    fn row(&self, shape: u8) -> Row {
        let script = &self.script;
        let body = "x".repeat(usize::try_from(script.within(0..self.largest_body)).unwrap());
        Row {
            table: script.weighted(&[
                (6, Table::Known),
                (3, Table::Named),
                (3, Table::Leaf),
                (2, Table::Other),
            ]),
            shape,
            id: String::new(),
            aggregate: script.within(0..4),
            topic: (!script.one_in(4)).then(|| format!("k{}", script.within(0..5))),
            exchange: script.one_in(12).then_some("second"),
            body: format!("\"{body}\""),
        }
    }

    fn with_recent_event(&mut self, what: &str, change: impl Fn(&mut crate::postgres::Event, u64)) {
        let count = self.postgres.events.len();
        if count == 0 {
            return;
        }
        let place = count - 1 - self.script.up_to(count.min(20) - 1);
        let until = self.now + self.script.within(0..20_000);
        let event = &mut self.postgres.events[place];
        // A listed row that is gone was never an event of the stream's: nobody could deliver it.
        let is_listed = event.end_lsn == 0;
        if is_listed || event.locked_until > self.now || event.end_lsn > self.postgres.flushed {
            return;
        }
        change(event, until);
        self.say(format_args!("the row of event {place} is {what} (until {until})"));
    }

    /// A table takes no marks any more: a trigger raises, a right is gone.
    fn close_table(&mut self) {
        let table = self.script.up_to(1);
        let until = self.now + self.script.pick(&[100, 5_000, 60_000, 600_000]);
        self.postgres.close_table(table, until);
        self.tally.tables_closed += 1;
        self.say(format_args!("table {table} takes no marks until {until}"));
    }

    fn send(&mut self) {
        let count = self.script.within(1..5);
        let Some(session) = &mut self.session else { return };
        for _ in 0..count {
            session.walsender.send(&self.postgres, &self.script);
        }
    }

    fn keepalive(&mut self) {
        let is_reply_requested = self.script.one_in(4);
        let Some(session) = &mut self.session else { return };
        session.walsender.send(&self.postgres, &self.script);
        session.walsender.keepalive(is_reply_requested);
    }

    fn execute(&mut self) {
        if !self.zombies.is_empty() && self.script.is_heads() {
            let batch = self.zombies.remove(0);
            self.say(format_args!("a batch of a relay that is gone is written after all"));
            self.write(&batch);
            return;
        }
        let Some(session) = &mut self.session else { return };
        if let Some(check) = &mut session.check {
            let answer = if self.postgres.is_publication_broken {
                Err(())
            } else {
                Ok(self.postgres.flushed)
            };
            check.answer.get_or_insert(answer);
        }
        if let Some((from, look @ None)) = &mut session.look {
            let lsn = self.postgres.transaction(false);
            *look = Some(self.postgres.parking.look(self.now, lsn, *from));
        }
        for (aggregate, after, head) in &mut session.claims {
            let lsn = self.postgres.transaction(false);
            let parking = &mut self.postgres.parking;
            head.get_or_insert_with(|| parking.claim(self.now, lsn, aggregate, *after));
        }
        for (seqs, rows) in &mut session.claims_alone {
            let lsn = self.postgres.transaction(false);
            let parking = &mut self.postgres.parking;
            rows.get_or_insert_with(|| parking.claim_alone(self.now, lsn, seqs));
        }
        if let Some((from, rows @ None)) = &mut session.catching_up {
            *rows = Some(self.postgres.listed(*from, 3));
        }
        if let Some(is_done @ false) = &mut session.finishing {
            *is_done = true;
            self.postgres.remove_list();
        }
        let Some(mut marks) = session.marks.take() else { return };
        if marks.written.is_none() {
            marks.written = Some(self.write(&marks.batch));
        }
        if let Some(session) = &mut self.session {
            session.marks = Some(marks);
        }
    }

    fn write(&mut self, batch: &Batch) -> MarksWritten {
        let position = pair(batch.position);
        let written = self.postgres.write(self.now, batch, position);
        self.ledger.recorded(&self.postgres);
        written
    }

    fn answer(&mut self) {
        let Some(session) = &mut self.session else { return };
        let is_looked = |look: &mut (Option<Position>, Option<Looked>)| look.1.is_some();
        if let Some((_, Some(looked))) = session.look.take_if(is_looked) {
            session.watch.is_paused = looked.paused_by.is_some();
            return self.handle(Input::Looked(looked));
        }
        let answered = session.claims.iter().position(|(_, _, head)| head.is_some());
        if let Some((aggregate, _, Some(head))) = answered.map(|at| session.claims.swap_remove(at))
        {
            return self.handle(Input::Claimed { aggregate, head });
        }
        let answered = session.claims_alone.iter().position(|(_, rows)| rows.is_some());
        if let Some((asked, Some(rows))) = answered.map(|at| session.claims_alone.swap_remove(at)) {
            return self.handle(Input::ClaimedAlone { asked, rows });
        }
        let is_listed = |it: &mut (u64, Option<Vec<_>>)| it.1.is_some();
        if let Some((_, Some(rows))) = session.catching_up.take_if(is_listed) {
            let next = rows.last().map_or(0, |(n, _)| n + 1);
            let is_last = rows.is_empty();
            return self.handle(Input::CatchUp { rows, next, is_last });
        }
        if session.finishing.take_if(|is_done| *is_done).is_some() {
            return self.handle(Input::CaughtUp);
        }
        if let Some(oid) = session.resolving.take() {
            let resolution = match Table::from_oid(oid) {
                Table::Leaf => Resolution::Partition(1),
                Table::Other => Resolution::Other,
                table => panic!("{table:?} is known and need not be resolved"),
            };
            return self.handle(Input::Resolved(resolution));
        }
        let is_written = session.marks.as_ref().is_some_and(|marks| marks.written.is_some());
        if is_written && self.script.is_heads() {
            let Some(Marks { batch, written: Some(written) }) = session.marks.take() else {
                unreachable!("looked at above");
            };
            let MarksWritten { missing, written_lsn, flushed_lsn } = written;
            for Missed { place: at, why } in &missing {
                let place = self.postgres.place(&batch.marks[*at].id).expect("an event");
                session.watch.missing_since.entry(place).or_insert(self.now);
                if matches!(why, Why::Refused(_)) {
                    self.ledger.refused.insert(place);
                    self.tally.marks_refused += 1;
                }
            }
            if !missing.is_empty() {
                self.say(format_args!("{} marks could not be written", missing.len()));
            }
            let (written_lsn, flushed_lsn) = (written_lsn.into(), flushed_lsn.into());
            return self.handle(Input::Written(Written {
                batch,
                missing,
                written_lsn,
                flushed_lsn,
            }));
        }
        let answer = session.check.as_ref().and_then(|check| check.answer);
        let Some(answer) = answer else { return };
        session.check = None;
        match answer {
            Ok(flushed_lsn) => {
                session.watch.checks_passed = session.watch.checks_begun;
                self.handle(Input::Checked { flushed_lsn: flushed_lsn.into() });
            }
            Err(()) => {
                self.end(End::Fault(Fault::definite("the publication lacks a table", "add it")));
            }
        }
    }

    fn deliver_ack(&mut self) {
        let Some(session) = &mut self.session else { return };
        if let Some(lsn) = session.acks.pop_front() {
            assert!(lsn <= session.walsender.sent, "{lsn:X} was never sent");
            self.postgres.acknowledged(lsn);
            self.ledger.recorded(&self.postgres);
        }
    }

    fn crash(&mut self) {
        self.say(format_args!(
            "Postgres crashes: {:X} of {:X} was on disk",
            self.postgres.flushed, self.postgres.end
        ));
        self.tally.server_crashes += 1;
        self.postgres.crash();
        self.ledger.taken_back(self.postgres.events.len());
        self.end(End::Fault(Fault::transient("Postgres crashed")));
        // Nothing that was not executed by now ever is.
        self.zombies.clear();
    }

    fn restart(&mut self) {
        self.say(format_args!("Postgres restarts"));
        let is_slot_saved = self.script.is_heads();
        self.postgres.restart(is_slot_saved);
        self.end(End::Fault(Fault::transient("Postgres restarted")));
        self.zombies.clear();
    }

    fn break_publication(&mut self) {
        if !self.postgres.is_publication_broken {
            self.say(format_args!("the publication loses its tables"));
            self.tally.publication_broken += 1;
            self.postgres.alter_publication(true);
        }
    }

    fn mend_publication(&mut self) {
        if self.postgres.is_publication_broken {
            self.say(format_args!("the publication is repaired"));
            self.postgres.alter_publication(false);
            self.ledger.noticed();
        }
    }

    /// A fast shutdown: the walsender waits until everything it sent is acknowledged, and asks
    /// and asks. A relay that is reading either acknowledges or lets go.
    fn storm(&mut self) {
        self.say(format_args!("Postgres is to shut down, and waits for the relay"));
        self.tally.storms += 1;
        self.postgres.flush();
        for _ in 0..60 {
            let Some(session) = &mut self.session else { return };
            while session.walsender.send(&self.postgres, &self.script) {}
            if self.postgres.confirmed >= session.walsender.sent {
                break;
            }
            session.walsender.keepalive(true);
            self.read(u64::MAX);
            self.deliver_ack();
            self.now += 1;
        }
        let Some(session) = &self.session else { return };
        let is_let_go = self.postgres.confirmed >= session.walsender.sent;
        assert!(is_let_go || !session.relay.is_reading(), "the storm did not end");
        self.restart();
    }

    // RabbitMQ

    fn connection(&mut self, act: impl FnOnce(&mut Connection, &Script)) {
        if let Some(session) = &mut self.session {
            act(&mut session.connection, &self.script);
        }
    }

    fn process(&mut self, count: u64) {
        let Some(session) = &mut self.session else { return };
        for _ in 0..count {
            if !self.broker.take(&mut session.connection) {
                break;
            }
        }
        self.ledger.look_at_queue(&self.broker, &self.postgres, self.mode);
    }

    fn trouble(&mut self, what: &str, of: impl Fn(&mut Broker) -> &mut BTreeSet<String>) {
        let key = format!("k{}", self.script.within(0..5));
        self.say(format_args!("{key} is {what}"));
        of(&mut self.broker).insert(key);
    }

    fn drop_exchange(&mut self) {
        self.say(format_args!("the second exchange is deleted"));
        self.broker.missing_exchanges.insert("second".to_owned());
    }

    /// The operator's limit counts from the next session on.
    fn lower_limit(&mut self) {
        self.body_limit = usize::try_from(self.script.within(1..500)).unwrap();
        self.say(format_args!("the largest body is now {}", self.body_limit));
    }

    fn mend_broker(&mut self) {
        self.say(format_args!("the broker's queues and exchanges are repaired"));
        self.broker.unbound.clear();
        self.broker.full.clear();
        self.broker.missing_exchanges.clear();
        self.broker.is_dead_unbound = false;
        self.body_limit = 10_000;
    }

    /// An operator pauses the relay, or resumes it; it hears of that, or finds it out.
    fn pause(&mut self, is_paused: bool) {
        let parking = &mut self.postgres.parking;
        if std::mem::replace(&mut parking.is_paused, is_paused) == is_paused {
            return;
        }
        self.tally.pauses += u64::from(is_paused);
        self.say(format_args!("paused: {is_paused}"));
        self.hears();
    }

    /// Some of the parked events, in whatever place of their aggregates.
    fn some_parked(&self) -> Vec<i64> {
        let open = self.postgres.parking.open();
        let count = self.script.pick(&[1, 1, 1, 2, 3, open.len()]).min(open.len());
        (0..count).map(|_| open[self.script.up_to(open.len() - 1)]).collect()
    }

    /// An operator takes out parked events; what waits behind them goes on.
    fn discard(&mut self) {
        let seqs = self.some_parked();
        let lsn = self.postgres.transaction(self.script.is_heads());
        let done = self.postgres.parking.discard(lsn, &seqs);
        self.say(format_args!("{seqs:?} are discarded: {done:?}"));
        for place in done.places {
            self.ledger.discarded(place);
            self.tally.discarded += 1;
        }
        self.tally.discarded_in_flight += done.in_flight as u64;
        self.tally.freed += done.freed as u64;
        self.hears();
    }

    /// An operator has parked events tried at once.
    fn retry(&mut self) {
        let seqs = self.some_parked();
        let lsn = self.postgres.transaction(self.script.is_heads());
        let is_reset = self.script.is_heads();
        let count = self.postgres.parking.retry(self.now, lsn, &seqs, is_reset);
        self.say(format_args!("of {seqs:?} {count} are to be tried at once"));
        self.tally.asked_for += count as u64;
        self.hears();
    }

    /// An operator sends an event that was done with once more, beside the relay.
    fn replay(&mut self) {
        let records = self.postgres.parking.records();
        let Some(place) = records.get(self.script.up_to(records.len().max(1) - 1)) else { return };
        self.say(format_args!("event {place} is replayed"));
        self.broker.queue.push(crate::broker::Copy { place: *place, connection: usize::MAX });
        self.tally.replayed += 1;
    }

    /// The relay hears of what an operator did, or finds it out.
    fn hears(&mut self) {
        if self.script.is_heads() {
            self.handle(Input::Notified);
        }
    }

    fn block(&mut self, is_blocked: bool) {
        let Some(session) = &mut self.session else { return };
        session.connection.is_blocked = is_blocked;
        if session.blocked_told != is_blocked {
            session.blocked_told = is_blocked;
            self.say(format_args!("the broker blocks: {is_blocked}"));
            self.handle(Input::Blocked(is_blocked));
        }
    }

    fn burst(&mut self) {
        if let Some(session) = &mut self.session {
            while session.walsender.queue.len() < 40
                && session.walsender.send(&self.postgres, &self.script)
            {}
        }
        self.read(30);
        self.process(u64::MAX);
        self.connection(|connection, script| connection.confirm(script, true));
        self.look();
    }

    /// The relay looks at its confirms.
    fn look(&mut self) {
        let Some(session) = &mut self.session else { return };
        if session.closed_with.is_some() {
            return;
        }
        let is_closed = session.connection.closed.is_some();
        if session.connection.has_news() && !(is_closed && self.script.is_heads()) {
            let answers = session.connection.look(&self.script);
            return self.answers(answers);
        }
        if let Some(why) = session.connection.closed.clone() {
            self.tally.channels_closed += 1;
            session.closed_with = Some(session.relay.in_flight().0);
            self.say(format_args!("the broker closed the channel"));
            self.handle(Input::Closed(why));
        }
    }

    fn answers(&mut self, answers: Vec<Answer>) {
        let Some(session) = &mut self.session else { return };
        if answers.is_empty() {
            return;
        }
        for answer in &answers {
            match answer {
                Answer::Return(_) => session.watch.has_seen_refusal = true,
                Answer::Confirm { number, is_ack } => {
                    session.watch.unconfirmed.remove(number);
                    session.watch.has_seen_refusal |= !is_ack;
                }
            }
        }
        let short = |answer: &Answer| match answer {
            Answer::Return(returned) => format!("return {}", returned.message_id),
            Answer::Confirm { number, is_ack: true } => number.to_string(),
            Answer::Confirm { number, is_ack: false } => format!("{number} nack"),
        };
        self.say(format_args!("answers: {:?}", answers.iter().map(short).collect::<Vec<_>>()));
        self.handle(Input::Answers(answers));
    }

    // Sessions

    fn begin(&mut self) {
        // Nobody starts on a publication that lacks a table.
        self.mend_publication();
        // Read in a transaction that waits for the disk.
        self.postgres.flush();
        let (commit_lsn, index) = self.postgres.progress();
        let row = Position { commit_lsn: commit_lsn.into(), index };
        let memory = Memory { delivered: self.memory.delivered.max(row), ..self.memory.clone() };
        let delivered = pair(memory.delivered);
        let parked = self.postgres.parking.places();
        self.ledger.check_delivered(&self.postgres, &parked, delivered, "remembered position");
        let catch_up = self.postgres.catch_up().map(|lsn| CatchUp::new(lsn.into()));
        for (n, row) in self.postgres.listed(0, usize::MAX) {
            if row.tuple.size() > self.body_limit {
                self.ledger.oversized.insert(usize::try_from(n).unwrap());
            }
        }
        let mut rules = self.rules.clone();
        rules.limits.body = self.body_limit;
        self.tally.sessions += 1;
        self.say(format_args!("session {} with {memory:X?}", self.tally.sessions));
        self.session = Some(Session {
            watch: Watch::new(&self.postgres, millis(rules.audit.hold)),
            relay: Relay::new(rules, memory.clone(), catch_up),
            memory,
            began: self.now,
            walsender: self.postgres.start_replication(),
            acks: VecDeque::new(),
            connection: self.broker.connect(),
            body_limit: self.body_limit,
            closed_with: None,
            blocked_told: false,
            marks: None,
            check: None,
            resolving: None,
            look: None,
            claims: Vec::new(),
            claims_alone: Vec::new(),
            catching_up: None,
            finishing: None,
            last_frame: self.now,
        });
    }

    /// The stream is read where the relay lets it.
    fn read(&mut self, count: u64) {
        for _ in 0..count {
            let Some(session) = &mut self.session else { return };
            if !session.relay.is_reading() {
                return;
            }
            let Some(frame) = session.walsender.queue.pop_front() else { return };
            session.last_frame = self.now;
            match frame {
                Frame::KeepAlive { wal_end, is_reply_requested } => {
                    session.watch.received(wal_end);
                    let wal_end = wal_end.into();
                    self.handle(Input::KeepAlive { wal_end, is_reply_requested });
                }
                Frame::Data(bytes, what) => self.read_data(&bytes, what),
            }
        }
    }

    fn read_data(&mut self, bytes: &bytes::Bytes, what: What) {
        let message = pgoutput::decode(bytes).expect("the model speaks pgoutput");
        let Some(session) = &mut self.session else { return };
        if let What::Commit(end_lsn) = what {
            session.watch.received(end_lsn);
        }
        let before = session.watch.published.len();
        let place = match what {
            What::Event(place) => place,
            _ => {
                self.handle(Input::Stream(message));
                let published = self.session.as_ref().map(|session| session.watch.published.len());
                assert!(published.is_none_or(|after| after == before), "published out of nothing");
                return;
            }
        };
        let event = &self.postgres.events[place];
        let delivered = session.memory.delivered;
        let is_repeated = position_of(event) < pair(delivered);
        let is_too_large = event.body.len() > session.body_limit;
        if is_too_large {
            self.ledger.oversized.insert(place);
        }
        self.handle(Input::Stream(message));
        // The row waits until it is known what its relation is.
        let is_held = |session: &&Session| session.resolving.is_none();
        let Some(session) = self.session.as_ref().filter(is_held) else { return };
        let published = &session.watch.published[before..];
        if self.mode.is_parking {
            assert!(
                !is_repeated || !published.contains(&place),
                "event {place} was settled and is published again"
            );
        } else if is_repeated {
            assert!(published.is_empty(), "event {place} was delivered and is published again");
        } else if published.is_empty() {
            assert!(is_too_large, "event {place} was received and not published");
            assert!(!session.relay.is_reading(), "event {place} was refused, and more is read");
        } else {
            assert_eq!(published, [place], "another event than the one received is published");
        }
    }

    fn handle(&mut self, input: Input) {
        let Some(session) = &mut self.session else { return };
        let at = Duration::from_millis(self.now - session.began);
        let mut effects = Vec::new();
        // Frames come one at a time, or many at once.
        let is_frame = matches!(input, Input::Stream(_) | Input::KeepAlive { .. });
        let outcome = match is_frame && self.now.is_multiple_of(3) {
            true => session.relay.take_in(at, input, &mut effects),
            false => session.relay.handle(at, input, &mut effects),
        };
        for effect in effects {
            self.perform(effect);
        }
        if let Err(end) = outcome {
            return self.end(end);
        }
        let Some(session) = self.session.as_ref().filter(|it| it.closed_with.is_none()) else {
            return;
        };
        let (messages, bytes) = session.relay.in_flight();
        let unconfirmed = &session.watch.unconfirmed;
        assert!(messages >= unconfirmed.len(), "a message left the window without its confirm");
        assert!(bytes >= unconfirmed.values().sum(), "bytes left the window without their confirm");
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::GivenUp(marks) => {
                for mark in marks {
                    let place = self.postgres.place(&mark.id).expect("an event");
                    self.ledger.given_up(place);
                }
            }
            Effect::Publish(message) => self.publish(message),
            Effect::Mark(batch) => self.mark(batch),
            Effect::Check => {
                let Some(session) = &mut self.session else { return };
                assert!(session.check.is_none(), "one check at a time");
                session.watch.checks_begun += 1;
                session.check = Some(Check { answer: None });
                self.say(format_args!("check"));
            }
            Effect::Resolve { relation: oid, .. } => {
                let Some(session) = &mut self.session else { return };
                assert!(session.resolving.is_none(), "one relation at a time");
                session.resolving = Some(oid);
            }
            Effect::Look { from } => {
                let Some(session) = &mut self.session else { return };
                assert!(session.look.is_none(), "one look at a time");
                session.look = Some((from, None));
            }
            Effect::Claim { aggregate, after } => {
                self.say(format_args!("claim what is behind {after} of {aggregate}"));
                let Some(session) = &mut self.session else { return };
                session.claims.push((aggregate, after, None));
            }
            Effect::ClaimAlone(seqs) => {
                self.say(format_args!("claim {seqs:?}"));
                let Some(session) = &mut self.session else { return };
                session.claims_alone.push((seqs, None));
            }
            Effect::CatchUp(from) => {
                let Some(session) = &mut self.session else { return };
                assert!(session.catching_up.is_none(), "one fetch at a time");
                session.catching_up = Some((from, None));
            }
            Effect::CaughtUp => {
                self.say(format_args!("the list is done"));
                let listed = self.postgres.listed(0, usize::MAX);
                let parked = self.postgres.parking.places();
                for (n, _) in listed {
                    let place = usize::try_from(n).unwrap();
                    let is_settled = self.ledger.is_accepted(place) || parked.contains(&place);
                    assert!(is_settled, "event {place} is listed, and forgotten");
                }
                let Some(session) = &mut self.session else { return };
                session.finishing = Some(false);
            }
            Effect::Acknowledge(lsn) => {
                let Some(session) = &mut self.session else { return };
                let lsn = u64::from(lsn);
                session.watch.acknowledge(lsn, self.now, &self.postgres, &mut self.ledger);
                session.acks.push_back(lsn);
                self.tally.acknowledged += 1;
                self.say(format_args!("acknowledge {lsn:X}"));
            }
        }
    }

    fn publish(&mut self, message: Message) {
        let place = self.ledger.check_message(&self.postgres, &message);
        self.say(format_args!("publish event {place} to {}", message.routing_key()));
        let bound = if self.mode.is_parking {
            usize::MAX
        } else {
            self.rules.window_messages + self.rules.audit.batch
        };
        self.ledger.published(place, &self.postgres, bound);
        self.ledger.check_given_up(place, &self.postgres);
        let Some(session) = &mut self.session else { return };
        let watch = &mut session.watch;
        assert!(!watch.is_paused || watch.is_draining, "published while paused");
        if self.mode.is_parking {
            if watch.unconfirmed.is_empty() {
                watch.has_seen_refusal = false;
            }
            if self.mode.is_holding {
                let mut holding = self.postgres.parking.holding();
                holding.extend(&watch.parking);
                self.ledger.check_hold(place, &self.postgres, &holding);
            }
            if self.mode.is_strict && self.mode.is_holding {
                let aggregate = self.postgres.events[place].aggregate;
                let mut in_flight = watch
                    .unconfirmed
                    .keys()
                    .map(|number| watch.published[usize::try_from(*number).unwrap()]);
                let is_alone =
                    in_flight.all(|other| self.postgres.events[other].aggregate != aggregate);
                assert!(is_alone, "event {place} is not alone of its aggregate");
            }
        } else {
            assert!(!watch.is_draining, "published during a drain");
            let last = watch.published.last();
            assert!(last.is_none_or(|last| *last < place), "published out of order");
        }
        assert!(!watch.has_seen_refusal, "published behind a refused message");
        // Relays that go step by step, up to the event that made the broker refuse.
        let through = session.memory.cautious_through;
        let last = watch.published.last().map(|last| position_of(&self.postgres.events[*last]));
        let is_cautious = !self.mode.is_parking
            && through.is_some_and(|through| last.is_none_or(|last| last <= pair(through)));
        let (messages, bytes) =
            (watch.unconfirmed.len(), watch.unconfirmed.values().sum::<usize>());
        let most = if is_cautious { 1 } else { self.rules.window_messages };
        assert!(messages < most, "{messages} messages are in flight already");
        assert!(bytes < self.rules.window_bytes, "{bytes} bytes are in flight already");
        if is_cautious {
            let last = watch.published.last();
            assert!(
                last.is_none_or(|last| self.ledger.is_accepted(*last)),
                "event {place} is published before it is known what became of the one before"
            );
        }
        let number = watch.published.len() as u64;
        watch.published.push(place);
        watch.unconfirmed.insert(number, message.body.len());
        session.connection.sent.push_back(Sent {
            number,
            place,
            id: self.postgres.events[place].id.clone(),
            exchange: message.exchange().to_owned(),
            routing_key: message.routing_key().to_owned(),
        });
    }

    fn mark(&mut self, batch: Batch) {
        let most = self.rules.audit.batch + batch.parking.attempts.len();
        assert!(batch.marks.len() <= most, "too large a batch");
        let mut parked = self.postgres.parking.places();
        for mark in &batch.marks {
            assert_ne!(self.marking, Marking::None, "a mark where none is wanted");
            let place = self.postgres.place(&mark.id).expect("a mark of an event");
            let is_delivered = self.ledger.is_accepted(place) && !self.broker.dead.contains(&place);
            let is_passed_over = mark.is_repeat && parked.contains(&place);
            let is_marked = is_delivered || is_passed_over || self.ledger.dead.contains(&place);
            assert!(is_marked, "event {place} is marked, and no queue has it");
        }
        for park in &batch.parking.parks {
            let place = self.postgres.place(park.id.as_deref().unwrap()).expect("an event");
            parked.insert(place);
            self.tally.parked += u64::from(park.refusal.is_some());
            self.tally.queued += u64::from(park.refusal.is_none());
            self.say(format_args!("park event {place}: {:?}", park.state));
            let Some(session) = &mut self.session else { return };
            if park.is_holding {
                session.watch.parking.insert(place);
            }
        }
        for attempt in &batch.parking.attempts {
            self.say(format_args!("parked {} was tried: {:?}", attempt.seq, attempt.outcome));
            self.tally.retried += 1;
        }
        let position = pair(batch.position);
        self.ledger.check_delivered(&self.postgres, &parked, position, "recorded position");
        self.say(format_args!("mark {} events, {position:X?}", batch.marks.len()));
        let Some(session) = &mut self.session else { return };
        assert!(session.marks.is_none(), "one batch at a time");
        session.watch.recorded = position;
        session.marks = Some(Marks { batch, written: None });
    }

    /// Time passes; the relay is woken where it asked to be.
    fn wait(&mut self, ms: u64) {
        let until = self.now + ms;
        while self.now < until {
            self.wait_once(until);
        }
    }

    fn wait_once(&mut self, until: u64) {
        let Some(session) = &mut self.session else {
            self.now = until;
            return;
        };
        let keepalive = session.last_frame + KEEPALIVE_MS;
        let at = Duration::from_millis(self.now - session.began);
        // Woken a part of a millisecond early, it would only ask to be woken again.
        let deadline = session.relay.deadline(at).map(|at| session.began + millis_up(at));
        let next = deadline.unwrap_or(u64::MAX).min(keepalive).clamp(self.now, until);
        self.now = next;
        if keepalive <= next {
            session.last_frame = next;
            self.keepalive();
            self.read(1);
        }
        if deadline.is_some_and(|at| at <= next) {
            self.tick();
        }
    }

    /// Rule: a relay that was woken has done what it wanted to be woken for.
    fn tick(&mut self) {
        self.handle(Input::Tick);
        let Some(session) = &self.session else { return };
        let at = Duration::from_millis(self.now - session.began);
        let deadline = session.relay.deadline(at);
        assert!(deadline.is_none_or(|deadline| deadline > at), "the relay spins");
    }

    fn lose(&mut self, what: &str) {
        self.tally.connections_lost += 1;
        self.end(End::Fault(Fault::transient(what)));
    }

    fn drain(&mut self) {
        let Some(session) = &mut self.session else { return };
        if !std::mem::replace(&mut session.watch.is_draining, true) {
            self.say(format_args!("drain"));
            self.handle(Input::Drain);
        }
    }

    fn kill(&mut self) {
        let exposed = self.ledger.exposed(&self.postgres) as u64;
        self.say(format_args!("kill -9, with {exposed} events to be repeated"));
        self.tally.kills += 1;
        self.tally.most_repeated_by_a_kill = self.tally.most_repeated_by_a_kill.max(exposed);
        let Some(session) = self.session.take() else { return };
        self.memory = Memory::default();
        self.ledger.stuck = None;
        self.leave(session);
    }

    fn end(&mut self, end: End) {
        let Some(mut session) = self.session.take() else { return };
        self.say(format_args!("the session ends: {end:?}"));
        let at = Duration::from_millis(self.now - session.began);
        self.memory = session.relay.remember(at, &end);
        self.check_memory(&session);
        match &end {
            End::Fault(_) => {}
            End::Drained => self.drained(&mut session),
            End::Stuck(stuck) => {
                self.tally.stuck += 1;
                // Where there are dead letters, the session after the close says so.
                if matches!(stuck.refusal, Refusal::Closed { .. }) && !self.mode.has_letters {
                    assert_eq!(session.closed_with, Some(1), "convicted among several: {stuck:?}");
                }
                let place = self.postgres.place(&stuck.id).expect("stuck on an event");
                let event = &self.postgres.events[place];
                let number = session.connection.number;
                let is_refused = self.broker.refused.iter().any(|(connection, refused)| {
                    *refused == place && (*connection == number || self.mode.has_letters)
                });
                let is_too_large = event.body.len() > session.body_limit;
                assert!(is_refused || is_too_large, "nobody refused event {place}");
                let parked = self.postgres.parking.places();
                if !self.mode.is_parking {
                    let position = position_of(event);
                    self.ledger.check_delivered(&self.postgres, &parked, position, "stuck event");
                    self.ledger.stuck = Some(place);
                }
            }
        }
        if !matches!(end, End::Drained) {
            self.now += self.script.within(0..200);
        }
        self.leave(session);
    }

    /// Rule: what is known to be delivered stays known, so that the next session does not
    /// publish it again.
    fn check_memory(&self, session: &Session) {
        let watch = &session.watch;
        let delivered = pair(self.memory.delivered);
        assert!(delivered >= pair(session.memory.delivered), "delivered, and forgotten");
        // What is parked and not on disk may have to be parked again.
        let is_forgotten = delivered < watch.recorded && watch.parking.is_empty();
        assert!(!is_forgotten || self.mode.is_parking, "recorded, and forgotten");
        if watch.has_seen_refusal || self.mode.is_parking {
            return;
        }
        let known = watch
            .unconfirmed
            .first_key_value()
            .map_or(watch.published.len(), |(number, _)| usize::try_from(*number).unwrap());
        if let Some(last) = known.checked_sub(1) {
            let place = watch.published[last];
            let position = position_of(&self.postgres.events[place]);
            assert!(delivered > position, "event {place} was delivered, and is forgotten");
        }
    }

    /// Rule: after a drain nothing is left to be repeated.
    fn drained(&mut self, session: &mut Session) {
        self.tally.drained += 1;
        for lsn in session.acks.drain(..) {
            self.postgres.acknowledged(lsn);
        }
        // The one over which the channel was closed is parked, and needs no confirm.
        let is_convicted = self.mode.is_parking && session.closed_with == Some(1);
        let is_settled = session.watch.unconfirmed.is_empty() || is_convicted;
        assert!(is_settled, "drained with messages in flight");
        let row = match self.marking {
            Marking::None => self.postgres.progress(),
            _ => self.postgres.progress_on_disk(),
        };
        let delivered = pair(session.memory.delivered);
        let visible = self.postgres.progress();
        assert!(
            visible >= delivered,
            "drained, and {delivered:X?} was delivered and is not recorded"
        );
        for place in &session.watch.published {
            // What left the parking may stand behind an event that the stream is yet to bring again.
            let was_parked = self.postgres.parking.on_disk(u64::MAX).contains(place);
            if was_parked || self.ledger.dead.contains(place) {
                continue;
            }
            let is_recorded = position_of(&self.postgres.events[*place]) < row;
            assert!(is_recorded, "drained, and event {place} is not recorded");
        }
        let received = session.watch.points.last_key_value().map_or(0, |(lsn, _)| *lsn);
        let acknowledged = session.watch.acknowledged;
        assert!(acknowledged >= received, "drained, and {received:X} is not acknowledged");
        // The next relay is a new process.
        self.memory = Memory::default();
        self.ledger.stuck = None;
    }

    /// What a session leaves behind: bytes on their way to the servers.
    fn leave(&mut self, session: Session) {
        let mut missing: Vec<usize> = session.watch.missing_since.keys().copied().collect();
        // The server could not write these, and its answer never came.
        if let Some(Marks { batch, written: Some(written) }) = &session.marks {
            let ids = written.missing.iter().map(|missed| &batch.marks[missed.place].id);
            missing.extend(ids.filter_map(|id| self.postgres.place(id)));
        }
        self.ledger.left_unmarked(missing.iter(), &self.postgres);
        self.ledger.session_ended(&self.postgres);
        for lsn in session.acks {
            if self.script.is_heads() {
                break;
            }
            self.postgres.acknowledged(lsn);
        }
        if let Some(Marks { batch, written: None }) = session.marks
            && self.script.is_heads()
        {
            self.zombies.push(batch);
        }
        self.broker.abandon(session.connection, &self.script);
    }

    // The end

    /// All trouble ends. Rule: then every event is delivered and marked, the slot reaches the
    /// end of the WAL, and a drain ends.
    fn finish(&mut self) {
        self.say(format_args!("all trouble ends"));
        self.pause(false);
        self.mend_broker();
        let limit = self.session.as_ref().map(|session| session.body_limit);
        if self.mode.is_parking && limit.is_some_and(|limit| limit < self.body_limit) {
            // With a limit that was too low, events would be refused for ever.
            self.end(End::Fault(Fault::transient("the settings were repaired")));
        }
        if self.postgres.is_publication_broken {
            self.end(End::Fault(Fault::definite("the publication lacks a table", "add it")));
        }
        let mut steps = 0..LAST_STEPS;
        while !self.is_done() {
            assert!(
                steps.next().is_some(),
                "no end: {}; slot at {:X}, WAL ends at {:X}",
                self.ledger.missing(&self.postgres),
                self.postgres.confirmed,
                self.postgres.end
            );
            self.calm_step();
        }
        let drained = self.tally.drained;
        self.drain();
        while self.tally.drained == drained {
            assert!(steps.next().is_some(), "the drain does not end");
            if self.session.is_none() {
                self.begin();
                self.drain();
            }
            self.calm_step();
        }
        let copies = self.ledger.copies;
        self.begin();
        for _ in 0..5 {
            self.calm_step();
        }
        assert_eq!(self.ledger.copies, copies, "repeated after a drain");
    }

    fn is_done(&self) -> bool {
        self.ledger.is_complete(&self.postgres) && self.postgres.confirmed >= self.postgres.end
    }

    fn calm_step(&mut self) {
        if self.session.is_none() {
            self.begin();
        }
        self.block(false);
        self.postgres.flush();
        while self.broker.haunt(&self.script) {}
        if let Some(session) = &mut self.session {
            while session.walsender.send(&self.postgres, &self.script) {}
            session.walsender.keepalive(false);
        }
        self.read(u64::MAX);
        self.process(u64::MAX);
        self.connection(|connection, script| connection.confirm(script, true));
        for _ in 0..2 {
            self.look();
        }
        self.execute();
        self.answer();
        self.answer();
        for _ in 0..5 {
            self.deliver_ack();
        }
        self.wait_once(self.now + 200);
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

/// Which things happen in this round, and how often: not everything in each.
fn weights(script: &Script, largest_transaction: u64, mode: Mode) -> Vec<(u32, Act)> {
    let commits = if largest_transaction > 20 { 15 } else { 60 };
    // Rounds that are all about returns and nacks, and others that hardly have any.
    let refusals = script.pick(&[0, 2, 12, 30]);
    let mut weights = vec![
        (commits, Act::Commit),
        (20, Act::Noise),
        (15, Act::Flush),
        (60, Act::Send),
        (20, Act::KeepAlive),
        (90, Act::Read),
        (60, Act::Process),
        (50, Act::Confirm),
        (10, Act::Haunt),
        (80, Act::Look),
        (30, Act::Burst),
        (60, Act::Execute),
        (60, Act::Answer),
        (30, Act::DeliverAck),
        (60, Act::Wait),
        (3 + refusals / 2, Act::MendBroker),
        (refusals, Act::Unbind),
        (refusals / 2, Act::Refuse),
        (refusals / 2, Act::DropExchange),
    ];
    let seldom = [
        (6, Act::DeleteRow),
        (6, Act::LockRow),
        (6, Act::RefuseMark),
        (1, Act::CloseTable),
        (5, Act::Checkpoint),
        (5, Act::WaitLong),
        (3, Act::LowerLimit),
        (4, Act::Block),
        (4, Act::CutBroker),
        (3, Act::CutPostgres),
        (3, Act::Crash),
        (3, Act::Restart),
        (1, Act::BreakPublication),
        (2, Act::Storm),
        (3, Act::Drain),
        (5, Act::Kill),
    ];
    for (weight, act) in seldom {
        if script.one_in(3) {
            weights.push((weight, act));
        }
    }
    if mode.is_parking {
        weights.push((3, Act::Notify));
        if script.one_in(2) {
            weights.extend([(script.pick(&[3, 12]), Act::Discard), (1, Act::Replay)]);
        }
        if script.one_in(2) {
            weights.push((script.pick(&[3, 12]), Act::Retry));
        }
    }
    if script.one_in(3) {
        weights.extend([(1, Act::Pause), (6, Act::Resume)]);
    }
    if mode.has_letters {
        weights.push((refusals / 3, Act::UnbindDead));
    }
    if weights.iter().any(|(_, act)| matches!(act, Act::Block)) {
        weights.push((8, Act::Unblock));
    }
    weights
}

fn mode(script: &Script) -> Mode {
    let is_parking = script.one_in(2);
    Mode {
        is_parking,
        has_letters: is_parking && script.one_in(4),
        is_holding: !script.one_in(5),
        is_strict: is_parking && script.is_heads(),
    }
}

fn rules(script: &Script, marking: Marking, mode: Mode) -> Rules {
    let columns = |id: &str| Columns {
        id: column(id),
        aggregate_type: column("aggregate_type"),
        aggregate_id: column("aggregate_id"),
        event_type: column("event_type"),
        topic: column("topic"),
        payload: column("payload"),
        headers: column("headers"),
        occurred_at: column("occurred_at"),
        correlation_id: column("correlation_id"),
        content_type: column("content_type"),
        traceparent: column("traceparent"),
        tracestate: column("tracestate"),
        relayed_at: column("relayed_at"),
        attempt: column("attempt"),
        last_error: column("last_error"),
        failed_at: column("failed_at"),
    };
    let named = |name: &str| Piece::Column(name.to_owned());
    let text = |text: &str| Piece::Text(text.to_owned());
    let tables: Vec<TableConfig> = [Table::Known, Table::Named]
        .map(|table| TableConfig {
            schema: "public".to_owned(),
            name: table.name().to_owned(),
            columns: columns("id"),
            exchange: Template(vec![vec![named("exchange")], vec![text("outbox")]]),
            routing_key: Template(vec![
                vec![named("topic")],
                vec![named("aggregate_type"), text("."), named("event_type")],
            ]),
            content_type: "application/json".to_owned(),
            app_id: None,
            on_failure: match (mode.is_parking, mode.has_letters) {
                (false, _) => OnFailure::Block,
                (true, false) => OnFailure::Park,
                (true, true) => {
                    OnFailure::DeadLetter { exchange: DEAD.to_owned(), routing_key: None }
                }
            },
            is_holding: mode.is_holding,
            is_mandatory: true,
            message: MessageMap::default(),
        })
        .into();
    Rules {
        tables: tables.into(),
        oids: vec![Table::Known.oid(), 19_999],
        limits: Limits { body: 10_000, header_frame: 100_000 },
        window_messages: script.pick(&[1, 2, 5, 20, 20]),
        window_bytes: script.pick(&[1, 200, 100_000, 100_000]),
        is_strict: mode.is_strict,
        parking: Parking {
            max_attempts: 1_000_000,
            backoff_min: Duration::from_millis(script.pick(&[10, 1_000])),
            backoff_max: Duration::from_millis(script.pick(&[1_000, 10_000])),
            limit: script.pick(&[1, 5, 1_000]),
            period: Duration::from_secs(script.pick(&[1, 60])),
            poll_interval: Duration::from_secs(10),
        },
        audit: Audit {
            mode: match marking {
                Marking::Update => AuditMode::Update,
                Marking::Delete => AuditMode::Delete,
                Marking::SideTable => AuditMode::SideTable,
                Marking::None => AuditMode::None,
            },
            batch: script.pick(&[1, 3, 10]),
            linger: Duration::from_millis(script.pick(&[0, 10, 50])),
            hold: Duration::from_millis(script.pick(&[0, 100, 2_000, 10_000])),
            give_up: Duration::from_secs(600),
        },
        confirm_timeout: Duration::from_secs(script.pick(&[2, 30])),
        blocked_timeout: Duration::from_secs(script.pick(&[5, 600])),
        check_interval: Duration::from_millis(script.pick(&[100, 1_000])),
        silence: Duration::from_secs(15),
        away: Vec::new(),
        leaves: vec![1],
        is_passing: false,
    }
}

fn column(name: &str) -> ColumnRef {
    ColumnRef { name: name.to_owned(), is_explicit: false }
}
