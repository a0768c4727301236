//! HTTP while the relay hangs, and while there are too many who ask.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use harness::consumer::Consumer;
use harness::http::{Answer, get};
use harness::{wait_for, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::setting::{PATIENCE, Setting};

/// Waits until the path is answered with this code.
async fn until_code(address: SocketAddr, path: &str, code: u16) -> Result<Answer> {
    wait_for(&format!("{path} to answer {code}"), PATIENCE, async || {
        let answer = get(address, path).await?;
        ensure!(answer.code == code, "{answer:?}");
        Ok(Some(answer))
    })
    .await
}

/// A library that is loaded before C's has the relay's loop hang. The thread of HTTP goes on, and says
/// so.
#[tokio::test]
async fn a_loop_that_hangs_is_not_alive() -> Result<()> {
    let port = harness::free_port()?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let home = tempfile::tempdir()?;
    let (source, library) = (home.path().join("hang.c"), home.path().join("hang.so"));
    std::fs::write(&source, include_str!("hang.c"))?;
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &source]).arg("-ldl");
    let compiled = compiler.output().context("the compiler that Rust links with")?;
    ensure!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let hang = home.path().join("hang");
    let mut setting = Setting::shared().await?.set("http.address", &address.to_string());
    setting.env("LD_PRELOAD", library.to_str().context("UTF-8")?);
    setting.env("PGOUTBOX_TEST_HANG", hang.to_str().context("UTF-8")?);
    let relay = setting.run()?;
    relay.reaches("running", PATIENCE).await?;
    // The log is a moment ahead of the state.
    until_code(address, "/readyz", 200).await?;
    assert_eq!(get(address, "/livez").await?.json()?["state"], "running");

    std::fs::write(&hang, "")?;
    let silent = until_code(address, "/livez", 503).await?.json()?;
    assert_eq!(silent["is_alive"], false, "{silent}");
    assert!(silent["silent_seconds"].as_u64() >= Some(30), "{silent}");
    let ready = get(address, "/readyz").await?;
    assert_eq!(ready.code, 503, "{ready:?}");
    assert_eq!(ready.json()?["reasons"][0]["code"], "loop_silent", "{ready:?}");

    std::fs::remove_file(&hang)?;
    until_code(address, "/livez", 200).await?;
    relay.drain(PATIENCE).await
}

/// One that listens, after what it is told first.
async fn listen(address: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
    let mut told = Vec::new();
    while !told.ends_with(b"}\n\n\r\n") {
        let count = stream.read_buf(&mut told).await?;
        ensure!(count > 0, "{}", String::from_utf8_lossy(&told));
    }
    Ok(stream)
}

#[tokio::test]
async fn one_listener_too_many_is_refused_until_another_goes() -> Result<()> {
    let setting = Setting::shared().await?;
    let relay = setting.run()?;
    let address = relay.http(PATIENCE).await?;
    until_code(address, "/readyz", 200).await?;
    let mut listeners = Vec::new();
    for _ in 0..16 {
        listeners.push(listen(address).await?);
    }
    let refused = get(address, "/events").await?;
    assert_eq!(refused.code, 503, "{refused:?}");
    assert!(refused.body.contains("16"), "{refused:?}");
    // The rest is there for them.
    for path in ["/", "/livez", "/readyz", "/metrics", "/status", "/history"] {
        assert_eq!(get(address, path).await?.code, 200, "{path}");
    }
    drop(listeners.pop());
    let last = wait_for("a place", PATIENCE, async || listen(address).await.map(Some)).await?;
    assert_eq!(get(address, "/events").await?.code, 503);
    drop(last);
    relay.drain(PATIENCE).await
}

/// Clients that harm: on a thread of their own, so that they do not slow down who measures.
struct Flood {
    is_over: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<()>,
}

impl Flood {
    fn start(address: SocketAddr) -> Result<Self> {
        let (is_over, answers) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, count) = (is_over.clone(), answers.clone());
        let thread = std::thread::spawn(move || runtime.block_on(flood(address, &stop, &count)));
        Ok(Self { is_over, answers, thread })
    }

    /// Ends it, and tells how many requests were answered.
    fn end(self) -> Result<usize> {
        self.is_over.store(true, Ordering::Relaxed);
        ensure!(self.thread.join().is_ok(), "the flood panicked");
        Ok(self.answers.load(Ordering::Relaxed))
    }
}

async fn flood(address: SocketAddr, is_over: &AtomicBool, answers: &Arc<AtomicUsize>) {
    // They listen and never read.
    let mut deaf = Vec::new();
    for _ in 0..16 {
        if let Ok(mut stream) = TcpStream::connect(address).await {
            let _ = stream.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
            deaf.push(stream);
        }
    }
    // A byte of their headers a second.
    for _ in 0..16 {
        tokio::spawn(async move {
            loop {
                let Ok(mut stream) = TcpStream::connect(address).await else { continue };
                for byte in b"GET /status HTTP/1.1\r\n" {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    if stream.write_all(&[*byte]).await.is_err() {
                        break;
                    }
                }
            }
        });
    }
    // Without end.
    for path in ["/metrics", "/status", "/livez", "/readyz", "/", "/history"] {
        let answers = answers.clone();
        tokio::spawn(async move {
            loop {
                if get(address, path).await.is_ok() {
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    // They connect and say nothing.
    let mut silent = std::collections::VecDeque::new();
    while !is_over.load(Ordering::Relaxed) {
        silent.extend(TcpStream::connect(address).await.ok());
        if silent.len() > 100 {
            silent.pop_front();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// From before the commit to the consumer, one after the other, the shortest first.
async fn latencies(setting: &Setting, consumer: &Consumer, count: usize) -> Result<Vec<Duration>> {
    let client = setting.client().await?;
    let mut took = Vec::new();
    for _ in 0..count {
        let (before, began) = (consumer.total(), SystemTime::now());
        client
            .batch_execute("INSERT INTO outbox_messages (topic, payload) VALUES ('t', '1')")
            .await?;
        wait_until("the event", PATIENCE, async || Ok(consumer.total() > before)).await?;
        let arrived = consumer.deliveries(|all| all.last().map(|last| last.arrived));
        took.push(arrived.context("a delivery")?.duration_since(began)?);
    }
    took.sort();
    Ok(took)
}

#[tokio::test]
async fn a_flood_does_not_delay_events() -> Result<()> {
    const EVENTS: usize = 60;
    let setting = Setting::shared().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    let address = relay.http(PATIENCE).await?;
    relay.reaches("running", PATIENCE).await?;
    let quiet = latencies(&setting, &consumer, EVENTS).await?;
    let flood = Flood::start(address)?;
    wait_until("the flood", PATIENCE, async || Ok(flood.answers.load(Ordering::Relaxed) > 20))
        .await?;
    let flooded = latencies(&setting, &consumer, EVENTS).await?;
    let answers = flood.end()?;
    let told = format!(
        "median {:?} and at most {:?}; while {answers} requests were answered {:?} and {:?}",
        quiet[EVENTS / 2],
        quiet[EVENTS - 1],
        flooded[EVENTS / 2],
        flooded[EVENTS - 1]
    );
    println!("{told}");
    // Both take from the same cores: what is told apart is waiting for them from sharing these.
    assert!(flooded[EVENTS / 2] < quiet[EVENTS / 2] * 3 + Duration::from_millis(50), "{told}");
    relay.drain(PATIENCE).await
}
