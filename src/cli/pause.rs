//! `pgoutbox pause` and `pgoutbox resume`.

use super::{connect, say};
use crate::config::{Config, Needs, Sources};
use crate::error::Fault;
use crate::operator;

/// Stops publishing until `pgoutbox resume`: whichever process holds the slot,
/// and however often it restarts. What is in flight is finished; the slot keeps the WAL.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Example:\n  pgoutbox pause --note 'the consumers are migrated'")]
pub(super) struct Args {
    /// Why; shown by `status` and in the log
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub note: String,
}

/// Resumes publishing after `pgoutbox pause`.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Example:\n  pgoutbox resume")]
pub(super) struct ResumeArgs {}

/// Pauses the relay.
///
/// # Errors
/// Postgres cannot be asked, does not let the role, or the configuration is wrong.
pub(super) async fn run(args: &Args, sources: &Sources) -> Result<(), Fault> {
    let config = Config::load(sources, Needs::OF_RELAY)?;
    let client = connect(&config).await?;
    let pause = operator::pause(&client, &config.postgres.slot, &args.note).await?;
    let (at, by) = (&pause.at, &pause.by);
    say(format_args!(
        "paused since {at} by {by}: nothing more is published, and the slot keeps the WAL until: pgoutbox resume"
    ));
    if pause.was_paused {
        let note = pause.note.map_or_else(String::new, |note| format!("; the note: {note}"));
        say(format_args!("it was paused before{note}"));
    }
    Ok(())
}

/// Resumes the relay.
///
/// # Errors
/// Postgres cannot be asked, does not let the role, or the configuration is wrong.
pub(super) async fn resume(_: &ResumeArgs, sources: &Sources) -> Result<(), Fault> {
    let config = Config::load(sources, Needs::OF_RELAY)?;
    let client = connect(&config).await?;
    match operator::resume(&client, &config.postgres.slot).await? {
        Some((by, at)) => say(format_args!("resumed; it was paused since {at} by {by}")),
        None => say("it was not paused"),
    }
    Ok(())
}
