//! Events are taken in, whatever way they come, wait where they have to, and are sent off.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use postgres_types::PgLsn;
use tracing::trace;

use super::aggregates::{Admission, Next};
use super::arrival::{Arrival, Outbound, Source};
use super::decoder::{DecoderOutput, InsertedRow};
use super::phase::Phase;
use super::{Effect, End, Relay, Rules};
use crate::config::{OnFailure, Table};
use crate::core::event::envelope;
use crate::core::event::finder::RuleColumn;
use crate::core::event::pgoutput::{self, Cell, StoredRow, Tuple};
use crate::core::event::relation::Mapping;
use crate::core::event::{Event, Moment, Position, PublishingPlace, Refusal};
use crate::core::message::Message;
use crate::core::parked::{Aggregate, ParkedState};
use crate::core::share;
use crate::error::{Fault, Side};

/// Rows that the slot does not hold, listed before its stream begins. They come before all of
/// the stream, and after all that an earlier slot brought. A session goes through the list
/// from its start, and is given what is not marked: what an earlier one delivered and could
/// not mark is marked then.
#[derive(Debug)]
pub struct CatchUpCursor {
    commit_lsn: PgLsn,
    next: u64,
    rows: VecDeque<(u64, StoredRow)>,
    is_asked: bool,
    has_all: bool,
    is_finishing: bool,
}

impl CatchUpCursor {
    /// The list of a slot whose stream begins at `consistent_lsn`.
    pub fn new(consistent_lsn: PgLsn) -> Self {
        Self {
            commit_lsn: Position::before(consistent_lsn).commit_lsn,
            next: 0,
            rows: VecDeque::new(),
            is_asked: false,
            has_all: false,
            is_finishing: false,
        }
    }
}

impl CatchUpCursor {
    /// Rows of the list that were taken in.
    pub(super) fn taken(&self) -> u64 {
        self.next.saturating_sub(u64::try_from(self.rows.len()).unwrap_or(0))
    }
}

impl Relay {
    /// A message of the stream came.
    pub(super) fn stream(
        &mut self,
        now: Duration,
        lsn: PgLsn,
        message: pgoutput::Message,
        effects: &mut Vec<Effect>,
    ) -> Result<(), End> {
        self.is_passed |= self.look_ahead.is_none() && self.is_behind_the_list(&message);
        if self.is_passed {
            self.heard_of(PgLsn::from(u64::MAX));
            return Ok(());
        }
        let decoded = self.decoder.take(lsn, message)?;
        self.decoded(now, decoded, effects)
    }

    /// All that was committed before an LSN was sent. Nothing behind the list counts.
    pub(super) fn heard_of(&mut self, lsn: PgLsn) {
        let lsn = self.rules.passes_until.map_or(lsn, |until| lsn.min(until));
        self.progress.barrier(lsn, self.check.next_number());
    }

    /// Takes in the row that waited for its relation, once there is room for it.
    pub(super) fn take_resolved(
        &mut self,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) -> Result<(), End> {
        if !self.decoder.is_waiting() || self.look_ahead.is_none() && !self.has_room() {
            return Ok(());
        }
        let decoded = self.decoder.take_resolved()?;
        self.decoded(now, decoded, effects)
    }

    fn decoded(
        &mut self,
        now: Duration,
        decoded: DecoderOutput,
        effects: &mut Vec<Effect>,
    ) -> Result<(), End> {
        if !self.delivered.is_passed()
            && let DecoderOutput::Row(InsertedRow { position, .. })
            | DecoderOutput::Other(position)
            | DecoderOutput::Foreign(position) = &decoded
        {
            self.delivered.compare(*position, self.decoder.change())?;
        }
        if self.look_ahead.is_some() {
            self.decoded_ahead(decoded, effects);
            return Ok(());
        }
        match decoded {
            DecoderOutput::Nothing => {}
            DecoderOutput::Row(row) => return self.inserted(now, row, effects),
            DecoderOutput::Commit(end_lsn) => {
                self.progress.commit(end_lsn, self.check.next_number())
            }
            DecoderOutput::Ignored => self.tally.ignored += 1,
            DecoderOutput::Other(position) => {
                self.tally.ignored += 1;
                self.pass_over(position);
            }
            DecoderOutput::Foreign(position) => {
                self.tally.ignored += 1;
                self.pass_over(position);
            }
            DecoderOutput::NotTransactional(source) => {
                if self.tally.not_transactional == 0 {
                    effects.push(Effect::NotTransactional(source));
                }
                self.tally.not_transactional += 1;
            }
            DecoderOutput::Altered => self.check.require(),
            DecoderOutput::Unknown { relation, xid } => {
                effects.push(Effect::Resolve { relation, xid })
            }
        }
        Ok(())
    }

    /// Events get the ids that they had, and that is all.
    fn decoded_ahead(&mut self, decoded: DecoderOutput, effects: &mut Vec<Effect>) {
        match decoded {
            DecoderOutput::Row(InsertedRow { position, commit_time, .. }) => {
                let (id, is_before) =
                    (self.publishing_id(position), self.is_before_place(position));
                if let Some(look_ahead) = &mut self.look_ahead
                    && !is_before
                {
                    look_ahead.event(id, commit_time);
                }
            }
            DecoderOutput::Commit(end_lsn) => {
                if let Some(look_ahead) = &mut self.look_ahead {
                    look_ahead.passed(end_lsn);
                }
            }
            DecoderOutput::Unknown { relation, xid } => {
                effects.push(Effect::Resolve { relation, xid });
            }
            DecoderOutput::Other(position) | DecoderOutput::Foreign(position) => {
                self.pass_over(position);
            }
            DecoderOutput::Nothing
            | DecoderOutput::Ignored
            | DecoderOutput::NotTransactional(_)
            | DecoderOutput::Altered => {}
        }
    }

    fn inserted(
        &mut self,
        now: Duration,
        row: InsertedRow,
        effects: &mut Vec<Effect>,
    ) -> Result<(), End> {
        let InsertedRow { relation, mapping, tuple, position, commit_time, xid } = row;
        let change = self.decoder.change();
        let is_before = self.is_delivered(position, mapping.table, relation);
        if relation.is_some_and(|relation| self.is_listed(relation, mapping.table)) {
            // Whatever its place says: what was passed by an earlier session that was cut off was not delivered.
            self.pass_over(position);
            return Ok(());
        }
        self.decoder.read(&mapping, &tuple).map_err(End::protocol)?;
        let id = self.decoder.id(&mapping, &tuple);
        let publishing_id = self.publishing_id(position);
        let number = self.progress.receive(position, change, publishing_id);
        if !self.is_published(&mapping, &tuple) {
            self.tally.left_out += 1;
            self.settle(now, number);
            return Ok(());
        }
        if self.rules.former.may_have(position)
            && self.rules.former.has(position, self.share_key(&mapping, &tuple))
        {
            self.tally.repeated += 1;
            self.settle(now, number);
            return Ok(());
        }
        if self.came_marked(&mapping, &tuple) {
            self.tally.came_marked += 1;
            self.settle(now, number);
            return Ok(());
        }
        let source = Source::Stream(number);
        let xid = Some(xid);
        let arrival = Arrival::new(source, position, id, mapping, tuple, commit_time);
        let publishing_id = self.is_of_stream(&arrival.mapping).then_some(publishing_id);
        let arrival = Arrival { xid, publishing_id, ..arrival };
        self.arrive(now, number, arrival, is_before, effects);
        Ok(())
    }

    /// Its events go to a stream.
    pub(super) fn is_of_stream(&self, mapping: &Mapping) -> bool {
        self.rules.is_of_stream(mapping)
    }

    /// A change that is no event takes an id all the same: those of events must not depend on which tables and
    /// messages are configured today.
    fn pass_over(&mut self, position: Position) {
        let publishing_id = self.publishing_id(position);
        self.progress.pass_over(publishing_id);
    }

    /// What an earlier session settled was given its id then.
    fn publishing_id(&mut self, position: Position) -> u64 {
        match self.is_before_place(position) {
            true => self.ids.last(),
            false => self.ids.assign(position, self.decoder.fingerprint()),
        }
    }

    /// Whether a row is left to the list that was made, where it is one of those that wait.
    fn is_listed(&self, relation: u32, source: usize) -> bool {
        self.rules.passes_until.is_some()
            && self.rules.tables.get(source).is_some_and(Table::has_marks)
            && self.decoder.is_held_by_a_table(relation)
    }

    /// What comes from here on is behind the list: the session ends before it is read.
    fn is_behind_the_list(&self, message: &pgoutput::Message) -> bool {
        match (self.rules.passes_until, message) {
            (Some(until), pgoutput::Message::Begin { commit_lsn, .. }) => *commit_lsn > until,
            _ => false,
        }
    }

    /// An earlier session has passed what is here.
    fn is_before_place(&self, position: Position) -> bool {
        self.delivered.has(position, self.decoder.change())
    }

    /// An earlier session settled it, and knew it for an event.
    fn is_delivered(&self, position: Position, source: usize, relation: Option<u32>) -> bool {
        if !self.is_before_place(position) {
            return false;
        }
        let Rules { are_new, were_read, .. } = &self.rules;
        let is_new = are_new.get(source).is_some_and(|is_new| *is_new);
        !is_new || relation.is_some_and(|relation| were_read.contains(&(relation, source)))
    }

    /// The row that was read last is of this relay's share, and the rule of its table lets it pass.
    fn is_published(&self, mapping: &Mapping, tuple: &Tuple) -> bool {
        if let Some(share) = self.rules.share
            && !share::has(share, self.share_key(mapping, tuple))
        {
            return false;
        }
        mapping.rule.iter().all(|RuleColumn { column, values, is_except }| {
            let text = self.decoder.cell(*column).and_then(|cell| tuple.text(cell));
            let is_one = text.is_some_and(|text| values.iter().any(|it| it.as_bytes() == text));
            is_one != *is_except
        })
    }

    /// By which the row that was read last is of a share.
    fn share_key<'t>(&self, mapping: &Mapping, tuple: &'t Tuple) -> &'t [u8] {
        let column = mapping.aggregate_id.unwrap_or(mapping.id);
        self.decoder.cell(column).and_then(|cell| tuple.text(cell)).unwrap_or_default()
    }

    /// The row that was read last was inserted with its mark: it was relayed before, and is restored,
    /// copied or moved to another partition.
    fn came_marked(&self, mapping: &Mapping, tuple: &Tuple) -> bool {
        let holds = |(column, mark): &(usize, Option<Box<str>>)| {
            let cell = self.decoder.cell(*column).filter(|cell| *cell != Cell::Null);
            let wanted = mark.as_deref().map(str::as_bytes);
            cell.is_some_and(|cell| wanted.is_none() || tuple.text(cell) == wanted)
        };
        !mapping.mark.is_empty() && mapping.mark.iter().all(holds)
    }

    /// An event was received, and has its number; its row was read last. `is_before`: an earlier session settled it.
    fn arrive(
        &mut self,
        now: Duration,
        number: u64,
        arrival: Arrival,
        is_before: bool,
        effects: &mut Vec<Effect>,
    ) {
        trace!(event_id = arrival.id(), position = %arrival.position, "an event has come");
        // An earlier session put it aside, and could not record so much. Whatever an operator has
        // done to it since then holds.
        let (position, table) = (arrival.position, arrival.mapping.table);
        if let Some((lsn, at)) = self.retries.take_ahead(position, table, arrival.id.as_deref()) {
            self.tally.repeated += 1;
            self.line(now, "parked_before", &arrival, None);
            let place = self.progress.place_of(number).unwrap_or(PublishingPlace::start());
            self.recorder.parked_before(number, place, lsn);
            self.settle(now, number);
            self.mark(number, Arrival { position: at, ..arrival }, true);
            return;
        }
        if is_before {
            self.tally.repeated += 1;
            self.line(now, "delivered_before", &arrival, None);
            self.settle(now, number);
            self.mark(number, arrival, true);
            return;
        }
        self.outcomes.arrived(arrival.position);
        // The usual way first: nobody waits for anybody. A stream refuses no event that others pass: it keeps
        // their order by itself.
        let is_strict = self.rules.is_strict && !self.is_of_stream(&arrival.mapping);
        if self.aggregates.is_empty() && !is_strict {
            return self.send_arrived(now, arrival, effects);
        }
        let table = self.rules.tables.get(table);
        if !is_strict && !table.is_some_and(|table| table.is_holding) {
            return self.send_arrived(now, arrival, effects);
        }
        match self.aggregates.admit(arrival, self.decoder.cells(), is_strict) {
            Admission::Send(arrival) => self.send_arrived(now, arrival, effects),
            Admission::Park(arrival) => self.park(now, arrival, ParkedState::Queued, None),
            Admission::Waits => {}
        }
    }

    /// Something was delivered or written that an aggregate waited for.
    pub(super) fn advance(
        &mut self,
        now: Duration,
        aggregate: &Aggregate,
        effects: &mut Vec<Effect>,
    ) {
        let key: &str = std::borrow::Borrow::borrow(aggregate);
        loop {
            let is_strict = self.rules.is_strict;
            match self.aggregates.next(key, self.recorder.written(), is_strict) {
                Next::Wait | Next::WaitForWrite | Next::Free => return,
                Next::Claim(after) if !self.phase.is_ending() && !self.outgoing.is_paused() => {
                    return self.claim(aggregate, after, effects);
                }
                // The first look after the pause finds it again.
                Next::Claim(_) => return self.aggregates.let_rest(key),
                Next::Taken(rows) => return rows.into_iter().for_each(|row| self.retry(now, row)),
                Next::Arrival(mut arrival) => {
                    let is_strict = self.rules.is_strict && !self.is_of_stream(&arrival.mapping);
                    if is_strict {
                        self.aggregates.set_busy(aggregate);
                        arrival.waiter = Some(aggregate.clone());
                    }
                    self.outgoing.push(arrival, false);
                    if is_strict {
                        return;
                    }
                }
            }
        }
    }

    /// Sends off what is ready, as far as there is room.
    pub(super) fn send_ready(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        while self.outgoing.is_any_ready() && self.sending_waits_for().is_none() {
            let Some(ready) = self.outgoing.next_ready() else { return };
            let read = self.decoder.read(&ready.arrival.mapping, &ready.arrival.tuple);
            let read = read.map_err(|why| Refusal::unreadable("row", why));
            // An older one of its aggregate was parked after this one had come.
            let is_new = ready.dead_letter.is_none()
                && ready.arrival.waiter.is_none()
                && matches!(ready.arrival.source, Source::Stream(_));
            if is_new && read.is_ok() && self.is_held(&ready.arrival) {
                self.park(now, ready.arrival, ParkedState::Queued, None);
                continue;
            }
            self.send(now, ready, read, effects);
        }
    }

    /// Sends off an event that has just arrived, whose row was read last.
    fn send_arrived(&mut self, now: Duration, arrival: Arrival, effects: &mut Vec<Effect>) {
        let ready = Outbound { arrival, dead_letter: None, is_alone: false };
        self.send(now, ready, Ok(()), effects);
    }

    /// Sends off what is ready; `read` says whether its row was read.
    fn send(
        &mut self,
        now: Duration,
        ready: Outbound,
        read: Result<(), Refusal>,
        effects: &mut Vec<Effect>,
    ) {
        let Outbound { mut arrival, dead_letter, is_alone } = ready;
        if dead_letter.is_none()
            && let Some(why) = self.outcomes.take_convicted(arrival.position)
        {
            return self.refused(now, arrival, None, Refusal::Closed { why });
        }
        let message = read.and_then(|()| self.message_of_read(&arrival, dead_letter.as_ref()));
        let (mut message, moment) = match message {
            Ok(message) => message,
            // Its aggregate may have events in flight, and one of them may be refused too: they
            // are parked in their order.
            Err(_) if self.outgoing.is_any_in_flight() && dead_letter.is_none() => {
                return self.outgoing.push_first(Outbound { arrival, dead_letter, is_alone: true });
            }
            Err(refusal) => return self.refused(now, arrival, dead_letter, refusal),
        };
        if dead_letter.is_none() && self.convicts_older(now, &arrival) {
            return self.outgoing.push_first(Outbound { arrival, dead_letter, is_alone });
        }
        if !self.name(&mut message, &arrival) {
            return;
        }
        self.tally.published += 1;
        if matches!(arrival.source, Source::Stream(_)) {
            self.tally.to_publish.observe(self.age(now, arrival.commit_time).into());
        }
        trace!(event_id = arrival.id(), position = %arrival.position, "an event is published");
        arrival.moment = moment;
        arrival.destination = Some(self.destinations.of(arrival.mapping.table, &message));
        self.outgoing.publish(now, Outbound { arrival, dead_letter, is_alone }, &message);
        effects.push(Effect::Publish(message));
    }

    /// Gives the message its publishing id, if its event has one. `false` where a higher one was sent: the
    /// broker would drop it and call that a success, so the session ends, and the next sends it in its turn.
    /// What comes out of the parking, or off a list, has none: it is sent as often as it takes.
    fn name(&mut self, message: &mut Message, arrival: &Arrival) -> bool {
        let Some(id) = arrival.publishing_id else { return true };
        message.publishing_id = Some(id);
        let is_above = self.ids.send(id);
        debug_assert!(is_above, "event {} is behind its turn", arrival.id());
        if !is_above {
            let what = format!("event {} is to be sent behind its turn", arrival.id());
            self.enter(Phase::Failing(Fault::transient(what).on(Side::Broker)));
        }
        is_above
    }

    /// The message of an event whose row was read last, and what that row's column of the time holds.
    fn message_of_read(
        &self,
        arrival: &Arrival,
        dead_letter: Option<&Refusal>,
    ) -> Result<(Message, Option<Moment>), Refusal> {
        let Arrival { mapping, tuple, position, commit_time, .. } = arrival;
        let row = self.decoder.row(tuple);
        let table = self.rules.tables.get(mapping.table);
        let table = table.ok_or_else(|| Refusal::unreadable("table", "it is not configured"))?;
        let limits = self.rules.limits;
        let event = Event::read(mapping, row, *commit_time, limits.body);
        // A dead letter has the same body.
        if let Err(refusal @ Refusal::BodyTooLarge { .. }) = event {
            return Err(refusal);
        }
        let moment = event.as_ref().ok().and_then(|event| event.moment);
        let message = event
            .as_ref()
            .map_err(Refusal::clone)
            .and_then(|event| Message::build(event, row, *position, mapping, table, limits));
        let message = match (dead_letter, &table.on_failure) {
            (Some(why), OnFailure::DeadLetter { exchange, routing_key }) => Message::dead_letter(
                message.ok(),
                why,
                crate::core::message::Letter {
                    exchange,
                    routing_key: routing_key.as_deref(),
                    id: arrival.id(),
                    table,
                    position: *position,
                    body: match event {
                        Ok(event) => event.payload,
                        Err(_) if mapping.is_content() => envelope::content(row),
                        Err(_) => Bytes::new(),
                    },
                },
                limits,
            ),
            _ => message,
        };
        message.map(|message| (message, moment))
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
        if self.catch_up.is_none() {
            return Ok(());
        }
        while self.catch_up.is_some() && self.has_room() {
            let next = self.catch_up.as_mut().and_then(|catch_up| {
                catch_up.rows.pop_front().map(|(n, row)| (catch_up.commit_lsn, n, row))
            });
            let Some((commit_lsn, index, row)) = next else { break };
            self.listed(now, Position { commit_lsn, index }, row, effects)?;
        }
        let is_settled = self.progress.settled() == self.progress.received()
            && self.is_recorded()
            // Once the list is gone, nobody would know of a mark that was not written.
            && self.recorder.is_idle(now);
        let (has_room, is_ending) = (self.has_room(), self.phase.is_ending());
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
        let mapping = match self.decoder.shape(&row) {
            Ok(mapping) => mapping,
            // It was kept whole, and is refused alone: to list it again would miss it where a mark of another row
            // counts as its own.
            Err(errors) if !self.decoder.is_of_today(&row) => self.decoder.former(&row, &errors)?,
            Err(errors) => {
                let hint = "correct [[tables]], so that it names the columns of today";
                return Err(Fault::definite(errors.join("; "), hint).into());
            }
        };
        let StoredRow { tuple, commit_time, xid, .. } = row;
        let id = match self.decoder.read(&mapping, &tuple) {
            Ok(()) => self.decoder.id(&mapping, &tuple),
            Err(why) => return Err(Fault::transient(format!("a listed row: {why}")).into()),
        };
        let number = self.progress.receive(position, None, self.ids.last());
        // By a rule that is younger than the list.
        if !self.is_published(&mapping, &tuple) {
            self.tally.left_out += 1;
            self.settle(now, number);
            return Ok(());
        }
        let source = Source::Stream(number);
        let arrival =
            Arrival { xid, ..Arrival::new(source, position, id, mapping, tuple, commit_time) };
        let is_before = self.is_delivered(position, arrival.mapping.table, None);
        self.arrive(now, number, arrival, is_before, effects);
        Ok(())
    }
}
