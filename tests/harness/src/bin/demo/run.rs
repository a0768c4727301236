//! The demo's course.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use harness::checker::{self, Latency, Verdict};
use harness::consumer::{self, Consumer, Delivery};
use harness::postgres;
use harness::relay::{Pgoutbox, Relay};
use harness::workload::{self, Ledger, Mix, Until, Workload};

use crate::Arguments;
use crate::servers::Servers;
use crate::view::{Sampler, View};

/// What a `kill -9` may repeat: a window of unconfirmed messages and a batch of marks.
const REPEATS_ALLOWED: usize = 1_000 + 500;
const CATCH_UP: Duration = Duration::from_secs(60);
const TABLE: &str = "public.outbox_messages";

pub(crate) async fn demo(arguments: &Arguments) -> Result<bool> {
    let mut course = until_interrupted(start_and_work(arguments)).await?;
    if arguments.stay {
        // What a visitor inserts now is not in the ledger: judge first.
        let kept = until_interrupted(course.judge()).await?;
        stay(&course.servers).await?;
        course.drain().await?;
        return Ok(kept);
    }
    until_interrupted(async {
        course.drain().await?;
        course.judge().await
    })
    .await
}

/// Dropping what runs ends it: servers and relay have process groups of their own, so Ctrl-C reaches only us.
async fn until_interrupted<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => bail!("interrupted; everything is ended"),
    }
}

async fn start_and_work(arguments: &Arguments) -> Result<Course> {
    let began = Instant::now();
    let pgoutbox = Pgoutbox::from_env()?;
    println!("starting a Postgres and a RabbitMQ of our own ...");
    let servers = Servers::start(arguments.docker).await?;
    let (database_url, amqp_url) = (&servers.database_url, &servers.amqp_url);
    println!("{}\n  DATABASE_URL={database_url}\n  AMQP_URL={amqp_url}", servers.described);
    let pgoutbox = pgoutbox.env("DATABASE_URL", database_url).env("AMQP_URL", amqp_url);

    println!("\n$ pgoutbox init --declare");
    print!("{}", pgoutbox.succeed(&["init", "--declare"]).await?);
    let consumer = Consumer::start(amqp_url, consumer_options()).await?;
    println!("\n$ pgoutbox run");
    let mut course = Course {
        relay: pgoutbox.spawn(&["run"])?,
        workload: Workload::start(database_url, workload_options(arguments.workload)).await?,
        sampler: Sampler::new(postgres::connect(database_url).await?),
        consumer,
        view: View::new(),
        killed: None,
        servers,
    };
    course.work(&pgoutbox, arguments.workload, began).await?;
    if !course.catch_up().await {
        let log = tail(&course.relay.log());
        println!(
            "\nnot everything arrived and was marked in time; the relay's log ends with:\n{log}"
        );
    }
    course.view.end();
    Ok(course)
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
        // A pace that leaves two cores some air, and a large transaction every few seconds, not more: latency is shown
        // here, not the limit.
        pause: Duration::from_millis(15),
        mix: Mix { single: 6_000, several: 2_000, rolled_back: 1_000, savepoints: 995, large: 5 },
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
    servers: Servers,
}

impl Course {
    async fn work(
        &mut self,
        pgoutbox: &Pgoutbox,
        duration: Duration,
        began: Instant,
    ) -> Result<()> {
        let start = Instant::now();
        let mut is_first = true;
        while !self.workload.is_over() {
            if self.killed.is_none() && start.elapsed() > duration / 2 {
                self.relay.kill9().await?;
                self.killed = Some(SystemTime::now());
                self.view.event("kill -9 of the relay, and a new one");
                self.relay = pgoutbox.spawn(&["run"])?;
            }
            let (delivered, _) = self.show("working").await?;
            if is_first && delivered > 0 {
                is_first = false;
                self.view.event(&format!(
                    "the first event is delivered, {:.1?} after the start",
                    began.elapsed()
                ));
            }
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
            bail!("the relay has ended by itself:\n{}", tail(&self.relay.log()));
        }
        self.view.tick().await;
        let numbers = self.sampler.sample(&self.workload, &self.consumer, &self.relay).await?;
        self.view.draw(state, &numbers);
        Ok((numbers.delivered, numbers.unmarked))
    }

    async fn drain(&self) -> Result<()> {
        let (cpu, memory) = (self.relay.cpu()?, self.relay.peak_rss_bytes()? / (1 << 20));
        self.relay.drain(Duration::from_secs(20)).await.context("after SIGTERM")?;
        println!(
            "SIGTERM: drained, exit code 0; the last relay used {cpu:.1?} of CPU and {memory} MiB at most"
        );
        Ok(())
    }

    async fn judge(&mut self) -> Result<bool> {
        let ledger = self.workload.finish().await?;
        let unmarked = checker::unmarked(self.sampler.client(), TABLE).await?;
        Ok(self.consumer.deliveries(|deliveries| {
            let verdict = checker::check(&ledger, deliveries, unmarked);
            pronounce(&verdict, &ledger, deliveries, self.killed)
        }))
    }
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
