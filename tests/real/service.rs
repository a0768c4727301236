//! What systemd hears of the program.

use std::path::Path;

use anyhow::{Context, Result};
use harness::proxy::Proxy;
use harness::shared;
use tempfile::TempDir;
use tokio::net::UnixDatagram;
use tokio::time::timeout;

use crate::bare::arrived;
use crate::setting::{PATIENCE, Setting};

/// The end of the socket that systemd holds.
struct Manager {
    socket: UnixDatagram,
    directory: TempDir,
}

impl Manager {
    fn start() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        Ok(Self { socket: UnixDatagram::bind(directory.path().join("notify"))?, directory })
    }

    fn path(&self) -> String {
        Path::new(self.directory.path()).join("notify").display().to_string()
    }

    /// The fields of what comes next, in the order in which they were sent.
    async fn next(&self) -> Result<String> {
        let mut buffer = [0; 4_096];
        let received = timeout(PATIENCE, self.socket.recv(&mut buffer)).await;
        let length = received.context("nothing came")??;
        Ok(String::from_utf8(buffer[..length].to_vec())?)
    }

    /// What came until a message holds this, which is the last of them.
    async fn until(&self, text: &str) -> Result<Vec<String>> {
        let mut came = Vec::new();
        loop {
            let next = self.next().await.with_context(|| format!("no {text} after {came:?}"))?;
            let is_it = next.contains(text);
            came.push(next);
            if is_it {
                return Ok(came);
            }
        }
    }
}

fn position(came: &[String], text: &str) -> Option<usize> {
    came.iter().position(|message| message.contains(text))
}

/// Its socket is full, and it does not read: nobody waits for it.
#[tokio::test]
async fn a_service_manager_that_does_not_read_stops_nothing() -> Result<()> {
    let mut setting = Setting::shared().await?;
    let manager = Manager::start()?;
    let filler = UnixDatagram::unbound()?;
    while filler.try_send_to(b"FULL=1", manager.path()).is_ok() {}
    setting.env("NOTIFY_SOCKET", &manager.path());
    setting.env("WATCHDOG_USEC", "40000");
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    setting.sql("SELECT pgoutbox.enqueue('t', '{}')").await?;
    arrived(&consumer, 1).await.with_context(|| relay.log())?;
    relay.hangup()?;
    relay.wait_for_log("SIGHUP: no other setting has changed", PATIENCE).await?;
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn systemd_hears_of_a_life_in_order() -> Result<()> {
    let mut setting = Setting::shared().await?;
    let manager = Manager::start()?;
    setting.env("NOTIFY_SOCKET", &manager.path());
    setting.env("WATCHDOG_USEC", "400000");
    let relay = setting.run()?;
    let began = manager.until("STATUS=running").await?;
    let ready = position(&began, "READY=1");
    assert_eq!(ready, Some(began.len() - 1), "ready with the first session: {began:?}");
    assert!(position(&began, "STATUS=connecting").is_some(), "{began:?}");
    // As often as asked for, while nothing else happens.
    for _ in 0..3 {
        assert_eq!(manager.next().await?, "WATCHDOG=1\n");
    }
    relay.term()?;
    let ended = manager.until("STOPPING=1").await?;
    assert!(ended[..ended.len() - 1].iter().all(|came| came == "WATCHDOG=1\n"), "{ended:?}");
    let drained = manager.until("STATUS=draining").await?;
    assert!(position(&drained, "READY=1").is_none(), "{drained:?}");
    let status = relay.wait_exit(PATIENCE).await?;
    assert!(status.success(), "{status}");
    Ok(())
}

#[tokio::test]
async fn a_standby_has_started_and_a_relay_without_a_broker_has_not() -> Result<()> {
    let mut setting = Setting::shared().await?;
    let leader = setting.run()?;
    leader.reaches("running", PATIENCE).await?;
    let manager = Manager::start()?;
    setting.env("NOTIFY_SOCKET", &manager.path());
    let standby = setting.run()?;
    let began = manager.until("READY=1").await?;
    assert!(began.last().is_some_and(|last| last.contains("STATUS=standby")), "{began:?}");
    leader.drain(PATIENCE).await?;
    let took_over = manager.until("STATUS=running").await?;
    assert!(position(&took_over, "READY=1").is_none(), "once is enough: {took_over:?}");
    standby.drain(PATIENCE).await?;

    let proxy = Proxy::start(shared::rabbitmq().await?.port()).await?;
    proxy.refuse(true);
    let direct = setting.amqp_url.clone();
    setting.env("AMQP_URL", &proxy.url(&direct));
    let manager = Manager::start()?;
    setting.env("NOTIFY_SOCKET", &manager.path());
    let relay = setting.run()?;
    let waits = manager.until("STATUS=waiting").await?;
    assert!(position(&waits, "READY=1").is_none(), "{waits:?}");
    proxy.refuse(false);
    manager.until("READY=1").await?;
    relay.drain(PATIENCE).await
}
