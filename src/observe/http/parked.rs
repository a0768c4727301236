//! Parked events, for the console: read and changed on a connection of its own, that lives no
//! longer than it is needed.

use std::sync::Arc;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::config::Config;
use crate::error::Fault;
use crate::operator::{self, Destination, OPEN, ParkedEvent, ParkedFilter, ParkedGroup};
use crate::postgres::{self, Role};
use crate::slot;

/// How many are listed.
const LISTED: u64 = 100;
/// How many may be named at one time.
const NAMED: usize = 1000;
/// The longest value that a query may have: more than an event's id.
const QUERY_BYTES: usize = 1024;
/// How long a list holds: however many look, Postgres is asked no more often.
const FRESH: Duration = Duration::from_secs(2);

/// What can be done to parked events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Retry,
    Discard,
}

/// Which part of the parking is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ParkedQuery {
    /// Those behind this number.
    after: i64,
    /// Those that wait behind this one; else only those that are tried.
    behind: Option<i64>,
    /// For this reason.
    reason: String,
    /// Of this table.
    table: String,
    /// With this text in them.
    text: String,
}

impl ParkedQuery {
    /// Reads a query; `None` where it is none.
    pub(super) fn read(query: &str) -> Option<Self> {
        let mut wanted = Self::default();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=')?;
            let value = percent_decode_str(value).decode_utf8().ok()?.into_owned();
            // Postgres has no NUL in a text.
            if value.len() > QUERY_BYTES || value.contains('\0') {
                return None;
            }
            match name {
                "after" => wanted.after = value.parse().ok()?,
                "behind" => wanted.behind = Some(value.parse().ok()?),
                "reason" => wanted.reason = value,
                "table" => wanted.table = value,
                "text" => wanted.text = value,
                _ => return None,
            }
        }
        Some(wanted)
    }

    fn filter(self) -> ParkedFilter {
        let states: &[&str] =
            if self.behind.is_some() { &["queued"] } else { &["parked", "failed"] };
        // Who looks for one event does not know whether it waits behind another.
        let states = if self.text.is_empty() { states } else { &OPEN };
        ParkedFilter {
            states: states.iter().map(|state| (*state).to_owned()).collect(),
            after: self.after,
            behind: self.behind,
            reason: self.reason,
            table: self.table,
            text: self.text,
            // One more shows whether there are more.
            limit: Some(LISTED + 1),
            ..ParkedFilter::default()
        }
    }
}

/// Which ones, and why.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ParkedSelection {
    /// Their numbers.
    pub(super) seqs: Vec<i64>,
    /// For the record.
    #[serde(default)]
    pub(super) note: String,
}

impl ParkedSelection {
    /// It names some events, and not too many.
    pub(super) fn check(&self) -> Result<(), String> {
        match self.seqs.len() {
            0 => Err("seqs names no event".to_owned()),
            1..=NAMED => Ok(()),
            _ => Err(format!("seqs names more than {NAMED} events")),
        }
    }
}

/// The parking as Postgres has it.
#[derive(Debug, Default)]
pub(super) struct ParkedCache {
    /// One at a time: anyone who waits for the same is given what the one before was.
    listed: Mutex<Option<ListedPart>>,
}

#[derive(Debug)]
struct ListedPart {
    at: Instant,
    of: Arc<Config>,
    query: ParkedQuery,
    value: Value,
}

impl ParkedCache {
    /// A part of the events that are not done with, and what all of them are parked for.
    pub(super) async fn list(
        &self,
        config: &Arc<Config>,
        query: ParkedQuery,
    ) -> Result<Value, Fault> {
        let mut listed = self.listed.lock().await;
        if let Some(part) = &*listed
            && part.at.elapsed() < FRESH
            && Arc::ptr_eq(&part.of, config)
            && part.query == query
        {
            return Ok(part.value.clone());
        }
        let client = connect(config).await?;
        let expanded = slot::expand(&client, config).await?;
        let slot = &config.postgres.slot;
        let mut found = operator::list(&client, slot, &query.clone().filter()).await?;
        let has_more = found.len() as u64 > LISTED;
        found.truncate(usize::try_from(LISTED).unwrap_or(usize::MAX));
        let mut events = Vec::with_capacity(found.len());
        for one in &found {
            events.push(event(one, operator::target(&client, &expanded, one).await.as_ref()));
        }
        let groups = operator::groups(&client, slot).await?;
        let groups: Vec<Value> = groups.iter().map(group).collect();
        let value = json!({"events": events, "has_more": has_more, "groups": groups});
        let (at, of) = (Instant::now(), Arc::clone(config));
        *listed = Some(ListedPart { at, of, query, value: value.clone() });
        Ok(value)
    }

    /// Does it to those that are still there and are of our slot.
    pub(super) async fn act(
        &self,
        config: &Config,
        action: Action,
        which: &ParkedSelection,
    ) -> Result<Value, Fault> {
        let client = connect(config).await?;
        let filter = ParkedFilter {
            states: OPEN.map(str::to_owned).to_vec(),
            seqs: which.seqs.clone(),
            ..ParkedFilter::default()
        };
        let found = operator::list(&client, &config.postgres.slot, &filter).await?;
        let seqs: Vec<i64> = found.iter().map(|event| event.seq).collect();
        let done = match action {
            Action::Retry => {
                json!({"events": operator::retry(&client, &config.postgres.slot, &seqs, false, &which.note).await?})
            }
            Action::Discard => {
                let done =
                    operator::discard(&client, &config.postgres.slot, &seqs, &which.note).await?;
                json!({"events": done.events, "freed": done.freed, "in_flight": done.in_flight})
            }
        };
        *self.listed.lock().await = None;
        Ok(done)
    }
}

/// Has the relay publish nothing more, or publish again.
pub(super) async fn pause(config: &Config, is_paused: bool, note: &str) -> Result<Value, Fault> {
    let client = connect(config).await?;
    let slot = &config.postgres.slot;
    Ok(match is_paused {
        true => {
            let pause = operator::pause(&client, slot, note).await?;
            json!({"paused_by": pause.by, "paused_at": pause.at, "note": pause.note, "was_paused": pause.was_paused})
        }
        false => json!({"was_paused": operator::resume(&client, slot).await?.is_some()}),
    })
}

async fn connect(config: &Config) -> Result<Client, Fault> {
    let (client, _driver) = postgres::connect(Role::Console, &config.postgres).await?;
    Ok(client)
}

fn group(group: &ParkedGroup) -> Value {
    json!({
        "reason": group.reason,
        "table": group.table,
        "events": group.events,
        "failed": group.failed,
        "waiting": group.waiting,
        "hint": group.hint,
        "hints": group.hints,
        "oldest_seconds": group.oldest_seconds,
    })
}

fn event(event: &ParkedEvent, to: Option<&Destination>) -> Value {
    json!({
        "seq": event.seq,
        "state": event.state,
        "is_holding": event.is_holding,
        "waiting_behind_it": event.followers,
        "table": event.table_title(),
        "event_id": event.event_id,
        "aggregate": event.aggregate(),
        "exchange": to.map(|to| to.exchange.as_str()),
        "routing_key": to.map(|to| to.routing_key.as_str()),
        "reason": event.reason,
        "last_error": event.last_error,
        "hint": event.hint,
        "attempts": event.attempts,
        "next_in_seconds": event.next_in_seconds,
        "age_seconds": event.age_seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::{ParkedQuery, ParkedSelection};

    #[test]
    fn a_query_names_a_part() {
        assert_eq!(ParkedQuery::read(""), Some(ParkedQuery::default()));
        let read = ParkedQuery::read("after=7&reason=returned&text=order%2F7%20%26&table=public.t");
        let wanted = ParkedQuery {
            after: 7,
            reason: "returned".to_owned(),
            text: "order/7 &".to_owned(),
            table: "public.t".to_owned(),
            behind: None,
        };
        assert_eq!(read, Some(wanted));
        assert_eq!(ParkedQuery::read("behind=3").map(|read| read.behind), Some(Some(3)));
        for wrong in ["x=1", "after", "after=", "after=x", "behind=", "text=%00", "text=%ff"] {
            assert_eq!(ParkedQuery::read(wrong), None, "{wrong}");
        }
        assert_eq!(ParkedQuery::read(&format!("text={}", "a".repeat(1025))), None);
    }

    fn read(body: &str) -> Result<ParkedSelection, String> {
        let which: ParkedSelection =
            serde_json::from_str(body).map_err(|error| error.to_string())?;
        which.check().map(|()| which)
    }

    #[test]
    fn a_body_names_events() {
        let which = read(r#"{"seqs": [7, 8], "note": "twice"}"#).unwrap();
        assert_eq!((which.seqs, which.note.as_str()), (vec![7, 8], "twice"));
        assert!(read(r#"{"seqs": [7]}"#).is_ok());
        for wrong in ["", "{}", r#"{"seqs":[]}"#, r#"{"seqs":["7"]}"#, r#"{"seqs":[1],"all":true}"#]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert!(read(&format!("{{\"seqs\":[{}1]}}", "1,".repeat(1000))).is_err());
    }
}
