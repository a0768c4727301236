//! Requests that nobody sends by mistake: each gets a clear answer, and a small one.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use harness::http::{Answer, request, send};

use crate::setting::{PATIENCE, Setting};

const TOKEN: &str = "correct-horse-battery-staple";

/// The answer to a request's lines; but for those that go well it is one line.
async fn ask(address: SocketAddr, lines: &[&str]) -> Result<Answer> {
    let answer = send(address, format!("{}\r\n\r\n", lines.join("\r\n"))).await?;
    ensure!(answer.code < 300 || answer.body.lines().count() <= 1, "{answer:?}");
    ensure!(answer.head.len() < 1000, "{answer:?}");
    Ok(answer)
}

#[tokio::test]
async fn a_host_is_named_once_and_is_ours() -> Result<()> {
    let (relay, address) = Setting::shared().await?.serve().await?;
    for (lines, code) in [
        (&["GET /status HTTP/1.1", "Host: localhost"][..], 200),
        (&["GET http://localhost/status HTTP/1.1", "Host: localhost"], 200),
        (&["GET /status HTTP/1.1", "Host: localhost", "Host: localhost"], 400),
        (&["GET /status HTTP/1.1", "Host: localhost", "Host: evil.example"], 400),
        (&["GET /status HTTP/1.1", "Host: evil.example"], 403),
        (&["GET http://evil.example/status HTTP/1.1", "Host: localhost"], 403),
        (&["GET http://localhost/status HTTP/1.1", "Host: evil.example"], 403),
        (&["POST /pause HTTP/1.1", "Host: evil.example", "Content-Length: 0"], 403),
    ] {
        assert_eq!(ask(address, lines).await?.code, code, "{lines:?}");
    }
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn paths_and_methods_are_taken_as_they_are() -> Result<()> {
    let (relay, address) = Setting::shared().await?.set("http.token", TOKEN).serve().await?;
    let token = format!("Authorization: Bearer {TOKEN}");
    for (line, code) in [
        ("GET //status HTTP/1.1", 404),
        ("GET /../status HTTP/1.1", 404),
        ("GET /pause/../status HTTP/1.1", 404),
        ("GET /%73tatus HTTP/1.1", 404),
        ("GET /status/ HTTP/1.1", 404),
        ("GET /status;x HTTP/1.1", 404),
        ("GET status HTTP/1.1", 404),
        ("OPTIONS * HTTP/1.1", 404),
        ("OPTIONS /pause HTTP/1.1", 405),
        ("CONNECT localhost:80 HTTP/1.1", 404),
        ("TRACE /status HTTP/1.1", 405),
        ("BREW /status HTTP/1.1", 405),
        ("GET /pause HTTP/1.1", 405),
        ("HEAD /events HTTP/1.1", 200),
    ] {
        assert_eq!(ask(address, &[line, "Host: localhost", &token]).await?.code, code, "{line}");
    }
    let long = format!("X: {}", "a".repeat(30_000));
    assert_eq!(ask(address, &["GET /livez HTTP/1.1", "Host: localhost", &long]).await?.code, 431);
    relay.drain(PATIENCE).await
}

/// A query is in the logs of whatever stands between.
#[tokio::test]
async fn a_token_counts_in_its_header_only_and_is_logged_nowhere() -> Result<()> {
    let setting = Setting::shared().await?.set("http.token", TOKEN).set("log.level", "trace");
    let (relay, address) = setting.serve().await?;
    let path = format!("/status?token={TOKEN}&access_token={TOKEN}");
    assert_eq!(request(address, "GET", &path, &[], "").await?.code, 401);
    let json = ("Content-Type", "application/json");
    let path = format!("/pause?token={TOKEN}");
    assert_eq!(request(address, "POST", &path, &[json], "{}").await?.code, 401);
    let right = format!("Bearer {TOKEN}");
    let two = [("Authorization", "Bearer x"), ("Authorization", right.as_str())];
    assert_eq!(request(address, "GET", "/status", &two, "").await?.code, 401);
    relay.drain(PATIENCE).await?;
    assert!(relay.log().contains("it showed no token") && !relay.log().contains(TOKEN));
    Ok(())
}

/// The client writes all of it before it reads, and still sees the answer.
#[tokio::test]
async fn who_sends_far_too_much_is_told_so() -> Result<()> {
    let (relay, address) = Setting::shared().await?.set("http.token", TOKEN).serve().await?;
    let right = format!("Bearer {TOKEN}");
    let (token, json) = (("Authorization", &*right), ("Content-Type", "application/json"));
    let body = " ".repeat(10_000_000);
    for (method, path, headers, code) in [
        ("POST", "/pause", &[token, json][..], 413),
        ("POST", "/pause", &[json], 401),
        ("POST", "/pause", &[token], 415),
        ("POST", "/nothing", &[token, json], 404),
        ("GET", "/livez", &[], 200),
    ] {
        let answer = request(address, method, path, headers, &body).await?;
        assert_eq!(answer.code, code, "{method} {path}: {answer:?}");
    }
    relay.drain(PATIENCE).await
}
