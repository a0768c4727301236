//! A model of the table of parked events: what it holds follows from what was written, so that
//! a crash can take the last of it back. `tests/real/conformance.rs` holds it against Postgres.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use pgoutbox::testing::core::event::Position;
use pgoutbox::testing::core::event::pgoutput::StoredRow;
use pgoutbox::testing::core::parked::{
    Aggregate, Ahead, AttemptOutcome, Due, Head, ParkedRow, ParkedState, ParkingBatch, Schedule,
};

/// Fewer behind those that are taken are few.
const TAIL: usize = 16;
/// How many are taken behind one that is done with.
const CLAIMED: usize = 32;

/// What a record says of an event that was in flight when it was discarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Note {
    Delivered,
    Refused,
    DeadLettered,
    Withdrawn,
    Unknown,
    Replayed,
}

#[derive(Debug, Clone)]
pub struct Row {
    pub place: usize,
    pub state: ParkedState,
    /// When it is tried; `None` where that is not said.
    pub due: Option<u64>,
    pub is_discarded: bool,
    /// The relay took it, and has not written what became of it.
    pub is_claimed: bool,
    /// It was taken when it was discarded.
    was_in_flight: bool,
    pub notes: Vec<Note>,
    pub row: ParkedRow,
}

#[derive(Debug, Clone)]
enum Op {
    Park(Box<Row>),
    Claimed(Vec<i64>),
    /// A session begins.
    Unclaimed,
    Delivered(i64),
    Withdrawn(i64),
    Refused {
        seq: i64,
        attempts: u32,
        state: ParkedState,
        due: Option<u64>,
        is_closed: bool,
    },
    Discarded(i64),
    Retried {
        seq: i64,
        now: u64,
        is_reset: bool,
    },
    Replayed(i64),
    Pruned(Vec<i64>),
}

/// What a discard did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Discarded {
    /// Places of events given up.
    pub places: Vec<usize>,
    /// Aggregates whose next event is the first now.
    pub freed: usize,
    /// Events that were in flight.
    pub in_flight: usize,
}

/// The table.
#[derive(Debug, Clone)]
pub struct ParkingTable {
    rows: BTreeMap<i64, Row>,
    log: Vec<(u64, Op)>,
    seq: i64,
    /// Rows that a look brings at most.
    due_limit: usize,
    /// An operator paused the relay.
    pub is_paused: bool,
}

fn due(now: u64, state: ParkedState) -> Option<u64> {
    match state {
        ParkedState::Parked(pause) => Some(now + u64::try_from(pause.as_millis()).unwrap()),
        _ => None,
    }
}

impl Row {
    pub fn is_open(&self) -> bool {
        !self.is_discarded && self.state != ParkedState::DeadLettered
    }

    /// Its aggregate, where others of it wait for it or it for them.
    fn queue(&self) -> Option<&Aggregate> {
        self.row.aggregate.as_ref().filter(|_| self.row.is_holding && self.is_open())
    }

    fn is_due(&self, now: u64) -> bool {
        matches!(self.state, ParkedState::Parked(_) | ParkedState::Queued)
            && self.due.is_none_or(|due| due <= now)
    }
}

impl ParkingTable {
    pub fn new(due_limit: usize) -> Self {
        Self { rows: BTreeMap::new(), log: Vec::new(), seq: 0, due_limit, is_paused: false }
    }

    /// A transaction writes it, at this place of the WAL.
    pub fn write(
        &mut self,
        now: u64,
        lsn: u64,
        parking: &ParkingBatch,
        place: impl Fn(&str) -> Option<usize>,
    ) {
        for park in &parking.parks {
            let id = park.id.as_deref().expect("every id can be read");
            // The server took back what it was parked for.
            let Some(place) = place(id) else { continue };
            self.seq += 1;
            if self.rows.values().any(|row| row.place == place) {
                continue;
            }
            let row = ParkedRow {
                seq: self.seq,
                position: park.position,
                id: park.id.clone(),
                aggregate: park.aggregate.clone(),
                is_holding: park.is_holding,
                attempts: u32::from(park.refusal.is_some()),
                is_alone: park.refusal.as_ref().is_some_and(|it| it.reason() == "closed"),
                xid_end: None,
                row: StoredRow {
                    table: park.mapping.table,
                    columns: park.mapping.columns.clone(),
                    tuple: park.tuple.clone(),
                    commit_time: park.commit_time,
                    xid: None,
                },
            };
            let row = Row {
                place,
                state: park.state,
                due: due(now, park.state),
                is_discarded: false,
                is_claimed: false,
                was_in_flight: false,
                notes: Vec::new(),
                row,
            };
            self.push(lsn, Op::Park(Box::new(row)));
        }
        for attempt in &parking.attempts {
            let seq = attempt.seq;
            let op = match &attempt.outcome {
                AttemptOutcome::Delivered { .. } => Op::Delivered(seq),
                AttemptOutcome::Withdrawn => Op::Withdrawn(seq),
                AttemptOutcome::Refused { attempts, state, refusal } => Op::Refused {
                    seq,
                    attempts: *attempts,
                    state: *state,
                    due: due(now, *state),
                    is_closed: refusal.reason() == "closed",
                },
            };
            self.push(lsn, op);
        }
    }

    fn push(&mut self, lsn: u64, op: Op) {
        self.apply(&op);
        self.log.push((lsn, op));
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Park(row) => {
                self.rows.insert(row.row.seq, (**row).clone());
            }
            Op::Claimed(seqs) => {
                for seq in seqs {
                    self.rows.get_mut(seq).expect("it was found").is_claimed = true;
                }
            }
            Op::Unclaimed => {
                let seqs: Vec<i64> = self.rows.keys().copied().collect();
                seqs.into_iter().for_each(|seq| self.settled(seq, Note::Unknown));
            }
            Op::Delivered(seq) => {
                if self.rows.get(seq).is_some_and(Row::is_open) {
                    self.rows.remove(seq);
                }
                self.settled(*seq, Note::Delivered);
            }
            Op::Withdrawn(seq) => self.settled(*seq, Note::Withdrawn),
            Op::Refused { seq, attempts, state, due, is_closed } => {
                let is_letter = *state == ParkedState::DeadLettered;
                if let Some(row) =
                    self.rows.get_mut(seq).filter(|row| row.is_open() || row.is_claimed)
                {
                    (row.row.attempts, row.row.is_alone) = (*attempts, *is_closed);
                    if !row.is_discarded {
                        (row.state, row.due) = (*state, *due);
                    }
                }
                self.settled(*seq, if is_letter { Note::DeadLettered } else { Note::Refused });
            }
            Op::Discarded(seq) => {
                if let Some(row) = self.rows.get_mut(seq) {
                    row.is_discarded = true;
                    row.was_in_flight = row.is_claimed;
                    row.due = None;
                }
            }
            Op::Replayed(seq) => {
                if let Some(row) = self.rows.get_mut(seq) {
                    row.notes.push(Note::Replayed);
                }
            }
            Op::Pruned(seqs) => self.rows.retain(|seq, _| !seqs.contains(seq)),
            Op::Retried { seq, now, is_reset } => {
                if let Some(row) = self.rows.get_mut(seq) {
                    (row.state, row.due) = (ParkedState::Parked(Duration::ZERO), Some(*now));
                    row.row.attempts *= u32::from(!is_reset);
                }
            }
        }
    }

    /// It is in flight no more.
    fn settled(&mut self, seq: i64, note: Note) {
        if let Some(row) = self.rows.get_mut(&seq)
            && std::mem::replace(&mut row.is_claimed, false)
            && row.is_discarded
        {
            row.notes.push(note);
        }
    }

    /// A crash takes back what was not on disk.
    pub fn crash(&mut self, flushed: u64) {
        self.log.retain(|(lsn, _)| *lsn <= flushed);
        self.rows.clear();
        for (_, op) in std::mem::take(&mut self.log) {
            self.apply(&op);
            self.log.push((0, op));
        }
    }

    /// The first of the same aggregate that is not done with; itself where it waits for none.
    pub fn head(&self, row: &Row) -> i64 {
        let first = |queue| self.rows.values().find(|other| other.queue() == Some(queue));
        row.queue().and_then(first).unwrap_or(row).row.seq
    }

    fn is_head(&self, row: &Row) -> bool {
        row.is_open() && self.head(row) == row.row.seq
    }

    /// All that the table holds.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values()
    }

    /// A look.
    pub fn look(&mut self, now: u64, lsn: u64, from: Option<Position>) -> Schedule {
        let is_first = from.is_some();
        if is_first && self.rows.values().any(|row| row.is_claimed) {
            self.push(lsn, Op::Unclaimed);
        }
        let is_tried =
            |row: &&Row| matches!(row.state, ParkedState::Parked(_) | ParkedState::Failed);
        let heads = || self.rows.values().filter(|row| self.is_head(row));
        let aggregates = |rows: Vec<&Row>| -> Vec<Aggregate> {
            let aggregates: BTreeSet<&Aggregate> =
                rows.iter().filter_map(|row| row.queue()).collect();
            aggregates.into_iter().cloned().collect()
        };
        let parked = || heads().filter(|row| matches!(row.state, ParkedState::Parked(_)));
        let due = parked().filter(|row| row.is_due(now)).take(self.due_limit).map(|row| Due {
            seq: row.row.seq,
            aggregate: row.queue().cloned(),
            is_alone: row.row.is_alone,
        });
        let waits = |row: &Row| row.due.expect("it has a time").saturating_sub(now);
        Schedule {
            due: due.collect(),
            held: aggregates(heads().filter(is_tried).collect()),
            waiting: if is_first { aggregates(self.rows.values().collect()) } else { Vec::new() },
            next_due: parked().map(|row| Duration::from_millis(waits(row))).min(),
            paused_by: self.is_paused.then(|| "an operator".to_owned()),
            ahead: Ahead {
                events: from.map_or_else(BTreeMap::new, |from| self.ahead(from)),
                written_lsn: is_first.then_some(lsn.into()),
            },
        }
    }

    fn ahead(&self, from: Position) -> BTreeMap<Position, (usize, Option<String>)> {
        let rows = self.rows.values().map(|row| &row.row);
        let ahead = rows.filter(|row| row.position >= from);
        ahead.map(|row| (row.position, (row.row.table, row.id.clone()))).collect()
    }

    /// The relay takes the next ones of an aggregate.
    pub fn claim(&mut self, now: u64, lsn: u64, aggregate: &Aggregate, after: i64) -> Head {
        let behind: Vec<&Row> = self
            .rows
            .range(after + 1..)
            .map(|(_, row)| row)
            .filter(|row| row.queue() == Some(aggregate))
            .collect();
        if behind.is_empty() {
            return Head::None;
        }
        let most = if after == 0 { 1 } else { CLAIMED };
        let due = behind.iter().take(most).take_while(|row| row.is_due(now));
        let rows: VecDeque<ParkedRow> = due.map(|row| row.row.clone()).collect();
        if rows.is_empty() {
            return Head::Waits;
        }
        let is_tail = behind.len() - rows.len() < TAIL;
        self.push(lsn, Op::Claimed(rows.iter().map(|row| row.seq).collect()));
        Head::Claimed { rows, is_tail }
    }

    /// The relay takes some that nobody waits for.
    pub fn claim_alone(&mut self, now: u64, lsn: u64, seqs: &[i64]) -> Vec<ParkedRow> {
        let rows = self.rows.values().filter(|row| seqs.contains(&row.row.seq));
        let rows = rows.filter(|row| row.is_open() && row.is_due(now));
        let rows: Vec<ParkedRow> = rows.map(|row| row.row.clone()).collect();
        self.push(lsn, Op::Claimed(rows.iter().map(|row| row.seq).collect()));
        rows
    }

    /// An operator gives events up.
    pub fn discard(&mut self, lsn: u64, seqs: &[i64]) -> Discarded {
        let open = self.rows.values().filter(|row| row.is_open() && seqs.contains(&row.row.seq));
        let open: Vec<Row> = open.cloned().collect();
        let firsts: BTreeSet<&Aggregate> =
            open.iter().filter(|row| self.is_head(row)).filter_map(Row::queue).collect();
        let done = Discarded {
            places: open.iter().map(|row| row.place).collect(),
            in_flight: open.iter().filter(|row| row.is_claimed).count(),
            freed: firsts
                .into_iter()
                .filter(|aggregate| {
                    let mut rows = self.rows.values();
                    rows.any(|row| row.queue() == Some(aggregate) && !seqs.contains(&row.row.seq))
                })
                .count(),
        };
        for row in open {
            self.push(lsn, Op::Discarded(row.row.seq));
        }
        done
    }

    /// An operator has events tried at once: those that wait for no other. Returns how many.
    pub fn retry(&mut self, now: u64, lsn: u64, seqs: &[i64], is_reset: bool) -> usize {
        let heads = self.rows.values().filter(|row| self.is_head(row));
        let heads = heads.filter(|row| seqs.contains(&row.row.seq));
        let heads: Vec<i64> = heads.map(|row| row.row.seq).collect();
        for seq in &heads {
            self.push(lsn, Op::Retried { seq: *seq, now, is_reset });
        }
        heads.len()
    }

    /// An operator sends a record once more. It stays, and says so.
    pub fn replay(&mut self, lsn: u64, seq: i64) -> bool {
        let is_record = self.rows.get(&seq).is_some_and(|row| !row.is_open());
        if is_record {
            self.push(lsn, Op::Replayed(seq));
        }
        is_record
    }

    /// Records of events that are done with go: their places.
    pub fn prune(&mut self, lsn: u64) -> Vec<usize> {
        let done = || self.rows.iter().filter(|(_, row)| !row.is_open());
        let places = done().map(|(_, row)| row.place).collect();
        let seqs = done().map(|(seq, _)| *seq).collect();
        self.push(lsn, Op::Pruned(seqs));
        places
    }

    /// Numbers of the rows that are not done with.
    pub fn open(&self) -> Vec<i64> {
        self.rows.iter().filter(|(_, row)| row.is_open()).map(|(seq, _)| *seq).collect()
    }

    /// Places of records that can be replayed.
    pub fn records(&self) -> Vec<usize> {
        self.rows.values().filter(|row| !row.is_open()).map(|row| row.place).collect()
    }

    /// Places of events that were discarded before they were handed out.
    pub fn given_up(&self) -> BTreeSet<usize> {
        let given_up = self.rows.values().filter(|row| row.is_discarded && !row.was_in_flight);
        given_up.map(|row| row.place).collect()
    }

    /// Places of events that are parked, in whatever state.
    pub fn places(&self) -> BTreeSet<usize> {
        self.rows.values().map(|row| row.place).collect()
    }

    /// Places of events that later ones of their aggregate wait for.
    pub fn holding(&self) -> BTreeSet<usize> {
        let open = self.rows.values().filter(|row| row.is_open() && row.row.is_holding);
        open.map(|row| row.place).collect()
    }

    /// Places that a crash now would not take back.
    pub fn on_disk(&self, flushed: u64) -> BTreeSet<usize> {
        let parks = self.log.iter().filter(|(lsn, _)| *lsn <= flushed);
        parks
            .filter_map(|(_, op)| match op {
                Op::Park(row) => Some(row.place),
                _ => None,
            })
            .collect()
    }
}
