//! A private PgBouncer in front of a private Postgres.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::port;
use crate::postgres::Postgres;
use crate::process::Process;
use crate::reaper::{self, Kind};
use crate::user::User;
use crate::wait::wait_until;

const START: Duration = Duration::from_secs(20);

/// A pooler of our own; stopped and removed when dropped.
pub struct PgBouncer {
    home: PathBuf,
    port: u16,
    _process: Process,
}

impl PgBouncer {
    /// Everybody is let in and goes on under his own name. `conf` are lines for its section
    /// `[pgbouncer]`, such as `pool_mode = transaction`.
    pub async fn start(postgres: &Postgres, conf: &[&str]) -> Result<PgBouncer> {
        let home = reaper::directory("pgbouncer")?;
        let port = port::free()?;
        let user = User::for_postgres()?;
        let write = |name: &str, text: &str| -> Result<PathBuf> {
            let path = home.join(name);
            std::fs::write(&path, text)?;
            user.map_or(Ok(()), |user| user.own(&path))?;
            Ok(path)
        };
        let users = write("users", "\"postgres\" \"\"\n")?;
        let ini = write(
            "pgbouncer.ini",
            &format!(
                "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
                 unix_socket_dir =\nauth_type = trust\nauth_file = {}\n{}\n",
                postgres.port(),
                users.display(),
                conf.join("\n")
            ),
        )?;
        let mut command = Command::new(program()?);
        command.arg(ini).current_dir("/");
        if let Some(user) = user {
            user.run(&mut command);
        }
        let process = Process::spawn(command, Kind::Process, &home.join("log"))?;
        let is_up = async || Ok(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        let log = || std::fs::read_to_string(home.join("log")).unwrap_or_default();
        wait_until("PgBouncer to be ready", START, is_up).await.with_context(log)?;
        Ok(PgBouncer { home, port, _process: process })
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

/// Debian puts it where only root looks.
fn program() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([Path::new("/usr/sbin").to_owned()])
        .map(|directory| directory.join("pgbouncer"))
        .find(|program| program.is_file())
        .context("no pgbouncer found: run tests/setup.sh")
}
