//! Nothing outlives the test process, even if it is killed.
//!
//! One `sh` child blocks reading a pipe whose other end only this process holds. At end of file, for whatever
//! reason it came, the child ends every server it was told of and removes the directory they live in.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use anyhow::{Context, Result, anyhow};

/// What the reaper does to a process.
///
/// `Postgres`: an immediate shutdown, so that its children go with it and its shared memory is given back;
/// killed only if that takes too long. `Group`: kill the whole process group. `Process`: kill.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Postgres,
    Group,
    Process,
}

const SCRIPT: &str = r#"
trap '' INT TERM HUP
root=$1 postgres= groups= processes= containers=
without() { w=$1; shift; for p; do [ "$p" = "$w" ] || printf ' %s' "$p"; done; }
while read -r verb pid; do
  case $verb in
    postgres) postgres="$postgres $pid" ;;
    group) groups="$groups $pid" ;;
    process) processes="$processes $pid" ;;
    container) containers="$containers $pid" ;;
    ended) postgres=$(without "$pid" $postgres) groups=$(without "$pid" $groups) processes=$(without "$pid" $processes) ;;
  esac
done
[ -z "$containers" ] || docker rm --force --volumes $containers
for p in $processes; do kill -s KILL "$p"; done
for p in $groups; do kill -s KILL -- "-$p"; done
for p in $postgres; do kill -s QUIT "$p"; kill -s CONT "$p"; done
for p in $postgres; do
  tries=0
  while kill -0 "$p" && [ $tries -lt 80 ]; do sleep 0.1; tries=$((tries + 1)); done
  kill -s KILL "$p"
done
rm -rf "$root" || { sleep 1; rm -rf "$root"; }
"#;

struct Reaper {
    root: PathBuf,
    pipe: Mutex<ChildStdin>,
}

static REAPER: OnceLock<Reaper> = OnceLock::new();
static STARTING: Mutex<()> = Mutex::new(());

/// A new directory, gone when this process is.
pub(crate) fn directory(name: &str) -> Result<PathBuf> {
    let directory = reaper()?.root.join(format!("{name}-{:08x}", fastrand::u32(..)));
    std::fs::create_dir(&directory)?;
    Ok(directory)
}

/// End this process when we end.
pub(crate) fn watch(kind: Kind, pid: u32) -> Result<()> {
    let verb = match kind {
        Kind::Postgres => "postgres",
        Kind::Group => "group",
        Kind::Process => "process",
    };
    tell(&format!("{verb} {pid}\n"))
}

/// The same for a Docker container. One that has ended by then is no harm.
pub fn end_container_with_us(id: &str) -> Result<()> {
    tell(&format!("container {id}\n"))
}

/// The process has been waited for: its number may soon belong to a stranger.
pub(crate) fn forget(pid: u32) {
    // If the reaper is gone there is nobody to misunderstand.
    let _ = tell(&format!("ended {pid}\n"));
}

fn tell(line: &str) -> Result<()> {
    let mut pipe = reaper()?.pipe.lock().map_err(|_| anyhow!("the reaper's lock is poisoned"))?;
    pipe.write_all(line.as_bytes()).context("the reaper is gone")
}

fn reaper() -> Result<&'static Reaper> {
    if let Some(reaper) = REAPER.get() {
        return Ok(reaper);
    }
    let _one = STARTING.lock().map_err(|_| anyhow!("starting the reaper failed before"))?;
    if REAPER.get().is_none() {
        let reaper = start()?;
        let _ = REAPER.set(reaper);
    }
    REAPER.get().context("no reaper")
}

fn start() -> Result<Reaper> {
    let root = root_directory()?;
    let mut child = Command::new("/bin/sh")
        .args(["-c", SCRIPT, "reaper"])
        .arg(&root)
        .current_dir("/")
        .stdin(Stdio::piped())
        // An inherited stdout would keep a pipe open that `cargo test` reads to its end.
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Ctrl-C goes to the foreground group; the reaper must be the last to go.
        .process_group(0)
        .spawn()
        .context("cannot start /bin/sh")?;
    let pipe = child.stdin.take().context("the reaper has no stdin")?;
    Ok(Reaper { root, pipe: Mutex::new(pipe) })
}

fn root_directory() -> Result<PathBuf> {
    let wanted = std::env::temp_dir();
    // A unix socket's path has at most 107 bytes.
    let parent = if wanted.as_os_str().len() > 40 { Path::new("/tmp") } else { &wanted };
    let root = tempfile::Builder::new().prefix("pgoutbox-").tempdir_in(parent)?.keep();
    // As root, Postgres runs as another user, who must be able to walk in.
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o711))?;
    Ok(root)
}
