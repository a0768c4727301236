//! A streaming standby, for failover.

use std::time::Duration;

use anyhow::{Result, bail};

use super::cluster::place;
use super::{Postgres, template};
use crate::wait::wait_until;

impl Postgres {
    /// A hot standby of this server. `conf` goes to its `postgresql.conf`. Needs `pg_basebackup` beside `postgres`.
    pub async fn standby(&self, conf: &[&str]) -> Result<Postgres> {
        if !self.binaries.has("pg_basebackup") {
            bail!("no pg_basebackup beside this postgres");
        }
        let standby = place(self.binaries.clone(), self.auth)?;
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
        tokio::task::spawn_blocking(move || template::run(&mut backup)).await??;
        standby.append("postgresql.conf", &(standby.conf() + &conf.join("\n") + "\n"))?;
        standby.start_again().await?;
        Ok(standby)
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
