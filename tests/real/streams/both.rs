//! One relay whose tables go to a stream and to an exchange.

use anyhow::{Context, Result};
use harness::consumer::Consumer;
use harness::events::{event, events};
use harness::proxy::{Direction, Proxy};
use harness::rabbitmq::RabbitMq;
use harness::stream;
use harness::wait_until;
use tokio::sync::MutexGuard;

use super::{STREAM, in_commit_order, repeats};
use crate::setting::{PATIENCE, Setting, ids, uuid};

/// `outbox_messages` goes to the stream, `queued` to the exchange, by a queue that takes all.
async fn both() -> Result<(MutexGuard<'static, RabbitMq>, Setting, Consumer)> {
    let (rabbitmq, setting) = Setting::streaming(STREAM).await?;
    let setting = setting
        .set("tables.1.name", "queued")
        .set("tables.1.exchange", "{exchange} | outbox")
        .set("session.backoff_min", "50ms");
    setting.sql("CREATE TABLE queued (LIKE outbox_messages INCLUDING ALL)").await?;
    setting.sql("ALTER TABLE queued ADD COLUMN exchange text").await?;
    // As if it had been there from the start: nothing is listed, all comes by the slot.
    setting.sql("SELECT pg_drop_replication_slot(current_database()::name)").await?;
    setting.sql("DROP PUBLICATION pgoutbox; DELETE FROM pgoutbox.progress").await?;
    setting.init().await?;
    let consumer = setting.bound("#").await?;
    Ok((rabbitmq, setting, consumer))
}

/// Transactions that write a row of each table, the one of the exchange first.
async fn insert(setting: &Setting, numbers: std::ops::RangeInclusive<u32>) -> Result<()> {
    let client = setting.client().await?;
    for number in numbers {
        let row = |table: &str| {
            format!(
                "INSERT INTO {table} (id, topic, aggregate_type, aggregate_id, payload)
                 VALUES ('{}', 'good', 'order', '{}', '{{}}')",
                uuid(number),
                number % 7
            )
        };
        let both = format!("BEGIN; {}; {}; COMMIT", row("queued"), row("outbox_messages"));
        client.batch_execute(&both).await?;
    }
    Ok(())
}

async fn all_marked(setting: &Setting) -> Result<()> {
    setting.all_marked().await?;
    setting.until("the others", "SELECT count(*) = count(relayed_at) FROM queued").await
}

/// Each event of the stream is there once; of the queue none is missing, and first copies are in order.
#[tokio::test]
async fn each_sink_keeps_its_own_promise_over_kills() -> Result<()> {
    const ROWS: u32 = 600;
    let (_rabbitmq, setting, consumer) = both().await?;
    let mut relay = setting.run()?;
    let (writer, mut from) = (setting.clone(), 1);
    for until in [150, 300, 450, ROWS] {
        insert(&writer, from..=until).await?;
        let marked = format!("SELECT count(relayed_at) >= {} FROM queued", until - 100);
        setting.until("rows to be marked", &marked).await.with_context(|| relay.log())?;
        from = until + 1;
        if until < ROWS {
            relay.kill9().await?;
            relay = setting.run()?;
        }
    }
    all_marked(&setting).await.with_context(|| relay.log())?;
    setting.is_acknowledged(&relay).await?;
    relay.drain(PATIENCE).await?;
    let held = stream::kept(stream::read(&setting.amqp_url, STREAM).await?);
    let expected: Vec<String> = (1..=ROWS).map(uuid).collect();
    assert_eq!((ids(&held), repeats(&held).len()), (expected.clone(), 0), "{}", relay.log());
    in_commit_order(&held)?;
    let mut came = ids(&consumer.finish());
    let mut seen = std::collections::HashSet::new();
    came.retain(|id| seen.insert(id.clone()));
    assert_eq!(came, expected, "{}", relay.log());
    Ok(())
}

/// What one of them has confirmed is not acknowledged before the other has confirmed what came before it.
#[tokio::test]
async fn the_slot_waits_for_both() -> Result<()> {
    let (rabbitmq, setting, consumer) = both().await?;
    let (by_amqp, by_stream) =
        tokio::try_join!(Proxy::start(rabbitmq.port()), Proxy::start(rabbitmq.stream_port()))?;
    let through = setting
        .clone()
        .set("amqp.url", &by_amqp.url(&setting.amqp_url))
        .set("amqp.stream_port", &by_stream.port().to_string());
    let relay = through.run()?;
    relay.reaches("running", PATIENCE).await?;
    let in_stream = async |count: usize| {
        wait_until("events in the stream", PATIENCE, async || {
            Ok(stream::read(&setting.amqp_url, STREAM).await?.len() == count)
        })
        .await
        .with_context(|| relay.log())
    };
    let is_passed = |lsn: &str| {
        format!(
            "SELECT confirmed_flush_lsn >= '{lsn}' FROM pg_replication_slots WHERE slot_name = '{}'",
            setting.database
        )
    };
    for (number, silent) in [(1, &by_amqp), (2, &by_stream)] {
        silent.stall(Direction::Down);
        insert(&setting, number..=number).await?;
        let lsn: String = setting.ask("SELECT pg_current_wal_lsn()::text").await?;
        // Both have it, and one could not say so.
        in_stream(usize::try_from(number)?).await?;
        consumer.wait_distinct(usize::try_from(number)?, PATIENCE).await?;
        assert!(!setting.ask::<bool>(&is_passed(&lsn)).await?, "{}", relay.log());
        silent.resume(Direction::Down);
        setting.until("the slot to pass", &is_passed(&lsn)).await.with_context(|| relay.log())?;
    }
    relay.drain(PATIENCE).await?;
    Ok(())
}

/// The broker closes the channel over an event of an exchange that is not there, with others in flight to
/// the stream: that one is parked, and the stream has each of its own once.
#[tokio::test]
async fn a_channel_that_is_closed_repeats_nothing_in_the_stream() -> Result<()> {
    let (_rabbitmq, setting, consumer) = both().await?;
    let setting = setting.set("parking.backoff_min", "1h").set("parking.backoff_max", "1h");
    let relay = setting.run()?;
    relay.reaches("running", PATIENCE).await?;
    let missing = event(1_000, "good").column("exchange", "'nowhere'").table("queued");
    setting.insert(events(1..=100, "good").each()).await?;
    setting.insert(missing).await?;
    setting.insert(events(101..=200, "good").each()).await?;
    setting.insert(event(1_001, "good").table("queued")).await?;
    setting.all_marked().await.with_context(|| relay.log())?;
    setting.parking_is(&relay, "1000 parked").await?;
    let delivered = "SELECT count(relayed_at) = 1 FROM queued";
    setting.until("the other to be marked", delivered).await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await?;
    let held = stream::kept(stream::read(&setting.amqp_url, STREAM).await?);
    assert_eq!((held.len(), repeats(&held).len()), (200, 0), "{}", relay.log());
    in_commit_order(&held)?;
    let came = ids(&consumer.finish());
    assert!(came.contains(&uuid(1_001)) && !came.contains(&uuid(1_000)));
    Ok(())
}
