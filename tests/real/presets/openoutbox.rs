//! The table of the Open Outbox specification.

use anyhow::Result;
use harness::consumer::Delivery;
use lapin::BasicProperties;
use lapin::types::AMQPValue;

use super::{Exchange, Message, World, text};
use crate::bare::uuid;
use crate::check::Checks as _;

/// That of its relay, with its indexes.
pub(super) const DDL: &str = "
    CREATE TABLE openoutbox_events (
        event_id uuid PRIMARY KEY,
        event_type text NOT NULL,
        partition_key text,
        payload bytea NOT NULL,
        headers jsonb NOT NULL DEFAULT '{}',
        status text NOT NULL DEFAULT 'PENDING',
        attempts int NOT NULL DEFAULT 0,
        last_error text,
        available_at timestamptz NOT NULL DEFAULT now(),
        locked_by text,
        locked_at timestamptz,
        delivered_at timestamptz,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT check_valid_status CHECK (status IN ('PENDING', 'DELIVERING', 'DELIVERED', 'DEAD'))
    );
    CREATE INDEX idx_openoutbox_processing_queue ON openoutbox_events (available_at, created_at) WHERE status = 'PENDING';
    CREATE INDEX idx_openoutbox_stuck_leases ON openoutbox_events (locked_at) WHERE status = 'DELIVERING';
    CREATE INDEX idx_openoutbox_metrics_count ON openoutbox_events (status) WHERE status = 'PENDING';
    CREATE INDEX idx_openoutbox_metrics_lag ON openoutbox_events (status, created_at) WHERE status = 'PENDING'";

/// What any producer inserts, by the specification.
fn produce(n: u32, event_type: &str, headers: &str) -> String {
    let id = uuid(n);
    format!(
        "INSERT INTO openoutbox_events (event_id, event_type, partition_key, payload, headers, created_at)
         VALUES ('{id}', '{event_type}', 'user-7', '\\x00ff0{n}', '{headers}', '2026-11-30 12:00:0{n}Z')"
    )
}

fn judge(n: u32, event_type: &str, is_typed: bool, delivery: &Delivery) -> Result<()> {
    let content_type = if is_typed { "application/x-protobuf" } else { "application/octet-stream" };
    let properties = BasicProperties::default()
        .with_message_id(uuid(n).into())
        .with_type(event_type.into())
        .with_content_type(content_type.into())
        .with_timestamp(1_796_040_000 + u64::from(n));
    let mut headers = vec![("aggregate_id", text("user-7"))];
    if is_typed {
        headers.push(("content-type", text(content_type)));
        headers.push(("version", AMQPValue::LongLongInt(2)));
    }
    let body = [0, 0xff, u8::try_from(n)?];
    Message { routing_key: event_type, properties, headers, body: &body }.judge(delivery)
}

#[tokio::test]
async fn events_of_open_outbox_are_relayed_byte_for_byte() -> Result<()> {
    let exchange = Exchange::topic("openoutbox", "user.signup");
    let mut world = World::new("openoutbox", DDL, exchange, &[]).await?;
    let relay = world.setting.run()?;
    let typed = r#"{"content-type": "application/x-protobuf", "version": 2}"#;
    world.sql(&produce(1, "user.signup", typed)).await?;
    judge(1, "user.signup", true, &world.next(&relay).await?)?;
    // What its relay's statistics and its `prune` go by.
    let count = |status: &str, count: u32| {
        format!("SELECT count(*) = {count} FROM openoutbox_events WHERE status = '{status}'")
    };
    world.says(&relay, &count("PENDING", 0)).await?;
    let prunable = "SELECT count(*) = 1 FROM openoutbox_events
                     WHERE status = 'DELIVERED' AND delivered_at > now() - interval '5 minutes'";
    world.says(&relay, prunable).await?;

    let state = |status: &str, attempts: u32| {
        format!(
            "SELECT status = '{status}' AND attempts = {attempts} AND last_error <> '' AND delivered_at IS NULL
               FROM openoutbox_events WHERE event_type = 'user.lost'"
        )
    };
    let states = [state("PENDING", 1), state("DEAD", 2)];
    let states = [states[0].as_str(), states[1].as_str()];
    let insert = produce(2, "user.lost", "{}");
    let delivery = world.fails(&relay, &insert, ("openoutbox", "user.lost"), states).await?;
    judge(2, "user.lost", false, &delivery)?;
    world.says(&relay, &count("DELIVERED", 2)).await?;

    let inserts = [5, 3, 4].map(|n| produce(n, "user.signup", "{}"));
    let (relay, ids) = world.catches_up(relay, &inserts).await?;
    assert_eq!(ids, [3, 4, 5].map(uuid));
    world.says(&relay, &count("DELIVERED", 5)).await?;
    let checked = world.setting.check().await?;
    let index = checked.has("mark-index", "warning");
    assert!(index["what"].to_string().contains("idx_openoutbox"), "{index}");
    checked.has_not("catch-up-order");
    world.ends(relay).await
}
