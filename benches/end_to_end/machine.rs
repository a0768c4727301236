//! What a figure was measured on.

use std::time::SystemTime;

use anyhow::Result;
use serde_json::{Value, json};

use crate::arguments::Arguments;
use crate::servers::Servers;

/// Names and values, in the order in which they are shown.
#[derive(Debug, Clone)]
pub struct Machine(pub Vec<(&'static str, String)>);

impl Machine {
    pub async fn of(servers: &Servers, arguments: &Arguments) -> Result<Self> {
        let row = servers.client().await?;
        let postgres: String = row.query_one("SHOW server_version", &[]).await?.get(0);
        let relay = servers.program("none", &[]).succeed(&["--version"]).await?;
        let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        let otp = servers.rabbitmq.ctl(&["eval", "erlang:system_info(otp_release)."]).await?;
        let command: Vec<String> = std::env::args().skip(1).collect();
        Ok(Self(vec![
            ("time", humantime::format_rfc3339_seconds(
                SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds),
            ).to_string()),
            ("arguments", command.join(" ")),
            ("processor", processor()),
            ("memory", memory()),
            ("kernel", first_line("/proc/sys/kernel/osrelease")),
            ("load before", first_line("/proc/loadavg")),
            ("pgoutbox", relay.trim().to_owned()),
            ("binary", servers.binary().display().to_string()),
            ("Postgres", postgres),
            ("Postgres' settings", servers.postgres_settings(arguments.fsync).await?),
            ("RabbitMQ", format!("{}, Erlang {}", servers.rabbitmq.version(), otp.trim().trim_matches('"'))),
            ("RabbitMQ's settings", "as installed, but vm_memory_high_watermark 1GB, raft.wal_max_size_bytes 32MiB, no busy waiting (+sbwt none)".to_owned()),
            ("where", "everything on this machine, over 127.0.0.1".to_owned()),
        ]))
    }

    pub fn json(&self) -> Value {
        let pairs = self.0.iter().map(|(name, value)| ((*name).to_owned(), json!(value)));
        Value::Object(pairs.collect())
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
