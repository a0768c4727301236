//! `kill -9` of the relay, of the broker and of both, in mid-stream.

use std::time::Duration;

use anyhow::{Context, Result};
use harness::checker;
use harness::proxy::{Cut, Direction, Proxy};
use harness::rabbitmq::RabbitMq;
use harness::stream;
use harness::wait_until;
use harness::workload::Workload;

use super::{STREAM, in_commit_order, judge};
use crate::setting::{PATIENCE, Setting, steady};
use crate::transactions::{insert_rows, ledger_of_rows};

/// A broker that was killed may take a minute to find the leader of a stream again.
const RECOVERY: Duration = Duration::from_secs(240);

/// RabbitMQ 3.10 may not give a stream its leader back after `kill -9`, not within minutes: there is nothing
/// that a relay could do. `tests/matrix.sh` runs these on a newer one.
fn loses_leaders(rabbitmq: &RabbitMq) -> bool {
    rabbitmq.version().starts_with("3.10.")
}

/// Waits until the relay has marked so many rows more.
async fn more_marked(setting: &Setting, more: i64) -> Result<()> {
    let marked = "SELECT count(*) FROM outbox_messages WHERE relayed_at IS NOT NULL";
    let wanted = setting.ask::<i64>(marked).await? + more;
    let client = setting.client().await?;
    wait_until("rows to be marked", RECOVERY, async || {
        Ok(client.query_one(marked, &[]).await?.try_get::<_, i64>(0)? >= wanted)
    })
    .await
}

#[tokio::test]
async fn the_relay_is_killed_again_and_again() -> Result<()> {
    const KILLS: usize = 12;
    let (_rabbitmq, setting) = Setting::streaming(STREAM).await?;
    let mut relay = setting.run()?;
    let mut load = Workload::start(&setting.database_url, steady()).await?;
    for _ in 0..KILLS {
        more_marked(&setting, 150).await.with_context(|| relay.log())?;
        relay.kill9().await?;
        relay = setting.run()?;
    }
    relay.reaches("running", PATIENCE).await?;
    load.stop();
    let verdict = judge(&setting, &load.finish().await?, &relay).await?;
    println!("{KILLS} kills of the relay\n{verdict}");
    Ok(())
}

/// Its ids reach into the room of later transactions, and come again as they were from its middle on.
#[tokio::test]
async fn the_relay_is_killed_inside_a_huge_transaction() -> Result<()> {
    const ROWS: i64 = 30_000;
    const KILLS: i64 = 3;
    let (_rabbitmq, setting) = Setting::streaming(STREAM).await?;
    insert_rows(&setting, ROWS).await?;
    // Right behind it, where its ids reach.
    let behind = "INSERT INTO outbox_messages (aggregate_type, aggregate_id, event_type, payload)
        SELECT 'order', 'one', 'placed', jsonb_build_object('aggregate', 'one', 'n', n)
          FROM generate_series(40001, 40050) AS n";
    setting.sql(behind).await?;
    let ledger = ledger_of_rows(&setting).await?;
    let mut relay = setting.run()?;
    for _ in 0..KILLS {
        more_marked(&setting, ROWS / (KILLS + 2)).await.with_context(|| relay.log())?;
        relay.kill9().await?;
        assert!(setting.unmarked().await? > 0, "killed too late");
        relay = setting.run()?;
    }
    let verdict = judge(&setting, &ledger, &relay).await?;
    println!("{KILLS} kills inside one transaction\n{verdict}");
    Ok(())
}

/// It is the name that makes the broker drop repeats: under another one after a kill there are some, and
/// these tests see them.
#[tokio::test]
async fn under_another_name_there_are_repeats() -> Result<()> {
    const ROWS: i64 = 20_000;
    let (_rabbitmq, setting) = Setting::streaming(STREAM).await?;
    let relay = setting.run()?;
    relay.reaches("running", PATIENCE).await?;
    // Nothing of what is delivered can be recorded.
    let lock = setting.client().await?;
    lock.batch_execute("BEGIN; LOCK TABLE pgoutbox.progress IN SHARE MODE").await?;
    insert_rows(&setting, ROWS).await?;
    let ledger = ledger_of_rows(&setting).await?;
    wait_until("events in the stream", PATIENCE, async || {
        Ok(!stream::read(&setting.amqp_url, STREAM).await?.is_empty())
    })
    .await
    .with_context(|| relay.log())?;
    relay.kill9().await?;
    // Else what it had asked for is done once the lock is gone.
    let end = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name LIKE 'pgoutbox%'";
    setting.sql(end).await?;
    lock.batch_execute("ROLLBACK").await?;
    setting.sql("UPDATE pgoutbox.progress SET publishing_epoch = NULL").await?;
    let relay = setting.run()?;
    setting.is_acknowledged(&relay).await?;
    relay.drain(PATIENCE).await?;
    let held = stream::kept(stream::read(&setting.amqp_url, STREAM).await?);
    let verdict = checker::check(&ledger, &held, setting.unmarked().await?);
    assert!(verdict.repeated > 0 && verdict.lost == 0, "{verdict}\n{}", relay.log());
    assert!(in_commit_order(&held).is_err());
    Ok(())
}

#[tokio::test]
async fn the_broker_is_killed_again_and_again() -> Result<()> {
    const KILLS: usize = 3;
    let (rabbitmq, setting) = Setting::streaming(STREAM).await?;
    if loses_leaders(&rabbitmq) {
        return Ok(());
    }
    let relay = setting.run()?;
    let mut load = Workload::start(&setting.database_url, steady()).await?;
    for _ in 0..KILLS {
        more_marked(&setting, 200).await.with_context(|| relay.log())?;
        rabbitmq.kill9().await?;
        rabbitmq.start_again().await?;
    }
    more_marked(&setting, 50).await.with_context(|| relay.log())?;
    load.stop();
    let verdict = judge(&setting, &load.finish().await?, &relay).await?;
    println!("{KILLS} kills of the broker\n{verdict}");
    Ok(())
}

#[tokio::test]
async fn relay_and_broker_are_killed_together() -> Result<()> {
    const KILLS: usize = 2;
    let (rabbitmq, setting) = Setting::streaming(STREAM).await?;
    if loses_leaders(&rabbitmq) {
        return Ok(());
    }
    let mut relay = setting.run()?;
    let mut load = Workload::start(&setting.database_url, steady()).await?;
    for _ in 0..KILLS {
        more_marked(&setting, 200).await.with_context(|| relay.log())?;
        let (broker, gone) = tokio::join!(rabbitmq.kill9(), relay.kill9());
        broker?;
        gone?;
        rabbitmq.start_again().await?;
        relay = setting.run()?;
    }
    more_marked(&setting, 50).await.with_context(|| relay.log())?;
    load.stop();
    judge(&setting, &load.finish().await?, &relay).await?;
    Ok(())
}

/// The connection is cut in the middle of a frame, again and again: a new session sends what is in doubt once
/// more, under the same ids.
#[tokio::test]
async fn connections_are_cut_in_the_middle_of_a_frame() -> Result<()> {
    let (rabbitmq, setting) = Setting::streaming(STREAM).await?;
    let proxy = Proxy::start(rabbitmq.stream_port()).await?;
    let setting = setting.set("amqp.stream_port", &proxy.port().to_string());
    let relay = setting.run()?;
    let mut load = Workload::start(&setting.database_url, steady()).await?;
    for bytes in [1_000, 10_007, 30_011] {
        more_marked(&setting, 50).await.with_context(|| relay.log())?;
        proxy.cut_after(bytes, Direction::Up, Cut::Rst);
        more_marked(&setting, 100).await.with_context(|| relay.log())?;
        // What it confirms is cut off too.
        proxy.cut_after(bytes / 10, Direction::Down, Cut::Fin);
    }
    more_marked(&setting, 200).await.with_context(|| relay.log())?;
    load.stop();
    let ledger = load.finish().await?;
    judge(&setting, &ledger, &relay).await?;
    assert!(proxy.connections() > 4, "{} connections\n{}", proxy.connections(), relay.log());
    Ok(())
}
