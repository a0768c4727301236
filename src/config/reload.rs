//! What SIGHUP changes, and what it cannot.

use super::{Config, Log, SettingsReport};

/// Taken over by the next process only: each is in use from its first moment on.
const RESTART: [&str; 3] = ["http.address", "http.token", "log.format"];
/// Taken over at once, and nothing is interrupted.
const AT_ONCE: &str = "log.level";
/// Read by `init` only.
const OF_INIT: &str = "declare.";

/// A configuration, and how it is shown.
#[derive(Debug, Clone)]
pub(crate) struct InForce {
    /// The configuration.
    pub config: Config,
    /// Each of its values.
    pub explained: SettingsReport,
}

/// What is different in a configuration that was read again, by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// What needs a new session.
    pub sessions: Vec<String>,
    /// What needs a new process.
    pub restart: Vec<String>,
    /// What `run` does not read.
    pub of_init: Vec<String>,
    /// Whether `log.level` is another.
    pub has_level: bool,
}

impl InForce {
    /// Whether another would have `run` do the same.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let declare = self.config.declare.clone();
        let own = &self.config.log;
        let log = Log { level: own.level.clone(), is_json: own.is_json, ..other.config.log };
        Config { log, declare, ..other.config.clone() } == self.config
    }
}

/// Compares what was read with what is in force. What needs a new process stays as it is, so that
/// the next SIGHUP says so again.
pub(crate) fn plan(current: &InForce, read: &mut InForce) -> Plan {
    let mut keys = current.explained.differences(&read.explained);
    keys.extend(secrets(&current.config, &read.config).map(str::to_owned));
    keys.sort();
    keys.dedup();
    let mut plan = Plan::default();
    for key in keys {
        if RESTART.contains(&key.as_str()) {
            read.explained.take(&key, &current.explained);
            plan.restart.push(key);
        } else if key == AT_ONCE {
            plan.has_level = true;
        } else if key.starts_with(OF_INIT) {
            plan.of_init.push(key);
        } else {
            plan.sessions.push(key);
        }
    }
    read.config.http.clone_from(&current.config.http);
    read.config.log.is_json = current.config.log.is_json;
    plan
}

/// A token in a file is read again by itself.
fn is_token(current: &Config, read: &Config) -> bool {
    let (current, read) = (&current.http, &read.http);
    let is_renewed = read.token.is_some()
        && current.token_place.file.is_some()
        && current.token_place.file == read.token_place.file;
    current.token != read.token && !is_renewed
}

/// What is masked wherever it is shown.
fn secrets<'a>(current: &'a Config, read: &'a Config) -> impl Iterator<Item = &'static str> {
    let brokers = |config: &Config| -> Vec<_> {
        config.amqp.brokers.iter().map(|broker| broker.password.clone()).collect()
    };
    let headers = |config: &Config| config.otlp.as_ref().map(|otlp| otlp.headers.clone());
    let (postgres, other) = (&current.postgres, &read.postgres);
    [
        ("postgres.password", postgres.audit.password != other.audit.password),
        ("postgres.stream_password", postgres.stream.password != other.stream.password),
        ("amqp.password", brokers(current) != brokers(read)),
        ("http.token", is_token(current, read)),
        ("otlp.headers", headers(current) != headers(read)),
    ]
    .into_iter()
    .filter_map(|(key, is_other)| is_other.then_some(key))
}
