//! A backlog, drained by the relay and by its ceilings in turn.
//!
//! Each round begins with an empty table, one slot for each party, and one fill: all drain the
//! same WAL, each from its own slot. At most one of them marks rows, so nobody meets marks of
//! another; marks stand behind all events in the WAL, so that the next party has all of its
//! events before it. The order of the parties turns from round to round.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::consumer::QueueType;
use harness::proxy::{Direction, Proxy};
use harness::relay::{Pgoutbox, Relay};

use tokio_postgres::Client;

use crate::ceilings::Ceiling;
use crate::fill::{self, Backlog, Shape};
use crate::follow::Follow;
use crate::meter::Who;
use crate::queue::Queue;
use crate::report::{
    Bound, EVENTS, FLOW_CPU, INSERT_WAL, MARK_WAL, MARKED_RATE, MARKER_CPU, Outcome, RATE,
    RELAY_CPU, RSS, Run, START, WHOLE, median,
};
use crate::servers::Servers;

const PATIENCE: Duration = Duration::from_secs(120);

/// What is drained, and by whom.
#[derive(Debug, Clone)]
pub struct Plan {
    pub shape: Shape,
    pub queue_type: QueueType,
    pub events: u64,
    pub pairs: usize,
    /// `audit.mode`.
    pub audit: &'static str,
    /// Other settings of the relay.
    pub settings: &'static [&'static str],
    pub ceilings: &'static [Ceiling],
    /// The relay once more, without marks.
    pub beside_none: bool,
    /// And once more, without marks, into a quorum queue.
    pub beside_queue: bool,
    /// The broker's answers come so much later.
    pub is_far: Option<Duration>,
    pub targets: Targets,
}

/// What the figures are held against.
#[derive(Debug, Clone, Copy, Default)]
pub struct Targets {
    /// Share of ceiling (c).
    pub share: Option<f64>,
    /// Share of it without marks.
    pub share_unmarked: Option<f64>,
    /// Share of throughput that marks may cost.
    pub marking: Option<f64>,
    /// CPU of the relay, in microseconds per event.
    pub cpu_us: Option<f64>,
    /// Peak of the relay's memory.
    pub rss_mib: Option<f64>,
    /// Share of ceiling (a), with marks and without.
    pub share_of_reading: Option<[f64; 2]>,
    /// How many times as fast as into a queue.
    pub times_the_queue: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Party {
    Ceiling(Ceiling),
    /// The relay with this `audit.mode`.
    Relay(&'static str),
    /// The relay without marks, into a quorum queue where the others go into a stream.
    IntoQueue,
}

impl Party {
    fn name(self) -> String {
        match self {
            Self::Ceiling(ceiling) => ceiling.name().to_owned(),
            Self::Relay(audit) => relay_name(audit),
            Self::IntoQueue => INTO_QUEUE.to_owned(),
        }
    }

    fn queue_type(self, plan: &Plan) -> QueueType {
        match self {
            Self::IntoQueue => QueueType::Quorum,
            Self::Ceiling(_) | Self::Relay(_) => plan.queue_type,
        }
    }
}

const INTO_QUEUE: &str = "relay into a queue, audit none";

/// How the relay is called in reports.
pub fn relay_name(audit: &str) -> String {
    format!("relay, audit {audit}")
}

pub async fn run(servers: &Servers, plan: &Plan) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let relays = servers.relays()?;
    for round in 0..plan.pairs {
        if relays.len() > 1 {
            outcome.runs.extend(relays_alone(&relays, plan, round).await?);
            continue;
        }
        let runs = one_round(servers, plan, round).await?;
        outcome.runs.extend(runs);
    }
    if let Some(((first, _), others)) = relays.split_first() {
        for (other, _) in others {
            let ratios = outcome.ratios(first, other, RATE);
            let ratio = median(&ratios);
            outcome.notes.push(format!(
                "throughput of {first}, of {other} in the same round: {ratio:.3}, of {ratios:.3?}"
            ));
        }
    }
    judge(&mut outcome, plan);
    Ok(outcome)
}

/// Each relay once, with a backlog of its own: all of them mark rows.
async fn relays_alone(relays: &[(String, Servers)], plan: &Plan, round: usize) -> Result<Vec<Run>> {
    let plan = Plan { ceilings: &[], beside_none: false, beside_queue: false, ..plan.clone() };
    let mut runs = Vec::new();
    for turn in 0..relays.len() {
        let Some((name, servers)) = relays.get((turn + round) % relays.len()) else { continue };
        let of_one = one_round(servers, &plan, round).await?;
        runs.extend(of_one.into_iter().map(|run| Run { who: name.clone(), ..run }));
    }
    Ok(runs)
}

/// Everybody once, on the same backlog.
pub async fn one_round(servers: &Servers, plan: &Plan, round: usize) -> Result<Vec<Run>> {
    servers.empty().await?;
    fill_and_drain(servers, plan, round).await
}

/// Likewise, with what is in the table.
pub async fn fill_and_drain(servers: &Servers, plan: &Plan, round: usize) -> Result<Vec<Run>> {
    let parties = parties(plan, round);
    for (number, _) in parties.iter().enumerate() {
        servers.make_slot(&slot(number)).await?;
    }
    let backlog = fill::fill(servers, plan.events, plan.shape).await?;
    let mut runs = Vec::new();
    for (number, party) in parties.iter().enumerate() {
        let mut run = Run::new(round, party.name());
        run.set(EVENTS, backlog.events as f64);
        let mut queue = Queue::make(servers, party.queue_type(plan), plan.shape.payload).await?;
        servers.be_quiet().await?;
        let slot = slot(number);
        let drained = match party {
            Party::Ceiling(ceiling) => {
                ceiling.drain(servers, &mut queue, &slot, &backlog, plan.shape, &mut run).await
            }
            Party::Relay(audit) => {
                relay(servers, plan, &mut queue, &slot, &backlog, audit, &mut run).await
            }
            Party::IntoQueue => {
                relay(servers, plan, &mut queue, &slot, &backlog, "none", &mut run).await
            }
        };
        drained.with_context(|| run.who.clone())?;
        run.set(INSERT_WAL, backlog.wal_bytes);
        queue.delete().await?;
        runs.push(run);
    }
    servers.drop_slots().await?;
    Ok(runs)
}

fn slot(number: usize) -> String {
    format!("bench_{number}")
}

pub fn settings(plan: &Plan, audit: &str) -> Vec<String> {
    let mode = format!("audit.mode={audit}");
    plan.settings.iter().map(|setting| (*setting).to_owned()).chain([mode]).collect()
}

/// Who takes part, in the order of this round.
fn parties(plan: &Plan, round: usize) -> Vec<Party> {
    let mut parties: Vec<Party> = plan.ceilings.iter().copied().map(Party::Ceiling).collect();
    parties.push(Party::Relay(plan.audit));
    if plan.beside_none {
        parties.push(Party::Relay("none"));
    }
    if plan.beside_queue {
        parties.push(Party::IntoQueue);
    }
    if round % 2 == 1 {
        parties.reverse();
    }
    parties
}

/// The relay on this slot, beside the proxy by which it comes to a broker that is far away.
pub async fn program(
    servers: &Servers,
    plan: &Plan,
    slot: &str,
    settings: &[String],
) -> Result<(Pgoutbox, Option<Proxy>)> {
    let program = servers.program(slot, settings);
    let Some(latency) = plan.is_far else { return Ok((program, None)) };
    let proxy = Proxy::start(servers.rabbitmq.port()).await?;
    proxy.latency(latency, Direction::Down);
    let url = servers.rabbitmq.url_on(proxy.port(), &servers.vhost);
    Ok((program.env("AMQP_URL", url), Some(proxy)))
}

async fn relay(
    servers: &Servers,
    plan: &Plan,
    queue: &mut Queue,
    slot: &str,
    backlog: &Backlog,
    audit: &str,
    run: &mut Run,
) -> Result<()> {
    let settings = [settings(plan, audit), queue.settings(servers)].concat();
    let (program, _proxy) = program(servers, plan, slot, &settings).await?;
    let mut follow = Follow::begin(servers, slot, backlog.events).await?;
    let wal_before = fill::wal_end(follow.client()).await?;
    let since = Instant::now();
    let relay = program.spawn(&["run"])?;
    follow.meter.add_new(Who::Relay, relay.pid());
    let alive = || {
        ensure!(relay.is_running(), "the relay ended:\n{}", relay.log());
        Ok(true)
    };
    follow.until(Some(&mut *queue), alive).await.with_context(|| relay.log())?;
    let first = follow.first.context("nothing came")?;
    if let (Some(rate), Some(flow)) = (follow.rate(), follow.flow()) {
        run.set(RATE, rate);
        run.set(FLOW_CPU, flow);
    }
    run.set(START, (first.at - since).as_secs_f64() * 1e3);
    run.set(WHOLE, (follow.end - since).as_secs_f64() * 1e3);
    // Until here: afterwards the walsender reads the marks, which it sends to nobody.
    follow.tell_servers(run);
    let marked = wait_for_marks(follow.client(), backlog, audit).await?;
    follow.meter.sample_all();
    if audit != "none" {
        let marked_in = (marked - first.at).as_secs_f64();
        run.set(MARKED_RATE, (backlog.events - first.count) as f64 / marked_in);
    }
    follow.tell(run, Who::Relay, RELAY_CPU);
    follow.tell(run, Who::Marker, MARKER_CPU);
    run.set(RSS, relay.peak_rss_bytes()? as f64 / f64::from(1 << 20));
    let wal = u64::from(fill::wal_end(follow.client()).await?) - u64::from(wal_before);
    run.set(MARK_WAL, wal as f64 / backlog.events as f64);
    finish(servers, &relay, queue, backlog, audit).await
}

/// When the last row was marked, which is the last to be.
pub async fn wait_for_marks(client: &Client, backlog: &Backlog, audit: &str) -> Result<Instant> {
    let sql = match audit {
        "update" => {
            "SELECT relayed_at IS NOT NULL FROM public.outbox_messages WHERE id = $1::text::uuid"
        }
        "delete" => {
            "SELECT NOT EXISTS (SELECT FROM public.outbox_messages WHERE id = $1::text::uuid)"
        }
        "side_table" => "SELECT EXISTS (SELECT FROM pgoutbox.relayed WHERE id = $1)",
        _ => return Ok(Instant::now()),
    };
    harness::wait_closely("the last mark", PATIENCE, async || {
        Ok(client.query_one(sql, &[&backlog.last_id]).await?.get(0))
    })
    .await?;
    Ok(Instant::now())
}

/// Ends the relay, and makes sure that it did all of it, once.
async fn finish(
    servers: &Servers,
    relay: &Relay,
    queue: &mut Queue,
    backlog: &Backlog,
    audit: &str,
) -> Result<()> {
    relay.drain(PATIENCE).await?;
    let came = queue.count().await?;
    ensure!(came == backlog.events, "{came} messages came of {} events", backlog.events);
    let unmarked = match audit {
        "update" => "SELECT count(*) FROM public.outbox_messages WHERE relayed_at IS NULL",
        "delete" => "SELECT count(*) FROM public.outbox_messages",
        "side_table" => {
            "SELECT (SELECT count(*) FROM public.outbox_messages) - (SELECT count(*) FROM pgoutbox.relayed)"
        }
        _ => return Ok(()),
    };
    let unmarked: i64 = servers.client().await?.query_one(unmarked, &[]).await?.get(0);
    ensure!(unmarked == 0, "{unmarked} rows are not marked:\n{}", relay.log());
    Ok(())
}

fn judge(outcome: &mut Outcome, plan: &Plan) {
    let marking = relay_name(plan.audit);
    let unmarked = relay_name("none");
    let ceiling = Ceiling::Both.name();
    let Targets { share, share_unmarked, marking: cost, cpu_us, rss_mib, .. } = plan.targets;
    let ratios = outcome.ratios(&marking, ceiling, RATE);
    if share.is_none() && !ratios.is_empty() {
        let ratio = median(&ratios);
        outcome
            .notes
            .push(format!("no target: throughput of ceiling (c): {ratio:.3}, of {ratios:.3?}"));
    }
    if let Some(bound) = share {
        outcome.judge("throughput of ceiling (c), marks on", ratios, Bound::AtLeast(bound));
    }
    if let Some(bound) = share_unmarked {
        let ratios = outcome.ratios(&unmarked, ceiling, RATE);
        outcome.judge("throughput of ceiling (c), no marks", ratios, Bound::AtLeast(bound));
    }
    if let Some(bound) = cost {
        let costs = outcome.ratios(&marking, &unmarked, RATE);
        let costs = costs.into_iter().map(|ratio| 1.0 - ratio).collect();
        outcome.judge("share of throughput that marks cost", costs, Bound::AtMost(bound));
    }
    if let Some(bound) = cpu_us {
        let samples = outcome.samples(&marking, RELAY_CPU);
        outcome.judge("CPU of the relay, us/event", samples, Bound::AtMost(bound));
    }
    if let Some(bound) = rss_mib {
        let peak = outcome.samples(&marking, RSS);
        outcome.judge("peak RSS of the relay, MiB", peak, Bound::AtMost(bound));
    }
    judge_stream(outcome, plan);
}

/// What a stream is worth: beside who only reads, and beside a queue.
fn judge_stream(outcome: &mut Outcome, plan: &Plan) {
    let [marking, unmarked] = [plan.audit, "none"].map(relay_name);
    if let Some([with, without]) = plan.targets.share_of_reading {
        let reading = Ceiling::Read.name();
        let ratios = outcome.ratios(&unmarked, reading, RATE);
        outcome.judge("throughput of ceiling (a), no marks", ratios, Bound::AtLeast(without));
        // Until the last row is marked, which is later than the last event.
        let marked = outcome.samples(&marking, MARKED_RATE).into_iter();
        let ratios = marked.zip(outcome.samples(reading, RATE)).map(|(it, that)| it / that);
        let ratios = ratios.collect();
        outcome.judge("throughput of ceiling (a), marks on", ratios, Bound::AtLeast(with));
    }
    if let Some(times) = plan.targets.times_the_queue {
        let ratios = outcome.ratios(&unmarked, INTO_QUEUE, RATE);
        outcome.judge("times as fast as into a queue, no marks", ratios, Bound::AtLeast(times));
    }
}
