//! Reaches a host: all of its addresses, so that one of them that swallows everything hides no
//! other.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::sleep;

use crate::within::within;

/// The next address is tried after this long, or once the one before has failed (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);

/// Connects to the first of a host's addresses that answers. Each has `bound` to do so.
///
/// # Errors
/// No address of the host answers: what each said, in one error.
pub(crate) async fn dial(host: &str, port: u16, bound: Duration) -> io::Result<TcpStream> {
    let addresses: Vec<_> = within(bound, lookup_host((host, port)), no_answer).await?.collect();
    reach(addresses, bound).await
}

async fn reach(addresses: Vec<SocketAddr>, bound: Duration) -> io::Result<TcpStream> {
    let is_one = addresses.len() == 1;
    let mut waiting = addresses.into_iter();
    let mut tries = FuturesUnordered::new();
    let mut failed: Vec<(SocketAddr, io::Error)> = Vec::new();
    loop {
        let next = waiting.next();
        if let Some(address) = next {
            tries.push(async move {
                (address, within(bound, TcpStream::connect(address), no_answer).await)
            });
        }
        tokio::select! {
            biased;
            outcome = tries.next() => match outcome {
                Some((_, Ok(stream))) => return Ok(stream),
                Some((address, Err(error))) => failed.push((address, error)),
                None => break,
            },
            () = sleep(STAGGER), if waiting.len() > 0 => {}
        }
    }
    Err(told(failed, is_one))
}

fn told(mut failed: Vec<(SocketAddr, io::Error)>, is_one: bool) -> io::Error {
    let all: Vec<_> =
        failed.iter().map(|(address, error)| format!("{}: {error}", address.ip())).collect();
    match failed.pop() {
        Some((_, error)) if is_one => error,
        Some((_, error)) => io::Error::new(error.kind(), all.join("; ")),
        None => io::Error::new(io::ErrorKind::NotFound, "the host has no address"),
    }
}

fn no_answer(bound: Duration) -> io::Error {
    let what = format!("no answer within {}", crate::text::span(bound));
    io::Error::new(io::ErrorKind::TimedOut, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A listener whose queue is full answers nobody, as a firewall that drops.
    fn black_hole() -> (TcpListener, Vec<std::net::TcpStream>, SocketAddr) {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .expect("a socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
        socket.listen(0).expect("it listens");
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().expect("an address");
        let mut queue = Vec::new();
        while let Ok(stream) =
            std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100))
        {
            queue.push(stream);
        }
        (listener, queue, address)
    }

    #[tokio::test]
    async fn an_address_that_swallows_hides_no_other() {
        let (_listener, _queue, hole) = black_hole();
        let there = TcpListener::bind("127.0.0.1:0").expect("a port");
        let good = there.local_addr().expect("an address");
        let bound = Duration::from_secs(20);
        let begun = std::time::Instant::now();
        let stream = reach(vec![hole, good], bound).await.expect("the second answers");
        assert_eq!(stream.peer_addr().expect("connected"), good);
        assert!(begun.elapsed() < bound / 2, "it waited for the first one's end");
    }

    #[tokio::test]
    async fn each_address_says_why() {
        let (_listener, _queue, hole) = black_hole();
        let closed = SocketAddr::from(([127, 0, 0, 2], 1));
        let error = reach(vec![hole, closed], Duration::from_millis(100)).await.expect_err("none");
        let said = error.to_string();
        assert!(said.contains("127.0.0.1: no answer within 100ms"), "{said}");
        assert!(said.contains("127.0.0.2: "), "{said}");
        let error = reach(vec![], Duration::from_millis(100)).await.expect_err("none");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
