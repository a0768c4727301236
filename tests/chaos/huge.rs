//! One transaction of a million rows, cut in the middle again and again.

use std::time::Duration;

use anyhow::Result;
use harness::proxy::{Cut, Proxy};
use harness::shared;
use harness::workload::Ledger;

use crate::round::{Outcome, Round, judge_rows, quick, relay};
use harness::setting::Setting;

/// All of it at the pace of a debug build on two busy cores.
const WITHIN: Duration = Duration::from_secs(900);

/// Small events of one aggregate.
const ROWS: &str = "INSERT INTO outbox_messages (aggregate_type, aggregate_id, event_type, payload)
    SELECT 'order', 'one', 'placed', jsonb_build_object('aggregate', 'one', 'n', n)
      FROM generate_series(1, $1::bigint) AS n ORDER BY n";

pub async fn cut(round: Round) -> Result<Outcome> {
    let rows: i64 = if round.is_long { 1_000_000 } else { 20_000 };
    let mut setting = Setting::shared().await?;
    quick(&mut setting);
    let postgres = shared::postgres().await?;
    let proxy = Proxy::start(postgres.port()).await?;
    let url = postgres.url_on(proxy.port(), &setting.database);
    setting.env("PGOUTBOX_POSTGRES__STREAM_URL", &url);
    let consumer = setting.counting_consumer().await?;
    setting.client().await?.execute(ROWS, &[&rows]).await?;
    let ledger = Ledger::of_rows(&setting.client().await?, "outbox_messages").await?;
    let total = ledger.committed.len();
    let mut running = relay(&round, &setting)?;
    let cuts = 4;
    for cut in 0..cuts {
        // Each in its own part of the whole, or later ones would come too late.
        let wanted = total * cut / cuts + fastrand::usize(1..=total / cuts - total / 20);
        consumer.wait_distinct(wanted, WITHIN).await?;
        if cut % 2 == 0 {
            proxy.cut(if fastrand::bool() { Cut::Fin } else { Cut::Rst });
        } else {
            running.kill9().await?;
            running = relay(&round, &setting)?;
        }
        anyhow::ensure!(consumer.distinct() < total, "cut too late");
    }
    let since = std::time::Instant::now();
    consumer.wait_distinct(total, WITHIN).await?;
    let recovery = since.elapsed();
    judge_rows(&round, setting, consumer, running, &ledger, recovery).await
}
