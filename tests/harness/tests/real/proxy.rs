//! The proxy's faults, seen from a client.

use std::time::{Duration, Instant};

use anyhow::Result;
use harness::proxy::{Cut, Direction, Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A proxy before a server that sends everything back.
async fn echo() -> Result<Proxy> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let proxy = Proxy::start(listener.local_addr()?.port()).await?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    Ok(proxy)
}

async fn client(proxy: &Proxy) -> Result<TcpStream> {
    Ok(TcpStream::connect(("127.0.0.1", proxy.port())).await?)
}

async fn round_trip(stream: &mut TcpStream, text: &[u8]) -> std::io::Result<()> {
    stream.write_all(text).await?;
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).await.map(drop)
}

#[tokio::test]
async fn passes_counts_and_cuts() -> Result<()> {
    let proxy = echo().await?;
    let mut stream = client(&proxy).await?;
    round_trip(&mut stream, b"hello").await?;
    assert_eq!((proxy.bytes(Direction::Up), proxy.bytes(Direction::Down)), (5, 5));
    assert_eq!((proxy.connections(), proxy.open()), (1, 1));

    proxy.cut(Cut::Fin);
    assert_eq!(stream.read(&mut [0; 8]).await?, 0);
    let mut stream = client(&proxy).await?;
    round_trip(&mut stream, b"hello").await?;
    proxy.cut(Cut::Rst);
    let error = stream.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

    proxy.refuse(true);
    // The reset may come before or after connect returns.
    let refused = async { anyhow::Ok(round_trip(&mut client(&proxy).await?, b"hello").await?) };
    assert!(refused.await.is_err());
    proxy.refuse(false);
    round_trip(&mut client(&proxy).await?, b"hello").await.map_err(Into::into)
}

#[tokio::test]
async fn cuts_in_the_middle_of_a_message() -> Result<()> {
    let proxy = echo().await?;
    let mut stream = client(&proxy).await?;
    proxy.cut_after(7, Direction::Down, Cut::Fin);
    round_trip(&mut stream, b"hello").await?;
    stream.write_all(b"world").await?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await?;
    assert_eq!(rest, b"wo");
    // The budget is spent: a new connection lives.
    round_trip(&mut client(&proxy).await?, b"a longer message").await?;
    Ok(())
}

#[tokio::test]
async fn stalls_and_delays_one_direction() -> Result<()> {
    let proxy = echo().await?;
    let mut stream = client(&proxy).await?;
    proxy.stall(Direction::Down);
    let stalled = tokio::time::timeout(Duration::from_millis(200), round_trip(&mut stream, b"x"));
    assert!(stalled.await.is_err());
    assert_eq!((proxy.bytes(Direction::Up), proxy.bytes(Direction::Down)), (1, 0));
    proxy.resume(Direction::Down);
    stream.read_exact(&mut [0; 1]).await?;

    proxy.delay(Duration::from_millis(150), Direction::Up);
    let start = Instant::now();
    round_trip(&mut stream, b"x").await?;
    assert!(start.elapsed() >= Duration::from_millis(150));
    Ok(())
}
