//! What a running relay serves over HTTP.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use harness::http::{Answer, get, request, send};
use harness::proxy::Cut;
use harness::wait_for;
use harness::wait_until;
use harness::wire::Wire;
use harness::workload::Workload;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bare::arrived;
use crate::setting::{PATIENCE, Setting, steady};

const TOKEN: &str = "correct-horse-battery-staple";

/// Waits until `/readyz` answers with this code and this among its reasons, or with none.
async fn until_ready(address: SocketAddr, code: u16, reason: &str) -> Result<Value> {
    wait_for(&format!("readyz to say {code} {reason}"), PATIENCE, async || {
        let answer = get(address, "/readyz").await?;
        let told = answer.json()?;
        let codes: Vec<&str> = [&told["reasons"], &told["degraded"]]
            .iter()
            .flat_map(|list| list.as_array().into_iter().flatten())
            .filter_map(|reason| reason["code"].as_str())
            .collect();
        let is_so = answer.code == code && (reason.is_empty() || codes.contains(&reason));
        anyhow::ensure!(is_so, "{} {told}", answer.code);
        Ok(Some(told))
    })
    .await
}

/// The sample of exactly this name and these labels.
fn sample(metrics: &str, name: &str) -> Option<f64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.parse().ok()
}

#[tokio::test]
async fn each_page_tells_what_the_relay_does() -> Result<()> {
    let setting = Setting::shared().await?.set("guard.interval", "100ms");
    let consumer = setting.consumer().await?;
    let (relay, address) = setting.serve().await?;
    for number in 0..5 {
        setting
            .sql(&format!("INSERT INTO outbox_messages (topic, payload) VALUES ('t', '{number}')"))
            .await?;
    }
    arrived(&consumer, 5).await.with_context(|| relay.log())?;
    setting.all_marked().await?;

    let live = get(address, "/livez").await?;
    assert_eq!((live.code, live.json()?["is_alive"].as_bool()), (200, Some(true)), "{live:?}");
    let ready = until_ready(address, 200, "").await?;
    assert_eq!(ready["state"], "running", "{ready}");
    assert_eq!(ready["reasons"], serde_json::json!([]), "{ready}");

    let status = wait_for("all to be counted", PATIENCE, async || {
        let status = get(address, "/status").await?.json()?;
        let is_counted = status["events"]["marked"] == 5 && status["slot"].is_object();
        anyhow::ensure!(is_counted, "{status}");
        Ok(Some(status))
    })
    .await?;
    assert_eq!(status["state"], "running", "{status}");
    assert_eq!(status["events"]["delivered"], 5, "{status}");
    assert_eq!(status["slot_name"], setting.database.as_str(), "{status}");
    assert_eq!(status["slot"]["wal_status"], "reserved", "{status}");
    assert_eq!(status["commit_to_confirm"]["count"], 5, "{status}");
    assert_eq!(status["relay"]["window_messages"], 0, "{status}");
    let states: Vec<_> =
        status["changes"].as_array().context("changes")?.iter().map(|c| &c["state"]).collect();
    assert_eq!(states, ["connecting", "running"], "{status}");

    let metrics = get(address, "/metrics").await?;
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    for (name, value) in [
        ("pgoutbox_events_total{outcome=\"delivered\"}", 5.0),
        ("pgoutbox_messages_published_total", 5.0),
        ("pgoutbox_marks_total{outcome=\"written\"}", 5.0),
        ("pgoutbox_commit_to_confirm_seconds_count", 5.0),
        ("pgoutbox_commit_to_confirm_seconds_bucket{le=\"+Inf\"}", 5.0),
        ("pgoutbox_session_state{state=\"running\"}", 1.0),
        ("pgoutbox_session_state{state=\"standby\"}", 0.0),
        ("pgoutbox_sessions_total", 1.0),
        ("pgoutbox_slot_is_active", 1.0),
        ("pgoutbox_slot_wal_status{status=\"reserved\"}", 1.0),
        ("pgoutbox_parked_events{state=\"failed\",reason=\"\"}", 0.0),
        ("pgoutbox_window_limit_messages", 1000.0),
    ] {
        assert_eq!(sample(&metrics.body, name), Some(value), "{name} in {}", metrics.body);
    }
    let rss = sample(&metrics.body, "process_resident_memory_bytes").context("resident")?;
    assert!((5e6..1e9).contains(&rss), "{rss}");
    promtool(&metrics.body)?;
    relay.drain(PATIENCE).await
}

/// Prometheus' own judgement.
fn promtool(metrics: &str) -> Result<()> {
    let mut tool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("promtool: sh tests/setup.sh installs it")?;
    tool.stdin.take().context("stdin")?.write_all(metrics.as_bytes())?;
    let output = tool.wait_with_output()?;
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    anyhow::ensure!(output.status.success() && told.trim().is_empty(), "{told}\n{metrics}");
    Ok(())
}

#[tokio::test]
async fn is_not_ready_while_the_broker_is_down_and_says_what_helps() -> Result<()> {
    let mut setting = Setting::shared().await?.set("session.backoff_max", "500ms");
    let proxy = setting.through(Wire::Amqp).await?;
    let (relay, address) = setting.serve().await?;
    until_ready(address, 200, "").await?;
    proxy.refuse(true);
    proxy.cut(Cut::Fin);
    let told = until_ready(address, 503, "fault").await?;
    let what = told["reasons"][0]["what"].as_str().context("what")?;
    assert!(!what.is_empty() && !what.contains("guest:guest"), "{told}");
    let live = get(address, "/livez").await?;
    assert_eq!(live.code, 200, "it lives, and tries again: {live:?}");
    let metrics = get(address, "/metrics").await?.body;
    promtool(&metrics)?;
    proxy.refuse(false);
    until_ready(address, 200, "").await.with_context(|| relay.log())?;
    let metrics = get(address, "/metrics").await?.body;
    let ended = sample(&metrics, "pgoutbox_session_ends_total{reason=\"broker\"}");
    assert!(ended >= Some(1.0), "{metrics}");
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn is_not_ready_while_the_broker_blocks() -> Result<()> {
    let (rabbitmq, setting) = Setting::own_rabbitmq().await?;
    let (relay, address) = setting.serve().await?;
    rabbitmq.memory_alarm(true).await?;
    // The broker blocks who publishes.
    setting.sql("INSERT INTO outbox_messages (topic, payload) VALUES ('t', '1')").await?;
    let told = until_ready(address, 503, "broker_blocked").await?;
    let hint = told["reasons"][0]["hint"].as_str().context("hint")?;
    assert!(hint.contains("rabbitmq-diagnostics alarms"), "{told}");
    let metrics = get(address, "/metrics").await?.body;
    assert_eq!(sample(&metrics, "pgoutbox_broker_is_blocked"), Some(1.0), "{metrics}");
    rabbitmq.memory_alarm(false).await?;
    until_ready(address, 200, "").await?;
    relay.drain(PATIENCE).await
}

/// A broker that answers nothing is neither down nor does it block.
#[tokio::test]
async fn is_not_ready_while_nothing_is_settled() -> Result<()> {
    let (rabbitmq, setting) = Setting::own_rabbitmq().await?;
    let setting = setting.set("amqp.heartbeat", "60s").set("amqp.confirm_timeout", "2m");
    let consumer = setting.consumer().await?;
    let (relay, address) = setting.serve().await?;
    rabbitmq.sigstop()?;
    setting.sql("INSERT INTO outbox_messages (topic, payload) VALUES ('t', '1')").await?;
    let told = until_ready(address, 503, "stalled").await;
    rabbitmq.sigcont()?;
    let told = told?;
    let what = told["reasons"][0]["what"].as_str().context("what")?;
    assert!(what.starts_with("none of 1 events that wait was settled for 1"), "{told}");
    until_ready(address, 200, "").await?;
    arrived(&consumer, 1).await?;
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn a_standby_is_ready_and_says_so() -> Result<()> {
    let setting = Setting::shared().await?;
    let (leader, _) = setting.serve().await?;
    let standby = setting.run()?;
    let address = standby.http(PATIENCE).await?;
    let told = until_ready(address, 200, "standby").await?;
    assert_eq!(told["state"], "standby", "{told}");
    assert_eq!(get(address, "/livez").await?.code, 200);
    leader.kill9().await?;
    wait_until("the standby to run", PATIENCE, async || {
        Ok(get(address, "/status").await?.json()?["state"] == "running")
    })
    .await?;
    standby.drain(PATIENCE).await
}

#[tokio::test]
async fn parked_events_are_told_and_do_not_unready() -> Result<()> {
    let setting = Setting::shared().await?.set("guard.interval", "100ms");
    let (relay, address) = setting.serve().await?;
    // No queue is bound.
    setting.sql("INSERT INTO outbox_messages (topic, payload) VALUES ('t', '1')").await?;
    until_ready(address, 200, "parked_events").await?;
    let metrics = get(address, "/metrics").await?.body;
    let name = "pgoutbox_parked_events{state=\"parked\",reason=\"returned\"}";
    assert_eq!(sample(&metrics, name), Some(1.0), "{metrics}");
    assert!(sample(&metrics, "pgoutbox_messages_refused_total{why=\"returned\"}") >= Some(1.0));
    promtool(&metrics)?;
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn a_taken_port_is_a_fault_before_anything_is_connected() -> Result<()> {
    let setting = Setting::bare().await?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    // Nobody is there either, which is not what is said.
    let setting = setting.set("http.address", &address).set("amqp.url", "amqp://127.0.0.1:1");
    let output = setting.program.output(&["run"]).await?;
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    for part in
        [&*format!("http.address {address} cannot be listened on"), "ss -ltnp", "http.address = "]
    {
        assert!(told.contains(part), "no {part} in {told}");
    }
    assert!(!told.contains("WARN"), "something was connected to: {told}");
    Ok(())
}

#[tokio::test]
async fn off_serves_nothing() -> Result<()> {
    let setting = Setting::shared().await?.set("http.address", "off");
    let relay = setting.run()?;
    // There is no state to be asked.
    relay.wait_for_log(" running ", PATIENCE).await?;
    assert!(!relay.log().contains("HTTP"), "{}", relay.log());
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn an_open_address_without_a_token_is_warned_of() -> Result<()> {
    let setting = Setting::shared().await?.set("http.address", "0.0.0.0:0");
    let relay = setting.run()?;
    let line = relay.wait_for_log("http.token is not set", PATIENCE).await?;
    assert!(line.contains("WARN") && line.contains("can read metrics and status"), "{line}");
    relay.drain(PATIENCE).await?;
    let setting = setting.set("http.token", TOKEN);
    let (relay, _) = setting.serve().await?;
    assert!(!relay.log().contains("http.token is not set"), "{}", relay.log());
    assert!(!relay.log().contains(TOKEN), "{}", relay.log());
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn the_token_is_asked_for_save_by_probes() -> Result<()> {
    // Nobody listens there.
    let nowhere = format!("amqp://127.0.0.1:{}", harness::free_port()?);
    let setting = Setting::shared().await?.set("http.token", TOKEN).set("amqp.url", &nowhere);
    let relay = setting.run()?;
    let address = relay.http(PATIENCE).await?;
    relay.is_down("fault", PATIENCE).await?;
    let with = async |path: &str, shown: &str| {
        request(address, "GET", path, &[("Authorization", shown)], "").await
    };
    let right = format!("Bearer {TOKEN}");
    for path in ["/metrics", "/status"] {
        let refused = get(address, path).await?;
        assert_eq!(refused.code, 401, "{refused:?}");
        assert_eq!(refused.header("www-authenticate"), Some("Bearer realm=\"pgoutbox\""));
        assert_eq!(with(path, "Bearer wrong").await?.code, 401);
        assert_eq!(with(path, &format!("Bearer {TOKEN}x")).await?.code, 401);
        let shown = with(path, &right).await?;
        assert_eq!(shown.code, 200, "{shown:?}");
        assert!(!shown.body.contains(TOKEN));
    }
    assert_eq!(get(address, "/livez").await?.code, 200);
    // Names of hosts are for those who may see them.
    let stranger = until_ready(address, 503, "fault").await?;
    let codes = serde_json::json!({"code": "fault", "cause": "broker-connection"});
    assert_eq!(stranger["reasons"][0], codes, "{stranger}");
    let friend = with("/readyz", &right).await?.json()?;
    assert!(friend["reasons"][0]["what"].as_str().is_some_and(|what| !what.is_empty()), "{friend}");
    Ok(())
}

#[tokio::test]
async fn bad_requests_are_refused() -> Result<()> {
    let setting = Setting::shared().await?;
    let (relay, address) = setting.serve().await?;
    let code = async |bytes: &[u8]| Ok::<_, anyhow::Error>(send(address, bytes).await?.code);
    assert_eq!(code(b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n").await?, 404);
    assert_eq!(code(b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n").await?, 404);
    assert_eq!(code(b"nonsense\r\n\r\n").await?, 400);
    assert_eq!(code(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nx y: z\r\n\r\n").await?, 400);
    assert_eq!(code(b"GET /livez HTTP/1.0\r\n\r\n").await?, 200, "HTTP/1.0 names no host");
    assert_eq!(code(b"GET /status HTTP/1.1\r\nHost: evil.example\r\n\r\n").await?, 403);
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(100_000));
    // It may be closed before all of it was written.
    if let Ok(answer) = send(address, &long).await {
        assert!(matches!(answer.code, 414 | 431), "{answer:?}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let refused = request(address, method, "/status", &[], "").await?;
        assert_eq!(refused.code, 405, "{refused:?}");
        assert_eq!(refused.header("allow"), Some("GET, HEAD"));
        assert_eq!(refused.header("access-control-allow-origin"), None);
    }
    let head = request(address, "HEAD", "/metrics", &[], "").await?;
    assert_eq!((head.code, head.body.as_str()), (200, ""));
    let Answer { head, .. } = get(address, "/livez").await?;
    for part in ["no-store", "nosniff", "frame-ancestors 'none'", "connection: close"] {
        assert!(head.to_lowercase().contains(part), "no {part} in {head}");
    }
    relay.drain(PATIENCE).await
}

/// Clients that connect and say nothing, that say it a byte at a time, and that ask without
/// end: events come through, and a probe is answered.
#[tokio::test]
async fn a_flood_harms_no_event() -> Result<()> {
    let setting = Setting::shared().await?;
    let consumer = setting.consumer().await?;
    let (relay, address) = setting.serve().await?;
    let load = Workload::start(&setting.database_url, steady()).await?;
    consumer.wait_distinct(50, PATIENCE).await?;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(address).await?);
    }
    let slow = tokio::spawn(async move {
        let mut stream = TcpStream::connect(address).await?;
        let mut sent = 0_usize;
        for byte in b"GET /livez HTTP/1.1\r\nHost: localhost\r\n".iter().cycle() {
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            sent += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok::<_, std::io::Error>(sent)
    });
    let flood = tokio::spawn(async move {
        loop {
            let asked = (0..8).map(|_| get(address, "/metrics"));
            for asked in asked.map(tokio::spawn).collect::<Vec<_>>() {
                let _ = asked.await;
            }
        }
    });
    let before = consumer.distinct();
    for _ in 0..20 {
        let live = get(address, "/livez").await?;
        assert_eq!(live.code, 200, "{live:?}");
        let want = consumer.distinct() + 5;
        consumer.wait_distinct(want, PATIENCE).await?;
    }
    assert!(consumer.distinct() > before + 90);
    // Its header took too long.
    let sent = tokio::time::timeout(PATIENCE, slow).await??;
    println!("the slow client was cut off after {:?} bytes", sent.ok());
    flood.abort();
    // The oldest of those that said nothing were let go for others.
    let mut byte = [0];
    let first = tokio::time::timeout(PATIENCE, silent[0].read(&mut byte)).await?;
    assert!(matches!(first, Ok(0) | Err(_)), "{first:?}");
    setting.judge_load(load, consumer, &relay, 0).await?;
    Ok(())
}

#[tokio::test]
async fn an_action_shows_the_token_and_comes_from_here() -> Result<()> {
    let setting = Setting::shared().await?;
    setting.put_aside(1, "failed").await?;
    let body =
        format!("{{\"seqs\":[{}]}}", setting.ask::<i64>("SELECT seq FROM pgoutbox.parked").await?);
    let right = format!("Bearer {TOKEN}");
    let json = ("Content-Type", "application/json");
    // Where no token is set, none is the right one.
    let (relay, address) = setting.serve().await?;
    for shown in ["Bearer ", right.as_str()] {
        let headers = [("Authorization", shown), json];
        let refused = request(address, "POST", "/parked/discard", &headers, &body).await?;
        assert_eq!(refused.code, 403, "{refused:?}");
    }
    relay.drain(PATIENCE).await?;
    let setting = setting.set("http.token", TOKEN);
    let (relay, address) = setting.serve().await?;
    let act = async |headers: &[(&str, &str)], body: &str| {
        Ok::<_, anyhow::Error>(
            request(address, "POST", "/parked/discard", headers, body).await?.code,
        )
    };
    let shown = ("Authorization", right.as_str());
    assert_eq!(act(&[json], &body).await?, 401);
    assert_eq!(act(&[("Authorization", "Bearer wrong"), json], &body).await?, 401);
    assert_eq!(act(&[("Cookie", &format!("token={TOKEN}")), json], &body).await?, 401);
    assert_eq!(act(&[shown, ("Origin", "http://evil.example"), json], &body).await?, 403);
    assert_eq!(act(&[shown, ("Content-Type", "text/plain")], &body).await?, 415);
    assert_eq!(act(&[shown, json], "{}").await?, 400);
    assert_eq!(act(&[shown, json], &" ".repeat(100_000)).await?, 413);
    let get = request(address, "GET", "/parked/discard", &[shown], "").await?;
    assert_eq!((get.code, get.header("allow")), (405, Some("POST")));
    for path in ["/parked", "/history", "/events"] {
        assert_eq!(request(address, "GET", path, &[], "").await?.code, 401, "{path}");
    }
    let failed = "SELECT count(*) = 1 FROM pgoutbox.parked WHERE state = 'failed'";
    assert!(setting.ask::<bool>(failed).await?, "nothing has changed so far");
    let listed = request(address, "GET", "/parked", &[shown], "").await?.json()?;
    assert_eq!(listed["events"][0]["state"], "failed", "{listed}");
    // Of another slot.
    setting.sql("INSERT INTO pgoutbox.parked (slot, outbox, commit_lsn, index, commit_time, state, is_holding, columns, cells)
        VALUES ('other', 'outbox_messages', '0/1', 0, now(), 'failed', false, '[]', '{}')").await?;
    let other: i64 = setting.ask("SELECT seq FROM pgoutbox.parked WHERE slot = 'other'").await?;
    assert_eq!(act(&[shown, json], &format!("{{\"seqs\":[{other}]}}")).await?, 200);
    assert!(
        setting
            .ask::<bool>("SELECT state = 'failed' FROM pgoutbox.parked WHERE slot = 'other'")
            .await?
    );
    assert_eq!(act(&[shown, json], &body).await?, 200);
    assert!(
        !setting.ask::<bool>(failed.replace("WHERE", "WHERE slot <> 'other' AND").as_str()).await?
    );
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn status_asks_the_running_process() -> Result<()> {
    // Known beforehand, and free: nobody else is given it meanwhile.
    let port = harness::free_port()?;
    let setting = Setting::shared().await?.set("http.address", &format!("127.0.0.1:{port}"));
    let alone = setting.status().await?;
    assert!(alone["live"].is_null() && alone["slot"].is_object(), "{alone}");
    let consumer = setting.consumer().await?;
    let (relay, _) = setting.serve().await?;
    setting.sql("INSERT INTO outbox_messages (topic, payload) VALUES ('t', '1')").await?;
    arrived(&consumer, 1).await?;
    setting.all_marked().await?;
    // Figures may be some milliseconds old; the state is not.
    let both = setting.status().await?;
    assert_eq!(both["live"]["state"], "running", "{both}");
    wait_for("the event among the figures", PATIENCE, async || {
        let both = setting.status().await?;
        anyhow::ensure!(both["live"]["events"]["delivered"] == 1, "{both}");
        Ok(Some(()))
    })
    .await?;
    let told = setting.program.succeed(&["status"]).await?;
    for part in [
        "relay     running for ",
        "events    ",
        "1 delivered in all",
        "latency   commit",
        "slot      ",
    ] {
        assert!(told.contains(part), "no {part} in {told}");
    }
    let watch = setting.program.spawn(&["status", "--watch"])?;
    wait_until("two looks", PATIENCE, async || {
        Ok(watch.log().matches("relay     running for ").count() >= 2)
    })
    .await
    .with_context(|| watch.log())?;
    assert!(!watch.log().contains('\x1b'), "a file is no terminal");
    watch.interrupt()?;
    let ended = watch.wait_exit(PATIENCE).await?;
    assert_eq!(ended.code(), Some(0), "{}", watch.log());
    // Another relay's slot is none of ours.
    let other = Setting::shared().await?.set("http.address", &format!("127.0.0.1:{port}"));
    assert!(other.status().await?["live"].is_null());
    relay.drain(PATIENCE).await
}

/// The image's address: whichever way a probe comes, by IPv4 or IPv6.
#[tokio::test]
async fn each_address_of_the_machine_is_served() -> Result<()> {
    let mut setting = Setting::shared().await?;
    setting.env("PGOUTBOX_HTTP__ADDRESS", "[::]:0");
    let relay = setting.run()?;
    let port = relay.http(PATIENCE).await?.port();
    let mut ways: Vec<std::net::IpAddr> = vec![std::net::Ipv4Addr::LOCALHOST.into()];
    // Not each machine has it.
    let has_ipv6 = std::net::TcpListener::bind((std::net::Ipv6Addr::LOCALHOST, 0)).is_ok();
    ways.extend(has_ipv6.then(|| std::net::IpAddr::from(std::net::Ipv6Addr::LOCALHOST)));
    for way in ways {
        assert_eq!(get((way, port).into(), "/livez").await?.code, 200, "{way}");
    }
    relay.drain(PATIENCE).await
}
