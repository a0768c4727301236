//! The name that a stream knows events by, and when there is another.

use anyhow::{Context, Result};
use harness::events::events;
use harness::stream;

use super::{STREAM, in_commit_order, repeats};
use crate::setting::{PATIENCE, Setting, text};

/// The name under which the relay of a setting publishes.
async fn name(setting: &Setting) -> Result<String> {
    let name =
        "SELECT concat_ws('/', 'pgoutbox', slot, system_identifier, timeline, publishing_epoch)
                  FROM pgoutbox.progress";
    setting.ask(name).await
}

/// Somebody publishes under our name, from a copy of the database, say: what is below is dropped and
/// confirmed, so the relay stops instead of losing it. Under another name it goes on.
#[tokio::test]
async fn somebody_else_has_the_name() -> Result<()> {
    let (rabbitmq, setting) = Setting::streaming(STREAM).await?;
    let relay = setting.run()?;
    setting.insert(events(1..=20, "good").each()).await?;
    setting.all_marked().await.with_context(|| relay.log())?;
    let (port, vhost, taken) = (rabbitmq.stream_port(), &setting.vhost, name(&setting).await?);
    stream::publish_as(port, vhost, STREAM, &taken, u64::MAX >> 2).await?;
    setting.insert(events(21..=40, "good").each()).await?;
    let ended = relay.wait_exit(PATIENCE).await.with_context(|| relay.log())?;
    assert_eq!(ended.code(), Some(1), "{}", relay.log());
    relay.wait_for_log("somebody else publishes to stream", PATIENCE).await?;
    // A new one sees it before it publishes anything.
    let again = setting.run()?;
    let ended = again.wait_exit(PATIENCE).await.with_context(|| again.log())?;
    assert_eq!(ended.code(), Some(1), "{}", again.log());
    // As its hint says.
    setting.sql("UPDATE pgoutbox.progress SET publishing_epoch = NULL").await?;
    let relay = setting.run()?;
    setting.insert(events(41..=60, "good").each()).await?;
    setting.all_marked().await.with_context(|| relay.log())?;
    assert_ne!(name(&setting).await?, taken);
    let held = stream::kept(stream::read(&setting.amqp_url, STREAM).await?);
    let last = crate::setting::uuid(60);
    assert!(held.iter().any(|delivery| crate::setting::id(delivery) == last));
    relay.drain(PATIENCE).await?;
    Ok(())
}

/// The name outlives the process, and not the row: then nobody knows what was sent under it.
#[tokio::test]
async fn a_name_is_kept_with_the_row() -> Result<()> {
    let (_rabbitmq, setting) = Setting::streaming(STREAM).await?;
    let relay = setting.run()?;
    setting.insert(events(1..=5, "good")).await?;
    setting.all_marked().await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await?;
    let first = name(&setting).await?;
    let relay = setting.run()?;
    setting.insert(events(6..=9, "good")).await?;
    setting.all_marked().await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await?;
    assert_eq!(name(&setting).await?, first);
    let held = stream::kept(stream::read(&setting.amqp_url, STREAM).await?);
    in_commit_order(&held)?;
    assert_eq!((held.len(), repeats(&held).len()), (9, 0));
    Ok(())
}

/// What is sent once more on purpose is there once more.
#[tokio::test]
async fn a_replay_has_no_name() -> Result<()> {
    let (_rabbitmq, setting) = Setting::streaming(STREAM).await?;
    let relay = setting.run()?;
    setting.insert(events(1..=5, "good")).await?;
    setting.all_marked().await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await?;
    for copies in [2, 3] {
        setting.program.succeed(&["replay", "--all"]).await?;
        let held = stream::kept(stream::read(&setting.amqp_url, STREAM).await?);
        assert!(repeats(&held).values().all(|count| *count == copies), "{:?}", repeats(&held));
        assert_eq!(held.len(), 5 * copies);
    }
    let held = stream::kept(stream::read(&setting.amqp_url, STREAM).await?);
    let replayed = held.iter().filter(|it| it.header("pgoutbox-replayed").is_some());
    assert_eq!(replayed.count(), 10);
    assert!(held.iter().take(5).all(|it| text(it, "pgoutbox-commit-lsn").is_some()));
    Ok(())
}

/// Rows that were there before the slot are on a list, which has no ids: they come before the stream.
#[tokio::test]
async fn a_list_comes_before_the_stream() -> Result<()> {
    let (_rabbitmq, setting) = Setting::streaming(STREAM).await?;
    let relay = setting.run()?;
    setting.insert(events(1..=5, "good").each()).await?;
    setting.all_marked().await.with_context(|| relay.log())?;
    let before = name(&setting).await?;
    relay.drain(PATIENCE).await?;
    let drop = format!("SELECT pg_drop_replication_slot('{}')", setting.database);
    setting.sql(&drop).await?;
    setting.insert(events(6..=15, "good").each()).await?;
    let relay = setting.run()?;
    setting.all_marked().await.with_context(|| relay.log())?;
    setting.insert(events(16..=25, "good").each()).await?;
    setting.all_marked().await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await?;
    let held = stream::kept(stream::read(&setting.amqp_url, STREAM).await?);
    assert_eq!((held.len(), repeats(&held).len()), (25, 0), "{before}\n{}", relay.log());
    in_commit_order(&held)?;
    Ok(())
}
