//! Messages of pgoutput as a server writes them.

use bytes::{BufMut, Bytes, BytesMut};

/// A column: its name, the oid of its type, and what a row holds in it.
pub(crate) type Column = (&'static str, u32, Option<String>);

/// `Begin`.
pub(crate) fn begin(commit_lsn: u64, commit_time: i64, xid: u32) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(b'B');
    bytes.put_u64(commit_lsn);
    bytes.put_i64(commit_time);
    bytes.put_u32(xid);
    shared(bytes)
}

/// `Commit`.
pub(crate) fn commit(commit_lsn: u64, end_lsn: u64, commit_time: i64) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_slice(b"C\0");
    bytes.put_u64(commit_lsn);
    bytes.put_u64(end_lsn);
    bytes.put_i64(commit_time);
    shared(bytes)
}

/// `Relation` of a table in schema `public` with its key in `id`.
pub(crate) fn relation(oid: u32, name: &str, columns: &[Column]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(b'R');
    bytes.put_u32(oid);
    bytes.put_slice(b"public\0");
    bytes.put_slice(name.as_bytes());
    bytes.put_slice(b"\0d");
    bytes.put_u16(u16::try_from(columns.len()).unwrap());
    for (name, oid, _) in columns {
        bytes.put_u8(u8::from(*name == "id"));
        bytes.put_slice(name.as_bytes());
        bytes.put_u8(0);
        bytes.put_u32(*oid);
        bytes.put_i32(-1);
    }
    shared(bytes)
}

/// `Insert` of a row with these columns.
pub(crate) fn insert(oid: u32, columns: &[Column]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(b'I');
    bytes.put_u32(oid);
    bytes.put_u8(b'N');
    bytes.put_u16(u16::try_from(columns.len()).unwrap());
    for (_, _, value) in columns {
        match value {
            None => bytes.put_u8(b'n'),
            Some(value) => {
                bytes.put_u8(b't');
                bytes.put_u32(u32::try_from(value.len()).unwrap());
                bytes.put_slice(value.as_bytes());
            }
        }
    }
    shared(bytes)
}

/// As the client library does: a part of a shared buffer, of which a clone is no allocation.
fn shared(mut bytes: BytesMut) -> Bytes {
    bytes.split().freeze()
}
