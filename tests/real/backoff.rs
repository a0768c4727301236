//! The pause between sessions: it grows while nothing comes on, and only then.

use anyhow::{Context, Result};
use harness::relay::Relay;

use crate::setting::{PATIENCE, Setting};

/// The counts of failed sessions that the log tells, in order.
fn failures(relay: &Relay) -> Vec<u32> {
    let log = relay.log();
    let told = log.lines().filter_map(|line| line.split("failures=").nth(1));
    told.filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()).collect()
}

async fn failed(relay: &Relay, times: usize) -> Result<Vec<u32>> {
    harness::wait_until("failed sessions", PATIENCE, async || Ok(failures(relay).len() >= times))
        .await
        .with_context(|| relay.log())?;
    Ok(failures(relay))
}

/// A firewall that forgets idle connections, say.
#[tokio::test]
async fn an_idle_relay_that_is_cut_now_and_then_comes_back_at_once() -> Result<()> {
    let mut setting = Setting::shared().await?;
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
        let failures = failed(&relay, times).await?;
        assert!(failures.iter().all(|failures| *failures == 1), "{failures:?}\n{}", relay.log());
    }
    relay.drain(PATIENCE).await
}

/// Something is delivered in each session, and nothing is ever acknowledged.
#[tokio::test]
async fn the_pause_grows_while_nothing_is_acknowledged() -> Result<()> {
    let mut setting = Setting::shared().await?;
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
    let all = failed(&relay, 5).await?;
    assert!(all.starts_with(&[1, 2, 3, 4, 5]), "{all:?}\n{}", relay.log());
    assert!(consumer.distinct() >= 3, "each session delivered something");
    setting.sql("DROP TRIGGER fatal ON outbox_messages").await?;
    setting.all_marked().await?;
    relay.drain(PATIENCE).await
}
