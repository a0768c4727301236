//! Events that have no table: messages of `pg_logical_emit_message`, and `pgoutbox.emit`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::consumer::{self, Consumer, Delivery, QueueType};
use harness::relay::Relay;
use harness::scenario::Scenario;
use harness::wait_until;
use lapin::options::BasicGetOptions;
use lapin::types::AMQPValue;
use serde_json::json;

use crate::bare::{arrived, id, ids, text};
use crate::check::Checks as _;
use crate::setting::{PATIENCE, Setting};

/// The window and one batch of marks, by default.
const REPEATS_PER_KILL: usize = 1_500;

/// A relay of messages alone.
async fn alone() -> Result<Setting> {
    Scenario::with(&[("messages.0.prefix", "orders")]).setting().await
}

/// A relay of a table, and of messages.
async fn beside() -> Result<Setting> {
    Scenario::with(&[("tables.0.name", "outbox_messages"), ("messages.0.prefix", "orders")])
        .setting()
        .await
}

/// An event of an aggregate, emitted.
fn emitted(id: &str, aggregate: &str) -> String {
    format!(
        "SELECT pgoutbox.emit('orders', jsonb '{{\"n\": 1}}', topic => 'orders.{id}', aggregate_id => '{aggregate}', id => '{id}');"
    )
}

/// One of the table, whose id is a uuid that ends in a number.
fn inserted(number: u32, aggregate: &str) -> String {
    format!(
        "INSERT INTO outbox_messages (id, topic, aggregate_id, payload) VALUES ('{}', 'orders.row', '{aggregate}', '{{}}');",
        crate::bare::uuid(number)
    )
}

fn place(delivery: &Delivery) -> Option<(String, i64)> {
    let lsn = text(delivery, "pgoutbox-commit-lsn")?.to_owned();
    match delivery.header("pgoutbox-index")? {
        AMQPValue::LongLongInt(index) => Some((lsn, *index)),
        _ => None,
    }
}

async fn acknowledged(setting: &Setting, relay: &Relay) -> Result<()> {
    setting.is_acknowledged(relay).await
}

#[tokio::test]
async fn a_message_is_an_event_in_the_order_of_its_transaction() -> Result<()> {
    let setting = beside().await?;
    let consumer = setting.bound("#").await?;
    let relay = setting.run()?;
    let aborted = emitted("aborted", "a");
    setting.sql(&format!("BEGIN; {aborted} {} ROLLBACK", inserted(99, "a"))).await?;
    setting
        .sql(&format!(
            "BEGIN; {} {} SAVEPOINT s; {} ROLLBACK TO s; SELECT pg_logical_emit_message(true, 'other', 'x'); {} {} COMMIT",
            inserted(1, "a"),
            emitted("m1", "a"),
            emitted("taken back", "a"),
            inserted(2, "a"),
            emitted("m2", "a"),
        ))
        .await?;
    let all = arrived(&consumer, 4).await?;
    ensure!(
        ids(&all) == [&crate::bare::uuid(1), "m1", &crate::bare::uuid(2), "m2"],
        "{:?}",
        ids(&all)
    );
    let places: Vec<_> = all.iter().map(place).collect::<Option<_>>().context("places")?;
    // The other message counts too: a place does not depend on what is configured.
    let indices: Vec<i64> = places.iter().map(|(_, index)| *index).collect();
    ensure!(indices == [0, 1, 3, 4], "{indices:?}");
    ensure!(places.iter().all(|(lsn, _)| *lsn == places[0].0), "one transaction");
    acknowledged(&setting, &relay).await?;
    setting.all_marked().await?;
    relay.drain(PATIENCE).await?;
    ensure!(consumer.total() == 4, "what was rolled back was sent");
    Ok(())
}

#[tokio::test]
async fn a_relay_of_messages_alone_has_no_table() -> Result<()> {
    let setting = alone().await?;
    let consumer = setting.bound("#").await?;
    let relay = setting.run()?;
    relay.wait_for_log("events of [[messages]] have no row", PATIENCE).await?;
    let emit = |arguments: &str| format!("SELECT pgoutbox.emit('orders', {arguments})");
    let own: String = setting.ask(&emit("jsonb '{\"b\": 1, \"a\": 1.0}', topic => 't'")).await?;
    let all = "'{\"b\":1 }', aggregate_type => 'order', aggregate_id => '7', event_type => 'paid', headers => '{\"tenant\": \"acme\"}', \
        id => 'mine', occurred_at => '2026-11-30 12:00:00+00', correlation_id => 'c', content_type => 'text/plain'";
    let mine: String = setting.ask(&emit(all)).await?;
    setting.sql(&emit("decode(repeat('00ff', 100), 'hex'), topic => 't'")).await?;
    setting
        .sql(r#"SELECT pg_logical_emit_message(true, 'orders', '{"id": 4, "topic": "t", "payload": {"b" :1.0, "b": 1e999}}')"#)
        .await?;
    let came = arrived(&consumer, 4).await?;
    let [first, second, third, fourth] = came.as_slice() else { anyhow::bail!("four") };
    ensure!(id(first) == own && own.len() == 36, "{own}");
    ensure!(first.json()? == json!({"a": 1.0, "b": 1}));
    let kind = first.properties.content_type().as_ref().map(|kind| kind.as_str());
    ensure!(kind == Some("application/json"), "{kind:?}");
    ensure!(id(second) == mine && mine == "mine");
    ensure!(second.body == b"{\"b\":1 }", "a text is sent as it is written");
    ensure!(second.routing_key == "order.paid", "{}", second.routing_key);
    ensure!(text(second, "tenant") == Some("acme") && text(second, "aggregate_id") == Some("7"));
    let properties = &second.properties;
    ensure!(*properties.timestamp() == Some(1_796_040_000), "{:?}", properties.timestamp());
    ensure!(properties.correlation_id().as_ref().is_some_and(|it| it.as_str() == "c"));
    ensure!(properties.content_type().as_ref().is_some_and(|it| it.as_str() == "text/plain"));
    ensure!(third.body == [0, 255].repeat(100), "{:?}", third.body);
    ensure!(id(fourth) == "4" && fourth.body == br#"{"b" :1.0, "b": 1e999}"#, "not written anew");
    acknowledged(&setting, &relay).await?;
    let checked = setting.check().await?;
    ensure!(checked.of("messages", "good", "have no row").is_some(), "{checked}");
    for command in [&["check"][..], &["verify"], &["status"], &["parked", "list"]] {
        let output = setting.program.output(command).await?;
        let said = [output.stdout, output.stderr].concat();
        ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said));
    }
    relay.drain(PATIENCE).await?;
    ensure!(setting.init().await?.contains("found   functions pgoutbox.emit"));
    Ok(())
}

/// Nothing but a slot has them, so that one that is lost is not made again without a word.
#[tokio::test]
async fn without_its_slot_a_relay_of_messages_halts() -> Result<()> {
    let setting = beside().await?;
    let relay = setting.run()?;
    relay.reaches("running", PATIENCE).await?;
    relay.drain(PATIENCE).await?;
    setting.sql("SELECT pg_drop_replication_slot(current_database())").await?;
    let relay = setting.run()?;
    let status = relay.wait_exit(PATIENCE).await?;
    ensure!(status.code() == Some(1), "{status}");
    ensure!(relay.log().contains("messages have no rows"), "{}", relay.log());
    let by_name = setting.set("postgres.on_slot_loss", "catch_up");
    by_name.check().await?.has("messages-slot-loss", "warning");
    let relay = by_name.run()?;
    relay.wait_for_log("messages that were emitted meanwhile are lost", PATIENCE).await?;
    relay.reaches("running", PATIENCE).await?;
    relay.drain(PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn a_message_that_is_not_transactional_is_no_event() -> Result<()> {
    let setting = alone().await?;
    let consumer = setting.bound("#").await?;
    let relay = setting.run()?;
    let emit = r#"SELECT pg_logical_emit_message(false, 'orders', '{"id": "x", "payload": 1}')"#;
    setting.sql(&format!("BEGIN; {emit}; ROLLBACK; {emit}; {emit}")).await?;
    setting.sql(&emitted("after", "a")).await?;
    let came = arrived(&consumer, 1).await?;
    ensure!(ids(&came) == ["after"], "{:?}", ids(&came));
    let http = relay.http(PATIENCE).await?;
    let metrics = harness::http::get(http, "/metrics").await?;
    let metrics = metrics.body;
    ensure!(
        metrics.contains("pgoutbox_events_total{outcome=\"not_transactional\"} 3"),
        "{metrics}"
    );
    relay.drain(PATIENCE).await?;
    let told = relay.log().matches("is not transactional, and not an event").count();
    ensure!(told == 1, "told {told} times");
    Ok(())
}

/// The parking has its content. What comes later of its aggregate waits, row or message.
#[tokio::test]
async fn a_parked_message_holds_its_aggregate_and_is_tried_again() -> Result<()> {
    let setting = beside().await?.set("parking.backoff_min", "1h").set("parking.backoff_max", "1h");
    let other = setting.bound("orders.free").await?;
    let relay = setting.run()?;
    setting.sql(&emitted("first", "a")).await?;
    setting.until("it is parked", "SELECT count(*) = 1 FROM pgoutbox.parked").await?;
    setting.sql(&inserted(1, "a")).await?;
    setting.sql(&emitted("third", "a")).await?;
    setting.until("they wait", "SELECT count(*) = 3 FROM pgoutbox.parked").await?;
    setting.sql(&emitted("free", "b")).await?;
    arrived(&other, 1).await?;
    acknowledged(&setting, &relay).await?;
    let list =
        setting.program.succeed(&["parked", "list", "--json", "--table", "message:orders"]).await?;
    let list: serde_json::Value = serde_json::from_str(&list)?;
    let events = list["events"].as_array().context("a list")?;
    ensure!(events.len() == 2 && events[0]["table"] == "message:orders", "{list}");
    let seq = events[0]["seq"].to_string();
    let shown = setting.program.succeed(&["parked", "show", "--seq", &seq]).await?;
    ensure!(shown.contains("message:orders") && shown.contains("orders.first"), "{shown}");

    // Another process, so that nothing but the parking has it.
    relay.kill9().await?;
    // Of the same queue.
    ensure!(ids(&other.finish()) == ["free"]);
    let consumer = setting.bound("#").await?;
    let relay = setting.run()?;
    relay.reaches("running", PATIENCE).await?;
    setting.program.succeed(&["parked", "retry", "--seq", &seq]).await?;
    let came = arrived(&consumer, 3).await?;
    ensure!(ids(&came) == ["first", &crate::bare::uuid(1), "third"], "{:?}", ids(&came));
    ensure!(came[0].body == b"{\"n\": 1}", "{:?}", came[0].body);
    setting.until("nothing is parked", "SELECT count(*) = 0 FROM pgoutbox.parked").await?;
    setting.all_marked().await?;
    relay.drain(PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn a_message_that_no_queue_takes_goes_to_its_dead_letter_exchange() -> Result<()> {
    let setting = Scenario::with(&[
        ("messages.0.prefix", "orders"),
        ("messages.0.on_failure", "dead_letter"),
        ("messages.0.dead_letter_exchange", "dead"),
    ])
    .setting()
    .await?;
    let channel = setting.channel().await?;
    let dead = consumer::Options {
        exchange: "dead".to_owned(),
        queue: "dead".to_owned(),
        queue_type: QueueType::Classic,
        ..Default::default()
    };
    consumer::declare(&channel, &dead).await?;
    let relay = setting.run()?;
    setting.sql(&emitted("first", "a")).await?;
    setting.sql("SELECT pg_logical_emit_message(true, 'orders', 'no envelope')").await?;
    let is_there = "SELECT count(*) = 2 FROM pgoutbox.parked WHERE state = 'dead_lettered' AND prefix = 'orders'";
    setting.until("both are dead letters", is_there).await?;
    let mut bodies = Vec::new();
    while let Some(got) = channel.basic_get("dead".into(), BasicGetOptions { no_ack: true }).await?
    {
        bodies.push(String::from_utf8_lossy(&got.delivery.data).into_owned());
    }
    ensure!(bodies == ["{\"n\": 1}", "no envelope"], "{bodies:?}");
    relay.drain(PATIENCE).await?;
    Ok(())
}

/// Whoever may connect can write these.
#[tokio::test]
async fn what_is_no_envelope_is_parked_as_it_came() -> Result<()> {
    // It is no sign of a fault of the whole, however much of it comes.
    let setting = alone().await?.set("parking.limit", "3");
    let consumer = setting.bound("#").await?;
    let relay = setting.run()?;
    let contents = [
        r"''",
        r"'\x1b]0;title\x07 raw'",
        r"'\xff00fe'::bytea",
        r#"'{"id": "a"}'"#,
        r#"'{"id": "b", "payload": 1, "payload": 2}'"#,
        r#"'{"id": "c\u0000", "payload": 1}'"#,
        r#"'{"id": "d", "payload": 1, "aggregate_id": "a", "more": 1}'"#,
        r"repeat('[', 1000000)",
        r#"'{"id": ' || repeat('9', 1000000) || ', "payload": 1'"#,
        r"repeat('x', 30000000)",
    ];
    for content in contents {
        setting.sql(&format!("SELECT pg_logical_emit_message(true, 'orders', {content})")).await?;
    }
    // An envelope all right, and nothing that AMQP can say; and one that is over a limit.
    let long = r#"'{"id": "' || repeat('l', 300) || '", "payload": 1, "topic": "t"}'"#;
    let large = r#"'{"id": "large", "topic": "t", "payload": "' || repeat('y', 20000000) || '"}'"#;
    for content in [long, large] {
        setting.sql(&format!("SELECT pg_logical_emit_message(true, 'orders', {content})")).await?;
    }
    setting.sql(&emitted("after", "z")).await?;
    ensure!(ids(&arrived(&consumer, 1).await?) == ["after"]);
    acknowledged(&setting, &relay).await?;
    let kept: i64 = setting
        .ask("SELECT count(*) FROM pgoutbox.parked WHERE prefix = 'orders' AND outbox = 0")
        .await?;
    ensure!(kept == 12, "{kept} are parked");
    for (number, content) in contents.iter().enumerate() {
        let same = format!(
            "SELECT cells[1] = {} FROM pgoutbox.parked ORDER BY seq LIMIT 1 OFFSET {number}",
            match content.ends_with("::bytea") {
                true => (*content).to_owned(),
                false => format!("convert_to(({content})::text, 'UTF8')"),
            }
        );
        ensure!(setting.ask::<bool>(&same).await?, "{content} is not as it came");
    }
    let known = "SELECT event_id || ' ' || aggregate_id || ' ' || is_holding FROM pgoutbox.parked WHERE event_id = 'd'";
    ensure!(setting.ask::<String>(known).await? == "d a true");
    let list = setting.program.output(&["parked", "list"]).await?;
    let told = [relay.log().into_bytes(), list.stdout].concat();
    ensure!(!told.contains(&0x1b), "what an event holds is raw on a terminal");
    ensure!(!relay.log().contains("999999"), "a value stands in the log");
    ensure!(relay.sessions() == 1, "{}", relay.log());
    relay.drain(PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn what_is_no_envelope_is_not_waited_for() -> Result<()> {
    let setting = alone().await?.set("messages__0__on_failure", "block");
    let consumer = setting.bound("#").await?;
    let relay = setting.run()?;
    setting.sql("SELECT pg_logical_emit_message(true, 'orders', 'none')").await?;
    setting.sql(&emitted("after", "z")).await?;
    ensure!(ids(&arrived(&consumer, 1).await?) == ["after"]);
    setting.until("it is parked", "SELECT count(*) = 1 FROM pgoutbox.parked").await?;
    relay.drain(PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn killed_inside_a_huge_transaction_of_messages() -> Result<()> {
    const EVENTS: usize = 20_000;
    const KILLS: usize = 3;
    let setting = alone().await?;
    let consumer = setting.bound("#").await?;
    setting
        .sql(&format!(
            "SELECT pgoutbox.emit('orders', to_jsonb(n), topic => 't', id => '00000000-0000-0000-0000-' || lpad(n::text, 12, '0')) FROM generate_series(1, {EVENTS}) AS n"
        ))
        .await?;
    let mut relay = setting.run()?;
    for kill in 1..=KILLS {
        consumer.wait_distinct(EVENTS * kill / (KILLS + 1), PATIENCE).await?;
        relay.kill9().await?;
        ensure!(consumer.distinct() < EVENTS, "killed too late");
        relay = setting.run()?;
    }
    let came = in_order(&setting, consumer, &relay, EVENTS).await?;
    let repeats = came - EVENTS;
    println!("{KILLS} kills inside one transaction, {repeats} repeats");
    ensure!(repeats <= KILLS * REPEATS_PER_KILL, "{repeats} repeats");
    Ok(())
}

/// Waits for all, and looks at their order; says how many came.
async fn in_order(
    setting: &Setting,
    consumer: Consumer,
    relay: &Relay,
    events: usize,
) -> Result<usize> {
    consumer.wait_distinct(events, PATIENCE).await?;
    acknowledged(setting, relay).await?;
    relay.drain(PATIENCE).await?;
    let all = ids(&consumer.finish());
    let mut first = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for id in &all {
        if seen.insert(id) {
            first.push(id);
        }
    }
    ensure!(first.is_sorted() && first.len() == events, "first copies out of order");
    Ok(all.len())
}

/// A place in the middle of a transaction counts its messages, or does not: whoever changes the
/// settings then loses nothing.
#[tokio::test]
async fn what_is_configured_may_change_in_the_middle_of_a_transaction() -> Result<()> {
    const ROWS: usize = 6_000;
    for goes in [true, false] {
        let without = Setting::bare().await?.set("tables__0__name", "outbox_messages");
        let setting = without.clone().set("messages__0__prefix", "orders");
        setting.init().await?;
        let (before, after) = if goes { (&setting, &without) } else { (&without, &setting) };
        let consumer = setting.bound("orders.row").await?;
        let rows: String = format!(
            "DO $$ BEGIN FOR n IN 1..{ROWS} LOOP
                INSERT INTO outbox_messages (topic, payload) VALUES ('orders.row', to_jsonb(n));
                PERFORM pg_logical_emit_message(true, 'other', 'x');
             END LOOP; END $$"
        );
        setting.sql(&rows).await?;
        let relay = before.run()?;
        consumer.wait_distinct(ROWS / 3, PATIENCE).await?;
        relay.kill9().await?;
        ensure!(consumer.distinct() < ROWS, "killed too late");
        let relay = after.run()?;
        consumer.wait_distinct(ROWS, PATIENCE).await?;
        setting.all_marked().await?;
        acknowledged(after, &relay).await?;
        let asked: bool =
            setting.ask("SELECT coalesce(messages, false) FROM pgoutbox.progress").await?;
        relay.drain(PATIENCE).await?;
        let numbers = consumer.finish().iter().map(Delivery::json).collect::<Result<Vec<_>>>()?;
        let mut first: Vec<u64> = numbers.iter().filter_map(serde_json::Value::as_u64).collect();
        println!("messages go: {goes}, counted still: {asked}, {} repeats", first.len() - ROWS);
        let mut seen = std::collections::HashSet::new();
        first.retain(|number| seen.insert(*number));
        ensure!(first.is_sorted(), "first copies out of order");
    }
    Ok(())
}

/// Everybody's messages come, since the server cannot choose. They cost what their bytes cost.
#[tokio::test]
async fn messages_of_others_are_passed_over() -> Result<()> {
    const MESSAGES: usize = 100_000;
    let setting = alone().await?;
    let consumer = setting.bound("#").await?;
    let relay = setting.run()?;
    setting.sql(&emitted("before", "a")).await?;
    arrived(&consumer, 1).await?;
    let before = relay.cpu()?;
    let others = format!(
        "SELECT pg_logical_emit_message(true, 'other.' || n % 7, 'x') FROM generate_series(1, {MESSAGES}) AS n"
    );
    setting.sql(&others).await?;
    acknowledged(&setting, &relay).await?;
    let of_others = relay.cpu()?.saturating_sub(before);
    println!("{MESSAGES} messages of others: {of_others:.2?} of CPU");
    setting.sql(&emitted("after", "a")).await?;
    ensure!(ids(&arrived(&consumer, 2).await?) == ["before", "after"]);
    wait_until("the relay to be idle", Duration::from_secs(10), async || Ok(relay.is_running()))
        .await?;
    relay.drain(PATIENCE).await?;
    let parked: i64 = setting.ask("SELECT count(*) FROM pgoutbox.parked").await?;
    ensure!(parked == 0);
    Ok(())
}

#[tokio::test]
async fn a_template_that_names_no_member_is_told_before_anything_runs() -> Result<()> {
    let setting = alone().await?.set("messages__0__routing_key", "{tenant}");
    let checked = setting.check().await?;
    let wrong = checked.has("messages-mapping", "error").to_string();
    ensure!(wrong.contains("routing_key of message:orders names"), "{wrong}");
    let relay = setting.run()?;
    relay.wait_for_log("which is neither a field nor a column", PATIENCE).await?;
    relay.kill9().await?;
    ensure!(relay.sessions() == 0, "it ran: {}", relay.log());
    Ok(())
}

/// Such a record has no row to go with: it goes by its own age.
#[tokio::test]
async fn records_of_what_was_emitted_are_pruned() -> Result<()> {
    for setting in [alone().await?, beside().await?] {
        let relay = setting.run()?;
        let emit = "SELECT pg_logical_emit_message(true, 'orders', 'no envelope')";
        setting.sql(&format!("{emit}; {emit}; {emit}")).await?;
        let parked = "SELECT count(*) = 3 FROM pgoutbox.parked";
        setting.until("three to be parked", parked).await.with_context(|| relay.log())?;
        setting
            .program
            .succeed(&["parked", "discard", "--seq", "1", "--seq", "2", "--yes"])
            .await?;
        let prune = ["prune", "--keep", "1h"];
        setting.program.succeed(&prune).await?;
        assert_eq!(setting.ask::<i64>("SELECT count(*) FROM pgoutbox.parked").await?, 3);
        setting.sql("UPDATE pgoutbox.parked SET changed_at = now() - interval '1 day'").await?;
        let would = setting.program.succeed(&["prune", "--keep", "1h", "--dry-run"]).await?;
        ensure!(would.contains("message:orders: 2 records"), "{would}");
        assert_eq!(setting.ask::<i64>("SELECT count(*) FROM pgoutbox.parked").await?, 3);
        setting.program.succeed(&prune).await?;
        assert_eq!(setting.ask::<i64>("SELECT count(*) FROM pgoutbox.parked").await?, 1);
        let left = setting.ask::<String>("SELECT state FROM pgoutbox.parked").await?;
        ensure!(["parked", "failed"].contains(&&*left), "what waits for a person stays: {left}");
        relay.drain(PATIENCE).await?;
    }
    Ok(())
}

/// Numbers of what came of one kind, as it came first.
fn numbers(consumer: &Consumer, kind: &str) -> Vec<u32> {
    let all: Vec<String> = consumer.deliveries(|all| all.iter().map(id).collect());
    let mut first = Vec::new();
    for number in all.iter().filter_map(|id| id.strip_prefix(kind)?.parse().ok()) {
        if !first.contains(&number) {
            first.push(number);
        }
    }
    first
}

/// One of each kind: a row with a mark, one of a table without marks, one of a table that is configured later, a message.
fn one_of_each(number: u32) -> String {
    let row = |table: &str, kind: &str| {
        format!(
            "INSERT INTO {table} (id, topic, aggregate_id, payload) VALUES ('{kind}{number}', 't', 'a', '{{}}');"
        )
    };
    let rows = row("marked", "r") + &row("unmarked", "u") + &row("late", "l");
    rows + &emitted(&format!("m{number}"), "a")
}

const LATER: &str = "CREATE TABLE marked (id text PRIMARY KEY, topic text, aggregate_id text, payload jsonb, relayed_at timestamptz, occurred_at timestamptz DEFAULT clock_timestamp());
    CREATE TABLE unmarked (LIKE marked INCLUDING ALL); CREATE TABLE late (LIKE marked INCLUDING ALL);
    CREATE PUBLICATION pgoutbox FOR TABLE marked, unmarked, late WITH (publish = 'insert')";

/// What only the stream has (messages, rows of tables without marks) comes also where rows passed by the slot: a table is
/// configured that was not, or the publication was altered. It is read on; beside it the rows that wait are listed. Whatever
/// ends the process, nothing is missing, and rows come in order.
#[tokio::test]
async fn what_only_the_stream_has_is_not_lost_where_a_table_is_caught_up_with() -> Result<()> {
    let setting = Scenario::with(&[
        ("tables.0.name", "public.marked"),
        ("tables.1.name", "public.unmarked"),
        ("tables.1.audit.mode", "none"),
        ("messages.0.prefix", "orders"),
        ("postgres.on_slot_loss", "catch_up"),
        ("session.backoff_max", "200ms"),
    ]);
    let setting = setting.tables(LATER).setting().await?;
    let consumer = setting.bound("#").await?;
    let relay = setting.run()?;
    let wanted = |count: u32| (1..=count).collect::<Vec<_>>();
    let mut last = 0;
    let mut write = async |count: u32| {
        for number in last + 1..=last + count {
            setting.sql(&one_of_each(number)).await?;
        }
        last += count;
        anyhow::Ok(last)
    };
    write(3).await?;
    wait_until("the first", PATIENCE, async || Ok(numbers(&consumer, "m").len() == 3)).await?;
    relay.drain(PATIENCE).await?;
    write(3).await?;
    let later = setting.clone().set("tables.2.name", "public.late");
    for is_altered in [false, true] {
        if is_altered {
            setting.sql("ALTER PUBLICATION pgoutbox DROP TABLE marked").await?;
            write(3).await?;
            setting.sql("ALTER PUBLICATION pgoutbox ADD TABLE marked").await?;
        }
        // The list waits for it: killed while it is made, with what is written meanwhile behind.
        let writer = setting.client().await?;
        writer.batch_execute("BEGIN; SELECT pg_current_xact_id()").await?;
        let relay = later.run()?;
        relay.wait_for_log("rows may have passed by the slot", PATIENCE).await?;
        write(3).await?;
        relay.kill9().await?;
        writer.batch_execute("COMMIT").await?;
        // Killed once it is made.
        let relay = later.run()?;
        relay.wait_for_log("listed the rows that wait", PATIENCE).await?;
        relay.kill9().await?;
        write(3).await?;
        let relay = later.run()?;
        let last = write(3).await?;
        wait_until("all of them", PATIENCE, async || {
            let missing = ["r", "l", "u", "m"].map(|kind| numbers(&consumer, kind).len());
            Ok(missing.iter().all(|came| u32::try_from(*came).is_ok_and(|came| came >= last)))
        })
        .await
        .with_context(|| {
            format!(
                "{:?}\n{}",
                ["r", "l", "u", "m"].map(|kind| numbers(&consumer, kind)),
                relay.log()
            )
        })?;
        for kind in ["r", "l"] {
            assert_eq!(numbers(&consumer, kind), wanted(last), "{kind}: {}", relay.log());
        }
        setting.until("the marks", "SELECT bool_and(relayed_at IS NOT NULL) FROM (TABLE marked UNION ALL TABLE late) AS written").await?;
        assert!(!relay.log().contains("slot recreated"), "{}", relay.log());
        relay.drain(PATIENCE).await?;
    }
    Ok(())
}
