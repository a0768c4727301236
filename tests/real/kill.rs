//! `kill -9` of the relay in mid-stream.

use anyhow::{Context, Result};
use harness::wait_until;
use harness::workload::Workload;
use postgres_types::PgLsn;

use crate::setting::{PATIENCE, Setting, steady};
use crate::transactions::{insert_rows, ledger_of_rows};

/// The window and one batch of marks, by default: what was published and is not yet in the
/// progress row.
const REPEATS_PER_KILL: usize = 1_500;

#[tokio::test]
async fn killed_again_and_again_under_load() -> Result<()> {
    const KILLS: usize = 6;
    let setting = Setting::shared().await?;
    let consumer = setting.consumer().await?;
    let mut relay = setting.run()?;
    let load = Workload::start(&setting.database_url, steady()).await?;
    for _ in 0..KILLS {
        let wanted = consumer.distinct() + 200;
        consumer.wait_distinct(wanted, PATIENCE).await?;
        relay.kill9().await?;
        relay = setting.run()?;
    }
    // The one before it may have delivered all that there was, and a process that has just begun
    // ends by SIGTERM instead of taking it for a wish.
    relay.reaches("running", PATIENCE).await?;
    let verdict = setting.judge_load(load, consumer, &relay, KILLS * REPEATS_PER_KILL).await?;
    println!("{KILLS} kills, {} repeats\n{verdict}", verdict.repeated);
    Ok(())
}

#[tokio::test]
async fn killed_inside_a_huge_transaction() -> Result<()> {
    const ROWS: i64 = 30_000;
    const KILLS: usize = 3;
    let setting = Setting::shared().await?.set("window.sizing", "adaptive");
    let consumer = setting.consumer().await?;
    insert_rows(&setting, ROWS).await?;
    let ledger = ledger_of_rows(&setting).await?;
    let mut relay = setting.run()?;
    for kill in 1..=KILLS {
        let wanted = ledger.committed.len() * kill / (KILLS + 1);
        consumer.wait_distinct(wanted, PATIENCE).await?;
        relay.kill9().await?;
        assert!(consumer.distinct() < ledger.committed.len(), "killed too late");
        relay = setting.run()?;
    }
    let verdict = setting.judge(&ledger, consumer, &relay, KILLS * REPEATS_PER_KILL).await?;
    println!("{KILLS} kills inside one transaction, {} repeats", verdict.repeated);
    Ok(())
}

/// How far all is settled is written after each 100 events, though their marks do not fill a batch for long.
#[tokio::test]
async fn killed_before_any_mark_was_written() -> Result<()> {
    const ROWS: usize = 250;
    const STEP: usize = 100;
    let setting = Setting::shared().await?.set("audit.batch", "10000").set("audit.linger", "9s");
    let consumer = setting.consumer().await?;
    let client = setting.client().await?;
    let sql = "SELECT pg_current_wal_insert_lsn()";
    let before: PgLsn = client.query_one(sql, &[]).await?.get(0);
    insert_rows(&setting, i64::try_from(ROWS)?).await?;
    let ledger = ledger_of_rows(&setting).await?;
    let relay = setting.run()?;
    let least = i64::try_from(ROWS - STEP)?;
    wait_until("the progress row to say most of the transaction", PATIENCE, async || {
        // Where all of them were confirmed at once, it says the commit's end.
        let sql = "SELECT EXISTS (SELECT FROM pgoutbox.progress WHERE settled > $1 OR settled = 0 AND end_lsn > $2)";
        Ok(client.query_one(sql, &[&least, &before]).await?.get(0))
    })
    .await?;
    relay.kill9().await?;
    let sql = "SELECT count(*) FROM outbox_messages WHERE relayed_at IS NOT NULL";
    assert_eq!(client.query_one(sql, &[]).await?.get::<_, i64>(0), 0, "none is marked yet");
    let setting = setting.set("audit.linger", "50ms");
    let relay = setting.run()?;
    // What was delivered before the kill gets its mark when it is read again; a stop does not wait for that.
    let all = "SELECT NOT EXISTS (SELECT FROM outbox_messages WHERE relayed_at IS NULL)";
    setting.until("every row to be marked", all).await.with_context(|| relay.log())?;
    setting.judge(&ledger, consumer, &relay, STEP - 1).await?;
    Ok(())
}

/// Both sides of the progress row at once: what the relay remembered and what Postgres had not
/// yet written to disk are gone. How much is repeated then has no bound worth a name.
#[tokio::test]
async fn relay_and_postgres_killed_together() -> Result<()> {
    let (postgres, setting) = Setting::own_postgres().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    let load = Workload::start(&setting.database_url, steady()).await?;
    consumer.wait_distinct(300, PATIENCE).await?;
    postgres.kill9().await?;
    relay.kill9().await?;
    postgres.start_again().await?;
    let relay = setting.run()?;
    consumer.wait_more(100, PATIENCE).await?;
    let verdict = setting.judge_load(load, consumer, &relay, usize::MAX).await?;
    println!("relay and Postgres killed: {} repeats", verdict.repeated);
    Ok(())
}
