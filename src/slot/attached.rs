//! Tables that become a partition of an outbox and hold rows already: these were written under another
//! name, and no stream brings them.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio_postgres::Client;

use super::catch_up;
use crate::config::{Config, Table};
use crate::error::{Fault, codes};
use crate::postgres::outbox_table::OutboxTable;
use crate::postgres::{self, Role, column, is_of_shown_row, query, sql};
use crate::within::in_time;

/// Partitions that were looked at, each with the transaction that attached it.
pub(crate) type KnownPartitions = BTreeSet<(u32, String)>;

/// A partition that is new here.
struct Part {
    oid: u32,
    schema: String,
    name: String,
    xid: String,
    command: String,
}

/// What was found.
pub(crate) struct AttachedRows {
    /// In words.
    pub what: String,
    /// Its table has marks: a catch-up brings the rows.
    pub has_marks: bool,
}

/// Looks at each partition that is new since the slot was last acknowledged, once. Says which has rows
/// that wait, if one has; one that cannot be looked through within `patience` counts as such. To be asked
/// before anything is acknowledged that was committed since.
pub(crate) async fn attached(
    client: &Client,
    config: &Config,
    outboxes: &[OutboxTable],
    looked: &mut KnownPartitions,
    patience: Duration,
) -> Result<Option<AttachedRows>, Fault> {
    for (table, outbox) in config.tables.iter().zip(outboxes) {
        let relation = outbox.relation.to_string();
        let variables = [("slot", config.postgres.slot.as_str()), ("relation", &relation)];
        for row in query(client, &sql::render(sql::CATCH_UP_ATTACHED, &variables)?).await? {
            let part = Part {
                oid: column(&row, "part")?,
                schema: column(&row, "schema")?,
                name: column(&row, "name")?,
                xid: column(&row, "xid")?,
                command: column(&row, "command")?,
            };
            if looked.contains(&(part.oid, part.xid.clone())) {
                continue;
            }
            // On a connection of its own: marks wait for nothing.
            let look = in_time(patience, is_waiting(config, table, outbox, &part));
            let is_waiting = look.await.unwrap_or(Ok(true))?;
            looked.insert((part.oid, part.xid.clone()));
            if is_waiting {
                let what = format!(
                    "{}.{} became a partition of {}, and holds rows that wait since before",
                    part.schema,
                    part.name,
                    table.title()
                );
                return Ok(Some(AttachedRows { what, has_marks: table.has_marks() }));
            }
        }
    }
    Ok(None)
}

async fn is_waiting(
    config: &Config,
    table: &Table,
    outbox: &OutboxTable,
    part: &Part,
) -> Result<bool, Fault> {
    let (client, _driver) = postgres::connect(Role::Reconcile, &config.postgres).await?;
    let own = Table { schema: part.schema.clone(), name: part.name.clone(), ..table.clone() };
    match ask(&client, config, &own, outbox, part).await {
        // The rights on a table hold for what is read by way of it.
        Err(fault) if fault.is_code(codes::INSUFFICIENT_PRIVILEGE) => {
            ask(&client, config, table, outbox, part).await
        }
        // One of them cannot be looked at: the catch-up tells them apart.
        Err(fault) if is_of_shown_row(&fault) => Ok(true),
        // It is not a partition any more.
        Err(fault) if fault.is_code(codes::UNDEFINED_TABLE) => Ok(false),
        answer => answer,
    }
}

async fn ask(
    client: &Client,
    config: &Config,
    read: &Table,
    outbox: &OutboxTable,
    part: &Part,
) -> Result<bool, Fault> {
    let waiting = catch_up::waiting_in(client, config, read, outbox).await?;
    let oid = part.oid.to_string();
    let slot = config.postgres.slot.as_str();
    let variables =
        [("part", oid.as_str()), ("xid", &part.xid), ("command", &part.command), ("slot", slot)];
    let asked = sql::render(sql::CATCH_UP_ATTACHED_WAITING, &variables)?;
    let rows = query(client, &format!("WITH waiting AS (\n{waiting}\n)\n{asked}")).await?;
    rows.first().map_or(Ok(false), |row| column(row, "is_waiting"))
}
