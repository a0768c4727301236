//! `pgoutbox run`: relays until it is asked to stop.

mod signal;
mod log;

use std::future::pending;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use crate::board::Board;
use crate::config::{self, InForce, Needs, Sources, load};
use crate::embed::upkeep::relay as embed;
use crate::error::{Class, Fault};
use crate::observe::{catch_up, http, service};
use crate::otlp::Exporter;
use crate::output;
use crate::shutdown::Shutdown;
use log::Log;
use signal::{SignalRequest, Signals};

/// As for a drain that was not done in time.
const EXIT_UNDRAINED: i32 = 69;
/// Files that take longer than this to be read are worth a line.
const LATE: Duration = Duration::from_secs(5);

/// Relays until SIGTERM or SIGINT. A second one ends the process at once. SIGHUP has the
/// configuration read again.
///
/// # Errors
/// What only a person can fix, or a drain that was not done in time. Where the log is JSON
/// the fault is its last line, and the exit code the fault's.
pub(super) async fn run(sources: &Sources) -> Result<u8, Fault> {
    let (config, explained) = load(sources, Needs::ALL)?;
    let log = Log::start(&config.log)?;
    let is_json = config.log.is_json;
    let file = sources.file().map_or_else(|| "none".to_owned(), |path| path.display().to_string());
    info!(version = env!("CARGO_PKG_VERSION"), configuration_file = file, "pgoutbox starts");
    let outcome = relay(InForce { config, explained }, sources, log).await;
    if let Err(fault) = &outcome {
        service::ended(fault);
    }
    service::flush();
    let outcome = match outcome {
        Err(fault) if is_json => {
            error!(hint = fault.hint, "{}", fault.what);
            Ok(fault.exit_code())
        }
        outcome => outcome.map(|()| 0),
    };
    output::flush();
    outcome
}

/// One configuration after another, until asked to stop.
async fn relay(mut current: InForce, sources: &Sources, mut log: Log) -> Result<(), Fault> {
    // Before anything is connected to: two relays with one port are a slip.
    let port = http::bind(&current.config.http)?;
    let mut signals = Signals::catch()?;
    let board = Board::new();
    board.put_in_force(&current.config);
    if let Some(port) = port {
        http::serve(port, &current.config, &board)?;
    }
    tokio::spawn(service::run(board.clone()));
    tokio::spawn(catch_up::run(board.clone()));
    loop {
        let end = relay_with(&current, sources, &mut log, &mut signals, &board).await;
        match end {
            RunEnd::Stopped(outcome) => return outcome,
            RunEnd::Reload(next) => current = *next,
        }
        board.put_in_force(&current.config);
        info!("now running with the new configuration");
    }
}

/// How a relay with one configuration ended.
enum RunEnd {
    Stopped(Result<(), Fault>),
    /// With this one it goes on.
    Reload(Box<InForce>),
}

async fn relay_with(
    current: &InForce,
    sources: &Sources,
    log: &mut Log,
    signals: &mut Signals,
    board: &Board,
) -> RunEnd {
    let config = &current.config;
    let (ask, asked) = watch::channel(false);
    let exporter = config.otlp.as_ref().and_then(|otlp| {
        let started = Exporter::start(otlp, board.spans());
        // Events go on without spans.
        started.inspect_err(|fault| warn!(hint = fault.hint, "no spans: {}", fault.what)).ok()
    });
    let spans = exporter.as_ref().map(Exporter::queue);
    let shutdown = Shutdown::new(asked);
    let relaying = embed(config, ask.clone(), shutdown, spans, board, service::stopping);
    tokio::pin!(relaying);
    let mut next: Option<Box<InForce>> = None;
    let mut is_stopping = false;
    let mut reading: Option<Reading> = None;
    let end = loop {
        let signal = tokio::select! {
            biased;
            end = &mut relaying => break end,
            loaded = Reading::end(&mut reading) => {
                let current = next.as_deref().unwrap_or(current);
                if !is_stopping && let Some(read) = taken_over(current, loaded, log) {
                    next = Some(Box::new(read));
                    ask.send_replace(true);
                }
                continue;
            }
            signal = signals.next() => signal,
        };
        match signal {
            SignalRequest::Stop(name) if is_stopping => {
                warn!(
                    signal = name,
                    "second signal: exiting now; what is in flight is published again at the next start"
                );
                output::flush();
                std::process::exit(EXIT_UNDRAINED);
            }
            SignalRequest::Stop(name) => {
                info!(signal = name, "asked to stop");
                is_stopping = true;
                service::stopping();
                ask.send_replace(true);
            }
            SignalRequest::Louder => log.toggle(),
            SignalRequest::Reload if is_stopping => {}
            // One that hangs is left to itself: this one may not.
            SignalRequest::Reload => reading = Reading::begin(sources),
        }
    };
    let ended = match (end, next) {
        (end, _) if is_stopping => RunEnd::Stopped(end),
        (Ok(()), Some(next)) => RunEnd::Reload(next),
        // What was not drained is published again by the next session, as after any other end.
        (Err(fault), Some(next)) if !matches!(fault.class, Class::Halt | Class::Usage) => {
            warn!(hint = fault.hint, "{}", fault.what);
            RunEnd::Reload(next)
        }
        (end, _) => RunEnd::Stopped(end),
    };
    // With another configuration it sends what is left by itself.
    if let (RunEnd::Stopped(_), Some(exporter)) = (&ended, exporter) {
        exporter.finish().await;
    }
    ended
}

/// The configuration is read again, by a thread of its own: a file on a network, or a pipe, may not
/// answer, and the relay goes on meanwhile.
struct Reading {
    told: oneshot::Receiver<Result<InForce, Fault>>,
    late: Option<Instant>,
}

impl Reading {
    fn begin(sources: &Sources) -> Option<Self> {
        service::reloading();
        let (tell, told) = oneshot::channel();
        let sources = sources.clone();
        let read = move || {
            let loaded = load(&sources, Needs::ALL);
            let _ = tell.send(loaded.map(|(config, explained)| InForce { config, explained }));
        };
        let spawned = std::thread::Builder::new().name("reload".to_owned()).spawn(read);
        if let Err(error) = spawned {
            service::reloaded();
            error!("SIGHUP: the configuration stays as it was: no thread to read it: {error}");
            return None;
        }
        Some(Self { told, late: Some(Instant::now() + LATE) })
    }

    /// Waits for its end; for ever where there is none.
    async fn end(reading: &mut Option<Self>) -> Result<InForce, Fault> {
        let Some(current) = reading else { return pending().await };
        let loaded = loop {
            let late = current.late.unwrap_or_else(Instant::now);
            tokio::select! {
                loaded = &mut current.told => break loaded,
                () = sleep_until(late), if current.late.is_some() => {
                    current.late = None;
                    service::reloaded();
                    warn!(
                        hint = "see which file does not answer (the configuration, a secret, a certificate): a pipe without a writer, or a network file system; then send SIGHUP again",
                        "SIGHUP: the configuration is still being read; the relay goes on with the one before"
                    );
                }
            }
        };
        if current.late.is_some() {
            service::reloaded();
        }
        *reading = None;
        loaded.unwrap_or_else(|_| Err(Fault::transient("the thread that read it is gone")))
    }
}

/// The configuration as it is now, if it is another one that asks for new sessions. A wrong one
/// changes nothing.
fn taken_over(current: &InForce, loaded: Result<InForce, Fault>, log: &mut Log) -> Option<InForce> {
    let mut read = match loaded {
        Ok(read) => read,
        Err(fault) => {
            // A line for each of them is for a terminal.
            let what = fault.what.lines().map(str::trim).collect::<Vec<_>>().join("; ");
            error!(hint = fault.hint, "SIGHUP: the configuration stays as it was: {what}");
            return None;
        }
    };
    let plan = config::plan(current, &mut read);
    if log.set_level(&read.config.log.level) {
        info!(level = read.config.log.level, "SIGHUP: log level changed");
    }
    if !plan.restart.is_empty() {
        let keys = plan.restart.join(", ");
        warn!(hint = "restart the process", "SIGHUP: {keys}: stays as it was until a restart");
    }
    if !plan.of_init.is_empty() {
        let keys = plan.of_init.join(", ");
        info!("SIGHUP: {keys}: only `pgoutbox init --declare` reads it");
    }
    if current.is_same(&read) {
        info!("SIGHUP: no other setting has changed");
        return None;
    }
    let lines: Vec<String> = plan.sessions.iter().map(|key| read.explained.line(key)).collect();
    let changed = if lines.is_empty() { "what a file holds".to_owned() } else { lines.join(", ") };
    info!(changed, "SIGHUP: the configuration has changed: what is in flight is finished first");
    Some(read)
}
