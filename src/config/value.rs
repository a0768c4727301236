//! One setting's value: from what was written to its type.

use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;

use super::amqp_url::AmqpUrl;
use super::kind::{EXCHANGE_TYPES, FLAGS, ValueKind, size, span};
use super::message::Field;
use super::postgres_url::PostgresUrl;
use super::raw::{Raw, Wrong, quote};
use super::ssl_mode::ssl_mode;
use super::{Template, TlsMode};

/// A value of the type that its setting asks for.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Text(String),
    Number(u64),
    Flag(bool),
    Span(Duration),
    List(Vec<String>),
    SslMode(TlsMode),
    Template(Template),
    Field(Field),
    PostgresUrl(Box<PostgresUrl>),
    AmqpUrl(Vec<AmqpUrl>),
}

/// Reads a value.
///
/// # Errors
/// The value has the wrong type or form, or is out of bounds. The text never repeats a secret.
pub(crate) fn parse(kind: ValueKind, raw: &Raw) -> Result<Value, Wrong> {
    match kind {
        ValueKind::Count { min, max } => count(raw, min, max),
        ValueKind::List => list(raw),
        ValueKind::AmqpUrl => super::amqp_url::parse_all(raw).map(Value::AmqpUrl),
        ValueKind::Field => field(raw),
        ValueKind::Constant | ValueKind::Argument => constant(kind, raw),
        _ => match raw {
            Raw::Text(text) | Raw::Untyped(text) => parse_text(kind, text),
            Raw::Flag(flag) if kind == ValueKind::Flag => Ok(Value::Flag(*flag)),
            Raw::Flag(_) => Err(wrong_type(kind, "true or false")),
            Raw::Integer(number) => Err(bare_number(kind, *number)),
            Raw::List(_) => Err(wrong_type(kind, "a list")),
            Raw::Other(name) => Err(wrong_type(kind, name)),
        },
    }
}

fn parse_text(kind: ValueKind, text: &str) -> Result<Value, Wrong> {
    match kind {
        ValueKind::Text(max) => sized(kind, text, 1, max),
        ValueKind::Name => sized(kind, text, 1, 63),
        ValueKind::Column => sized(kind, text, 0, 63),
        ValueKind::File => sized(kind, text, 1, 4096),
        ValueKind::SlotName => slot_name(text),
        ValueKind::Secret if text.contains('\0') => Err(Wrong::new("holds a NUL character", "")),
        ValueKind::Secret => Ok(Value::Text(text.to_owned())),
        ValueKind::Size { min, max } => bytes(text, min, max),
        ValueKind::Span { min, max } => duration(text, min, max),
        ValueKind::Seconds { min, max } => match duration(text, min, max)? {
            Value::Span(span) if span.subsec_nanos() != 0 => Err(Wrong::new(
                format!("{} is not a whole number of seconds", quote(text)),
                "AMQP counts heartbeats in seconds: write `10s`",
            )),
            value => Ok(value),
        },
        ValueKind::Choice(choices) => choice(text, choices),
        ValueKind::Flag => choice(text, &FLAGS).map(|_| Value::Flag(text == "true")),
        ValueKind::ExchangeType if text.starts_with("x-") => sized(kind, text, 3, 255),
        ValueKind::ExchangeType => choice(text, &EXCHANGE_TYPES),
        ValueKind::SslMode => ssl_mode(text).map(Value::SslMode),
        ValueKind::LogFilter => log_filter(text),
        ValueKind::Listen => listen(text),
        ValueKind::HttpUrl => super::http_url::http_url(text).map(Value::Text),
        ValueKind::Template => template(text).map(Value::Template),
        ValueKind::PostgresUrl => PostgresUrl::parse(text).map(Box::new).map(Value::PostgresUrl),
        // These take more than a text: see `parse`.
        ValueKind::Count { .. }
        | ValueKind::List
        | ValueKind::AmqpUrl
        | ValueKind::Field
        | ValueKind::Constant
        | ValueKind::Argument => Err(wrong_type(kind, "a text")),
    }
}

fn template(text: &str) -> Result<Template, Wrong> {
    Template::parse(text).map_err(|what| {
        let what = format!("{} is not a template: {what}", quote(text));
        Wrong::new(what, "write it like `{topic} | {aggregate_type}.{event_type}`")
    })
}

fn field(raw: &Raw) -> Result<Value, Wrong> {
    let field = match raw {
        Raw::Text(text) | Raw::Untyped(text) => Field::of(template(text)?),
        Raw::Integer(number) => Field::integer(*number),
        Raw::Flag(flag) => Field::boolean(*flag),
        Raw::List(_) => return Err(wrong_type(ValueKind::Field, "a list")),
        Raw::Other(name) => return Err(wrong_type(ValueKind::Field, name)),
    };
    Ok(Value::Field(field))
}

fn constant(kind: ValueKind, raw: &Raw) -> Result<Value, Wrong> {
    let least = if kind == ValueKind::Argument { 0 } else { 1 };
    let text = match raw {
        Raw::Text(text) | Raw::Untyped(text) => return sized(kind, text, least, 255),
        Raw::Integer(number) => number.to_string(),
        Raw::Flag(flag) => flag.to_string(),
        Raw::List(_) => return Err(wrong_type(kind, "a list")),
        Raw::Other(name) => return Err(wrong_type(kind, name)),
    };
    Ok(Value::Text(text))
}

fn wrong_type(kind: ValueKind, found: &str) -> Wrong {
    let wanted = match kind {
        ValueKind::Count { .. } => "a whole number",
        ValueKind::Size { .. } => "a size such as \"32MiB\"",
        ValueKind::Span { .. } | ValueKind::Seconds { .. } => "a duration such as \"30s\"",
        ValueKind::List => "a list of texts",
        ValueKind::Flag => "true or false",
        ValueKind::Constant | ValueKind::Argument => {
            "a text in quotes, a whole number, true or false"
        }
        ValueKind::Field => "a template in quotes, a whole number, true or false",
        _ => "a text in quotes",
    };
    Wrong::new(format!("is {found}"), format!("write {wanted}"))
}

fn bare_number(kind: ValueKind, number: i64) -> Wrong {
    let examples = match kind {
        ValueKind::Size { .. } => ["KiB", "MiB"],
        ValueKind::Span { .. } | ValueKind::Seconds { .. } => ["ms", "s"],
        _ => return wrong_type(kind, "a number"),
    };
    let [small, large] = examples;
    Wrong::new(
        format!("{number} has no unit"),
        format!("write \"{number}{small}\" or \"{number}{large}\""),
    )
}

fn out_of_bounds(text: &str, kind: ValueKind) -> Wrong {
    Wrong::new(format!("{} is out of bounds", quote(text)), format!("choose {}", kind.bounds()))
}

fn sized(kind: ValueKind, text: &str, min: usize, max: usize) -> Result<Value, Wrong> {
    if text.len() < min {
        return Err(Wrong::new("is empty", format!("give {}", kind.bounds())));
    }
    if text.len() > max {
        return Err(Wrong::new(
            format!("{} has {} bytes", quote(text), text.len()),
            format!("give at most {max}"),
        ));
    }
    match text.chars().any(char::is_control) {
        true => {
            Err(Wrong::new(format!("{} holds a control character", quote(text)), "take it out"))
        }
        false => Ok(Value::Text(text.to_owned())),
    }
}

fn slot_name(text: &str) -> Result<Value, Wrong> {
    let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    match (1..=63).contains(&text.len()) && text.bytes().all(is_allowed) {
        true => Ok(Value::Text(text.to_owned())),
        false => Err(Wrong::new(
            format!("{} cannot be a slot's name", quote(text)),
            "Postgres allows 1 to 63 of a-z, 0-9 and _",
        )),
    }
}

fn choice(text: &str, choices: &[&str]) -> Result<Value, Wrong> {
    match choices.contains(&text) {
        true => Ok(Value::Text(text.to_owned())),
        false => Err(Wrong::new(
            format!("{} is not one of its words", quote(text)),
            format!("choose {}", choices.join(", ")),
        )),
    }
}

fn count(raw: &Raw, min: u64, max: u64) -> Result<Value, Wrong> {
    let kind = ValueKind::Count { min, max };
    let (text, number) = match raw {
        Raw::Integer(number) => (number.to_string(), u64::try_from(*number).ok()),
        Raw::Untyped(text) => match text.trim().parse::<i128>() {
            Ok(number) => (text.clone(), u64::try_from(number).ok()),
            Err(_) => {
                let what = format!("{} is not a whole number", quote(text));
                return Err(Wrong::new(what, format!("choose {}", kind.bounds())));
            }
        },
        Raw::Text(_) => return Err(wrong_type(kind, "a text")),
        Raw::Flag(_) => return Err(wrong_type(kind, "true or false")),
        Raw::List(_) => return Err(wrong_type(kind, "a list")),
        Raw::Other(name) => return Err(wrong_type(kind, name)),
    };
    match number {
        Some(number) if (min..=max).contains(&number) => Ok(Value::Number(number)),
        _ => Err(out_of_bounds(&text, kind)),
    }
}

fn bytes(text: &str, min: u64, max: u64) -> Result<Value, Wrong> {
    let kind = ValueKind::Size { min, max };
    // A bare number would pass for bytes: where a unit is usual it is likelier a slip.
    if let Ok(number) = text.trim().parse::<i64>() {
        return Err(bare_number(kind, number));
    }
    match text.trim().parse::<ByteSize>() {
        Ok(ByteSize(bytes)) if (min..=max).contains(&bytes) => Ok(Value::Number(bytes)),
        Ok(_) => Err(out_of_bounds(text, kind)),
        Err(_) => Err(Wrong::new(
            format!("{} is not a size", quote(text)),
            format!("write it like {}", size(min.max(1 << 20))),
        )),
    }
}

fn duration(text: &str, min: Duration, max: Duration) -> Result<Value, Wrong> {
    let kind = ValueKind::Span { min, max };
    if let Ok(number) = text.trim().parse::<i64>() {
        return Err(bare_number(kind, number));
    }
    match humantime::parse_duration(text.trim()) {
        Ok(duration) if (min..=max).contains(&duration) => Ok(Value::Span(duration)),
        Ok(_) => Err(out_of_bounds(text, kind)),
        Err(_) => Err(Wrong::new(
            format!("{} is not a duration", quote(text)),
            format!("write it like {}", span(min.max(Duration::from_secs(10)))),
        )),
    }
}

fn list(raw: &Raw) -> Result<Value, Wrong> {
    let items: Vec<Raw> = match raw {
        Raw::Untyped(text) => {
            text.split(',').map(|item| Raw::Text(item.trim().to_owned())).collect()
        }
        Raw::List(items) => items.clone(),
        Raw::Text(_) => return Err(wrong_type(ValueKind::List, "a text")),
        Raw::Integer(_) => return Err(wrong_type(ValueKind::List, "a number")),
        Raw::Flag(_) => return Err(wrong_type(ValueKind::List, "true or false")),
        Raw::Other(name) => return Err(wrong_type(ValueKind::List, name)),
    };
    let items = items.iter().map(|item| match item {
        Raw::Text(text) if text.len() <= 255 => Ok(text.clone()),
        Raw::Text(text) => {
            Err(Wrong::new(format!("{} has {} bytes", quote(text), text.len()), "AMQP allows 255"))
        }
        _ => Err(wrong_type(ValueKind::List, "a list of something else")),
    });
    items.collect::<Result<_, _>>().map(Value::List)
}

fn listen(text: &str) -> Result<Value, Wrong> {
    match text == "off" || text.parse::<SocketAddr>().is_ok() {
        true => Ok(Value::Text(text.to_owned())),
        false => Err(Wrong::new(
            format!("{} is no IP address with a port", quote(text)),
            "write it like 127.0.0.1:8976, 0.0.0.0:8976 or [::]:8976; off serves nothing",
        )),
    }
}

fn log_filter(text: &str) -> Result<Value, Wrong> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    // `EnvFilter` takes a misspelt level for a target and then logs nothing else.
    let is_level = |part: &str| LEVELS.contains(&part.trim().to_ascii_lowercase().as_str());
    let is_sound = |part: &str| part.contains(['=', '[', ']', '{', '}']) || is_level(part);
    let is_filter = tracing_subscriber::EnvFilter::try_new(text).is_ok();
    match is_filter && text.split(',').all(is_sound) {
        true => Ok(Value::Text(text.to_owned())),
        false => Err(Wrong::new(
            format!("{} is not a log filter", quote(text)),
            format!("choose {}, or pairs such as pgoutbox=debug", LEVELS.join(", ")),
        )),
    }
}
