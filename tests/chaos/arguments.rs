//! What is to be run, from the command line.

use std::time::Duration;

use clap::Parser;

/// Faults on real servers, each round with a seed that replays it. Without arguments: the short
/// selection, one round of each.
#[derive(Debug, Clone, Parser)]
#[command(name = "chaos")]
pub struct Arguments {
    /// Seed of the first round; the next have the next numbers. By default random, and of the
    /// short selection the day, counted from 1970
    #[arg(long)]
    pub seed: Option<u64>,
    /// All scenarios, again and again, for so long (30m)
    #[arg(long, value_parser = humantime::parse_duration)]
    pub duration: Option<Duration>,
    /// So many rounds of each
    #[arg(long)]
    pub rounds: Option<u64>,
    /// The scenarios whose name contains this; may be given again
    #[arg(long)]
    pub only: Vec<String>,
    /// All scenarios at full size, once
    #[arg(long)]
    pub all: bool,
    /// Rounds at the same time
    #[arg(long, default_value_t = 2)]
    pub jobs: usize,
    /// Where the logs of a failed round are kept
    #[arg(long)]
    pub logs: Option<std::path::PathBuf>,
    /// Print the scenarios
    #[arg(long)]
    pub list: bool,
    /// The same as --only, as `cargo test NAME` passes it
    #[arg(hide = true)]
    filter: Vec<String>,
    // `cargo test -- …` passes the flags of the usual test harness to this one too.
    #[arg(long, hide = true)]
    nocapture: bool,
    #[arg(long, hide = true)]
    no_capture: bool,
    #[arg(long, hide = true)]
    show_output: bool,
    #[arg(long, hide = true)]
    exact: bool,
    #[arg(short, long, hide = true)]
    quiet: bool,
    #[arg(long, hide = true)]
    skip: Vec<String>,
    #[arg(long, hide = true)]
    test_threads: Option<usize>,
    #[arg(long, hide = true)]
    format: Option<String>,
}

impl Arguments {
    /// Whether the whole list is meant, at full size, and not the short selection.
    pub fn is_long(&self) -> bool {
        self.all || self.duration.is_some()
    }

    pub fn wants(&self, name: &str) -> bool {
        let mut wanted = self.only.iter().chain(&self.filter).peekable();
        let is_wanted = wanted.peek().is_none() || wanted.any(|part| name.contains(part.as_str()));
        is_wanted && !self.skip.iter().any(|part| name.contains(part.as_str()))
    }

    /// Whether scenarios were named.
    pub fn names_some(&self) -> bool {
        !self.only.is_empty() || !self.filter.is_empty()
    }
}
