//! The Elixir library `phoenix_micro`.

use anyhow::Result;
use lapin::BasicProperties;

use super::{Exchange, Message, World, text};
use crate::bare::uuid;
use crate::check::{Checks as _, hint};

/// What `mix phoenix_micro.gen.migration` makes, as Ecto writes it for Postgres.
pub(super) const DDL: &str = "
    CREATE TABLE outbox_messages (
        id uuid DEFAULT gen_random_uuid(),
        topic varchar(255) NOT NULL,
        payload jsonb NOT NULL,
        headers jsonb NOT NULL DEFAULT '{}'::jsonb,
        attempt integer NOT NULL DEFAULT 1,
        relayed_at timestamp,
        failed_at timestamp,
        last_error text,
        inserted_at timestamp NOT NULL,
        updated_at timestamp NOT NULL,
        PRIMARY KEY (id)
    );
    CREATE INDEX outbox_messages_pending_idx ON outbox_messages (relayed_at, inserted_at)
        WHERE relayed_at IS NULL AND failed_at IS NULL;
    CREATE INDEX outbox_messages_failed_idx ON outbox_messages (failed_at) WHERE failed_at IS NOT NULL";

/// Its `Outbox.enqueue`: every field of the record.
fn enqueue(n: u32, topic: &str) -> String {
    let id = uuid(n);
    format!(
        r#"INSERT INTO outbox_messages
               (attempt, failed_at, headers, id, last_error, payload, relayed_at, topic, inserted_at, updated_at)
           VALUES (1, NULL, '{{"tenant": "acme", "retries": 3, "vip": true, "none": null,
                       "trace": {{"id": "t-{n}"}}, "tags": ["a", 1]}}', '{id}', NULL, '{{"order_id": {n}}}', NULL,
                   '{topic}', '2026-11-30 12:00:{n:02}.25', '2026-11-30 12:00:{n:02}.25')"#
    )
}

/// Its consumer knows repeats by the `message_id`, decodes the body by JSON, and makes a text of each header:
/// a table or an array there would crash it.
fn judge(n: u32, topic: &str, delivery: &harness::consumer::Delivery) -> Result<()> {
    let properties = BasicProperties::default()
        .with_message_id(uuid(n).into())
        .with_content_type("application/json".into())
        .with_timestamp(1_796_040_000 + u64::from(n));
    Message {
        routing_key: topic,
        properties,
        headers: vec![
            ("tenant", text("acme")),
            ("retries", text("3")),
            ("vip", text("true")),
            ("trace", text(&format!("{{\"id\": \"t-{n}\"}}"))),
            ("tags", text("[\"a\", 1]")),
        ],
        body: format!("{{\"order_id\": {n}}}").as_bytes(),
    }
    .judge(delivery)
}

#[tokio::test]
async fn rows_of_phoenix_micro_are_relayed_as_its_consumers_read_them() -> Result<()> {
    let exchange = Exchange::topic("phoenix_micro", "orders.placed");
    let mut world = World::new("phoenix_micro", DDL, exchange, &[]).await?;
    let relay = world.setting.run()?;
    world.sql(&enqueue(1, "orders.placed")).await?;
    judge(1, "orders.placed", &world.next(&relay).await?)?;
    // What its own relay would poll, and what it would have written.
    let pending =
        "SELECT count(*) = 0 FROM outbox_messages WHERE relayed_at IS NULL AND failed_at IS NULL";
    world.says(&relay, pending).await?;
    world
        .says(
            &relay,
            "SELECT attempt = 1 AND last_error IS NULL AND updated_at = inserted_at
                    AND relayed_at BETWEEN (now() AT TIME ZONE 'UTC') - interval '5 minutes' AND now() AT TIME ZONE 'UTC'
               FROM outbox_messages",
        )
        .await?;

    let once =
        "SELECT attempt = 2 AND last_error <> '' AND failed_at IS NULL AND relayed_at IS NULL
                  FROM outbox_messages WHERE topic = 'orders.lost'";
    let ended =
        "SELECT attempt = 3 AND last_error <> '' AND failed_at IS NOT NULL AND relayed_at IS NULL
                   FROM outbox_messages WHERE topic = 'orders.lost'";
    let insert = enqueue(2, "orders.lost");
    let key = ("phoenix_micro", "orders.lost");
    let delivery = world.fails(&relay, &insert, key, [once, ended]).await?;
    judge(2, "orders.lost", &delivery)?;
    let delivered = "SELECT count(*) = 2 FROM outbox_messages WHERE relayed_at IS NOT NULL AND failed_at IS NULL";
    world.says(&relay, delivered).await?;

    // By inserted_at, as its own relay would.
    let inserts = [5, 3, 4].map(|n| enqueue(n, "orders.placed"));
    let (relay, ids) = world.catches_up(relay, &inserts).await?;
    assert_eq!(ids, [3, 4, 5].map(uuid));
    world.says(&relay, pending).await?;

    let checked = world.setting.check().await?;
    let index = checked.has("mark-index", "warning");
    assert!(index["what"].to_string().contains("outbox_messages_pending_idx"), "{index}");
    assert!(hint(index).contains("DROP INDEX CONCURRENTLY"), "{index}");
    checked.has_not("catch-up-order");
    world.ends(relay).await
}
