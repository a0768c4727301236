//! The name that a stream knows events by, and when there is another.

use anyhow::{Context, Result};
use harness::events::events;
use harness::http::get;
use harness::proxy::{Direction, Proxy};
use harness::stream;
use harness::wait_until;

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

/// A relay that was cut off from its server sees, when it is heard of again, what the one that took the slot over
/// has published under the same name. It is the standby then, and nobody's fault.
#[tokio::test]
async fn a_leader_that_was_cut_off_becomes_the_standby() -> Result<()> {
    let (rabbitmq, setting) = Setting::streaming(STREAM).await?;
    let setting = setting.set("postgres.wal_sender_timeout", "1s");
    let port = setting.database_url.rsplit(':').next().and_then(|rest| rest.split('/').next());
    let (of_slot, of_stream) = tokio::try_join!(
        Proxy::start(port.context("a port")?.parse()?),
        Proxy::start(rabbitmq.stream_port())
    )?;
    let behind = setting
        .clone()
        .set("postgres.stream_url", &of_slot.url(&setting.database_url))
        .set("amqp.stream_port", &of_stream.port().to_string());
    let leader = behind.run()?;
    leader.reaches("running", PATIENCE).await?;
    let standby = setting.run()?;
    standby.reaches("standby", PATIENCE).await?;
    let address = leader.http(PATIENCE).await?;
    of_stream.stall(Direction::Up);
    setting.insert(events(1..=20, "good").each()).await?;
    wait_until("messages on their way", PATIENCE, async || {
        let metrics = get(address, "/metrics").await?.body;
        Ok(metrics.contains("\npgoutbox_window_messages 20\n"))
    })
    .await?;
    of_slot.stall(Direction::Up);
    of_slot.stall(Direction::Down);
    standby.reaches("running", PATIENCE).await?;
    // Far above all that the leader can know of.
    setting.sql("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1000000))").await?;
    setting.insert(events(21..=40, "good").each()).await?;
    setting.all_marked().await.with_context(|| standby.log())?;
    of_stream.resume(Direction::Up);
    // Whichever it sees first, the ids, the silence of the server or the row that is not its own any more.
    of_slot.resume(Direction::Up);
    of_slot.resume(Direction::Down);
    leader.reaches("standby", PATIENCE).await.with_context(|| leader.log())?;
    standby.drain(PATIENCE).await?;
    leader.reaches("running", PATIENCE).await.with_context(|| leader.log())?;
    setting.insert(events(41..=60, "good").each()).await?;
    setting.all_marked().await.with_context(|| leader.log())?;
    leader.drain(PATIENCE).await?;
    let held = stream::kept(stream::read(&setting.amqp_url, STREAM).await?);
    assert_eq!((held.len(), repeats(&held).len()), (60, 0), "{}", leader.log());
    in_commit_order(&held)
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

/// A transaction that is counted otherwise, since no messages are read any more, has other ids when it comes
/// again: under the name of before the stream would drop its rows, whose ids the messages had.
#[tokio::test]
async fn another_name_where_events_are_counted_otherwise() -> Result<()> {
    const ROWS: usize = 300;
    let (_rabbitmq, setting) = Setting::streaming(STREAM).await?;
    let setting = setting.set("window.messages", "200");
    let with_messages = setting
        .clone()
        .set("messages.0.prefix", "p")
        .set("messages.0.sink", "stream")
        .set("messages.0.stream", STREAM);
    let relay = with_messages.run()?;
    relay.reaches("running", PATIENCE).await?;
    let before = name(&setting).await?;
    // Nothing of what is delivered can be recorded.
    let lock = setting.client().await?;
    lock.batch_execute("BEGIN; LOCK TABLE pgoutbox.progress IN SHARE MODE").await?;
    let transaction = format!(
        r#"BEGIN;
           SELECT count(pg_logical_emit_message(true, 'p', format('{{"id": "m-%s", "topic": "good", "payload": {{}}}}', n)))
             FROM generate_series(1, 2000) AS n;
           INSERT INTO outbox_messages (topic, payload) SELECT 'good', '{{}}' FROM generate_series(1, {ROWS});
           COMMIT"#
    );
    setting.client().await?.batch_execute(&transaction).await?;
    wait_until("messages in the stream", PATIENCE, async || {
        Ok(stream::read(&setting.amqp_url, STREAM).await?.len() >= 200)
    })
    .await
    .with_context(|| relay.log())?;
    relay.kill9().await?;
    // Else what it had asked for is done once the lock is gone.
    let end = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name LIKE 'pgoutbox%'";
    setting.sql(end).await?;
    lock.batch_execute("ROLLBACK").await?;
    let relay = setting.run()?;
    setting.all_marked().await.with_context(|| relay.log())?;
    assert_ne!(name(&setting).await?, before);
    relay.drain(PATIENCE).await?;
    let held = stream::kept(stream::read(&setting.amqp_url, STREAM).await?);
    let rows = held.iter().filter(|it| !crate::setting::id(it).starts_with("m-"));
    assert_eq!(rows.count(), ROWS, "{}", relay.log());
    Ok(())
}

/// A prefix is taken out of the settings in the middle of a transaction that reaches into the room of the next one: what
/// is no event any more keeps its ids, and the rows behind it are not taken for it.
#[tokio::test]
async fn ids_do_not_depend_on_the_prefixes_that_are_configured() -> Result<()> {
    const ROWS: usize = 3_000;
    let (_rabbitmq, setting) = Setting::streaming(STREAM).await?;
    let setting = setting.set("messages.0.prefix", "kept");
    let setting = setting.set("messages.0.sink", "stream").set("messages.0.stream", STREAM);
    let with_both = setting.clone().set("messages.1.prefix", "gone");
    let with_both = with_both.set("messages.1.sink", "stream").set("messages.1.stream", STREAM);
    let relay = with_both.run()?;
    relay.reaches("running", PATIENCE).await?;
    let rows = setting.client().await?;
    let insert = format!(
        "BEGIN; INSERT INTO outbox_messages (topic, payload) SELECT 'good', '{{}}' FROM generate_series(1, {ROWS})"
    );
    rows.batch_execute(&insert).await?;
    let emit = |prefix: &str, count: usize| {
        format!(
            r#"SELECT count(pg_logical_emit_message(true, '{prefix}', format('{{"id": "{prefix}-%s", "topic": "good", "payload": {{}}}}', n)))
                 FROM generate_series(1, {count}) AS n"#
        )
    };
    let (kept, gone) = (emit("kept", 20_000), emit("gone", 40_000));
    let messages = setting.client().await?;
    messages.batch_execute(&format!("BEGIN; {kept}; {gone}")).await?;
    messages.batch_execute("COMMIT").await?;
    rows.batch_execute("COMMIT").await?;
    let within = "SELECT settled > 24000 FROM pgoutbox.progress";
    setting.until("messages that will be gone", within).await.with_context(|| relay.log())?;
    relay.kill9().await?;
    let settled: i64 = setting.ask("SELECT settled FROM pgoutbox.progress").await?;
    assert!((24_001..60_000).contains(&settled), "killed too late: {settled}");
    let relay = setting.run()?;
    setting.all_marked().await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await?;
    let held = stream::kept(stream::read(&setting.amqp_url, STREAM).await?);
    let of_rows = held.iter().filter(|it| {
        let id = crate::setting::id(it);
        !id.starts_with("kept-") && !id.starts_with("gone-")
    });
    assert_eq!(of_rows.count(), ROWS, "{}", relay.log());
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
