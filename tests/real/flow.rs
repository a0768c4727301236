//! Rows committed to the outbox arrive, in commit order, and are marked.

use std::time::Duration;

use anyhow::Result;
use harness::checker;
use harness::workload::{self, Workload};

use crate::setting::{PATIENCE, Setting};

#[tokio::test]
async fn what_is_committed_arrives_once_and_in_order() -> Result<()> {
    let setting = Setting::shared().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    let options = workload::Options {
        until: workload::Until::Elapsed(Duration::from_secs(3)),
        ..Default::default()
    };
    let ledger = Workload::start(&setting.database_url, options).await?.finish().await?;
    consumer.wait_distinct(ledger.committed.len(), PATIENCE).await?;
    relay.drain(PATIENCE).await?;
    let unmarked = checker::unmarked(&setting.client().await?, "outbox_messages").await?;
    let verdict = checker::check(&ledger, &consumer.finish(), unmarked);
    assert!(verdict.broken(0).is_empty(), "{verdict}");
    Ok(())
}
