//! Writes marks and progress: one transaction a batch, all of it in one round trip.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, SystemTime};

use futures_util::future::{join_all, try_join_all};
use postgres_types::{PgLsn, ToSql};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row, Statement};

use crate::config::{AuditMode, Config, Table};
use crate::error::{Class, Fault};
use crate::event::Position;
use crate::marks::{Batch, Mark, Written};
use crate::parking::ParkingStore;
use crate::postgres::{classify, column, query};
use crate::relation::TimeKind;
use crate::slot::Outbox;
use crate::sql;
use crate::wal::Identity;

struct Statements {
    mark: Statement,
    /// The same in the partitions of some time, where the table is partitioned by it: the id alone
    /// does not tell the partition, and to ask the index of each takes ten times as long.
    within: Option<(Statement, TimeKind)>,
    /// For when a lock is in the way. By id alone, so that it also finds a row whose time is not
    /// the one that came with its event.
    unlocked: Statement,
    /// Tells a row that waits from one that is gone.
    still: Statement,
}

/// Which statement of a table is used.
#[derive(Clone, Copy)]
enum Choice {
    /// What is fastest.
    Usual,
    /// One that passes over rows with a lock on them.
    Unlocked,
}

/// What is to be marked in one table.
#[derive(Clone, Default)]
struct Wanted<'a> {
    ids: Vec<&'a str>,
    /// Of these, when the first and the last of those happened whose time is known.
    seconds: Option<(u64, u64)>,
    /// There are others.
    is_timeless: bool,
}

impl<'a> Wanted<'a> {
    fn add(&mut self, mark: &'a Mark) {
        self.ids.push(&mark.id);
        match (mark.seconds, self.seconds) {
            (None, _) => self.is_timeless = true,
            (Some(at), None) => self.seconds = Some((at, at)),
            (Some(at), Some((first, last))) => self.seconds = Some((first.min(at), last.max(at))),
        }
    }

    async fn write(
        &self,
        client: &Client,
        table: &Statements,
        choice: Choice,
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        let seconds = self.seconds.filter(|_| !self.is_timeless);
        match (choice, &table.within, seconds) {
            (Choice::Unlocked, _, _) => client.query(&table.unlocked, &[&self.ids]).await,
            (Choice::Usual, Some((within, kind)), Some((first, last))) => {
                let (from, before) = (bound(*kind, first), bound(*kind, last.saturating_add(1)));
                client.query(within, &[&self.ids, &*from, &*before]).await
            }
            (Choice::Usual, _, _) => client.query(&table.mark, &[&self.ids]).await,
        }
    }
}

/// A time as a parameter of its column's type.
fn bound(kind: TimeKind, seconds: u64) -> Box<dyn ToSql + Sync + Send> {
    match kind {
        TimeKind::EpochMillis => {
            Box::new(i64::try_from(seconds.saturating_mul(1_000)).unwrap_or(i64::MAX))
        }
        TimeKind::Timestamptz | TimeKind::Timestamp => {
            // Beyond what the clock can say there is nothing in the table either.
            let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
            Box::new(at.unwrap_or(SystemTime::UNIX_EPOCH))
        }
    }
}

/// Writes marks and progress for one session.
pub struct Marker {
    tables: Vec<Statements>,
    record: Statement,
    wal_position: Statement,
    snapshot_xmin: Statement,
    slot: String,
    identity: Identity,
    parking: ParkingStore,
}

impl Marker {
    /// Prepares the statements.
    ///
    /// # Errors
    /// The connection's.
    pub async fn prepare(
        client: &Client,
        config: &Config,
        outboxes: &[Outbox],
        identity: Identity,
    ) -> Result<Self, Fault> {
        let mode = config.audit.mode;
        let tables = config.tables.iter().zip(outboxes);
        let tables = match mode {
            AuditMode::None => Vec::new(),
            _ => {
                try_join_all(tables.map(|(table, outbox)| statements(client, mode, table, outbox)))
                    .await?
            }
        };
        let prepare = async |sql| client.prepare(sql).await.map_err(|error| classify(&error));
        Ok(Self {
            tables,
            record: prepare(sql::RECORD_PROGRESS).await?,
            wal_position: prepare(sql::WAL_POSITION).await?,
            snapshot_xmin: prepare(sql::SNAPSHOT_XMIN).await?,
            slot: config.postgres.slot.clone(),
            identity,
            parking: ParkingStore::prepare(client, config, outboxes).await?,
        })
    }

    /// What is put aside.
    pub fn parking(&self) -> &ParkingStore {
        &self.parking
    }

    /// Writes a batch.
    ///
    /// # Errors
    /// The connection's. A mark that cannot be written is none.
    pub async fn write(&self, client: &Client, batch: Batch) -> Result<Written, Fault> {
        let has_repeats = batch.marks.iter().any(|mark| mark.is_repeat);
        let parked = match has_repeats {
            true => self.parking.among(client, &batch.marks).await?,
            false => BTreeSet::new(),
        };
        let wanted = self.by_table(&batch.marks, &parked);
        let write = |choice| self.transaction(client, &batch, &wanted, choice);
        // What was missed before may be locked still: no need to wait for that again.
        let is_retry = batch.marks.iter().any(Mark::is_retry);
        let first = if is_retry { Choice::Unlocked } else { Choice::Usual };
        let is_locked =
            |error: &tokio_postgres::Error| error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE);
        let outcome = match write(first).await {
            Err(error) if is_locked(&error) => write(Choice::Unlocked).await,
            outcome => outcome,
        };
        let (found, wal, is_table_locked) = match outcome {
            // The whole table is, as CREATE INDEX does it: the progress goes without the marks.
            Err(error) if is_locked(&error) => {
                let progress = self.transaction(client, &batch, &[], Choice::Usual).await;
                progress.map(|(found, wal)| (found, wal, true))
            }
            outcome => outcome.map(|(found, wal)| (found, wal, false)),
        }
        .map_err(|error| classify(&error))?;
        let lsn = |at: usize| wal.try_get(at).map_err(|error| classify(&error));
        let (written_lsn, flushed_lsn): (PgLsn, PgLsn) = (lsn(0)?, lsn(1)?);
        let missing = if is_table_locked {
            (0..batch.marks.len()).collect()
        } else if found.len() < wanted.iter().map(|wanted| wanted.ids.len()).sum() {
            self.missing(client, &batch.marks, &found, &parked).await?
        } else {
            Vec::new()
        };
        if !(batch.parking.parks.is_empty() && batch.parking.attempts.is_empty()) {
            self.parking.follow(client).await;
            self.parking.clear_failed(client, &batch.parking).await;
        }
        Ok(Written { batch, missing, written_lsn, flushed_lsn })
    }

    fn by_table<'a>(&self, marks: &'a [Mark], parked: &BTreeSet<Position>) -> Vec<Wanted<'a>> {
        let mut wanted = vec![Wanted::default(); self.tables.len()];
        for mark in marks.iter().filter(|mark| !is_put_aside(mark, parked)) {
            if let Some(wanted) = wanted.get_mut(mark.table) {
                wanted.add(mark);
            }
        }
        wanted
    }

    async fn transaction(
        &self,
        client: &Client,
        batch: &Batch,
        wanted: &[Wanted<'_>],
        choice: Choice,
    ) -> Result<(HashSet<(usize, String)>, Row), tokio_postgres::Error> {
        let marks = self.tables.iter().zip(wanted).enumerate();
        let marks = marks.filter(|(_, (_, wanted))| !wanted.ids.is_empty());
        let marks = join_all(marks.map(async |(number, (table, wanted))| {
            let rows = wanted.write(client, table, choice).await?;
            let found = rows.iter().map(|row| Ok((number, row.try_get(0)?)));
            found.collect::<Result<Vec<(usize, String)>, tokio_postgres::Error>>()
        }));
        let Position { commit_lsn, index } = batch.position;
        let settled = i64::try_from(index).unwrap_or(i64::MAX);
        let Identity { system_identifier, timeline } = &self.identity;
        let progress: [&(dyn ToSql + Sync); 5] =
            [&self.slot, system_identifier, timeline, &commit_lsn, &settled];
        // In this order onto the wire, without waiting for one another.
        let (begin, marks, parking, record, commit, wal) = tokio::join!(
            biased;
            client.batch_execute("BEGIN"),
            marks,
            self.parking.write(client, &batch.parking),
            client.execute(&self.record, &progress),
            client.batch_execute("COMMIT"),
            client.query_one(&self.wal_position, &[]),
        );
        begin?;
        let mut found = HashSet::new();
        for marks in marks {
            found.extend(marks?);
        }
        parking?;
        record?;
        commit?;
        Ok((found, wal?))
    }

    /// Of the marks that found no row to write, those that are to be tried again: the row is
    /// locked, or not visible yet. What is marked already, or was removed, is done.
    async fn missing(
        &self,
        client: &Client,
        marks: &[Mark],
        found: &HashSet<(usize, String)>,
        parked: &BTreeSet<Position>,
    ) -> Result<Vec<usize>, Fault> {
        let failed = |error| classify(&error);
        let is_missing = |mark: &Mark| {
            !is_put_aside(mark, parked) && !found.contains(&(mark.table, mark.id.clone()))
        };
        let missing: Vec<&Mark> = marks.iter().filter(|mark| is_missing(mark)).collect();
        // Before the rows are looked for: a transaction that has ended by now is seen by them.
        let xmin = client.query_one(&self.snapshot_xmin, &[]).await.map_err(failed)?;
        let xmin: i64 = xmin.try_get(0).map_err(failed)?;
        let mut waiting = HashSet::new();
        for (number, table) in self.tables.iter().enumerate() {
            let of_table = missing.iter().filter(|mark| mark.table == number);
            let ids: Vec<&str> = of_table.map(|mark| mark.id.as_str()).collect();
            if ids.is_empty() {
                continue;
            }
            for row in client.query(&table.still, &[&ids]).await.map_err(failed)? {
                waiting.insert((number, row.try_get::<_, String>(0).map_err(failed)?));
            }
        }
        let places = marks.iter().enumerate().filter(|(_, mark)| {
            is_missing(mark)
                && (waiting.contains(&(mark.table, mark.id.clone())) || !has_ended(mark.xid, xmin))
        });
        Ok(places.map(|(place, _)| place).collect())
    }
}

/// The stream brought a parked event again: not to be marked. The mark of the same event that
/// leaves the parking delivered may stand in the same batch, and is none of these.
fn is_put_aside(mark: &Mark, parked: &BTreeSet<Position>) -> bool {
    mark.is_repeat && parked.contains(&mark.position)
}

/// Transaction ids are compared in a circle of 32 bits; `xmin` comes with its epoch.
fn has_ended(xid: Option<u32>, xmin: i64) -> bool {
    let Some(xid) = xid else { return true };
    let Ok(xmin) = u32::try_from(xmin & i64::from(u32::MAX)) else { return false };
    let distance = xmin.wrapping_sub(xid);
    distance != 0 && distance < 1 << 31
}

async fn statements(
    client: &Client,
    mode: AuditMode,
    table: &Table,
    outbox: &Outbox,
) -> Result<Statements, Fault> {
    let relation = outbox.relation.to_string();
    let id = table.columns.id.name.as_str();
    let id_type = sql::render(sql::ID_TYPE, &[("relation", &relation), ("id", id)])?;
    let rows = query(client, &id_type).await?;
    let row = rows.first().ok_or_else(|| {
        Fault::new(Class::Transient, format!("{}.{} is gone", table.schema, table.name), "")
    })?;
    let (id_schema, id_type): (String, String) = (column(row, "schema")?, column(row, "name")?);
    let relayed_at = table.columns.relayed_at.name.as_str();
    let variables = [
        ("schema", table.schema.as_str()),
        ("table", &table.name),
        ("id", id),
        ("id_schema", &id_schema),
        ("id_type", &id_type),
        ("relayed_at", relayed_at),
        ("occurred_at", &table.columns.occurred_at.name),
        ("relation", &relation),
    ];
    let prepare = async |sql: &str| {
        let used = variables.iter().filter(|(name, _)| {
            sql.contains(&format!(":\"{name}\"")) || sql.contains(&format!(":'{name}'"))
        });
        let used: Vec<_> = used.copied().collect();
        client.prepare(&sql::render(sql, &used)?).await.map_err(|error| classify(&error))
    };
    let (mark, unlocked, still) = match mode {
        AuditMode::Delete => (sql::MARK_DELETE, sql::MARK_DELETE_UNLOCKED, sql::STILL_THERE),
        // It answers every id: nothing is ever asked of `still`.
        AuditMode::SideTable => (sql::MARK_SIDE_TABLE, sql::MARK_SIDE_TABLE, sql::MARK_SIDE_TABLE),
        AuditMode::Update | AuditMode::None => {
            (sql::MARK_UPDATE, sql::MARK_UPDATE_UNLOCKED, sql::STILL_UNMARKED)
        }
    };
    let within = match mode {
        AuditMode::Update => Some(sql::MARK_UPDATE_WITHIN),
        AuditMode::Delete => Some(sql::MARK_DELETE_WITHIN),
        AuditMode::SideTable | AuditMode::None => None,
    };
    let within = match within.zip(outbox.partition_time) {
        Some((sql, kind)) => Some((prepare(sql).await?, kind)),
        None => None,
    };
    Ok(Statements {
        mark: prepare(mark).await?,
        within,
        unlocked: prepare(unlocked).await?,
        still: prepare(still).await?,
    })
}

#[cfg(test)]
mod tests {
    use super::has_ended;

    #[test]
    fn transaction_ids_go_round() {
        assert!(has_ended(Some(10), 11));
        assert!(!has_ended(Some(11), 11), "xmin itself still runs");
        assert!(!has_ended(Some(12), 11));
        let wrapped = (1_i64 << 32) + 5;
        assert!(has_ended(Some(u32::MAX), wrapped), "it ended before the ids wrapped");
        assert!(!has_ended(Some(6), wrapped));
    }
}
