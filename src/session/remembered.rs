//! What the progress row holds from session to session: how far the slot is settled, and why the
//! relay does not run.

use postgres_types::PgLsn;
use tokio::time::timeout;
use tokio_postgres::Client;
use tracing::{debug, warn};

use super::{Past, STOP_TIMEOUT};
use crate::config::Config;
use crate::error::Fault;
use crate::event::Position;
use crate::postgres::{self, classify, column, query};
use crate::relay::{End, Memory};
use crate::sql;
use crate::wal::Identity;

/// Says in the progress row why the relay does not run, for `pgoutbox status`. Written only
/// where it changes.
pub(super) async fn record_fault(config: &Config, past: &mut Past, client: &Client, end: &End) {
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
    if past.fault.as_ref() == Some(&text) {
        return;
    }
    let (system_identifier, timeline) = match &past.memory {
        Some((identity, _)) => (identity.system_identifier.as_str(), identity.timeline),
        None => ("", 0),
    };
    let write = async {
        let statement = client.prepare(sql::RECORD_FAULT).await?;
        let slot = &config.postgres.slot;
        client.execute(&statement, &[slot, &system_identifier, &timeline, &text]).await
    };
    // Best effort: the log has it too.
    match timeout(STOP_TIMEOUT, write).await {
        Ok(Ok(_)) => past.fault = Some(text),
        Ok(Err(error)) => debug!("the fault was not recorded: {}", classify(&error)),
        Err(_) => debug!("the fault was not recorded: no answer"),
    }
}

/// What is known to be delivered on this server and timeline: from the progress row, and from
/// the sessions before. LSNs of another server or timeline say nothing here.
pub(super) async fn recall(
    config: &Config,
    past: &Past,
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
