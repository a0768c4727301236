//! The real binary, as a child process.

use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::corner::Corner;
use crate::http;
use crate::process::{Process, Signal};
use crate::reaper::{self, Kind};
use crate::usage;
use crate::wait::wait_for;

/// An ordinary user, who owns nothing.
const NOBODY: u32 = 65_534;

/// How to call pgoutbox: the binary and its environment. The caller's own `DATABASE_URL`, `PG*` and the like are not
/// inherited.
#[derive(Clone, Debug)]
pub struct Pgoutbox {
    binary: PathBuf,
    env: Vec<(OsString, OsString)>,
    is_nobody: bool,
    /// Where its database is on the shared server: it goes with the last that uses it.
    corner: Option<Arc<Corner>>,
}

impl Pgoutbox {
    pub fn at(binary: impl Into<PathBuf>) -> Pgoutbox {
        Pgoutbox { binary: binary.into(), env: Vec::new(), is_nobody: false, corner: None }
    }

    /// From `PGOUTBOX_BIN`.
    pub fn from_env() -> Result<Pgoutbox> {
        let binary = std::env::var_os("PGOUTBOX_BIN").context("PGOUTBOX_BIN is not set")?;
        Ok(Pgoutbox::at(binary))
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Pgoutbox {
        self.env.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// The same, for the database of this corner.
    #[must_use]
    pub fn in_corner(self, corner: Corner) -> Pgoutbox {
        Pgoutbox { corner: Some(Arc::new(corner)), ..self }
    }

    /// The same as an ordinary user, where we are root; who may not reach the folder of the build.
    pub fn as_nobody(&self) -> Result<Pgoutbox> {
        let binary = reaper::directory("nobody")?.join("pgoutbox");
        std::fs::copy(&self.binary, &binary).context("a copy of the binary")?;
        Ok(Pgoutbox { binary, is_nobody: true, ..self.clone() })
    }

    /// Runs a command to its end.
    pub async fn output(&self, args: &[&str]) -> Result<Output> {
        let mut command = self.command(args);
        let finished = tokio::task::spawn_blocking(move || command.output()).await?;
        finished.with_context(|| self.binary.display().to_string())
    }

    /// Runs a command to its end before a terminal of its own, where this is typed: its exit code, and all that was
    /// shown.
    pub async fn typed(&self, args: &[&str], keys: &str) -> Result<(Option<i32>, String)> {
        let shell = Pgoutbox { binary: "script".into(), ..self.clone() };
        let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
        let binary = self.binary.to_str().context("a path is not UTF-8")?;
        let line: Vec<String> = [binary].iter().chain(args).map(|text| quoted(text)).collect();
        let mut command = shell.command(&["-qec", &line.join(" "), "/dev/null"]);
        command.env("TERM", "xterm").env("SHELL", "/bin/sh");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let keys = keys.to_owned();
        let output = tokio::task::spawn_blocking(move || {
            let mut child = command.spawn()?;
            // Where it stays open until the end: a terminal that is closed is another matter.
            let mut stdin = child.stdin.take();
            if let Some(stdin) = &mut stdin {
                stdin.write_all(keys.as_bytes())?;
            }
            let output = child.wait_with_output();
            drop(stdin);
            output
        });
        let output = output.await?.context("script, of util-linux")?;
        let told = String::from_utf8_lossy(&output.stdout).replace("\r\n", "\n");
        Ok((output.status.code(), told))
    }

    /// Runs a command that must succeed, and returns what it printed.
    pub async fn succeed(&self, args: &[&str]) -> Result<String> {
        let output = self.output(args).await?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!(
                "pgoutbox {args:?}: {}\n{told}{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(told)
    }

    /// Starts a command that stays, such as `run`.
    pub fn spawn(&self, args: &[&str]) -> Result<Relay> {
        let home = reaper::directory("relay")?;
        let log = home.join("log");
        let mut command = self.command(args);
        command.current_dir(&home);
        let process = Process::spawn(command, Kind::Process, &log)?;
        Ok(Relay { process, log, _corner: self.corner.clone() })
    }

    /// Like [`Pgoutbox::spawn`], but its log goes into this pipe, which somebody reads.
    pub fn spawn_into_pipe(&self, args: &[&str], pipe: &Path) -> Result<Relay> {
        let shell = Pgoutbox { binary: "sh".into(), ..self.clone() };
        let (pipe, binary) = (pipe.to_str(), self.binary.to_str());
        let (pipe, binary) = pipe.zip(binary).context("a path is not UTF-8")?;
        shell.spawn(&[&["-c", "exec \"$@\" 2>\"$0\"", pipe, binary], args].concat())
    }

    /// Runs a command to its end, its outputs redirected by the shell: `>/dev/full`, `2>&-`.
    pub async fn output_redirected(&self, redirect: &str, args: &[&str]) -> Result<Output> {
        let (shell, args) = self.redirected(redirect, args)?;
        shell.output(&args.iter().map(String::as_str).collect::<Vec<_>>()).await
    }

    /// Starts one that stays in the same way.
    pub fn spawn_redirected(&self, redirect: &str, args: &[&str]) -> Result<Relay> {
        let (shell, args) = self.redirected(redirect, args)?;
        shell.spawn(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn redirected(&self, redirect: &str, args: &[&str]) -> Result<(Pgoutbox, Vec<String>)> {
        let shell = Pgoutbox { binary: "sh".into(), ..self.clone() };
        let binary = self.binary.to_str().context("a path is not UTF-8")?;
        let script = format!("exec \"$0\" \"$@\" {redirect}");
        let all = ["-c", &script, binary].into_iter().chain(args.iter().copied());
        Ok((shell, all.map(str::to_owned).collect()))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            let ours = ["PG", "PGOUTBOX_", "DATABASE_URL", "AMQP_URL", "OTEL_", "RUST_LOG"];
            if ours.iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(&name);
            }
        }
        // Many run at one time: each takes a port of its own.
        command.env("PGOUTBOX_HTTP__ADDRESS", "127.0.0.1:0");
        command.args(args).envs(self.env.iter().map(|(name, value)| (name, value)));
        if self.is_nobody && rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }
}

/// A running pgoutbox; killed when dropped.
pub struct Relay {
    process: Process,
    log: PathBuf,
    /// Its slot is dropped no sooner than it has ended, also where nobody keeps the rest of the setting.
    _corner: Option<Arc<Corner>>,
}

impl Relay {
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn is_running(&self) -> bool {
        self.process.ended().is_none()
    }

    pub async fn kill9(&self) -> Result<()> {
        self.process.signal(Signal::KILL)?;
        self.process.wait_exit(Duration::from_secs(10)).await?;
        Ok(())
    }

    /// SIGTERM: drain, then exit. See [`Relay::wait_exit`].
    pub fn term(&self) -> Result<()> {
        self.process.signal(Signal::TERM)
    }

    pub fn interrupt(&self) -> Result<()> {
        self.process.signal(Signal::INT)
    }

    pub fn hangup(&self) -> Result<()> {
        self.process.signal(Signal::HUP)
    }

    pub fn sigusr1(&self) -> Result<()> {
        self.process.signal(Signal::USR1)
    }

    pub fn sigstop(&self) -> Result<()> {
        self.process.signal(Signal::STOP)
    }

    pub fn sigcont(&self) -> Result<()> {
        self.process.signal(Signal::CONT)
    }

    pub async fn wait_exit(&self, within: Duration) -> Result<ExitStatus> {
        self.process.wait_exit(within).await.with_context(|| self.log())
    }

    /// SIGTERM and an exit code of 0.
    pub async fn drain(&self, within: Duration) -> Result<()> {
        self.term()?;
        let status = self.wait_exit(within).await?;
        if !status.success() {
            let signal = status.signal();
            bail!("the relay ended with {status} (signal {signal:?}):\n{}", self.log());
        }
        Ok(())
    }

    /// Both outputs, so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// Waits for a line that contains `text`, and returns the first one. Fails early if the process ends without it.
    pub async fn wait_for_log(&self, text: &str, within: Duration) -> Result<String> {
        let what = format!("{text:?} in the relay's log");
        let line = wait_for(&what, within, async || {
            // In this order: what it wrote last was written before it ended.
            let ended = !self.is_running();
            let line = self.log().lines().find(|line| line.contains(text)).map(str::to_owned);
            Ok(if ended { Some(line) } else { line.map(Some) })
        })
        .await
        .with_context(|| self.log())?;
        line.with_context(|| format!("the relay ended without {text:?}:\n{}", self.log()))
    }

    /// Waits until it says by HTTP that it is at this: `running`, `standby`, `paused`. Fails early if the
    /// process ends before.
    pub async fn reaches(&self, state: &str, within: Duration) -> Result<()> {
        let address = self.http(within).await?;
        let what = format!("the relay to be {state}");
        let came = wait_for(&what, within, async || {
            if !self.is_running() {
                return Ok(Some(false));
            }
            let told = http::get(address, "/livez").await?.json()?;
            ensure!(told.get("state").is_some_and(|it| it == state), "it says {told}");
            Ok(Some(true))
        });
        let came = came.await.with_context(|| self.log())?;
        ensure!(came, "the relay ended before it was {state}:\n{}", self.log());
        Ok(())
    }

    /// Waits until `/readyz` gives this as the reason why it is not ready: `fault`, `broker_blocked`. Returns the
    /// reason.
    pub async fn is_down(&self, code: &str, within: Duration) -> Result<Value> {
        let address = self.http(within).await?;
        let what = format!("/readyz to say {code}");
        let reason = wait_for(&what, within, async || {
            let told = http::get(address, "/readyz").await?.json()?;
            let mut reasons = told.get("reasons").and_then(Value::as_array).into_iter().flatten();
            let reason = reasons.find(|reason| reason.get("code").is_some_and(|it| it == code));
            Ok(Some(reason.cloned().with_context(|| format!("it says {told}"))?))
        });
        reason.await.with_context(|| self.log())
    }

    /// Waits until `/readyz` has nothing against it.
    pub async fn is_ready(&self, within: Duration) -> Result<()> {
        let address = self.http(within).await?;
        let ready = wait_for("the relay to be ready", within, async || {
            let answer = http::get(address, "/readyz").await?;
            ensure!(answer.code == 200, "{answer:?}");
            Ok(Some(()))
        });
        ready.await.with_context(|| self.log())
    }

    /// Sessions that came as far as the stream.
    pub fn sessions(&self) -> usize {
        self.log().lines().filter(|line| line.contains(" running ")).count()
    }

    /// Where it serves HTTP.
    pub async fn http(&self, within: Duration) -> Result<SocketAddr> {
        let line = self.wait_for_log("HTTP is served", within).await?;
        let address = line.split("address").nth(1).context("no address")?;
        let address = address.trim_start_matches(['=', '"', ':']);
        let address = address.split(['"', ' ']).next().context("no address")?;
        address.parse().with_context(|| line.clone())
    }

    /// Resident memory now, in bytes.
    pub fn rss_bytes(&self) -> Result<u64> {
        usage::rss_bytes(self.pid())
    }

    /// The most resident memory it ever had, in bytes.
    pub fn peak_rss_bytes(&self) -> Result<u64> {
        usage::peak_rss_bytes(self.pid())
    }

    /// The most memory that it ever reserved, used or not, in bytes.
    pub fn peak_reserved_bytes(&self) -> Result<u64> {
        usage::peak_reserved_bytes(self.pid())
    }

    /// CPU time used so far, in user and kernel mode.
    pub fn cpu(&self) -> Result<Duration> {
        usage::cpu(self.pid())
    }
}
