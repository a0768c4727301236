//! Postgres is restored from a copy of its files, close behind, of the same system and timeline: other events
//! come to have publishing ids that the stream has.

use anyhow::{Context, Result};
use harness::events::counted;
use harness::postgres::{Postgres, Shutdown};
use harness::relay::Relay;
use harness::stream;
use harness::wait_until;

use super::{STREAM, repeats};
use crate::gaps::{copy, stop};
use crate::setting::{PATIENCE, Setting};

/// Which of the events is in the stream, by its number.
async fn held(setting: &Setting) -> Result<Vec<i64>> {
    let held = stream::read(&setting.amqp_url, STREAM).await?;
    held.iter()
        .map(|raw| {
            let body: serde_json::Value = serde_json::from_slice(&raw.data)?;
            body.get("n").and_then(serde_json::Value::as_i64).context("no number")
        })
        .collect()
}

/// All of these are there, and marked.
async fn all_there(setting: &Setting, relay: &Relay, wanted: &[i64]) -> Result<()> {
    setting.all_marked().await.with_context(|| relay.log())?;
    let held = held(setting).await?;
    let lost: Vec<i64> = wanted.iter().copied().filter(|number| !held.contains(number)).collect();
    anyhow::ensure!(lost.is_empty(), "marked, and not in the stream: {lost:?}\n{}", relay.log());
    Ok(())
}

/// The copy is put in place of what the server has by now, and started.
async fn restore(postgres: &Postgres, backup: &std::path::Path) -> Result<()> {
    stop(postgres).await?;
    std::fs::remove_dir_all(postgres.data())?;
    copy(backup, &postgres.data())?;
    postgres.start_again().await
}

/// The relay is started on the copy, which has come past what was lost by then or not; or lives through all of it.
#[tokio::test]
async fn new_events_of_a_restored_copy_are_not_dropped() -> Result<()> {
    // The relay lives; how many are new; whether Postgres is started once more before the relay sees it.
    let forms = [(false, 20, false), (false, 60, false), (false, 200, true), (true, 60, false)];
    for (is_living, new, is_started_twice) in forms {
        let (postgres, _rabbitmq, setting) = Setting::streaming_from_own_postgres(STREAM).await?;
        let setting = setting.set("session.backoff_max", "300ms");
        let relay = setting.run()?;
        setting.insert(counted(1..=20).of("one").each()).await?;
        setting.all_marked().await.with_context(|| relay.log())?;
        relay.sigstop()?;
        stop(&postgres).await?;
        let backup = postgres.data().with_extension("copy");
        copy(&postgres.data(), &backup)?;
        postgres.start_again().await?;
        relay.sigcont()?;
        // Of a history that will be gone.
        setting.insert(counted(1_001..=1_100).of("one").each()).await?;
        setting.all_marked().await.with_context(|| relay.log())?;
        match is_living {
            true => relay.sigstop()?,
            false => relay.kill9().await?,
        }
        restore(&postgres, &backup).await?;
        setting.insert(counted(2_001..=2_000 + new).of("one").each()).await?;
        if is_started_twice {
            postgres.stop(Shutdown::Fast, PATIENCE).await?;
            postgres.start_again().await?;
        }
        let relay = match is_living {
            true => relay,
            false => setting.run()?,
        };
        if is_living {
            relay.sigcont()?;
        }
        setting.insert(counted(3_001..=3_020).of("one").each()).await?;
        let wanted: Vec<i64> = (1..=20).chain(2_001..=2_000 + new).chain(3_001..=3_020).collect();
        let form = format!("living {is_living}, {new} new, twice {is_started_twice}");
        all_there(&setting, &relay, &wanted).await.context(form)?;
        relay.drain(PATIENCE).await?;
    }
    Ok(())
}

/// Where Postgres is what it was, a start of it costs no repeat: the last event of the stream is found in its WAL.
/// Once nothing is in flight, the name is another after a start, so that nobody else has it.
#[tokio::test]
async fn a_start_of_postgres_costs_no_repeat() -> Result<()> {
    const ROWS: i64 = 5_000;
    let (postgres, _rabbitmq, setting) = Setting::streaming_from_own_postgres(STREAM).await?;
    let setting = setting.set("session.backoff_max", "300ms").set("log.level", "debug");
    let name = "SELECT publishing_epoch FROM pgoutbox.progress";
    let relay = setting.run()?;
    relay.reaches("running", PATIENCE).await?;
    let first: i64 = setting.ask(name).await?;
    // Nothing of what is delivered can be recorded.
    let lock = setting.client().await?;
    lock.batch_execute("BEGIN; LOCK TABLE pgoutbox.progress IN SHARE MODE").await?;
    setting.insert(counted(1..=ROWS).of("one")).await?;
    wait_until("events in the stream", PATIENCE, async || Ok(!held(&setting).await?.is_empty()))
        .await
        .with_context(|| relay.log())?;
    relay.kill9().await?;
    stop(&postgres).await?;
    postgres.start_again().await?;
    let relay = setting.run()?;
    setting.all_marked().await.with_context(|| relay.log())?;
    relay.wait_for_log("is_met=true", PATIENCE).await?;
    let held = stream::kept(stream::read(&setting.amqp_url, STREAM).await?);
    assert_eq!((held.len(), repeats(&held).len()), (5_000, 0), "{}", relay.log());
    assert_eq!(setting.ask::<i64>(name).await?, first);
    relay.drain(PATIENCE).await?;
    postgres.stop(Shutdown::Fast, PATIENCE).await?;
    postgres.start_again().await?;
    let relay = setting.run()?;
    relay.reaches("running", PATIENCE).await?;
    assert_ne!(setting.ask::<i64>(name).await?, first);
    setting.insert(counted(ROWS + 1..=ROWS + 20).of("one").each()).await?;
    setting.all_marked().await.with_context(|| relay.log())?;
    let held = stream::kept(stream::read(&setting.amqp_url, STREAM).await?);
    assert_eq!((held.len(), repeats(&held).len()), (5_020, 0), "{}", relay.log());
    relay.drain(PATIENCE).await
}

/// After a failover the ids are of another timeline, and so is the name: what was not settled comes again, and nothing
/// is lost.
#[tokio::test]
async fn what_is_unsettled_comes_again_after_a_failover() -> Result<()> {
    let (primary, _rabbitmq, setting) = Setting::streaming_from_own_postgres(STREAM).await?;
    let standby = primary.standby(&[]).await?;
    let relay = setting.run()?;
    setting.insert(counted(1..=20).of("one").each()).await?;
    setting.all_marked().await.with_context(|| relay.log())?;
    // What is delivered from here on gets no mark.
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$;
        CREATE TRIGGER refuse BEFORE UPDATE ON outbox_messages FOR EACH ROW EXECUTE FUNCTION refuse()";
    setting.client().await?.batch_execute(refuse).await?;
    setting.insert(counted(21..=40).of("one").each()).await?;
    wait_until("events in the stream", PATIENCE, async || Ok(held(&setting).await?.len() >= 40))
        .await
        .with_context(|| relay.log())?;
    let on_standby = standby.connect(&setting.database).await?;
    wait_until("the standby to have them", PATIENCE, async || {
        let count = "SELECT count(*) FROM outbox_messages";
        Ok(on_standby.query_one(count, &[]).await?.try_get::<_, i64>(0)? == 40)
    })
    .await?;
    relay.kill9().await?;
    stop(&primary).await?;
    standby.promote().await?;
    let url = standby.url(&setting.database);
    let mut setting = Setting { database_url: url.clone(), ..setting };
    setting.env("DATABASE_URL", &url);
    setting.sql("DROP TRIGGER refuse ON outbox_messages").await?;
    let relay = setting.run()?;
    setting.insert(counted(41..=60).of("one").each()).await?;
    all_there(&setting, &relay, &(1..=60).collect::<Vec<_>>()).await?;
    let timeline: i32 = setting.ask("SELECT timeline FROM pgoutbox.progress").await?;
    assert_eq!(timeline, 2);
    let mut held = held(&setting).await?;
    held.retain(|number| (21..=40).contains(number));
    assert_eq!(held.len(), 40, "each of them twice: {held:?}\n{}", relay.log());
    relay.drain(PATIENCE).await
}
