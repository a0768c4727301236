//! A broker that breaks the protocol. Nobody can say what such an ack means: the session ends over
//! it, and what was not settled before is published again. No event may be settled by it.

use anyhow::{Result, ensure};
use harness::fake_broker::{Answers, Publish};

use crate::setting::{Setting, on_connection};

/// `init --declare` had the first.
const FIRST: u64 = 2;

/// On the relay's first connection, this is said with the twentieth message. Then all is acked.
/// Returns what came on the second.
async fn after(mut say: impl FnMut(&mut Answers) + Send + 'static) -> Result<Vec<i64>> {
    let script =
        move |publish: &Publish<'_>, answers: &mut Answers| match (publish.connection, publish.tag)
        {
            (FIRST, 20) => say(answers),
            (FIRST, _) => {}
            _ => {
                answers.ack(publish.tag);
            }
        };
    let setting = Setting::start(script).await?;
    let relay = setting.run()?;
    setting.insert(1..=20).await?;
    setting.came(20).await?;
    setting.insert(21..=40).await?;
    let copies = setting.judge(&relay, 40, false).await?;
    ensure!(setting.broker.connections() == FIRST + 1, "connections:\n{}", relay.log());
    let parked = setting.count("SELECT count(*) FROM pgoutbox.parked").await?;
    ensure!(parked == 0, "{parked} are parked:\n{}", relay.log());
    Ok(on_connection(&copies, FIRST + 1))
}

#[tokio::test]
async fn an_ack_of_a_message_never_sent_settles_nothing() -> Result<()> {
    let again = after(|answers| {
        answers.ack_through(5).ack(999);
    })
    .await?;
    let first = again.first().copied().unwrap_or_default();
    ensure!((1..=6).contains(&first), "rows 6 to 20 were not acked: {again:?}");
    Ok(())
}

#[tokio::test]
async fn an_ack_of_the_next_message_settles_it_not_in_advance() -> Result<()> {
    let again = after(|answers| {
        answers.ack(21);
    })
    .await?;
    ensure!(again.first() == Some(&1), "nothing was acked that was sent: {again:?}");
    Ok(())
}

#[tokio::test]
async fn an_ack_twice_settles_no_other_message() -> Result<()> {
    let again = after(|answers| {
        answers.ack(1).ack(1).ack(3);
    })
    .await?;
    let first = again.first().copied().unwrap_or_default();
    ensure!((1..=2).contains(&first), "row 2 was not acked: {again:?}");
    Ok(())
}

#[tokio::test]
async fn a_nack_of_what_was_acked_settles_no_other_message() -> Result<()> {
    let again = after(|answers| {
        answers.ack(1).nack(1).ack_through(3);
    })
    .await?;
    let first = again.first().copied().unwrap_or_default();
    ensure!((1..=4).contains(&first), "row 4 was not acked: {again:?}");
    Ok(())
}

/// What was returned is not known, so no ack behind it can be trusted.
#[tokio::test]
async fn a_return_of_what_is_not_in_flight_settles_nothing() -> Result<()> {
    let again = after(|answers| {
        answers.give_back_one_of("no-such-id").ack_through(20);
    })
    .await?;
    ensure!(again.first() == Some(&1), "one of these came back: {again:?}");
    Ok(())
}

#[tokio::test]
async fn a_second_return_of_a_message_settles_nothing() -> Result<()> {
    let again = after(|answers| {
        answers.give_back(3).give_back(3).ack_through(20);
    })
    .await?;
    ensure!(again.first() == Some(&1), "the second was of another: {again:?}");
    Ok(())
}

#[tokio::test]
async fn a_return_that_cannot_be_read_settles_nothing() -> Result<()> {
    let again = after(|answers| {
        answers.give_back_unreadably().ack_through(20);
    })
    .await?;
    ensure!(again.first() == Some(&1), "one of these came back: {again:?}");
    Ok(())
}

/// The broker closed nothing: no message did it.
#[tokio::test]
async fn a_message_alone_in_flight_is_not_blamed() -> Result<()> {
    let script = |publish: &Publish<'_>, answers: &mut Answers| {
        if publish.connection == FIRST {
            answers.ack(999);
        } else {
            answers.ack(publish.tag);
        }
    };
    let setting = Setting::start(script).await?;
    let relay = setting.run()?;
    setting.insert(1..=1).await?;
    setting.judge(&relay, 1, true).await?;
    ensure!(!relay.log().contains("parked"), "it was parked:\n{}", relay.log());
    Ok(())
}
