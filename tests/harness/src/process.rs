//! A server process that is ours: signalled by pid, waited for, never left behind.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process, kill_process_group};

use crate::reaper::{self, Kind};
use crate::wait::{wait_blocking, wait_for};

/// Sends a signal to any process, such as one backend of Postgres.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    Ok(kill_process(known(pid)?, signal)?)
}

fn known(pid: u32) -> Result<Pid> {
    Pid::from_raw(pid.try_into()?).context("0 is no process")
}

/// A child in a process group of its own, so that Ctrl-C in a terminal reaches only the one who ends it in order.
pub(crate) struct Process {
    pid: u32,
    kind: Kind,
    child: Mutex<Child>,
}

impl Process {
    /// Both outputs are appended to the file `log`.
    pub(crate) fn spawn(mut command: Command, kind: Kind, log: &Path) -> Result<Process> {
        let log = File::options().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let pid = child.id();
        reaper::watch(kind, pid)?;
        Ok(Process { pid, kind, child: Mutex::new(child) })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// The exit status, once it has ended.
    pub(crate) fn ended(&self) -> Option<ExitStatus> {
        let mut child = self.child.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        child.try_wait().ok().flatten()
    }

    pub(crate) fn signal(&self, wanted: Signal) -> Result<()> {
        // Holding the child means that nobody reaps it meanwhile, so the pid is still its own.
        let mut child = self.child.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(status) = child.try_wait()? {
            bail!("process {} has ended already: {status}", self.pid);
        }
        match self.kind {
            Kind::Group => Ok(kill_process_group(known(self.pid)?, wanted)?),
            Kind::Postgres | Kind::Process => signal(self.pid, wanted),
        }
    }

    pub(crate) async fn wait_exit(&self, within: Duration) -> Result<ExitStatus> {
        let what = format!("process {} to end", self.pid);
        wait_for(&what, within, async || Ok(self.ended())).await
    }

    /// Ends it at once and waits for that. Not async: `Drop` uses it.
    pub(crate) fn kill(&self) {
        if self.ended().is_some() {
            return;
        }
        let _ = self.signal(Signal::KILL);
        wait_blocking(Duration::from_secs(10), || self.ended().is_some());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        reaper::forget(self.pid);
    }
}
