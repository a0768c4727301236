//! `pgoutbox status --watch`: the same, each second, in place.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use super::{Facts, Unmarked, unmarked};
use crate::commands::{connect, say};
use crate::config::Config;
use crate::error::{Class, Fault};

const PERIOD: Duration = Duration::from_secs(1);
/// Rows without a mark are not cheap to count.
const COUNT_PERIOD: Duration = Duration::from_secs(30);
/// Clears the screen and what was scrolled off it, and goes to its top.
const CLEAR: &str = "\x1b[2J\x1b[3J\x1b[H";

/// Prints until Ctrl-C, and says whether all was well at last. A server that goes away is said
/// and tried again.
///
/// # Errors
/// The settings are wrong for this server.
pub(super) async fn run(config: &Config) -> Result<bool, Fault> {
    let is_terminal = std::io::stdout().is_terminal();
    let mut watch = Watch { client: None, counted: None, is_well: false };
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        tokio::select! {
            biased;
            _ = &mut stop => return Ok(watch.is_well),
            outcome = watch.look(config, is_terminal) => match outcome {
                Err(fault) if fault.class == Class::Transient => {
                    watch.client = None;
                    begin(is_terminal);
                    say(format_args!("postgres  {fault}"));
                }
                outcome => outcome?,
            },
        }
        tokio::select! {
            biased;
            _ = &mut stop => return Ok(watch.is_well),
            () = sleep(PERIOD) => {}
        }
    }
}

struct Watch {
    client: Option<Client>,
    counted: Option<(Instant, Vec<Unmarked>)>,
    is_well: bool,
}

impl Watch {
    async fn look(&mut self, config: &Config, is_terminal: bool) -> Result<(), Fault> {
        self.is_well = false;
        let client = match self.client.take() {
            Some(client) if !client.is_closed() => client,
            _ => connect(config).await?,
        };
        let facts = Facts::look(&client, config).await?;
        let counted = match self.counted.take() {
            Some((at, counted)) if at.elapsed() < COUNT_PERIOD => (at, counted),
            _ => (Instant::now(), unmarked(&client, config).await?),
        };
        begin(is_terminal);
        facts.print(config, &counted.1);
        self.is_well = facts.is_well();
        (self.client, self.counted) = (Some(client), Some(counted));
        Ok(())
    }
}

/// In place on a terminal, one below the other in a file.
fn begin(is_terminal: bool) {
    let mut out = std::io::stdout();
    let _ = if is_terminal { write!(out, "{CLEAR}") } else { writeln!(out) };
    let _ = out.flush();
    if is_terminal {
        say(format_args!(
            "pgoutbox  {}, Ctrl-C ends\n",
            jiff::Timestamp::now().strftime("%H:%M:%S UTC")
        ));
    }
}
