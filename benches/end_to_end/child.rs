//! A child process that does not outlive its measurement.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

pub struct Running {
    child: Child,
    name: &'static str,
}

impl Running {
    pub fn spawn(name: &'static str, mut command: Command) -> Result<Self> {
        let child = command.stdin(Stdio::null()).spawn().context(name)?;
        Ok(Self { child, name })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended; an error where it failed.
    pub fn is_done(&mut self) -> Result<bool> {
        match self.child.try_wait()? {
            None => Ok(false),
            Some(status) if status.success() => Ok(true),
            Some(status) => bail!("{} ended with {status}", self.name),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only where it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
