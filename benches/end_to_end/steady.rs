//! Steady load: from commit to consumer, beside the floor.
//!
//! The floor of an event is what no relay can avoid: from its commit to a reader of a slot, and
//! from a publish to the consumer. Both are measured at the same rate and at the same time, by
//! a stretch of the same load without the relay; stretches with and without it take turns.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use harness::consumer::QueueType;
use harness::proxy::{Direction, Proxy};

use crate::follow::Follow;
use crate::meter::Who;
use crate::queue::Queue;
use crate::receivers::{all_came, consume, stream};
use crate::report::{
    Bound, EVENTS, MARKER_CPU, MAX, Metric, Outcome, P50, P99, P999, RATE, RELAY_CPU, RSS, Run,
};
use crate::servers::Servers;
use crate::times::{Times, percentile};
use crate::writer::{self, Load};

const PATIENCE: Duration = Duration::from_secs(60);
const SLOT: &str = "bench_steady";
/// Not counted: the first events meet cold caches and connections.
const WARM_UP: u64 = 2;

/// Share of the rate that the writers must have kept.
const KEPT_UP: f64 = 0.95;

const FLOOR: &str = "floor: both, added";
const READ: &str = "floor: commit to a slot's reader";
const PUBLISH: &str = "floor: publish to consumer";
const RELAY: &str = "relay: commit to consumer";
const SLOWED: &str = "relay, confirms slowed";
const STREAMED: &str = "relay: commit to consumer of a stream";

#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub rate: u64,
    pub payload: usize,
    pub seconds: u64,
    pub pairs: usize,
    /// Beside the relay into a quorum queue: into a stream.
    pub is_stream: bool,
    /// Confirms come so much later.
    pub confirms_slowed: Option<Duration>,
}

pub async fn run(servers: &Servers, plan: &Plan) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let into_queue = async |round| relay(servers, plan, round, QueueType::Quorum).await;
    for round in 0..plan.pairs {
        let beside = async || match plan.is_stream {
            true => Ok(vec![relay(servers, plan, round, QueueType::Stream).await?]),
            false => floor(servers, plan, round).await,
        };
        if round % 2 == 0 {
            outcome.runs.extend(beside().await?);
            outcome.runs.push(into_queue(round).await?);
        } else {
            outcome.runs.push(into_queue(round).await?);
            outcome.runs.extend(beside().await?);
        }
    }
    judge(&mut outcome, plan);
    let slowest = outcome.runs.iter().filter_map(|run| run.get(RATE)).fold(f64::INFINITY, f64::min);
    if slowest < KEPT_UP * plan.rate as f64 {
        outcome.notes.push(format!(
            "NOT AT THIS RATE: the writers came down to {slowest:.0} events/s of {}, the machine is too busy or too small",
            plan.rate
        ));
    }
    Ok(outcome)
}

/// The times of one stretch, and where in it the counting begins.
struct Stretch {
    load: Load,
    counted: std::ops::Range<usize>,
    queue: Queue,
}

impl Stretch {
    async fn begin(servers: &Servers, plan: &Plan, queue_type: QueueType) -> Result<Self> {
        servers.empty().await?;
        servers.make_slot(SLOT).await?;
        let queue = Queue::make(servers, queue_type, plan.payload).await?;
        servers.be_quiet().await?;
        let (events, first) = (plan.rate * (plan.seconds + WARM_UP), plan.rate * WARM_UP);
        let (events, first) = (usize::try_from(events)?, usize::try_from(first)?);
        let start = Instant::now();
        let load = Load { rate: plan.rate, events, payload: plan.payload, start };
        Ok(Self { load, counted: first..events, queue })
    }

    fn times(&self) -> Arc<Times> {
        Arc::new(Times::new(self.load.start, self.load.events))
    }

    /// The load begins in a moment.
    fn start_soon(&mut self) {
        self.load.start = Instant::now() + Duration::from_millis(200);
    }

    fn patience(&self) -> Duration {
        self.load.length() + PATIENCE
    }
}

async fn floor(servers: &Servers, plan: &Plan, round: usize) -> Result<Vec<Run>> {
    let mut stretch = Stretch::begin(servers, plan, QueueType::Quorum).await?;
    let [committed, read, published, consumed] = std::array::from_fn(|_| stretch.times());
    let consumer = consume(servers, &stretch.queue, &consumed).await?;
    let reader = stream(servers, SLOT, &read).await?;
    stretch.start_soon();
    let load = &stretch.load;
    let writers = writer::commit(&servers.database_url(), load, &committed)?;
    let publisher = writer::publish(&servers.amqp_url(), load, &published)?;
    writers.finish().await?;
    publisher.finish().await?;
    all_came("the reader", &read, load.events, PATIENCE).await?;
    all_came("the consumer", &consumed, load.events, PATIENCE).await?;
    drop((consumer, reader));
    let counted = || stretch.counted.clone();
    let reading = read.since(&committed, counted());
    let publishing = consumed.since(&published, counted());
    let added = reading.iter().zip(&publishing);
    let added = added.map(|(one, other)| Some((*one)? + (*other)?)).collect();
    let runs = [(READ, reading), (PUBLISH, publishing), (FLOOR, added)];
    let runs = runs.map(|(who, took)| told(round, who, &took, &committed, counted()));
    stretch.queue.delete().await?;
    Ok(runs.into())
}

async fn relay(servers: &Servers, plan: &Plan, round: usize, queue_type: QueueType) -> Result<Run> {
    let mut stretch = Stretch::begin(servers, plan, queue_type).await?;
    let [committed, consumed] = std::array::from_fn(|_| stretch.times());
    let consumer = consume(servers, &stretch.queue, &consumed).await?;
    let mut follow = Follow::begin(servers, SLOT, stretch.load.events as u64).await?;
    let proxy = Proxy::start(servers.rabbitmq.port()).await?;
    let mut program = servers.program(SLOT, &stretch.queue.settings(servers));
    if let Some(delay) = plan.confirms_slowed {
        proxy.delay(delay, Direction::Down);
        program = program.env("AMQP_URL", servers.rabbitmq.url_on(proxy.port(), &servers.vhost));
    }
    let relay = program.spawn(&["run"])?;
    let taken = "SELECT active FROM pg_replication_slots WHERE slot_name = $1";
    harness::wait_until("the relay to read", PATIENCE, async || {
        Ok(follow.client().query_one(taken, &[&SLOT]).await?.get(0))
    })
    .await
    .with_context(|| relay.log())?;
    follow.meter.add_old(Who::Relay, relay.pid())?;
    stretch.start_soon();
    let writers = writer::commit(&servers.database_url(), &stretch.load, &committed)?;
    let length = stretch.load.length();
    tokio::select! {
        ended = tokio::time::timeout(length + PATIENCE, writers.finish()) => ended.context("the writers")??,
        failed = search(&mut follow) => failed?,
    }
    let came = all_came("the consumer", &consumed, stretch.load.events, stretch.patience());
    came.await.with_context(|| relay.log())?;
    follow.meter.sample_all();
    let who = match plan.confirms_slowed {
        _ if queue_type == QueueType::Stream => STREAMED,
        Some(_) => SLOWED,
        None => RELAY,
    };
    let took = consumed.since(&committed, stretch.counted.clone());
    let mut run = told(round, who, &took, &committed, stretch.counted.clone());
    follow.tell(&mut run, Who::Relay, RELAY_CPU);
    follow.tell_servers(&mut run);
    follow.tell(&mut run, Who::Marker, MARKER_CPU);
    run.set(RSS, relay.peak_rss_bytes()? as f64 / f64::from(1 << 20));
    drop(consumer);
    relay.drain(PATIENCE).await?;
    stretch.queue.delete().await?;
    Ok(run)
}

/// For ever, or until it fails.
async fn search(follow: &mut Follow) -> Result<()> {
    loop {
        follow.find_backends().await?;
        follow.meter.sample();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn told(
    round: usize,
    who: &str,
    took: &[Option<f64>],
    committed: &Times,
    counted: std::ops::Range<usize>,
) -> Run {
    let mut run = Run::new(round, who);
    run.set(EVENTS, took.len() as f64);
    // What the writers really did, which may be less than they should.
    let (first, last) = (committed.get(counted.start), committed.get(counted.end - 1));
    if let (Some(first), Some(last)) = (first, last) {
        let seconds = last.saturating_sub(first).as_secs_f64();
        run.set(RATE, took.len().saturating_sub(1) as f64 / seconds);
    }
    let mut sorted: Vec<f64> = took.iter().copied().flatten().collect();
    sorted.sort_by(f64::total_cmp);
    for (metric, share) in [(P50, 0.5), (P99, 0.99), (P999, 0.999), (MAX, 1.0)] {
        run.set(metric, percentile(&sorted, share));
    }
    run.curve = CURVE.map(|share| (share, percentile(&sorted, share))).into();
    run
}

/// For the plot.
const CURVE: [f64; 13] =
    [0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 1.0];

fn judge(outcome: &mut Outcome, plan: &Plan) {
    if plan.is_stream {
        let ratios = outcome.ratios(STREAMED, RELAY, P50);
        outcome.judge("p50 of that into a queue", ratios, Bound::AtMost(1.0));
        return;
    }
    let mut ratio = |who: &str, metric: Metric, bound: f64| {
        let ratios = outcome.ratios(who, FLOOR, metric);
        outcome.judge(format!("{} of the floor's", metric.head), ratios, Bound::AtMost(bound));
    };
    let Some(delay) = plan.confirms_slowed else {
        ratio(RELAY, P50, 1.3);
        ratio(RELAY, P99, 2.0);
        return;
    };
    // A quarter of the delay: where each event waited for the confirm before it, it were all.
    let slowed = outcome.samples(SLOWED, P50);
    let floor = outcome.samples(FLOOR, P50);
    let delay = delay.as_secs_f64() * 1e3;
    let shares = slowed.iter().zip(&floor).map(|(slow, floor)| (slow - floor) / delay).collect();
    let what = "share of the confirms' delay that p50 has over the floor";
    outcome.judge(what, shares, Bound::AtMost(0.25));
}
