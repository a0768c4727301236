//! What a session asks the server while it runs: whether the tables are still covered, and what a relation
//! is that it does not know.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use postgres_types::PgLsn;
use tokio::time::Instant;
use tokio_postgres::Client;
use tracing::warn;

use super::audit::{answered, silence};
use crate::config::Config;
use crate::core::relay::{Input, Resolution};
use crate::error::{Fault, Kind, Side, codes};
use crate::postgres::classify;
use crate::postgres::outbox_table::OutboxTable;
use crate::postgres::sql;
use crate::slot::{self, Coverage, KnownPartitions, record_coverage};

/// Pause before a check that met a locked catalog is made again.
pub(super) const LOCKED: Duration = Duration::from_secs(1);
/// For how long, and how often, a relation that is not there is looked for.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_millis(100));
/// So many pauses of the check lie between looks for tables that were written anew.
const REWRITTEN: u32 = 5;
/// Why the session ends in order and another begins.
pub(super) type Renewal = Rc<RefCell<Option<String>>>;
const ATTACHED: &str = "these rows are listed and published: nothing";

/// A relation that is not there may be one whose transaction is not seen by others yet: it is
/// looked for again.
pub(super) async fn resolve(
    client: Arc<Client>,
    config: Arc<Config>,
    relation: (u32, u32),
    renewal: Renewal,
) -> Result<Input, Fault> {
    let began = Instant::now();
    loop {
        let found = answered(&config, slot::partition_of(&client, relation, &config)).await?;
        if matches!(found, Resolution::Other | Resolution::Detached)
            && renewed(&client, &config, &renewal).await?.is_some()
        {
            // The next session knows what it is.
            return Ok(Input::Tick);
        }
        if found != Resolution::Gone || began.elapsed() >= LOOK_AGAIN.0 {
            return Ok(Input::Resolved(found));
        }
        tokio::time::sleep(LOOK_AGAIN.1).await;
    }
}

/// Has the session end in order where other tables match the patterns than when it began: the next begins with
/// those. Until then it goes on with the tables that are still there.
async fn renewed(
    client: &Client,
    config: &Config,
    renewal: &Renewal,
) -> Result<Option<Arc<Config>>, Fault> {
    let change = answered(config, slot::change(client, config)).await?;
    Ok(change.map(|slot::TableChanges { what, there }| {
        renewal.replace(Some(what));
        Arc::new(there)
    }))
}

/// Whether a table with rows that wait has become a partition; said where nothing follows from it.
pub(super) async fn attached(
    config: &Config,
    client: &Client,
    outboxes: &[OutboxTable],
    looked: &mut KnownPartitions,
) -> Result<Option<String>, Fault> {
    let mut first = None;
    loop {
        let found = slot::attached(client, config, outboxes, looked, silence(config) / 2);
        match answered(config, found).await? {
            None => return Ok(first),
            Some(found) if config.is_catching_up() && found.has_marks => {
                first = first.or(Some(found.what));
            }
            Some(found) => {
                let hint = "pgoutbox replay --only unrelayed --mark  -- with audit.mode = none publish them yourself";
                warn!(hint, "rows that no stream brings: {}", found.what);
            }
        }
    }
}

/// The next session looks again, and makes a gap of what was found. What is locked is waited for:
/// nothing is acknowledged meanwhile.
pub(super) async fn check_attached(
    client: &Client,
    config: &Config,
    outboxes: &[OutboxTable],
    looked: &RefCell<KnownPartitions>,
) -> Result<(), Fault> {
    loop {
        let mut seen = looked.borrow().clone();
        match attached(config, client, outboxes, &mut seen).await {
            Ok(None) => {
                looked.replace(seen);
                return Ok(());
            }
            Ok(Some(what)) => return Err(Fault::transient(what).hint(ATTACHED).on(Side::Audit)),
            Err(fault) if fault.is_code(codes::LOCK_NOT_AVAILABLE) => {}
            Err(fault) => return Err(fault),
        }
        tokio::time::sleep(LOCKED).await;
    }
}

/// Looks, as long as the session runs, whether a table was written anew and holds rows that no stream brings: the next
/// session catches up with them, where there is a list. Not a part of the check, which what is read waits for.
pub(super) async fn watch_rewritten(
    client: Arc<Client>,
    config: Arc<Config>,
    outboxes: Arc<[OutboxTable]>,
    since: Rc<RefCell<Option<String>>>,
) -> Result<Input, Fault> {
    let pause = config.postgres.check_interval.saturating_mul(REWRITTEN);
    let mut told = None;
    loop {
        let from = since.borrow().clone();
        let looked = slot::rewritten(&client, &config, &outboxes, from.as_deref()).await;
        match looked {
            Ok(slot::Rewrites { missed: None, until }) => {
                since.replace(Some(until));
            }
            Ok(slot::Rewrites { missed: Some(what), .. }) if config.is_catching_up() => {
                let fault = Fault::transient(what).kind(Kind::PassedBy).hint(ATTACHED);
                return Err(fault.on(Side::Audit));
            }
            Ok(slot::Rewrites { missed: Some(what), until }) => {
                let hint = "pgoutbox replay --only unrelayed --mark";
                warn!(hint, "rows that no stream brings: {what}");
                since.replace(Some(until));
            }
            // It is looked again: nothing else waits for the answer. A connection that is gone says so itself.
            Err(fault) if fault.is_code(codes::LOCK_NOT_AVAILABLE) => {}
            Err(fault) => {
                if told.as_ref() != Some(&fault.what) {
                    let (what, hint) = (&fault.what, &fault.hint);
                    warn!(
                        hint,
                        "whether a table holds rows that no stream brings cannot be seen: {what}"
                    );
                }
                told = Some(fault.what);
            }
        }
        tokio::time::sleep(pause).await;
    }
}

pub(super) async fn check(
    client: Arc<Client>,
    config: Arc<Config>,
    before: Rc<RefCell<Coverage>>,
    renewal: Renewal,
    has_layout: bool,
) -> Result<Input, Fault> {
    // The next session says so, and does not begin. Where it cannot be asked, nothing is known to have changed.
    if has_layout
        && let Err(fault) = answered(&config, slot::is_of_layout(&client, &config)).await
        && fault.finding == Some("shards-layout")
    {
        drop(renewal.replace(Some(fault.what)));
    }
    let mut there = renewed(&client, &config, &renewal).await?.unwrap_or(Arc::clone(&config));
    let coverage = loop {
        match answered(&config, slot::coverage(&client, &there)).await {
            // No table is opened for that. A catalog may be locked, as while it is rewritten: that
            // stops nothing that is delivered, which is only not acknowledged meanwhile.
            Err(fault) if fault.is_code(codes::LOCK_NOT_AVAILABLE) => {}
            // A table went in between.
            Err(fault) => match renewed(&client, &config, &renewal).await? {
                Some(now) if now.tables.len() < there.tables.len() => {
                    there = now;
                    continue;
                }
                _ => return Err(fault),
            },
            Ok(coverage) => break coverage,
        }
        tokio::time::sleep(LOCKED).await;
    };
    let change = before.borrow().change(&coverage);
    if let Some(what) = change {
        if !before.borrow().differs_aside(&coverage) {
            let what = format!("{what} while the relay was running");
            return Err(Fault::transient(what).on(Side::Audit));
        }
        let kept = record_coverage(&client, &config.postgres.slot, coverage.digest().number());
        answered(&config, kept).await?;
        before.replace(coverage);
    }
    let asked = async {
        client.query_one(sql::SERVER_WAL_POSITION, &[]).await.map_err(|error| classify(&error))
    };
    let row = answered(&config, asked).await?;
    let flushed_lsn: PgLsn = row.try_get(1).map_err(|error| classify(&error))?;
    Ok(Input::Checked { flushed_lsn })
}
