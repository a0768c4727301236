//! The Node library `pg-transactional-outbox`: it makes its table, writes its rows, and takes what comes into its
//! inbox.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use harness::consumer::Delivery;
use lapin::BasicProperties;
use lapin::types::AMQPValue;
use serde_json::{Value, json};

use super::{Exchange, Message, World, text};
use crate::bare::uuid;
use crate::check::Checks as _;

/// The version that is tested.
const PACKAGE: &str = "pg-transactional-outbox@0.5.7";

fn installed() -> Result<PathBuf> {
    harness::npm::installed(Path::new(env!("CARGO_TARGET_TMPDIR")), PACKAGE)
}

struct Library {
    folder: PathBuf,
    database_url: String,
}

impl Library {
    fn run(&self, args: [&str; 2], input: &str) -> Result<String> {
        let script =
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real/presets/pg_transactional_outbox.js");
        let mut node = Command::new("node")
            .arg(script)
            .args(args)
            .env("NODE_PATH", self.folder.join("node_modules"))
            .env("DATABASE_URL", &self.database_url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        node.stdin.take().context("an input")?.write_all(input.as_bytes())?;
        let Output { status, stdout, stderr } = node.wait_with_output()?;
        ensure!(status.success(), "{args:?}: {}", String::from_utf8_lossy(&stderr));
        Ok(String::from_utf8(stdout)?)
    }
}

fn message(n: u32, message_type: &str) -> Value {
    json!({
        "id": uuid(n), "aggregateType": "movie", "aggregateId": "7", "messageType": message_type,
        "segment": "movie-7", "concurrency": "parallel", "createdAt": format!("2026-11-30T12:00:0{n}.250Z"),
        "payload": {"n": n, "tags": ["a"]}, "metadata": {"tenant": "acme", "retries": 3},
    })
}

fn judge(n: u32, message_type: &str, delivery: &Delivery) -> Result<()> {
    let properties = BasicProperties::default()
        .with_message_id(uuid(n).into())
        .with_type(message_type.into())
        .with_content_type("application/json".into())
        .with_timestamp(1_796_040_000 + u64::from(n));
    let routing_key = format!("movie.{message_type}");
    let mut wanted = message(n, message_type);
    wanted["createdAt"] = json!(format!("2026-11-30 12:00:0{n}.25+00"));
    assert_eq!(delivery.json()?, wanted);
    Message {
        routing_key: &routing_key,
        properties,
        headers: vec![
            ("aggregate_type", text("movie")),
            ("aggregate_id", text("7")),
            ("tenant", text("acme")),
            ("retries", AMQPValue::LongLongInt(3)),
        ],
        body: &delivery.body,
    }
    .judge(delivery)
}

#[tokio::test]
async fn messages_of_the_node_library_are_relayed_into_its_inbox() -> Result<()> {
    let folder = tokio::task::spawn_blocking(installed).await??;
    let mut library = Library { folder, database_url: String::new() };
    let ddl = library.run(["tables", "outbox"], "")?;
    let exchange = Exchange::topic("outbox", "movie.added");
    let mut world = World::new("pg_transactional_outbox", &ddl, exchange, &[]).await?;
    world.sql(&library.run(["tables", "inbox"], "")?).await?;
    library.database_url.clone_from(&world.setting.database_url);
    let relay = world.setting.run()?;
    library.run(["store", "outbox"], &message(1, "added").to_string())?;
    let first = world.next(&relay).await?;
    judge(1, "added", &first)?;
    // What its own polling would find, and what its own listener would have written.
    let polled = |count: u32| {
        format!(
            "SELECT count(*) = {count} FROM outbox WHERE processed_at IS NULL AND abandoned_at IS NULL"
        )
    };
    world.says(&relay, &polled(0)).await?;
    world.says(&relay, "SELECT count(*) = 0 FROM next_outbox_messages(10, 0)").await?;

    let state = |attempts: u32, is_abandoned: bool| {
        format!(
            "SELECT started_attempts = {attempts} AND processed_at IS NULL AND (abandoned_at IS NOT NULL) = {is_abandoned}
               FROM outbox WHERE message_type = 'lost'"
        )
    };
    let states = [state(1, false), state(2, true)];
    let states = [states[0].as_str(), states[1].as_str()];
    let stored = message(2, "lost").to_string();
    let insert = "SELECT 1";
    library.run(["store", "outbox"], &stored)?;
    let delivery = world.fails(&relay, insert, ("outbox", "movie.lost"), states).await?;
    judge(2, "lost", &delivery)?;
    world.says(&relay, "SELECT count(*) = 2 FROM outbox WHERE processed_at IS NOT NULL AND abandoned_at IS NULL").await?;

    // Its inbox takes what came, each once.
    for delivery in [&first, &first, &delivery] {
        library.run(["store", "inbox"], &String::from_utf8(delivery.body.clone())?)?;
    }
    let is_same = "SELECT count(*) = 2 FROM inbox JOIN outbox
                    USING (id, aggregate_type, aggregate_id, message_type, segment, concurrency, payload, metadata, created_at)";
    world.says(&relay, is_same).await?;
    world.says(&relay, "SELECT count(*) = 2 FROM inbox").await?;

    relay.drain(crate::setting::PATIENCE).await?;
    world.sql("SELECT pg_drop_replication_slot(current_database())").await?;
    for n in [5, 3, 4] {
        library.run(["store", "outbox"], &message(n, "added").to_string())?;
    }
    let relay = world.setting.run()?;
    for n in [3, 4, 5] {
        judge(n, "added", &world.next(&relay).await?)?;
    }
    world.says(&relay, &polled(0)).await?;
    let checked = world.setting.check().await?;
    let index = checked.has("mark-index", "warning");
    assert!(index["what"].to_string().contains("outbox_processed_at_idx"), "{index}");
    checked.has_not("catch-up-order");
    world.ends(relay).await
}
