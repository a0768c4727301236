//! How fast the relay is where the broker is not the limit: a real Postgres, the real program,
//! and a broker that acks everything that came, at once and together.
//!
//! `cargo bench --bench own_ceiling`, or `… -- EVENTS` for another backlog than 100,000, or
//! `… -- EVENTS RELAY` for another program than the one built with the bench. The CPU time of the
//! relay is the figure to compare: the rate is that of the slowest of the relay, the walsender and
//! the marks on the cores that there are.

#![allow(missing_docs, unreachable_pub, reason = "a bench has no readers of its API")]

mod measure;

use anyhow::{Context, Result};
use harness::postgres::{Options, Postgres};

use measure::{Case, PAYLOAD_BYTES, measure};

const EVENTS: u64 = 100_000;
/// So that no checkpoint and no vacuum falls into one case and not into another.
const CONF: [&str; 5] = [
    "max_wal_size = 16GB",
    "checkpoint_timeout = 1h",
    "shared_buffers = 512MB",
    "autovacuum = off",
    "wal_writer_delay = 200ms",
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    // Cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let events = match arguments.first() {
        Some(text) => text.parse().with_context(|| format!("no number of events: {text}"))?,
        None => EVENTS,
    };
    let relay = arguments.get(1).map_or(env!("CARGO_BIN_EXE_pgoutbox"), String::as_str);
    let conf = CONF.map(str::to_owned).to_vec();
    let postgres = Postgres::start(Options { conf, ..Options::default() }).await?;
    println!("{events} events of {PAYLOAD_BYTES} B, Postgres {}", postgres.version());
    println!(
        "{:>16} {:>10} {:>9} {:>18} {:>22}",
        "rows/transaction",
        "audit.mode",
        "events/s",
        "relay CPU us/event",
        "walsender CPU us/event"
    );
    for audit in ["update", "none"] {
        for rows in [1, 100] {
            let case = Case { events, rows, audit };
            let figures = measure(&postgres, relay, case).await?;
            println!("{rows:>16} {audit:>10} {figures}");
        }
    }
    Ok(())
}
