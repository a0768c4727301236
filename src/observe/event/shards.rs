//! Events of an outbox that is spread over several relays: each relay's look at them, as one report.

use std::collections::BTreeSet;

use tokio_postgres::Client;

use super::look::{look, order};
use super::{EventFilter, EventTrace, TraceReport};
use crate::config::Config;
use crate::core::relay::HeldEvent;
use crate::error::Fault;

/// Looks for events, whosever share they are.
///
/// # Errors
/// What of one shard cannot be read; the others are not looked at then.
pub(crate) async fn look_everywhere(
    client: &Client,
    config: &Config,
    filter: &EventFilter,
    held: Vec<HeldEvent>,
) -> Result<TraceReport, Fault> {
    let mut reports = Vec::new();
    for config in config.of_each_share() {
        reports.push(look(client, &config, filter, held.clone()).await?);
    }
    Ok(joined(reports, filter))
}

/// Each looked at all rows: an event is as the one says whose it is.
fn joined(reports: Vec<TraceReport>, filter: &EventFilter) -> TraceReport {
    let mut reports = reports.into_iter();
    let mut all = reports.next().unwrap_or_default();
    for other in reports {
        all.has_more |= other.has_more;
        all.unknown.retain(|(id, _)| other.unknown.iter().any(|(unknown, _)| unknown == id));
        let is_new = |note: &String| !all.notes.contains(note);
        let notes: Vec<String> = other.notes.into_iter().filter(is_new).collect();
        all.notes.extend(notes);
        all.events.extend(other.events);
    }
    let (mut own, others): (Vec<_>, Vec<_>) = all.events.into_iter().partition(is_of_it);
    let mut rows: BTreeSet<_> = own.iter().filter_map(row).collect();
    let mut places: BTreeSet<_> = own.iter().filter_map(place).collect();
    // Of no relay's share, or known to its memory alone: once.
    for event in others {
        let is_new = match row(&event) {
            Some(row) => rows.insert(row),
            None => place(&event).is_none_or(|place| places.insert(place)),
        };
        if is_new {
            own.push(event);
        }
    }
    all.events = own;
    order(&mut all, filter);
    all
}

/// The relay that looked has it: its row, or the record in its parking.
fn is_of_it(event: &EventTrace) -> bool {
    event.row.as_ref().map_or(event.record.is_some(), |row| row.is_published)
}

/// By what a row is told from others.
fn row(event: &EventTrace) -> Option<(String, Option<String>, Option<String>)> {
    let row = event.row.as_ref()?;
    Some((event.table.clone(), event.id.clone(), row.occurred_at.clone()))
}

fn place(event: &EventTrace) -> Option<String> {
    event.held.as_ref().map(|held| held.position.clone())
}
