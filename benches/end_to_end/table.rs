//! The report for people.

use std::fmt::Write as _;

use crate::machine::Machine;
use crate::report::{Bound, Case, Metric, Outcome, Report, Verdict, median};

pub fn report(report: &Report) -> String {
    let cases: Vec<String> = report.cases.iter().map(case).collect();
    [machine(&report.machine), cases.join("\n"), verdicts(report)].join("\n")
}

pub fn machine(machine: &Machine) -> String {
    machine.0.iter().map(|(name, value)| format!("{name:<21} {value}\n")).collect()
}

pub fn case(case: &Case) -> String {
    let mut text = format!("{}: {} ({:.0} s)\n", case.name, case.about, case.seconds);
    match &case.outcome {
        Ok(outcome) => text += &outcome_of(outcome),
        Err(error) => text += &format!("  NOT MEASURED: {error:#}\n"),
    }
    text
}

/// A line for each party with the median of its runs; then the verdicts.
fn outcome_of(outcome: &Outcome) -> String {
    let metrics = outcome.metrics();
    let mut text = format!("  {:<28} {:>4}", "median of the runs", "runs");
    for metric in &metrics {
        text += &format!(" {:>width$}", metric.head, width = width(*metric));
    }
    text.push('\n');
    for who in outcome.parties() {
        let runs = outcome.runs.iter().filter(|run| run.who == who).count();
        text += &format!("  {who:<28} {runs:>4}");
        for metric in &metrics {
            let samples = outcome.samples(&who, *metric);
            let shown = match samples.is_empty() {
                true => "-".to_owned(),
                false => format!("{:.*}", metric.digits, median(&samples)),
            };
            text += &format!(" {shown:>width$}", width = width(*metric));
        }
        text.push('\n');
    }
    for verdict in &outcome.verdicts {
        text += &format!("  {}\n", line(verdict));
    }
    for note in &outcome.notes {
        text += &format!("  {note}\n");
    }
    text
}

fn width(metric: Metric) -> usize {
    metric.head.len().max(9)
}

fn line(verdict: &Verdict) -> String {
    let (sign, bound) = match verdict.bound {
        Bound::AtLeast(bound) => (">=", bound),
        Bound::AtMost(bound) => ("<=", bound),
    };
    let word = if verdict.is_met() { "met" } else { "MISSED" };
    let mut samples = String::new();
    for sample in &verdict.samples {
        let _ = write!(samples, " {sample:.3}");
    }
    let measured = verdict.measured();
    format!("{word:<6} {}: {measured:.3} (target {sign} {bound}; of{samples})", verdict.what)
}

/// All targets at the end, so that one need not search.
pub fn verdicts(report: &Report) -> String {
    let mut text = "targets\n".to_owned();
    for case in &report.cases {
        match &case.outcome {
            Ok(outcome) => {
                for verdict in &outcome.verdicts {
                    text += &format!("  {:<22} {}\n", case.name, line(verdict));
                }
            }
            Err(_) => text += &format!("  {:<22} NOT MEASURED\n", case.name),
        }
    }
    text
}
