//! The broker is down for minutes while events are committed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use harness::consumer::QueueType;

use crate::follow::Follow;
use crate::meter::Who;
use crate::queue::Queue;
use crate::report::{
    Bound, EVENTS, MARKER_CORE, Metric, Outcome, RELAY_CORE, RSS, Run, WALSENDER_CORE,
};
use crate::servers::Servers;
use crate::times::Times;
use crate::writer::{self, Load};

const SLOT: &str = "bench_outage";
const PATIENCE: Duration = Duration::from_secs(120);
/// Load before the broker goes.
const BEFORE: Duration = Duration::from_secs(5);
/// Often enough to meet a walsender that lives for one try.
const SAMPLE: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub rate: u64,
    pub payload: usize,
    pub seconds: u64,
}

pub async fn run(servers: &mut Servers, plan: &Plan) -> Result<Outcome> {
    servers.empty().await?;
    servers.make_slot(SLOT).await?;
    let queue = Queue::make(servers, QueueType::Quorum, plan.payload).await?;
    let name = queue.name().to_owned();
    let events = plan.rate * (plan.seconds + 2 * BEFORE.as_secs());
    let mut follow = Follow::begin(servers, SLOT, events).await?;
    let relay = servers.program(SLOT, &[]).spawn(&["run"])?;
    follow.meter.add_new(Who::Relay, relay.pid());
    let start = Instant::now();
    let load =
        Load { rate: plan.rate, events: usize::try_from(events)?, payload: plan.payload, start };
    let committed = Arc::new(Times::new(start, load.events));
    let writers = writer::commit(&servers.database_url(), &load, &committed)?;
    tokio::time::sleep(BEFORE).await;
    drop(queue);
    servers.rabbitmq.stop().await?;
    let mut run = Run::new(0, "relay, broker down");
    down(&mut follow, plan, &mut run).await?;
    servers.rabbitmq.start_again().await?;
    servers.look_for_beam().await?;
    let back = Instant::now();
    writers.finish().await?;
    let mut queue = Queue::open(servers, &name, plan.payload).await?;
    let come =
        harness::wait_until("all events", PATIENCE, async || Ok(queue.count().await? >= events));
    come.await.with_context(|| relay.log())?;
    let caught_up = back.elapsed().as_secs_f64();
    run.set(EVENTS, events as f64);
    run.set(RSS, relay.peak_rss_bytes()? as f64 / f64::from(1 << 20));
    relay.drain(PATIENCE).await?;
    let repeats = queue.count().await? - events;
    queue.delete().await?;
    let mut outcome = Outcome { runs: vec![run], ..Outcome::default() };
    outcome.notes.push(format!(
        "down for {} s at {} events/s; all had come {caught_up:.1} s after it was back, {repeats} of them twice",
        plan.seconds, plan.rate
    ));
    judge(&mut outcome);
    Ok(outcome)
}

/// What is used while the broker is away.
async fn down(follow: &mut Follow, plan: &Plan, run: &mut Run) -> Result<()> {
    follow.find_backends().await?;
    follow.meter.begin_here();
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(plan.seconds) {
        tokio::time::sleep(SAMPLE).await;
        follow.find_backends().await?;
        follow.meter.sample();
    }
    let seconds = since.elapsed().as_secs_f64();
    let mut tell = |who: Who, metric: Metric| {
        let used = follow.meter.used(who).unwrap_or_default().as_secs_f64();
        run.set(metric, 100.0 * used / seconds);
    };
    tell(Who::Relay, RELAY_CORE);
    tell(Who::Walsender, WALSENDER_CORE);
    tell(Who::Marker, MARKER_CORE);
    Ok(())
}

fn judge(outcome: &mut Outcome) {
    let of = |metric| outcome.runs.iter().filter_map(move |run| run.get(metric));
    let both: Vec<f64> = of(RELAY_CORE).zip(of(WALSENDER_CORE)).map(|(a, b)| a + b).collect();
    let peak: Vec<f64> = of(RSS).collect();
    outcome.judge("relay and walsender, percent of a core", both, Bound::AtMost(5.0));
    outcome.judge("peak RSS of the relay, MiB", peak, Bound::AtMost(32.0));
}
