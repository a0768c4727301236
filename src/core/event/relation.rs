//! Which column of a relation holds which field of an event.
//!
//! Columns are found by name, for each shape that the server announces: a column may be
//! added, dropped or moved while older rows still wait in the WAL.

use std::collections::HashMap;
use std::sync::Arc;

use postgres_types::Type;

use super::envelope;
use super::finder::{self, Accepts, Finder, RuleColumn};
use crate::config::{ColumnRef, Table};
use crate::core::event::pattern::{MessagePatterns, Pattern};
use crate::core::event::pgoutput::{Cell, Column, RelationMessage, Tuple};

/// The built-in types that a field may have. Domains are known by the type that they are made of,
/// never by their own oid: a domain over bytea is not text.
const READABLE: [Type; 15] = [
    Type::TEXT,
    Type::VARCHAR,
    Type::BPCHAR,
    Type::NAME,
    Type::UUID,
    Type::INT2,
    Type::INT4,
    Type::INT8,
    Type::NUMERIC,
    Type::JSONB,
    Type::JSON,
    Type::BYTEA,
    Type::XML,
    Type::TIMESTAMPTZ,
    Type::TIMESTAMP,
];

/// How one shape of an outbox table is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Which of the configured tables it is.
    pub table: usize,
    /// Why no row of this shape is an event, where none is.
    pub(crate) refused: Option<RefusedShape>,
    /// Column of the event id.
    pub id: usize,
    /// Column of the `message_id`, where that is another.
    pub message_id: Option<usize>,
    /// Column of the body.
    pub payload: usize,
    /// The body stands behind these names in the column's JSON; without any, it is the column.
    pub(crate) payload_names: Vec<String>,
    /// How the body is read.
    pub payload_kind: PayloadKind,
    /// Column of the aggregate's type.
    pub aggregate_type: Option<usize>,
    /// Column of the aggregate's id.
    pub aggregate_id: Option<usize>,
    /// Column of the event's type.
    pub event_type: Option<usize>,
    /// Column of the headers.
    pub headers: Option<usize>,
    /// They stand behind these names in the column's JSON; without any, they are the column.
    pub(crate) headers_names: Vec<String>,
    /// Column of the time.
    pub occurred_at: Option<usize>,
    /// How the time is read.
    pub time_kind: TimeKind,
    /// Column of the correlation id.
    pub correlation_id: Option<usize>,
    /// Column of the content type.
    pub content_type: Option<usize>,
    /// Column of the header `traceparent`.
    pub traceparent: Option<usize>,
    /// Column of the header `tracestate`.
    pub tracestate: Option<usize>,
    /// The columns of the mark, where all of them come with the row: what each holds in a row that is
    /// marked, as the stream says it; `None`: anything. Empty where rows do not carry their marks.
    pub(crate) mark: Vec<(usize, Option<Box<str>>)>,
    /// Which rows are published; empty: all.
    pub(crate) rule: Vec<RuleColumn>,
    /// Columns of type `char(n)` other than the payload: the spaces that fill them up are no part
    /// of the value, and Postgres' own cast to text leaves them out.
    pub(super) padded: Vec<usize>,
    /// Exchange of the message.
    pub(crate) exchange: Pattern,
    /// Routing key of the message.
    pub(crate) routing_key: Pattern,
    /// Filter value of the message in its stream.
    pub(crate) filter_value: Option<Pattern>,
    /// What else the configuration makes of the columns; nothing for most tables.
    pub(crate) message: Option<Box<MessagePatterns>>,
    /// The columns of the relation: what a row of it is kept with, where it is kept.
    pub columns: Arc<[Column]>,
}

/// A shape whose rows are no events, and are refused each by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RefusedShape {
    /// The content of a message that is not an envelope.
    Content,
    /// Columns of before, which lack what the table of today fills a field from: why.
    Former(Box<str>),
}

/// How a body is read from its column's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadKind {
    /// The text is the body.
    Text,
    /// Hexadecimal behind `\x`.
    Bytea,
}

/// How a time is read from its column's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeKind {
    /// With an offset.
    Timestamptz,
    /// Without: taken as UTC.
    Timestamp,
    /// A number since 1970, of seconds up to nanoseconds: see [`Epoch`](super::Epoch).
    Epoch,
}

impl TimeKind {
    /// That of a column of this type; `None` where it is no time.
    pub(crate) fn of(type_oid: u32) -> Option<Self> {
        [
            (Type::TIMESTAMPTZ, Self::Timestamptz),
            (Type::TIMESTAMP, Self::Timestamp),
            (Type::INT8, Self::Epoch),
        ]
        .into_iter()
        .find_map(|(of, kind)| (of.oid() == type_oid).then_some(kind))
    }
}

impl Mapping {
    /// The payload is the body, or within it: no other columns are named for it.
    pub(super) fn has_payload_as_body(&self) -> bool {
        self.message.as_deref().is_none_or(|patterns| patterns.body.is_empty())
    }

    /// Finds a table's fields among the columns of one shape of it. With
    /// `needs_mark`, the columns of the mark must be there too.
    ///
    /// # Errors
    /// Every field that is missing or of a wrong type, one line each.
    pub fn compile(
        table: usize,
        config: &Table,
        columns: &[Column],
        needs_mark: bool,
    ) -> Result<Self, Vec<String>> {
        if config.is_message() && envelope::is_content(columns) {
            return Ok(Self::of_content(table, columns));
        }
        let mut finder = Finder { columns, config, errors: Vec::new() };
        let names = &config.columns;
        let id = finder.required("id", &names.id, Accepts::Text);
        let payload = finder.required("payload", &names.payload, Accepts::Payload);
        let envelope = &config.message.envelope;
        let (payload, payload_names) = finder
            .place("envelope.payload", envelope.payload.as_ref())
            .unwrap_or((payload, Vec::new()));
        let headers = finder.optional("headers", &names.headers, Accepts::Headers);
        let (headers, headers_names) = finder
            .place("envelope.headers", envelope.headers.as_ref())
            .map_or((headers, Vec::new()), |(at, names)| (Some(at), names));
        let (mark, rule) = (finder.mark(needs_mark), finder.rule());
        if needs_mark {
            finder.failed();
        }
        let occurred_at = finder.optional("occurred_at", &names.occurred_at, Accepts::Time);
        let type_of = |at: usize| columns.get(at).map_or(0, |column| column.type_oid);
        let mapping = Self {
            table,
            refused: None,
            id,
            message_id: finder.optional("message_id", &names.message_id, Accepts::Text),
            payload,
            payload_kind: if type_of(payload) == Type::BYTEA.oid() && payload_names.is_empty() {
                PayloadKind::Bytea
            } else {
                PayloadKind::Text
            },
            aggregate_type: finder.optional("aggregate_type", &names.aggregate_type, Accepts::Text),
            aggregate_id: finder.optional("aggregate_id", &names.aggregate_id, Accepts::Text),
            event_type: finder.optional("event_type", &names.event_type, Accepts::Text),
            payload_names,
            headers,
            headers_names,
            occurred_at,
            // Of another type, an error has been reported.
            time_kind: occurred_at
                .and_then(|at| TimeKind::of(type_of(at)))
                .unwrap_or(TimeKind::Timestamptz),
            correlation_id: finder.optional("correlation_id", &names.correlation_id, Accepts::Text),
            content_type: finder.optional("content_type", &names.content_type, Accepts::Text),
            traceparent: finder.optional("traceparent", &names.traceparent, Accepts::Text),
            tracestate: finder.optional("tracestate", &names.tracestate, Accepts::Text),
            mark,
            rule,
            padded: padded(columns, payload),
            exchange: finder.pattern("exchange", &config.exchange),
            routing_key: finder.pattern("routing_key", &config.routing_key),
            filter_value: config
                .stream
                .as_ref()
                .and_then(|sink| sink.filter_value.as_ref())
                .map(|template| finder.pattern("filter_value", template)),
            message: finder.message(&config.message),
            columns: columns.into(),
        };
        if finder.errors.is_empty() { Ok(mapping) } else { Err(finder.errors) }
    }

    /// The same of a row, whose table may have other columns by now: what `today` fills a field from, the row
    /// fills it from too, or had not yet ([`finder::renamed`]).
    ///
    /// # Errors
    /// Every field that is missing or of a wrong type, or that `today` fills and the row does not: one line each.
    pub(crate) fn of_row(
        table: usize,
        config: &Table,
        columns: &[Column],
        today: &[Column],
    ) -> Result<Self, Vec<String>> {
        let mapping = Self::compile(table, config, columns, false)?;
        let renamed = finder::renamed(config, columns, today);
        if renamed.is_empty() { Ok(mapping) } else { Err(renamed) }
    }

    /// Of what is not an envelope: it is refused, and known by what of it can be read.
    fn of_content(source: usize, columns: &[Column]) -> Self {
        Self {
            refused: Some(RefusedShape::Content),
            id: 1,
            aggregate_type: Some(2),
            aggregate_id: Some(3),
            ..Self::of_nothing(source, columns)
        }
    }

    /// Of a stored row whose columns are not those of today: it is refused, and known by what of it can be found.
    pub(crate) fn former(table: usize, config: &Table, columns: &[Column], why: String) -> Self {
        let at = |of: &ColumnRef| columns.iter().position(|column| column.name == of.name);
        let names = &config.columns;
        Self {
            refused: Some(RefusedShape::Former(why.into())),
            // Of a row without its column it is NULL.
            id: at(&names.id).unwrap_or(usize::MAX),
            aggregate_type: at(&names.aggregate_type),
            aggregate_id: at(&names.aggregate_id),
            event_type: at(&names.event_type),
            ..Self::of_nothing(table, columns)
        }
    }

    /// The row is the content of a message that is not an envelope.
    pub(crate) fn is_content(&self) -> bool {
        self.refused == Some(RefusedShape::Content)
    }

    /// One that finds nothing.
    fn of_nothing(table: usize, columns: &[Column]) -> Self {
        Self {
            payload_names: Vec::new(),
            headers_names: Vec::new(),
            table,
            refused: None,
            id: 0,
            message_id: None,
            payload: 0,
            payload_kind: PayloadKind::Text,
            aggregate_type: None,
            aggregate_id: None,
            event_type: None,
            headers: None,
            occurred_at: None,
            time_kind: TimeKind::Timestamptz,
            correlation_id: None,
            content_type: None,
            traceparent: None,
            tracestate: None,
            mark: Vec::new(),
            rule: Vec::new(),
            padded: Vec::new(),
            exchange: Pattern(Vec::new()),
            routing_key: Pattern(Vec::new()),
            filter_value: None,
            message: None,
            columns: columns.into(),
        }
    }

    /// Exchange and routing key of events of a type.
    pub(crate) fn names(&self, event_type: Option<&str>) -> [&Pattern; 2] {
        let routes = self.message.as_deref().map(|message| message.routes.as_slice());
        let route = event_type.and_then(|event_type| {
            routes.unwrap_or_default().iter().find(|(it, _)| it == event_type)
        });
        let own = |at: usize| route.and_then(|(_, names)| names.get(at)?.as_ref());
        [own(0).unwrap_or(&self.exchange), own(1).unwrap_or(&self.routing_key)]
    }

    /// Finds the values of a row of this shape.
    ///
    /// # Errors
    /// Bytes that are not a row of it.
    pub(crate) fn read(&self, tuple: &Tuple, cells: &mut Vec<Cell>) -> Result<(), String> {
        tuple.read_into(cells).map_err(|error| error.to_string())?;
        let (columns, width) = (cells.len(), self.columns.len());
        if columns != width {
            return Err(format!("a row of {columns} columns in a relation of {width}"));
        }
        for column in &self.padded {
            if let Some(cell) = cells.get_mut(*column) {
                *cell = tuple.without_padding(*cell);
            }
        }
        Ok(())
    }
}

fn padded(columns: &[Column], payload: usize) -> Vec<usize> {
    let columns = columns.iter().enumerate();
    let padded = columns.filter(|(_, column)| column.type_oid == Type::BPCHAR.oid());
    padded.map(|(at, _)| at).filter(|at| *at != payload).collect()
}

/// What the relay knows of a relation of the stream.
#[derive(Debug, Clone)]
pub(crate) enum Relation {
    /// An outbox table, or a partition of one.
    Outbox(Arc<Mapping>),
    /// Another table that the publication covers: its rows are counted and passed over.
    Other,
}

/// The relations announced on this connection, by oid.
#[derive(Debug, Default)]
pub(crate) struct Relations {
    known: HashMap<u32, Relation>,
    /// Types that are not built in, and of what built-in type they are made.
    bases: HashMap<u32, u32>,
}

impl Relations {
    /// The relation of a row, where it was announced.
    pub(crate) fn find(&self, oid: u32) -> Option<&Relation> {
        self.known.get(&oid)
    }

    /// Relations with rows that were taken for rows of others.
    pub(crate) fn passed_over(&self) -> impl Iterator<Item = u32> {
        let others = self.known.iter().filter(|(_, relation)| matches!(relation, Relation::Other));
        others.map(|(oid, _)| *oid)
    }

    /// Takes in what a type is made of, as the stream tells it before each relation that has it:
    /// of a domain that is the type at the bottom, of any other type the type itself.
    pub(crate) fn made_of(&mut self, oid: u32, schema: &str, name: &str) {
        if schema != "pg_catalog" {
            return;
        }
        let base = READABLE.iter().find(|base| base.name() == name);
        // One that no field may have.
        let base = base.map_or(Type::UNKNOWN.oid(), Type::oid);
        self.bases.insert(oid, base);
    }

    /// Replaces the types of domains by those that they are made of.
    pub(crate) fn resolve_types(&self, relation: &mut RelationMessage) {
        for column in &mut relation.columns {
            if let Some(base) = self.bases.get(&column.type_oid) {
                column.type_oid = *base;
            }
        }
    }

    /// The relation was announced in another shape, and is not known.
    pub(crate) fn remove(&mut self, oid: u32) {
        self.known.remove(&oid);
    }

    /// Takes in an announced shape; it replaces an earlier one of the same oid.
    pub(crate) fn insert(&mut self, oid: u32, relation: Relation) {
        self.known.insert(oid, relation);
    }
}

/// Which configured table a relation is, where its name says so.
pub(crate) fn table_named(tables: &[Table], message: &RelationMessage) -> Option<usize> {
    tables.iter().position(|table| table.schema == message.schema && table.name == message.name)
}
