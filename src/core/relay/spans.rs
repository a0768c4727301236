//! Spans of tries, where they are wanted: made once it is known what became of an event, of the
//! row as it is then.

use std::time::Duration;

use super::Relay;
use super::arrival::Arrival;
use crate::core::event::pattern::Pattern;
use crate::core::event::{Refusal, Row, expand};
use crate::core::span::{Context, Span};

/// The most that AMQP has of any name.
const NAME_BYTES: usize = 255;

impl Relay {
    /// Spans are wanted from here on.
    pub(crate) fn make_spans(&mut self) {
        self.spans = Some(Vec::new());
    }

    /// Spans made since this was asked last.
    pub(crate) fn take_spans(&mut self) -> Vec<Span> {
        self.spans.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// It is known what became of a try; of a dead letter none is made, that is not the event.
    pub(super) fn span(&mut self, now: Duration, arrival: &Arrival, refusal: Option<&Refusal>) {
        let Some(spans) = &mut self.spans else { return };
        let Some(row) = self.decoder.reread(arrival) else { return };
        let ended = self.began_micros.saturating_add(i64::try_from(now.as_micros()).unwrap_or(0));
        spans.extend(of(arrival, row, ended, refusal));
    }
}

/// The span of an event that was written in a sampled trace.
fn of(arrival: &Arrival, row: Row<'_>, ended: i64, refusal: Option<&Refusal>) -> Option<Span> {
    let mapping = &arrival.mapping;
    let [traceparent, tracestate] = row.trace(mapping);
    let context = Context::read(&traceparent?, tracestate.as_deref())?;
    if !context.is_sampled() {
        return None;
    }
    let named = |setting, pattern: &Pattern| {
        let mut name = Vec::new();
        let outcome = expand(setting, pattern, row, &mut name);
        let name = outcome.ok().and_then(|()| String::from_utf8(name).ok());
        name.map_or_else(String::new, short)
    };
    Some(Span {
        context,
        // 0: of a listed row nothing is known.
        began_micros: if arrival.commit_time == 0 { ended } else { arrival.commit_time },
        ended_micros: ended,
        message_id: short(arrival.id().to_owned()),
        exchange: named("exchange", &mapping.exchange),
        routing_key: named("routing_key", &mapping.routing_key),
        refusal: refusal.map(|refusal| (refusal.reason(), refusal.to_string())),
    })
}

/// A longer one was never sent.
fn short(name: String) -> String {
    if name.len() > NAME_BYTES { String::new() } else { name }
}
