//! `kill -9` of the relay in mid-stream.

use anyhow::Result;
use harness::workload::Workload;

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
    let setting = Setting::shared().await?;
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
