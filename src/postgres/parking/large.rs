//! Parks an event whose row is far larger than most: in pieces, over a connection of its own.
//!
//! As a parameter of a statement the row would be in memory three times, twice for as long as the session
//! lasts, and marks would wait behind it.

use std::error::Error as StdError;
use std::pin::pin;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::SinkExt;
use postgres_types::{IsNull, ToSql, Type};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};
use tracing::debug;

use super::access::Access;
use super::park_record::ParkRecord;
use crate::config::Postgres;
use crate::core::event::pgoutput::Tuple;
use crate::postgres::{Role, connect, sql};

/// Sent at once.
const PIECE_BYTES: usize = 64 << 10;
/// What COPY in its binary form begins with: signature, flags, length of what is added to them.
const HEAD: &[u8] = b"PGCOPY\n\xFF\r\n\0\0\0\0\0\0\0\0\0";
const FIELDS: i16 = 19;
const END: i16 = -1;
const NULL: i32 = -1;
/// Dimensions, flags and type of an array, and the length and first number of its one dimension.
const ARRAY_HEAD: usize = 20;
/// The form of jsonb in which its text follows.
const JSONB: u8 = 1;
/// Whatever is written here is, in the end.
const BEGIN: &str = "BEGIN; SET LOCAL statement_timeout = 0";

type Unwritable = Box<dyn StdError + Sync + Send>;

/// Writes it; `None` where that cannot be done in this way: there is no further connection to be had.
///
/// # Errors
/// The server refuses it, a later session owns the slot, or the connection is lost: nothing is written.
pub(super) async fn write(
    postgres: &Postgres,
    access: Access<'_>,
    record: &ParkRecord<'_>,
    tuple: &Tuple,
) -> Option<Result<(), Error>> {
    let pieces = match pieces(record, tuple) {
        Ok(pieces) => pieces,
        Err(why) => {
            debug!("a large row cannot be written in pieces: {why}");
            return None;
        }
    };
    match connect(Role::Session, postgres).await {
        Ok((client, _)) => Some(copy(&client, access, record, pieces).await),
        Err(fault) => {
            debug!("no connection for a large row: {}", fault.what);
            None
        }
    }
}

async fn copy(
    client: &Client,
    access: Access<'_>,
    record: &ParkRecord<'_>,
    pieces: Vec<Bytes>,
) -> Result<(), Error> {
    client.batch_execute(BEGIN).await?;
    let mut sink = pin!(client.copy_in::<_, Bytes>(sql::PARK_LARGE).await?);
    for mut piece in pieces {
        while !piece.is_empty() {
            sink.feed(piece.split_to(piece.len().min(PIECE_BYTES))).await?;
        }
    }
    sink.finish().await?;
    let place: [&(dyn ToSql + Sync); 5] =
        [&record.slot, &record.outbox, &record.commit_lsn, &record.index, &record.next_ms];
    match client.execute(sql::PARK_LARGE_FILLED, &place).await {
        // It is there already; what was copied goes with the transaction.
        Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => return Ok(()),
        outcome => outcome?,
    };
    let ours: [&(dyn ToSql + Sync); 2] = [&access.scope.slot, &access.scope.session];
    client.execute(sql::PROGRESS_STILL_OURS, &ours).await?;
    client.batch_execute("COMMIT").await
}

/// One row as COPY wants it: the values are parts of the tuple.
fn pieces(record: &ParkRecord<'_>, tuple: &Tuple) -> Result<Vec<Bytes>, Unwritable> {
    let mut out = BytesMut::new();
    out.put_slice(HEAD);
    out.put_i16(FIELDS);
    let fields: [(&(dyn ToSql + Sync), Type); 14] = [
        (&record.slot, Type::NAME),
        (&record.outbox, Type::OID),
        (&record.id, Type::TEXT),
        (&record.aggregate_type, Type::TEXT),
        (&record.aggregate_id, Type::TEXT),
        (&record.commit_lsn, Type::PG_LSN),
        (&record.index, Type::INT8),
        // A time is its microseconds.
        (&record.commit_time, Type::INT8),
        (&record.state, Type::TEXT),
        (&record.is_holding, Type::BOOL),
        (&record.reason, Type::TEXT),
        (&record.error, Type::TEXT),
        (&record.hint, Type::TEXT),
        (&record.attempts, Type::INT4),
    ];
    for (value, of) in &fields {
        field(&mut out, *value, of)?;
    }
    out.put_i32(i32::try_from(record.columns.len() + 1)?);
    out.put_u8(JSONB);
    out.put_slice(record.columns.as_bytes());
    field(&mut out, &record.xid, &Type::INT8)?;
    field(&mut out, &record.occurred_at, &Type::TEXT)?;
    field(&mut out, &record.prefix, &Type::TEXT)?;
    let cells: Vec<Option<Bytes>> = record.cells.iter().map(|cell| tuple.bytes(*cell)).collect();
    let sizes = cells.iter().map(|cell| size_of::<i32>() + cell.as_ref().map_or(0, Bytes::len));
    out.put_i32(i32::try_from(ARRAY_HEAD + sizes.sum::<usize>())?);
    let has_null = cells.iter().any(Option::is_none);
    let count = i32::try_from(cells.len())?;
    for number in [1, i32::from(has_null)] {
        out.put_i32(number);
    }
    out.put_u32(Type::BYTEA.oid());
    for number in [count, 1] {
        out.put_i32(number);
    }
    let mut pieces = Vec::new();
    for cell in cells {
        match cell {
            None => out.put_i32(NULL),
            Some(cell) => {
                out.put_i32(i32::try_from(cell.len())?);
                pieces.extend([out.split().freeze(), cell]);
            }
        }
    }
    out.put_i16(END);
    pieces.push(out.freeze());
    Ok(pieces)
}

fn field(out: &mut BytesMut, value: &(dyn ToSql + Sync), of: &Type) -> Result<(), Unwritable> {
    let at = out.len();
    out.put_i32(NULL);
    if let IsNull::No = value.to_sql_checked(of, out)? {
        let length = i32::try_from(out.len() - at - size_of::<i32>())?;
        if let Some(place) = out.get_mut(at..at + size_of::<i32>()) {
            place.copy_from_slice(&length.to_be_bytes());
        }
    }
    Ok(())
}
