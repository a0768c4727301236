//! A model of Postgres: a WAL, the rows it made, a slot and its walsender.

mod walsender;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use pgoutbox::testing::core::event::pgoutput::{Column, StoredRow, Tuple};
use pgoutbox::testing::core::relay::marks::{
    Batch, Extent, Left, Mark, MarkError, UnwrittenMark, Why,
};

use crate::parking::ParkingTable;
use crate::script::Script;

pub(crate) use walsender::{Frame, Walsender, What, micros};

/// So many statements may the search for what is refused take, of what goes apart.
const STATEMENTS: usize = 12;

fn missed(place: usize, why: Why) -> UnwrittenMark {
    UnwrittenMark { place, why }
}

fn refused() -> Why {
    Why::Refused(Arc::new(MarkError {
        code: "P0001".to_owned(),
        message: "no mark".to_owned(),
        is_lock: false,
        is_of_trigger: true,
    }))
}

/// A relation of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Table {
    /// An outbox table that the relay knows by its oid.
    Known,
    /// One that it knows by its name only.
    Named,
    /// A partition of `Named`, under its own oid and name.
    Leaf,
    /// One of the publication that is not an outbox.
    Other,
    /// None: a message of `pg_logical_emit_message` whose prefix is an event's.
    Emitted,
    /// None: a message of somebody else.
    Foreign,
}

impl Table {
    pub(crate) fn oid(self) -> u32 {
        20_001 + self as u32
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Known => "outbox_messages",
            Self::Named => "orders_outbox",
            Self::Leaf => "orders_outbox_2026",
            Self::Other => "customers",
            Self::Emitted => "orders",
            Self::Foreign => "orders of others",
        }
    }

    /// It has no rows, but messages of a prefix.
    pub(crate) fn is_message(self) -> bool {
        matches!(self, Self::Emitted | Self::Foreign)
    }

    /// What is written there is an event.
    pub(crate) fn is_outbox(self) -> bool {
        !matches!(self, Self::Other | Self::Foreign)
    }

    pub(crate) fn from_oid(oid: u32) -> Self {
        let all = [Self::Known, Self::Named, Self::Leaf, Self::Other];
        *all.iter().find(|table| table.oid() == oid).expect("only these were announced")
    }
}

/// A row that a transaction inserted.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) table: Table,
    /// Its columns change their order and number with this.
    pub(crate) shape: u8,
    pub(crate) id: String,
    pub(crate) aggregate: u64,
    pub(crate) topic: Option<String>,
    pub(crate) exchange: Option<&'static str>,
    pub(crate) body: String,
}

impl Row {
    fn columns(&self) -> Vec<crate::pgoutput::Column> {
        let (text, uuid, jsonb, timestamptz) = (25, 2_950, 3_802, 1_184);
        let mut columns = vec![
            ("id", uuid, Some(self.id.clone())),
            ("aggregate_type", text, Some("order".to_owned())),
            ("aggregate_id", text, Some(self.aggregate.to_string())),
            ("event_type", text, Some("changed".to_owned())),
            ("topic", text, self.topic.clone()),
            ("exchange", text, self.exchange.map(str::to_owned)),
            ("payload", jsonb, Some(self.body.clone())),
            ("headers", jsonb, Some("{\"n\": 1}".to_owned())),
            ("occurred_at", timestamptz, None),
            ("relayed_at", timestamptz, None),
        ];
        match self.shape {
            0 => {}
            1 => columns.insert(0, ("note", text, Some("new".to_owned()))),
            _ => columns.reverse(),
        }
        columns
    }
}

/// An outbox row of a committed transaction, at its place in commit order.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) aggregate: u64,
    pub(crate) commit_lsn: u64,
    pub(crate) index: u64,
    pub(crate) end_lsn: u64,
    pub(crate) visible_at: u64,
    pub(crate) locked_until: u64,
    pub(crate) is_deleted: bool,
    /// It has no row.
    pub(crate) is_message: bool,
    /// It is of the table that goes to a stream where others go to exchanges.
    pub(crate) is_known: bool,
    /// Where in the WAL its mark is.
    pub(crate) marked: Option<u64>,
    /// The server refuses its mark until then.
    pub(crate) refused_until: u64,
    pub(crate) routing_key: String,
    pub(crate) exchange: &'static str,
    pub(crate) body: String,
}

#[derive(Debug, Clone)]
struct Transaction {
    commit_lsn: u64,
    committed_at: u64,
    end_lsn: u64,
    xid: u32,
    is_skipped: bool,
    /// With the place of those that are events.
    rows: Vec<(Option<usize>, Row)>,
}

/// What became of a transaction of marks.
pub(crate) struct MarksWritten {
    pub(crate) missing: Vec<UnwrittenMark>,
    pub(crate) left: Left,
    pub(crate) written_lsn: u64,
    pub(crate) flushed_lsn: u64,
}

/// How marks are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marking {
    /// Into the row.
    Update,
    /// By removing the row.
    Delete,
    /// Beside it.
    SideTable,
    /// Not at all.
    None,
}

/// The server. What is copied is its files.
#[derive(Clone)]
pub(crate) struct Postgres {
    /// When it was started.
    pub(crate) started: u64,
    /// The name that streams are published to under, and under which start it was found to be right; written so that
    /// it waits for the disk.
    pub(crate) name: Option<(u64, u64)>,
    marking: Marking,
    sends_empty: bool,
    transactions: Vec<Transaction>,
    pub(crate) events: Vec<Event>,
    places: BTreeMap<String, usize>,
    /// End of the WAL.
    pub(crate) end: u64,
    /// How much of it is on disk.
    pub(crate) flushed: u64,
    /// Positions of the progress row, with where in the WAL they were written.
    progress: Vec<(u64, (u64, u64))>,
    /// The publishing ids that stand in the row beside them.
    publishing_ids: BTreeMap<(u64, u64), u64>,
    pub(crate) confirmed: u64,
    saved: u64,
    /// The publication lacks its tables now: what is committed is never sent, not even once
    /// that is repaired, for the walsender sees the catalog of the time.
    pub(crate) is_publication_broken: bool,
    next_id: u64,
    xid: u32,
    pub(crate) parking: ParkingTable,
    /// The session that has read the progress row last: batches of others are refused.
    pub(crate) session: u64,
    /// Rows that the slot does not hold, by place; their place in commit order is before all.
    listed: Vec<(usize, Row)>,
    /// Where in the WAL the list was removed.
    list_removed: Option<u64>,
    /// Tables that take no marks, until then.
    closed_until: BTreeMap<usize, u64>,
}

impl Postgres {
    /// Rows that were there before the slot, and are listed to be caught up.
    pub(crate) fn list(&mut self, rows: Vec<Row>) {
        for mut row in rows {
            self.next_id += 1;
            row.id = format!("e{}", self.next_id);
            let place = self.events.len();
            let commit_lsn = self.confirmed - 1;
            let routing_key = row.topic.clone().unwrap_or_else(|| "order.changed".to_owned());
            self.events.push(Event {
                id: row.id.clone(),
                aggregate: row.aggregate,
                commit_lsn,
                index: place as u64,
                end_lsn: 0,
                visible_at: 0,
                locked_until: 0,
                is_deleted: false,
                is_message: false,
                is_known: row.table == Table::Known,
                marked: None,
                refused_until: 0,
                routing_key,
                exchange: row.exchange.unwrap_or("outbox"),
                body: row.body.clone(),
            });
            self.places.insert(row.id.clone(), place);
            self.listed.push((place, row));
        }
    }

    /// Where the slot's stream begins, while a list waits.
    pub(crate) fn catch_up(&self) -> Option<u64> {
        let is_waiting = !self.listed.is_empty() && self.list_removed.is_none();
        is_waiting.then_some(0x1_0000_0000)
    }

    /// Rows of the list, from this number on; those whose row is gone are left out.
    pub(crate) fn listed(&self, from: u64, count: usize) -> Vec<(u64, StoredRow)> {
        let rows = self.listed.iter().filter(|(place, _)| {
            let event = &self.events[*place];
            *place as u64 >= from && !event.is_deleted && event.marked.is_none()
        });
        rows.take(count)
            .map(|(place, row)| {
                let columns = row.columns();
                let shape: Vec<Column> = columns
                    .iter()
                    .map(|(name, type_oid, _)| Column {
                        name: (*name).to_owned(),
                        type_oid: *type_oid,
                    })
                    .collect();
                let texts = columns.iter().map(|(_, _, value)| value.as_deref().map(str::as_bytes));
                let tuple = Tuple::of_texts(texts).unwrap();
                let table = usize::from(row.table != Table::Known);
                let commit_time = 700_000_000_000_000;
                (
                    *place as u64,
                    StoredRow { table, columns: shape.into(), tuple, commit_time, xid: None },
                )
            })
            .collect()
    }

    pub(crate) fn remove_list(&mut self) {
        self.end += 40;
        self.list_removed = Some(self.end);
    }

    /// A transaction of its own, on disk where it waits for that. Returns where it is in the WAL.
    pub(crate) fn transaction(&mut self, is_synchronous: bool) -> u64 {
        self.end += 40;
        if is_synchronous {
            self.flush();
        }
        self.end
    }

    pub(crate) fn new(marking: Marking, sends_empty: bool) -> Self {
        let start = 0x1_0000_0000;
        Self {
            started: 1,
            name: None,
            marking,
            sends_empty,
            transactions: Vec::new(),
            events: Vec::new(),
            places: BTreeMap::new(),
            end: start,
            flushed: start,
            progress: Vec::new(),
            publishing_ids: BTreeMap::new(),
            confirmed: start,
            saved: start,
            is_publication_broken: false,
            next_id: 0,
            xid: 700,
            parking: ParkingTable::new(4),
            session: 0,
            listed: Vec::new(),
            list_removed: None,
            closed_until: BTreeMap::new(),
        }
    }

    pub(crate) fn place(&self, id: &str) -> Option<usize> {
        self.places.get(id).copied()
    }

    /// An application commits.
    pub(crate) fn commit(
        &mut self,
        script: &Script,
        mut rows: Vec<Row>,
        (committed_at, visible_at): (u64, u64),
        is_synchronous: bool,
    ) {
        let commit_lsn = self.end + if rows.is_empty() { 0 } else { script.within(1..300) };
        let end_lsn = commit_lsn + 48;
        self.xid += 1;
        let mut index = 0;
        let rows = rows
            .drain(..)
            .map(|mut row| {
                self.next_id += 1;
                row.id = format!("e{}", self.next_id);
                // Each row has a place, whether its table is configured or not.
                index += 1;
                if !row.table.is_outbox() {
                    return (None, row);
                }
                let place = self.events.len();
                let routing_key = row.topic.clone().unwrap_or_else(|| "order.changed".to_owned());
                self.events.push(Event {
                    id: row.id.clone(),
                    aggregate: row.aggregate,
                    commit_lsn,
                    index: index - 1,
                    end_lsn,
                    visible_at,
                    locked_until: 0,
                    is_deleted: false,
                    is_message: row.table.is_message(),
                    is_known: row.table == Table::Known,
                    marked: None,
                    refused_until: 0,
                    routing_key,
                    exchange: row.exchange.filter(|_| !row.table.is_message()).unwrap_or("outbox"),
                    body: row.body.clone(),
                });
                self.places.insert(row.id.clone(), place);
                (Some(place), row)
            })
            .collect();
        let (xid, is_skipped) = (self.xid, self.is_publication_broken);
        self.transactions.push(Transaction {
            commit_lsn,
            committed_at,
            end_lsn,
            xid,
            is_skipped,
            rows,
        });
        self.end = end_lsn;
        if is_synchronous {
            self.flush();
        }
    }

    /// WAL that has nothing for the slot.
    pub(crate) fn noise(&mut self, bytes: u64) {
        self.end += bytes;
    }

    pub(crate) fn flush(&mut self) {
        self.flushed = self.end;
    }

    /// A checkpoint saves the slot.
    pub(crate) fn checkpoint(&mut self) {
        self.flush();
        self.saved = self.confirmed;
    }

    pub(crate) fn acknowledged(&mut self, lsn: u64) {
        self.confirmed = self.confirmed.max(lsn);
    }

    /// Somebody takes the tables out of the publication, or puts that right.
    pub(crate) fn alter_publication(&mut self, is_broken: bool) {
        self.is_publication_broken = is_broken;
        self.noise(100);
        self.flush();
    }

    /// A crash: what was not on disk never was. It is started again then.
    pub(crate) fn crash(&mut self, started: u64) {
        self.started = started;
        let flushed = self.flushed;
        self.end = flushed;
        self.transactions.retain(|transaction| transaction.end_lsn <= flushed);
        self.events.retain(|event| event.end_lsn <= flushed);
        let count = self.events.len();
        self.places.retain(|_, place| *place < count);
        for event in &mut self.events {
            event.marked = event.marked.filter(|lsn| *lsn <= flushed);
            // Recovery ends every transaction and every lock.
            (event.visible_at, event.locked_until) = (0, 0);
        }
        self.progress.retain(|(lsn, _)| *lsn <= flushed);
        self.parking.crash(flushed);
        self.list_removed = self.list_removed.filter(|lsn| *lsn <= flushed);
        self.confirmed = self.saved;
    }

    /// A clean restart, which does not save the slot before Postgres 17.
    pub(crate) fn restart(&mut self, is_slot_saved: bool, started: u64) {
        self.flush();
        self.started = started;
        if is_slot_saved {
            self.saved = self.confirmed;
        }
        self.confirmed = self.saved;
        for event in &mut self.events {
            (event.visible_at, event.locked_until) = (0, 0);
        }
    }

    /// An LSN is acknowledged, which the row says before, on disk.
    pub(crate) fn reach(&mut self, lsn: u64, publishing_id: u64) {
        if (lsn, 0) > self.progress_on_disk() {
            self.flush();
            let position = self.progress().max((lsn, 0));
            if position == (lsn, 0) {
                self.progress.push((self.end, position));
                self.publishing_ids.insert(position, publishing_id);
            }
        }
        self.acknowledged(lsn);
    }

    /// The progress row.
    pub(crate) fn progress(&self) -> (u64, u64) {
        self.progress.last().map_or((0, 0), |(_, position)| *position)
    }

    /// Likewise, if the server crashed now.
    pub(crate) fn progress_on_disk(&self) -> (u64, u64) {
        let on_disk = self.progress.iter().rev().find(|(lsn, _)| *lsn <= self.flushed);
        on_disk.map_or((0, 0), |(_, position)| *position)
    }

    /// The publishing id of the last event before the place of the progress row.
    pub(crate) fn publishing_id(&self) -> u64 {
        self.publishing_ids.get(&self.progress()).copied().unwrap_or(0)
    }

    /// A batch of marks and progress; `None` where it is refused. Somebody may have a lock on what is besides
    /// the marks.
    pub(crate) fn write(
        &mut self,
        now: u64,
        session: u64,
        batch: &Batch,
        position: (u64, u64),
        left: Left,
    ) -> Option<MarksWritten> {
        if session != self.session {
            return None;
        }
        let lsn = self.end + 40;
        let missing = self.write_marks(now, lsn, &batch.marks);
        let places = &self.places;
        if left != Left::ParkingAndProgress {
            self.parking.write(now, lsn, &batch.parking, |id| places.get(id).copied());
        }
        let is_recorded = left == Left::Nothing && batch.extent != Extent::MarksAlone;
        if is_recorded && position >= self.progress() {
            self.progress.push((lsn, position));
            self.publishing_ids.insert(position, batch.place.publishing_id);
        }
        self.end = lsn;
        Some(MarksWritten { missing, left, written_lsn: lsn, flushed_lsn: self.flushed })
    }

    /// Marks that go together are one statement for each table, of which one row that is refused
    /// takes the others along. What goes apart is halved until that row stands alone, as far as the
    /// statements last.
    fn write_marks(&mut self, now: u64, lsn: u64, marks: &[Mark]) -> Vec<UnwrittenMark> {
        let parked = self.parking.places();
        assert!(marks.iter().all(|mark| mark.table < 2), "what has no row is not marked");
        let is_passed_over = |mark: &Mark, place| mark.is_repeat && parked.contains(&place);
        let mut missing = Vec::new();
        for table in 0..2 {
            let of_table = marks.iter().enumerate().filter(|(_, mark)| mark.table == table);
            let found = of_table.filter_map(|(at, mark)| Some((at, mark, self.place(&mark.id)?)));
            let found = found.filter(|(_, mark, place)| !is_passed_over(mark, *place));
            let (apart, together): (Vec<_>, Vec<_>) =
                found.partition(|(_, mark, _)| mark.goes_apart());
            let places = |of: Vec<(usize, &Mark, usize)>| -> Vec<(usize, usize)> {
                of.into_iter().map(|(at, _, place)| (at, place)).collect()
            };
            let (apart, together) = (places(apart), places(together));
            self.write_part(now, lsn, table, &together, 1, &mut missing);
            self.write_part(now, lsn, table, &apart, STATEMENTS, &mut missing);
        }
        missing.sort_by_key(|missed| missed.place);
        missing
    }

    fn write_part(
        &mut self,
        now: u64,
        lsn: u64,
        table: usize,
        marks: &[(usize, usize)],
        statements: usize,
        missing: &mut Vec<UnwrittenMark>,
    ) {
        let mut open = vec![marks];
        let mut left = statements;
        while let Some(part) = open.pop() {
            if left == 0 {
                missing.extend(part.iter().map(|(at, _)| missed(*at, Why::Suspected)));
                continue;
            }
            left -= 1;
            if part.iter().all(|(_, place)| !self.is_mark_refused(now, table, *place)) {
                let late = part.iter().filter(|(_, place)| !self.mark(now, lsn, *place));
                missing.extend(late.map(|(at, _)| UnwrittenMark::waits(*at)).collect::<Vec<_>>());
            } else if let [(at, _)] = part {
                missing.push(missed(*at, refused()));
            } else {
                let (first, last) = part.split_at(part.len() / 2);
                open.extend([last, first]);
            }
        }
    }

    /// Writes a mark; `false` where somebody holds the row, or it is not visible yet.
    fn mark(&mut self, now: u64, lsn: u64, place: usize) -> bool {
        let event = &mut self.events[place];
        let is_gone = event.is_deleted || event.marked.is_some();
        let is_free = now >= event.visible_at && now >= event.locked_until;
        match self.marking {
            Marking::SideTable => event.marked = event.marked.or(Some(lsn)),
            Marking::None => {}
            Marking::Update | Marking::Delete if is_free && is_gone => {}
            Marking::Update | Marking::Delete if is_free => event.marked = Some(lsn),
            // Whoever holds the lock may be about to remove the row.
            Marking::Update | Marking::Delete => return false,
        }
        true
    }

    /// The server refuses the mark of an event: over its row, or over its table.
    pub(crate) fn is_mark_refused(&self, now: u64, table: usize, place: usize) -> bool {
        let closed_until = self.closed_until.get(&table).copied().unwrap_or(0);
        self.marking != Marking::None
            && (now < closed_until || now < self.events[place].refused_until)
    }

    /// A table takes no marks until then.
    pub(crate) fn close_table(&mut self, table: usize, until: u64) {
        self.closed_until.insert(table, until);
    }

    /// The mark of an event is on disk, or it has no row any more, or rows are not marked.
    pub(crate) fn is_mark_safe(&self, place: usize) -> bool {
        let event = &self.events[place];
        self.marking == Marking::None
            || event.is_message
            || event.is_deleted && self.marking != Marking::SideTable
            || event.marked.is_some_and(|lsn| lsn <= self.flushed)
    }

    /// A walsender for a new connection. It starts by saying where the slot is.
    pub(crate) fn start_replication(&self) -> Walsender {
        let wal_end = self.confirmed;
        let next = self.transactions.partition_point(|it| it.commit_lsn < self.confirmed);
        Walsender {
            next,
            sent: wal_end,
            announced: BTreeMap::new(),
            queue: VecDeque::from([Frame::KeepAlive { wal_end, is_reply_requested: false }]),
        }
    }
}
