//! A message as people and programs read it.

use amq_protocol::types::{AMQPValue, FieldTable, ShortString};
use serde_json::{Map, Value, json};

use crate::core::event::stored;
use crate::core::message::Message;

/// Its properties that are set, but for the headers.
pub(crate) fn properties(message: &Message) -> Vec<(&'static str, Value)> {
    let of = message.properties();
    let short = |value: &Option<ShortString>| value.as_ref().map(|value| json!(value.as_str()));
    let all = [
        ("message_id", short(of.message_id())),
        ("type", short(of.kind())),
        ("timestamp", of.timestamp().map(Value::from)),
        ("content_type", short(of.content_type())),
        ("correlation_id", short(of.correlation_id())),
        ("app_id", short(of.app_id())),
        ("delivery_mode", of.delivery_mode().map(Value::from)),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// Its headers.
pub(crate) fn headers(message: &Message) -> Map<String, Value> {
    match object(&stored::headers(message)) {
        Value::Object(headers) => headers,
        _ => Map::new(),
    }
}

/// Its body: as it is where it is text, else in hexadecimal digits.
pub(crate) fn body(message: &Message) -> String {
    match std::str::from_utf8(&message.body) {
        Ok(text) => text.to_owned(),
        Err(_) => message.body.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// All of it but its body.
pub(crate) fn json(message: &Message) -> Map<String, Value> {
    let mut all: Map<String, Value> =
        properties(message).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    all.insert("headers".to_owned(), Value::Object(headers(message)));
    let shown = json!({
        "exchange": message.exchange(),
        "routing_key": message.routing_key(),
        "properties": all,
    });
    match shown {
        Value::Object(shown) => shown,
        _ => Map::new(),
    }
}

/// A header's value as JSON.
fn plain(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(value) => json!(value),
        AMQPValue::LongLongInt(value) => json!(value),
        AMQPValue::Double(value) => json!(value),
        AMQPValue::LongString(text) => json!(String::from_utf8_lossy(text.as_bytes())),
        AMQPValue::FieldArray(values) => values.as_slice().iter().map(plain).collect(),
        AMQPValue::FieldTable(table) => object(table),
        _ => Value::Null,
    }
}

fn object(table: &FieldTable) -> Value {
    let fields = table.inner().iter();
    Value::Object(fields.map(|(name, value)| (name.to_string(), plain(value))).collect())
}
