//! What a transaction may be: rolled back, in parts rolled back, interleaved with others, huge.

use std::time::{Duration, Instant};

use anyhow::Result;
use harness::consumer;
use harness::workload::{self, Ledger, Mix, Workload};
use tokio_postgres::Client;

use crate::setting::{PATIENCE, Setting};

/// Inserts one event of one aggregate on this connection, whatever transaction is open there.
const INSERT: &str =
    "INSERT INTO outbox_messages (aggregate_type, aggregate_id, event_type, payload)
    VALUES ('order', 'one', 'placed', jsonb_build_object('aggregate', 'one', 'n', $1::bigint))";

#[tokio::test]
async fn what_is_rolled_back_never_comes() -> Result<()> {
    let setting = Setting::shared().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    let options = workload::Options {
        writers: 8,
        until: workload::Until::Transactions(1_500),
        mix: Mix { single: 1, several: 3, rolled_back: 3, savepoints: 3, large: 0 },
        ..Default::default()
    };
    let ledger = Workload::start(&setting.database_url, options).await?.finish().await?;
    assert!(ledger.rolled_back.len() > 500, "{} rolled back", ledger.rolled_back.len());
    setting.judge(&ledger, consumer, &relay, 0).await?;
    Ok(())
}

/// Each transaction begins and writes before the next one does, and they commit the other way
/// round; half of each is written before the others commit and half of it after.
#[tokio::test]
async fn delivery_order_is_commit_order() -> Result<()> {
    const TRANSACTIONS: i64 = 20;
    let setting = Setting::shared().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    let mut open: Vec<(i64, Client)> = Vec::new();
    // `n` is the place in commit order: two for each transaction.
    for last in 0..TRANSACTIONS {
        let n = 2 * (TRANSACTIONS - last) - 1;
        let client = setting.client().await?;
        client.batch_execute("BEGIN").await?;
        client.execute(INSERT, &[&n]).await?;
        open.push((n, client));
    }
    while let Some((n, client)) = open.pop() {
        client.execute(INSERT, &[&(n + 1)]).await?;
        client.batch_execute("COMMIT").await?;
    }
    let ledger = ledger_of_rows(&setting).await?;
    consumer.wait_distinct(ledger.committed.len(), PATIENCE).await?;
    let order = consumer.deliveries(|deliveries| {
        let n = |delivery: &consumer::Delivery| Ok(delivery.json()?["n"].as_i64().unwrap_or(0));
        deliveries.iter().map(n).collect::<Result<Vec<i64>>>()
    })?;
    assert_eq!(order, (1..=2 * TRANSACTIONS).collect::<Vec<_>>());
    setting.judge(&ledger, consumer, &relay, 0).await?;
    Ok(())
}

#[tokio::test]
async fn a_huge_transaction_needs_no_memory() -> Result<()> {
    const ROWS: i64 = 200_000;
    /// Sixty bytes a row would be more.
    const GROWTH_BYTES: u64 = 12 << 20;
    /// All of it at the pace of a debug build on two busy cores.
    const WITHIN: Duration = Duration::from_secs(300);
    let setting = Setting::shared().await?;
    let consumer = setting.counting_consumer().await?;
    let relay = setting.run()?;
    relay.reaches("running", PATIENCE).await?;
    let before = relay.peak_rss_bytes()?;
    insert_rows(&setting, ROWS).await?;
    let committed = Instant::now();
    let ledger = ledger_of_rows(&setting).await?;
    consumer.wait_distinct(ledger.committed.len(), WITHIN).await?;
    let took = committed.elapsed();
    let peak = relay.peak_rss_bytes()?;
    println!(
        "{ROWS} rows in {took:.1?}, relay CPU {:.1?}, peak memory {} KiB before, {} after",
        relay.cpu()?,
        before >> 10,
        peak >> 10
    );
    assert!(
        peak < before + GROWTH_BYTES,
        "peak memory: {} KiB, {} before",
        peak >> 10,
        before >> 10
    );
    setting.judge(&ledger, consumer, &relay, 0).await?;
    Ok(())
}

/// One transaction of so many small events of one aggregate.
pub async fn insert_rows(setting: &Setting, rows: i64) -> Result<()> {
    let sql = "INSERT INTO outbox_messages (aggregate_type, aggregate_id, event_type, payload)
        SELECT 'order', 'one', 'placed', jsonb_build_object('aggregate', 'one', 'n', n)
          FROM generate_series(1, $1::bigint) AS n ORDER BY n";
    setting.client().await?.execute(sql, &[&rows]).await?;
    Ok(())
}

/// The ledger of events that the test wrote itself, from the table: `n` is the commit order.
pub async fn ledger_of_rows(setting: &Setting) -> Result<Ledger> {
    Ledger::of_rows(&setting.client().await?, "outbox_messages").await
}
