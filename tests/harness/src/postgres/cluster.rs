//! Starting a server and talking to it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio_postgres::{Client, NoTls};

use super::binaries::Binaries;
use super::{faults::Shutdown, template};
use crate::certs::Pair;
use crate::port;
use crate::process::Process;
use crate::reaper::{self, Kind};
use crate::user::User;
use crate::wait::wait_until;

const START: Duration = Duration::from_secs(60);

/// How a client on 127.0.0.1 proves who it is. On the unix socket everybody is trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Auth {
    #[default]
    Trust,
    /// SCRAM-SHA-256; the password of `postgres` is `postgres`.
    Scram,
}

#[derive(Clone, Debug, Default)]
pub struct Options {
    pub auth: Auth,
    /// Off by default: no test pulls the plug, and `kill -9` loses nothing that reached the kernel.
    pub fsync: bool,
    /// Lines for `postgresql.conf`, after ours.
    pub conf: Vec<String>,
    /// Lines for `pg_hba.conf`, before ours.
    pub hba: Vec<String>,
    /// `ssl = on` with this server certificate and key, and the CA for client certificates.
    pub tls: Option<ServerTls>,
    /// A `bin` directory instead of the one that is found.
    pub binaries: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub struct ServerTls {
    pub pair: Pair,
    pub ca: String,
}

/// A server of our own; stopped and removed when dropped.
pub struct Postgres {
    pub(super) binaries: Binaries,
    pub(super) user: Option<User>,
    pub(super) home: PathBuf,
    pub(super) port: u16,
    pub(super) auth: Auth,
    pub(super) process: Mutex<Option<Process>>,
}

/// Whether a process works in this directory, as every backend does in its server's.
fn is_anybody_in(directory: &Path) -> bool {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut places =
        processes.filter_map(|process| std::fs::read_link(process.path().join("cwd")).ok());
    places.any(|place| place == directory)
}

impl Postgres {
    pub async fn start(options: Options) -> Result<Postgres> {
        // initdb and cp take a second: other tasks of a single-threaded test go on meanwhile.
        let postgres = tokio::task::spawn_blocking(move || prepare(&options)).await??;
        postgres.start_again().await?;
        Ok(postgres)
    }

    /// Starts it after a stop or a kill: same data, same port.
    pub async fn start_again(&self) -> Result<()> {
        if self.is_running() {
            bail!("this Postgres is running");
        }
        // The backends of a killed server take a moment to notice: as long as one lives, no other starts.
        let data = self.data();
        let has_gone = async || Ok(!is_anybody_in(&data));
        wait_until("the backends of before to be gone", START, has_gone).await?;
        let mut command = self.binaries.command("postgres");
        command.arg("-D").arg(self.data()).current_dir(&self.home);
        if let Some(user) = self.user {
            user.run(&mut command);
        }
        // Left by a killed server it would look ready before the new one is.
        let _ = std::fs::remove_file(self.data().join("postmaster.pid"));
        let process = Process::spawn(command, Kind::Postgres, &self.log_file())?;
        self.set_process(Some(process))?;
        let ready = async || Ok(!self.is_running() || self.is_ready());
        wait_until("Postgres to be ready", START, ready).await.with_context(|| self.log())?;
        if !self.is_running() {
            bail!("Postgres did not start:\n{}", self.log());
        }
        Ok(())
    }

    pub fn is_running(&self) -> bool {
        let process = self.process.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        process.as_ref().is_some_and(|process| process.ended().is_none())
    }

    /// The postmaster writes its state as the eighth line of its pid file.
    fn is_ready(&self) -> bool {
        let state = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        matches!(state.lines().nth(7).map(str::trim), Some("ready" | "standby"))
    }

    /// The major version.
    pub fn version(&self) -> u32 {
        self.binaries.version
    }

    /// One of Postgres' own programs, such as `pg_recvlogical`, of the server's version.
    pub fn program(&self, name: &str) -> Command {
        self.binaries.command(name)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of the unix socket, where everybody is trusted.
    pub fn socket(&self) -> &Path {
        &self.home
    }

    pub fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    /// The superuser's URL.
    pub fn url(&self, database: &str) -> String {
        self.url_on(self.port, database)
    }

    /// The superuser's URL through another port, such as a proxy's.
    pub fn url_on(&self, port: u16, database: &str) -> String {
        match self.auth {
            Auth::Trust => self.url_as("postgres", port, database),
            Auth::Scram => self.url_as("postgres:postgres", port, database),
        }
    }

    /// `user` is `name` or `name:password`.
    pub fn url_as(&self, user: &str, port: u16, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{port}/{database}")
    }

    /// A superuser's session. Its connection is driven by a task of the current runtime.
    pub async fn connect(&self, database: &str) -> Result<Client> {
        connect(&self.url(database)).await
    }

    /// Runs statements as superuser on a connection made for them.
    pub async fn execute(&self, database: &str, sql: &str) -> Result<()> {
        self.connect(database).await?.batch_execute(sql).await.with_context(|| sql.to_owned())
    }

    /// A new database with a unique name.
    pub async fn create_database(&self) -> Result<String> {
        let name = format!("t{:016x}", fastrand::u64(..));
        self.execute("postgres", &format!("CREATE DATABASE {name}")).await?;
        Ok(name)
    }

    /// The process that serves this slot, if one does.
    pub async fn walsender_pid(&self, slot: &str) -> Result<Option<u32>> {
        let client = self.connect("postgres").await?;
        let sql = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1";
        let pid: Option<i32> = client.query_opt(sql, &[&slot]).await?.and_then(|row| row.get(0));
        Ok(pid.map(|pid| pid.unsigned_abs()))
    }

    /// Bytes of WAL behind the slot's `confirmed_flush_lsn`.
    pub async fn slot_lag_bytes(&self, slot: &str) -> Result<i64> {
        slot_lag_bytes(&self.connect("postgres").await?, slot).await
    }

    pub fn log(&self) -> String {
        let log = std::fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    fn log_file(&self) -> PathBuf {
        self.home.join("log")
    }

    pub(super) fn set_process(&self, process: Option<Process>) -> Result<()> {
        *self.process.lock().map_err(|_| anyhow!("the server's lock is poisoned"))? = process;
        Ok(())
    }

    pub(super) fn conf(&self) -> String {
        format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\n",
            self.port,
            self.home.display()
        )
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.end(Shutdown::Immediate);
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

/// A session by URL, driven by a task of the current runtime.
pub async fn connect(url: &str) -> Result<Client> {
    let (client, connection) =
        tokio_postgres::connect(url, NoTls).await.with_context(|| url.to_owned())?;
    // Its error reaches anyone who uses the client.
    tokio::spawn(connection);
    Ok(client)
}

pub async fn slot_lag_bytes(client: &Client, slot: &str) -> Result<i64> {
    let sql = "SELECT (pg_current_wal_lsn() - confirmed_flush_lsn)::bigint FROM pg_replication_slots WHERE slot_name = $1";
    let row = client.query_opt(sql, &[&slot]).await?;
    Ok(row.with_context(|| format!("there is no slot {slot}"))?.get(0))
}

fn prepare(options: &Options) -> Result<Postgres> {
    let binaries = match &options.binaries {
        Some(directory) => Binaries::at(directory)?,
        None => Binaries::find()?,
    };
    let postgres = place(binaries, options.auth)?;
    template::copy_to(&postgres.data(), &postgres.binaries, postgres.user)?;
    let conf = postgres.conf() + &common_conf(options) + &options.conf.join("\n") + "\n";
    postgres.append("postgresql.conf", &conf)?;
    postgres.write("pg_hba.conf", &hba(options))?;
    if let Some(tls) = &options.tls {
        postgres.write("server.crt", &tls.pair.cert)?;
        postgres.write("server.key", &tls.pair.key)?;
        postgres.write("ca.crt", &tls.ca)?;
    }
    Ok(postgres)
}

/// A server without data yet.
pub(super) fn place(binaries: Binaries, auth: Auth) -> Result<Postgres> {
    let user = User::for_postgres()?;
    let home = reaper::directory("postgres")?;
    if let Some(user) = user {
        user.own(&home)?;
    }
    Ok(Postgres { binaries, user, home, port: port::free()?, auth, process: Mutex::new(None) })
}

impl Postgres {
    pub(super) fn write(&self, name: &str, text: &str) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let path = self.data().join(name);
        std::fs::write(&path, text)?;
        // Postgres refuses a key that others can read.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        self.user.map_or(Ok(()), |user| user.own(&path))
    }

    pub(super) fn append(&self, name: &str, text: &str) -> Result<()> {
        let old = std::fs::read_to_string(self.data().join(name))?;
        self.write(name, &(old + "\n" + text))
    }
}

fn common_conf(options: &Options) -> String {
    let durable = if options.fsync { "on" } else { "off" };
    let tls = match options.tls {
        Some(_) => {
            "ssl = on\nssl_cert_file = 'server.crt'\nssl_key_file = 'server.key'\nssl_ca_file = 'ca.crt'\n"
        }
        None => "",
    };
    // mmap keeps dynamic shared memory in the data directory, which is removed even after a kill.
    format!(
        "wal_level = logical\nmax_wal_senders = 40\nmax_replication_slots = 400\nmax_connections = 200\n\
         max_prepared_transactions = 10\nfsync = {durable}\nfull_page_writes = {durable}\nshared_buffers = 64MB\n\
         dynamic_shared_memory_type = mmap\nlog_line_prefix = '%m [%p] %a '\n{tls}"
    )
}

fn hba(options: &Options) -> String {
    let method = match options.auth {
        Auth::Trust => "trust",
        Auth::Scram => "scram-sha-256",
    };
    let own = options.hba.join("\n");
    format!(
        "{own}\nlocal all all trust\nlocal replication all trust\n\
         host all all 127.0.0.1/32 {method}\nhost replication all 127.0.0.1/32 {method}\n"
    )
}
