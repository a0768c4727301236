//! A relay with nothing to do.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use harness::consumer::QueueType;
use harness::proxy::{Direction, Proxy};
use tokio_postgres::Client;

use crate::fill::{self, Shape};
use crate::follow::Follow;
use crate::meter::Who;
use crate::queue::Queue;
use crate::report::{
    Bound, CONNECTIONS, IDLE_WAL, MARKER_CORE, Metric, Outcome, PACKETS, RELAY_CORE, RSS, Run,
    WALSENDER_CORE,
};
use crate::servers::Servers;

const SLOT: &str = "bench_idle";
const PATIENCE: Duration = Duration::from_secs(60);
/// The server notes running transactions once after the last write, 15 s later; a background
/// writer that has nothing to do sees that only every 10 s.
const RESTING: Duration = Duration::from_secs(26);

pub async fn run(servers: &Servers, seconds: u64) -> Result<Outcome> {
    servers.empty().await?;
    servers.make_slot(SLOT).await?;
    let mut queue = Queue::make(servers, QueueType::Quorum, 500).await?;
    let stretch = Duration::from_secs(seconds);
    let client = servers.client().await?;
    // Its statistics of what earlier cases left are WAL too, and none of ours.
    autovacuum(&client, "off").await?;

    wal_rests(&client).await?;
    let mut without = Run::new(0, "no relay");
    without.set(IDLE_WAL, wal_within(&client, stretch).await?);

    let (postgres, rabbitmq) = (
        Proxy::start(servers.postgres.port()).await?,
        Proxy::start(servers.rabbitmq.port()).await?,
    );
    let relay = servers
        .program(SLOT, &[])
        .env("DATABASE_URL", servers.postgres.url_on(postgres.port(), &servers.database))
        .env("AMQP_URL", servers.rabbitmq.url_on(rabbitmq.port(), &servers.vhost))
        .spawn(&["run"])?;
    let mut follow = Follow::begin(servers, SLOT, 1).await?;
    follow.meter.add_new(Who::Relay, relay.pid());
    // It has worked, and works no more.
    let shape = Shape { rows: 1, payload: 500, aggregates: 1 };
    let backlog = fill::fill(servers, 10, shape).await?;
    harness::wait_until(
        "the events",
        PATIENCE,
        async || Ok(queue.count().await? >= backlog.events),
    )
    .await
    .with_context(|| relay.log())?;
    wal_rests(&client).await?;

    follow.find_backends().await?;
    follow.meter.begin_here();
    let packets = [&postgres, &rabbitmq].map(packets);
    let since = Instant::now();
    let wal = wal_within(&client, stretch).await?;
    follow.meter.sample_all();
    let seconds = since.elapsed().as_secs_f64();
    let mut with = Run::new(0, "relay, idle");
    let mut tell = |who: Who, metric: Metric| {
        let used = follow.meter.used(who).unwrap_or_default().as_secs_f64();
        with.set(metric, 100.0 * used / seconds);
    };
    tell(Who::Relay, RELAY_CORE);
    tell(Who::Walsender, WALSENDER_CORE);
    tell(Who::Marker, MARKER_CORE);
    with.set(IDLE_WAL, wal);
    with.set(RSS, relay.peak_rss_bytes()? as f64 / f64::from(1 << 20));
    let wires = [("to Postgres", &postgres), ("to RabbitMQ", &rabbitmq)];
    let wires = wires.iter().zip(packets).map(|((name, proxy), before)| {
        let mut run = Run::new(0, *name);
        let (now, open) = (self::packets(proxy), proxy.open());
        run.set(PACKETS, (now - before) as f64 / seconds / open.max(1) as f64);
        run.set(CONNECTIONS, open as f64);
        run
    });
    let mut outcome = Outcome::default();
    outcome.runs.extend(wires);
    outcome.runs.extend([without, with]);
    relay.drain(PATIENCE).await?;
    queue.delete().await?;
    autovacuum(&client, "on").await?;
    judge(&mut outcome);
    Ok(outcome)
}

async fn autovacuum(client: &Client, is_on: &str) -> Result<()> {
    client.batch_execute(&format!("ALTER SYSTEM SET autovacuum = {is_on}")).await?;
    client.batch_execute("SELECT pg_reload_conf()").await?;
    Ok(())
}

/// Both ways, the empty ones of TCP itself not counted.
fn packets(proxy: &Proxy) -> u64 {
    proxy.pieces(Direction::Up) + proxy.pieces(Direction::Down)
}

async fn wal_within(client: &Client, stretch: Duration) -> Result<f64> {
    let before = fill::wal_end(client).await?;
    tokio::time::sleep(stretch).await;
    let after = fill::wal_end(client).await?;
    Ok((u64::from(after) - u64::from(before)) as f64)
}

/// Waits until nothing was written for a while, for a minute at most: what goes on is counted.
async fn wal_rests(client: &Client) -> Result<()> {
    client.batch_execute("CHECKPOINT").await?;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline && wal_within(client, RESTING).await? > 0.0 {}
    Ok(())
}

fn judge(outcome: &mut Outcome) {
    let (relay, ours) = (outcome.samples("relay, idle", RELAY_CORE), "relay, idle");
    outcome.judge("relay, percent of a core", relay, Bound::AtMost(0.1));
    let wal = outcome.samples(ours, IDLE_WAL);
    outcome.judge("WAL written, bytes", wal, Bound::AtMost(0.0));
    for wire in ["to Postgres", "to RabbitMQ"] {
        let packets = outcome.samples(wire, PACKETS);
        outcome.judge(format!("packets/s per connection {wire}"), packets, Bound::AtMost(1.0));
    }
}
