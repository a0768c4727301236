//! Stopping, killing, freezing and alarming a node.

use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

use super::RabbitMq;
use crate::process::{Process, Signal, signal};
use crate::wait::wait_until;

impl RabbitMq {
    /// An orderly stop: queues are flushed, connections are reset.
    pub async fn stop(&self) -> Result<()> {
        // To the script alone, which stops the Erlang machine and waits for it.
        self.with_process(|process| signal(process.pid(), Signal::TERM))?;
        self.gone(Duration::from_secs(60)).await
    }

    pub async fn kill9(&self) -> Result<()> {
        self.with_process(|process| process.signal(Signal::KILL))?;
        self.gone(Duration::from_secs(10)).await
    }

    /// SIGSTOP: connections stay open, nobody answers.
    pub fn sigstop(&self) -> Result<()> {
        self.with_process(|process| process.signal(Signal::STOP))
    }

    pub fn sigcont(&self) -> Result<()> {
        self.with_process(|process| process.signal(Signal::CONT))
    }

    /// With the memory alarm on, publishing connections are blocked.
    pub async fn memory_alarm(&self, on: bool) -> Result<()> {
        let limit: &[&str] = if on { &["0.0000001"] } else { &["absolute", "4GB"] };
        self.ctl(&[&["set_vm_memory_high_watermark"], limit].concat()).await?;
        Ok(())
    }

    /// The disk alarm, which blocks them too.
    pub async fn disk_alarm(&self, on: bool) -> Result<()> {
        let limit = if on { "900000GB" } else { "50MB" };
        self.ctl(&["set_disk_free_limit", limit]).await?;
        Ok(())
    }

    /// `CONNECTION_FORCED`, as an operator does it.
    pub async fn close_all_connections(&self) -> Result<()> {
        self.ctl(&["close_all_connections", "--global", "closed by a test"]).await?;
        Ok(())
    }

    async fn gone(&self, within: Duration) -> Result<()> {
        // The script may end a moment before the Erlang machine gives the port back.
        let is_open = || TcpStream::connect((Ipv4Addr::LOCALHOST, self.port())).is_ok();
        wait_until("RabbitMQ to be gone", within, async || Ok(!self.is_running() && !is_open()))
            .await?;
        self.set_process(None)
    }

    fn with_process<T>(&self, act: impl FnOnce(&Process) -> Result<T>) -> Result<T> {
        let process = self.process.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        act(process.as_ref().context("this RabbitMQ is stopped")?)
    }
}
