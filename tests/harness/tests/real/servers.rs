//! The servers of the harness, for real.

use std::time::Duration;

use anyhow::Result;
use harness::postgres::{self, Auth, Postgres, Shutdown};
use harness::rabbitmq::{self, Permissions, RabbitMq};
use harness::{certs::Authority, shared};

#[tokio::test]
async fn postgres_survives_a_stop_and_a_kill() -> Result<()> {
    let authority = Authority::new("test authority")?;
    let tls =
        postgres::ServerTls { pair: authority.server(&["localhost"])?, ca: authority.pem().into() };
    let options = postgres::Options { auth: Auth::Scram, tls: Some(tls), ..Default::default() };
    let postgres = Postgres::start(options).await?;
    let database = postgres.create_database().await?;
    let wrong = postgres.url_as("postgres:wrong", postgres.port(), &database);
    assert!(postgres::connect(&wrong).await.is_err());

    postgres.execute(&database, "CREATE TABLE t AS SELECT 1 AS n").await?;
    let took = postgres.stop(Shutdown::Fast, Duration::from_secs(10)).await?;
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(postgres.connect(&database).await.is_err());
    postgres.start_again().await?;
    postgres.kill9().await?;
    postgres.start_again().await?;

    let client = postgres.connect(&database).await?;
    assert_eq!(client.query_one("SELECT n FROM t", &[]).await?.get::<_, i32>(0), 1);
    let level = client.query_one("SHOW wal_level", &[]).await?;
    assert_eq!(level.get::<_, &str>(0), "logical");
    assert_eq!(client.query_one("SHOW ssl", &[]).await?.get::<_, &str>(0), "on");

    postgres.sigstop()?;
    let answer =
        tokio::time::timeout(Duration::from_millis(300), client.query_one("SELECT 2", &[])).await;
    assert!(answer.is_err(), "a frozen server answered");
    postgres.sigcont()?;
    client.query_one("SELECT 2", &[]).await?;
    Ok(())
}

#[tokio::test]
async fn a_standby_takes_over() -> Result<()> {
    let postgres = Postgres::start(postgres::Options::default()).await?;
    let Ok(standby) = postgres.standby(&[]).await else {
        // Some builds of Postgres come without pg_basebackup.
        return Ok(());
    };
    postgres.execute("postgres", "CREATE TABLE t AS SELECT 7 AS n").await?;
    harness::wait_until("the standby to have the row", Duration::from_secs(10), async || {
        Ok(standby.connect("postgres").await?.query_one("SELECT n FROM t", &[]).await.is_ok())
    })
    .await?;
    postgres.kill9().await?;
    standby.promote().await?;
    standby.execute("postgres", "INSERT INTO t VALUES (8)").await
}

#[tokio::test]
async fn the_shared_servers_serve_many_tests_at_once() -> Result<()> {
    let (one, other) = tokio::join!(shared::postgres(), shared::postgres());
    assert_eq!(one?.port(), other?.port());
    let (one, other) = tokio::join!(shared::rabbitmq(), shared::rabbitmq());
    assert_eq!(one?.port(), other?.port());
    Ok(())
}

#[tokio::test]
async fn virtual_hosts_and_users_are_apart() -> Result<()> {
    let rabbitmq = shared::rabbitmq().await?;
    let (one, other) = (rabbitmq.add_vhost().await?, rabbitmq.add_vhost().await?);
    assert_ne!(one, other);
    rabbitmq.connect(&one).await?;
    rabbitmq.connect("/").await?;

    rabbitmq.add_user("clerk", "secret", &one, Permissions::NONE).await?;
    let clerk = |vhost: &str| rabbitmq.url_as("clerk:secret", rabbitmq.port(), vhost);
    let channel = rabbitmq::connect(&clerk(&one)).await?.create_channel().await?;
    let declared = channel.queue_declare("q".into(), Default::default(), Default::default()).await;
    assert!(declared.is_err(), "declared without the permission");
    assert!(rabbitmq::connect(&clerk(&other)).await.is_err(), "let into a foreign virtual host");
    Ok(())
}

#[tokio::test]
async fn rabbitmq_survives_a_stop_and_a_kill_and_speaks_tls() -> Result<()> {
    let authority = Authority::new("test authority")?;
    let tls = rabbitmq::ServerTls {
        pair: authority.server(&["localhost", "127.0.0.1"])?,
        ca: authority.pem().into(),
    };
    let rabbitmq =
        RabbitMq::start(rabbitmq::Options { tls: Some(tls), ..Default::default() }).await?;
    let vhost = rabbitmq.add_vhost().await?;

    rabbitmq.add_user("relay", "unused", &vhost, Permissions::ALL).await?;
    let client = authority.client("relay")?;
    let config = lapin::tcp::OwnedTLSConfig {
        identity: Some(lapin::tcp::OwnedIdentity::PKCS8 {
            pem: client.cert.into(),
            key: client.key.into(),
        }),
        cert_chain: Some(authority.pem().to_owned()),
    };
    let runtime = lapin::runtime::default_runtime()?;
    let url = rabbitmq.tls_url("x:x", "127.0.0.1", &vhost) + "?auth_mechanism=external";
    lapin::Connection::connect_with_config(&url, Default::default(), config, runtime).await?;

    rabbitmq.kill9().await?;
    assert!(rabbitmq.connect(&vhost).await.is_err());
    rabbitmq.start_again().await?;
    rabbitmq.connect(&vhost).await?;
    rabbitmq.stop().await?;
    rabbitmq.start_again().await?;
    rabbitmq.connect(&vhost).await?;
    Ok(())
}
