//! What is to be seen of streams: by people, by programs, and where something is the matter with them.

use anyhow::{Context, Result};
use harness::events::event;
use harness::http::get;
use harness::rabbitmq::Permissions;
use harness::relay::Relay;
use harness::wait_until;
use lapin::options::QueueDeleteOptions;
use serde_json::Value;

use super::STREAM;
use super::partitioned::{spread, write};
use crate::setting::{PATIENCE, Setting};

async fn status(relay: &Relay) -> Result<Value> {
    get(relay.http(PATIENCE).await?, "/status").await?.json()
}

/// Waits until it says that there is something worth a look.
async fn is_degraded(relay: &Relay, code: &str) -> Result<()> {
    wait_until("it to be degraded", PATIENCE, async || {
        let told = status(relay).await?;
        let codes = told["degraded"].as_array().cloned().unwrap_or_default();
        Ok(codes.iter().any(|it| it["code"] == code))
    })
    .await
    .with_context(|| relay.log())
}

#[tokio::test]
async fn leader_ids_and_figures_of_each_partition() -> Result<()> {
    let (rabbitmq, setting) = spread(2).await?;
    let relay = setting.run()?;
    write(&setting, 1..=200).await?;
    setting.all_marked().await.with_context(|| relay.log())?;
    let told = status(&relay).await?;
    let mut all = told["destinations"].as_array().context("no destinations")?.clone();
    all.sort_by_key(|one| one["name"].to_string());
    assert_eq!(all.len(), 2, "{told:#}");
    let mut delivered = 0;
    for (number, destination) in all.iter().enumerate() {
        assert_eq!(destination["kind"], "stream", "{told:#}");
        assert_eq!(destination["name"], format!("{STREAM}-{number}"), "{told:#}");
        let one = &destination["stream"];
        let port = format!(":{}", rabbitmq.stream_port());
        assert!(one["leader"].as_str().is_some_and(|it| it.ends_with(&port)), "{one:#}");
        assert_eq!((&one["in_flight"], &one["is_watched"]), (&0.into(), &true.into()), "{one:#}");
        assert_eq!(one["sent_id"], one["confirmed_id"], "{one:#}");
        let name = one["publisher"].as_str().context("no name")?;
        assert!(name.starts_with(&format!("pgoutbox/{}/", setting.database)), "{one:#}");
        delivered += destination["delivered"].as_u64().context("no figure")?;
    }
    assert_eq!(delivered, 200);
    let metrics = get(relay.http(PATIENCE).await?, "/metrics").await?.body;
    assert!(metrics.contains("pgoutbox_stream_is_watched{stream=\"events-1\"} 1\n"), "{metrics}");
    let address = relay.http(PATIENCE).await?;
    let setting = setting.set("http.address", &address.to_string());
    let page = setting.program.succeed(&["status"]).await?;
    for wanted in ["events-0: led by ", "events-1: led by ", "published to as pgoutbox/"] {
        assert!(page.contains(wanted), "{page}");
    }
    relay.drain(PATIENCE).await?;
    Ok(())
}

/// A stream that was deleted and made again has nothing of what was confirmed.
#[tokio::test]
async fn a_stream_that_was_made_again() -> Result<()> {
    let (_rabbitmq, setting) = Setting::streaming(STREAM).await?;
    let setting = setting.set("amqp.max_message_bytes", "1KiB");
    let relay = setting.run()?;
    write(&setting, 1..=20).await?;
    setting.all_marked().await.with_context(|| relay.log())?;
    // The last one is never sent.
    setting
        .insert(event(21, "good").column("payload", "jsonb_build_object('it', repeat('x', 2000))"))
        .await?;
    let is_parked = "SELECT count(*) = 1 FROM pgoutbox.parked";
    setting.until("it to be parked", is_parked).await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await?;
    let relay = setting.run()?;
    relay.http(PATIENCE).await?;
    wait_until("a session", PATIENCE, async || Ok(status(&relay).await?["state"] == "running"))
        .await?;
    let log = relay.log();
    relay.drain(PATIENCE).await?;
    assert!(!log.contains("has not the last"), "{log}");
    let channel = setting.channel().await?;
    channel.queue_delete(STREAM.into(), QueueDeleteOptions::default()).await?;
    setting.init().await?;
    let relay = setting.run()?;
    is_degraded(&relay, "stream_forgot").await?;
    let metrics = get(relay.http(PATIENCE).await?, "/metrics").await?.body;
    assert!(
        metrics.contains("pgoutbox_stream_forgotten_total{stream=\"events\"} 1\n"),
        "{metrics}"
    );
    relay.drain(PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn a_stream_that_may_not_be_read() -> Result<()> {
    let (rabbitmq, setting) = Setting::streaming(STREAM).await?;
    let (vhost, user) = (&setting.vhost, format!("u{}", setting.vhost));
    let write_only = Permissions { write: "^events$", ..Permissions::NONE };
    rabbitmq.add_user(&user, "secret", vhost, write_only).await?;
    let url = rabbitmq.url_as(&format!("{user}:secret"), rabbitmq.port(), vhost);
    let relay = setting.clone().set("amqp.url", &url).run()?;
    is_degraded(&relay, "stream_unwatched").await?;
    write(&setting, 1..=20).await?;
    setting.all_marked().await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await?;
    Ok(())
}
