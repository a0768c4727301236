//! Events that a stream does not take, and those behind them.

use anyhow::{Context, Result, ensure};
use harness::events::{event, events};
use harness::relay::Relay;
use harness::{stream, wait_for};

use super::{STREAM, repeats};
use crate::setting::{PATIENCE, Setting, ids, uuid};

/// A message larger than a frame is put aside before it has an id: others go on, its aggregate waits. Once
/// it fits, both are in the stream, however often the relay was killed between.
#[tokio::test]
async fn what_is_too_large_is_parked_and_comes_later() -> Result<()> {
    let (_rabbitmq, setting) = Setting::streaming(STREAM).await?;
    let setting = setting.set("parking.backoff_min", "100ms").set("parking.backoff_max", "1s");
    let mut relay = setting.run()?;
    let large = "jsonb_build_object('filler', repeat('x', 1500000))";
    setting.insert(event(1, "good").of("a").column("payload", large)).await?;
    setting.insert(event(2, "good").of("a")).await?;
    setting.insert(events(3..=30, "good").each()).await?;
    setting
        .until("the others to be marked", "SELECT count(relayed_at) = 28 FROM outbox_messages")
        .await?;
    setting.parking_is(&relay, "1 failed, 2 queued").await?;
    let reason: String = setting.ask("SELECT reason FROM pgoutbox.parked WHERE seq = 1").await?;
    assert_eq!(reason, "frame_too_large");
    relay.kill9().await?;
    // Its body is read from the parking: that is what is mended.
    let small = "UPDATE pgoutbox.parked SET cells[(
                     SELECT number FROM jsonb_array_elements(columns) WITH ORDINALITY AS one (it, number)
                      WHERE it ->> 'name' = 'payload')] = '{}'::bytea WHERE seq = 1";
    setting.sql(small).await?;
    setting.program.succeed(&["parked", "retry", "--id", &uuid(1)]).await?;
    relay = setting.run()?;
    setting.all_marked().await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await?;
    let held = stream::kept(stream::read(&setting.amqp_url, STREAM).await?);
    assert_eq!((held.len(), repeats(&held).len()), (30, 0));
    let ids = ids(&held);
    assert_eq!(ids.get(28..), Some(&[uuid(1), uuid(2)][..]), "in the order of their aggregate");
    Ok(())
}

/// Rows that make no message, more of them in a row than may be parked. No event of a stream is sent before an older
/// one; but that another row makes a message tells that the fault is theirs, and they are parked. Where none comes
/// that does, they wait, and that is told.
#[tokio::test]
async fn rows_beyond_the_limit_wait_for_no_more_than_one_that_makes_a_message() -> Result<()> {
    let (_rabbitmq, setting) = Setting::streaming(STREAM).await?;
    let setting = setting
        .set("parking.limit", "10")
        .set("parking.backoff_min", "1h")
        .set("parking.backoff_max", "1h")
        .set("tables.0.properties.priority", "{payload.priority}")
        .set("session.backoff_max", "500ms");
    let rows = |numbers: std::ops::RangeInclusive<i64>, is_bad: &str| {
        let priority = format!("CASE WHEN {is_bad} THEN 'high' ELSE '1' END");
        events(numbers, "good")
            .column("aggregate_type", "'order'")
            .column("aggregate_id", "CASE n WHEN 66 THEN 65 ELSE n END::text")
            .column("payload", &format!("jsonb_build_object('priority', {priority})"))
    };
    let parked = async |relay: &Relay, refused: i64| {
        let count = "count(*) FILTER (WHERE state = 'parked')";
        let sql =
            format!("SELECT {count} = {refused} AND count(*) = {refused} + 1 FROM pgoutbox.parked");
        setting.until("those and no others to be parked", &sql).await.with_context(|| relay.log())
    };
    let relay = setting.run()?;
    // 60 in a row, then good ones, the first of them of the last one's aggregate.
    setting.insert(rows(1..=70, "n BETWEEN 6 AND 65")).await?;
    parked(&relay, 60).await?;
    let marked = "SELECT count(relayed_at) = 9 FROM outbox_messages";
    setting.until("the good ones to be marked", marked).await.with_context(|| relay.log())?;
    let sessions = relay.log().lines().filter(|line| line.contains(" running ")).count();
    ensure!(sessions == 1, "{}", relay.log());
    // 30 with nothing behind them.
    setting.insert(rows(101..=130, "true")).await?;
    let told = async || {
        let status = setting.status().await?;
        let what = status["fault"]["what"].as_str().unwrap_or_default().to_owned();
        Ok(what.contains("parking.limit is reached").then_some(()))
    };
    wait_for("the stop", PATIENCE, told).await.with_context(|| relay.log())?;
    parked(&relay, 70).await?;
    setting.insert(rows(131..=132, "false")).await?;
    parked(&relay, 90).await?;
    setting.is_acknowledged(&relay).await?;
    relay.drain(PATIENCE).await?;
    let held = stream::kept(stream::read(&setting.amqp_url, STREAM).await?);
    let good = (1..=5).chain(67..=70).chain(131..=132).map(uuid);
    assert_eq!(ids(&held), good.collect::<Vec<_>>());
    Ok(())
}
