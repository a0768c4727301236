//! The last hour, for the console's plots.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::ready::Readiness;
use crate::board::snapshot::Snapshot;
use crate::core::tally::Tally;

/// How often a point is taken.
pub(super) const STEP: Duration = Duration::from_secs(5);
/// Points of an hour.
const POINTS: usize = 720;

/// How it stood at one moment, and what was done since the one before.
#[derive(Debug, Clone, Copy)]
struct Point {
    /// Since the start of the process.
    at: Duration,
    delivered_per_second: f64,
    p50_seconds: Option<f64>,
    p99_seconds: Option<f64>,
    lag_bytes: Option<u64>,
    retained_bytes: Option<u64>,
    unsettled_seconds: Option<f64>,
    state: &'static str,
    /// What kept events from being delivered.
    blocked: Option<&'static str>,
}

impl Point {
    fn between(before: &(Duration, Tally), at: Duration, snapshot: &Snapshot) -> Self {
        let shown = &snapshot.shown;
        let took = at.saturating_sub(before.0).as_secs_f64().max(0.001);
        let delivered = shown.tally.delivered.saturating_sub(before.1.delivered);
        let latency = shown.tally.to_confirm.since(&before.1.to_confirm);
        let slot = shown.seen.as_ref().map(|(_, seen)| &seen.slot);
        let unsettled = snapshot.unsettled;
        #[allow(clippy::cast_precision_loss)] // a figure for people
        let delivered = delivered as f64;
        Self {
            at,
            delivered_per_second: delivered / took,
            p50_seconds: latency.quantile(0.5),
            p99_seconds: latency.quantile(0.99),
            lag_bytes: slot.map(|slot| slot.confirmed_lag_bytes),
            retained_bytes: slot.map(|slot| slot.retained_bytes),
            unsettled_seconds: unsettled.map(|unsettled| unsettled.as_secs_f64()),
            state: shown.state.name(),
            blocked: Readiness::blocked(snapshot).map(|(code, _)| code),
        }
    }

    fn json(&self, now: Duration) -> Value {
        let rounded = |number: f64| (number * 1e6).round() / 1e6;
        json!([
            rounded(now.saturating_sub(self.at).as_secs_f64()),
            rounded(self.delivered_per_second),
            self.p50_seconds.map(rounded),
            self.p99_seconds.map(rounded),
            self.lag_bytes,
            self.retained_bytes,
            self.unsettled_seconds.map(rounded),
            self.state,
            self.blocked,
        ])
    }
}

/// The last hour.
#[derive(Debug, Default)]
pub(super) struct History(Mutex<HistoryData>);

#[derive(Debug, Default)]
struct HistoryData {
    points: VecDeque<Point>,
    /// All that were ever taken.
    taken: u64,
    before: Option<(Duration, Tally)>,
}

impl History {
    fn kept(&self) -> MutexGuard<'_, HistoryData> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a point, at a time since the start. The first look is only where counting begins.
    pub(super) fn take(&self, at: Duration, snapshot: &Snapshot) {
        let mut kept = self.kept();
        let before = kept.before.replace((at, snapshot.shown.tally));
        let Some(before) = before else { return };
        if kept.points.len() == POINTS {
            kept.points.pop_front();
        }
        kept.taken += 1;
        kept.points.push_back(Point::between(&before, at, snapshot));
    }

    /// The last step in figures; null before the first.
    pub(super) fn recent(&self) -> Value {
        let kept = self.kept();
        kept.points.back().map_or(Value::Null, |point| {
            json!({
                "seconds": STEP.as_secs(),
                "delivered_per_second": point.delivered_per_second,
                "p50_seconds": point.p50_seconds,
                "p99_seconds": point.p99_seconds,
            })
        })
    }

    /// How many points were taken so far.
    pub(super) fn taken(&self) -> u64 {
        self.kept().taken
    }

    /// All points, the oldest first, each with how long ago it was.
    pub(super) fn json(&self, now: Duration) -> Value {
        let kept = self.kept();
        json!({
            "columns": [
                "seconds_ago", "delivered_per_second", "p50_seconds", "p99_seconds",
                "confirmed_lag_bytes", "retained_wal_bytes", "unsettled_seconds", "state", "blocked",
            ],
            "step_seconds": STEP.as_secs(),
            "points": kept.points.iter().map(|point| point.json(now)).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::Board;
    use crate::board::snapshot::Facts;

    fn snapshot(delivered: u64) -> Snapshot {
        let mut shown = Board::new().shown();
        shown.tally.delivered = delivered;
        let now = shown.since;
        let facts = Facts { window_messages: 1, window_bytes: 1, ..Facts::default() };
        Snapshot::new(facts, shown, now)
    }

    #[test]
    fn holds_an_hour_of_rates() {
        let history = History::default();
        // Ten a second, and twenty in the last step.
        for n in 0..1_000_u64 {
            let delivered = n * 50 + if n == 999 { 50 } else { 0 };
            history.take(STEP * u32::try_from(n).unwrap(), &snapshot(delivered));
        }
        let told = history.json(STEP * 1_000);
        let points = told["points"].as_array().unwrap();
        assert_eq!(points.len(), POINTS);
        assert_eq!(points[0][0], 3600.0, "an hour ago");
        let (last, before) = points.split_last().unwrap();
        assert!(before.iter().all(|point| point[1] == 10.0 && point[2].is_null()));
        assert_eq!(last[1], 20.0, "of its own step");
        assert_eq!(history.recent()["delivered_per_second"], 20.0);
        assert_eq!(history.taken(), 999);
    }
}
