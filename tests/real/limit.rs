//! A fault of the whole is told from many bad events.

use anyhow::{Context, Result, ensure};
use harness::wait_for;

use crate::bare::{ids, uuid};
use crate::setting::{PATIENCE, Setting};

async fn setting(limit: &str) -> Result<Setting> {
    let setting = Setting::bare()
        .await?
        .set("tables.0.exchange", "{event_type} | outbox")
        .set("parking.limit", limit)
        .set("session.backoff_max", "500ms")
        // Each try is told.
        .set("log.level", "debug")
        .set("parking.backoff_min", "1h")
        .set("parking.backoff_max", "1h");
    setting.init().await?;
    Ok(setting)
}

async fn insert(setting: &Setting, first: u32, last: u32, is_bad: &str) -> Result<()> {
    setting
        .sql(&format!(
            "INSERT INTO outbox_messages (id, aggregate_type, aggregate_id, topic, payload)
             SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, 'order', n::text,
                    CASE WHEN {is_bad} THEN 'bad' ELSE 'good' END, '{{}}'
               FROM generate_series({first}, {last}) AS n"
        ))
        .await
}

async fn parked(setting: &Setting) -> Result<i64> {
    setting.ask("SELECT count(*) FROM pgoutbox.parked").await
}

/// Many bad events, among good ones and in a row, stop nobody.
#[tokio::test]
async fn bad_events_beyond_the_limit_stop_nobody_while_others_are_delivered() -> Result<()> {
    let setting = setting("10").await?;
    let consumer = setting.bound("good").await?;
    let relay = setting.run()?;
    insert(&setting, 1, 1_200, "n % 60 = 0").await?;
    // In a row, and then good ones.
    insert(&setting, 1_201, 1_400, "n < 1300").await?;
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
        let setting = setting("3")
            .await?
            .set("tables.0.exchange", if exchange.is_empty() { "outbox" } else { exchange });
        let consumer = setting.bound("nothing").await?;
        let relay = setting.run()?;
        insert(&setting, 1, 40, "false").await?;
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
