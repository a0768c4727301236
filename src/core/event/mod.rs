//! One outbox row, decoded: borrowed from the tuple it came in.

pub(crate) mod envelope;
pub(crate) mod finder;
mod path;
pub(crate) mod pattern;
pub(crate) mod pgoutput;
pub(crate) mod relation;
pub(crate) mod stored;

use std::borrow::Cow;
use std::fmt;
use std::io::Write as _;

use bytes::Bytes;
use postgres_types::PgLsn;

use crate::core::event::pattern::{Pattern, PatternPiece, hashed, piece_text};
use crate::core::event::pgoutput::{Cell, Tuple};
use crate::core::event::relation::{Mapping, PayloadKind, RefusedShape, TimeKind};

/// Microseconds from 1970 to 2000, where Postgres' time starts.
pub(crate) const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The last microsecond of the year 9999. Clients that are told a later time give the connection up.
const LAST_MICROSECOND: i64 = 253_402_300_799_999_999;

/// The place of an event in commit order; also "everything before here", as a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Where the commit record of its transaction starts. Known from the transaction's
    /// first message on, where the `end_lsn` is only known from its last.
    pub commit_lsn: PgLsn,
    /// Its number among the events of its transaction, from 0.
    pub index: u64,
}

impl Position {
    /// Before every event.
    pub(crate) fn start() -> Self {
        Self::after_commit(PgLsn::from(0))
    }

    /// Behind the last event of the commit that ends here: the next commit record cannot
    /// start before it.
    pub(crate) fn after_commit(end_lsn: PgLsn) -> Self {
        Self { commit_lsn: end_lsn, index: 0 }
    }

    /// Before the stream that begins here, and behind everything of an earlier one: no commit record
    /// starts at this LSN, and every one of the stream behind it.
    pub(crate) fn before(start_lsn: PgLsn) -> Self {
        Self { commit_lsn: PgLsn::from(u64::from(start_lsn).saturating_sub(1)), index: 0 }
    }
}

/// A change of a transaction, by where it is in the WAL. That is the same in every session. The number of an event
/// among those of its transaction need not be: where a publication was altered while the transaction was open,
/// pgoutput shows rows of other tables or not by what its process has seen before (its cache of relations is not
/// versioned by snapshot). Within a transaction it rises: the server sends changes in the order of the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChangeLsn {
    /// Where its record starts.
    pub lsn: PgLsn,
    /// Its number among the rows of the record, from 0: one of COPY holds many, all of one table.
    pub number: u32,
}

impl ChangeLsn {
    /// Behind this one, and before all others.
    pub(crate) fn next(self) -> Self {
        Self { number: self.number.saturating_add(1), ..self }
    }
}

/// A place, and the publishing id of the last change before it: from both, and from nothing else, the ids of what comes
/// behind it follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishingPlace {
    /// Where.
    pub position: Position,
    /// Inside a transaction, the first change that is not before the place. `None` where that is not known.
    pub from: Option<ChangeLsn>,
    /// The publishing id of the last before it; 0 where there is none.
    pub publishing_id: u64,
}

impl PublishingPlace {
    /// Before everything.
    pub(crate) fn start() -> Self {
        Self { position: Position::start(), from: None, publishing_id: 0 }
    }

    /// It is before the other one. Of two places inside a transaction the WAL says that, where they were counted
    /// otherwise.
    pub(crate) fn is_before(&self, other: &Self) -> bool {
        let is_of_one = self.position.commit_lsn == other.position.commit_lsn;
        match (self.from, other.from) {
            (Some(from), Some(other)) if is_of_one => from < other,
            _ => self.position < other.position,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.commit_lsn, self.index)
    }
}

/// A row and where its columns stand.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// The row.
    pub tuple: &'a Tuple,
    /// Its columns, as [`Tuple::read_into`] found them.
    pub cells: &'a [Cell],
}

impl<'a> Row<'a> {
    fn cell(&self, column: usize) -> Cell {
        self.cells.get(column).copied().unwrap_or(Cell::Null)
    }

    fn text(&self, field: &'static str, column: usize) -> Result<Option<&'a str>, Refusal> {
        match self.tuple.text(self.cell(column)) {
            None => Ok(None),
            Some(text) => match std::str::from_utf8(text) {
                Ok(text) => Ok(Some(text)),
                Err(_) => Err(Refusal::unreadable(field, "it is not UTF-8")),
            },
        }
    }

    fn optional(
        &self,
        field: &'static str,
        column: Option<usize>,
    ) -> Result<Option<&'a str>, Refusal> {
        column.map_or(Ok(None), |column| self.text(field, column))
    }

    /// Its own headers, as JSON.
    fn headers(&self, mapping: &Mapping) -> Result<Option<&'a str>, Refusal> {
        let column = self.optional("headers", mapping.headers)?;
        match column.filter(|_| !mapping.headers_names.is_empty()) {
            Some(json) => place("headers", json, &mapping.headers_names),
            None => Ok(column),
        }
    }

    /// The type of its aggregate, where it can be read.
    pub(crate) fn aggregate_type(&self, mapping: &Mapping) -> Option<&'a str> {
        self.optional("aggregate_type", mapping.aggregate_type).ok().flatten()
    }

    /// The id of its aggregate, where it can be read.
    pub(crate) fn aggregate_id(&self, mapping: &Mapping) -> Option<&'a str> {
        self.optional("aggregate_id", mapping.aggregate_id).ok().flatten()
    }

    /// The `traceparent` and `tracestate` that its message has, where they are text: those of its
    /// headers go before the columns.
    pub(crate) fn trace(&self, mapping: &Mapping) -> [Option<Cow<'a, str>>; 2] {
        let headers = self.headers(mapping).ok().flatten();
        // Hardly any row has them there, and the object need not be read for it.
        let headers = headers.filter(|json| json.contains("\"trace"));
        let headers: serde_json::Map<String, serde_json::Value> =
            headers.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
        [("traceparent", mapping.traceparent), ("tracestate", mapping.tracestate)].map(
            |(name, column)| match headers.get(name) {
                Some(header) => header.as_str().map(|text| Cow::Owned(text.to_owned())),
                None => self.optional(name, column).ok().flatten().map(Cow::Borrowed),
            },
        )
    }
}

/// One outbox row.
#[derive(Debug)]
pub struct Event<'a> {
    /// The id of its row.
    pub id: &'a str,
    /// The `message_id` of its message: that id, unless a column of its own says another.
    pub message_id: &'a str,
    /// The type of its aggregate.
    pub aggregate_type: Option<&'a str>,
    /// The id of its aggregate.
    pub aggregate_id: Option<&'a str>,
    /// Its type.
    pub event_type: Option<&'a str>,
    /// Its headers, JSON.
    pub headers: Option<&'a str>,
    /// When it happened, in microseconds since 1970; the time of the commit where the row has
    /// none. From 1970 to the year 9999.
    pub micros: i64,
    /// What its column of the time holds.
    pub moment: Option<Moment>,
    /// What it is correlated with.
    pub correlation_id: Option<&'a str>,
    /// The media type of its body.
    pub content_type: Option<&'a str>,
    /// The trace that it belongs to, and what tracers add to that: W3C trace context.
    pub trace: [(&'static str, Option<&'a str>); 2],
    /// Its body, byte for byte as Postgres rendered it.
    pub payload: Bytes,
}

impl<'a> Event<'a> {
    /// When it happened, in seconds since 1970.
    pub fn seconds(&self) -> u64 {
        u64::try_from(self.micros / 1_000_000).unwrap_or(0)
    }

    /// Reads a row by the mapping of its relation. `commit_time` is in microseconds
    /// since 2000-01-01. A body of more than `most_bytes` is known by its length, and not read.
    ///
    /// # Errors
    /// A column of the row holds a value that cannot be read, or the body is too large: [`Refusal`] says
    /// which and why.
    pub fn read(
        mapping: &Mapping,
        row: Row<'a>,
        commit_time: i64,
        most_bytes: usize,
    ) -> Result<Self, Refusal> {
        match &mapping.refused {
            None => {}
            Some(RefusedShape::Content) => return Err(envelope::refusal(row)),
            Some(RefusedShape::Former(why)) => {
                return Err(Refusal::Former { why: why.to_string() });
            }
        }
        let id = event_id(mapping, row)?;
        let message_id = row.optional("message_id", mapping.message_id)?;
        let moment = moment(mapping, row)?;
        Ok(Self {
            id,
            message_id: message_id.unwrap_or(id),
            aggregate_type: row.optional("aggregate_type", mapping.aggregate_type)?,
            aggregate_id: row.optional("aggregate_id", mapping.aggregate_id)?,
            event_type: row.optional("event_type", mapping.event_type)?,
            headers: row.headers(mapping)?,
            micros: micros(moment, commit_time),
            moment,
            correlation_id: row.optional("correlation_id", mapping.correlation_id)?,
            content_type: row.optional("content_type", mapping.content_type)?,
            trace: [
                ("traceparent", row.optional("traceparent", mapping.traceparent)?),
                ("tracestate", row.optional("tracestate", mapping.tracestate)?),
            ],
            payload: payload(mapping, row, most_bytes)?,
        })
    }
}

/// The id of a row, also where the rest of it cannot be read.
pub(crate) fn event_id<'a>(mapping: &Mapping, row: Row<'a>) -> Result<&'a str, Refusal> {
    row.text("id", mapping.id)?.ok_or_else(|| Refusal::unreadable("id", "it is NULL"))
}

fn payload(mapping: &Mapping, row: Row<'_>, most_bytes: usize) -> Result<Bytes, Refusal> {
    let cell = row.cell(mapping.payload);
    if cell == Cell::Unchanged || cell == Cell::Binary {
        return Err(Refusal::unreadable("payload", "the server did not send it as text"));
    }
    let text = row.tuple.bytes(cell).unwrap_or_default();
    if !mapping.payload_names.is_empty() {
        let json = row.text("payload", mapping.payload)?;
        let found = json.map(|json| place("payload", json, &mapping.payload_names)).transpose()?;
        return Ok(found
            .flatten()
            .map_or_else(Bytes::new, |found| text.slice_ref(found.as_bytes())));
    }
    let bytes = match mapping.payload_kind {
        PayloadKind::Text => text.len(),
        PayloadKind::Bytea => text.len().saturating_sub(HEX.len()) / 2,
    };
    if bytes > most_bytes {
        // Where the body is made of other columns, this one may be of any size.
        return match mapping.has_payload_as_body() {
            true => Err(Refusal::BodyTooLarge { bytes, limit: most_bytes }),
            false => Ok(Bytes::new()),
        };
    }
    match mapping.payload_kind {
        PayloadKind::Text if std::str::from_utf8(&text).is_err() => {
            Err(Refusal::unreadable("payload", "it is not UTF-8"))
        }
        PayloadKind::Text => Ok(text),
        PayloadKind::Bytea => unhex(&text)
            .ok_or_else(|| Refusal::unreadable("payload", "it is not a hexadecimal bytea")),
    }
}

/// What stands behind these names in JSON, as it is written there.
fn place<'a>(
    field: &'static str,
    json: &'a str,
    names: &[String],
) -> Result<Option<&'a str>, Refusal> {
    path::json(json, names).map_err(|why| Refusal::unreadable(field, why))
}

/// What a `bytea` begins with in that form.
const HEX: &[u8] = b"\\x";

/// A `bytea` in its hex output form (`bytea_output` is pinned on the stream).
pub(crate) fn unhex(text: &[u8]) -> Option<Bytes> {
    if text.is_empty() {
        return Some(Bytes::new());
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let digits = text.strip_prefix(HEX)?;
    let mut bytes = Vec::with_capacity(digits.len() / 2);
    for pair in digits.chunks(2) {
        let [high, low] = pair else { return None };
        bytes.push(digit(*high)? << 4 | digit(*low)?);
    }
    Some(Bytes::from(bytes))
}

/// What the column of the time of a row holds; `None` where there is none, it is NULL, or no time that a clock says.
///
/// # Errors
/// The column holds what is no text in UTF-8.
pub(crate) fn moment(mapping: &Mapping, row: Row<'_>) -> Result<Option<Moment>, Refusal> {
    let text = row.optional("occurred_at", mapping.occurred_at)?;
    Ok(text.and_then(|text| Moment::parse(mapping.time_kind, text)))
}

/// What a row's column of the time holds: it tells the row from others with its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// How that column is read.
    pub kind: TimeKind,
    /// As Postgres stores it: microseconds since 2000, or the number that it is.
    pub value: i64,
}

impl Moment {
    /// Reads the column's text.
    pub(crate) fn parse(kind: TimeKind, text: &str) -> Option<Self> {
        let since_2000 = |micros: i64| micros.checked_sub(POSTGRES_EPOCH_MICROS);
        let value = match kind {
            TimeKind::Timestamptz => with_offset(text).and_then(since_2000),
            TimeKind::Timestamp => without_offset(text).and_then(since_2000),
            TimeKind::Epoch => text.parse().ok(),
        };
        value.map(|value| Self { kind, value })
    }

    /// In microseconds since 1970.
    fn micros(self) -> i64 {
        match self.kind {
            TimeKind::Timestamptz | TimeKind::Timestamp => {
                self.value.saturating_add(POSTGRES_EPOCH_MICROS)
            }
            TimeKind::Epoch => Epoch::micros(self.value),
        }
    }
}

fn micros(moment: Option<Moment>, commit_time: i64) -> i64 {
    let micros = moment.map(Moment::micros);
    // What AMQP cannot say (infinity, before 1970), and what consumers' clocks cannot (beyond the
    // year 9999), is told by the time of the commit instead.
    let committed = commit_time.saturating_add(POSTGRES_EPOCH_MICROS);
    micros.filter(is_sayable).or(Some(committed).filter(is_sayable)).unwrap_or(0)
}

fn with_offset(text: &str) -> Option<i64> {
    text.parse().ok().map(|at: jiff::Timestamp| at.as_microsecond())
}

/// A time without an offset: taken as UTC.
fn without_offset(text: &str) -> Option<i64> {
    let at: jiff::civil::DateTime = text.parse().ok()?;
    at.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|at| at.timestamp().as_microsecond())
}

/// Microseconds since 1970 that a text says, whichever way: a time, or a number.
pub(crate) fn micros_of(text: &str) -> Option<i64> {
    let micros = match text.parse() {
        Ok(number) => Some(Epoch::micros(number)),
        Err(_) => with_offset(text).or_else(|| without_offset(text)),
    };
    micros.filter(is_sayable)
}

/// In what a number counts from 1970 on. Its size says which: each unit has the numbers of the years from
/// 1973 to 5138 for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Epoch {
    /// Up to 10^11.
    Seconds,
    /// Up to 10^14.
    Millis,
    /// Up to 10^17.
    Micros,
    /// Beyond.
    Nanos,
}

impl Epoch {
    /// The unit of a number.
    pub(crate) fn of(number: i64) -> Self {
        match number.unsigned_abs() {
            0..100_000_000_000 => Self::Seconds,
            100_000_000_000..100_000_000_000_000 => Self::Millis,
            100_000_000_000_000..100_000_000_000_000_000 => Self::Micros,
            _ => Self::Nanos,
        }
    }

    /// The microsecond that a number says.
    pub(crate) fn micros(number: i64) -> i64 {
        match Self::of(number) {
            Self::Seconds => number.saturating_mul(1_000_000),
            Self::Millis => number.saturating_mul(1_000),
            Self::Micros => number,
            Self::Nanos => number / 1_000,
        }
    }

    /// The number that says a microsecond in this unit.
    pub(crate) fn number(self, micros: i64) -> i64 {
        match self {
            Self::Seconds => micros / 1_000_000,
            Self::Millis => micros / 1_000,
            Self::Micros => micros,
            Self::Nanos => micros.saturating_mul(1_000),
        }
    }
}

fn is_sayable(micros: &i64) -> bool {
    (0..=LAST_MICROSECOND).contains(micros)
}

/// Writes the first alternative of a pattern whose columns are all set, behind what `out` holds.
///
/// # Errors
/// No alternative has all its columns set.
pub(crate) fn expand(
    setting: &'static str,
    pattern: &Pattern,
    row: Row<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Refusal> {
    let start = out.len();
    for alternative in &pattern.0 {
        out.truncate(start);
        if write_alternative(setting, alternative, row, out)? && out.len() > start {
            return Ok(());
        }
    }
    Err(Refusal::Unnamed { setting })
}

fn write_alternative(
    setting: &'static str,
    pieces: &[PatternPiece],
    row: Row<'_>,
    out: &mut Vec<u8>,
) -> Result<bool, Refusal> {
    for piece in pieces {
        match piece {
            PatternPiece::Text(text) => out.extend_from_slice(text.as_bytes()),
            PatternPiece::Hash(of, count) => match hashed(of, *count, setting, row)? {
                // Into memory: it cannot fail.
                Some(number) => drop(write!(out, "{number}")),
                None => return Ok(false),
            },
            column => match piece_text(column, setting, row, false)? {
                Some(text) if !text.is_empty() => out.extend_from_slice(text.as_bytes()),
                _ => return Ok(false),
            },
        }
    }
    Ok(true)
}

/// The largest AMQP frame that is asked for, which is RabbitMQ's own default: to raise a broker's above it
/// changes nothing. lapin's buffers are 32 of them, and a broker without a limit would have it reserve gigabytes.
pub(crate) const FRAME_MAX: u32 = 128 << 10;
/// The largest frame of the stream protocol that is asked for, likewise.
pub(crate) const STREAM_FRAME_MAX: u32 = 1 << 20;
/// What a frame has around a message, at most.
const FRAME_ROOM: u32 = 256;

/// The broker's own limit is below what is asked for.
fn is_raisable(limit: usize, asked: u32) -> bool {
    u32::try_from(limit).is_ok_and(|limit| limit.saturating_add(FRAME_ROOM) < asked)
}

/// Why one event cannot be delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A value cannot be read.
    Unreadable {
        /// The field.
        field: &'static str,
        /// Why not.
        why: String,
    },
    /// A stored row has not the columns that a field is read from today.
    Former {
        /// Which.
        why: String,
    },
    /// No alternative of a template has all its columns set.
    Unnamed {
        /// `exchange` or `routing_key`.
        setting: &'static str,
    },
    /// A name is longer than AMQP can say.
    TooLong {
        /// Of which property.
        what: String,
        /// Its length in bytes.
        bytes: usize,
    },
    /// The body is over the limit.
    BodyTooLarge {
        /// Its size in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Properties and headers do not fit in one AMQP frame, which cannot be split.
    HeadersTooLarge {
        /// Their size in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Its message does not fit in one frame of the stream protocol, which cannot be split.
    FrameTooLarge {
        /// Its size in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A header that would make the broker send copies elsewhere.
    ForbiddenHeader {
        /// Its name.
        name: String,
    },
    /// The broker returned the message: no queue took it.
    Returned {
        /// The broker's words.
        why: String,
    },
    /// The broker nacked the message.
    Nacked,
    /// The broker closed the channel over it.
    Closed {
        /// The broker's words.
        why: String,
    },
    /// It could not be delivered, and the dead-letter exchange did not take it either.
    Unburied {
        /// Why it could not be delivered.
        first: Box<Refusal>,
        /// Why the dead letter could not be.
        then: Box<Refusal>,
    },
}

impl Refusal {
    /// A value that cannot be read.
    pub(crate) fn unreadable(field: &'static str, why: impl Into<String>) -> Self {
        Self::Unreadable { field, why: why.into() }
    }

    /// Its kind, in a word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } | Self::Former { .. } => "unreadable",
            Self::Unnamed { .. } => "unnamed",
            Self::TooLong { .. } => "too_long",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::HeadersTooLarge { .. } => "headers_too_large",
            Self::FrameTooLarge { .. } => "frame_too_large",
            Self::ForbiddenHeader { .. } => "forbidden_header",
            Self::Returned { .. } => "returned",
            Self::Nacked => "nacked",
            Self::Closed { .. } => "closed",
            Self::Unburied { first, .. } => first.reason(),
        }
    }

    /// No time changes it, only other settings or another row do: it is not tried again by itself. What
    /// is too large is not read again and again for nothing.
    pub(crate) fn is_definite(&self) -> bool {
        match self {
            Self::BodyTooLarge { .. }
            | Self::HeadersTooLarge { .. }
            | Self::FrameTooLarge { .. } => true,
            Self::Unburied { first, then } => first.is_definite() && then.is_definite(),
            Self::Unreadable { .. }
            | Self::Former { .. }
            | Self::Unnamed { .. }
            | Self::TooLong { .. }
            | Self::ForbiddenHeader { .. }
            | Self::Returned { .. }
            | Self::Nacked
            | Self::Closed { .. } => false,
        }
    }

    /// How to fix it.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } | Self::ForbiddenHeader { .. } => {
                "correct how the application writes such rows"
            }
            Self::Former { .. } => {
                "its row is kept with the columns of then: send it from the table, which has those of today, then give this record up: pgoutbox replay --id ID --mark; pgoutbox parked discard --id ID. Or name these columns in [[tables]] again, then: pgoutbox parked retry"
            }
            Self::Unnamed { .. } => {
                "set the columns that the template names, or give the template in [[tables]] another alternative"
            }
            Self::TooLong { .. } => "shorten it to 255 bytes",
            Self::BodyTooLarge { .. } => {
                "raise amqp.max_message_bytes, and max_message_size on the broker where that is less, then: pgoutbox parked retry; or send a reference instead of the body"
            }
            Self::HeadersTooLarge { limit, .. } if is_raisable(*limit, FRAME_MAX) => {
                "raise frame_max on the broker to 131072, then: pgoutbox parked retry; or move what is large from the headers into the body"
            }
            Self::HeadersTooLarge { .. } => "move what is large from the headers into the body",
            Self::FrameTooLarge { limit, .. } if is_raisable(*limit, STREAM_FRAME_MAX) => {
                "raise stream.frame_max on the broker to 1048576, then: pgoutbox parked retry; or send a reference instead of the body"
            }
            Self::FrameTooLarge { .. } => "send a reference instead of the body",
            Self::Returned { .. } => {
                "bind a queue to the exchange for this routing key, or give the exchange an alternate exchange"
            }
            Self::Nacked => {
                "look at the queues behind the exchange: one is full with x-overflow=reject-publish, or not available"
            }
            Self::Closed { .. } => {
                "do what the broker says: create the exchange (pgoutbox init --declare), or grant the user write permission on it"
            }
            Self::Unburied { then, .. } => then.hint(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { field, why } => write!(f, "its {field} cannot be read: {why}"),
            Self::Former { why } => write!(f, "its row has columns of before: {why}"),
            Self::Unnamed { setting } => {
                write!(
                    f,
                    "its {setting} is empty: no alternative of the template has all its columns set"
                )
            }
            Self::TooLong { what, bytes } => {
                write!(f, "its {what} has {bytes} bytes, more than 255")
            }
            Self::BodyTooLarge { bytes, limit } => {
                write!(
                    f,
                    "its body has {bytes} bytes, more than the {limit} of amqp.max_message_bytes, or of the broker's max_message_size"
                )
            }
            Self::HeadersTooLarge { bytes, limit } => {
                write!(
                    f,
                    "its properties and headers take {bytes} bytes, more than the {limit} of one frame"
                )
            }
            Self::FrameTooLarge { bytes, limit } => {
                write!(
                    f,
                    "as a message of a stream it has {bytes} bytes, more than the {limit} of one frame"
                )
            }
            Self::ForbiddenHeader { name } => {
                write!(f, "its header \"{name}\" would make the broker send copies elsewhere")
            }
            Self::Returned { why } => write!(f, "the broker returned it, no queue took it: {why}"),
            Self::Nacked => f.write_str("the broker nacked it"),
            Self::Closed { why } => write!(f, "the broker closed the channel over it: {why}"),
            Self::Unburied { first, then } => {
                write!(f, "{first}; as a dead letter: {then}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytea_is_read_from_hex_only() {
        assert_eq!(unhex(b"\\x00ff1A").unwrap(), Bytes::from_static(&[0, 255, 26]));
        assert_eq!(unhex(b"\\x").unwrap(), Bytes::new());
        assert!(unhex(b"\\x0").is_none(), "half a byte");
        assert!(unhex(b"\\x0g").is_none(), "no digit");
        assert!(unhex(b"abc").is_none(), "escape format");
    }

    /// To raise what is as large as the relay asks for would change nothing.
    #[test]
    fn a_limit_is_to_be_raised_only_where_that_helps() {
        let headers = |limit| Refusal::HeadersTooLarge { bytes: 1 << 24, limit }.hint();
        let frame = |limit| Refusal::FrameTooLarge { bytes: 1 << 24, limit }.hint();
        let (asked, stream) = ((128 << 10) - 8, (1 << 20) - 30);
        assert!(!headers(asked).contains("raise") && headers(4088).contains("raise frame_max"));
        assert!(!frame(stream).contains("raise") && frame(65_000).contains("stream.frame_max"));
    }

    #[test]
    fn a_commit_ends_before_the_next_begins() {
        let inside = Position { commit_lsn: PgLsn::from(100), index: 7 };
        let next = Position { commit_lsn: PgLsn::from(148), index: 0 };
        assert!(inside < Position::after_commit(PgLsn::from(148)));
        assert!(Position::after_commit(PgLsn::from(148)) <= next);
    }
}
