//! What a consumer finds in a message of a stream.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use harness::events::event;
use harness::stream;
use lapin::types::AMQPValue;

use super::STREAM;
use crate::setting::{PATIENCE, Setting, program};

/// Of a delivery: exchange, routing key, properties, headers and body, as text.
fn shown(delivery: &lapin::message::Delivery, is_old: bool) -> BTreeMap<String, String> {
    let properties = &delivery.properties;
    let mut all = BTreeMap::from([
        ("exchange".to_owned(), delivery.exchange.to_string()),
        ("routing key".to_owned(), delivery.routing_key.to_string()),
        ("body".to_owned(), String::from_utf8_lossy(&delivery.data).into_owned()),
    ]);
    let mut bare = properties.clone().with_headers(Default::default());
    if is_old {
        bare = bare.with_type(Default::default()).with_app_id(Default::default());
    }
    all.insert("properties".to_owned(), format!("{bare:?}"));
    for (name, value) in properties.headers().iter().flat_map(|headers| headers.inner()) {
        let value = match value {
            // A stream has no such values within a message: they are there as JSON.
            AMQPValue::FieldArray(_) | AMQPValue::FieldTable(_) => "JSON".to_owned(),
            AMQPValue::LongString(text) if text.as_bytes().starts_with(b"{\"in") => {
                "JSON".to_owned()
            }
            AMQPValue::LongString(text) if text.as_bytes().starts_with(b"[1") => "JSON".to_owned(),
            value => format!("{value:?}"),
        };
        all.insert(format!("header {name}"), value);
    }
    // The broker's own; and what tells a replay, by which the queue was filled.
    for own in ["x-stream-offset", "pgoutbox-commit-lsn", "pgoutbox-index", "pgoutbox-replayed"] {
        all.remove(&format!("header {own}"));
    }
    all
}

/// With all properties that there are.
pub(super) fn mapped(setting: Setting) -> Setting {
    setting
        .set("tables.0.app_id", "shop")
        .set("tables.0.properties.content_encoding", "identity")
        .set("tables.0.properties.reply_to", "answers")
        .set("tables.0.properties.expiration", "86400000")
        .set("tables.0.properties.priority", "3")
        .set("tables.0.properties.user_id", "guest")
}

/// Whatever is in an event, an AMQP consumer of the stream is given what it would be given by a queue.
#[tokio::test]
async fn an_amqp_consumer_sees_what_a_queue_would_give_it() -> Result<()> {
    let (rabbitmq, setting) = Setting::streaming(STREAM).await?;
    // Before 3.13 RabbitMQ has another place for these two.
    let version = rabbitmq.version();
    let is_old = ["3.10.", "3.11.", "3.12."].iter().any(|old| version.starts_with(old));
    let Setting { database, database_url, amqp_url, .. } = &setting;
    let exchanging = program(database, database_url, amqp_url);
    let exchanging = mapped(Setting { program: exchanging, ..setting.clone() });
    let setting = mapped(setting);
    let headers = r#"'{"text":"ü","empty":"","zero":0,"count":-7,"price":1.5,"yes":true,"no":false,"nothing":null,
                       "list":[1,"a"],"table":{"in":{"b":1}},"x-own":"x","long":"'||repeat('l',300)||'"}'"#;
    let headers = format!("({headers})::jsonb");
    let full = event(1, "orders.placed")
        .of("order-7")
        .column("event_type", "'placed'")
        .column("payload", "jsonb_build_object('filler', repeat('x', 700))")
        .column("occurred_at", "'2026-11-30 12:00:00+00'")
        .column("headers", &headers);
    let bare = event(2, "orders.placed")
        .column("occurred_at", "'2026-11-30 12:00:01+00'")
        .column("payload", "'\"\"'");
    setting.insert(full).await?;
    setting.insert(bare).await?;
    let relay = setting.run()?;
    setting.all_marked().await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await?;
    let held = stream::read(&setting.amqp_url, STREAM).await?;

    let by_queue = queued(&exchanging).await?;
    let of = |all: &[lapin::message::Delivery]| {
        all.iter().map(|it| shown(it, is_old)).collect::<Vec<_>>()
    };
    assert_eq!(of(&held), of(&by_queue));
    assert_eq!(held.len(), 2);
    Ok(())
}

/// The same rows, by AMQP through a queue.
async fn queued(setting: &Setting) -> Result<Vec<lapin::message::Delivery>> {
    use futures_util::StreamExt;
    use lapin::options::*;
    use lapin::types::FieldTable;
    setting.init().await?;
    let channel = setting.channel().await?;
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare("queued".into(), options, FieldTable::default()).await?;
    let options = QueueBindOptions::default();
    channel
        .queue_bind("queued".into(), "outbox".into(), "#".into(), options, FieldTable::default())
        .await?;
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let consumer =
        channel.basic_consume("queued".into(), "c".into(), options, FieldTable::default());
    let mut consumer = consumer.await?;
    setting.program.succeed(&["replay", "--all"]).await?;
    let mut all = Vec::new();
    for _ in 0..2 {
        let next = tokio::time::timeout(PATIENCE, consumer.next()).await?;
        all.push(next.context("the queue gave nothing")??);
    }
    Ok(all)
}
