//! The content of a message that is an event (`pg_logical_emit_message`): an envelope, put into the
//! form of a row, so that whatever happens to a row happens to it.
//!
//! Anybody who may connect to the database can write such a message. What is not an envelope is kept as
//! it came, refused like a row that cannot be read, and read again with each try.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use postgres_types::Type;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::pgoutput::{Column, StoredRow, Tuple};
use super::{Refusal, Row, with_offset};

/// The members that are columns of the row.
const COLUMNS: [&str; 12] = [
    "id",
    "aggregate_type",
    "aggregate_id",
    "event_type",
    "topic",
    "payload",
    "headers",
    "occurred_at",
    "correlation_id",
    "content_type",
    "traceparent",
    "tracestate",
];
const PAYLOAD: usize = 5;
const HEADERS: usize = 6;
const OCCURRED_AT: usize = 7;
/// Other forms of the payload.
const PAYLOAD_TEXT: usize = 12;
const PAYLOAD_BASE64: usize = 13;
const MEMBERS: usize = 14;

/// Columns of what is not an envelope: its content, and what of it can be read all the same.
const KEPT: [&str; 4] = ["content", "id", "aggregate_type", "aggregate_id"];

/// Which columns the row of a message has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Those of an envelope whose payload is JSON.
    Json,
    /// Those of an envelope whose payload is a text.
    Text,
    /// Those of an envelope whose payload is bytes.
    Bytes,
    /// It is not an envelope.
    Content,
}

impl Shape {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Json, Self::Text, Self::Bytes, Self::Content];

    /// Its columns.
    pub fn columns(self) -> Arc<[Column]> {
        let payload = match self {
            Self::Json => Type::JSON,
            Self::Text => Type::TEXT,
            Self::Bytes => Type::BYTEA,
            Self::Content => return KEPT.iter().map(|name| column(name, &Type::UNKNOWN)).collect(),
        };
        let of = |(at, name): (usize, &&str)| match at {
            PAYLOAD => column(name, &payload),
            HEADERS => column(name, &Type::JSON),
            OCCURRED_AT => column(name, &Type::TIMESTAMPTZ),
            _ => column(name, &Type::TEXT),
        };
        COLUMNS.iter().enumerate().map(of).collect()
    }
}

fn column(name: &str, of: &Type) -> Column {
    Column { name: name.to_owned(), type_oid: of.oid() }
}

/// Whether these are the columns of what is not an envelope.
pub(super) fn is_content(columns: &[Column]) -> bool {
    columns.iter().map(|column| column.name.as_str()).eq(KEPT)
}

/// Reads the content of a message.
///
/// # Errors
/// It is longer than a row can be.
pub fn read(content: &[u8]) -> Result<(Shape, Tuple), String> {
    let envelope = Envelope::read(content);
    let (shape, tuple) = match envelope.as_ref().map_err(Refusal::clone).and_then(Envelope::row) {
        Ok((shape, cells)) => (shape, Tuple::of_texts(cells.iter().map(Option::as_deref))),
        Err(_) => {
            let known = |at| envelope.as_ref().ok()?.text(at).ok()?;
            let known = [known(0), known(1), known(2)];
            let known = known.iter().map(|text| text.as_deref().map(str::as_bytes));
            let cells: Vec<Option<&[u8]>> = std::iter::once(Some(content)).chain(known).collect();
            (Shape::Content, Tuple::of_texts(cells.into_iter()))
        }
    };
    Ok((shape, tuple.map_err(|error| error.to_string())?))
}

/// A stored row, read again where it was no envelope for those who stored it.
pub(crate) fn renewed(row: StoredRow) -> StoredRow {
    if !is_content(&row.columns) {
        return row;
    }
    let mut cells = Vec::new();
    let content = row.tuple.read_into(&mut cells).ok().and_then(|()| cells.first());
    match content.and_then(|cell| row.tuple.text(*cell)).map(read) {
        Some(Ok((shape, tuple))) if shape != Shape::Content => {
            StoredRow { columns: shape.columns(), tuple, ..row }
        }
        _ => row,
    }
}

/// Why a row of content is not an envelope.
pub(super) fn refusal(row: Row<'_>) -> Refusal {
    let content = row.tuple.text(row.cell(0)).unwrap_or_default();
    let read = Envelope::read(content);
    match read.as_ref().map_err(Refusal::clone).and_then(Envelope::row) {
        Err(refusal) => refusal,
        // It was none for whoever stored it: with the next try it is one.
        Ok(_) => unreadable("an older version could not read it"),
    }
}

/// The content of a message that is not an envelope, as it came.
pub(crate) fn content(row: Row<'_>) -> Bytes {
    row.tuple.bytes(row.cell(0)).unwrap_or_default()
}

fn unreadable(why: impl Into<String>) -> Refusal {
    Refusal::unreadable("envelope", why)
}

type Text<'a> = Option<Cow<'a, [u8]>>;

/// The members of an envelope, not yet looked into.
struct Envelope<'a> {
    members: [Option<&'a RawValue>; MEMBERS],
    /// What is wrong with the first that should not be there.
    wrong: Option<String>,
}

impl<'a> Envelope<'a> {
    fn read(content: &'a [u8]) -> Result<Self, Refusal> {
        let text = std::str::from_utf8(content).map_err(|_| unreadable("it is not UTF-8"))?;
        serde_json::from_str(text).map_err(|error| {
            // Not the parser's own words: they quote what they found.
            let (line, column) = (error.line(), error.column());
            unreadable(format!("it is no JSON object (line {line}, column {column})"))
        })
    }

    fn raw(&self, at: usize) -> Option<&'a str> {
        self.members.get(at).copied().flatten().map(RawValue::get)
    }

    /// A member that is a text, or a number as it is written.
    fn text(&self, at: usize) -> Result<Option<Cow<'a, str>>, Refusal> {
        let name = COLUMNS.get(at).copied().unwrap_or("payload");
        let wrong = |why: &str| Refusal::unreadable(name, why);
        let raw = match self.raw(at) {
            None | Some("null") => return Ok(None),
            Some(raw) => raw,
        };
        let text = match raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            Some(plain) if !plain.contains('\\') => Cow::Borrowed(plain),
            Some(_) => {
                let text = serde_json::from_str(raw).map(Cow::Owned);
                text.map_err(|_| wrong("it has an escape that is not a character"))?
            }
            None if raw.starts_with(|c: char| c == '-' || c.is_ascii_digit()) => Cow::Borrowed(raw),
            None => return Err(wrong("it is neither a text nor a number")),
        };
        // Postgres has no such text, and the parking is in Postgres.
        if text.contains('\0') { Err(wrong("it has a NUL character")) } else { Ok(Some(text)) }
    }

    /// Its members as the texts of columns.
    fn row(&self) -> Result<(Shape, [Text<'a>; COLUMNS.len()]), Refusal> {
        if let Some(wrong) = &self.wrong {
            return Err(unreadable(wrong.clone()));
        }
        let (shape, payload) = self.payload()?;
        let mut cells: [Text<'a>; COLUMNS.len()] = Default::default();
        for (at, cell) in cells.iter_mut().enumerate() {
            *cell = match at {
                PAYLOAD => continue,
                HEADERS => self.headers()?,
                _ => self.text(at)?.map(bytes),
            };
        }
        if cells.first().is_none_or(Option::is_none) {
            return Err(Refusal::unreadable("id", "it is missing"));
        }
        let time = self.text(OCCURRED_AT)?;
        if time.is_some_and(|time| with_offset(&time).is_none()) {
            let why = "it is not a time with an offset, such as 2026-11-30T07:05:00Z";
            return Err(Refusal::unreadable("occurred_at", why));
        }
        if let Some(cell) = cells.get_mut(PAYLOAD) {
            *cell = Some(payload);
        }
        Ok((shape, cells))
    }

    fn headers(&self) -> Result<Text<'a>, Refusal> {
        match self.raw(HEADERS) {
            None | Some("null") => Ok(None),
            Some(raw) if raw.starts_with('{') => Ok(Some(Cow::Borrowed(raw.as_bytes()))),
            Some(_) => Err(Refusal::unreadable("headers", "it is no JSON object")),
        }
    }

    fn payload(&self) -> Result<(Shape, Cow<'a, [u8]>), Refusal> {
        let wrong = |why: &str| Refusal::unreadable("payload", why);
        match (self.raw(PAYLOAD), self.text(PAYLOAD_TEXT)?, self.text(PAYLOAD_BASE64)?) {
            (Some(json), None, None) => Ok((Shape::Json, Cow::Borrowed(json.as_bytes()))),
            (None, Some(text), None) => Ok((Shape::Text, bytes(text))),
            (None, None, Some(base64)) => match STANDARD.decode(&*base64) {
                Ok(bytes) => Ok((Shape::Bytes, Cow::Owned(hex(&bytes)))),
                Err(_) => Err(wrong("it is not Base64")),
            },
            (None, None, None) => Err(wrong("it is missing")),
            _ => Err(wrong("there is more than one")),
        }
    }
}

fn bytes(text: Cow<'_, str>) -> Cow<'_, [u8]> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }
}

/// Bytes as Postgres writes a bytea.
fn hex(bytes: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| DIGITS.get(usize::from(half)).copied().unwrap_or(b'0');
    let digits = bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]);
    b"\\x".iter().copied().chain(digits).collect()
}

/// The number of a member by its name; `None` where an envelope has none of that name.
struct Name(Option<usize>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl Visitor<'_> for Names {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a member")
            }

            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(Name(match name {
                    "payload_text" => Some(PAYLOAD_TEXT),
                    "payload_base64" => Some(PAYLOAD_BASE64),
                    name => COLUMNS.iter().position(|known| *known == name),
                }))
            }
        }
        deserializer.deserialize_str(Names)
    }
}

impl<'de> Deserialize<'de> for Envelope<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Envelope<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an envelope")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Envelope<'de>, M::Error> {
                let mut envelope = Envelope { members: [None; MEMBERS], wrong: None };
                let mut number = 0;
                while let Some(Name(known)) = map.next_key()? {
                    number += 1;
                    let Some(member) = known.and_then(|at| envelope.members.get_mut(at)) else {
                        map.next_value::<IgnoredAny>()?;
                        envelope.wrong(number, "has a name that an envelope does not know");
                        continue;
                    };
                    let is_again = member.replace(map.next_value()?).is_some();
                    if is_again {
                        envelope.wrong(number, "stands in it already");
                    }
                }
                Ok(envelope)
            }
        }
        deserializer.deserialize_map(Members)
    }
}

impl Envelope<'_> {
    /// By its number: a name may be anything, of any length.
    fn wrong(&mut self, number: usize, what: &str) {
        self.wrong.get_or_insert_with(|| format!("its member {number} {what}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(content: &str) -> (Shape, Vec<Option<String>>) {
        let (shape, tuple) = read(content.as_bytes()).unwrap();
        let mut cells = Vec::new();
        tuple.read_into(&mut cells).unwrap();
        let text = |cell| tuple.text(cell).map(|text| String::from_utf8(text.to_vec()).unwrap());
        (shape, cells.into_iter().map(text).collect())
    }

    fn why(content: &[u8]) -> String {
        let (shape, tuple) = read(content).unwrap();
        assert_eq!(shape, Shape::Content, "{}", String::from_utf8_lossy(content));
        let mut cells = Vec::new();
        tuple.read_into(&mut cells).unwrap();
        assert_eq!(tuple.text(cells[0]), Some(content), "it is kept as it came");
        refusal(Row { tuple: &tuple, cells: &cells }).to_string()
    }

    fn texts<const N: usize>(texts: [Option<&str>; N]) -> Vec<Option<String>> {
        texts.iter().map(|text| text.map(str::to_owned)).collect()
    }

    #[test]
    fn an_envelope_is_a_row() {
        let (shape, found) = cells(
            r#" {"id": 12, "aggregate_type": "or\u0064er", "aggregate_id": -7, "event_type": "paid", "topic": "a.b",
                "payload": {"b" :1.0, "b": 1e999}, "headers": {"x": 1}, "occurred_at": "2026-11-30T07:05:00+01:00",
                "correlation_id": null, "content_type": "a/b", "tracestate": "k=v"} "#,
        );
        let expected = [
            Some("12"),
            Some("order"),
            Some("-7"),
            Some("paid"),
            Some("a.b"),
            Some(r#"{"b" :1.0, "b": 1e999}"#),
            Some(r#"{"x": 1}"#),
            Some("2026-11-30T07:05:00+01:00"),
            None,
            Some("a/b"),
            None,
            Some("k=v"),
        ];
        assert_eq!((shape, found), (Shape::Json, texts(expected)));
    }

    #[test]
    fn a_payload_has_one_of_three_forms() {
        for (member, shape, payload) in [
            (r#""payload": null"#, Shape::Json, "null"),
            (r#""payload": "a\n""#, Shape::Json, r#""a\n""#),
            (r#""payload_text": "a\n""#, Shape::Text, "a\n"),
            (r#""payload_text": """#, Shape::Text, ""),
            (r#""payload_base64": "AP8=""#, Shape::Bytes, "\\x00ff"),
            (r#""payload_base64": """#, Shape::Bytes, "\\x"),
        ] {
            let (found, cells) = cells(&format!("{{\"id\": \"a\", {member}}}"));
            assert_eq!((found, cells[PAYLOAD].as_deref()), (shape, Some(payload)), "{member}");
        }
    }

    #[test]
    fn what_is_none_is_kept_and_told_without_its_values() {
        let deep = format!("{}secret", "[".repeat(100_000));
        let long = format!("{{\"{}\": 1}}", "secret".repeat(100_000));
        for (content, expected) in [
            (&b""[..], "it is no JSON object (line 1, column 0)"),
            (b"\"secret\"", "it is no JSON object (line 1, column 8)"),
            (b"{\"id\": \"a\"", "it is no JSON object"),
            (b"{} secret", "it is no JSON object"),
            (b"[\"a\", 1]", "it is no JSON object"),
            (b"{\"id\": \"\xff\"}", "it is not UTF-8"),
            (deep.as_bytes(), "it is no JSON object"),
            (long.as_bytes(), "its member 1 has a name that an envelope does not know"),
            (
                b"{\"id\": \"a\", \"payload\": 1, \"id\": \"b\"}",
                "its member 3 stands in it already",
            ),
            (b"{\"payload\": 1}", "its id cannot be read: it is missing"),
            (b"{\"id\": null, \"payload\": 1}", "its id cannot be read: it is missing"),
            (
                b"{\"id\": [\"secret\"], \"payload\": 1}",
                "its id cannot be read: it is neither a text nor a number",
            ),
            (b"{\"id\": \"a\"}", "its payload cannot be read: it is missing"),
            (
                b"{\"id\": \"a\", \"payload\": 1, \"payload_text\": \"secret\"}",
                "there is more than one",
            ),
            (b"{\"id\": \"a\", \"payload_base64\": \"secret!\"}", "it is not Base64"),
            (
                b"{\"id\": \"a\\u0000\", \"payload\": 1}",
                "its id cannot be read: it has a NUL character",
            ),
            (b"{\"id\": \"\\ud800\", \"payload\": 1}", "it has an escape that is not a character"),
            (
                b"{\"id\": \"a\", \"payload\": 1, \"headers\": \"secret\"}",
                "its headers cannot be read: it is no JSON object",
            ),
            (
                b"{\"id\": \"a\", \"payload\": 1, \"occurred_at\": \"secret\"}",
                "its occurred_at cannot be read",
            ),
        ] {
            let why = why(content);
            assert!(why.contains(expected), "{why}");
            assert!(!why.contains("secret"), "{why}");
        }
    }

    /// Later events of its aggregate are to wait for it.
    #[test]
    fn what_is_none_is_known_as_far_as_it_can_be_read() {
        let content = r#"{"id": "a", "aggregate_id": 7, "more": 1}"#;
        let (shape, found) = cells(content);
        assert_eq!(shape, Shape::Content);
        assert_eq!(found, texts([Some(content), Some("a"), None, Some("7")]));
    }

    #[test]
    fn what_a_later_version_can_read_is_read_with_the_next_try() {
        let content: &[u8] = br#"{"id": "a", "payload": 1}"#;
        let row = |columns: Arc<[Column]>, cells: &[&[u8]]| StoredRow {
            table: 0,
            columns,
            tuple: Tuple::of_texts(cells.iter().map(|cell| Some(*cell))).unwrap(),
            commit_time: 0,
            xid: None,
        };
        let stored = row(Shape::Content.columns(), &[content, b"a", b"", b""]);
        assert_eq!(renewed(stored).columns, Shape::Json.columns());
        let stored = row(Shape::Content.columns(), &[b"{", b"a", b"", b""]);
        assert_eq!(renewed(stored.clone()), stored, "still none");
        let stored = row(Shape::Json.columns(), &[content; 12]);
        assert_eq!(renewed(stored.clone()), stored, "of no content");
    }
}
