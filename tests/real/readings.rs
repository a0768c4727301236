//! What the place in `pgoutbox.progress` says of rows depends on how they were read then: a relay that is ended within
//! a transaction, and goes on with other settings, does not take for delivered what was passed over.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use anyhow::{Context, Result, ensure};
use harness::consumer::Consumer;
use harness::events::{Events, event, events};
use harness::proxy::{Direction, Proxy};
use harness::scenario::{QUICK, Scenario};
use harness::{shared, wait_until};

use crate::setting::{PATIENCE, Setting, uuid};

/// Rows of `aside` that no relay has read yet, and rows of the outbox.
const ASIDE: RangeInclusive<u32> = 1..=200;
const OUTBOX: RangeInclusive<u32> = 1_001..=1_600;
/// Between them, a row of the outbox that no queue takes.
const PARKED: u32 = 999;

fn rows(numbers: RangeInclusive<u32>) -> Events {
    events(i64::from(*numbers.start())..=i64::from(*numbers.end()), "good")
}

/// Two tables in the publication.
async fn both() -> Result<(Setting, Consumer)> {
    let aside = "CREATE TABLE aside (LIKE outbox_messages INCLUDING ALL); \
                 ALTER PUBLICATION pgoutbox ADD TABLE aside";
    let setting = Scenario::with(QUICK)
        .set("window.messages", "20")
        .set("tables.0.name", "outbox_messages")
        .sql(aside)
        .setting()
        .await?;
    let consumer = setting.bound("good").await?;
    Ok((setting, consumer))
}

/// Runs a relay until it is within one transaction of all these rows, and kills it there.
async fn ends_within(setting: &Setting) -> Result<()> {
    let broker = Proxy::start(shared::rabbitmq().await?.port()).await?;
    let through = setting.clone().set("amqp.url", &broker.url(&setting.amqp_url));
    let relay = through.run()?;
    relay.reaches("running", PATIENCE).await?;
    // Some hundred messages.
    broker.stall_after(100_000, Direction::Up);
    let parked = event(PARKED, "nowhere");
    let (aside, outbox) = (rows(ASIDE).table("aside"), rows(OUTBOX));
    setting
        .sql(&format!("BEGIN; {}; {}; {}; COMMIT", aside.sql(), parked.sql(), outbox.sql()))
        .await?;
    let within = "SELECT count(*) = 1 FROM pgoutbox.progress WHERE settled > 210";
    setting.until("a place within the transaction", within).await.with_context(|| relay.log())?;
    relay.kill9().await
}

fn seen(consumer: &Consumer) -> BTreeSet<String> {
    consumer.deliveries(|all| all.iter().filter_map(|it| Some(it.id?.to_string())).collect())
}

/// All of both tables come, and each row is marked.
async fn all_come(setting: &Setting, consumer: &Consumer) -> Result<()> {
    let relay = setting.run()?;
    let marked = "SELECT count(relayed_at) = count(*) FROM (SELECT relayed_at FROM aside UNION ALL \
                  SELECT relayed_at FROM outbox_messages WHERE topic = 'good') AS rows";
    setting.until("rows to be marked", marked).await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await?;
    let wanted: BTreeSet<String> = ASIDE.chain(OUTBOX).map(uuid).collect();
    let come =
        wait_until(
            "all of both tables",
            PATIENCE,
            async || Ok(seen(consumer).is_superset(&wanted)),
        );
    come.await.with_context(|| {
        let missing = wanted.difference(&seen(consumer)).count();
        format!("{missing} rows are marked and were never sent\n{}", relay.log())
    })
}

#[tokio::test]
async fn a_table_that_was_passed_over_is_not_taken_for_delivered() -> Result<()> {
    let (setting, consumer) = both().await?;
    ends_within(&setting).await?;
    all_come(&setting.set("tables.1.name", "aside"), &consumer).await
}

#[tokio::test]
async fn rows_that_a_rule_left_out_are_not_taken_for_delivered() -> Result<()> {
    let (setting, consumer) = both().await?;
    let setting = setting.set("tables.1.name", "aside");
    // The new table's gap is closed first, and it is read.
    let relay = setting.run()?;
    setting.insert(events(5_000..=5_000, "good").table("aside")).await?;
    consumer.wait_distinct(1, PATIENCE).await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await?;
    ends_within(&setting.clone().set("tables.1.except.topic", "good")).await?;
    all_come(&setting, &consumer).await
}

/// A place within a transaction is a number of changes that the publication brings: under another one it is another
/// event's. What was put aside there is still known, and stays discarded.
#[tokio::test]
async fn a_place_counts_under_its_publication_alone() -> Result<()> {
    let (setting, consumer) = both().await?;
    let sql = "CREATE PUBLICATION narrow FOR TABLE outbox_messages WITH (publish = 'insert')";
    setting.sql(sql).await?;
    // A slot knows no publication that was made behind it.
    let relay = setting.run()?;
    setting.insert(events(1_000..=1_000, "good")).await?;
    setting.is_acknowledged(&relay).await?;
    relay.drain(PATIENCE).await?;
    let narrow = setting.clone().set("postgres.publication", "narrow");
    ends_within(&setting).await?;
    setting.program.succeed(&["parked", "discard", "--all", "--yes"]).await?;
    setting.bind("nowhere").await?;
    let relay = narrow.run()?;
    let wanted = OUTBOX.count() + 1;
    consumer.wait_distinct(wanted, PATIENCE).await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await?;
    assert!(!seen(&consumer).contains(&uuid(PARKED)), "{}", relay.log());
    let marked =
        format!("SELECT relayed_at IS NOT NULL FROM outbox_messages WHERE id = '{}'", uuid(PARKED));
    assert!(!setting.ask::<bool>(&marked).await?, "{}", relay.log());
    Ok(())
}

/// A list that was made before the rule is published by the rule.
#[tokio::test]
async fn rows_that_a_rule_leaves_out_are_left_out_of_a_list_under_way() -> Result<()> {
    let setting = Scenario::with(QUICK).set("window.messages", "20").setting().await?;
    let setting = setting.set("tables.0.name", "outbox_messages");
    let consumer = setting.bound("good").await?;
    setting.bind("bad").await?;
    setting.sql("SELECT pg_drop_replication_slot(current_database()::name)").await?;
    setting.insert(rows(ASIDE)).await?;
    setting.insert(rows(OUTBOX).topic("bad")).await?;
    let broker = Proxy::start(shared::rabbitmq().await?.port()).await?;
    broker.stall_after(30_000, Direction::Up);
    let relay = setting.clone().set("amqp.url", &broker.url(&setting.amqp_url)).run()?;
    let within = "SELECT count(*) = 1 FROM pgoutbox.progress WHERE settled > 10";
    setting.until("a place within the list", within).await.with_context(|| relay.log())?;
    relay.kill9().await?;
    let ruled = setting.set("tables.0.except.topic", "bad");
    let relay = ruled.run()?;
    let done = "SELECT count(*) = 0 FROM pgoutbox.catch_up";
    ruled.until("the list to be done", done).await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await?;
    let wanted: BTreeSet<String> = ASIDE.map(uuid).collect();
    assert_eq!(seen(&consumer), wanted, "{}", relay.log());
    let marked =
        "SELECT count(*) FROM outbox_messages WHERE topic = 'bad' AND relayed_at IS NOT NULL";
    assert_eq!(ruled.ask::<i64>(marked).await?, 0);
    Ok(())
}

/// Another table is put into the publication while a transaction is open that writes both: a walsender that runs shows
/// all its rows, one that starts within the transaction only those behind the change. What was settled is told by
/// where it is in the WAL, not by how many came before.
#[tokio::test]
async fn a_place_does_not_count_rows_that_another_session_is_not_shown() -> Result<()> {
    let (rows, pairs) = (10_i64, 80_i64);
    let setting = Scenario::with(QUICK)
        .set("window.messages", "20")
        .sql("CREATE TABLE other (a int)")
        .setting()
        .await?;
    let consumer = setting.bound("good").await?;
    let broker = Proxy::start(shared::rabbitmq().await?.port()).await?;
    let relay = setting.clone().set("amqp.url", &broker.url(&setting.amqp_url)).run()?;
    relay.reaches("running", PATIENCE).await?;
    let large = setting.client().await?;
    large.batch_execute("BEGIN").await?;
    for pair in 0..pairs {
        let outbox = events(1_000 + pair * rows..=999 + (pair + 1) * rows, "good").sql();
        let other = format!("INSERT INTO other SELECT 1 FROM generate_series(1, {rows})");
        large.batch_execute(&format!("{other}; {outbox}")).await?;
    }
    setting.sql("ALTER PUBLICATION pgoutbox ADD TABLE other").await?;
    setting.sql("INSERT INTO other VALUES (1)").await?;
    setting.insert(event(1, "good")).await?;
    consumer.wait_distinct(1, PATIENCE).await.with_context(|| relay.log())?;
    // The small ones come no second time, from which the next walsender would know of the change.
    setting.is_acknowledged(&relay).await?;
    // Some hundred messages.
    broker.stall_after(100_000, Direction::Up);
    large.batch_execute("COMMIT").await?;
    let within = "SELECT settled > 100 FROM pgoutbox.progress";
    setting.until("a place within the transaction", within).await.with_context(|| relay.log())?;
    relay.kill9().await?;
    let relay = setting.run()?;
    setting.all_marked().await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await?;
    let all = usize::try_from(rows * pairs)? + 1;
    let sent = seen(&consumer).len();
    ensure!(sent == all, "{} rows are marked and were never sent\n{}", all - sent, relay.log());
    ensure!(consumer.total() <= all + 200, "{} came of {all}\n{}", consumer.total(), relay.log());
    Ok(())
}
