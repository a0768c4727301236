//! The loop of a session: it selects what happens next, hands it to the relay, and performs what that
//! answers with.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use postgres_types::PgLsn;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tracing::{Level, debug, enabled, info, trace, warn};

use super::STOP_TIMEOUT;
use super::audit::AuditConnection;
use super::broker::BrokerConnection;
use super::bulletin::Bulletin;
use super::jobs::Jobs;
use super::past::{Past, ServerMemory};
use super::progress_row::{self, begin_catch_up, record_fault};
use super::readings::Readings;
use super::recording::Recording;
use crate::config::Config;
use crate::core::relay::marks::WrittenBatch;
use crate::core::relay::{Doing, Effect, End, Input, Relay};
use crate::core::tally::{SessionTally, Tally};
use crate::error::{Class, Fault, Kind, Side, codes};
use crate::otlp;
use crate::postgres;
use crate::rabbitmq::publisher::{Closure, Signal};
use crate::rabbitmq::stream::StreamView;
use crate::shutdown::Shutdown;
use crate::wal::WalStream;
use crate::within::in_time;

/// Sessions that end of an internal error of the walsender at the same place: then a row is the cause.
const TRIES: u32 = 3;
/// Frames taken from the stream before the messages they made are handed to the broker: a
/// longer batch saves no more system calls, and the first of it should not wait.
const FRAMES: usize = 128;

/// What a session has done, also of each table, the streams as it left them, and the age of its oldest unsettled
/// event.
pub(super) type Account = ((SessionTally, Vec<StreamView>), Option<Duration>);

/// A session that has begun.
pub(super) struct Session {
    /// With the tables that are away behind those that are configured.
    pub(super) config: Arc<Config>,
    pub(super) relay: Relay,
    pub(super) wal: WalStream,
    pub(super) broker: BrokerConnection,
    /// What is asked of the database.
    pub(super) jobs: Jobs,
    /// What is settled, on its way to the disk.
    pub(super) recording: Recording,
    /// What is said of it.
    pub(super) bulletin: Bulletin,
    /// Somebody changed the parking.
    pub(super) notified: Arc<Notify>,
    /// Where spans go, and the broker that they are about.
    pub(super) spans: Option<(otlp::SpanQueue, Arc<otlp::SpanServer>)>,
    /// Once the slot has come here, it is known of all that is before the place by what it was read.
    pub(super) unknown: Option<(PgLsn, Readings)>,
    /// How far earlier sessions had come.
    pub(super) reached: PgLsn,
    pub(super) began: Instant,
    /// When the server was started, in microseconds since 2000-01-01 UTC; 0 where it matters to nobody.
    pub(super) started: i64,
    pub(super) effects: Vec<Effect>,
    /// Why the broker has blocked the connection since before the slot was taken.
    pub(super) blocked: Option<String>,
}

impl Session {
    /// Runs it until it ends, and leaves what the next one is to know.
    pub(super) async fn run_to_end(
        mut self,
        past: &mut Past,
        shutdown: &mut Shutdown,
        audit: AuditConnection,
    ) -> (End, Account) {
        self.jobs.push(AuditConnection::ended(audit.connection));
        let end = match self.work(shutdown).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        let (tally, streams) = (self.tally_at(&end), self.broker.streams());
        let unsettled = self.relay.view(self.began.elapsed()).unsettled;
        past.memory = Some(ServerMemory {
            identity: self.recording.identity.clone(),
            has_messages: self.recording.has_messages,
            publication: self.config.postgres.publication.clone(),
            memory: self.relay.remember(self.began.elapsed(), &end),
            recorded: self.recording.durable(),
            acknowledged: self.relay.acknowledged().max(self.reached),
        });
        past.coverage = Some(self.jobs.coverage.borrow().clone());
        past.looked.clone_from(&self.jobs.looked.borrow());
        self.keep_why_another_begins(past);
        past.pass_over(&self.config, self.relay.passed_over());
        if !self.bulletin.is_quiet() {
            info!(
                published = tally.published,
                delivered = tally.delivered,
                delivered_before = tally.repeated,
                came_marked = tally.came_marked,
                left_out = tally.left_out,
                marked = tally.marked,
                marks_given_up = tally.unmarked,
                ignored = tally.ignored,
                acknowledged = %self.relay.acknowledged(),
                "session ended"
            );
        }
        // A session that only waits for the server to decode stands for long as well.
        let stood = self.began.elapsed() >= self.config.session.backoff_max
            && self.bulletin.has_read_all(&self.relay);
        past.brought_on |= stood || self.relay.acknowledged() > self.reached;
        // The connection hands over no further answer while one of these leaves its own unread.
        // What they asked is on its way all the same, and a mark that was not asked for yet comes
        // again with its event: nothing is acknowledged before its mark is written.
        self.jobs.running.clear();
        self.recording.stop();
        let end = self.judged(end).await;
        if let Some(batch) = self.relay.unrecorded_progress() {
            // Best effort: what is not recorded is published again, and known by its id.
            let _ = in_time(STOP_TIMEOUT, self.jobs.marker.write(&self.jobs.client, batch)).await;
        }
        record_fault(&self.config, past, &self.bulletin.board, &self.jobs.client, &end).await;
        if let Some(why) = self.impassable(&end, past) {
            let coverage = self.jobs.coverage.borrow().clone();
            let begun = begin_catch_up(&self.config, &self.jobs.client, why, &coverage);
            if in_time(STOP_TIMEOUT, begun).await.is_some_and(|begun| begun.is_ok()) {
                past.brought_on = true;
            }
        }
        if matches!(end, End::Drained | End::Stuck(_)) {
            let lsn = self.recording.record_last().await;
            self.acknowledge(lsn);
            self.forget_routes(&end).await;
            tokio::join!(self.wal.stop(STOP_TIMEOUT), self.broker.close());
        }
        (end, ((self.relay.account(), streams), unsettled))
    }

    /// What was done by then. Marks that nobody tries again are said.
    fn tally_at(&mut self, end: &End) -> Tally {
        if matches!(end, End::Drained) {
            self.jobs.marker.log_given_up(&self.relay.leave_marks());
        }
        self.relay.tally()
    }

    /// Where it ends in order, and another is to begin: one that only looked is followed by one that publishes.
    fn keep_why_another_begins(&self, past: &mut Past) {
        past.rewritten_since.clone_from(&self.jobs.rewritten_since.borrow());
        past.renewal = self.jobs.renewal.take();
        let Some(found) = self.relay.looked_ahead() else { return };
        debug!(highest = found.highest, is_met = found.is_met, "looked ahead");
        past.looked_ahead = Some((self.started, found));
        past.renewal.get_or_insert_with(|| "the stream's last event was looked for".to_owned());
    }

    /// What stops the relay for good does not where another one has taken the slot over meanwhile, and writes under
    /// the name that was ours: this one was frozen, say, and is the standby now.
    async fn judged(&self, end: End) -> End {
        let fault = match end {
            End::Fault(fault) if fault.class == Class::Halt && fault.side == Side::Broker => fault,
            end => return end,
        };
        let slot = &self.config.postgres.slot;
        let ours = progress_row::is_ours(&self.jobs.client, slot, &self.recording.session);
        let what = match in_time(STOP_TIMEOUT, ours).await {
            Some(Ok(true)) => return End::Fault(fault),
            Some(Ok(false)) => {
                format!(
                    "another relay has taken slot \"{slot}\" over, and publishes to its streams"
                )
            }
            // The next session sees it, before it sends anything.
            _ => format!(
                "{}; whether another relay has taken slot \"{slot}\" over could not be asked",
                fault.what
            ),
        };
        Fault::transient(what).on(Side::Audit).into()
    }

    /// Once it is drained nothing is in flight: the next session may send events to other streams.
    async fn forget_routes(&self, end: &End) {
        let is_drained = matches!(end, End::Drained) && !self.relay.is_looking_ahead();
        if !is_drained || !self.config.has_streams() {
            return;
        }
        let (slot, session) = (&self.config.postgres.slot, &self.recording.session);
        let forgotten = progress_row::forget_routes(&self.jobs.client, slot, session);
        if !matches!(in_time(STOP_TIMEOUT, forgotten).await, Some(Ok(()))) {
            debug!("that nothing is in flight to streams was not recorded");
        }
    }

    async fn work(&mut self, shutdown: &mut Shutdown) -> Result<std::convert::Infallible, End> {
        let mut drain_ends: Option<Instant> = None;
        // One for the whole session: a new timer that ends before all others wakes the runtime's
        // thread by a write and a read of its own, in each round.
        let mut alarm = pin!(sleep_until(far()));
        if let Some(why) = self.blocked.take() {
            let input = self.signal(Ok(Signal::Blocked(Some(why))))?;
            self.relay.handle(self.began.elapsed(), input, &mut self.effects)?;
            self.perform();
        }
        loop {
            let deadline = self.deadline().into_iter().chain(drain_ends).min().unwrap_or_else(far);
            if deadline != alarm.deadline() {
                alarm.as_mut().reset(deadline);
            }
            let input = tokio::select! {
                biased;
                () = shutdown.wait(), if drain_ends.is_none() => {
                    drain_ends = Some(Instant::now() + self.config.session.drain_timeout);
                    let (messages, _) = self.relay.in_flight();
                    info!(in_flight = messages, "draining");
                    Input::Drain
                }
                () = std::future::ready(()), if drain_ends.is_none() && self.is_renewed() => {
                    drain_ends = Some(Instant::now() + self.config.session.drain_timeout);
                    Input::Drain
                }
                Some(done) = self.jobs.next() => done?,
                signal = self.broker.next() => self.signal(signal)?,
                () = self.notified.notified() => Input::Notified,
                () = self.bulletin.board.asked() => {
                    self.show();
                    continue;
                }
                lsn = self.recording.next() => {
                    self.acknowledge(lsn);
                    continue;
                }
                frame = self.wal.next(), if self.relay.is_reading() => frame.map_err(stream)?,
                () = &mut alarm => Input::Tick,
            };
            if drain_ends.is_some_and(|at| at <= Instant::now()) {
                return Err(self.undrained().into());
            }
            self.follow(&input);
            let now = self.began.elapsed();
            let outcome = match input {
                Input::Stream { .. } | Input::KeepAlive { .. } => self.frames(now, input),
                _ => self.relay.handle(now, input, &mut self.effects),
            };
            // What came before the end is still to be done.
            let has_published = self.perform();
            outcome?;
            self.end_where_passed();
            self.bulletin.tell(&self.relay);
            if self.bulletin.recover(now, &self.relay) {
                self.jobs.clear_fault();
            }
            if has_published {
                // The publisher's task writes it: now, not once the stream has nothing more to say.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Other tables match than when it began: said once, as it ends then.
    fn is_renewed(&self) -> bool {
        let renewal = self.jobs.renewal.borrow();
        if let Some(what) = &*renewal {
            info!(
                "{what}: what is in flight is finished, and the session begins again with what is there now"
            );
        }
        renewal.is_some()
    }

    /// When something is to be done, if nothing else happens first.
    fn deadline(&self) -> Option<Instant> {
        let since_began = |at| self.began + at;
        let relay = self.relay.deadline(self.began.elapsed()).map(since_began);
        let over = self.bulletin.deadline().map(since_began);
        [relay, over, self.recording.deadline()].into_iter().flatten().min()
    }

    /// Takes in a frame and what the server has sent already, without waiting: what it makes
    /// goes to the broker together.
    fn frames(&mut self, now: Duration, first: Input) -> Result<(), End> {
        self.relay.take_in(now, first, &mut self.effects)?;
        for _ in 1..FRAMES {
            if !self.relay.is_reading() {
                break;
            }
            let Some(frame) = self.wal.next_now() else { break };
            self.relay.take_in(now, frame.map_err(stream)?, &mut self.effects)?;
        }
        self.relay.follow_up(now, &mut self.effects)
    }

    fn signal(&mut self, signal: Result<Signal, Closure>) -> Result<Input, End> {
        Ok(match signal {
            Ok(Signal::Answers(answers)) => Input::Answers(answers),
            Ok(Signal::Blocked(Some(why))) => {
                self.hindered(&blocked(&why));
                Input::Blocked(true)
            }
            Ok(Signal::Blocked(None)) => {
                info!("RabbitMQ no longer blocks the connection");
                Input::Blocked(false)
            }
            Ok(Signal::Reopened) => Input::Reopened,
            Err(Closure::Refused(why)) => Input::Closed(why),
            Err(Closure::RefusedOnChannel(why, max_body)) => {
                let (count, _) = self.relay.in_flight();
                self.broker.tell_closed(&why, count);
                Input::ChannelClosed { why, max_body }
            }
            Err(Closure::Dropped(fault)) => Input::Dropped(fault.on(Side::Broker)),
            Err(Closure::Lost(fault)) => return Err(fault.on(Side::Broker).into()),
        })
    }

    /// Performs the effects; returns whether something was published.
    fn perform(&mut self) -> bool {
        let mut has_published = false;
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Publish(message) => {
                    self.broker.publish(message);
                    has_published = true;
                }
                Effect::Reopen => self.broker.reopen(&self.config.amqp),
                Effect::Acknowledge(lsn) => {
                    let lsn = self.recording.settled(
                        lsn,
                        self.relay.acknowledged_id(),
                        self.relay.confirmed_id(),
                    );
                    self.acknowledge(lsn);
                }
                Effect::Mark(batch) => self.jobs.write(*batch),
                Effect::GivenUp(marks) => self.jobs.marker.log_given_up(&marks),
                Effect::NotTransactional(source) => self.tell_not_transactional(source),
                Effect::Check => self.jobs.check(),
                Effect::Look { from } => self.jobs.look(from),
                Effect::Claim { aggregate, after } => self.jobs.claim(aggregate, after),
                Effect::ClaimAlone(asked) => self.jobs.claim_alone(asked),
                Effect::CatchUp(from) => self.jobs.fetch(from),
                Effect::CaughtUp => self.jobs.finish_catch_up(),
                Effect::Resolve { relation, xid } => self.jobs.resolve(relation, xid),
            }
        }
        self.effects = effects;
        if let Some((queue, server)) = &self.spans {
            queue.put(server, self.relay.take_spans());
        }
        self.bulletin.tell_events(&mut self.relay);
        has_published
    }

    fn tell_not_transactional(&self, source: usize) {
        let source = self.config.source(source).map_or_else(String::new, |it| it.title());
        warn!(
            hint = "emit it with transactional = true: pg_logical_emit_message(true, …), or pgoutbox.emit(…)",
            source,
            "a message of {source} is not transactional, and not an event: what it describes may have been rolled back; further ones are counted"
        );
    }

    /// Nothing is delivered, and the session lives: said, and recorded for `pgoutbox status`.
    fn hindered(&mut self, fault: &Fault) {
        self.bulletin.hinder(fault, self.relay.acknowledged());
        let (config, board) = (Arc::clone(&self.config), self.bulletin.board.clone());
        let (fault, walsender) = (fault.clone(), self.wal.pid());
        self.jobs.ask(async move |_, client| {
            let end = End::Fault(fault);
            progress_row::record(&config, walsender, &board, client, &end).await;
            Ok(Input::Tick)
        });
    }

    /// Learns from an input what is recorded, and records what is worth it.
    fn follow(&mut self, input: &Input) {
        if let Input::Written(written) = input {
            trace_marks(written);
        }
        let lsn = self.recording.learn(input);
        self.acknowledge(lsn);
        self.recording.begin();
    }

    fn acknowledge(&mut self, lsn: Option<PgLsn>) {
        let Some(lsn) = lsn else { return };
        self.wal.acknowledge(lsn);
        if let Some((_, readings)) = self.unknown.take_if(|(from, _)| *from <= lsn) {
            let (slot, session) =
                (self.config.postgres.slot.clone(), self.recording.session.clone());
            self.jobs.ask(async move |_, client| {
                let kept = progress_row::record_readings(client, &slot, &session, &readings).await;
                // Then the next session knows less than it could.
                if let Err(fault) = kept {
                    debug!("by what is read was not recorded: {}", fault.what);
                }
                Ok(Input::Tick)
            });
        }
    }

    /// Shows the relay to anyone who asked.
    fn show(&mut self) {
        let now = self.began.elapsed();
        // Whoever sets the wall clock sets it under a session that runs for months.
        let elapsed = i64::try_from(now.as_micros()).unwrap_or(0);
        self.relay.set_clock(postgres::now_micros().saturating_sub(elapsed));
        let listed =
            self.jobs.catch_up.as_ref().filter(|_| self.relay.doing() == Doing::CatchingUp);
        let listed = listed.map(|listed| (listed.total, self.relay.caught_up()));
        let (view, streams) = (self.relay.view(now), self.broker.streams());
        self.bulletin.board.show(view, streams, listed, self.jobs.marker.refusing());
        self.bulletin.board.find(|id| self.relay.find(now, id));
    }

    fn undrained(&self) -> Fault {
        let view = self.relay.view(self.began.elapsed());
        let waits_for = view.waits_for.map(|waits_for| waits_for.to_string()).unwrap_or_default();
        let (messages, marks) = (view.window_messages, view.marks_pending);
        Fault::transient(format!(
            "not drained within session.drain_timeout: it waits for {waits_for}; {messages} messages are in flight, {marks} marks to be written"
        ))
        .hint("nothing is lost: what was not confirmed or recorded is published again at the next start, with the same message ids; raise session.drain_timeout where that happens often")
    }

    /// Where the stream is passed up to where the list was made, the session ends: the next one publishes the list.
    fn end_where_passed(&self) {
        if self.relay.has_passed() {
            let what = || "the stream is passed up to where the list was made".to_owned();
            self.jobs.renewal.borrow_mut().get_or_insert_with(what);
        }
    }

    /// Why nothing more is to be had from the slot, where that is so and the table has what waits. Up to Postgres 17 a
    /// slot stops where the publication was missing, for ever; and any where a row raises.
    fn impassable(&self, end: &End, past: &mut Past) -> Option<&'static str> {
        let reached = self.relay.acknowledged();
        let mut is_of_row = |fault: &Fault| {
            let is_internal = fault.side == Side::Stream && fault.is_code(codes::INTERNAL_ERROR);
            fault.kind == Kind::RowInStream || is_internal && past.internal.count(reached) >= TRIES
        };
        let why = match end {
            End::Fault(fault) if is_of_row(fault) => Some("no stream gets past a row"),
            End::Fault(fault)
                if fault.side == Side::Stream && fault.is_code(codes::UNDEFINED_OBJECT) =>
            {
                Some("the publication was missing where the slot stands")
            }
            _ => None,
        };
        why.filter(|_| self.config.is_catching_up())
    }
}

fn stream(fault: Fault) -> Fault {
    fault.on(Side::Stream)
}

fn blocked(why: &str) -> Fault {
    let what = format!("RabbitMQ blocks the connection ({why}): nothing is published, WAL is kept");
    Fault::transient(what)
        .on(Side::Broker)
        .found(Some("broker-blocked"))
        .hint("clear its memory or disk alarm: rabbitmq-diagnostics alarms")
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3_600)
}

/// The last line of each event, at a level at which they are looked for one by one.
fn trace_marks(written: &WrittenBatch) {
    if !enabled!(Level::TRACE) {
        return;
    }
    for (place, mark) in written.batch.marks.iter().enumerate() {
        let missed = written.missing.binary_search_by_key(&place, |missed| missed.place);
        if missed.is_err() {
            trace!(event_id = mark.id, position = %mark.position, "an event is marked");
        }
    }
}
