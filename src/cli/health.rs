//! `pgoutbox health`: asks the running process, for container engines that want a command.

use std::time::Duration;

use super::say;
use crate::config::{Config, Needs, Sources};
use crate::error::Fault;
use crate::observe::http::client;

/// Asks the pgoutbox that runs here whether it lives, or with --ready whether it makes progress,
/// at http.address. Exit code 1 where it does not, with its reasons.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  pgoutbox health\n  pgoutbox health --ready --timeout 2s")]
pub(super) struct Args {
    /// Whether it makes progress, instead of whether it lives
    #[arg(long)]
    pub ready: bool,
    /// How long it may take to answer
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = super::bounds::span)]
    pub timeout: Duration,
}

/// Prints what it answers, and says whether that is good.
pub(super) async fn run(args: &Args, sources: &Sources) -> Result<bool, Fault> {
    let http = Config::load(sources, Needs::NONE)?.http;
    let path = if args.ready { "/readyz" } else { "/livez" };
    if client::address(&http).is_none() {
        return Err(Fault::usage(
            "http.address is off: there is nobody to ask",
            "set http.address = \"127.0.0.1:8976\"",
        ));
    }
    let asked = client::get(&http, path, args.timeout).await;
    let (code, body) = asked.map_err(|fault| {
        let hint = "is `pgoutbox run` running, with this http.address?";
        Fault::definite(format!("pgoutbox does not answer: {}", fault.what), hint)
    })?;
    say(body.trim_end());
    Ok((200..300).contains(&code))
}
