//! The stream, read: transactions, shapes of relations, rows. It knows which relation is which
//! outbox table; what becomes of a row, others decide.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use postgres_types::PgLsn;

use super::arrival::Arrival;
use super::ids::Fingerprint;
use super::input::{End, Resolution, Rules};
use super::messages::Messages;
use crate::config::Table;
use crate::core::event::pgoutput::{self, Cell, Column, RelationMessage, StoredRow, Tuple};
use crate::core::event::relation::{Mapping, Relation, Relations, table_named};
use crate::core::event::{ChangeLsn, Position, Row, event_id};
use crate::core::parked::Aggregate;
use crate::error::{Fault, Kind};

/// Shapes of stored rows that are kept compiled.
const SHAPES: usize = 8;

/// The transaction that is being read.
#[derive(Debug)]
struct Transaction {
    position: Position,
    /// The change that came last.
    change: Option<ChangeLsn>,
    commit_time: i64,
    xid: u32,
    fingerprint: Fingerprint,
}

impl Transaction {
    /// Of what comes next: its place, the time of the commit, and the transaction. Counts rows of other
    /// tables and other messages too: the place of an event must not depend on which are configured
    /// today.
    fn next(&mut self) -> (Position, i64, u32) {
        let position = self.position;
        self.position.index += 1;
        (position, self.commit_time, self.xid)
    }
}

/// A relation that has another name or place today: its oid, the schema and name under which its
/// rows come, and which of the tables it is.
type RenamedRelation = (u32, (String, String), usize);

/// What a message of the stream, or a row that waited, comes to.
#[derive(Debug)]
pub(super) enum DecoderOutput {
    /// Nothing that anybody has to see to.
    Nothing,
    /// A change that is not an inserted row.
    Ignored,
    /// A row of a table that is not configured, at this place.
    Other(Position),
    /// A message of nobody's, at this place of its transaction.
    Foreign(Position),
    /// A row of an outbox table, or a message that is an event. It is not read yet.
    Row(InsertedRow),
    /// A message outside a transaction, of this source: what it describes may have been rolled back.
    NotTransactional(usize),
    /// The end of a transaction.
    Commit(PgLsn),
    /// Something about a relation of ours, or the publication, may have been altered: what was
    /// committed in between may have passed by, and comes before what follows here.
    Altered,
    /// A row waits until it is known what its relation is.
    Unknown {
        /// The relation's oid.
        relation: u32,
        /// The transaction that wrote the row.
        xid: u32,
    },
}

/// An inserted row of an outbox table, or a message that is an event.
#[derive(Debug)]
pub(super) struct InsertedRow {
    /// `None` of a message.
    pub(super) relation: Option<u32>,
    pub(super) mapping: Arc<Mapping>,
    pub(super) tuple: Tuple,
    pub(super) position: Position,
    pub(super) commit_time: i64,
    pub(super) xid: u32,
}

/// Reads the stream.
#[derive(Debug)]
pub(super) struct Decoder {
    tables: Arc<[Table]>,
    /// Their oids, but for those that are away.
    oids: Vec<u32>,
    /// Their columns of today.
    columns: Vec<Arc<[Column]>>,
    away: Vec<RenamedRelation>,
    /// Tables whose partitions come under names and oids of their own.
    leaves: Vec<usize>,
    messages: Messages,
    relations: Relations,
    shapes: Shapes,
    transaction: Option<Transaction>,
    /// Relations that may be partitions, and of which no row has come yet.
    announced: BTreeMap<u32, RelationMessage>,
    /// A row of one of them, until it is known what that is.
    unresolved: Option<(u32, Tuple)>,
    /// Relations that hold today what their rows in the stream say.
    partitions: BTreeSet<u32>,
    /// What is in the tables of today is left to the list that was made of them.
    is_passing: bool,
    /// The row that was read last.
    cells: Vec<Cell>,
}

impl Decoder {
    /// At the start of a stream.
    pub(super) fn new(rules: &Rules) -> Self {
        Self {
            tables: Arc::clone(&rules.tables),
            oids: rules.oids.clone(),
            columns: rules.columns.clone(),
            away: rules.away.clone(),
            leaves: rules.leaves.clone(),
            messages: Messages::new(&rules.tables),
            relations: Relations::default(),
            shapes: Shapes::default(),
            transaction: None,
            announced: BTreeMap::new(),
            unresolved: None,
            partitions: BTreeSet::new(),
            is_passing: rules.passes_until.is_some(),
            cells: Vec::new(),
        }
    }

    /// Takes in a message.
    ///
    /// # Errors
    /// The server says what it cannot say, or a row of a shape that no mapping fits.
    pub(super) fn take(
        &mut self,
        lsn: PgLsn,
        message: pgoutput::Message,
    ) -> Result<DecoderOutput, End> {
        self.came(lsn, &message);
        match message {
            pgoutput::Message::Begin { commit_lsn, commit_time, xid } => {
                let position = Position { commit_lsn, index: 0 };
                let fingerprint = Fingerprint::of(xid, commit_time);
                self.transaction =
                    Some(Transaction { position, change: None, commit_time, xid, fingerprint });
            }
            pgoutput::Message::Commit { end_lsn, .. } => {
                self.transaction = None;
                return Ok(DecoderOutput::Commit(end_lsn));
            }
            pgoutput::Message::Relation(relation) => return self.relation(relation),
            pgoutput::Message::Insert { relation, tuple } => return self.insert(relation, tuple),
            pgoutput::Message::Update { .. }
            | pgoutput::Message::Delete { .. }
            | pgoutput::Message::Truncate { .. } => return Ok(DecoderOutput::Ignored),
            pgoutput::Message::Emitted { is_transactional, prefix, content, .. } => {
                return self.emitted(is_transactional, &prefix, &content);
            }
            pgoutput::Message::Type { oid, schema, name } => {
                self.relations.made_of(oid, &schema, &name);
            }
            pgoutput::Message::Origin { .. } => {}
        }
        Ok(DecoderOutput::Nothing)
    }

    fn relation(&mut self, mut relation: RelationMessage) -> Result<DecoderOutput, End> {
        self.relations.resolve_types(&mut relation);
        let oid = relation.oid;
        self.announced.remove(&oid);
        let is_again = matches!(self.relations.find(oid), Some(Relation::Outbox(_)));
        // By oid first: rows written before a rename come under the old name.
        let is_altered = match self.table_of(&relation) {
            Some(table) => {
                self.map(table, &relation)?;
                is_again
            }
            // Perhaps a partition, or a table that is new: asked once a row of it comes. Where rows come under
            // their root's name, leaves are announced as well, and it is no matter what became of them.
            None if !self.leaves.is_empty() || self.is_of_a_pattern(&relation) => {
                self.relations.remove(oid);
                self.announced.insert(oid, relation);
                is_again
            }
            None => {
                // Perhaps rows of ours come under another name from now on, since the publication
                // or the table was altered: that is seen before one of them is passed over.
                let fits = self.fits_any(&relation);
                self.relations.insert(oid, Relation::Other);
                is_again || fits
            }
        };
        Ok(if is_altered { DecoderOutput::Altered } else { DecoderOutput::Nothing })
    }

    fn table_of(&self, relation: &RelationMessage) -> Option<usize> {
        if let Some(table) = self.oids.iter().position(|known| *known == relation.oid) {
            return Some(table);
        }
        if let Some((_, was, table)) = self.find_away(relation.oid) {
            let is_named = (&relation.schema, &relation.name) == (&was.0, &was.1);
            return is_named.then_some(*table);
        }
        table_named(self.tables.get(..self.oids.len())?, relation)
    }

    fn is_of_a_pattern(&self, relation: &RelationMessage) -> bool {
        self.tables.iter().any(|table| table.matches(&relation.schema, &relation.name))
    }

    fn find_away(&self, oid: u32) -> Option<&RenamedRelation> {
        self.away.iter().find(|(relation, ..)| *relation == oid)
    }

    /// It has the columns of a configured table.
    fn fits_any(&self, relation: &RelationMessage) -> bool {
        let tables = self.tables.iter().enumerate().filter(|(_, table)| !table.is_message());
        let mut mappings =
            tables.map(|(number, table)| Mapping::compile(number, table, &relation.columns, false));
        mappings.any(|mapping| mapping.is_ok())
    }

    /// The columns that a table has today, where it has any.
    fn today(&self, table: usize) -> &[Column] {
        self.columns.get(table).map_or(&[], |today| today)
    }

    fn map(&mut self, table: usize, relation: &RelationMessage) -> Result<(), End> {
        let Some(config) = self.tables.get(table) else { return Ok(()) };
        // The mark goes to the table of today; what the row looked like then does not matter.
        match Mapping::of_row(table, config, &relation.columns, self.today(table)) {
            Ok(mapping) => {
                self.relations.insert(relation.oid, Relation::Outbox(Arc::new(mapping)));
                Ok(())
            }
            // The list has them: it was made of the table of today, which the mapping fits.
            Err(_) if self.is_passing && config.has_marks() => {
                self.relations.insert(relation.oid, Relation::Other);
                Ok(())
            }
            Err(errors) => Err(Fault::definite(
                errors.join("; "),
                "the WAL holds rows of this older or newer shape: where the table has the mapped columns again, they are \
                 read from it (on_slot_loss = \"catch_up\", with marks); else map the columns as they were, let the \
                 relay pass these rows, then change the mapping",
            )
            .kind(Kind::Shape)
            .into()),
        }
    }

    fn insert(&mut self, relation: u32, tuple: Tuple) -> Result<DecoderOutput, End> {
        let Some(transaction) = &mut self.transaction else {
            return Err(End::protocol("a row outside a transaction"));
        };
        let known = self.relations.find(relation);
        if known.is_none() && self.announced.contains_key(&relation) {
            self.unresolved = Some((relation, tuple));
            return Ok(DecoderOutput::Unknown { relation, xid: transaction.xid });
        }
        let (position, commit_time, xid) = transaction.next();
        match known {
            Some(Relation::Outbox(mapping)) => {
                let mapping = Arc::clone(mapping);
                let relation = Some(relation);
                let row = InsertedRow { relation, mapping, tuple, position, commit_time, xid };
                Ok(DecoderOutput::Row(row))
            }
            Some(Relation::Other) => Ok(DecoderOutput::Other(position)),
            None => Err(End::protocol(format!("a row of relation {relation}, never announced"))),
        }
    }

    /// Anybody's message, at no cost where it is nobody's event.
    fn emitted(
        &mut self,
        is_transactional: bool,
        prefix: &[u8],
        content: &Bytes,
    ) -> Result<DecoderOutput, End> {
        let source = self.messages.source(prefix);
        if !is_transactional {
            return Ok(source.map_or(DecoderOutput::Ignored, DecoderOutput::NotTransactional));
        }
        let Some(transaction) = &mut self.transaction else {
            return Err(End::protocol("a transactional message outside a transaction"));
        };
        let (position, commit_time, xid) = transaction.next();
        let Some(source) = source else { return Ok(DecoderOutput::Foreign(position)) };
        let (mapping, tuple) = self.messages.read(&self.tables, source, content)?;
        let relation = None;
        Ok(DecoderOutput::Row(InsertedRow { relation, mapping, tuple, position, commit_time, xid }))
    }

    /// Notes where the change is in the WAL that comes. Of a row that waits it stays: nothing is read behind it.
    fn came(&mut self, lsn: PgLsn, message: &pgoutput::Message) {
        let is_counted =
            matches!(message, pgoutput::Message::Insert { .. } | pgoutput::Message::Emitted { .. });
        let Some(transaction) = self.transaction.as_mut().filter(|_| is_counted) else { return };
        // The server writes 0 where more of the same change follows (`walsender.c`, `WalSndPrepareWrite`), which is never so
        // of what is counted here. Without it the number alone tells.
        if u64::from(lsn) == 0 {
            transaction.change = None;
            return;
        }
        let before = transaction.change.filter(|change| change.lsn == lsn);
        transaction.change = Some(before.map_or(ChangeLsn { lsn, number: 0 }, ChangeLsn::next));
    }

    /// Where the change is in the WAL that came last; `None` where that is not known.
    pub(super) fn change(&self) -> Option<ChangeLsn> {
        self.transaction.as_ref().and_then(|it| it.change)
    }

    /// Of the transaction that is being read.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.transaction.as_ref().map_or(Fingerprint::of(0, 0), |it| it.fingerprint)
    }

    /// A row waits until it is known what its relation is.
    pub(super) fn is_waiting(&self) -> bool {
        self.unresolved.is_some()
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

    /// The row that waited, once it is known what its relation is.
    pub(super) fn take_resolved(&mut self) -> Result<DecoderOutput, End> {
        let is_known = |(oid, _): &mut (u32, Tuple)| !self.announced.contains_key(oid);
        match self.unresolved.take_if(is_known) {
            Some((oid, tuple)) => self.insert(oid, tuple),
            None => Ok(DecoderOutput::Nothing),
        }
    }

    /// The table of which a relation that is gone or detached was a partition: one with the columns
    /// that are mapped; of several the one that has most of its name.
    fn root_of_gone(&self, gone: &RelationMessage) -> Option<usize> {
        let fits = |number: &usize| {
            let table = self.tables.get(*number);
            table
                .is_some_and(|table| Mapping::compile(*number, table, &gone.columns, false).is_ok())
        };
        let alike = |number: &usize| {
            let name = self.tables.get(*number).map_or("", |table| table.name.as_str());
            name.bytes().zip(gone.name.bytes()).take_while(|(a, b)| a == b).count()
        };
        self.leaves.iter().copied().filter(fits).max_by_key(alike)
    }

    /// Relations with rows that were taken for rows of others: under the name they have then, nobody asks for them.
    pub(super) fn passed_over(&self) -> impl Iterator<Item = u32> {
        self.relations.passed_over()
    }

    /// A table holds today what the rows of this relation say in the stream.
    pub(super) fn is_held_by_a_table(&self, relation: u32) -> bool {
        self.oids.contains(&relation)
            || self.find_away(relation).is_some()
            || self.partitions.contains(&relation)
    }

    /// The mapping of a stored row.
    pub(super) fn shape(&mut self, row: &StoredRow) -> Result<Arc<Mapping>, Vec<String>> {
        let today = self.columns.get(row.table).map_or(&[][..], |today| today);
        self.shapes.mapping(&self.tables, row, today)
    }

    /// Whether a stored row has the columns that its table has today.
    pub(super) fn is_of_today(&self, row: &StoredRow) -> bool {
        self.columns.get(row.table).is_none_or(|today| *today == row.columns)
    }

    /// The mapping of a stored row that no mapping fits: it is known by what of it can be found, and refused.
    pub(super) fn former(&self, row: &StoredRow, errors: &[String]) -> Result<Arc<Mapping>, End> {
        let table = self.tables.get(row.table).ok_or_else(|| End::protocol("a row of no table"))?;
        Ok(Arc::new(Mapping::former(row.table, table, &row.columns, errors.join("; "))))
    }

    /// Reads a row, which stands here until the next one is read.
    pub(super) fn read(&mut self, mapping: &Mapping, tuple: &Tuple) -> Result<(), String> {
        mapping.read(tuple, &mut self.cells)
    }

    /// Reads a row again; `None` where it cannot be read.
    pub(super) fn reread<'a>(&'a mut self, arrival: &'a Arrival) -> Option<Row<'a>> {
        self.read(&arrival.mapping, &arrival.tuple).ok()?;
        Some(self.row(&arrival.tuple))
    }

    /// The row that was read last, of `tuple`.
    pub(super) fn row<'a>(&'a self, tuple: &'a Tuple) -> Row<'a> {
        Row { tuple, cells: &self.cells }
    }

    /// The columns of the row that was read last.
    pub(super) fn cells(&self) -> &[Cell] {
        &self.cells
    }

    /// One column of the row that was read last.
    pub(super) fn cell(&self, at: usize) -> Option<Cell> {
        self.cells.get(at).copied()
    }

    /// The id of the row that was read last; `None` where it cannot be read.
    pub(super) fn id(&self, mapping: &Mapping, tuple: &Tuple) -> Option<String> {
        event_id(mapping, self.row(tuple)).ok().map(str::to_owned)
    }

    /// The aggregate of an event. Read again: hardly any event is ever asked for it.
    pub(super) fn aggregate_of(&mut self, arrival: &Arrival) -> Option<Aggregate> {
        let row = self.reread(arrival)?;
        let mapping = &arrival.mapping;
        Aggregate::new(row.aggregate_type(mapping), row.aggregate_id(mapping))
    }
}

/// The mappings of stored rows, by the columns they share.
#[derive(Debug, Default)]
struct Shapes(VecDeque<(Arc<[Column]>, Arc<Mapping>)>);

impl Shapes {
    fn mapping(
        &mut self,
        tables: &[Table],
        row: &StoredRow,
        today: &[Column],
    ) -> Result<Arc<Mapping>, Vec<String>> {
        let (table, columns) = (row.table, &row.columns);
        let is_it = |(known, mapping): &&(Arc<[Column]>, Arc<Mapping>)| {
            Arc::ptr_eq(known, columns) && mapping.table == table
        };
        if let Some((_, mapping)) = self.0.iter().find(is_it) {
            return Ok(Arc::clone(mapping));
        }
        let config =
            tables.get(table).ok_or_else(|| vec!["it is of no configured table".to_owned()])?;
        let mapping = Arc::new(Mapping::of_row(table, config, columns, today)?);
        if self.0.len() == SHAPES {
            self.0.pop_front();
        }
        self.0.push_back((Arc::clone(columns), Arc::clone(&mapping)));
        Ok(mapping)
    }
}
