//! Free loopback ports.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::Mutex;

use anyhow::{Result, bail};

/// Below the range from which the kernel serves `port 0` and outgoing connections. A server's port from inside that
/// range could be taken by any client while the server is down, even by a client that tries to reach this very port
/// and so connects to itself.
const RANGE: std::ops::Range<u16> = 15_000..32_000;

/// A claim to each port that was handed out: a UDP socket of its number, held as long as this process lives. Its server
/// listens only later, and another process that chooses by the same seed comes to the same number meanwhile.
static CLAIMS: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());

/// A port nobody listens on, not handed out by this process or another one that uses this crate.
pub fn free() -> Result<u16> {
    let mut claims = CLAIMS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for _ in 0..1_000 {
        let port = fastrand::u16(RANGE);
        let Ok(claim) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)) else { continue };
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            claims.push(claim);
            return Ok(port);
        }
    }
    bail!("no free port in {RANGE:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_another_process_has_claimed_is_not_handed_out() {
        fastrand::seed(7);
        let port = fastrand::u16(RANGE);
        let _others = UdpSocket::bind((Ipv4Addr::LOCALHOST, port));
        fastrand::seed(7);
        let ours = free().unwrap();
        assert_ne!(ours, port);
        fastrand::seed(7);
        assert_ne!(free().unwrap(), ours, "nor twice by this one");
    }
}
