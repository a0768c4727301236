//! The slot moves on whatever happens in the outbox, and lets Postgres go.

use std::time::Duration;

use anyhow::Result;
use harness::postgres::{Postgres, Shutdown};
use harness::proxy::{Cut, Direction, Proxy};
use harness::workload::Workload;
use harness::{shared, wait_until};

use crate::setting::{PATIENCE, Setting, steady};
use crate::transactions::{insert_rows, ledger_of_rows};

/// A slot that keeps no WAL to speak of.
const NO_LAG_BYTES: i64 = 1 << 20;

#[tokio::test]
async fn a_quiet_outbox_keeps_no_wal() -> Result<()> {
    let (postgres, setting) = Setting::own_postgres().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    insert_rows(&setting, 1).await?;
    consumer.wait_distinct(1, PATIENCE).await?;
    setting.sql("CREATE TABLE busy (id bigint, filler text)").await?;
    for _ in 0..5 {
        let busy = "INSERT INTO busy SELECT n, repeat('x', 100) FROM generate_series(1, 40000) n";
        setting.sql(busy).await?;
    }
    wait_until("the slot to pass the other table's WAL", Duration::from_secs(10), async || {
        Ok(postgres.slot_lag_bytes(&setting.database).await? < NO_LAG_BYTES)
    })
    .await?;
    // A relay that had acknowledged too much would not get this one after a start.
    relay.kill9().await?;
    let more = "INSERT INTO outbox_messages (aggregate_type, aggregate_id, event_type, payload)
        VALUES ('order', 'one', 'placed', '{\"aggregate\": \"one\", \"n\": 2}')";
    setting.sql(more).await?;
    let relay = setting.run()?;
    let ledger = ledger_of_rows(&setting).await?;
    setting.judge(&ledger, consumer, &relay, 0).await?;
    Ok(())
}

/// Stops it fast with the relay attached, as `pg_ctl stop` and every package upgrade do.
async fn stop_fast(postgres: &Postgres, what: &str) -> Result<()> {
    let took = postgres.stop(Shutdown::Fast, Duration::from_secs(20)).await?;
    println!("Postgres stopped {what} in {took:.2?}");
    anyhow::ensure!(took < Duration::from_secs(2), "the stop {what} took {took:.2?}");
    Ok(())
}

#[tokio::test]
async fn postgres_stops_at_once() -> Result<()> {
    let (postgres, mut setting) = Setting::own_postgres().await?;
    let proxy = Proxy::start(shared::rabbitmq().await?.port()).await?;
    let direct = setting.amqp_url.clone();
    setting.env("AMQP_URL", &proxy.url(&direct));
    // The broker is back before a pause of the default length is over.
    setting.env("PGOUTBOX_SESSION__BACKOFF_MAX", "1s");
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    relay.reaches("running", PATIENCE).await?;
    stop_fast(&postgres, "idle").await?;
    postgres.start_again().await?;

    let load = Workload::start(&setting.database_url, steady()).await?;
    consumer.wait_distinct(200, PATIENCE).await?;
    stop_fast(&postgres, "under load").await?;
    postgres.start_again().await?;
    consumer.wait_more(200, PATIENCE).await?;

    // Silence instead of an end: the relay holds on to both servers, and nothing is confirmed.
    proxy.stall(Direction::Down);
    let before = load.committed();
    wait_until("more events", PATIENCE, async || Ok(load.committed() > before + 200)).await?;
    stop_fast(&postgres, "with the broker silent").await?;
    postgres.start_again().await?;
    proxy.refuse(true);
    proxy.cut(Cut::Rst);
    proxy.resume(Direction::Down);
    let before = load.committed();
    wait_until("more events", PATIENCE, async || Ok(load.committed() > before + 200)).await?;
    stop_fast(&postgres, "with the broker down").await?;
    postgres.start_again().await?;
    proxy.refuse(false);

    consumer.wait_more(200, PATIENCE).await?;
    let verdict = setting.judge_load(load, consumer, &relay, 4 * 1_000).await?;
    println!("four stops of Postgres, {} repeats", verdict.repeated);
    Ok(())
}
