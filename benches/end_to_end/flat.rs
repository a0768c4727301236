//! Whether an event costs the same however many wait, and however many lie in the table.
//!
//! What is compared is measured in turns, in two databases of one server: a machine that is
//! shared changes from minute to minute by more than what is looked for.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::relay::{Pgoutbox, Relay};

use crate::drain::{self, Plan, relay_name};
use crate::fill;
use crate::follow::Follow;
use crate::meter::Who;
use crate::queue::Queue;
use crate::report::{Bound, EVENTS, FLOW_CPU, Outcome, RATE, RELAY_CPU, RSS, Run, WHOLE, median};
use crate::servers::Servers;

/// By how much the cost may differ.
const TOLERANCE: f64 = 0.1;
const SMALL: u64 = 10_000;
const SINGLE: &str = "relay, backlog of 1";
const TEN_THOUSAND: &str = "relay, backlog of 10,000";
const MARGINAL: &str = "relay, 10,000 less the start";
const PATIENCE: Duration = Duration::from_secs(120);
const SLOT: &str = "bench_large";
/// For how long nothing comes before the queue of a paused relay has all it gets.
const SETTLED: Duration = Duration::from_millis(500);

/// A small backlog against one of so many events, which one relay drains in as many parts as the
/// small one has rounds: it is paused while a round of the small one is measured.
///
/// What a small backlog costs is mostly its start, and what is read before the first event has
/// come. So a backlog of a single one is drained too, and what that takes is subtracted.
pub async fn backlog(servers: &Servers, plan: &Plan, events: u64, rss_mib: f64) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let large = format!("relay, backlog of {events}");
    let mut drain = Drain::begin(servers.beside().await?, plan, events).await?;
    for round in 0..plan.pairs {
        let is_large_first = round % 2 == 1;
        if is_large_first {
            outcome.runs.push(drain.part(round, &large).await?);
        }
        for (events, name) in [(1, SINGLE), (SMALL, TEN_THOUSAND)] {
            let plan = Plan { events, ..plan.clone() };
            add(&mut outcome, drain::one_round(servers, &plan, round).await?, name);
        }
        if !is_large_first {
            outcome.runs.push(drain.part(round, &large).await?);
        }
    }
    let peak = drain.finish().await?;
    subtract_start(&mut outcome);
    compare(&mut outcome, &large, MARGINAL);
    outcome.judge("peak RSS of the relay, MiB", vec![peak], Bound::AtMost(rss_mib));
    Ok(outcome)
}

/// What each event but the first adds to a small backlog.
fn subtract_start(outcome: &mut Outcome) {
    let of_single = |metric| median(&outcome.samples(SINGLE, metric));
    let (start_us, start_ms) = (of_single(RELAY_CPU), of_single(WHOLE));
    let small = outcome.runs.iter().filter(|run| run.who == TEN_THOUSAND);
    let marginal = small.filter_map(|run| {
        let (events, cpu_us) = (run.get(EVENTS)?, run.get(RELAY_CPU)?);
        let more = events - 1.0;
        let mut marginal = Run::new(run.round, MARGINAL);
        marginal.set(EVENTS, more);
        marginal.set(FLOW_CPU, (cpu_us * events - start_us) / more);
        marginal.set(RATE, more / ((run.get(WHOLE)? - start_ms) / 1e3));
        Some(marginal)
    });
    let marginal: Vec<Run> = marginal.collect();
    outcome.runs.extend(marginal);
}

/// The same backlog in an empty table, and in one with so many relayed rows.
pub async fn table(servers: &Servers, plan: &Plan, rows: u64) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let empty = "relay, empty table".to_owned();
    let full = format!("relay, {rows} relayed rows");
    let beside = servers.beside().await?;
    fill::fill_relayed(&beside, rows).await?;
    for round in 0..plan.pairs {
        let in_turn = if round % 2 == 0 { [false, true] } else { [true, false] };
        for is_full in in_turn {
            let (runs, name) = match is_full {
                false => (drain::one_round(servers, plan, round).await?, &empty),
                true => (drain::fill_and_drain(&beside, plan, round).await?, &full),
            };
            add(&mut outcome, runs, name);
        }
    }
    beside.remove().await?;
    compare(&mut outcome, &full, &empty);
    Ok(outcome)
}

/// A large backlog, drained in parts.
struct Drain {
    servers: Servers,
    program: Pgoutbox,
    relay: Relay,
    plan: Plan,
    /// Events of a part; the last has what is left.
    part: u64,
    left: u64,
}

impl Drain {
    /// Fills it; the relay is there, and paused.
    async fn begin(servers: Servers, plan: &Plan, events: u64) -> Result<Self> {
        servers.make_slot(SLOT).await?;
        let left = fill::fill(&servers, events, plan.shape).await?.events;
        let program = servers.program(SLOT, &drain::settings(plan, plan.audit));
        program.succeed(&["pause"]).await?;
        let relay = program.spawn(&["run"])?;
        relay.wait_for_log("paused by", PATIENCE).await?;
        let (plan, part) = (plan.clone(), left / plan.pairs as u64);
        Ok(Self { servers, program, relay, plan, part, left })
    }

    /// One part of it.
    async fn part(&mut self, round: usize, name: &str) -> Result<Run> {
        let is_last = round + 1 == self.plan.pairs;
        let part = if is_last { self.left } else { self.part };
        let (queue_type, payload) = (self.plan.queue_type, self.plan.shape.payload);
        let mut queue = Queue::make(&self.servers, queue_type, payload).await?;
        self.servers.be_quiet().await?;
        let mut follow = Follow::begin(&self.servers, SLOT, part).await?;
        follow.meter.add_new(Who::Relay, self.relay.pid());
        follow.find_backends().await?;
        follow.meter.begin_here();
        self.program.succeed(&["resume"]).await?;
        let alive = || {
            ensure!(self.relay.is_running(), "the relay ended:\n{}", self.relay.log());
            Ok(true)
        };
        follow.until(Some(&mut queue), alive).await.with_context(|| self.relay.log())?;
        let mut run = Run::new(round, name);
        run.set(EVENTS, follow.came as f64);
        run.set(RATE, follow.rate().context("nothing came")?);
        run.set(FLOW_CPU, follow.flow().context("nothing came")?);
        follow.tell_servers(&mut run);
        run.set(RSS, self.relay.peak_rss_bytes()? as f64 / f64::from(1 << 20));
        self.program.succeed(&["pause"]).await?;
        let came = settled(&mut queue).await?;
        self.left = self.left.checked_sub(came).with_context(|| {
            format!("{came} came where {} were left:\n{}", self.left, self.relay.log())
        })?;
        queue.delete().await?;
        Ok(run)
    }

    /// Makes sure that all came, once, and says how many MiB of memory the relay had at most.
    async fn finish(self) -> Result<f64> {
        ensure!(self.left == 0, "{} events did not come", self.left);
        let peak = self.relay.peak_rss_bytes()? as f64 / f64::from(1 << 20);
        self.relay.drain(PATIENCE).await?;
        self.servers.remove().await?;
        Ok(peak)
    }
}

/// What came in all, once nothing comes any more.
async fn settled(queue: &mut Queue) -> Result<u64> {
    let (mut came, mut since) = (0, Instant::now());
    harness::wait_until("what is in flight", PATIENCE, async || {
        let count = queue.count().await?;
        if count != came {
            (came, since) = (count, Instant::now());
        }
        Ok(since.elapsed() >= SETTLED)
    })
    .await?;
    Ok(came)
}

/// The relay's runs, under another name.
fn add(outcome: &mut Outcome, runs: Vec<Run>, name: &str) {
    let ours = runs.into_iter().filter(|run| run.who.starts_with(&relay_name("")));
    outcome.runs.extend(ours.map(|run| Run { who: name.to_owned(), ..run }));
}

fn compare(outcome: &mut Outcome, large: &str, small: &str) {
    for (metric, what) in [(FLOW_CPU, "CPU of the relay per event"), (RATE, "throughput")] {
        let ratios = outcome.ratios(large, small, metric);
        outcome.notes.push(format!("{what}, {large} by {small}: {ratios:.3?}"));
        let apart = vec![(median(&ratios) - 1.0).abs()];
        outcome.judge(format!("{what}, apart by"), apart, Bound::AtMost(TOLERANCE));
    }
}
