//! The bytes of pgoutput, protocol version 1, as messages.
//!
//! Format: <https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html>.
//! Every read is checked; nothing here panics, whatever the bytes. Values are ranges into
//! the message, so decoding a row copies nothing.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use postgres_types::PgLsn;

/// One message of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A transaction begins. Its changes follow, then its [`Message::Commit`].
    Begin {
        /// Where the commit record starts.
        commit_lsn: PgLsn,
        /// Microseconds since 2000-01-01 UTC.
        commit_time: i64,
        /// Transaction id.
        xid: u32,
    },
    /// The transaction ends.
    Commit {
        /// Where the commit record starts.
        commit_lsn: PgLsn,
        /// Just behind the commit record: the only LSN of a transaction worth acknowledging.
        end_lsn: PgLsn,
        /// Microseconds since 2000-01-01 UTC.
        commit_time: i64,
    },
    /// Where a replicated transaction came from.
    Origin {
        /// Name of the origin.
        name: String,
    },
    /// The shape of a relation, sent before its first row and after each change of it.
    Relation(RelationMessage),
    /// A type that is not built in, sent before the shape of each relation that has it.
    Type {
        /// Its oid.
        oid: u32,
        /// Schema of the type that it is made of: its own, unless it is a domain.
        schema: String,
        /// Name of that type.
        name: String,
    },
    /// A row was inserted.
    Insert {
        /// Oid of its relation.
        relation: u32,
        /// The row.
        tuple: Tuple,
    },
    /// A row was updated: seen only where the publication publishes more than inserts.
    Update {
        /// Oid of its relation.
        relation: u32,
    },
    /// A row was deleted, likewise.
    Delete {
        /// Oid of its relation.
        relation: u32,
    },
    /// Relations were truncated, likewise.
    Truncate {
        /// Their oids.
        relations: Vec<u32>,
    },
    /// `pg_logical_emit_message`, from any user of the database.
    Emitted {
        /// Inside a transaction.
        is_transactional: bool,
        /// Where it is in the WAL.
        lsn: PgLsn,
        /// Whose it is: a text of the database's encoding.
        prefix: Bytes,
        /// Its content.
        content: Bytes,
    },
}

/// An outbox row that came another way than the stream, in the stream's own form: out of the
/// parking, or read from the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRow {
    /// Which of the configured tables it is of.
    pub table: usize,
    /// The columns of its tuple. Rows read together share them.
    pub columns: Arc<[Column]>,
    /// The row.
    pub tuple: Tuple,
    /// When it was committed, in microseconds since 2000-01-01 UTC; what is known of it.
    pub commit_time: i64,
    /// The transaction that wrote it, where it was read from the table.
    pub xid: Option<u32>,
}

/// The shape of a relation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationMessage {
    /// Its oid.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its columns, in the order of the tuples that follow.
    pub columns: Vec<Column>,
}

/// A column of a relation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Oid of its type; of a domain, once that is resolved, of the type that it is made of.
    pub type_oid: u32,
}

/// A row: the bytes from its column count on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuple(Bytes);

/// Where a column's value stands in its [`Tuple`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    /// SQL NULL.
    Null,
    /// A TOASTed value that an UPDATE did not touch and the server did not send.
    Unchanged,
    /// A value in the type's text form.
    Text {
        /// First byte.
        start: usize,
        /// Byte after the last.
        end: usize,
    },
    /// A value in the type's binary form; never asked for.
    Binary,
}

impl Tuple {
    /// The tuple of a row that came another way, from the texts of its columns; `None` is NULL.
    ///
    /// # Errors
    /// More columns or longer values than the protocol can say.
    pub fn of_texts<'a>(
        texts: impl ExactSizeIterator<Item = Option<&'a [u8]>> + Clone,
    ) -> Result<Self, DecodeError> {
        let too_many = |_| DecodeError::new("a row too large for a tuple");
        // A text may be as long as the server can make one: grown step by step, there would be two of it.
        let size = |text: Option<&[u8]>| 1 + text.map_or(0, |text| 4 + text.len());
        let mut bytes = BytesMut::with_capacity(2 + texts.clone().map(size).sum::<usize>());
        bytes.put_u16(u16::try_from(texts.len()).map_err(too_many)?);
        for text in texts {
            match text {
                None => bytes.put_u8(b'n'),
                Some(text) => {
                    bytes.put_u8(b't');
                    bytes.put_i32(i32::try_from(text.len()).map_err(too_many)?);
                    bytes.put_slice(text);
                }
            }
        }
        Ok(Self(bytes.freeze()))
    }

    /// Its size in bytes.
    pub fn size(&self) -> usize {
        self.0.len()
    }

    /// Finds the columns. `cells` is emptied first; its allocation is reused.
    ///
    /// # Errors
    /// Bytes that are not a tuple.
    pub fn read_into(&self, cells: &mut Vec<Cell>) -> Result<(), DecodeError> {
        cells.clear();
        let mut reader = Reader { bytes: &self.0, at: 0 };
        for _ in 0..reader.u16("column count")? {
            let cell = match reader.u8("kind of value")? {
                b'n' => Cell::Null,
                b'u' => Cell::Unchanged,
                b't' => {
                    let len = reader.len("length of value")?;
                    let start = reader.at;
                    reader.take(len, "value")?;
                    Cell::Text { start, end: reader.at }
                }
                b'b' => {
                    let len = reader.len("length of value")?;
                    reader.take(len, "value")?;
                    Cell::Binary
                }
                kind => return Err(DecodeError::new(format!("unknown kind of value {kind:#04x}"))),
            };
            cells.push(cell);
        }
        reader.end()
    }

    /// The text of a cell that [`read_into`](Self::read_into) found in this tuple.
    pub fn text(&self, cell: Cell) -> Option<&[u8]> {
        match cell {
            Cell::Text { start, end } => self.0.get(start..end),
            Cell::Null | Cell::Unchanged | Cell::Binary => None,
        }
    }

    /// The same cell without the spaces at its end.
    pub(crate) fn without_padding(&self, cell: Cell) -> Cell {
        let (Cell::Text { start, .. }, Some(text)) = (cell, self.text(cell)) else { return cell };
        let filled = text.iter().rev().take_while(|byte| **byte == b' ').count();
        Cell::Text { start, end: start + text.len() - filled }
    }

    /// The same text, sharing the allocation instead of borrowing.
    pub fn bytes(&self, cell: Cell) -> Option<Bytes> {
        self.text(cell).map(|text| self.0.slice_ref(text))
    }
}

/// Bytes that are not pgoutput.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pgoutput: {0}")]
pub struct DecodeError(String);

impl DecodeError {
    fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

/// Decodes one message.
///
/// # Errors
/// Bytes that are not a message of protocol version 1.
pub fn decode(bytes: &Bytes) -> Result<Message, DecodeError> {
    let mut reader = Reader { bytes, at: 0 };
    let message = match reader.u8("tag")? {
        b'B' => Message::Begin {
            commit_lsn: reader.lsn("commit LSN")?,
            commit_time: reader.i64("commit time")?,
            xid: reader.u32("xid")?,
        },
        b'C' => {
            reader.u8("flags")?;
            Message::Commit {
                commit_lsn: reader.lsn("commit LSN")?,
                end_lsn: reader.lsn("end LSN")?,
                commit_time: reader.i64("commit time")?,
            }
        }
        b'O' => {
            reader.lsn("origin LSN")?;
            Message::Origin { name: reader.string("origin name")? }
        }
        b'R' => Message::Relation(relation(&mut reader)?),
        b'Y' => {
            let oid = reader.u32("type oid")?;
            let schema = reader.schema("type schema")?;
            Message::Type { oid, schema, name: reader.string("type name")? }
        }
        b'I' => {
            let relation = reader.u32("relation oid")?;
            match reader.u8("kind of tuple")? {
                b'N' => Message::Insert { relation, tuple: Tuple(reader.rest()) },
                kind => return Err(DecodeError::new(format!("insert with tuple {kind:#04x}"))),
            }
        }
        b'U' => Message::Update { relation: reader.changed_relation()? },
        b'D' => Message::Delete { relation: reader.changed_relation()? },
        b'T' => {
            let count = reader.u32("count of relations")?;
            reader.u8("options")?;
            // No capacity from a number on the wire: a short message ends the loop first.
            let mut relations = Vec::new();
            for _ in 0..count {
                relations.push(reader.u32("relation oid")?);
            }
            Message::Truncate { relations }
        }
        b'M' => {
            let is_transactional = reader.u8("flags")? & 1 == 1;
            let lsn = reader.lsn("message LSN")?;
            let prefix = bytes.slice_ref(reader.text("prefix")?);
            let len = reader.len("length of content")?;
            let content = bytes.slice_ref(reader.take(len, "content")?);
            Message::Emitted { is_transactional, lsn, prefix, content }
        }
        tag => return Err(DecodeError::new(format!("unknown message {tag:#04x}"))),
    };
    reader.end()?;
    Ok(message)
}

fn relation(reader: &mut Reader<'_>) -> Result<RelationMessage, DecodeError> {
    let oid = reader.u32("relation oid")?;
    let schema = reader.schema("schema")?;
    let name = reader.string("relation name")?;
    reader.u8("replica identity")?;
    let mut columns = Vec::new();
    for _ in 0..reader.u16("column count")? {
        reader.u8("column flags")?;
        let name = reader.string("column name")?;
        let type_oid = reader.u32("column type")?;
        reader.u32("type modifier")?;
        columns.push(Column { name, type_oid });
    }
    Ok(RelationMessage { oid, schema, name, columns })
}

struct Reader<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8], DecodeError> {
        let bytes = self
            .at
            .checked_add(len)
            .and_then(|end| self.bytes.get(self.at..end))
            .ok_or_else(|| DecodeError::new(format!("message ends inside {what}")))?;
        self.at += len;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], DecodeError> {
        let bytes = self.take(N, what)?;
        bytes.try_into().map_err(|_| DecodeError::new(format!("message ends inside {what}")))
    }

    fn u8(&mut self, what: &str) -> Result<u8, DecodeError> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    fn u16(&mut self, what: &str) -> Result<u16, DecodeError> {
        self.array(what).map(u16::from_be_bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32, DecodeError> {
        self.array(what).map(u32::from_be_bytes)
    }

    fn i64(&mut self, what: &str) -> Result<i64, DecodeError> {
        self.array(what).map(i64::from_be_bytes)
    }

    fn lsn(&mut self, what: &str) -> Result<PgLsn, DecodeError> {
        self.array(what).map(|bytes| PgLsn::from(u64::from_be_bytes(bytes)))
    }

    fn len(&mut self, what: &str) -> Result<usize, DecodeError> {
        let len = self.array(what).map(i32::from_be_bytes)?;
        usize::try_from(len).map_err(|_| DecodeError::new(format!("negative {what}")))
    }

    /// The bytes up to a NUL.
    fn text(&mut self, what: &str) -> Result<&'a [u8], DecodeError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let len = rest
            .iter()
            .position(|byte| *byte == 0)
            .ok_or_else(|| DecodeError::new(format!("message ends inside {what}")))?;
        let text = self.take(len, what)?;
        self.at += 1;
        Ok(text)
    }

    fn string(&mut self, what: &str) -> Result<String, DecodeError> {
        match std::str::from_utf8(self.text(what)?) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(DecodeError::new(format!("{what} is not UTF-8"))),
        }
    }

    fn schema(&mut self, what: &str) -> Result<String, DecodeError> {
        let mut schema = self.string(what)?;
        if schema.is_empty() {
            // The protocol's spelling of the system schema.
            schema.push_str("pg_catalog");
        }
        Ok(schema)
    }

    /// The relation of an update or a delete, whose rows are counted and not read.
    fn changed_relation(&mut self) -> Result<u32, DecodeError> {
        let relation = self.u32("relation oid")?;
        self.rest();
        Ok(relation)
    }

    fn rest(&mut self) -> Bytes {
        let rest = self.bytes.slice(self.at.min(self.bytes.len())..);
        self.at = self.bytes.len();
        rest
    }

    fn end(&self) -> Result<(), DecodeError> {
        match self.bytes.len().checked_sub(self.at) {
            Some(0) => Ok(()),
            _ => Err(DecodeError::new("bytes left over behind the message")),
        }
    }
}
