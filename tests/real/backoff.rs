//! The pause between sessions: it grows while nothing comes on, and only then.

use anyhow::{Context, Result};
use harness::relay::Relay;

use crate::setting::{PATIENCE, Setting};

/// The pauses after failed sessions that the log tells, in milliseconds, in order.
fn pauses(relay: &Relay) -> Vec<u32> {
    let log = relay.log();
    let told = log.lines().filter_map(|line| line.split("again_in=").nth(1));
    let told = told.filter_map(|rest| rest.trim_start_matches('"').split("ms").next());
    told.filter_map(|number| number.parse().ok()).collect()
}

async fn failed(relay: &Relay, times: usize) -> Result<Vec<u32>> {
    harness::wait_until("failed sessions", PATIENCE, async || Ok(pauses(relay).len() >= times))
        .await
        .with_context(|| relay.log())?;
    Ok(pauses(relay))
}

/// A firewall that forgets idle connections, say.
#[tokio::test]
async fn an_idle_relay_that_is_cut_now_and_then_comes_back_at_once() -> Result<()> {
    let mut setting = Setting::shared().await?.set("log.level", "debug");
    setting.env("PGOUTBOX_SESSION__BACKOFF_MAX", "300ms");
    let relay = setting.run()?;
    let stream = "FROM pg_stat_replication AS stream JOIN pg_replication_slots AS slot
            ON slot.active_pid = stream.pid AND slot.slot_name = current_database()
         WHERE clock_timestamp() - backend_start > '400 ms'";
    for times in 1..=5 {
        setting
            .until("a session of some length", &format!("SELECT EXISTS (SELECT {stream})"))
            .await
            .with_context(|| relay.log())?;
        setting.sql(&format!("SELECT pg_terminate_backend(stream.pid) {stream}")).await?;
        let pauses = failed(&relay, times).await?;
        assert!(pauses.iter().all(|pause| *pause <= 100), "{pauses:?}\n{}", relay.log());
    }
    relay.drain(PATIENCE).await
}

/// Something is delivered in each session, and nothing is ever acknowledged.
#[tokio::test]
async fn the_pause_grows_while_nothing_is_acknowledged() -> Result<()> {
    let mut setting = Setting::shared().await?.set("log.level", "debug");
    setting.env("PGOUTBOX_SESSION__BACKOFF_MAX", "60s");
    setting.env("PGOUTBOX_SESSION__BACKOFF_MIN", "20ms");
    setting
        .sql(
            "CREATE FUNCTION fatal() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END';
             CREATE TRIGGER fatal BEFORE UPDATE ON outbox_messages FOR EACH ROW EXECUTE FUNCTION fatal()",
        )
        .await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    for times in 1..=5 {
        setting.sql("INSERT INTO outbox_messages (topic, payload) VALUES ('t', '{}')").await?;
        failed(&relay, times).await?;
    }
    let pauses = failed(&relay, 5).await?;
    assert!(pauses.last() >= Some(&160), "{pauses:?}\n{}", relay.log());
    assert!(consumer.distinct() >= 3, "each session delivered something");
    setting.sql("DROP TRIGGER fatal ON outbox_messages").await?;
    setting.all_marked().await?;
    relay.drain(PATIENCE).await
}

/// The walsender decodes a transaction for longer than the longest pause, and each time it is cut. Nothing waits in
/// the relay meanwhile, and nothing comes on.
#[tokio::test]
async fn a_session_whose_server_decodes_brings_nothing_on() -> Result<()> {
    let (_postgres, setting) = Setting::own_postgres().await?;
    if setting.ask::<i32>("SELECT current_setting('server_version_num')::int").await? < 150_000 {
        // Row filters are from 15 on.
        return Ok(());
    }
    let mut setting = setting.set("log.level", "debug");
    setting.env("PGOUTBOX_SESSION__BACKOFF_MIN", "10ms");
    setting.env("PGOUTBOX_SESSION__BACKOFF_MAX", "320ms");
    // Some milliseconds for each row, which is kept back then.
    setting
        .sql("ALTER PUBLICATION pgoutbox SET TABLE outbox_messages WHERE (length(repeat(topic, 5000000)) > 0 AND topic <> 'slow')")
        .await?;
    setting.sql("SELECT pg_drop_replication_slot(current_database())").await?;
    setting.init().await?;
    let relay = setting.run()?;
    relay.reaches("running", PATIENCE).await?;
    setting
        .sql("INSERT INTO outbox_messages (topic, payload) SELECT 'slow', '{}' FROM generate_series(1, 2000)")
        .await?;
    // Again and again: one that is cut before it has the slot has not failed.
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_replication
                WHERE clock_timestamp() - backend_start > '600 ms'";
    // Some WAL before the end of that transaction may come on, once: then it grows from the beginning.
    for times in 1..=12 {
        harness::wait_until("a session that fails", PATIENCE, async || {
            setting.sql(cut).await?;
            Ok(pauses(&relay).len() >= times)
        })
        .await
        .with_context(|| relay.log())?;
        if pauses(&relay).last() >= Some(&80) {
            return Ok(());
        }
    }
    anyhow::bail!("the pause does not grow: {:?}\n{}", pauses(&relay), relay.log())
}
