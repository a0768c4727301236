//! Events on their way through our own code: from the stream's bytes to the message for the
//! broker, and from its confirm to the batch of marks. What surrounds it (lapin,
//! pgwire-replication, the SQL of the marks) is left out.
//!
//! The one place that knows the interface of the hot path: the benches and the bound on
//! allocations share it.

use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::fmt::Write;
use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use pgoutbox::testing::core::event::pgoutput::{Message, decode};
use pgoutbox::testing::core::message::Limits;
use pgoutbox::testing::core::parked::{Ahead, Schedule};
use pgoutbox::testing::core::relay::marks::{Left, WrittenBatch};
use pgoutbox::testing::core::relay::window::Answer;
use pgoutbox::testing::core::relay::{Effect, Input, Memory, Relay, Rules};
use postgres_types::PgLsn;

use crate::{defaults, pgoutput};

/// Bytes of each body.
pub const PAYLOAD_BYTES: usize = 500;
/// Confirms that come together, as a busy broker sends them.
const CONFIRMS: usize = 64;
/// Events of the prepared stretch of the stream, which is gone through again and again.
const LAP_EVENTS: usize = 1_000;
const OID: u32 = 20_001;
/// Bytes of WAL between the commits of the stretch.
const COMMIT_BYTES: u64 = 1_000;
const NOW_STEP: Duration = Duration::from_micros(20);

/// Columns of the default outbox table, with their types and what a row of it holds.
fn columns(number: usize, headers: usize) -> [pgoutput::Column; 12] {
    let (text, uuid, jsonb, timestamptz, int4) = (25, 2_950, 3_802, 1_184, 23);
    let payload = format!("{{\"n\": {number:012}, \"text\": \"");
    let filling = "x".repeat(PAYLOAD_BYTES - payload.len() - 2);
    let id = format!("018f3b2a-7c4e-7d19-9a55-{number:012x}");
    [
        ("id", uuid, Some(id)),
        ("aggregate_type", text, Some("order".to_owned())),
        ("aggregate_id", text, Some(format!("order-{:06}", number % 1_000))),
        ("event_type", text, Some("order.paid".to_owned())),
        ("topic", text, None),
        ("payload", jsonb, Some(format!("{payload}{filling}\"}}"))),
        ("headers", jsonb, Some(headers_json(headers))),
        ("occurred_at", timestamptz, Some("2026-11-22 13:10:45.123456+00".to_owned())),
        ("attempt", int4, Some("0".to_owned())),
        ("relayed_at", timestamptz, None),
        ("failed_at", timestamptz, None),
        ("last_error", text, None),
    ]
}

fn headers_json(count: usize) -> String {
    let mut json = String::from("{");
    for number in 0..count {
        let comma = if number == 0 { "" } else { ", " };
        write!(json, "{comma}\"header-{number}\": \"value {number}\"").unwrap();
    }
    json + "}"
}

/// The relation message of the table.
pub fn relation() -> Bytes {
    pgoutput::relation(OID, "outbox_messages", &columns(0, 0))
}

/// The message of an inserted row with so many headers.
pub fn insert(number: usize, headers: usize) -> Bytes {
    pgoutput::insert(OID, &columns(number, headers))
}

/// What the broker takes.
pub const LIMITS: Limits = Limits { body: 16 << 20, header_frame: 131_064, stream: None };

fn rules() -> Rules {
    let config = defaults::config();
    Rules {
        tables: config.tables.into(),
        oids: vec![OID],
        columns: Vec::new(),
        limits: LIMITS,
        window_messages: 1_000,
        is_window_fixed: !config.window.is_adaptive,
        window_bytes: 32 << 20,
        is_strict: false,
        audit: config.audit,
        parking: config.parking,
        confirm_timeout: Duration::from_secs(30),
        blocked_timeout: Duration::from_secs(600),
        check_interval: Duration::from_secs(10),
        silence: Duration::from_secs(60),
        away: Vec::new(),
        leaves: Vec::new(),
        has_streams: false,
        passes_until: None,
        are_new: Vec::new(),
        were_read: BTreeSet::new(),
        share: None,
        former: Default::default(),
    }
}

/// A relay between a stream and a broker that confirms everything.
pub struct Journey {
    relay: Relay,
    lap: Vec<Bytes>,
    next: usize,
    /// How far the WAL has moved on since the stretch was gone through first.
    moved: u64,
    /// Messages of the stream so far.
    changes: u64,
    now: Duration,
    effects: Vec<Effect>,
    answers: VecDeque<Input>,
    in_flight: usize,
    confirmed: u64,
    /// Marks that were written.
    pub marked: usize,
}

impl Journey {
    /// Through transactions of so many events with so many headers each.
    pub fn new(rows: usize, headers: usize) -> Self {
        let mut lap = Vec::new();
        for transaction in 0..LAP_EVENTS / rows {
            let lsn = COMMIT_BYTES * (1 + u64::try_from(transaction).unwrap());
            lap.push(pgoutput::begin(lsn, 0, 700));
            let first = transaction * rows;
            lap.extend((first..first + rows).map(|number| insert(number, headers)));
            lap.push(pgoutput::commit(lsn, lsn + COMMIT_BYTES / 2, 0));
        }
        let mut journey = Self {
            relay: Relay::new(rules(), Memory::default(), None),
            lap,
            next: 0,
            moved: 0,
            changes: 0,
            now: Duration::ZERO,
            effects: Vec::new(),
            answers: VecDeque::new(),
            in_flight: 0,
            confirmed: 0,
            marked: 0,
        };
        journey.take_in(Input::Tick);
        journey
            .take_in(Input::Stream { lsn: PgLsn::from(0), message: decode(&relation()).unwrap() });
        journey
    }

    /// Takes in the next event, with what comes before and behind it where its transaction
    /// begins or ends, and the confirms that are due.
    pub fn event(&mut self) {
        self.now += NOW_STEP;
        while !self.step() {}
        if matches!(self.lap.get(self.next), Some(bytes) if bytes[0] == b'C') {
            self.step();
        }
        if self.in_flight == CONFIRMS {
            self.confirm();
        }
    }

    /// Whether it was an event.
    fn step(&mut self) -> bool {
        if self.next == self.lap.len() {
            self.next = 0;
            self.moved += COMMIT_BYTES * u64::try_from(LAP_EVENTS).unwrap();
        }
        let bytes = &self.lap[self.next];
        self.next += 1;
        let mut message = decode(bytes).unwrap();
        let moved = |lsn: PgLsn| PgLsn::from(u64::from(lsn) + self.moved);
        match &mut message {
            Message::Begin { commit_lsn, .. } => *commit_lsn = moved(*commit_lsn),
            Message::Commit { commit_lsn, end_lsn, .. } => {
                (*commit_lsn, *end_lsn) = (moved(*commit_lsn), moved(*end_lsn));
            }
            _ => {}
        }
        let is_event = matches!(message, Message::Insert { .. });
        self.changes += 1;
        self.take_in(Input::Stream { lsn: PgLsn::from(self.changes), message });
        is_event
    }

    fn confirm(&mut self) {
        let until = self.confirmed + u64::try_from(self.in_flight).unwrap();
        let ack = |number| Answer::Confirm { number, is_ack: true };
        let answers = (self.confirmed..until).map(ack).collect();
        self.confirmed = until;
        self.in_flight = 0;
        self.take_in(Input::Answers(answers));
        assert_eq!(self.relay.in_flight().0, 0, "all of them are settled");
    }

    fn take_in(&mut self, input: Input) {
        self.answers.push_back(input);
        while let Some(input) = self.answers.pop_front() {
            self.relay.handle(self.now, input, &mut self.effects).expect("it goes on");
            for effect in self.effects.drain(..) {
                let far = PgLsn::from(u64::MAX);
                match effect {
                    Effect::Publish(message) => {
                        self.in_flight += 1;
                        black_box(message);
                    }
                    Effect::Mark(batch) => {
                        self.marked += batch.marks.len();
                        let (written_lsn, flushed_lsn) = (far, far);
                        let missing = Vec::new();
                        let left = Left::Nothing;
                        let written =
                            WrittenBatch { batch: *batch, missing, left, written_lsn, flushed_lsn };
                        self.answers.push_back(Input::Written(written));
                    }
                    Effect::Check => self.answers.push_back(Input::Checked { flushed_lsn: far }),
                    Effect::Look { .. } => self.answers.push_back(Input::Looked(Schedule {
                        due: Vec::new(),
                        held: Vec::new(),
                        waiting: Vec::new(),
                        next_due: None,
                        paused_by: None,
                        ahead: Ahead::default(),
                    })),
                    Effect::Acknowledge(lsn) => {
                        black_box(lsn);
                    }
                    other => panic!("nothing else is to be done: {other:?}"),
                }
            }
        }
    }
}
