//! The stream: transactions, shapes of relations, rows.

use std::sync::Arc;
use std::time::Duration;

use super::arrival::{Arrival, Source};
use super::{Effect, End, Relay, Resolution};
use crate::config::AuditMode;
use crate::error::Fault;
use crate::event::{Position, Row, event_id};
use crate::pgoutput::{self, Cell, RelationMessage, Tuple};
use crate::relation::{Mapping, Relation, table_named};

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
            pgoutput::Message::Relation(relation) => self.relation(relation, effects)?,
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

    fn relation(
        &mut self,
        mut relation: RelationMessage,
        effects: &mut Vec<Effect>,
    ) -> Result<(), End> {
        self.relations.resolve_types(&mut relation);
        // By oid first: rows written before a rename come under the old name.
        let by_oid = self.rules.oids.iter().position(|oid| *oid == relation.oid);
        match by_oid.or_else(|| table_named(&self.rules.tables, &relation)) {
            Some(table) => self.map(table, &relation),
            None => {
                effects.push(Effect::Resolve(relation.oid));
                self.unresolved = Some(relation);
                Ok(())
            }
        }
    }

    pub(super) fn resolved(&mut self, resolution: Resolution) -> Result<(), End> {
        let Some(relation) = self.unresolved.take() else { return Ok(()) };
        match resolution {
            Resolution::Partition(table) => self.map(table, &relation),
            Resolution::Other => {
                self.relations.insert(relation.oid, Relation::Other);
                Ok(())
            }
            Resolution::Gone => {
                let name = format!("{}.{}", relation.schema, relation.name);
                Err(Fault::definite(
                    format!(
                        "the WAL holds rows of {name} (oid {}), which no longer exists and is no configured table: they may be events of a dropped partition",
                        relation.oid
                    ),
                    format!("add [[tables]] with name = \"{name}\" and the outbox's mapping to the configuration, to relay them"),
                )
                .into())
            }
        }
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
                return Ok(());
            }
            None => return Err(protocol(format!("a row of relation {relation}, never announced"))),
        };
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
    End::Fault(Fault::transient(format!("the stream makes no sense: {what}")))
}
