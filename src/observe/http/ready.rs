//! Whether the process lives, and whether events get through it. Pure rules over a snapshot.

use std::time::Duration;

use serde_json::{Value, json};

use crate::board::RelayState;
use crate::board::snapshot::Snapshot;
use crate::core::guard::Level;
use crate::rabbitmq::stream::StreamView;
use crate::slot::cause;
use crate::text::span;

/// How long the loop may leave a question unanswered: sessions end and reconnect within it.
pub(super) const SILENT: Duration = Duration::from_secs(30);
/// How long events may wait while none is settled.
pub(crate) const STALLED: Duration = Duration::from_secs(10);
/// How old the slot's figures may be: longer than the guard usually takes between two looks.
const STALE: Duration = Duration::from_secs(60);

/// Codes of what keeps events from being delivered.
pub(crate) const CODES: [&str; 9] = [
    "connecting",
    "fault",
    "draining",
    "stopped",
    "loop_silent",
    "broker_blocked",
    "postgres_silent",
    "stalled",
    "slot_lost",
];

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reason {
    /// For programs.
    pub(crate) code: &'static str,
    /// Which fault it is, by the name that `check` has for it.
    pub(crate) cause: Option<&'static str>,
    /// For people.
    pub(super) what: String,
    /// How to fix it.
    pub(super) hint: String,
    /// How long it has lasted, where that is known.
    pub(crate) lasted: Option<Duration>,
}

impl Reason {
    fn new(code: &'static str, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, cause: None, what: what.into(), hint: hint.into(), lasted: None }
    }

    fn by(mut self, cause: &'static str) -> Self {
        self.cause = Some(cause);
        self
    }

    fn for_as_long(mut self, lasted: Option<Duration>) -> Self {
        self.lasted = lasted;
        self
    }

    /// `is_open`: with the texts, which name hosts and roles.
    fn json(&self, is_open: bool) -> Value {
        match is_open {
            true => json!({
                "code": self.code,
                "cause": self.cause,
                "what": self.what,
                "hint": self.hint,
                "lasted_seconds": self.lasted.map(|lasted| lasted.as_secs_f64().round()),
            }),
            false => json!({"code": self.code, "cause": self.cause}),
        }
    }
}

/// The loop has left a question unanswered for so long.
pub(super) fn silent(snapshot: &Snapshot) -> Option<Duration> {
    let ago = snapshot.viewed_ago.unwrap_or(snapshot.state_for);
    (snapshot.shown.state.is_in_session() && ago > SILENT).then_some(ago)
}

/// `is_open`: with the texts.
pub(super) fn list(reasons: &[Reason], is_open: bool) -> Vec<Value> {
    reasons.iter().map(|reason| reason.json(is_open)).collect()
}

/// How ready it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Readiness {
    /// What it is at.
    pub(super) state: RelayState,
    /// Why it is not ready; ready where there is none.
    pub(crate) reasons: Vec<Reason>,
    /// What is worth a look all the same.
    pub(super) degraded: Vec<Reason>,
}

impl Readiness {
    /// Judges.
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let mut reasons = Vec::new();
        reasons.extend(of_state(snapshot));
        if let Some(ago) = silent(snapshot) {
            let what = format!("the relay's loop has not answered for {}", span(whole(ago)));
            let hint = "the process hangs: restart it, and report what it was at";
            reasons.push(Reason::new("loop_silent", what, hint).for_as_long(Some(ago)));
        }
        reasons.extend(of_relay(snapshot));
        reasons.extend(of_slot(snapshot));
        Self { state: snapshot.shown.state, reasons, degraded: degraded(snapshot) }
    }

    /// What keeps events from being delivered, and how long it has: the most severe of what readiness
    /// says, so that metrics and probes agree.
    pub(crate) fn blocked(snapshot: &Snapshot) -> Option<(&'static str, Duration)> {
        let reason = Self::of(snapshot).reasons.into_iter().next()?;
        Some((reason.code, reason.lasted.unwrap_or(snapshot.state_for)))
    }

    pub(super) fn is_ready(&self) -> bool {
        self.reasons.is_empty()
    }

    /// `is_open`: with the texts.
    pub(super) fn json(&self, is_open: bool) -> Value {
        json!({
            "is_ready": self.is_ready(),
            "state": self.state.name(),
            "reasons": list(&self.reasons, is_open),
            "degraded": list(&self.degraded, is_open),
        })
    }
}

fn of_state(snapshot: &Snapshot) -> Option<Reason> {
    let shown = &snapshot.shown;
    match shown.state {
        RelayState::Standby => None,
        RelayState::Draining => {
            let hint = "wait: it ends by itself, within session.drain_timeout";
            Some(Reason::new("draining", &shown.why, hint))
        }
        RelayState::Stopped => {
            let fault = shown.outage.as_ref().map(|outage| outage.fault.hint.as_str());
            let hint = fault.filter(|hint| !hint.is_empty()).unwrap_or("pgoutbox run");
            let reason = Reason::new("stopped", &shown.why, hint);
            Some(match &shown.outage {
                Some(outage) => reason.by(cause(&outage.fault)),
                None => reason,
            })
        }
        // A session that runs after a failure has to show that it gets on.
        _ => of_outage(snapshot).or_else(|| {
            let hint =
                "wait: each server has its connect_timeout to answer; pgoutbox check looks at both";
            let is_new = matches!(shown.state, RelayState::Connecting | RelayState::Waiting);
            is_new.then(|| Reason::new("connecting", &shown.why, hint))
        }),
    }
}

fn of_outage(snapshot: &Snapshot) -> Option<Reason> {
    let outage = snapshot.shown.outage.as_ref()?;
    // That has a code of its own, below.
    if snapshot.shown.view.as_ref().is_some_and(|view| view.is_blocked) {
        return None;
    }
    let reason = Reason::new("fault", &outage.fault.what, &outage.fault.hint);
    Some(reason.by(cause(&outage.fault)).for_as_long(snapshot.outage_for))
}

fn of_relay(snapshot: &Snapshot) -> Option<Reason> {
    let view = snapshot.shown.view.as_ref()?;
    if view.is_blocked {
        let hint = "clear its memory or disk alarm: rabbitmq-diagnostics alarms";
        let what = "RabbitMQ blocks the connection: nothing is published, WAL is kept";
        let reason = Reason::new("broker_blocked", what, hint);
        return Some(reason.by("broker-blocked").for_as_long(snapshot.outage_for));
    }
    if let Some(silent) = view.silent {
        let what = format!("the walsender has not answered for {}", span(whole(silent)));
        let hint =
            "look at the network to Postgres and at its process: SELECT * FROM pg_stat_replication";
        let reason = Reason::new("postgres_silent", what, hint).by("postgres-connection");
        return Some(reason.for_as_long(Some(silent)));
    }
    let is_stalled = snapshot.stalled_for > STALLED && snapshot.shown.state != RelayState::Paused;
    is_stalled.then(|| {
        let what = format!(
            "none of {} events that wait was settled for {}",
            view.window_messages + view.waiting,
            span(whole(snapshot.stalled_for))
        );
        let hint = "look at the queues behind the exchange: a quorum queue without a majority confirms nothing";
        Reason::new("stalled", what, hint).for_as_long(Some(snapshot.stalled_for))
    })
}

fn whole(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs())
}

/// What was seen before the state began is no news: a session recreates a lost slot.
fn of_slot(snapshot: &Snapshot) -> Option<Reason> {
    let (_, seen) = snapshot.shown.seen.as_ref()?;
    let is_news = snapshot.seen_ago.is_some_and(|ago| ago < snapshot.state_for);
    let reason = seen.slot.why_lost.as_deref().filter(|_| is_news)?;
    let is_paused = snapshot.shown.state == RelayState::Paused;
    let loss = &snapshot.facts.loss;
    let (what, hint) = (loss.what(Some(reason)), loss.hint(true, is_paused));
    Some(Reason::new("slot_lost", what, hint).by("slot-lost"))
}

fn degraded(snapshot: &Snapshot) -> Vec<Reason> {
    let mut degraded = Vec::new();
    let shown = &snapshot.shown;
    match shown.state {
        RelayState::Standby => degraded.push(Reason::new(
            "standby",
            &shown.why,
            "nothing: it takes the slot once the other relay leaves it",
        )),
        RelayState::Paused => degraded.push(Reason::new("paused", &shown.why, "pgoutbox resume")),
        RelayState::CatchingUp => degraded.push(Reason::new(
            "catching_up",
            &shown.why,
            "wait: the stream goes on after it",
        )),
        _ => {}
    }
    for table in &shown.unmarked {
        let mut reason = Reason::new("marks_refused", &table.what, &table.hint);
        reason.cause = table.cause;
        degraded.push(reason.for_as_long(Some(whole(table.lasted))));
    }
    degraded.extend(of_streams(&shown.streams));
    let Some((_, seen)) = &shown.seen else { return degraded };
    let count = |is_failed: bool| {
        let those = seen.parked.iter().filter(|parked| (parked.state == "failed") == is_failed);
        those.map(|parked| parked.events).sum::<i64>()
    };
    let (failed, parked) = (count(true), count(false));
    if failed > 0 {
        let what = format!("parked events that have used up their tries: {failed}");
        let hint = "pgoutbox parked list --state failed; then retry or discard";
        degraded.push(Reason::new("failed_events", what, hint));
    }
    if parked > 0 {
        let what = format!("parked events that are tried again: {parked}");
        degraded.push(Reason::new("parked_events", what, "pgoutbox parked list"));
    }
    // A lost slot keeps none.
    if seen.slot.level() > Level::Calm && seen.slot.why_lost.is_none() {
        let what = format!(
            "the guard's level is {}: the slot keeps {} of WAL",
            seen.slot.level(),
            bytesize::ByteSize(seen.slot.retained_bytes)
        );
        degraded.push(Reason::new("guard", what, "pgoutbox status"));
    }
    if snapshot.seen_ago.is_some_and(|ago| ago > STALE) {
        let what = "what Postgres holds could not be looked at for over a minute";
        degraded.push(Reason::new("stale", what, "look at the log: the guard's line says why"));
    }
    degraded
}

/// What of the streams is worth a look.
fn of_streams(streams: &[StreamView]) -> Vec<Reason> {
    let those = |is_it: fn(&StreamView) -> bool| {
        let names: Vec<&str> =
            streams.iter().filter(|it| is_it(it)).map(|it| &*it.stream).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    let forgotten = those(|it| it.has_forgotten).map(|names| {
        let what = format!("streams have not all that they confirmed before: {names}");
        let hint = "nothing is wrong where they are new; else look whether they were deleted, or brokers lost power, and send what is gone: pgoutbox replay --relayed-since …";
        Reason::new("stream_forgot", what, hint)
    });
    let unwatched = those(|it| it.name.is_some() && !it.is_watched).map(|names| {
        let what = format!("nobody would notice another relay under our name in streams: {names}");
        let hint = "grant the relay's user read on them: rabbitmqctl set_permissions";
        Reason::new("stream_unwatched", what, hint)
    });
    forgotten.into_iter().chain(unwatched).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::outage::Outage;
    use crate::board::snapshot::Facts;
    use crate::board::{Board, ParkedView, ServerView, SlotView};
    use crate::core::guard::GuardVerdict;
    use crate::core::relay::View;
    use crate::core::tally::Tally;
    use crate::error::Fault;

    const SECOND: Duration = Duration::from_secs(1);

    /// In this state for an hour, its loop just asked.
    fn snapshot(state: RelayState) -> Snapshot {
        let mut shown = Board::new().shown();
        shown.state = state;
        shown.why = "because".to_owned();
        if state.is_in_session() {
            shown.view = Some(view());
        }
        shown.seen =
            Some((shown.since, ServerView { slot: slot("reserved"), ..ServerView::default() }));
        Snapshot {
            facts: Facts {
                slot: "shop".to_owned(),
                window_messages: 10,
                window_bytes: 10,
                ..Facts::default()
            },
            state_for: 3600 * SECOND,
            viewed_ago: shown.view.as_ref().map(|_| SECOND),
            seen_ago: Some(SECOND),
            again_in: None,
            outage_for: None,
            unsettled: None,
            stalled_for: Duration::ZERO,
            shown,
        }
    }

    fn view() -> View {
        View {
            tally: Tally::default(),
            tables: Vec::new(),
            by_source: Vec::new(),
            by_destination: Vec::new(),
            window_messages: 3,
            window_size: 10,
            window_bytes: 3,
            waiting: 1,
            unsettled: None,
            lanes: 0,
            marks_pending: 0,
            waits_for: None,
            is_blocked: false,
            silent: None,
            received_lsn: 0.into(),
            acknowledged_lsn: 0.into(),
        }
    }

    fn slot(status: &str) -> SlotView {
        let why_lost = (status == "lost").then(|| "the WAL it needs was removed".to_owned());
        SlotView { wal_status: Some(status.to_owned()), why_lost, ..SlotView::default() }
    }

    fn codes(reasons: &[Reason]) -> Vec<&'static str> {
        reasons.iter().map(|reason| reason.code).collect()
    }

    /// What is changed, the codes of the reasons against it, and those worth a look.
    type Case = (
        &'static str,
        RelayState,
        fn(&mut Snapshot),
        &'static [&'static str],
        &'static [&'static str],
    );

    #[rustfmt::skip]
    const CASES: &[Case] = &[
        ("all is well", RelayState::Running, |_| {}, &[], &[]),
        ("a standby", RelayState::Standby, |_| {}, &[], &["standby"]),
        ("a catch-up", RelayState::CatchingUp, |_| {}, &[], &["catching_up"]),
        ("paused", RelayState::Paused, |_| {}, &[], &["paused"]),
        ("paused with events that wait", RelayState::Paused, |s| s.stalled_for = 99 * SECOND, &[], &["paused"]),
        ("at its start", RelayState::Connecting, |_| {}, &["connecting"], &[]),
        ("after a fault", RelayState::Waiting, fault, &["fault"], &[]),
        ("trying again", RelayState::Connecting, fault, &["fault"], &[]),
        ("draining", RelayState::Draining, |_| {}, &["draining"], &[]),
        ("stopped", RelayState::Stopped, |_| {}, &["stopped"], &[]),
        ("the loop was asked a moment ago", RelayState::Running, |s| s.viewed_ago = Some(SILENT), &[], &[]),
        ("the loop is silent", RelayState::Running, |s| s.viewed_ago = Some(SILENT + SECOND), &["loop_silent"], &[]),
        ("it never answered", RelayState::Running, |s| s.viewed_ago = None, &["loop_silent"], &[]),
        ("nobody is there to answer", RelayState::Standby, |s| s.viewed_ago = None, &[], &["standby"]),
        ("events wait a little", RelayState::Running, |s| s.stalled_for = STALLED, &[], &[]),
        ("nothing is settled", RelayState::Running, |s| s.stalled_for = STALLED + SECOND, &["stalled"], &[]),
        ("it runs, and has not got on yet", RelayState::Running, fault, &["fault"], &[]),
        ("paused, and has not got on yet", RelayState::Paused, fault, &["fault"], &["paused"]),
        ("a fault of a relay that another has replaced", RelayState::Standby, fault, &[], &["standby"]),
        ("stopped by a fault", RelayState::Stopped, fault, &["stopped"], &[]),
        ("the walsender is silent", RelayState::Running, |s| silence(s, SECOND), &["postgres_silent"], &[]),
        ("the broker blocks after a fault", RelayState::Running, |s| { fault(s); blocked(s); }, &["broker_blocked"], &[]),
        ("the broker blocks", RelayState::Running, blocked, &["broker_blocked"], &[]),
        ("it blocks, and nothing is settled", RelayState::Running, |s| { blocked(s); s.stalled_for = 99 * SECOND; }, &["broker_blocked"], &[]),
        ("the slot is lost", RelayState::Running, |s| lose(s, SECOND), &["slot_lost"], &[]),
        ("the slot is lost while the relay is paused", RelayState::Paused, |s| { lose(s, SECOND); warn(s); }, &["slot_lost"], &["paused"]),
        ("the slot was lost, and a session recreated it", RelayState::CatchingUp, |s| lose(s, 7200 * SECOND), &[], &["catching_up", "stale"]),
        ("parked events", RelayState::Running, |s| park(s, "parked"), &[], &["parked_events"]),
        ("a table takes no marks", RelayState::Running, unmarked, &[], &["marks_refused"]),
        ("a stream lost what it had", RelayState::Running, |s| stream(s, true, true), &[], &["stream_forgot"]),
        ("a stream that may not be read", RelayState::Running, |s| stream(s, false, false), &[], &["stream_unwatched"]),
        ("a stream", RelayState::Running, |s| stream(s, true, false), &[], &[]),
        ("failed events", RelayState::Running, |s| park(s, "failed"), &[], &["failed_events"]),
        ("the guard warns", RelayState::Running, warn, &[], &["guard"]),
        ("figures of long ago", RelayState::Running, |s| s.seen_ago = Some(STALE + SECOND), &[], &["stale"]),
    ];

    fn fault(snapshot: &mut Snapshot) {
        let fault = Fault::transient("RabbitMQ is down").hint("start it");
        snapshot.shown.outage = Some(Outage::new(fault, Duration::ZERO));
        snapshot.outage_for = Some(SECOND);
    }

    fn blocked(snapshot: &mut Snapshot) {
        snapshot.shown.view.as_mut().unwrap().is_blocked = true;
    }

    fn silence(snapshot: &mut Snapshot, silent: Duration) {
        snapshot.shown.view.as_mut().unwrap().silent = Some(silent);
    }

    fn lose(snapshot: &mut Snapshot, ago: Duration) {
        snapshot.shown.seen.as_mut().unwrap().1.slot = slot("lost");
        snapshot.seen_ago = Some(ago);
    }

    fn park(snapshot: &mut Snapshot, state: &str) {
        snapshot.shown.seen.as_mut().unwrap().1.parked = vec![ParkedView {
            state: state.to_owned(),
            reason: "returned".to_owned(),
            events: 2,
            oldest_seconds: 7.0,
        }];
    }

    fn unmarked(snapshot: &mut Snapshot) {
        snapshot.shown.unmarked = vec![crate::postgres::marker::UnmarkedView {
            what: "no row of public.t can be marked".to_owned(),
            hint: "GRANT UPDATE".to_owned(),
            cause: None,
            lasted: SECOND,
        }];
    }

    fn stream(snapshot: &mut Snapshot, is_watched: bool, has_forgotten: bool) {
        snapshot.shown.streams = vec![StreamView {
            stream: "orders".into(),
            leader: "mq1:5552".to_owned(),
            name: Some("pgoutbox/shop/7/1/1".to_owned()),
            is_watched,
            in_flight: 0,
            sent_id: 0,
            confirmed_id: 0,
            has_forgotten,
        }];
    }

    fn warn(snapshot: &mut Snapshot) {
        let seen = snapshot.shown.seen.as_mut();
        seen.unwrap().1.slot.verdict = Some(GuardVerdict {
            level: Level::Warning,
            is_news: false,
            retained: 1,
            growth: 0.0,
            room: None,
            full_in: None,
            is_due: false,
            is_held: false,
        });
    }

    #[test]
    fn rules() {
        for (name, state, change, against, worth) in CASES {
            let mut snapshot = snapshot(*state);
            change(&mut snapshot);
            let ready = Readiness::of(&snapshot);
            assert_eq!(codes(&ready.reasons), *against, "{name}");
            assert_eq!(codes(&ready.degraded), *worth, "{name}");
            assert_eq!(ready.is_ready(), against.is_empty(), "{name}");
            for reason in ready.reasons.iter().chain(&ready.degraded) {
                assert!(!reason.hint.is_empty(), "{name}: {} says not what to do", reason.code);
            }
            assert!(against.iter().all(|code| CODES.contains(code)), "{name}");
            let blocked = Readiness::blocked(&snapshot);
            assert_eq!(blocked.map(|(code, _)| code), against.first().copied(), "{name}");
        }
    }

    #[test]
    fn a_stranger_is_told_the_codes_only() {
        let mut snapshot = snapshot(RelayState::Waiting);
        fault(&mut snapshot);
        let ready = Readiness::of(&snapshot);
        assert!(ready.json(true).to_string().contains("RabbitMQ is down"));
        let told = ready.json(false);
        assert!(!told.to_string().contains("RabbitMQ"), "{told}");
        assert_eq!(told["reasons"][0]["code"], "fault");
    }
}
