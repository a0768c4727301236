//! The demo's course.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use harness::checker::{self, Latency, Verdict};
use harness::consumer::{self, Consumer, Delivery};
use harness::postgres;
use harness::relay::{Pgoutbox, Relay};
use harness::workload::{self, Ledger, Until, Workload};

use crate::Arguments;
use crate::servers::Servers;
use crate::view::{Sampler, View};

/// What a `kill -9` may repeat: a window of unconfirmed messages and a batch of marks.
const REPEATS_ALLOWED: usize = 1_000 + 500;
const CATCH_UP: Duration = Duration::from_secs(60);
const TABLE: &str = "public.outbox_messages";

pub(crate) async fn demo(arguments: &Arguments) -> Result<bool> {
    let pgoutbox = Pgoutbox::from_env()?;
    println!("starting a Postgres and a RabbitMQ of our own ...");
    let servers = Servers::start(arguments.docker).await?;
    println!(
        "{}\n  DATABASE_URL={}\n  AMQP_URL={}",
        servers.described, servers.database_url, servers.amqp_url
    );
    let pgoutbox =
        pgoutbox.env("DATABASE_URL", &servers.database_url).env("AMQP_URL", &servers.amqp_url);

    println!("\n$ pgoutbox init --declare");
    print!("{}", pgoutbox.succeed(&["init", "--declare"]).await?);
    let consumer = Consumer::start(&servers.amqp_url, consumer_options()).await?;
    println!("\n$ pgoutbox run");
    let relay = pgoutbox.spawn(&["run"])?;

    let mut course = Course {
        workload: Workload::start(&servers.database_url, workload_options(arguments.workload))
            .await?,
        sampler: Sampler::new(postgres::connect(&servers.database_url).await?),
        consumer,
        relay,
        view: View::new(),
        killed: None,
    };
    course.work(&pgoutbox, arguments.workload).await?;
    let caught_up = course.catch_up().await;
    if arguments.stay {
        stay(&servers).await?;
    }
    course.end(caught_up).await
}

fn consumer_options() -> consumer::Options {
    // `init --declare` has declared the exchange.
    consumer::Options {
        queue: "demo".to_owned(),
        declare_exchange: false,
        ..consumer::Options::default()
    }
}

fn workload_options(duration: Duration) -> workload::Options {
    workload::Options {
        table: TABLE.to_owned(),
        writers: 6,
        aggregates: 200,
        until: Until::Elapsed(duration),
        // A pace that leaves two cores some air: latency is shown, not the limit.
        pause: Duration::from_millis(12),
        ..workload::Options::default()
    }
}

/// Dropped in this order, so the relay goes before its servers.
struct Course {
    relay: Relay,
    workload: Workload,
    consumer: Consumer,
    sampler: Sampler,
    view: View,
    killed: Option<SystemTime>,
}

impl Course {
    async fn work(&mut self, pgoutbox: &Pgoutbox, duration: Duration) -> Result<()> {
        let start = Instant::now();
        while !self.workload.is_over() {
            if self.killed.is_none() && start.elapsed() > duration / 2 {
                self.relay.kill9().await?;
                self.killed = Some(SystemTime::now());
                self.view.event("kill -9 of the relay, and a new one");
                self.relay = pgoutbox.spawn(&["run"])?;
            }
            self.show("working").await?;
        }
        Ok(())
    }

    /// Until all that was committed is delivered and marked.
    async fn catch_up(&mut self) -> bool {
        let deadline = Instant::now() + CATCH_UP;
        while Instant::now() < deadline {
            let Ok(numbers) = self.show("catching up").await else { return false };
            if numbers.0 >= self.workload.committed() && numbers.1 == 0 {
                return true;
            }
        }
        false
    }

    /// Shows where we are; returns how many events came and how many rows are unmarked.
    async fn show(&mut self, state: &str) -> Result<(usize, i64)> {
        if !self.relay.is_running() {
            bail!("the relay has ended by itself:\n{}", self.relay.log());
        }
        self.view.tick().await;
        let numbers = self.sampler.sample(&self.workload, &self.consumer, &self.relay).await?;
        self.view.draw(state, &numbers);
        Ok((numbers.delivered, numbers.unmarked))
    }

    async fn end(self, caught_up: bool) -> Result<bool> {
        self.view.end();
        if !caught_up {
            println!(
                "not everything arrived and was marked in time; the relay's log ends with:\n{}",
                tail(&self.relay.log())
            );
        }
        let usage = usage(&self.relay)?;
        self.relay.drain(Duration::from_secs(20)).await.context("after SIGTERM")?;
        println!("SIGTERM: drained, exit code 0; the last relay used {usage}");
        let ledger = self.workload.finish().await?;
        let deliveries = self.consumer.finish();
        let unmarked = checker::unmarked(self.sampler.client(), TABLE).await?;
        let verdict = checker::check(&ledger, &deliveries, unmarked);
        Ok(pronounce(&verdict, &ledger, &deliveries, self.killed))
    }
}

fn usage(relay: &Relay) -> Result<String> {
    let mebibytes = relay.peak_rss_bytes()? / (1 << 20);
    Ok(format!("{:.1} s of CPU and {mebibytes} MiB at most", relay.cpu()?.as_secs_f64()))
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n")
}

fn pronounce(
    verdict: &Verdict,
    ledger: &Ledger,
    deliveries: &[Delivery],
    killed: Option<SystemTime>,
) -> bool {
    println!("\n{verdict}");
    if let Some(killed) = killed {
        let latency = undisturbed(ledger, deliveries, killed);
        println!(
            "  before the kill: p50 {:.1?}, p99 {:.1?}, max {:.1?}",
            latency.p50, latency.p99, latency.max
        );
    }
    println!("rolled back and never seen: {}", ledger.rolled_back.len());
    let broken = verdict.broken(REPEATS_ALLOWED);
    if broken.is_empty() {
        println!(
            "\nverdict: every promise kept (up to {REPEATS_ALLOWED} repeats are allowed after a kill -9)"
        );
    } else {
        println!("\nverdict: BROKEN PROMISES: {}", broken.join("; "));
    }
    broken.is_empty()
}

/// Of first copies that came before the kill.
fn undisturbed(ledger: &Ledger, deliveries: &[Delivery], killed: SystemTime) -> Latency {
    let before = deliveries.iter().filter(|delivery| delivery.arrived < killed);
    let samples = before.filter_map(|delivery| {
        let event = ledger.committed.get(&delivery.id?)?;
        Some(delivery.arrived.duration_since(event.commit_sent).unwrap_or_default())
    });
    Latency::of(samples.collect())
}

async fn stay(servers: &Servers) -> Result<()> {
    println!(
        "\nstaying, with relay and servers, until Ctrl-C; to play:\n  export DATABASE_URL={}\n  export AMQP_URL={}\n  \
         psql $DATABASE_URL -c \"INSERT INTO outbox_messages (aggregate_type, aggregate_id, event_type, payload) \
         VALUES ('order', '1', 'placed', '{{}}')\"",
        servers.database_url, servers.amqp_url
    );
    Ok(tokio::signal::ctrl_c().await?)
}
