//! One file per verb, and what they share.
//!
//! **Invariant:** nothing else imports it. What a command does to the database is in
//! [`crate::operator`], [`crate::slot`] or [`crate::upkeep`]; here are arguments and what is printed.

mod attend;
mod bounds;
mod check;
mod completions;
pub(crate) mod config;
mod event;
mod health;
mod init;
mod man;
mod mood;
mod pause;
mod parked;
mod program;
mod prune;
mod replay;
mod reshard;
mod run;
mod schema;
mod size;
mod status;
mod uninstall;
mod verify;

use tokio_postgres::Client;

pub use program::main;

use crate::config::Config;
use crate::error::{Fault, with_old_key};
use crate::output;
use crate::postgres::{self, Role};
use crate::slot;
use crate::text::{harmless, wrap};

/// Prints a line. Nothing in it acts on a terminal, whatever events, servers and operators have
/// written.
fn say(line: impl std::fmt::Display) {
    output::out(harmless(format_args!("{line}\n")).as_bytes());
}

/// Prints a line whose first word is in the colour of its mood. On a terminal what is long goes on below its text.
fn say_coloured(mood: mood::Mood, word: &str, width: usize, text: impl std::fmt::Display) {
    let word = format!("{word:width$}");
    let line = harmless(format_args!("{word}{text}"));
    let lines = match output::columns() {
        None => line,
        Some(columns) => line
            .split('\n')
            .flat_map(|line| wrap(line, columns, width))
            .collect::<Vec<_>>()
            .join("\n"),
    };
    let text = lines.get(word.len()..).unwrap_or_default();
    output::out(format!("{}{text}\n", mood.painted(&word)).as_bytes());
}

/// Prints what `--json` asks for.
fn say_json(value: serde_json::Value) {
    say(format_args!("{:#}", with_old_key(value)));
}

/// The database as the one-shot commands use it.
async fn connect(config: &Config) -> Result<Client, Fault> {
    let (client, _driver) = postgres::connect(Role::Command, &config.postgres).await?;
    Ok(client)
}

/// Likewise, for those that look into the tables: with all that match patterns.
async fn connect_to_tables(config: &Config) -> Result<(Client, Config), Fault> {
    let client = connect(config).await?;
    let config = slot::expand(&client, config).await?;
    Ok((client, config))
}

/// The two roles, for those who want them.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Roles {
    /// Role that streams (LOGIN REPLICATION)
    #[arg(long, value_name = "NAME", requires = "audit_role")]
    pub stream_role: Option<String>,
    /// Role that marks and checks
    #[arg(long, value_name = "NAME", requires = "stream_role")]
    pub audit_role: Option<String>,
}

impl Roles {
    /// Both, where they were asked for.
    fn both(&self) -> Option<(&str, &str)> {
        Some((self.stream_role.as_deref()?, self.audit_role.as_deref()?))
    }
}
