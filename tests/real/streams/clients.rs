//! What clients of the stream protocol read of an event: every field of it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use harness::events::event;
use harness::npm;
use harness::relay::Pgoutbox;
use serde_json::{Value, json};

use super::STREAM;
use super::consumers::python;
use super::content::mapped;
use crate::setting::{PATIENCE, Setting, uuid};

pub(super) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real/streams").join(name)
}

/// Delivers an event with all that there is, and has a client print it.
async fn read(port: u16, setting: &Setting, client: Pgoutbox, script: &str) -> Result<Value> {
    let headers = r#"'{"text":"ü","empty":"","zero":0,"count":-7,"price":1.5,"yes":true,"no":false,
                       "list":[1,"a"],"x-own":"x","long":"'||repeat('l',300)||'"}'"#;
    let row = event(1, "orders.placed")
        .of("order-7")
        .column("event_type", "'placed'")
        .column("correlation_id", "'request-1'")
        .column("payload", "jsonb_build_object('total', 42)")
        .column("occurred_at", "'2026-11-30 12:00:00+00'")
        .column("headers", &format!("({headers})::jsonb"));
    setting.sql("ALTER TABLE outbox_messages ADD COLUMN correlation_id text").await?;
    setting.insert(row).await?;
    let relay = setting.run()?;
    setting.all_marked().await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await?;
    let client = client
        .env("AMQP_URL", &setting.amqp_url)
        .env("STREAM_PORT", port.to_string())
        .env("STREAM", STREAM);
    let told = client.output(&[&self::script(script).to_string_lossy()]).await?;
    let (out, err) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    ensure!(told.status.success(), "{out}{err}");
    serde_json::from_str(&out).with_context(|| format!("{out}{err}"))
}

/// As each of them has it; the headers by their own account.
fn is_whole(told: &Value, headers: &Value) {
    let is = |pointer: &str, wanted: Value| {
        assert_eq!(told.pointer(pointer), Some(&wanted), "{pointer} of {told:#}");
    };
    is("/message_id", json!(uuid(1)));
    is("/correlation_id", json!("request-1"));
    is("/content_type", json!("application/json"));
    is("/content_encoding", json!("identity"));
    is("/reply_to", json!("answers"));
    is("/user_id", json!("guest"));
    is("/creation_time", json!(1_796_040_000_000_u64));
    is("/group_id", json!("shop"));
    let annotations = json!({
        "x-exchange": "outbox", "x-routing-key": "orders.placed", "x-basic-type": "placed",
        "x-basic-delivery-mode": 2, "x-basic-priority": 3, "x-basic-expiration": "86400000",
    });
    for (name, value) in annotations.as_object().into_iter().flatten() {
        assert_eq!(told["annotations"].get(name), Some(value), "{name} of {told:#}");
    }
    let all =
        json!({"text": "ü", "x-own": "x", "long": "l".repeat(300), "aggregate_id": "order-7"});
    for (name, value) in [&all, headers].into_iter().filter_map(Value::as_object).flatten() {
        assert_eq!(told["application"].get(name), Some(value), "{name} of {told:#}");
    }
    assert!(told["application"]["pgoutbox-commit-lsn"].is_string(), "{told:#}");
    let body = told["body"].as_str().and_then(|body| serde_json::from_str::<Value>(body).ok());
    assert_eq!(body, Some(json!({"total": 42})), "{told:#}");
}

/// Python's `rstream`: with the types of JSON.
#[tokio::test]
async fn rstream_reads_every_field() -> Result<()> {
    let (rabbitmq, setting) = Setting::streaming(STREAM).await?;
    let python = tokio::task::spawn_blocking(python).await??;
    let (port, client) = (rabbitmq.stream_port(), Pgoutbox::at(python));
    let told = read(port, &mapped(setting), client, "read_one.py").await?;
    is_whole(
        &told,
        &json!({
            "empty": "", "zero": 0, "count": -7, "price": 1.5, "yes": true, "no": false,
            "list": "[1,\"a\"]", "pgoutbox-index": 0,
        }),
    );
    Ok(())
}

/// Node's `rabbitmq-stream-js-client`: headers as texts, since it reads no others. A list is then as Postgres writes it.
#[tokio::test]
async fn the_client_for_node_reads_every_field() -> Result<()> {
    let (rabbitmq, setting) = Setting::streaming(STREAM).await?;
    if rabbitmq.version().starts_with("3.10.") {
        // The client asks for the versions of commands, over which that one hangs up; `tests/matrix.sh` runs this on a
        // newer one.
        return Ok(());
    }
    let made = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let install = || npm::installed(made, "rabbitmq-stream-js-client@0.6.2");
    let modules = tokio::task::spawn_blocking(install).await??.join("node_modules");
    let client = Pgoutbox::at("node").env("NODE_PATH", modules);
    let setting = mapped(setting).set("tables.0.header_values", "text");
    let told = read(rabbitmq.stream_port(), &setting, client, "read_one.js").await?;
    is_whole(
        &told,
        &json!({
            "zero": "0", "count": "-7", "price": "1.5", "yes": "true", "no": "false",
            "list": "[1, \"a\"]", "pgoutbox-index": "0",
        }),
    );
    assert_eq!(told["application"].get("empty"), None, "{told:#}");
    Ok(())
}
