//! The headers that a row has: JSON in, the fields of an AMQP table out, with no tree in between.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::fields::{Fields, Length, integer, kind, text};
use crate::event::Refusal;

/// Header names by which RabbitMQ routes copies to further queues.
const FORBIDDEN: [&str; 2] = ["CC", "BCC"];

/// Adds the headers that a row has.
///
/// # Errors
/// What is no object, or what AMQP cannot take.
pub(super) fn add_row(fields: &mut Fields<'_>, json: &str) -> Result<(), Refusal> {
    let mut refused = None;
    let mut json = serde_json::Deserializer::from_str(json);
    let read =
        Row { fields, refused: &mut refused }.deserialize(&mut json).and_then(|()| json.end());
    match (refused, read) {
        (Some(refusal), _) => Err(refusal),
        (None, Ok(())) => Ok(()),
        (None, Err(error)) if error.is_data() => {
            Err(Refusal::unreadable("headers", "it is no JSON object"))
        }
        // Not the parser's own words: they quote the value.
        (None, Err(error)) => Err(Refusal::unreadable(
            "headers",
            format!("column {} of it is no JSON, or a number out of range", error.column()),
        )),
    }
}

/// What AMQP cannot take, told beside the parser: its errors are text.
type Refused<'a> = &'a mut Option<Refusal>;

fn refuse<T, E: Error>(refused: Refused<'_>, taken: Result<T, Refusal>) -> Result<T, E> {
    taken.map_err(|refusal| {
        *refused = Some(refusal);
        E::custom("")
    })
}

/// The row's own object, or none.
struct Row<'a, 'b> {
    fields: &'a mut Fields<'b>,
    refused: Refused<'a>,
}

impl<'de> DeserializeSeed<'de> for Row<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Row<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        add_object(self.fields, map, self.refused, &FORBIDDEN)
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
}

fn add_object<'de, A: MapAccess<'de>>(
    fields: &mut Fields<'_>,
    mut map: A,
    refused: Refused<'_>,
    forbidden: &[&str],
) -> Result<(), A::Error> {
    while map.next_key_seed(Name { fields, refused, forbidden })?.is_some() {
        map.next_value_seed(Any { out: fields.value(), refused })?;
    }
    Ok(())
}

/// The name of a field.
struct Name<'a, 'b> {
    fields: &'a mut Fields<'b>,
    refused: Refused<'a>,
    forbidden: &'a [&'a str],
}

impl<'de> DeserializeSeed<'de> for Name<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<(), E> {
        if self.forbidden.contains(&name) {
            return refuse(self.refused, Err(Refusal::ForbiddenHeader { name: name.to_owned() }));
        }
        refuse(self.refused, self.fields.name(name).map(drop))
    }
}

/// Any value, with its type kept. An integer over 64 signed bits becomes text: AMQP has no type
/// for it, and a rounded number would be a wrong one.
struct Any<'a> {
    out: &'a mut Vec<u8>,
    refused: Refused<'a>,
}

impl<'de> DeserializeSeed<'de> for Any<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.out.push(kind::VOID);
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.out.extend_from_slice(&[kind::BOOLEAN, u8::from(value)]);
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        integer(self.out, value);
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) => self.visit_str(&value.to_string()),
        }
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.out.push(kind::DOUBLE);
        self.out.extend_from_slice(&value.to_be_bytes());
        Ok(())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        refuse(self.refused, text(self.out, value.as_bytes()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        let Self { out, refused } = self;
        out.push(kind::ARRAY);
        let length = Length::open(out);
        while values.next_element_seed(Any { out, refused })?.is_some() {}
        refuse(refused, length.close(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let Self { out, refused } = self;
        out.push(kind::TABLE);
        let mut fields = Fields::open(out);
        add_object(&mut fields, map, refused, &[])?;
        refuse(refused, fields.close_without_repeats())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use amq_protocol::types::parsing::parse_field_table;
    use amq_protocol::types::{AMQPValue, FieldTable};
    use proptest::prelude::*;

    fn read(json: &str) -> Result<FieldTable, Refusal> {
        let mut out = Vec::new();
        let mut fields = Fields::open(&mut out);
        add_row(&mut fields, json)?;
        fields.close_without_repeats()?;
        let (rest, table) = parse_field_table(&out[..]).unwrap();
        assert!(rest.is_empty(), "{json}");
        Ok(table)
    }

    #[test]
    fn only_an_object_or_none_will_do() {
        for json in ["null", " {} "] {
            assert!(read(json).unwrap().inner().is_empty(), "{json}");
        }
        for json in ["[1]", "1", "-1", "1.5", "true", r#""text""#] {
            let refusal = read(json).unwrap_err();
            assert!(refusal.to_string().contains("no JSON object"), "{json}: {refusal}");
        }
        for json in ["{} x", "{", r#"{"a":}"#, r#"{"a":1e999}"#, r#"{1:2}"#] {
            let refusal = read(json).unwrap_err();
            assert!(refusal.to_string().contains("is no JSON, or"), "{json}: {refusal}");
        }
        let deep = format!(r#"{{"a":{}"#, "[".repeat(1_000));
        let refusal = read(&deep).unwrap_err();
        assert!(refusal.to_string().contains("is no JSON, or"), "{refusal}");
    }

    #[test]
    fn a_long_name_is_refused_wherever_it_stands() {
        let long = "n".repeat(256);
        for json in [format!(r#"{{"{long}":1}}"#), format!(r#"{{"a":[{{"{long}":1}}]}}"#)] {
            let refusal = read(&json).unwrap_err();
            assert!(matches!(refusal, Refusal::TooLong { bytes: 256, .. }), "{refusal}");
        }
    }

    #[test]
    fn of_one_name_twice_the_last_counts() {
        let json = r#"{"a":1,"b":{"c":[1],"c":2},"a":"last"}"#;
        let table = read(json).unwrap();
        let names: Vec<_> = table.inner().keys().map(ToString::to_string).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(table.inner().get("a"), Some(&AMQPValue::LongString("last".into())));
        let Some(AMQPValue::FieldTable(inner)) = table.inner().get("b") else {
            panic!("{table:?}");
        };
        assert_eq!(inner.inner().get("c"), Some(&AMQPValue::LongLongInt(2)));
    }

    #[test]
    fn header_types_are_kept() {
        let json = r#"{"s":"x\n\u00e4","i":-3,"f":1.5,"b":true,"n":null,"a":[1],"o":{"k":"v"},"big":18446744073709551615,"\u0061a":7}"#;
        let table = read(json).unwrap();
        let value = |name: &str| table.inner().get(name).cloned().unwrap();
        assert_eq!(value("s"), AMQPValue::LongString("x\nä".into()));
        assert_eq!(value("i"), AMQPValue::LongLongInt(-3));
        assert_eq!(value("f"), AMQPValue::Double(1.5));
        assert_eq!(value("b"), AMQPValue::Boolean(true));
        assert_eq!(value("n"), AMQPValue::Void);
        assert_eq!(value("a"), AMQPValue::FieldArray(vec![AMQPValue::LongLongInt(1)].into()));
        let mut inner = FieldTable::default();
        inner.insert("k".into(), AMQPValue::LongString("v".into()));
        assert_eq!(value("o"), AMQPValue::FieldTable(inner));
        assert_eq!(value("big"), AMQPValue::LongString("18446744073709551615".into()));
        assert_eq!(value("aa"), AMQPValue::LongLongInt(7));
    }

    #[test]
    fn headers_that_route_copies_are_refused() {
        for json in [r#"{"CC":["a"]}"#, r#"{"BCC":["a"]}"#] {
            let refusal = read(json).unwrap_err();
            assert!(matches!(refusal, Refusal::ForbiddenHeader { .. }), "{refusal}");
        }
        assert!(read(r#"{"a":{"CC":["a"]}}"#).is_ok());
    }

    #[test]
    fn a_refusal_does_not_quote_the_headers() {
        for json in [r#"{"token":"hunter2"#, r#""hunter2""#] {
            let refusal = read(json).unwrap_err();
            assert!(!refusal.to_string().contains("hunter2"), "{refusal}");
        }
    }

    proptest! {
        #[test]
        fn no_headers_are_too_wild_to_be_refused_or_taken(text in ".{0,200}") {
            let _ = read(&text);
        }
    }
}
