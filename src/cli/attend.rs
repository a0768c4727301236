//! A command that takes long: how far it is, on standard error, and what a signal does to it.

use std::pin::pin;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, interval_at};

use crate::error::Fault;
use crate::gauge::Gauge;
use crate::output;
use crate::shutdown::Shutdown;

/// How often a terminal's line is written over.
const FRAME: Duration = Duration::from_millis(200);
/// How often a file or a pipe is told.
const LINE: Duration = Duration::from_secs(10);

/// Stands by while something works.
pub(super) struct Attendant {
    terminate: Option<Signal>,
    interrupt: Option<Signal>,
    stop: watch::Sender<bool>,
    /// Of the first signal that came.
    pub(super) signal: Option<&'static str>,
    began: Instant,
}

impl Attendant {
    /// From now on SIGINT and SIGTERM do not end the process by themselves: not before a question, which
    /// nobody could break off then.
    pub(super) fn begin() -> Self {
        // Where the system does not let us catch one, it ends the process as ever.
        Self {
            terminate: signal(SignalKind::terminate()).ok(),
            interrupt: signal(SignalKind::interrupt()).ok(),
            ..Self::watching()
        }
    }

    /// Only shows how far it is: of what changes nothing, a signal may end it anywhere.
    pub(super) fn watching() -> Self {
        Self {
            terminate: None,
            interrupt: None,
            stop: watch::Sender::new(false),
            signal: None,
            began: Instant::now(),
        }
    }

    /// Asked for at the first signal.
    pub(super) fn shutdown(&self) -> Shutdown {
        Shutdown::new(self.stop.subscribe())
    }

    /// Runs it to its end, and shows how far it is. At a signal it is asked to stop, and given the time for what
    /// is under way; at a second one it is dropped: `None`.
    pub(super) async fn attend<T>(
        &mut self,
        what: impl Fn() -> String,
        gauge: &Gauge,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut work = pin!(work);
        let period = if output::is_log_terminal() { FRAME } else { LINE };
        let mut ticks = interval_at(Instant::now() + period, period);
        let outcome = loop {
            tokio::select! {
                biased;
                name = next(&mut self.terminate, &mut self.interrupt) => {
                    if self.signal.replace(name).is_some() {
                        break None;
                    }
                    self.stop.send_replace(true);
                }
                outcome = &mut work => break Some(outcome),
                _ = ticks.tick() => show(&what(), gauge, self.began.elapsed()),
            }
        };
        output::take_away();
        outcome
    }

    /// Runs it to its end, or to where it `rests` behind the first signal: for what may be dropped, and has
    /// counted all that it did where it rests.
    pub(super) async fn attend_droppable<T>(
        &mut self,
        what: impl Fn() -> String,
        gauge: &Gauge,
        work: impl Future<Output = T>,
        mut rests: watch::Receiver<bool>,
    ) -> Option<T> {
        let mut stop = self.shutdown();
        let is_to_end = async {
            stop.wait().await;
            let _ = rests.wait_for(|rests| *rests).await;
        };
        let until = async {
            tokio::select! {
                biased;
                () = is_to_end => None,
                outcome = work => Some(outcome),
            }
        };
        self.attend(what, gauge, until).await.flatten()
    }
}

/// A fault in the midst of it: what was done before, and how the rest is done.
pub(super) fn ended(mut fault: Fault, done: &str, go_on: &str) -> Fault {
    fault.what = format!("{}; {done}", fault.what);
    fault.hint = match fault.hint.as_str() {
        "" => go_on.to_owned(),
        hint => format!("{hint}; then {go_on}"),
    };
    fault
}

async fn next(terminate: &mut Option<Signal>, interrupt: &mut Option<Signal>) -> &'static str {
    tokio::select! {
        Some(()) = received(terminate) => "SIGTERM",
        Some(()) = received(interrupt) => "SIGINT",
        else => std::future::pending().await,
    }
}

async fn received(signal: &mut Option<Signal>) -> Option<()> {
    signal.as_mut()?.recv().await
}

fn show(what: &str, gauge: &Gauge, after: Duration) {
    let line = format!("{what} {}", gauge.told(after));
    if output::is_log_terminal() {
        output::pass(&line);
    } else {
        output::err(line);
    }
}
