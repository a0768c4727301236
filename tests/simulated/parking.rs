//! A model of the table of parked events: what it holds follows from what was written, so that
//! a crash can take the last of it back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pgoutbox::parked::{Aggregate, Looked, ParkedRow, Parking, State, Tried};
use pgoutbox::pgoutput::StoredRow;

/// Rows that a look brings at most.
const DUE: usize = 4;
/// Rows that are fetched at once behind a parked event.
const BEHIND: usize = 64;

#[derive(Debug, Clone)]
struct Row {
    place: usize,
    state: State,
    due: u64,
    is_discarded: bool,
    row: ParkedRow,
}

#[derive(Debug, Clone)]
enum Op {
    Park(Box<Row>),
    Delivered(i64),
    Refused { seq: i64, attempts: u32, state: State, due: u64, is_closed: bool },
    Discarded(i64),
}

/// The table.
#[derive(Debug, Default)]
pub(crate) struct ParkingTable {
    rows: BTreeMap<i64, Row>,
    log: Vec<(u64, Op)>,
    seq: i64,
    /// An operator paused the relay.
    pub(crate) is_paused: bool,
}

fn due(now: u64, state: State) -> u64 {
    match state {
        State::Parked(pause) => now + u64::try_from(pause.as_millis()).unwrap(),
        _ => u64::MAX,
    }
}

impl ParkingTable {
    /// A transaction writes it, at this place of the WAL.
    pub(crate) fn write(
        &mut self,
        now: u64,
        lsn: u64,
        parking: &Parking,
        place: impl Fn(&str) -> Option<usize>,
    ) {
        for park in &parking.parks {
            let id = park.id.as_deref().expect("every id can be read");
            // The server took back what it was parked for.
            let Some(place) = place(id) else { continue };
            if self.rows.values().any(|row| row.place == place) {
                continue;
            }
            self.seq += 1;
            let row = ParkedRow {
                seq: self.seq,
                position: park.position,
                id: park.id.clone(),
                aggregate: park.aggregate.clone(),
                is_holding: park.is_holding,
                attempts: u32::from(park.refusal.is_some()),
                is_alone: park.refusal.as_ref().is_some_and(|it| it.reason() == "closed"),
                row: StoredRow {
                    table: park.mapping.table,
                    columns: park.mapping.columns.clone(),
                    tuple: park.tuple.clone(),
                    commit_time: park.commit_time,
                    xid: None,
                },
            };
            let (state, due) = (park.state, due(now, park.state));
            self.push(lsn, Op::Park(Box::new(Row { place, state, due, is_discarded: false, row })));
        }
        for attempt in &parking.attempts {
            let seq = attempt.seq;
            let op = match &attempt.outcome {
                Tried::Delivered => Op::Delivered(seq),
                Tried::Refused { attempts, state, refusal } => Op::Refused {
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
            Op::Delivered(seq) => {
                self.rows.remove(seq);
            }
            Op::Refused { seq, attempts, state, due, is_closed } => {
                if let Some(row) = self.rows.get_mut(seq).filter(|row| !row.is_discarded) {
                    (row.row.attempts, row.state, row.due) = (*attempts, *state, *due);
                    row.row.is_alone = *is_closed;
                }
            }
            Op::Discarded(seq) => {
                if let Some(row) = self.rows.get_mut(seq) {
                    row.is_discarded = true;
                }
            }
        }
    }

    /// A crash takes back what was not on disk.
    pub(crate) fn crash(&mut self, flushed: u64) {
        self.log.retain(|(lsn, _)| *lsn <= flushed);
        self.rows.clear();
        for (_, op) in std::mem::take(&mut self.log) {
            self.apply(&op);
            self.log.push((0, op));
        }
    }

    fn is_open(row: &Row) -> bool {
        !row.is_discarded && row.state != State::DeadLettered
    }

    fn is_head(row: &Row) -> bool {
        Self::is_open(row) && row.state != State::Queued
    }

    fn held(&self) -> BTreeSet<Aggregate> {
        let heads = self.rows.values().filter(|row| Self::is_head(row) && row.row.is_holding);
        heads.filter_map(|row| row.row.aggregate.clone()).collect()
    }

    fn queued(&self) -> Vec<Aggregate> {
        let queued =
            self.rows.values().filter(|row| Self::is_open(row) && row.state == State::Queued);
        queued.filter_map(|row| row.row.aggregate.clone()).collect()
    }

    /// A look.
    pub(crate) fn look(&self, now: u64, is_first: bool) -> Looked {
        let parked = self
            .rows
            .values()
            .filter(|row| Self::is_head(row) && matches!(row.state, State::Parked(_)));
        let due = parked.clone().filter(|row| row.due <= now).take(DUE);
        Looked {
            due: due.map(|row| row.row.clone()).collect(),
            held: self.held().into_iter().collect(),
            queued: if is_first { self.queued() } else { Vec::new() },
            next_due: parked.map(|row| Duration::from_millis(row.due.saturating_sub(now))).min(),
            paused_by: self.is_paused.then(|| "an operator".to_owned()),
        }
    }

    /// What waits behind a row of an aggregate.
    pub(crate) fn behind(&self, aggregate: &Aggregate, after: i64) -> Vec<ParkedRow> {
        let rows = self.rows.range(after + 1..).map(|(_, row)| row);
        rows.filter(|row| {
            Self::is_open(row)
                && row.state == State::Queued
                && row.row.aggregate.as_ref() == Some(aggregate)
        })
        .take(BEHIND)
        .map(|row| row.row.clone())
        .collect()
    }

    /// An operator discards the head of an aggregate, by hand.
    pub(crate) fn discard_head(&mut self, nth: usize, lsn: u64) -> Option<usize> {
        let heads: Vec<(i64, usize)> = self
            .rows
            .iter()
            .filter(|(_, row)| Self::is_head(row))
            .map(|(seq, row)| (*seq, row.place))
            .collect();
        let (seq, place) = *heads.get(nth % heads.len().max(1))?;
        self.push(lsn, Op::Discarded(seq));
        Some(place)
    }

    pub(crate) fn heads(&self) -> usize {
        self.rows.values().filter(|row| Self::is_head(row)).count()
    }

    /// Places of events that are parked, in whatever state.
    pub(crate) fn places(&self) -> BTreeSet<usize> {
        self.rows.values().map(|row| row.place).collect()
    }

    /// Places of events that later ones of their aggregate wait for.
    pub(crate) fn holding(&self) -> BTreeSet<usize> {
        let open = self.rows.values().filter(|row| Self::is_open(row) && row.row.is_holding);
        open.map(|row| row.place).collect()
    }

    /// Places that a crash now would not take back.
    pub(crate) fn on_disk(&self, flushed: u64) -> BTreeSet<usize> {
        let parks = self.log.iter().filter(|(lsn, _)| *lsn <= flushed);
        parks
            .filter_map(|(_, op)| match op {
                Op::Park(row) => Some(row.place),
                _ => None,
            })
            .collect()
    }
}
