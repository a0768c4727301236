//! Events into a super stream: several streams, by aggregate.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use harness::consumer::Delivery;
use harness::events::{event, events};
use harness::rabbitmq::RabbitMq;
use harness::relay::Relay;
use harness::stream;
use tokio::sync::MutexGuard;

use super::{STREAM, in_commit_order, repeats};
use crate::setting::{PATIENCE, Setting, ids, text, uuid};

/// Events go to a super stream of so many partitions.
pub(super) async fn spread(partitions: u32) -> Result<(MutexGuard<'static, RabbitMq>, Setting)> {
    let (rabbitmq, setting) = Setting::streaming(STREAM).await?;
    let setting = over(&setting, partitions);
    setting.init().await?;
    Ok((rabbitmq, setting))
}

fn over(setting: &Setting, partitions: u32) -> Setting {
    let setting = setting.clone().set("tables.0.sink", "super_stream");
    setting.set("tables.0.partitions", &partitions.to_string()).set("session.backoff_min", "50ms")
}

/// What each partition holds.
async fn held(setting: &Setting, partitions: u32) -> Result<Vec<Vec<Delivery>>> {
    let mut all = Vec::new();
    for number in 0..partitions {
        let name = format!("{STREAM}-{number}");
        all.push(stream::kept(stream::read(&setting.amqp_url, &name).await?));
    }
    Ok(all)
}

/// Each event is in one partition, once; there in the order of the commits, and all of an aggregate in one.
fn are_whole(held: &[Vec<Delivery>], expected: &[String]) -> Result<()> {
    let mut homes: BTreeMap<String, usize> = BTreeMap::new();
    for (number, partition) in held.iter().enumerate() {
        in_commit_order(partition)?;
        for delivery in partition {
            let aggregate = text(delivery, "aggregate_id").unwrap_or_default().to_owned();
            assert_eq!(*homes.entry(aggregate).or_insert(number), number, "{delivery:?}");
        }
    }
    let all: Vec<Delivery> = held.iter().flatten().cloned().collect();
    let mut there = ids(&all);
    there.sort();
    assert_eq!((there.as_slice(), repeats(&all).len()), (expected, 0));
    Ok(())
}

pub(super) async fn write(setting: &Setting, numbers: std::ops::RangeInclusive<i64>) -> Result<()> {
    let rows = events(numbers, "good").column("aggregate_type", "'order'");
    setting.insert(rows.column("aggregate_id", "'order-' || n % 40").each()).await
}

async fn marked(setting: &Setting, relay: &Relay, count: i64) -> Result<()> {
    let marked = format!("SELECT count(relayed_at) >= {count} FROM outbox_messages");
    setting.until("rows to be marked", &marked).await.with_context(|| relay.log())
}

/// Killed again and again; and an aggregate goes where other clients look for it.
#[tokio::test]
async fn each_partition_has_its_events_once_over_kills() -> Result<()> {
    const KILLS: i64 = 4;
    const ROWS: i64 = 300;
    let (_rabbitmq, setting) = spread(3).await?;
    let mut relay = setting.run()?;
    for round in 0..KILLS {
        write(&setting, round * ROWS + 1..=(round + 1) * ROWS).await?;
        marked(&setting, &relay, round * ROWS + ROWS / 2).await?;
        relay.kill9().await?;
        relay = setting.run()?;
    }
    setting.all_marked().await.with_context(|| relay.log())?;
    setting.is_acknowledged(&relay).await?;
    relay.drain(PATIENCE).await?;
    let held = held(&setting, 3).await?;
    let expected: Vec<String> =
        (1..=KILLS * ROWS).map(|n| uuid(u32::try_from(n).unwrap_or(0))).collect();
    are_whole(&held, &expected).with_context(|| relay.log())?;
    // By Python's mmh3: hash32("order-7", seed 104729) % 3.
    let of_seven = held.get(2_168_265_435 % 3).context("a partition")?;
    assert!(of_seven.iter().any(|it| text(it, "aggregate_id") == Some("order-7")));
    Ok(())
}

/// What was in flight when the relay was killed would go to other partitions: it is finished first.
#[tokio::test]
async fn another_number_of_partitions_waits_for_a_drain() -> Result<()> {
    let (_rabbitmq, setting) = spread(2).await?;
    let relay = setting.run()?;
    write(&setting, 1..=100).await?;
    marked(&setting, &relay, 20).await?;
    relay.kill9().await?;
    let more = over(&setting, 3);
    more.init().await?;
    let refused = more.run()?;
    let ended = refused.wait_exit(PATIENCE).await.with_context(|| refused.log())?;
    assert_eq!(ended.code(), Some(1), "{}", refused.log());
    refused.wait_for_log("is to have 3 partitions, and had 2", PATIENCE).await?;
    // As its hint says. The broker has three by now, of which two are used.
    let relay = setting.run()?;
    relay.reaches("running", PATIENCE).await?;
    setting.all_marked().await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await?;
    let is_forgotten = "SELECT routes IS NULL FROM pgoutbox.progress";
    assert!(setting.ask::<bool>(is_forgotten).await?, "{}", relay.log());
    let relay = more.run()?;
    write(&setting, 101..=200).await?;
    setting.all_marked().await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await?;
    let held = held(&setting, 3).await?;
    let all: Vec<Delivery> = held.iter().flatten().cloned().collect();
    assert_eq!((all.len(), repeats(&all).len()), (200, 0), "{}", relay.log());
    assert!(held.iter().all(|partition| !partition.is_empty()));
    held.iter().try_for_each(|partition| in_commit_order(partition))
}

/// Streams alone are no super stream: consumers of one would find nothing.
#[tokio::test]
async fn partitions_of_nothing_are_refused() -> Result<()> {
    let (rabbitmq, setting) = spread(2).await?;
    if rabbitmq.version().starts_with("3.10.") {
        // It cannot be asked; `tests/matrix.sh` runs this on a newer one.
        return Ok(());
    }
    let channel = setting.channel().await?;
    channel.exchange_delete(STREAM.into(), Default::default()).await?;
    let check = setting.program.output(&["check"]).await?;
    let told = String::from_utf8_lossy(&check.stdout).into_owned();
    let is_told = told.contains("super stream \"events\" does not exist");
    assert!(is_told && told.contains("init --declare"), "{told}");
    let relay = setting.run()?;
    relay.wait_for_log("super stream \"events\" does not exist", PATIENCE).await?;
    setting.init().await?;
    setting.insert(event(1, "good").of("a")).await?;
    setting.all_marked().await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await?;
    Ok(())
}
