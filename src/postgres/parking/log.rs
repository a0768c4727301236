//! What is parked, and what became of tries, in the log. Of many events of a table to which the same happens, the first have a
//! line each, and the others are counted: the parking names them, and `log.events` has a line for each.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use crate::config::Config;
use crate::core::parked::{Attempt, AttemptOutcome, Park, ParkedState, ParkingBatch};

/// So many of a kind have lines of their own,
const LINES: u32 = 20;
/// within this time.
const PERIOD: Duration = Duration::from_secs(120);
/// How often the others are counted aloud.
const COUNTED: Duration = Duration::from_secs(10);

/// What happened to an event, of which table, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    what: &'static str,
    table: String,
    reason: &'static str,
}

/// What was said of one kind.
#[derive(Debug)]
struct LineCount {
    since: Instant,
    lines: u32,
    /// Not said yet, and since when.
    more: u64,
    counted_at: Instant,
}

/// Of each kind.
#[derive(Debug, Default)]
pub(super) struct ParkingLog(BTreeMap<Kind, LineCount>);

impl ParkingLog {
    /// Logs a batch. What was given back was logged before.
    pub(super) fn log(&mut self, config: &Config, parking: &ParkingBatch) {
        let (parks, attempts) = parking.given_back;
        let now = Instant::now();
        for park in parking.parks.iter().skip(parks) {
            let is_said = self.is_said(kind_of_park(config, park), now);
            log_park(config, park, is_said);
        }
        for attempt in parking.attempts.iter().skip(attempts) {
            let is_said = self.is_said(kind_of_attempt(config, attempt), now);
            log_attempt(config, attempt, is_said);
        }
        self.count_aloud(now, COUNTED);
    }

    /// It has a line of its own; else it is counted.
    fn is_said(&mut self, kind: Option<Kind>, now: Instant) -> bool {
        let Some(kind) = kind else { return true };
        let new = || LineCount { since: now, lines: 0, more: 0, counted_at: now };
        let said = self.0.entry(kind).or_insert_with(new);
        if said.more == 0 && now.saturating_duration_since(said.since) >= PERIOD {
            *said = new();
        }
        if said.lines < LINES {
            said.lines += 1;
            return true;
        }
        if said.more == 0 {
            said.counted_at = now;
        }
        said.more += 1;
        false
    }

    /// Says how many more there were of each kind, where that has waited for so long.
    fn count_aloud(&mut self, now: Instant, after: Duration) {
        for (Kind { what, table, reason }, said) in &mut self.0 {
            let lasted = now.saturating_duration_since(said.counted_at);
            if said.more == 0 || lasted < after {
                continue;
            }
            let events = std::mem::take(&mut said.more);
            let within = crate::text::span(Duration::from_secs(lasted.as_secs().max(1)));
            info!(
                table,
                reason, events, "{events} more events of {table} {what} in {within}: {reason}"
            );
        }
    }
}

impl Drop for ParkingLog {
    /// The session ends: nothing stays uncounted.
    fn drop(&mut self) {
        self.count_aloud(Instant::now(), Duration::ZERO);
    }
}

fn title(config: &Config, table: usize) -> String {
    config.source(table).map_or_else(String::new, |table| table.title())
}

/// Where it has a line at all.
fn kind_of_park(config: &Config, park: &Park) -> Option<Kind> {
    let what = match park.state {
        ParkedState::DeadLettered => "were sent to the dead-letter exchange",
        ParkedState::Parked(_) | ParkedState::Failed => "were parked",
        ParkedState::Queued => return None,
    };
    let reason = park.refusal.as_ref()?.reason();
    Some(Kind { what, table: title(config, park.mapping.table), reason })
}

fn kind_of_attempt(config: &Config, attempt: &Attempt) -> Option<Kind> {
    let (what, reason) = match &attempt.outcome {
        AttemptOutcome::Delivered { attempts: 1.., .. } => {
            ("were parked and are delivered", "delivered")
        }
        AttemptOutcome::Refused { state, refusal, .. } => {
            let what = match state {
                ParkedState::Failed => "have failed",
                ParkedState::Parked(_) => "were tried again and refused",
                ParkedState::DeadLettered => "were sent to the dead-letter exchange",
                ParkedState::Queued => return None,
            };
            (what, refusal.reason())
        }
        AttemptOutcome::Delivered { .. } | AttemptOutcome::Withdrawn => return None,
    };
    Some(Kind { what, table: title(config, attempt.table), reason })
}

fn log_park(config: &Config, park: &Park, is_said: bool) {
    let Some(refusal) = &park.refusal else { return };
    let table = title(config, park.mapping.table);
    let (id, position) = (park.id.as_deref().unwrap_or("without id"), park.position);
    let what = match park.state {
        ParkedState::DeadLettered => "sent to the dead-letter exchange",
        // The one before it has its line: a hundred more say nothing new.
        ParkedState::Queued => {
            let (event_id, reason) = (&park.id, refusal.reason());
            return debug!(
                event_id, table, %position, reason,
                "event {id} of {table} (commit {position}) is parked behind an older one of its aggregate: {refusal}"
            );
        }
        ParkedState::Parked(_) | ParkedState::Failed => "parked",
    };
    if !is_said {
        let (event_id, reason) = (&park.id, refusal.reason());
        return debug!(event_id, table, %position, reason, "event {id} of {table} is {what}: {refusal}");
    }
    warn!(
        hint = refusal.hint(),
        event_id = park.id,
        table,
        %position,
        reason = refusal.reason(),
        aggregate = park.aggregate.as_ref().map(ToString::to_string),
        "event {id} of {table} (commit {position}) is {what}: {refusal}"
    );
}

fn log_attempt(config: &Config, attempt: &Attempt, is_said: bool) {
    let (event_id, seq) = (attempt.id.as_deref(), attempt.seq);
    let id = event_id.unwrap_or("without id");
    let table = title(config, attempt.table);
    if !is_said {
        return debug!(
            event_id,
            table, seq, "of parked event {id} there was a try, which is counted"
        );
    }
    let (attempts, state, refusal) = match &attempt.outcome {
        AttemptOutcome::Refused { attempts, state, refusal } => (attempts, state, refusal),
        AttemptOutcome::Delivered { attempts: 0, .. } => {
            debug!(
                event_id,
                table, seq, "event {id}, which waited behind a parked one, is delivered"
            );
            return;
        }
        AttemptOutcome::Delivered { attempts, .. } => {
            info!(
                event_id,
                table,
                seq,
                attempts,
                "parked event {id} is delivered, after {attempts} refused tries"
            );
            return;
        }
        AttemptOutcome::Withdrawn => return,
    };
    match state {
        ParkedState::Failed => warn!(
            hint = refusal.hint(),
            event_id,
            table,
            seq,
            reason = refusal.reason(),
            attempts,
            "event {id} has failed after {attempts} tries: {refusal}. Once that is fixed: pgoutbox parked retry --id {id}"
        ),
        ParkedState::Parked(pause) => info!(
            again_in = crate::text::span(*pause),
            event_id,
            table,
            seq,
            reason = refusal.reason(),
            attempts,
            "try {attempts} of parked event {id}: {refusal}"
        ),
        ParkedState::DeadLettered => {
            let reason = refusal.reason();
            info!(
                event_id,
                table,
                seq,
                reason,
                "parked event {id} is sent to the dead-letter exchange: {refusal}"
            );
        }
        ParkedState::Queued => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(what: &'static str) -> Option<Kind> {
        Some(Kind { what, table: "public.t".to_owned(), reason: "returned" })
    }

    #[test]
    fn the_first_have_lines_and_the_others_are_counted() {
        let mut log = ParkingLog::default();
        let begin = Instant::now();
        let said = (0..1000).filter(|_| log.is_said(kind("were parked"), begin)).count();
        assert_eq!(said, 20);
        assert!(log.is_said(kind("have failed"), begin), "that is another kind");
        assert!(log.is_said(None, begin));
        let more = |log: &ParkingLog| log.0.values().map(|said| said.more).sum::<u64>();
        log.count_aloud(begin + COUNTED / 2, COUNTED);
        assert_eq!(more(&log), 980, "not yet");
        log.count_aloud(begin + COUNTED, COUNTED);
        assert_eq!(more(&log), 0);
        assert!(!log.is_said(kind("were parked"), begin + COUNTED));
        log.count_aloud(begin + 2 * COUNTED, COUNTED);
        // Once it was quiet for a while, they have lines again.
        let later = begin + PERIOD;
        assert_eq!((0..30).filter(|_| log.is_said(kind("were parked"), later)).count(), 20);
    }
}
