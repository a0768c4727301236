//! What must hold, judged by what Postgres and the broker know, never by what the relay
//! believes. A broken rule panics.

use std::collections::{BTreeMap, BTreeSet};

use amq_protocol::types::AMQPValue;
use pgoutbox::testing::core::message::{COMMIT_LSN_HEADER, INDEX_HEADER, Message};

use crate::broker::{Broker, DEAD, LOST};
use crate::postgres::{Event, Postgres};

/// A place in commit order, as `(commit_lsn, index)`.
pub(crate) type Position = (u64, u64);

pub(crate) fn position_of(event: &Event) -> Position {
    (event.commit_lsn, event.index)
}

/// What becomes of refused events, and how order is kept.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mode {
    /// They are parked, or dead-lettered.
    pub(crate) is_parking: bool,
    /// They are dead-lettered.
    pub(crate) has_letters: bool,
    /// Later events of their aggregate wait for them.
    pub(crate) is_holding: bool,
    pub(crate) is_strict: bool,
    /// Events go to a stream, which drops what it knows by its publishing id.
    pub(crate) is_stream: bool,
    /// Those of one table do, and others go to exchanges.
    pub(crate) is_mixed: bool,
}

impl Mode {
    /// Whether an event goes to a stream.
    pub(crate) fn is_of_stream(self, event: &Event) -> bool {
        self.is_stream && (event.is_known || !self.is_mixed)
    }
}

/// What outlives a session.
#[derive(Default)]
pub(crate) struct Ledger {
    /// Events that were dead-lettered or discarded: done with.
    pub(crate) dead: BTreeSet<usize>,
    /// Events that were too large for a session.
    pub(crate) oversized: BTreeSet<usize>,
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
    /// Those whose mark the server refused, tried by itself.
    pub(crate) refused: BTreeSet<usize>,
    /// Those of them whose mark no session tries any more.
    unmarkable: BTreeSet<usize>,
    pub(crate) released_count: u64,
    pub(crate) copies: u64,
    /// Events that are in the stream under the name of the relay.
    named: BTreeSet<usize>,
    /// Those before came when Postgres was another: they may come again under another name.
    named_from: usize,
    /// Those were on their way when the name became another.
    overtaken: BTreeSet<usize>,
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
        self.dead.retain(|place| *place < count);
        self.oversized.retain(|place| *place < count);
        self.skipped.retain(|place| *place < count);
        self.unmarkable.retain(|place| *place < count);
        self.refused.retain(|place| *place < count);
        self.named.retain(|place| *place < count);
    }

    /// What relays that are gone have sent may come beside what is sent under another name.
    pub(crate) fn renamed(&mut self, on_their_way: impl Iterator<Item = usize>) {
        self.overtaken.extend(on_their_way);
    }

    /// Postgres is what it was when it had so many events. What is in a queue stays there; the rest begins anew.
    pub(crate) fn history_ends(&mut self, count: usize, row: Position) {
        self.taken_back(count);
        self.messages.retain(|place, _| *place < count);
        self.released.retain(|place| *place < count);
        self.exposed.clear();
        self.named_from = self.named_from.max(count);
        (self.row, self.stuck) = (row, None);
    }

    /// Rule: the first copy of each message comes in commit order, or at least within its
    /// aggregate where events are parked. Only a message that the broker refused on the same
    /// connection may be overtaken, by those sent behind it; with strict ordering not even
    /// that one, by events of its aggregate.
    pub(crate) fn look_at_queue(&mut self, broker: &Broker, postgres: &Postgres, mode: Mode) {
        self.unaccepted.retain(|place| !broker.dead.contains(place));
        self.dead.extend(&broker.dead);
        for copy in &broker.queue[self.looked_at..] {
            if copy.place == LOST {
                continue;
            }
            self.copies += 1;
            // Rule: under the name of the relay an event is in a stream once.
            if copy.is_named && copy.place >= self.named_from {
                let is_first =
                    self.named.insert(copy.place) || self.overtaken.contains(&copy.place);
                assert!(is_first, "event {} is in the stream twice", copy.place);
            }
            if !self.unaccepted.remove(&copy.place) {
                self.repeats += 1;
                continue;
            }
            for earlier in self.unaccepted.range(..copy.place) {
                let (one, other) = (&postgres.events[copy.place], &postgres.events[*earlier]);
                if mode.is_parking && one.aggregate != other.aggregate {
                    continue;
                }
                // Nobody compares what is in a stream with what is in queues.
                if mode.is_of_stream(one) != mode.is_of_stream(other) {
                    continue;
                }
                if mode.is_parking && !mode.is_holding && self.refused_ever(broker, *earlier) {
                    continue;
                }
                assert!(
                    !mode.is_strict,
                    "event {} came before event {earlier} of its aggregate",
                    copy.place
                );
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

    fn refused_ever(&self, broker: &Broker, place: usize) -> bool {
        self.oversized.contains(&place)
            || broker.refused.iter().any(|(_, refused)| *refused == place)
    }

    /// Rule: what was discarded before it was handed out is not published, however often the
    /// relay had read of it by then.
    pub(crate) fn check_given_up(&self, place: usize, postgres: &Postgres) {
        let is_given_up = postgres.parking.given_up().contains(&place);
        assert!(!is_given_up, "event {place} was discarded, and is published after that");
    }

    /// An operator took an event out.
    pub(crate) fn discarded(&mut self, place: usize) {
        self.unaccepted.remove(&place);
        self.dead.insert(place);
    }

    /// Rule: what waits behind a parked event of its aggregate is not published, but for what follows parked
    /// events that are in flight on the same channel.
    pub(crate) fn check_hold(
        &self,
        place: usize,
        postgres: &Postgres,
        parked: &BTreeSet<usize>,
        in_flight: &BTreeSet<usize>,
    ) {
        let event = &postgres.events[place];
        let is_parked = parked.contains(&place);
        let is_waited_for = |earlier: &&usize| {
            parked.contains(earlier) && !(is_parked && in_flight.contains(earlier))
        };
        for earlier in self.unaccepted.range(..place).filter(is_waited_for) {
            assert!(
                postgres.events[*earlier].aggregate != event.aggregate,
                "event {place} is published while event {earlier} of its aggregate is parked"
            );
        }
    }

    pub(crate) fn is_accepted(&self, place: usize) -> bool {
        !self.unaccepted.contains(&place) && !self.skipped.contains(&place)
    }

    /// Rule: every event before a place that is called delivered is in a queue, or parked.
    pub(crate) fn check_delivered(
        &self,
        postgres: &Postgres,
        parked: &BTreeSet<usize>,
        before: Position,
        what: &str,
    ) {
        if let Some(first) = self.unaccepted.difference(parked).next() {
            let first_position = position_of(&postgres.events[*first]);
            assert!(
                first_position >= before,
                "{what} {before:?} is behind event {first} at {first_position:?}, which no queue has"
            );
        }
    }

    /// Rule: copies of a message are the same, and tell the event's place.
    pub(crate) fn check_message(&mut self, postgres: &Postgres, message: &Message) -> usize {
        let properties = message.properties();
        let id = properties.message_id().as_ref().expect("a message_id").as_str();
        let place = postgres.place(id).unwrap_or_else(|| panic!("{id} was never committed"));
        let event = &postgres.events[place];
        let headers = properties.headers().as_ref().expect("headers").inner();
        let lsn = format!("{:08X}/{:08X}", event.commit_lsn >> 32, event.commit_lsn & 0xFFFF_FFFF);
        assert_eq!(headers.get(COMMIT_LSN_HEADER), Some(&AMQPValue::LongString(lsn.into())));
        let index = i64::try_from(event.index).unwrap();
        assert_eq!(headers.get(INDEX_HEADER), Some(&AMQPValue::LongLongInt(index)));
        let aggregate = AMQPValue::LongString(event.aggregate.to_string().into());
        assert_eq!(headers.get("aggregate_id"), Some(&aggregate));
        if message.exchange() == DEAD {
            return place;
        }
        assert_eq!(message.routing_key(), event.routing_key);
        assert_eq!(message.exchange(), event.exchange);
        assert_eq!(message.body, event.body.as_bytes());
        // What comes out of the parking has no id.
        let mut message = message.clone();
        message.publishing_id = None;
        let first = self.messages.entry(place).or_insert_with(|| message.clone());
        assert_eq!(*first, message, "copies of a message differ");
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

    /// Marks that a session was still trying when it ended: those of events that had left the
    /// parking are left to the reconciliation.
    pub(crate) fn left_unmarked<'a>(
        &mut self,
        missing: impl Iterator<Item = &'a usize>,
        postgres: &Postgres,
    ) {
        let was_parked = postgres.parking.on_disk(u64::MAX);
        self.unmarkable.extend(missing.filter(|place| was_parked.contains(place)));
    }

    /// Rule: only a mark that the server refuses is given up here: nothing else lasts for so long.
    pub(crate) fn given_up(&mut self, place: usize) {
        assert!(self.refused.contains(&place), "the mark of event {place} was given up");
        self.unmarkable.insert(place);
    }

    /// Everything that was committed is in a queue, and marked, but for those whose mark the server
    /// refuses: these keep no other from being marked.
    pub(crate) fn is_complete(&self, postgres: &Postgres) -> bool {
        let mut places = 0..postgres.events.len();
        self.unaccepted.is_empty()
            && postgres.parking.open().is_empty()
            && places.all(|place| {
                postgres.is_mark_safe(place)
                    || self.unmarkable.contains(&place)
                    || self.dead.contains(&place)
                    || self.refused.contains(&place)
            })
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
    /// The relay was told that it is paused.
    pub(crate) is_paused: bool,
    /// Events that this session parked and that others wait for.
    pub(crate) parking: BTreeSet<usize>,
    /// Places in the order of their publishing, by number.
    pub(crate) published: Vec<usize>,
    /// Likewise, on channels that were closed.
    pub(crate) earlier: Vec<usize>,
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
            is_paused: false,
            parking: BTreeSet::new(),
            published: Vec::new(),
            earlier: Vec::new(),
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
        // What was parked once leaves the parking with its mark.
        let parked = postgres.parking.on_disk(postgres.flushed);
        while let Some(event) = postgres.events.get(self.unvouched) {
            let place = self.unvouched;
            if event.end_lsn > lsn {
                break;
            }
            let is_parked = parked.contains(&place);
            assert!(
                ledger.is_accepted(place) || is_parked,
                "{lsn:X} is behind event {place}, which no queue has"
            );
            let is_unmarked = !postgres.is_mark_safe(place) && !ledger.unmarkable.contains(&place);
            if is_unmarked && !is_parked && !ledger.dead.contains(&place) {
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
