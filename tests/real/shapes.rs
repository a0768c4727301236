//! Rows with the columns of before: on a list, in the stream and in the parking. What the table of today fills a field
//! from is not left out of them.

use anyhow::{Context, Result};
use harness::consumer::Delivery;

use crate::setting::{PATIENCE, Setting, arrived, text};

/// What consumers see of an event.
fn seen(deliveries: &[Delivery]) -> Vec<String> {
    let each = deliveries.iter().map(|it| {
        let body = String::from_utf8_lossy(&it.body);
        format!("{} {} {body}", it.routing_key, text(it, "aggregate_id").unwrap_or("-"))
    });
    each.collect()
}

/// Rows that share an id are kept whole on a list: their columns are renamed before it is published.
#[tokio::test]
async fn a_row_that_a_list_keeps_whole_has_its_renamed_columns() -> Result<()> {
    let setting = Setting::bare().await?;
    let table =
        "CREATE TABLE outbox_messages (id int, gone text, aggregate_type text, aggregate_id text, topic text, payload jsonb,
             occurred_at timestamptz DEFAULT clock_timestamp(), relayed_at timestamptz)";
    setting.sql(table).await?;
    setting.init().await?;
    let consumer = setting.bound("#").await?;
    let rows = "INSERT INTO outbox_messages (id, aggregate_type, aggregate_id, topic, payload)
        SELECT 7, 'order', n, 't', to_jsonb(n) FROM generate_series(1, 3) AS n";
    let listed = async |of: &Setting, rows: &str, renames: &str| -> Result<()> {
        setting.sql("SELECT pg_drop_replication_slot(current_database())").await?;
        setting.sql(rows).await?;
        let told = of.init().await?;
        assert!(told.contains("3 rows that waited"), "{told}");
        setting.sql(renames).await
    };
    listed(
        &setting,
        rows,
        "ALTER TABLE outbox_messages RENAME payload TO body; ALTER TABLE outbox_messages RENAME aggregate_id TO agg;
         ALTER TABLE outbox_messages DROP gone; ALTER TABLE outbox_messages ADD note text",
    )
    .await?;
    let renamed = setting
        .clone()
        .set("tables.0.name", "outbox_messages")
        .set("tables.0.columns.aggregate_id", "agg");
    let of_body = renamed.clone().set("tables.0.columns.payload", "body");
    let relay = of_body.run()?;
    let came = arrived(&consumer, 3).await.with_context(|| relay.log())?;
    assert_eq!(seen(&came), ["t 1 1", "t 2 2", "t 3 3"]);
    of_body.all_marked().await?;
    relay.drain(PATIENCE).await?;

    // What is read today stands in another column than in the rows of the list: each is refused, and none is lost.
    listed(
        &of_body,
        "INSERT INTO outbox_messages (id, aggregate_type, agg, topic, body)
            SELECT 8, 'order', n, 't', to_jsonb(n) FROM generate_series(1, 3) AS n",
        "ALTER TABLE outbox_messages ADD content jsonb; UPDATE outbox_messages SET content = body;
         ALTER TABLE outbox_messages DROP body",
    )
    .await?;
    let relay = renamed.set("tables.0.columns.payload", "content").run()?;
    let parked = "SELECT count(*) = 3 AND bool_and(reason = 'unreadable' AND event_id = '8'
                         AND last_error LIKE '%has no column \"content\"%' AND hint LIKE '%replay --id%')
                    FROM pgoutbox.parked";
    setting.until("all to be parked", parked).await.with_context(|| relay.log())?;
    assert_eq!(consumer.total(), 3, "{}", relay.log());
    relay.drain(PATIENCE).await
}

/// Columns of names of their own become those of the default names, which the settings need not name: rows of before
/// lack them as rows of a table that has no such columns do.
#[tokio::test]
async fn a_row_of_before_a_rename_is_not_published_without_its_fields() -> Result<()> {
    let setting = Setting::bare().await?.set("session.backoff_max", "300ms");
    let table = "CREATE TABLE outbox_messages (id int PRIMARY KEY, aggregate_type text, agg text, tt text, payload jsonb,
             occurred_at timestamptz DEFAULT clock_timestamp(), relayed_at timestamptz)";
    setting.sql(table).await?;
    let before = setting
        .clone()
        .set("tables.0.name", "outbox_messages")
        .set("tables.0.columns.aggregate_id", "agg")
        .set("tables.0.columns.topic", "tt");
    before.init().await?;
    let relay = before.run()?;
    let insert = async |id: i32, aggregate: &str| {
        let row = format!(
            "INSERT INTO outbox_messages VALUES ({id}, 'order', '{aggregate}', 't', '{id}')"
        );
        setting.sql(&row).await
    };
    insert(1, "a").await?;
    setting.parking_is(&relay, "1 parked").await?;
    relay.drain(PATIENCE).await?;
    let consumer = setting.bound("#").await?;
    insert(2, "a").await?;
    insert(3, "b").await?;
    // What is added since may be missing, whatever it is a field of.
    let renames = "ALTER TABLE outbox_messages RENAME agg TO aggregate_id; ALTER TABLE outbox_messages RENAME tt TO topic;
         ALTER TABLE outbox_messages ADD headers jsonb";
    setting.sql(renames).await?;
    let relay = setting.run()?;
    let came = arrived(&consumer, 1).await.with_context(|| relay.log())?;
    assert_eq!(seen(&came), ["t b 3"], "{}", relay.log());
    setting.program.succeed(&["parked", "retry", "--id", "1"]).await?;
    let refused = "SELECT reason = 'unreadable' AND last_error LIKE '%no column \"topic\"%' AND last_error LIKE '%\"tt\"%'
          FROM pgoutbox.parked WHERE event_id = '1'";
    setting.until("it to be refused", refused).await.with_context(|| relay.log())?;
    let shown = setting.program.succeed(&["parked", "show", "--id", "1"]).await?;
    assert!(shown.contains("no column \"topic\"") && shown.contains("replay --id"), "{shown}");
    // As the hint says.
    setting.program.succeed(&["replay", "--id", "1", "--mark", "--yes"]).await?;
    setting.program.succeed(&["parked", "discard", "--id", "1", "--yes"]).await?;
    let came = arrived(&consumer, 3).await.with_context(|| relay.log())?;
    assert_eq!(seen(&came), ["t b 3", "t a 1", "t a 2"], "{}", relay.log());
    setting.all_marked().await?;
    relay.drain(PATIENCE).await?;

    // A row that only lacks what the table has got since waits for no list.
    insert_without(&setting).await?;
    let relay = setting.run()?;
    let came = arrived(&consumer, 4).await.with_context(|| relay.log())?;
    assert_eq!(seen(&came)[3], "t c 4", "{}", relay.log());
    assert!(!relay.log().contains("recreating the slot"), "{}", relay.log());
    relay.drain(PATIENCE).await
}

async fn insert_without(setting: &Setting) -> Result<()> {
    setting
        .sql(
            "INSERT INTO outbox_messages (id, aggregate_type, aggregate_id, topic, payload) VALUES (4, 'order', 'c', 't', '4');
             ALTER TABLE outbox_messages ADD correlation_id text",
        )
        .await
}
