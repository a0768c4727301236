//! `pgoutbox replay`: the same events once more, in order, at a pace, and told apart.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use harness::consumer::Delivery;
use harness::proxy::Proxy;
use harness::scenario::{Scenario, Settings};
use harness::wait_until;
use lapin::types::AMQPValue;
use serde_json::Value;

use crate::bare::{arrived, id, ids, uuid};
use crate::setting::{PATIENCE, Setting};

/// Rows, and their replay.
pub trait Replays {
    async fn replay(&self, code: i32, args: &[&str]) -> Result<String>;
    /// Puts the event of this number aside with its row, committed at this place and time.
    async fn put_row_aside(&self, number: u32, state: &str, lsn: &str, at: &str) -> Result<()>;
    /// Rows of ten aggregates, a second apart, the last of them now.
    async fn fill(&self, count: u32) -> Result<()>;
}

impl Replays for Setting {
    async fn replay(&self, code: i32, args: &[&str]) -> Result<String> {
        let args = [&["replay"], args].concat();
        let output = self.program.output(&args).await?;
        let told = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
        let told = String::from_utf8_lossy(&told).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
        Ok(told)
    }

    async fn put_row_aside(&self, number: u32, state: &str, lsn: &str, at: &str) -> Result<()> {
        self.sql(&format!(
            r#"INSERT INTO pgoutbox.parked (slot, outbox, event_id, commit_lsn, index, commit_time, state, is_holding, note, columns, cells)
               VALUES (current_database(), 'outbox_messages', '{id}', '{lsn}', {number}, '{at}', '{state}', false, 'TICKET-1',
                   '[{{"name": "id", "type_oid": 2950}}, {{"name": "topic", "type_oid": 25}}, {{"name": "payload", "type_oid": 3802}}]',
                   ARRAY['{id}', 'good', '{{}}']::bytea[])"#,
            id = uuid(number)
        ))
        .await
    }

    async fn fill(&self, count: u32) -> Result<()> {
        self.sql(&format!(
            "INSERT INTO outbox_messages (id, aggregate_type, aggregate_id, event_type, topic, payload, headers, occurred_at)
             SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, 'order', n % 10, NULL, 'good',
                    jsonb_build_object('n', n), '{{\"tenant\": \"acme\"}}', now() - make_interval(secs => {count} - n)
               FROM generate_series(1, {count}) AS n ORDER BY md5(n::text)"
        ))
        .await
    }
}

pub const HASTY: Settings =
    &[("tables.0.exchange", "{event_type} | outbox"), ("postgres.wal_sender_timeout", "1s")];

fn is_replayed(delivery: &Delivery) -> bool {
    delivery.header("pgoutbox-replayed") == Some(&AMQPValue::Boolean(true))
        && delivery.header("pgoutbox-commit-lsn").is_none()
        && delivery.header("pgoutbox-index").is_none()
}

#[tokio::test]
async fn a_thousand_rows_in_order_with_their_ids_at_the_rate_and_marked() -> Result<()> {
    const ROWS: u32 = 1_000;
    let setting = Scenario::with(HASTY).setting().await?;
    let consumer = setting.bound("#").await?;
    setting.fill(ROWS).await?;
    let slot = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = current_database()";
    let before: String = setting.ask(slot).await?;
    let began = Instant::now();
    let told = setting.replay(0, &["--all", "--rate", "500"]).await?;
    let took = began.elapsed();
    assert!(told.contains("1000 delivered, 0 refused") && told.contains("0 marked"), "{told}");
    assert!(took >= Duration::from_millis(1_900), "{took:?} for 1,000 events at 500 a second");
    let replayed = arrived(&consumer, ROWS as usize).await?;
    assert_eq!(ids(&replayed), (1..=ROWS).map(uuid).collect::<Vec<_>>());
    assert!(replayed.iter().all(is_replayed), "{:?}", replayed[0].properties);
    assert_eq!(setting.unmarked().await?, ROWS as usize, "nothing is marked unless asked for");
    assert_eq!(setting.ask::<String>(slot).await?, before, "the slot is untouched");
    // But for place and mark the relay sends the same.
    let relay = setting.run()?;
    let all = arrived(&consumer, 2 * ROWS as usize).await?;
    relay.drain(PATIENCE).await?;
    for first in &all[ROWS as usize..] {
        let again = replayed.iter().find(|one| one.id == first.id).context("not replayed")?;
        assert_eq!(again.body, first.body);
        assert_eq!(again.routing_key, first.routing_key);
        let plain = |delivery: &Delivery| {
            let mut text = format!("{:?}", delivery.properties);
            text.truncate(text.find("headers").unwrap_or(0));
            text
        };
        assert_eq!(plain(again), plain(first));
        assert_eq!(again.header("tenant"), first.header("tenant"));
        assert_eq!(again.header("aggregate_id"), first.header("aggregate_id"));
        assert!(first.header("pgoutbox-replayed").is_none());
    }
    Ok(())
}

#[tokio::test]
async fn what_is_refused_is_named_and_holds_its_aggregate() -> Result<()> {
    let setting = Scenario::with(HASTY).setting().await?;
    let consumer = setting.bound("good").await?;
    setting.fill(40).await?;
    // 13 finds no queue, 24 no exchange, 35 makes no message: of aggregates 3, 4 and 5.
    setting
        .sql(&format!(
            "UPDATE outbox_messages SET topic = 'nobody' WHERE id = '{}';
             UPDATE outbox_messages SET event_type = 'absent' WHERE id = '{}';
             UPDATE outbox_messages SET headers = '[1]' WHERE id = '{}'",
            uuid(13),
            uuid(24),
            uuid(35)
        ))
        .await?;
    let proxy = Proxy::start(harness::shared::rabbitmq().await?.port()).await?;
    let mut by_proxy = setting.clone();
    by_proxy.env("AMQP_URL", &proxy.url(&setting.amqp_url));
    let told = by_proxy.replay(1, &["--all", "--rate", "100000"]).await?;
    assert_eq!(proxy.connections(), 1, "another channel goes on");
    for (number, why) in
        [(13, "312 NO_ROUTE"), (24, "no exchange 'absent'"), (35, "it is no JSON object")]
    {
        let line =
            told.lines().find(|line| line.starts_with(&format!("refused  {}", uuid(number))));
        assert!(line.is_some_and(|line| line.contains(why)), "{number}: {told}");
    }
    let held: Vec<&str> = told.lines().filter(|line| line.starts_with("held")).collect();
    assert_eq!(held.len(), 3, "{told}");
    for number in [23, 33, 34] {
        assert!(held.iter().any(|line| line.contains(&uuid(number))), "{number}: {told}");
    }
    assert!(told.contains("34 delivered, 3 refused, 3 skipped"), "{told}");
    let json: Value = serde_json::from_str(
        &setting.replay(1, &["--id", &uuid(13), "--id", &uuid(14), "--json"]).await?,
    )?;
    assert_eq!((&json["delivered"], &json["refused"][0]["id"]), (&1.into(), &uuid(13).into()));
    // What the close of the channel took along came again, and nothing else did.
    let came = ids(&arrived(&consumer, 35).await?);
    for number in (1..=40).filter(|number| ![13, 23, 24, 33, 34, 35].contains(number)) {
        let copies = came.iter().filter(|id| **id == uuid(number)).count();
        assert!((1..=2).contains(&copies) || number == 14, "{number}: {copies}");
    }
    Ok(())
}

#[tokio::test]
async fn rows_are_chosen_by_id_aggregate_and_time() -> Result<()> {
    let setting = Scenario::with(HASTY).setting().await?;
    setting.fill(60).await?;
    let sent = async |args: &[&str]| -> Result<Vec<u32>> {
        let told = setting.replay(0, &[args, &["--dry-run"]].concat()).await?;
        let ids = told.lines().filter_map(|line| line.strip_prefix("would send ")?.get(24..36));
        ids.map(|id| Ok(id.parse()?)).collect()
    };
    assert_eq!(sent(&["--id", &uuid(7), "--id", &uuid(3)]).await?, [3, 7]);
    assert_eq!(sent(&["--aggregate", "order/7"]).await?, [7, 17, 27, 37, 47, 57]);
    assert_eq!(sent(&["--aggregate", "invoice/7"]).await?, [] as [u32; 0]);
    let at = async |number: u32| -> Result<String> {
        setting.ask(&format!("SELECT to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') FROM outbox_messages WHERE id = '{}'", uuid(number))).await
    };
    let (since, until) = (at(10).await?, at(14).await?);
    assert_eq!(sent(&["--since", &since, "--until", &until]).await?, [10, 11, 12, 13]);
    assert_eq!(sent(&["--until", "1h"]).await?, [] as [u32; 0]);
    // The empty text is one like any other.
    let nameless = format!("UPDATE outbox_messages SET aggregate_id = '' WHERE id = '{}'", uuid(5));
    setting.sql(&nameless).await?;
    assert_eq!(sent(&["--aggregate", "order/"]).await?, [5]);
    assert_eq!(sent(&["--all", "--table", "public.outbox_messages"]).await?.len(), 60);
    for args in [
        &[][..],
        &["--table", "public.outbox_messages"],
        &["--all", "--table", "public.other"],
        &["--all", "--from-lsn", "0/1"],
        &["--parked", "1", "--only", "relayed"],
        &["--parked", "1", "--all"],
        &["--all", "--rate", "0"],
        &["--since", "soon"],
        // Nothing is between them.
        &["--since", "1h", "--until", "2h"],
        &["--since", "2026-11-22", "--until", "2026-11-22"],
        &["--relayed-since", "1h", "--relayed-until", "2h"],
        &["--committed-since", "1h", "--committed-until", "2h", "--only", "unrelayed"],
        &["--discarded", "--from-lsn", "0/2", "--to-lsn", "0/1"],
    ] {
        setting.replay(64, args).await?;
    }
    let told = setting.replay(64, &["--to-lsn", "0/1A2B3C4"]).await?;
    for part in ["does not hold the LSN of its commit", "--relayed-since", "--committed-since"] {
        assert!(told.contains(part), "no {part} in {told}");
    }
    for (mode, args) in [
        ("none", &["--all", "--mark"][..]),
        ("none", &["--only", "unrelayed"]),
        ("delete", &["--only", "relayed"]),
        ("none", &["--relayed-since", "1h"]),
        ("delete", &["--relayed-until", "1h"]),
        ("update", &["--relayed-since", "1h", "--only", "unrelayed"]),
        ("update", &["--relayed-since", "1h", "--discarded"]),
    ] {
        setting.clone().set("audit.mode", mode).replay(64, args).await?;
    }
    Ok(())
}

/// Every kind of time that a column may have, and a table without aggregates.
#[tokio::test]
async fn rows_of_other_tables_are_read_by_their_own_types() -> Result<()> {
    let setting =
        Setting::bare().await?.set("tables.0.name", "other").set("audit.mode", "side_table");
    let consumer = setting.bound("#").await?;
    for (kind, value) in [("timestamp", "'2026-01-02 03:04:05.5'"), ("bigint", "1767323045500")] {
        setting
            .sql(&format!(
                "DROP TABLE IF EXISTS other;
                 CREATE TABLE other (id bigint PRIMARY KEY, topic char(9), payload bytea, occurred_at {kind});
                 INSERT INTO other SELECT n, 'padded', '\\x00ff', {value} FROM generate_series(9, 11) AS n"
            ))
            .await?;
        if kind == "timestamp" {
            setting.init().await?;
        }
        let wide = setting
            .replay(0, &["--since", "2026-01-02T03:04:05.5Z", "--until", "2026-01-02T03:04:05.6Z"])
            .await?;
        assert!(wide.contains("3 delivered"), "{wide}");
        let narrow = setting.replay(0, &["--since", "2026-01-02T03:04:05.6Z"]).await?;
        assert!(narrow.contains("0 delivered"), "{narrow}");
    }
    let came = arrived(&consumer, 6).await?;
    assert_eq!(ids(&came), ["9", "10", "11", "9", "10", "11"]);
    for delivery in &came {
        assert_eq!(
            (delivery.routing_key.as_str(), delivery.body.as_slice()),
            ("padded", &[0, 255][..])
        );
        assert_eq!(delivery.properties.timestamp(), &Some(1_767_323_045));
    }
    setting.replay(64, &["--aggregate", "order/7"]).await?;
    Ok(())
}

#[tokio::test]
async fn unrelayed_rows_are_those_that_the_relay_will_not_send() -> Result<()> {
    let setting = Scenario::with(HASTY).setting().await?;
    let consumer = setting.bound("#").await?;
    setting.fill(30).await?;
    // Nobody reads the slot: all thirty are still to come.
    let told = setting.replay(1, &["--only", "unrelayed"]).await?;
    assert!(told.contains("may still be on their way") && told.contains("pgoutbox run"), "{told}");
    let relay = setting.run()?;
    setting.all_marked().await?;
    setting
        .sql(&format!(
            "UPDATE outbox_messages SET relayed_at = NULL WHERE id IN ('{}', '{}', '{}')",
            uuid(4),
            uuid(5),
            uuid(6)
        ))
        .await?;
    setting.put_aside(5, "failed").await?;
    // Rows that an open transaction of any database may still have to do with are left: another test's, here.
    wait_until("no older transaction", PATIENCE, async || {
        let dry = setting.program.output(&["replay", "--only", "unrelayed", "--dry-run"]).await?;
        Ok(String::from_utf8_lossy(&dry.stdout).contains("2 would be sent"))
    })
    .await?;
    let told = setting.replay(0, &["--only", "unrelayed", "--mark"]).await?;
    assert!(told.contains("2 delivered") && told.contains("2 marked"), "{told}");
    let came = arrived(&consumer, 32).await?;
    assert_eq!(ids(&came[30..]), [uuid(4), uuid(6)]);
    assert_eq!(setting.unmarked().await?, 1, "the parked one is not touched");
    let told = setting.replay(0, &["--only", "relayed", "--dry-run"]).await?;
    assert!(told.contains("29 would be sent"), "{told}");
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn discarded_events_are_sent_from_their_rows_and_open_ones_are_not() -> Result<()> {
    let setting = Scenario::with(HASTY).setting().await?;
    let consumer = setting.bound("#").await?;
    for (number, state, lsn) in [
        (1, "discarded", "0/100"),
        (2, "dead_lettered", "0/200"),
        (3, "discarded", "0/300"),
        (4, "failed", "0/400"),
    ] {
        setting.put_row_aside(number, state, lsn, "2026-01-02 03:04:05Z").await?;
    }
    let told = setting.replay(1, &["--parked", "4"]).await?;
    assert!(
        told.contains("is not done with") && told.contains("pgoutbox parked retry --seq 4"),
        "{told}"
    );
    assert!(
        setting.replay(1, &["--parked", "99"]).await?.contains("no parked event has the number 99")
    );
    setting.replay(0, &["--parked", "2", "--mark"]).await?;
    setting.replay(0, &["--discarded"]).await?;
    setting
        .replay(0, &["--discarded", "--dead-lettered", "--from-lsn", "0/200", "--to-lsn", "0/300"])
        .await?;
    let came = arrived(&consumer, 4).await?;
    assert_eq!(ids(&came), [2, 1, 3, 2].map(uuid));
    assert!(came.iter().all(is_replayed));
    assert!(
        came.iter().all(|delivery| delivery.properties.timestamp() == &Some(1_767_323_045)),
        "the time of the commit"
    );
    let notes: String = setting
        .ask("SELECT string_agg(state || ' ' || note, '|' ORDER BY seq) FROM pgoutbox.parked WHERE note LIKE '%replayed by%'")
        .await?;
    assert!(
        notes.starts_with("dead_lettered TICKET-1; replayed by ") && !notes.contains('|'),
        "{notes}"
    );
    assert_eq!(id(&came[0]), uuid(2));
    Ok(())
}
