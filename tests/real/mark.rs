//! Marks that cannot be written yet.

use std::time::Duration;

use anyhow::Result;
use harness::wait_until;
use harness::workload::{self, Workload};

use crate::setting::{PATIENCE, Setting};
use crate::transactions::{insert_rows, ledger_of_rows};

/// With a synchronous standby that is absent, commits reach the WAL, and so the relay, but no
/// other session sees their rows before the wait is over.
#[tokio::test]
async fn a_row_that_is_not_yet_visible_is_marked_later() -> Result<()> {
    const WRITERS: usize = 5;
    let (postgres, setting) = Setting::own_postgres().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    relay.reaches("running", PATIENCE).await?;
    reload(&setting, "ALTER SYSTEM SET synchronous_standby_names = 'absent'", "absent").await?;
    // Not by workload: its first statement would wait before the writers begin.
    let mut waiting = Vec::new();
    for n in 1..=WRITERS {
        let client = setting.client().await?;
        let sql = format!(
            "INSERT INTO outbox_messages (aggregate_type, aggregate_id, event_type, payload)
             VALUES ('order', '{n}', 'placed', '{{\"aggregate\": \"{n}\", \"n\": 1}}')"
        );
        waiting.push(tokio::spawn(async move { client.batch_execute(&sql).await }));
    }
    consumer.wait_distinct(WRITERS, PATIENCE).await?;
    assert!(waiting.iter().all(|writer| !writer.is_finished()), "a commit did not wait");
    assert_eq!(ledger_of_rows(&setting).await?.committed.len(), 0, "they are visible");
    reload(&setting, "ALTER SYSTEM RESET synchronous_standby_names", "").await?;
    for writer in waiting {
        writer.await??;
    }
    setting.all_marked().await?;
    let ledger = ledger_of_rows(&setting).await?;
    setting.judge(&ledger, consumer, &relay, 0).await?;
    drop(postgres);
    Ok(())
}

async fn reload(setting: &Setting, sql: &str, value: &str) -> Result<()> {
    let client = setting.client().await?;
    // Nothing to commit in WAL, so nothing that would wait itself.
    client.batch_execute(sql).await?;
    client.batch_execute("SELECT pg_reload_conf()").await?;
    wait_until("the new setting", PATIENCE, async || {
        // A new session has what the postmaster has read.
        let shown =
            setting.client().await?.query_one("SHOW synchronous_standby_names", &[]).await?;
        Ok(shown.get::<_, String>(0) == value)
    })
    .await
}

#[tokio::test]
async fn a_locked_row_is_marked_later_and_holds_up_nobody() -> Result<()> {
    const ROWS: i64 = 2_000;
    let setting = Setting::shared().await?;
    let consumer = setting.consumer().await?;
    insert_rows(&setting, ROWS).await?;
    let holder = setting.client().await?;
    let lock = "BEGIN; SELECT FROM outbox_messages WHERE payload->>'n' IN ('1', '700') FOR UPDATE";
    holder.batch_execute(lock).await?;
    let relay = setting.run()?;
    wait_until("all others to be marked", PATIENCE, async || Ok(setting.unmarked().await? == 2))
        .await?;
    // More go by while the two wait.
    let options =
        workload::Options { until: workload::Until::Transactions(200), ..Default::default() };
    let others = Workload::start(&setting.database_url, options).await?.finish().await?;
    wait_until("all others to be marked", PATIENCE, async || Ok(setting.unmarked().await? == 2))
        .await?;
    holder.batch_execute("COMMIT").await?;
    setting.all_marked().await?;
    let ledger = ledger_of_rows(&setting).await?;
    assert_eq!(ledger.committed.len(), others.committed.len() + usize::try_from(ROWS)?);
    setting.judge(&ledger, consumer, &relay, 0).await?;
    Ok(())
}

/// A lock on the whole table, such as `CREATE INDEX` takes: nothing can be marked, and nothing
/// that was committed before has to wait for it.
#[tokio::test]
async fn a_locked_table_ends_no_session() -> Result<()> {
    const ROWS: i64 = 300;
    let setting = Setting::shared().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    relay.reaches("running", PATIENCE).await?;
    // Frozen, so that it marks nothing before the lock is there.
    relay.sigstop()?;
    insert_rows(&setting, ROWS).await?;
    let holder = setting.client().await?;
    holder.batch_execute("BEGIN; LOCK TABLE outbox_messages IN SHARE MODE").await?;
    relay.sigcont()?;
    consumer.wait_distinct(usize::try_from(ROWS)?, PATIENCE).await?;
    let since = std::time::Instant::now();
    wait_until("some tries to mark", PATIENCE, async || {
        Ok(since.elapsed() > Duration::from_secs(2))
    })
    .await?;
    assert_eq!(setting.unmarked().await?, usize::try_from(ROWS)?);
    holder.batch_execute("COMMIT").await?;
    setting.all_marked().await?;
    let sessions = relay.log().matches(" running ").count();
    assert_eq!(sessions, 1, "it connected again:\n{}", relay.log());
    let ledger = ledger_of_rows(&setting).await?;
    setting.judge(&ledger, consumer, &relay, 0).await?;
    Ok(())
}
