//! A broker that ends the connection over one message, each time, and does not say which.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::fake_broker::{Answers, Publish};
use harness::wait_until;

use crate::setting::{PATIENCE, Setting};

const BAD: u64 = 13;
const PARKED: &str = "SELECT count(*) FROM pgoutbox.parked";

fn number(publish: &Publish<'_>) -> u64 {
    publish.id.replace('-', "").parse().unwrap_or_default()
}

/// The bad one is parked, exactly that one, and all others are delivered.
async fn is_parked(mut end: impl FnMut(&mut Answers) + Send + 'static) -> Result<()> {
    let script = move |publish: &Publish<'_>, answers: &mut Answers| match number(publish) {
        BAD => end(answers),
        // Acked late, so that all of them are in flight when the connection goes.
        _ => {
            answers.later(Duration::from_millis(20)).ack(publish.tag);
        }
    };
    let setting = Setting::start(script)
        .await?
        .set("parking.backoff_min", "1h")
        .set("parking.backoff_max", "1h");
    let relay = setting.run()?;
    setting.insert(1..=29).await?;
    // Row 23 waits behind row 13, of its aggregate.
    setting.is_marked(27).await.map_err(|error| error.context(relay.log()))?;
    let parked = "SELECT count(*) FROM pgoutbox.parked WHERE reason = 'closed' AND right(event_id, 2) = '13'";
    ensure!(setting.count(parked).await? == 1, "{}", relay.log());
    ensure!(setting.count(PARKED).await? == 2, "{}", relay.log());
    let connections = setting.broker.connections();
    ensure!(connections <= 8, "{connections} connections: {}", relay.log());
    setting.insert(30..=32).await?;
    setting.is_marked(30).await?;
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn an_internal_error_over_one_message_parks_it() -> Result<()> {
    is_parked(|answers| {
        answers.close_connection(541, "INTERNAL_ERROR");
    })
    .await
}

#[tokio::test]
async fn a_channel_error_over_one_message_parks_it() -> Result<()> {
    is_parked(|answers| {
        answers.close_connection(504, "CHANNEL_ERROR - expected 'channel.open'");
    })
    .await
}

#[tokio::test]
async fn a_connection_that_is_cut_over_one_message_parks_it() -> Result<()> {
    is_parked(|answers| {
        answers.cut();
    })
    .await
}

/// A broker that is restarted again and again, whatever it is at, convicts nobody.
#[tokio::test]
async fn a_broker_that_goes_again_and_again_convicts_nobody() -> Result<()> {
    let script = |publish: &Publish<'_>, answers: &mut Answers| {
        // Each connection gets a little further.
        if publish.connection < 12 && publish.tag >= 4 {
            answers.cut();
        } else {
            answers.ack(publish.tag);
        }
    };
    let setting = Setting::start(script).await?.set("session.backoff_max", "100ms");
    let relay = setting.run()?;
    setting.insert(1..=60).await?;
    setting.judge(&relay, 60, false).await?;
    ensure!(!relay.log().contains("is parked"), "{}", relay.log());
    ensure!(setting.count(PARKED).await? == 0, "something was parked");
    Ok(())
}

/// What waits longest is published first when it goes again, and a shutdown is nobody's doing.
#[tokio::test]
async fn a_broker_that_is_stopped_over_the_same_message_convicts_nobody() -> Result<()> {
    let script = |publish: &Publish<'_>, answers: &mut Answers| {
        if publish.connection < 10 {
            answers.close_connection(320, "CONNECTION_FORCED - broker forced connection closure");
        } else {
            answers.ack(publish.tag);
        }
    };
    let setting = Setting::start(script).await?.set("session.backoff_max", "100ms");
    let relay = setting.run()?;
    setting.insert(1..=1).await?;
    wait_until("connections", PATIENCE, async || Ok(setting.broker.connections() >= 10)).await?;
    setting.judge(&relay, 1, false).await?;
    ensure!(!relay.log().contains("is parked"), "{}", relay.log());
    Ok(())
}
