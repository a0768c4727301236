//! Which column of a relation holds which field of an event.
//!
//! Columns are found by name, for each shape that the server announces: a column may be
//! added, dropped or moved while older rows still wait in the WAL.

use std::collections::HashMap;
use std::sync::Arc;

use postgres_types::Type;

use crate::config::{ColumnRef, MarkValue, Table};
use crate::core::event::envelope;
use crate::core::event::pattern::{MessagePatterns, Pattern};
use crate::core::event::pgoutput::{Cell, Column, RelationMessage, Tuple};

/// Oids below this one are built in; above are enums, domains and extension types.
const FIRST_USER_OID: u32 = 16_384;

/// The built-in types that a field may have. Domains are told by the type that they are made of,
/// never by their own oid: a domain over bytea is no text.
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
    /// The row is the content of a message that is no envelope.
    pub(crate) is_content: bool,
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
    /// What else the configuration makes of the columns; nothing for most tables.
    pub(crate) message: Option<Box<MessagePatterns>>,
    /// The columns of the relation: what a row of it is kept with, where it is kept.
    pub columns: Arc<[Column]>,
}

/// What a row has to hold in a column to be published, or must not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RuleColumn {
    /// The column.
    pub column: usize,
    /// Values, as the stream says them.
    pub values: Vec<Box<str>>,
    /// Rows with one of them are left out.
    pub is_except: bool,
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

#[derive(Clone, Copy)]
enum Accepts {
    Text,
    Payload,
    Headers,
    Time,
    Mark,
    Constant,
}

impl Accepts {
    fn accepts(self, oid: u32) -> bool {
        if oid >= FIRST_USER_OID {
            return !matches!(self, Self::Time | Self::Mark);
        }
        let is = |types: &[Type]| types.iter().any(|accepted| accepted.oid() == oid);
        let is_text = is(&[Type::TEXT, Type::VARCHAR, Type::BPCHAR, Type::NAME]);
        match self {
            Self::Text => {
                let numbers = [Type::INT2, Type::INT4, Type::INT8, Type::NUMERIC];
                is_text || is(&[Type::UUID]) || is(&numbers)
            }
            Self::Payload => {
                let written = [Type::JSONB, Type::JSON, Type::BYTEA, Type::XML];
                is_text || is(&written) || is(&[Type::RECORD, Type::ANY_RANGE])
            }
            Self::Headers => is_text || is(&[Type::JSONB, Type::JSON]),
            Self::Time => is(&[Type::TIMESTAMPTZ, Type::TIMESTAMP, Type::INT8]),
            Self::Mark => is(&[Type::TIMESTAMPTZ, Type::TIMESTAMP]),
            Self::Constant => is_text || is(&[Type::BOOL, Type::INT2, Type::INT4, Type::INT8]),
        }
    }

    fn names(self) -> &'static str {
        match self {
            Self::Text => "text, varchar, uuid, bigint, integer, numeric or an enum",
            Self::Payload => "jsonb, json, text or bytea",
            Self::Headers => "jsonb, json or text",
            Self::Time => "timestamptz, timestamp or bigint (since 1970)",
            Self::Mark => "timestamptz or timestamp",
            Self::Constant => "text, varchar, an enum, boolean, smallint, integer or bigint",
        }
    }
}

impl Mapping {
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
            return Ok(envelope::mapping_of_content(table, columns));
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
            is_content: false,
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
            // Of another type, an error has been told.
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
            message: finder.message(&config.message),
            columns: columns.into(),
        };
        if finder.errors.is_empty() { Ok(mapping) } else { Err(finder.errors) }
    }

    /// One that finds nothing.
    pub(super) fn of_nothing(table: usize, columns: &[Column]) -> Self {
        Self {
            payload_names: Vec::new(),
            headers_names: Vec::new(),
            table,
            is_content: false,
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
    /// Bytes that are no row of it.
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

/// What a column of this type holds in a row that is marked, as the server writes it.
fn held(value: &MarkValue, type_oid: u32) -> Result<Option<Box<str>>, String> {
    let accepts = match value {
        MarkValue::Now => Accepts::Mark,
        MarkValue::Constant(_) => Accepts::Constant,
    };
    let MarkValue::Constant(text) = value else {
        let is_time = accepts.accepts(type_oid);
        return is_time
            .then_some(None)
            .ok_or_else(|| format!("its type must be {}", accepts.names()));
    };
    if !accepts.accepts(type_oid) {
        return Err(format!("its type must be {}", accepts.names()));
    }
    let text = text.as_str();
    let written = match Type::from_oid(type_oid) {
        Some(Type::BOOL) => match text.to_ascii_lowercase().as_str() {
            "true" | "t" => "t".to_owned(),
            "false" | "f" => "f".to_owned(),
            _ => return Err(format!("it is a boolean, and {text:?} is none")),
        },
        Some(Type::INT2 | Type::INT4 | Type::INT8) => match text.parse::<i64>() {
            Ok(number) => number.to_string(),
            Err(_) => return Err(format!("it is a number, and {text:?} is none")),
        },
        // The spaces that fill it up are no part of the value.
        Some(Type::BPCHAR) => text.trim_end_matches(' ').to_owned(),
        _ => text.to_owned(),
    };
    Ok(Some(written.into()))
}

/// A value of a rule as the stream says it. SQL compares the column as text: what is written has to be that.
fn one_of(text: &str, type_oid: u32) -> Result<Box<str>, String> {
    let accepts = Accepts::Constant;
    if !(accepts.accepts(type_oid) || type_oid == Type::UUID.oid()) {
        return Err(format!("its type must be {} or uuid", accepts.names()));
    }
    match Type::from_oid(type_oid) {
        Some(Type::BOOL) => match text {
            "true" => Ok("t".into()),
            "false" => Ok("f".into()),
            _ => Err(format!("it is a boolean, and {text:?} is neither true nor false")),
        },
        Some(Type::INT2 | Type::INT4 | Type::INT8) => {
            let is_written = text.parse::<i64>().is_ok_and(|number| number.to_string() == text);
            is_written.then(|| text.into()).ok_or_else(|| {
                format!("it is a number, and {text:?} is none as Postgres writes it")
            })
        }
        _ => Ok(text.into()),
    }
}

/// Looks for columns, and collects what is wrong.
pub(super) struct Finder<'a> {
    pub(super) columns: &'a [Column],
    pub(super) config: &'a Table,
    pub(super) errors: Vec<String>,
}

impl Finder<'_> {
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    fn optional(&mut self, field: &str, column: &ColumnRef, accepts: Accepts) -> Option<usize> {
        if column.name.is_empty() {
            return None;
        }
        let at = self.position(&column.name);
        match at.and_then(|at| self.columns.get(at)) {
            Some(found) if !accepts.accepts(found.type_oid) => self.errors.push(format!(
                "column \"{}\" of {} cannot be read as {field}: its type must be {}",
                column.name,
                self.config.title(),
                accepts.names(),
            )),
            None if column.is_explicit => self.missing(field, column),
            _ => {}
        }
        at
    }

    /// The columns of the mark; those that are missing are an error where they are needed.
    fn mark(&mut self, is_needed: bool) -> Vec<(usize, Option<Box<str>>)> {
        let config = self.config;
        if !config.is_marked_in_rows() {
            return Vec::new();
        }
        let mut found = Vec::new();
        for column in &config.mark.0 {
            let at = self.position(&column.name);
            let type_oid = at.and_then(|at| self.columns.get(at)).map(|found| found.type_oid);
            if let (Some(at), Some(type_oid)) = (at, type_oid) {
                match held(&column.value, type_oid) {
                    Ok(text) => found.push((at, text)),
                    Err(why) => self.errors.push(format!(
                        "column \"{}\" of {} cannot be read as the mark: {why}",
                        column.name,
                        config.title(),
                    )),
                }
            } else if is_needed {
                self.errors.push(format!(
                    "{} has no column \"{}\" for the mark",
                    config.title(),
                    column.name
                ));
            }
        }
        // Those that come with the row alone do not say whether it is marked.
        if found.len() < config.mark.0.len() {
            found.clear();
        }
        found
    }

    /// The columns that show that tries have ended.
    fn failed(&mut self) {
        let config = self.config;
        for (name, value) in &config.failed {
            let found = self.columns.iter().find(|column| column.name == *name);
            let title = config.title();
            let Some(found) = found else {
                self.errors.push(format!("{title} has no column \"{name}\" for failed.{name}"));
                continue;
            };
            if let Err(why) = held(&MarkValue::Constant(value.clone()), found.type_oid) {
                let what =
                    format!("column \"{name}\" of {title} cannot be read as failed.{name}: {why}");
                self.errors.push(what);
            }
        }
    }

    /// The columns of the rule.
    fn rule(&mut self) -> Vec<RuleColumn> {
        let config = self.config;
        let mut rule = Vec::new();
        for condition in &config.rule.0 {
            let name = config.column_of(&condition.name);
            let title = config.title();
            let Some(column) = self.position(name) else {
                self.errors.push(format!(
                    "{title} has no column \"{name}\" for {}.{}",
                    condition.section(),
                    condition.name
                ));
                continue;
            };
            let type_oid = self.columns.get(column).map_or(0, |column| column.type_oid);
            let values = condition.values.iter().map(|text| one_of(text, type_oid));
            match values.collect() {
                Ok(values) => {
                    rule.push(RuleColumn { column, values, is_except: condition.is_except });
                }
                Err(why) => self.errors.push(format!(
                    "column \"{name}\" of {title} cannot be read as {}.{}: {why}",
                    condition.section(),
                    condition.name
                )),
            }
        }
        rule
    }

    fn required(&mut self, field: &str, column: &ColumnRef, accepts: Accepts) -> usize {
        match self.optional(field, column, accepts) {
            Some(at) => at,
            None => {
                // An explicit one was already reported by `optional`.
                if !column.is_explicit || column.name.is_empty() {
                    self.missing(field, column);
                }
                0
            }
        }
    }

    fn missing(&mut self, field: &str, column: &ColumnRef) {
        self.errors.push(format!(
            "{} has no column \"{}\" for {field}",
            self.config.title(),
            column.name,
        ));
    }
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
