//! The runtime that lapin is given: tokio's, but for what it calls a socket.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use async_rs::traits::{Executor, Reactor, RuntimeKit};
use async_rs::util::Task;
use async_rs::{Runtime, Tokio};
use futures_util::Stream;

use super::link::LapinEnd;

/// Tokio's runtime, whose sockets are lapin's ends of links.
#[derive(Debug, Clone)]
pub(super) struct Kit(Tokio);

/// On the runtime that this is called in.
pub(super) fn current() -> Runtime<Kit> {
    Runtime::new(Kit(Tokio::current()))
}

impl RuntimeKit for Kit {}

impl Executor for Kit {
    type Task<T: Send + 'static> = <Tokio as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        self.0.block_on(future)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        future: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn(future)
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        work: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn_blocking(work)
    }
}

impl Reactor for Kit {
    type TcpStream = LapinEnd;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H>(
        &self,
        _: H,
    ) -> io::Result<
        impl futures_util::io::AsyncRead + futures_util::io::AsyncWrite + Send + Unpin + 'static,
    > {
        Err::<LapinEnd, _>(not_ours())
    }

    fn sleep(&self, time: Duration) -> Self::Sleep {
        self.0.sleep(time)
    }

    fn interval(&self, time: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(time)
    }

    fn tcp_connect_addr(
        &self,
        _: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        std::future::ready(Err(not_ours()))
    }
}

/// The publisher connects, and hands the connection over.
fn not_ours() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "lapin is given its connection")
}
