//! Stopping, killing and freezing a server.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Postgres;
use crate::process::{Process, Signal, signal};
use crate::wait::{wait_blocking, wait_until};

/// `pg_ctl stop -m`'s modes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shutdown {
    /// Waits for walsenders to have sent everything.
    Fast,
    /// No goodbye; the next start is a crash recovery.
    Immediate,
}

impl Shutdown {
    fn signal(self) -> Signal {
        match self {
            Shutdown::Fast => Signal::INT,
            Shutdown::Immediate => Signal::QUIT,
        }
    }
}

impl Postgres {
    /// Stops it, as `pg_ctl stop -m` does, and tells how long that took.
    pub async fn stop(&self, how: Shutdown, within: Duration) -> Result<Duration> {
        let start = Instant::now();
        self.with_process(|process| process.signal(how.signal()))?;
        wait_until("Postgres to stop", within, async || Ok(!self.is_running())).await?;
        let took = start.elapsed();
        self.set_process(None)?;
        Ok(took)
    }

    /// `kill -9` of the postmaster and of every process it has.
    pub async fn kill9(&self) -> Result<()> {
        let all = self.pids()?;
        for pid in &all {
            // One that has ended meanwhile is as dead as wanted.
            let _ = signal(*pid, Signal::KILL);
        }
        wait_until("Postgres to be gone", Duration::from_secs(10), async || {
            Ok(!self.is_running() && all.iter().all(|pid| !is_alive(*pid)))
        })
        .await?;
        self.set_process(None)
    }

    /// SIGSTOP to the postmaster and to every process it has: connections stay open, nobody answers.
    pub fn sigstop(&self) -> Result<()> {
        self.pids()?.into_iter().try_for_each(|pid| signal(pid, Signal::STOP))
    }

    pub fn sigcont(&self) -> Result<()> {
        self.pids()?.into_iter().try_for_each(|pid| signal(pid, Signal::CONT))
    }

    pub fn pid(&self) -> Result<u32> {
        self.with_process(|process| Ok(process.pid()))
    }

    fn pids(&self) -> Result<Vec<u32>> {
        let postmaster = self.pid()?;
        Ok(std::iter::once(postmaster).chain(children(postmaster)).collect())
    }

    fn with_process<T>(&self, act: impl FnOnce(&Process) -> Result<T>) -> Result<T> {
        let process = self.process.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        act(process.as_ref().context("this Postgres is stopped")?)
    }

    /// For `Drop`.
    pub(super) fn end(&mut self, how: Shutdown) {
        let process = self.process.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(process) = process.take() {
            let children = children(process.pid());
            let _ = process.signal(how.signal());
            for pid in children.into_iter().chain([process.pid()]) {
                // A frozen one could not even die.
                let _ = signal(pid, Signal::CONT);
            }
            wait_blocking(Duration::from_secs(10), || process.ended().is_some());
        }
    }
}

fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
}

fn children(parent: u32) -> Vec<u32> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

/// The fourth field; the second, a name in parentheses, may hold spaces.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
}
