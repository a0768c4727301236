//! A killed test process leaves nothing behind.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use harness::{shared, wait_until};

const CHILD: &str = "HARNESS_REAPER_CHILD";

/// What the child process runs: it starts both servers, tells where, and waits to be killed.
#[tokio::test]
async fn child() -> Result<()> {
    if std::env::var_os(CHILD).is_none() {
        return Ok(());
    }
    let (postgres, rabbitmq) = tokio::try_join!(shared::postgres(), shared::rabbitmq())?;
    println!("\nservers {} {} {}", postgres.socket().display(), postgres.port(), rabbitmq.port());
    std::future::pending().await
}

#[tokio::test]
async fn servers_end_with_a_killed_process() -> Result<()> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["reaper::child", "--exact", "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()?;
    let mut told = BufReader::new(child.stdout.take().context("no stdout")?).lines();
    let told = told.find_map(|line| Some(line.ok()?.strip_prefix("servers ")?.to_owned()));
    child.kill()?;
    child.wait()?;
    let told = told.context("the child started no servers")?;
    let [home, postgres, rabbitmq] = told.split(' ').collect::<Vec<_>>()[..] else {
        anyhow::bail!("the child told {told:?}");
    };
    let ports = [postgres.parse::<u16>()?, rabbitmq.parse()?];
    let root = Path::new(home).parent().context("no parent")?;
    wait_until("servers and files to be gone", Duration::from_secs(20), async || {
        let open = ports.iter().any(|port| TcpStream::connect(("127.0.0.1", *port)).is_ok());
        Ok(!open && !root.exists())
    })
    .await
}
