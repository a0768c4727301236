//! Starting a node and talking to it.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use lapin::{Connection, ConnectionProperties};

use super::binaries::Binaries;
use super::definitions;
use crate::certs::Pair;
use crate::port;
use crate::process::Process;
use crate::reaper::{self, Kind};
use crate::wait::wait_until;

const START: Duration = Duration::from_secs(120);

#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A TLS listener beside the plain one.
    pub tls: Option<ServerTls>,
    /// Plugins to enable.
    pub plugins: Vec<String>,
    /// Streams by their own protocol too: [`RabbitMq::stream_port`].
    pub has_streams: bool,
    /// Lines for `rabbitmq.conf`, after ours.
    pub conf: Vec<String>,
    /// Virtual hosts made at boot for [`RabbitMq::add_vhost`], where a later one costs a second.
    pub spare_vhosts: usize,
}

/// Clients must show a certificate of `ca`; its common name logs in by `EXTERNAL` if asked for.
#[derive(Clone, Debug)]
pub struct ServerTls {
    pub pair: Pair,
    pub ca: String,
}

/// A node of our own; stopped and removed when dropped.
pub struct RabbitMq {
    binaries: Binaries,
    pub(super) home: PathBuf,
    ports: Ports,
    /// Its own epmd, so that no other node and no other epmd of this machine hears of ours.
    _epmd: Process,
    pub(super) process: Mutex<Option<Process>>,
    pub(super) spare_vhosts: tokio::sync::Mutex<Vec<String>>,
}

#[derive(Clone, Copy)]
struct Ports {
    amqp: u16,
    amqps: u16,
    stream: u16,
    streams: u16,
    distribution: u16,
    epmd: u16,
}

impl RabbitMq {
    pub async fn start(options: Options) -> Result<RabbitMq> {
        let rabbitmq = prepare(&options)?;
        rabbitmq.start_again().await?;
        Ok(rabbitmq)
    }

    /// Starts it after a stop or a kill: same data, same ports.
    pub async fn start_again(&self) -> Result<()> {
        if self.is_running() {
            bail!("this RabbitMQ is running");
        }
        let output = self.home.join("output");
        // The words that tell it is up would be there from the last time.
        let _ = std::fs::remove_file(&output);
        let process = Process::spawn(self.command("rabbitmq-server"), Kind::Group, &output)?;
        self.set_process(Some(process))?;
        let up =
            || std::fs::read_to_string(&output).is_ok_and(|text| text.contains("completed with"));
        let ready = async || Ok(!self.is_running() || up());
        wait_until("RabbitMQ to be ready", START, ready).await.with_context(|| self.log())?;
        if !self.is_running() {
            bail!(
                "RabbitMQ did not start:\n{}\n{}",
                std::fs::read_to_string(&output).unwrap_or_default(),
                self.log()
            );
        }
        Ok(())
    }

    pub fn is_running(&self) -> bool {
        let process = self.process.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        process.as_ref().is_some_and(|process| process.ended().is_none())
    }

    /// Such as `3.10.8`.
    pub fn version(&self) -> String {
        self.binaries.version()
    }

    pub fn port(&self) -> u16 {
        self.ports.amqp
    }

    pub fn tls_port(&self) -> u16 {
        self.ports.amqps
    }

    /// Of the stream protocol, where there is that.
    pub fn stream_port(&self) -> u16 {
        self.ports.stream
    }

    /// Likewise with TLS.
    pub fn stream_tls_port(&self) -> u16 {
        self.ports.streams
    }

    /// `guest`'s URL.
    pub fn url(&self, vhost: &str) -> String {
        self.url_on(self.ports.amqp, vhost)
    }

    /// `guest`'s URL through another port, such as a proxy's.
    pub fn url_on(&self, port: u16, vhost: &str) -> String {
        self.url_as("guest:guest", port, vhost)
    }

    /// `user` is `name:password`.
    pub fn url_as(&self, user: &str, port: u16, vhost: &str) -> String {
        format!("amqp://{user}@127.0.0.1:{port}/{}", vhost.replace('/', "%2f"))
    }

    /// Shows this certificate to whoever connects from now on.
    pub async fn show(&self, pair: &Pair) -> Result<()> {
        let key = self.home.join("server.key");
        std::fs::write(self.home.join("server.crt"), &pair.cert)?;
        std::fs::remove_file(&key)?;
        write_private(&key, &pair.key)?;
        self.ctl(&["eval", "ssl:clear_pem_cache()."]).await.map(drop)
    }

    /// `host` is one of the names in the server's certificate.
    pub fn tls_url(&self, user: &str, host: &str, vhost: &str) -> String {
        format!("amqps://{user}@{host}:{}/{}", self.ports.amqps, vhost.replace('/', "%2f"))
    }

    /// `guest`'s connection, served by the current runtime.
    pub async fn connect(&self, vhost: &str) -> Result<Connection> {
        connect(&self.url(vhost)).await
    }

    /// Runs `rabbitmqctl` and returns what it printed. Takes a second or two: Erlang starts.
    pub async fn ctl(&self, args: &[&str]) -> Result<String> {
        let mut command = self.command("rabbitmqctl");
        command.arg("--quiet").args(args);
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        if !output.status.success() {
            let told = [output.stdout, output.stderr].concat();
            bail!("rabbitmqctl {args:?}: {}\n{}", output.status, String::from_utf8_lossy(&told));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The node's own log.
    pub fn log(&self) -> String {
        let log = std::fs::read(self.home.join("node.log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    pub(super) fn set_process(&self, process: Option<Process>) -> Result<()> {
        *self.process.lock().map_err(|_| anyhow!("the node's lock is poisoned"))? = process;
        Ok(())
    }

    fn command(&self, script: &str) -> Command {
        let mut command = clean_command(&self.binaries, self.binaries.script(script));
        let home = |name: &str| self.home.join(name);
        command.current_dir(&self.home).env("HOME", &self.home).env("LANG", "C.UTF-8");
        command
            .env("ERL_EPMD_PORT", self.ports.epmd.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1");
        command.env("RABBITMQ_NODENAME", format!("pgoutbox{}@localhost", self.ports.amqp));
        command.env("RABBITMQ_NODE_PORT", self.ports.amqp.to_string());
        command.env("RABBITMQ_DIST_PORT", self.ports.distribution.to_string());
        command.env("RABBITMQ_MNESIA_BASE", home("data")).env("RABBITMQ_LOG_BASE", home("logs"));
        command.env("RABBITMQ_LOGS", home("node.log")).env("RABBITMQ_PID_FILE", home("pid"));
        command.env("RABBITMQ_CONFIG_FILE", home("rabbitmq.conf"));
        // Otherwise the files of a node that is installed here would be read too.
        command.env("RABBITMQ_CONFIG_FILES", home("conf.d/*.conf"));
        command.env("RABBITMQ_ADVANCED_CONFIG_FILE", home("advanced.config"));
        command.env("RABBITMQ_CONF_ENV_FILE", home("rabbitmq-env.conf"));
        command.env("RABBITMQ_ENABLED_PLUGINS_FILE", home("enabled_plugins"));
        // Loopback only; and no spinning for work on cores that others need.
        let erlang =
            "+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}";
        command.env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", erlang);
        command.env("RABBITMQ_CTL_ERL_ARGS", "+sbwt none +sbwtdcpu none +sbwtdio none");
        command
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        let process = self.process.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        drop(process.take());
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

/// A connection by URL, served by the current runtime.
pub async fn connect(url: &str) -> Result<Connection> {
    let connecting = Connection::connect(url, ConnectionProperties::default());
    let connected = tokio::time::timeout(Duration::from_secs(10), connecting).await;
    connected.context("connecting took over 10 s")?.with_context(|| url.to_owned())
}

/// Without the settings that a user's own RabbitMQ may have left in the environment.
fn clean_command(binaries: &Binaries, program: PathBuf) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("RABBITMQ_") || text.starts_with("ERL_") || text == "NOTIFY_SOCKET" {
            command.env_remove(&name);
        }
    }
    if let Some(erlang) = &binaries.erlang {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(
            std::iter::once(erlang.clone()).chain(std::env::split_paths(&path)),
        );
        command.env("PATH", path.unwrap_or_else(|_| erlang.clone().into()));
        command.env("ERL_ROOTDIR", erlang.parent().unwrap_or(erlang));
    }
    command
}

fn prepare(options: &Options) -> Result<RabbitMq> {
    let binaries = Binaries::find()?;
    let home = reaper::directory("rabbitmq")?;
    let ports = Ports {
        amqp: port::free()?,
        amqps: port::free()?,
        stream: port::free()?,
        streams: port::free()?,
        distribution: port::free()?,
        epmd: port::free()?,
    };
    let spare = definitions::unique_names(options.spare_vhosts);
    let write = |name: &str, text: &str| {
        std::fs::write(home.join(name), text).with_context(|| name.to_owned())
    };
    std::fs::create_dir(home.join("conf.d"))?;
    write("rabbitmq-env.conf", "")?;
    write("advanced.config", "[].\n")?;
    write("definitions.json", &definitions::at_boot(&spare).to_string())?;
    write_private(&home.join(".erlang.cookie"), &format!("{:016X}", fastrand::u64(..)))?;
    let mut plugins = options.plugins.clone();
    let mut conf = common_conf(&home, ports);
    if options.has_streams {
        conf += &stream_conf(ports, options.tls.is_some());
        plugins.push("rabbitmq_stream".to_owned());
    }
    if let Some(tls) = &options.tls {
        write("server.crt", &tls.pair.cert)?;
        write_private(&home.join("server.key"), &tls.pair.key)?;
        write("ca.crt", &tls.ca)?;
        conf += &tls_conf(&home, ports);
        plugins.push("rabbitmq_auth_mechanism_ssl".to_owned());
    }
    write("enabled_plugins", &format!("[{}].\n", plugins.join(",")))?;
    write("rabbitmq.conf", &(conf + &options.conf.join("\n") + "\n"))?;
    let epmd = start_epmd(&binaries, &home, ports.epmd)?;
    let spare_vhosts = tokio::sync::Mutex::new(spare);
    Ok(RabbitMq { binaries, home, ports, _epmd: epmd, process: Mutex::new(None), spare_vhosts })
}

/// In the foreground, as our child: one that a node starts for itself outlives it.
fn start_epmd(binaries: &Binaries, home: &std::path::Path, port: u16) -> Result<Process> {
    let program = binaries.erlang.as_ref().map_or(PathBuf::from("epmd"), |bin| bin.join("epmd"));
    let mut command = clean_command(binaries, program);
    command.args(["-address", "127.0.0.1", "-port", &port.to_string()]).current_dir("/");
    Process::spawn(command, Kind::Process, &home.join("epmd.log"))
}

fn write_private(path: &std::path::Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text)?;
    // Erlang refuses a cookie that others can read.
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o400))?)
}

fn common_conf(home: &std::path::Path, ports: Ports) -> String {
    format!(
        "listeners.tcp.1 = 127.0.0.1:{}\nload_definitions = {}\nvm_memory_high_watermark.absolute = 4GB\n\
         disk_free_limit.absolute = 50MB\nlog.file.level = info\nraft.wal_max_size_bytes = 33554432\n",
        ports.amqp,
        home.join("definitions.json").display()
    )
}

fn stream_conf(ports: Ports, has_tls: bool) -> String {
    let Ports { stream, streams, .. } = ports;
    let tls = match has_tls {
        true => format!(
            "stream.listeners.ssl.1 = 127.0.0.1:{streams}\nstream.advertised_tls_port = {streams}\n"
        ),
        false => String::new(),
    };
    format!(
        "stream.listeners.tcp.1 = 127.0.0.1:{stream}\nstream.advertised_host = localhost\n\
         stream.advertised_port = {stream}\n{tls}"
    )
}

fn tls_conf(home: &std::path::Path, ports: Ports) -> String {
    let home = home.display();
    format!(
        "listeners.ssl.1 = 127.0.0.1:{}\nssl_options.cacertfile = {home}/ca.crt\n\
         ssl_options.certfile = {home}/server.crt\nssl_options.keyfile = {home}/server.key\n\
         ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n\
         auth_mechanisms.1 = PLAIN\nauth_mechanisms.2 = AMQPLAIN\nauth_mechanisms.3 = EXTERNAL\n\
         ssl_cert_login_from = common_name\n",
        ports.amqps
    )
}
