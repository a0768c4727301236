//! The headers of a message: what the relay says of an event, and what the row says.

use std::fmt;

use amq_protocol::types::generation::gen_value;
use amq_protocol::types::{AMQPValue, FieldTable, ShortString};
use postgres_types::PgLsn;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{AGGREGATE_ID_HEADER, AGGREGATE_TYPE_HEADER, COMMIT_LSN_HEADER, INDEX_HEADER, short};
use crate::event::{Event, Position, Refusal};

/// Header names by which RabbitMQ routes copies to further queues.
const FORBIDDEN: [&str; 2] = ["CC", "BCC"];
/// Digits of an LSN, and its slash.
const LSN_BYTES: usize = 17;
const LSN_SLASH: usize = 8;
const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
/// What a refusal calls it.
const NAME: &str = "header name";
/// A table's length.
const LENGTH_BYTES: usize = 4;
/// Types of values, as RabbitMQ knows them.
const LONG_STRING: u8 = b'S';
const LONG_LONG_INT: u8 = b'l';

/// Writes the headers of an event, as a table behind its length. What the row says of a header
/// counts more than what its columns say, and less than its position.
///
/// # Errors
/// What AMQP or the broker cannot take.
pub(super) fn write_headers(
    out: &mut Vec<u8>,
    event: &Event<'_>,
    position: Position,
) -> Result<(), Refusal> {
    let mut rows = FieldTable::default();
    if let Some(json) = event.headers {
        add_row(&mut rows, json)?;
    }
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    let aggregate =
        [(AGGREGATE_TYPE_HEADER, event.aggregate_type), (AGGREGATE_ID_HEADER, event.aggregate_id)];
    for (name, value) in aggregate.into_iter().chain(event.trace) {
        if let Some(value) = value
            && !rows.contains_key(name)
        {
            text(out, name, value.as_bytes())?;
        }
    }
    for (name, value) in rows.inner() {
        if ![COMMIT_LSN_HEADER, INDEX_HEADER].contains(&name.as_str()) {
            short(out, NAME, name.as_str())?;
            let written = gen_value(value)(std::mem::take(out).into());
            let unwritable = |_| Refusal::unreadable("headers", "AMQP has no form for a value");
            *out = written.map_err(unwritable)?.into_inner().0;
        }
    }
    text(out, COMMIT_LSN_HEADER, &lsn_text(position.commit_lsn))?;
    short(out, NAME, INDEX_HEADER)?;
    out.push(LONG_LONG_INT);
    out.extend_from_slice(&index(position).to_be_bytes());
    let bytes = out.len() - start - LENGTH_BYTES;
    let too_large = |_| Refusal::HeadersTooLarge { bytes, limit: u32::MAX as usize };
    let length = u32::try_from(bytes).map_err(too_large)?;
    if let Some(place) = out.get_mut(start..start + LENGTH_BYTES) {
        place.copy_from_slice(&length.to_be_bytes());
    }
    Ok(())
}

/// Writes a header whose value is a long string.
fn text(out: &mut Vec<u8>, name: &str, value: &[u8]) -> Result<(), Refusal> {
    short(out, NAME, name)?;
    out.push(LONG_STRING);
    let too_long = |_| Refusal::TooLong { what: name.to_owned(), bytes: value.len() };
    let length = u32::try_from(value.len()).map_err(too_long)?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value);
    Ok(())
}

fn index(position: Position) -> i64 {
    i64::try_from(position.index).unwrap_or(i64::MAX)
}

/// The same of the position alone, for a message that is no event's.
pub(super) fn add_position(table: &mut FieldTable, position: Position) -> Result<(), Refusal> {
    let lsn = AMQPValue::LongString(lsn_text(position.commit_lsn).to_vec().into());
    table.insert(name_of(COMMIT_LSN_HEADER)?, lsn);
    table.insert(name_of(INDEX_HEADER)?, AMQPValue::LongLongInt(index(position)));
    Ok(())
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

/// `From` of a long text panics in the types' crate: this is the only way in.
fn name_of(name: impl Into<String>) -> Result<ShortString, Refusal> {
    let name = name.into();
    let bytes = name.len();
    ShortString::try_new(name).map_err(|_| Refusal::TooLong { what: NAME.to_owned(), bytes })
}

/// Adds the headers that a row has, JSON: straight from its text, with no tree in between.
fn add_row(table: &mut FieldTable, json: &str) -> Result<(), Refusal> {
    // The column's default, and most rows.
    if json == "{}" {
        return Ok(());
    }
    let mut refused = None;
    let mut json = serde_json::Deserializer::from_str(json);
    let read = Fields { table, refused: &mut refused, is_top: true }
        .deserialize(&mut json)
        .and_then(|()| json.end());
    match (refused, read) {
        (Some(refusal), _) => Err(refusal),
        (None, Ok(())) => Ok(()),
        // Not the parser's own words: they quote the value.
        (None, Err(error)) => Err(Refusal::unreadable(
            "headers",
            format!("column {} of it is no JSON, or a number out of range", error.column()),
        )),
    }
}

/// Reads an object into a table. What AMQP cannot take is told in `refused`: the parser's errors
/// are text.
struct Fields<'a> {
    table: &'a mut FieldTable,
    refused: &'a mut Option<Refusal>,
    /// It is the row's own: no other value will do, but for none.
    is_top: bool,
}

impl Fields<'_> {
    fn refuse<E: Error>(self, refusal: Refusal) -> E {
        *self.refused = Some(refusal);
        E::custom("")
    }

    fn no_object<T, E: Error>(self) -> Result<T, E> {
        Err(self.refuse(Refusal::unreadable("headers", "it is no JSON object")))
    }
}

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            if self.is_top && FORBIDDEN.contains(&name.as_str()) {
                return Err(self.refuse(Refusal::ForbiddenHeader { name }));
            }
            let name = match name_of(name) {
                Ok(name) => name,
                Err(refusal) => return Err(self.refuse(refusal)),
            };
            let value = map.next_value_seed(Any { refused: self.refused })?;
            self.table.insert(name, value);
        }
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.no_object()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.no_object()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.no_object()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.no_object()
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.no_object()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        self.no_object()
    }
}

/// Reads a value with its type kept. An integer over 64 signed bits becomes text: AMQP has no
/// type for it, and a rounded number would be a wrong one.
struct Any<'a> {
    refused: &'a mut Option<Refusal>,
}

impl<'de> DeserializeSeed<'de> for Any<'_> {
    type Value = AMQPValue;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<AMQPValue, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any<'_> {
    type Value = AMQPValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<AMQPValue, E> {
        Ok(AMQPValue::Void)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<AMQPValue, E> {
        Ok(AMQPValue::Boolean(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<AMQPValue, E> {
        Ok(AMQPValue::LongLongInt(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<AMQPValue, E> {
        Ok(i64::try_from(value).map_or_else(
            |_| AMQPValue::LongString(value.to_string().into()),
            AMQPValue::LongLongInt,
        ))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<AMQPValue, E> {
        Ok(AMQPValue::Double(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<AMQPValue, E> {
        Ok(AMQPValue::LongString(value.into()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<AMQPValue, E> {
        Ok(AMQPValue::LongString(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<AMQPValue, A::Error> {
        let mut read = Vec::new();
        while let Some(value) = values.next_element_seed(Any { refused: self.refused })? {
            read.push(value);
        }
        Ok(AMQPValue::FieldArray(read.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<AMQPValue, A::Error> {
        let mut table = FieldTable::default();
        Fields { table: &mut table, refused: self.refused, is_top: false }.visit_map(map)?;
        Ok(AMQPValue::FieldTable(table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use amq_protocol::types::parsing::parse_field_table;
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::Value;

    #[test]
    fn an_lsn_has_a_fixed_width() {
        for lsn in [0, 0x16_B374_D848, u64::MAX] {
            let (high, low) = (lsn >> 32, lsn & 0xFFFF_FFFF);
            assert_eq!(lsn_text(PgLsn::from(lsn)), format!("{high:08X}/{low:08X}").as_bytes());
        }
    }

    #[test]
    fn only_an_object_or_none_will_do() {
        for json in ["null", " {} "] {
            let mut table = FieldTable::default();
            add_row(&mut table, json).unwrap();
            assert!(table.inner().is_empty(), "{json}");
        }
        for json in ["[1]", "1", "-1", "1.5", "true", r#""text""#] {
            let refusal = add_row(&mut FieldTable::default(), json).unwrap_err();
            assert!(refusal.to_string().contains("no JSON object"), "{json}: {refusal}");
        }
        for json in ["{} x", "{", r#"{"a":}"#] {
            let refusal = add_row(&mut FieldTable::default(), json).unwrap_err();
            assert!(refusal.to_string().contains("is no JSON"), "{json}: {refusal}");
        }
    }

    #[test]
    fn a_long_name_is_refused_wherever_it_stands() {
        let long = "n".repeat(256);
        for json in [format!(r#"{{"{long}":1}}"#), format!(r#"{{"a":[{{"{long}":1}}]}}"#)] {
            let refusal = add_row(&mut FieldTable::default(), &json).unwrap_err();
            assert!(matches!(refusal, Refusal::TooLong { bytes: 256, .. }), "{refusal}");
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
            let object = Value::Object(headers.into_iter().collect()).to_string();
            let event = Event {
                table: 0,
                id: "a",
                aggregate_type: aggregate.as_deref(),
                aggregate_id: aggregate.as_deref(),
                event_type: None,
                correlation_id: None,
                content_type: None,
                trace: [("traceparent", trace.as_deref()), ("tracestate", None)],
                headers: Some(&object),
                payload: Bytes::new(),
                timestamp: 0,
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
            add_row(&mut expected, &object).unwrap();
            add_position(&mut expected, position).unwrap();
            let mut out = b"before".to_vec();
            write_headers(&mut out, &event, position).unwrap();
            let (rest, read) = parse_field_table(&out[6..]).unwrap();
            prop_assert!(rest.is_empty());
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn no_headers_are_too_wild_to_be_refused_or_taken(text in ".{0,200}") {
            let _ = add_row(&mut FieldTable::default(), &text);
        }
    }

    #[test]
    fn header_types_are_kept() {
        let mut table = FieldTable::default();
        let json = r#"{"s":"x","i":-3,"f":1.5,"b":true,"n":null,"a":[1],"o":{"k":"v"},"big":18446744073709551615}"#;
        add_row(&mut table, json).unwrap();
        let value = |name: &str| table.inner().get(name).cloned().unwrap();
        assert_eq!(value("s"), AMQPValue::LongString("x".into()));
        assert_eq!(value("i"), AMQPValue::LongLongInt(-3));
        assert_eq!(value("f"), AMQPValue::Double(1.5));
        assert_eq!(value("b"), AMQPValue::Boolean(true));
        assert_eq!(value("n"), AMQPValue::Void);
        assert_eq!(value("a"), AMQPValue::FieldArray(vec![AMQPValue::LongLongInt(1)].into()));
        assert!(matches!(value("o"), AMQPValue::FieldTable(_)));
        assert_eq!(value("big"), AMQPValue::LongString("18446744073709551615".into()));
    }

    #[test]
    fn headers_that_route_copies_are_refused() {
        for json in [r#"{"CC":["a"]}"#, r#"{"BCC":["a"]}"#] {
            let refusal = add_row(&mut FieldTable::default(), json).unwrap_err();
            assert!(matches!(refusal, Refusal::ForbiddenHeader { .. }), "{refusal}");
        }
    }

    #[test]
    fn a_refusal_does_not_quote_the_headers() {
        let refusal = add_row(&mut FieldTable::default(), r#"{"token":"hunter2"#).unwrap_err();
        assert!(!refusal.to_string().contains("hunter2"), "{refusal}");
    }
}
