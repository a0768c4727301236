//! What must hold, judged by what Postgres and the broker know, never by what the relay
//! believes. A broken rule panics.

use std::collections::{BTreeMap, BTreeSet};

use amq_protocol::types::AMQPValue;
use pgoutbox::message::{COMMIT_LSN_HEADER, INDEX_HEADER, Message};

use crate::broker::Broker;
use crate::postgres::{Event, Postgres};

/// A place in commit order, as `(commit_lsn, index)`.
pub(crate) type Position = (u64, u64);

pub(crate) fn position_of(event: &Event) -> Position {
    (event.commit_lsn, event.index)
}

/// What outlives a session.
#[derive(Default)]
pub(crate) struct Ledger {
    /// Events that no queue has taken yet.
    unaccepted: BTreeSet<usize>,
    /// Events that were committed while the publication lacked their table: the stream never
    /// brings them, so it must not pass them before that was noticed.
    skipped: BTreeSet<usize>,
    /// How much of the broker's queue was looked at.
    looked_at: usize,
    /// The first copy of each message.
    messages: BTreeMap<usize, Message>,
    /// Published events that the progress row never held: a killed relay repeats them.
    exposed: BTreeSet<usize>,
    /// The furthest that the row ever was. A crash of the server takes it back, and what a
    /// kill repeats after that is not bounded by the window alone.
    row: Position,
    /// The event that this process was stuck on last.
    pub(crate) stuck: Option<usize>,
    /// Events whose LSN went ahead of their mark when the hold had passed.
    released: BTreeSet<usize>,
    /// Those of them whose mark no session tries any more.
    unmarkable: BTreeSet<usize>,
    pub(crate) released_count: u64,
    pub(crate) copies: u64,
    pub(crate) repeats: u64,
    pub(crate) most_exposed: usize,
}

impl Ledger {
    pub(crate) fn committed(&mut self, places: std::ops::Range<usize>, is_skipped: bool) {
        let into = if is_skipped { &mut self.skipped } else { &mut self.unaccepted };
        into.extend(places);
    }

    /// The broken publication was noticed. What it left out is for the catch-up.
    pub(crate) fn noticed(&mut self) {
        self.unmarkable.append(&mut self.skipped);
    }

    /// A crash took the last events back, before anybody saw them.
    pub(crate) fn taken_back(&mut self, count: usize) {
        self.unaccepted.retain(|place| *place < count);
        self.skipped.retain(|place| *place < count);
        self.unmarkable.retain(|place| *place < count);
    }

    /// Rule: the first copy of each message comes in commit order. Only a message that the
    /// broker refused on the same connection may be overtaken, by those sent behind it.
    pub(crate) fn look_at_queue(&mut self, broker: &Broker) {
        for copy in &broker.queue[self.looked_at..] {
            self.copies += 1;
            if !self.unaccepted.remove(&copy.place) {
                self.repeats += 1;
                continue;
            }
            for earlier in self.unaccepted.range(..copy.place) {
                assert!(
                    broker.refused.contains(&(copy.connection, *earlier)),
                    "event {} came before event {earlier}, which was never refused on connection {}",
                    copy.place,
                    copy.connection
                );
            }
        }
        self.looked_at = broker.queue.len();
    }

    pub(crate) fn is_accepted(&self, place: usize) -> bool {
        !self.unaccepted.contains(&place) && !self.skipped.contains(&place)
    }

    /// Rule: every event before a place that is called delivered is in a queue.
    pub(crate) fn check_delivered(&self, postgres: &Postgres, before: Position, what: &str) {
        if let Some(first) = self.unaccepted.first() {
            let first_position = position_of(&postgres.events[*first]);
            assert!(
                first_position >= before,
                "{what} {before:?} is behind event {first} at {first_position:?}, which no queue has"
            );
        }
    }

    /// Rule: copies of a message are the same, and tell the event's place.
    pub(crate) fn check_message(&mut self, postgres: &Postgres, message: &Message) -> usize {
        let id = message.properties.message_id().as_ref().expect("a message_id").as_str();
        let place = postgres.place(id).unwrap_or_else(|| panic!("{id} was never committed"));
        let event = &postgres.events[place];
        let headers = message.properties.headers().as_ref().expect("headers").inner();
        let lsn = format!("{:08X}/{:08X}", event.commit_lsn >> 32, event.commit_lsn & 0xFFFF_FFFF);
        assert_eq!(headers.get(COMMIT_LSN_HEADER), Some(&AMQPValue::LongString(lsn.into())));
        let index = i64::try_from(event.index).unwrap();
        assert_eq!(headers.get(INDEX_HEADER), Some(&AMQPValue::LongLongInt(index)));
        let aggregate = AMQPValue::LongString(event.aggregate.to_string().into());
        assert_eq!(headers.get("aggregate_id"), Some(&aggregate));
        assert_eq!(message.routing_key.as_str(), event.routing_key);
        assert_eq!(message.exchange.as_str(), event.exchange);
        assert_eq!(message.body, event.body.as_bytes());
        let first = self.messages.entry(place).or_insert_with(|| message.clone());
        assert_eq!(first, message, "copies of a message differ");
        place
    }

    /// Rules: while an event is stuck, nothing behind it is published by the same process; and
    /// what a killed relay would repeat is bounded.
    pub(crate) fn published(&mut self, place: usize, postgres: &Postgres, bound: usize) {
        if let Some(stuck) = self.stuck {
            assert!(
                place <= stuck || self.is_accepted(stuck),
                "event {place} is published while event {stuck} before it is stuck"
            );
        }
        self.exposed.insert(place);
        self.recorded(postgres);
        self.most_exposed = self.most_exposed.max(self.exposed.len());
        assert!(
            self.exposed.len() <= bound,
            "a kill now repeats {} events, more than {bound}",
            self.exposed.len()
        );
    }

    /// The progress row or the slot has moved.
    pub(crate) fn recorded(&mut self, postgres: &Postgres) {
        self.row = self.row.max(postgres.progress());
        while let Some(first) = self.exposed.first() {
            let event = &postgres.events[*first];
            if position_of(event) >= self.row && event.commit_lsn >= postgres.confirmed {
                return;
            }
            self.exposed.pop_first();
        }
    }

    pub(crate) fn exposed(&mut self, postgres: &Postgres) -> usize {
        self.recorded(postgres);
        self.exposed.len()
    }

    pub(crate) fn released(&mut self, place: usize) {
        self.released_count += 1;
        self.released.insert(place);
    }

    /// A session ended: what it acknowledged is not sent again, so it is marked by now, or it
    /// is left to the reconciliation.
    pub(crate) fn session_ended(&mut self, postgres: &Postgres) {
        let left = self.released.iter().filter(|place| !postgres.is_mark_safe(**place));
        self.unmarkable.extend(left);
        self.released.clear();
    }

    /// Everything that was committed is in a queue, and marked.
    pub(crate) fn is_complete(&self, postgres: &Postgres) -> bool {
        let mut places = 0..postgres.events.len();
        self.unaccepted.is_empty()
            && places.all(|place| postgres.is_mark_safe(place) || self.unmarkable.contains(&place))
    }

    pub(crate) fn missing(&self, postgres: &Postgres) -> String {
        let places = 0..postgres.events.len();
        let unmarked: Vec<usize> = places.filter(|place| !postgres.is_mark_safe(*place)).collect();
        format!(
            "not in a queue: {:?}, not marked: {unmarked:?}, of these not expected to be: {:?}",
            self.unaccepted, self.unmarkable
        )
    }
}

/// What is watched during one session.
pub(crate) struct Watch {
    /// LSNs received on this connection, with the checks that had begun by then.
    pub(crate) points: BTreeMap<u64, u64>,
    pub(crate) checks_begun: u64,
    pub(crate) checks_passed: u64,
    pub(crate) acknowledged: u64,
    /// First event whose mark no acknowledged LSN has vouched for.
    unvouched: usize,
    /// When a mark was first told to be missing.
    pub(crate) missing_since: BTreeMap<usize, u64>,
    pub(crate) has_seen_refusal: bool,
    /// The last position that went into the progress row.
    pub(crate) recorded: Position,
    pub(crate) is_draining: bool,
    /// Places in the order of their publishing, by number.
    pub(crate) published: Vec<usize>,
    /// Messages whose confirm the relay was not told yet, with their bytes.
    pub(crate) unconfirmed: BTreeMap<u64, usize>,
    hold: u64,
}

impl Watch {
    pub(crate) fn new(postgres: &Postgres, hold: u64) -> Self {
        Self {
            points: BTreeMap::new(),
            checks_begun: 0,
            checks_passed: 0,
            acknowledged: 0,
            unvouched: postgres.events.partition_point(|it| it.commit_lsn < postgres.confirmed),
            missing_since: BTreeMap::new(),
            has_seen_refusal: false,
            recorded: (0, 0),
            is_draining: false,
            published: Vec::new(),
            unconfirmed: BTreeMap::new(),
            hold,
        }
    }

    pub(crate) fn received(&mut self, lsn: u64) {
        self.points.entry(lsn).or_insert(self.checks_begun);
    }

    /// Rule: an LSN is acknowledged only if it was received on this connection, everything
    /// before it is in a queue, its marks are on disk or have been waited for, and a check of
    /// the publication that began after it was received has passed.
    pub(crate) fn acknowledge(
        &mut self,
        lsn: u64,
        now: u64,
        postgres: &Postgres,
        ledger: &mut Ledger,
    ) {
        let Some(begun) = self.points.get(&lsn) else {
            panic!("{lsn:X} was not received on this connection");
        };
        assert!(lsn > self.acknowledged, "{lsn:X} is acknowledged after {:X}", self.acknowledged);
        assert!(
            self.checks_passed > *begun,
            "{lsn:X} is acknowledged by check {}, and was received when {begun} had begun",
            self.checks_passed
        );
        while let Some(event) = postgres.events.get(self.unvouched) {
            let place = self.unvouched;
            if event.end_lsn > lsn {
                break;
            }
            assert!(
                ledger.is_accepted(place),
                "{lsn:X} is behind event {place}, which no queue has"
            );
            if !postgres.is_mark_safe(place) && !ledger.unmarkable.contains(&place) {
                let since = self.missing_since.get(&place);
                assert!(
                    since.is_some_and(|since| now >= since + self.hold),
                    "{lsn:X} is behind event {place}, whose mark is not on disk; missing since {since:?}, now {now}"
                );
                ledger.released(place);
            }
            self.unvouched += 1;
        }
        self.acknowledged = lsn;
    }
}
