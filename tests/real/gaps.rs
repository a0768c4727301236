//! What passes by the slot is caught up with from the table, in order; what is remembered is checked
//! against the server.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use harness::consumer::Consumer;
use harness::events::counted;
use harness::http::get;
use harness::postgres::{Postgres, Shutdown};
use harness::proxy::{Direction, Proxy};
use harness::relay::Relay;
use harness::scenario::Scenario;
use harness::{shared, wait_until};

use crate::setting::{PATIENCE, Setting};

/// The numbers of the events as they came first.
pub fn came(consumer: &Consumer) -> Vec<i64> {
    let numbers: Vec<i64> = consumer.deliveries(|all| {
        all.iter().filter_map(|delivery| delivery.json().ok()?["n"].as_i64()).collect()
    });
    let mut first = Vec::new();
    for number in numbers {
        if !first.contains(&number) {
            first.push(number);
        }
    }
    first
}

pub async fn all_came(consumer: &Consumer, relay: &Relay, last: i64) -> Result<()> {
    wait_until("every event to come, in order", PATIENCE, async || {
        let numbers = came(consumer);
        anyhow::ensure!(numbers.is_sorted(), "out of order: {numbers:?}");
        anyhow::ensure!(relay.is_running(), "it has ended");
        Ok(numbers.len() >= usize::try_from(last)?)
    })
    .await
    .with_context(|| format!("{:?}\n{}", came(consumer), relay.log()))?;
    assert_eq!(came(consumer), (1..=last).collect::<Vec<_>>(), "{}", relay.log());
    Ok(())
}

const SAYS: &str = "rows may have passed by the slot";

pub fn remade(setting: &Setting) -> String {
    let slot = &setting.database;
    format!(
        "SELECT pg_drop_replication_slot('{slot}');
         INSERT INTO outbox_messages (aggregate_type, aggregate_id, event_type, payload)
         VALUES ('order', 'one', 'placed', '{{\"n\": 4}}');
         SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"
    )
}

fn advanced(setting: &Setting) -> String {
    let slot = &setting.database;
    format!(
        "INSERT INTO outbox_messages (aggregate_type, aggregate_id, event_type, payload)
         VALUES ('order', 'one', 'placed', '{{\"n\": 4}}');
         SELECT pg_replication_slot_advance('{slot}', pg_current_wal_insert_lsn())"
    )
}

/// The slot is dropped and made again, or advanced, while no relay runs or while one waits for its
/// broker: nothing in the slot tells.
#[tokio::test]
async fn a_slot_that_somebody_moved_is_caught_up_with() -> Result<()> {
    for (name, moved, is_killed) in [
        ("made again", remade as fn(&Setting) -> String, false),
        ("made again after a crash", remade, true),
        ("advanced", advanced, false),
        ("advanced after a crash", advanced, true),
    ] {
        let setting = Setting::shared().await?;
        let consumer = setting.consumer().await?;
        let relay = setting.run()?;
        setting.insert(counted(1..=3).of("one")).await?;
        all_came(&consumer, &relay, 3).await?;
        setting.all_marked().await?;
        if is_killed {
            relay.kill9().await?;
        } else {
            relay.drain(PATIENCE).await?;
        }
        idle_slot(&setting).await?;
        for statement in moved(&setting).split(';') {
            setting.sql(statement).await.with_context(|| format!("{name}: {statement}"))?;
        }
        setting.insert(counted(5..=7).of("one")).await?;
        let relay = setting.run()?;
        all_came(&consumer, &relay, 7).await.context(name)?;
        setting.all_marked().await?;
        assert!(relay.log().contains(SAYS), "{name}: {}", relay.log());
        assert_eq!(consumer.total(), 7, "{name}: none twice\n{}", relay.log());
        relay.drain(PATIENCE).await?;
    }
    Ok(())
}

/// Until the walsender has noticed.
async fn idle_slot(setting: &Setting) -> Result<()> {
    let sql = "SELECT NOT active FROM pg_replication_slots WHERE slot_name = current_database()";
    setting.until("the slot to be free", sql).await
}

/// Without marks there is no record of which rows wait: it stops, and says how to go on.
#[tokio::test]
async fn without_marks_a_slot_that_somebody_moved_stops_the_relay() -> Result<()> {
    let setting = Setting::shared().await?.set("audit.mode", "none");
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    setting.insert(counted(1..=3).of("one")).await?;
    all_came(&consumer, &relay, 3).await?;
    relay.drain(PATIENCE).await?;
    for statement in remade(&setting).split(';') {
        setting.sql(statement).await?;
    }
    for _ in 0..2 {
        let relay = setting.run()?;
        let status = relay.wait_exit(PATIENCE).await?;
        assert_eq!(status.code(), Some(1), "{}", relay.log());
        assert!(relay.log().contains("somebody made it again"), "{}", relay.log());
        assert!(relay.log().contains("SET coverage = NULL"), "{}", relay.log());
    }
    let slot = &setting.database;
    setting
        .sql(&format!("UPDATE pgoutbox.progress SET coverage = NULL WHERE slot = '{slot}'"))
        .await?;
    let relay = setting.run()?;
    setting.insert(counted(5..=6).of("one")).await?;
    wait_until("the rest", PATIENCE, async || Ok(came(&consumer) == [1, 2, 3, 5, 6]))
        .await
        .with_context(|| format!("{:?}\n{}", came(&consumer), relay.log()))?;
    relay.drain(PATIENCE).await?;
    // A new slot of its own making is none that somebody moved.
    setting.sql(&format!("SELECT pg_drop_replication_slot('{slot}')")).await?;
    setting.insert(counted(7..=7).of("one")).await?;
    setting.init().await?;
    let relay = setting.run()?;
    setting.insert(counted(8..=9).of("one")).await?;
    wait_until("the rest", PATIENCE, async || Ok(came(&consumer) == [1, 2, 3, 5, 6, 8, 9]))
        .await
        .with_context(|| format!("{:?}\n{}", came(&consumer), relay.log()))?;
    relay.drain(PATIENCE).await
}

/// What is acknowledged was recorded before, whatever moved the slot on.
#[tokio::test]
async fn a_relay_that_is_killed_leaves_no_gap_behind() -> Result<()> {
    for mode in ["update", "none"] {
        let setting = Setting::shared().await?.set("audit.mode", mode);
        setting.sql("CREATE TABLE busy (filler text)").await?;
        let consumer = setting.consumer().await?;
        let client = setting.client().await?;
        let mut last = 0;
        for round in 0..4 {
            let relay = setting.run()?;
            setting.insert(counted(last + 1..=last + 3).of("one")).await?;
            last += 3;
            all_came(&consumer, &relay, last).await?;
            // Keepalives alone move it on.
            let moved = |lsn: String| {
                format!(
                    "SELECT confirmed_flush_lsn >= '{lsn}' FROM pg_replication_slots
                      WHERE slot_name = current_database()"
                )
            };
            for _ in 0..=round {
                client.batch_execute("INSERT INTO busy SELECT repeat('x', 900)").await?;
                let lsn = setting.ask("SELECT pg_current_wal_insert_lsn()::text").await?;
                client.batch_execute("INSERT INTO busy SELECT repeat('x', 900)").await?;
                setting
                    .until("the slot to move on", &moved(lsn))
                    .await
                    .with_context(|| relay.log())?;
            }
            relay.kill9().await?;
            idle_slot(&setting).await?;
            assert!(!relay.log().contains(SAYS), "{mode}: {}", relay.log());
        }
    }
    Ok(())
}

/// A copy of the data directory, taken while the server is down.
pub fn copy(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    anyhow::ensure!(status.success(), "cp: {status}");
    Ok(())
}

pub async fn stop(postgres: &Postgres) -> Result<()> {
    postgres.stop(Shutdown::Immediate, Duration::from_secs(20)).await.map(|_| ())
}

/// The same system and timeline, and the LSN went back; once before anybody wrote more than was
/// there, and once after.
#[tokio::test]
async fn postgres_is_restored_from_a_copy_while_the_relay_lives() -> Result<()> {
    let (postgres, setting) = Setting::own_postgres().await?;
    let setting = setting.set("session.backoff_max", "300ms");
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    setting.insert(counted(1..=5).of("one")).await?;
    all_came(&consumer, &relay, 5).await?;
    setting.all_marked().await?;
    relay.sigstop()?;
    stop(&postgres).await?;
    let backup = postgres.data().with_extension("copy");
    copy(&postgres.data(), &backup)?;
    for is_passed in [false, true] {
        postgres.start_again().await?;
        relay.sigcont()?;
        let before = came(&consumer).len();
        // Of a history that will be gone.
        setting.insert(counted(1_000..=1_100).of("one")).await?;
        let more = before + if is_passed { 0 } else { 101 };
        wait_until("these", PATIENCE, async || Ok(came(&consumer).len() >= more))
            .await
            .with_context(|| relay.log())?;
        setting.all_marked().await.with_context(|| relay.log())?;
        relay.sigstop()?;
        stop(&postgres).await?;
        std::fs::remove_dir_all(postgres.data())?;
        copy(&backup, &postgres.data())?;
        postgres.start_again().await?;
        if is_passed {
            let filler =
                "CREATE TABLE filler AS SELECT repeat('x', 500) FROM generate_series(1, 3000)";
            setting.sql(filler).await?;
        }
        let (from, to) = if is_passed { (2_000, 2_050) } else { (6, 60) };
        setting.insert(counted(from..=to).of("one")).await?;
        relay.sigcont()?;
        wait_until("the new ones", PATIENCE, async || {
            let numbers = came(&consumer);
            Ok((from..=to).all(|number| numbers.contains(&number)))
        })
        .await
        .with_context(|| relay.log())?;
        setting.all_marked().await?;
        relay.sigstop()?;
        stop(&postgres).await?;
    }
    assert!(relay.log().contains("restored from a copy"), "{}", relay.log());
    Ok(())
}

/// A row that is ahead of its server is of another history.
#[tokio::test]
async fn a_progress_row_ahead_of_the_server_does_not_count() -> Result<()> {
    let setting = Setting::shared().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    setting.insert(counted(1..=3).of("one")).await?;
    all_came(&consumer, &relay, 3).await?;
    setting.all_marked().await?;
    relay.drain(PATIENCE).await?;
    setting.sql("UPDATE pgoutbox.progress SET end_lsn = 'FFFF/0', commit_lsn = NULL").await?;
    let relay = setting.run()?;
    setting.insert(counted(4..=6).of("one")).await?;
    all_came(&consumer, &relay, 6).await?;
    setting.all_marked().await?;
    relay.drain(PATIENCE).await?;
    let is_back = "SELECT end_lsn <= pg_current_wal_insert_lsn() FROM pgoutbox.progress";
    assert!(setting.ask::<bool>(is_back).await?, "the row is still ahead");
    Ok(())
}

/// What the slot holds is passed up to where the rows that passed by were listed, before these are published, however long that takes:
/// meanwhile no row is delivered, and whoever asks is told why.
#[tokio::test]
async fn while_the_stream_is_passed_it_is_said() -> Result<()> {
    let setting = Scenario::with(&[
        ("tables.0.name", "outbox_messages"),
        ("messages.0.prefix", "orders"),
        ("postgres.on_slot_loss", "catch_up"),
    ]);
    let setting = setting.setting().await?;
    let consumer = setting.consumer().await?;
    let proxy = Proxy::start(shared::rabbitmq().await?.port()).await?;
    let relay = setting.run()?;
    setting.insert(counted(1..=3).of("one")).await?;
    all_came(&consumer, &relay, 3).await?;
    setting.all_marked().await?;
    relay.drain(PATIENCE).await?;
    setting.sql("ALTER PUBLICATION pgoutbox DROP TABLE outbox_messages").await?;
    setting.insert(counted(4..=4).of("one")).await?;
    setting.sql("ALTER PUBLICATION pgoutbox ADD TABLE outbox_messages").await?;
    setting.insert(counted(5..=9).of("one")).await?;
    setting.sql("SELECT pgoutbox.emit('orders', jsonb '{}', topic => 'm', id => 'm')").await?;
    // The list waits for it.
    let writer = setting.client().await?;
    writer.batch_execute("BEGIN; SELECT pg_current_xact_id()").await?;
    let relay = setting.clone().set("amqp.url", &proxy.url(&setting.amqp_url)).run()?;
    let address = relay.http(PATIENCE).await?;
    relay.wait_for_log(SAYS, PATIENCE).await?;
    // The message is not confirmed.
    proxy.stall(Direction::Down);
    writer.batch_execute("COMMIT").await?;
    wait_until("it to be told", PATIENCE, async || {
        let ready = get(address, "/readyz").await?;
        Ok(ready.body.contains("catching_up") && ready.body.contains("in which rows are missing"))
    })
    .await
    .with_context(|| relay.log())?;
    let status = get(address, "/status").await?.body;
    assert!(status.contains("\"catching_up\""), "{status}");
    assert_eq!(came(&consumer), [1, 2, 3]);
    proxy.resume(Direction::Down);
    all_came(&consumer, &relay, 9).await?;
    relay.drain(PATIENCE).await
}

/// A publication of all tables lets one be unlogged for a while: what is inserted then is in no WAL. It is caught up
/// with, also where no relay ran; other ways to write a table anew are none to list it.
#[tokio::test]
async fn what_was_inserted_while_a_table_was_unlogged_is_caught_up_with() -> Result<()> {
    let setting = Setting::bare().await?.set("postgres.check_interval", "100ms");
    let setting = setting.set("session.backoff_max", "300ms");
    let all = "CREATE PUBLICATION pgoutbox FOR ALL TABLES WITH (publish = 'insert')";
    setting.sql(all).await?;
    setting.init().await?;
    let consumer = setting.bound("t").await?;
    let relay = setting.run()?;
    setting.insert(counted(1..=3)).await?;
    all_came(&consumer, &relay, 3).await?;
    let at_once = |n: i64| {
        format!(
            "BEGIN; ALTER TABLE outbox_messages SET UNLOGGED;
             INSERT INTO outbox_messages (topic, payload) VALUES ('t', '{{\"n\": {n}}}');
             ALTER TABLE outbox_messages SET LOGGED; COMMIT"
        )
    };
    setting.sql(&at_once(4)).await?;
    setting.insert(counted(5..=6)).await?;
    consumer.wait_distinct(6, PATIENCE).await.with_context(|| relay.log())?;
    setting.all_marked().await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await?;
    setting.sql("ALTER TABLE outbox_messages SET UNLOGGED").await?;
    setting.insert(counted(7..=8)).await?;
    setting.sql("ALTER TABLE outbox_messages SET LOGGED").await?;
    // It hides which transaction that was.
    setting.sql("GRANT SELECT ON outbox_messages TO pg_monitor").await?;
    let relay = setting.run()?;
    consumer.wait_distinct(8, PATIENCE).await.with_context(|| relay.log())?;
    setting.all_marked().await.with_context(|| relay.log())?;
    assert_eq!(relay.log().matches(SAYS).count(), 1, "{}", relay.log());
    // Whatever the look meets, nothing else stops, and it looks again.
    let ended = relay.log().matches("session ended").count();
    setting.sql("ALTER FUNCTION pgoutbox.is_record_of RENAME TO away").await?;
    setting.sql("VACUUM FULL outbox_messages").await?;
    relay.wait_for_log("rows that no stream brings cannot be seen", PATIENCE).await?;
    setting.sql("ALTER FUNCTION pgoutbox.away RENAME TO is_record_of").await?;
    assert_eq!(relay.log().matches("session ended").count(), ended, "{}", relay.log());
    for other in [
        "VACUUM FULL outbox_messages",
        "CLUSTER outbox_messages USING outbox_messages_pkey",
        "ALTER TABLE outbox_messages ALTER COLUMN event_type TYPE varchar(300)",
        "ALTER TABLE outbox_messages ADD COLUMN noise float DEFAULT random()",
    ] {
        setting.insert(counted(9..=12)).await?;
        setting.sql(other).await.with_context(|| other)?;
    }
    consumer.wait_distinct(12, PATIENCE).await.with_context(|| relay.log())?;
    setting.all_marked().await.with_context(|| relay.log())?;
    setting.is_acknowledged(&relay).await?;
    assert_eq!(relay.log().matches(SAYS).count(), 1, "{}", relay.log());
    relay.drain(PATIENCE).await
}
