//! What a transaction may be: rolled back, in parts rolled back, interleaved with others, huge.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use harness::workload::{self, Ledger, Mix, Workload};
use harness::{consumer, postgres, shared};
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

/// The numbers of the events in the order in which they came, repeats left out.
fn numbers(consumer: &consumer::Consumer) -> Result<Vec<i64>> {
    let mut seen = Vec::new();
    let came = consumer.deliveries(|deliveries| {
        let n = |delivery: &consumer::Delivery| Ok(delivery.json()?["n"].as_i64().unwrap_or(0));
        deliveries.iter().map(n).collect::<Result<Vec<i64>>>()
    })?;
    for n in came {
        if !seen.contains(&n) {
            seen.push(n);
        }
    }
    Ok(seen)
}

/// Two-phase commit: what is prepared comes once it is committed, at that place in commit order, whatever
/// becomes of the relay and of its slot meanwhile.
#[tokio::test]
async fn what_is_prepared_comes_once_it_is_committed() -> Result<()> {
    let options = postgres::Options {
        conf: vec!["max_prepared_transactions = 5".into()],
        ..Default::default()
    };
    let own = postgres::Postgres::start(options).await?;
    let rabbitmq = shared::rabbitmq().await?;
    let (database, vhost) = (own.create_database().await?, rabbitmq.add_vhost().await?);
    let (database_url, amqp_url) = (own.url(&database), rabbitmq.url(&vhost));
    let setting = Setting::of(database, vhost, database_url, amqp_url).await?;
    let consumer = setting.consumer().await?;
    let client = setting.client().await?;
    let prepare = async |n: i64, name: &str| -> Result<()> {
        client.batch_execute("BEGIN").await?;
        client.execute(INSERT, &[&n]).await?;
        Ok(client.batch_execute(&format!("PREPARE TRANSACTION '{name}'")).await?)
    };
    let relay = setting.run()?;
    for (n, name) in [(1, "one"), (2, "two"), (3, "three")] {
        prepare(n, name).await?;
    }
    client.execute(INSERT, &[&4_i64]).await?;
    consumer.wait_distinct(1, PATIENCE).await.with_context(|| relay.log())?;
    relay.kill9().await?;
    let relay = setting.run()?;
    client.execute(INSERT, &[&5_i64]).await?;
    consumer.wait_distinct(2, PATIENCE).await.with_context(|| relay.log())?;
    for end in ["COMMIT PREPARED 'two'", "ROLLBACK PREPARED 'three'", "COMMIT PREPARED 'one'"] {
        client.batch_execute(end).await?;
    }
    client.execute(INSERT, &[&6_i64]).await?;
    consumer.wait_distinct(5, PATIENCE).await.with_context(|| relay.log())?;
    assert_eq!(numbers(&consumer)?, [4, 5, 2, 1, 6], "{}", relay.log());
    setting.all_marked().await?;
    relay.drain(PATIENCE).await?;
    // A slot that is made anew waits for what is prepared: that is in the list, or in the stream.
    prepare(7, "seven").await?;
    client.batch_execute("SELECT pg_drop_replication_slot(current_database())").await?;
    let relay = setting.run()?;
    let made =
        "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = current_database())";
    setting.until("the slot to be on its way", made).await.with_context(|| relay.log())?;
    client.batch_execute("COMMIT PREPARED 'seven'").await?;
    client.execute(INSERT, &[&8_i64]).await?;
    consumer.wait_distinct(7, PATIENCE).await.with_context(|| relay.log())?;
    assert_eq!(numbers(&consumer)?, [4, 5, 2, 1, 6, 7, 8], "{}", relay.log());
    setting.all_marked().await?;
    relay.drain(PATIENCE).await
}

/// Subtransactions by the thousand, every third of them rolled back, each more than a snapshot holds of them.
#[tokio::test]
async fn a_transaction_of_many_subtransactions_comes_whole_and_in_order() -> Result<()> {
    let setting = Setting::shared().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    let insert = INSERT.replace("$1::bigint", "n");
    setting
        .sql(&format!(
            "DO $$ BEGIN
                 FOR n IN 1..3000 LOOP
                     BEGIN
                         {insert};
                         IF n % 3 = 0 THEN RAISE 'no'; END IF;
                     EXCEPTION WHEN raise_exception THEN NULL;
                     END;
                 END LOOP;
             END $$"
        ))
        .await?;
    consumer.wait_distinct(2_000, PATIENCE).await.with_context(|| relay.log())?;
    let wanted: Vec<i64> = (1..=3_000).filter(|n| n % 3 != 0).collect();
    assert_eq!(numbers(&consumer)?, wanted);
    setting.all_marked().await?;
    relay.drain(PATIENCE).await
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
