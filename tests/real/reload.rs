//! SIGHUP has the configuration read again, SIGUSR1 says more.

use std::io::Write;

use anyhow::{Context, Result};
use harness::http::request;
use harness::proxy::{Direction, Proxy};
use harness::relay::{Pgoutbox, Relay};
use harness::wait_until;
use harness::workload::Workload;
use tempfile::NamedTempFile;

use crate::bare::arrived;
use crate::setting::{PATIENCE, Setting, steady};

fn write(file: &NamedTempFile, text: &str) -> Result<()> {
    let mut handle = file.reopen()?;
    handle.set_len(0)?;
    Ok(handle.write_all(text.as_bytes())?)
}

#[tokio::test]
async fn a_configuration_is_taken_over_under_load_without_a_repeat() -> Result<()> {
    let file = NamedTempFile::with_suffix(".toml")?;
    write(&file, "[window]\nmessages = 50\n")?;
    let mut setting = Setting::shared().await?;
    setting.env("PGOUTBOX_CONFIG", &file.path().display().to_string());
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    relay.wait_for_log("window_messages=50", PATIENCE).await?;
    let load = Workload::start(&setting.database_url, steady()).await?;
    consumer.wait_distinct(100, PATIENCE).await?;

    write(&file, "[window]\nmesages = 60\n")?;
    relay.hangup()?;
    let log = relay.wait_for_log("the configuration stays as it was", PATIENCE).await?;
    assert!(log.contains("mesages") && relay.is_running(), "{log}");
    consumer.wait_more(100, PATIENCE).await?;

    write(&file, "[window]\nmessages = 60\n[http]\ntoken = \"another\"\n")?;
    relay.hangup()?;
    relay.wait_for_log("window_messages=60", PATIENCE).await?;
    let log = relay.log();
    assert!(log.contains("http.token: stays as it was until a restart"), "{log}");
    assert!(log.contains("changed=\"window.messages = 60\""), "{log}");
    consumer.wait_more(100, PATIENCE).await?;
    setting.judge_load(load, consumer, &relay, 0).await.map(|_| ())
}

#[tokio::test]
async fn a_broker_that_is_named_wrong_is_corrected_by_a_reload() -> Result<()> {
    let file = NamedTempFile::with_suffix(".toml")?;
    let mut setting = Setting::shared().await?;
    let right = setting.amqp_url.clone();
    write(&file, "[amqp]\nurl = \"amqp://127.0.0.1:1\"\n")?;
    setting.env("AMQP_URL", "");
    setting.env("PGOUTBOX_CONFIG", &file.path().display().to_string());
    setting.env("PGOUTBOX_SESSION__BACKOFF_MIN", "1m");
    setting.env("PGOUTBOX_SESSION__BACKOFF_MAX", "10m");
    let relay = setting.run()?;
    relay.is_down("fault", PATIENCE).await?;
    write(&file, &format!("[amqp]\nurl = \"{right}\"\n"))?;
    relay.hangup()?;
    relay.reaches("running", PATIENCE).await?;
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn the_log_says_more_and_less_at_run_time() -> Result<()> {
    let file = NamedTempFile::with_suffix(".toml")?;
    write(&file, "[log]\nlevel = \"warn\"\n")?;
    let mut setting = Setting::shared().await?;
    setting.env("PGOUTBOX_CONFIG", &file.path().display().to_string());
    // The session runs, which no line says at this level: it says so only once, at its start.
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    let mut load = Workload::start(&setting.database_url, steady()).await?;
    consumer.wait_distinct(1, PATIENCE).await?;
    load.stop();
    load.finish().await?;
    relay.sigusr1()?;
    relay.wait_for_log("until the next SIGUSR1", PATIENCE).await?;
    relay.sigusr1()?;
    // Which the level of the file does not let through.
    write(&file, "[log]\nlevel = \"info\"\n")?;
    relay.hangup()?;
    let is_said = || relay.log().contains("SIGHUP: no other setting has changed");
    wait_until("the level of the file", PATIENCE, async || Ok(is_said()))
        .await
        .with_context(|| relay.log())?;
    let log = relay.log();
    assert!(!log.contains("restored to log.level") && !log.contains(" running "), "{log}");
    // And down again: the warning is said after the level has changed, and at each signal.
    let level = |level: &str| format!("[log]\nlevel = \"{level}\"\n[http]\ntoken = \"x\"\n");
    write(&file, &level("warn"))?;
    let said = |text: &str| relay.log().matches(text).count();
    let before = said("SIGHUP: no other");
    for count in 1..=2 {
        relay.hangup()?;
        let is_said = || said("http.token: stays as it was until a restart") == count;
        wait_until("the warning", PATIENCE, async || Ok(is_said()))
            .await
            .with_context(|| relay.log())?;
    }
    assert_eq!(said("SIGHUP: no other"), before, "{}", relay.log());
    write(&file, &level("debug"))?;
    let before = said("SIGHUP: log level changed");
    relay.hangup()?;
    let is_louder = || said("SIGHUP: log level changed") > before;
    wait_until("up again", PATIENCE, async || Ok(is_louder())).await?;
    relay.drain(PATIENCE).await
}

/// What is shown and what is done from a console is about the slot in force.
#[tokio::test]
async fn another_slot_is_what_everything_is_about() -> Result<()> {
    let file = NamedTempFile::with_suffix(".toml")?;
    let mut setting = Setting::shared().await?;
    let (first, second) = (setting.database.clone(), format!("{}_b", setting.database));
    let slot = |name: &str| {
        format!("[postgres]\nslot = \"{name}\"\n[http]\ntoken = \"t\"\n[window]\nmessages = 7\n")
    };
    write(&file, &slot(&first))?;
    // The slot is the file's to say.
    setting.program = Pgoutbox::at(env!("CARGO_BIN_EXE_pgoutbox"))
        .env("DATABASE_URL", &setting.database_url)
        .env("AMQP_URL", &setting.amqp_url)
        .env("PGOUTBOX_GUARD__INTERVAL", "100ms")
        .env("PGOUTBOX_CONFIG", file.path());
    setting.program.succeed(&["init", "--slot", &second]).await?;
    let relay = setting.run()?;
    let address = relay.http(PATIENCE).await?;
    let started = relay.wait_for_log("pgoutbox starts", PATIENCE).await?;
    let path = file.path().display().to_string();
    assert!(started.contains(env!("CARGO_PKG_VERSION")) && started.contains(&path), "{started}");
    relay.reaches("running", PATIENCE).await?;
    write(&file, &slot(&second).replace("= 7", "= 8"))?;
    relay.hangup()?;
    relay.wait_for_log("window_messages=8", PATIENCE).await.with_context(|| relay.log())?;
    let token = ("Authorization", "Bearer t");
    wait_until("the second slot", PATIENCE, async || {
        let status = request(address, "GET", "/status", &[token], "").await?.json()?;
        Ok(status["slot_name"] == *second && status["window"]["limit_messages"] == 8)
    })
    .await?;
    let headers = [token, ("Content-Type", "application/json")];
    let paused = request(address, "POST", "/pause", &headers, "{\"note\": \"n\"}").await?;
    assert_eq!(paused.code, 200, "{paused:?}");
    assert_eq!(setting.ask::<String>("SELECT slot::text FROM pgoutbox.pause").await?, second);
    relay.reaches("paused", PATIENCE).await?;
    relay.drain(PATIENCE).await
}

/// A pipe without a writer stands for all files that do not answer.
#[tokio::test]
async fn a_file_that_does_not_answer_holds_up_nothing() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("pgoutbox.toml");
    std::fs::write(&path, "[window]\nmessages = 7\n")?;
    let mut setting = Setting::shared().await?;
    setting.env("PGOUTBOX_CONFIG", &path.display().to_string());
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    relay.wait_for_log("window_messages=7", PATIENCE).await?;
    std::fs::remove_file(&path)?;
    let made = std::process::Command::new("mkfifo").arg(&path).status()?;
    anyhow::ensure!(made.success(), "{made}");
    relay.hangup()?;
    relay.wait_for_log("the configuration is still being read", PATIENCE).await?;
    setting.sql("SELECT pgoutbox.enqueue('t', '{}')").await?;
    arrived(&consumer, 1).await.with_context(|| relay.log())?;
    // The next one is read, whatever became of the first.
    std::fs::remove_file(&path)?;
    std::fs::write(&path, "[window]\nmessages = 8\n")?;
    relay.hangup()?;
    relay.wait_for_log("window_messages=8", PATIENCE).await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await
}

/// SIGHUP drops the session that connects: what lapin has begun by then ends with it.
#[tokio::test]
async fn a_login_that_is_given_up_leaves_nothing_behind() -> Result<()> {
    let file = NamedTempFile::with_suffix(".toml")?;
    let mut setting = Setting::shared().await?;
    let broker = harness::shared::rabbitmq().await?;
    let proxy = Proxy::start(broker.port()).await?;
    setting.env("PGOUTBOX_CONFIG", &file.path().display().to_string());
    setting.env("AMQP_URL", &broker.url_on(proxy.port(), &setting.vhost));
    // The broker is reached, and never answers.
    proxy.stall(Direction::Down);
    let window = |size: u32| write(&file, &format!("[window]\nmessages = {size}\n"));
    window(10)?;
    let relay = setting.run()?;
    let login = async |before: u64| {
        let is_new = async || Ok(proxy.connections() > before);
        wait_until("a login", PATIENCE, is_new).await?;
        wait_until("lapin's thread", PATIENCE, async || Ok(logins(&relay)? > 0)).await
    };
    login(0).await?;
    for (count, size) in (1..).zip(11..=14) {
        let before = proxy.connections();
        window(size)?;
        relay.hangup()?;
        // Two that come at once are one.
        let is_read =
            || relay.log().matches("now running with the new configuration").count() == count;
        wait_until("the new settings", PATIENCE, async || Ok(is_read())).await?;
        login(before).await?;
    }
    wait_until("one socket", PATIENCE, async || Ok(sockets(proxy.port())? <= 1)).await?;
    wait_until("one thread", PATIENCE, async || Ok(logins(&relay)? <= 1)).await?;
    proxy.resume(Direction::Down);
    relay.reaches("running", PATIENCE).await?;
    relay.drain(PATIENCE).await
}

/// Connections to a port of this machine that nobody has closed.
fn sockets(port: u16) -> Result<usize> {
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    let end = format!(":{port:04X}");
    let is_open = |line: &&str| {
        let fields: Vec<_> = line.split_whitespace().take(4).collect();
        // Established.
        matches!(fields[..], [_, _, to, "01"] if to.ends_with(&end))
    };
    Ok(table.lines().filter(is_open).count())
}

/// lapin has a thread for each connection.
fn logins(relay: &Relay) -> Result<usize> {
    let mut threads = 0;
    for thread in std::fs::read_dir(format!("/proc/{}/task", relay.pid()))? {
        let name = std::fs::read_to_string(thread?.path().join("comm")).unwrap_or_default();
        threads += usize::from(name.starts_with("lapin"));
    }
    Ok(threads)
}
