//! The headers of a message: what the relay says of an event, and what the row says.

use amq_protocol::types::{AMQPValue, FieldTable, ShortString};
use postgres_types::PgLsn;

use super::body::attributes;
use super::fields::{Fields, integer};
use super::json::{add_row, add_row_as_text};
use super::sources::PropertySources;
use super::value::{attribute, to_header};
use super::{AGGREGATE_ID_HEADER, AGGREGATE_TYPE_HEADER, COMMIT_LSN_HEADER, INDEX_HEADER};
use crate::core::event::pattern::MessagePatterns;
use crate::core::event::{Position, Refusal};

/// Digits of an LSN, and its slash.
const LSN_BYTES: usize = 17;
const LSN_SLASH: usize = 8;
const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
/// The column's default, and what most rows have.
const NO_HEADERS: &str = "{}";

/// Writes the headers of an event, as a table behind its length. What the row says of a header
/// counts more than what its columns say, and less than its position.
///
/// # Errors
/// A header has a name or a value that AMQP cannot hold, or all of them are larger than the broker
/// takes.
pub(super) fn write_headers(out: &mut Vec<u8>, of: PropertySources<'_>) -> Result<(), Refusal> {
    let PropertySources { event, position, mapping, .. } = of;
    let mut fields = Fields::open(out);
    let aggregate =
        [(AGGREGATE_TYPE_HEADER, event.aggregate_type), (AGGREGATE_ID_HEADER, event.aggregate_id)];
    for (name, value) in aggregate.into_iter().chain(event.trace) {
        if let Some(value) = value {
            fields.text(name, value.as_bytes())?;
        }
    }
    let json = event.headers.filter(|json| *json != NO_HEADERS);
    if let Some(json) = json {
        match of.table.has_text_headers {
            true => add_row_as_text(&mut fields, json)?,
            false => add_row(&mut fields, json)?,
        }
    }
    let patterns = mapping.message.as_deref();
    if let Some(patterns) = patterns {
        add_configured(&mut fields, patterns, of)?;
    }
    fields.text(COMMIT_LSN_HEADER, &lsn_text(position.commit_lsn))?;
    integer(fields.name(INDEX_HEADER)?, index(position));
    match json.is_some() || patterns.is_some() {
        true => fields.close_without_repeats(),
        false => fields.close(),
    }
}

/// Adds the headers that the configuration makes: one is left out where its template yields nothing.
fn add_configured(
    fields: &mut Fields<'_>,
    patterns: &MessagePatterns,
    of: PropertySources<'_>,
) -> Result<(), Refusal> {
    for (name, value) in &patterns.headers {
        if let Some(text) = value.text("headers", of.row)? {
            to_header(fields.name(name)?, name, value.value_type, &text)?;
        }
    }
    let Some(events) = patterns.cloudevents.as_ref().filter(|events| !events.is_structured) else {
        return Ok(());
    };
    let prefixed = |name: &str| format!("{}{name}", events.prefix);
    for (name, text) in attributes(events, of)? {
        fields.text(&prefixed(name), text.as_bytes())?;
    }
    for (name, extension) in &events.extensions {
        if let Some(text) = extension.text("cloudevents", of.row)? {
            let text = attribute(name, extension.value_type, text)?;
            fields.text(&prefixed(name), text.as_bytes())?;
        }
    }
    Ok(())
}

fn index(position: Position) -> i64 {
    i64::try_from(position.index).unwrap_or(i64::MAX)
}

/// The same of the position alone, for a message that is not an event's.
pub(super) fn add_position(table: &mut FieldTable, position: Position) {
    let lsn = AMQPValue::LongString(lsn_text(position.commit_lsn).to_vec().into());
    table.insert(ShortString::from(COMMIT_LSN_HEADER), lsn);
    table.insert(ShortString::from(INDEX_HEADER), AMQPValue::LongLongInt(index(position)));
}

/// Of fixed width. Written by hand: formatting took as long as all the rest of a header.
fn lsn_text(lsn: PgLsn) -> [u8; LSN_BYTES] {
    let lsn = u64::from(lsn);
    let mut text = [b'/'; LSN_BYTES];
    let digits = text.iter_mut().enumerate().filter(|(at, _)| *at != LSN_SLASH).map(|(_, it)| it);
    for (place, shift) in digits.zip((0..16_u32).rev()) {
        let value = usize::try_from(lsn >> (4 * shift) & 0xF).unwrap_or(0);
        *place = *DIGITS.get(value).unwrap_or(&b'0');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use amq_protocol::types::parsing::parse_field_table;
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::Value;

    use crate::core::event::pgoutput::{Column, Tuple};
    use crate::core::event::relation::Mapping;
    use crate::core::event::{Event, Row};
    use crate::core::message::tests::table_of;

    #[test]
    fn an_lsn_has_a_fixed_width() {
        for lsn in [0, 0x16_B374_D848, u64::MAX] {
            let (high, low) = (lsn >> 32, lsn & 0xFFFF_FFFF);
            assert_eq!(lsn_text(PgLsn::from(lsn)), format!("{high:08X}/{low:08X}").as_bytes());
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,40}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 30, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map(".{0,20}", inner, 0..6)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    fn amqp(json: Value) -> AMQPValue {
        match json {
            Value::Null => AMQPValue::Void,
            Value::Bool(it) => AMQPValue::Boolean(it),
            Value::Number(it) => match (it.as_i64(), it.as_u64()) {
                (Some(it), _) => AMQPValue::LongLongInt(it),
                (None, Some(it)) => AMQPValue::LongString(it.to_string().into()),
                (None, None) => AMQPValue::Double(it.as_f64().unwrap()),
            },
            Value::String(it) => AMQPValue::LongString(it.into()),
            Value::Array(it) => {
                AMQPValue::FieldArray(it.into_iter().map(amqp).collect::<Vec<_>>().into())
            }
            Value::Object(it) => {
                let mut table = FieldTable::default();
                for (name, value) in it {
                    table.insert(name.into(), amqp(value));
                }
                AMQPValue::FieldTable(table)
            }
        }
    }

    fn name() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z]{1,20}",
            prop::sample::select(vec![
                AGGREGATE_TYPE_HEADER,
                AGGREGATE_ID_HEADER,
                COMMIT_LSN_HEADER,
                INDEX_HEADER,
                "traceparent",
            ])
            .prop_map(str::to_owned),
        ]
    }

    proptest! {
        #[test]
        fn the_librarys_reader_finds_what_was_written(
            headers in prop::collection::hash_map(name(), json(), 0..8),
            aggregate in prop::option::of(".{0,20}"),
            trace in prop::option::of("[0-9a-f]{2}"),
            at in (any::<u64>(), any::<u64>()),
        ) {
            let headers: BTreeMap<String, Value> = headers.into_iter().collect();
            let object = serde_json::to_string(&headers).unwrap();
            let event = Event {
                id: "a",
                message_id: "a",
                aggregate_type: aggregate.as_deref(),
                aggregate_id: aggregate.as_deref(),
                event_type: None,
                correlation_id: None,
                content_type: None,
                trace: [("traceparent", trace.as_deref()), ("tracestate", None)],
                headers: Some(&object),
                payload: Bytes::new(),
                micros: 0,
                moment: None,
            };
            let position = Position { commit_lsn: at.0.into(), index: at.1 };
            // One after the other: what comes later counts.
            let mut expected = FieldTable::default();
            for (name, value) in [
                (AGGREGATE_TYPE_HEADER, &aggregate),
                (AGGREGATE_ID_HEADER, &aggregate),
                ("traceparent", &trace),
            ] {
                if let Some(value) = value {
                    expected.insert(name.into(), AMQPValue::LongString(value.as_str().into()));
                }
            }
            for (name, value) in headers {
                expected.insert(name.into(), amqp(value));
            }
            add_position(&mut expected, position);
            let mut out = b"before".to_vec();
            let table = table_of("");
            let columns = ["id", "payload"].map(|name| Column { name: name.to_owned(), type_oid: 25 });
            let mapping = Mapping::compile(0, &table, &columns, false).unwrap();
            let tuple = Tuple::of_texts([None, None].into_iter()).unwrap();
            let row = Row { tuple: &tuple, cells: &[] };
            let of = PropertySources { event: &event, row, position, mapping: &mapping, table: &table };
            write_headers(&mut out, of).unwrap();
            let (rest, read) = parse_field_table(&out[6..]).unwrap();
            prop_assert!(rest.is_empty());
            prop_assert_eq!(read, expected);
        }
    }
}
