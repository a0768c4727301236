//! What is written to standard output and error, where that cannot be written.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::events::rows;
use harness::http::get;
use harness::wait_until;
use tokio::net::unix::pipe::{self, Receiver};
use tokio::time::timeout;

use crate::bare::arrived;
use crate::setting::{PATIENCE, Setting};

/// A full disk is no good answer, whatever the command; a reader that has gone is.
#[tokio::test]
async fn an_answer_that_cannot_be_written_is_no_success() -> Result<()> {
    let setting = Setting::shared().await?;
    for args in [
        &["check"][..],
        &["check", "--json"],
        &["status"],
        &["status", "--json"],
        &["config"],
        &["config", "--docs"],
        &["schema"],
        // With something left to do: else it prints no SQL.
        &["init", "--dry-run", "--set", "postgres.slot=another"],
        &["init"],
        &["prune", "--keep", "1h"],
        &["verify", "--wait", "0s"],
        &["parked", "list"],
        &["completions", "bash"],
        &["man"],
        &["--help"],
        &["--version"],
        &["help", "run"],
        &["resume"],
    ] {
        let full = setting.program.output_redirected(">/dev/full", args).await?;
        let told = String::from_utf8_lossy(&full.stderr).into_owned();
        assert_eq!(full.status.code(), Some(74), "{args:?}: {told}");
        assert!(told.contains("standard output"), "{args:?}: {told}");
        let deaf = setting.program.output_redirected(">/dev/full 2>/dev/full", args).await?;
        assert_eq!(deaf.status.code(), Some(74), "{args:?}");
        let plain = setting.program.output(args).await?;
        let closed = setting.program.output_redirected("2>&-", args).await?;
        assert_eq!(closed.status.code(), plain.status.code(), "{args:?}");
    }
    // Its own fault comes first, and nobody panics because it cannot be told.
    for redirect in ["2>/dev/full", "2>&-", ">/dev/full 2>/dev/full"] {
        for args in [&["check", "--no-such-flag"][..], &["config", "--set", "window.messages=0"]] {
            let output = setting.program.output_redirected(redirect, args).await?;
            assert_eq!(output.status.code(), Some(64), "{redirect} {args:?}: {output:?}");
        }
        let args = ["status", "--set", "postgres.url=postgres://nobody@127.0.0.1:1/x"];
        let output = setting.program.output_redirected(redirect, &args).await?;
        assert_eq!(output.status.code(), Some(69), "{redirect}: {output:?}");
    }
    Ok(())
}

async fn lost(address: SocketAddr) -> Result<u64> {
    let metrics = get(address, "/metrics").await?.body;
    let line = metrics.lines().find(|line| line.starts_with("pgoutbox_log_lines_lost_total "));
    let count = line.and_then(|line| line.split(' ').nth(1)).context(metrics.clone())?;
    Ok(count.parse()?)
}

/// With its HTTP where the test can find it without the log.
fn at_port(setting: &Setting) -> Result<(SocketAddr, Setting)> {
    let address = SocketAddr::from(([127, 0, 0, 1], harness::free_port()?));
    Ok((address, setting.clone().set("http.address", &address.to_string())))
}

#[tokio::test]
async fn a_log_on_a_full_disk_stops_nothing_and_is_counted() -> Result<()> {
    let setting = Setting::shared().await?;
    let consumer = setting.consumer().await?;
    for redirect in ["2>/dev/full", ">/dev/full 2>&1", "2>&-"] {
        let (address, setting) = at_port(&setting)?;
        let before = consumer.total();
        let relay = setting.program.spawn_redirected(redirect, &["run"])?;
        setting.insert(rows(10, "t")).await?;
        arrived(&consumer, before + 10).await?;
        setting.all_marked().await?;
        if redirect != "2>&-" {
            assert!(lost(address).await? > 0, "{redirect}");
        }
        relay.drain(PATIENCE).await.context(redirect)?;
    }
    Ok(())
}

/// A sender of a pipe that takes nothing more.
async fn filled(path: &Path) -> Result<pipe::Sender> {
    let filler = pipe::OpenOptions::new().open_sender(path)?;
    while let Ok(room) = timeout(Duration::from_millis(300), filler.writable()).await {
        room?;
        let _ = filler.try_write(&[b'\n'; 4096]);
    }
    Ok(filler)
}

/// What can be read of a pipe without waiting.
fn drained(pipe: &Receiver) -> String {
    let (mut text, mut bytes) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = pipe.try_read(&mut bytes) {
        text.extend_from_slice(&bytes[..count]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Whoever reads the log stops, and the pipe is full; then he goes, and another comes.
#[tokio::test]
async fn a_log_that_nobody_reads_stops_nothing() -> Result<()> {
    let setting = Setting::shared().await?;
    let consumer = setting.consumer().await?;
    let (address, setting) = at_port(&setting)?;
    let home = tempfile::tempdir()?;
    let path = home.path().join("log");
    ensure!(Command::new("mkfifo").arg(&path).status()?.success(), "mkfifo");
    let log = pipe::OpenOptions::new().open_receiver(&path)?;
    let relay = setting.program.spawn_into_pipe(&["run"], &path)?;
    let mut told = String::new();
    wait_until("the relay to run", PATIENCE, async || {
        told += &drained(&log);
        Ok(told.contains(" running "))
    })
    .await
    .with_context(|| told.clone())?;
    let filler = filled(&path).await?;
    // It has something to say of that, and says it to nobody.
    for _ in 0..3 {
        relay.hangup()?;
        setting.insert(rows(10, "t")).await?;
        setting.all_marked().await?;
    }
    arrived(&consumer, 30).await?;
    for path in ["/livez", "/readyz"] {
        assert_eq!(get(address, path).await?.code, 200, "{path}");
    }
    // Nobody has it open any more: what is written now is lost, and that is counted.
    drop((log, filler));
    wait_until("a line to be lost", PATIENCE, async || {
        relay.hangup()?;
        Ok(lost(address).await? > 0)
    })
    .await?;
    let log = pipe::OpenOptions::new().open_receiver(&path)?;
    told.clear();
    wait_until("the log to say so", PATIENCE, async || {
        relay.hangup()?;
        told += &drained(&log);
        Ok(told.contains("lines of the log were lost"))
    })
    .await
    .with_context(|| told.clone())?;
    // And an end does not wait for a reader.
    let _filler = filled(&path).await?;
    relay.drain(PATIENCE).await
}
