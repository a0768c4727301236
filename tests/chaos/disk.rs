//! No room left where Postgres keeps its WAL.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use harness::postgres::{Options, Postgres, Shutdown};
use harness::{shared, wait_until};

use crate::round::{Allowed, Outcome, Round, Skipped, Stage};
use harness::setting::Setting;

/// Says that mounts of this process are seen by nobody else and end with it.
pub const OWN_MOUNTS: &str = "PGOUTBOX_TEST_OWN_MOUNTS";

pub async fn full(round: Round) -> Result<Outcome> {
    if std::env::var_os(OWN_MOUNTS).is_none() {
        bail!(Skipped("needs root and unshare, for a file system of its own".to_owned()));
    }
    // Small, so that the WAL is reused and not kept.
    let conf = ["max_wal_size = 32MB", "min_wal_size = 32MB"].map(str::to_owned).to_vec();
    let options = Options { conf, ..Options::default() };
    let (postgres, rabbitmq) = tokio::try_join!(Postgres::start(options), shared::rabbitmq())?;
    let (database, vhost) = (postgres.create_database().await?, rabbitmq.add_vhost().await?);
    let (database_url, amqp_url) = (postgres.url(&database), rabbitmq.url(&vhost));
    let setting = Setting::of(database, vhost, database_url, amqp_url).await?;
    postgres.stop(Shutdown::Fast, round.patience()).await?;
    let disk = Disk::under(&postgres.data().join("pg_wal"))?;
    postgres.start_again().await?;

    let mut stage = Stage::start(&round, setting).await?;
    for _ in 0..round.faults() {
        stage.moment().await?;
        disk.fill()?;
        // Postgres needs a segment, finds no room and gives up: a crash, and no start until there
        // is room again.
        let crashed = wait_until("Postgres to run out of room", round.patience(), async || {
            let filler = "CREATE TABLE IF NOT EXISTS filler (text text);
                INSERT INTO filler SELECT repeat('x', 1000) FROM generate_series(1, 5000)";
            let _ = postgres.execute("postgres", filler).await;
            Ok(!postgres.is_running() || postgres.log().contains("No space left on device"))
        });
        crashed.await?;
        disk.empty()?;
        if !postgres.is_running() || restarts_itself_not(&postgres).await {
            let _ = postgres.kill9().await;
            postgres.start_again().await?;
        }
        stage.repaired().await?;
    }
    // The disk goes after the server that is on it.
    let outcome = stage.judge(Allowed { any_repeats: true, ..Allowed::default() }).await;
    drop(postgres);
    drop(disk);
    outcome
}

/// After a crash of a backend the postmaster starts all again; if that fails too, it ends.
async fn restarts_itself_not(postgres: &Postgres) -> bool {
    let up = wait_until("Postgres by itself", std::time::Duration::from_secs(10), async || {
        Ok(postgres.connect("postgres").await.is_ok())
    });
    up.await.is_err()
}

/// A small file system in memory.
struct Disk {
    at: PathBuf,
}

impl Disk {
    /// Moves what is in the directory onto it.
    fn under(directory: &Path) -> Result<Self> {
        let script = r#"
            set -eu
            owner=$(stat -c %u:%g "$1")
            cp -a "$1" "$1.before"
            mount -t tmpfs -o size=128m,mode=700 pgoutbox-chaos "$1"
            chown "$owner" "$1"
            cp -a "$1.before/." "$1/"
            rm -rf "$1.before"
        "#;
        let output = Command::new("sh")
            .args(["-c", script, "disk"])
            .arg(directory)
            .output()
            .context("sh")?;
        if !output.status.success() {
            bail!(Skipped(format!("no mount: {}", String::from_utf8_lossy(&output.stderr))));
        }
        Ok(Self { at: directory.to_owned() })
    }

    fn fill(&self) -> Result<()> {
        use std::io::Write;
        let mut ballast = std::fs::File::create(self.at.join("ballast"))?;
        let block = vec![0; 64 << 10];
        // Until there is no room.
        while ballast.write_all(&block).is_ok() {}
        Ok(())
    }

    fn empty(&self) -> Result<()> {
        std::fs::remove_file(self.at.join("ballast")).context("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).output();
    }
}
