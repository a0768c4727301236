//! Where an event stands that the relay has taken in, for somebody who asks for it by its id. Nothing is
//! kept for that: what is in memory is looked through.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Relay;
use super::arrival::{Arrival, Source};
use crate::core::event::pattern::Pattern;
use crate::core::event::{Row, expand};

/// What the relay does with an event that it has taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stand {
    /// It is published, and not confirmed.
    InFlight,
    /// It is to be published, and waits for room in the window, or for the broker.
    Ready,
    /// It waits for an older one of its aggregate.
    Behind,
    /// It was refused, and the next ones are to tell whether the fault is its own.
    OnTrial,
    /// It is confirmed, and its mark is still to be written.
    Unmarked,
}

/// An event that the relay has taken in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct HeldEvent {
    /// `schema.table`, or `message:PREFIX`.
    pub table: String,
    /// What is done with it.
    pub stand: Stand,
    /// Where its commit record starts, and its number in that transaction.
    pub position: String,
    /// When it was committed, in microseconds since 2000; 0 where that is not known.
    pub commit_micros: i64,
    /// How long it has been in flight.
    pub for_seconds: Option<f64>,
    /// Its dead letter is in flight, not the event.
    pub is_dead_letter: bool,
    /// Tries before this one.
    pub attempts: u32,
    /// Where it goes.
    pub exchange: Option<String>,
    /// Likewise.
    pub routing_key: Option<String>,
}

impl Relay {
    /// The events with this id that were taken in and are not done with.
    pub(crate) fn find(&self, now: Duration, id: &str) -> Vec<HeldEvent> {
        let mut found: Vec<HeldEvent> = Vec::new();
        let is_it = |arrival: &&Arrival| arrival.id.as_deref() == Some(id);
        for published in self.outgoing.published().filter(|one| is_it(&&one.arrival)) {
            let for_seconds = Some(now.saturating_sub(published.at).as_secs_f64());
            let is_dead_letter = published.dead_letter.is_some();
            let held = self.held(&published.arrival, Stand::InFlight);
            found.push(HeldEvent { for_seconds, is_dead_letter, ..held });
        }
        for ready in self.outgoing.outbound().filter(|one| is_it(&&one.arrival)) {
            let held = self.held(&ready.arrival, Stand::Ready);
            found.push(HeldEvent { is_dead_letter: ready.dead_letter.is_some(), ..held });
        }
        found.extend(
            self.aggregates.in_memory().filter(is_it).map(|it| self.held(it, Stand::Behind)),
        );
        found
            .extend(self.outcomes.on_trial().filter(is_it).map(|it| self.held(it, Stand::OnTrial)));
        found.extend(self.recorder.unwritten_marks().filter(|mark| mark.id == id).map(|mark| {
            HeldEvent {
                table: self
                    .rules
                    .tables
                    .get(mark.table)
                    .map_or_else(String::new, |table| table.title()),
                stand: Stand::Unmarked,
                position: mark.position.to_string(),
                commit_micros: 0,
                for_seconds: None,
                is_dead_letter: false,
                attempts: 0,
                exchange: None,
                routing_key: None,
            }
        }));
        found
    }

    fn held(&self, arrival: &Arrival, stand: Stand) -> HeldEvent {
        let mapping = &arrival.mapping;
        let attempts = match arrival.source {
            Source::Stream(_) => 0,
            Source::Parked { attempts, .. } => attempts,
        };
        let named = |setting, pattern: &Pattern| {
            let mut cells = Vec::new();
            mapping.read(&arrival.tuple, &mut cells).ok()?;
            let row = Row { tuple: &arrival.tuple, cells: &cells };
            let mut name = Vec::new();
            expand(setting, pattern, row, &mut name).ok()?;
            String::from_utf8(name).ok()
        };
        HeldEvent {
            table: self.table_name(arrival),
            stand,
            position: arrival.position.to_string(),
            commit_micros: arrival.commit_time,
            for_seconds: None,
            is_dead_letter: false,
            attempts,
            exchange: named("exchange", &mapping.exchange),
            routing_key: named("routing_key", &mapping.routing_key),
        }
    }
}
