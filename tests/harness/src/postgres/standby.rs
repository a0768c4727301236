//! A streaming standby, for failover.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::cluster::place;
use super::{Postgres, template};
use crate::wait::wait_until;

impl Postgres {
    /// A hot standby of this server. `conf` goes to its `postgresql.conf`.
    pub async fn standby(&self, conf: &[&str]) -> Result<Postgres> {
        let standby = place(self.binaries.clone(), self.auth)?;
        if self.binaries.has("pg_basebackup") {
            self.basebackup(&standby).await?;
        } else {
            self.copy_online(&standby).await?;
        }
        standby.append("postgresql.conf", &(standby.conf() + &conf.join("\n") + "\n"))?;
        standby.start_again().await?;
        Ok(standby)
    }

    async fn basebackup(&self, standby: &Postgres) -> Result<()> {
        let mut backup = self.binaries.command("pg_basebackup");
        backup
            .arg("-D")
            .arg(standby.data())
            .arg("-h")
            .arg(self.socket())
            .arg("-p")
            .arg(self.port().to_string());
        backup.args(["-U", "postgres", "-X", "stream", "-R", "--checkpoint=fast", "--no-sync"]);
        if let Some(user) = standby.user {
            user.run(&mut backup);
        }
        backup.current_dir(&standby.home);
        tokio::task::spawn_blocking(move || template::run(&mut backup)).await?
    }

    /// What `pg_basebackup` does, for servers that come without it.
    async fn copy_online(&self, standby: &Postgres) -> Result<()> {
        let (start, stop) = match self.version() {
            14 => ("pg_start_backup('standby', true, false)", "pg_stop_backup(false)"),
            _ => ("pg_backup_start('standby', true)", "pg_backup_stop()"),
        };
        let client = self.connect("postgres").await?;
        client.batch_execute(&format!("SELECT {start}")).await?;
        let copy = format!(
            // A file may go while it is copied, as pg_basebackup allows.
            "cp -a {from} {to} 2>/dev/null || test -f {to}/PG_VERSION; rm -rf {to}/postmaster.pid {to}/pg_replslot/*",
            from = self.data().display(),
            to = standby.data().display()
        );
        let mut copy_all = Command::new("sh");
        copy_all.args(["-c", &copy]);
        tokio::task::spawn_blocking(move || template::run(&mut copy_all)).await??;
        let row = client.query_one(&format!("SELECT labelfile FROM {stop}"), &[]).await?;
        let label: String = row.try_get(0).context("no label")?;
        standby.write("backup_label", &label)?;
        standby.write("standby.signal", "")?;
        let primary = format!(
            "primary_conninfo = 'host={} port={} user=postgres'\n",
            self.socket().display(),
            self.port()
        );
        standby.append("postgresql.auto.conf", &primary)
    }

    pub async fn promote(&self) -> Result<()> {
        self.execute("postgres", "SELECT pg_promote()").await?;
        wait_until("the standby to be promoted", Duration::from_secs(30), async || {
            let client = self.connect("postgres").await?;
            Ok(!client.query_one("SELECT pg_is_in_recovery()", &[]).await?.get::<_, bool>(0))
        })
        .await
    }
}
