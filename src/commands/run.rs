//! `pgoutbox run`: relays until it is asked to stop.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::board::Board;
use crate::config::{Config, Log};
use crate::error::Fault;
use crate::session::Shutdown;
use crate::{http, postgres, prune, publisher, reconcile, supervisor};

/// As for a drain that was not done in time.
const EXIT_UNDRAINED: i32 = 69;

/// Relays until SIGTERM or SIGINT. A second one ends the process at once.
///
/// # Errors
/// What only a person can mend, or a drain that was not done in time. Where the log is JSON
/// the fault is its last line, and the exit code the fault's.
pub async fn run(config: Config) -> Result<u8, Fault> {
    start_log(&config.log)?;
    let is_json = config.log.is_json;
    let outcome = relay(config).await;
    if let Err(fault) = &outcome {
        crate::service::ended(fault);
    }
    match outcome {
        Err(fault) if is_json => {
            error!(mend = fault.mend, "{}", fault.what);
            Ok(fault.exit_code())
        }
        outcome => outcome.map(|()| 0),
    }
}

async fn relay(config: Config) -> Result<(), Fault> {
    // Before anything is connected to: two relays with one port are a slip.
    let port = http::bind(&config.http)?;
    let (ask, asked) = watch::channel(false);
    let on_signal = |kind| {
        signal(kind).map_err(|error| Fault::transient(format!("signals cannot be caught: {error}")))
    };
    let mut terminate = on_signal(SignalKind::terminate())?;
    let mut interrupt = on_signal(SignalKind::interrupt())?;
    let stop = ask.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        let name = next().await;
        info!(signal = name, "asked to stop");
        crate::service::stopping();
        ask.send_replace(true);
        let name = next().await;
        warn!(signal = name, "asked again: what is in flight is published again at the next start");
        std::process::exit(EXIT_UNDRAINED);
    });
    let shutdown = Shutdown::new(asked);
    let (pruning, upkeep) = (shutdown.clone(), config.clone());
    tokio::spawn(async move { prune::run(&upkeep, pruning).await });
    // Ends with this function.
    let reconciler = reconcile::spawn(&config);
    let (guarding, upkeep, board) = (shutdown.clone(), config.clone(), Board::new());
    if let Some(port) = port {
        http::serve(port, &upkeep, &board)?;
    }
    let relaying = supervisor::run(config, shutdown, reconciler.trigger(), &board);
    tokio::pin!(relaying);
    tokio::spawn(crate::service::run(board.clone()));
    tokio::select! {
        biased;
        end = &mut relaying => end,
        verdict = crate::watch::run(&upkeep, guarding, &board) => {
            // What is in flight may still be settled; the verdict stands, whatever comes of it.
            if verdict.is_err() {
                crate::service::stopping();
                stop.send_replace(true);
            }
            let end = relaying.await;
            verdict.and(end)
        }
    }
}

fn start_log(log: &Log) -> Result<(), Fault> {
    let mut filter = EnvFilter::try_new(&log.level).map_err(|error| {
        Fault::usage(format!("log.level: {error}"), "write a level, such as info")
    })?;
    for directive in publisher::LOG.into_iter().chain(postgres::LOG) {
        if let Ok(directive) = directive.parse() {
            filter = filter.add_directive(directive);
        }
    }
    let registry = tracing_subscriber::registry().with(filter);
    let writer = std::io::stderr;
    let outcome = if log.is_json {
        let layer = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(writer);
        registry.with(layer.with_target(false)).try_init()
    } else {
        let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(is_terminal);
        registry.with(layer.with_target(false)).try_init()
    };
    outcome.map_err(|error| Fault::transient(format!("the log cannot be started: {error}")))
}
