//! An event is its place in commit order, not its id: an id may be used again.

use anyhow::{Context, Result};
use harness::relay::Relay;
use harness::wait_for;
use lapin::options::QueueBindOptions;
use lapin::types::FieldTable;

use crate::bare::{arrived, ids};
use crate::setting::{PATIENCE, Setting};

/// Ids from a sequence, and no column of the time: nothing but its transaction tells one row 1 from
/// the next.
const NUMBERED: &str =
    "CREATE TABLE outbox_messages (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
         aggregate_type text, aggregate_id text, topic text, payload jsonb NOT NULL DEFAULT '{}',
         relayed_at timestamptz)";

/// With quick retries of what is parked.
async fn setting(table: &str) -> Result<Setting> {
    let setting = Setting::bare()
        .await?
        .set("session.backoff_min", "50ms")
        .set("session.backoff_max", "200ms")
        .set("parking.backoff_min", "1h")
        .set("parking.backoff_max", "1h")
        .set("reconcile.age", "1s");
    setting.sql(table).await?;
    setting.init().await?;
    Ok(setting)
}

async fn bind(setting: &Setting, key: &str) -> Result<()> {
    let channel = setting.channel().await?;
    let (queue, exchange) = ("consumer".into(), "outbox".into());
    let options = QueueBindOptions::default();
    Ok(channel.queue_bind(queue, exchange, key.into(), options, FieldTable::default()).await?)
}

/// Waits for what the parking holds: ids and states, in commit order.
async fn parked(setting: &Setting, relay: &Relay, want: &str) -> Result<()> {
    let sql = "SELECT coalesce(string_agg(coalesce(event_id, 'NULL') || ' ' || state, ', ' ORDER BY seq), '') FROM pgoutbox.parked";
    let mut last = String::new();
    wait_for("the parking", PATIENCE, async || {
        last = setting.ask::<String>(sql).await?;
        Ok((last == want).then_some(()))
    })
    .await
    .with_context(|| format!("want {want:?}, is {last:?}\n{}", relay.log()))
}

async fn insert(setting: &Setting, topic: &str) -> Result<()> {
    setting.sql(&format!("INSERT INTO outbox_messages (topic) VALUES ('{topic}')")).await
}

#[tokio::test]
async fn an_id_that_is_used_again_is_another_event() -> Result<()> {
    let setting = setting(NUMBERED).await?;
    let consumer = setting.bound("good").await?;
    let relay = setting.run()?;
    insert(&setting, "late").await?;
    parked(&setting, &relay, "1 parked").await?;
    setting.program.succeed(&["parked", "discard", "--all", "--yes"]).await?;
    setting.sql("TRUNCATE outbox_messages RESTART IDENTITY").await?;
    insert(&setting, "late").await?;
    parked(&setting, &relay, "1 discarded, 1 parked").await?;
    // The stream brings both again; what is there stays as it is.
    relay.kill9().await?;
    let again = "UPDATE pgoutbox.progress SET end_lsn = '0/0', commit_lsn = NULL, settled = 0";
    setting.sql(again).await?;
    let relay = setting.run()?;
    insert(&setting, "good").await?;
    assert_eq!(ids(&arrived(&consumer, 1).await?), ["2"]);
    parked(&setting, &relay, "1 discarded, 1 parked").await?;
    bind(&setting, "late").await?;
    setting.program.succeed(&["parked", "retry", "--all"]).await?;
    assert_eq!(ids(&arrived(&consumer, 2).await?), ["2", "1"]);
    parked(&setting, &relay, "1 discarded").await?;
    setting.all_marked().await?;
    relay.drain(PATIENCE).await
}

/// Our own table in partitions: the same id on two days is no error there.
#[tokio::test]
async fn two_rows_of_one_id_are_two_events() -> Result<()> {
    let setting = setting(
        "CREATE TABLE outbox_messages (id uuid, aggregate_type text, aggregate_id text, topic text,
             payload jsonb NOT NULL DEFAULT '{}', occurred_at timestamptz NOT NULL, relayed_at timestamptz,
             PRIMARY KEY (id, occurred_at)) PARTITION BY RANGE (occurred_at);
         CREATE TABLE one PARTITION OF outbox_messages FOR VALUES FROM ('2026-01-01') TO ('2026-01-02');
         CREATE TABLE other PARTITION OF outbox_messages FOR VALUES FROM ('2026-01-02') TO ('2026-01-03')",
    )
    .await?;
    let consumer = setting.bound("good").await?;
    let relay = setting.run()?;
    let id = crate::bare::uuid(1);
    setting
        .sql(&format!(
            "INSERT INTO outbox_messages (id, topic, occurred_at)
             VALUES ('{id}', 'late', '2026-01-01 12:00Z'), ('{id}', 'late', '2026-01-02 12:00Z')"
        ))
        .await?;
    parked(&setting, &relay, &format!("{id} parked, {id} parked")).await?;
    bind(&setting, "late").await?;
    setting.program.succeed(&["parked", "retry", "--all"]).await?;
    assert_eq!(ids(&arrived(&consumer, 2).await?), [id.clone(), id]);
    parked(&setting, &relay, "").await?;
    setting.all_marked().await?;
    relay.drain(PATIENCE).await
}
