//! A TCP proxy that misbehaves on order.
//!
//! It runs on a thread of its own, so a test that blocks its runtime does not stop the traffic. Faults are per
//! direction: `Up` is from the client (the relay) to the server, `Down` is back.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};

use crate::serving::{self, Ready};

/// Pieces of data on their way, at most.
const MOST_PIECES: usize = 10_000;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Direction {
    Up,
    Down,
}

/// How a connection ends for both sides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cut {
    /// As if the peer had closed in order.
    Fin,
    /// As if a firewall or a dead host had answered.
    Rst,
}

/// What follows once a budget of bytes is spent.
#[derive(Clone, Copy)]
enum Then {
    Cut(Cut),
    Stall,
}

pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    _stop: oneshot::Sender<()>,
}

struct Shared {
    target: SocketAddr,
    /// Each cut has a number; a connection ends when there is one later than itself.
    cut: watch::Sender<(u64, Cut)>,
    refuse: AtomicBool,
    connections: AtomicU64,
    open: AtomicU64,
    up: Lane,
    down: Lane,
}

/// One direction, for all connections together.
struct Lane {
    faults: watch::Sender<Faults>,
    bytes: AtomicU64,
    /// Reads that brought data: about as many packets.
    pieces: AtomicU64,
    /// What may still pass, and what happens then.
    budget: Mutex<Option<(u64, Then)>>,
}

#[derive(Clone, Copy, Default)]
struct Faults {
    stalled: bool,
    delay: Duration,
    latency: Duration,
}

impl Proxy {
    /// To a port of 127.0.0.1.
    pub async fn start(target: u16) -> anyhow::Result<Proxy> {
        let port = crate::port::free()?;
        let shared = Arc::new(Shared {
            target: SocketAddr::from((Ipv4Addr::LOCALHOST, target)),
            cut: watch::Sender::new((0, Cut::Fin)),
            refuse: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            open: AtomicU64::new(0),
            up: Lane::new(),
            down: Lane::new(),
        });
        let own = Arc::clone(&shared);
        let stop = serving::keep("the proxy", move |ready| run(port, own, ready)).await?;
        Ok(Proxy { port, shared, _stop: stop })
    }

    /// The same URL, by way of the proxy.
    pub fn url(&self, url: &str) -> String {
        let (front, back) = url.rsplit_once(':').unwrap_or((url, ""));
        let path = back.split_once('/').map_or("", |(_, path)| path);
        format!("{front}:{}/{path}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends every connection that is open now.
    pub fn cut(&self, how: Cut) {
        self.shared.cut(how);
    }

    /// Cuts everything after that many more bytes in this direction, wherever in a message that is.
    pub fn cut_after(&self, bytes: u64, direction: Direction, how: Cut) {
        *self.shared.lane(direction).lock_budget() = Some((bytes, Then::Cut(how)));
    }

    /// As [`Proxy::stall`], after that many more bytes, wherever in a message that is.
    pub fn stall_after(&self, bytes: u64, direction: Direction) {
        *self.shared.lane(direction).lock_budget() = Some((bytes, Then::Stall));
    }

    /// Nothing passes in this direction until [`Proxy::resume`], and nobody is told.
    pub fn stall(&self, direction: Direction) {
        self.shared.lane(direction).faults.send_modify(|faults| faults.stalled = true);
    }

    pub fn resume(&self, direction: Direction) {
        self.shared.lane(direction).faults.send_modify(|faults| faults.stalled = false);
    }

    /// Each piece of data is held back that long.
    pub fn delay(&self, delay: Duration, direction: Direction) {
        self.shared.lane(direction).faults.send_modify(|faults| faults.delay = delay);
    }

    /// Each piece of data arrives that much later, however many are on their way: the server is far away.
    pub fn latency(&self, latency: Duration, direction: Direction) {
        self.shared.lane(direction).faults.send_modify(|faults| faults.latency = latency);
    }

    /// New connections are reset at once.
    pub fn refuse(&self, refuse: bool) {
        self.shared.refuse.store(refuse, Ordering::Relaxed);
    }

    /// Bytes passed on in this direction, over all connections.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.shared.lane(direction).bytes.load(Ordering::Relaxed)
    }

    /// Pieces of data passed on in this direction, over all connections: on a quiet connection its packets.
    pub fn pieces(&self, direction: Direction) -> u64 {
        self.shared.lane(direction).pieces.load(Ordering::Relaxed)
    }

    /// Connections accepted so far, refused ones not counted.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Connections open now.
    pub fn open(&self) -> u64 {
        self.shared.open.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn lane(&self, direction: Direction) -> &Lane {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }

    fn cut(&self, how: Cut) {
        self.cut.send_modify(|(number, last)| (*number, *last) = (*number + 1, how));
    }
}

impl Lane {
    fn new() -> Lane {
        let faults = watch::Sender::new(Faults::default());
        Lane {
            faults,
            bytes: AtomicU64::new(0),
            pieces: AtomicU64::new(0),
            budget: Mutex::new(None),
        }
    }

    fn lock_budget(&self) -> std::sync::MutexGuard<'_, Option<(u64, Then)>> {
        self.budget.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// How much of `wanted` may pass, and what follows.
    fn spend(&self, wanted: usize) -> (usize, Option<Then>) {
        let mut budget = self.lock_budget();
        let Some((left, then)) = budget.as_mut() else { return (wanted, None) };
        let allowed = usize::try_from(*left).unwrap_or(usize::MAX).min(wanted);
        *left -= allowed as u64;
        if *left > 0 {
            return (allowed, None);
        }
        let then = *then;
        *budget = None;
        (allowed, Some(then))
    }

    /// Waits as long as the faults want; a stall may begin during a delay.
    async fn hold(&self) {
        let mut faults = self.faults.subscribe();
        let delay = faults.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        // Fails only without a sender, which we are.
        let _ = faults.wait_for(|faults| !faults.stalled).await;
    }
}

async fn run(port: u16, shared: Arc<Shared>, ready: Ready) {
    let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
        Ok(listener) => listener,
        Err(error) => return drop(ready.send(Err(error))),
    };
    let _ = ready.send(Ok(()));
    accept(listener, shared).await;
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        if shared.refuse.load(Ordering::Relaxed) {
            reset(&client);
            continue;
        }
        shared.connections.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(serve(client, Arc::clone(&shared)));
    }
}

async fn serve(client: TcpStream, shared: Arc<Shared>) {
    let mut cut = shared.cut.subscribe();
    // What came before us is not for us.
    cut.mark_unchanged();
    let Ok(server) = TcpStream::connect(shared.target).await else {
        // What a client of a server that is down would see.
        return reset(&client);
    };
    // Fails only on a dead socket, which the copy notices.
    let _ = client.set_nodelay(true).and(server.set_nodelay(true));
    shared.open.fetch_add(1, Ordering::Relaxed);
    let (mut client_read, mut client_write) = client.into_split();
    let (mut server_read, mut server_write) = server.into_split();
    let how = tokio::select! {
        _ = cut.changed() => cut.borrow().1,
        ended = both(
            copy(&mut client_read, &mut server_write, &shared, Direction::Up),
            copy(&mut server_read, &mut client_write, &shared, Direction::Down),
        ) => ended.err().unwrap_or(Cut::Fin),
    };
    if how == Cut::Rst {
        for half in [client_write, server_write] {
            reset(half.as_ref());
            // Dropping it would send a FIN first.
            half.forget();
        }
    }
    shared.open.fetch_sub(1, Ordering::Relaxed);
}

/// Both to their ends, or the first failure.
async fn both(
    up: impl Future<Output = Result<(), Cut>>,
    down: impl Future<Output = Result<(), Cut>>,
) -> Result<(), Cut> {
    tokio::try_join!(up, down).map(drop)
}

/// One direction to its end. One side's reset becomes the other's.
async fn copy(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    shared: &Shared,
    direction: Direction,
) -> Result<(), Cut> {
    let lane = shared.lane(direction);
    let mut buffer = vec![0; 16 * 1024];
    // On its way, and when it arrives; nothing is read ahead where that is at once.
    let mut on_its_way = VecDeque::new();
    loop {
        let latency = lane.faults.borrow().latency;
        let arrives = on_its_way.front().map_or_else(Instant::now, |(at, _)| *at);
        let piece = tokio::select! {
            biased;
            () = sleep_until(arrives), if !on_its_way.is_empty() => on_its_way.pop_front(),
            read = from.read(&mut buffer), if has_room(&on_its_way, latency) => {
                let read = read.map_err(|_| Cut::Rst)?;
                lane.pieces.fetch_add(u64::from(read > 0), Ordering::Relaxed);
                let piece = buffer.get(..read).unwrap_or_default().to_vec();
                on_its_way.push_back((Instant::now() + latency, piece));
                None
            }
        };
        let Some((_, piece)) = piece else { continue };
        let read = piece.len();
        lane.hold().await;
        let (allowed, then) = lane.spend(read);
        let (now, later) = piece.split_at(allowed);
        pass(to, lane, now).await?;
        match then {
            Some(Then::Cut(how)) => {
                shared.cut(how);
                return Err(how);
            }
            Some(Then::Stall) => {
                lane.faults.send_modify(|faults| faults.stalled = true);
                lane.hold().await;
                pass(to, lane, later).await?;
            }
            None => {}
        }
        if read == 0 {
            // One direction may end before the other.
            return to.shutdown().await.map_err(|_| Cut::Rst);
        }
    }
}

/// More may be read while what was read before has not arrived.
fn has_room(on_its_way: &VecDeque<(Instant, Vec<u8>)>, latency: Duration) -> bool {
    let is_at_end = on_its_way.back().is_some_and(|(_, piece)| piece.is_empty());
    on_its_way.is_empty() || !latency.is_zero() && !is_at_end && on_its_way.len() < MOST_PIECES
}

async fn pass(to: &mut OwnedWriteHalf, lane: &Lane, bytes: &[u8]) -> Result<(), Cut> {
    // Before the write: who has the data can read the count.
    lane.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    to.write_all(bytes).await.map_err(|_| Cut::Rst)
}

/// Makes the coming close a reset.
fn reset(stream: &TcpStream) {
    // Fails only on a socket that is dead already.
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
