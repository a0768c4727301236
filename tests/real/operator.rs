//! What an operator does to parked events while a relay runs, in any state of their aggregate: none
//! that was discarded before it was handed out is published, the order holds, and nothing is stuck.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use harness::consumer::Consumer;
use harness::events::event;
use harness::http::request;
use harness::proxy::{Direction, Proxy};
use harness::relay::Relay;
use harness::scenario::{Scenario, Settings};
use harness::wait_for;
use lapin::types::FieldTable;

use crate::bare::{arrived, ids, uuid};
use crate::setting::{PATIENCE, Setting};

/// Two outbox tables, `a` and `b`. Nothing is tried again unless it is asked for.
const TWO_TABLES: Settings = &[
    ("tables.0.name", "a"),
    ("tables.1.name", "b"),
    ("session.backoff_min", "50ms"),
    ("session.backoff_max", "200ms"),
    ("parking.limit", "100000"),
    ("parking.backoff_min", "1h"),
    ("parking.backoff_max", "1h"),
];
const TABLES: &str =
    "CREATE TABLE a (id uuid PRIMARY KEY, aggregate_type text, aggregate_id text, topic text,
         payload jsonb, relayed_at timestamptz);
     CREATE TABLE b (LIKE a INCLUDING ALL)";

/// Events of one aggregate, in a transaction each, with their tables and topics.
async fn insert(setting: &Setting, events: &[(u32, &str, &str)]) -> Result<()> {
    for (number, table, topic) in events {
        setting.insert(event(*number, topic).table(table).of("7")).await?;
    }
    Ok(())
}

async fn unbind(setting: &Setting, key: &str) -> Result<()> {
    let channel = setting.channel().await?;
    let (queue, exchange) = ("consumer".into(), "outbox".into());
    Ok(channel.queue_unbind(queue, exchange, key.into(), FieldTable::default()).await?)
}

/// Waits until the open events stand so, as anybody sees them.
async fn stand(setting: &Setting, relay: &Relay, want: &str) -> Result<()> {
    let sql = "SELECT coalesce(string_agg(ltrim(right(event_id, 5), '0') || ' ' || place.state, ', ' ORDER BY seq), '')
                 FROM pgoutbox.parked JOIN pgoutbox.parked_places(current_database()) AS place USING (seq)
                WHERE place.head IS NOT NULL";
    let mut last = String::new();
    wait_for("the parking", PATIENCE, async || {
        last = setting.ask::<String>(sql).await?;
        Ok((last == want).then_some(()))
    })
    .await
    .with_context(|| format!("want {want:?}, is {last:?}\n{}", relay.log()))
}

async fn operate(setting: &Setting, args: &[&str]) -> Result<String> {
    setting.program.succeed(&[&["parked"], args].concat()).await
}

/// Numbers in the order in which they came.
fn numbers(consumer: &Consumer) -> Vec<u32> {
    let all = consumer.deliveries(ids);
    all.iter().filter_map(|id| id.rsplit('-').next()?.parse().ok()).collect()
}

#[tokio::test]
async fn what_is_discarded_in_a_large_aggregate_under_way_is_not_published() -> Result<()> {
    const EVENTS: u32 = 2_000;
    let (setting, consumer, relay) = Scenario::with(TWO_TABLES).tables(TABLES).run("good").await?;
    insert(&setting, &[(1, "a", "late")]).await?;
    stand(&setting, &relay, "1 parked").await?;
    setting
        .sql(&format!(
            "INSERT INTO a (id, aggregate_type, aggregate_id, topic, payload)
             SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, 'order', '7', 'good', '{{}}'
               FROM generate_series(2, {EVENTS}) AS n ORDER BY n"
        ))
        .await?;
    setting
        .until("all are behind", &format!("SELECT count(*) = {EVENTS} FROM pgoutbox.parked"))
        .await?;
    setting.bind("late").await?;
    operate(&setting, &["retry", "--seq", "1"]).await?;
    arrived(&consumer, 20).await?;
    setting.program.succeed(&["pause", "--note", "what is this"]).await?;
    relay.reaches("paused", PATIENCE).await?;
    // What is under way ends, and is recorded.
    setting
        .until(
            "nothing is under way",
            "SELECT count(*) = 0 FROM pgoutbox.parked WHERE claimed_at IS NOT NULL",
        )
        .await?;
    let open: Vec<i64> = {
        let rows = setting.client().await?;
        let sql = "SELECT seq FROM pgoutbox.parked WHERE state <> 'discarded' ORDER BY seq";
        rows.query(sql, &[]).await?.iter().map(|row| row.get(0)).collect()
    };
    ensure!(open.len() > 100, "only {} are left", open.len());
    // Every other one: the very next too, one in the middle, and the last.
    let given_up: Vec<i64> = open.iter().copied().rev().step_by(2).chain([open[0]]).collect();
    let given_up: BTreeSet<i64> = given_up.into_iter().collect();
    let list = given_up.iter().map(|seq| format!("--seq={seq}")).collect::<Vec<_>>();
    let args: Vec<&str> = list.iter().map(String::as_str).collect();
    let told =
        operate(&setting, &[&["discard", "--yes", "--note", "void"], &args[..]].concat()).await?;
    assert!(told.contains(&format!("{} events discarded", given_up.len())), "{told}");
    assert!(!told.contains("in flight"), "{told}");
    let left = open.len() - given_up.len();
    setting.program.succeed(&["resume"]).await?;
    arrived(&consumer, usize::try_from(EVENTS)? - open.len() + left).await?;
    stand(&setting, &relay, "").await?;
    let came = numbers(&consumer);
    let unwanted: Vec<&u32> =
        came.iter().filter(|number| given_up.contains(&i64::from(**number))).collect();
    assert!(unwanted.is_empty(), "discarded, and published: {unwanted:?}");
    assert!(came.is_sorted(), "{came:?}");
    let kept: i64 = setting
        .ask("SELECT count(*) FROM pgoutbox.parked WHERE state = 'discarded' AND note = 'void' AND changed_by IS NOT NULL")
        .await?;
    assert_eq!(usize::try_from(kept)?, given_up.len(), "the records stay");
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn an_event_discarded_in_flight_keeps_its_record_and_the_order_holds() -> Result<()> {
    let setting = Scenario::with(TWO_TABLES).tables(TABLES).setting().await?;
    let proxy = Proxy::start(harness::shared::rabbitmq().await?.port()).await?;
    let consumer = setting.bound("good").await?;
    let mut by_proxy = setting.clone();
    by_proxy.env("AMQP_URL", &proxy.url(&setting.amqp_url));
    let relay = by_proxy.run()?;
    let mut expected = Vec::new();
    for (first, is_delivered) in [(0, true), (10, false)] {
        let n = |number: u32| first + number;
        insert(&setting, &[(n(1), "a", "late")]).await?;
        stand(&setting, &relay, &format!("{} parked", n(1))).await?;
        let rest =
            [(n(2), "a", "good"), (n(3), "b", "good"), (n(4), "a", "good"), (n(5), "b", "good")];
        insert(&setting, &rest).await?;
        let behind = rest.map(|(number, _, _)| format!("{number} queued")).join(", ");
        stand(&setting, &relay, &format!("{} parked, {behind}", n(1))).await?;
        if is_delivered {
            setting.bind("late").await?;
        }
        proxy.stall(Direction::Down);
        operate(&setting, &["retry", "--all"]).await?;
        setting
            .until(
                "it is in flight",
                "SELECT count(*) = 1 FROM pgoutbox.parked WHERE claimed_at IS NOT NULL",
            )
            .await?;
        let told =
            operate(&setting, &["discard", "--id", &uuid(n(1)), "--yes", "--note", "void"]).await?;
        assert!(told.contains("1 event in flight"), "{told}");
        // The next is the first now, for anyone who looks; and it does not overtake what is in flight.
        stand(&setting, &relay, &behind.replacen("queued", "parked", 1)).await?;
        operate(&setting, &["retry", "--all"]).await?;
        proxy.resume(Direction::Down);
        expected.extend((if is_delivered { 1 } else { 2 }..=5).map(n));
        arrived(&consumer, expected.len()).await.with_context(|| relay.log())?;
        stand(&setting, &relay, "").await?;
        assert_eq!(numbers(&consumer), expected, "{}", relay.log());
        let record: String = setting
            .ask(
                "SELECT state || ' ' || (changed_by IS NOT NULL)::text || ' ' || note
                   FROM pgoutbox.parked ORDER BY seq DESC LIMIT 1",
            )
            .await?;
        let end = if is_delivered { "was delivered at" } else { "was refused" };
        assert!(record.starts_with("discarded true void; it was in flight then, and "), "{record}");
        assert!(record.contains(end), "{record}");
        unbind(&setting, "late").await?;
    }
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn the_next_in_order_follows_whatever_table_it_is_of() -> Result<()> {
    let setting = Scenario::with(TWO_TABLES)
        .tables(TABLES)
        .set("parking.max_attempts", "1")
        .set("http.token", "correct-horse")
        .setting()
        .await?;
    let consumer = setting.bound("good").await?;
    let mut relay = setting.run()?;
    // As an operator does it: at a relay that runs, by the console, and where none runs.
    for (round, way) in ["command", "console", "stopped"].into_iter().enumerate() {
        let first = u32::try_from(round)? * 10;
        let n = |number: u32| first + number;
        insert(&setting, &[(n(1), "a", "late")]).await?;
        stand(&setting, &relay, &format!("{} failed", n(1))).await?;
        let rest =
            [(n(2), "b", "good"), (n(3), "a", "good"), (n(4), "b", "good"), (n(5), "a", "good")];
        insert(&setting, &rest).await?;
        let behind = rest.map(|(number, _, _)| format!("{number} queued")).join(", ");
        stand(&setting, &relay, &format!("{} failed, {behind}", n(1))).await?;
        // It would overtake.
        let output = setting.program.output(&["parked", "retry", "--id", &uuid(n(2))]).await?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.code() == Some(1) && told.contains("waits behind seq"), "{told}");
        match way {
            "command" => {
                let told = operate(&setting, &["discard", "--id", &uuid(n(1)), "--yes"]).await?;
                assert!(told.contains("1 event that waited behind tried now"), "{told}");
            }
            "console" => {
                let seq: i64 =
                    setting.ask("SELECT seq FROM pgoutbox.parked WHERE state = 'failed'").await?;
                let address = relay.http(PATIENCE).await?;
                let headers = [
                    ("Content-Type", "application/json"),
                    ("Authorization", "Bearer correct-horse"),
                ];
                let body = format!(r#"{{"seqs": [{seq}], "note": "void"}}"#);
                let done = request(address, "POST", "/parked/discard", &headers, &body).await?;
                assert_eq!(
                    (done.code, done.json()?["freed"].as_i64()),
                    (200, Some(1)),
                    "{}",
                    done.body
                );
            }
            _ => {
                relay.drain(PATIENCE).await?;
                operate(&setting, &["discard", "--id", &uuid(n(1)), "--yes"]).await?;
                stand(
                    &setting,
                    &relay,
                    &format!("{} parked, {}", n(2), behind.split_once(", ").context("more")?.1),
                )
                .await?;
                relay = setting.run()?;
            }
        }
        arrived(&consumer, (round + 1) * 4).await.with_context(|| relay.log())?;
        stand(&setting, &relay, "").await?;
    }
    let expected: Vec<u32> =
        [0, 10, 20].iter().flat_map(|first| (2..=5).map(move |n| first + n)).collect();
    assert_eq!(numbers(&consumer), expected);
    relay.drain(PATIENCE).await
}

/// A schema as version 0.9 left it, with what the relays and operators of that version leave in it.
#[tokio::test]
async fn parked_events_of_the_version_before_go_on_in_order() -> Result<()> {
    let (setting, consumer, relay) = Scenario::with(TWO_TABLES).tables(TABLES).run("good").await?;
    insert(&setting, &[(1, "a", "late")]).await?;
    stand(&setting, &relay, "1 parked").await?;
    insert(&setting, &[(2, "b", "good"), (3, "a", "good"), (4, "b", "good")]).await?;
    stand(&setting, &relay, "1 parked, 2 queued, 3 queued, 4 queued").await?;
    relay.drain(PATIENCE).await?;
    setting
        .sql(
            "DROP FUNCTION pgoutbox.parked_places; DROP FUNCTION pgoutbox.parked_queue;
             DROP INDEX pgoutbox.parked_claimed; ALTER TABLE pgoutbox.parked DROP COLUMN claimed_at;
             -- What a discard of the first left: the next of the same table put before its turn.
             UPDATE pgoutbox.parked SET state = 'discarded', next_attempt_at = NULL WHERE seq = 1;
             UPDATE pgoutbox.parked SET state = 'parked', next_attempt_at = now() WHERE seq = 3",
        )
        .await?;
    setting.init_is_due().await?;
    let relay = setting.run()?;
    arrived(&consumer, 3).await.with_context(|| relay.log())?;
    stand(&setting, &relay, "").await?;
    assert_eq!(numbers(&consumer), [2, 3, 4]);
    relay.drain(PATIENCE).await
}

/// Each event of a queue asks for the first of it: that must not read the whole queue.
#[tokio::test]
async fn a_long_queue_is_looked_at_at_once() -> Result<()> {
    let setting = Setting::shared().await?;
    let slot = &setting.database;
    // One long queue, and many short ones: what the planner knows of most of them.
    setting
        .sql(&format!(
            "INSERT INTO pgoutbox.parked (slot, outbox, event_id, aggregate_type, aggregate_id, commit_lsn, index,
                    commit_time, state, is_holding, reason, attempts, columns, cells)
             SELECT '{slot}', 'outbox_messages'::regclass, n::text, 'order',
                    CASE WHEN n <= 40000 THEN 'one' ELSE (n % 20000)::text END, '0/1', n, now(),
                    CASE n WHEN 1 THEN 'failed' ELSE 'queued' END, true, 'returned', 1, '[]', '{{}}'
               FROM generate_series(1, 80000) AS n;
             ANALYZE pgoutbox.parked"
        ))
        .await?;
    // 0.2 s; where each event reads the queue, more than a minute.
    let sql = format!(
        "SET statement_timeout = '20s';
         SELECT count(*) FROM pgoutbox.parked_places('{slot}')
          WHERE head <> seq AND seq < (SELECT min(seq) + 2000 FROM pgoutbox.parked)"
    );
    let client = setting.client().await?;
    let answers = client.simple_query(&sql).await?;
    let counted = answers.iter().find_map(|answer| match answer {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    assert_eq!(counted.as_deref(), Some("1999"));
    Ok(())
}
