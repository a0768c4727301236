//! Slots of ours that nobody reads: under a name that `postgres.slot` had before, of a relay that is gone. They keep
//! WAL until the disk is full, and what waits in them is delivered by nobody.

use tokio_postgres::Client;

use super::{Finding, coverage, tables_json};
use crate::config::Config;
use crate::error::{Fault, codes};
use crate::postgres::sql;
use crate::postgres::{column, query};

/// Whatever is missing is told of by itself.
const UNTOLD: [&str; 2] = [codes::INSUFFICIENT_PRIVILEGE, codes::UNDEFINED_TABLE];

/// A slot of a relay of this database, another than the configured one, that nobody reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnreadSlot {
    pub(crate) name: String,
    /// WAL that it keeps.
    pub(crate) retained_bytes: i64,
    /// Its relay read what this one is to read: perhaps it is the same one, under another name.
    is_same: bool,
}

/// Those of which pgoutbox's own tables know.
///
/// # Errors
/// The server cannot be asked.
pub(crate) async fn unread(client: &Client, config: &Config) -> Result<Vec<UnreadSlot>, Fault> {
    let (tables, asked) = (tables_json(config), coverage::asked_by(config).to_string());
    let variables = [
        ("slot", config.postgres.slot.as_str()),
        ("asked", &asked),
        ("publication", &config.postgres.publication),
        ("tables", &tables),
    ];
    let rows = match query(client, &sql::render(sql::SLOT_UNREAD, &variables)?).await {
        Err(fault) if UNTOLD.iter().any(|code| fault.is_code(code)) => return Ok(Vec::new()),
        rows => rows?,
    };
    let unread = |row| {
        Ok(UnreadSlot {
            name: column(row, "slot")?,
            retained_bytes: column(row, "retained_bytes")?,
            is_same: column(row, "is_same")?,
        })
    };
    rows.iter().map(unread).collect()
}

impl UnreadSlot {
    /// In words.
    pub(crate) fn what(&self) -> String {
        format!(
            "slot \"{}\" is of a relay of this database, nobody reads it, and it keeps {} of WAL",
            self.name,
            bytesize::ByteSize(u64::try_from(self.retained_bytes).unwrap_or(0))
        )
    }

    /// What ends that.
    pub(crate) fn hint(&self) -> String {
        format!(
            "SELECT pg_drop_replication_slot({});  -- if nobody needs it any more; else start its relay",
            sql::literal(&self.name)
        )
    }

    /// For `check`.
    pub(crate) fn finding(&self) -> Finding {
        Finding::warning("slot-unread-other", self.what(), self.hint())
    }

    /// Why no other slot is to be made beside it: what it holds would be left, and what is known of it.
    pub(crate) fn predecessor(&self, slot: &str) -> Option<Fault> {
        let Self { name, .. } = self;
        self.is_same.then(|| {
            Fault::definite(
                format!(
                    "a relay read slot \"{name}\" by the same publication, and nobody reads it now: a new slot \"{slot}\" \
                     would leave what waits in it, and what is known of its events"
                ),
                format!(
                    "pgoutbox init --from-slot {name}  -- where postgres.slot has another name now: slot \"{slot}\" begins where that one \
                     stands; or start its relay; or, if nobody needs it: SELECT pg_drop_replication_slot({}); and run `pgoutbox init` again",
                    sql::literal(name)
                ),
            )
        })
    }
}
