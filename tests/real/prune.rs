//! Rows and partitions that nobody needs any more.

use anyhow::{Context, Result};
use harness::pgbouncer::PgBouncer;
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
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("public.outbox_messages") && told.contains("grants/prune.sql"), "{told}");
    Ok(())
}

/// What says that pgoutbox made a partition.
const MADE: &str = "pgoutbox made this partition";

/// A partition of a day long ago, as an earlier pass made it.
async fn old_partition(setting: &Setting, day: &str) -> Result<String> {
    let name = foreign_partition(setting, day).await?;
    setting.sql(&format!("COMMENT ON TABLE {name} IS '{MADE}'")).await?;
    Ok(name)
}

/// The same made by somebody else, who chose the same name.
async fn foreign_partition(setting: &Setting, day: &str) -> Result<String> {
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

/// What `pgoutbox prune --json` says of the first table, whatever its exit code.
async fn told(setting: &Setting, args: &[&str]) -> Result<(Option<i32>, Value)> {
    let all = [&["prune", "--json"], args].concat();
    let output = setting.program.output(&all).await?;
    let told: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok((output.status.code(), told["tables"][0].clone()))
}

/// Rows that were relayed long ago, of which some cannot be deleted.
async fn stops_no_other(mode: &str) -> Result<()> {
    const ROWS: i64 = 3000;
    let setting = Setting::bare().await?.set("audit.mode", mode).set("prune.pause", "0s");
    setting.init().await?;
    let mark = match mode {
        "side_table" => {
            "INSERT INTO pgoutbox.relayed SELECT 'outbox_messages'::regclass, id::text, '2026-01-01' FROM outbox_messages"
        }
        _ => "UPDATE outbox_messages SET relayed_at = '2026-01-01'",
    };
    setting
        .sql(&format!(
            "INSERT INTO outbox_messages (id, topic, payload)
                 SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, 't', '{{}}' FROM generate_series(1, {ROWS}) AS n;
             {mark};
             CREATE TABLE invoices (event uuid CONSTRAINT \"of event\" REFERENCES outbox_messages DEFERRABLE INITIALLY DEFERRED);
             INSERT INTO invoices SELECT id FROM outbox_messages WHERE right(id::text, 3) = '777';
             CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS
                 $$BEGIN RAISE EXCEPTION 'row % is wanted', OLD.id; END$$;
             CREATE TRIGGER keep BEFORE DELETE ON outbox_messages FOR EACH ROW
                 WHEN (right(OLD.id::text, 4) IN ('0001', '1500', '3000')) EXECUTE FUNCTION keep()"
        ))
        .await?;
    // A record that was discarded long ago, and whose row is one of those.
    for number in [2, 1500] {
        setting.put_aside(number, "discarded").await?;
    }
    setting.sql("UPDATE pgoutbox.parked SET changed_at = '2026-01-01'").await?;
    let (dry, would) = told(&setting, &["--keep", "1h", "--dry-run"]).await?;
    assert_eq!(left(&setting).await?.len(), usize::try_from(ROWS)?, "a dry run deletes nothing");
    let (code, all) = told(&setting, &["--keep", "1h"]).await?;
    let stay = [1, 777, 1500, 1777, 2777, 3000];
    assert_eq!(left(&setting).await?, stay, "{all}");
    // Row 2 went with its record.
    assert_eq!((&all["rows"], &all["parked"]), (&(ROWS - 7).into(), &1.into()), "{all}");
    assert_eq!(would["troubles"].as_array().map(Vec::len), Some(3), "{would}");
    assert_eq!((dry, code), (Some(1), Some(1)));
    let troubles: Vec<String> = all["troubles"]
        .as_array()
        .context("a list")?
        .iter()
        .map(|it| {
            [&it["what"], &it["hint"]].map(|text| text.as_str().unwrap_or_default()).join(" HINT ")
        })
        .collect();
    let trouble = |part: &str| {
        let found = troubles.iter().find(|trouble| trouble.contains(part)).cloned();
        found.with_context(|| format!("no {part} in {troubles:#?}"))
    };
    assert!(trouble("records of parked events")?.contains("1 records"), "{troubles:#?}");
    let wanted = troubles.iter().find(|it| it.contains("3 rows") && it.contains("P0001"));
    let wanted = wanted.with_context(|| format!("{troubles:#?}"))?;
    for part in ["of public.outbox_messages", "is wanted (SQLSTATE P0001)", "triggers"] {
        assert!(wanted.contains(part), "no {part} in {wanted}");
    }
    let foreign = trouble("of event")?;
    for part in ["3 rows of public.outbox_messages", &uuid(777), "23503", "invoices"] {
        assert!(foreign.contains(part), "no {part} in {foreign}");
    }
    // The SQL of the hint is all that it takes.
    setting.sql(foreign.split_once("with them: ").context("SQL")?.1).await?;
    setting.sql("DROP TRIGGER keep ON outbox_messages").await?;
    let (code, all) = told(&setting, &["--keep", "1h"]).await?;
    assert_eq!((code, left(&setting).await?.len()), (Some(0), 0), "{all}");
    Ok(())
}

#[tokio::test]
async fn a_row_that_cannot_go_stops_no_other() -> Result<()> {
    stops_no_other("update").await
}

#[tokio::test]
async fn a_row_that_cannot_go_stops_no_other_mark_beside_it() -> Result<()> {
    stops_no_other("side_table").await
}

/// It is said once, and not tried again at each pass.
#[tokio::test]
async fn the_running_relay_says_once_what_cannot_go() -> Result<()> {
    let setting = Setting::bare().await?.set("prune.keep", "0s").set("prune.interval", "100ms");
    setting.init().await?;
    setting
        .sql(
            "CREATE TABLE invoices (event uuid REFERENCES outbox_messages);
             CREATE TABLE tries (n int);
             CREATE SEQUENCE passes;
             CREATE FUNCTION count_tries() RETURNS trigger LANGUAGE plpgsql AS
                 $$BEGIN IF OLD.topic = 'kept' THEN PERFORM nextval('passes'); END IF; RETURN OLD; END$$;
             CREATE TRIGGER tries BEFORE DELETE ON outbox_messages FOR EACH ROW EXECUTE FUNCTION count_tries();
             INSERT INTO outbox_messages (id, topic, payload) VALUES (gen_random_uuid(), 'kept', '{}');
             INSERT INTO invoices SELECT id FROM outbox_messages;
             UPDATE outbox_messages SET relayed_at = '2026-01-01'",
        )
        .await?;
    let _consumer = setting.consumer().await?;
    let relay = setting.run()?;
    relay.wait_for_log("cannot be deleted, and stay", PATIENCE).await?;
    let tries: i64 = setting.ask("SELECT last_value FROM passes").await?;
    for round in 0..3 {
        setting.sql("INSERT INTO outbox_messages (topic, payload, relayed_at) VALUES ('t', '{}', '2026-01-01')").await?;
        let gone = "SELECT count(*) = 1 FROM outbox_messages";
        setting.until(&format!("pass {round}"), gone).await.with_context(|| relay.log())?;
    }
    assert_eq!(setting.ask::<i64>("SELECT last_value FROM passes").await?, tries);
    assert_eq!(relay.log().matches("cannot be deleted").count(), 1, "{}", relay.log());
    relay.drain(PATIENCE).await
}

async fn only_what_it_made(mode: &str) -> Result<()> {
    let setting = Setting::bare().await?.set("prune.partitions_ahead", "1").set("audit.mode", mode);
    setting.program.succeed(&["init", "--declare", "--partitioned"]).await?;
    let (ours, theirs) = (
        old_partition(&setting, "2026-01-01").await?,
        foreign_partition(&setting, "2026-01-02").await?,
    );
    let mark = match mode {
        "side_table" => {
            "INSERT INTO pgoutbox.relayed SELECT 'outbox_messages'::regclass, id::text, occurred_at FROM outbox_messages"
        }
        _ => "UPDATE outbox_messages SET relayed_at = occurred_at",
    };
    setting
        .sql(&format!(
            "CREATE TABLE archive PARTITION OF outbox_messages FOR VALUES FROM ('2025-01-01') TO ('2025-02-01');
             INSERT INTO outbox_messages (payload, occurred_at) VALUES
                 ('{{}}', '2026-01-01 10:00+00'), ('{{}}', '2026-01-02 10:00+00'), ('{{}}', '2025-01-10 10:00+00'),
                 ('{{}}', '2024-01-01 10:00+00');
             {mark}"
        ))
        .await?;
    let (code, all) = told(&setting, &["--keep", "1h"]).await?;
    assert_eq!(all["partitions_dropped"], serde_json::json!([ours]), "{all}");
    let after = partitions(&setting).await?;
    assert!(after.contains(&theirs) && after.contains(&"archive".to_owned()), "{after:?}");
    // Beside the table, the marks of a dropped partition's rows go after it.
    let rows = if mode == "side_table" { 4 } else { 3 };
    assert_eq!((code, &all["rows"]), (Some(0), &rows.into()), "their rows go one by one: {all}");
    let note = &all["notes"][0];
    assert!(note["what"].as_str().is_some_and(|what| what.contains(&theirs)), "{all}");
    // Whose it is, a comment says; the SQL is in the hint.
    let hint = note["hint"].as_str().context("a hint")?;
    setting.sql(hint.split_once(": ").context("SQL")?.1).await?;
    let (_, all) = told(&setting, &["--keep", "1h"]).await?;
    assert_eq!(all["partitions_dropped"], serde_json::json!([theirs]), "{all}");
    assert!(partitions(&setting).await?.contains(&"archive".to_owned()));
    // Without one of its own, it has nothing to do with partitions at all.
    let made = "SELECT string_agg(format('COMMENT ON TABLE %s IS NULL', relid::regclass), '; ')
                  FROM pg_partition_tree('outbox_messages') WHERE isleaf";
    let strip: String = setting.ask(made).await?;
    setting.sql(&strip).await?;
    let many = setting.clone().set("prune.partitions_ahead", "9");
    let (_, all) = told(&many, &["--keep", "1h"]).await?;
    assert_eq!(all["partitions_made"], serde_json::json!([]), "{all}");
    Ok(())
}

#[tokio::test]
async fn only_partitions_that_it_made_are_dropped() -> Result<()> {
    only_what_it_made("update").await
}

#[tokio::test]
async fn only_partitions_that_it_made_are_dropped_with_marks_beside() -> Result<()> {
    only_what_it_made("side_table").await
}

/// One was detached and cannot be attached, one has a view, one is locked: the last one goes.
#[tokio::test]
async fn a_partition_that_cannot_go_stops_no_other() -> Result<()> {
    let setting = Setting::bare().await?.set("prune.partitions_ahead", "1");
    setting.program.succeed(&["init", "--partitioned"]).await?;
    let detached = old_partition(&setting, "2026-01-01").await?;
    setting
        .sql(&format!(
            "INSERT INTO outbox_messages (payload, occurred_at) VALUES ('{{}}', '2026-01-01 12:00+00');
             ALTER TABLE outbox_messages DETACH PARTITION {detached};
             ALTER TABLE {detached} ADD COLUMN of_mine int;
             DO $$ BEGIN EXECUTE format('COMMENT ON TABLE {detached} IS %L', 'pgoutbox detached this from relation '
                 || 'outbox_messages'::regclass::oid || ' ' || extract(epoch FROM timestamptz '2026-01-01 00:00+00')::bigint
                 || ' ' || extract(epoch FROM timestamptz '2026-01-02 00:00+00')::bigint); END $$"
        ))
        .await?;
    let viewed = old_partition(&setting, "2026-01-02").await?;
    setting.sql(&format!("CREATE VIEW of_january AS SELECT id FROM {viewed}")).await?;
    let locked = old_partition(&setting, "2026-01-03").await?;
    let free = old_partition(&setting, "2026-01-04").await?;
    let other = setting.client().await?;
    other.batch_execute(&format!("BEGIN; LOCK TABLE {locked} IN ACCESS SHARE MODE")).await?;
    setting
        .sql(
            "INSERT INTO outbox_messages (payload, occurred_at, relayed_at) VALUES ('{}', '2020-01-01', '2020-01-01')",
        )
        .await?;
    let (code, all) = told(&setting, &["--keep", "1h"]).await?;
    assert_eq!(all["partitions_dropped"], serde_json::json!([free]), "{all}");
    assert_eq!((code, &all["rows"]), (Some(1), &1.into()), "rows too: {all}");
    let troubles = all["troubles"].to_string();
    for part in [&detached, &viewed, &locked, "ATTACH PARTITION", "2BP01"] {
        assert!(troubles.contains(part), "no {part} in {troubles}");
    }
    // What held it up goes, and so does it.
    other.batch_execute("ROLLBACK").await?;
    setting
        .sql(&format!("DROP VIEW of_january; ALTER TABLE {detached} DROP COLUMN of_mine"))
        .await?;
    let (code, all) = told(&setting, &["--keep", "1h"]).await?;
    assert_eq!(all["partitions_dropped"], serde_json::json!([viewed, locked]), "{all}");
    assert_eq!(code, Some(0), "{all}");
    assert!(partitions(&setting).await?.contains(&detached), "back in its table");
    Ok(())
}

/// A lock of the session would stay with the pooler's connection.
#[tokio::test]
async fn behind_a_pooler_the_turn_ends_with_the_pass() -> Result<()> {
    let setting = Setting::bare().await?;
    setting.init().await?;
    let postgres = shared::postgres().await?;
    let conf =
        ["ignore_startup_parameters = extra_float_digits,options", "pool_mode = transaction"];
    let pooler = PgBouncer::start(postgres, &conf).await?;
    let url = postgres.url_on(pooler.port(), &setting.database);
    let pooled = setting.clone().set("postgres.url", &url);
    let is_busy = async |setting: &Setting| -> Result<bool> {
        let output = setting.program.output(&["prune", "--json", "--keep", "1h"]).await?;
        let told: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        Ok(told["is_busy"] == true)
    };
    assert!(!is_busy(&pooled).await?);
    assert!(!is_busy(&setting).await?, "the pooler's connection has the lock still");
    assert!(!is_busy(&pooled).await?);
    let other = setting.client().await?;
    let turn = format!("pgoutbox prune {}", setting.database);
    let take = format!("SELECT pg_advisory_xact_lock(hashtextextended('{turn}', 0))");
    other.batch_execute(&format!("BEGIN; {take}")).await?;
    assert!(is_busy(&pooled).await? && is_busy(&setting).await?);
    other.batch_execute("ROLLBACK").await?;
    assert!(!is_busy(&pooled).await?);
    Ok(())
}

#[tokio::test]
async fn an_interrupted_pass_says_what_it_did() -> Result<()> {
    let setting = Setting::bare().await?.set("prune.batch", "10").set("prune.pause", "1m");
    setting.init().await?;
    setting
        .sql(
            "INSERT INTO outbox_messages (topic, payload, relayed_at)
                 SELECT 't', '{}', '2026-01-01' FROM generate_series(1, 100)",
        )
        .await?;
    let pass = setting.program.spawn(&["prune", "--keep", "1h"])?;
    let began = "SELECT count(*) = 90 FROM outbox_messages";
    setting.until("the first batch", began).await.with_context(|| pass.log())?;
    pass.interrupt()?;
    let status = pass.wait_exit(PATIENCE).await?;
    let log = pass.log();
    assert_eq!(status.code(), Some(69), "{log}");
    assert!(log.contains("outbox_messages: 10 rows deleted") && log.contains("SIGINT"), "{log}");
    Ok(())
}
