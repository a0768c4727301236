//! `pgoutbox pause` and `pgoutbox resume`.

use tokio_postgres::{Client, Row};

use super::{connect, say};
use crate::config::{Config, Needs, Sources};
use crate::error::Fault;
use crate::postgres::{column, query};
use crate::sql;

/// Has the relay publish nothing more until `pgoutbox resume`: whichever process holds the slot,
/// and however often it restarts. What is in flight is finished; the slot keeps the WAL.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Example:\n  pgoutbox pause --note 'the consumers are migrated'")]
pub struct Args {
    /// Why; shown by `status` and in the log
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub note: String,
}

/// Has the relay publish again after `pgoutbox pause`.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Example:\n  pgoutbox resume")]
pub struct ResumeArgs {}

/// Pauses the relay.
///
/// # Errors
/// Postgres cannot be asked, does not let the role, or the configuration is wrong.
pub async fn run(args: &Args, sources: &Sources) -> Result<(), Fault> {
    let config = Config::load(sources, Needs::POSTGRES)?;
    let client = connect(&config).await?;
    let (by, at) = pause(&client, &config.postgres.slot, &args.note).await?;
    say(format_args!(
        "paused since {at} by {by}: nothing more is published, and the slot keeps the WAL until: pgoutbox resume"
    ));
    Ok(())
}

/// Resumes the relay.
///
/// # Errors
/// Postgres cannot be asked, does not let the role, or the configuration is wrong.
pub async fn resume(_: &ResumeArgs, sources: &Sources) -> Result<(), Fault> {
    let config = Config::load(sources, Needs::POSTGRES)?;
    let client = connect(&config).await?;
    match unpause(&client, &config.postgres.slot).await? {
        Some((by, at)) => say(format_args!("resumed; it was paused since {at} by {by}")),
        None => say("it was not paused"),
    }
    Ok(())
}

/// Pauses the relay of a slot; who paused it, and when. Where it is paused already, that stands.
///
/// # Errors
/// The connection's.
pub async fn pause(client: &Client, slot: &str, note: &str) -> Result<(String, String), Fault> {
    let rows = query(client, &sql::render(sql::PAUSE, &[("slot", slot), ("note", note)])?).await?;
    let row = rows.first().ok_or_else(|| Fault::transient("the server said nothing"))?;
    told(row)
}

/// Resumes the relay of a slot; who had paused it, and when, if anybody had.
///
/// # Errors
/// The connection's.
pub async fn unpause(client: &Client, slot: &str) -> Result<Option<(String, String)>, Fault> {
    let rows = query(client, &sql::render(sql::RESUME, &[("slot", slot)])?).await?;
    rows.first().map(told).transpose()
}

fn told(row: &Row) -> Result<(String, String), Fault> {
    Ok((column(row, "paused_by")?, column(row, "paused_at")?))
}
