//! The headers that a row has: JSON in, the fields of an AMQP table out, with no tree in between.
//!
//! The parser reads numbers into 64 bits, and rounds what does not fit. So an object with a number
//! that is no small integer is read once more, with its numbers taken out of the text and each
//! put in by what stands there.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use serde_json::value::RawValue;

use super::fields::{Fields, Length, integer, kind, text};
use crate::core::event::Refusal;

/// Header names by which RabbitMQ routes copies to further queues.
const FORBIDDEN: [&str; 2] = ["CC", "BCC"];

/// Adds the headers that a row has.
///
/// # Errors
/// The JSON is not an object, or holds a name or a value that AMQP cannot hold.
pub(super) fn add_row(fields: &mut Fields<'_>, json: &str) -> Result<(), Refusal> {
    let start = fields.mark();
    let mut reading = Reading::default();
    if read(fields, json, &mut reading).is_ok() {
        return Ok(());
    }
    if let Some(refusal) = reading.refused {
        return Err(refusal);
    }
    fields.rewind(start);
    let (json, numbers) = without_numbers(json);
    let mut reading = Reading { numbers: Some(numbers), refused: None };
    match (read(fields, &json, &mut reading), reading.refused) {
        (Ok(()), None) => Ok(()),
        (_, Some(refusal)) => Err(refusal),
        (Err(error), None) => Err(Refusal::unreadable("headers", why(fields, &error))),
    }
}

fn read(
    fields: &mut Fields<'_>,
    json: &str,
    reading: &mut Reading<'_>,
) -> Result<(), serde_json::Error> {
    let mut json = serde_json::Deserializer::from_str(json);
    Row { fields, reading }.deserialize(&mut json).and_then(|()| json.end())
}

/// Adds the headers that a row has, each as a text: for consumers that read nothing else. What is not a string
/// stands there as JSON writes it; what is null is left out.
///
/// # Errors
/// The JSON is not an object, or holds a name or a value that AMQP cannot hold.
pub(super) fn add_row_as_text(fields: &mut Fields<'_>, json: &str) -> Result<(), Refusal> {
    let headers: serde_json::Result<Option<Raws<'_>>> = serde_json::from_str(json);
    let headers = headers.map_err(|error| Refusal::unreadable("headers", why(fields, &error)))?;
    for (name, value) in headers.map(|headers| headers.0).unwrap_or_default() {
        if FORBIDDEN.contains(&name.as_ref()) {
            return Err(Refusal::ForbiddenHeader { name: name.into_owned() });
        }
        match value.get() {
            "null" => {}
            string if string.starts_with('"') => {
                let string: Cow<'_, str> = serde_json::from_str(string)
                    .map_err(|error| Refusal::unreadable("headers", why(fields, &error)))?;
                fields.text(&name, string.as_bytes())?;
            }
            other => fields.text(&name, other.as_bytes())?,
        }
    }
    Ok(())
}

/// The members of an object, in their order, their values as they are written.
struct Raws<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> serde::Deserialize<'de> for Raws<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
                    members.push((name.0, value));
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Members).map(Self)
    }
}

/// A string, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Not the parser's own words: they quote the value.
fn why(fields: &Fields<'_>, error: &serde_json::Error) -> String {
    if error.is_data() {
        return "it is no JSON object".to_owned();
    }
    let what = match error.to_string().starts_with("recursion limit") {
        true => "is nested too deep",
        false => "is no JSON",
    };
    match fields.last_name() {
        Some(name) => format!("what stands in it from header \"{name}\" on {what}"),
        None => format!("what stands in it {what}"),
    }
}

/// Writes any JSON as a header's value.
///
/// # Errors
/// The text is not JSON, or holds a value that AMQP cannot hold.
pub(super) fn write_value(out: &mut Vec<u8>, json: &str) -> Result<(), Refusal> {
    let (json, numbers) = without_numbers(json);
    let mut reading = Reading { numbers: Some(numbers), refused: None };
    let mut deserializer = serde_json::Deserializer::from_str(&json);
    let read = Any { out, reading: &mut reading }
        .deserialize(&mut deserializer)
        .and_then(|()| deserializer.end());
    match (read, reading.refused) {
        (Ok(()), None) => Ok(()),
        (_, Some(refusal)) => Err(refusal),
        (Err(_), None) => Err(Refusal::unreadable("headers", "it is no JSON")),
    }
}

/// The text with each of its numbers replaced by that number's place in the list.
fn without_numbers(json: &str) -> (String, Vec<&str>) {
    let mut out = String::with_capacity(json.len());
    let mut numbers = Vec::new();
    let mut rest = json;
    while let Some(at) = rest.find(|c: char| matches!(c, '"' | '-' | '0'..='9')) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let length = if from.starts_with('"') { string_length(from) } else { number_length(from) };
        let (token, after) = from.split_at(length);
        // What is not a number is left to the parser, to be reported.
        if !token.starts_with('"') && serde_json::from_str::<IgnoredAny>(token).is_ok() {
            out.push_str(&numbers.len().to_string());
            numbers.push(token);
        } else {
            out.push_str(token);
        }
        rest = after;
    }
    out.push_str(rest);
    (out, numbers)
}

fn string_length(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            b'"' if !is_escaped => return at + 1,
            _ => is_escaped = byte == b'\\' && !is_escaped,
        }
    }
    text.len()
}

fn number_length(text: &str) -> usize {
    let is_other = |c: char| !matches!(c, '-' | '+' | '.' | 'e' | 'E' | '0'..='9');
    text.find(is_other).unwrap_or(text.len())
}

/// What is kept beside the parser while an object is read.
#[derive(Default)]
struct Reading<'a> {
    /// What AMQP cannot take: the parser's errors are text.
    refused: Option<Refusal>,
    /// The numbers, where the text has their places instead.
    numbers: Option<Vec<&'a str>>,
}

impl<'a> Reading<'a> {
    fn refuse<T, E: Error>(&mut self, taken: Result<T, Refusal>) -> Result<T, E> {
        taken.map_err(|refusal| {
            self.refused = Some(refusal);
            E::custom("")
        })
    }

    /// The number that stands at this place.
    fn number(&self, place: u64) -> Option<&'a str> {
        self.numbers.as_ref()?.get(usize::try_from(place).ok()?).copied()
    }
}

/// The row's own object, or none.
struct Row<'a, 'b, 'n> {
    fields: &'a mut Fields<'b>,
    reading: &'a mut Reading<'n>,
}

impl<'de> DeserializeSeed<'de> for Row<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Row<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        add_object(self.fields, map, self.reading, &FORBIDDEN)
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
}

fn add_object<'de, A: MapAccess<'de>>(
    fields: &mut Fields<'_>,
    mut map: A,
    reading: &mut Reading<'_>,
    forbidden: &[&str],
) -> Result<(), A::Error> {
    while map.next_key_seed(Name { fields, reading, forbidden })?.is_some() {
        map.next_value_seed(Any { out: fields.value(), reading })?;
    }
    Ok(())
}

/// The name of a field.
struct Name<'a, 'b, 'n> {
    fields: &'a mut Fields<'b>,
    reading: &'a mut Reading<'n>,
    forbidden: &'a [&'a str],
}

impl<'de> DeserializeSeed<'de> for Name<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<(), E> {
        if self.forbidden.contains(&name) {
            return self.reading.refuse(Err(Refusal::ForbiddenHeader { name: name.to_owned() }));
        }
        self.reading.refuse(self.fields.name(name).map(drop))
    }
}

/// Any value, with its type kept. A number beyond what AMQP has a type for becomes text, with all
/// its digits: a rounded number would be a wrong one.
struct Any<'a, 'n> {
    out: &'a mut Vec<u8>,
    reading: &'a mut Reading<'n>,
}

/// Writes a number with its digits.
pub(super) fn write_number(out: &mut Vec<u8>, number: &str) -> Result<(), Refusal> {
    let is_integer = !number.contains(['.', 'e', 'E']);
    if let (true, Ok(value)) = (is_integer, number.parse()) {
        integer(out, value);
        return Ok(());
    }
    match number.parse::<f64>() {
        Ok(value) if !is_integer && value.is_finite() => {
            out.push(kind::DOUBLE);
            out.extend_from_slice(&value.to_be_bytes());
            Ok(())
        }
        _ => text(out, number.as_bytes()),
    }
}

impl<'de> DeserializeSeed<'de> for Any<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any<'_, '_> {
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
        if let Some(number) = self.reading.number(value) {
            return self.reading.refuse(write_number(self.out, number));
        }
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) => self.visit_str(&value.to_string()),
        }
    }

    /// What stood there may have been rounded.
    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Err(E::custom(""))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.reading.refuse(text(self.out, value.as_bytes()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        let Self { out, reading } = self;
        out.push(kind::ARRAY);
        let length = Length::open(out);
        while values.next_element_seed(Any { out, reading })?.is_some() {}
        reading.refuse(length.close(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let Self { out, reading } = self;
        out.push(kind::TABLE);
        let mut fields = Fields::open(out);
        add_object(&mut fields, map, reading, &[])?;
        reading.refuse(fields.close_without_repeats())
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
        for json in ["{} x", "{", r#"{"a":}"#, r#"{1:2}"#] {
            let refusal = read(json).unwrap_err();
            assert!(refusal.to_string().ends_with("is no JSON"), "{json}: {refusal}");
        }
        let deep = format!(r#"{{"a":{}"#, "[".repeat(1_000));
        let refusal = read(&deep).unwrap_err();
        assert!(refusal.to_string().ends_with("header \"a\" on is nested too deep"), "{refusal}");
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
    fn numbers_come_whole() {
        let long = format!("1{}", "0".repeat(400));
        let exact = ["0.1", "-2.5e-8", "1e2", "34028236692093846346337460743176821145.6", "1e-999"];
        let digits = ["9223372036854775808", "-9223372036854775809", &long, "1e999", "-1e999"];
        let numbers = exact.iter().chain(&digits).map(ToString::to_string).collect::<Vec<_>>();
        let json = format!(
            r#"{{"text \\\" 1":"2 \" 3","one":1,"all":[{}],"o":{{"7":18446744073709551616}},"true":true,"-4":-4}}"#,
            numbers.join(" , ")
        );
        let table = read(&json).unwrap();
        let value = |name: &str| table.inner().get(name).cloned().unwrap();
        let doubles = exact.iter().map(|number| AMQPValue::Double(number.parse().unwrap()));
        let texts = digits.iter().map(|number| AMQPValue::LongString((*number).into()));
        let all: Vec<_> = doubles.chain(texts).collect();
        assert_eq!(value("all"), AMQPValue::FieldArray(all.into()));
        assert_eq!(value("text \\\" 1"), AMQPValue::LongString("2 \" 3".into()));
        assert_eq!(value("one"), AMQPValue::LongLongInt(1));
        assert_eq!(value("-4"), AMQPValue::LongLongInt(-4));
        let mut inner = FieldTable::default();
        inner.insert("7".into(), AMQPValue::LongString("18446744073709551616".into()));
        assert_eq!(value("o"), AMQPValue::FieldTable(inner));
        for json in [r#"{"good":1.5,"bad":01}"#, r#"{"bad":1.}"#, r#"{"bad":1.5e}"#, r#"{"bad":-}"#]
        {
            let refusal = read(json).unwrap_err();
            assert!(refusal.to_string().contains("header \"bad\""), "{json}: {refusal}");
        }
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
