//! Row filters of the publication that cannot be worked out for some row.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use harness::consumer::Consumer;
use harness::shared;
use serde_json::Value;

use crate::bare::{ids, uuid};
use crate::check::Checks as _;
use crate::replay::Replays as _;
use crate::setting::{PATIENCE, Setting};

/// An outbox whose publication divides by a column.
async fn dividing() -> Result<Setting> {
    let setting = Setting::bare().await?.set("session.backoff_max", "300ms");
    setting
        .sql("CREATE TABLE outbox_messages (id uuid PRIMARY KEY, aggregate_type text DEFAULT 'order', aggregate_id text DEFAULT 'one',
                  event_type text DEFAULT 'placed', payload jsonb DEFAULT '{}', divisor int DEFAULT 1,
                  occurred_at timestamptz DEFAULT clock_timestamp(), relayed_at timestamptz);
              CREATE PUBLICATION pgoutbox FOR TABLE outbox_messages WHERE (100 / divisor > 1) WITH (publish = 'insert')")
        .await?;
    setting.init().await?;
    Ok(setting)
}

async fn insert(setting: &Setting, number: u32, divisor: u32) -> Result<()> {
    let id = uuid(number);
    setting
        .sql(&format!("INSERT INTO outbox_messages (id, divisor) VALUES ('{id}', {divisor})"))
        .await
}

/// The ids in the order in which they came first.
fn first_of_each(consumer: &Consumer) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut all = consumer.deliveries(ids);
    all.retain(|id| seen.insert(id.clone()));
    all
}

/// The walsender raises at such a row, for ever: the others are read from the table.
#[tokio::test]
async fn a_row_that_raises_in_the_walsender_keeps_no_other_from_coming() -> Result<()> {
    if shared::postgres().await?.version() < 15 {
        return Ok(());
    }
    let setting = dividing().await?;
    let consumer = setting.bound("#").await?;
    let relay = setting.run()?;
    for (number, divisor) in [(1, 1), (2, 1), (3, 0), (4, 1), (5, 100)] {
        insert(&setting, number, divisor).await?;
    }
    // What was in flight when the walsender raised comes again.
    consumer.wait_distinct(3, PATIENCE).await.with_context(|| relay.log())?;
    assert_eq!(first_of_each(&consumer), [1, 2, 4].map(uuid), "{}", relay.log());
    assert!(relay.log().contains("the walsender cannot pass a row"), "{}", relay.log());
    // Once more, and the stream goes on after it.
    insert(&setting, 6, 0).await?;
    insert(&setting, 7, 1).await?;
    consumer.wait_distinct(4, PATIENCE).await.with_context(|| relay.log())?;
    let marked = "SELECT array_agg(id::text ORDER BY id) = '{%}' FROM outbox_messages WHERE relayed_at IS NOT NULL";
    let marked = marked.replace('%', &[1, 2, 4, 7].map(uuid).join(","));
    setting.until("the rows that came to be marked", &marked).await?;
    relay.drain(PATIENCE).await?;
    assert_eq!(first_of_each(&consumer), [1, 2, 4, 7].map(uuid), "{}", relay.log());
    Ok(())
}

/// What reads the table by itself leaves such a row out, and names it: replay, verify, check and a dry run.
#[tokio::test]
async fn a_row_that_raises_is_left_out_and_named_by_commands() -> Result<()> {
    if shared::postgres().await?.version() < 15 {
        return Ok(());
    }
    let setting = dividing().await?;
    for (number, divisor) in [(1, 1), (2, 1), (3, 0), (4, 100), (5, 1)] {
        insert(&setting, number, divisor).await?;
    }
    let [first, bad] = [1, 3].map(uuid);
    let told = setting.replay(1, &["--all", "--dry-run"]).await?;
    let sent = told.lines().filter_map(|line| line.strip_prefix("would send ")?.get(..36));
    assert_eq!(sent.collect::<Vec<_>>(), [1, 2, 5].map(uuid), "{told}");
    let refused = format!("refused  {bad}: ");
    for part in [&refused, "division by zero", "row filter", "(ctid '(0,3)' of outbox_messages)"] {
        assert!(told.contains(part), "no {part} in {told}");
    }
    // What was not asked for raises for nobody.
    setting.replay(0, &["--id", &first, "--dry-run"]).await?;
    let told = setting.replay(1, &["--id", &bad, "--dry-run"]).await?;
    assert!(told.contains(&refused) && !told.contains("unknown"), "{told}");

    let output = setting.program.output(&["verify", "--exact", "--json", "--wait", "0s"]).await?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(told["tables"][0]["committed"]["rows"], 3, "{told}");
    let finding = |name: &str, severity: &str| {
        let mut findings = told["findings"].as_array().into_iter().flatten();
        findings.find(|finding| finding["name"] == name && finding["severity"] == severity)
    };
    let finding = finding("rows-unreadable", "error").with_context(|| told.to_string())?;
    let what = finding["what"].as_str().unwrap_or_default();
    let named = format!("outbox_messages ctid '(0,3)', id {bad}: division by zero");
    assert!(what.starts_with("1 row of public.outbox_messages cannot be read"), "{what}");
    assert!(what.contains(&named), "{what}");
    assert!(finding["hint"].to_string().contains("ALTER PUBLICATION"), "{finding}");

    setting.sql("SELECT pg_drop_replication_slot(current_database())").await?;
    let checked = setting.check().await?;
    let what = checked.has("rows-unreadable", "warning")["what"].to_string();
    assert!(what.contains("1 rows of public.outbox_messages") && what.contains("(0,3)"), "{what}");
    let what = checked.has("rows-waiting", "warning")["what"].to_string();
    assert!(what.contains("3 rows of public.outbox_messages wait"), "{what}");
    let told = setting.program.succeed(&["init", "--dry-run"]).await?;
    assert!(told.contains("1 rows of public.outbox_messages cannot be read"), "{told}");
    Ok(())
}

/// Where no row at all can be read, it is no fault of theirs.
#[tokio::test]
async fn a_filter_that_raises_for_every_row_fails_a_replay() -> Result<()> {
    if shared::postgres().await?.version() < 15 {
        return Ok(());
    }
    let setting = dividing().await?;
    let rows = "INSERT INTO outbox_messages (id, divisor) SELECT md5(n::text)::uuid, 0 FROM generate_series(1, 300) AS n";
    setting.sql(rows).await?;
    let told = setting.replay(69, &["--all", "--dry-run"]).await?;
    assert!(
        told.contains("in the row filter of the publication") && !told.contains("refused"),
        "{told}"
    );
    let output = setting.program.output(&["verify", "--wait", "0s"]).await?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("in the row filter of the publication"), "{told}");
    Ok(())
}

/// Where nothing is caught up with, it is said what to do; and what each session delivers and acknowledges
/// before that row, which the server does not come to read, brings nothing on.
#[tokio::test]
async fn a_row_that_raises_in_the_walsender_is_told_of() -> Result<()> {
    if shared::postgres().await?.version() < 15 {
        return Ok(());
    }
    let setting = dividing().await?.set("postgres.on_slot_loss", "halt");
    let setting = setting.set("log.level", "info,pgoutbox=debug");
    let consumer = setting.bound("#").await?;
    insert(&setting, 1, 1).await?;
    insert(&setting, 2, 0).await?;
    let relay = setting.run()?;
    consumer.wait_distinct(1, PATIENCE).await.with_context(|| relay.log())?;
    relay.wait_for_log("failures=6", PATIENCE).await?;
    let again = relay.log().matches("events are delivered again").count();
    assert!(again <= 1, "{}", relay.log());
    let sql = "SELECT fault::text FROM pgoutbox.progress";
    let fault: Value = serde_json::from_str(&setting.ask::<String>(sql).await?)?;
    let (what, hint) = (fault["what"].to_string(), fault["hint"].to_string());
    assert!(what.contains("the walsender cannot pass a row: division by zero"), "{what}");
    assert!(hint.contains("pg_drop_replication_slot"), "{hint}");
    Ok(())
}
