//! The relay inside another program: a thread of its own, the settings of the configuration file, and figures to
//! read.
//!
//! ```no_run
//! # async fn example() -> Result<(), pgoutbox::error::Fault> {
//! let relay = pgoutbox::Relay::builder()
//!     .set("postgres.url", "postgres://app@localhost/app")
//!     .set("amqp.url", "amqp://localhost")
//!     .set("tables.0.name", "outbox_messages")
//!     .build()?;
//! let status = relay.status();
//! let relaying = tokio::spawn(relay.run(async {
//!     let _ = tokio::signal::ctrl_c().await;
//! }));
//! println!("{:?}", status.now().await);
//! relaying.await.expect("the task ends")
//! # }
//! ```
//!
//! Slot, publication and schema are made by `pgoutbox init`, as for the program. Events are written by
//! [`crate::outbox::enqueue`], or by any `INSERT`.
//!
//! **Invariant:** nothing of the host is touched: no signal handler, no logger, no exit, no environment.

pub(crate) mod upkeep;

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use crate::board::Board;
use crate::config::{Config, Flags, Needs, Sources};
use crate::error::Fault;
use crate::observe::http;
use crate::shutdown::Shutdown;

/// As the main thread of the program has: without optimisation a session's beginning takes more than the 2 MiB that a
/// thread has by default. What is not used of it is no memory.
const STACK: usize = 8 << 20;
/// How long the relay's thread may take to answer with its figures.
const PATIENCE: Duration = Duration::from_secs(1);

/// A relay that is configured, and not running yet.
#[derive(Debug)]
pub struct Relay {
    config: Config,
    board: Board,
}

/// Puts a configuration together.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Builder {
    file: Option<PathBuf>,
    set: Vec<String>,
}

impl Builder {
    /// Reads a configuration file; what is [`set`](Self::set) takes precedence over it.
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// One setting by its key, such as `window.messages`, as `docs/settings.md` lists them. The last of one key
    /// counts. HTTP is off unless `http.address` is set; the environment is not read.
    pub fn set(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.set.push(format!("{key}={value}"));
        self
    }

    /// Checks the settings. Nothing connects before [`Relay::run`].
    ///
    /// # Errors
    /// Every setting that is wrong, each with a hint.
    pub fn build(self) -> Result<Relay, Fault> {
        let is_served = |pair: &String| pair.starts_with("http.address=");
        let mut set = self.set;
        if self.file.is_none() && !set.iter().any(is_served) {
            set.push("http.address=off".to_owned());
        }
        let flags = Flags { config: self.file, set, ..Flags::default() };
        let config = Config::load(&Sources { flags, ..Sources::default() }, Needs::ALL)?;
        Ok(Relay { config, board: Board::new() })
    }
}

impl Relay {
    /// Begins a configuration.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// What it is at, to be asked while it runs.
    pub fn status(&self) -> Status {
        Status(self.board.clone())
    }

    /// Relays until `shutdown` is done, then finishes what is in flight (`session.drain_timeout`). It runs on a
    /// thread of its own: what the caller's runtime does keeps no event waiting. Faults that may pass are waited
    /// out; where the returned future is dropped, the relay drains by itself.
    ///
    /// # Errors
    /// What a policy says to stop for, a setting that a server refuses for good, a port that is taken, or a drain
    /// that was not done in time: what was in flight then is published again by the next start.
    pub fn run(
        self,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = Result<(), Fault>> + Send {
        let (stop, asked) = watch::channel(false);
        let (tell, told) = oneshot::channel();
        let ask = stop.clone();
        let spawned = std::thread::Builder::new()
            .name("pgoutbox".to_owned())
            .stack_size(STACK)
            .spawn(move || drop(tell.send(self.block(stop, asked))));
        async move {
            spawned
                .map_err(|error| Fault::transient(format!("no thread for the relay: {error}")))?;
            let _asks = Ask(ask);
            let gone = || Fault::transient("the relay's thread is gone: it panicked");
            let mut told = told;
            let mut shutdown = std::pin::pin!(shutdown);
            tokio::select! {
                end = &mut told => return end.map_err(|_| gone())?,
                () = &mut shutdown => {}
            }
            _asks.0.send_replace(true);
            told.await.map_err(|_| gone())?
        }
    }

    fn block(self, stop: watch::Sender<bool>, asked: watch::Receiver<bool>) -> Result<(), Fault> {
        crate::tls::install_provider();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Fault::transient(format!("no runtime: {error}")))?;
        runtime.block_on(async {
            let Self { config, board } = self;
            board.put_in_force(&config);
            if let Some(port) = http::bind(&config.http)? {
                http::serve(port, &config, &board)?;
            }
            let end = upkeep::relay(&config, stop, Shutdown::new(asked), None, &board, || ()).await;
            crate::postgres::say_goodbye().await;
            end
        })
    }
}

/// Asks the relay to stop, also where nobody waits for it any more.
struct Ask(watch::Sender<bool>);

impl Drop for Ask {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

/// What a relay is at: may be asked from any thread, as often as anybody likes.
#[derive(Debug, Clone)]
pub struct Status(Board);

/// What a relay was at, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Now {
    /// `connecting`, `standby`, `catching_up`, `running`, `paused`, `draining`, `waiting` or `stopped`, as
    /// `pgoutbox_session_state` has it.
    pub state: &'static str,
    /// What keeps events from being delivered, where something does.
    pub fault: Option<Fault>,
    /// Messages that a queue took.
    pub delivered: u64,
    /// Events put aside.
    pub parked: u64,
    /// Events taken in and not settled.
    pub waiting: u64,
}

impl Status {
    /// What it is at now. Of a relay whose thread does not answer within a second: what it was at last.
    pub async fn now(&self) -> Now {
        let shown = self.0.look(PATIENCE).await;
        let waiting = shown.view.as_ref().map_or(0, |view| view.window_messages + view.waiting);
        Now {
            state: shown.state.name(),
            fault: shown.outage.map(|outage| outage.fault),
            delivered: shown.tally.delivered,
            parked: shown.tally.parked,
            waiting: u64::try_from(waiting).unwrap_or(u64::MAX),
        }
    }
}
