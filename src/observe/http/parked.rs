//! Parked events, for the console: read and changed on a connection of its own, that lives no
//! longer than it is needed.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::config::Config;
use crate::error::Fault;
use crate::operator::{self, Destination, OPEN, ParkedEvent, ParkedFilter};
use crate::postgres::{self, Role};

/// How many are listed.
const LISTED: u64 = 100;
/// How many may be named at one time.
const NAMED: usize = 1000;
/// How long a list holds: however many look, Postgres is asked no more often.
const FRESH: Duration = Duration::from_secs(2);

/// What can be done to parked events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Retry,
    Discard,
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
    /// One at a time: anyone who waits is given what the one before was.
    listed: Mutex<Option<(Instant, Arc<Config>, Value)>>,
}

impl ParkedCache {
    /// The first of the events that are not done with.
    pub(super) async fn list(&self, config: &Arc<Config>) -> Result<Value, Fault> {
        let mut listed = self.listed.lock().await;
        if let Some((at, of, value)) = &*listed
            && at.elapsed() < FRESH
            && Arc::ptr_eq(of, config)
        {
            return Ok(value.clone());
        }
        let client = connect(config).await?;
        let filter = ParkedFilter {
            states: OPEN.map(str::to_owned).to_vec(),
            limit: Some(LISTED),
            ..ParkedFilter::default()
        };
        let found = operator::list(&client, &config.postgres.slot, &filter).await?;
        let mut events = Vec::with_capacity(found.len());
        for one in &found {
            events.push(event(one, operator::target(&client, config, one).await.as_ref()));
        }
        let value = json!({"events": events});
        *listed = Some((Instant::now(), Arc::clone(config), value.clone()));
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

fn event(event: &ParkedEvent, to: Option<&Destination>) -> Value {
    json!({
        "seq": event.seq,
        "state": event.state,
        "is_holding": event.is_holding,
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
    use super::ParkedSelection;

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
