//! What came of it, one line for each scenario.

use std::fmt;
use std::time::Duration;

use anyhow::Result;

use crate::round::{Outcome, Skipped};
use crate::scenario::Scenario;

pub fn list(scenarios: &[Scenario]) {
    for scenario in scenarios {
        let short = if scenario.is_short { "short" } else { "" };
        let needs = scenario.is_missing().map(|what| format!("needs {what}"));
        println!("{:<30} {short:<6} {}", scenario.name, needs.unwrap_or_default());
    }
}

#[derive(Default)]
struct Line {
    name: &'static str,
    rounds: Vec<Outcome>,
    /// Seeds of rounds that broke a promise or could not be judged.
    failed: Vec<u64>,
    skipped: Option<String>,
}

pub struct Table(Vec<Line>);

impl Table {
    pub fn of(scenarios: &[&'static Scenario]) -> Self {
        let line = |scenario: &&'static Scenario| Line {
            name: scenario.name,
            skipped: scenario.is_missing().map(|what| format!("NOT RUN, needs {what}")),
            ..Line::default()
        };
        Self(scenarios.iter().map(line).collect())
    }

    pub fn add(&mut self, name: &str, seed: u64, ended: Result<Outcome>) {
        let Some(line) = self.0.iter_mut().find(|line| line.name == name) else { return };
        match ended {
            Ok(outcome) => {
                if !outcome.broken.is_empty() {
                    line.failed.push(seed);
                }
                line.rounds.push(outcome);
            }
            Err(error) if error.is::<Skipped>() => {
                line.skipped = Some(format!("SKIPPED: {error}"));
            }
            Err(_) => line.failed.push(seed),
        }
    }

    pub fn is_well(&self) -> bool {
        self.0.iter().all(|line| line.failed.is_empty())
    }
}

const HEAD: [&str; 11] = [
    "rounds",
    "committed",
    "delivered",
    "lost",
    "phantom",
    "repeats",
    "(max)",
    "order",
    "altered",
    "unmarked",
    "recovery",
];

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n{:<30}", "scenario")?;
        for head in HEAD {
            write!(f, " {head:>9}")?;
        }
        writeln!(f, "  verdict")?;
        self.0.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<30}", self.name)?;
        let sum = |count: fn(&Outcome) -> usize| self.rounds.iter().map(count).sum::<usize>();
        let mut repeats: Vec<usize> = self.rounds.iter().map(|it| it.verdict.repeated).collect();
        repeats.sort_unstable();
        let numbers = [
            self.rounds.len(),
            sum(|it| it.verdict.committed),
            sum(|it| it.verdict.delivered),
            sum(|it| it.verdict.lost),
            sum(|it| it.verdict.phantom),
            repeats.get(repeats.len() / 2).copied().unwrap_or(0),
            repeats.last().copied().unwrap_or(0),
            sum(|it| it.verdict.out_of_order),
            sum(|it| it.verdict.altered),
            sum(|it| it.verdict.unmarked),
        ];
        for number in numbers {
            write!(f, " {number:>9}")?;
        }
        let recovery = self.rounds.iter().map(|it| it.recovery).max().unwrap_or(Duration::ZERO);
        write!(f, " {:>9}", format!("{recovery:.1?}"))?;
        match (&self.failed[..], &self.skipped) {
            ([], None) if self.rounds.is_empty() => write!(f, "  not reached"),
            ([], None) => write!(f, "  kept"),
            ([], Some(why)) => write!(f, "  {why}"),
            (seeds, _) => write!(f, "  BROKEN, seeds {seeds:?}"),
        }
    }
}
