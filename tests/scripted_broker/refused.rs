//! Returns and nacks, with the acks of others around them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use harness::fake_broker::{Answers, Publish};
use harness::wait_until;

use crate::setting::{PATIENCE, Setting, times};

/// What is left of the parking once all is delivered.
const PARKED: &str = "SELECT count(*) FROM pgoutbox.parked";

fn number(publish: &Publish<'_>) -> u64 {
    publish.id.replace('-', "").parse().unwrap_or_default()
}

/// Sixty messages wait; then this is said about them, and everything later is acked.
fn on_the_sixtieth(
    mut say: impl FnMut(&mut Answers) + Send + 'static,
) -> impl FnMut(&Publish<'_>, &mut Answers) + Send + 'static {
    move |publish, answers| {
        if publish.number == 60 {
            say(answers);
        } else if publish.number > 60 {
            answers.ack(publish.tag);
        }
    }
}

async fn sixty(setting: Setting, refused: i64) -> Result<()> {
    let setting = setting.set("parking.backoff_min", "10ms");
    let relay = setting.run()?;
    setting.insert(1..=60).await?;
    let copies = setting.judge(&relay, 60, true).await?;
    for row in 1..=60 {
        let times = times(&copies, row);
        // What was behind it in flight had its own ack.
        ensure!(times == if row == refused { 2 } else { 1 }, "row {row} came {times} times");
    }
    ensure!(setting.count(PARKED).await? == 0, "something is still parked");
    Ok(())
}

#[tokio::test]
async fn a_return_is_the_returned_messages_whatever_is_acked_before_its_own_ack() -> Result<()> {
    let script = on_the_sixtieth(|answers| {
        answers.give_back(57).ack_through(50).ack(58).ack(57);
        answers.ack(51).ack(52).ack(60).ack(56).ack(55).ack(54).ack(53).ack(59);
    });
    sixty(Setting::start(script).await?, 57).await
}

#[tokio::test]
async fn a_return_within_a_multiple_ack_is_the_returned_messages() -> Result<()> {
    let script = on_the_sixtieth(|answers| {
        answers.give_back(31).ack_through(60);
    });
    sixty(Setting::start(script).await?, 31).await
}

#[tokio::test]
async fn a_nack_in_the_middle_is_of_that_event_only() -> Result<()> {
    let script = on_the_sixtieth(|answers| {
        answers.nack(30).ack_through(60);
    });
    sixty(Setting::start(script).await?, 30).await
}

#[tokio::test]
async fn many_returns_and_nacks_among_acks_in_any_order_lose_nothing() -> Result<()> {
    let refused = Arc::new(AtomicU64::new(0));
    let told = Arc::clone(&refused);
    let mut random = fastrand::Rng::with_seed(11);
    let mut waiting: Vec<(u64, u64)> = Vec::new();
    let mut first_tries = std::collections::BTreeSet::new();
    let script = move |publish: &Publish<'_>, answers: &mut Answers| {
        // Each thirteenth is refused at its first try; its return comes before its ack, as it
        // always does.
        let number = number(publish);
        let is_first = first_tries.insert(number);
        let fate = if is_first && number.is_multiple_of(13) { 1 + number % 2 } else { 0 };
        told.fetch_add(u64::from(fate > 0), Ordering::Relaxed);
        if fate == 1 {
            answers.give_back(publish.tag);
        }
        waiting.push((publish.tag, fate));
        random.shuffle(&mut waiting);
        // Few wait, so that a window that empties does.
        let count = random.usize(..=waiting.len());
        for (tag, fate) in waiting.drain(..count) {
            if fate == 2 {
                answers.nack(tag)
            } else {
                answers.ack(tag)
            };
        }
        for (tag, fate) in &waiting {
            answers.later(std::time::Duration::from_millis(5));
            if *fate == 2 {
                answers.nack(*tag)
            } else {
                answers.ack(*tag)
            };
        }
        waiting.clear();
    };
    let setting = Setting::start(script)
        .await?
        .set("parking.backoff_min", "10ms")
        .set("parking.backoff_max", "50ms")
        .set("window.messages", "50");
    let relay = setting.run()?;
    for first in (1..=600).step_by(6) {
        setting.insert(first..=first + 5).await?;
    }
    let copies = setting.judge(&relay, 600, true).await?;
    let refused = refused.load(Ordering::Relaxed);
    ensure!(refused == 600 / 13, "{refused} were refused");
    let more = copies.len() - 600;
    ensure!(more == usize::try_from(refused)?, "{more} came again, {refused} were refused");
    ensure!(setting.count(PARKED).await? == 0, "something is still parked");
    Ok(())
}

#[tokio::test]
async fn a_channel_closed_over_a_message_without_naming_it_parks_exactly_that_one() -> Result<()> {
    let script = |publish: &Publish<'_>, answers: &mut Answers| match number(publish) {
        13 if publish.connection < 5 => {
            answers.close_channel(404, "NOT_FOUND - no exchange 'somewhere' in vhost '/'");
        }
        // Acked late, so that all of them are in flight when the channel goes.
        _ => {
            answers.later(std::time::Duration::from_millis(20)).ack(publish.tag);
        }
    };
    let setting = Setting::start(script).await?.set("parking.backoff_min", "1m");
    let relay = setting.run()?;
    setting.insert(1..=29).await?;
    // Rows 23 and so on wait behind row 13, their aggregate's.
    wait_until("the others' marks", PATIENCE, async || {
        let marked = setting.marked().await?;
        Ok(marked.len() == 27)
    })
    .await
    .with_context(|| relay.log())?;
    let parked = "SELECT count(*) FROM pgoutbox.parked WHERE reason = 'closed' AND right(event_id, 2) = '13'";
    ensure!(setting.count(parked).await? == 1, "{}", relay.log());
    let queued =
        "SELECT count(*) FROM pgoutbox.parked WHERE state = 'queued' AND right(event_id, 2) = '23'";
    ensure!(setting.count(queued).await? == 1, "{}", relay.log());
    ensure!(setting.count(PARKED).await? == 2, "{}", relay.log());
    // A new channel each time, and the session goes on.
    ensure!(relay.sessions() == 1, "{} sessions: {}", relay.sessions(), relay.log());
    relay.drain(PATIENCE).await
}

/// Each of the first copies of every tenth message makes the broker close the channel, while acks of
/// others are under way. No answer of a channel counts for a message of the next one, and the session is
/// the same from the first to the last.
#[tokio::test]
async fn channels_that_are_closed_again_and_again_lose_nothing() -> Result<()> {
    let mut times: std::collections::BTreeMap<u64, u32> = std::collections::BTreeMap::new();
    let script = move |publish: &Publish<'_>, answers: &mut Answers| {
        let number = number(publish);
        let time = times.entry(number).or_default();
        *time += 1;
        if number.is_multiple_of(10) && *time <= 3 {
            answers.close_channel(404, "NOT_FOUND - no exchange 'somewhere' in vhost '/'");
            return;
        }
        let delay = std::time::Duration::from_millis(publish.tag % 3 * 10);
        answers.later(delay).ack(publish.tag);
    };
    let setting = Setting::start(script).await?;
    let setting = setting.set("parking.backoff_min", "10ms").set("parking.backoff_max", "50ms");
    let relay = setting.run()?;
    setting.insert(1..=100).await?;
    setting.judge(&relay, 100, true).await?;
    ensure!(setting.count(PARKED).await? == 0, "something is still parked");
    ensure!(relay.sessions() == 1, "{} sessions: {}", relay.sessions(), relay.log());
    ensure!(relay.log().matches("RabbitMQ closed the channel").count() == 1, "{}", relay.log());
    Ok(())
}

/// Its dead letter can have no `message_id`. That no queue takes it is known by its place.
#[tokio::test]
async fn a_returned_dead_letter_without_a_message_id_is_not_delivered() -> Result<()> {
    let script = |publish: &Publish<'_>, answers: &mut Answers| {
        if publish.id.is_empty() {
            answers.give_back(publish.tag);
        }
        answers.ack(publish.tag);
    };
    let setting = Setting::start(script).await?;
    let setting = setting
        .set("tables.0.on_failure", "dead_letter")
        .set("tables.0.dead_letter_exchange", "dead");
    setting.client.batch_execute("ALTER TABLE outbox_messages ALTER COLUMN id TYPE text").await?;
    let relay = setting.run()?;
    let sql = "INSERT INTO outbox_messages (id, aggregate_type, aggregate_id, event_type, payload) \
         SELECT CASE n WHEN 2 THEN repeat('x', 300) ELSE n::text END, 'order', n, 'paid', '{}' \
           FROM generate_series(1, 3) n";
    setting.client.batch_execute(sql).await?;
    let outcome = "SELECT count(*) FROM pgoutbox.parked \
         WHERE state IN ('parked', 'failed') AND length(event_id) = 300";
    wait_until("its dead letter is refused", PATIENCE, async || {
        let count = setting.count(outcome).await?;
        ensure!(count == 1, "{count} are parked");
        Ok(true)
    })
    .await?;
    let delivered = "SELECT count(*) FROM outbox_messages WHERE relayed_at IS NOT NULL";
    wait_until("the others are delivered", PATIENCE, async || {
        Ok(setting.count(delivered).await? == 2)
    })
    .await?;
    relay.drain(PATIENCE).await?;
    let others =
        "SELECT count(*) FROM outbox_messages WHERE relayed_at IS NOT NULL AND length(id) < 9";
    ensure!(setting.count(others).await? == 2, "it is marked:\n{}", relay.log());
    Ok(())
}
