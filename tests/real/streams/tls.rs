//! To a stream by TLS, with a password and with a certificate.

use anyhow::{Context, Result};
use harness::events::events;
use harness::rabbitmq::Permissions;
use harness::stream;

use super::STREAM;
use crate::setting::{PATIENCE, Setting};
use crate::tls::{Servers, servers};

/// The program by TLS to the broker's streams, as this user.
async fn encrypted(servers: &Servers, user: &str) -> Result<Setting> {
    let setting = servers.setting().await?;
    let rabbitmq = &servers.rabbitmq;
    let path = |name: &str| servers.file(name).display().to_string();
    let all = Permissions { configure: ".*", write: ".*", read: ".*" };
    rabbitmq.add_user("holder", "unused", &setting.vhost, all).await?;
    let setting = setting
        .clone()
        .set("amqp.url", &rabbitmq.tls_url(user, "localhost", &setting.vhost))
        .set("amqp.ca_file", &path("ours.pem"))
        .set("amqp.cert_file", &path("holder.crt"))
        .set("amqp.key_file", &path("holder.key"))
        .set("amqp.stream_port", &rabbitmq.stream_tls_port().to_string())
        .set("tables.0.sink", "stream")
        .set("tables.0.stream", STREAM);
    Ok(setting)
}

async fn arrives(setting: &Setting) -> Result<()> {
    setting.init().await?;
    setting.insert(events(1..=9, "good")).await?;
    let relay = setting.run()?;
    setting.all_marked().await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await?;
    assert_eq!(stream::read(&setting.amqp_url, STREAM).await?.len(), 9);
    Ok(())
}

#[tokio::test]
async fn with_a_password() -> Result<()> {
    arrives(&encrypted(servers().await?, "guest:guest").await?).await
}

/// The certificate is the login.
#[tokio::test]
async fn with_a_certificate() -> Result<()> {
    let servers = servers().await?;
    let setting = encrypted(servers, "holder").await?;
    let external = setting.clone().set("amqp.auth", "external");
    if !servers.rabbitmq.version().starts_with("3.10.") {
        return arrives(&external).await;
    }
    // RabbitMQ 3.10 hangs up on such a login to its streams, and the relay tries again.
    external.init().await?;
    let relay = external.run()?;
    relay.wait_for_log("RabbitMQ's streams at localhost", PATIENCE).await.map(drop)
}

/// The broker's certificate is of nobody that is trusted: nothing is sent.
#[tokio::test]
async fn an_unknown_authority_is_refused() -> Result<()> {
    let servers = servers().await?;
    let setting = encrypted(servers, "guest:guest").await?;
    setting.init().await?;
    let theirs = servers.file("theirs.pem").display().to_string();
    let relay = setting.set("amqp.ca_file", &theirs).run()?;
    relay.wait_for_log("UnknownIssuer", PATIENCE).await?;
    Ok(())
}
