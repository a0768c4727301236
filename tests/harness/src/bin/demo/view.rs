//! Numbers, live: one redrawn block in a terminal, else a line now and then.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::Result;
use harness::checker::Latency;
use harness::consumer::Consumer;
use harness::relay::Relay;
use harness::workload::Workload;
use tokio_postgres::Client;

#[derive(Default)]
pub(crate) struct Numbers {
    elapsed: Duration,
    committed: usize,
    relayed: i64,
    /// Rows without `relayed_at`.
    pub unmarked: i64,
    /// Different events.
    pub delivered: usize,
    repeated: usize,
    delivered_per_s: f64,
    latency: Latency,
    slot_lag_bytes: i64,
    relay: String,
}

/// Reads the numbers, and remembers how far it has read.
pub(crate) struct Sampler {
    client: Client,
    start: Instant,
    last: Instant,
    /// Deliveries whose latency has been counted.
    counted: usize,
    delivered: usize,
}

impl Sampler {
    pub(crate) fn new(client: Client) -> Sampler {
        Sampler { client, start: Instant::now(), last: Instant::now(), counted: 0, delivered: 0 }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) async fn sample(
        &mut self,
        workload: &Workload,
        consumer: &Consumer,
        relay: &Relay,
    ) -> Result<Numbers> {
        let sql = "SELECT count(relayed_at), count(*) - count(relayed_at),
                (SELECT (pg_current_wal_lsn() - confirmed_flush_lsn)::bigint
                    FROM pg_replication_slots WHERE slot_name = 'pgoutbox')
            FROM public.outbox_messages";
        let row = self.client.query_one(sql, &[]).await?;
        let (total, delivered) = (consumer.total(), consumer.distinct());
        let since_last = self.last.elapsed();
        self.last = Instant::now();
        let gained = delivered - std::mem::replace(&mut self.delivered, delivered);
        Ok(Numbers {
            elapsed: self.start.elapsed(),
            committed: workload.committed(),
            relayed: row.try_get(0)?,
            unmarked: row.try_get(1)?,
            delivered,
            repeated: total - delivered,
            delivered_per_s: gained as f64 / since_last.as_secs_f64(),
            latency: self.latency(workload, consumer),
            slot_lag_bytes: row.try_get::<_, Option<i64>>(2)?.unwrap_or_default(),
            relay: describe(relay),
        })
    }

    /// Of what came since the last look. An event that came before its writer heard of the commit is left out here.
    fn latency(&mut self, workload: &Workload, consumer: &Consumer) -> Latency {
        let samples = workload.ledger(|ledger| {
            consumer.deliveries(|deliveries| {
                let new = deliveries.get(self.counted..).unwrap_or_default();
                self.counted = deliveries.len();
                new.iter()
                    .filter_map(|delivery| {
                        let event = ledger.committed.get(&delivery.id?)?;
                        Some(delivery.arrived.duration_since(event.commit_sent).unwrap_or_default())
                    })
                    .collect()
            })
        });
        Latency::of(samples)
    }
}

fn describe(relay: &Relay) -> String {
    let mebibytes = relay.rss_bytes().unwrap_or_default() / (1 << 20);
    let cpu = relay.cpu().unwrap_or_default().as_secs_f64();
    format!("pid {}, {mebibytes} MiB, {cpu:.1} s of CPU", relay.pid())
}

pub(crate) struct View {
    terminal: bool,
    /// Lines to go up before the next drawing.
    drawn: usize,
    next: Instant,
}

impl View {
    pub(crate) fn new() -> View {
        View { terminal: std::io::stdout().is_terminal(), drawn: 0, next: Instant::now() }
    }

    /// Waits for the next time to draw.
    pub(crate) async fn tick(&mut self) {
        tokio::time::sleep_until(self.next.into()).await;
        let pace = if self.terminal { Duration::from_millis(500) } else { Duration::from_secs(2) };
        self.next = Instant::now() + pace;
    }

    pub(crate) fn draw(&mut self, state: &str, numbers: &Numbers) {
        let lines = if self.terminal { block(state, numbers) } else { vec![line(state, numbers)] };
        let mut text = String::new();
        if self.drawn > 0 {
            text += &format!("\x1b[{}A", self.drawn);
        }
        for line in &lines {
            text += &if self.terminal { format!("\x1b[2K{line}\n") } else { format!("{line}\n") };
        }
        self.drawn = if self.terminal { lines.len() } else { 0 };
        let mut stdout = std::io::stdout().lock();
        // Nobody may be looking.
        let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    }

    /// Something happened: a line that stays, above the block.
    pub(crate) fn event(&mut self, what: &str) {
        let up = if self.drawn > 0 { format!("\x1b[{}A\x1b[J", self.drawn) } else { String::new() };
        println!("{up}  -- {what}");
        self.drawn = 0;
    }

    pub(crate) fn end(&self) {
        println!();
    }
}

fn block(state: &str, n: &Numbers) -> Vec<String> {
    vec![
        String::new(),
        format!("  {state}, {:.0} s", n.elapsed.as_secs_f64()),
        format!("  committed   {:>9} events", n.committed),
        format!(
            "  delivered   {:>9} events, {:.0} per second, {} repeated",
            n.delivered, n.delivered_per_s, n.repeated
        ),
        format!("  relayed     {:>9} rows marked, {} pending", n.relayed, n.unmarked),
        format!(
            "  latency     {:>9} p50, {} p99, commit to consumer",
            millis(n.latency.p50),
            millis(n.latency.p99)
        ),
        format!("  slot lag    {:>9} bytes", n.slot_lag_bytes),
        format!("  relay       {}", n.relay),
    ]
}

fn line(state: &str, n: &Numbers) -> String {
    format!(
        "{:>4.0} s {state}: committed {}, delivered {} ({:.0}/s, {} repeated), relayed {} (marks pending {}), \
         commit to consumer p50 {} p99 {}, slot lag {} bytes, relay {}",
        n.elapsed.as_secs_f64(),
        n.committed,
        n.delivered,
        n.delivered_per_s,
        n.repeated,
        n.relayed,
        n.unmarked,
        millis(n.latency.p50),
        millis(n.latency.p99),
        n.slot_lag_bytes,
        n.relay
    )
}

fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1_000.0)
}
