//! A broker that answers as a script says: as no real one can be made to, or only once in a thousand times.
//!
//! It speaks as much of AMQP 0-9-1 as a publisher hears: login, one channel, confirms, declarations that always succeed.
//! It routes nothing and keeps no queue. It runs on a thread of its own. What is published is only looked at as far as
//! the script wants it, so that it is faster than any relay ([`AckAtOnce`]).

mod connection;
mod frames;
mod script;

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use amq_protocol::protocol::basic::AMQPProperties;
use anyhow::{Context as _, Result};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

pub use script::{AckAtOnce, Answers, Publish, Script};

use script::Answer;

use crate::serving::{self, Ready};

/// The running broker; its connections end with it.
pub struct FakeBroker {
    port: u16,
    shared: Arc<Shared>,
    _stop: oneshot::Sender<()>,
}

/// What is shared with the broker's thread.
struct Shared {
    log: Mutex<Log>,
    script: Mutex<Box<dyn Script>>,
    frame_max: u32,
}

#[derive(Default)]
struct Log {
    connections: u64,
    published: u64,
    kept: Vec<Published>,
    /// To the youngest connection.
    orders: Option<mpsc::UnboundedSender<Vec<Answer>>>,
}

/// A message that came, and what it was told.
#[derive(Clone, Debug)]
pub struct Published {
    /// Number of its connection, from 1.
    pub connection: u64,
    /// Its delivery tag there.
    pub tag: u64,
    /// Its `message_id`.
    pub id: String,
    pub exchange: String,
    pub routing_key: String,
    pub is_mandatory: bool,
    pub properties: AMQPProperties,
    pub body: Vec<u8>,
    /// Just before its ack was written.
    pub acked: Option<SystemTime>,
    pub is_nacked: bool,
    pub is_returned: bool,
}

impl Published {
    /// A queue took it, as far as the client was told.
    pub fn is_taken(&self) -> bool {
        self.acked.is_some() && !self.is_returned
    }
}

impl FakeBroker {
    /// On a free port of 127.0.0.1. Any user, password and virtual host will do.
    pub async fn start(script: impl Script) -> Result<FakeBroker> {
        Self::start_with(script, connection::FRAME_MAX).await
    }

    /// One that offers frames of this size; 0 is no limit.
    pub async fn start_with(script: impl Script, frame_max: u32) -> Result<FakeBroker> {
        let port = crate::port::free()?;
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        let script = Mutex::new(Box::new(script) as Box<dyn Script>);
        let shared = Arc::new(Shared { log: Mutex::default(), script, frame_max });
        let own = Arc::clone(&shared);
        let stop = serving::keep("the broker", move |ready| run(listener, own, ready)).await?;
        Ok(FakeBroker { port, shared, _stop: stop })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.log().connections
    }

    /// Messages that came so far, over all connections.
    pub fn published(&self) -> u64 {
        self.shared.log().published
    }

    /// Looks at what came, in the order in which it came; nothing, where the script keeps nothing.
    pub fn kept<T>(&self, look: impl FnOnce(&[Published]) -> T) -> T {
        look(&self.shared.log().kept)
    }

    /// Gives answers on the youngest connection, besides those of the script.
    pub fn order(&self, answer: impl FnOnce(&mut Answers)) -> Result<()> {
        let mut answers = Answers::default();
        answer(&mut answers);
        let log = self.shared.log();
        let orders = log.orders.as_ref().context("nobody has connected")?;
        orders.send(answers.now()).ok().context("the connection is gone")
    }

    /// Another script, from the next message on.
    pub fn follow(&self, script: impl Script) {
        *self.shared.script() = Box::new(script);
    }
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn script(&self) -> MutexGuard<'_, Box<dyn Script>> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    /// Those that an answer is about: one message, or all before it that were not answered.
    fn answered(&mut self, connection: u64, tag: u64, is_multiple: bool, is_ack: bool) {
        let at = SystemTime::now();
        let is_meant = |published: &&mut Published| {
            published.connection == connection
                && (published.tag == tag || (is_multiple && (published.tag < tag || tag == 0)))
        };
        for published in self.kept.iter_mut().filter(is_meant) {
            if published.acked.is_some() || published.is_nacked {
                continue;
            }
            if is_ack {
                published.acked = Some(at);
            } else {
                published.is_nacked = true;
            }
        }
    }

    fn returned(&mut self, connection: u64, tag: u64) -> Option<&Published> {
        let is_it =
            |published: &&mut Published| published.connection == connection && published.tag == tag;
        let published = self.kept.iter_mut().find(is_it)?;
        published.is_returned = true;
        Some(published)
    }
}

async fn run(listener: std::net::TcpListener, shared: Arc<Shared>, ready: Ready) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return drop(ready.send(Err(error))),
    };
    let _ = ready.send(Ok(()));
    accept(listener, shared).await;
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (orders, ordered) = mpsc::unbounded_channel();
        let number = {
            let mut log = shared.log();
            log.connections += 1;
            log.orders = Some(orders);
            log.connections
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // How it ended, the client knows best.
            let _ = connection::serve(stream, number, shared, ordered).await;
        });
    }
}
