//! The stream: transactions, shapes of relations, rows.

use std::sync::Arc;
use std::time::Duration;

use super::arrival::{Arrival, Source};
use super::{Effect, End, Relay, Resolution};
use crate::config::AuditMode;
use crate::core::event::pgoutput::{self, Cell, RelationMessage, Tuple};
use crate::core::event::relation::{Mapping, Relation, table_named};
use crate::core::event::{Position, Row, event_id};
use crate::error::Fault;

/// The transaction that is being read.
#[derive(Debug)]
pub(super) struct Transaction {
    position: Position,
    commit_time: i64,
    xid: u32,
}

impl Relay {
    pub(super) fn stream(
        &mut self,
        now: Duration,
        message: pgoutput::Message,
        effects: &mut Vec<Effect>,
    ) -> Result<(), End> {
        match message {
            pgoutput::Message::Begin { commit_lsn, commit_time, xid } => {
                let position = Position { commit_lsn, index: 0 };
                self.transaction = Some(Transaction { position, commit_time, xid });
            }
            pgoutput::Message::Commit { end_lsn, .. } => {
                self.transaction = None;
                self.progress.commit(end_lsn, self.checks_begun + 1);
            }
            pgoutput::Message::Relation(relation) => self.relation(relation)?,
            pgoutput::Message::Insert { relation, tuple } => {
                self.insert(now, relation, tuple, effects)?;
            }
            pgoutput::Message::Update { .. }
            | pgoutput::Message::Delete { .. }
            | pgoutput::Message::Truncate { .. }
            | pgoutput::Message::Emitted { .. } => self.tally.ignored += 1,
            pgoutput::Message::Type { oid, schema, name } => {
                self.relations.made_of(oid, &schema, &name);
            }
            pgoutput::Message::Origin { .. } => {}
        }
        Ok(())
    }

    fn relation(&mut self, mut relation: RelationMessage) -> Result<(), End> {
        self.relations.resolve_types(&mut relation);
        let oid = relation.oid;
        self.announced.remove(&oid);
        if matches!(self.relations.find(oid), Some(Relation::Outbox(_))) {
            // Announced again, since something about it or the publication was changed: what was
            // committed in between may have passed by, and comes before what follows here.
            self.recheck = self.checks_begun + 1;
        }
        // By oid first: rows written before a rename come under the old name.
        match self.table_of(&relation) {
            Some(table) => self.map(table, &relation),
            // Perhaps a partition: asked once a row of it comes. Where rows come under their root's
            // name, leaves are announced as well, and it is no matter what became of them.
            None if !self.rules.leaves.is_empty() => {
                self.relations.remove(oid);
                self.announced.insert(oid, relation);
                Ok(())
            }
            None => {
                if self.fits_any(&relation) {
                    // Perhaps rows of ours come under another name from now on, since the publication
                    // or the table was altered: that is seen before one of them is passed over.
                    self.recheck = self.checks_begun + 1;
                }
                self.relations.insert(oid, Relation::Other);
                Ok(())
            }
        }
    }

    fn table_of(&self, relation: &RelationMessage) -> Option<usize> {
        let oids = &self.rules.oids;
        if let Some(table) = oids.iter().position(|known| *known == relation.oid) {
            return Some(table);
        }
        if let Some((_, was, table)) = self.away(relation.oid) {
            let is_named = (&relation.schema, &relation.name) == (&was.0, &was.1);
            return is_named.then_some(*table);
        }
        table_named(self.rules.tables.get(..oids.len())?, relation)
    }

    fn away(&self, oid: u32) -> Option<&(u32, (String, String), usize)> {
        self.rules.away.iter().find(|(relation, ..)| *relation == oid)
    }

    /// It has the columns of a configured table.
    fn fits_any(&self, relation: &RelationMessage) -> bool {
        let tables = self.rules.tables.iter().enumerate();
        let mut mappings =
            tables.map(|(number, table)| Mapping::compile(number, table, &relation.columns, false));
        mappings.any(|mapping| mapping.is_ok())
    }

    /// It is known what the relation of the row is that waits.
    pub(super) fn resolved(&mut self, resolution: Resolution) -> Result<(), End> {
        let Some(oid) = self.unresolved.as_ref().map(|(oid, _)| *oid) else { return Ok(()) };
        let Some(relation) = self.announced.remove(&oid) else { return Ok(()) };
        let table = match resolution {
            Resolution::Partition(table) => {
                self.partitions.insert(oid);
                Some(table)
            }
            Resolution::Other => None,
            Resolution::Detached | Resolution::Gone => self.root_of_gone(&relation),
        };
        match table {
            Some(table) => self.map(table, &relation),
            None => {
                self.relations.insert(oid, Relation::Other);
                Ok(())
            }
        }
    }

    /// Takes in the row that waited for its relation, once there is room for it.
    pub(super) fn take_held(
        &mut self,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) -> Result<(), End> {
        let is_known = |(oid, _): &mut (u32, Tuple)| !self.announced.contains_key(oid);
        if !self.has_room() {
            return Ok(());
        }
        match self.unresolved.take_if(is_known) {
            Some((oid, tuple)) => self.insert(now, oid, tuple, effects),
            None => Ok(()),
        }
    }

    /// The table of which a relation that is gone or detached was a partition: one with the columns that are
    /// mapped; of several the one that has most of its name.
    fn root_of_gone(&self, gone: &RelationMessage) -> Option<usize> {
        let fits = |number: &usize| {
            let table = self.rules.tables.get(*number);
            table
                .is_some_and(|table| Mapping::compile(*number, table, &gone.columns, false).is_ok())
        };
        let alike = |number: &usize| {
            let name = self.rules.tables.get(*number).map_or("", |table| table.name.as_str());
            name.bytes().zip(gone.name.bytes()).take_while(|(a, b)| a == b).count()
        };
        self.rules.leaves.iter().copied().filter(fits).max_by_key(alike)
    }

    /// Whether a row is left to the list that is made once the stream is passed.
    fn is_left(&self, position: Position, relation: u32) -> bool {
        self.rules.is_passing
            && position >= self.memory.delivered
            && (self.rules.oids.contains(&relation)
                || self.away(relation).is_some()
                || self.partitions.contains(&relation))
    }

    fn map(&mut self, table: usize, relation: &RelationMessage) -> Result<(), End> {
        let Some(config) = self.rules.tables.get(table) else { return Ok(()) };
        // The mark goes to the table of today; what the row looked like then does not matter.
        match Mapping::compile(table, config, &relation.columns, false) {
            Ok(mapping) => {
                self.relations.insert(relation.oid, Relation::Outbox(Arc::new(mapping)));
                Ok(())
            }
            Err(errors) => Err(Fault::definite(
                errors.join("; "),
                "the WAL holds rows of this older or newer shape: map the columns as they were, let the relay pass these rows, then change the mapping",
            )
            .into()),
        }
    }

    fn insert(
        &mut self,
        now: Duration,
        relation: u32,
        tuple: Tuple,
        effects: &mut Vec<Effect>,
    ) -> Result<(), End> {
        if self.relations.find(relation).is_none() && self.announced.contains_key(&relation) {
            let Some(Transaction { xid, .. }) = self.transaction else {
                return Err(protocol("a row outside a transaction"));
            };
            self.unresolved = Some((relation, tuple));
            effects.push(Effect::Resolve { relation, xid });
            return Ok(());
        }
        let Some(transaction) = &mut self.transaction else {
            return Err(protocol("a row outside a transaction"));
        };
        let (position, xid, commit_time) =
            (transaction.position, transaction.xid, transaction.commit_time);
        // Counts rows of other tables too: the place of an event must not depend on which tables
        // are configured today.
        transaction.position.index += 1;
        let mapping = match self.relations.find(relation) {
            Some(Relation::Outbox(mapping)) => Arc::clone(mapping),
            Some(Relation::Other) => {
                self.tally.ignored += 1;
                if self.rules.is_passing && position >= self.memory.delivered {
                    // Perhaps of a table that is no outbox, perhaps under a name of before.
                    self.progress.leave(position);
                }
                return Ok(());
            }
            None => return Err(protocol(format!("a row of relation {relation}, never announced"))),
        };
        if self.is_left(position, relation) {
            // Not delivered: the next session, if this one is cut off, must not take it for that.
            self.progress.leave(position);
            let number = self.progress.receive(position);
            self.settle(now, number);
            return Ok(());
        }
        self.read(&mapping, &tuple).map_err(protocol)?;
        let id = self.id(&mapping, &tuple);
        let number = self.progress.receive(position);
        if self.came_marked(&mapping) {
            self.tally.came_marked += 1;
            self.settle(now, number);
            return Ok(());
        }
        let source = Source::Stream(number);
        let xid = Some(xid);
        let arrival =
            Arrival { xid, ..Arrival::new(source, position, id, mapping, tuple, commit_time) };
        self.arrive(now, number, arrival, effects);
        Ok(())
    }

    /// The row in `cells` was inserted with its mark: it was relayed before, and is restored, copied
    /// or moved to another partition.
    fn came_marked(&self, mapping: &Mapping) -> bool {
        let mark = mapping.relayed_at.filter(|_| self.rules.audit.mode == AuditMode::Update);
        let cell = mark.and_then(|mark| self.cells.get(mark));
        cell.is_some_and(|cell| *cell != Cell::Null)
    }

    /// Reads a row into `cells`, where it stands until the next one is read.
    pub(super) fn read(&mut self, mapping: &Mapping, tuple: &Tuple) -> Result<(), String> {
        mapping.read(tuple, &mut self.cells)
    }

    /// The id of the row in `cells`; empty where it cannot be read.
    pub(super) fn id(&self, mapping: &Mapping, tuple: &Tuple) -> String {
        let row = Row { tuple, cells: &self.cells };
        event_id(mapping, row).unwrap_or_default().to_owned()
    }
}

/// The server says what it cannot say: perhaps bytes were lost on the way.
fn protocol(what: impl std::fmt::Display) -> End {
    End::Fault(Fault::transient(format!("protocol error in the replication stream: {what}")))
}
