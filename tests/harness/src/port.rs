//! Free loopback ports.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Mutex;

use anyhow::{Result, bail};

/// Below the range from which the kernel serves `port 0` and outgoing connections. A server's port from inside that
/// range could be taken by any client while the server is down, even by a client that tries to reach this very port
/// and so connects to itself.
const RANGE: std::ops::Range<u16> = 15_000..32_000;

static TAKEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A port nobody listens on, not handed out by this process before.
pub fn free() -> Result<u16> {
    let mut taken = TAKEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let taken = taken.get_or_insert_default();
    for _ in 0..1_000 {
        let port = fastrand::u16(RANGE);
        if !taken.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            taken.insert(port);
            return Ok(port);
        }
    }
    bail!("no free port in {RANGE:?}")
}
