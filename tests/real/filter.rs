//! Row filters of the publication that cannot be worked out for some row.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use harness::consumer::Consumer;
use harness::shared;
use serde_json::Value;

use crate::bare::{ids, uuid};
use crate::setting::{PATIENCE, Setting};

/// An outbox whose publication divides by a column.
async fn dividing() -> Result<Setting> {
    let setting = Setting::bare().await?.set("session.backoff_max", "300ms");
    setting
        .sql("CREATE TABLE outbox_messages (id uuid PRIMARY KEY, aggregate_type text DEFAULT 'order', aggregate_id text DEFAULT 'one',
                  event_type text DEFAULT 'placed', payload jsonb DEFAULT '{}', divisor int DEFAULT 1,
                  occurred_at timestamptz DEFAULT clock_timestamp(), relayed_at timestamptz);
              CREATE PUBLICATION pgoutbox FOR TABLE outbox_messages WHERE (100 / divisor > 1) WITH (publish = 'insert')")
        .await?;
    setting.init().await?;
    Ok(setting)
}

async fn insert(setting: &Setting, number: u32, divisor: u32) -> Result<()> {
    let id = uuid(number);
    setting
        .sql(&format!("INSERT INTO outbox_messages (id, divisor) VALUES ('{id}', {divisor})"))
        .await
}

/// The ids in the order in which they came first.
fn first_of_each(consumer: &Consumer) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut all = consumer.deliveries(ids);
    all.retain(|id| seen.insert(id.clone()));
    all
}

/// The walsender raises at such a row, for ever: the others are read from the table.
#[tokio::test]
async fn a_row_that_raises_in_the_walsender_keeps_no_other_from_coming() -> Result<()> {
    if shared::postgres().await?.version() < 15 {
        return Ok(());
    }
    let setting = dividing().await?;
    let consumer = setting.bound("#").await?;
    let relay = setting.run()?;
    for (number, divisor) in [(1, 1), (2, 1), (3, 0), (4, 1), (5, 100)] {
        insert(&setting, number, divisor).await?;
    }
    // What was in flight when the walsender raised comes again.
    consumer.wait_distinct(3, PATIENCE).await.with_context(|| relay.log())?;
    assert_eq!(first_of_each(&consumer), [1, 2, 4].map(uuid), "{}", relay.log());
    assert!(relay.log().contains("the walsender cannot pass a row"), "{}", relay.log());
    // Once more, and the stream goes on after it.
    insert(&setting, 6, 0).await?;
    insert(&setting, 7, 1).await?;
    consumer.wait_distinct(4, PATIENCE).await.with_context(|| relay.log())?;
    let marked = "SELECT array_agg(id::text ORDER BY id) = '{%}' FROM outbox_messages WHERE relayed_at IS NOT NULL";
    let marked = marked.replace('%', &[1, 2, 4, 7].map(uuid).join(","));
    setting.until("the rows that came to be marked", &marked).await?;
    relay.drain(PATIENCE).await?;
    assert_eq!(first_of_each(&consumer), [1, 2, 4, 7].map(uuid), "{}", relay.log());
    Ok(())
}

/// Where nothing is caught up with, it is said what to do; and what each session delivers and acknowledges
/// before that row, which the server does not come to read, brings nothing on.
#[tokio::test]
async fn a_row_that_raises_in_the_walsender_is_told_of() -> Result<()> {
    if shared::postgres().await?.version() < 15 {
        return Ok(());
    }
    let setting = dividing().await?.set("postgres.on_slot_loss", "halt");
    let setting = setting.set("log.level", "info,pgoutbox=debug");
    let consumer = setting.bound("#").await?;
    insert(&setting, 1, 1).await?;
    insert(&setting, 2, 0).await?;
    let relay = setting.run()?;
    consumer.wait_distinct(1, PATIENCE).await.with_context(|| relay.log())?;
    relay.wait_for_log("failures=6", PATIENCE).await?;
    let again = relay.log().matches("events are delivered again").count();
    assert!(again <= 1, "{}", relay.log());
    let sql = "SELECT fault::text FROM pgoutbox.progress";
    let fault: Value = serde_json::from_str(&setting.ask::<String>(sql).await?)?;
    let (what, hint) = (fault["what"].to_string(), fault["hint"].to_string());
    assert!(what.contains("the walsender cannot pass a row: division by zero"), "{what}");
    assert!(hint.contains("pg_drop_replication_slot"), "{hint}");
    Ok(())
}
