//! `pgoutbox config`: what holds, and who said so.

use crate::config::{self, Needs, Sources};
use crate::error::Fault;
use crate::observe::metrics;

/// Prints the effective configuration and where each value came from, secrets masked.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Example:\n  DATABASE_URL=postgres://app@localhost/app pgoutbox config")]
pub(crate) struct Args {
    /// As JSON: an object of `value` and `origin` by key
    #[arg(long, conflicts_with = "docs")]
    pub json: bool,
    /// All settings with defaults, bounds and meaning, as a Markdown table
    #[arg(long)]
    pub docs: bool,
    /// All metrics with what to do when they move, as a Markdown table
    #[arg(long, conflicts_with_all = ["json", "docs"])]
    pub metrics: bool,
}

/// What the command prints, with its closing newline.
///
/// # Errors
/// The configuration is wrong: all that is, in one fault. No server need be named.
pub(crate) fn run(args: &Args, sources: &Sources) -> Result<String, Fault> {
    if args.docs {
        return Ok(config::docs_markdown());
    }
    if args.metrics {
        return Ok(metrics::docs_markdown());
    }
    let (_, explained) = config::load(sources, Needs::NONE)?;
    match args.json {
        true => Ok(format!("{:#}\n", explained.json())),
        false => Ok(explained.toml()),
    }
}
