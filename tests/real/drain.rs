//! SIGTERM, whatever is going on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use harness::consumer::Consumer;
use harness::proxy::{Cut, Direction, Proxy};
use harness::workload::{self, Workload};
use harness::{shared, wait_until};

use crate::setting::{PATIENCE, Setting, steady};

/// More than a goodbye to both servers takes.
const GOODBYE: Duration = Duration::from_secs(8);

#[tokio::test]
async fn a_clean_stop_and_start_repeats_nothing() -> Result<()> {
    let setting = Setting::shared().await?;
    let consumer = setting.consumer().await?;
    // One row a transaction: a drain stops within one only where its row was read and its commit was not
    // yet. What was delivered of it is in the progress row then.
    let options = workload::Options { mix: workload::Mix::SINGLE, ..steady() };
    let mut load = Workload::start(&setting.database_url, options).await?;
    for _ in 0..4 {
        let relay = setting.run()?;
        consumer.wait_more(150, PATIENCE).await?;
        let asked = Instant::now();
        relay.drain(PATIENCE).await?;
        println!("drained under load in {:.2?}", asked.elapsed());
        let (delivered, acknowledged) =
            (last_commit(&setting, &consumer).await?, confirmed(&setting).await?);
        let within = format!(
            "SELECT coalesce(commit_lsn - '0/0' = {delivered} AND settled = 1, false) FROM pgoutbox.progress"
        );
        let is_within: bool = setting.ask(&within).await?;
        assert!(
            acknowledged >= delivered || is_within,
            "delivered {delivered}, acknowledged {acknowledged}"
        );
    }
    load.stop();
    let ledger = load.finish().await?;
    let relay = setting.run()?;
    setting.judge(&ledger, consumer, &relay, 0).await?;
    Ok(())
}

/// The server's log is no place for a stop in order.
#[tokio::test]
async fn the_server_sees_an_orderly_end() -> Result<()> {
    let (postgres, setting) = Setting::own_postgres().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    setting.sql("SELECT pgoutbox.enqueue('t', '{}')").await?;
    consumer.wait_distinct(1, PATIENCE).await?;
    relay.drain(PATIENCE).await?;
    let is_free = "SELECT count(*) = 0 FROM pg_stat_replication";
    setting.until("the walsender's end", is_free).await?;
    let log = postgres.log();
    assert!(!log.contains("client") && !log.contains("EOF"), "{log}");
    Ok(())
}

/// Start of the last delivered transaction's commit record, in bytes: the slot stands behind it
/// if it was acknowledged. Waits for what is still on its way from the broker.
async fn last_commit(setting: &Setting, consumer: &Consumer) -> Result<i64> {
    let client = setting.client().await?;
    let marked = "SELECT count(*) FROM outbox_messages WHERE relayed_at IS NOT NULL";
    let marked: i64 = client.query_one(marked, &[]).await?.get(0);
    consumer.wait_distinct(usize::try_from(marked)?, PATIENCE).await?;
    let lsns: Vec<String> = consumer.deliveries(|deliveries| {
        let lsn = deliveries.iter().filter_map(|delivery| delivery.header("pgoutbox-commit-lsn"));
        lsn.filter_map(|lsn| Some(lsn.as_long_string()?.to_string())).collect()
    });
    let sql = "SELECT (max(lsn::pg_lsn) - '0/0')::bigint FROM unnest($1::text[]) AS lsn";
    Ok(client.query_one(sql, &[&lsns]).await?.try_get(0)?)
}

async fn confirmed(setting: &Setting) -> Result<i64> {
    let sql = "SELECT (confirmed_flush_lsn - '0/0')::bigint FROM pg_replication_slots WHERE slot_name = $1";
    Ok(setting.client().await?.query_one(sql, &[&setting.database]).await?.get(0))
}

/// A broker that confirms nothing, blocked or frozen: the drain has its deadline.
#[tokio::test]
async fn a_silent_broker_does_not_hold_it() -> Result<()> {
    let mut setting = Setting::shared().await?;
    let proxy = Proxy::start(shared::rabbitmq().await?.port()).await?;
    let consumer = setting.consumer().await?;
    let direct = setting.amqp_url.clone();
    setting.env("AMQP_URL", &proxy.url(&direct));
    setting.env("PGOUTBOX_SESSION__DRAIN_TIMEOUT", "2s");
    let relay = setting.run()?;
    let load = Workload::start(&setting.database_url, steady()).await?;
    consumer.wait_distinct(200, PATIENCE).await?;
    proxy.stall(Direction::Down);
    more_is_committed(&load).await?;
    ends_undrained(&relay).await?;

    proxy.cut(Cut::Rst);
    proxy.resume(Direction::Down);
    setting.env("PGOUTBOX_SESSION__DRAIN_TIMEOUT", "60s");
    let relay = setting.run()?;
    consumer.wait_more(100, PATIENCE).await?;
    setting.judge_load(load, consumer, &relay, 1_500).await?;
    Ok(())
}

#[tokio::test]
async fn a_blocked_broker_does_not_hold_it() -> Result<()> {
    let (rabbitmq, mut setting) = Setting::own_rabbitmq().await?;
    setting.env("PGOUTBOX_SESSION__DRAIN_TIMEOUT", "2s");
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    let load = Workload::start(&setting.database_url, steady()).await?;
    consumer.wait_distinct(200, PATIENCE).await?;
    rabbitmq.memory_alarm(true).await?;
    relay.is_down("broker_blocked", PATIENCE).await?;
    ends_undrained(&relay).await?;
    rabbitmq.memory_alarm(false).await?;
    setting.env("PGOUTBOX_SESSION__DRAIN_TIMEOUT", "60s");
    let relay = setting.run()?;
    setting.judge_load(load, consumer, &relay, 1_500).await?;
    Ok(())
}

async fn ends_undrained(relay: &harness::relay::Relay) -> Result<()> {
    let asked = Instant::now();
    relay.term()?;
    let status = relay.wait_exit(Duration::from_secs(2) + GOODBYE).await?;
    println!("undrained, ended with {status} after {:.2?}", asked.elapsed());
    assert!(!status.success(), "it said that it was drained:\n{}", relay.log());
    assert!(relay.log().contains("not drained within"), "{}", relay.log());
    Ok(())
}

#[tokio::test]
async fn it_ends_at_once_where_nothing_can_be_reached() -> Result<()> {
    let mut setting = Setting::shared().await?;
    let (postgres, rabbitmq) = (shared::postgres().await?, shared::rabbitmq().await?);
    let database = Proxy::start(postgres.port()).await?;
    let broker = Proxy::start(rabbitmq.port()).await?;
    let (database_url, amqp_url) = (setting.database_url.clone(), setting.amqp_url.clone());
    setting.env("DATABASE_URL", &database.url(&database_url));
    setting.env("AMQP_URL", &broker.url(&amqp_url));
    // Both refuse, only the broker does, Postgres is silent, the broker is silent.
    for (refuses, stalls) in [("both", ""), ("broker", ""), ("", "database"), ("", "broker")] {
        database.refuse(refuses == "both");
        broker.refuse(!refuses.is_empty());
        for (proxy, name) in [(&database, "database"), (&broker, "broker")] {
            match stalls == name {
                true => proxy.stall(Direction::Down),
                false => proxy.resume(Direction::Down),
            }
        }
        let silent = if stalls == "database" { &database } else { &broker };
        let before = silent.connections();
        let relay = setting.run()?;
        if stalls.is_empty() {
            relay.is_down("fault", PATIENCE).await?;
        } else {
            wait_until(
                "the relay to connect",
                PATIENCE,
                async || Ok(silent.connections() > before),
            )
            .await?;
        }
        let asked = Instant::now();
        relay.term()?;
        let status = relay.wait_exit(Duration::from_secs(2)).await.context("at once")?;
        println!(
            "refused: {refuses:?}, silent: {stalls:?}: {status} after {:.2?}",
            asked.elapsed()
        );
        assert!(status.success(), "{status}:\n{}", relay.log());
    }
    Ok(())
}

/// With strict ordering the second of an aggregate is taken in and waits for the first, over which
/// the broker closes the channel during the drain.
#[tokio::test]
async fn a_closed_channel_does_not_hold_it() -> Result<()> {
    let proxy = Proxy::start(shared::rabbitmq().await?.port()).await?;
    let mut setting = Setting::bare()
        .await?
        .set("tables.0.exchange", "{event_type} | outbox")
        .set("tables.0.hold_aggregate", "false")
        .set("window.ordering", "strict")
        .set("session.drain_timeout", "10m");
    setting.init().await?;
    let consumer = setting.bound("#").await?;
    let amqp_url = setting.amqp_url.clone();
    setting.env("AMQP_URL", &proxy.url(&amqp_url));
    let relay = setting.run()?;
    relay.reaches("running", PATIENCE).await?;
    proxy.stall(Direction::Down);
    let before = proxy.bytes(Direction::Up);
    setting
        .sql(
            "INSERT INTO outbox_messages (aggregate_type, aggregate_id, event_type, topic, payload)
             VALUES ('order', 'a', 'absent', 't', '1'), ('order', 'a', NULL, 't', '2')",
        )
        .await?;
    wait_until("the first to be sent", PATIENCE, async || {
        Ok(proxy.bytes(Direction::Up) > before + 40)
    })
    .await?;
    relay.term()?;
    relay.reaches("draining", PATIENCE).await?;
    proxy.resume(Direction::Down);
    relay.wait_exit(GOODBYE + GOODBYE).await.with_context(|| relay.log())?;
    // The second comes again.
    setting.env("AMQP_URL", &amqp_url);
    let relay = setting.run()?;
    consumer.wait_distinct(1, PATIENCE).await.with_context(|| relay.log())?;
    assert_eq!(consumer.deliveries(|all| all[0].body.clone()), b"2");
    setting.until("the first is parked", "SELECT count(*) = 1 FROM pgoutbox.parked").await?;
    relay.drain(PATIENCE).await
}

async fn more_is_committed(load: &Workload) -> Result<()> {
    let before = load.committed();
    wait_until("more events", PATIENCE, async || Ok(load.committed() > before + 200)).await
}
