//! CloudEvents, read by the official SDK (PyPI's `cloudevents`): it raises for what is none.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use harness::consumer::Delivery;
use harness::events::events;
use lapin::types::AMQPValue;
use serde_json::{Map, Value, json};

use super::shop::python;
use crate::bare::{arrived, uuid};
use crate::setting::{PATIENCE, Setting};

/// As the SDK wants it.
fn line(binding: &str, delivery: &Delivery) -> Result<String> {
    let mut headers = Map::new();
    let came = delivery.properties.headers().clone().context("headers")?;
    for (name, value) in came.inner() {
        let value = match value {
            AMQPValue::LongString(text) => Value::from(text.to_string()),
            AMQPValue::LongLongInt(number) => Value::from(*number),
            other => anyhow::bail!("{name} is {other:?}"),
        };
        headers.insert(name.to_string(), value);
    }
    let mut body = String::new();
    for byte in &delivery.body {
        write!(body, "{byte:02x}")?;
    }
    let content_type = delivery.properties.content_type().as_ref().map(ToString::to_string);
    let message = json!({
        "binding": binding, "headers": headers, "content_type": content_type, "body": body,
    });
    Ok(message.to_string() + "\n")
}

/// What the SDK makes of these messages.
fn read(lines: &str) -> Result<Vec<Value>> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real/recipes/read_cloudevents.py");
    let mut sdk = Command::new(python()?)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    sdk.stdin.take().context("an input")?.write_all(lines.as_bytes())?;
    let Output { status, stdout, stderr } = sdk.wait_with_output()?;
    ensure!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout)?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

#[tokio::test]
async fn the_official_sdk_reads_every_form() -> Result<()> {
    for (mode, prefix, binding) in [
        ("binary", "cloudEvents:", "amqp"),
        ("binary", "cloudEvents_", "amqp"),
        ("binary", "ce-", "rabbitmq"),
        ("structured", "cloudEvents:", "amqp"),
        ("structured", "cloudEvents:", "rabbitmq"),
    ] {
        let mut setting = Setting::bare().await?;
        for table in ["tables.0", "tables.1"] {
            for (key, value) in [
                ("mode", mode),
                ("prefix", prefix),
                ("source", "/shop/orders"),
                ("type", "com.example.{event_type}"),
                ("extensions.partitionkey", "{aggregate_id}"),
            ] {
                setting = setting.set(&format!("{table}.cloudevents.{key}"), value);
            }
        }
        let setting = setting.set("tables.1.name", "pictures");
        setting
            .sql(
                "CREATE TABLE pictures (
                     id uuid PRIMARY KEY, topic text, aggregate_type text, aggregate_id text, event_type text, payload bytea,
                     content_type text, occurred_at timestamptz DEFAULT '2026-11-30T12:00:00Z', relayed_at timestamptz)",
            )
            .await?;
        setting.init().await?;
        let consumer = setting.bound("#").await?;
        let relay = setting.run()?;
        let event = |n: i64, payload: &str| {
            let event = events(n..=n, "t").of("7").column("event_type", "'paid'");
            let time = "'2026-11-30T12:00:00.123456Z'";
            event.column("payload", payload).column("occurred_at", time)
        };
        setting.insert(event(1, r#"'{"n": 1, "name": "ünï"}'"#)).await?;
        let picture = event(2, r"'\x00ff80'").table("pictures");
        setting.insert(picture.column("content_type", "'image/png'")).await?;
        let came = arrived(&consumer, 2).await.with_context(|| relay.log())?;
        relay.drain(PATIENCE).await?;
        let lines = came.iter().map(|it| line(binding, it)).collect::<Result<String>>()?;
        let shown = tokio::task::spawn_blocking(move || read(&lines)).await?;
        let shown = shown.with_context(|| format!("{mode} {prefix} {binding}"))?;
        let wanted = |n: u32, content_type: &str, data: Value| {
            json!({
                "attributes": {
                    "id": uuid(n), "source": "/shop/orders", "type": "com.example.paid", "specversion": "1.0",
                    "subject": "7", "time": "2026-11-30T12:00:00.123456+00:00", "datacontenttype": content_type,
                    "partitionkey": "7",
                },
                "data": data,
            })
        };
        let first = wanted(1, "application/json", json!({"n": 1, "name": "ünï"}));
        let second = wanted(2, "image/png", json!({"bytes": "00ff80"}));
        assert_eq!(shown, [first, second], "{mode} {prefix} {binding}");
    }
    Ok(())
}
