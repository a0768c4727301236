//! Each connection cut, stalled and refused, in the middle of whatever it is doing.

use std::time::Duration;

use anyhow::{Context, Result};
use harness::consumer::Consumer;
use harness::proxy::{Cut, Direction, Proxy};
use harness::relay::Relay;
use harness::wait_until;
use harness::wire::Wire;
use harness::workload::Workload;

use crate::setting::{PATIENCE, Setting, steady};

/// Most that one lost connection repeats: the window.
const REPEATS_PER_CUT: usize = 1_000;
/// Bytes after which a fresh connection is cut: within its greeting, its login, what it asks
/// first, and its work.
const FRESH: [u64; 6] = [0, 9, 60, 300, 1_000, 4_000];
/// The same, for a connection at work: within one message's head, its body, and others behind.
const AT_WORK: [u64; 3] = [3, 40, 2_000];

/// A relay under load, one of its connections through a proxy.
struct Scene {
    setting: Setting,
    proxy: Proxy,
    consumer: Consumer,
    relay: Relay,
    load: Workload,
}

impl Scene {
    async fn of(wire: Wire) -> Result<Self> {
        let mut setting = Setting::shared().await?;
        let proxy = setting.through(wire).await?;
        // Its own connection to the database would be taken for the one that is cut.
        setting.env("PGOUTBOX_GUARD__INTERVAL", "10m");
        // A silent server is found out soon, and tried again soon.
        setting.env("PGOUTBOX_POSTGRES__WAL_SENDER_TIMEOUT", "2s");
        setting.env("PGOUTBOX_POSTGRES__CONNECT_TIMEOUT", "2s");
        setting.env("PGOUTBOX_AMQP__CONNECT_TIMEOUT", "2s");
        setting.env("PGOUTBOX_AMQP__HEARTBEAT", "2s");
        setting.env("PGOUTBOX_AMQP__CONFIRM_TIMEOUT", "4s");
        setting.env("PGOUTBOX_SESSION__BACKOFF_MIN", "20ms");
        setting.env("PGOUTBOX_SESSION__BACKOFF_MAX", "100ms");
        let consumer = setting.consumer().await?;
        let relay = setting.run()?;
        let load = Workload::start(&setting.database_url, steady()).await?;
        let scene = Self { setting, proxy, consumer, relay, load };
        scene.goes_on("at the start").await?;
        Ok(scene)
    }

    /// New events come again.
    async fn goes_on(&self, after: &str) -> Result<()> {
        let committed = self.load.committed();
        let came = self.consumer.wait_distinct(committed + 1, PATIENCE).await;
        came.with_context(|| format!("{after}\n{}", self.relay.log()))
    }

    /// Cuts a connection that is at work, and sees it come back.
    async fn cut_at_work(&self, bytes: u64, direction: Direction, how: Cut) -> Result<()> {
        let before = self.proxy.connections();
        self.proxy.cut_after(bytes, direction, how);
        let what = format!("{bytes} bytes {direction:?} and a new connection");
        wait_until(&what, PATIENCE, async || Ok(self.proxy.connections() > before)).await?;
        self.goes_on(&what).await
    }

    /// Cuts a connection so many bytes after its beginning, and sees the next one work.
    async fn cut_fresh(&self, bytes: u64, direction: Direction, how: Cut) -> Result<()> {
        self.restart_counting(async || self.proxy.cut_after(bytes, direction, how)).await?;
        self.goes_on(&format!("{bytes} bytes {direction:?} of a new connection")).await
    }

    /// The next connection begins after `prepare`.
    async fn restart_counting(&self, prepare: impl AsyncFnOnce()) -> Result<()> {
        self.proxy.refuse(true);
        self.proxy.cut(Cut::Rst);
        wait_until("the old connection to go", PATIENCE, async || Ok(self.proxy.open() == 0))
            .await?;
        prepare().await;
        self.proxy.refuse(false);
        Ok(())
    }

    async fn judge(mut self, faults: usize) -> Result<()> {
        self.load.stop();
        let ledger = self.load.finish().await?;
        let allowed = faults * REPEATS_PER_CUT;
        let verdict = self.setting.judge(&ledger, self.consumer, &self.relay, allowed).await?;
        println!("{faults} faults, {} repeats of {}", verdict.repeated, verdict.committed);
        Ok(())
    }
}

async fn cuts(wire: Wire) -> Result<()> {
    let scene = Scene::of(wire).await?;
    let mut faults = 0;
    for direction in [Direction::Up, Direction::Down] {
        for bytes in FRESH {
            if matches!((wire, direction), (Wire::Stream, Direction::Up)) && bytes > 1_000 {
                continue;
            }
            let how = if faults % 2 == 0 { Cut::Rst } else { Cut::Fin };
            scene.cut_fresh(bytes, direction, how).await?;
            faults += 1;
        }
        for bytes in AT_WORK {
            if matches!((wire, direction), (Wire::Stream, Direction::Up)) && bytes > 100 {
                // The relay tells the walsender 80 bytes a second.
                continue;
            }
            let how = if faults % 2 == 0 { Cut::Fin } else { Cut::Rst };
            scene.cut_at_work(bytes, direction, how).await?;
            faults += 1;
        }
    }
    println!("{wire:?}:");
    // To cut a fresh connection, the one before it is cut too.
    scene.judge(2 * faults).await
}

/// Half a message and then silence, on a connection that begins and on one at work. The directions at one
/// time: each waits for the bounds of the servers.
async fn silences(wire: Wire) -> Result<()> {
    tokio::try_join!(silence(wire, Direction::Down), silence(wire, Direction::Up), refusal(wire))?;
    Ok(())
}

async fn silence(wire: Wire, direction: Direction) -> Result<()> {
    let scene = Scene::of(wire).await?;
    for bytes in [9, 1_000] {
        let before = scene.proxy.connections() + 1;
        scene.restart_counting(async || scene.proxy.stall_after(bytes, direction)).await?;
        scene.silence(before, direction).await?;
    }
    let before = scene.proxy.connections();
    scene.proxy.stall_after(700, direction);
    scene.silence(before, direction).await?;
    println!("{wire:?} {direction:?}:");
    scene.judge(2 * 3).await
}

/// The server refuses for a while.
async fn refusal(wire: Wire) -> Result<()> {
    let scene = Scene::of(wire).await?;
    scene.proxy.refuse(true);
    scene.proxy.cut(Cut::Fin);
    let committed = scene.load.committed();
    wait_until("load meanwhile", PATIENCE, async || Ok(scene.load.committed() > committed + 100))
        .await?;
    scene.proxy.refuse(false);
    scene.goes_on("refused").await?;
    println!("{wire:?}, refused:");
    scene.judge(1).await
}

impl Scene {
    /// The relay finds the silent connection out by itself, and makes a new one.
    async fn silence(&self, before: u64, direction: Direction) -> Result<()> {
        let what = format!("{direction:?} silent: a new connection");
        wait_until(&what, PATIENCE, async || Ok(self.proxy.connections() > before))
            .await
            .with_context(|| self.relay.log())?;
        // What was held back goes to connections that are gone.
        self.proxy.resume(direction);
        self.goes_on(&what).await
    }
}

#[tokio::test]
async fn the_stream_is_cut() -> Result<()> {
    cuts(Wire::Stream).await
}

#[tokio::test]
async fn the_audit_connection_is_cut() -> Result<()> {
    cuts(Wire::Audit).await
}

#[tokio::test]
async fn the_connection_to_the_broker_is_cut() -> Result<()> {
    cuts(Wire::Amqp).await
}

#[tokio::test]
async fn the_stream_falls_silent() -> Result<()> {
    silences(Wire::Stream).await
}

#[tokio::test]
async fn the_audit_connection_falls_silent() -> Result<()> {
    silences(Wire::Audit).await
}

#[tokio::test]
async fn the_connection_to_the_broker_falls_silent() -> Result<()> {
    silences(Wire::Amqp).await
}

/// With marks on their way, whose answers nobody reads any more: what the session has to record
/// at its end must not wait behind them.
#[tokio::test]
async fn a_session_that_ends_amid_marks_ends_at_once() -> Result<()> {
    const EVENTS: usize = 20_000;
    const CUTS: usize = 4;
    /// Less than one write at the end may take.
    const AT_ONCE: Duration = Duration::from_secs(2);
    let mut setting = Setting::shared().await?;
    setting.env("PGOUTBOX_SESSION__BACKOFF_MIN", "20ms");
    setting.env("PGOUTBOX_SESSION__BACKOFF_MAX", "100ms");
    let client = setting.client().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    for cut in 0..CUTS {
        let sessions = async || Ok(relay.log().matches(" running ").count() > cut);
        wait_until("the session", PATIENCE, sessions).await?;
        let fill = format!(
            "INSERT INTO outbox_messages (aggregate_type, aggregate_id, event_type, payload)
             SELECT 'order', n % 100, 'paid', '{{}}' FROM generate_series(1, {EVENTS}) AS n"
        );
        setting.sql(&fill).await?;
        let marked = format!("SELECT count(relayed_at) > {} FROM outbox_messages", cut * EVENTS);
        let is_amid = async || Ok(client.query_one(&marked, &[]).await?.get(0));
        wait_until("the first marks", PATIENCE, is_amid).await.with_context(|| relay.log())?;
        let sql = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = current_database()";
        setting.sql(sql).await?;
        let ends = async || Ok(relay.log().matches("again_in").count() > cut);
        wait_until("its end", PATIENCE, ends).await.with_context(|| relay.log())?;
        // All of it, so that the next marks are the next events'.
        setting.all_marked().await?;
    }
    let log = relay.log();
    let time = |line: &str| {
        let stamp = line.split_whitespace().next().unwrap_or_default();
        humantime::parse_rfc3339(stamp).with_context(|| line.to_owned())
    };
    let lines: Vec<&str> = log.lines().collect();
    for (ended, told) in lines.iter().zip(lines.iter().skip(1)) {
        if ended.contains("session ended") {
            let took = time(told)?.duration_since(time(ended)?)?;
            assert!(took < AT_ONCE, "{took:?}\n{log}");
        }
    }
    consumer.wait_distinct(CUTS * EVENTS, PATIENCE).await?;
    relay.drain(PATIENCE).await
}
