//! The settings that have a flag.

use std::fmt;
use std::path::PathBuf;

use super::kind::ValueKind;
use super::settings;

/// Flags common to all commands: `#[command(flatten)]` them where the command line is read.
/// Checked with all other settings by [`super::Config::load`], not by clap, so that all that
/// is wrong is reported at once.
#[derive(Clone, Default, clap::Args)]
pub struct Flags {
    /// Configuration file [env: PGOUTBOX_CONFIG] [default: pgoutbox.toml, then
    /// /etc/pgoutbox/pgoutbox.toml, where there is one]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Settings")]
    pub config: Option<PathBuf>,
    /// Database with the outbox [env: DATABASE_URL, PGOUTBOX_POSTGRES__URL]
    #[arg(long, global = true, value_name = "URL", help_heading = "Settings")]
    pub database_url: Option<String>,
    /// Brokers, comma-separated [env: AMQP_URL, PGOUTBOX_AMQP__URL]
    #[arg(long, global = true, value_name = "URL", help_heading = "Settings")]
    pub amqp_url: Option<String>,
    /// Logical replication slot
    #[arg(long, global = true, value_name = "NAME", help_heading = "Settings")]
    pub slot: Option<String>,
    /// Publication
    #[arg(long, global = true, value_name = "NAME", help_heading = "Settings")]
    pub publication: Option<String>,
    /// Over how many relays the outbox is spread
    #[arg(long, global = true, value_name = "COUNT", help_heading = "Settings")]
    pub shards: Option<String>,
    /// Which of them this is, from 0; not set: any that nobody has
    #[arg(long, global = true, value_name = "NUMBER", help_heading = "Settings")]
    pub shard: Option<String>,
    /// Exchange of the table's messages, a template
    #[arg(long, global = true, value_name = "NAME", help_heading = "Settings")]
    pub exchange: Option<String>,
    /// Library or relay that made the table, such as phoenix_micro or debezium
    #[arg(long, global = true, value_name = "NAME", help_heading = "Settings")]
    pub preset: Option<String>,
    /// off, error, warn, info, debug, trace, or pairs such as pgoutbox=debug
    #[arg(long, global = true, value_name = "LEVEL", help_heading = "Settings")]
    pub log_level: Option<String>,
    /// text or json
    #[arg(long, global = true, value_name = "FORMAT", help_heading = "Settings")]
    pub log_format: Option<String>,
    /// Any setting: --set window.messages=500
    #[arg(long, global = true, value_name = "KEY=VALUE", help_heading = "Settings")]
    pub set: Vec<String>,
}

// By hand: the URLs hold passwords.
impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flags").field("config", &self.config).finish_non_exhaustive()
    }
}

/// What to write instead of a flag that holds a secret.
fn instead(key: &str) -> String {
    let name = settings::env_name(key);
    format!("{name}, or {name}_FILE with the path of a file that holds it")
}

/// A URL among these has a password in it.
fn has_password(urls: &str) -> bool {
    urls.split(',').any(|url| {
        let (_, rest) = url.split_once("://").unwrap_or(("", url));
        let (authority, parameters) = rest.split_once(['/', '?']).unwrap_or((rest, ""));
        let login = authority.rsplit_once('@').map_or("", |(login, _)| login);
        let has_login = login.split_once(':').is_some_and(|(_, password)| !password.is_empty());
        has_login || parameters.split(['?', '&']).any(|one| one.starts_with("password="))
    })
}

impl Flags {
    /// The flags that hold a secret, and what to write instead: the list of processes has them.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = (String, String)> {
        let given = self.given().map(|(flag, key, value)| (flag.to_owned(), key, value));
        let pairs = self.set.iter().filter_map(|pair| pair.split_once('='));
        let set = pairs.map(|(key, value)| (format!("--set {}", key.trim()), key.trim(), value));
        given.chain(set).filter_map(|(flag, key, value)| {
            let is_secret = match settings::find(key)?.kind {
                ValueKind::Secret => !value.is_empty(),
                ValueKind::PostgresUrl | ValueKind::AmqpUrl => has_password(value),
                _ => false,
            };
            is_secret.then(|| (flag, instead(key)))
        })
    }

    /// Flag, key and value of what was given.
    pub(crate) fn given(&self) -> impl Iterator<Item = (&'static str, &'static str, &str)> {
        [
            ("--database-url", "postgres.url", &self.database_url),
            ("--amqp-url", "amqp.url", &self.amqp_url),
            ("--slot", "postgres.slot", &self.slot),
            ("--publication", "postgres.publication", &self.publication),
            ("--shards", "postgres.shards", &self.shards),
            ("--shard", "postgres.shard", &self.shard),
            ("--exchange", "tables.0.exchange", &self.exchange),
            ("--preset", "tables.0.preset", &self.preset),
            ("--log-level", "log.level", &self.log_level),
            ("--log-format", "log.format", &self.log_format),
        ]
        .into_iter()
        .filter_map(|(flag, key, value)| Some((flag, key, value.as_deref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_with_a_secret_is_known() {
        let secrets = |database: &str, set: &[&str]| -> Vec<String> {
            let set = set.iter().map(|one| (*one).to_owned()).collect();
            let flags = Flags { database_url: Some(database.to_owned()), set, ..Flags::default() };
            flags.secrets().map(|(flag, _)| flag).collect()
        };
        for open in [
            "postgres://app@db/app",
            "postgres://db",
            "postgres:///app?host=/run",
            "postgres://app:@db/x",
        ] {
            assert!(secrets(open, &["window.messages=5", "http.token="]).is_empty(), "{open}");
        }
        for secret in [
            "postgres://app:pw@db/app",
            "postgres://a@db/x?password=pw",
            "postgres://db?x=1&password=pw",
        ] {
            assert_eq!(secrets(secret, &[]), ["--database-url"], "{secret}");
        }
        let set = ["http.token=abc", "amqp.url=amqp://a,amqp://u:p@b", "postgres.password = x"];
        let wanted = ["--set http.token", "--set amqp.url", "--set postgres.password"];
        assert_eq!(secrets("postgres://db", &set), wanted);
    }
}
