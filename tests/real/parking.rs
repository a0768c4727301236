//! Events that cannot be delivered are put aside: their aggregate waits, all others flow on.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use harness::consumer::{self, QueueType};
use harness::events::{event, events};
use harness::scenario::{QUICK, Scenario, Settings};
use harness::wait_for;
use lapin::options::BasicGetOptions;
use lapin::types::AMQPValue;

use crate::bare::{arrived, ids, uuid};
use crate::setting::{PATIENCE, Setting};

/// With quick retries. The exchange of an event is its type, where it has one.
const RETRIES: Settings = &[
    ("tables.0.exchange", "{event_type} | outbox"),
    ("session.backoff_min", "50ms"),
    ("session.backoff_max", "200ms"),
    ("parking.backoff_min", "100ms"),
    ("parking.backoff_max", "400ms"),
    // However long a busy machine takes to look.
    ("parking.max_attempts", "1000000"),
];

async fn marks(setting: &Setting) -> Result<Vec<bool>> {
    setting.ask("SELECT array_agg(relayed_at IS NOT NULL ORDER BY id) FROM outbox_messages").await
}

#[tokio::test]
async fn an_aggregate_waits_and_follows_in_order_while_others_flow() -> Result<()> {
    let (setting, consumer, relay) = Scenario::with(RETRIES).run("good").await?;
    setting.insert(event(1, "good").of("a")).await?;
    setting.insert(event(2, "late").of("a")).await?;
    setting.parking_is(&relay, "2 parked").await?;
    setting.insert(event(3, "good").of("a")).await?;
    setting.insert(event(4, "good").of("b")).await?;
    setting.insert(event(5, "good").of("a")).await?;
    setting.parking_is(&relay, "2 parked, 3 queued, 5 queued").await?;
    // The WAL is not held by it.
    setting.is_acknowledged(&relay).await?;
    assert_eq!(ids(&arrived(&consumer, 2).await?), [uuid(1), uuid(4)]);
    assert_eq!(marks(&setting).await?, [true, false, false, true, false]);
    let shown: (i32, bool) = {
        let client = setting.client().await?;
        let row = client
            .query_one(
                "SELECT attempt, last_error LIKE '%NO_ROUTE%' AND failed_at IS NULL FROM outbox_messages WHERE id = $1::text::uuid",
                &[&uuid(2)],
            )
            .await?;
        (row.get(0), row.get(1))
    };
    assert!(shown.0 >= 1 && shown.1, "{shown:?}");
    setting.bind("late").await?;
    setting.all_marked().await.with_context(|| relay.log())?;
    setting.parking_is(&relay, "").await?;
    let line = format!("parked event {} is delivered, after ", uuid(2));
    let log = relay.wait_for_log(&line, PATIENCE).await?;
    assert_eq!(log.matches("is delivered, after").count(), 1, "the one that was refused: {log}");
    setting.insert(event(6, "good").of("a")).await?;
    let came = ids(&arrived(&consumer, 6).await?);
    assert_eq!(came, [1, 4, 2, 3, 5, 6].map(uuid), "in the order of their commits");
    setting.all_marked().await?;
    relay.drain(PATIENCE).await?;
    Ok(())
}

/// An aggregate of any rate is free again: behind the first several are in flight, one behind the other.
#[tokio::test]
async fn those_behind_the_first_are_in_flight_together_unless_the_order_is_strict() -> Result<()> {
    for ordering in ["pipelined", "strict"] {
        let scenario = Scenario::with(RETRIES)
            .retries("1h")
            .set("window.ordering", ordering)
            .set("log.level", "trace");
        let (setting, consumer, relay) = scenario.run("good").await?;
        setting.insert(event(1, "late").of("a")).await?;
        setting.parking_is(&relay, "1 parked").await?;
        setting.insert(events(2..=4, "good").of("a")).await?;
        setting.insert(event(5, "good").of("b")).await?;
        setting.parking_is(&relay, "1 parked, 2 queued, 3 queued, 4 queued").await?;
        setting.bind("late").await?;
        setting.program.succeed(&["parked", "retry", "--id", &uuid(1)]).await?;
        setting.parking_is(&relay, "").await?;
        let came = ids(&arrived(&consumer, 5).await?);
        assert_eq!(came, [5, 1, 2, 3, 4].map(uuid), "{ordering}");
        relay.drain(PATIENCE).await?;
        let log = relay.log();
        let at = |what: &str, number: u32| {
            let is_it = |line: &&str| line.contains(what) && line.contains(&uuid(number));
            let found = log.lines().enumerate().filter(|(_, line)| is_it(line)).last();
            found.map(|(at, _)| at).with_context(|| format!("{what} of {number}: {log}"))
        };
        let is_behind = at("an event is published", 3)? > at("the broker answers", 2)?;
        assert_eq!(is_behind, ordering == "strict", "{log}");
    }
    Ok(())
}

#[tokio::test]
async fn the_held_aggregates_survive_a_kill() -> Result<()> {
    let (setting, consumer, relay) = Scenario::with(RETRIES).retries("1h").run("good").await?;
    setting.insert(event(1, "late").of("a")).await?;
    setting.parking_is(&relay, "1 parked").await?;
    setting.insert(event(2, "good").of("a")).await?;
    setting.parking_is(&relay, "1 parked, 2 queued").await?;
    relay.kill9().await?;
    setting.insert(event(3, "good").of("a")).await?;
    setting.insert(event(4, "good").of("b")).await?;
    let relay = setting.run()?;
    setting.parking_is(&relay, "1 parked, 2 queued, 3 queued").await?;
    assert_eq!(ids(&arrived(&consumer, 1).await?), [uuid(4)]);
    setting.bind("late").await?;
    // An operator wants it tried now.
    setting.program.succeed(&["parked", "retry", "--aggregate", "order/a"]).await?;
    assert_eq!(ids(&arrived(&consumer, 4).await?), [4, 1, 2, 3].map(uuid));
    setting.all_marked().await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn tries_end_and_a_taken_out_event_lets_its_aggregate_go() -> Result<()> {
    let (setting, consumer, relay) =
        Scenario::with(RETRIES).set("parking.max_attempts", "3").run("good").await?;
    setting.insert(event(1, "late").of("a")).await?;
    setting.parking_is(&relay, "1 failed").await?;
    setting.insert(event(2, "good").of("a")).await?;
    setting.parking_is(&relay, "1 failed, 2 queued").await?;
    let told = setting.program.succeed(&["status"]).await?;
    assert!(told.contains("1 failed of public.outbox_messages"), "{told}");
    assert!(told.contains("pgoutbox parked list --state failed"), "{told}");
    let status = setting.status().await?;
    assert_eq!(status["parked"][0]["state"], "queued", "{status}");
    let row = setting
        .client()
        .await?
        .query_one(
            "SELECT attempt, failed_at IS NOT NULL FROM outbox_messages ORDER BY id LIMIT 1",
            &[],
        )
        .await?;
    assert_eq!((row.get::<_, i32>(0), row.get::<_, bool>(1)), (3, true));
    setting.program.succeed(&["parked", "discard", "--state", "failed", "--yes"]).await?;
    assert_eq!(ids(&arrived(&consumer, 1).await?), [uuid(2)]);
    setting.parking_is(&relay, "1 discarded").await?;
    setting.insert(event(3, "good").of("a")).await?;
    assert_eq!(ids(&arrived(&consumer, 2).await?), [2, 3].map(uuid));
    assert_eq!(marks(&setting).await?.first(), Some(&false), "a discarded event is not relayed");
    relay.drain(PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn exactly_the_one_that_closes_the_channel_is_parked() -> Result<()> {
    let (setting, consumer, relay) =
        Scenario::with(RETRIES).set("parking.max_attempts", "1000").run("#").await?;
    let bad = 137;
    let mut sql = String::from("BEGIN;");
    for number in 1..=300 {
        let (event_type, id) = (if number == bad { "'absent'" } else { "NULL" }, uuid(number));
        sql += &format!(
            "INSERT INTO outbox_messages (id, aggregate_type, aggregate_id, event_type, topic, payload)
             VALUES ('{id}', 'order', '{number}', {event_type}, 'good', '{{}}');"
        );
    }
    setting.client().await?.batch_execute(&(sql + "COMMIT")).await?;
    let sql = "SELECT count(*) FROM outbox_messages WHERE relayed_at IS NOT NULL";
    wait_for("all others", PATIENCE, async || {
        Ok((setting.ask::<i64>(sql).await? == 299).then_some(()))
    })
    .await
    .with_context(|| relay.log())?;
    let parked: String = setting
        .ask("SELECT string_agg(event_id || ' ' || reason, ', ') FROM pgoutbox.parked")
        .await?;
    assert_eq!(parked, format!("{} closed", uuid(bad)));
    let absent = consumer::Options {
        exchange: "absent".to_owned(),
        queue_type: QueueType::Classic,
        ..Default::default()
    };
    consumer::declare(&setting.channel().await?, &absent).await?;
    setting.all_marked().await.with_context(|| relay.log())?;
    drop(consumer);
    relay.drain(PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn a_fault_of_the_whole_is_not_parked() -> Result<()> {
    let (setting, consumer, relay) =
        Scenario::with(RETRIES).set("parking.limit", "5").run("nothing").await?;
    for number in 1..=30 {
        setting.insert(event(number, "late").of(&number.to_string())).await?;
    }
    let status = wait_for("the stop", PATIENCE, async || {
        let status = setting.status().await?;
        Ok(status["fault"]["what"]
            .as_str()
            .is_some_and(|w| w.contains("parking.limit"))
            .then_some(status))
    })
    .await
    .with_context(|| relay.log())?;
    assert!(
        status["fault"]["hint"].as_str().is_some_and(|hint| hint.contains("bind a queue")),
        "{status}"
    );
    assert_eq!(setting.ask::<i64>("SELECT count(*) FROM pgoutbox.parked").await?, 5);
    setting.bind("late").await?;
    setting.all_marked().await.with_context(|| relay.log())?;
    let mut came = ids(&arrived(&consumer, 30).await?);
    came.sort();
    came.dedup();
    assert_eq!(came.len(), 30);
    relay.drain(PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn dead_letters_say_why_and_hold_nothing() -> Result<()> {
    let setting = Scenario::with(RETRIES)
        .set("tables.0.on_failure", "dead_letter")
        .set("tables.0.dead_letter_exchange", "dead")
        .setting()
        .await?;
    let consumer = setting.bound("good").await?;
    let dead = consumer::Options {
        exchange: "dead".to_owned(),
        queue: "dead".to_owned(),
        queue_type: QueueType::Classic,
        ..Default::default()
    };
    let channel = setting.channel().await?;
    consumer::declare(&channel, &dead).await?;
    let relay = setting.run()?;
    setting.insert(event(1, "late").of("a")).await?;
    setting.insert(event(2, "good").of("a")).await?;
    assert_eq!(ids(&arrived(&consumer, 1).await?), [uuid(2)]);
    setting.parking_is(&relay, "1 dead_lettered").await?;
    let got = wait_for("the dead letter", PATIENCE, async || {
        Ok(channel.basic_get("dead".into(), BasicGetOptions { no_ack: true }).await?)
    })
    .await?;
    let properties = &got.delivery.properties;
    assert_eq!(properties.message_id().as_ref().map(|id| id.to_string()), Some(uuid(1)));
    let headers = properties.headers().clone().context("no headers")?;
    let text = |name: &str| match headers.inner().get(name) {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        other => format!("{other:?}"),
    };
    assert_eq!(text("pgoutbox-reason"), "returned");
    assert!(text("pgoutbox-error").contains("NO_ROUTE"), "{}", text("pgoutbox-error"));
    assert_eq!(text("pgoutbox-exchange"), "outbox");
    assert_eq!(text("pgoutbox-routing-key"), "late");
    assert_eq!(text("pgoutbox-table"), "public.outbox_messages");
    setting.is_acknowledged(&relay).await?;
    assert_eq!(marks(&setting).await?, [false, true]);
    let failed: bool = setting
        .ask("SELECT failed_at IS NOT NULL FROM outbox_messages ORDER BY id LIMIT 1")
        .await?;
    assert!(failed, "its row says that it failed");
    // Once it can be delivered, it is sent from its row in the parking.
    setting.bind("late").await?;
    setting.program.succeed(&["replay", "--dead-lettered"]).await?;
    assert_eq!(ids(&arrived(&consumer, 2).await?), [2, 1].map(uuid));
    relay.drain(PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn strict_ordering_lets_nothing_pass_a_nack() -> Result<()> {
    let setting = Scenario::with(RETRIES)
        .set("window.ordering", "strict")
        .set("parking.limit", "100000")
        .setting()
        .await?;
    // It declares the exchange.
    let consumer = setting.bound("nothing").await?;
    let channel = setting.full_queue("good").await?;
    // The queue is emptied one by one, and has room for one.
    let drained = Arc::new(Mutex::new(Vec::new()));
    let drainer = tokio::spawn({
        let (channel, drained) = (channel.clone(), Arc::clone(&drained));
        async move {
            let options = BasicGetOptions { no_ack: true };
            while let Ok(got) = channel.basic_get("full".into(), options).await {
                let id = got
                    .and_then(|got| got.properties.message_id().as_ref().map(|id| id.to_string()));
                drained.lock().expect("nobody panics").extend(id);
            }
        }
    });
    let relay = setting.run()?;
    let mut sql = String::from("BEGIN;");
    for number in 1..=600 {
        let (id, aggregate) = (uuid(number), number % 3);
        sql += &format!(
            "INSERT INTO outbox_messages (id, aggregate_type, aggregate_id, topic, payload)
             VALUES ('{id}', 'order', '{aggregate}', 'good', '{{}}');"
        );
    }
    setting.client().await?.batch_execute(&(sql + "COMMIT")).await?;
    setting.all_marked().await.with_context(|| relay.log())?;
    let came = wait_for("the last", PATIENCE, async || {
        let came: Vec<String> = drained.lock().expect("nobody panics").clone();
        Ok((came.iter().collect::<HashSet<_>>().len() == 600).then_some(came))
    })
    .await?;
    drainer.abort();
    assert!(relay.log().contains("the broker nacked it"), "nothing was refused");
    drop(consumer);
    for aggregate in 0..3 {
        let mut firsts: Vec<&String> = Vec::new();
        for id in &came {
            let number: u32 = id.rsplit('-').next().context("an id")?.parse()?;
            if number % 3 == aggregate && !firsts.contains(&id) {
                firsts.push(id);
            }
        }
        assert_eq!(firsts.len(), 200);
        assert!(firsts.is_sorted(), "{firsts:?}");
    }
    relay.drain(PATIENCE).await?;
    Ok(())
}

/// Incompressible text of so many characters: what no B-tree takes as a key beyond some 2,700 bytes.
const NOISE: &str =
    "(SELECT string_agg(md5(n::text || '{seed}'), '') FROM generate_series(1, {count}) AS n)";

fn noise(seed: &str, characters: usize) -> String {
    NOISE.replace("{seed}", seed).replace("{count}", &(characters / 32).to_string())
}

/// Whatever the size of its id or its aggregate's, an event that is refused is parked, and holds up
/// nobody; also where the tables were made by an older pgoutbox.
#[tokio::test]
async fn ids_of_any_size_are_parked() -> Result<()> {
    let setting =
        Setting::bare().await?.set("parking.backoff_min", "1h").set("parking.backoff_max", "1h");
    // As an older pgoutbox made them.
    setting
        .sql(
            "CREATE TABLE outbox_messages (id text PRIMARY KEY, topic text, payload jsonb, aggregate_type text,
                 aggregate_id text, occurred_at timestamptz DEFAULT now(), relayed_at timestamptz);
             ALTER TABLE outbox_messages DROP CONSTRAINT outbox_messages_pkey;
             ALTER TABLE outbox_messages REPLICA IDENTITY FULL",
        )
        .await?;
    setting.init().await?;
    setting
        .sql(
            "DROP INDEX pgoutbox.parked_place, pgoutbox.parked_id, pgoutbox.parked_row, pgoutbox.parked_waiting;
             CREATE UNIQUE INDEX parked_event ON pgoutbox.parked (outbox, event_id);
             CREATE INDEX parked_behind ON pgoutbox.parked (slot, aggregate_id, seq)
              WHERE state IN ('parked', 'queued', 'failed');
             INSERT INTO pgoutbox.parked (slot, outbox, commit_lsn, index, commit_time, state, is_holding, columns, cells)
             SELECT 'other', 'outbox_messages', '0/1', 0, now(), 'failed', false, '[]', '{}'
               FROM generate_series(1, 2)",
        )
        .await?;
    let told = setting.init().await?;
    assert!(told.contains("parked_place, parked_id, parked_row, parked_waiting"), "{told}");
    let twice: i64 = setting.ask("SELECT count(*) FROM pgoutbox.parked").await?;
    assert_eq!(twice, 1, "one event that had been parked twice");
    setting.sql("DELETE FROM pgoutbox.parked").await?;
    let consumer = setting.bound("good").await?;
    let relay = setting.run()?;
    let (huge, larger) = (noise("a", 3_200), noise("b", 1 << 20));
    let rows = [
        ("'1'", huge.as_str(), "'nobody'"),
        (&noise("id", 3_200), "'x'", "'nobody'"),
        (&noise("other", 1 << 20), &larger, "'nobody'"),
        ("'2'", huge.as_str(), "'good'"),
        ("'3'", "'free'", "'good'"),
    ];
    for (id, aggregate, topic) in rows {
        setting
            .sql(&format!(
                "INSERT INTO outbox_messages (id, aggregate_id, topic, payload) VALUES ({id}, {aggregate}, {topic}, '{{}}')"
            ))
            .await?;
    }
    let states =
        "SELECT coalesce(string_agg(state, ' ' ORDER BY seq), '') = 'parked parked parked queued'
                    FROM pgoutbox.parked";
    setting.until("all to be parked", states).await.with_context(|| relay.log())?;
    assert_eq!(ids(&arrived(&consumer, 1).await?), ["3"]);
    setting.is_acknowledged(&relay).await?;
    assert_eq!(relay.log().matches(" running ").count(), 1, "{}", relay.log());
    // The place is found again by the index: each is parked once.
    setting.bind("nobody").await?;
    setting.program.succeed(&["parked", "retry", "--all"]).await?;
    arrived(&consumer, 3).await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await
}

/// What `pgoutbox.parked` refuses of an event, by a constraint that stands for an encoding, an
/// index or a limit: the event is parked without that, and holds up nobody.
#[tokio::test]
async fn an_event_is_parked_in_the_form_that_can_be_written() -> Result<()> {
    let setting =
        Scenario::with(RETRIES).set("tables.0.exchange", "outbox").retries("1h").setting().await?;
    let consumer = setting.bound("good").await?;
    setting
        .sql(
            "ALTER TABLE pgoutbox.parked ADD CHECK (last_error NOT LIKE '%\"CC\"%'),
                ADD CHECK (aggregate_id NOT LIKE 'long%'),
                ADD CHECK (array_to_string(cells, '') NOT LIKE '%68756765%')",
        )
        .await?;
    let relay = setting.run()?;
    setting.insert(event(1, "nobody").of("a")).await?;
    setting.insert(event(2, "nobody").of("long")).await?;
    setting.insert(event(3, "nobody").of("huge")).await?;
    // Its error holds quotes, as one may hold what the database's encoding has not.
    setting
        .sql(&format!(
            r#"INSERT INTO outbox_messages (id, topic, payload, headers) VALUES ('{}', 'good', '{{}}', '{{"CC": ["x"]}}')"#,
            uuid(4)
        ))
        .await?;
    setting.insert(event(5, "good").of("free")).await?;
    let shown = "SELECT coalesce(string_agg(concat_ws(' ', coalesce(right(event_id, 2), '-'),
                     coalesce(aggregate_id, '-'), cardinality(cells) > 0), ', ' ORDER BY seq), '')
                   = '01 a t, - - t, - - f, 04 - t' FROM pgoutbox.parked";
    setting.until("all to be parked", shown).await.with_context(|| relay.log())?;
    assert_eq!(ids(&arrived(&consumer, 1).await?), [uuid(5)]);
    setting.is_acknowledged(&relay).await?;
    assert_eq!(relay.log().matches(" running ").count(), 1, "{}", relay.log());
    assert!(relay.log().contains("is parked without its row"), "{}", relay.log());
    relay.drain(PATIENCE).await
}

/// The log says that an event is parked once it is: as long as Postgres refuses that, it says why, once.
#[tokio::test]
async fn an_event_is_said_to_be_parked_once_it_is() -> Result<()> {
    let (setting, _consumer, relay) = Scenario::with(QUICK).run("good").await?;
    let refuses = "CREATE SEQUENCE refused; ALTER TABLE pgoutbox.parked ADD CONSTRAINT refuses CHECK (nextval('refused') < 0) NOT VALID";
    setting.sql(refuses).await?;
    setting.insert(event(1, "late").of("a")).await?;
    // Each try is made in several forms.
    setting
        .until("some tries", "SELECT last_value >= 40 FROM refused")
        .await
        .with_context(|| relay.log())?;
    let said = relay.log();
    assert_eq!(said.matches("is parked").count(), 0, "{said}");
    assert_eq!(said.matches("constraint \"refuses\"").count(), 1, "{said}");
    setting.sql("ALTER TABLE pgoutbox.parked DROP CONSTRAINT refuses").await?;
    setting.parking_is(&relay, "1 parked").await?;
    relay.wait_for_log("is parked: the broker returned it", PATIENCE).await?;
    relay.drain(PATIENCE).await
}
