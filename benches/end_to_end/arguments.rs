//! What is to be measured, from the command line.

use std::path::PathBuf;

use clap::Parser;

/// The relay end to end, between a private Postgres and a private RabbitMQ, beside its ceilings.
#[derive(Debug, Clone, Parser)]
#[command(name = "end_to_end")]
pub struct Arguments {
    /// A short selection of few events: some minutes
    #[arg(long)]
    pub quick: bool,
    /// The cases whose name contains this; may be given again
    #[arg(long)]
    pub only: Vec<String>,
    /// Print the cases
    #[arg(long)]
    pub list: bool,
    /// Pairs of relay and ceilings in each case, instead of the case's own number
    #[arg(long)]
    pub pairs: Option<usize>,
    /// Events of a backlog that is compared with its ceilings
    #[arg(long, default_value_t = 60_000)]
    pub events: u64,
    /// Seconds of each stretch of steady load
    #[arg(long, default_value_t = 20)]
    pub seconds: u64,
    /// Of the sizes and times of the big cases (5,000,000 events, minutes without a broker)
    #[arg(long, default_value_t = 1.0)]
    pub scale: f64,
    /// Another relay to measure, instead of the one built with the bench
    #[arg(long)]
    pub relay: Option<PathBuf>,
    /// Beside the relay, and in turns with it: another one (a path), or the same with other settings
    /// (`section.key=value,…`); may be given again
    #[arg(long)]
    pub beside: Vec<String>,
    /// A setting of the relay in every case, as `section.key=value`; may be given again
    #[arg(long = "set")]
    pub settings: Vec<String>,
    /// Postgres with fsync and full_page_writes
    #[arg(long)]
    pub fsync: bool,
    /// A line for postgresql.conf; may be given again
    #[arg(long)]
    pub postgres_conf: Vec<String>,
    /// Where table, JSON and plots go, instead of target/bench
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// The same as --only
    #[arg(hide = true)]
    filter: Vec<String>,
    // `cargo bench` passes it to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Arguments {
    /// A whole name means that one case, a part of one all that contain it.
    pub fn wants(&self, name: &str, all: &[&str]) -> bool {
        let mut wanted = self.only.iter().chain(&self.filter).peekable();
        let is_meant = |part: &str| match all.contains(&part) {
            true => name == part,
            false => name.contains(part),
        };
        wanted.peek().is_none() || wanted.any(|part| is_meant(part))
    }

    /// Whether cases were named.
    pub fn names_some(&self) -> bool {
        !self.only.is_empty() || !self.filter.is_empty()
    }

    /// Events of a compared backlog.
    pub fn events(&self) -> u64 {
        if self.quick { self.events.min(20_000) } else { self.events }
    }

    /// Seconds of a stretch of steady load.
    pub fn seconds(&self) -> u64 {
        if self.quick { self.seconds.min(8) } else { self.seconds }
    }

    /// Pairs of a case that wants so many.
    pub fn pairs(&self, wanted: usize) -> usize {
        let wanted = if self.quick { wanted.min(3) } else { wanted };
        self.pairs.unwrap_or(wanted).max(1)
    }

    /// A big size, scaled.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "sizes are small")]
    pub fn scaled(&self, size: u64) -> u64 {
        ((size as f64 * self.scale) as u64).max(1)
    }
}
