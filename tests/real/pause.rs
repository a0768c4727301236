//! An operator pauses the relay, and resumes it.

use anyhow::Result;
use harness::events::event;
use harness::http::request;
use harness::wait_until;

use crate::bare::{arrived, ids, uuid};
use crate::setting::{PATIENCE, Setting};

#[tokio::test]
async fn a_paused_relay_publishes_nothing_until_it_is_resumed() -> Result<()> {
    let setting = Setting::bare().await?;
    setting.init().await?;
    let consumer = setting.bound("#").await?;
    let relay = setting.run()?;
    setting.insert(event(1, "good").of("a")).await?;
    arrived(&consumer, 1).await?;

    let said = setting.program.succeed(&["pause", "--note", "migration"]).await?;
    assert!(said.contains("pgoutbox resume"), "{said}");
    relay.reaches("paused", PATIENCE).await?;
    setting.insert(event(2, "good").of("a")).await?;
    // What is in flight is finished, and it can be stopped.
    relay.drain(PATIENCE).await?;

    // It is the slot's pause, not the process's.
    let relay = setting.run()?;
    let log = relay.wait_for_log("paused by", PATIENCE).await?;
    assert!(log.contains("migration"), "{log}");
    setting.insert(event(3, "good").of("a")).await?;
    relay.kill9().await?;
    let relay = setting.run()?;
    relay.reaches("paused", PATIENCE).await?;
    // Also where nobody runs, who looks is told.
    let told = setting.program.output(&["status"]).await?;
    let told = String::from_utf8(told.stdout)?;
    assert!(told.contains("paused    since") && told.contains(": migration"), "{told}");
    assert_eq!(setting.status().await?["paused"]["note"], "migration");
    // Whose it is does not change; a further note is added, once.
    let by: String = setting.ask("SELECT paused_by || paused_at FROM pgoutbox.pause").await?;
    for note in ["another", "another", ""] {
        let said = setting.program.succeed(&["pause", "--note", note]).await?;
        assert!(said.contains("paused before; the note: migration; "), "{said}");
    }
    let note: String = setting.ask("SELECT note FROM pgoutbox.pause").await?;
    assert!(note.starts_with("migration; ") && note.ends_with(": another"), "{note}");
    assert_eq!(note.matches("another").count(), 1, "{note}");
    // However often: the first stays, and the last are there.
    for number in 0..4 {
        let long = format!("{number}{}", "x".repeat(300));
        setting.program.succeed(&["pause", "--note", &long]).await?;
    }
    let bounded: String = setting.ask("SELECT note FROM pgoutbox.pause").await?;
    assert!(bounded.starts_with("migration; ") && bounded.ends_with('x'), "{bounded}");
    assert!(bounded.len() <= 1000 && bounded.contains(": 3xx"), "{bounded}");
    let told: String = setting.ask("SELECT paused_by || paused_at FROM pgoutbox.pause").await?;
    assert_eq!(told, by);
    assert_eq!(consumer.total(), 1, "{}", relay.log());

    let said = setting.program.succeed(&["resume"]).await?;
    assert!(said.contains("resumed"), "{said}");
    let came = ids(&arrived(&consumer, 3).await?);
    assert_eq!(came, [1, 2, 3].map(uuid), "each once, in order");
    relay.reaches("running", PATIENCE).await?;
    setting.all_marked().await?;
    let said = setting.program.succeed(&["resume"]).await?;
    assert!(said.contains("not paused"), "{said}");
    relay.drain(PATIENCE).await
}

/// Longer than the server waits for a client that is silent, and with more to send than sockets
/// hold: the stream has to live on, or what is in flight after the resume is sent twice.
#[tokio::test]
async fn a_long_pause_with_much_to_read_ends_no_session() -> Result<()> {
    const EVENTS: usize = 20_000;
    let setting = Setting::bare().await?.set("postgres.wal_sender_timeout", "1s");
    setting.init().await?;
    let consumer = setting.bound("#").await?;
    setting.program.succeed(&["pause"]).await?;
    let relay = setting.run()?;
    relay.reaches("paused", PATIENCE).await?;
    // Too short to be compressed, each: some 20 MB in all.
    let fill = format!(
        "INSERT INTO outbox_messages (aggregate_type, aggregate_id, topic, payload)
         SELECT 'order', 'a', 'good', to_jsonb(repeat(md5(n::text), 32)) FROM generate_series(1, {EVENTS}) AS n"
    );
    setting.sql(&fill).await?;
    let walsender =
        "SELECT pid FROM pg_stat_replication JOIN pg_replication_slots ON pid = active_pid
         WHERE database = current_database()";
    let before: i32 = setting.ask(walsender).await?;
    let filled_at: std::time::SystemTime = setting.ask("SELECT clock_timestamp()").await?;
    let client = setting.client().await?;
    wait_until("the server's patience", PATIENCE, async || {
        let sql = "SELECT clock_timestamp() > $1::timestamptz + interval '5 s'";
        Ok(client.query_one(sql, &[&filled_at]).await?.get(0))
    })
    .await?;
    assert_eq!(setting.ask::<i32>(walsender).await?, before, "{}", relay.log());
    setting.program.succeed(&["resume"]).await?;
    arrived(&consumer, EVENTS).await?;
    setting.all_marked().await?;
    assert_eq!(relay.log().matches("running").count(), 1, "{}", relay.log());
    relay.drain(PATIENCE).await?;
    assert_eq!(consumer.total(), EVENTS, "none twice");
    Ok(())
}

#[tokio::test]
async fn the_console_pauses_and_resumes_for_whoever_has_the_token() -> Result<()> {
    const PATH: &str = "/pause";
    let setting = Setting::shared().await?.set("http.token", "correct-horse");
    let relay = setting.run()?;
    let address = relay.http(PATIENCE).await?;
    relay.reaches("running", PATIENCE).await?;
    let json = ("Content-Type", "application/json");
    let token = ("Authorization", "Bearer correct-horse");
    let state = async || -> Result<String> {
        let told = request(address, "GET", "/status", &[token], "").await?.json()?;
        Ok(told["state"].as_str().unwrap_or_default().to_owned())
    };
    // The log is a moment ahead of it.
    wait_until("the start", PATIENCE, async || Ok(state().await? == "running")).await?;
    let refused = request(address, "POST", PATH, &[json], r#"{"note": ""}"#).await?;
    assert_eq!((refused.code, state().await?), (401, "running".to_owned()));
    let wrong = request(address, "POST", PATH, &[json, token], r#"{"until": 7}"#).await?;
    assert_eq!((wrong.code, state().await?), (400, "running".to_owned()), "{}", wrong.body);

    let done = request(address, "POST", PATH, &[json, token], r#"{"note": "migration"}"#).await?;
    assert_eq!(done.code, 200, "{}", done.body);
    wait_until("the pause", PATIENCE, async || Ok(state().await? == "paused")).await?;
    let log = relay.wait_for_log("paused by", PATIENCE).await?;
    assert!(log.contains("console, 127.0.0.1: migration"), "{log}");
    // It is paused on purpose: nobody is to be woken.
    assert_eq!(request(address, "GET", "/readyz", &[], "").await?.code, 200);

    let done = request(address, "POST", "/resume", &[json, token], "{}").await?;
    assert!(done.body.contains(r#""was_paused":true"#), "{}", done.body);
    wait_until("the end of the pause", PATIENCE, async || Ok(state().await? == "running")).await?;
    relay.drain(PATIENCE).await
}
