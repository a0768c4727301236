//! Eventuate Tram's table of messages.

use anyhow::Result;
use harness::consumer::Delivery;
use lapin::{BasicProperties, ExchangeKind};
use serde_json::json;

use super::{Exchange, Message, World, text};
use crate::check::Checks as _;

/// That of eventuate-common.
pub(super) const DDL: &str = "
    CREATE SCHEMA eventuate;
    CREATE TABLE eventuate.message (
        id varchar(1000) PRIMARY KEY,
        destination text NOT NULL,
        headers text NOT NULL,
        payload text NOT NULL,
        published smallint DEFAULT 0,
        message_partition smallint,
        creation_time bigint
    );
    CREATE INDEX message_published_idx ON eventuate.message (published, id)";

const ORDERS: &str = "com.acme.Order";

/// What its producer's consumers declare for a destination.
fn fanout(name: &'static str) -> Exchange {
    Exchange { name, kind: ExchangeKind::Fanout, is_durable: false, binding: "" }
}

fn headers(n: u32, destination: &str, partition: Option<&str>) -> serde_json::Value {
    let mut headers = json!({
        "ID": format!("id-{n}"), "DESTINATION": destination, "DATE": "Mon, 30 Nov 2026 12:00:00 GMT",
        "event-type": "OrderCreated",
    });
    if let Some(partition) = partition {
        headers["PARTITION_ID"] = json!(partition);
    }
    headers
}

/// Its JDBC producer.
fn send(n: u32, destination: &str, partition: Option<&str>) -> String {
    let headers = headers(n, destination, partition);
    format!(
        "INSERT INTO eventuate.message (id, destination, headers, payload, creation_time, published, message_partition)
         VALUES ('id-{n}', '{destination}', '{headers}', '{{\"total\":{n}}}', {}, 0, NULL)",
        1_796_040_000_250_i64 + i64::from(n) * 1000
    )
}

/// Its consumer reads nothing but the body; the exchange that spreads messages over its queues, the routing key.
fn judge(n: u32, destination: &str, partition: Option<&str>, delivery: &Delivery) -> Result<()> {
    let own_id = format!("id-{n}");
    let properties = BasicProperties::default()
        .with_message_id(own_id.as_str().into())
        .with_content_type("application/json".into())
        .with_timestamp(1_796_040_000 + u64::from(n));
    let headers = headers(n, destination, partition);
    let key = partition.unwrap_or(&own_id);
    let mut amqp = vec![("key", text(key))];
    for (name, value) in headers.as_object().into_iter().flatten() {
        amqp.push((name, text(value.as_str().unwrap_or_default())));
    }
    let wanted = json!({"headers": headers, "payload": format!("{{\"total\":{n}}}")});
    assert_eq!(delivery.json()?, wanted);
    Message { routing_key: key, properties, headers: amqp, body: &delivery.body }.judge(delivery)
}

#[tokio::test]
async fn messages_of_eventuate_are_relayed_as_its_consumers_read_them() -> Result<()> {
    let mut world = World::new("eventuate", DDL, fanout(ORDERS), &[]).await?;
    let relay = world.setting.run()?;
    world.sql(&send(1, ORDERS, Some("7"))).await?;
    judge(1, ORDERS, Some("7"), &world.next(&relay).await?)?;
    world.sql(&send(2, ORDERS, None)).await?;
    judge(2, ORDERS, None, &world.next(&relay).await?)?;
    // What its own polling would find.
    let polled = |count: u32| {
        format!("SELECT count(*) = {count} FROM eventuate.message WHERE published = 0")
    };
    world.says(&relay, &polled(0)).await?;
    world.says(&relay, "SELECT bool_and(published = 1) FROM eventuate.message").await?;

    let lost = "com.acme.Lost";
    fanout(lost).declare(&world.setting.channel().await?).await?;
    let (insert, waits) = (send(3, lost, Some("7")), polled(1));
    let states = [waits.as_str(), waits.as_str()];
    let delivery = world.fails(&relay, &insert, (lost, ""), states).await?;
    judge(3, lost, Some("7"), &delivery)?;
    world.says(&relay, &polled(0)).await?;

    // By creation_time: its ids are texts.
    let inserts = [6, 4, 5].map(|n| send(n, ORDERS, Some("7")));
    let (relay, ids) = world.catches_up(relay, &inserts).await?;
    assert_eq!(ids, ["id-4", "id-5", "id-6"]);
    world.says(&relay, &polled(0)).await?;
    let checked = world.setting.check().await?;
    let index = checked.has("mark-index", "warning");
    assert!(index["what"].to_string().contains("message_published_idx"), "{index}");
    checked.has_not("catch-up-order");
    world.ends(relay).await
}
