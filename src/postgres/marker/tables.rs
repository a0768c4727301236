//! The outbox tables as the marks are written to them, one by one: what one of them refuses is
//! nothing to the others.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, Row, Statement};
use tracing::{info, warn};

use super::UnmarkedView;
use super::parts::{Group, Parts, why_of};
use super::{Key, TableMarks, is_put_aside};
use crate::backoff::Backoff;
use crate::config::{Audit, AuditMode, Config, Table};
use crate::core::event::Position;
use crate::core::event::relation::TimeKind;
use crate::core::relay::marks::{Mark, MarkError, Origins, Why};
use crate::error::{Class, Fault, codes, table};
use crate::log_throttle::LogThrottle;
use crate::postgres::event_rows::{EventKeys, EventRow, EventRows};
use crate::postgres::grants::{grants_for, mark_grants, statements as statements_of};
use crate::postgres::mark::MarkSql;
use crate::postgres::outbox_table::OutboxTable;
use crate::postgres::sql;
use crate::postgres::{ColumnType, classify};

/// Most statements, and the longest time, that it may take to find out which marks of one batch are
/// refused.
const MOST_STATEMENTS: usize = 64;
const LONGEST: Duration = Duration::from_secs(5);
/// So many marks refused in a row mean that it is the table: a trigger, a right.
const IN_A_ROW: usize = 8;
/// The pauses after which such a table is tried again.
const PROBE_PAUSES: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(15));
/// A table that took a mark so lately takes marks.
const TAKES: Duration = Duration::from_secs(5);
/// A table that is closed for so long is said to be, however lately that was said before. Of a lock it is what
/// makes it news: CREATE INDEX takes one too.
const LASTS: Duration = Duration::from_secs(5);
/// The pauses for a table that somebody has locked.
const LOCK_PAUSES: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(2));
/// A table that was not tried for so long has no mark that waits.
const NOTHING_WAITS: Duration = Duration::from_secs(60);
/// Most statements of such a try.
const PROBE_STATEMENTS: usize = 10;

/// The statements that mark rows of one table.
pub(super) struct Statements {
    pub(super) mark: Statement,
    /// The same in the partitions of some time, where the table is partitioned by it: the id alone
    /// does not tell the partition, and to ask the index of each takes ten times as long.
    pub(super) within: Option<(Statement, TimeKind)>,
    /// For when a lock is in the way. In all partitions, so that it also finds a row whose time is not
    /// the one that came with its event.
    pub(super) unlocked: Statement,
    /// Tells a row that waits from one that is gone. `None` where each mark is answered for.
    still: Option<Statement>,
    /// The marks stand beside the table.
    is_beside: bool,
    /// What tells its rows.
    rows: EventRows,
}

impl Statements {
    /// Writes marks by one of its statements that takes nothing else.
    pub(super) async fn write(
        &self,
        client: &Client,
        statement: &Statement,
        marks: &[&Mark],
    ) -> Result<Vec<Row>, Error> {
        if !self.is_beside {
            let keys = self.keys(marks.iter().copied());
            return client.query(statement, &keys.parameters()).await;
        }
        let ids: Vec<&str> = marks.iter().map(|mark| mark.id.as_str()).collect();
        let origins: Origins<'_> = marks.iter().map(|mark| &mark.origin).collect();
        let [xids, xid_ends, times] = origins.parameters();
        client.query(statement, &[&ids, xids, xid_ends, times]).await
    }

    /// What is known of the rows of these marks.
    pub(super) fn keys<'a>(&self, marks: impl Iterator<Item = &'a Mark>) -> EventKeys<'a> {
        self.rows.keys(marks.map(|mark| EventRow {
            id: &mark.id,
            xid: mark.origin.xid,
            moment: mark.moment.or_else(|| self.rows.moment(mark.origin.occurred_at.as_deref()?)),
        }))
    }
}

/// What is known of one table.
#[derive(Default)]
struct State {
    statements: Option<Arc<Statements>>,
    refused_in_a_row: usize,
    /// When it took a mark last.
    took_at: Option<Instant>,
    closed: Option<ClosedTable>,
    /// That it is closed was said, this time.
    is_told_closed: bool,
    /// What was said of it.
    told: LogThrottle,
    /// Marks given up since that was last said.
    given_up: u64,
}

/// The table takes no marks.
#[derive(Clone)]
struct ClosedTable {
    why: Arc<MarkError>,
    since: Instant,
    pause: Duration,
    next_try: Instant,
}

struct Entry {
    table: Table,
    outbox: OutboxTable,
    state: Mutex<State>,
}

impl Entry {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self) -> String {
        self.table.title()
    }
}

impl State {
    fn closed_until(&mut self, now: Instant, why: &Arc<MarkError>) {
        let pauses = if why.is_lock { LOCK_PAUSES } else { PROBE_PAUSES };
        let pause = pauses.next(self.closed.as_ref().map(|closed| closed.pause));
        let since = self.closed.as_ref().map_or(now, |closed| closed.since);
        self.closed =
            Some(ClosedTable { why: Arc::clone(why), since, pause, next_try: now + pause });
    }
}

/// The outbox tables.
pub(super) struct Tables {
    audit: Audit,
    /// Who writes them.
    role: String,
    entries: Vec<Entry>,
    /// Batches of which something went apart.
    batches: AtomicUsize,
}

/// How much the search for what is refused in a batch has taken.
struct SearchBudget {
    statements: usize,
    until: Instant,
}

impl SearchBudget {
    /// One statement more, if there may be.
    fn take(&mut self) -> bool {
        let has_more = self.statements < MOST_STATEMENTS && Instant::now() < self.until;
        self.statements += usize::from(has_more);
        has_more
    }
}

/// Finds out which marks of a table are refused: halves what is, until they stand alone. Each costs
/// some ten statements, once.
struct Search<'t, 'a> {
    entry: &'t Entry,
    table: usize,
    marks: Vec<&'a Mark>,
    /// Ranges of the marks that are to be written.
    open: Vec<Range<usize>>,
    last: Option<Arc<MarkError>>,
    /// No more of the table is to be tried now.
    is_over: bool,
    is_renewed: bool,
    /// The table is closed: whether it takes marks again is to be found out.
    is_probe: bool,
    /// Statements that it may still take.
    left: usize,
}

impl<'t, 'a> Search<'t, 'a> {
    async fn begin(
        tables: &Tables,
        client: &Client,
        entry: &'t Entry,
        Group { table, mut marks }: Group<'a>,
    ) -> Self {
        let is_probe = entry.state().closed.is_some();
        if !is_probe {
            // What was never refused is not to wait for statements behind what was.
            marks.sort_by_key(|mark| mark.refused().is_some());
        }
        if is_probe {
            tables.renew(client, entry).await.ok();
        }
        let last = entry.state().closed.as_ref().map(|closed| Arc::clone(&closed.why));
        let left = if is_probe { PROBE_STATEMENTS } else { MOST_STATEMENTS };
        let all = 0..marks.len();
        Self {
            entry,
            table,
            marks,
            open: vec![all],
            last,
            is_over: false,
            is_renewed: is_probe,
            is_probe,
            left,
        }
    }

    /// There is more to be tried.
    fn is_open(&self) -> bool {
        !self.open.is_empty() && !self.is_over && self.left > 0
    }

    /// Tries the next part.
    async fn step(
        &mut self,
        tables: &Tables,
        client: &Client,
        parts: &mut Parts<'a>,
        found: &mut HashSet<Key>,
    ) -> Result<(), Error> {
        let statements = self.entry.state().statements.clone();
        let Some(statements) = statements else {
            self.left = 0;
            return Ok(());
        };
        let Some(range) = self.open.pop() else { return Ok(()) };
        self.left -= 1;
        let part = self.marks.get(range.clone()).unwrap_or_default();
        let error = match statements.write(client, &statements.unlocked, part).await {
            Ok(rows) => {
                tables.passed(self.entry);
                for row in rows {
                    found.insert((self.table, row.try_get(0)?));
                }
                return Ok(());
            }
            Err(error) => error,
        };
        let why = Arc::new(refusal(error)?);
        if !self.is_renewed && is_of_the_plan(&why.code) {
            // The table was altered, and the statements are of before.
            self.is_renewed = true;
            tables.renew(client, self.entry).await.ok();
            self.open.push(range);
            return Ok(());
        }
        self.last = Some(Arc::clone(&why));
        match part {
            // CREATE INDEX holds such a lock: no row of the table need be tried now.
            _ if why.is_lock => {
                self.is_over = true;
                parts.know(self.table, part, &Why::Waits);
            }
            [mark] => {
                parts.know(self.table, part, &why_of(&why));
                self.is_over = tables.refused(self.entry, mark, &why);
            }
            _ => {
                let middle = range.start + range.len() / 2;
                let halves = [middle..range.end, range.start..middle];
                // What a closed table takes again is most likely what came last.
                if self.is_probe {
                    self.open.extend(halves.into_iter().rev());
                } else {
                    self.open.extend(halves);
                }
            }
        }
        Ok(())
    }

    /// What was not tried is known by what was.
    fn end(self, tables: &Tables, parts: &mut Parts<'a>) {
        let is_closed = self.entry.state().closed.is_some();
        let of_table = self.last.filter(|why| self.is_over || is_closed || why.is_lock);
        let why = of_table.as_ref().map_or(Why::Suspected, why_of);
        for range in self.open {
            parts.know(self.table, self.marks.get(range).unwrap_or_default(), &why);
        }
        if let Some(why) = of_table {
            tables.close(self.entry, &why);
        }
    }
}

impl Tables {
    /// Prepares the statements.
    pub(super) async fn prepare(
        client: &Client,
        config: &Config,
        outboxes: &[OutboxTable],
    ) -> Result<Self, Fault> {
        let audit = config.audit.clone();
        let mut entries = Vec::new();
        for (table, outbox) in config.tables.iter().zip(outboxes) {
            let (table, outbox) = (table.clone(), outbox.clone());
            entries.push(Entry { table, outbox, state: Mutex::default() });
        }
        let role = config.postgres.audit.user.clone();
        let tables = Self { audit, role, entries, batches: AtomicUsize::new(0) };
        for entry in tables.entries.iter().filter(|entry| entry.table.has_marks()) {
            tables.renew(client, entry).await?;
        }
        Ok(tables)
    }

    /// Prepares the statements of a table; one that cannot be marked is closed.
    async fn renew(&self, client: &Client, entry: &Entry) -> Result<(), Fault> {
        match statements(client, &entry.table, &entry.outbox).await {
            Ok(statements) => {
                let mut state = entry.state();
                state.statements = Some(Arc::new(statements));
            }
            Err(PrepareError::Refused(why)) => {
                let why = Arc::new(why);
                entry.state().statements = None;
                self.close(entry, &why);
            }
            Err(PrepareError::Fault(fault)) => return Err(fault),
        }
        Ok(())
    }

    /// Sorts the marks of a batch: those that may be written together, and those that may not.
    pub(super) fn parts<'a>(&self, marks: &'a [Mark], parked: &BTreeSet<Position>) -> Parts<'a> {
        let now = Instant::now();
        let closed: Vec<Option<ClosedTable>> =
            self.entries.iter().map(|entry| entry.state().closed.clone()).collect();
        let wanted = self.entries.iter().map(|entry| {
            let statements = entry.state().statements.clone();
            TableMarks { statements, ..TableMarks::default() }
        });
        let mut parts = Parts::new(wanted.collect());
        for mark in marks.iter().filter(|mark| !is_put_aside(mark, parked)) {
            match closed.get(mark.table) {
                None => {}
                Some(Some(closed)) if now < closed.next_try => parts.skip(mark, &closed.why),
                Some(None) if !mark.goes_apart() => parts.together(mark),
                Some(_) => parts.apart(mark),
            }
        }
        parts
    }

    /// Writes what goes apart; returns which rows were found.
    pub(super) async fn write_parts(
        &self,
        client: &Client,
        parts: &mut Parts<'_>,
    ) -> Result<HashSet<Key>, Error> {
        let mut found = HashSet::new();
        let mut searches = Vec::new();
        for group in parts.take_groups() {
            let Some(entry) = self.entries.get(group.table) else { continue };
            let mut search = Search::begin(self, client, entry, group).await;
            search.step(self, client, parts, &mut found).await?;
            searches.push(search);
        }
        // Whichever table is the first, each has its turn: one that refuses much is not to keep the
        // others from being looked through.
        let count = self.batches.fetch_add(1, Ordering::Relaxed);
        let first = count.checked_rem(searches.len()).unwrap_or(0);
        searches.rotate_left(first);
        let mut spent = SearchBudget { statements: 0, until: Instant::now() + LONGEST };
        for mut search in searches {
            while search.is_open() && spent.take() {
                search.step(self, client, parts, &mut found).await?;
            }
            search.end(self, parts);
        }
        Ok(found)
    }

    /// The tables took these marks, together.
    pub(super) fn took(&self, parts: &Parts<'_>) {
        for (entry, wanted) in self.entries.iter().zip(parts.wanted()) {
            if !wanted.marks.is_empty() {
                self.passed(entry);
            }
        }
    }

    fn passed(&self, entry: &Entry) {
        let mut state = entry.state();
        state.refused_in_a_row = 0;
        state.took_at = Some(Instant::now());
        state.is_told_closed = false;
        if state.closed.take().is_some() {
            info!("rows of {} are marked again", entry.name());
        }
    }

    /// A mark was refused by itself; so many in a row that it is the table.
    ///
    /// Those that were refused before come together, as the oldest: while the table takes others, they
    /// say nothing of it.
    fn refused(&self, entry: &Entry, mark: &Mark, why: &Arc<MarkError>) -> bool {
        let id = &mark.id;
        let mut state = entry.state();
        let takes_others = state.took_at.is_some_and(|at| at.elapsed() < TAKES);
        state.refused_in_a_row += usize::from(mark.refused().is_none() || !takes_others);
        if state.refused_in_a_row >= IN_A_ROW {
            return true;
        }
        let is_due = state.told.is_due(&why.code);
        drop(state);
        if is_due {
            let [hold, give_up] = [self.audit.hold, self.audit.give_up].map(span);
            warn!(
                hint = self.hint(entry, Some(id), Some(why)),
                "the mark of event {id} of {} is refused: {} (SQLSTATE {}). The event is delivered; its mark is tried again for {give_up}, and the LSN waits for it for {hold}",
                entry.name(),
                why.message,
                why.code,
            );
        }
        false
    }

    fn close(&self, entry: &Entry, why: &Arc<MarkError>) {
        let mut state = entry.state();
        // The next try begins with all of them again.
        state.refused_in_a_row = 0;
        state.closed_until(Instant::now(), why);
        // One that opens and closes all the time is said once a minute, one that stays closed each
        // time that it begins.
        let lasts = state.closed.as_ref().is_some_and(|closed| closed.since.elapsed() >= LASTS);
        let is_news = state.told.is_due(&format!("closed {}", why.code));
        let is_due = is_news && !why.is_lock || lasts && !state.is_told_closed;
        state.is_told_closed |= is_due;
        drop(state);
        if is_due {
            let [hold, give_up] = [self.audit.hold, self.audit.give_up].map(span);
            warn!(
                cause = cause(why),
                hint = self.hint(entry, None, Some(why)),
                "no row of {} can be marked: {} (SQLSTATE {}). Events are delivered all the same; each mark is tried again for {give_up}, and the LSN waits for it for {hold}",
                entry.name(),
                why.message,
                why.code,
            );
        }
    }

    /// Those that take no marks. A lock is no news until it lasts, and neither is a table of which no mark
    /// waits any more.
    pub(super) fn refusing(&self) -> Vec<UnmarkedView> {
        let now = Instant::now();
        let views = self.entries.iter().filter_map(|entry| {
            let closed = entry.state().closed.clone();
            let closed = closed.filter(|it| now < it.next_try + NOTHING_WAITS)?;
            let lasted = now.saturating_duration_since(closed.since);
            if closed.why.is_lock && lasted < LASTS {
                return None;
            }
            let cause = cause(&closed.why);
            let MarkError { code, message, .. } = closed.why.as_ref();
            let what = format!(
                "no row of {} can be marked: {message} (SQLSTATE {code}); its events are delivered all the same",
                entry.name()
            );
            let hint = self.hint(entry, None, Some(&closed.why));
            Some(UnmarkedView { what, hint, cause, lasted })
        });
        views.collect()
    }

    /// Which of these rows wait for their mark.
    pub(super) async fn still<'a>(
        &self,
        client: &Client,
        marks: impl Iterator<Item = &'a Mark> + Clone,
    ) -> Result<HashSet<Key>, Error> {
        let mut waiting = HashSet::new();
        for (number, entry) in self.entries.iter().enumerate() {
            let of_table = marks.clone().filter(|mark| mark.table == number);
            let has_any = of_table.clone().next().is_some();
            let statements = entry.state().statements.clone().filter(|_| has_any);
            let Some(statements) = statements else { continue };
            let Some(still) = &statements.still else { continue };
            let keys = statements.keys(of_table.clone());
            match client.query(still, &keys.parameters()).await {
                Ok(rows) => {
                    for row in rows {
                        waiting.insert((number, row.try_get(0)?));
                    }
                }
                // The table is locked, or may not be read: it shall be asked again.
                Err(error) if error.as_db_error().is_some() => {
                    waiting.extend(of_table.map(|mark| (number, mark.id.clone())));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(waiting)
    }

    /// Says in the log which marks are given up: the first of a table, and then how many more.
    pub(super) fn log_given_up(&self, marks: &[Mark]) {
        for mark in marks {
            let Some(entry) = self.entries.get(mark.table) else { continue };
            let code = mark.refused().map_or("", |why| why.code.as_str());
            let mut state = entry.state();
            state.given_up += 1;
            if !state.told.is_due(&format!("given up {code}")) {
                continue;
            }
            let count = std::mem::take(&mut state.given_up);
            drop(state);
            let why = match mark.refused().map(Arc::as_ref) {
                Some(MarkError { code, message, .. }) => format!("{message} (SQLSTATE {code})"),
                None => "its row stayed locked, or a trigger or rule keeps it unmarked".to_owned(),
            };
            warn!(
                hint = self.hint(entry, Some(&mark.id), mark.refused()),
                marks = count,
                "the mark of event {} of {} is given up: {why}. The event was delivered",
                mark.id,
                entry.name(),
            );
        }
    }

    fn hint(&self, entry: &Entry, id: Option<&str>, why: Option<&Arc<MarkError>>) -> String {
        let Table { schema, name, columns, .. } = &entry.table;
        let table = sql::qualified(schema, name);
        let own = why.filter(|why| !why.is_of_trigger);
        let code = own.map_or("", |why| why.code.as_str());
        match (code, entry.table.audit_mode) {
            (codes::INSUFFICIENT_PRIVILEGE, _) => self.grants(entry),
            _ if why.is_some_and(|why| why.is_lock) => {
                let table = sql::literal(&table);
                format!(
                    "end the transaction that has locked the table: SELECT pid, usename, state, query FROM pg_stat_activity WHERE pid IN (SELECT pid FROM pg_locks WHERE relation = {table}::regclass AND granted AND mode NOT LIKE 'Row%' AND mode <> 'AccessShareLock'); the marks follow by themselves"
                )
            }
            ("55000", AuditMode::Update | AuditMode::Delete) => format!(
                "a publication publishes the table's updates or deletes, and the table has no replica identity: ALTER TABLE {table} ADD PRIMARY KEY (…), or ALTER TABLE {table} REPLICA IDENTITY FULL;"
            ),
            (_, AuditMode::SideTable) => {
                "look at pgoutbox.relayed: what refuses the row is a trigger or a constraint of it"
                    .to_owned()
            }
            (_, mode) => {
                let id = id.map_or("…".to_owned(), sql::literal);
                let place = format!("WHERE {} = {id}", sql::identifier(&columns.id.name));
                let statement = match mode {
                    AuditMode::Delete => format!("DELETE FROM {table} {place};"),
                    _ => format!(
                        "UPDATE {table} SET {} {place};",
                        MarkSql::of(&entry.table).set_mark()
                    ),
                };
                format!(
                    "let the table take it (a trigger, a rule or a constraint of it does not): {statement}"
                )
            }
        }
    }
}

impl Tables {
    /// What the role may not do, as SQL.
    fn grants(&self, entry: &Entry) -> String {
        let grants = mark_grants(entry.table.audit_mode).unwrap_or_default();
        let sql = grants_for(grants, &entry.table, &self.role);
        sql.map_or_else(|_| table::GRANT.to_owned(), |sql| statements_of(&sql))
    }
}

/// What `check` calls it.
fn cause(why: &MarkError) -> Option<&'static str> {
    why.is_lock.then_some("table-locked")
}

fn span(span: Duration) -> String {
    humantime::format_duration(span).to_string()
}

/// Not of a row, but of what the statement says: of syntax and rights, and features that are
/// missing.
fn is_of_the_plan(code: &str) -> bool {
    code.starts_with("42") || code.starts_with("0A")
}

/// What the server says of a statement that it refuses.
fn refusal(error: Error) -> Result<MarkError, Error> {
    match error.as_db_error() {
        Some(db) => Ok(MarkError {
            code: db.code().code().to_owned(),
            message: db.message().to_owned(),
            // Rows that are locked are passed over. With a context it is of a trigger, or of a key
            // that it refers to: of a row.
            is_lock: db.code() == &SqlState::LOCK_NOT_AVAILABLE && db.where_().is_none(),
            is_of_trigger: db.where_().is_some(),
        }),
        None => Err(error),
    }
}

enum PrepareError {
    /// The server refuses it.
    Refused(MarkError),
    Fault(Fault),
}

impl From<Error> for PrepareError {
    fn from(error: Error) -> Self {
        match refusal(error) {
            Ok(why) => Self::Refused(why),
            Err(error) => Self::Fault(classify(&error)),
        }
    }
}

impl From<Fault> for PrepareError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

async fn statements(
    client: &Client,
    table: &Table,
    outbox: &OutboxTable,
) -> Result<Statements, PrepareError> {
    let relation = outbox.relation.to_string();
    let id = table.columns.id.name.as_str();
    let rows = client.query_typed(&ColumnType::sql(outbox.relation, id)?, &[]).await?;
    let row = rows.first().ok_or_else(|| {
        Fault::new(Class::Transient, format!("{}.{} is gone", table.schema, table.name), "")
    })?;
    let id_type = ColumnType::read(row)?;
    let (mode, marks) = (table.audit_mode, MarkSql::of(table));
    let rows = EventRows::find(client, &EventRows::sql(outbox.relation, table)?).await?;
    let is_event = rows.condition(table, &id_type);
    let is_same_table = sql::is_same_table(&table.schema, &table.name, outbox.relation);
    let mut variables = vec![
        ("schema", table.schema.as_str()),
        ("table", &table.name),
        ("id", id),
        ("occurred_at", &table.columns.occurred_at.name),
        ("relation", &relation),
        ("is_same_table", &is_same_table),
        ("is_event", &is_event),
    ];
    variables.extend(id_type.of_id().into_iter().chain(marks.variables()));
    let prepare = async |sql: &str| -> Result<Statement, PrepareError> {
        let sql = sql::render_some(sql, &variables)?;
        Ok(match mode {
            AuditMode::SideTable => client.prepare(&sql).await?,
            _ => client.prepare_typed(&sql, &rows.types()).await?,
        })
    };
    let (mark, unlocked, still) = match mode {
        AuditMode::Delete => {
            (sql::MARK_DELETE, sql::MARK_DELETE_UNLOCKED, Some(sql::MARK_STILL_THERE))
        }
        AuditMode::SideTable => (sql::MARK_SIDE_TABLE, sql::MARK_SIDE_TABLE, None),
        AuditMode::Update | AuditMode::None => {
            (sql::MARK_UPDATE, sql::MARK_UPDATE_UNLOCKED, Some(sql::MARK_STILL_UNMARKED))
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
        still: match still {
            Some(still) => Some(prepare(still).await?),
            None => None,
        },
        is_beside: mode == AuditMode::SideTable,
        rows,
    })
}
