//! What a figure was measured on.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use serde_json::{Value, json};

use crate::arguments::Arguments;
use crate::servers::Servers;

/// Cores that others use: more of it spoils a figure.
const BUSY: f64 = 0.2;
/// How long it is looked whether they do.
const LOOK: Duration = Duration::from_secs(2);
/// See the harness.
const BROKER_SETTINGS: &str = "as installed, but vm_memory_high_watermark 1GB, \
    raft.wal_max_size_bytes 32MiB, no busy waiting (+sbwt none)";

/// Names and values, in the order in which they are shown.
#[derive(Debug, Clone)]
pub struct Machine(pub Vec<(&'static str, String)>);

impl Machine {
    pub async fn of(servers: &Servers, arguments: &Arguments) -> Result<Self> {
        let client = servers.client().await?;
        let postgres: String = client.query_one("SHOW server_version", &[]).await?.get(0);
        let relay = servers.program("none", &[]).succeed(&["--version"]).await?;
        let otp = servers.rabbitmq.ctl(&["eval", "erlang:system_info(otp_release)."]).await?;
        let otp = otp.trim().trim_matches('"');
        let command: Vec<String> = std::env::args().skip(1).collect();
        servers.be_quiet().await?;
        Ok(Self(vec![
            ("time", humantime::format_rfc3339_seconds(SystemTime::now()).to_string()),
            ("arguments", command.join(" ")),
            ("processor", processor()),
            ("busy before", format!("{:.2} cores", busy_cores().await?)),
            ("memory", memory()),
            ("kernel", first_line("/proc/sys/kernel/osrelease")),
            ("pgoutbox", relay.trim().to_owned()),
            ("binary", servers.binary().display().to_string()),
            ("Postgres", postgres),
            ("Postgres' settings", servers.postgres_settings(arguments.fsync).await?),
            ("RabbitMQ", format!("{}, Erlang {otp}", servers.rabbitmq.version())),
            ("RabbitMQ's settings", BROKER_SETTINGS.to_owned()),
            ("where", "everything on this machine, over 127.0.0.1".to_owned()),
        ]))
    }

    pub fn json(&self) -> Value {
        let pairs = self.0.iter().map(|(name, value)| ((*name).to_owned(), json!(value)));
        Value::Object(pairs.collect())
    }

    /// Whether others used much of the processor just before.
    pub fn is_busy(&self) -> bool {
        let cores = self.value("busy before").split_whitespace().next();
        cores.and_then(|cores| cores.parse::<f64>().ok()).is_some_and(|cores| cores > BUSY)
    }

    pub fn value(&self, wanted: &str) -> &str {
        let found = self.0.iter().find(|(name, _)| *name == wanted);
        found.map_or("", |(_, value)| value.as_str())
    }
}

fn first_line(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}

/// How many cores are busy, while our own servers are quiet.
async fn busy_cores() -> Result<f64> {
    let before = ticks()?;
    tokio::time::sleep(LOOK).await;
    let now = ticks()?;
    let (idle, all) = (now.0 - before.0, now.1 - before.1);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Ok(cores as f64 * (1.0 - idle / all.max(1.0)))
}

/// Of all cores together: idle, and in all.
fn ticks() -> Result<(f64, f64)> {
    let line = first_line("/proc/stat");
    let fields = line.split_whitespace().skip(1).map(str::parse::<f64>);
    let fields: Vec<f64> = fields.collect::<Result<_, _>>()?;
    // user nice system idle iowait …
    let idle = fields.iter().skip(3).take(2).sum();
    Ok((idle, fields.iter().take(8).sum()))
}

fn processor() -> String {
    let told = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = told.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown", |model| model.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!("{model}, {cores} cores")
}

fn memory() -> String {
    let told = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = told.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|total| total.split_whitespace().next()?.parse::<u64>().ok());
    format!("{} MiB", kib.unwrap_or(0) / 1024)
}
