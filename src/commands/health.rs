//! `pgoutbox health`: asks the running process, for container engines that want a command.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::say;
use crate::config::{Config, Needs, Secret, Sources};
use crate::error::Fault;

/// An answer is a few hundred bytes; a stranger on the port may send anything.
const LONGEST: u64 = 64 << 10;

/// Asks the pgoutbox that runs here whether it lives, or with --ready whether it makes progress,
/// at http.address. Exit code 1 where it does not, with its reasons.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  pgoutbox health\n  pgoutbox health --ready --timeout 2s")]
pub struct Args {
    /// Whether it makes progress, instead of whether it lives
    #[arg(long)]
    pub ready: bool,
    /// How long it may take to answer
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

/// Prints what it answers, and says whether that is good.
///
/// # Errors
/// There is nobody to ask.
pub async fn run(args: &Args, sources: &Sources) -> Result<bool, Fault> {
    let http = Config::load(sources, Needs::NONE)?.http;
    let address = http.address.ok_or_else(|| {
        Fault::usage(
            "http.address is off: there is nobody to ask",
            "set http.address = \"127.0.0.1:8976\"",
        )
    })?;
    let path = if args.ready { "/readyz" } else { "/livez" };
    let asked = ask(here(address), path, http.token.as_ref());
    let answer = match timeout(args.timeout, asked).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(nobody(address, &error.to_string())),
        Err(_) => return Err(nobody(address, "no answer in time")),
    };
    let (is_well, body) =
        read(&answer).ok_or_else(|| nobody(address, "what answers is no HTTP server"))?;
    say(body.trim_end());
    Ok(is_well)
}

fn nobody(address: SocketAddr, why: &str) -> Fault {
    Fault::definite(
        format!("http://{address} does not answer: {why}"),
        "is `pgoutbox run` running, with this http.address?",
    )
}

/// A server that listens on all addresses is asked on the loopback one.
fn here(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

async fn ask(address: SocketAddr, path: &str, token: Option<&Secret>) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let token = token.map(|token| format!("Authorization: Bearer {}\r\n", token.expose().trim()));
    let request =
        format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n{}\r\n", token.unwrap_or_default());
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Whether the status is a good one, and the body.
fn read(answer: &str) -> Option<(bool, &str)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut line = head.lines().next()?.split(' ');
    let is_http = line.next()?.starts_with("HTTP/1.");
    let status: u16 = line.next()?.parse().ok()?;
    is_http.then_some(((200..300).contains(&status), body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_good_status_is_well() {
        assert_eq!(read("HTTP/1.1 200 OK\r\nA: b\r\n\r\n{}"), Some((true, "{}")));
        assert_eq!(read("HTTP/1.0 503 no\r\n\r\nwhy"), Some((false, "why")));
        for strange in ["", "SSH-2.0", "HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK", "AMQP 200\r\n\r\n"] {
            assert_eq!(read(strange), None, "{strange}");
        }
    }

    #[test]
    fn all_addresses_are_asked_on_the_loopback_one() {
        for (bound, asked) in
            [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.1:1", "10.0.0.1:1")]
        {
            assert_eq!(here(bound.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
