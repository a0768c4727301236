//! The outbox is renamed and another table is made under its name, with the same ids once more: events of
//! the old one that wait, in the stream or on a list, are delivered, and marked there.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use harness::consumer::Consumer;
use harness::events::counted;
use harness::relay::Relay;
use harness::wait_until;

use crate::setting::{PATIENCE, Setting};

const TABLE: &str = "CREATE TABLE outbox_messages (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text DEFAULT 't', payload jsonb, occurred_at timestamptz DEFAULT clock_timestamp(), relayed_at timestamptz)";
const SWAP: &str = "CREATE TABLE next (LIKE outbox_messages INCLUDING ALL);
    ALTER TABLE outbox_messages RENAME TO before; ALTER TABLE next RENAME TO outbox_messages;
    ALTER PUBLICATION pgoutbox ADD TABLE outbox_messages";

/// The numbers of the events that came, each once.
fn came(consumer: &Consumer) -> Vec<i64> {
    let mut seen = BTreeSet::new();
    let numbers: Vec<i64> = consumer.deliveries(|all| {
        all.iter().filter_map(|delivery| delivery.json().ok()?["n"].as_i64()).collect()
    });
    numbers.into_iter().filter(|n| seen.insert(*n)).collect()
}

async fn all_in_order(consumer: &Consumer, last: i64, relay: &Relay) -> Result<()> {
    let wanted: Vec<i64> = (1..=last).collect();
    let is_there = async || Ok(came(consumer).len() >= wanted.len());
    let waited = wait_until("every event", PATIENCE, is_there).await;
    waited.with_context(|| format!("{:?}\n{}", came(consumer), relay.log()))?;
    assert_eq!(came(consumer), wanted, "{}", relay.log());
    Ok(())
}

/// Each row of both tables has its mark.
async fn all_marked(setting: &Setting, relay: &Relay) -> Result<()> {
    let all = "SELECT (SELECT count(*) FROM before WHERE relayed_at IS NULL)
                    + (SELECT count(*) FROM outbox_messages WHERE relayed_at IS NULL) = 0";
    setting.until("the marks", all).await.with_context(|| relay.log())
}

async fn begin() -> Result<(Setting, Consumer, Relay)> {
    let setting = Setting::bare().await?.set("session.backoff_max", "300ms");
    setting.sql(TABLE).await?;
    setting.init().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    setting.insert(counted(1..=1).at_once()).await?;
    all_in_order(&consumer, 1, &relay).await?;
    Ok((setting, consumer, relay))
}

#[tokio::test]
async fn while_the_relay_runs() -> Result<()> {
    let (setting, consumer, relay) = begin().await?;
    relay.sigstop()?;
    setting.insert(counted(2..=5).at_once()).await?;
    setting.sql(SWAP).await?;
    setting.insert(counted(6..=15).at_once()).await?;
    relay.sigcont()?;
    all_in_order(&consumer, 15, &relay).await?;
    all_marked(&setting, &relay).await?;
    // It is none any more, once that was seen to: nothing tells a row of then from one of before.
    let here: String = setting.ask("SELECT pg_current_wal_insert_lsn()::text").await?;
    let is_over = format!(
        "SELECT NOT EXISTS (SELECT FROM pgoutbox.catch_up) AND confirmed_flush_lsn >= '{here}'
           FROM pg_replication_slots WHERE slot_name = '{}' UNION ALL SELECT false LIMIT 1",
        setting.database
    );
    setting.until("the new slot", &is_over).await.with_context(|| relay.log())?;
    setting.sql("INSERT INTO before (payload) VALUES ('{\"n\": 99}')").await?;
    setting.insert(counted(16..=16).at_once()).await?;
    all_in_order(&consumer, 16, &relay).await?;
    relay.drain(PATIENCE).await
}

/// A mark that is still to be written when the name goes to another table is not one of that table's rows.
#[tokio::test]
async fn while_marks_wait() -> Result<()> {
    for mode in ["update", "delete"] {
        let setting = Setting::bare().await?.set("session.backoff_max", "300ms");
        // Nobody looks at the publication before the marks are due.
        let setting = setting.set("audit.mode", mode).set("audit.linger", "1s");
        let setting = setting.set("postgres.check_interval", "5s");
        setting.sql(TABLE).await?;
        setting.init().await?;
        let consumer = setting.consumer().await?;
        let relay = setting.run()?;
        setting.insert(counted(1..=5).at_once()).await?;
        all_in_order(&consumer, 5, &relay).await?;
        let (swap, publish) = SWAP.rsplit_once(';').context("two steps")?;
        setting.sql(swap).await?;
        setting.insert(counted(6..=15).at_once()).await?;
        // By then the marks were due.
        let is_missed = "SELECT fault IS NOT NULL FROM pgoutbox.progress";
        setting.until("the table to be missed", is_missed).await.with_context(|| relay.log())?;
        setting.sql(publish).await?;
        all_in_order(&consumer, 15, &relay).await.context(mode)?;
    }
    Ok(())
}

#[tokio::test]
async fn while_no_relay_runs() -> Result<()> {
    let (setting, consumer, relay) = begin().await?;
    relay.drain(PATIENCE).await?;
    setting.insert(counted(2..=5).at_once()).await?;
    setting.sql(SWAP).await?;
    setting.insert(counted(6..=15).at_once()).await?;
    let relay = setting.run()?;
    all_in_order(&consumer, 15, &relay).await?;
    all_marked(&setting, &relay).await?;
    relay.drain(PATIENCE).await
}

async fn drop_slot(setting: &Setting) -> Result<()> {
    let drop = format!("SELECT pg_drop_replication_slot('{}')", setting.database);
    let client = setting.client().await?;
    let dropped = async || Ok(client.batch_execute(&drop).await.is_ok());
    wait_until("the slot to be dropped", PATIENCE, dropped).await
}

#[tokio::test]
async fn while_the_slot_is_lost() -> Result<()> {
    let (setting, consumer, relay) = begin().await?;
    relay.drain(PATIENCE).await?;
    setting.insert(counted(2..=5).at_once()).await?;
    setting.sql(SWAP).await?;
    setting.insert(counted(6..=15).at_once()).await?;
    drop_slot(&setting).await?;
    let relay = setting.run()?;
    all_in_order(&consumer, 15, &relay).await?;
    all_marked(&setting, &relay).await?;
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn while_a_list_waits() -> Result<()> {
    let (setting, consumer, relay) = begin().await?;
    relay.drain(PATIENCE).await?;
    setting.insert(counted(2..=5).at_once()).await?;
    drop_slot(&setting).await?;
    setting.program.succeed(&["pause"]).await?;
    let relay = setting.run()?;
    let listed = "SELECT EXISTS (SELECT FROM pgoutbox.catch_up WHERE state = 'listed')";
    setting.until("the list", listed).await?;
    relay.kill9().await?;
    setting.sql(SWAP).await?;
    setting.insert(counted(6..=15).at_once()).await?;
    setting.program.succeed(&["resume"]).await?;
    let relay = setting.run()?;
    all_in_order(&consumer, 15, &relay).await?;
    all_marked(&setting, &relay).await?;
    relay.drain(PATIENCE).await
}
