//! The AMQP form of an event.
//!
//! Every limit that can be known is checked here: what the broker refuses, it refuses by
//! closing the channel, which takes every unconfirmed message with it.
//!
//! A message is its bytes from the start: exchange, routing key and properties as they go over
//! the wire, one after the other in one piece of memory. Each as a value of its own would cost
//! an event a dozen allocations.

mod body;
mod fields;
mod headers;
mod json;
mod properties;
mod sections;
mod sources;
mod value;

use std::num::NonZeroU64;
use std::sync::Arc;

use amq_protocol::protocol::basic::{AMQPProperties, gen_properties, parse_properties};
use amq_protocol::types::{AMQPValue, FieldTable, ShortString};
use bytes::Bytes;

use headers::add_position;
use properties::PERSISTENT;
use sources::PropertySources;

use crate::config::{StreamSink, Table};
use crate::core::event::pattern::Pattern;
use crate::core::event::relation::Mapping;
use crate::core::event::{Event, Position, Refusal, Row, expand};
use crate::core::hash::murmur3;

/// Names the commit of an event: fixed width, so that text order is commit order, and
/// readable by Postgres as a `pg_lsn`.
pub const COMMIT_LSN_HEADER: &str = "pgoutbox-commit-lsn";
/// Numbers the events of one commit, from 0.
pub const INDEX_HEADER: &str = "pgoutbox-index";
/// On what an operator or reconciliation sent once more; such a message has no position.
pub(crate) const REPLAYED_HEADER: &str = "pgoutbox-replayed";
/// The type of the event's aggregate.
pub(crate) const AGGREGATE_TYPE_HEADER: &str = "aggregate_type";
/// The id of the event's aggregate.
pub(crate) const AGGREGATE_ID_HEADER: &str = "aggregate_id";

/// Of a dead letter: why it could not be delivered, in a word.
pub(crate) const REASON_HEADER: &str = "pgoutbox-reason";
/// Of a dead letter: why it could not be delivered, in full.
pub(crate) const ERROR_HEADER: &str = "pgoutbox-error";
/// Of a dead letter: the event's table.
pub(crate) const TABLE_HEADER: &str = "pgoutbox-table";
/// Of a dead letter: the exchange it should have gone to.
pub(crate) const EXCHANGE_HEADER: &str = "pgoutbox-exchange";
/// Of a dead letter: the routing key it should have had.
pub(crate) const ROUTING_KEY_HEADER: &str = "pgoutbox-routing-key";

/// What a content header frame holds besides the properties: class, weight, body size.
const CONTENT_HEADER_BYTES: usize = 12;
/// What most messages need besides their body and the row's own headers.
const HEAD_BYTES: usize = 256;

/// A message, ready to be published. It is handed on by value from one to the other: with 128 bytes or less that is
/// a few instructions, with more a call of `memcpy` each time.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Exchange and routing key, each behind its length, and the properties.
    head: Vec<u8>,
    /// Where the properties begin.
    properties_at: u16,
    /// The filter value, and what comes before the body in the form of a stream; empty where it goes to none.
    sections: Vec<u8>,
    /// Where what comes before the body begins: a filter value has 255 bytes at most.
    sections_at: u8,
    /// The stream that it goes to; `None`: an exchange.
    stream: Option<Arc<str>>,
    has_text_headers: bool,
    /// By which the stream knows it again; `None`: not at all.
    pub publishing_id: Option<u64>,
    /// 1970 itself is no time.
    timestamp: Option<NonZeroU64>,
    is_mandatory: bool,
    /// Its body.
    pub body: Bytes,
}

/// What the broker takes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Largest body in bytes.
    pub body: usize,
    /// Largest content header frame in bytes: the negotiated `frame_max` less the frame's own 8.
    pub header_frame: usize,
    /// Largest message of a stream in bytes, where there are streams.
    pub stream: Option<usize>,
}

impl Message {
    /// Builds the message of an event.
    ///
    /// # Errors
    /// A property or a header is one that AMQP cannot hold, or the message is larger than the
    /// broker takes.
    pub fn build(
        event: &Event<'_>,
        row: Row<'_>,
        position: Position,
        mapping: &Mapping,
        table: &Table,
        limits: Limits,
    ) -> Result<Self, Refusal> {
        let of = PropertySources { event, row, position, mapping, table };
        let body = body::build(of, limits.body)?;
        if body.len() > limits.body {
            return Err(Refusal::BodyTooLarge { bytes: body.len(), limit: limits.body });
        }
        // JSON takes hardly less than the table that is made of it.
        let headers = event.headers.map_or(0, str::len);
        let mut head = Vec::with_capacity(HEAD_BYTES + headers);
        let [exchange, routing_key] = mapping.names(event.event_type);
        name(&mut head, "exchange", exchange, row)?;
        name(&mut head, "routing_key", routing_key, row)?;
        let properties_at = end_of_names(&head);
        let timestamp = NonZeroU64::new(properties::write(&mut head, of)?);
        let (sections, sections_at) = filter_value(mapping, row, head.len())?;
        let message = Self {
            sections,
            sections_at,
            head,
            properties_at,
            stream: table.stream.as_ref().map(|sink| partition(sink, event)),
            has_text_headers: table.has_text_headers,
            publishing_id: None,
            timestamp,
            is_mandatory: table.is_mandatory,
            body,
        };
        message.within(limits)
    }

    /// A message of these.
    ///
    /// # Errors
    /// A name or a property is longer than AMQP can say.
    pub fn new(
        exchange: &str,
        routing_key: &str,
        properties: &AMQPProperties,
        body: Bytes,
    ) -> Result<Self, Refusal> {
        let mut head = Vec::with_capacity(HEAD_BYTES);
        short(&mut head, "exchange", exchange)?;
        short(&mut head, "routing_key", routing_key)?;
        let properties_at = end_of_names(&head);
        let written = gen_properties(properties)(head.into());
        let unwritable = |_| Refusal::unreadable("properties", "AMQP has no form for them");
        let head = written.map_err(unwritable)?.into_inner().0;
        let timestamp = properties.timestamp().and_then(NonZeroU64::new);
        Ok(Self {
            sections: Vec::new(),
            sections_at: 0,
            head,
            properties_at,
            stream: None,
            has_text_headers: false,
            publishing_id: None,
            timestamp,
            is_mandatory: true,
            body,
        })
    }

    fn within(self, limits: Limits) -> Result<Self, Refusal> {
        // What has no frame of its own is bounded with the message.
        if let Some(limit) = limits.stream.filter(|_| self.stream.is_some()) {
            return self.in_sections(limit);
        }
        let (bytes, limit) = (self.properties_bytes().len(), limits.header_frame);
        if bytes + CONTENT_HEADER_BYTES > limit {
            return Err(Refusal::HeadersTooLarge { bytes: bytes + CONTENT_HEADER_BYTES, limit });
        }
        Ok(self)
    }

    /// In the form of a stream as well, whose messages have at most so many bytes.
    fn in_sections(mut self, limit: usize) -> Result<Self, Refusal> {
        let mut sections = std::mem::take(&mut self.sections);
        let (exchange, routing_key) = self.names();
        let properties = self.properties_bytes();
        sections.reserve(properties.len() + HEAD_BYTES);
        let has_text_headers = self.has_text_headers;
        let of = sections::Sources { exchange, routing_key, properties, has_text_headers };
        sections::write(&mut sections, of)?;
        sections::begin_body(&mut sections, self.body.len())?;
        let bytes = sections.len() + self.body.len();
        if bytes > limit {
            return Err(Refusal::FrameTooLarge { bytes, limit });
        }
        self.sections = sections;
        Ok(self)
    }

    /// Exchange and routing key as they stand in a publish.
    pub(crate) fn names_bytes(&self) -> &[u8] {
        self.head.get(..usize::from(self.properties_at)).unwrap_or_default()
    }

    /// The properties as they stand in a content header.
    pub fn properties_bytes(&self) -> &[u8] {
        self.head.get(usize::from(self.properties_at)..).unwrap_or_default()
    }

    /// The stream that it goes to; `None`: an exchange.
    pub(crate) fn stream(&self) -> Option<&str> {
        self.stream.as_deref()
    }

    /// What comes before the body, as a stream keeps it.
    pub fn sections_bytes(&self) -> &[u8] {
        self.sections.get(usize::from(self.sections_at)..).unwrap_or_default()
    }

    /// By what consumers of the stream ask for it; `None`: by nothing.
    pub fn filter_value(&self) -> Option<&[u8]> {
        self.sections.get(..usize::from(self.sections_at)).filter(|value| !value.is_empty())
    }

    fn names(&self) -> (&str, &str) {
        let (exchange, rest) = text(self.names_bytes());
        (exchange, text(rest).0)
    }

    /// The exchange's name, as it stands in a publish.
    pub(crate) fn exchange_bytes(&self) -> &[u8] {
        let Some((length, rest)) = self.names_bytes().split_first() else { return &[] };
        rest.get(..usize::from(*length)).unwrap_or_default()
    }

    /// Where it is published.
    pub fn exchange(&self) -> &str {
        self.names().0
    }

    /// By what it is routed.
    pub fn routing_key(&self) -> &str {
        self.names().1
    }

    /// The broker returns it where no queue takes it.
    pub(crate) fn is_mandatory(&self) -> bool {
        self.is_mandatory
    }

    /// Properties and headers, read again.
    pub fn properties(&self) -> AMQPProperties {
        let read = parse_properties(self.properties_bytes());
        read.map_or_else(|_| AMQPProperties::default(), |(_, properties)| properties)
    }

    /// The same, sent once more on purpose. Without its position: that is older than what
    /// consumers have seen, and one that drops by position would drop it.
    ///
    /// # Errors
    /// A name or a property is longer than AMQP can say.
    pub(crate) fn replayed(self) -> Result<Self, Refusal> {
        let is_replayed = (ShortString::from(REPLAYED_HEADER), AMQPValue::Boolean(true));
        self.without_position(Some(is_replayed))
    }

    /// The same, made of a row whose position is not known any more.
    ///
    /// # Errors
    /// A name or a property is longer than AMQP can say.
    pub(crate) fn unplaced(self) -> Result<Self, Refusal> {
        self.without_position(None)
    }

    fn without_position(self, more: Option<(ShortString, AMQPValue)>) -> Result<Self, Refusal> {
        let positions = [COMMIT_LSN_HEADER, INDEX_HEADER];
        let properties = self.properties();
        let mut headers = FieldTable::default();
        for (name, value) in properties.headers().iter().flat_map(FieldTable::inner) {
            if !positions.contains(&name.as_str()) {
                headers.insert(name.clone(), value.clone());
            }
        }
        if let Some((name, value)) = more {
            headers.insert(name, value);
        }
        let properties = properties.with_headers(headers);
        let message =
            Self::new(self.exchange(), self.routing_key(), &properties, self.body.clone())?;
        let (is_mandatory, has_text_headers) = (self.is_mandatory, self.has_text_headers);
        let filter_value = self.filter_value().unwrap_or_default();
        let message = Self {
            is_mandatory,
            has_text_headers,
            stream: self.stream.clone(),
            sections: filter_value.to_vec(),
            sections_at: self.sections_at,
            ..message
        };
        match self.sections_bytes() {
            [] => Ok(message),
            // It has lost two headers for one: it is not larger than what was within the limits.
            _ => message.in_sections(usize::MAX),
        }
    }
}

/// The place that the headers of one of our messages say.
pub(crate) fn position_in(headers: &FieldTable) -> Option<Position> {
    let value = |name: &str| headers.inner().get(name);
    let commit_lsn = match value(COMMIT_LSN_HEADER)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok()?.parse().ok()?,
        _ => return None,
    };
    match value(INDEX_HEADER)? {
        AMQPValue::LongLongInt(index) => {
            Some(Position { commit_lsn, index: u64::try_from(*index).ok()? })
        }
        _ => None,
    }
}

/// What a dead letter is made of, besides the message.
#[derive(Debug)]
pub(crate) struct Letter<'a> {
    /// The dead-letter exchange.
    pub exchange: &'a str,
    /// Its routing key there; the message's own, or else the table's name, where there is none.
    pub routing_key: Option<&'a str>,
    /// Id of the event; empty where it cannot be read.
    pub id: &'a str,
    /// Its table.
    pub table: &'a Table,
    /// Its place in commit order.
    pub position: Position,
    /// Its body, where that is all that can be read.
    pub body: Bytes,
}

impl Message {
    /// The dead letter of an event: its message as far as there is one, with headers that say
    /// why it could not be delivered, and where it should have gone.
    ///
    /// # Errors
    /// A property or a header is one that AMQP cannot hold, or the message is larger than the
    /// broker takes.
    pub(crate) fn dead_letter(
        message: Option<Self>,
        why: &Refusal,
        letter: Letter<'_>,
        limits: Limits,
    ) -> Result<Self, Refusal> {
        let table = letter.table.title();
        let (properties, body) = match &message {
            Some(message) => (message.properties(), message.body.clone()),
            None => {
                let mut properties = AMQPProperties::default().with_delivery_mode(PERSISTENT);
                if !letter.id.is_empty()
                    && let Ok(id) = ShortString::try_new(letter.id)
                {
                    properties = properties.with_message_id(id);
                }
                let mut headers = FieldTable::default();
                add_position(&mut headers, letter.position);
                (properties.with_headers(headers), letter.body)
            }
        };
        if body.len() > limits.body {
            return Err(Refusal::BodyTooLarge { bytes: body.len(), limit: limits.body });
        }
        let mut headers = properties.headers().clone().unwrap_or_default();
        let mut say = |name: &str, value: &str| {
            headers.insert(ShortString::from(name), AMQPValue::LongString(value.into()));
        };
        say(REASON_HEADER, why.reason());
        say(ERROR_HEADER, &why.to_string());
        say(TABLE_HEADER, &table);
        if let Some(message) = &message {
            say(EXCHANGE_HEADER, message.exchange());
            say(ROUTING_KEY_HEADER, message.routing_key());
        }
        let own_key = message.as_ref().map_or(table.as_str(), Self::routing_key);
        let routing_key = letter.routing_key.unwrap_or(own_key);
        let properties = properties.with_headers(headers);
        Self::new(letter.exchange, routing_key, &properties, body)?.within(limits)
    }
}

/// The stream of an event: all of an aggregate go to one partition, which is the one that other publishers choose by
/// the aggregate's id. One without an aggregate is of itself.
fn partition(sink: &StreamSink, event: &Event<'_>) -> Arc<str> {
    let key = event.aggregate_id.unwrap_or(event.id);
    let count = u32::try_from(sink.partitions.len()).unwrap_or(u32::MAX).max(1);
    let at = if count == 1 { 0 } else { murmur3(key.as_bytes()) % count };
    let partition = usize::try_from(at).ok().and_then(|at| sink.partitions.get(at));
    Arc::clone(partition.unwrap_or(&sink.name))
}

/// The filter value of an event, with room for what comes behind it; nothing where it has none.
fn filter_value(mapping: &Mapping, row: Row<'_>, head: usize) -> Result<(Vec<u8>, u8), Refusal> {
    let Some(pattern) = &mapping.filter_value else { return Ok((Vec::new(), 0)) };
    let text = pattern.text("filter_value", row)?.unwrap_or_default();
    let bytes = text.len();
    let too_long = |_| Refusal::TooLong { what: "filter_value".to_owned(), bytes };
    let length = u8::try_from(bytes).map_err(too_long)?;
    let mut value = Vec::with_capacity(bytes + head + HEAD_BYTES);
    value.extend_from_slice(text.as_bytes());
    Ok((value, length))
}

/// Writes a name as its pattern makes it of the row.
fn name(
    head: &mut Vec<u8>,
    setting: &'static str,
    pattern: &Pattern,
    row: Row<'_>,
) -> Result<(), Refusal> {
    let start = head.len();
    head.push(0);
    expand(setting, pattern, row, head)?;
    let bytes = head.len() - start - 1;
    let too_long = || Refusal::TooLong { what: setting.to_owned(), bytes };
    let length = u8::try_from(bytes).map_err(|_| too_long())?;
    if let Some(place) = head.get_mut(start) {
        *place = length;
    }
    Ok(())
}

/// Writes a text of up to 255 bytes behind its length.
fn short(out: &mut Vec<u8>, what: &str, text: &str) -> Result<(), Refusal> {
    let too_long = |_| Refusal::TooLong { what: what.to_owned(), bytes: text.len() };
    out.push(u8::try_from(text.len()).map_err(too_long)?);
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// Two names of at most 255 bytes each.
fn end_of_names(head: &[u8]) -> u16 {
    u16::try_from(head.len()).unwrap_or(u16::MAX)
}

const _: () = assert!(size_of::<Message>() <= 128, "a message is moved often");

/// The text at the start of `bytes`, and what is behind it.
fn text(bytes: &[u8]) -> (&str, &[u8]) {
    let (length, rest) = bytes.split_first().unwrap_or((&0, &[]));
    let (text, rest) = rest.split_at_checked(usize::from(*length)).unwrap_or_default();
    (std::str::from_utf8(text).unwrap_or_default(), rest)
}

#[cfg(test)]
mod tests;
