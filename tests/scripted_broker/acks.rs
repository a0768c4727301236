//! Acks late, together, and in any order.

use anyhow::{Result, ensure};
use harness::fake_broker::{Answers, Publish};

use crate::setting::{PATIENCE, Setting, on_connection, times};

fn says_nothing(_: &Publish<'_>, _: &mut Answers) {}

#[tokio::test]
async fn a_multiple_ack_marks_what_it_covers_and_no_more() -> Result<()> {
    let setting = Setting::start(says_nothing).await?;
    let relay = setting.run()?;
    setting.insert(1..=100).await?;
    setting.insert(101..=300).await?;
    setting.came(300).await?;
    ensure!(setting.marked().await?.is_empty(), "marked without an ack");

    setting.broker.order(|answers| {
        answers.ack_through(117);
    })?;
    setting.is_marked(117).await?;
    let marked = setting.marked().await?;
    ensure!(marked.keys().copied().eq(1..=117), "marked: {marked:?}");

    setting.broker.order(|answers| {
        answers.ack_through(300);
    })?;
    let copies = setting.judge(&relay, 300, false).await?;
    ensure!(copies.len() == 300, "something came twice");
    Ok(())
}

#[tokio::test]
async fn acks_come_late_and_only_together() -> Result<()> {
    let script = |publish: &Publish<'_>, answers: &mut Answers| {
        if publish.number.is_multiple_of(50) {
            answers.later(std::time::Duration::from_millis(200)).ack_through(publish.tag);
        }
    };
    // The window is full before the first ack.
    let setting = Setting::start(script).await?.set("window.messages", "100");
    let relay = setting.run()?;
    for first in (1..=1_000).step_by(8) {
        setting.insert(first..=first + 7).await?;
    }
    let copies = setting.judge(&relay, 1_000, false).await?;
    ensure!(copies.len() == 1_000, "something came twice");
    Ok(())
}

#[tokio::test]
async fn acks_come_in_any_order() -> Result<()> {
    let mut open = Vec::new();
    let mut random = fastrand::Rng::with_seed(7);
    let script = move |publish: &Publish<'_>, answers: &mut Answers| {
        open.push(publish.tag);
        if open.len() == 20 {
            random.shuffle(&mut open);
            // Some stay for the next round.
            let is_last = publish.number == 1_000;
            for tag in open.drain(if is_last { 0 } else { 5 }..) {
                answers.ack(tag);
            }
        } else if publish.number == 1_000 {
            open.drain(..).for_each(|tag| {
                answers.ack(tag);
            });
        }
    };
    let setting = Setting::start(script).await?;
    let relay = setting.run()?;
    for first in (1..=1_000).step_by(20) {
        setting.insert(first..=first + 19).await?;
    }
    let copies = setting.judge(&relay, 1_000, false).await?;
    ensure!(copies.len() == 1_000, "something came twice");
    Ok(())
}

#[tokio::test]
async fn an_event_without_its_ack_is_published_again_whatever_was_acked_behind_it() -> Result<()> {
    let setting = Setting::start(says_nothing).await?.set("session.drain_timeout", "1s");
    let relay = setting.run()?;
    setting.insert(1..=10).await?;
    setting.came(10).await?;
    setting.broker.order(|answers| {
        for tag in (2..=10).rev() {
            answers.ack(tag);
        }
        // What the relay says of these tells that it has seen the acks before them.
        answers.block("an alarm").unblock();
    })?;
    relay.wait_for_log("no longer blocks", PATIENCE).await?;
    // It writes the marks of what is settled, and waits in vain for the first.
    relay.term()?;
    ensure!(!relay.wait_exit(PATIENCE).await?.success(), "drained:\n{}", relay.log());
    ensure!(!setting.marked().await?.contains_key(&1), "row 1 was never acked");

    setting.broker.follow(|publish: &Publish<'_>, answers: &mut Answers| {
        answers.ack(publish.tag);
    });
    let relay = setting.run()?;
    let copies = setting.judge(&relay, 10, false).await?;
    ensure!(times(&copies, 1) == 2, "row 1 came {} times", times(&copies, 1));
    // `init --declare` had the first, the relay that is gone the second.
    let again = on_connection(&copies, 3);
    ensure!(again.first() == Some(&1), "{again:?}");
    Ok(())
}
