//! Thousands of parked events: who asks of each row whether it is parked finds its record by an index, and
//! does not read all records once for each row.

use anyhow::{Context, Result, ensure};
use harness::wait_until;

use crate::setting::{PATIENCE, Setting};

const ROWS: i64 = 3_000;

/// How many records were read one after the other, and how often any was looked up or read.
async fn reads(setting: &Setting) -> Result<(i64, i64)> {
    let row = setting
        .client()
        .await?
        .query_one(
            "SELECT seq_tup_read, seq_scan + idx_scan FROM pg_stat_user_tables
              WHERE relid = 'pgoutbox.parked'::regclass",
            &[],
        )
        .await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// The first have a line each, all others are counted: none is missing, none is said twice.
fn the_log_counts_them(log: &str) -> Result<()> {
    let of_one = log.lines().filter(|line| line.contains(" is parked: ")).count();
    let counted = log
        .lines()
        .filter(|line| line.contains("events of public.outbox_messages were parked in "));
    let counted: i64 = counted
        .filter_map(|line| {
            line.split(" more events of ").next()?.split(' ').next_back()?.parse::<i64>().ok()
        })
        .sum();
    ensure!(
        of_one == 20 && counted == ROWS - 20,
        "{of_one} lines, and {counted} counted: {log:.3000}"
    );
    Ok(())
}

/// The relay's own questions, by what the server does for them: no record is compared with all others.
async fn each_look_reads_each_record_a_few_times(setting: &Setting) -> Result<()> {
    let looks = [
        ("held", include_str!("../../sql/parked/held.sql")),
        ("next", include_str!("../../sql/parked/next.sql")),
        ("due", include_str!("../../sql/parked/due.sql")),
    ];
    for (name, sql) in looks {
        let slot = format!("'{}'", setting.database);
        let sql = sql.replace("$1", &slot).replace("$2", "'{}'::bigint[]");
        let explain = format!("EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {sql}");
        let row = setting.client().await?.query_one(&explain, &[]).await?;
        let plan: serde_json::Value = row.try_get(0)?;
        let rows = rows_of(&plan[0]["Plan"]);
        #[allow(clippy::cast_precision_loss, reason = "thousands")]
        let most = (30 * ROWS) as f64;
        ensure!(rows <= most, "{name}: {rows} rows, of {ROWS} records: {plan:#}");
    }
    Ok(())
}

/// Rows that all parts of a plan have come upon.
fn rows_of(node: &serde_json::Value) -> f64 {
    let number = |name: &str| node[name].as_f64().unwrap_or_default();
    let seen = ["Actual Rows", "Rows Removed by Filter", "Rows Removed by Join Filter"];
    let own: f64 = seen.iter().map(|name| number(name)).sum::<f64>() * number("Actual Loops");
    own + node["Plans"].as_array().into_iter().flatten().map(rows_of).sum::<f64>()
}

#[tokio::test]
async fn each_row_finds_its_record() -> Result<()> {
    let setting = Setting::shared().await?.set("parking.limit", "100000");
    let _consumer = setting.bound("good").await?;
    let relay = setting.run()?;
    setting
        .sql(&format!(
            "INSERT INTO outbox_messages (topic, payload, aggregate_type, aggregate_id)
             SELECT 'nobody', '{{}}', 'order', number::text FROM generate_series(1, {ROWS}) AS number"
        ))
        .await?;
    let all = format!("SELECT count(*) = {ROWS} FROM pgoutbox.parked");
    setting.until("every event to be parked", &all).await.with_context(|| relay.log())?;
    setting.is_acknowledged(&relay).await?;
    relay.drain(PATIENCE).await?;
    the_log_counts_them(&relay.log())?;
    setting.sql("ANALYZE outbox_messages, pgoutbox.parked").await?;
    each_look_reads_each_record_a_few_times(&setting).await?;
    for command in [&["verify", "--exact"][..], &["status"], &["event", "--since", "1h"]] {
        let before = reads(&setting).await?;
        setting.program.output(command).await?;
        let mut after = before;
        wait_until(&format!("the server to count what {command:?} read"), PATIENCE, async || {
            after = reads(&setting).await?;
            Ok(after.1 > before.1)
        })
        .await?;
        let read = after.0 - before.0;
        ensure!(
            read <= 30 * ROWS,
            "{command:?} read {read} records one after the other, of {ROWS}"
        );
    }
    Ok(())
}
