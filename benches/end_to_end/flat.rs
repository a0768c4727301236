//! Whether an event costs the same however many wait, and however many lie in the table.

use anyhow::Result;

use crate::drain::{self, Plan, relay_name};
use crate::fill;
use crate::report::{Bound, FLOW_CPU, Outcome, RATE, RSS, Run, median};
use crate::servers::Servers;

/// By how much the cost may differ.
const TOLERANCE: f64 = 0.1;
const SMALL: u64 = 10_000;
const SMALL_ROUNDS: usize = 5;

/// A small backlog against one of so many events.
pub async fn backlog(servers: &Servers, plan: &Plan, events: u64, rss_mib: f64) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let small = "relay, backlog of 10,000".to_owned();
    let large = format!("relay, backlog of {events}");
    for round in 0..SMALL_ROUNDS {
        // The large one between the small ones: the machine may change meanwhile.
        if round == SMALL_ROUNDS / 2 {
            let plan = Plan { events, ..plan.clone() };
            add(&mut outcome, drain::one_round(servers, &plan, 0).await?, &large);
        }
        let plan = Plan { events: SMALL, ..plan.clone() };
        add(&mut outcome, drain::one_round(servers, &plan, round).await?, &small);
    }
    compare(&mut outcome, &large, &small);
    let peak = outcome.samples(&large, RSS);
    outcome.judge("peak RSS of the relay, MiB", peak, Bound::AtMost(rss_mib));
    Ok(outcome)
}

/// The same backlog in an empty table, and in one with so many relayed rows.
pub async fn table(servers: &Servers, plan: &Plan, rows: u64) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let empty = "relay, empty table".to_owned();
    let full = format!("relay, {rows} relayed rows");
    for round in 0..plan.pairs {
        add(&mut outcome, drain::one_round(servers, plan, round).await?, &empty);
    }
    servers.empty().await?;
    fill::fill_relayed(servers, rows).await?;
    for round in 0..plan.pairs {
        add(&mut outcome, drain::fill_and_drain(servers, plan, round).await?, &full);
    }
    servers.empty().await?;
    compare(&mut outcome, &full, &empty);
    Ok(outcome)
}

/// The relay's runs, under another name.
fn add(outcome: &mut Outcome, runs: Vec<Run>, name: &str) {
    let ours = runs.into_iter().filter(|run| run.who.starts_with(&relay_name("")));
    outcome.runs.extend(ours.map(|run| Run { who: name.to_owned(), ..run }));
}

fn compare(outcome: &mut Outcome, large: &str, small: &str) {
    let off = |metric| {
        let (large, small) = (outcome.samples(large, metric), outcome.samples(small, metric));
        vec![(median(&large) / median(&small) - 1.0).abs()]
    };
    let (cpu, rate) = (off(FLOW_CPU), off(RATE));
    outcome.judge("CPU of the relay per event, apart by", cpu, Bound::AtMost(TOLERANCE));
    outcome.judge("throughput, apart by", rate, Bound::AtMost(TOLERANCE));
}
