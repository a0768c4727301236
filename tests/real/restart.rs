//! Servers that go and come back under load.

use std::time::Duration;

use anyhow::Result;
use harness::postgres::Shutdown;
use harness::wait_until;
use harness::workload::Workload;

use crate::setting::{PATIENCE, Setting, steady};

/// What one lost connection repeats at most: the window.
const REPEATS_PER_LOSS: usize = 1_000;

#[tokio::test]
async fn the_broker_restarts() -> Result<()> {
    let (rabbitmq, mut setting) = Setting::own_rabbitmq().await?;
    setting.env("PGOUTBOX_SESSION__BACKOFF_MAX", "500ms");
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    let load = Workload::start(&setting.database_url, steady()).await?;
    consumer.wait_distinct(200, PATIENCE).await?;
    rabbitmq.stop().await?;
    more_is_committed(&load).await?;
    rabbitmq.start_again().await?;
    consumer.wait_more(200, PATIENCE).await?;
    rabbitmq.kill9().await?;
    more_is_committed(&load).await?;
    rabbitmq.start_again().await?;
    consumer.wait_more(200, PATIENCE).await?;
    let verdict = setting.judge_load(load, consumer, &relay, 2 * REPEATS_PER_LOSS).await?;
    println!("the broker restarted twice, {} repeats", verdict.repeated);
    Ok(())
}

/// A crash of Postgres may forget acknowledged LSNs and marks that were not on disk; the relay
/// remembers what it delivered, and marks again what was forgotten.
#[tokio::test]
async fn postgres_crashes() -> Result<()> {
    let (postgres, mut setting) = Setting::own_postgres().await?;
    setting.env("PGOUTBOX_SESSION__BACKOFF_MAX", "500ms");
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    let load = Workload::start(&setting.database_url, steady()).await?;
    for crash in 0..4 {
        consumer.wait_more(300, PATIENCE).await?;
        if crash % 2 == 0 {
            postgres.kill9().await?;
        } else {
            postgres.stop(Shutdown::Immediate, Duration::from_secs(10)).await?;
        }
        postgres.start_again().await?;
    }
    consumer.wait_more(100, PATIENCE).await?;
    let verdict = setting.judge_load(load, consumer, &relay, 4 * REPEATS_PER_LOSS).await?;
    println!("Postgres crashed four times, {} repeats", verdict.repeated);
    Ok(())
}

/// The alarm blocks the connection for longer than a confirm may take: that is the broker's
/// wish and no reason to connect again.
#[tokio::test]
async fn the_broker_raises_its_memory_alarm() -> Result<()> {
    let (rabbitmq, mut setting) = Setting::own_rabbitmq().await?;
    setting.env("PGOUTBOX_AMQP__CONFIRM_TIMEOUT", "2s");
    setting.env("PGOUTBOX_AMQP__HEARTBEAT", "1s");
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    let load = Workload::start(&setting.database_url, steady()).await?;
    consumer.wait_distinct(200, PATIENCE).await?;
    rabbitmq.memory_alarm(true).await?;
    relay.is_down("broker_blocked", PATIENCE).await?;
    let since = std::time::Instant::now();
    wait_until("three times the confirm timeout", PATIENCE, async || {
        Ok(since.elapsed() > Duration::from_secs(6))
    })
    .await?;
    let delivered = consumer.distinct();
    assert!(delivered < load.committed(), "nothing was blocked");
    rabbitmq.memory_alarm(false).await?;
    relay.is_ready(PATIENCE).await?;
    consumer.wait_distinct(delivered + 200, PATIENCE).await?;
    setting.judge_load(load, consumer, &relay, 0).await?;
    let sessions = relay.log().matches(" running ").count();
    assert_eq!(sessions, 1, "it connected again:\n{}", relay.log());
    Ok(())
}

/// More is on its way than sockets hold: the broker's window stays closed for as long as it
/// has an alarm. It still sends heartbeats.
#[tokio::test]
async fn the_broker_raises_its_memory_alarm_in_the_middle_of_large_messages() -> Result<()> {
    const EVENTS: usize = 40;
    let (rabbitmq, mut setting) = Setting::own_rabbitmq().await?;
    setting.env("PGOUTBOX_AMQP__HEARTBEAT", "1s");
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    relay.reaches("running", PATIENCE).await?;
    rabbitmq.memory_alarm(true).await?;
    let sql = format!(
        "INSERT INTO outbox_messages (aggregate_type, aggregate_id, event_type, payload)
         SELECT 'order', 'a', 'paid', to_jsonb(repeat('x', 1 << 20)) FROM generate_series(1, {EVENTS})"
    );
    setting.sql(&sql).await?;
    relay.is_down("broker_blocked", PATIENCE).await?;
    let since = std::time::Instant::now();
    wait_until("six heartbeats", PATIENCE, async || Ok(since.elapsed() > Duration::from_secs(6)))
        .await?;
    rabbitmq.memory_alarm(false).await?;
    setting.all_marked().await?;
    let sessions = relay.log().matches(" running ").count();
    assert_eq!(sessions, 1, "it connected again:\n{}", relay.log());
    relay.drain(PATIENCE).await?;
    consumer.wait_distinct(EVENTS, PATIENCE).await?;
    assert_eq!(consumer.total(), EVENTS, "each once");
    Ok(())
}

async fn more_is_committed(load: &Workload) -> Result<()> {
    let before = load.committed();
    wait_until("more events", PATIENCE, async || Ok(load.committed() > before + 300)).await
}
