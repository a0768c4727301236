//! Connections that end, or seem to go on, in the middle of something.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::fake_broker::{Answers, Publish};

use crate::setting::{Setting, on_connection};

/// `init --declare` had the first.
const FIRST: u64 = 2;

/// On the relay's first connection, this is said with the hundredth message; on others, all is
/// acked. Whatever was not acked comes again on the second, in order and without a gap.
async fn goes_on_after(
    mut say: impl FnMut(&mut Answers) + Send + 'static,
    settings: &[(&str, &str)],
) -> Result<()> {
    let script =
        move |publish: &Publish<'_>, answers: &mut Answers| match (publish.connection, publish.tag)
        {
            (FIRST, 100) => say(answers),
            (FIRST, _) => {}
            _ => {
                answers.ack(publish.tag);
            }
        };
    let mut setting = Setting::start(script).await?;
    for (key, value) in settings {
        setting = setting.set(key, value);
    }
    let relay = setting.run()?;
    for first in (1..=150).step_by(3) {
        setting.insert(first..=first + 2).await?;
    }
    let copies = setting.judge(&relay, 150, false).await?;
    let again = on_connection(&copies, FIRST + 1);
    let first = again.first().copied().unwrap_or_default();
    ensure!((1..=51).contains(&first), "rows 51 to 100 were not acked: {again:?}");
    ensure!(again.iter().copied().eq(first..=150), "a gap, or out of order: {again:?}");
    ensure!(setting.broker.connections() == FIRST + 1, "it connected once more");
    Ok(())
}

#[tokio::test]
async fn a_connection_cut_in_the_middle_of_an_ack_loses_nothing() -> Result<()> {
    let cut = |answers: &mut Answers| {
        // A reset takes what the client has not read yet.
        let pause = Duration::from_millis(100);
        answers.ack_through(50).later(pause).half_an_ack(100).later(pause).cut();
    };
    goes_on_after(cut, &[]).await
}

#[tokio::test]
async fn half_an_ack_and_then_silence_ends_the_connection() -> Result<()> {
    // lapin hears no heartbeat.
    let silence = |answers: &mut Answers| {
        answers.ack_through(50).half_an_ack(100).silence();
    };
    goes_on_after(silence, &[("amqp.heartbeat", "1s")]).await
}

#[tokio::test]
async fn a_broker_that_acks_no_more_is_given_up() -> Result<()> {
    // It is well, by its heartbeats.
    let settings = [("amqp.heartbeat", "1s"), ("amqp.confirm_timeout", "2s")];
    goes_on_after(
        |answers| {
            answers.ack_through(50);
        },
        &settings,
    )
    .await
}

#[tokio::test]
async fn a_connection_that_an_operator_closes_is_made_again() -> Result<()> {
    let close = |answers: &mut Answers| {
        answers.ack_through(50).later(Duration::from_millis(20));
        answers.close_connection(320, "CONNECTION_FORCED - closed by the operator");
    };
    goes_on_after(close, &[]).await
}
