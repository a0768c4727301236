//! The mark of a delivered event, in each of its forms.

use std::time::Duration;

use anyhow::{Context, Result};
use harness::wait_until;

use crate::bare::{arrived, ids};
use crate::setting::{PATIENCE, Setting};

/// Longer than anything here may take without it.
const HOLD: Duration = Duration::from_secs(50);

/// Delivers, drains, delivers again; `is_marked` is SQL that tells of the first twenty.
async fn marks_and_repeats_nothing(mode: &str, is_marked: &str) -> Result<()> {
    let setting = Setting::bare().await?.set("audit.mode", mode);
    setting.init().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    let client = setting.client().await?;
    // One by one and many at once: batches of both kinds.
    let insert = "INSERT INTO outbox_messages (topic, payload)
                  SELECT 't', to_jsonb(n) FROM generate_series(1, $1::int) AS n";
    for count in [1, 1, 18] {
        client.execute(insert, &[&count]).await?;
    }
    arrived(&consumer, 20).await?;
    setting.until(&format!("marks by {mode}"), is_marked).await.with_context(|| relay.log())?;
    let progress = format!(
        "SELECT count(*) = 1 FROM pgoutbox.progress
          WHERE slot = '{}' AND end_lsn > '0/0' AND settled = 0 AND fault IS NULL",
        setting.database
    );
    setting.until("progress", &progress).await?;
    relay.drain(PATIENCE).await?;
    let relay = setting.run()?;
    client.execute(insert, &[&1]).await?;
    let came = arrived(&consumer, 21).await?;
    relay.drain(PATIENCE).await?;
    let all = ids(&came);
    let different: std::collections::HashSet<_> = all.iter().collect();
    assert_eq!((consumer.total(), different.len()), (21, 21), "a restart repeats nothing");
    Ok(())
}

#[tokio::test]
async fn update_stamps_the_row() -> Result<()> {
    let stamped =
        "SELECT count(*) = 20 AND bool_and(relayed_at >= occurred_at AND relayed_at <= now())
                     FROM outbox_messages WHERE relayed_at IS NOT NULL";
    marks_and_repeats_nothing("update", stamped).await
}

#[tokio::test]
async fn delete_removes_the_row() -> Result<()> {
    marks_and_repeats_nothing("delete", "SELECT count(*) = 0 FROM outbox_messages").await
}

#[tokio::test]
async fn side_table_leaves_the_row_alone() -> Result<()> {
    let beside = "SELECT count(relayed.id) = 20 AND count(*) = 20 AND count(relayed_at) = 0
                    FROM (SELECT id, relayed_at AS in_row FROM outbox_messages) AS outbox
                    LEFT JOIN pgoutbox.relayed AS relayed
                           ON relayed.id = outbox.id::text AND relayed.outbox = 'outbox_messages'::regclass
                   WHERE in_row IS NULL";
    marks_and_repeats_nothing("side_table", &beside.replace("count(relayed_at)", "count(in_row)"))
        .await
}

#[tokio::test]
async fn none_writes_progress_only() -> Result<()> {
    let untouched = "SELECT count(*) = 20 AND count(relayed_at) = 0 AND bool_and(xmax = 0)
                        AND NOT EXISTS (SELECT FROM pgoutbox.relayed)
                        AND EXISTS (SELECT FROM pgoutbox.progress) FROM outbox_messages";
    marks_and_repeats_nothing("none", untouched).await
}

#[tokio::test]
async fn a_row_deleted_before_its_mark_holds_up_nothing() -> Result<()> {
    for mode in ["update", "delete", "side_table"] {
        let setting = Setting::bare()
            .await?
            .set("audit.mode", mode)
            .set("audit.hold", &format!("{}s", HOLD.as_secs()));
        setting.init().await?;
        let consumer = setting.consumer().await?;
        let relay = setting.run()?;
        // The way to write an outbox that stays empty.
        setting
            .sql(
                "BEGIN;
                 INSERT INTO outbox_messages (topic, payload) VALUES ('t', '1'), ('t', '2');
                 DELETE FROM outbox_messages;
                 COMMIT",
            )
            .await?;
        let end: String = setting.ask("SELECT pg_current_wal_lsn()::text").await?;
        arrived(&consumer, 2).await?;
        let passed = format!(
            "SELECT confirmed_flush_lsn >= '{end}' FROM pg_replication_slots WHERE slot_name = '{}'",
            setting.database
        );
        let client = setting.client().await?;
        wait_until("the slot to pass it", HOLD / 2, async || {
            Ok(client.query_one(&passed, &[]).await?.try_get(0)?)
        })
        .await
        .with_context(|| format!("{mode}: {}", relay.log()))?;
        relay.drain(HOLD / 2).await?;
        let ended = relay.wait_for_log("session ended", PATIENCE).await?;
        assert!(ended.contains("marks_given_up=0"), "{mode}: {ended}");
        assert_eq!(consumer.total(), 2, "{mode}");
    }
    Ok(())
}
