//! Containers, where a Docker engine is all there is.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use harness::{postgres, rabbitmq, retry};

/// Pulling an image is over before this begins.
const START: Duration = Duration::from_secs(90);

pub(crate) struct Container {
    id: String,
    port: u16,
}

/// Whether an engine answers.
pub(crate) fn is_there() -> bool {
    docker(&["info"]).is_ok()
}

impl Container {
    /// `port` is the one inside; outside it is a free one of the loopback.
    pub(crate) fn start(port: u16, image_and_arguments: &[&str]) -> Result<Container> {
        let publish = format!("127.0.0.1::{port}");
        let id = docker(
            &[&["run", "--detach", "--rm", "--publish", &publish], image_and_arguments].concat(),
        )?;
        harness::end_container_with_us(&id)?;
        let mut container = Container { id, port: 0 };
        let published = docker(&["port", &container.id, &format!("{port}/tcp")])?;
        let outside = published.lines().next().and_then(|line| line.rsplit(':').next());
        container.port =
            outside.and_then(|port| port.parse().ok()).context("docker tells no port")?;
        Ok(container)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // The volume too: the images declare anonymous ones.
        let _ = docker(&["rm", "--force", "--volumes", &self.id]);
    }
}

pub(crate) async fn wait_ready(database_url: &str, amqp_url: &str) -> Result<()> {
    retry("Postgres in its container", START, || postgres::connect(database_url)).await?;
    retry("RabbitMQ in its container", START, || rabbitmq::connect(amqp_url)).await?;
    Ok(())
}

fn docker(arguments: &[&str]) -> Result<String> {
    let output = Command::new("docker").args(arguments).output().context("docker")?;
    if !output.status.success() {
        bail!("docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
