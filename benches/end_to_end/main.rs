//! The relay end to end: a private Postgres, a private RabbitMQ, the real binary, and beside
//! each figure the ceilings that were measured in the same run, in turns with it. See
//! [`cases::CASES`]; `make bench`, `make bench QUICK=1`, `make bench ARGS='--only steady'`.

#![allow(missing_docs, unreachable_pub, reason = "a bench has no readers of its API")]

mod arguments;
mod bare;
mod cases;
mod ceilings;
mod child;
mod drain;
mod fill;
mod flat;
mod follow;
mod idle;
mod json;
mod kills;
mod machine;
mod meter;
mod outage;
mod plot;
mod queue;
mod receivers;
mod report;
mod servers;
mod steady;
mod svg;
mod table;
mod times;
mod writer;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;

use arguments::Arguments;
use machine::Machine;
use report::Report;
use servers::Servers;

fn main() -> ExitCode {
    let given: Vec<String> = std::env::args().collect();
    let ended = match given.get(1..) {
        Some([subcommand, rest @ ..]) if subcommand == bare::SUBCOMMAND => bare::run(rest),
        _ => start(&Arguments::parse()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("end_to_end: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: &Arguments) -> Result<()> {
    if arguments.list {
        cases::list();
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(run(arguments))?;
    let failed = report.cases.iter().filter(|case| case.outcome.is_err()).count();
    anyhow::ensure!(failed == 0, "{failed} cases could not be measured");
    Ok(())
}

/// A missed target is told, not failed over: what it means depends on the machine.
async fn run(arguments: &Arguments) -> Result<Report> {
    let out = arguments.out.clone().unwrap_or_else(default_out);
    std::fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    let chosen = cases::chosen(arguments);
    anyhow::ensure!(!chosen.is_empty(), "no case has such a name: --list prints them");
    let mut servers = Servers::start(arguments).await?;
    let machine = Machine::of(&servers, arguments).await?;
    println!("{}", table::machine(&machine));
    if machine.is_busy() {
        println!("THIS MACHINE IS BUSY WITH SOMETHING ELSE: its figures say little\n");
    }
    let mut report = Report { machine, cases: Vec::new() };
    for (number, case) in chosen.iter().enumerate() {
        println!("{} ({} of {}): {}", case.name, number + 1, chosen.len(), case.about);
        let since = Instant::now();
        let outcome = case.measure(&mut servers, arguments).await;
        let repaired = if outcome.is_err() { servers.repair().await } else { Ok(()) };
        report.cases.push(report::Case {
            name: case.name.to_owned(),
            about: case.about.to_owned(),
            seconds: since.elapsed().as_secs_f64(),
            outcome,
        });
        if let Some(case) = report.cases.last() {
            println!("{}", table::case(case));
        }
        // Kept as it grows: a run may take an hour.
        write(&report, &out)?;
        repaired?;
    }
    println!("{}", table::verdicts(&report));
    println!("table, JSON and plots: {}", out.display());
    Ok(report)
}

fn write(report: &Report, out: &Path) -> Result<()> {
    std::fs::write(out.join("report.txt"), table::report(report))?;
    let text = serde_json::to_string_pretty(&json::report(report))?;
    std::fs::write(out.join("report.json"), text)?;
    plot::write(report, out)
}

/// `target/bench`, beside what cargo builds there.
fn default_out() -> PathBuf {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    tmp.parent().unwrap_or(tmp).join("bench")
}
