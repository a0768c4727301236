//! What came of a case: figures of each run, and verdicts.

use anyhow::Result;

use crate::machine::Machine;

/// A figure's name in JSON, its heading, its digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub head: &'static str,
    pub digits: usize,
}

const fn metric(name: &'static str, head: &'static str, digits: usize) -> Metric {
    Metric { name, head, digits }
}

pub const EVENTS: Metric = metric("events", "events", 0);
pub const RATE: Metric = metric("events_per_s", "events/s", 0);
pub const MARKED_RATE: Metric = metric("marked_per_s", "marked/s", 0);
pub const START: Metric = metric("start_ms", "start ms", 0);
pub const WHOLE: Metric = metric("whole_ms", "whole ms", 0);
pub const RELAY_CPU: Metric = metric("relay_cpu_us", "relay us", 2);
pub const FLOW_CPU: Metric = metric("relay_flow_cpu_us", "its flow", 2);
pub const WALSENDER_CPU: Metric = metric("walsender_cpu_us", "walsnd us", 2);
pub const MARKER_CPU: Metric = metric("marker_cpu_us", "marker us", 2);
pub const BROKER_CPU: Metric = metric("broker_cpu_us", "broker us", 2);
pub const PUBLISHER_CPU: Metric = metric("publisher_cpu_us", "publr us", 2);
pub const RECVLOGICAL_CPU: Metric = metric("recvlogical_cpu_us", "recvlg us", 2);
pub const RSS: Metric = metric("peak_rss_mib", "RSS MiB", 1);
pub const INSERT_WAL: Metric = metric("insert_wal_bytes", "WAL ins", 0);
pub const MARK_WAL: Metric = metric("mark_wal_bytes", "WAL mark", 0);
pub const P50: Metric = metric("p50_ms", "p50 ms", 2);
pub const P99: Metric = metric("p99_ms", "p99 ms", 2);
pub const P999: Metric = metric("p999_ms", "p99.9 ms", 2);
pub const MAX: Metric = metric("max_ms", "max ms", 2);
pub const REPEATS: Metric = metric("repeats", "repeats", 0);
pub const RELAY_CORE: Metric = metric("relay_core_percent", "relay %", 3);
pub const WALSENDER_CORE: Metric = metric("walsender_core_percent", "walsnd %", 3);
pub const MARKER_CORE: Metric = metric("marker_core_percent", "marker %", 3);
pub const IDLE_WAL: Metric = metric("wal_bytes", "WAL bytes", 0);
pub const CONNECTIONS: Metric = metric("connections", "connections", 0);
pub const PACKETS: Metric = metric("packets_per_s_per_connection", "pkt/s/conn", 2);

/// In the order in which they are shown.
pub const METRICS: [Metric; 26] = [
    EVENTS,
    RATE,
    MARKED_RATE,
    START,
    WHOLE,
    RELAY_CPU,
    FLOW_CPU,
    WALSENDER_CPU,
    MARKER_CPU,
    BROKER_CPU,
    PUBLISHER_CPU,
    RECVLOGICAL_CPU,
    RSS,
    INSERT_WAL,
    MARK_WAL,
    P50,
    P99,
    P999,
    MAX,
    REPEATS,
    RELAY_CORE,
    WALSENDER_CORE,
    MARKER_CORE,
    IDLE_WAL,
    CONNECTIONS,
    PACKETS,
];

/// One measurement of one party.
#[derive(Debug, Clone)]
pub struct Run {
    pub round: usize,
    /// Such as `relay update` or `both at once`.
    pub who: String,
    pub values: Vec<(Metric, f64)>,
    /// Milliseconds below which each share of the events lies, for plots.
    pub curve: Vec<(f64, f64)>,
}

impl Run {
    pub fn new(round: usize, who: impl Into<String>) -> Self {
        Self { round, who: who.into(), values: Vec::new(), curve: Vec::new() }
    }

    pub fn set(&mut self, metric: Metric, value: f64) {
        self.values.push((metric, value));
    }

    pub fn get(&self, metric: Metric) -> Option<f64> {
        self.values.iter().find(|(name, _)| *name == metric).map(|(_, value)| *value)
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// A figure against its target.
#[derive(Debug, Clone)]
pub struct Verdict {
    pub what: String,
    /// Of each pair or run.
    pub samples: Vec<f64>,
    pub bound: Bound,
}

impl Verdict {
    /// The median of the samples.
    pub fn measured(&self) -> f64 {
        median(&self.samples)
    }

    pub fn is_met(&self) -> bool {
        match self.bound {
            Bound::AtLeast(bound) => self.measured() >= bound,
            Bound::AtMost(bound) => self.measured() <= bound,
        }
    }
}

/// What a case measured.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub runs: Vec<Run>,
    pub verdicts: Vec<Verdict>,
    pub notes: Vec<String>,
}

impl Outcome {
    /// Who was measured.
    pub fn parties(&self) -> Vec<String> {
        let mut parties: Vec<String> = Vec::new();
        for run in &self.runs {
            if !parties.contains(&run.who) {
                parties.push(run.who.clone());
            }
        }
        parties.sort();
        parties
    }

    /// Under a load of its own, not from a backlog: the rate is then the writers'.
    pub fn is_steady(&self) -> bool {
        self.runs.iter().any(|run| !run.curve.is_empty())
    }

    /// A party's figure in each round.
    pub fn samples(&self, who: &str, metric: Metric) -> Vec<f64> {
        self.runs.iter().filter(|run| run.who == who).filter_map(|run| run.get(metric)).collect()
    }

    /// Two parties' figures, divided, round by round.
    pub fn ratios(&self, one: &str, other: &str, metric: Metric) -> Vec<f64> {
        let of = |who: &str, round: usize| {
            let run = self.runs.iter().find(|run| run.who == who && run.round == round);
            run.and_then(|run| run.get(metric))
        };
        let rounds = self.runs.iter().filter(|run| run.who == one).map(|run| run.round);
        rounds.filter_map(|round| Some(of(one, round)? / of(other, round)?)).collect()
    }

    pub fn judge(&mut self, what: impl Into<String>, samples: Vec<f64>, bound: Bound) {
        if !samples.is_empty() {
            self.verdicts.push(Verdict { what: what.into(), samples, bound });
        }
    }

    /// Every figure that some run has.
    pub fn metrics(&self) -> Vec<Metric> {
        let has = |metric: &Metric| self.runs.iter().any(|run| run.get(*metric).is_some());
        METRICS.iter().copied().filter(has).collect()
    }
}

/// A case that was run, or why it could not be.
#[derive(Debug)]
pub struct Case {
    pub name: String,
    pub about: String,
    pub seconds: f64,
    pub outcome: Result<Outcome>,
}

#[derive(Debug)]
pub struct Report {
    pub machine: Machine,
    pub cases: Vec<Case>,
}

pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    if sorted.len() % 2 == 1 {
        at(middle)
    } else {
        f64::midpoint(at(middle.wrapping_sub(1)), at(middle))
    }
}
