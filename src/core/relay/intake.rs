//! Events are taken in, whatever way they come, wait where they have to, and are sent off.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use postgres_types::PgLsn;
use tracing::trace;

use super::arrival::{Arrival, Published, Ready, Source};
use super::lanes::Next;
use super::{Effect, End, Relay};
use crate::config::{OnFailure, Table};
use crate::core::event::pgoutput::{Column, StoredRow};
use crate::core::event::relation::Mapping;
use crate::core::event::{Event, Position, Refusal, Row};
use crate::core::message::Message;
use crate::core::parked::{Aggregate, State};
use crate::error::Fault;

/// Shapes of stored rows that are kept compiled.
const SHAPES: usize = 8;

/// The mappings of stored rows, by the columns they share.
#[derive(Debug, Default)]
pub(super) struct Shapes(VecDeque<(Arc<[Column]>, Arc<Mapping>)>);

impl Shapes {
    fn mapping(
        &mut self,
        tables: &[Table],
        table: usize,
        columns: &Arc<[Column]>,
    ) -> Result<Arc<Mapping>, Vec<String>> {
        let is_it = |(known, mapping): &&(Arc<[Column]>, Arc<Mapping>)| {
            Arc::ptr_eq(known, columns) && mapping.table == table
        };
        if let Some((_, mapping)) = self.0.iter().find(is_it) {
            return Ok(Arc::clone(mapping));
        }
        let config =
            tables.get(table).ok_or_else(|| vec!["it is of no configured table".to_owned()])?;
        let mapping = Arc::new(Mapping::compile(table, config, columns, false)?);
        if self.0.len() == SHAPES {
            self.0.pop_front();
        }
        self.0.push_back((Arc::clone(columns), Arc::clone(&mapping)));
        Ok(mapping)
    }
}

/// Rows that the slot does not hold, listed before its stream begins. They come before all of
/// the stream, and after all that an earlier slot brought. A session goes through the list
/// from its start, and is given what is not marked: what an earlier one delivered and could
/// not mark is marked then.
#[derive(Debug)]
pub struct CatchUp {
    commit_lsn: PgLsn,
    next: u64,
    rows: VecDeque<(u64, StoredRow)>,
    is_asked: bool,
    has_all: bool,
    is_finishing: bool,
}

impl CatchUp {
    /// The list of a slot whose stream begins at `consistent_lsn`.
    pub fn new(consistent_lsn: PgLsn) -> Self {
        Self {
            // No commit record starts here, and every one of the stream behind it.
            commit_lsn: PgLsn::from(u64::from(consistent_lsn).saturating_sub(1)),
            next: 0,
            rows: VecDeque::new(),
            is_asked: false,
            has_all: false,
            is_finishing: false,
        }
    }
}

impl CatchUp {
    /// Rows of the list that were taken in.
    pub(super) fn taken(&self) -> u64 {
        self.next.saturating_sub(u64::try_from(self.rows.len()).unwrap_or(0))
    }
}

impl Relay {
    /// An event was received, and has its number; its row stands in `cells`.
    pub(super) fn arrive(
        &mut self,
        now: Duration,
        number: u64,
        arrival: Arrival,
        effects: &mut Vec<Effect>,
    ) {
        trace!(event_id = arrival.id, position = %arrival.position, "an event has come");
        if arrival.position < self.memory.delivered {
            self.tally.repeated += 1;
            self.settle(now, number);
            self.mark(number, arrival, true);
            return;
        }
        // An earlier session put it aside, and could not record so much. Whatever an operator has
        // done to it since then holds.
        if !self.ahead.events.is_empty()
            && let Some(lsn) = self.ahead.take(arrival.position, arrival.mapping.table, &arrival.id)
        {
            self.tally.repeated += 1;
            self.unwritten.parked_before(number, arrival.position, lsn);
            self.settle(now, number);
            self.mark(number, arrival, true);
            return;
        }
        if self.memory.cautious_through.is_some_and(|through| arrival.position > through) {
            self.memory.cautious_through = None;
        }
        // The usual way first: nobody waits for anybody.
        if self.lanes.is_empty() && !self.rules.is_strict {
            self.send_arrived(now, arrival, effects);
            return;
        }
        let mut key = std::mem::take(&mut self.key);
        if self.is_ordered(&arrival, &mut key) {
            self.arrive_in_lane(now, arrival, &key, effects);
        } else {
            self.send_arrived(now, arrival, effects);
        }
        self.key = key;
    }

    /// Whether an event, whose row stands in `cells`, has to keep the order of an aggregate; its
    /// key is in `key` then.
    fn is_ordered(&self, arrival: &Arrival, key: &mut String) -> bool {
        let table = self.rules.tables.get(arrival.mapping.table);
        if !self.rules.is_strict && !table.is_some_and(|table| table.is_holding) {
            return false;
        }
        let row = Row { tuple: &arrival.tuple, cells: &self.cells };
        let mapping = &arrival.mapping;
        Aggregate::write(row.aggregate_type(mapping), row.aggregate_id(mapping), key)
    }

    fn arrive_in_lane(
        &mut self,
        now: Duration,
        mut arrival: Arrival,
        key: &str,
        effects: &mut Vec<Effect>,
    ) {
        if !self.lanes.has(key) {
            if self.rules.is_strict {
                let aggregate = Aggregate::written(key);
                self.lanes.set_busy(&aggregate);
                arrival.lane = Some(aggregate);
            }
            self.send_arrived(now, arrival, effects);
        } else if self.lanes.waits_in_memory(key) {
            self.lanes.wait(key, arrival);
        } else {
            self.park(now, arrival, State::Queued, None);
        }
    }

    /// Something was delivered or written that an aggregate waited for.
    pub(super) fn advance(&mut self, aggregate: &Aggregate, effects: &mut Vec<Effect>) {
        let key: &str = std::borrow::Borrow::borrow(aggregate);
        loop {
            match self.lanes.next(key, self.unwritten.written()) {
                Next::Wait | Next::WaitForWrite | Next::Free => return,
                Next::Claim(after) if self.ending.is_none() && self.paused_by.is_none() => {
                    return self.claim(aggregate, after, effects);
                }
                // The first look after the pause finds it again.
                Next::Claim(_) => return self.lanes.let_rest(key),
                Next::Arrival(mut arrival) => {
                    let is_strict = self.rules.is_strict;
                    if is_strict {
                        self.lanes.set_busy(aggregate);
                        arrival.lane = Some(aggregate.clone());
                    }
                    self.ready.push_back(Ready { arrival, letter: None, is_alone: false });
                    if is_strict {
                        return;
                    }
                }
            }
        }
    }

    /// Sends off what is ready, as far as there is room.
    pub(super) fn send_ready(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        while self.may_send() {
            let Some(ready) = self.ready.pop_front() else { return };
            let read = self.read(&ready.arrival.mapping, &ready.arrival.tuple);
            let read = read.map_err(|why| Refusal::unreadable("row", why));
            self.send(now, ready, read, effects);
        }
    }

    fn may_send(&self) -> bool {
        let wants_alone = self.ready.front().is_some_and(|ready| ready.is_alone);
        let messages = if self.is_cautious() || wants_alone || self.is_one_alone() {
            1
        } else {
            self.rules.window_messages
        };
        self.is_sending()
            // A drain finishes what was taken in, paused or not.
            && (self.paused_by.is_none() || self.ending.is_some())
            && !self.window.must_empty()
            && self.window.len() < messages
            && self.window.bytes() < self.rules.window_bytes
    }

    /// Sends off an event that has just arrived, whose row stands in `cells`.
    fn send_arrived(&mut self, now: Duration, arrival: Arrival, effects: &mut Vec<Effect>) {
        let ready = Ready { arrival, letter: None, is_alone: false };
        self.send(now, ready, Ok(()), effects);
    }

    /// Sends off what is ready; `read` says whether its row stands in `cells`.
    fn send(
        &mut self,
        now: Duration,
        ready: Ready,
        read: Result<(), Refusal>,
        effects: &mut Vec<Effect>,
    ) {
        let Ready { mut arrival, letter, is_alone } = ready;
        if letter.is_none()
            && let Some((position, why)) = &self.memory.convicted
            && *position == arrival.position
        {
            let refusal = Refusal::Closed { why: why.clone() };
            self.memory.convicted = None;
            return self.refused(now, arrival, None, refusal);
        }
        let message = read.and_then(|()| self.message_of_read(&arrival, letter.as_ref()));
        let message = match message {
            Ok(message) => message,
            // Its aggregate may have events in flight, and one of them may be refused too: they
            // are parked in their order.
            Err(_) if !self.window.is_empty() && letter.is_none() => {
                self.ready.push_front(Ready { arrival, letter, is_alone: true });
                return;
            }
            Err(refusal) => return self.refused(now, arrival, letter, refusal),
        };
        self.tally.published += 1;
        if matches!(arrival.source, Source::Stream(_)) {
            self.tally.to_publish.observe(self.age(now, arrival.commit_time));
        }
        trace!(event_id = arrival.id, position = %arrival.position, "an event is published");
        arrival.seconds = message.timestamp();
        let bytes = message.body.len();
        self.window.push(Published { arrival, letter, is_alone, bytes, at: now });
        effects.push(Effect::Publish(message));
    }

    /// The message of an event whose row stands in `cells`.
    fn message_of_read(
        &self,
        arrival: &Arrival,
        letter: Option<&Refusal>,
    ) -> Result<Message, Refusal> {
        let Arrival { mapping, tuple, position, commit_time, .. } = arrival;
        let row = Row { tuple, cells: &self.cells };
        let table = self.rules.tables.get(mapping.table);
        let table = table.ok_or_else(|| Refusal::unreadable("table", "it is not configured"))?;
        let event = Event::read(mapping, row, *commit_time);
        let limits = self.rules.limits;
        let message = event
            .as_ref()
            .map_err(Refusal::clone)
            .and_then(|event| Message::build(event, row, *position, mapping, table, limits));
        match (letter, &table.on_failure) {
            (Some(why), OnFailure::DeadLetter { exchange, routing_key }) => Message::dead_letter(
                message.ok(),
                why,
                crate::core::message::Letter {
                    exchange,
                    routing_key: routing_key.as_deref(),
                    id: &arrival.id,
                    table,
                    position: *position,
                    body: event.ok().map(|event| event.payload).unwrap_or_default(),
                },
                limits,
            ),
            _ => message,
        }
    }

    /// The mapping of a stored row.
    pub(super) fn shape(&mut self, row: &StoredRow) -> Result<Arc<Mapping>, Vec<String>> {
        self.shapes.mapping(&self.rules.tables, row.table, &row.columns)
    }

    /// Rows of the catch-up's list came.
    pub(super) fn caught(&mut self, rows: Vec<(u64, StoredRow)>, next: u64, is_last: bool) {
        let Some(catch_up) = &mut self.catch_up else { return };
        catch_up.is_asked = false;
        catch_up.has_all = is_last;
        catch_up.next = next;
        catch_up.rows.extend(rows);
    }

    /// Takes in what was listed, asks for more, and says when all of it is done.
    pub(super) fn catch_up(&mut self, now: Duration, effects: &mut Vec<Effect>) -> Result<(), End> {
        while self.catch_up.is_some() && self.has_room() {
            let next = self.catch_up.as_mut().and_then(|catch_up| {
                catch_up.rows.pop_front().map(|(n, row)| (catch_up.commit_lsn, n, row))
            });
            let Some((commit_lsn, index, row)) = next else { break };
            self.listed(now, Position { commit_lsn, index }, row, effects)?;
        }
        let is_settled = self.progress.settled() == self.progress.received()
            && self.is_recorded()
            && self.unwritten.is_empty()
            // Once the list is gone, nobody would know of a mark that was not written.
            && self.marks.is_idle(now);
        let (has_room, is_ending) = (self.has_room(), self.ending.is_some());
        let Some(catch_up) = self.catch_up.as_mut().filter(|_| !is_ending) else { return Ok(()) };
        if !catch_up.rows.is_empty() || catch_up.is_asked || catch_up.is_finishing {
            return Ok(());
        }
        if !catch_up.has_all && has_room {
            catch_up.is_asked = true;
            effects.push(Effect::CatchUp(catch_up.next));
        } else if catch_up.has_all && is_settled {
            catch_up.is_finishing = true;
            effects.push(Effect::CaughtUp);
        }
        Ok(())
    }

    fn listed(
        &mut self,
        now: Duration,
        position: Position,
        row: StoredRow,
        effects: &mut Vec<Effect>,
    ) -> Result<(), End> {
        let mapping = self.shape(&row).map_err(|errors| {
            let hint = "correct [[tables]], so that it names the columns of today";
            End::Fault(Fault::definite(errors.join("; "), hint))
        })?;
        let StoredRow { tuple, commit_time, xid, .. } = row;
        let id = match self.read(&mapping, &tuple) {
            Ok(()) => self.id(&mapping, &tuple),
            Err(why) => return Err(Fault::transient(format!("a listed row: {why}")).into()),
        };
        let number = self.progress.receive(position);
        let source = Source::Stream(number);
        let arrival =
            Arrival { xid, ..Arrival::new(source, position, id, mapping, tuple, commit_time) };
        self.arrive(now, number, arrival, effects);
        Ok(())
    }
}
