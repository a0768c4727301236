//! Outbox tables of other shapes and names than the default one.

use anyhow::{Context, Result};
use harness::consumer::Delivery;

use crate::bare::{arrived, id, ids, text, uuid};
use crate::setting::{PATIENCE, Setting};

fn body(delivery: &Delivery) -> String {
    String::from_utf8_lossy(&delivery.body).into_owned()
}

#[tokio::test]
async fn several_tables_each_with_its_own_mapping() -> Result<()> {
    let setting = Setting::bare()
        .await?
        .set("tables.0.name", "outbox_messages")
        .set("tables.1.name", "sales.outgoing")
        .set("tables.1.columns.id", "number")
        .set("tables.1.columns.aggregate_type", "entity")
        .set("tables.1.columns.aggregate_id", "entity_id")
        .set("tables.1.columns.event_type", "what")
        .set("tables.1.columns.payload", "body")
        .set("tables.1.columns.headers", "")
        .set("tables.1.columns.occurred_at", "at_ms")
        .set("tables.1.columns.relayed_at", "sent")
        .set("tables.1.app_id", "sales")
        .set("tables.2.name", "debezium")
        .set("tables.2.columns.aggregate_type", "aggregatetype")
        .set("tables.2.columns.aggregate_id", "aggregateid")
        .set("tables.2.columns.event_type", "type")
        .set("tables.2.routing_key", "{aggregate_type}.{event_type}")
        .set("tables.3.name", "phoenix");
    setting
        .sql(
            "CREATE SCHEMA sales;
             CREATE TABLE sales.outgoing (number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                 entity varchar(20), entity_id integer, what text, body json, at_ms bigint, sent timestamptz);
             CREATE TABLE debezium (id text PRIMARY KEY, aggregatetype varchar(255) NOT NULL,
                 aggregateid varchar(255) NOT NULL, type varchar(255) NOT NULL, payload jsonb, relayed_at timestamptz);
             CREATE TABLE phoenix (id uuid PRIMARY KEY, topic text, payload jsonb, headers jsonb,
                 relayed_at timestamp without time zone)",
        )
        .await?;
    setting.init().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    setting
        .sql(&format!(
            "BEGIN;
             INSERT INTO outbox_messages (id, topic, payload) VALUES ('{}', 'default', '1');
             INSERT INTO sales.outgoing (entity, entity_id, what, body, at_ms) VALUES ('order', 7, 'paid', '2', 1700000000999);
             INSERT INTO debezium VALUES ('text id', 'Order', '8', 'OrderPaid', '3');
             INSERT INTO phoenix VALUES ('{}', 'phoenix.topic', '4', '{{\"k\": \"v\"}}');
             COMMIT",
            uuid(1),
            uuid(4)
        ))
        .await?;
    let came = arrived(&consumer, 4).await?;
    let shown: Vec<_> = came
        .iter()
        .map(|d| {
            let of = |name| text(d, name).unwrap_or("-");
            let app = d.properties.app_id().as_ref().map_or("-", |app| app.as_str());
            let aggregate = format!("{} {}", of("aggregate_type"), of("aggregate_id"));
            format!("{} {} {} {aggregate} {} {app}", id(d), d.routing_key, body(d), of("k"))
        })
        .collect();
    let expected = [
        format!("{} default 1 - - - -", uuid(1)),
        "1 order.paid 2 order 7 - sales".to_owned(),
        "text id Order.OrderPaid 3 Order 8 - -".to_owned(),
        format!("{} phoenix.topic 4 - - v -", uuid(4)),
    ];
    assert_eq!(shown, expected, "in the order of the transaction, whatever the table");
    let second = came.get(1).context("four came")?;
    assert_eq!(*second.properties.timestamp(), Some(1_700_000_000), "milliseconds");
    setting
        .until(
            "all four to be marked",
            "SELECT (SELECT count(relayed_at) FROM outbox_messages) = 1
                AND (SELECT count(sent) FROM sales.outgoing) = 1
                AND (SELECT count(relayed_at) FROM debezium) = 1
                AND (SELECT count(relayed_at) FROM phoenix
                      WHERE abs(extract(epoch FROM (now() AT TIME ZONE 'UTC') - relayed_at)) < 600) = 1",
        )
        .await?;
    relay.drain(PATIENCE).await
}

pub const PARTITIONED: &str = "
    CREATE TABLE outbox_messages (id uuid NOT NULL, topic text DEFAULT 't', payload jsonb DEFAULT '{}',
        day date NOT NULL, relayed_at timestamptz, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE january PARTITION OF outbox_messages FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')";

/// A partition made while the relay runs, one attached with its columns in another order, and
/// one dropped once its rows were delivered.
async fn follows_partitions(setting: &Setting) -> Result<()> {
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    let insert = async |number: u32, day: &str| {
        let insert = "INSERT INTO outbox_messages (id, day)";
        setting.sql(&format!("{insert} VALUES ('{}', '{day}')", uuid(number))).await
    };
    insert(1, "2026-01-05").await?;
    arrived(&consumer, 1).await?;
    setting
        .sql("CREATE TABLE february PARTITION OF outbox_messages FOR VALUES FROM ('2026-02-01') TO ('2026-03-01')")
        .await?;
    insert(2, "2026-02-05").await?;
    setting
        .sql(
            "CREATE TABLE march (relayed_at timestamptz, gone int, payload jsonb DEFAULT '{}', day date NOT NULL,
                 topic text DEFAULT 't', id uuid NOT NULL, PRIMARY KEY (id, day));
             ALTER TABLE march DROP COLUMN gone;
             ALTER TABLE outbox_messages ATTACH PARTITION march FOR VALUES FROM ('2026-03-01') TO ('2026-04-01')",
        )
        .await?;
    insert(3, "2026-03-05").await?;
    setting.all_marked().await.with_context(|| relay.log())?;
    setting.sql("DROP TABLE january").await?;
    insert(4, "2026-02-06").await?;
    let came = arrived(&consumer, 4).await.with_context(|| relay.log())?;
    assert_eq!(ids(&came), (1..=4).map(uuid).collect::<Vec<_>>());
    setting.all_marked().await?;
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn partitions_under_the_name_of_their_root() -> Result<()> {
    let setting = Setting::bare().await?;
    setting.sql(PARTITIONED).await?;
    setting.init().await?;
    follows_partitions(&setting).await
}

#[tokio::test]
async fn partitions_under_their_own_names() -> Result<()> {
    let setting = Setting::bare().await?;
    let publication = "CREATE PUBLICATION pgoutbox FOR TABLE outbox_messages
         WITH (publish = 'insert', publish_via_partition_root = false)";
    setting.sql(&format!("{PARTITIONED}; {publication}")).await?;
    setting.init().await?;
    follows_partitions(&setting).await
}

/// What becomes of partitions while the relay runs, and while none does; whatever names their rows
/// come under, none is lost and nothing ends.
async fn partitions_come_and_go(setting: Setting) -> Result<()> {
    let setting = setting.set("session.backoff_max", "300ms");
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    let of = |numbers: std::ops::Range<u32>, day: &str| {
        let rows = numbers.map(|number| format!("('{}', '{day}')", uuid(number)));
        format!(
            "INSERT INTO outbox_messages (id, day) VALUES {};",
            rows.collect::<Vec<_>>().join(", ")
        )
    };
    let month = |name: &str, number: u32| {
        format!(
            "CREATE TABLE {name} PARTITION OF outbox_messages
                 FOR VALUES FROM ('2027-{number:02}-01') TO ('2027-{:02}-01');",
            number + 1
        )
    };
    let mut last = 1;
    // Made and filled in one transaction, with a row and with many.
    for number in 1..=8 {
        let next = last + if number % 2 == 0 { 1 } else { 200 };
        let sql =
            month(&format!("m{number}"), number) + &of(last..next, &format!("2027-{number:02}-03"));
        setting.sql(&sql).await?;
        last = next;
    }
    let rest = async |relay: &harness::relay::Relay, last: u32, what: &str| {
        let count = usize::try_from(last)? - 1;
        let came = consumer.wait_distinct(count, PATIENCE).await;
        came.with_context(|| format!("{what}\n{}", relay.log()))
    };
    rest(&relay, last, "made and filled at once").await?;
    setting.all_marked().await?;
    relay.drain(PATIENCE).await?;
    // While no relay runs: rows in partitions that are dropped, detached, detached and dropped,
    // renamed, and made and dropped.
    let sql = of(last..last + 2, "2027-01-05")
        + &of(last + 2..last + 4, "2027-02-05")
        + &of(last + 4..last + 6, "2027-03-05")
        + &of(last + 6..last + 8, "2027-04-05")
        + "DROP TABLE m1; ALTER TABLE outbox_messages DETACH PARTITION m2;
           ALTER TABLE outbox_messages DETACH PARTITION m3; DROP TABLE m3; ALTER TABLE m4 RENAME TO four;"
        + &month("m9", 9);
    setting.sql(&sql).await?;
    setting.sql(&of(last + 8..last + 9, "2027-09-05")).await?;
    setting.sql("DROP TABLE m9").await?;
    setting.sql(&of(last + 9..last + 10, "2027-05-05")).await?;
    last += 10;
    let relay = setting.run()?;
    rest(&relay, last, "gone while no relay ran").await?;
    // While it runs: the root is renamed and comes back; a table of its own shape is attached.
    setting.sql("ALTER TABLE outbox_messages RENAME TO away").await?;
    setting.sql("ALTER TABLE away RENAME TO outbox_messages").await?;
    setting
        .sql(&(of(last..last + 1, "2027-06-05")
            + "CREATE TABLE ten (LIKE outbox_messages INCLUDING ALL);
               ALTER TABLE outbox_messages ATTACH PARTITION ten FOR VALUES FROM ('2027-10-01') TO ('2027-11-01');"
            + &of(last + 1..last + 2, "2027-10-05")))
        .await?;
    last += 2;
    rest(&relay, last, "renamed and attached").await?;
    let came = ids(&consumer.deliveries(<[Delivery]>::to_vec));
    assert_eq!(came.len(), usize::try_from(last)? - 1, "none twice\n{}", relay.log());
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn partitions_come_and_go_under_the_name_of_their_root() -> Result<()> {
    let setting = Setting::bare().await?;
    setting.sql(PARTITIONED).await?;
    setting.init().await?;
    partitions_come_and_go(setting).await
}

#[tokio::test]
async fn partitions_come_and_go_under_their_own_names() -> Result<()> {
    let setting = Setting::bare().await?;
    let publication = "CREATE PUBLICATION pgoutbox FOR TABLE outbox_messages
         WITH (publish = 'insert', publish_via_partition_root = false)";
    setting.sql(&format!("{PARTITIONED}; {publication}")).await?;
    setting.init().await?;
    partitions_come_and_go(setting).await
}

/// A partition that was detached is in that one still.
#[tokio::test]
async fn partitions_come_and_go_in_a_publication_of_all_tables() -> Result<()> {
    let setting = Setting::bare().await?;
    let publication = "CREATE PUBLICATION pgoutbox FOR ALL TABLES WITH (publish = 'insert')";
    setting.sql(&format!("{PARTITIONED}; {publication}")).await?;
    setting.init().await?;
    partitions_come_and_go(setting).await
}

#[tokio::test]
async fn names_that_need_quotes() -> Result<()> {
    let setting = Setting::bare()
        .await?
        .set("postgres.publication", "My \"Publication\"")
        .set("tables.0.schema", "Out Going")
        .set("tables.0.name", "Mes.Sages")
        .set("tables.0.columns.id", "Id")
        .set("tables.0.columns.payload", "Pay\"Load'")
        .set("tables.0.columns.topic", "select")
        .set("tables.0.columns.relayed_at", "Relayed At")
        .set("tables.0.exchange", "Out Going")
        .set("tables.0.routing_key", "{topic}.{Other Column}");
    setting
        .sql(
            r#"CREATE SCHEMA "Out Going";
               CREATE TABLE "Out Going"."Mes.Sages" ("Id" int PRIMARY KEY, "Pay""Load'" jsonb, "select" text,
                   "Other Column" text, "Relayed At" timestamptz)"#,
        )
        .await?;
    setting.init().await?;
    // A second time, now that all of it is there to be found.
    setting.init().await?;
    let options = harness::consumer::Options {
        exchange: "Out Going".to_owned(),
        declare_exchange: false,
        ..Default::default()
    };
    let consumer = harness::consumer::Consumer::start(&setting.amqp_url, options).await?;
    let relay = setting.run()?;
    setting
        .sql(r#"INSERT INTO "Out Going"."Mes.Sages" VALUES (1, '[]', 'From', 'O''Brien')"#)
        .await?;
    let came = arrived(&consumer, 1).await?;
    let shown: Vec<_> =
        came.iter().map(|d| format!("{} {} {}", id(d), d.routing_key, body(d))).collect();
    assert_eq!(shown, ["1 From.O'Brien []"]);
    setting
        .until("the mark", r#"SELECT count("Relayed At") = 1 FROM "Out Going"."Mes.Sages""#)
        .await?;
    relay.drain(PATIENCE).await
}

/// The line comes a moment behind the state.
async fn logs(relay: &harness::relay::Relay, told: &str) -> Result<()> {
    let is_said = async || Ok(relay.log().replace("\\\"", "\"").contains(told));
    harness::wait_until(told, PATIENCE, is_said).await.with_context(|| relay.log())
}

#[tokio::test]
async fn a_column_missing_or_of_a_wrong_type_is_named_at_the_start() -> Result<()> {
    let setting = Setting::shared().await?;
    for (key, value, told) in [
        (
            "columns.payload",
            "pay_load",
            "public.outbox_messages has no column \"pay_load\" for payload",
        ),
        ("columns.correlation_id", "request", "has no column \"request\" for correlation_id"),
        (
            "columns.occurred_at",
            "payload",
            "\"payload\" of public.outbox_messages cannot be read as occurred_at: its type must be timestamptz",
        ),
        (
            "columns.payload",
            "occurred_at",
            "\"occurred_at\" of public.outbox_messages cannot be read as payload: its type must be jsonb",
        ),
        ("columns.id", "headers", "\"headers\" of public.outbox_messages cannot be read as id"),
        (
            "mark.relayed_at",
            "yes",
            "\"relayed_at\" of public.outbox_messages cannot be read as the mark",
        ),
        ("routing_key", "{nonsense}", "names \"nonsense\", which is neither a field nor a column"),
    ] {
        let wrong = setting.clone().set(&format!("tables.0.{key}"), value);
        let check = wrong.program.spawn(&["check"])?;
        let status = check.wait_exit(PATIENCE).await?;
        let all = check.log();
        assert_eq!(status.code(), Some(1), "{key}={value}: {all}");
        assert!(all.contains(told), "{key}={value}: {all}");
        let (section, _) = key.split_once('.').unwrap_or(("", ""));
        let hint = format!("name the right columns under [tables.{section}]");
        assert!(section.is_empty() || all.contains(&hint), "{key}={value}: {all}");
        let relay = wrong.run()?;
        relay.is_down("fault", PATIENCE).await?;
        logs(&relay, told).await.with_context(|| format!("{key}={value}"))?;
        relay.drain(PATIENCE).await?;
    }
    setting.sql("ALTER TABLE outbox_messages DROP COLUMN relayed_at").await?;
    let relay = setting.run()?;
    relay.is_down("fault", PATIENCE).await?;
    logs(&relay, "has no column \"relayed_at\" for the mark").await?;
    let told = relay.log().replace("\\\"", "\"");
    let hint = "ALTER TABLE public.outbox_messages ADD COLUMN relayed_at timestamptz;";
    assert!(told.replace('"', "").contains(hint), "{told}");
    // Once that is done it goes on by itself.
    setting.sql(hint).await?;
    relay.reaches("running", PATIENCE).await?;
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn what_a_role_likes_to_see_changes_no_message() -> Result<()> {
    let setting = Setting::bare()
        .await?
        .set("tables.0.routing_key", "{occurred_at}|x")
        .set("tables.0.columns.content_type", "seen");
    let role = format!("r_{}", setting.database);
    setting
        .sql(&format!(
            "CREATE TABLE outbox_messages (id uuid PRIMARY KEY, payload bytea, occurred_at timestamptz,
                 seen text, relayed_at timestamptz);
             CREATE ROLE {role} LOGIN SUPERUSER;
             ALTER ROLE {role} SET datestyle = 'German, DMY';
             ALTER ROLE {role} SET timezone = 'Pacific/Auckland';
             ALTER ROLE {role} SET bytea_output = 'escape';
             ALTER ROLE {role} SET client_encoding = 'LATIN1';
             ALTER ROLE {role} SET search_path = 'pg_catalog';
             ALTER ROLE {role} SET standard_conforming_strings = off"
        ))
        .await?;
    let url = setting.database_url.replace("postgres@", &format!("{role}@"));
    anyhow::ensure!(url != setting.database_url, "{url}");
    let setting = setting.set("postgres.url", &url);
    setting.init().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    setting
        .sql(&format!(
            "INSERT INTO outbox_messages VALUES
                 ('{}', '\\x00ff5c', '2024-07-01 12:00:00+02', '日本')",
            uuid(1)
        ))
        .await?;
    let came = arrived(&consumer, 1).await.with_context(|| relay.log())?;
    let delivery = came.first().context("nothing came")?;
    assert_eq!(delivery.body, [0, 255, b'\\']);
    assert_eq!(delivery.routing_key, "2024-07-01 10:00:00+00");
    assert_eq!(*delivery.properties.timestamp(), Some(1_719_828_000));
    let seen = delivery.properties.content_type().as_ref().map(|it| it.to_string());
    assert_eq!(seen.as_deref(), Some("日本"));
    setting.all_marked().await?;
    relay.drain(PATIENCE).await
}
