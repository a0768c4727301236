//! Events that cannot be delivered, with `on_failure = "block"`: the relay stops before them, says so, and goes on once
//! what is wrong is repaired.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result};
use harness::consumer::Delivery;
use harness::rabbitmq::Permissions;
use harness::relay::Relay;
use harness::scenario::{Scenario, Settings};
use harness::{shared, wait_for};
use lapin::options::{BasicGetOptions, BasicPublishOptions, QueueBindOptions, QueuePurgeOptions};
use lapin::types::FieldTable;
use serde_json::Value;

use crate::bare::{arrived, ids, uuid};
use crate::setting::{PATIENCE, Setting};

/// Three events, the bad one, three more, each in a transaction of its own.
const BAD: u32 = 4;
const LAST: u32 = 7;
/// What `session.backoff_min` is here: the pauses must be longer than a session takes to start.
const BACKOFF: Duration = Duration::from_millis(400);

/// With a quick and readable retry. The exchange of an event is its type, where it has one.
const BLOCKS: Settings = &[
    ("tables.0.exchange", "{event_type} | outbox"),
    ("tables.0.on_failure", "block"),
    ("session.backoff_min", "400ms"),
    ("session.backoff_max", "1600ms"),
    // Tries that say nothing new are told at debug.
    ("log.level", "info,pgoutbox=debug"),
    ("log.format", "json"),
];

fn good(number: u32) -> String {
    format!(
        "INSERT INTO outbox_messages (id, topic, payload) VALUES ('{}', 'good', '{{}}');",
        uuid(number)
    )
}

async fn insert_around(setting: &Setting, first: u32, bad: &str) -> Result<()> {
    let client = setting.client().await?;
    for number in first..first + LAST {
        let sql = if number == first + BAD - 1 { bad.to_owned() } else { good(number) };
        client.batch_execute(&sql).await.context(sql)?;
    }
    Ok(())
}

fn lines(relay: &Relay) -> Vec<Value> {
    relay.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The lines that say of an event that it cannot be delivered.
fn complaints(relay: &Relay) -> Vec<Value> {
    let is_one =
        |line: &Value| line["message"].as_str().is_some_and(|m| m.contains("cannot be delivered"));
    lines(relay).into_iter().filter(is_one).collect()
}

/// From the complaint to the start of the next session, if there was one yet.
fn paused(relay: &Relay, complaint: &Value) -> Result<Option<Duration>> {
    let at = |line: &Value| -> Result<jiff::Timestamp> {
        Ok(line["timestamp"].as_str().context("no time")?.parse()?)
    };
    let later = lines(relay).into_iter().skip_while(|line| line != complaint);
    let next = later.into_iter().find(|line| line["message"] == "running");
    next.map(|next| Ok(Duration::try_from(at(&next)?.duration_since(at(complaint)?))?)).transpose()
}

/// Waits for the third try, and checks everything that an operator sees and relies on.
async fn is_stuck(setting: &Setting, relay: &Relay, bad: u32, why: &str, hint: &str) -> Result<()> {
    let event = uuid(bad);
    let tries = wait_for("the third try", PATIENCE, async || {
        let tries = complaints(relay);
        anyhow::ensure!(relay.is_running(), "the relay has ended");
        Ok((tries.len() >= 3).then_some(tries))
    })
    .await
    .with_context(|| relay.log())?;
    for (number, line) in tries.iter().take(3).enumerate() {
        let message = line["message"].as_str().unwrap_or_default();
        assert!(message.contains(&event) && message.contains(why), "{line}");
        assert!(line["hint"].as_str().is_some_and(|told| told.contains(hint)), "{line}");
        // Where the broker closed the channel, one session before ended over more than this event,
        // and that was the first failure, unless something was acknowledged in it.
        let before = u64::from(message.contains("closed the channel"));
        let failures = line["failures"].as_u64().context("no number")?;
        let number = u64::try_from(number)?;
        assert!((number + 1..=number + 1 + before).contains(&failures), "{line}");
        let again_in = humantime::parse_duration(line["again_in"].as_str().unwrap_or_default())?;
        let doubled =
            |times: u64| Ok::<_, anyhow::Error>(BACKOFF * 2_u32.pow(u32::try_from(times)?));
        assert!((doubled(number)? / 2..=doubled(number + before)?).contains(&again_in), "{line}");
        let paused = paused(relay, line)?;
        assert!(paused.is_none_or(|paused| paused >= again_in), "{paused:?} after {line}");
    }
    let output = setting.program.output(&["status"]).await?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    for part in [event.as_str(), why, hint, "public.outbox_messages"] {
        assert!(told.contains(part), "no {part:?} in {told}");
    }
    let status = setting.status().await?;
    let fault = &status["fault"];
    assert_eq!((&fault["class"], &fault["event_id"]), (&"event".into(), &event.into()));
    assert!(fault["what"].as_str().is_some_and(|what| what.contains(why)), "{fault}");
    assert!(fault["hint"].as_str().is_some_and(|told| told.contains(hint)), "{fault}");
    assert!(fault["since"].is_string(), "{fault}");
    let marks: Vec<bool> = marks(setting).await?;
    let is_before: Vec<bool> = (1..=u32::try_from(marks.len())?).map(|n| n < bad).collect();
    assert_eq!(marks, is_before, "marked is what stands before the bad one, and no more");
    let commit_lsn = fault["commit_lsn"].as_str().context("no LSN")?;
    let is_held: bool = setting
        .ask(&format!(
            "SELECT confirmed_flush_lsn <= '{commit_lsn}' FROM pg_replication_slots WHERE slot_name = '{}'",
            setting.database
        ))
        .await?;
    assert!(is_held, "acknowledged past {commit_lsn}");
    Ok(())
}

async fn marks(setting: &Setting) -> Result<Vec<bool>> {
    let sql = "SELECT array_agg(relayed_at IS NOT NULL ORDER BY id) FROM outbox_messages";
    setting.ask(sql).await
}

/// Everything is delivered and marked, and nobody is stuck any more.
async fn is_well(setting: &Setting, relay: Relay) -> Result<()> {
    setting.all_marked().await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await?;
    let status = setting.status().await?;
    assert!(status["fault"].is_null(), "{status}");
    setting.program.succeed(&["status"]).await?;
    Ok(())
}

/// Nothing lost. What the broker took behind the bad one comes once more, and not with each
/// try; from the bad one on all is in order.
fn nothing_lost(came: &[String], bad: u32) {
    let copies = |number: u32| came.iter().filter(|id| **id == uuid(number)).count();
    for number in 1..=LAST {
        let most = if number > bad { 2 } else { 1 };
        assert!((1..=most).contains(&copies(number)), "{number}: {came:?}");
    }
    let tail: Vec<_> = came.iter().skip_while(|id| **id != uuid(bad)).cloned().collect();
    assert_eq!(tail, (bad..=LAST).map(uuid).collect::<Vec<_>>());
}

#[tokio::test]
async fn unroutable_until_a_queue_is_bound() -> Result<()> {
    let (setting, consumer, relay) = Scenario::with(BLOCKS).run("good").await?;
    let bad = good(BAD).replace("'good'", "'nobody.wants.it'");
    insert_around(&setting, 1, &bad).await?;
    is_stuck(&setting, &relay, BAD, "no queue took it: 312 NO_ROUTE", "bind a queue").await?;
    bind(&setting, "consumer", "outbox", "nobody.#").await?;
    is_well(&setting, relay).await?;
    let came = arrived(&consumer, LAST as usize).await?;
    nothing_lost(&ids(&came), BAD);
    Ok(())
}

/// Where the broker closes the channel: what it had not confirmed comes once more, and the
/// close takes along what came behind the bad one, so that nothing overtakes.
fn in_order(came: &[Delivery], last: u32) {
    let came = ids(came);
    let mut copies = HashMap::new();
    let firsts = came
        .iter()
        .filter(|id| *copies.entry(*id).and_modify(|copies| *copies += 1).or_insert(1) == 1);
    assert_eq!(firsts.cloned().collect::<Vec<_>>(), (1..=last).map(uuid).collect::<Vec<_>>());
    assert!(copies.values().all(|copies| *copies <= 2), "{copies:?}");
}

async fn bind(setting: &Setting, queue: &str, exchange: &str, key: &str) -> Result<()> {
    let options = QueueBindOptions::default();
    let channel = setting.channel().await?;
    let bound = channel.queue_bind(
        queue.into(),
        exchange.into(),
        key.into(),
        options,
        FieldTable::default(),
    );
    Ok(bound.await?)
}

#[tokio::test]
async fn exchange_missing_until_it_is_declared() -> Result<()> {
    let (setting, consumer, relay) = Scenario::with(BLOCKS).run("#").await?;
    let bad =
        good(BAD).replace("(id,", "(event_type, id,").replace("VALUES (", "VALUES ('absent', ");
    insert_around(&setting, 1, &bad).await?;
    let why = "no exchange 'absent'";
    is_stuck(&setting, &relay, BAD, why, "create the exchange").await?;
    setting.exchange("absent").await?;
    is_well(&setting, relay).await?;
    let came = arrived(&consumer, LAST as usize).await?;
    in_order(&came, LAST);
    Ok(())
}

#[tokio::test]
async fn forbidden_until_it_is_granted() -> Result<()> {
    let owner = Scenario::with(BLOCKS).setting().await?;
    let consumer = owner.bound("#").await?;
    owner.exchange("forbidden").await?;
    let rabbitmq = shared::rabbitmq().await?;
    let (name, vhost) = (format!("narrow-{}", owner.vhost), owner.vhost.clone());
    // All that a relay may need: it declares nothing and reads nothing.
    let may_write = async |write| {
        let permissions = Permissions { write, ..Permissions::NONE };
        rabbitmq.add_user(&name, "narrow", &vhost, permissions).await
    };
    may_write("^outbox$").await?;
    let url = rabbitmq.url_as(&format!("{name}:narrow"), rabbitmq.port(), &vhost);
    let setting = owner.set("amqp.url", &url);
    let relay = setting.run()?;
    let bad =
        good(BAD).replace("(id,", "(event_type, id,").replace("VALUES (", "VALUES ('forbidden', ");
    insert_around(&setting, 1, &bad).await?;
    let why = "access to exchange 'forbidden'";
    is_stuck(&setting, &relay, BAD, why, "write permission").await?;
    may_write("^outbox$|^forbidden$").await?;
    is_well(&setting, relay).await?;
    let came = arrived(&consumer, LAST as usize).await?;
    in_order(&came, LAST);
    Ok(())
}

#[tokio::test]
async fn nacked_until_the_queue_has_room() -> Result<()> {
    let setting = Scenario::with(BLOCKS).setting().await?;
    let consumer = setting.bound("good").await?;
    let channel = setting.full_queue("full").await?;
    let options = BasicPublishOptions::default();
    let properties = lapin::BasicProperties::default();
    channel.confirm_select(lapin::options::ConfirmSelectOptions::default()).await?;
    channel
        .basic_publish("".into(), "full".into(), options, b"fills it", properties)
        .await?
        .await?;
    let relay = setting.run()?;
    insert_around(&setting, 1, &good(BAD).replace("'good'", "'full'")).await?;
    is_stuck(&setting, &relay, BAD, "the broker nacked it", "reject-publish").await?;
    channel.queue_purge("full".into(), QueuePurgeOptions::default()).await?;
    is_well(&setting, relay).await?;
    let got = channel.basic_get("full".into(), BasicGetOptions { no_ack: true }).await?;
    let got = got.context("the nacked one did not come")?;
    assert_eq!(got.properties.message_id().as_ref().map(|id| id.to_string()), Some(uuid(BAD)));
    let came = ids(&arrived(&consumer, LAST as usize - 1).await?);
    let copies = |number| came.iter().filter(|id| **id == uuid(number)).count();
    for number in (1..=LAST).filter(|number| *number != BAD) {
        assert!((1..=2).contains(&copies(number)), "{number}: {came:?}");
    }
    assert!(came.ends_with(&[uuid(5), uuid(6), uuid(7)]), "{came:?}");
    Ok(())
}

/// A row that cannot become a message: its columns besides id and `topic = 'good'`, why, the
/// hint, and a setting with which it can.
type Case = (&'static str, &'static str, &'static str, &'static str, (&'static str, &'static str));

const ROWS: [Case; 7] = [
    (
        "payload",
        "to_jsonb(repeat('x', 2000))",
        "its body has 2002 bytes, more than the 1024 of amqp.max_message_bytes",
        "raise amqp.max_message_bytes",
        ("amqp.max_message_bytes", "1MiB"),
    ),
    (
        "headers",
        "jsonb_build_object('large', repeat('x', 131000))",
        "of one frame",
        "move what is large",
        ("tables.0.columns.headers", ""),
    ),
    (
        "headers",
        "'[1, 2]'",
        "its headers cannot be read: it is no JSON object",
        "correct how the application",
        ("tables.0.columns.headers", ""),
    ),
    (
        "headers",
        r#"'{"CC": ["elsewhere"]}'"#,
        r#"its header "CC" would make the broker send copies"#,
        "correct how the application",
        ("tables.0.columns.headers", ""),
    ),
    (
        "headers",
        "jsonb_build_object(repeat('n', 256), 1)",
        "its header name has 256 bytes",
        "shorten it",
        ("tables.0.columns.headers", ""),
    ),
    (
        "topic",
        "repeat('ü', 128)",
        "its routing_key has 256 bytes, more than 255",
        "shorten it",
        ("tables.0.routing_key", "repaired"),
    ),
    (
        "topic",
        "NULL",
        "its routing_key is empty",
        "give the template in [[tables]] another alternative",
        ("tables.0.routing_key", "{topic} | repaired"),
    ),
];

#[tokio::test]
async fn rows_that_make_no_message_until_the_settings_take_them() -> Result<()> {
    let setting = Scenario::with(BLOCKS).set("amqp.max_message_bytes", "1KiB").setting().await?;
    let consumer = setting.bound("#").await?;
    let mut first = 1;
    for (column, value, why, hint, (key, repaired)) in ROWS {
        let bad = first + BAD - 1;
        let relay = setting.run()?;
        let (payload, topic) = match column {
            "payload" => (value, "'good'"),
            "topic" => ("'{}'", value),
            _ => ("'{}'", "'good'"),
        };
        let headers = if column == "headers" { value } else { "'{}'" };
        let sql = format!(
            "INSERT INTO outbox_messages (id, topic, payload, headers) VALUES ('{}', {topic}, {payload}, {headers})",
            uuid(bad)
        );
        insert_around(&setting, first, &sql).await?;
        is_stuck(&setting, &relay, bad, why, hint).await?;
        // Told to stop while it waits, it need not settle what it cannot.
        relay.drain(PATIENCE).await?;
        let repaired = setting.clone().set(key, repaired);
        is_well(&setting, repaired.run()?).await.with_context(|| why)?;
        first += LAST;
    }
    // None was ever published in vain, so each comes once and in order.
    let came = arrived(&consumer, first as usize - 1).await?;
    assert_eq!(ids(&came), (1..first).map(uuid).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test]
async fn one_bad_among_a_thousand_is_named() -> Result<()> {
    const ALL: u32 = 1_001;
    const ONE: u32 = 613;
    let setting = Scenario::with(BLOCKS).setting().await?;
    let consumer = setting.bound("#").await?;
    setting
        .sql(&format!(
            "INSERT INTO outbox_messages (id, event_type, topic, payload)
             SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid,
                    CASE WHEN n = {ONE} THEN 'absent' END, 'good', '{{}}'
               FROM generate_series(1, {ALL}) AS n"
        ))
        .await?;
    let relay = setting.run()?;
    is_stuck(&setting, &relay, ONE, "no exchange 'absent'", "create the exchange").await?;
    let named =
        complaints(&relay).iter().filter(|line| !line.to_string().contains(&uuid(ONE))).count();
    assert_eq!(named, 0, "another event was blamed: {}", relay.log());
    let published: u64 = lines(&relay).iter().filter_map(|line| line["published"].as_u64()).sum();
    assert!(published < 2_000 + 100, "{published} publishes");
    setting.exchange("absent").await?;
    is_well(&setting, relay).await?;
    consumer.wait_distinct(ALL as usize, PATIENCE).await?;
    in_order(&consumer.finish(), ALL);
    Ok(())
}
