//! The servers of the harness, for real.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use harness::certs::{Authority, Pair};
use harness::corner::Corner;
use harness::postgres::{self, Auth, Postgres, Shutdown};
use harness::rabbitmq::{self, Permissions, RabbitMq};
use harness::{shared, wait_until};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

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

    let greeting = greeting_of(&rabbitmq, &authority, &authority.client("relay")?).await?;
    assert!(greeting.contains("EXTERNAL"), "{greeting}");
    let stranger = Authority::new("another authority")?.client("relay")?;
    assert!(greeting_of(&rabbitmq, &authority, &stranger).await.is_err(), "a stranger was let in");

    rabbitmq.kill9().await?;
    assert!(rabbitmq.connect(&vhost).await.is_err());
    rabbitmq.start_again().await?;
    rabbitmq.connect(&vhost).await?;
    rabbitmq.stop().await?;
    rabbitmq.start_again().await?;
    rabbitmq.connect(&vhost).await?;
    Ok(())
}

/// What RabbitMQ says first, over TLS: how one may log in, among others.
async fn greeting_of(rabbitmq: &RabbitMq, authority: &Authority, client: &Pair) -> Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(client.cert.as_bytes())?],
            PrivateKeyDer::from_pem_slice(client.key.as_bytes())?,
        )?;
    let stream = TcpStream::connect(("127.0.0.1", rabbitmq.tls_port())).await?;
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(ServerName::try_from("localhost")?, stream).await?;
    stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
    // Type, channel and size of a frame.
    let mut head = [0; 7];
    stream.read_exact(&mut head).await?;
    let [_, _, _, size @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes(size).try_into()?];
    stream.read_exact(&mut payload).await?;
    Ok(String::from_utf8_lossy(&payload).into_owned())
}

/// There are 400 on the shared server, and more tests than that.
#[tokio::test]
async fn a_test_gives_its_slots_back() -> Result<()> {
    let corner = Corner::new().await?;
    let database = corner.database.clone();
    let client = shared::postgres().await?.connect(&database).await?;
    let sql = format!("SELECT pg_create_logical_replication_slot('{database}', 'pgoutput')");
    client.batch_execute(&sql).await?;
    drop(corner);
    wait_until("its slot to be dropped", Duration::from_secs(60), async || {
        let sql = "SELECT FROM pg_replication_slots WHERE database = $1";
        Ok(client.query_opt(sql, &[&database]).await?.is_none())
    })
    .await
}
