//! A broker that blocks the connection.

use anyhow::{Result, ensure};
use harness::fake_broker::{Answers, Publish};

use crate::setting::{PATIENCE, Setting};

#[tokio::test]
async fn a_blocked_connection_is_kept_and_goes_on_where_it_was() -> Result<()> {
    let script = |publish: &Publish<'_>, answers: &mut Answers| {
        match publish.number {
            100 => {
                answers.ack_through(80).block("low on memory");
            }
            // While it is blocked, a broker acks what it has.
            ..100 => {}
            _ => {
                answers.ack(publish.tag);
            }
        }
    };
    let setting = Setting::start(script).await?;
    let connections = setting.broker.connections();
    let relay = setting.run()?;
    setting.insert(1..=100).await?;
    relay.is_down("broker_blocked", PATIENCE).await?;
    setting.is_marked(80).await?;
    setting.insert(101..=200).await?;
    let marked = setting.marked().await?;
    ensure!(marked.keys().copied().eq(1..=80), "marked: {marked:?}");
    ensure!(setting.broker.published() == 100, "published into a blocked connection");

    setting.broker.order(|answers| {
        answers.ack_through(100).unblock();
    })?;
    let copies = setting.judge(&relay, 200, false).await?;
    ensure!(copies.len() == 200, "something came twice");
    ensure!(setting.broker.connections() == connections + 1, "it connected again");
    Ok(())
}
