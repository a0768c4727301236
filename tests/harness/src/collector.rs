//! A collector for spans: it keeps the requests that it gets, and answers as it is told to. What is in them, the test
//! reads.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// One request, as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its line and headers.
    pub head: String,
    pub body: Vec<u8>,
}

/// What a collector answers.
#[derive(Clone, Debug)]
pub enum Answer {
    /// This code and body.
    Code(u16, Vec<u8>),
    /// Nothing, while the connection stays.
    Silence,
}

#[derive(Debug)]
struct Kept {
    requests: Vec<Request>,
    connections: usize,
    answer: Answer,
}

/// Ends when dropped.
pub struct Collector {
    address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
    _tasks: JoinSet<()>,
}

impl Collector {
    pub async fn start() -> Result<Collector> {
        Collector::start_at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    pub async fn start_at(address: SocketAddr) -> Result<Collector> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let answer = Answer::Code(200, Vec::new());
        let kept = Arc::new(Mutex::new(Kept { requests: Vec::new(), connections: 0, answer }));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&kept)));
        Ok(Collector { address, kept, _tasks: tasks })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on.
    pub fn answer(&self, answer: Answer) {
        self.kept(|kept| kept.answer = answer);
    }

    /// All that came, whatever was answered.
    pub fn requests(&self) -> Vec<Request> {
        self.kept(|kept| kept.requests.clone())
    }

    pub fn connections(&self) -> usize {
        self.kept(|kept| kept.connections)
    }

    fn kept<T>(&self, look: impl FnOnce(&mut Kept) -> T) -> T {
        look(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn accept(listener: TcpListener, kept: Arc<Mutex<Kept>>) {
    let mut tasks = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        kept.lock().unwrap_or_else(PoisonError::into_inner).connections += 1;
        let kept = Arc::clone(&kept);
        // A client that goes away is no fault of the collector's.
        tasks.spawn(async move { drop(serve(stream, kept).await) });
    }
}

async fn serve(stream: TcpStream, kept: Arc<Mutex<Kept>>) -> Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            anyhow::ensure!(stream.read_line(&mut head).await? > 0, "it is over");
        }
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse())
        });
        let mut body = vec![0; length.context("no length")??];
        stream.read_exact(&mut body).await?;
        let answer = {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.requests.push(Request { head, body });
            kept.answer.clone()
        };
        let Answer::Code(code, body) = answer else {
            std::future::pending::<()>().await;
            return Ok(());
        };
        let head = format!(
            "HTTP/1.1 {code} It is\r\nContent-Type: application/x-protobuf\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), &body].concat()).await?;
        stream.flush().await?;
    }
}
