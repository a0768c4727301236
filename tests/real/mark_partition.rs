//! Marks in a table that is partitioned by the time: only partitions of the events' time are asked.

use anyhow::{Context, Result};

use crate::setting::{PATIENCE, Setting};

async fn bare() -> Result<Setting> {
    let setting = Setting::bare().await?.set("tables.0.name", "other");
    Ok(setting.set("tables.0.routing_key", "t"))
}

/// Three partitions of a day each, by a time of this type; `{}` takes the text of a time. Nothing
/// vacuums them by itself: an emptied partition would have no page left, and no plan an index scan.
async fn partitioned(setting: &Setting, of_type: &str, time: &str) -> Result<()> {
    let at = |text: &str| time.replace("{}", text);
    let mut sql = format!(
        "CREATE TABLE other (id bigint, payload jsonb, occurred_at {of_type}, relayed_at timestamptz,
             PRIMARY KEY (id, occurred_at)) PARTITION BY RANGE (occurred_at);"
    );
    for (name, from, to) in [
        ("before", "2026-01-01", "2026-01-02"),
        ("day", "2026-01-02", "2026-01-03"),
        ("after", "2026-01-03", "2026-01-04"),
    ] {
        let (from, to) = (at(from), at(to));
        let bounds = format!(
            "DO $$ BEGIN EXECUTE format('CREATE TABLE {name} PARTITION OF other FOR VALUES FROM (%L) TO (%L) WITH (autovacuum_enabled = off)', {from}, {to}); END $$;"
        );
        sql.push_str(&bounds);
    }
    // Rows that need no mark, so that an index is worth asking.
    let filler = format!(
        "INSERT INTO other SELECT n, '{{}}', {}, now() FROM generate_series(1000, 3999) AS n;",
        at("2026-01-01 12:00")
            + " + (n % 3) * "
            + if of_type == "bigint" { "86400000" } else { "interval '1 day'" }
    );
    setting.sql(&(sql + &filler + "ANALYZE other;")).await
}

/// Index scans of the partitions `before`, `day` and `after`.
async fn scans(setting: &Setting) -> Result<Vec<i64>> {
    setting
        .ask("SELECT array_agg(idx_scan ORDER BY array_position('{before,day,after}', relname::text)) FROM pg_stat_user_indexes WHERE relname IN ('before', 'day', 'after')")
        .await
}

#[tokio::test]
async fn only_partitions_of_the_time_are_asked() -> Result<()> {
    for (of_type, time, mode) in [
        ("timestamptz", "timestamptz '{}Z'", "update"),
        ("timestamp", "timestamp '{}'", "update"),
        ("bigint", "(extract(epoch FROM timestamptz '{}Z') * 1000)::bigint", "update"),
        ("timestamptz", "timestamptz '{}Z'", "delete"),
    ] {
        let setting = bare().await?.set("audit.mode", mode);
        partitioned(&setting, of_type, time).await?;
        if mode == "delete" {
            // Every row waits in this mode.
            setting.sql("DELETE FROM other").await?;
        }
        setting.init().await?;
        let _consumer = setting.consumer().await?;
        // The ends of the day are not its neighbours'. Before the relay runs: a row that is not
        // visible yet when its event comes is tried again by its id alone.
        for (id, at) in [(1, "00:00:00"), (2, "12:34:56.789"), (3, "23:59:59.999")] {
            let at = time.replace("{}", &format!("2026-01-02 {at}"));
            let row =
                format!("INSERT INTO other (id, payload, occurred_at) VALUES ({id}, '{{}}', {at})");
            setting.sql(&row).await?;
        }
        let before = scans(&setting).await?;
        let relay = setting.run()?;
        // Without a condition that an index could answer.
        let is_marked = match mode {
            "delete" => "SELECT count(*) FILTER (WHERE id < 1000) = 0 FROM other",
            _ => "SELECT count(relayed_at) FILTER (WHERE id < 1000) = 3 FROM other",
        };
        setting.until("marks", is_marked).await.with_context(|| relay.log())?;
        relay.drain(PATIENCE).await?;
        let asked = "SELECT sum(idx_scan) > 0 FROM pg_stat_user_indexes WHERE relname = 'day'";
        setting.until("the figures", asked).await?;
        let after = scans(&setting).await?;
        assert_eq!((after[0], after[2]), (before[0], before[2]), "{of_type} {mode}: {after:?}");
    }
    Ok(())
}

/// What the row says now is not what came with its event.
#[tokio::test]
async fn a_row_whose_time_was_changed_is_marked_all_the_same() -> Result<()> {
    let setting = bare().await?;
    partitioned(&setting, "timestamptz", "timestamptz '{}Z'").await?;
    setting.init().await?;
    let _consumer = setting.consumer().await?;
    let relay = setting.run()?;
    setting
        .sql(
            "BEGIN;
             INSERT INTO other (id, payload, occurred_at) VALUES
                 (1, '{}', '2026-01-02 10:00Z'), (2, '{}', '2026-01-02 11:00Z'), (3, '{}', '2026-01-02 12:00Z');
             UPDATE other SET occurred_at = '2026-01-02 18:00Z' WHERE id = 1;
             COMMIT",
        )
        .await?;
    let is_marked = "SELECT count(relayed_at) = 3 FROM other WHERE id < 1000";
    setting.until("marks", is_marked).await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await
}

/// Marks need no right to read the time: without it they find their rows by id alone.
#[tokio::test]
async fn a_role_that_may_not_read_the_time_marks_all_the_same() -> Result<()> {
    let setting = bare().await?.set("postgres.on_slot_loss", "halt");
    partitioned(&setting, "timestamptz", "timestamptz '{}Z'").await?;
    let least = setting.with_roles().await?;
    let audit = setting.audit_role();
    setting.sql(&format!("REVOKE SELECT (occurred_at) ON other FROM {audit}")).await?;
    let _consumer = setting.consumer().await?;
    let relay = least.run()?;
    setting
        .sql("INSERT INTO other (id, payload, occurred_at) VALUES (1, '{}', '2026-01-02 10:00Z')")
        .await?;
    let is_marked = "SELECT count(relayed_at) = 1 FROM other WHERE id < 1000";
    setting.until("the mark", is_marked).await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await
}
