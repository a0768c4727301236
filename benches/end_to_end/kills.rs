//! What a killed relay repeats: `kill -9` in the middle of a backlog, and another process that goes on.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::drain::{Plan, program, settings, wait_for_marks};
use crate::fill;
use crate::queue::Queue;
use crate::report::{EVENTS, Outcome, REPEATS, Run, median};
use crate::servers::Servers;

const PATIENCE: Duration = Duration::from_secs(120);
const SLOT: &str = "bench_kills";

/// As many kills of each relay as the plan has pairs.
pub async fn run(servers: &Servers, plan: &Plan) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let relays = servers.relays()?;
    for round in 0..plan.pairs {
        for turn in 0..relays.len() {
            let Some((name, servers)) = relays.get((turn + round) % relays.len()) else { continue };
            let mut run = Run::new(round, name.as_str());
            one(servers, plan, &mut run).await.with_context(|| name.clone())?;
            outcome.runs.push(run);
        }
    }
    for (name, _) in &relays {
        let mut repeats = outcome.samples(name, REPEATS);
        repeats.sort_by(f64::total_cmp);
        let (middle, most) = (median(&repeats), repeats.last().copied().unwrap_or(0.0));
        let told = format!("repeats of {name}: {middle:.0}, at most {most:.0}, of {repeats:.0?}");
        outcome.notes.push(told);
    }
    Ok(outcome)
}

async fn one(servers: &Servers, plan: &Plan, run: &mut Run) -> Result<()> {
    servers.empty().await?;
    servers.make_slot(SLOT).await?;
    let backlog = fill::fill(servers, plan.events, plan.shape).await?;
    let mut queue = Queue::make(servers, plan.queue_type, plan.shape.payload).await?;
    let settings = [settings(plan, plan.audit), queue.settings(servers)].concat();
    let (program, _proxy) = program(servers, plan, SLOT, &settings).await?;
    let relay = program.spawn(&["run"])?;
    // Long after it has begun, and long before it is done.
    let at = backlog.events * fastrand::u64(30..70) / 100;
    harness::wait_closely("the middle of the backlog", PATIENCE, async || {
        ensure!(relay.is_running(), "the relay ended:\n{}", relay.log());
        Ok(queue.count().await? >= at)
    })
    .await?;
    relay.kill9().await?;
    let next = program.spawn(&["run"])?;
    let client = servers.client().await?;
    wait_for_marks(&client, &backlog, plan.audit).await.with_context(|| next.log())?;
    next.drain(PATIENCE).await?;
    let came = queue.count().await?;
    ensure!(came >= backlog.events, "{came} messages came of {} events", backlog.events);
    run.set(EVENTS, backlog.events as f64);
    run.set(REPEATS, (came - backlog.events) as f64);
    queue.delete().await
}
