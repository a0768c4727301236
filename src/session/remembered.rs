//! What the progress row holds from session to session: how far the slot is settled, and why the
//! relay does not run.

use std::time::Duration;

use postgres_types::PgLsn;
use tokio::time::{Instant, timeout};
use tokio_postgres::Client;
use tracing::{debug, warn};

use super::{Past, STOP_TIMEOUT};
use crate::board::Board;
use crate::config::Config;
use crate::error::Fault;
use crate::event::Position;
use crate::postgres::{self, classify, column, query};
use crate::relay::{End, Memory};
use crate::sql;
use crate::wal::Identity;

/// Says in the progress row why nothing is delivered and since when, for `pgoutbox status`. It
/// stands there until something is delivered ([`clear_fault`]). Not where another relay holds the
/// slot: the row is about that one.
pub(super) async fn record_fault(
    config: &Config,
    past: &Past,
    board: &Board,
    client: &Client,
    end: &End,
) {
    record(config, past.walsender, board, client, end).await;
}

/// As [`record_fault`]; `walsender` is our own.
pub(super) async fn record(
    config: &Config,
    walsender: Option<i32>,
    board: &Board,
    client: &Client,
    end: &End,
) {
    let (fault, position) = match end {
        End::Drained => return,
        End::Fault(fault) => (fault.clone(), None),
        End::Stuck(stuck) => (stuck.fault(), Some(stuck)),
    };
    let mut json = serde_json::json!({
        "class": format!("{:?}", fault.class).to_lowercase(),
        "what": fault.what,
        "mend": fault.mend,
    });
    if let (Some(stuck), Some(json)) = (position, json.as_object_mut()) {
        json.insert("event_id".into(), stuck.id.clone().into());
        json.insert("table".into(), stuck.table.clone().into());
        json.insert("commit_lsn".into(), stuck.position.commit_lsn.to_string().into());
        json.insert("index".into(), stuck.position.index.into());
    }
    let text = json.to_string();
    let lasted = board.outage().map_or(Duration::ZERO, |outage| outage.lasted(Instant::now()));
    let write = async {
        let statement = client.prepare(sql::RECORD_FAULT).await?;
        let slot = &config.postgres.slot;
        let lasted = lasted.as_secs_f64();
        client.execute(&statement, &[slot, &text, &lasted, &walsender]).await
    };
    // Best effort: the log has it too.
    match timeout(STOP_TIMEOUT, write).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => debug!("the fault was not recorded: {}", classify(&error)),
        Err(_) => debug!("the fault was not recorded: no answer"),
    }
}

/// The outage is over.
pub(super) async fn clear_fault(config: &Config, client: &Client) -> Result<(), Fault> {
    let sql = sql::render(sql::CLEAR_FAULT, &[("slot", config.postgres.slot.as_str())])?;
    query(client, &sql).await.map(drop)
}

/// What is known to be delivered on this server and timeline: from the progress row, and from
/// the sessions before. LSNs of another server or timeline say nothing here.
pub(super) async fn recall(
    config: &Config,
    past: &Past,
    board: &Board,
    client: &Client,
    identity: &Identity,
) -> Result<Memory, Fault> {
    let mut memory = match &past.memory {
        Some((of, memory)) if of == identity => memory.clone(),
        Some((of, _)) => {
            warn!(before = ?of, now = ?identity, "another server or timeline: what was remembered does not count");
            Memory::default()
        }
        None => Memory::default(),
    };
    let recall = sql::render(sql::RECALL_PROGRESS, &[("slot", config.postgres.slot.as_str())])?;
    postgres::execute(client, "BEGIN; SET LOCAL synchronous_commit = local").await?;
    let rows = query(client, &recall).await?;
    postgres::execute(client, "COMMIT").await?;
    for row in rows {
        inherit(board, &row)?;
        let of = Identity {
            system_identifier: column(&row, "system_identifier")?,
            timeline: column(&row, "timeline")?,
        };
        if of == *identity {
            memory.delivered = memory.delivered.max(position(&row)?);
        }
    }
    Ok(memory)
}

/// What an earlier process could not deliver either has lasted since then.
fn inherit(board: &Board, row: &tokio_postgres::Row) -> Result<(), Fault> {
    let fault: Option<String> = column(row, "fault")?;
    let fault = fault.and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
    let Some(fault) = fault else { return Ok(()) };
    let text = |key: &str| fault.get(key).and_then(serde_json::Value::as_str).unwrap_or_default();
    let seconds: f64 = column(row, "fault_seconds")?;
    let lasted = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    board.inherit(Fault::transient(text("what")).mend(text("mend")), lasted);
    Ok(())
}

fn position(row: &tokio_postgres::Row) -> Result<Position, Fault> {
    let lsn = |text: String| -> Result<PgLsn, Fault> {
        text.parse()
            .map_err(|_| Fault::transient(format!("pgoutbox.progress holds no LSN: {text}")))
    };
    let settled: i64 = column(row, "settled")?;
    Ok(match column::<Option<String>>(row, "commit_lsn")? {
        Some(commit_lsn) => {
            Position { commit_lsn: lsn(commit_lsn)?, index: u64::try_from(settled).unwrap_or(0) }
        }
        None => Position::after_commit(lsn(column(row, "end_lsn")?)?),
    })
}
