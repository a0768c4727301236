//! The table of Debezium's outbox event router, and Quarkus' variant of it.

use anyhow::Result;
use harness::consumer::Delivery;
use lapin::BasicProperties;

use super::{Exchange, Message, World, text};
use crate::bare::uuid;

/// That of the router's own page.
pub(super) const DDL: &str = "
    CREATE TABLE outboxevent (
        id uuid NOT NULL PRIMARY KEY,
        aggregatetype varchar(255) NOT NULL,
        aggregateid varchar(255) NOT NULL,
        type varchar(255) NOT NULL,
        payload jsonb
    )";

/// As Hibernate makes it for Quarkus' extension.
const DDL_OF_QUARKUS: &str = "
    CREATE TABLE OutboxEvent (
        id uuid NOT NULL,
        aggregatetype varchar(255) NOT NULL,
        aggregateid varchar(255) NOT NULL,
        type varchar(255) NOT NULL,
        timestamp timestamptz(6) NOT NULL,
        payload varchar(8000),
        tracingspancontext varchar(256),
        PRIMARY KEY (id)
    )";

/// A row that is gone before its transaction is committed.
fn insert(n: u32, aggregate: &str) -> String {
    let id = uuid(n);
    format!(
        "BEGIN;
         INSERT INTO outboxevent (id, aggregatetype, aggregateid, type, payload)
         VALUES ('{id}', 'Order', '{aggregate}', 'OrderCreated', '{{\"n\": {n}}}');
         DELETE FROM outboxevent WHERE id = '{id}';
         COMMIT"
    )
}

fn properties(n: u32, delivery: &Delivery) -> BasicProperties {
    BasicProperties::default()
        .with_message_id(uuid(n).into())
        .with_type("OrderCreated".into())
        .with_content_type("application/json".into())
        // The commit's: no column of it says when.
        .with_timestamp(delivery.properties.timestamp().unwrap_or_default())
}

#[tokio::test]
async fn rows_of_the_router_are_relayed_though_they_are_gone() -> Result<()> {
    let exchange = Exchange::topic("outbox.event.Order", "7");
    let more = [("headers.eventType", "{type}")];
    let mut world = World::new("debezium", DDL, exchange, &more).await?;
    let relay = world.setting.run()?;
    world.sql(&insert(1, "7")).await?;
    let first = world.next(&relay).await?;
    let headers = |n: u32, aggregate: &str| {
        vec![
            ("id", text(&uuid(n))),
            // A variable's name has no capitals.
            ("eventtype", text("OrderCreated")),
            ("aggregate_type", text("Order")),
            ("aggregate_id", text(aggregate)),
        ]
    };
    Message {
        routing_key: "7",
        properties: properties(1, &first),
        headers: headers(1, "7"),
        body: b"{\"n\": 1}",
    }
    .judge(&first)?;
    let gone = "SELECT count(*) = 0 FROM outboxevent";
    let key = ("outbox.event.Order", "8");
    let second = world.fails(&relay, &insert(2, "8"), key, [gone, gone]).await?;
    Message {
        routing_key: "8",
        properties: properties(2, &second),
        headers: headers(2, "8"),
        body: b"{\"n\": 2}",
    }
    .judge(&second)?;
    relay.drain(crate::setting::PATIENCE).await?;

    // Nothing brings back what was lost with the slot, and nobody is told that nothing was.
    world.sql("SELECT pg_drop_replication_slot(current_database())").await?;
    let halted = world.setting.program.output(&["run"]).await?;
    let said = String::from_utf8_lossy(&halted.stderr).into_owned();
    assert_eq!(halted.status.code(), Some(1), "{said}");
    assert!(said.contains("with audit.mode = none there is no record"), "{said}");
    Ok(())
}

/// Its JSON converter quotes a header, and with its schema puts it into an object; the envelope of
/// `table.fields.additional.placement` is a body of several columns.
#[tokio::test]
async fn what_the_converters_make_of_headers_and_body_can_be_had() -> Result<()> {
    let exchange = Exchange::topic("outbox.event.Order", "#");
    let schema = r#"{{"schema":{{"type":"string","optional":false}},"payload":"{id}"}}"#;
    let more = [
        ("headers.id", "\"{id}\""),
        ("headers.withschema", schema),
        ("body.payload", "{payload}"),
        ("body.type", "{type}"),
    ];
    let mut world = World::new("debezium", DDL, exchange, &more).await?;
    let relay = world.setting.run()?;
    world.sql(&insert(1, "7")).await?;
    let came = world.next(&relay).await?;
    let id = uuid(1);
    let in_schema =
        format!(r#"{{"schema":{{"type":"string","optional":false}},"payload":"{id}"}}"#);
    Message {
        routing_key: "7",
        properties: properties(1, &came),
        headers: vec![
            ("id", text(&format!("\"{id}\""))),
            ("withschema", text(&in_schema)),
            ("aggregate_type", text("Order")),
            ("aggregate_id", text("7")),
        ],
        body: b"{\"payload\":{\"n\": 1},\"type\":\"OrderCreated\"}",
    }
    .judge(&came)?;
    world.ends(relay).await
}

#[tokio::test]
async fn rows_of_quarkus_are_relayed_with_when_they_happened() -> Result<()> {
    let exchange = Exchange::topic("outbox.event.Order", "#");
    let mut world = World::new("debezium", DDL_OF_QUARKUS, exchange, &[]).await?;
    let relay = world.setting.run()?;
    let id = uuid(1);
    world
        .sql(&format!(
            "BEGIN;
             INSERT INTO OutboxEvent (aggregateid, aggregatetype, payload, timestamp, tracingspancontext, type, id)
             VALUES ('7', 'Order', '{{\"n\":1}}', '2026-11-30 12:00:01.5Z', '#Mon Nov 30\ntraceparent=00-1-2-01\n',
                     'OrderCreated', '{id}');
             DELETE FROM OutboxEvent WHERE id = '{id}';
             COMMIT"
        ))
        .await?;
    let came = world.next(&relay).await?;
    let properties = properties(1, &came).with_timestamp(1_796_040_001);
    Message {
        routing_key: "7",
        properties,
        headers: vec![
            ("id", text(&id)),
            ("aggregate_type", text("Order")),
            ("aggregate_id", text("7")),
        ],
        body: b"{\"n\":1}",
    }
    .judge(&came)?;
    world.ends(relay).await
}
