//! The report as plots.

use std::path::Path;

use anyhow::Result;

use crate::report::{
    BROKER_CPU, Case, MARKER_CPU, Metric, Outcome, PUBLISHER_CPU, RATE, RECVLOGICAL_CPU, RELAY_CPU,
    RSS, Report, WALSENDER_CPU, median,
};
use crate::svg::{Bar, Bars, Line, curves};

pub fn write(report: &Report, out: &Path) -> Result<()> {
    let value = |name| report.machine.value(name);
    let [processor, postgres, rabbitmq, relay, time] =
        ["processor", "Postgres", "RabbitMQ", "pgoutbox", "time"].map(value);
    let about =
        format!("{processor} · Postgres {postgres} · RabbitMQ {rabbitmq} · {relay} · {time}");
    let draw = |file: &str, title: &str, metrics: &[(&str, Metric)], is_steady: bool| {
        let of = |outcome: &Outcome, who: &str| {
            (outcome.is_steady() == is_steady).then(|| bar(outcome, who, metrics)).flatten()
        };
        let bars = bars(report, title, of);
        match bars.groups.is_empty() {
            true => Ok(()),
            false => std::fs::write(out.join(file), bars.svg(&about)),
        }
    };
    let title = "Events per second of a backlog: median, and each run";
    draw("throughput.svg", title, &[("", RATE)], false)?;
    let title = "CPU per event of a backlog in microseconds, by process: median";
    draw("cpu.svg", title, &CPU, false)?;
    let title = "CPU per event under steady load in microseconds, by process: median";
    draw("cpu-steady.svg", title, &CPU, true)?;
    let title = "Peak memory of the relay in MiB: median, and each run";
    draw("memory.svg", title, &[("", RSS)], false)?;
    for case in &report.cases {
        if let Some(lines) = lines(case) {
            let title = format!("{}: {}", case.name, case.about);
            let file = format!("latency-{}.svg", case.name);
            std::fs::write(out.join(file), curves(&title, &about, &lines))?;
        }
    }
    Ok(())
}

const CPU: [(&str, Metric); 6] = [
    ("relay", RELAY_CPU),
    ("pg_recvlogical", RECVLOGICAL_CPU),
    ("bare publisher", PUBLISHER_CPU),
    ("walsender", WALSENDER_CPU),
    ("marking backends", MARKER_CPU),
    ("broker", BROKER_CPU),
];

/// A group for each case that has such figures.
fn bars(report: &Report, title: &str, bar: impl Fn(&Outcome, &str) -> Option<Bar>) -> Bars {
    let group = |case: &Case| {
        let outcome = case.outcome.as_ref().ok()?;
        let bars: Vec<Bar> = outcome.parties().iter().filter_map(|who| bar(outcome, who)).collect();
        (!bars.is_empty()).then(|| (format!("{}: {}", case.name, case.about), bars))
    };
    Bars { title: title.to_owned(), groups: report.cases.iter().filter_map(group).collect() }
}

/// Of these figures, as far as the party has them. A single one shows its runs too.
fn bar(outcome: &Outcome, who: &str, metrics: &[(&str, Metric)]) -> Option<Bar> {
    let mut parts = Vec::new();
    let mut dots = Vec::new();
    for (name, metric) in metrics {
        let samples = outcome.samples(who, *metric);
        if !samples.is_empty() {
            parts.push(((*name).to_owned(), median(&samples)));
            dots = samples;
        }
    }
    if metrics.len() > 1 {
        dots.clear();
    }
    let sum: f64 = parts.iter().map(|(_, size)| size).sum();
    let label = if sum < 100.0 { format!("{sum:.1}") } else { format!("{sum:.0}") };
    (!parts.is_empty()).then(|| Bar { name: who.to_owned(), parts, dots, label })
}

/// The median curve of each party of a steady load.
fn lines(case: &Case) -> Option<Vec<Line>> {
    let outcome = case.outcome.as_ref().ok()?;
    let line = |who: String| {
        let runs: Vec<_> =
            outcome.runs.iter().filter(|run| run.who == who && !run.curve.is_empty()).collect();
        let shares: Vec<f64> = runs.first()?.curve.iter().map(|(share, _)| *share).collect();
        let at = |index: usize| {
            let all: Vec<f64> =
                runs.iter().filter_map(|run| Some(run.curve.get(index)?.1)).collect();
            median(&all)
        };
        let points = shares.iter().enumerate().map(|(index, share)| (*share, at(index)));
        Some(Line { name: who, points: points.collect() })
    };
    let lines: Vec<Line> = outcome.parties().into_iter().filter_map(line).collect();
    (!lines.is_empty()).then_some(lines)
}
