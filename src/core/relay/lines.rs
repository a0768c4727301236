//! One line of the log for each event and outcome, where that is wanted: what is said. It is written
//! elsewhere.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::Relay;
use super::arrival::{Arrival, Source};
use crate::core::event::pattern::Pattern;
use crate::core::event::{Position, Refusal, Row, expand};
use crate::core::parked::Aggregate;

/// What became of an event, or of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EventLine {
    /// The outcome; the words never change.
    pub outcome: &'static str,
    /// `schema.table`, or `message:PREFIX`.
    pub table: String,
    /// Its id, where it can be read.
    pub event_id: Option<String>,
    /// Its place in commit order.
    pub position: Position,
    /// From the commit until now; `None` where it is not known when it was committed.
    pub after: Option<Duration>,
    /// `type/id` of its aggregate.
    pub aggregate: Option<String>,
    /// Where it went, or was to go.
    pub exchange: Option<String>,
    /// Likewise.
    pub routing_key: Option<String>,
    /// Tries that were refused before.
    pub attempts: u32,
    /// Why it was refused, in a word and in full.
    pub refusal: Option<(&'static str, String)>,
}

/// Lines that are to be written.
#[derive(Debug)]
pub(super) struct Lines {
    /// Those of one event in so many; all of one event or none.
    one_in: u64,
    made: Vec<EventLine>,
}

impl Lines {
    fn wants(&self, id: Option<&str>) -> bool {
        if self.one_in <= 1 {
            return true;
        }
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        hasher.finish().is_multiple_of(self.one_in)
    }
}

impl Relay {
    /// Lines are wanted from here on, of one event in so many.
    pub(crate) fn make_lines(&mut self, one_in: usize) {
        let one_in = u64::try_from(one_in).unwrap_or(u64::MAX);
        self.lines = Some(Lines { one_in, made: Vec::new() });
    }

    /// Lines made since this was asked last.
    pub(crate) fn take_lines(&mut self) -> Vec<EventLine> {
        self.lines.as_mut().map(|lines| std::mem::take(&mut lines.made)).unwrap_or_default()
    }

    /// It is known what became of an event.
    pub(super) fn line(
        &mut self,
        now: Duration,
        outcome: &'static str,
        arrival: &Arrival,
        refusal: Option<&Refusal>,
    ) {
        if !self.lines.as_ref().is_some_and(|lines| lines.wants(arrival.id.as_deref())) {
            return;
        }
        let mapping = &arrival.mapping;
        let mut cells = Vec::new();
        let is_read = mapping.read(&arrival.tuple, &mut cells).is_ok();
        let row = Row { tuple: &arrival.tuple, cells: &cells };
        let named = |setting, pattern: &Pattern| {
            let mut name = Vec::new();
            expand(setting, pattern, row, &mut name).ok().filter(|()| is_read)?;
            String::from_utf8(name).ok()
        };
        let aggregate = Aggregate::new(row.aggregate_type(mapping), row.aggregate_id(mapping));
        let line = EventLine {
            outcome,
            table: self.table_name(arrival),
            event_id: arrival.id.clone(),
            position: arrival.position,
            // Of a listed row nothing is known.
            after: (arrival.commit_time != 0).then(|| self.age(now, arrival.commit_time)),
            aggregate: aggregate.map(|aggregate| aggregate.to_string()),
            exchange: named("exchange", &mapping.exchange),
            routing_key: named("routing_key", &mapping.routing_key),
            attempts: match arrival.source {
                Source::Stream(_) => 0,
                Source::Parked { attempts, .. } => attempts,
            },
            refusal: refusal.map(|refusal| (refusal.reason(), refusal.to_string())),
        };
        if let Some(lines) = &mut self.lines {
            lines.made.push(line);
        }
    }
}
