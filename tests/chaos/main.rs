//! Faults on real servers: the relay under load, something breaks at a random moment, is repaired,
//! and in the end nothing is lost, made up, altered or out of order, all is marked, and the slot
//! stands at the end of the WAL. One list of scenarios: [`scenario::SCENARIOS`].
//!
//! Without arguments a short selection runs, one round of each: that is what `cargo test` does.
//! `make chaos` runs all, and a failed round again by its seed.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test binary has no readers of its API, and fails by panicking"
)]

mod arguments;
mod clock;
mod disk;
mod failover;
mod frozen;
mod huge;
mod killed;
mod refused;
mod restarted;
mod round;
mod scenario;
mod schema;
mod streams;
mod table;
mod wires;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow};
use clap::Parser;

use arguments::Arguments;
use round::{Outcome, Round, Skipped};
use scenario::{SCENARIOS, Scenario};
use table::Table;

/// What no round takes that will ever end.
const LONGEST_ROUND: Duration = Duration::from_secs(1_800);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        table::list(SCENARIOS);
        return ExitCode::SUCCESS;
    }
    let chosen: Vec<&Scenario> = chosen(&arguments);
    keep_mounts_to_ourselves(&chosen);
    // All who run it on one day meet the same choices, and others the next day; `make chaos` looks for more.
    let default = if arguments.is_long() { fastrand::u64(0..1_000_000_000) } else { today() };
    let seed = arguments.seed.unwrap_or(default);
    println!("chaos: {} scenarios, --seed {seed}", chosen.len());
    let table = run(&arguments, &chosen, seed);
    println!("{table}");
    if table.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The day, counted from 1970: the seed of the short selection.
fn today() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_secs() / 86_400
}

fn chosen(arguments: &Arguments) -> Vec<&'static Scenario> {
    let is_all = arguments.is_long() || arguments.names_some();
    let chosen = SCENARIOS.iter().filter(|scenario| is_all || scenario.is_short);
    chosen.filter(|scenario| arguments.wants(scenario.name)).collect()
}

/// Starts this program again where its mounts are nobody else's and go with it, if that can be.
fn keep_mounts_to_ourselves(chosen: &[&Scenario]) {
    let is_wanted = chosen.iter().any(|scenario| scenario.name == "wal-disk-full");
    if !is_wanted || std::env::var_os(disk::OWN_MOUNTS).is_some() {
        return;
    }
    let apart = ["-m", "--propagation", "private"];
    let can = Command::new("unshare").args(apart).arg("true").output();
    if can.is_ok_and(|output| output.status.success()) {
        let Ok(ourselves) = std::env::current_exe() else { return };
        let mut again = Command::new("unshare");
        again.args(apart).arg(ourselves).args(std::env::args_os().skip(1));
        let error = again.env(disk::OWN_MOUNTS, "1").exec();
        eprintln!("chaos: unshare: {error}");
    }
}

/// Rounds, one after the other in each of some threads, until there are enough.
fn run(arguments: &Arguments, chosen: &[&'static Scenario], seed: u64) -> Table {
    let deadline = arguments.duration.map(|duration| Instant::now() + duration);
    let rounds = arguments.rounds.unwrap_or(if deadline.is_some() { u64::MAX } else { 1 });
    let table = Mutex::new(Table::of(chosen));
    let logs = arguments
        .logs
        .clone()
        .unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("chaos"));
    let able: Vec<_> = chosen.iter().filter(|it| it.is_missing().is_none()).collect();
    let all =
        (0..rounds).flat_map(|round| able.iter().map(move |scenario| (*scenario, seed + round)));
    let queue = Mutex::new(all);
    let next = || {
        let is_over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if is_over { None } else { queue.lock().expect("the queue").next() }
    };
    std::thread::scope(|threads| {
        for _ in 0..arguments.jobs.max(1) {
            threads.spawn(|| {
                while let Some((scenario, seed)) = next() {
                    let is_long = arguments.is_long();
                    let since = Instant::now();
                    let ended = one(scenario, seed, is_long, &logs);
                    let took = since.elapsed();
                    tell(scenario, seed, is_long, took, &ended);
                    table.lock().expect("the table").add(scenario.name, seed, ended);
                }
            });
        }
    });
    table.into_inner().expect("the table")
}

/// A round on a thread of its own, whose generator makes all its choices.
fn one(scenario: &'static Scenario, seed: u64, is_long: bool, logs: &Path) -> Result<Outcome> {
    let logs = logs.to_owned();
    let thread = std::thread::spawn(move || -> Result<Outcome> {
        fastrand::seed(mix(seed, scenario.name));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let round = Round::new(is_long);
        let running = (scenario.run)(round.clone());
        let ended = runtime.block_on(async {
            let ended = tokio::time::timeout(LONGEST_ROUND, running).await;
            ended.context("the round does not end").and_then(|ended| ended)
        });
        let failed = match &ended {
            Ok(outcome) => !outcome.broken.is_empty(),
            Err(error) => !error.is::<Skipped>(),
        };
        if failed {
            keep(&round, &logs, scenario.name, seed);
        }
        ended
    });
    thread.join().unwrap_or_else(|_| Err(anyhow!("the round panicked")))
}

/// FNV-1a: the same choices for the same seed and scenario, others for another scenario.
fn mix(seed: u64, name: &str) -> u64 {
    let bytes = seed.to_le_bytes().into_iter().chain(name.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn keep(round: &Round, logs: &Path, name: &str, seed: u64) {
    let file: PathBuf = logs.join(format!("{name}-{seed}.log"));
    let kept = std::fs::create_dir_all(logs).and_then(|()| std::fs::write(&file, round.all()));
    match kept {
        Ok(()) => println!("chaos: the relay's log: {}", file.display()),
        Err(error) => println!("chaos: the relay's log is lost: {error}"),
    }
}

fn tell(scenario: &Scenario, seed: u64, is_long: bool, took: Duration, ended: &Result<Outcome>) {
    let name = scenario.name;
    let complaint = match ended {
        Ok(outcome) if outcome.broken.is_empty() => {
            return println!("chaos: {name}, seed {seed}: kept, {took:.1?}");
        }
        Ok(outcome) => outcome.broken.join("; "),
        Err(error) if error.is::<Skipped>() => return println!("chaos: {name}: SKIPPED: {error}"),
        Err(error) => format!("{error:#}"),
    };
    let size = if is_long { " --all" } else { "" };
    println!("chaos: {name}, seed {seed}: BROKEN after {took:.1?}: {complaint}");
    println!("chaos: again: make chaos ARGS='--only {name} --seed {seed} --rounds 1{size}'");
}
