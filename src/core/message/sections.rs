//! A message in the form in which a RabbitMQ stream keeps it: sections of AMQP 1.0 (part 3, 3.2).
//!
//! The broker stores these bytes as they are, and makes an AMQP 0-9-1 delivery of them for a consumer of that
//! protocol (`mc_amqp`, `mc_amqpl`): each property goes where it comes back as what it was. They are made of
//! the bytes of the AMQP 0-9-1 message, so that both say the same. There is no header section: before RabbitMQ 3.13 a
//! consumer of AMQP 0-9-1 fails over one, and what it would say is taken from annotations too.

use amq_protocol::types::AMQPValue;
use amq_protocol::types::parsing::parse_field_table;

use super::properties::flag;
use crate::core::event::Refusal;
use crate::core::octets::Octets;

/// Codes of sections, each behind [`DESCRIPTOR`]: clients know no other form of them.
mod section {
    pub(super) const ANNOTATIONS: u8 = 0x72;
    pub(super) const PROPERTIES: u8 = 0x73;
    pub(super) const APPLICATION_PROPERTIES: u8 = 0x74;
    pub(super) const DATA: u8 = 0x75;
}
const DESCRIPTOR: [u8; 2] = [0x00, 0x53];

/// Constructors of values.
mod code {
    pub(super) const NULL: u8 = 0x40;
    pub(super) const TRUE: u8 = 0x41;
    pub(super) const FALSE: u8 = 0x42;
    pub(super) const UBYTE: u8 = 0x50;
    pub(super) const LONG: u8 = 0x81;
    pub(super) const DOUBLE: u8 = 0x82;
    pub(super) const TIMESTAMP: u8 = 0x83;
    pub(super) const BINARY8: u8 = 0xA0;
    pub(super) const BINARY32: u8 = 0xB0;
    pub(super) const STRING8: u8 = 0xA1;
    pub(super) const STRING32: u8 = 0xB1;
    pub(super) const SYMBOL8: u8 = 0xA3;
    pub(super) const LIST32: u8 = 0xD0;
    pub(super) const MAP32: u8 = 0xD1;
}

/// What a message is made of.
#[derive(Clone, Copy)]
pub(super) struct Sources<'a> {
    /// Exchange and routing key, as an AMQP consumer of the stream sees them.
    pub(super) exchange: &'a str,
    pub(super) routing_key: &'a str,
    /// The properties as AMQP 0-9-1 writes them.
    pub(super) properties: &'a [u8],
    /// Each header is a text that is not empty: there are clients that read nothing else.
    pub(super) has_text_headers: bool,
}

/// Why it has no such form.
fn broken() -> Refusal {
    Refusal::unreadable("properties", "a stream has no form for them")
}

/// Writes all sections that come before the body.
///
/// # Errors
/// A header that no stream can hold, or bytes that are no properties.
pub(super) fn write(out: &mut Vec<u8>, of: Sources<'_>) -> Result<(), Refusal> {
    let Properties { texts, headers, delivery_mode, priority, timestamp } =
        Properties::read(of.properties).ok_or_else(broken)?;
    begin(out, section::ANNOTATIONS);
    let map = Compound::open(out, code::MAP32);
    let mut count = 0;
    let known = [
        ("x-exchange", Some(of.exchange)),
        ("x-routing-key", Some(of.routing_key)),
        ("x-basic-type", text(texts.kind)?),
        ("x-basic-expiration", text(texts.expiration)?),
    ];
    for (name, value) in known {
        if let Some(value) = value {
            sized(out, code::SYMBOL8, name.as_bytes())?;
            string(out, value)?;
            count += 2;
        }
    }
    for (name, value) in [("x-basic-delivery-mode", delivery_mode), ("x-basic-priority", priority)]
    {
        if let Some(value) = value {
            sized(out, code::SYMBOL8, name.as_bytes())?;
            out.extend_from_slice(&[code::UBYTE, value]);
            count += 2;
        }
    }
    map.close(out, count)?;
    write_properties(out, &texts, timestamp)?;
    write_headers(out, headers, of.has_text_headers)
}

fn write_properties(
    out: &mut Vec<u8>,
    texts: &Texts<'_>,
    timestamp: Option<u64>,
) -> Result<(), Refusal> {
    begin(out, section::PROPERTIES);
    let list = Compound::open(out, code::LIST32);
    let optional = |out: &mut Vec<u8>, bytes: Option<&[u8]>| match text(bytes)? {
        Some(text) => string(out, text),
        None => none(out),
    };
    let coded = |out: &mut Vec<u8>, code, bytes: Option<&[u8]>| match bytes {
        Some(bytes) => sized(out, code, bytes),
        None => none(out),
    };
    optional(out, texts.message_id)?;
    coded(out, code::BINARY8, texts.user_id)?;
    // To and subject: what says where it goes stands in the annotations.
    out.extend_from_slice(&[code::NULL; 2]);
    optional(out, texts.reply_to)?;
    optional(out, texts.correlation_id)?;
    coded(out, code::SYMBOL8, texts.content_type)?;
    coded(out, code::SYMBOL8, texts.content_encoding)?;
    // The absolute time of expiry.
    out.push(code::NULL);
    match timestamp.and_then(|seconds| i64::try_from(seconds.checked_mul(1_000)?).ok()) {
        Some(ms) => number(out, code::TIMESTAMP, &ms.to_be_bytes()),
        None => out.push(code::NULL),
    }
    optional(out, texts.app_id)?;
    list.close(out, 11)
}

fn none(out: &mut Vec<u8>) -> Result<(), Refusal> {
    out.push(code::NULL);
    Ok(())
}

/// Headers, as application properties: simple values alone may stand there.
fn write_headers(out: &mut Vec<u8>, headers: &[u8], is_text: bool) -> Result<(), Refusal> {
    begin(out, section::APPLICATION_PROPERTIES);
    let map = Compound::open(out, code::MAP32);
    let (mut rest, mut count) = (headers, 0);
    while !rest.is_empty() {
        let field = Field::first(rest).ok_or_else(broken)?;
        rest = rest.get(field.bytes..).unwrap_or_default();
        let before = out.len();
        string(out, text(Some(field.name))?.unwrap_or_default())?;
        let is_written = match is_text {
            true => field.write_as_text(out)?,
            false => field.write(out).map(|()| true)?,
        };
        match is_written {
            true => count += 2,
            false => out.truncate(before),
        }
    }
    map.close(out, count)
}

/// Begins the section of a body of this size. The body is to follow.
///
/// # Errors
/// It is larger than 4 GiB.
pub(super) fn begin_body(out: &mut Vec<u8>, bytes: usize) -> Result<(), Refusal> {
    begin(out, section::DATA);
    out.push(code::BINARY32);
    out.extend_from_slice(&length(bytes)?.to_be_bytes());
    Ok(())
}

fn begin(out: &mut Vec<u8>, section: u8) {
    out.extend_from_slice(&DESCRIPTOR);
    out.push(section);
}

fn length(bytes: usize) -> Result<u32, Refusal> {
    u32::try_from(bytes).map_err(|_| Refusal::HeadersTooLarge { bytes, limit: u32::MAX as usize })
}

fn text(bytes: Option<&[u8]>) -> Result<Option<&str>, Refusal> {
    let not = |_| Refusal::unreadable("headers", "a name or a text in them is not UTF-8");
    bytes.map(std::str::from_utf8).transpose().map_err(not)
}

fn number(out: &mut Vec<u8>, code: u8, bytes: &[u8]) {
    out.push(code);
    out.extend_from_slice(bytes);
}

/// A value of up to 255 bytes.
fn sized(out: &mut Vec<u8>, code: u8, bytes: &[u8]) -> Result<(), Refusal> {
    out.push(code);
    out.push(u8::try_from(bytes.len()).map_err(|_| broken())?);
    out.extend_from_slice(bytes);
    Ok(())
}

fn string(out: &mut Vec<u8>, text: &str) -> Result<(), Refusal> {
    variable(out, [code::STRING8, code::STRING32], text.as_bytes())
}

/// A value behind a length of one byte where that is enough, or of four.
fn variable(out: &mut Vec<u8>, [short, long]: [u8; 2], bytes: &[u8]) -> Result<(), Refusal> {
    match u8::try_from(bytes.len()) {
        Ok(_) => sized(out, short, bytes),
        Err(_) => {
            number(out, long, &length(bytes.len())?.to_be_bytes());
            out.extend_from_slice(bytes);
            Ok(())
        }
    }
}

/// A list or a map, whose size and count are known once it is written.
struct Compound {
    at: usize,
}

impl Compound {
    const HEAD: usize = 8;

    fn open(out: &mut Vec<u8>, code: u8) -> Self {
        out.push(code);
        let at = out.len();
        out.extend_from_slice(&[0; Self::HEAD]);
        Self { at }
    }

    fn close(self, out: &mut [u8], count: u32) -> Result<(), Refusal> {
        // The count's own bytes are part of the size.
        let size = length(out.len().saturating_sub(self.at + 4))?;
        let [s0, s1, s2, s3] = size.to_be_bytes();
        let [c0, c1, c2, c3] = count.to_be_bytes();
        if let Some(place) = out.get_mut(self.at..self.at + Self::HEAD) {
            place.copy_from_slice(&[s0, s1, s2, s3, c0, c1, c2, c3]);
        }
        Ok(())
    }
}

/// The properties of an AMQP 0-9-1 message that are texts, as they stand there.
#[derive(Debug, Default)]
struct Texts<'a> {
    content_type: Option<&'a [u8]>,
    content_encoding: Option<&'a [u8]>,
    correlation_id: Option<&'a [u8]>,
    reply_to: Option<&'a [u8]>,
    expiration: Option<&'a [u8]>,
    message_id: Option<&'a [u8]>,
    kind: Option<&'a [u8]>,
    user_id: Option<&'a [u8]>,
    app_id: Option<&'a [u8]>,
}

/// The properties of an AMQP 0-9-1 message, read from its bytes.
#[derive(Debug, Default)]
struct Properties<'a> {
    texts: Texts<'a>,
    /// The fields of the table, without its length.
    headers: &'a [u8],
    delivery_mode: Option<u8>,
    priority: Option<u8>,
    timestamp: Option<u64>,
}

impl<'a> Properties<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = Octets(bytes);
        let flags = u16::from_be_bytes(rest.array()?);
        let has = |flag: u16| flags & flag != 0;
        let mut read = Self::default();
        let texts = &mut read.texts;
        let short = |rest: &mut Octets<'a>, flag| match has(flag) {
            true => rest.short().map(Some),
            false => Some(None),
        };
        let byte = |rest: &mut Octets<'a>, flag| match has(flag) {
            true => rest.array::<1>().map(|[byte]| Some(byte)),
            false => Some(None),
        };
        texts.content_type = short(&mut rest, flag::CONTENT_TYPE)?;
        texts.content_encoding = short(&mut rest, flag::CONTENT_ENCODING)?;
        if has(flag::HEADERS) {
            read.headers = rest.long()?;
        }
        read.delivery_mode = byte(&mut rest, flag::DELIVERY_MODE)?;
        read.priority = byte(&mut rest, flag::PRIORITY)?;
        let texts = &mut read.texts;
        texts.correlation_id = short(&mut rest, flag::CORRELATION_ID)?;
        texts.reply_to = short(&mut rest, flag::REPLY_TO)?;
        texts.expiration = short(&mut rest, flag::EXPIRATION)?;
        texts.message_id = short(&mut rest, flag::MESSAGE_ID)?;
        if has(flag::TIMESTAMP) {
            read.timestamp = Some(u64::from_be_bytes(rest.array()?));
        }
        texts.kind = short(&mut rest, flag::TYPE)?;
        texts.user_id = short(&mut rest, flag::USER_ID)?;
        texts.app_id = short(&mut rest, flag::APP_ID)?;
        Some(read)
    }
}

/// A field of a table of AMQP 0-9-1.
struct Field<'a> {
    name: &'a [u8],
    kind: u8,
    value: &'a [u8],
    /// How many bytes it takes, name and type included.
    bytes: usize,
}

impl<'a> Field<'a> {
    fn first(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = Octets(bytes);
        let name = rest.short()?;
        let [kind] = rest.array()?;
        let value = match kind {
            b'V' => rest.take(0),
            b't' | b'b' | b'B' => rest.take(1),
            b's' | b'U' | b'u' => rest.take(2),
            b'I' | b'i' | b'f' => rest.take(4),
            b'D' => rest.take(5),
            b'l' | b'L' | b'd' | b'T' => rest.take(8),
            b'S' | b'x' | b'A' | b'F' => rest.long(),
            _ => None,
        }?;
        Some(Self { name, kind, value, bytes: bytes.len() - rest.0.len() })
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), Refusal> {
        match self.kind {
            b'V' => out.push(code::NULL),
            b't' => out.push(if self.value == [0] { code::FALSE } else { code::TRUE }),
            b'l' | b'L' => number(out, code::LONG, self.value),
            b'd' => number(out, code::DOUBLE, self.value),
            b'S' => match std::str::from_utf8(self.value) {
                Ok(text) => string(out, text)?,
                Err(_) => variable(out, [code::BINARY8, code::BINARY32], self.value)?,
            },
            b'x' => variable(out, [code::BINARY8, code::BINARY32], self.value)?,
            _ => string(out, &self.json()?)?,
        }
        Ok(())
    }

    /// As a text; `false` where that would be empty, and nothing is written.
    fn write_as_text(&self, out: &mut Vec<u8>) -> Result<bool, Refusal> {
        if let (b'S', Ok(text)) = (self.kind, std::str::from_utf8(self.value)) {
            string(out, text)?;
            return Ok(!text.is_empty());
        }
        if self.kind == b'V' {
            return Ok(false);
        }
        string(out, &self.json()?).map(|()| true)
    }

    /// Of what a stream has no simple value for: as JSON. Rare, so the library reads it.
    fn json(&self) -> Result<String, Refusal> {
        let mut table = Vec::with_capacity(self.value.len() + 16);
        table.extend_from_slice(&[1, b'v', self.kind]);
        if matches!(self.kind, b'S' | b'x' | b'A' | b'F') {
            table.extend_from_slice(&length(self.value.len())?.to_be_bytes());
        }
        table.extend_from_slice(self.value);
        let mut framed = length(table.len())?.to_be_bytes().to_vec();
        framed.extend(table);
        let (_, read) = parse_field_table(framed.as_slice()).map_err(|_| broken())?;
        let value = read.inner().values().next().map_or(serde_json::Value::Null, json_of);
        Ok(match value {
            serde_json::Value::String(text) => text,
            value => value.to_string(),
        })
    }
}

fn json_of(value: &AMQPValue) -> serde_json::Value {
    use serde_json::Value;
    match value {
        AMQPValue::Boolean(it) => Value::from(*it),
        AMQPValue::ShortShortInt(it) => Value::from(*it),
        AMQPValue::ShortShortUInt(it) => Value::from(*it),
        AMQPValue::ShortInt(it) => Value::from(*it),
        AMQPValue::ShortUInt(it) => Value::from(*it),
        AMQPValue::LongInt(it) => Value::from(*it),
        AMQPValue::LongUInt(it) => Value::from(*it),
        AMQPValue::LongLongInt(it) => Value::from(*it),
        AMQPValue::Timestamp(it) => Value::from(*it),
        AMQPValue::Float(it) => Value::from(*it),
        AMQPValue::Double(it) => Value::from(*it),
        AMQPValue::DecimalValue(it) => {
            Value::from(f64::from(it.value) / 10_f64.powi(it.scale.into()))
        }
        AMQPValue::ShortString(it) => Value::from(it.as_str()),
        AMQPValue::LongString(it) => String::from_utf8_lossy(it.as_bytes()).into(),
        AMQPValue::ByteArray(it) => String::from_utf8_lossy(it.as_slice()).into(),
        AMQPValue::FieldArray(it) => it.as_slice().iter().map(json_of).collect(),
        AMQPValue::FieldTable(it) => {
            let fields = it.inner().iter().map(|(name, it)| (name.to_string(), json_of(it)));
            Value::Object(fields.collect())
        }
        AMQPValue::Void => Value::Null,
    }
}

impl<'a> Octets<'a> {
    /// A text behind a length of one byte.
    fn short(&mut self) -> Option<&'a [u8]> {
        let [length] = self.array()?;
        self.take(usize::from(length))
    }

    /// Bytes behind a length of four.
    fn long(&mut self) -> Option<&'a [u8]> {
        let length = u32::from_be_bytes(self.array()?);
        self.take(usize::try_from(length).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use amq_protocol::protocol::basic::{AMQPProperties, gen_properties};
    use amq_protocol::types::{FieldArray, FieldTable};
    use proptest::prelude::*;

    /// A value of AMQP 1.0, as far as they occur here.
    #[derive(Debug, Clone, PartialEq)]
    enum Value {
        Null,
        Bool(bool),
        Number(u8, u64),
        Text(String),
        Symbol(String),
        Binary(Vec<u8>),
        Compound(Vec<Value>),
    }

    /// Reads one, by the specification (part 1, 1.6), and not by what is written here.
    fn value(rest: &mut Octets<'_>) -> Option<Value> {
        let [constructor] = rest.array()?;
        let long = |rest: &mut Octets<'_>| rest.long().map(<[u8]>::to_vec);
        let short = |rest: &mut Octets<'_>| rest.short().map(<[u8]>::to_vec);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).ok();
        Some(match constructor {
            0x40 => Value::Null,
            0x41 => Value::Bool(true),
            0x42 => Value::Bool(false),
            0x50 => Value::Number(0x50, rest.array::<1>()?[0].into()),
            0x70 => Value::Number(0x70, u32::from_be_bytes(rest.array()?).into()),
            0x81..=0x83 => Value::Number(constructor, u64::from_be_bytes(rest.array()?)),
            0xA0 => Value::Binary(short(rest)?),
            0xB0 => Value::Binary(long(rest)?),
            0xA1 => Value::Text(text(short(rest)?)?),
            0xB1 => Value::Text(text(long(rest)?)?),
            0xA3 => Value::Symbol(text(short(rest)?)?),
            0xD0 | 0xD1 => {
                let mut within = Octets(rest.long()?);
                let count = u32::from_be_bytes(within.array()?);
                let values: Option<Vec<Value>> = (0..count).map(|_| value(&mut within)).collect();
                within.0.is_empty().then_some(())?;
                Value::Compound(values?)
            }
            _ => return None,
        })
    }

    fn sections(bytes: &[u8]) -> Vec<(u8, Vec<Value>)> {
        let mut rest = Octets(bytes);
        let mut all = Vec::new();
        while !rest.0.is_empty() {
            let head: [u8; 3] = rest.array().unwrap();
            assert_eq!(head[..2], DESCRIPTOR);
            let Some(Value::Compound(values)) = value(&mut rest) else { panic!("no list, no map") };
            all.push((head[2], values));
        }
        all
    }

    fn header() -> impl Strategy<Value = AMQPValue> {
        prop_oneof![
            Just(AMQPValue::Void),
            any::<bool>().prop_map(AMQPValue::Boolean),
            any::<i64>().prop_map(AMQPValue::LongLongInt),
            any::<u8>().prop_map(AMQPValue::ShortShortUInt),
            (-1e9..1e9).prop_map(AMQPValue::Double),
            ".{0,300}".prop_map(|text| AMQPValue::LongString(text.into())),
            any::<u64>().prop_map(AMQPValue::Timestamp),
            prop::collection::vec(any::<i64>(), 0..4).prop_map(|all| {
                let all: Vec<_> = all.into_iter().map(AMQPValue::LongLongInt).collect();
                AMQPValue::FieldArray(FieldArray::from(all))
            }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_whole(
            headers in prop::collection::btree_map("[a-z]{1,9}", header(), 0..9),
            id in prop::option::of("[a-z]{0,255}"),
            kind in prop::option::of("[a-z]{0,9}"),
            seconds in prop::option::of(any::<u64>()),
            priority in prop::option::of(any::<u8>()),
            is_text in any::<bool>(),
        ) {
            let mut table = FieldTable::default();
            for (name, value) in &headers {
                table.insert(name.as_str().into(), value.clone());
            }
            let mut properties = AMQPProperties::default().with_headers(table).with_delivery_mode(2);
            if let Some(id) = &id {
                properties = properties.with_message_id(id.as_str().into());
            }
            if let Some(kind) = &kind {
                properties = properties.with_type(kind.as_str().into());
            }
            if let Some(seconds) = seconds {
                properties = properties.with_timestamp(seconds);
            }
            if let Some(priority) = priority {
                properties = properties.with_priority(priority);
            }
            let bytes = gen_properties(&properties)(Vec::new().into()).unwrap().into_inner().0;
            let mut out = Vec::new();
            let of = Sources { exchange: "e", routing_key: "k", properties: &bytes, has_text_headers: is_text };
            write(&mut out, of).unwrap();
            let all = sections(&out);
            let codes: Vec<u8> = all.iter().map(|(code, _)| *code).collect();
            prop_assert_eq!(codes, [0x72, 0x73, 0x74]);
            let annotations = &all[0].1;
            let optional = usize::from(kind.is_some()) + usize::from(priority.is_some());
            prop_assert_eq!(annotations.len(), 2 * (3 + optional));
            prop_assert_eq!(&annotations[1], &Value::Text("e".into()));
            prop_assert_eq!(&annotations[3], &Value::Text("k".into()));
            prop_assert_eq!(all[1].1.len(), 11);
            prop_assert_eq!(&all[1].1[0], &id.map_or(Value::Null, Value::Text));
            let written = &all[2].1;
            prop_assert_eq!(written.len() % 2, 0);
            for pair in written.chunks(2) {
                let Value::Text(name) = &pair[0] else { panic!("a name is a text") };
                match (&headers[name], &pair[1]) {
                    (_, Value::Text(text)) if is_text => prop_assert!(!text.is_empty()),
                    (AMQPValue::LongLongInt(it), Value::Number(0x81, same)) => prop_assert_eq!(*it as u64, *same),
                    (AMQPValue::LongString(it), Value::Text(same)) => prop_assert_eq!(it.as_bytes(), same.as_bytes()),
                    (AMQPValue::Boolean(it), Value::Bool(same)) => prop_assert_eq!(it, same),
                    (AMQPValue::Double(it), Value::Number(0x82, same)) => prop_assert_eq!(it.to_bits(), *same),
                    (AMQPValue::Void, Value::Null) => {}
                    (AMQPValue::FieldArray(_), Value::Text(json)) => prop_assert!(json.starts_with('[')),
                    (AMQPValue::Timestamp(_) | AMQPValue::ShortShortUInt(_), Value::Text(_)) => {}
                    other => panic!("{other:?}"),
                }
            }
            if !is_text {
                prop_assert_eq!(written.len(), headers.len() * 2);
            }
        }

        #[test]
        fn any_bytes_are_properties_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let of = Sources { exchange: "", routing_key: "", properties: &bytes, has_text_headers: false };
            let _ = write(&mut Vec::new(), of);
        }
    }
}
