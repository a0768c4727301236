//! One life from connect to error: it connects, turns what happens into inputs of the
//! [`Relay`] and does what the relay says.
//!
//! **Invariant:** it decides nothing itself, and any error of a connection ends it: there is one way of
//! recovery, the start of the next session.
//!
//! `begin` begins it, step by step; `recovery` knows when an outage is over; `remembered` is what the progress row holds from session
//! to session; `reach` is how far the slot may be acknowledged; `standby` takes the slot, once nobody
//! else has it.

pub(crate) mod supervisor;
mod begin;
mod reach;
mod recovery;
mod remembered;
mod standby;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use postgres_types::PgLsn;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_postgres::Client;
use tracing::{Level, enabled, info, trace, warn};

use crate::board::outage::News;
use crate::board::{Board, Reason, State};
use crate::config::{Config, Host};
use crate::core::event::Refusal;
use crate::core::relay::marks::{Batch, Written};
use crate::core::relay::{Doing, Effect, End, Input, Memory, Relay, Resolution};
use crate::core::tally::Tally;
use crate::error::{Fault, Kind, Peer, Side, codes};
use crate::otlp;
use crate::postgres::identity::Identity;
use crate::postgres::marker::{Marker, Outcome};
use crate::postgres::outbox_table::OutboxTable;
use crate::postgres::parking;
use crate::postgres::sql;
use crate::postgres::{self, Role, classify};
use crate::rabbitmq::publisher::{Closure, Publisher, Signal};
use crate::shutdown::Shutdown;
use crate::slot::catch_up::{self, CatchUp, Chunk};
use crate::slot::{self, Coverage, Looked, record_coverage};
use crate::text::span;
use crate::upkeep::reconcile::Trigger;
use crate::wal::WalStream;
use crate::within::{in_time, within};
use begin::Given;
use reach::Reach;
use recovery::Recovery;
use remembered::{Gap, Own, begin_catch_up, clear_fault, record_fault, record_reach};

/// Frames taken from the stream before the messages they made are handed to the broker: a
/// longer batch saves no more system calls, and the first of it should not wait.
const FRAMES: usize = 128;
/// Silence, in `wal_sender_timeout`s, after which the session is ended. It pings a
/// silent client after half of one.
const SILENCE: (u32, u32) = (3, 2);
/// Pause before a check that met a locked catalog is made again.
const LOCKED: Duration = Duration::from_secs(1);
const ATTACHED: &str = "the slot is made again, and these rows are published: nothing";
/// How long an orderly end waits for the last acknowledgement to be on its way.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// For how long, and how often, a relation that is not there is looked for.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_millis(100));
/// Rows of a catch-up's list that are fetched at once, at most; a session passes over those that
/// are marked already.
const CATCH_UP_ROWS: u64 = 500;

/// What a session leaves to the next one on the same server.
#[derive(Debug, Clone)]
struct Remembered {
    identity: Identity,
    memory: Memory,
    /// Places count messages.
    has_messages: bool,
    /// What the progress row was known to say, on disk.
    recorded: PgLsn,
}

/// What outlives a session.
#[derive(Debug, Default)]
pub(crate) struct Past {
    memory: Option<Remembered>,
    coverage: Option<Coverage>,
    /// Partitions that hold nothing that no stream brings.
    looked: Looked,
    /// Failed sessions in a row that brought nothing on.
    pub failures: u32,
    /// Something was acknowledged in the last session, or it stood for longer than the longest
    /// pause. What it delivered does not count: it may be the same events again and again.
    brought_on: bool,
    /// The walsender of the last stream: the server may not have noticed yet that it is gone.
    pub(crate) walsender: Option<i32>,
    /// Has the outbox tables looked through for rows that were missed.
    pub reconcile: Option<Trigger>,
    /// Where spans go; `None` where nobody wants them.
    pub spans: Option<otlp::Queue>,
    warned: BTreeSet<String>,
}

impl Past {
    /// A session has failed; returns how many did in a row without bringing anything on, this
    /// one included.
    pub(crate) fn failed(&mut self) -> u32 {
        if std::mem::take(&mut self.brought_on) {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        self.failures
    }
}

/// The audit connection: marks, progress, checks.
struct Audit {
    client: Arc<Client>,
    /// Where it is.
    host: Host,
    /// Somebody changed the parking.
    notified: Arc<Notify>,
    connection: JoinHandle<Result<(), Fault>>,
}

impl Audit {
    /// Waits for its end: a server that shuts down ends it at once, while the walsender would
    /// wait for the relay.
    async fn ended(connection: JoinHandle<Result<(), Fault>>) -> Result<Input, Fault> {
        Err(match connection.await {
            Ok(Err(fault)) => fault,
            Ok(Ok(())) | Err(_) => {
                Fault::of(Kind::Closed, Peer::Postgres, "the audit connection has ended")
            }
        }
        .on(Side::Audit))
    }
}

/// What was written down, and where the WAL ends then; `None` where it could not be.
type Recording = Pin<Box<dyn Future<Output = Option<(PgLsn, PgLsn)>>>>;
type Job = Pin<Box<dyn Future<Output = Result<Input, Fault>>>>;

/// Runs one session to its end, and says how it ended; [`End::Drained`] is the only good way.
pub(crate) async fn run(
    config: &Arc<Config>,
    past: &mut Past,
    shutdown: &mut Shutdown,
    broker: usize,
    board: &Board,
) -> End {
    board.session_begins();
    board.enter(State::Connecting, "connects to Postgres and RabbitMQ");
    let (end, ended) = begin_and_run(config, past, shutdown, broker, board).await;
    let reason = match &end {
        End::Drained => Reason::Drained,
        End::Fault(fault) => Reason::of(fault),
        End::Stuck(_) => Reason::Event,
    };
    let (tally, unsettled) = ended.unzip();
    board.session_ends(reason, tally.as_ref(), unsettled.flatten());
    end
}

/// What a session has done, and the age of its oldest unsettled event.
type Ended = (Tally, Option<Duration>);

async fn begin_and_run(
    config: &Arc<Config>,
    past: &mut Past,
    shutdown: &mut Shutdown,
    broker: usize,
    board: &Board,
) -> (End, Option<Ended>) {
    let audit = tokio::select! {
        biased;
        () = shutdown.wait() => return (End::Drained, None),
        audit = connect_audit(config) => match audit {
            Ok(audit) => audit,
            Err(fault) => return (fault.on(Side::Audit).into(), None),
        },
    };
    // Another host may take itself for the primary as well.
    let config = &config.streaming_from(&audit.host);
    let end = tokio::select! {
        biased;
        () = shutdown.wait() => End::Drained,
        session = Session::begin(Given { config, audit: &audit, broker, board }, past) => match session {
            Err(fault) => fault.into(),
            Ok(session) => {
                let (end, ended) = session.run_to_end(past, shutdown, audit).await;
                return (end, Some(ended));
            }
        },
    };
    record_fault(config, past, board, &audit.client, &end).await;
    (end, None)
}

async fn connect_audit(config: &Config) -> Result<Audit, Fault> {
    let postgres = &config.postgres;
    let notified = Arc::new(Notify::new());
    let (slot, tell) = (postgres.slot.clone(), Arc::clone(&notified));
    let ((client, connection), host) = postgres::connect_and_hear(
        Role::Session,
        postgres,
        Some(Box::new(move |notification| {
            let (channel, payload) = (notification.channel(), notification.payload());
            if channel == parking::CHANNEL && (payload.is_empty() || payload == slot) {
                tell.notify_one();
            }
        })),
    )
    .await?;
    Ok(Audit { client: Arc::new(client), host, notified, connection })
}

struct Session {
    /// With the tables that are away behind those that are configured.
    config: Arc<Config>,
    /// As it was given.
    asked: Arc<Config>,
    board: Board,
    relay: Relay,
    wal: WalStream,
    publisher: Publisher,
    marker: Arc<Marker>,
    client: Arc<Client>,
    notified: Arc<Notify>,
    /// By what the tables are covered; another once something was altered that matters to no row.
    coverage: Rc<RefCell<Coverage>>,
    looked: Rc<RefCell<Looked>>,
    outboxes: Arc<[OutboxTable]>,
    /// Where spans go, and the broker that they are about.
    spans: Option<(otlp::Queue, Arc<otlp::Server>)>,
    /// What is published before the stream.
    catch_up: Option<CatchUp>,
    /// Rows may have passed by the slot: its stream is passed, and the slot is made again.
    gap: Option<Gap>,
    reach: Reach,
    /// What is settled is being written down.
    recording: Option<Recording>,
    identity: Identity,
    /// Places count messages.
    has_messages: bool,
    /// The session's, in the progress row.
    id: String,
    /// Where the slot stood before it was taken.
    start_lsn: PgLsn,
    jobs: FuturesUnordered<Job>,
    began: Instant,
    effects: Vec<Effect>,
    /// It closed the channel, and there is to be no other: the session ends, once what was delivered
    /// is marked.
    is_broker_gone: bool,
    /// Its words when it closed a channel, which were told.
    told_closed: Option<String>,
    /// Why the broker has blocked the connection since before the slot was taken.
    blocked: Option<String>,
    /// What the board says it is at.
    told: Option<Doing>,
    /// What decides that an outage is over; `None` where there is none.
    recovery: Option<Recovery>,
    /// Earlier sessions of the outage came as far: they have said all there is to say.
    is_quiet: bool,
}

impl Session {
    /// Says on the board what it is at.
    fn tell(&mut self) {
        let doing = self.relay.doing();
        let before = self.told.replace(doing);
        if before == Some(doing) {
            return;
        }
        if before == Some(Doing::Paused) && self.relay.paused_by().is_none() {
            info!("resumed: events are published again");
        }
        let (state, what) = match doing {
            Doing::CatchingUp => {
                (State::CatchingUp, "publishes the rows that the slot does not hold")
            }
            Doing::Streaming => (State::Running, "reads the stream"),
            Doing::Paused => {
                let by = self.relay.paused_by().unwrap_or_default();
                warn!(
                    hint = "pgoutbox resume",
                    "paused by {by}: nothing is published, WAL is kept"
                );
                return self.board.pause(by);
            }
            Doing::Draining => (State::Draining, "finishes what is in flight"),
            // What has failed is said when the session has ended.
            Doing::Failing => return,
        };
        self.board.enter(state, what);
    }

    /// Shows the relay to anyone who asked.
    fn show(&mut self) {
        let now = self.began.elapsed();
        // Whoever sets the wall clock sets it under a session that runs for months.
        let elapsed = i64::try_from(now.as_micros()).unwrap_or(0);
        self.relay.set_clock(postgres::now_micros().saturating_sub(elapsed));
        let listed = self.catch_up.as_ref().filter(|_| self.relay.doing() == Doing::CatchingUp);
        let listed = listed.map(|listed| (listed.total, self.relay.caught_up()));
        self.board.show(self.relay.view(now), listed, self.marker.refusing());
    }

    async fn run_to_end(
        mut self,
        past: &mut Past,
        shutdown: &mut Shutdown,
        audit: Audit,
    ) -> (End, Ended) {
        self.jobs.push(Box::pin(Audit::ended(audit.connection)));
        let end = match self.work(shutdown).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        let tally = self.relay.tally();
        let unsettled = self.relay.view(self.began.elapsed()).unsettled;
        past.memory = Some(Remembered {
            identity: self.identity.clone(),
            has_messages: self.has_messages,
            memory: self.relay.remember(self.began.elapsed(), &end),
            recorded: self.reach.durable(),
        });
        past.coverage = Some(self.coverage.borrow().clone());
        past.looked.clone_from(&self.looked.borrow());
        if !self.is_quiet {
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
        let stood = self.began.elapsed() >= self.config.session.backoff_max;
        past.brought_on |= stood || self.relay.acknowledged() > self.start_lsn;
        // The connection hands over no further answer while one of these leaves its own unread.
        // What they asked is on its way all the same, and a mark that was not asked for yet comes
        // again with its event: nothing is acknowledged before its mark is written.
        self.jobs.clear();
        self.recording = None;
        if let Some(batch) = self.relay.unrecorded_progress() {
            // Best effort: what is not recorded is published again, and known by its id.
            let _ = in_time(STOP_TIMEOUT, self.marker.write(&self.client, batch)).await;
        }
        record_fault(&self.config, past, &self.board, &self.client, &end).await;
        if let Some(gap) = self.gap_passed(&end) {
            let coverage = self.coverage.borrow().clone();
            let begun = begin_catch_up(&self.config, &self.client, &gap, &coverage);
            if in_time(STOP_TIMEOUT, begun).await.is_some_and(|begun| begun.is_ok()) {
                past.brought_on = true;
            }
        }
        if matches!(end, End::Drained | End::Stuck(_)) {
            self.record_last().await;
            let wal = self.wal.stop(STOP_TIMEOUT);
            tokio::join!(wal, self.publisher.close());
        }
        (end, (tally, unsettled))
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
                Some(done) = self.jobs.next() => done?,
                signal = self.publisher.next(), if !self.is_broker_gone => self.signal(signal)?,
                () = self.notified.notified() => Input::Notified,
                () = self.board.asked() => {
                    self.show();
                    continue;
                }
                written = recorded(&mut self.recording) => {
                    self.recording = None;
                    let lsn = self.reach.recorded(written);
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
                Input::Stream(_) | Input::KeepAlive { .. } => self.frames(now, input),
                _ => self.relay.handle(now, input, &mut self.effects),
            };
            // What came before the end is still to be done.
            let has_published = self.perform();
            outcome?;
            self.is_gap_open()?;
            self.tell();
            self.recover(now);
            if has_published {
                // The publisher's task writes it: now, not once the stream has nothing more to say.
                tokio::task::yield_now().await;
            }
        }
    }

    /// When something is to be done, if nothing else happens first.
    fn deadline(&self) -> Option<Instant> {
        let since_began = |at| self.began + at;
        let relay = self.relay.deadline(self.began.elapsed()).map(since_began);
        let over = self.recovery.as_ref().and_then(Recovery::deadline).map(since_began);
        [relay, over, self.reach.next_write()].into_iter().flatten().min()
    }

    fn undrained(&self) -> Fault {
        let (messages, _) = self.relay.in_flight();
        Fault::transient(format!(
            "not drained within session.drain_timeout: {messages} messages are in flight; they are published again at the next start"
        ))
    }

    /// Where rows passed by the slot, its stream is passed first.
    ///
    /// # Errors
    /// It is passed: the session ends, and the next makes the slot again.
    fn is_gap_open(&self) -> Result<(), Fault> {
        let now = self.began.elapsed();
        match &self.gap {
            Some(gap) if self.relay.has_passed(now, gap.end) => {
                Err(Fault::transient("the slot is made again, for rows that passed by it"))
            }
            _ => Ok(()),
        }
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
            Err(Closure::Refused(why)) => {
                self.is_broker_gone = true;
                Input::Closed(why)
            }
            Err(Closure::RefusedOnChannel(why)) => {
                self.is_broker_gone = true;
                self.tell_closed(&why);
                Input::ChannelClosed(why)
            }
            Err(Closure::Dropped(fault)) => {
                self.is_broker_gone = true;
                Input::Dropped(fault.on(Side::Broker))
            }
            Err(Closure::Lost(fault)) => return Err(fault.on(Side::Broker).into()),
        })
    }

    /// Once for each of its words, in a session: which events it is over, their records say.
    fn tell_closed(&mut self, why: &str) {
        if self.told_closed.as_deref() == Some(why) {
            return;
        }
        self.told_closed = Some(why.to_owned());
        let (count, _) = self.relay.in_flight();
        let hint = Refusal::Closed { why: String::new() }.hint();
        warn!(
            hint,
            in_flight = count,
            "RabbitMQ closed the channel: {why}. A new one is opened, and what was in flight is published again"
        );
    }

    /// Performs the effects; returns whether something was published.
    fn perform(&mut self) -> bool {
        let mut has_published = false;
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Publish(message) => {
                    self.publisher.publish(message);
                    has_published = true;
                }
                Effect::Reopen => {
                    self.publisher.reopen(&self.config.amqp);
                    self.is_broker_gone = false;
                }
                Effect::Acknowledge(lsn) => {
                    let lsn = self.reach.settled(lsn);
                    self.acknowledge(lsn);
                }
                Effect::Mark(batch) => self.write(batch),
                Effect::GivenUp(marks) => self.marker.log_given_up(&marks),
                Effect::NotTransactional(source) => self.tell_not_transactional(source),
                Effect::Check => {
                    let (client, config) = (Arc::clone(&self.client), Arc::clone(&self.asked));
                    let (before, looked) = (Rc::clone(&self.coverage), Rc::clone(&self.looked));
                    let outboxes = Arc::clone(&self.outboxes);
                    self.jobs.push(Box::pin(async move {
                        check_attached(&client, &config, &outboxes, &looked).await?;
                        check(client, config, before).await
                    }));
                }
                Effect::Look { from } => {
                    let (marker, client) = (Arc::clone(&self.marker), Arc::clone(&self.client));
                    let config = Arc::clone(&self.config);
                    self.jobs.push(Box::pin(async move {
                        loop {
                            let looked = answered(&config, marker.look(&client, from)).await?;
                            if let Some(looked) = looked {
                                return Ok(Input::Looked(looked));
                            }
                            tokio::time::sleep(LOCKED).await;
                        }
                    }));
                }
                Effect::Claim { aggregate, after } => self.ask(async move |marker, client| {
                    let head = marker.parking().claim(client, &aggregate, after).await?;
                    Ok(Input::Claimed { aggregate, head })
                }),
                Effect::ClaimAlone(asked) => self.ask(async move |marker, client| {
                    let rows = marker.parking().claim_alone(client, &asked).await?;
                    Ok(Input::ClaimedAlone { asked, rows })
                }),
                Effect::CatchUp(from) => self.fetch(from),
                Effect::CaughtUp => self.finish_catch_up(),
                Effect::Resolve { relation, xid } => {
                    let (client, config) = (Arc::clone(&self.client), Arc::clone(&self.config));
                    self.jobs.push(Box::pin(resolve(client, config, (relation, xid))));
                }
            }
        }
        self.effects = effects;
        if let Some((queue, server)) = &self.spans {
            queue.put(server, self.relay.take_spans());
        }
        has_published
    }

    fn tell_not_transactional(&self, source: usize) {
        let source = self.config.source(source).map_or_else(String::new, |it| it.title());
        warn!(
            hint = "emit it with transactional = true: pg_logical_emit_message(true, …), or pgoutbox.emit(…)",
            source,
            "a message of {source} is not transactional, and is no event: what it tells of may have been rolled back; further ones are counted"
        );
    }

    /// Writes a batch of marks, with what was put aside and how far all is settled.
    fn write(&mut self, batch: Batch) {
        self.marker.parking().log(&self.config, &batch.parking);
        let (marker, client) = (Arc::clone(&self.marker), Arc::clone(&self.client));
        let config = Arc::clone(&self.config);
        self.jobs.push(Box::pin(async move {
            let mut outcome = answered(&config, marker.write(&client, batch)).await?;
            loop {
                match outcome {
                    Outcome::Written(written) => return Ok(Input::Written(written)),
                    Outcome::Unrecorded(written) => {
                        tokio::time::sleep(LOCKED).await;
                        let again = marker.record_again(&client, written);
                        outcome = answered(&config, again).await?;
                    }
                }
            }
        }));
    }

    /// Fetches rows of the catch-up's list.
    fn fetch(&mut self, from: u64) {
        let (config, outboxes) = (Arc::clone(&self.config), Arc::clone(&self.outboxes));
        let Some(listed) = self.catch_up.clone() else { return };
        self.ask(async move |_, client| {
            let (limit, total) = (CATCH_UP_ROWS, listed.total);
            let fetched = catch_up::fetch(client, &config, &outboxes, &listed, from, limit);
            let Chunk { rows, next } = fetched.await?;
            Ok(Input::CatchUp { rows, next, is_last: next >= total })
        });
    }

    fn finish_catch_up(&mut self) {
        let slot = self.config.postgres.slot.clone();
        self.ask(async move |_, client| {
            catch_up::finish(client, &slot).await?;
            info!("caught up: the stream begins");
            Ok(Input::CaughtUp)
        });
    }
}

impl Session {
    /// Nothing is delivered, and the session lives: said, and recorded for `pgoutbox status`.
    fn hindered(&mut self, fault: &Fault) {
        if self.board.hinder(fault) != News::None {
            warn!(hint = fault.hint, "{}", fault.what);
        }
        let now = self.relay.acknowledged();
        self.recovery.get_or_insert_with(|| Recovery::new(now));
        let (config, board, fault) = (Arc::clone(&self.config), self.board.clone(), fault.clone());
        let walsender = self.wal.pid();
        self.ask(async move |_, client| {
            let end = End::Fault(fault);
            remembered::record(&config, walsender, &board, client, &end).await;
            Ok(Input::Tick)
        });
    }

    /// Says that the outage is over, once it is.
    fn recover(&mut self, now: Duration) {
        let Some(recovery) = &mut self.recovery else { return };
        if !recovery.is_over(now, &self.relay) {
            return;
        }
        self.recovery = None;
        self.is_quiet = false;
        if let Some(outage) = self.board.recover() {
            let lasted = span(outage.lasted(Instant::now()));
            info!(lasted, failures = outage.failures, "events are delivered again");
        }
        let config = Arc::clone(&self.config);
        let client = Arc::clone(&self.client);
        self.jobs.push(Box::pin(async move {
            loop {
                match answered(&config, clear_fault(&config, &client)).await {
                    // Somebody has a lock on the row: it is told by those who have more to write.
                    Err(fault) if postgres::is_lock(&fault) => {}
                    outcome => return outcome.map(|()| Input::Tick),
                }
                tokio::time::sleep(LOCKED).await;
            }
        }));
    }

    /// Learns from an input what is recorded, and records what is worth it.
    fn follow(&mut self, input: &Input) {
        let lsn = match input {
            Input::Written(written) => {
                trace_marks(written);
                let lsn = written.batch.position.commit_lsn;
                self.reach.wrote(lsn, written.written_lsn, written.flushed_lsn)
            }
            Input::Checked { flushed_lsn } => self.reach.flushed(*flushed_lsn),
            _ => None,
        };
        self.acknowledge(lsn);
        let Some(lsn) = self.reach.begin_write(Instant::now()) else { return };
        let (client, identity) = (Arc::clone(&self.client), self.identity.clone());
        let (config, session) = (Arc::clone(&self.config), self.id.clone());
        let has_messages = self.has_messages;
        self.recording = Some(Box::pin(async move {
            let slot = &config.postgres.slot;
            let own = Own { identity: &identity, session: &session, has_messages };
            match answered(&config, record_reach(&client, slot, own, lsn, false)).await {
                Ok(end) => Some((lsn, end)),
                // Somebody has a lock on the row, say: it is tried again. Where the connection is
                // gone, the session ends over that.
                Err(fault) => {
                    warn!(hint = fault.hint, "what is settled was not recorded: {}", fault.what);
                    None
                }
            }
        }));
    }

    fn acknowledge(&self, lsn: Option<PgLsn>) {
        if let Some(lsn) = lsn {
            self.wal.acknowledge(lsn);
        }
    }

    /// The last of it is on disk before the slot is left.
    async fn record_last(&mut self) {
        let Some(lsn) = self.reach.unrecorded() else { return };
        let slot = &self.config.postgres.slot;
        let has_messages = self.has_messages;
        let own = Own { identity: &self.identity, session: &self.id, has_messages };
        let written = record_reach(&self.client, slot, own, lsn, false);
        if let Some(Ok(end)) = in_time(STOP_TIMEOUT, written).await {
            let lsn = self.reach.recorded(Some((lsn, end)));
            self.acknowledge(lsn);
        }
    }

    /// What passed by the slot, where nothing more is to be had from it: all of it was passed, or it
    /// cannot be read. Up to Postgres 17 a slot stops where the publication was missing, for ever.
    fn gap_passed(&mut self, end: &End) -> Option<Gap> {
        let is_unreadable = matches!(end, End::Fault(fault)
            if fault.side == Side::Stream && fault.is_code(codes::UNDEFINED_OBJECT));
        let (now, gap) = (self.began.elapsed(), self.gap.take());
        if is_unreadable && self.config.is_catching_up() {
            let why = || "the publication was missing where the slot stands".to_owned();
            return gap.or_else(|| Some(Gap { why: why(), end: PgLsn::from(0) }));
        }
        gap.filter(|gap| self.relay.has_passed(now, gap.end))
    }

    /// Asks the audit connection something, within bounds.
    fn ask<F>(&mut self, asked: F)
    where
        F: AsyncFnOnce(&Marker, &Client) -> Result<Input, Fault> + 'static,
    {
        let (marker, client) = (Arc::clone(&self.marker), Arc::clone(&self.client));
        let config = Arc::clone(&self.config);
        self.jobs.push(Box::pin(async move { answered(&config, asked(&marker, &client)).await }));
    }
}

/// Never ends where nothing is being recorded.
async fn recorded(recording: &mut Option<Recording>) -> Option<(PgLsn, PgLsn)> {
    match recording {
        Some(recording) => recording.await,
        None => std::future::pending().await,
    }
}

fn stream(fault: Fault) -> Fault {
    fault.on(Side::Stream)
}

fn blocked(why: &str) -> Fault {
    let what = format!("RabbitMQ blocks the connection ({why}): nothing is published, WAL is kept");
    Fault::transient(what)
        .on(Side::Broker)
        .hint("clear its memory or disk alarm: rabbitmq-diagnostics alarms")
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3_600)
}

/// How long a server of which nothing is heard may still be alive.
fn silence(config: &Config) -> Duration {
    config.postgres.wal_sender_timeout * SILENCE.0 / SILENCE.1
}

/// What the audit connection answers, within bounds: a server, a pooler or a network that
/// stops in the middle of an answer and keeps the connection would hold the relay for ever.
async fn answered<T>(
    config: &Config,
    asked: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    let patience = silence(config);
    within(patience, asked, |patience| {
        let patience = crate::text::span(patience);
        let what = format!("no answer on the audit connection for {patience}; connecting again");
        Fault::of(Kind::Timeout, Peer::Postgres, what).on(Side::Audit)
    })
    .await
}

/// A relation that is not there may be one whose transaction is not seen by others yet: it is
/// looked for again.
async fn resolve(
    client: Arc<Client>,
    config: Arc<Config>,
    relation: (u32, u32),
) -> Result<Input, Fault> {
    let began = Instant::now();
    loop {
        let found = answered(&config, slot::partition_of(&client, relation, &config)).await?;
        if found != Resolution::Gone || began.elapsed() >= LOOK_AGAIN.0 {
            return Ok(Input::Resolved(found));
        }
        tokio::time::sleep(LOOK_AGAIN.1).await;
    }
}

/// Whether a table with rows that wait has become a partition; said where nothing follows from it.
async fn attached(
    config: &Config,
    client: &Client,
    outboxes: &[OutboxTable],
    looked: &mut Looked,
) -> Result<Option<String>, Fault> {
    let mut first = None;
    loop {
        let found = slot::attached(client, config, outboxes, looked, silence(config) / 2);
        match answered(config, found).await? {
            None => return Ok(first),
            Some(found) if config.is_catching_up() && found.has_marks => {
                first = first.or(Some(found.what));
            }
            Some(found) => {
                let hint = "pgoutbox replay --only unrelayed --mark  -- with audit.mode = none publish them yourself";
                warn!(hint, "rows that no stream brings: {}", found.what);
            }
        }
    }
}

/// The next session looks again, and makes a gap of what was found. What is locked is waited for:
/// nothing is acknowledged meanwhile.
async fn check_attached(
    client: &Client,
    config: &Config,
    outboxes: &[OutboxTable],
    looked: &RefCell<Looked>,
) -> Result<(), Fault> {
    loop {
        let mut seen = looked.borrow().clone();
        match attached(config, client, outboxes, &mut seen).await {
            Ok(None) => {
                looked.replace(seen);
                return Ok(());
            }
            Ok(Some(what)) => return Err(Fault::transient(what).hint(ATTACHED).on(Side::Audit)),
            Err(fault) if fault.is_code(codes::LOCK_NOT_AVAILABLE) => {}
            Err(fault) => return Err(fault),
        }
        tokio::time::sleep(LOCKED).await;
    }
}

async fn check(
    client: Arc<Client>,
    config: Arc<Config>,
    before: Rc<RefCell<Coverage>>,
) -> Result<Input, Fault> {
    let coverage = loop {
        match answered(&config, slot::coverage(&client, &config)).await {
            // No table is opened for that. A catalog may be locked, as while it is rewritten: that
            // stops nothing that is delivered, which is only not acknowledged meanwhile.
            Err(fault) if fault.is_code(codes::LOCK_NOT_AVAILABLE) => {}
            outcome => break outcome?,
        }
        tokio::time::sleep(LOCKED).await;
    };
    let change = before.borrow().change(&coverage);
    if let Some(what) = change {
        if !before.borrow().differs_aside(&coverage) {
            let what = format!("{what} while the relay was running");
            return Err(Fault::transient(what).on(Side::Audit));
        }
        let kept = record_coverage(&client, &config.postgres.slot, coverage.digest().number());
        answered(&config, kept).await?;
        before.replace(coverage);
    }
    let asked = async {
        client.query_one(sql::SERVER_WAL_POSITION, &[]).await.map_err(|error| classify(&error))
    };
    let row = answered(&config, asked).await?;
    let flushed_lsn: PgLsn = row.try_get(1).map_err(|error| classify(&error))?;
    Ok(Input::Checked { flushed_lsn })
}

/// The last line of each event, at a level at which they are looked for one by one.
fn trace_marks(written: &Written) {
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
