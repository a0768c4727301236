//! A second relay on the same slot.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use harness::http::get;
use harness::proxy::{Cut, Direction, Proxy};
use harness::relay::Relay;
use harness::wait_until;
use harness::workload::Workload;

use crate::setting::{PATIENCE, Setting, steady};

const STANDBY: &str = "standby: the slot is held by another relay";

/// A relay that has the slot, and one that waits for it.
async fn pair(setting: &Setting) -> Result<(Relay, Relay)> {
    let leader = setting.run()?;
    leader.reaches("running", PATIENCE).await?;
    let standby = setting.run()?;
    standby.reaches("standby", PATIENCE).await?;
    Ok((leader, standby))
}

#[tokio::test]
async fn takes_over_from_a_killed_leader() -> Result<()> {
    let setting = Setting::shared().await?;
    let consumer = setting.consumer().await?;
    let (leader, standby) = pair(&setting).await?;
    let load = Workload::start(&setting.database_url, steady()).await?;
    consumer.wait_distinct(200, PATIENCE).await?;
    assert!(!standby.log().contains("running"), "two leaders:\n{}", standby.log());
    leader.kill9().await?;
    let killed = Instant::now();
    standby.reaches("running", Duration::from_secs(5)).await?;
    let took = killed.elapsed();
    consumer.wait_more(100, PATIENCE).await?;
    let verdict = setting.judge_load(load, consumer, &standby, 1_500).await?;
    println!("took over from a killed leader after {took:.2?}, {} repeats", verdict.repeated);
    Ok(())
}

/// A frozen leader keeps its connections open; only the server's own patience ends them. When it
/// wakes it must find out that it leads no more before it does any harm.
#[tokio::test]
async fn takes_over_from_a_frozen_leader() -> Result<()> {
    let timeout = Duration::from_secs(3);
    let mut setting = Setting::shared().await?;
    setting.env("PGOUTBOX_POSTGRES__WAL_SENDER_TIMEOUT", "3s");
    let consumer = setting.consumer().await?;
    let (leader, standby) = pair(&setting).await?;
    let mut load = Workload::start(&setting.database_url, steady()).await?;
    consumer.wait_distinct(200, PATIENCE).await?;
    leader.sigstop()?;
    let frozen = Instant::now();
    standby.reaches("running", timeout + Duration::from_secs(2)).await?;
    let took = frozen.elapsed();
    // What the leader had in hand when it froze, the new one has delivered by then.
    let committed = load.committed();
    consumer.wait_distinct(committed, PATIENCE).await?;
    leader.sigcont()?;
    leader.reaches("standby", PATIENCE).await?;
    assert!(standby.is_running(), "{}", standby.log());
    consumer.wait_more(100, PATIENCE).await?;
    load.stop();
    let ledger = load.finish().await?;
    leader.drain(PATIENCE).await?;
    // Once as the standby takes over, once as the old leader wakes with some in its hands.
    let verdict = setting.judge(&ledger, consumer, &standby, 2 * 1_500).await?;
    println!("took over from a frozen leader after {took:.2?}, {} repeats", verdict.repeated);
    Ok(())
}

/// A standby that could not publish is none: it notices when its broker goes, whether the
/// connection is cut or falls silent, is not ready meanwhile, and comes back by itself.
#[tokio::test]
async fn a_standby_that_loses_its_broker_says_so_and_comes_back() -> Result<()> {
    let setting = Setting::shared().await?;
    let leader = setting.run()?;
    leader.reaches("running", PATIENCE).await?;
    let rabbitmq = harness::shared::rabbitmq().await?;
    let proxy = Proxy::start(rabbitmq.port()).await?;
    let behind = setting.clone().set("amqp.url", &proxy.url(&setting.amqp_url));
    let behind = behind.set("amqp.heartbeat", "1s").set("amqp.connect_timeout", "5s");
    let standby = behind.run()?;
    let address = standby.http(PATIENCE).await?;
    let until = async |code: u16, count: usize| -> Result<()> {
        let what = format!("/readyz to answer {code}, the standby after {count} tries");
        let is_so = wait_until(&what, PATIENCE, async || {
            let is_standby = standby.log().matches(STANDBY).count() == count;
            Ok(get(address, "/readyz").await?.code == code && is_standby)
        });
        is_so.await.with_context(|| standby.log())
    };
    until(200, 1).await?;
    proxy.refuse(true);
    proxy.cut(Cut::Rst);
    until(503, 1).await?;
    proxy.refuse(false);
    until(200, 2).await?;
    // Nothing comes of it any more, and nothing says so.
    proxy.stall(Direction::Down);
    until(503, 2).await?;
    proxy.resume(Direction::Down);
    until(200, 3).await?;
    leader.kill9().await?;
    standby.reaches("running", PATIENCE).await?;
    standby.drain(PATIENCE).await
}
