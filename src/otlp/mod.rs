//! Spans for a collector, by OTLP over HTTP: one for each try to publish an event that was
//! written in a sampled trace.
//!
//! The session puts spans into a bounded queue and never waits: what does not fit is dropped and
//! counted. A thread of its own with a runtime of its own takes them out in batches and sends
//! them. An outage of the collector is logged once.
//!
//! **Invariant:** no event waits for a span.
//!
//! # Layout
//! [`crate::core::span`] has what is said. Pure: `span` makes the request. `collector` sends it.
//!
//! # What was rejected
//! - *OpenTelemetry's SDK.* It wants to begin a span before its work and to keep the context of
//!   the task; here the beginning is a commit of long ago, and all is known at once at the end. Its
//!   exporter for HTTP brings a second HTTP client. Of its crates only the messages are used.
//! - *A context of our own in the message.* The conventions forbid to change the one that a user
//!   gave, and the consumer goes on with the producer's trace, whether spans are on or not.

mod collector;
mod span;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tracing::{info, warn};

pub(crate) use collector::read_anything;
pub(crate) use span::SpanServer;

use crate::config::Otlp;
use crate::core::span::Span;
use crate::error::Fault;
use crate::within::in_time;
use collector::{Acceptance, Collector, Failure};

/// Spans that wait, at most.
const WAITING: usize = 2_048;
/// Spans in one request, at most.
const BATCH: usize = 512;
/// How long the first span of a batch waits for others.
const LINGER: Duration = Duration::from_millis(500);
/// Tries of a batch that the collector may take later; then it is given up.
const TRIES: u32 = 5;
/// Pause after the first of them; doubles with each.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the end of a relay waits for the last spans to be sent.
const LAST: Duration = Duration::from_secs(3);

/// What became of spans, over the life of the process.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    exported: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

/// [`Counters`] at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// The collector took them.
    pub exported: u64,
    /// There was no room for them in the queue.
    pub dropped: u64,
    /// The collector refused them, or could not be reached for too long.
    pub failed: u64,
}

impl Counters {
    /// As they stand.
    pub(crate) fn counts(&self) -> Counts {
        let [exported, dropped, failed] = [&self.exported, &self.dropped, &self.failed]
            .map(|count| count.load(Ordering::Relaxed));
        Counts { exported, dropped, failed }
    }
}

fn add(count: &AtomicU64, spans: usize) {
    count.fetch_add(u64::try_from(spans).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// Spans on their way, with the broker that each is about.
type Waiting = VecDeque<(Arc<SpanServer>, Span)>;

#[derive(Debug)]
struct SharedQueue {
    waiting: Mutex<(Waiting, bool)>,
    /// Something came, or nothing more will.
    some: Notify,
    /// There is enough for a batch, or nothing more will come.
    enough: Notify,
    counters: Arc<Counters>,
}

impl SharedQueue {
    fn waiting(&self) -> MutexGuard<'_, (Waiting, bool)> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next batch, and whether there will be no other.
    fn take(&self) -> (Vec<(Arc<SpanServer>, Span)>, bool) {
        let mut waiting = self.waiting();
        let (spans, is_closed) = &mut *waiting;
        let count = spans.len().min(BATCH);
        (spans.drain(..count).collect(), *is_closed)
    }

    fn close(&self) {
        self.waiting().1 = true;
        self.some.notify_one();
        self.enough.notify_one();
    }
}

/// Takes spans, without ever waiting.
#[derive(Debug, Clone)]
pub(crate) struct SpanQueue(Arc<SharedQueue>);

impl SpanQueue {
    /// Takes spans about this broker.
    pub(crate) fn put(&self, server: &Arc<SpanServer>, spans: Vec<Span>) {
        let count = spans.len();
        if count == 0 {
            return;
        }
        let (had, has) = {
            let mut waiting = self.0.waiting();
            let waiting = &mut waiting.0;
            let had = waiting.len();
            let room = WAITING.saturating_sub(had);
            waiting.extend(spans.into_iter().take(room).map(|span| (Arc::clone(server), span)));
            add(&self.0.counters.dropped, count.saturating_sub(room));
            (had, waiting.len())
        };
        if had == 0 {
            self.0.some.notify_one();
        }
        if had < BATCH && has >= BATCH {
            self.0.enough.notify_one();
        }
    }
}

/// The thread that sends spans, for one relay's life.
#[derive(Debug)]
pub(crate) struct Exporter {
    shared: Arc<SharedQueue>,
    ended: oneshot::Receiver<()>,
}

impl Exporter {
    /// Begins to send what is put into its queue.
    ///
    /// # Errors
    /// No thread or runtime can be had, or a file of certificates cannot be read any more.
    pub(crate) fn start(otlp: &Otlp, counters: Arc<Counters>) -> Result<Self, Fault> {
        let failed =
            |error: std::io::Error| Fault::transient(format!("spans cannot be exported: {error}"));
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let collector = Collector::new(otlp)?;
        let shared = Arc::new(SharedQueue {
            waiting: Mutex::default(),
            some: Notify::new(),
            enough: Notify::new(),
            counters,
        });
        let (end, ended) = oneshot::channel();
        let exporting = {
            let shared = Arc::clone(&shared);
            move || {
                runtime.block_on(export(&shared, collector));
                let _ = end.send(());
            }
        };
        std::thread::Builder::new().name("otlp".to_owned()).spawn(exporting).map_err(failed)?;
        Ok(Self { shared, ended })
    }

    /// Where spans are put.
    pub(crate) fn queue(&self) -> SpanQueue {
        SpanQueue(Arc::clone(&self.shared))
    }

    /// Sends what is left, within bounds.
    pub(crate) async fn finish(mut self) {
        self.shared.close();
        let is_done = in_time(LAST, &mut self.ended).await.is_some();
        let left = self.shared.waiting().0.len();
        if !is_done {
            warn!(left, "the last spans could not be sent in time");
        }
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// Sends batch after batch until nothing more comes.
async fn export(shared: &SharedQueue, mut collector: Collector) {
    let mut is_out = false;
    loop {
        let (batch, is_closed) = shared.take();
        if batch.is_empty() {
            if is_closed {
                return;
            }
            shared.some.notified().await;
            // In time or not: what is there is sent.
            let _ = in_time(LINGER, shared.enough.notified()).await;
            continue;
        }
        send(shared, &mut collector, &batch, &mut is_out).await;
    }
}

async fn send(
    shared: &SharedQueue,
    collector: &mut Collector,
    batch: &[(Arc<SpanServer>, Span)],
    is_out: &mut bool,
) {
    let request = collector.request(batch.iter().map(|(server, span)| (&**server, span)));
    let mut pause = PAUSE;
    for tried in 1..=TRIES {
        match collector.post(request.clone()).await {
            Ok(Acceptance { rejected, why }) => {
                let rejected = rejected.min(batch.len());
                add(&shared.counters.exported, batch.len() - rejected);
                add(&shared.counters.failed, rejected);
                tell(collector, is_out, (rejected > 0).then(|| Failure::rejected(rejected, &why)));
                return;
            }
            Err(failure) => {
                let may_come_later = failure.is_transient && tried < TRIES;
                tell(collector, is_out, Some(failure));
                let is_closed = shared.waiting().1;
                if !may_come_later || is_closed {
                    break;
                }
                // Nothing is waited for at the end of a relay.
                let _ = in_time(pause, closed(shared)).await;
                pause *= 2;
            }
        }
    }
    add(&shared.counters.failed, batch.len());
}

async fn closed(shared: &SharedQueue) {
    while !shared.waiting().1 {
        shared.enough.notified().await;
    }
}

/// Once for each outage, and once when it is over.
fn tell(collector: &Collector, is_out: &mut bool, failure: Option<Failure>) {
    let to = collector.url();
    match failure {
        Some(failure) if !*is_out => {
            *is_out = true;
            warn!(
                hint = failure.hint,
                "spans cannot be exported to {to}: {}; events go on, pgoutbox_spans_total counts the spans that are lost",
                failure.what
            );
        }
        None if *is_out => {
            *is_out = false;
            info!("spans are exported to {to} again");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::span::Context;

    fn span() -> Span {
        let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        Span {
            context: Context::read(traceparent, None).unwrap(),
            began_micros: 0,
            ended_micros: 0,
            message_id: String::new(),
            exchange: String::new(),
            routing_key: String::new(),
            refusal: None,
        }
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let counters = Arc::new(Counters::default());
        let shared = Arc::new(SharedQueue {
            waiting: Mutex::default(),
            some: Notify::new(),
            enough: Notify::new(),
            counters: Arc::clone(&counters),
        });
        let queue = SpanQueue(Arc::clone(&shared));
        let server = Arc::new(SpanServer { address: String::new(), port: 1 });
        let put = |count: usize| queue.put(&server, vec![span(); count]);
        put(WAITING - 1);
        assert_eq!(counters.counts(), Counts::default());
        put(3);
        assert_eq!(counters.counts(), Counts { dropped: 2, ..Counts::default() });
        let mut taken = 0;
        while let (batch, false) = shared.take()
            && !batch.is_empty()
        {
            assert_eq!(batch.len(), BATCH);
            taken += batch.len();
        }
        assert_eq!(taken, WAITING);
        put(1);
        assert_eq!(shared.take().0.len(), 1, "there is room again");
    }
}
