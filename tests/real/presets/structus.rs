//! The Kotlin library `structus-kotlin`: an interface, with tables and queries in its documentation.

use anyhow::Result;
use lapin::BasicProperties;

use super::{Exchange, Message, World, text};
use crate::bare::uuid;
use crate::check::Checks as _;

/// The table of `MessageOutboxRepository`.
pub(super) const DDL: &str = "
    CREATE TABLE message_outbox (
        id uuid PRIMARY KEY,
        event_id varchar(255) NOT NULL,
        event_type varchar(500) NOT NULL,
        payload jsonb NOT NULL,
        aggregate_id varchar(255) NOT NULL,
        created_at timestamp NOT NULL,
        published_at timestamp,
        retry_count int DEFAULT 0
    );
    CREATE INDEX idx_unpublished ON message_outbox (published_at, created_at) WHERE published_at IS NULL";

/// The table of its guide to the pattern, which has the aggregate's type and when the event happened.
const DDL_OF_GUIDE: &str = "
    CREATE TABLE outbox_messages (
        id varchar(255) PRIMARY KEY,
        event_id varchar(255) NOT NULL,
        event_type varchar(255) NOT NULL,
        aggregate_id varchar(255) NOT NULL,
        aggregate_type varchar(255) NOT NULL,
        payload jsonb NOT NULL,
        occurred_at timestamp NOT NULL,
        published_at timestamp NULL,
        retry_count int DEFAULT 0,
        created_at timestamp DEFAULT now()
    );
    CREATE INDEX idx_unpublished ON outbox_messages (published_at, created_at);
    CREATE INDEX idx_aggregate ON outbox_messages (aggregate_id, aggregate_type)";

fn save(n: u32, event_type: &str) -> String {
    format!(
        "INSERT INTO message_outbox (id, event_id, event_type, payload, aggregate_id, created_at, retry_count)
         VALUES (gen_random_uuid(), 'evt-{n}', '{event_type}', '{{\"user\": {n}}}', 'user-7',
                 '2026-11-30 12:00:{n:02}', 0)"
    )
}

fn judge(n: u32, event_type: &str, delivery: &harness::consumer::Delivery) -> Result<()> {
    let properties = BasicProperties::default()
        .with_message_id(format!("evt-{n}").into())
        .with_type(event_type.into())
        .with_content_type("application/json".into())
        .with_timestamp(1_796_040_000 + u64::from(n));
    Message {
        routing_key: event_type,
        properties,
        headers: vec![("aggregate_id", text("user-7"))],
        body: format!("{{\"user\": {n}}}").as_bytes(),
    }
    .judge(delivery)
}

#[tokio::test]
async fn rows_of_structus_are_relayed_and_its_queries_say_the_truth() -> Result<()> {
    let registered = "com.acme.UserRegistered";
    let mut world = World::new("structus", DDL, Exchange::topic("outbox", registered), &[]).await?;
    let relay = world.setting.run()?;
    world.sql(&save(1, registered)).await?;
    judge(1, registered, &world.next(&relay).await?)?;
    let unpublished = |count: u32| {
        format!("SELECT count(*) = {count} FROM message_outbox WHERE published_at IS NULL")
    };
    let failed = |count: u32, retries: u32| {
        format!(
            "SELECT count(*) = {count} FROM message_outbox WHERE published_at IS NULL AND retry_count >= {retries}"
        )
    };
    world.says(&relay, &unpublished(0)).await?;
    world.says(&relay, "SELECT retry_count = 0 FROM message_outbox").await?;

    let lost = "com.acme.UserLeft";
    let key = ("outbox", lost);
    let states = [failed(1, 1), failed(1, 2)];
    let states = [states[0].as_str(), states[1].as_str()];
    judge(2, lost, &world.fails(&relay, &save(2, lost), key, states).await?)?;
    world.says(&relay, &unpublished(0)).await?;
    world.says(&relay, &failed(0, 1)).await?;

    let inserts = [5, 3, 4].map(|n| save(n, registered));
    let (relay, ids) = world.catches_up(relay, &inserts).await?;
    assert_eq!(ids, ["evt-3", "evt-4", "evt-5"]);
    world.says(&relay, &unpublished(0)).await?;
    let checked = world.setting.check().await?;
    let index = checked.has("mark-index", "warning");
    assert!(index["what"].to_string().contains("idx_unpublished"), "{index}");
    checked.has_not("catch-up-order");

    // Its cleanup, by the age of what is published.
    world.sql("DELETE FROM message_outbox WHERE published_at IS NOT NULL AND published_at < now() + interval '1 day'").await?;
    world.says(&relay, "SELECT count(*) = 0 FROM message_outbox").await?;
    world.ends(relay).await
}

#[tokio::test]
async fn rows_of_the_guides_table_are_relayed_too() -> Result<()> {
    let more = [("name", "outbox_messages"), ("columns.occurred_at", "occurred_at")];
    let exchange = Exchange::topic("outbox", "#");
    let mut world = World::new("structus", DDL_OF_GUIDE, exchange, &more).await?;
    let relay = world.setting.run()?;
    let id = uuid(1);
    world
        .sql(&format!(
            "INSERT INTO outbox_messages (id, event_id, event_type, aggregate_id, aggregate_type, payload, occurred_at, retry_count)
             VALUES ('{id}', 'evt-1', 'UserRegistered', 'user-7', 'User', '{{}}'::jsonb, '2026-11-30 12:00:01', 0)"
        ))
        .await?;
    let properties = BasicProperties::default()
        .with_message_id("evt-1".into())
        .with_type("UserRegistered".into())
        .with_content_type("application/json".into())
        .with_timestamp(1_796_040_001);
    Message {
        routing_key: "UserRegistered",
        properties,
        headers: vec![("aggregate_id", text("user-7")), ("aggregate_type", text("User"))],
        body: b"{}",
    }
    .judge(&world.next(&relay).await?)?;
    world.says(&relay, "SELECT published_at IS NOT NULL FROM outbox_messages").await?;
    world.ends(relay).await
}
