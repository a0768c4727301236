//! Tables that a transaction has written anew. `SET UNLOGGED` and `SET LOGGED` do that, and what was inserted in between
//! is in no stream; a publication lets them where it names the table's schema, or all tables. So does a change of a
//! column's type, by which nothing is missed: what waits then comes by the stream, and gets its mark.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;

use super::catch_up;
use crate::config::{Config, Table};
use crate::error::{Fault, codes};
use crate::postgres::outbox_table::OutboxTable;
use crate::postgres::{self, Role, classify, column, is_of_shown_row, query, sql};

/// How often it is looked whether such rows wait still.
const POLL: Duration = Duration::from_millis(200);
/// Nothing is settled for so long: what waits still comes by no stream.
const QUIET: Duration = Duration::from_secs(3);

/// A table that was written anew, by a transaction, up to its command.
struct Rewritten {
    part: u32,
    schema: String,
    name: String,
    xid: String,
    command: String,
}

/// What was found.
pub(crate) struct Rewrites {
    /// A table has rows that are in no stream: in words.
    pub(crate) missed: Option<String>,
    /// It was looked up to this transaction.
    pub(crate) until: String,
}

/// Which transactions are over: those before this one, without its epoch.
pub(crate) async fn now(client: &Client) -> Result<String, Fault> {
    let rows = query(client, sql::SERVER_SNAPSHOT_XMIN).await?;
    let row = rows.first().ok_or_else(|| Fault::transient("the query returned no rows"))?;
    let xmin: i64 = row.try_get(0).map_err(|error| classify(&error))?;
    Ok((xmin & 0xffff_ffff).to_string())
}

/// Looks at each table that was written anew since a transaction; `None`: since the slot was last acknowledged. Says
/// which has rows that wait though everything before is settled. To be asked while the relay delivers.
///
/// # Errors
/// The server cannot be asked, or somebody has a lock on a table.
pub(crate) async fn rewritten(
    client: &Client,
    config: &Config,
    outboxes: &[OutboxTable],
    since: Option<&str>,
) -> Result<Rewrites, Fault> {
    let tables = || config.tables.iter().zip(outboxes).filter(|(it, _)| it.has_marks());
    let relations: Vec<_> = tables().map(|(_, outbox)| outbox.relation.to_string()).collect();
    let relations = format!("{{{}}}", relations.join(","));
    let own = config.postgres.slot.as_str();
    let variables =
        [("slot", own), ("relations", &relations), ("since", since.unwrap_or_default())];
    let until = now(client).await?;
    for row in query(client, &sql::render(sql::CATCH_UP_REWRITTEN, &variables)?).await? {
        let root: u32 = column(&row, "root")?;
        let Some((table, outbox)) = tables().find(|(_, outbox)| outbox.relation == root) else {
            continue;
        };
        let it = Rewritten {
            part: column(&row, "part")?,
            schema: column(&row, "schema")?,
            name: column(&row, "name")?,
            xid: column(&row, "xid")?,
            command: column(&row, "command")?,
        };
        if is_missed(config, table, outbox, &it).await? {
            let missed = format!(
                "{}.{} was written anew by transaction {}, and holds rows that are in no stream: it was unlogged",
                it.schema, it.name, it.xid
            );
            return Ok(Rewrites { missed: Some(missed), until });
        }
    }
    Ok(Rewrites { missed: None, until })
}

/// Rows wait on, though everything before is settled, or nothing more is.
async fn is_missed(
    config: &Config,
    table: &Table,
    outbox: &OutboxTable,
    it: &Rewritten,
) -> Result<bool, Fault> {
    // Of its own: marks wait for nothing.
    let (client, _driver) = postgres::connect(Role::Reconcile, &config.postgres).await?;
    let waiting = catch_up::waiting_in(&client, config, table, outbox).await?;
    let (mut lsn, mut last, mut since) = (String::new(), String::new(), Instant::now());
    loop {
        let part = it.part.to_string();
        let variables = [
            ("part", part.as_str()),
            ("xid", &it.xid),
            ("command", &it.command),
            ("slot", &config.postgres.slot),
            ("lsn", &lsn),
        ];
        let asked = sql::render(sql::CATCH_UP_REWRITTEN_WAITING, &variables)?;
        let rows = match query(&client, &format!("WITH waiting AS (\n{waiting}\n)\n{asked}")).await
        {
            // One of them cannot be looked at: the catch-up tells them apart.
            Err(fault) if is_of_shown_row(&fault) => return Ok(true),
            // It is gone.
            Err(fault) if fault.is_code(codes::UNDEFINED_TABLE) => return Ok(false),
            rows => rows?,
        };
        let row = rows.first().ok_or_else(|| Fault::transient("the query returned no rows"))?;
        if !column::<bool>(row, "is_waiting")? {
            return Ok(false);
        }
        let place: String = column(row, "place")?;
        if place != last {
            (last, since) = (place, Instant::now());
        }
        if column(row, "is_passed")? || since.elapsed() >= QUIET {
            return Ok(true);
        }
        if lsn.is_empty() {
            lsn = column(row, "wal_lsn")?;
        }
        tokio::time::sleep(POLL).await;
    }
}
