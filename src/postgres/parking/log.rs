//! What is parked, and what became of tries, in the log.

use tracing::{debug, info, warn};

use crate::config::Config;
use crate::core::parked::{Attempt, AttemptOutcome, Park, ParkedState, ParkingBatch};

/// Logs a batch. What was given back was logged before.
pub(super) fn log(config: &Config, parking: &ParkingBatch) {
    let (parks, attempts) = parking.given_back;
    parking.parks.iter().skip(parks).for_each(|park| log_park(config, park));
    parking.attempts.iter().skip(attempts).for_each(|attempt| log_attempt(config, attempt));
}

fn log_park(config: &Config, park: &Park) {
    let Some(refusal) = &park.refusal else { return };
    let table = config.source(park.mapping.table);
    let table = table.map_or_else(String::new, |t| t.title());
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

fn log_attempt(config: &Config, attempt: &Attempt) {
    let (event_id, seq) = (attempt.id.as_deref(), attempt.seq);
    let id = event_id.unwrap_or("without id");
    let table = config.source(attempt.table);
    let table = table.map_or_else(String::new, |t| t.title());
    let (attempts, state, refusal) = match &attempt.outcome {
        AttemptOutcome::Refused { attempts, state, refusal } => (attempts, state, refusal),
        AttemptOutcome::Delivered { attempts: 0 } => {
            debug!(
                event_id,
                table, seq, "event {id}, which waited behind a parked one, is delivered"
            );
            return;
        }
        AttemptOutcome::Delivered { attempts } => {
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
