//! CAP for .NET.

use anyhow::Result;
use harness::consumer::Delivery;
use lapin::BasicProperties;

use super::{Exchange, Message, World, text};
use crate::check::Checks as _;

/// What it makes when it starts.
pub(super) const DDL: &str = r#"
    CREATE SCHEMA cap;
    CREATE TABLE "cap"."published" (
        "Id" bigint PRIMARY KEY NOT NULL,
        "Version" varchar(20) NOT NULL,
        "Name" varchar(200) NOT NULL,
        "Content" text NULL,
        "Retries" int NOT NULL,
        "Added" timestamp NOT NULL,
        "ExpiresAt" timestamp NULL,
        "StatusName" varchar(50) NOT NULL
    );
    CREATE INDEX "idx_published_ExpiresAt_StatusName" ON "cap"."published" ("ExpiresAt", "StatusName")"#;

const ID: i64 = 7_265_421_885_284_040_000;

/// Its `StoreMessageAsync`, with the content as its serializer writes it.
fn store(n: u32, name: &str) -> String {
    let id = ID + i64::from(n);
    format!(
        r#"INSERT INTO "cap"."published" ("Id","Version","Name","Content","Retries","Added","ExpiresAt","StatusName")
           VALUES ({id},'v1','{name}','{{"Headers":{{"cap-callback-name":null,"cap-msg-id":"{id}","cap-corr-id":"{id}","cap-corr-seq":"0","cap-msg-name":"{name}","cap-msg-type":"OrderPlaced","cap-senttime":"11/30/2026 12:00:0{n}","tenant":"acme \u0022a\u0022"}},"Value":{{"OrderId":{n},"Price":1.50}}}}',0,'2026-11-30 12:00:0{n}',NULL,'Scheduled')"#
    )
}

/// Its consumer takes headers as texts, and the body as the JSON of the value.
fn judge(n: u32, name: &str, delivery: &Delivery) -> Result<()> {
    let id = (ID + i64::from(n)).to_string();
    let properties = BasicProperties::default()
        .with_message_id(id.as_str().into())
        .with_content_type("application/json".into())
        .with_timestamp(1_796_040_000 + u64::from(n));
    Message {
        routing_key: name,
        properties,
        headers: vec![
            ("cap-msg-id", text(&id)),
            ("cap-corr-id", text(&id)),
            ("cap-corr-seq", text("0")),
            ("cap-msg-name", text(name)),
            ("cap-msg-type", text("OrderPlaced")),
            ("cap-senttime", text(&format!("11/30/2026 12:00:0{n}"))),
            ("tenant", text("acme \"a\"")),
        ],
        body: format!("{{\"OrderId\":{n},\"Price\":1.50}}").as_bytes(),
    }
    .judge(delivery)
}

#[tokio::test]
async fn messages_of_cap_are_relayed_as_its_consumers_read_them() -> Result<()> {
    let exchange = Exchange::topic("cap.default.router", "orders.placed");
    let mut world = World::new("cap", DDL, exchange, &[]).await?;
    let relay = world.setting.run()?;
    world.sql(&store(1, "orders.placed")).await?;
    judge(1, "orders.placed", &world.next(&relay).await?)?;
    // What its dashboard counts.
    let counted = |status: &str, count: u32| {
        format!(
            r#"SELECT count(*) = {count} FROM "cap"."published" WHERE "StatusName" = '{status}'"#
        )
    };
    world.says(&relay, &counted("Succeeded", 1)).await?;

    let state = |status: &str, retries: u32| {
        format!(
            r#"SELECT "StatusName" = '{status}' AND "Retries" = {retries} FROM "cap"."published" WHERE "Name" = 'orders.lost'"#
        )
    };
    let states = [state("Scheduled", 1), state("Failed", 2)];
    let states = [states[0].as_str(), states[1].as_str()];
    let key = ("cap.default.router", "orders.lost");
    let delivery = world.fails(&relay, &store(2, "orders.lost"), key, states).await?;
    judge(2, "orders.lost", &delivery)?;
    world.says(&relay, &counted("Succeeded", 2)).await?;

    let inserts = [5, 3, 4].map(|n| store(n, "orders.placed"));
    let (relay, ids) = world.catches_up(relay, &inserts).await?;
    assert_eq!(ids, [3, 4, 5].map(|n| (ID + n).to_string()));
    world.says(&relay, &counted("Succeeded", 5)).await?;
    let checked = world.setting.check().await?;
    let index = checked.has("mark-index", "warning");
    assert!(index["what"].to_string().contains("idx_published_ExpiresAt_StatusName"), "{index}");
    checked.has_not("catch-up-order");
    world.ends(relay).await
}
