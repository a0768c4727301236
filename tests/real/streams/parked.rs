//! Events that a stream does not take, and those behind them.

use anyhow::{Context, Result};
use harness::events::{event, events};
use harness::stream;

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
