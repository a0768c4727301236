//! Rows and partitions that nobody needs any more.

use anyhow::{Context, Result};
use harness::{shared, wait_until};
use serde_json::Value;

use crate::bare::{arrived, uuid};
use crate::setting::{PATIENCE, Setting};

/// Rows, by what became of them; `go` are those that an hour's pruning removes.
const ROWS: [(&str, &str, &str, bool); 10] = [
    ("relayed long ago", "3 hours", "", true),
    ("relayed long ago, too", "3 hours", "", true),
    ("and in the same block a third", "3 hours", "", true),
    ("relayed lately", "1 minute", "", false),
    ("not relayed", "", "", false),
    ("parked", "3 hours", "parked", false),
    ("queued", "3 hours", "queued", false),
    ("failed, and never relayed", "", "failed", false),
    ("discarded long ago", "", "discarded", true),
    ("dead-lettered long ago", "", "dead_lettered", true),
];

/// Writes [`ROWS`] without a relay.
async fn write(setting: &Setting, mode: &str, occurred_at: &str) -> Result<()> {
    let client = setting.client().await?;
    for (number, (_, relayed, state, _)) in ROWS.iter().enumerate() {
        let id = uuid(u32::try_from(number)?);
        client
            .batch_execute(&format!(
                "INSERT INTO outbox_messages (id, topic, payload, occurred_at) VALUES ('{id}', 't', '{{}}', {occurred_at})"
            ))
            .await?;
        let mark = match (mode, relayed.is_empty()) {
            (_, true) => String::new(),
            ("side_table", false) => format!(
                "INSERT INTO pgoutbox.relayed VALUES ('outbox_messages'::regclass, '{id}', now() - interval '{relayed}');"
            ),
            _ => format!(
                "UPDATE outbox_messages SET relayed_at = now() - interval '{relayed}' WHERE id = '{id}';"
            ),
        };
        let parked = match state.is_empty() {
            true => String::new(),
            false => format!(
                "INSERT INTO pgoutbox.parked (slot, outbox, event_id, commit_lsn, index, commit_time, state,
                     is_holding, changed_at, columns, cells)
                 VALUES ('{}', 'outbox_messages'::regclass, '{id}', '0/1', {number}, now(), '{state}', true,
                     now() - interval '2 hours', '[]', '{{}}');",
                setting.database
            ),
        };
        client.batch_execute(&format!("{mark}{parked}")).await?;
    }
    Ok(())
}

/// What is left, by number.
async fn left(setting: &Setting) -> Result<Vec<usize>> {
    let rows = setting
        .client()
        .await?
        .query("SELECT right(id::text, 12)::bigint FROM outbox_messages ORDER BY 1", &[])
        .await?;
    rows.iter().map(|row| Ok(usize::try_from(row.try_get::<_, i64>(0)?)?)).collect()
}

fn staying() -> Vec<usize> {
    let stay = ROWS.iter().enumerate().filter(|(_, row)| !row.3);
    stay.map(|(number, _)| number).collect()
}

async fn prune(setting: &Setting, args: &[&str]) -> Result<Value> {
    let all = [&["prune", "--json"], args].concat();
    let told = setting.program.succeed(&all).await?;
    Ok(serde_json::from_str::<Value>(&told)?["tables"][0].clone())
}

async fn goes_only_if_relayed_long_ago(mode: &str) -> Result<()> {
    let setting = Setting::bare().await?.set("audit.mode", mode).set("prune.batch", "1");
    setting.init().await?;
    write(&setting, mode, "now()").await?;
    let dry = prune(&setting, &["--keep", "1h", "--dry-run"]).await?;
    assert_eq!(left(&setting).await?.len(), ROWS.len(), "a dry run deletes nothing");
    // Somebody works with a row: it is passed over, and nothing waits for it.
    let other = setting.client().await?;
    let locked = match mode {
        "side_table" => format!("SELECT FROM pgoutbox.relayed WHERE id = '{}' FOR UPDATE", uuid(0)),
        _ => format!("SELECT FROM outbox_messages WHERE id = '{}' FOR UPDATE", uuid(0)),
    };
    other.batch_execute(&format!("BEGIN; {locked}")).await?;
    let first = prune(&setting, &["--keep", "1h"]).await?;
    // One a statement: the next begins in the block where the last one ended.
    assert_eq!((&first["rows"], &first["parked"]), (&2.into(), &2.into()), "{first}");
    other.batch_execute("ROLLBACK").await?;
    let second = prune(&setting, &["--keep", "1h"]).await?;
    assert_eq!((&second["rows"], &second["parked"]), (&1.into(), &0.into()), "{second}");
    assert_eq!((&dry["rows"], &dry["parked"]), (&3.into(), &2.into()), "{dry}");
    assert_eq!(left(&setting).await?, staying());
    let records: i64 = setting.ask("SELECT count(*) FROM pgoutbox.parked").await?;
    assert_eq!(records, 3, "parked, queued and failed");
    Ok(())
}

#[tokio::test]
async fn a_row_goes_only_if_it_was_relayed_long_ago() -> Result<()> {
    goes_only_if_relayed_long_ago("update").await
}

#[tokio::test]
async fn a_row_and_its_mark_beside_it_go_together() -> Result<()> {
    goes_only_if_relayed_long_ago("side_table").await
}

#[tokio::test]
async fn nothing_goes_unless_told() -> Result<()> {
    let setting = Setting::bare().await?;
    setting.init().await?;
    write(&setting, "update", "now()").await?;
    let told = setting.program.succeed(&["prune"]).await?;
    assert!(told.contains("prune.keep is not set"), "{told}");
    assert_eq!(left(&setting).await?.len(), ROWS.len());
    let none = setting.set("audit.mode", "none");
    let output = none.program.output(&["prune", "--keep", "1h"]).await?;
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    Ok(())
}

#[tokio::test]
async fn the_running_relay_prunes_what_it_relayed() -> Result<()> {
    let setting = Setting::bare()
        .await?
        .set("prune.keep", "0s")
        .set("prune.interval", "100ms")
        .set("prune.batch", "7")
        .set("prune.pause", "0s");
    setting.init().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    let insert = "INSERT INTO outbox_messages (topic, payload) SELECT 't', '{}' FROM generate_series(1, 100)";
    setting.sql(insert).await?;
    arrived(&consumer, 100).await.with_context(|| relay.log())?;
    setting
        .until("an empty outbox", "SELECT count(*) = 0 FROM outbox_messages")
        .await
        .with_context(|| relay.log())?;
    setting.sql(insert).await?;
    arrived(&consumer, 200).await?;
    setting.until("an empty outbox", "SELECT count(*) = 0 FROM outbox_messages").await?;
    relay.drain(PATIENCE).await?;
    assert_eq!(consumer.total(), 200);
    Ok(())
}

#[tokio::test]
async fn a_role_of_its_own_needs_no_more_than_its_grants() -> Result<()> {
    // A catch-up would need to read the rows.
    let setting =
        Setting::bare().await?.set("prune.keep", "1h").set("postgres.on_slot_loss", "halt");
    let (stream, audit) =
        (format!("{}_stream", setting.database), format!("{}_audit", setting.database));
    setting.program.succeed(&["init", "--stream-role", &stream, "--audit-role", &audit]).await?;
    write(&setting, "update", "now()").await?;
    let postgres = shared::postgres().await?;
    let url = postgres.url_as(&audit, postgres.port(), &setting.database);
    let least = setting.clone().set("postgres.url", &url);
    let told = prune(&least, &[]).await?;
    assert_eq!((&told["rows"], &told["parked"]), (&3.into(), &2.into()), "{told}");
    let payload = harness::postgres::connect(&url).await?;
    assert!(payload.query("SELECT payload FROM outbox_messages", &[]).await.is_err());
    // And no less: what is missing is named.
    setting.sql(&format!("REVOKE DELETE ON outbox_messages FROM {audit}")).await?;
    setting.sql("UPDATE outbox_messages SET relayed_at = '2000-01-01'").await?;
    let output = least.program.output(&["prune"]).await?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("public.outbox_messages") && told.contains("grants_prune.sql"), "{told}");
    Ok(())
}

/// A partition of a day long ago.
async fn old_partition(setting: &Setting, day: &str) -> Result<String> {
    let name = format!("outbox_messages_d{}", day.replace('-', ""));
    let sql = format!(
        "CREATE TABLE {name} PARTITION OF outbox_messages
             FOR VALUES FROM ('{day} 00:00:00+00') TO (timestamptz '{day} 00:00:00+00' + interval '1 day')"
    );
    setting.sql(&sql).await?;
    Ok(name)
}

async fn partitions(setting: &Setting) -> Result<Vec<String>> {
    let sql = "SELECT relid::regclass::text FROM pg_partition_tree('outbox_messages') WHERE isleaf ORDER BY 1";
    let rows = setting.client().await?.query(sql, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn drops_old_partitions(has_default: bool) -> Result<()> {
    let setting = Setting::bare().await?.set("prune.partitions_ahead", "2");
    setting.program.succeed(&["init", "--declare", "--partitioned"]).await?;
    let made = partitions(&setting).await?;
    assert_eq!(made.len(), 4, "today, two ahead, and the default one: {made:?}");
    let (gone, unrelayed, parked) = (
        old_partition(&setting, "2026-01-01").await?,
        old_partition(&setting, "2026-01-02").await?,
        old_partition(&setting, "2026-01-03").await?,
    );
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    // Of last year: nobody has made a partition for that. And three of today.
    let mut rows = vec!["'2025-05-05'", "now()", "now()", "now()"];
    if !has_default {
        setting.sql("DROP TABLE outbox_messages_default").await?;
        rows.remove(0);
    }
    rows.extend(["'2026-01-01 10:00+00'", "'2026-01-02 10:00+00'", "'2026-01-03 10:00+00'"]);
    for (number, at) in rows.iter().enumerate() {
        let id = uuid(u32::try_from(number)?);
        let insert = "INSERT INTO outbox_messages (id, topic, payload, occurred_at)";
        setting.sql(&format!("{insert} VALUES ('{id}', 't', '{{}}', {at})")).await?;
    }
    arrived(&consumer, rows.len()).await.with_context(|| relay.log())?;
    setting.all_marked().await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await?;
    // As if it had been relayed when it occurred; but for one row.
    setting
        .sql(&format!(
            "UPDATE outbox_messages SET relayed_at = occurred_at;
             UPDATE {unrelayed} SET relayed_at = NULL;
             INSERT INTO pgoutbox.parked (slot, outbox, event_id, commit_lsn, index, commit_time, state,
                     is_holding, columns, cells)
                 SELECT 's', 'outbox_messages'::regclass, id::text, '0/1', row_number() OVER (), now(), 'queued', true, '[]', '{{}}'
                   FROM {parked}"
        ))
        .await?;
    // And one that an earlier pass detached, where something came in at the last moment.
    let detached = old_partition(&setting, "2026-01-04").await?;
    setting
        .sql(&format!(
            "INSERT INTO outbox_messages (payload, occurred_at) VALUES ('{{}}', '2026-01-04 12:00+00');
             ALTER TABLE outbox_messages DETACH PARTITION {detached};
             DO $$ BEGIN EXECUTE format('COMMENT ON TABLE {detached} IS %L', 'pgoutbox detached this from relation '
                 || 'outbox_messages'::regclass::oid || ' ' || extract(epoch FROM timestamptz '2026-01-04 00:00+00')::bigint
                 || ' ' || extract(epoch FROM timestamptz '2026-01-05 00:00+00')::bigint); END $$"
        ))
        .await?;
    // How a partition is taken out, for nobody but the server sees whether others would wait.
    setting
        .sql(
            "CREATE TABLE detaches (query text);
             CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS
                 $$BEGIN INSERT INTO detaches SELECT current_query() WHERE current_query() LIKE '%DETACH PARTITION%'; END$$;
             CREATE EVENT TRIGGER note ON ddl_command_start WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION note()",
        )
        .await?;
    let before = partitions(&setting).await?;
    let dry = prune(&setting, &["--keep", "1h", "--dry-run"]).await?;
    assert_eq!(partitions(&setting).await?, before, "a dry run drops nothing");
    let told = prune(&setting, &["--keep", "1h"]).await?;
    let how = "SELECT count(*) FILTER (WHERE query LIKE '%CONCURRENTLY;%') || ' of ' || count(*) FROM detaches";
    let concurrently = if has_default { "0 of 1" } else { "1 of 1" };
    assert_eq!(setting.ask::<String>(how).await?, concurrently);
    assert_eq!(told["partitions_dropped"], serde_json::json!([gone]), "{told}");
    assert_eq!(dry["partitions_dropped"], told["partitions_dropped"], "{dry}");
    for stays in [&unrelayed, &parked, &detached] {
        let kept = told["partitions_kept"].as_array().context("a list")?;
        assert!(kept.iter().any(|name| name == stays), "{stays} in {told}");
    }
    assert_eq!(told["rows"], u32::from(has_default), "the row of last year: {told}");
    let after = partitions(&setting).await?;
    assert!(!after.contains(&gone) && after.contains(&detached), "{after:?}");
    let left: i64 = setting.ask("SELECT count(*) FROM outbox_messages").await?;
    assert_eq!(left, 6, "three of today, one unrelayed, one parked, one that came late");
    // Once it is relayed it goes, too.
    setting.sql(&format!("UPDATE {unrelayed} SET relayed_at = '2026-01-02'")).await?;
    let told = prune(&setting, &["--keep", "1h"]).await?;
    assert_eq!(told["partitions_dropped"], serde_json::json!([unrelayed]), "{told}");
    Ok(())
}

#[tokio::test]
async fn old_partitions_go_once_no_row_must_stay() -> Result<()> {
    drops_old_partitions(true).await
}

#[tokio::test]
async fn old_partitions_go_concurrently_where_there_is_no_default_one() -> Result<()> {
    drops_old_partitions(false).await
}

#[tokio::test]
async fn the_running_relay_makes_partitions_ahead() -> Result<()> {
    let setting =
        Setting::bare().await?.set("prune.partitions_ahead", "0").set("prune.interval", "100ms");
    setting.program.succeed(&["init", "--partitioned", "hour"]).await?;
    assert_eq!(partitions(&setting).await?.len(), 2);
    let ahead = setting.clone().set("prune.partitions_ahead", "5");
    let relay = ahead.run()?;
    wait_until("five more partitions", PATIENCE, async || {
        Ok(partitions(&setting).await?.len() >= 7)
    })
    .await
    .with_context(|| relay.log())?;
    // Somebody else's partitions are left alone.
    let other = Setting::bare().await?;
    other
        .sql(
            "CREATE TABLE outbox_messages (id uuid NOT NULL, topic text, payload jsonb, at timestamptz NOT NULL,
                 relayed_at timestamptz, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
             CREATE TABLE outbox_messages_p20260101 PARTITION OF outbox_messages
                 FOR VALUES FROM ('2026-01-01') TO ('2026-01-02');
             INSERT INTO outbox_messages VALUES ('00000000-0000-0000-0000-000000000001', 't', '{}', '2026-01-01 10:00', '2026-01-01')",
        )
        .await?;
    other.init().await?;
    let told = prune(&other, &["--keep", "1h"]).await?;
    assert_eq!(told["rows"], 1, "rows go one by one: {told}");
    assert_eq!(partitions(&other).await?, ["outbox_messages_p20260101"]);
    relay.drain(PATIENCE).await
}
