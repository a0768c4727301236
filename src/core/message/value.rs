//! A value that a template makes, as its type is written: into a header, or into JSON.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

use super::fields::{kind, text};
use super::json;
use crate::config::ValueType;
use crate::core::event::{Refusal, unhex};

/// Writes the value of a header.
///
/// # Errors
/// The text is not of the type, or of one that AMQP cannot hold.
pub(super) fn to_header(
    out: &mut Vec<u8>,
    name: &str,
    value_type: ValueType,
    value: &str,
) -> Result<(), Refusal> {
    let wrong = |what: &str| Refusal::unreadable("headers", format!("\"{name}\" is not {what}"));
    match value_type {
        ValueType::Text => text(out, value.as_bytes()),
        ValueType::Integer => {
            let value: i64 = value.parse().map_err(|_| wrong("a whole number of 64 bits"))?;
            super::fields::integer(out, value);
            Ok(())
        }
        ValueType::Number => {
            let value = number(value).ok_or_else(|| wrong("a number"))?;
            json::write_number(out, value)
        }
        ValueType::Boolean => {
            let value = boolean(value).ok_or_else(|| wrong("true or false"))?;
            out.extend_from_slice(&[kind::BOOLEAN, u8::from(value)]);
            Ok(())
        }
        ValueType::Json => json::write_value(out, value).map_err(|refusal| match refusal {
            Refusal::Unreadable { .. } => wrong("JSON that a header can hold"),
            other => other,
        }),
        ValueType::Base64 => {
            let bytes = unhex(value.as_bytes()).ok_or_else(|| wrong("a bytea"))?;
            text(out, STANDARD.encode(bytes).as_bytes())
        }
    }
}

/// Writes a value into JSON. `name` is the member's.
///
/// # Errors
/// The text is not a value of the type.
pub(super) fn to_json(
    out: &mut Vec<u8>,
    name: &str,
    value_type: ValueType,
    value: &str,
) -> Result<(), Refusal> {
    let wrong = |what: &str| Refusal::unreadable("body", format!("\"{name}\" is not {what}"));
    match value_type {
        ValueType::Text => json_text(out, value),
        ValueType::Integer => {
            let value: i64 = value.parse().map_err(|_| wrong("a whole number of 64 bits"))?;
            out.extend_from_slice(value.to_string().as_bytes());
        }
        ValueType::Number => {
            let value = number(value).ok_or_else(|| wrong("a number"))?;
            out.extend_from_slice(value.as_bytes());
        }
        ValueType::Boolean => {
            let value = boolean(value).ok_or_else(|| wrong("true or false"))?;
            out.extend_from_slice(if value { b"true" } else { b"false" });
        }
        ValueType::Json => {
            let value = parsed(value).ok_or_else(|| wrong("JSON"))?;
            out.extend_from_slice(value.as_bytes());
        }
        ValueType::Base64 => {
            let bytes = unhex(value.as_bytes()).ok_or_else(|| wrong("a bytea"))?;
            json_text(out, &STANDARD.encode(bytes));
        }
    }
    Ok(())
}

/// The text of a CloudEvent's attribute: of a flag and of bytes, the form that CloudEvents gives them.
///
/// # Errors
/// The text is not a value of the type.
pub(super) fn attribute<'a>(
    name: &str,
    value_type: ValueType,
    value: Cow<'a, str>,
) -> Result<Cow<'a, str>, Refusal> {
    let wrong =
        |what: &str| Refusal::unreadable("cloudevents", format!("\"{name}\" is not {what}"));
    match value_type {
        ValueType::Boolean => match boolean(&value) {
            Some(true) => Ok(Cow::Borrowed("true")),
            Some(false) => Ok(Cow::Borrowed("false")),
            None => Err(wrong("true or false")),
        },
        ValueType::Base64 => {
            let bytes = unhex(value.as_bytes()).ok_or_else(|| wrong("a bytea"))?;
            Ok(Cow::Owned(STANDARD.encode(bytes)))
        }
        _ => Ok(value),
    }
}

/// Writes a text with its quotes.
pub(super) fn json_text(out: &mut Vec<u8>, text: &str) {
    // A text can be written, and memory takes it.
    let _ = serde_json::to_writer(out, text);
}

/// The JSON of a text that is some, without the spaces around it.
pub(super) fn parsed(text: &str) -> Option<&str> {
    serde_json::from_str::<&RawValue>(text).ok().map(RawValue::get)
}

/// A number that JSON has too: not Postgres' NaN or infinity.
fn number(text: &str) -> Option<&str> {
    let text = text.trim();
    let is_number = |it: &&str| it.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    parsed(text).filter(is_number)
}

/// As Postgres writes it, or JSON.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "t" | "true" | "1" => Some(true),
        "f" | "false" | "0" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use ValueType::{Base64, Boolean, Integer, Json, Number, Text};

    fn json(value_type: ValueType, value: &str) -> Result<String, String> {
        let mut out = Vec::new();
        let written = to_json(&mut out, "x", value_type, value);
        written.map(|()| String::from_utf8(out).unwrap()).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn each_type_is_written_as_json_has_it() {
        for (value_type, value, expected) in [
            (Text, "a\"\n\u{1}é", r#""a\"\n\u0001é""#),
            (Integer, "-9223372036854775808", "-9223372036854775808"),
            (Number, "12345678901234567890.50", "12345678901234567890.50"),
            (Boolean, "t", "true"),
            (Boolean, "false", "false"),
            (Json, " {\"a\": 1} ", "{\"a\": 1}"),
            (Base64, "\\x00ff", r#""AP8=""#),
        ] {
            assert_eq!(json(value_type, value), Ok(expected.to_owned()), "{value}");
        }
    }

    #[test]
    fn what_is_not_of_its_type_is_refused_and_not_repeated() {
        for (value_type, value) in [
            (Integer, "secret"),
            (Integer, "9223372036854775808"),
            (Number, "NaN"),
            (Number, "true"),
            (Number, "\"1\""),
            (Number, "Infinity"),
            (Boolean, "yes"),
            (Json, "{"),
            (Json, "{} {}"),
            (Base64, "\\x0"),
        ] {
            let error = json(value_type, value).unwrap_err();
            assert!(error.contains("\"x\" is not"), "{value}: {error}");
            assert!(!error.contains("secret"), "{error}");
            assert!(to_header(&mut Vec::new(), "x", value_type, value).is_err(), "{value}");
        }
    }
}
