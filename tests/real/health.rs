//! `pgoutbox health`, as a container engine calls it.

use anyhow::Result;
use harness::relay::Pgoutbox;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Answers one request with this, and returns what was asked.
async fn answers(answer: &'static str) -> Result<(String, JoinHandle<Result<String>>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let asked = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).await?;
            request.extend(byte);
        }
        stream.write_all(answer.as_bytes()).await?;
        Ok(String::from_utf8(request)?)
    });
    Ok((address, asked))
}

fn program(address: &str) -> Pgoutbox {
    Pgoutbox::at(env!("CARGO_BIN_EXE_pgoutbox")).env("PGOUTBOX_HTTP__ADDRESS", address)
}

#[tokio::test]
async fn it_asks_and_says_what_is_answered() -> Result<()> {
    let (address, asked) = answers("HTTP/1.1 200 OK\r\n\r\n{\"state\":\"running\"}").await?;
    let told = program(&address).succeed(&["health"]).await?;
    assert_eq!(told, "{\"state\":\"running\"}\n");
    let request = asked.await??;
    assert!(request.starts_with("GET /livez HTTP/1.1\r\n"), "{request}");
    assert!(!request.to_lowercase().contains("authorization"), "{request}");

    let (address, asked) = answers("HTTP/1.1 503 no\r\n\r\n{\"reasons\":[\"waiting\"]}").await?;
    let program = program(&address).env("PGOUTBOX_HTTP__TOKEN", "s3cret");
    let output = program.output(&["health", "--ready"]).await?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout)?, "{\"reasons\":[\"waiting\"]}\n");
    let request = asked.await??;
    assert!(request.starts_with("GET /readyz HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("authorization: Bearer s3cret\r\n"), "{request}");
    Ok(())
}

#[tokio::test]
async fn nobody_to_ask_is_not_well() -> Result<()> {
    let free = TcpListener::bind("127.0.0.1:0").await?;
    let address = free.local_addr()?.to_string();
    // It takes the connection and says nothing.
    let output = program(&address).output(&["health", "--timeout", "200ms"]).await?;
    let told = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("no answer in time"), "{told}");
    drop(free);
    let output = program(&address).output(&["health"]).await?;
    let told = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("does not answer") && told.contains("hint: "), "{told}");
    let output = program("off").output(&["health"]).await?;
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    Ok(())
}
