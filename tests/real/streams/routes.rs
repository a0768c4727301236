//! Events that go to another stream than before a crash: that one knows nothing of them, and has later ones.

use anyhow::{Context, Result};
use harness::events::{event, events};
use harness::proxy::{Direction, Proxy};
use harness::relay::Relay;
use harness::stream;
use harness::wait_until;

use super::{STREAM, repeats};
use crate::setting::{PATIENCE, Setting, ids, uuid};

/// Its events go to an exchange, and those of `outbox_messages` to the stream.
async fn beside(setting: Setting) -> Result<Setting> {
    setting.sql("CREATE TABLE queued (LIKE outbox_messages INCLUDING ALL)").await?;
    // As if it had been there from the start: nothing is listed, all comes by the slot.
    setting.sql("SELECT pg_drop_replication_slot(current_database()::name)").await?;
    setting.sql("DROP PUBLICATION pgoutbox; DELETE FROM pgoutbox.progress").await?;
    let setting = setting.set("tables.1.name", "queued").set("session.backoff_min", "50ms");
    setting.init().await?;
    Ok(setting)
}

async fn is_marked(setting: &Setting, table: &str, count: i64, relay: &Relay) -> Result<()> {
    let marked = format!("SELECT count(relayed_at) >= {count} FROM {table}");
    setting.until("rows to be marked", &marked).await.with_context(|| relay.log())
}

/// What was in flight to the exchange goes to the stream after a crash, which has events by then that were
/// committed later: none is dropped.
#[tokio::test]
async fn one_that_was_in_flight_elsewhere_is_not_dropped() -> Result<()> {
    let (rabbitmq, setting) = Setting::streaming(STREAM).await?;
    let setting = beside(setting).await?;
    let by_amqp = Proxy::start(rabbitmq.port()).await?;
    let through = setting.clone().set("amqp.url", &by_amqp.url(&setting.amqp_url));
    let relay = through.run()?;
    relay.reaches("running", PATIENCE).await?;
    by_amqp.stall(Direction::Up);
    setting.insert(event(1_000, "good").table("queued")).await?;
    setting.insert(events(1..=20, "good").each()).await?;
    wait_until("the others in the stream", PATIENCE, async || {
        Ok(stream::read(&setting.amqp_url, STREAM).await?.len() == 20)
    })
    .await
    .with_context(|| relay.log())?;
    relay.kill9().await?;
    let both = setting.set("tables.1.sink", "stream").set("tables.1.stream", STREAM);
    let relay = both.run()?;
    is_marked(&both, "queued", 1, &relay).await?;
    relay.drain(PATIENCE).await?;
    let held = stream::kept(stream::read(&both.amqp_url, STREAM).await?);
    assert!(ids(&held).contains(&uuid(1_000)), "{}", relay.log());
    Ok(())
}

/// A relay that was stopped in good order has nothing in flight: it keeps its name, and repeats nothing, wherever
/// events go from then on.
#[tokio::test]
async fn another_way_after_a_drain_keeps_the_name() -> Result<()> {
    let (_rabbitmq, setting) = Setting::streaming(STREAM).await?;
    let setting = beside(setting).await?;
    let epoch = "SELECT publishing_epoch::text FROM pgoutbox.progress";
    let relay = setting.run()?;
    setting.insert(events(1..=20, "good").each()).await?;
    is_marked(&setting, "outbox_messages", 20, &relay).await?;
    let name: String = setting.ask(epoch).await?;
    relay.drain(PATIENCE).await?;
    assert!(setting.ask::<bool>("SELECT routes IS NULL FROM pgoutbox.progress").await?);
    let both = setting.set("tables.1.sink", "stream").set("tables.1.stream", STREAM);
    let relay = both.run()?;
    both.insert(event(1_000, "good").table("queued")).await?;
    is_marked(&both, "queued", 1, &relay).await?;
    assert_eq!(both.ask::<String>(epoch).await?, name, "{}", relay.log());
    relay.drain(PATIENCE).await?;
    let held = stream::kept(stream::read(&both.amqp_url, STREAM).await?);
    assert_eq!((held.len(), repeats(&held).len()), (21, 0), "{}", relay.log());
    Ok(())
}
