//! `docs/consuming.md`: queues as its blocks declare them, and consumers that are killed in the middle.

use anyhow::{Context as _, Result, ensure};
use harness::wait_until;
use lapin::options::BasicGetOptions;
use lapin::types::AMQPValue;

use super::shop::{Shop, paid};
use crate::setting::PATIENCE;

#[tokio::test]
async fn one_consumer_at_a_time_keeps_the_order() -> Result<()> {
    let shop = Shop::of_page("one-consumer", ("", "")).await?;
    let relay = shop.setting.run()?;
    let active = shop.consumer(&[]).await?;
    shop.paid(1..=1).await?;
    shop.shipped(1, &[&active, &relay]).await?;
    let next = shop.consumer(&[]).await?;
    shop.paid(2..=300).await?;
    shop.shipped(50, &[&active, &relay]).await?;
    active.kill9().await?;
    shop.shipped(300, &[&next, &relay]).await?;
    shop.in_order(300).await
}

#[tokio::test]
async fn several_queues_keep_the_order_of_each_aggregate() -> Result<()> {
    let shop = Shop::of_page("many-queues", ("", "")).await?;
    let relay = shop.setting.run()?;
    shop.paid(1..=100).await?;
    let queues: Vec<String> = (0..4).map(|n| format!("orders.{n}")).collect();
    wait_until("the queues to hold all", PATIENCE, async || {
        let mut held = Vec::new();
        for queue in &queues {
            held.push(shop.holds(queue).await?);
        }
        ensure!(held.iter().sum::<u32>() == 100, "they hold {held:?}");
        ensure!(held.iter().filter(|held| **held > 0).count() > 1, "only one is used: {held:?}");
        Ok(true)
    })
    .await
    .with_context(|| relay.log())?;
    let queues = queues.join(",");
    let env = [("QUEUES", queues.as_str())];
    let (first, second) = tokio::try_join!(shop.consumer(&env), shop.consumer(&env))?;
    shop.paid(101..=300).await?;
    shop.shipped(120, &[&first, &second, &relay]).await?;
    first.kill9().await?;
    shop.shipped(300, &[&second, &relay]).await?;
    shop.in_order(300).await
}

#[tokio::test]
async fn an_event_whose_work_fails_again_and_again_is_a_dead_letter() -> Result<()> {
    let shop = Shop::of_page("dead-letters", ("", "")).await?;
    let relay = shop.setting.run()?;
    let first = shop.consumer(&[]).await?;
    // No step is negative.
    shop.setting.insert(paid(-1..=-1, "99")).await?;
    shop.paid(1..=200).await?;
    shop.shipped(50, &[&first, &relay]).await?;
    first.kill9().await?;
    let second = shop.consumer(&[]).await?;
    shop.shipped(200, &[&second, &relay]).await?;
    shop.in_order(200).await?;
    dead_letter(&shop, "delivery_limit").await.with_context(|| second.log())
}

/// What is in the queue of dead letters: the one event, for this reason.
async fn dead_letter(shop: &Shop, reason: &str) -> Result<()> {
    wait_until("a dead letter", PATIENCE, async || Ok(shop.holds("orders.dead").await? == 1))
        .await?;
    let channel = shop.setting.channel().await?;
    let dead = channel.basic_get("orders.dead".into(), BasicGetOptions::default()).await?;
    let dead = dead.context("a dead letter")?;
    let body: serde_json::Value = serde_json::from_slice(&dead.data)?;
    ensure!(body["order"] == 99, "{body}");
    let headers = dead.properties.headers().clone().context("headers")?;
    let Some(AMQPValue::FieldArray(deaths)) = headers.inner().get("x-death") else {
        anyhow::bail!("no x-death in {headers:?}");
    };
    let is_it = |death: &AMQPValue| match death {
        AMQPValue::FieldTable(death) => {
            death.inner().get("reason") == Some(&AMQPValue::LongString(reason.into()))
        }
        _ => false,
    };
    ensure!(deaths.as_slice().iter().any(is_it), "no {reason} in {deaths:?}");
    Ok(())
}

/// One event succeeds once its order is there, another one never does.
#[tokio::test]
async fn an_event_whose_work_fails_comes_again_after_a_delay() -> Result<()> {
    let shop = Shop::of_page("retries", ("x-message-ttl = 30000", "x-message-ttl = 1000")).await?;
    shop.setting
        .sql(
            "INSERT INTO orders SELECT generate_series(0, 9);
             ALTER TABLE shipments ADD FOREIGN KEY (order_id) REFERENCES orders",
        )
        .await?;
    let relay = shop.setting.run()?;
    let env = [("RETRIES", "3")];
    let first = shop.consumer(&env).await?;
    shop.setting.insert(paid(1..=1, "50")).await?;
    shop.paid(1..=200).await?;
    shop.shipped(50, &[&first, &relay]).await?;
    first.kill9().await?;
    let second = shop.consumer(&env).await?;
    shop.shipped(200, &[&second, &relay]).await?;
    let early = "SELECT count(*) FROM shipments WHERE order_id = 50";
    assert_eq!(shop.setting.ask::<i64>(early).await?, 0, "its order is not there yet");
    shop.setting.sql("INSERT INTO orders VALUES (50)").await?;
    shop.shipped(201, &[&second, &relay]).await?;
    shop.in_order(201).await?;
    shop.setting.insert(paid(2..=2, "99")).await?;
    dead_letter(&shop, "rejected").await.with_context(|| second.log())
}
