//! Rows of the outbox that show how often their events were tried, where the table has columns for it.
//! Best effort, beside what is written: one row that the server refuses keeps no other from showing it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use postgres_types::ToSql;
use tokio_postgres::{Client, Error, Row, Statement};
use tracing::{debug, warn};

use crate::config::Table;
use crate::core::parked::{AttemptOutcome, ParkingBatch};
use crate::error::Fault;
use crate::log_throttle::LogThrottle;
use crate::postgres::content::Content;
use crate::postgres::event_rows::{EventRow, EventRows};
use crate::postgres::outbox_table::OutboxTable;
use crate::postgres::sql;
use crate::postgres::{ColumnType, classify, column, is_lock, is_of_row, query};

/// A row that the server refuses is left for so long.
const REST: Duration = Duration::from_secs(30);
/// Statements to find out which rows it refuses, at one time: marks wait for them.
const MOST: usize = 200;

/// What a row shows of a failed event that was delivered.
const DELIVERED: &str = "in failed_at that it was delivered";

/// Where the rows of one table show the tries of their events.
pub(super) struct AttemptColumns {
    title: String,
    /// Which records changed lately.
    changed: Statement,
    /// Brings the rows up to date; one for each column that is there, by its name.
    follow: Vec<(String, Statement)>,
    clear_failed: Option<Statement>,
    /// What tells the rows.
    rows: EventRows,
    mind: Mutex<Mind>,
}

#[derive(Default)]
struct Mind {
    /// Until when a record is left, by the number of its statement.
    resting: BTreeMap<(usize, i64), Instant>,
    told: LogThrottle,
}

impl AttemptColumns {
    /// Looks for the columns, and prepares what there is to do about them.
    ///
    /// # Errors
    /// The table is gone, or the connection is lost. A column that cannot be written is a warning,
    /// not an error.
    pub(super) async fn prepare(
        client: &Client,
        table: &Table,
        outbox: &OutboxTable,
    ) -> Result<Self, Fault> {
        let relation = outbox.relation.to_string();
        let found = there(client, table, &relation).await?;
        let id = table.columns.id.name.as_str();
        let id_type = ColumnType::find(client, outbox.relation, id).await?;
        let id_type =
            id_type.ok_or_else(|| Fault::transient(format!("{} is gone", table.title())))?;
        let is_same_table = sql::is_same_table(&table.schema, &table.name, outbox.relation);
        let own = [
            ("schema", table.schema.as_str()),
            ("table", table.name.as_str()),
            ("is_same_table", is_same_table.as_str()),
            ("id", id),
        ];
        let rows = EventRows::find(client, &EventRows::sql(outbox.relation, table)?).await;
        let rows = rows.map_err(|error| classify(&error))?;
        let content = Content::find(client, outbox.relation, table).await?;
        let is_event = rows.condition(table, &id_type);
        let is_of_record = rows.record_condition(table, &content);
        let base: Vec<_> = own.into_iter().chain(id_type.of_id()).collect();
        let changed = sql::render(sql::PARKED_CHANGED, &[("relation", &relation)])?;
        let changed = client.prepare(&changed).await.map_err(|error| classify(&error))?;
        let (mut follow, mut clear_failed) = (Vec::new(), None);
        for (setting, name, value) in columns(table) {
            if !found.contains(&name) {
                continue;
            }
            let mut variables = base.clone();
            if setting == "columns.failed_at" {
                let delivered = [
                    variables.as_slice(),
                    &[("failed_at", name.as_str()), ("is_event", is_event.as_str())],
                ]
                .concat();
                let sql = sql::render(sql::PARKED_ROW_DELIVERED, &delivered)?;
                clear_failed = where_it_fits(client.prepare_typed(&sql, &rows.types()).await)?;
            }
            variables.extend([
                ("relation", &*relation),
                ("shown", &name),
                ("value", &value),
                ("is_event", &is_of_record),
            ]);
            match client.prepare(&sql::render(sql::PARKED_SHOW, &variables)?).await {
                Ok(statement) => follow.push((name, statement)),
                // A lock or a lost connection says nothing of the column.
                Err(error) if !is_of_column(&error) => return Err(classify(&error)),
                Err(error) => warn!(
                    hint = format!("set tables.N.{setting} to another column, or to \"\""),
                    "\"{name}\" of {}.{} cannot show the tries of a parked event: {}",
                    table.schema,
                    table.name,
                    classify(&error).what
                ),
            }
        }
        let (title, mind) = (table.title(), Mutex::default());
        Ok(Self { title, changed, follow, clear_failed, rows, mind })
    }

    fn mind(&self) -> MutexGuard<'_, Mind> {
        self.mind.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rows show the tries of parked events, where it was not possible at once.
    pub(super) async fn follow(&self, client: &Client) {
        for (number, (name, statement)) in self.follow.iter().enumerate() {
            let resting = self.resting(number);
            let all: [&(dyn ToSql + Sync); 2] = [&None::<Vec<i64>>, &resting];
            match client.execute(statement, &all).await {
                Ok(_) => {}
                Err(error) if is_of_row(&error) => {
                    self.follow_parts(client, number, &resting).await;
                }
                Err(error) => self.tell(&format!("its tries in {name}"), None, &error),
            }
        }
    }

    fn resting(&self, number: usize) -> Vec<i64> {
        let (mut mind, now) = (self.mind(), Instant::now());
        mind.resting.retain(|_, until| *until > now);
        let those = mind.resting.keys().filter(|(of, _)| *of == number);
        those.map(|(_, seq)| *seq).collect()
    }

    /// In halves, until those that are refused stand alone.
    async fn follow_parts(&self, client: &Client, number: usize, resting: &Vec<i64>) {
        let Some((name, statement)) = self.follow.get(number) else { return };
        let failed = |error: Error| debug!("no rows to show tries in: {}", classify(&error));
        let changed: [&(dyn ToSql + Sync); 1] = [resting];
        let changed = client.query(&self.changed, &changed).await;
        let seq = |row: &Row| row.try_get::<_, i64>(0);
        let seqs = changed.and_then(|rows| rows.iter().map(seq).collect::<Result<Vec<_>, _>>());
        let seqs = match seqs {
            Ok(seqs) => seqs,
            Err(error) => return failed(error),
        };
        let mut work = vec![seqs];
        for _ in 0..MOST {
            let Some(seqs) = work.pop() else { break };
            let some: [&(dyn ToSql + Sync); 2] = [&seqs, &Vec::<i64>::new()];
            match client.execute(statement, &some).await {
                Ok(_) => {}
                Err(error) if is_of_row(&error) => match seqs.as_slice() {
                    [] => {}
                    [seq] => {
                        self.mind().resting.insert((number, *seq), Instant::now() + REST);
                        self.tell(&format!("its tries in {name}"), Some(*seq), &error);
                    }
                    _ => {
                        let (first, second) = seqs.split_at(seqs.len() / 2);
                        work.extend([second.to_vec(), first.to_vec()]);
                    }
                },
                Err(error) => return self.tell(&format!("its tries in {name}"), None, &error),
            }
        }
    }

    /// Failed events that were delivered after all: their rows no longer say that they failed.
    pub(super) async fn clear_failed(&self, client: &Client, table: usize, parking: &ParkingBatch) {
        let Some(statement) = &self.clear_failed else { return };
        let of_table = parking.attempts.iter().filter(|attempt| attempt.table == table);
        let those = of_table.filter_map(|attempt| {
            let AttemptOutcome::Delivered { xid, moment, .. } = attempt.outcome else {
                return None;
            };
            Some((attempt.seq, EventRow { id: attempt.id.as_deref()?, xid, moment }))
        });
        let (seqs, events): (Vec<i64>, Vec<EventRow<'_>>) = those.unzip();
        if events.is_empty() {
            return;
        }
        let keys = self.rows.keys(events.iter().copied());
        match client.execute(statement, &keys.parameters()).await {
            Ok(_) => {}
            Err(error) if !is_of_row(&error) => self.tell(DELIVERED, None, &error),
            Err(_) => {
                for (seq, event) in seqs.iter().zip(events) {
                    let keys = self.rows.keys(std::iter::once(event));
                    if let Err(error) = client.execute(statement, &keys.parameters()).await {
                        self.tell(DELIVERED, Some(*seq), &error);
                    }
                }
            }
        }
    }

    /// Once a minute, for each kind of error.
    fn tell(&self, what: &str, seq: Option<i64>, error: &Error) {
        let (fault, title) = (classify(error), &self.title);
        // A lock on the whole table is told of where the marks wait for it.
        if error.as_db_error().is_none() || is_lock(&fault) {
            return debug!("rows of {title} do not show tries yet: {}", fault.what);
        }
        let is_of_row = seq.is_some();
        if !self.mind().told.is_due(&format!("{what} {is_of_row} {:?}", fault.code())) {
            return;
        }
        match seq {
            Some(seq) => warn!(
                hint = fault.hint,
                "the row of parked event {seq} in {title} does not show {what}: {}", fault.what
            ),
            None => warn!(
                hint = fault.hint,
                "no row of a parked event in {title} shows {what}: {}", fault.what
            ),
        }
    }
}

/// Of the columns, those that are there and that may be written.
async fn there(client: &Client, table: &Table, relation: &str) -> Result<Vec<String>, Fault> {
    let (names, failed_names) = (&table.columns, table.failed_names());
    let variables = [
        ("relation", relation),
        ("attempt", &names.attempt.name),
        ("last_error", &names.last_error.name),
        ("failed_at", &names.failed_at.name),
        ("failed_names", &failed_names),
    ];
    let found = query(client, &sql::render(sql::PARKED_COLUMNS, &variables)?).await?;
    found.iter().map(|row| column(row, "name")).collect()
}

/// `None` of a statement that does not fit its table.
fn where_it_fits(prepared: Result<Statement, Error>) -> Result<Option<Statement>, Fault> {
    match prepared {
        Ok(statement) => Ok(Some(statement)),
        Err(error) if is_of_column(&error) => Ok(None),
        Err(error) => Err(classify(&error)),
    }
}

/// The settings that name a column, the column, and what it shows: an expression, see `parked/show.sql`.
fn columns(table: &Table) -> Vec<(String, String, String)> {
    const HAS_ENDED: &str = "parked.state IN ('failed', 'dead_lettered', 'discarded')";
    let names = &table.columns;
    let failed_at = sql::identifier(&names.failed_at.name);
    let mut columns = vec![
        ("columns.attempt".to_owned(), names.attempt.name.clone(), attempt(table)),
        (
            "columns.last_error".to_owned(),
            names.last_error.name.clone(),
            "parked.last_error".to_owned(),
        ),
        (
            "columns.failed_at".to_owned(),
            names.failed_at.name.clone(),
            format!("CASE WHEN {HAS_ENDED} THEN coalesce(outbox.{failed_at}, now()) END"),
        ),
    ];
    columns.extend(table.failed.iter().map(|(name, value)| {
        let (column, literal) = (sql::identifier(name), sql::literal(value));
        let value = format!("CASE WHEN {HAS_ENDED} THEN {literal} ELSE outbox.{column} END");
        (format!("failed.{name}"), name.clone(), value)
    }));
    columns
}

fn attempt(table: &Table) -> String {
    match table.first_attempt {
        0 => "parked.attempts".to_owned(),
        first => format!("(parked.attempts + {first})"),
    }
}

/// The statement does not fit its table: class 42, a name, a type or a right.
fn is_of_column(error: &Error) -> bool {
    error.code().is_some_and(|code| code.code().starts_with("42"))
}
