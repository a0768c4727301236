//! Events into a RabbitMQ stream: whatever is killed or cut, the stream has each of them once, in the order of
//! the commits. All of it is read at the end.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::checker;
use harness::consumer::Delivery;
use harness::proxy::{Cut, Direction, Proxy};
use harness::rabbitmq::RabbitMq;
use harness::relay::Relay;
use harness::setting::{Setting, steady, text};
use harness::stream;
use harness::wait_until;
use harness::wire::Wire;
use harness::workload::Workload;

use crate::round::{Outcome, Round, Skipped, outage, quick, reaches_the_end, relay as start};

const STREAM: &str = "events";
/// A broker that was killed may take a minute to find the leader of a stream again.
const RECOVERY: Duration = Duration::from_secs(240);

/// So many in a round of full size: rounds times this is what a long run struck.
fn strikes(round: &Round, most: usize) -> usize {
    if round.is_long { most } else { most / 4 }
}

pub async fn relay(round: Round) -> Result<Outcome> {
    let (_rabbitmq, setting) = Setting::streaming(STREAM).await?;
    let mut stage = Stage::start(&round, setting).await?;
    for _ in 0..strikes(&round, 20) {
        stage.moment().await?;
        stage.relay.kill9().await?;
        stage.run()?;
    }
    stage.judge().await
}

pub async fn broker(round: Round) -> Result<Outcome> {
    let (rabbitmq, setting) = Setting::streaming(STREAM).await?;
    knows_its_streams(&rabbitmq).await?;
    let mut stage = Stage::start(&round, setting).await?;
    for _ in 0..strikes(&round, 4) {
        stage.moment().await?;
        rabbitmq.kill9().await?;
        outage(Duration::from_secs(1)).await;
        rabbitmq.start_again().await?;
        stage.repaired().await.inspect_err(|_| round.note(&rabbitmq.log()))?;
    }
    stage.judge().await
}

pub async fn postgres(round: Round) -> Result<Outcome> {
    let (postgres, _rabbitmq, setting) = Setting::streaming_from_own_postgres(STREAM).await?;
    let mut stage = Stage::start(&round, setting).await?;
    for _ in 0..strikes(&round, 8) {
        stage.moment().await?;
        postgres.kill9().await?;
        postgres.start_again().await?;
        stage.repaired().await?;
    }
    stage.judge().await
}

/// In any order, and often not all of them.
pub async fn all(round: Round) -> Result<Outcome> {
    let (postgres, rabbitmq, setting) = Setting::streaming_from_own_postgres(STREAM).await?;
    knows_its_streams(&rabbitmq).await?;
    let mut stage = Stage::start(&round, setting).await?;
    for _ in 0..strikes(&round, 4) {
        stage.moment().await?;
        let mut order = [0, 1, 2];
        fastrand::shuffle(&mut order);
        let killed = order.get(..fastrand::usize(2..=3)).unwrap_or(&order);
        for who in killed {
            match who {
                0 => stage.relay.kill9().await?,
                1 => rabbitmq.kill9().await?,
                _ => postgres.kill9().await?,
            }
        }
        if !postgres.is_running() {
            postgres.start_again().await?;
        }
        if !stage.relay.is_running() {
            stage.run()?;
        }
        if !rabbitmq.is_running() {
            rabbitmq.start_again().await?;
        }
        stage.repaired().await.inspect_err(|_| round.note(&rabbitmq.log()))?;
    }
    stage.judge().await
}

/// One of the wires in each round: cut, silent for a while, or cut within a message.
pub async fn wire(round: Round) -> Result<Outcome> {
    let (rabbitmq, mut setting) = Setting::streaming(STREAM).await?;
    let (proxy, setting) = match fastrand::usize(0..4) {
        0 => (setting.through(Wire::Stream).await?, setting),
        1 => (setting.through(Wire::Audit).await?, setting),
        // The one with the most to lose.
        _ => {
            let proxy = Proxy::start(rabbitmq.stream_port()).await?;
            let port = proxy.port().to_string();
            (proxy, setting.set("amqp.stream_port", &port))
        }
    };
    let mut stage = Stage::start(&round, setting).await?;
    for _ in 0..strikes(&round, 16) {
        stage.moment().await?;
        let direction = if fastrand::bool() { Direction::Up } else { Direction::Down };
        let how = if fastrand::bool() { Cut::Fin } else { Cut::Rst };
        match fastrand::usize(0..8) {
            0 => {
                proxy.stall(direction);
                outage(Duration::from_secs(6)).await;
                proxy.resume(direction);
            }
            1 | 2 => {
                proxy.refuse(true);
                proxy.cut(how);
                outage(Duration::from_millis(500)).await;
                proxy.refuse(false);
            }
            _ => proxy.cut_after(fastrand::u64(1..1 << fastrand::u32(1..=14)), direction, how),
        }
        stage.repaired().await?;
    }
    stage.judge().await
}

/// RabbitMQ writes down that it coordinates streams only some time after its first one was made: killed before
/// that, it says `noproc` of each of them for ever. And 3.10 may not give a stream its leader back after
/// `kill -9`, not within minutes. There is nothing that a relay could do.
async fn knows_its_streams(rabbitmq: &RabbitMq) -> Result<()> {
    let version = rabbitmq.version();
    let what = "RabbitMQ 3.10 may not find the leader of a stream again after kill -9";
    ensure!(!version.starts_with("3.10."), Skipped(what.to_owned()));
    rabbitmq.stop().await?;
    rabbitmq.start_again().await
}

/// A relay under load, into a stream.
struct Stage {
    setting: Setting,
    relay: Relay,
    load: Workload,
    round: Round,
    recovery: Duration,
}

impl Stage {
    async fn start(round: &Round, mut setting: Setting) -> Result<Self> {
        quick(&mut setting);
        let relay = start(round, &setting)?;
        let load = Workload::start(&setting.database_url, steady()).await?;
        let (round, recovery) = (round.clone(), Duration::ZERO);
        let stage = Self { setting, relay, load, round, recovery };
        stage.marked(1).await?;
        Ok(stage)
    }

    fn run(&mut self) -> Result<()> {
        self.relay = start(&self.round, &self.setting)?;
        Ok(())
    }

    /// Waits until so many rows more are marked.
    async fn marked(&self, more: usize) -> Result<()> {
        let marked = "SELECT count(*) FROM outbox_messages WHERE relayed_at IS NOT NULL";
        let wanted = self.setting.ask::<i64>(marked).await? + i64::try_from(more)?;
        wait_until("rows to be marked", RECOVERY, async || {
            Ok(self.setting.ask::<i64>(marked).await? >= wanted)
        })
        .await
    }

    /// A random moment under load: up to so many events later.
    async fn moment(&self) -> Result<()> {
        self.marked(fastrand::usize(1..300)).await
    }

    /// Events come again.
    async fn repaired(&mut self) -> Result<()> {
        let since = Instant::now();
        self.marked(1).await?;
        self.recovery = self.recovery.max(since.elapsed());
        Ok(())
    }

    /// Ends the load, and reads the stream.
    async fn judge(mut self) -> Result<Outcome> {
        self.load.stop();
        let ledger = self.load.finish().await?;
        let mut broken = Vec::new();
        let mut note = |what: &str, done: Result<()>| {
            if let Err(error) = done {
                broken.push(format!("{what}: {error:#}"));
            }
        };
        note("slot", reaches_the_end(&self.setting, RECOVERY).await);
        note("drain", self.relay.drain(self.round.patience()).await);
        let held = stream::kept(stream::read(&self.setting.amqp_url, STREAM).await?);
        note("order", in_commit_order(&held));
        let verdict = checker::check(&ledger, &held, self.setting.unmarked().await?);
        broken.extend(verdict.broken(0));
        Ok(Outcome { verdict, broken, recovery: self.recovery })
    }
}

/// Each event's place is behind the one before.
fn in_commit_order(held: &[Delivery]) -> Result<()> {
    let place = |event: &Delivery| {
        let lsn = text(event, "pgoutbox-commit-lsn").context("no place")?.to_owned();
        let index = event.header("pgoutbox-index").and_then(|index| index.as_long_long_int());
        anyhow::Ok((lsn, index.context("no index")?))
    };
    let places = held.iter().map(place).collect::<Result<Vec<_>>>()?;
    for pair in places.windows(2) {
        ensure!(pair.first() < pair.last(), "out of the commits' order: {pair:?}");
    }
    Ok(())
}
