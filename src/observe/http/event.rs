//! Where one event stands, for the console and the command line.

use std::time::Duration;

use percent_encoding::percent_decode_str;
use serde_json::Value;

use crate::config::Config;
use crate::core::relay::HeldEvent;
use crate::error::Fault;
use crate::observe::event::{self, EventFilter};
use crate::postgres::{self, Role};
use crate::slot;

/// The longest id that a message can have, and so the longest that is looked for here.
const ID_BYTES: usize = 255;
/// Events of one id that are shown.
const SHOWN: usize = 20;
/// How long the slot may take to come to what is committed now.
const WAIT: Duration = Duration::from_secs(1);

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EventQuery {
    /// An event's id.
    pub(super) id: String,
    /// Only what the relay has in memory.
    pub(super) is_memory: bool,
}

impl EventQuery {
    /// Reads a query; `None` where it names no event.
    pub(super) fn read(query: &str) -> Option<Self> {
        let parts = || query.split('&');
        let id = parts().find_map(|part| part.strip_prefix("id="))?;
        let id = percent_decode_str(id).decode_utf8().ok()?.into_owned();
        let is_memory = parts().any(|part| part == "memory");
        // Postgres has no NUL in a text.
        let is_id = !id.is_empty() && id.len() <= ID_BYTES && !id.contains('\0');
        is_id.then_some(Self { id, is_memory })
    }
}

/// Reads a query as a client would have sent it, whatever it is: for the fuzzer.
pub(crate) fn read_anything(query: &str) {
    super::parked::ParkedQuery::read(query);
    if let Some(wanted) = EventQuery::read(query) {
        assert!(wanted.id.len() <= ID_BYTES && !wanted.id.contains('\0'), "no id: {wanted:?}");
    }
}

/// Looks for it, on a connection that lives no longer than it is needed.
///
/// # Errors
/// Postgres cannot be asked what it knows of the event.
pub(super) async fn look(
    config: &Config,
    id: String,
    held: Vec<HeldEvent>,
) -> Result<Value, Fault> {
    let (client, _driver) = postgres::connect(Role::Console, &config.postgres).await?;
    let config = &slot::expand(&client, config).await?;
    let filter = EventFilter { ids: vec![id], limit: SHOWN, wait: WAIT, ..EventFilter::default() };
    Ok(event::look(&client, config, &filter, held).await?.json())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_an_event() {
        let read = |query| EventQuery::read(query).map(|wanted| (wanted.id, wanted.is_memory));
        assert_eq!(read("id=7"), Some(("7".to_owned(), false)));
        assert_eq!(read("memory&id=a%20%26b%2Fc"), Some(("a &b/c".to_owned(), true)));
        for wrong in ["", "id=", "id=%00", "id=%ff", "x=7", &format!("id={}", "a".repeat(256))] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
