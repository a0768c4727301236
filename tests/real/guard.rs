//! The guard over the WAL that the slot keeps.

use anyhow::{Context, Result};
use harness::postgres::{Options, Postgres};
use harness::proxy::{Direction, Proxy};
use harness::relay::Relay;
use harness::wait_until;

use crate::bare::arrived;
use crate::setting::{PATIENCE, Setting};

const MIB: i64 = 1 << 20;

/// A server that keeps 96 MiB of WAL for a slot, and a relay that looks often. `amqp` is the
/// broker's URL.
async fn scene(amqp: &str) -> Result<(Postgres, Setting)> {
    let conf = vec!["max_slot_wal_keep_size = 96MB".to_owned(), "wal_keep_size = 0".to_owned()];
    let postgres = Postgres::start(Options { conf, ..Default::default() }).await?;
    let database = postgres.create_database().await?;
    let database_url = postgres.url(&database);
    let setting = Setting::with(database, String::new(), database_url, amqp.to_owned());
    let setting = setting.set("guard.interval", "100ms").set("log.format", "json");
    setting.program.succeed(&["init"]).await?;
    Ok((postgres, setting))
}

/// The same with the broker that all tests share.
async fn with_broker() -> Result<(Postgres, Setting)> {
    let rabbitmq = harness::shared::rabbitmq().await?;
    let vhost = rabbitmq.add_vhost().await?;
    let (postgres, setting) = scene(&rabbitmq.url(&vhost)).await?;
    setting.program.succeed(&["init", "--declare"]).await?;
    Ok((postgres, setting))
}

/// Nobody listens there.
const NO_BROKER: &str = "amqp://127.0.0.1:1";

/// WAL that no table is needed for.
async fn write(setting: &Setting, mebibytes: i64) -> Result<()> {
    let sql = format!(
        "SELECT pg_logical_emit_message(false, 'test', repeat('x', 1024 * 1024)) FROM generate_series(1, {mebibytes})"
    );
    setting.client().await?.execute(&sql, &[]).await?;
    // Small, and flushed: what was only inserted does not count.
    setting.sql("SELECT pg_logical_emit_message(true, 'test', '')").await
}

/// A little at a time, until the relay says something.
async fn write_until(setting: &Setting, relay: &Relay, text: &str) -> Result<String> {
    let said = wait_until(text, PATIENCE, async || {
        write(setting, 1).await?;
        Ok(relay.log().contains(text))
    });
    said.await.with_context(|| relay.log())?;
    relay.wait_for_log(text, PATIENCE).await
}

fn slot_exists(setting: &Setting) -> String {
    let slot = &setting.database;
    format!("SELECT count(*) = 1 FROM pg_replication_slots WHERE slot_name = '{slot}'")
}

/// What an earlier process found is over: its verdict, with a hint that would drop the slot, does not stay.
#[tokio::test]
async fn a_verdict_of_an_earlier_process_is_taken_back() -> Result<()> {
    let setting = Setting::shared().await?;
    let verdict = "INSERT INTO pgoutbox.guard (slot, level, verdict)
        VALUES (current_database(), 'critical', '{\"what\": \"the slot is lost\", \"hint\": \"drop it\"}')";
    setting.sql(verdict).await?;
    let relay = setting.run()?;
    let calm = "SELECT level = 'calm' AND verdict ->> 'hint' = '' FROM pgoutbox.guard";
    setting.until("the first look", calm).await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn warns_with_figures_before_the_slot_is_lost() -> Result<()> {
    let (_postgres, setting) = scene(NO_BROKER).await?;
    // By the share alone.
    let setting = setting.set("guard.warn_at", "0s");
    let relay = setting.run()?;
    relay.wait_for_log("\"WARN\"", PATIENCE).await?;
    assert!(!relay.log().contains("of WAL;"), "nothing was written yet");
    write(&setting, 60).await?;
    let line = write_until(&setting, &relay, "of max_slot_wal_keep_size is used").await?;
    let line: serde_json::Value = serde_json::from_str(&line)?;
    assert_eq!(line["level"], "WARN", "{line}");
    let retained = line["retained_wal_bytes"].as_i64().context("figures")?;
    assert!((62 * MIB..88 * MIB).contains(&retained), "{line}");
    let hint = line["hint"].as_str().context("a hint")?;
    assert!(hint.contains("ALTER SYSTEM SET max_slot_wal_keep_size"), "{hint}");
    wait_until("the status to say so", PATIENCE, async || {
        let guard = setting.status().await?["guard"].clone();
        let used = guard["used_percent"].as_f64().unwrap_or_default();
        let left = guard["left_bytes"].as_i64().unwrap_or_default();
        anyhow::ensure!(
            guard["level"] == "warning" && guard["limit"] == "max_slot_wal_keep_size",
            "{guard}"
        );
        anyhow::ensure!(
            (70.0..90.0).contains(&used) && (6 * MIB..30 * MIB).contains(&left),
            "{guard}"
        );
        Ok(true)
    })
    .await?;
    let line = write_until(&setting, &relay, "\"ERROR\"").await?;
    assert!(line.contains("of max_slot_wal_keep_size is used"), "{line}");
    wait_until("the status to say so", PATIENCE, async || {
        Ok(setting.status().await?["guard"]["level"] == "critical")
    })
    .await?;
    assert!(setting.ask::<bool>(&slot_exists(&setting)).await?, "it only says so");
    let told = setting.program.output(&["status"]).await?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("guard     critical since"), "{told}");
    // Once for each change.
    let count = relay.log().matches("of max_slot_wal_keep_size is used").count();
    assert_eq!(count, 2, "{}", relay.log());
    assert!(relay.is_running());
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn projects_when_it_will_be_full() -> Result<()> {
    let (_postgres, setting) = scene(NO_BROKER).await?;
    let setting = setting.set("guard.warn_percent", "90").set("guard.disk_limit", "100TiB");
    let relay = setting.run()?;
    // Little by little: far from full, but not for long.
    let told = wait_until("a projection", PATIENCE, async || {
        write(&setting, 1).await?;
        Ok(relay.log().contains("it is full in"))
    });
    told.await.with_context(|| relay.log())?;
    let status = setting.status().await?;
    let guard = &status["guard"];
    assert_eq!(guard["level"], "warning", "{guard}");
    let figure = |name: &str| guard[name].as_f64().unwrap_or(f64::NAN);
    let projected = figure("left_bytes") / figure("growth_bytes_per_second");
    assert!((figure("full_in_seconds") - projected).abs() <= 1.0, "{guard}");
    assert!(figure("used_percent") < 90.0, "{guard}");
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn policy_stop_ends_the_relay_and_leaves_the_slot() -> Result<()> {
    let (_postgres, setting) = scene(NO_BROKER).await?;
    let setting = setting.set("guard.policy", "stop");
    let relay = setting.run()?;
    relay.wait_for_log("\"WARN\"", PATIENCE).await?;
    write_until(&setting, &relay, "guard.policy stop").await?;
    let status = relay.wait_exit(PATIENCE).await?;
    let told = relay.log();
    assert_eq!(status.code(), Some(1), "{told}");
    assert!(told.contains("guard.policy stop: the slot keeps"), "{told}");
    assert!(setting.ask::<bool>(&slot_exists(&setting)).await?);
    Ok(())
}

#[tokio::test]
async fn policy_drop_slot_drops_it_while_the_broker_is_down() -> Result<()> {
    let (_postgres, setting) = scene(NO_BROKER).await?;
    let setting = setting.set("guard.policy", "drop_slot_and_catch_up_later");
    let relay = setting.run()?;
    relay.wait_for_log("\"WARN\"", PATIENCE).await?;
    let line = write_until(&setting, &relay, "was dropped: the slot keeps").await?;
    assert!(line.contains("\"ERROR\""), "{line}");
    assert!(!setting.ask::<bool>(&slot_exists(&setting)).await?);
    Ok(())
}

#[tokio::test]
async fn policy_drop_slot_takes_it_from_a_relay_whose_broker_is_silent() -> Result<()> {
    let rabbitmq = harness::shared::rabbitmq().await?;
    let vhost = rabbitmq.add_vhost().await?;
    let proxy = Proxy::start(rabbitmq.port()).await?;
    let (_postgres, setting) = scene(&rabbitmq.url(&vhost)).await?;
    setting.program.succeed(&["init", "--declare"]).await?;
    let setting = setting.set("guard.policy", "drop_slot_and_catch_up_later");
    let consumer = setting.consumer().await?;
    let behind = setting.clone().set("amqp.url", &proxy.url(&setting.amqp_url));
    let relay = behind.set("amqp.heartbeat", "15s").run()?;
    setting.sql("INSERT INTO outbox_messages (topic, payload) VALUES ('t', '1')").await?;
    arrived(&consumer, 1).await.with_context(|| relay.log())?;
    // Nothing is confirmed from now on, and the walsender stays.
    proxy.stall(Direction::Down);
    setting.sql("INSERT INTO outbox_messages (topic, payload) VALUES ('t', '2')").await?;
    write_until(&setting, &relay, "was dropped: the slot keeps").await?;
    assert!(!setting.ask::<bool>(&slot_exists(&setting)).await?);
    setting.sql("INSERT INTO outbox_messages (topic, payload) VALUES ('t', '3')").await?;
    // Once the broker answers again, the rows are caught up with.
    proxy.resume(Direction::Down);
    setting.all_marked().await.with_context(|| relay.log())?;
    assert!(setting.ask::<bool>(&slot_exists(&setting)).await?);
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn names_the_transaction_that_holds_the_wal() -> Result<()> {
    let (_postgres, setting) = with_broker().await?;
    let relay = setting.run()?;
    relay.reaches("running", PATIENCE).await?;
    let client = setting.client().await?;
    client.batch_execute("BEGIN; SELECT txid_current();").await?;
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    // A relay's own, however old, and one that came when the WAL was held already.
    let own = setting.client().await?;
    own.batch_execute(&format!(
        "SET application_name = 'pgoutbox/{}'; BEGIN; SELECT txid_current()",
        setting.database
    ))
    .await?;
    setting.sql("BEGIN; SELECT txid_current(); PREPARE TRANSACTION 'forgotten'").await?;
    let young = setting.client().await?;
    let mut writes = 0;
    let said = wait_until("the guard to name them", PATIENCE, async || {
        write(&setting, i64::from(writes < 30)).await?;
        setting.sql("CHECKPOINT").await?;
        writes += 1;
        if writes == 20 {
            young.batch_execute("BEGIN; SELECT txid_current()").await?;
        }
        Ok(relay.log().contains("'forgotten'"))
    });
    said.await.with_context(|| relay.log())?;
    let line = relay.wait_for_log("'forgotten'", PATIENCE).await?;
    for part in [
        format!("pid {pid} "),
        format!("pg_terminate_backend({pid})"),
        "'forgotten'".to_owned(),
        "ROLLBACK PREPARED".to_owned(),
    ] {
        assert!(line.contains(&part), "no {part} in {line}");
    }
    assert!(writes > 20, "the guard named them before there was a young one: {line}");
    for other in [&own, &young] {
        let pid: i32 = other.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
        assert!(!relay.log().contains(&format!("pid {pid} (")), "{pid} in {}", relay.log());
    }
    client.batch_execute("ROLLBACK").await?;
    setting.sql("ROLLBACK PREPARED 'forgotten'").await?;
    relay.drain(PATIENCE).await
}

/// 93 MiB of 96 are kept from the moment on that this transaction commits, and nothing can be
/// acknowledged before all of its events are settled.
const LARGE: &str = "BEGIN;
    INSERT INTO outbox_messages (aggregate_type, aggregate_id, topic, payload)
        SELECT 'a', '1', 't', '{}' FROM generate_series(1, 2500);
    SELECT pg_logical_emit_message(false, 'test', repeat('x', 1024 * 1024)) FROM generate_series(1, 93);
    COMMIT";

/// Who works is let alone, within one transaction too: by its own guard, and by that of a standby.
#[tokio::test]
async fn a_relay_that_works_keeps_its_slot() -> Result<()> {
    let (_postgres, setting) = with_broker().await?;
    // One event at a time, so that it takes many looks of the guard.
    let setting = setting.set("window.ordering", "strict").set("guard.interval", "500ms");
    let setting = setting.set("guard.policy", "drop_slot_and_catch_up_later");
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    relay.reaches("running", PATIENCE).await?;
    let standby = setting.run()?;
    standby.reaches("standby", PATIENCE).await?;
    setting.sql(LARGE).await?;
    relay.wait_for_log("\"ERROR\"", PATIENCE).await?;
    // One after the other takes its time on a busy machine.
    for part in 1..=10 {
        arrived(&consumer, part * 250).await.with_context(|| relay.log())?;
    }
    setting.all_marked().await.with_context(|| relay.log())?;
    assert_eq!(consumer.total(), 2500, "{}", relay.log());
    for log in [relay.log(), standby.log()] {
        assert!(!log.contains("was dropped") && !log.contains("was to be dropped"), "{log}");
    }
    standby.drain(PATIENCE).await?;
    relay.drain(PATIENCE).await
}

/// A pause is told from a relay that is stuck.
#[tokio::test]
async fn a_pause_is_called_a_pause() -> Result<()> {
    let (_postgres, setting) = with_broker().await?;
    let relay = setting.run()?;
    relay.reaches("running", PATIENCE).await?;
    setting.program.succeed(&["pause", "--note", "a migration"]).await?;
    relay.reaches("paused", PATIENCE).await?;
    let line = write_until(&setting, &relay, "the relay is paused since").await?;
    let line: serde_json::Value = serde_json::from_str(&line)?;
    assert!(
        line["hint"].as_str().is_some_and(|hint| hint.starts_with("pgoutbox resume")),
        "{line}"
    );
    relay.drain(PATIENCE).await
}
