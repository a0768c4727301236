//! The AMQP form of an event.
//!
//! Every limit that can be known is checked here: what the broker refuses, it refuses by
//! closing the channel, which takes every unconfirmed message with it.

mod headers;

use amq_protocol::protocol::basic::AMQPProperties;
use amq_protocol::types::{AMQPValue, FieldTable, ShortString};
use bytes::Bytes;

use headers::{add_position, headers, table_size};

use crate::config::Table;
use crate::event::{Event, Position, Refusal, Row, expand};
use crate::relation::Mapping;

/// Names the commit of an event: fixed width, so that text order is commit order, and
/// readable by Postgres as a `pg_lsn`.
pub const COMMIT_LSN_HEADER: &str = "pgoutbox-commit-lsn";
/// Numbers the events of one commit, from 0.
pub const INDEX_HEADER: &str = "pgoutbox-index";
/// On what an operator or reconciliation sent once more; such a message has no position.
pub const REPLAYED_HEADER: &str = "pgoutbox-replayed";
/// The type of the event's aggregate.
pub const AGGREGATE_TYPE_HEADER: &str = "aggregate_type";
/// The id of the event's aggregate.
pub const AGGREGATE_ID_HEADER: &str = "aggregate_id";

/// Of a dead letter: why it could not be delivered, in a word.
pub const REASON_HEADER: &str = "pgoutbox-reason";
/// Likewise, in full.
pub const ERROR_HEADER: &str = "pgoutbox-error";
/// Of a dead letter: the event's table.
pub const TABLE_HEADER: &str = "pgoutbox-table";
/// Of a dead letter: the exchange it should have gone to.
pub const EXCHANGE_HEADER: &str = "pgoutbox-exchange";
/// Likewise, the routing key.
pub const ROUTING_KEY_HEADER: &str = "pgoutbox-routing-key";

/// AMQP's persistent delivery mode.
const PERSISTENT: u8 = 2;
/// What a content header frame holds besides the properties: class, weight, body size,
/// property flags.
const CONTENT_HEADER_BYTES: usize = 14;
/// What most exchanges and routing keys fit in.
const NAME_BYTES: usize = 48;
/// Most that the properties besides the headers take: six of up to 255 bytes, and two numbers.
const PROPERTIES_BYTES: usize = 6 * 256 + 9;

/// A message, ready to be published.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Where it is published.
    pub exchange: ShortString,
    /// By what it is routed.
    pub routing_key: ShortString,
    /// Properties and headers.
    pub properties: AMQPProperties,
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
}

impl Message {
    /// Builds the message of an event.
    ///
    /// # Errors
    /// What AMQP or the broker cannot take.
    pub fn build(
        event: &Event<'_>,
        row: Row<'_>,
        position: Position,
        mapping: &Mapping,
        table: &Table,
        limits: Limits,
    ) -> Result<Self, Refusal> {
        if event.payload.len() > limits.body {
            return Err(Refusal::BodyTooLarge { bytes: event.payload.len(), limit: limits.body });
        }
        let exchange = expanded("exchange", &mapping.exchange, row)?;
        let routing_key = expanded("routing_key", &mapping.routing_key, row)?;
        let mut size = CONTENT_HEADER_BYTES;
        let properties = properties(event, position, table, &mut size)?;
        if size > limits.header_frame {
            return Err(Refusal::HeadersTooLarge { bytes: size, limit: limits.header_frame });
        }
        Ok(Self { exchange, routing_key, properties, body: event.payload.clone() })
    }

    /// The same, sent once more on purpose. Without its position: that is older than what
    /// consumers have seen, and one that drops by position would drop it.
    #[must_use]
    pub fn replayed(mut self) -> Self {
        let positions = [COMMIT_LSN_HEADER, INDEX_HEADER];
        let mut headers = FieldTable::default();
        for (name, value) in self.properties.headers().iter().flat_map(FieldTable::inner) {
            if !positions.contains(&name.as_str()) {
                headers.insert(name.clone(), value.clone());
            }
        }
        headers.insert(ShortString::from(REPLAYED_HEADER), AMQPValue::Boolean(true));
        self.properties = self.properties.with_headers(headers);
        self
    }
}

/// What a dead letter is made of, besides the message.
#[derive(Debug)]
pub struct Letter<'a> {
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
    /// What AMQP or the broker cannot take.
    pub fn dead_letter(
        message: Option<Self>,
        why: &Refusal,
        letter: Letter<'_>,
        limits: Limits,
    ) -> Result<Self, Refusal> {
        let table = format!("{}.{}", letter.table.schema, letter.table.name);
        let was = message
            .as_ref()
            .map(|message| (message.exchange.to_string(), message.routing_key.to_string()));
        let mut message = match message {
            Some(message) => message,
            None => {
                let mut properties = AMQPProperties::default().with_delivery_mode(PERSISTENT);
                if let Ok(id) = short("id", letter.id)
                    && !letter.id.is_empty()
                {
                    properties = properties.with_message_id(id);
                }
                let mut headers = FieldTable::default();
                add_position(&mut headers, letter.position)?;
                let properties = properties.with_headers(headers);
                let (exchange, routing_key) = (ShortString::default(), short("table", &*table)?);
                Self { exchange, routing_key, properties, body: letter.body }
            }
        };
        if message.body.len() > limits.body {
            return Err(Refusal::BodyTooLarge { bytes: message.body.len(), limit: limits.body });
        }
        message.exchange = short("dead_letter_exchange", letter.exchange)?;
        if let Some(routing_key) = letter.routing_key {
            message.routing_key = short("dead_letter_routing_key", routing_key)?;
        }
        let mut headers = message.properties.headers().clone().unwrap_or_default();
        let mut say = |name: &str, value: &str| -> Result<(), Refusal> {
            headers.insert(short("header name", name)?, AMQPValue::LongString(value.into()));
            Ok(())
        };
        say(REASON_HEADER, why.reason())?;
        say(ERROR_HEADER, &why.to_string())?;
        say(TABLE_HEADER, &table)?;
        if let Some((exchange, routing_key)) = was {
            say(EXCHANGE_HEADER, &exchange)?;
            say(ROUTING_KEY_HEADER, &routing_key)?;
        }
        let size = CONTENT_HEADER_BYTES + PROPERTIES_BYTES + table_size(&headers);
        if size > limits.header_frame {
            return Err(Refusal::HeadersTooLarge { bytes: size, limit: limits.header_frame });
        }
        message.properties = message.properties.with_headers(headers);
        Ok(message)
    }
}

fn expanded(
    setting: &'static str,
    pattern: &crate::relation::Pattern,
    row: Row<'_>,
) -> Result<ShortString, Refusal> {
    let mut text = String::with_capacity(NAME_BYTES);
    expand(setting, pattern, row, &mut text)?;
    short(setting, text)
}

fn properties(
    event: &Event<'_>,
    position: Position,
    table: &Table,
    size: &mut usize,
) -> Result<AMQPProperties, Refusal> {
    let mut property = |what: &str, text: &str| {
        *size += 1 + text.len();
        short(what, text.to_owned())
    };
    let content_type = event.content_type.unwrap_or(&table.content_type);
    let mut properties = AMQPProperties::default()
        .with_message_id(property("id", event.id)?)
        .with_content_type(property("content_type", content_type)?)
        .with_delivery_mode(PERSISTENT)
        .with_timestamp(event.timestamp);
    if let Some(event_type) = event.event_type {
        properties = properties.with_type(property("event_type", event_type)?);
    }
    if let Some(correlation_id) = event.correlation_id {
        properties = properties.with_correlation_id(property("correlation_id", correlation_id)?);
    }
    if let Some(app_id) = &table.app_id {
        properties = properties.with_app_id(property("app_id", app_id)?);
    }
    let (delivery_mode, timestamp) = (1, 8);
    *size += delivery_mode + timestamp;
    let headers = headers(event, position)?;
    *size += table_size(&headers);
    Ok(properties.with_headers(headers))
}

/// `From` of a long text panics in the types' crate: this is the only way in.
fn short(what: &str, text: impl Into<String>) -> Result<ShortString, Refusal> {
    let text = text.into();
    let bytes = text.len();
    ShortString::try_new(text).map_err(|_| Refusal::TooLong { what: what.to_owned(), bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_over_255_bytes_are_refused_not_a_panic() {
        assert!(short("x", "a".repeat(255)).is_ok());
        assert_eq!(
            short("routing_key", "a".repeat(256)),
            Err(Refusal::TooLong { what: "routing_key".into(), bytes: 256 })
        );
    }
}
