//! `make demo`: the real binary at work between a private Postgres and a private RabbitMQ.
//!
//! It is killed once in the middle. At the end a verdict tells whether every promise was kept; the exit code is 1 if
//! not, 2 if the demo itself failed. Nothing is left running.

mod docker;
mod run;
mod servers;
mod view;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};

const USAGE: &str = "usage: demo [--seconds N] [--stay] [--docker]

  --seconds N  how long the workload runs (default 25)
  --stay       stay when it is over, with the URLs to play with, until Ctrl-C
  --docker     use containers even where servers are installed

PGOUTBOX_BIN names the pgoutbox binary.";

struct Arguments {
    workload: Duration,
    stay: bool,
    docker: bool,
}

fn main() -> ExitCode {
    let outcome = arguments().and_then(|arguments| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(run::demo(&arguments))
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn arguments() -> Result<Arguments> {
    let mut arguments = Arguments { workload: Duration::from_secs(25), stay: false, docker: false };
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--stay" => arguments.stay = true,
            "--docker" => arguments.docker = true,
            "--seconds" => {
                let seconds = given.next().context(USAGE)?;
                arguments.workload = Duration::from_secs(seconds.parse().context(USAGE)?);
            }
            "--help" | "-h" => {
                println!("{USAGE}");
                std::process::exit(0);
            }
            other => bail!("unknown argument {other}\n{USAGE}"),
        }
    }
    Ok(arguments)
}
