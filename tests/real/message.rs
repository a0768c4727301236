//! What a consumer gets: body, properties, headers, place, routing.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use harness::consumer::Delivery;
use harness::wait_until;
use lapin::types::AMQPValue;

use crate::bare::{arrived, id, ids, text, uuid};
use crate::setting::{PATIENCE, Setting};

/// Kinds of payload, and SQL expressions whose text a serializer would write otherwise.
const BODIES: [(&str, &str, &[&str]); 4] = [
    (
        "jsonb",
        "payload::text",
        &[
            r#"'{"b": 1, "a": [1.0, 1e3, -0.10, 12345678901234567890.123], "b": 2}'"#,
            r#"'{"ß": "😀 \u00e9 \" \\ \n / <&>", "": null}'"#,
            "'{}'",
            r#"'"just text"'"#,
            "to_jsonb(repeat('x', 1 << 20))",
        ],
    ),
    (
        "json",
        "payload::text",
        &[r#"'  {"b" :1 ,  "a":"\u00e9", "b":  1.0}  '"#, "'[ ]'", "to_json(repeat('ü', 1 << 19))"],
    ),
    ("text", "payload", &["''", "E' \\n\\t\\r\\\\'", "'😀 ß'", "repeat('y', 1 << 20)", "NULL"]),
    (
        "bytea",
        "payload",
        &["''", "'\\x00ff0a5c78'", "decode(repeat('00fe', 1 << 19), 'hex')", "'\\x5c783030'"],
    ),
];

#[tokio::test]
async fn bodies_are_byte_for_byte_what_postgres_renders() -> Result<()> {
    let mut setting = Setting::bare().await?;
    for (number, (kind, ..)) in BODIES.iter().enumerate() {
        let name = format!("outbox_{kind}");
        setting = setting.set(&format!("tables.{number}.name"), &name);
        let create = "id uuid PRIMARY KEY DEFAULT gen_random_uuid(), topic text DEFAULT 't', relayed_at timestamptz";
        setting.sql(&format!("CREATE TABLE {name} ({create}, payload {kind})")).await?;
    }
    setting.init().await?;
    // What a user of the database likes to see must not reach the stream.
    let database = &setting.database;
    setting.sql(&format!("ALTER DATABASE {database} SET bytea_output = 'escape'")).await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    let mut expected = BTreeMap::new();
    for (kind, rendered, values) in BODIES {
        for value in values {
            let insert = format!(
                "INSERT INTO outbox_{kind} (payload) VALUES ({value})
                 RETURNING id::text, convert_to({rendered}, 'utf8')"
            );
            let insert = insert.replace(
                "convert_to(payload, 'utf8')",
                match kind {
                    "bytea" => "payload",
                    _ => "convert_to(payload, 'utf8')",
                },
            );
            let row = setting.client().await?.query_one(&insert, &[]).await.context(insert)?;
            let body: Option<Vec<u8>> = row.try_get(1)?;
            expected.insert(row.try_get::<_, String>(0)?, body.unwrap_or_default());
        }
    }
    let came = arrived(&consumer, expected.len()).await?;
    for delivery in &came {
        let body = expected.remove(&id(delivery)).context("an unknown or a repeated id")?;
        let shown = String::from_utf8_lossy(body.get(..100).unwrap_or(&body)).into_owned();
        assert!(delivery.body == body, "{shown} came as {} bytes", delivery.body.len());
    }
    assert!(expected.is_empty(), "{} did not come", expected.len());
    relay.drain(PATIENCE).await
}

/// Times that a message cannot carry, or that nobody who gets it can read: the commit's instead.
#[tokio::test]
async fn a_time_that_cannot_be_told_is_the_commits() -> Result<()> {
    let times = [
        (
            "bigint",
            &[
                "(extract(epoch FROM now()) * 1000000)::bigint",
                "(extract(epoch FROM now()) * 1000000000)::bigint",
                "(-9223372036854775808)::bigint",
                "-1",
                "NULL",
            ][..],
        ),
        (
            "timestamptz",
            &["'infinity'", "'-infinity'", "'4713-01-01 BC'", "'294276-12-31'", "'1969-12-31'"],
        ),
        (
            "timestamp",
            &["'infinity'", "'-infinity'", "'4713-01-01 BC'", "'294276-12-31'", "'10000-01-01'"],
        ),
    ];
    let mut setting = Setting::bare().await?;
    for (number, (kind, _)) in times.iter().enumerate() {
        let name = format!("outbox_{kind}");
        setting = setting.set(&format!("tables.{number}.name"), &name);
        let create = format!(
            "id uuid PRIMARY KEY DEFAULT gen_random_uuid(), topic text DEFAULT 't', payload jsonb DEFAULT '1',
             occurred_at {kind}, relayed_at timestamptz"
        );
        setting.sql(&format!("CREATE TABLE {name} ({create})")).await?;
    }
    setting.init().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    let now: i64 = setting.ask("SELECT extract(epoch FROM now())::bigint").await?;
    let mut count = 0;
    for (kind, values) in times {
        for value in values {
            setting
                .sql(&format!("INSERT INTO outbox_{kind} (occurred_at) VALUES ({value})"))
                .await?;
            count += 1;
            let came = arrived(&consumer, count).await.with_context(|| relay.log())?;
            let at =
                came.last().and_then(|last| *last.properties.timestamp()).context("no time")?;
            let late = i64::try_from(at)? - now;
            assert!((-1..60).contains(&late), "{kind} {value}: {at}, {late} s after the start");
        }
    }
    // As they are marked, where the time tells the partition or not.
    let unmarked = "SELECT count(*) = 0 FROM (SELECT relayed_at FROM outbox_bigint UNION ALL
        SELECT relayed_at FROM outbox_timestamptz UNION ALL SELECT relayed_at FROM outbox_timestamp) AS rows
        WHERE relayed_at IS NULL";
    setting.until("the marks", unmarked).await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn properties_come_from_the_columns() -> Result<()> {
    let setting = Setting::bare()
        .await?
        .set("tables.0.app_id", "shop")
        .set("tables.0.content_type", "application/vnd.shop+json")
        .set("tables.0.columns.content_type", "media_type")
        .set("tables.0.columns.correlation_id", "request");
    let create =
        "id uuid PRIMARY KEY, aggregate_type text, aggregate_id bigint, event_type varchar(40),
        topic text, payload jsonb, headers jsonb, occurred_at timestamptz, relayed_at timestamptz,
        media_type text, request uuid, traceparent text, tracestate text";
    setting.sql(&format!("CREATE TABLE outbox_messages ({create})")).await?;
    setting.init().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    setting
        .sql(&format!(
            "INSERT INTO outbox_messages VALUES
             ('{}', 'order', 7, 'paid', NULL, '{{}}', '{{\"tracestate\": \"the headers win\"}}', '2024-02-29 23:59:59.999+05:30', NULL, 'text/plain', '{}',
              '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01', 'congo=1'),
             ('{}', NULL, NULL, NULL, 'bare', '{{}}', NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
            uuid(1), uuid(9), uuid(2)
        ))
        .await?;
    let came = arrived(&consumer, 2).await?;
    let [full, bare] = came.as_slice() else { anyhow::bail!("{} came", came.len()) };
    let shown = |delivery: &Delivery| {
        let p = &delivery.properties;
        let names = [p.message_id(), p.kind(), p.content_type(), p.app_id(), p.correlation_id()];
        let names = names.map(|name| name.as_ref().map_or_else(|| "-".into(), ToString::to_string));
        let of = |name| text(delivery, name).unwrap_or("-").to_owned();
        format!(
            "{} {} {:?} {} {}",
            delivery.routing_key,
            names.join(" "),
            p.delivery_mode(),
            of("aggregate_type"),
            of("aggregate_id")
        )
    };
    assert_eq!(
        shown(full),
        format!("order.paid {} paid text/plain shop {} Some(2) order 7", uuid(1), uuid(9))
    );
    assert_eq!(
        shown(bare),
        format!("bare {} - application/vnd.shop+json shop - Some(2) - -", uuid(2))
    );
    let trace = |delivery: &Delivery| {
        ["traceparent", "tracestate"].map(|name| text(delivery, name).map(str::to_owned))
    };
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    assert_eq!(
        trace(full),
        [Some(parent), Some("the headers win")].map(|it| it.map(str::to_owned))
    );
    assert_eq!(trace(bare), [None, None]);
    // 18:29:59 UTC, the fraction cut off.
    assert_eq!(*full.properties.timestamp(), Some(1_709_231_399));
    let now: i64 = setting.ask("SELECT extract(epoch FROM now())::bigint").await?;
    let committed = bare.properties.timestamp().context("no timestamp")?;
    assert!(now.unsigned_abs().abs_diff(committed) < 60, "the commit's time, not {committed}");
    // What AMQP has a property for and nobody asked for stays out.
    assert_eq!((bare.properties.priority(), bare.properties.user_id()), (&None, &None));
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn headers_keep_their_types() -> Result<()> {
    let setting = Setting::shared().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    setting
        .sql(
            r#"INSERT INTO outbox_messages (topic, aggregate_id, payload, headers) VALUES ('t', 'row', '{}', '{
               "text": "grüße", "empty": "", "int": -42, "big": 9223372036854775807, "float": 1.5, "yes": true,
               "no": null, "list": [1, "two", [false]], "map": {"deep": {"deeper": 3}},
               "pgoutbox-index": "forged", "aggregate_id": "said by the row"}')"#,
        )
        .await?;
    let came = arrived(&consumer, 1).await?;
    let delivery = came.first().context("nothing came")?;
    let list = AMQPValue::FieldArray(
        vec![
            AMQPValue::LongLongInt(1),
            AMQPValue::LongString("two".into()),
            AMQPValue::FieldArray(vec![AMQPValue::Boolean(false)].into()),
        ]
        .into(),
    );
    for (name, value) in [
        ("text", AMQPValue::LongString("grüße".into())),
        ("empty", AMQPValue::LongString("".into())),
        ("int", AMQPValue::LongLongInt(-42)),
        ("big", AMQPValue::LongLongInt(i64::MAX)),
        ("float", AMQPValue::Double(1.5)),
        ("yes", AMQPValue::Boolean(true)),
        ("no", AMQPValue::Void),
        ("list", list),
        // The relay's own name cannot be taken; the aggregate's can be chosen by the row.
        ("pgoutbox-index", AMQPValue::LongLongInt(0)),
        ("aggregate_id", AMQPValue::LongString("said by the row".into())),
    ] {
        assert_eq!(delivery.header(name), Some(&value), "{name}");
    }
    let Some(AMQPValue::FieldTable(map)) = delivery.header("map") else {
        anyhow::bail!("{:?}", delivery.header("map"))
    };
    let Some(AMQPValue::FieldTable(deep)) = map.inner().get("deep") else {
        anyhow::bail!("{map:?}")
    };
    assert_eq!(deep.inner().get("deeper"), Some(&AMQPValue::LongLongInt(3)));
    relay.drain(PATIENCE).await
}

fn place(delivery: &Delivery) -> Result<(String, i64)> {
    let lsn = text(delivery, "pgoutbox-commit-lsn").context("no commit LSN")?;
    match delivery.header("pgoutbox-index") {
        Some(AMQPValue::LongLongInt(index)) => Ok((lsn.to_owned(), *index)),
        other => anyhow::bail!("index {other:?}"),
    }
}

#[tokio::test]
async fn a_place_rises_in_commit_order_and_is_the_same_on_every_copy() -> Result<()> {
    // Nothing is marked or recorded before the relay is killed, so all of it comes again.
    let setting = Setting::shared().await?.set("audit.linger", "9s").set("audit.hold", "10s");
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    let insert = |from: u32, to: u32| {
        let rows: Vec<_> = (from..=to).map(|n| format!("('{}', 't', '{{}}')", uuid(n))).collect();
        format!("INSERT INTO outbox_messages (id, topic, payload) VALUES {};", rows.join(", "))
    };
    // The first to write is not the first to commit.
    let (early, late) = (setting.client().await?, setting.client().await?);
    early.batch_execute(&format!("BEGIN; {}", insert(4, 6))).await?;
    late.batch_execute(&insert(1, 3)).await?;
    early.batch_execute("SAVEPOINT s").await?;
    early
        .batch_execute(&format!("{} ROLLBACK TO s; {} COMMIT", insert(90, 91), insert(7, 7)))
        .await?;
    late.batch_execute(&insert(8, 8)).await?;
    let first = arrived(&consumer, 8).await?;
    relay.kill9().await?;
    let relay = setting.run()?;
    let both = arrived(&consumer, 16).await?;
    let again = both.get(8..).context("no second copies")?;
    assert_eq!(ids(&first), (1..=8).map(uuid).collect::<Vec<_>>());
    let places = first.iter().map(place).collect::<Result<Vec<_>>>()?;
    let indices: Vec<_> = places.iter().map(|(_, index)| *index).collect();
    assert_eq!(indices, [0, 1, 2, 0, 1, 2, 3, 0]);
    assert!(places.is_sorted(), "as text: {places:?}");
    assert!(places.iter().all(|(lsn, _)| lsn.len() == 17), "{places:?}");
    let client = setting.client().await?;
    for pair in places.windows(2) {
        let [(before, _), (after, index)] = pair else { continue };
        let sql = format!("SELECT '{before}'::pg_lsn < '{after}'::pg_lsn");
        let rises: bool = client.query_one(&sql, &[]).await?.try_get(0)?;
        assert_eq!(rises, *index == 0, "{before} to {after}");
    }
    for (one, other) in first.iter().zip(again) {
        assert_eq!(one.properties, other.properties);
        assert_eq!((&one.routing_key, &one.body), (&other.routing_key, &other.body));
    }
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn templates_choose_exchange_and_routing_key() -> Result<()> {
    let setting = Setting::bare()
        .await?
        .set("tables.0.exchange", "{region}.events | outbox")
        .set("tables.0.routing_key", "{{{event_type}}}.{tenant}.{aggregate_id} | {topic} | none")
        .set("tables.0.columns.event_type", "kind");
    let create = "id bigint PRIMARY KEY, kind text, aggregate_id uuid, topic text, payload jsonb DEFAULT '{}',
        relayed_at timestamptz, region text, tenant smallint";
    setting.sql(&format!("CREATE TABLE outbox_messages ({create})")).await?;
    setting.init().await?;
    let channel = setting.channel().await?;
    let mut consumers = Vec::new();
    for exchange in ["outbox", "eu.events", "us.events"] {
        let options = harness::consumer::Options {
            exchange: exchange.to_owned(),
            queue: exchange.to_owned(),
            queue_type: harness::consumer::QueueType::Classic,
            ..Default::default()
        };
        harness::consumer::declare(&channel, &options).await?;
        consumers.push(harness::consumer::Consumer::start(&setting.amqp_url, options).await?);
    }
    let relay = setting.run()?;
    setting
        .sql(&format!(
            "INSERT INTO outbox_messages (id, kind, aggregate_id, topic, region, tenant) VALUES
             (1, 'paid', '{}', 'x', 'eu', 7), (2, 'paid', NULL, 'x', 'us', 7),
             (3, NULL, NULL, '', '', 7), (4, 'paid', '{}', NULL, NULL, NULL)",
            uuid(5),
            uuid(6)
        ))
        .await?;
    let came = async |which: usize, count| -> Result<Vec<(String, String)>> {
        let consumer = consumers.get(which).context("no such consumer")?;
        let came = arrived(consumer, count).await?;
        Ok(came.iter().map(|d| (id(d), d.routing_key.clone())).collect())
    };
    let pair = |id: &str, key: &str| (id.to_owned(), key.to_owned());
    assert_eq!(came(1, 1).await?, [pair("1", &format!("{{paid}}.7.{}", uuid(5)))]);
    assert_eq!(came(2, 1).await?, [pair("2", "x")]);
    assert_eq!(came(0, 2).await?, [pair("3", "none"), pair("4", "none")]);
    wait_until("all to be marked", PATIENCE, async || {
        Ok(setting.ask::<i64>("SELECT count(relayed_at) FROM outbox_messages").await? == 4)
    })
    .await?;
    relay.drain(PATIENCE).await
}
