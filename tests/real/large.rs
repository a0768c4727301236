//! Rows that are far larger than any message: known by their length, parked once, and held in memory once.

use anyhow::{Context, Result, ensure};
use harness::events::{event, events};
use harness::scenario::{QUICK, Scenario, Settings};
use harness::setting::{PATIENCE, Setting, uuid};

use crate::bare::{arrived, ids};

/// Bytes of a large row, as the stream brings it. Copies of it are seen beside what else takes memory.
const BYTES: u64 = 96_000_000;

/// A body of one column, one that is read from hexadecimal digits, and one that is made of several.
const BODIES: [(&str, &str, Settings); 3] = [
    ("jsonb", "to_jsonb(repeat('x', 96000000))", &[]),
    ("bytea", "convert_to(repeat('x', 48000000), 'UTF8')", &[]),
    (
        "jsonb",
        "to_jsonb(repeat('x', 96000000))",
        &[("tables.0.body.data", "{payload:json}"), ("tables.0.body.of", "{aggregate_id}")],
    ),
];

/// It has failed at once, the others flow, and it has come whole.
#[tokio::test]
async fn a_row_of_any_size_is_parked_once_and_held_once() -> Result<()> {
    for (of, payload, body) in BODIES {
        let table =
            format!("ALTER TABLE outbox_messages ALTER COLUMN payload TYPE {of} USING NULL");
        let scenario = Scenario::with(QUICK).sql(&table).set("amqp.max_message_bytes", "1MiB");
        let scenario =
            body.iter().fold(scenario, |scenario, (key, value)| scenario.set(key, value));
        // A try would be at once.
        let scenario = scenario.retries("10ms");
        let (setting, consumer, relay) = scenario.run("good").await?;
        setting.insert(event(1, "good").of("a")).await?;
        setting.all_marked().await?;
        let small = relay.peak_rss_bytes()?;
        setting.insert(event(2, "good").of("large").column("payload", payload)).await?;
        setting.insert(event(3, "good").of("large")).await?;
        setting.insert(event(4, "good").of("b")).await?;
        assert_eq!(ids(&arrived(&consumer, 2).await?), [1, 4].map(uuid));
        setting.parking_is(&relay, "2 failed, 3 queued").await?;
        let took = relay.peak_rss_bytes()?.saturating_sub(small);
        ensure!(took < BYTES * 3 / 2, "{took} bytes for a row of {BYTES}\n{}", relay.log());
        let kept = "SELECT attempts = 1 AND reason = 'body_too_large' AND hint LIKE '%parked retry%' AND next_attempt_at IS NULL
                           AND (SELECT bool_or(length(cell) >= 96000000) FROM unnest(cells) AS cell)
                           AND digest = (SELECT sha256(string_agg(coalesce(sha256(cell), '\\x00'), ''::bytea ORDER BY number))
                                           FROM unnest(cells) WITH ORDINALITY AS one (cell, number))
                           AND xid_end IS NOT NULL AND filenode IS NOT NULL AND tries -> 0 ->> 'times' = '1'
                      FROM pgoutbox.parked WHERE seq = 1";
        ensure!(setting.ask::<bool>(kept).await?, "{of}: {}", relay.log());
        // By the record it is known again.
        relay.kill9().await?;
        let relay = setting.run()?;
        setting.insert(event(5, "good").of("c")).await?;
        assert_eq!(ids(&arrived(&consumer, 3).await?)[2], uuid(5));
        setting.parking_is(&relay, "2 failed, 3 queued").await?;
        relay.drain(PATIENCE).await?;
    }
    Ok(())
}

/// On its way to the broker a body is in memory once: its frames are made as they are written.
#[tokio::test]
async fn a_large_message_is_held_once() -> Result<()> {
    let scenario = Scenario::with(QUICK).set("amqp.max_message_bytes", "127MiB");
    let scenario = scenario.set("window.bytes", "127MiB");
    let (setting, consumer, relay) = scenario.run("good").await?;
    setting.insert(event(1, "good")).await?;
    setting.all_marked().await?;
    let small = relay.peak_rss_bytes()?;
    let payload = format!("to_jsonb(repeat('x', {BYTES}))");
    setting.insert(event(2, "good").column("payload", &payload)).await?;
    setting.insert(event(3, "good")).await?;
    setting.all_marked().await.with_context(|| relay.log())?;
    let took = relay.peak_rss_bytes()?.saturating_sub(small);
    ensure!(took < BYTES * 3 / 2, "{took} bytes for a row of {BYTES}\n{}", relay.log());
    assert_eq!(ids(&arrived(&consumer, 3).await?), [1, 2, 3].map(uuid));
    relay.drain(PATIENCE).await
}

/// The broker's own limit is below ours: it closes the channel, and has said by that how much it takes. The event has
/// failed at once, what was in flight behind it went twice at most, and no other one closes a channel.
#[tokio::test]
async fn a_body_over_the_brokers_limit_is_refused_once() -> Result<()> {
    let (rabbitmq, setting) = Setting::own_rabbitmq().await?;
    rabbitmq.ctl(&["eval", "application:set_env(rabbit, max_message_size, 100000)."]).await?;
    // It is read with each channel in 3.10, and once from later versions on.
    rabbitmq.ctl(&["eval", "catch persistent_term:put(max_message_size, 100000)."]).await?;
    let setting = QUICK.iter().fold(setting, |setting, (key, value)| setting.set(key, value));
    let consumer = setting.bound("good").await?;
    let relay = setting.run()?;
    let large = "to_jsonb(repeat('x', 200000))";
    setting.insert(events(1..=20, "good")).await?;
    setting.insert(event(21, "good").of("large").column("payload", large)).await?;
    setting.insert(events(22..=60, "good")).await?;
    setting.parking_is(&relay, "21 failed").await?;
    setting.insert(event(61, "good").of("larger").column("payload", large)).await?;
    setting.parking_is(&relay, "21 failed, 61 failed").await?;
    consumer.wait_distinct(59, PATIENCE).await.with_context(|| relay.log())?;
    ensure!(consumer.total() <= 2 * 59, "{} came\n{}", consumer.total(), relay.log());
    let kept = "SELECT bool_and(attempts = 1 AND reason = 'body_too_large' AND hint LIKE '%max_message_size on the broker%'
                                AND last_error LIKE '%more than the 100000 of %') FROM pgoutbox.parked";
    ensure!(setting.ask::<bool>(kept).await?, "{}", relay.log());
    let closed = relay.log().matches("closed the channel").count();
    ensure!(closed == 1, "{closed} times\n{}", relay.log());
    relay.drain(PATIENCE).await?;
    let back = "application:unset_env(rabbit, max_message_size), catch persistent_term:erase(max_message_size).";
    rabbitmq.ctl(&["eval", back]).await.map(drop)
}
