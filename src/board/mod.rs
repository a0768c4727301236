//! What the process shows of itself. The session, the supervisor and the guard write what they
//! know; anyone who serves people reads it, on a thread of its own.
//!
//! The relay's figures are not written as they change: somebody asks, and the loop answers when
//! it comes by. That costs the path of an event nothing, and an answer that does not come shows
//! that the loop stands still.
//!
//! **Invariant:** it decides nothing, and neither who writes nor who reads waits for the other.

mod by_stream;
mod by_table;
pub(crate) mod outage;
pub(crate) mod snapshot;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use crate::board::by_stream::ForgottenByStream;
use crate::board::by_table::ByTable;
use crate::board::outage::{News, Outage};
use crate::config::Config;
use crate::core::guard::{GuardVerdict, Level};
use crate::core::relay::{HeldEvent, View};
use crate::core::tally::{SessionTally, SourceTally, Tally};
use crate::error::{Class, Fault, Side};
use crate::gauge::left;
use crate::otlp::{Counters, Counts};
use crate::postgres::marker::UnmarkedView;
use crate::rabbitmq::stream::StreamView;
use crate::within::in_time;

/// How much later a session may fail of the same as what runs beside it.
const MOMENT: Duration = Duration::from_secs(3);
/// Changes of the state that are remembered.
const CHANGES: usize = 100;

/// Events that are looked for at one time, at most.
const SOUGHT: usize = 64;

/// What the process is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RelayState {
    /// It connects to both servers.
    Connecting,
    /// Another relay holds the slot.
    Standby,
    /// It publishes rows that the slot does not hold.
    CatchingUp,
    /// It reads the stream.
    Running,
    /// Somebody asked it to read no further.
    Paused,
    /// It finishes what is in flight.
    Draining,
    /// It waits before it tries again what has failed.
    Waiting,
    /// It has ended.
    Stopped,
}

impl RelayState {
    /// All of them, in the order of a life.
    pub(crate) const ALL: [Self; 8] = [
        Self::Connecting,
        Self::Standby,
        Self::CatchingUp,
        Self::Running,
        Self::Paused,
        Self::Draining,
        Self::Waiting,
        Self::Stopped,
    ];

    /// Its name in metrics and JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Standby => "standby",
            Self::CatchingUp => "catching_up",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Draining => "draining",
            Self::Waiting => "waiting",
            Self::Stopped => "stopped",
        }
    }

    /// A session has all its connections, and the loop answers.
    pub(crate) fn is_in_session(self) -> bool {
        matches!(self, Self::CatchingUp | Self::Running | Self::Paused | Self::Draining)
    }
}

impl fmt::Display for RelayState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a session ended, as metrics name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum EndReason {
    /// It was asked to.
    Drained,
    /// The replication connection.
    Stream,
    /// The audit connection.
    Audit,
    /// The connection to RabbitMQ.
    Broker,
    /// An event that cannot be delivered.
    Event,
    /// Something that only a person can fix.
    Definite,
    /// Anything else that may pass.
    Other,
}

impl EndReason {
    /// All of them.
    pub(crate) const ALL: [Self; 7] = [
        Self::Drained,
        Self::Stream,
        Self::Audit,
        Self::Broker,
        Self::Event,
        Self::Definite,
        Self::Other,
    ];

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Drained => "drained",
            Self::Stream => "stream",
            Self::Audit => "audit",
            Self::Broker => "broker",
            Self::Event => "event",
            Self::Definite => "definite",
            Self::Other => "other",
        }
    }

    /// Of a fault.
    pub(crate) fn of(fault: &Fault) -> Self {
        match (fault.class, fault.side) {
            (Class::Event, _) => Self::Event,
            (Class::Definite | Class::Halt | Class::Usage, _) => Self::Definite,
            (Class::Transient, Side::Stream) => Self::Stream,
            (Class::Transient, Side::Audit) => Self::Audit,
            (Class::Transient, Side::Broker) => Self::Broker,
            (Class::Transient, Side::None) => Self::Other,
        }
    }
}

/// A change of the state, in words.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    /// When.
    pub at: SystemTime,
    /// The state since then.
    pub state: RelayState,
    /// What happened.
    pub what: String,
    /// How to fix it; empty where nothing needs doing.
    pub hint: String,
}

/// The slot as the guard last saw it.
#[derive(Debug, Clone, Default)]
pub(crate) struct SlotView {
    /// `reserved`, `extended`, `unreserved`, `lost`; `None` where there is no slot.
    pub wal_status: Option<String>,
    /// Why it can never be read again, where that is so.
    pub why_lost: Option<String>,
    /// A walsender uses it.
    pub is_active: bool,
    /// WAL that it keeps, in bytes.
    pub retained_bytes: u64,
    /// WAL written since what was acknowledged last, in bytes.
    pub confirmed_lag_bytes: u64,
    /// Bytes that may be written before it may be lost.
    pub safe_bytes: Option<i64>,
    /// Bytes of transactions that its walsender had to put on disk, over its life.
    pub spilled_bytes: i64,
    /// What the guard thinks of it; `None` where there is no slot.
    pub verdict: Option<GuardVerdict>,
}

impl SlotView {
    /// Its severity.
    pub(crate) fn level(&self) -> Level {
        self.verdict.map_or(Level::Calm, |verdict| verdict.level)
    }
}

/// Parked events of one state and reason.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ParkedView {
    /// `parked`, `queued` or `failed`.
    pub state: String,
    /// `returned`, `nacked` and so on; empty where it only waits.
    pub reason: String,
    /// How many.
    pub events: i64,
    /// How long ago the oldest was parked.
    pub oldest_seconds: f64,
}

/// What Postgres was seen to hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServerView {
    /// The slot.
    pub slot: SlotView,
    /// Events that are not done with.
    pub parked: Vec<ParkedView>,
    /// Aggregates that wait behind a parked event.
    pub held_aggregates: i64,
}

/// All of it, at one moment.
#[derive(Debug, Clone)]
pub(crate) struct BoardContent {
    /// When the process began.
    pub began: SystemTime,
    /// What it is at.
    pub state: RelayState,
    /// Since when.
    pub since: Instant,
    /// What led to the state.
    pub why: String,
    /// What keeps events from being delivered, through all failed sessions until one gets on.
    pub outage: Option<Outage>,
    /// How old the oldest unsettled event was when a session of the outage ended, and when.
    pub left_unsettled: Option<(Instant, Duration)>,
    /// When it is tried again.
    pub again_at: Option<Instant>,
    /// What all sessions have done, the one that runs included.
    pub tally: Tally,
    /// And of the events of each table.
    pub by_table: ByTable,
    /// And by where they went: `exchange:NAME` or `stream:NAME`.
    pub by_destination: ByTable,
    /// And what streams have lost.
    pub forgotten: ForgottenByStream,
    /// The streams of the session that runs, by their names.
    pub streams: Vec<StreamView>,
    /// The relay; `None` where no session runs.
    pub view: Option<View>,
    /// Tables that take no marks.
    pub unmarked: Vec<UnmarkedView>,
    /// When it was looked at.
    pub viewed_at: Option<Instant>,
    /// Sessions begun.
    pub sessions: u64,
    /// Ended sessions by reason.
    pub ends: BTreeMap<EndReason, u64>,
    /// The catch-up that is under way.
    pub catch_up: Option<CatchUpView>,
    /// What Postgres was seen to hold, and when.
    pub seen: Option<(Instant, ServerView)>,
    /// What became of spans.
    pub spans: Counts,
    /// The last changes of the state, the oldest first.
    pub changes: VecDeque<Change>,
}

/// How far a catch-up is, and since when it has been looked at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct CatchUpView {
    /// Rows on its list.
    pub total: u64,
    /// Those of them that are published.
    pub done: u64,
    /// When it was seen first in this session, and how many were published then.
    began: (Instant, u64),
    seen_at: Instant,
}

impl CatchUpView {
    fn next(before: Option<Self>, (total, done): (u64, u64)) -> Self {
        let seen_at = Instant::now();
        // Another list begins anew.
        let before = before.filter(|before| before.total == total && before.done <= done);
        let began = before.map_or((seen_at, done), |before| before.began);
        Self { total, done, began, seen_at }
    }

    /// Rows a second in this session, and how long the rest takes so; `None` before that can be told.
    pub(crate) fn pace(&self) -> Option<(f64, Duration)> {
        let (at, done) = self.began;
        let (published, after) = (self.done - done, self.seen_at.duration_since(at));
        let rest = published.checked_add(self.total.checked_sub(self.done)?)?;
        let left = left(published, rest, after).filter(|_| published > 0)?;
        Some((published as f64 / after.as_secs_f64(), left))
    }
}

#[derive(Debug)]
struct Inner {
    shown: Mutex<BoardState>,
    in_force: Mutex<Option<Arc<Config>>>,
    spans: Arc<Counters>,
    asked: Notify,
    /// Ids of events that somebody looks for in the relay's memory.
    sought: Mutex<Vec<(String, oneshot::Sender<Vec<HeldEvent>>)>>,
    /// Rises when the relay was looked at.
    looks: watch::Sender<u64>,
    /// Rises with each change of the state.
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct BoardState {
    shown: BoardContent,
    /// What ended sessions have done.
    past: Tally,
    /// And with the events of each table.
    past_by_table: ByTable,
    past_by_destination: ByTable,
    /// And with what streams have lost.
    past_forgotten: ForgottenByStream,
}

fn fail(shown: &mut BoardContent, fault: &Fault) -> News {
    let outage = shown.outage.get_or_insert_with(|| Outage::new(fault.clone(), Duration::ZERO));
    outage.fail(fault, Instant::now())
}

/// What the process shows of itself.
#[derive(Debug, Clone)]
pub(crate) struct Board(Arc<Inner>);

impl Default for Board {
    fn default() -> Self {
        Self::new()
    }
}

impl Board {
    /// Nothing has happened yet.
    pub(crate) fn new() -> Self {
        let shown = BoardContent {
            began: SystemTime::now(),
            state: RelayState::Connecting,
            since: Instant::now(),
            why: String::new(),
            outage: None,
            left_unsettled: None,
            again_at: None,
            tally: Tally::default(),
            by_table: ByTable::default(),
            by_destination: ByTable::default(),
            forgotten: ForgottenByStream::default(),
            streams: Vec::new(),
            view: None,
            unmarked: Vec::new(),
            viewed_at: None,
            sessions: 0,
            ends: BTreeMap::new(),
            catch_up: None,
            seen: None,
            spans: Counts::default(),
            changes: VecDeque::new(),
        };
        Self(Arc::new(Inner {
            shown: Mutex::new(BoardState {
                shown,
                past: Tally::default(),
                past_by_table: ByTable::default(),
                past_by_destination: ByTable::default(),
                past_forgotten: ForgottenByStream::default(),
            }),
            in_force: Mutex::default(),
            spans: Arc::default(),
            asked: Notify::new(),
            sought: Mutex::default(),
            looks: watch::Sender::new(0),
            changes: watch::Sender::new(0),
        }))
    }

    /// From now on this configuration is in force: what is shown and what is done from a console is
    /// about its slot.
    pub(crate) fn put_in_force(&self, config: &Config) {
        {
            let mut in_force = self.0.in_force.lock().unwrap_or_else(PoisonError::into_inner);
            *in_force = Some(Arc::new(config.clone()));
            // It was another slot's, perhaps.
            self.kept().shown.seen = None;
        }
        self.0.changes.send_modify(|changes| *changes += 1);
    }

    /// The configuration in force: nobody else keeps one, or it would be an earlier one after a
    /// reload. `None` before the first.
    pub(crate) fn in_force(&self) -> Option<Arc<Config>> {
        self.0.in_force.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn kept(&self) -> MutexGuard<'_, BoardState> {
        self.0.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state is another one, or another thing led to it.
    pub(crate) fn enter(&self, state: RelayState, why: impl Into<String>) {
        self.change(state, why.into(), String::new(), |shown| {
            // Connecting again is no news while nothing gets on.
            state != RelayState::Connecting || shown.outage.is_none()
        });
    }

    /// Somebody paused the relay.
    pub(crate) fn pause(&self, by: &str) {
        let (what, hint) = (format!("paused by {by}"), "pgoutbox resume".to_owned());
        self.change(RelayState::Paused, what, hint, |_| true);
    }

    /// A session has failed; it is tried again after `pause`. Says how much of that is news.
    pub(crate) fn wait(&self, fault: &Fault, pause: Duration) -> News {
        let mut news = News::None;
        self.change(RelayState::Waiting, fault.what.clone(), fault.hint.clone(), |shown| {
            news = fail(shown, fault);
            shown.again_at = Some(Instant::now() + pause);
            news != News::None
        });
        news
    }

    /// Nothing is delivered, in whatever state: an alarm of the broker, say. Says how much of
    /// that is news.
    pub(crate) fn hinder(&self, fault: &Fault) -> News {
        let news = fail(&mut self.kept().shown, fault);
        self.0.changes.send_modify(|changes| *changes += 1);
        news
    }

    /// An earlier process left the outage behind, which began so long ago.
    pub(crate) fn inherit(&self, fault: Fault, before: Duration) {
        self.kept().shown.outage.get_or_insert_with(|| Outage::new(fault, before));
    }

    /// Something keeps events from being delivered.
    pub(crate) fn outage(&self) -> Option<Outage> {
        self.kept().shown.outage.clone()
    }

    /// The sessions fail of the same on Postgres, and their supervisor says so. It may come to it a moment later.
    pub(crate) async fn is_said(&self, fault: &Fault) -> bool {
        let is_said =
            || self.kept().shown.outage.as_ref().is_some_and(|outage| outage.is_of(fault));
        if !is_said() {
            tokio::time::sleep(MOMENT).await;
        }
        is_said()
    }

    /// A session runs; whether an earlier one did within the same outage.
    pub(crate) fn runs_again(&self) -> bool {
        self.kept().shown.outage.as_mut().is_some_and(Outage::run)
    }

    /// The outage is over: what it was.
    pub(crate) fn recover(&self) -> Option<Outage> {
        let outage = {
            let shown = &mut self.kept().shown;
            shown.left_unsettled = None;
            shown.outage.take()
        };
        if outage.is_some() {
            self.0.changes.send_modify(|changes| *changes += 1);
        }
        outage
    }

    /// Only a person can fix it: the process ends.
    pub(crate) fn stop(&self, fault: &Fault) {
        self.change(RelayState::Stopped, fault.what.clone(), fault.hint.clone(), |shown| {
            fail(shown, fault);
            true
        });
    }

    /// `also` says whether the change is to be remembered.
    fn change(
        &self,
        state: RelayState,
        what: String,
        hint: String,
        also: impl FnOnce(&mut BoardContent) -> bool,
    ) {
        {
            let mut kept = self.kept();
            let shown = &mut kept.shown;
            shown.again_at = None;
            let is_news = also(shown);
            if shown.state == state && shown.why == what && !shown.changes.is_empty() {
                return;
            }
            if shown.state != state {
                shown.since = Instant::now();
            }
            (shown.state, shown.why) = (state, what.clone());
            if is_news {
                if shown.changes.len() == CHANGES {
                    shown.changes.pop_front();
                }
                shown.changes.push_back(Change { at: SystemTime::now(), state, what, hint });
            }
        }
        self.0.changes.send_modify(|changes| *changes += 1);
    }

    /// A session begins.
    pub(crate) fn session_begins(&self) {
        self.kept().shown.sessions += 1;
    }

    /// A session has ended, having done so much and left its streams so, with an oldest unsettled event of this age.
    pub(crate) fn session_ends(
        &self,
        reason: EndReason,
        done: Option<&(SessionTally, Vec<StreamView>)>,
        unsettled: Option<Duration>,
    ) {
        let mut kept = self.kept();
        *kept.shown.ends.entry(reason).or_default() += 1;
        if let Some((SessionTally { all, by_source, by_destination }, streams)) = done {
            kept.past.add(all);
            kept.past_by_table.add(by_source);
            kept.past_by_destination.add(by_destination);
            kept.past_forgotten.add(streams);
        }
        kept.shown.tally = kept.past;
        kept.shown.by_table = kept.past_by_table.clone();
        kept.shown.by_destination = kept.past_by_destination.clone();
        kept.shown.forgotten = kept.past_forgotten.clone();
        if let Some(unsettled) = unsettled {
            kept.shown.left_unsettled = Some((Instant::now(), unsettled));
        }
        (kept.shown.view, kept.shown.viewed_at, kept.shown.catch_up) = (None, None, None);
        kept.shown.unmarked.clear();
        kept.shown.streams.clear();
    }

    /// Waits until somebody wants to see the relay. Nothing is lost if the future is dropped.
    pub(crate) async fn asked(&self) {
        self.0.asked.notified().await;
    }

    /// The relay, for anyone who asked.
    pub(crate) fn show(
        &self,
        view: View,
        streams: Vec<StreamView>,
        catch_up: Option<(u64, u64)>,
        unmarked: Vec<UnmarkedView>,
    ) {
        {
            let mut kept = self.kept();
            let mut tally = kept.past;
            tally.add(&view.tally);
            kept.shown.tally = tally;
            kept.past_by_table.name(&view.by_source);
            let mut by_table = kept.past_by_table.clone();
            by_table.add(&view.by_source);
            kept.shown.by_table = by_table;
            let session = view.by_destination.iter();
            let session: Vec<_> =
                session.map(|(name, tally)| (name.clone(), SourceTally::from(*tally))).collect();
            kept.past_by_destination.name(&session);
            let mut by_destination = kept.past_by_destination.clone();
            by_destination.add(&session);
            kept.shown.by_destination = by_destination;
            let mut forgotten = kept.past_forgotten.clone();
            forgotten.add(&streams);
            (kept.shown.forgotten, kept.shown.streams) = (forgotten, streams);
            kept.shown.view = Some(view);
            kept.shown.viewed_at = Some(Instant::now());
            let before = kept.shown.catch_up.take();
            kept.shown.catch_up = catch_up.map(|seen| CatchUpView::next(before, seen));
            kept.shown.unmarked = unmarked;
        }
        self.0.looks.send_modify(|looks| *looks += 1);
    }

    /// Looks for those events that somebody asks for.
    pub(crate) fn find(&self, look: impl Fn(&str) -> Vec<HeldEvent>) {
        let sought = std::mem::take(&mut *self.sought());
        for (id, to) in sought {
            // Nobody may wait for it any more.
            let _ = to.send(look(&id));
        }
    }

    fn sought(&self) -> MutexGuard<'_, Vec<(String, oneshot::Sender<Vec<HeldEvent>>)>> {
        self.0.sought.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The events with this id that the relay has taken in and is not done with; `None` where no session
    /// runs, or the loop does not answer within `patience`.
    pub(crate) async fn seek(&self, id: &str, patience: Duration) -> Option<Vec<HeldEvent>> {
        if !self.kept().shown.state.is_in_session() {
            return None;
        }
        let (to, told) = oneshot::channel();
        {
            let mut sought = self.sought();
            sought.retain(|(_, to)| !to.is_closed());
            if sought.len() >= SOUGHT {
                return None;
            }
            sought.push((id.to_owned(), to));
        }
        self.0.asked.notify_one();
        in_time(patience, told).await?.ok()
    }

    /// What Postgres holds.
    pub(crate) fn saw(&self, seen: ServerView) {
        self.kept().shown.seen = Some((Instant::now(), seen));
    }

    /// All of it as it is now; where no session runs, or the loop does not answer within
    /// `patience`, as it was.
    pub(crate) async fn look(&self, patience: Duration) -> BoardContent {
        let mut looks = self.0.looks.subscribe();
        if self.kept().shown.state.is_in_session() {
            self.0.asked.notify_one();
            let _ = in_time(patience, looks.changed()).await;
        }
        self.shown()
    }

    /// All of it as it was last shown.
    pub(crate) fn shown(&self) -> BoardContent {
        BoardContent { spans: self.0.spans.counts(), ..self.kept().shown.clone() }
    }

    /// Where it is counted what became of spans.
    pub(crate) fn spans(&self) -> Arc<Counters> {
        Arc::clone(&self.0.spans)
    }

    /// Tells of each change of the state.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }
}
