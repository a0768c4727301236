//! The outbox table changes its shape in mid-stream.

use anyhow::{Context, Result};
use harness::workload::Workload;

use crate::setting::{PATIENCE, Setting, steady};

/// Columns that no field is mapped to come, change and go; the table is written anew; the types
/// of mapped columns change into others that can be read.
const CHANGES: [&str; 10] = [
    "ALTER TABLE outbox_messages ADD COLUMN note text",
    "ALTER TABLE outbox_messages ADD COLUMN weight integer NOT NULL DEFAULT 7",
    "ALTER TABLE outbox_messages RENAME COLUMN note TO remark",
    "ALTER TABLE outbox_messages ALTER COLUMN weight TYPE bigint",
    "VACUUM FULL outbox_messages",
    "ALTER TABLE outbox_messages ALTER COLUMN aggregate_id TYPE varchar(100)",
    "ALTER TABLE outbox_messages DROP COLUMN remark",
    "ALTER TABLE outbox_messages ALTER COLUMN headers TYPE json",
    "ALTER TABLE outbox_messages REPLICA IDENTITY FULL",
    "CREATE INDEX ON outbox_messages (occurred_at)",
];

#[tokio::test]
async fn the_table_changes_under_load() -> Result<()> {
    let setting = Setting::shared().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    let mut load = Workload::start(&setting.database_url, steady()).await?;
    for change in CHANGES {
        setting.sql(change).await.context(change)?;
        // Rows of this shape were committed after the change, and came.
        let committed = load.committed();
        let came = consumer.wait_distinct(committed + 20, PATIENCE).await;
        came.with_context(|| format!("{change}\n{}", relay.log()))?;
    }
    load.stop();
    let ledger = load.finish().await?;
    setting.judge(&ledger, consumer, &relay, 0).await?;
    let sessions = relay.log().matches(" running ").count();
    assert_eq!(sessions, 1, "it connected again:\n{}", relay.log());
    Ok(())
}

/// The relay reads rows of every shape that the table had while it was away, in one transaction
/// too.
#[tokio::test]
async fn the_table_changed_while_the_relay_was_away() -> Result<()> {
    let setting = Setting::shared().await?;
    let consumer = setting.consumer().await?;
    let insert = |n: i64| {
        format!(
            "INSERT INTO outbox_messages (aggregate_type, aggregate_id, event_type, payload)
             VALUES ('order', 'one', 'placed', '{{\"aggregate\": \"one\", \"n\": {n}}}');"
        )
    };
    let mut sql = insert(1);
    for (n, change) in (2..).zip(CHANGES.iter().filter(|change| !change.starts_with("VACUUM"))) {
        sql += &format!("{change}; {}", insert(n));
    }
    setting.sql(&format!("BEGIN; {sql} COMMIT")).await?;
    setting.sql("VACUUM FULL outbox_messages").await?;
    let relay = setting.run()?;
    let ledger = crate::transactions::ledger_of_rows(&setting).await?;
    assert_eq!(ledger.committed.len(), CHANGES.len());
    setting.judge(&ledger, consumer, &relay, 0).await?;
    Ok(())
}
