//! Rows for the outbox.
//!
//! A procedure of the server commits them: no client could as fast, one row at a time.

use anyhow::Result;
use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;

use crate::servers::Servers;

/// What the events are like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Rows of a transaction.
    pub rows: u64,
    /// Bytes of a payload, as it is delivered.
    pub payload: usize,
    /// Aggregates that they take turns in.
    pub aggregates: u64,
}

/// Rows that wait to be relayed.
#[derive(Debug, Clone)]
pub struct Backlog {
    pub events: u64,
    /// Where the WAL ends before the last row, which is committed alone: a reader that has seen
    /// something behind it has seen all others.
    pub end: PgLsn,
    /// The last row's id.
    pub last_id: String,
    /// What each row cost in WAL.
    pub wal_bytes: f64,
}

const SETUP: &str = "
    CREATE SCHEMA IF NOT EXISTS bench;
    CREATE TABLE IF NOT EXISTS bench.payloads (payload jsonb NOT NULL);
    CREATE OR REPLACE PROCEDURE bench.fill(transactions bigint, size bigint, aggregates bigint, is_relayed boolean)
    LANGUAGE plpgsql AS $$
    DECLARE
        payloads jsonb[] := (SELECT array_agg(payload) FROM bench.payloads);
        number bigint := array_length(payloads, 1);
    BEGIN
        FOR t IN 0 .. transactions - 1 LOOP
            INSERT INTO public.outbox_messages (aggregate_type, aggregate_id, event_type, payload, relayed_at)
            SELECT 'order', 'order-' || (t * size + r) % aggregates, 'paid', payloads[1 + (t + r) % number],
                   CASE WHEN is_relayed THEN now() END
              FROM generate_series(0, size - 1) AS r;
            COMMIT;
        END LOOP;
    END $$;";

const LAST: &str = "
    INSERT INTO public.outbox_messages (aggregate_type, aggregate_id, event_type, payload)
    SELECT 'order', 'order-0', 'paid', payload FROM bench.payloads LIMIT 1 RETURNING id::text";

/// Bytes of different payloads that are kept ready.
const READY_BYTES: usize = 1 << 20;

/// A JSON object of that many bytes as Postgres renders it, with a number in front. Of random
/// letters: TOAST would shrink others.
pub fn payload(number: u64, bytes: usize) -> String {
    let frame = format!("{{\"n\": {number}, \"pad\": \"\"}}");
    let pad = bytes.saturating_sub(frame.len());
    let pad: String = std::iter::repeat_with(fastrand::alphanumeric).take(pad).collect();
    format!("{{\"n\": {number}, \"pad\": \"{pad}\"}}")
}

/// The number in front of a payload, wherever it stands in these bytes.
pub fn number(bytes: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"{\"n\": ";
    let start = bytes.windows(NAME.len()).position(|part| part == NAME)? + NAME.len();
    let digits: String = bytes
        .get(start..)?
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .map(|byte| char::from(*byte))
        .collect();
    digits.parse().ok()
}

/// Commits at least so many events (a whole number of transactions, and one more).
pub async fn fill(servers: &Servers, events: u64, shape: Shape) -> Result<Backlog> {
    let client = servers.client().await?;
    prepare(&client, shape.payload).await?;
    let before = wal_end(&client).await?;
    let transactions = events.saturating_sub(1).div_ceil(shape.rows);
    write(servers, transactions, shape, false).await?;
    let end = wal_end(&client).await?;
    // Once its WAL is on disk, all before is too, and may be sent.
    let last_id = client.query_one(LAST, &[]).await?.get(0);
    let filled = transactions * shape.rows;
    let wal_bytes = (u64::from(end) - u64::from(before)) as f64 / filled.max(1) as f64;
    Ok(Backlog { events: filled + 1, end, last_id, wal_bytes })
}

/// Rows that were relayed long ago: no slot may be there, or they are events.
pub async fn fill_relayed(servers: &Servers, rows: u64) -> Result<()> {
    let client = servers.client().await?;
    let shape = Shape { rows: 10_000, payload: 100, aggregates: 1_000 };
    prepare(&client, shape.payload).await?;
    write(servers, rows.div_ceil(shape.rows), shape, true).await?;
    Ok(client.batch_execute("VACUUM (ANALYZE) public.outbox_messages").await?)
}

pub async fn wal_end(client: &Client) -> Result<PgLsn> {
    Ok(client.query_one("SELECT pg_current_wal_insert_lsn()", &[]).await?.get(0))
}

async fn prepare(client: &Client, bytes: usize) -> Result<()> {
    client.batch_execute(SETUP).await?;
    client.batch_execute("TRUNCATE bench.payloads").await?;
    for _ in 0..(READY_BYTES / bytes.max(1)).clamp(2, 64) {
        let payload = payload(0, bytes);
        let sql = "INSERT INTO bench.payloads SELECT $1::text::jsonb";
        client.execute(sql, &[&payload]).await?;
    }
    Ok(())
}

/// Two at once: each is one core's work.
async fn write(servers: &Servers, transactions: u64, shape: Shape, is_relayed: bool) -> Result<()> {
    let half = transactions / 2;
    let of = |transactions| call(servers, transactions, shape, is_relayed);
    tokio::try_join!(of(half), of(transactions - half))?;
    Ok(())
}

async fn call(servers: &Servers, transactions: u64, shape: Shape, is_relayed: bool) -> Result<()> {
    let client = servers.client().await?;
    client.batch_execute("SET synchronous_commit = off").await?;
    let Shape { rows, aggregates, .. } = shape;
    let sql = format!("CALL bench.fill({transactions}, {rows}, {aggregates}, {is_relayed})");
    Ok(client.batch_execute(&sql).await?)
}
