//! The settings that have a flag.

use std::fmt;
use std::path::PathBuf;

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

impl Flags {
    /// Flag, key and value of what was given.
    pub(crate) fn given(&self) -> impl Iterator<Item = (&'static str, &'static str, &str)> {
        [
            ("--database-url", "postgres.url", &self.database_url),
            ("--amqp-url", "amqp.url", &self.amqp_url),
            ("--slot", "postgres.slot", &self.slot),
            ("--publication", "postgres.publication", &self.publication),
            ("--exchange", "tables.0.exchange", &self.exchange),
            ("--preset", "tables.0.preset", &self.preset),
            ("--log-level", "log.level", &self.log_level),
            ("--log-format", "log.format", &self.log_format),
        ]
        .into_iter()
        .filter_map(|(flag, key, value)| Some((flag, key, value.as_deref()?)))
    }
}
