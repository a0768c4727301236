//! A fault of the whole is told from many bad events.

use anyhow::{Context, Result, ensure};
use harness::events::{Events, events};
use harness::scenario::{Scenario, Settings};
use harness::wait_for;

use crate::bare::{ids, uuid};
use crate::setting::{PATIENCE, Setting};

const TOLD: Settings = &[
    ("tables.0.exchange", "{event_type} | outbox"),
    ("session.backoff_max", "500ms"),
    // Each try is told.
    ("log.level", "debug"),
];

/// One of each aggregate.
fn events_of(numbers: std::ops::RangeInclusive<i64>, is_bad: &str) -> Events {
    events(numbers, "good")
        .column("aggregate_type", "'order'")
        .column("aggregate_id", "n::text")
        .column("topic", &format!("CASE WHEN {is_bad} THEN 'bad' ELSE 'good' END"))
}

async fn parked(setting: &Setting) -> Result<i64> {
    setting.ask("SELECT count(*) FROM pgoutbox.parked").await
}

/// Many bad events, among good ones and in a row, stop nobody.
#[tokio::test]
async fn bad_events_beyond_the_limit_stop_nobody_while_others_are_delivered() -> Result<()> {
    let (setting, consumer, relay) =
        Scenario::with(TOLD).retries("1h").set("parking.limit", "10").run("good").await?;
    setting.insert(events_of(1..=1_200, "n % 60 = 0")).await?;
    // In a row, and then good ones.
    setting.insert(events_of(1_201..=1_400, "n < 1300")).await?;
    let good = 1_200 - 20 + 101;
    consumer.wait_distinct(good, PATIENCE).await.with_context(|| relay.log())?;
    setting
        .until(
            "the marks",
            "SELECT count(*) = 0 FROM outbox_messages WHERE relayed_at IS NULL AND topic = 'good'",
        )
        .await
        .with_context(|| relay.log())?;
    setting
        .until("all bad ones to be parked", "SELECT count(*) = 119 FROM pgoutbox.parked")
        .await
        .with_context(|| relay.log())?;
    ensure!(consumer.total() == good, "{} came", consumer.total());
    let sessions = relay.log().lines().filter(|line| line.contains(" running ")).count();
    ensure!(sessions == 1, "{}", relay.log());
    relay.drain(PATIENCE).await
}

/// Where nothing is delivered, parking stops at the limit; also where the broker closes the
/// channel each time. Once it is repaired, all goes on by itself.
#[tokio::test]
async fn a_fault_of_the_whole_parks_no_more_than_the_limit() -> Result<()> {
    for exchange in ["", "absent"] {
        let stops = Scenario::with(TOLD).retries("1h").set("parking.limit", "3");
        // After `init`, which would declare it.
        let setting = stops
            .setting()
            .await?
            .set("tables.0.exchange", if exchange.is_empty() { "outbox" } else { exchange });
        let consumer = setting.bound("nothing").await?;
        let relay = setting.run()?;
        setting.insert(events_of(1..=40, "false")).await?;
        let told = async || {
            let status = setting.status().await?;
            let what = status["fault"]["what"].as_str().unwrap_or_default().to_owned();
            Ok(what.contains("parking.limit is reached").then_some(()))
        };
        wait_for("the stop", PATIENCE, told).await.with_context(|| relay.log())?;
        // It is tried on, and nothing more is parked.
        let before = relay.log().matches("parking.limit is reached").count();
        wait_for("more tries", PATIENCE, async || {
            let tries = relay.log().matches("parking.limit is reached").count();
            Ok((tries > before + 3).then_some(()))
        })
        .await?;
        ensure!(parked(&setting).await? == 3, "{} are parked", parked(&setting).await?);
        let channel = setting.channel().await?;
        if !exchange.is_empty() {
            let options =
                lapin::options::ExchangeDeclareOptions { durable: true, ..Default::default() };
            let kind = lapin::ExchangeKind::Topic;
            channel.exchange_declare(exchange.into(), kind, options, Default::default()).await?;
        }
        let from = if exchange.is_empty() { "outbox" } else { exchange };
        channel
            .queue_bind(
                "consumer".into(),
                from.into(),
                "good".into(),
                Default::default(),
                Default::default(),
            )
            .await?;
        consumer.wait_distinct(37, PATIENCE).await.with_context(|| relay.log())?;
        let firsts: Vec<String> = (4..=40).map(uuid).collect();
        let came = ids(&consumer.deliveries(<[_]>::to_vec));
        ensure!(came == firsts, "{came:?}");
        relay.drain(PATIENCE).await?;
    }
    Ok(())
}
