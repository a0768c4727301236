//! Writes a line of the log for each event and outcome, on a thread of its own: what it takes to make the
//! text of a line is no part of an event's way.
//!
//! **Invariant:** no event waits for a line. What does not fit the queue is dropped and counted with the
//! other lines of the log that were lost.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use tracing::{info, warn};

use crate::core::relay::EventLine;
use crate::output;
use crate::text::span;

/// Batches that wait to be written, at most.
const BATCHES: usize = 1024;

/// Where lines go, for one session.
#[derive(Debug)]
pub(super) struct EventLog {
    to: Option<SyncSender<Vec<EventLine>>>,
    writer: Option<JoinHandle<()>>,
}

impl EventLog {
    /// Begins to write; `None` where no thread can be had: events go on without.
    pub(super) fn start() -> Option<Self> {
        let (to, from) = sync_channel(BATCHES);
        let thread = thread::Builder::new().name("event log".to_owned());
        let writer = thread.spawn(move || write(&from));
        let writer = writer.inspect_err(|error| {
            warn!(
                hint = "raise the limit of threads (TasksMax of the unit)",
                "no lines of events: {error}"
            );
        });
        Some(Self { to: Some(to), writer: Some(writer.ok()?) })
    }

    /// Takes lines, without ever waiting.
    pub(super) fn put(&self, lines: Vec<EventLine>) {
        let Some(to) = self.to.as_ref().filter(|_| !lines.is_empty()) else { return };
        if let Err(TrySendError::Full(lost) | TrySendError::Disconnected(lost)) = to.try_send(lines)
        {
            output::lose_lines(lost.len());
        }
    }
}

/// What was taken is written: the log itself never waits.
impl Drop for EventLog {
    fn drop(&mut self) {
        self.to = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn write(from: &Receiver<Vec<EventLine>>) {
    for line in from.iter().flatten() {
        let EventLine { outcome, table, event_id, position, aggregate, .. } = &line;
        let id = event_id.as_deref().unwrap_or("without id");
        let (reason, error) = line.refusal.clone().unzip();
        info!(
            target: "pgoutbox::events",
            outcome,
            table,
            event_id,
            %position,
            aggregate,
            exchange = line.exchange,
            routing_key = line.routing_key,
            after = line.after.map(span),
            after_seconds = line.after.map(|after| after.as_secs_f64()),
            attempts = (line.attempts > 0).then_some(line.attempts),
            reason,
            error,
            "event {id} {outcome}"
        );
    }
}
