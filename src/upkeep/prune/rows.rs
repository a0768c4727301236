//! Rows, a batch at a time.

use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use super::partitions::Partitions;
use super::target::Target;
use super::undeletable::{UndeletablePlaces, UndeletableRows};
use super::{Order, Pace, TableReport};
use crate::config::Prune;
use crate::error::{Fault, codes};
use crate::postgres::row_range::{PLACES, middle, tid};
use crate::postgres::sql;
use crate::postgres::{classify, column, execute, query};

/// Blocks that one statement reads at most: 8 MiB.
const BLOCKS: u64 = 1024;
/// Statements that may fail in one pass over a table, while rows are looked for that cannot go:
/// each is an error in the server's log.
const FAILURES: u32 = 1000;

/// The name of parked events among what is known.
const RECORDS: &str = "pgoutbox.parked";

/// What deletes one table's rows.
pub(super) struct Work<'a> {
    client: &'a Client,
    prune: &'a Prune,
    target: &'a Target,
    keep: Duration,
    is_dry: bool,
    pace: &'a Pace,
    stuck: UndeletableRows,
    known: &'a mut UndeletablePlaces,
    failures: u32,
}

/// How one statement went.
enum Outcome {
    Done(Row),
    /// A lock stood in its way: at the next pass, then.
    Locked,
    /// Something in its rows did.
    Refused(tokio_postgres::Error),
}

/// Parameters with their types: one round trip, and nothing that a pooler could lose.
type Parameters<'a> = [(&'a (dyn ToSql + Sync), Type)];

impl<'a> Work<'a> {
    pub(super) fn new(
        client: &'a Client,
        prune: &'a Prune,
        target: &'a Target,
        keep: Duration,
        order: Order<'a>,
        known: &'a mut UndeletablePlaces,
    ) -> Self {
        Self {
            client,
            prune,
            target,
            keep,
            is_dry: order.is_dry,
            pace: order.pace,
            stuck: UndeletableRows::default(),
            known,
            failures: 0,
        }
    }

    /// Records of events done with, and their rows: before anything else, so that what goes on
    /// to look at rows need not ask for them.
    pub(super) async fn parked(&mut self, report: &mut TableReport) -> Result<(), Fault> {
        let list = self.target.render(sql::PRUNE_PARKED_LIST, &[])?;
        let sql = self.target.render(sql::PRUNE_PARKED, &[])?;
        let (seconds, mut after) = (self.seconds(), 0_i64);
        self.probe(&sql, &[(&Vec::<i64>::new(), Type::INT8_ARRAY), (&seconds, Type::FLOAT8)])
            .await?;
        let batch = i64::try_from(self.prune.batch).unwrap_or(i64::MAX);
        loop {
            let known: Vec<i64> = self.known.within(RECORDS, (0, u64::MAX), u64::cast_signed);
            let listed: [(&(dyn ToSql + Sync), Type); 4] = [
                (&batch, Type::INT8),
                (&seconds, Type::FLOAT8),
                (&after, Type::INT8),
                (&known, Type::INT8_ARRAY),
            ];
            let rows = self.client.query_typed(&list, &listed).await.map_err(|e| classify(&e))?;
            let seqs: Vec<i64> =
                rows.iter().map(|row| column(row, "seq")).collect::<Result<_, _>>()?;
            let Some(last) = seqs.last() else { break };
            after = *last;
            self.records(&sql, seqs, report).await?;
            if rows.len() < self.prune.batch {
                break;
            }
            self.pace.pause(self.prune.pause).await;
        }
        self.tell(report, "records of parked events").await
    }

    /// Halves what fails, until what cannot go stands alone.
    async fn records(
        &mut self,
        sql: &str,
        seqs: Vec<i64>,
        report: &mut TableReport,
    ) -> Result<(), Fault> {
        let seconds = self.seconds();
        let mut work = vec![seqs];
        while let Some(seqs) = work.pop() {
            let parameters: [(&(dyn ToSql + Sync), Type); 2] =
                [(&seqs, Type::INT8_ARRAY), (&seconds, Type::FLOAT8)];
            match self.statement(sql, &parameters).await? {
                Outcome::Done(row) => report.parked += count(&row)?,
                Outcome::Locked => {}
                Outcome::Refused(error) => match seqs.as_slice() {
                    [seq] => {
                        self.known.add(RECORDS, seq.cast_unsigned());
                        self.stuck.add(&error, Some(format!("seq {seq}")));
                    }
                    _ if self.is_over() => self.stuck.add(&error, None),
                    _ => {
                        let (one, other) = seqs.split_at(seqs.len() / 2);
                        work.extend([one.to_vec(), other.to_vec()]);
                    }
                },
            }
        }
        Ok(())
    }

    /// Rows whose mark is old: of the table, or of all partitions that are not dropped whole.
    pub(super) async fn marked(
        &mut self,
        parts: &Partitions,
        report: &mut TableReport,
    ) -> Result<(), Fault> {
        let relation = self.target.relation.to_string();
        let heaps =
            query(self.client, &sql::render(sql::TABLE_LEAVES, &[("relation", &relation)])?)
                .await?;
        for heap in heaps {
            let (schema, name): (String, String) =
                (column(&heap, "schema")?, column(&heap, "name")?);
            if parts.is_dropped_whole(&schema, &name) {
                continue;
            }
            let names = [("schema", schema.as_str()), ("table", name.as_str())];
            let sql = self.target.render(sql::PRUNE_UPDATE, &names)?;
            let heap_of = Heap { schema: &schema, name: &name, id: &self.target.id };
            self.walk(&sql, heap_of, column(&heap, "pages")?, report).await?;
        }
        self.tell(report, "rows").await
    }

    /// Old marks of `pgoutbox.relayed`, and their rows.
    pub(super) async fn marked_beside(
        &mut self,
        parts: &Partitions,
        report: &mut TableReport,
    ) -> Result<(), Fault> {
        let sql = "SELECT 'pgoutbox.relayed'::regclass::oid::text AS oid";
        let rows = query(self.client, sql).await?;
        let oid: String = rows.first().map_or(Ok(String::new()), |row| column(row, "oid"))?;
        let heaps =
            query(self.client, &sql::render(sql::TABLE_LEAVES, &[("relation", &oid)])?).await?;
        let blocks = heaps.first().map_or(Ok(0), |heap| column(heap, "pages"))?;
        let whole = parts.dropped_whole();
        let sql = self.target.render(sql::PRUNE_SIDE_TABLE, &[("whole", &whole)])?;
        let heap = Heap { schema: "pgoutbox", name: "relayed", id: "id" };
        self.walk(&sql, heap, blocks, report).await?;
        self.tell(report, "rows").await
    }

    /// Once over all blocks that there are now. There is no index on the mark, on purpose: so the
    /// place where the last batch ended is remembered instead. It begins anywhere, so that what
    /// stops it halfway does not keep it from the same rows each time.
    async fn walk(
        &mut self,
        sql: &str,
        heap: Heap<'_>,
        blocks: i64,
        report: &mut TableReport,
    ) -> Result<(), Fault> {
        let blocks = u64::try_from(blocks).unwrap_or(0);
        let (batch, seconds) = (self.batch(), self.seconds());
        let none = tid(0);
        self.probe(sql, &tids(&none, &none, &batch, &seconds, &Vec::new())).await?;
        self.pace.blocks.expect(blocks);
        let ranges = blocks.div_ceil(BLOCKS);
        let first = fastrand::u64(0..ranges.max(1));
        for number in 0..ranges {
            if number > 0 {
                self.pace.pause(self.prune.pause).await;
            }
            let from = (first + number) % ranges * BLOCKS;
            let range = (from * PLACES, (from + BLOCKS).min(blocks) * PLACES);
            self.range(sql, heap, range, report).await?;
        }
        Ok(())
    }

    /// One range of places. Where a statement fails, its range is halved until the row that cannot
    /// go stands alone.
    async fn range(
        &mut self,
        sql: &str,
        heap: Heap<'_>,
        range: (u64, u64),
        report: &mut TableReport,
    ) -> Result<(), Fault> {
        let (batch, seconds) = (self.batch(), self.seconds());
        let title = format!("{}.{}", heap.schema, heap.name);
        let mut work = vec![range];
        while let Some((from, to)) = work.pop() {
            let (first, last) = (tid(from), tid(to));
            let known = self.known.within(&title, (from, to), tid);
            match self.statement(sql, &tids(&first, &last, &batch, &seconds, &known)).await? {
                Outcome::Locked => self.passed(from, to),
                Outcome::Done(row) => {
                    let rows = count(&row)?;
                    report.rows += rows;
                    self.pace.rows.advance(rows);
                    if self.is_dry || rows < self.prune.batch as u64 {
                        self.passed(from, to);
                        continue;
                    }
                    // More may wait in the block that the last one was in.
                    let block = column::<i64>(&row, "last_block")?;
                    let next = (u64::try_from(block).unwrap_or(0) * PLACES).max(from);
                    self.passed(from, next);
                    work.push((next, to));
                    self.pace.pause(self.prune.pause).await;
                }
                Outcome::Refused(error) if to - from == 1 => {
                    let id = self.id_at(heap, &first).await?;
                    self.known.add(&title, from);
                    self.stuck.add(&error, Some(id.unwrap_or(first)));
                }
                Outcome::Refused(error) if self.is_over() => self.stuck.add(&error, None),
                Outcome::Refused(_) => {
                    let middle = middle(from, to);
                    let halves = [(from, middle), (middle, to)];
                    // Whichever first, so that neither is always behind what ends the search.
                    let [one, other] = halves;
                    work.extend(if fastrand::bool() { [one, other] } else { [other, one] });
                }
            }
        }
        Ok(())
    }

    /// Whole blocks are counted: a range that was halved within one counts for none.
    fn passed(&self, from: u64, to: u64) {
        self.pace.blocks.advance((to - from) / PLACES);
    }

    async fn id_at(&self, heap: Heap<'_>, place: &str) -> Result<Option<String>, Fault> {
        let variables =
            [("schema", heap.schema), ("table", heap.name), ("id", heap.id), ("place", place)];
        let rows = query(self.client, &sql::render(sql::PRUNE_ROW, &variables)?).await?;
        rows.first().map_or(Ok(None), |row| column(row, "id"))
    }

    /// What fails without any row fails for all of them: no row is to blame.
    async fn probe(&self, sql: &str, nothing: &Parameters<'_>) -> Result<(), Fault> {
        match self.statement(sql, nothing).await? {
            Outcome::Done(_) | Outcome::Locked => Ok(()),
            Outcome::Refused(error) => Err(self.explain(classify(&error))),
        }
    }

    /// Runs one statement. A dry one is taken back.
    async fn statement(&self, sql: &str, parameters: &Parameters<'_>) -> Result<Outcome, Fault> {
        if self.is_dry {
            execute(self.client, "BEGIN; SET CONSTRAINTS ALL IMMEDIATE").await?;
        }
        let outcome = self.client.query_typed(sql, parameters).await;
        if self.is_dry {
            execute(self.client, "ROLLBACK").await?;
        }
        let error = match outcome {
            Ok(mut rows) => {
                let nothing = || Fault::transient("a statement of pruning answered nothing");
                return rows.pop().map(Outcome::Done).ok_or_else(nothing);
            }
            Err(error) => error,
        };
        // With a context it is of a trigger, or of a key: of a row. Rows that are locked themselves are
        // passed over.
        let has_context = error.as_db_error().is_some_and(|error| error.where_().is_some());
        match error.code() {
            None => Err(classify(&error)),
            Some(&SqlState::LOCK_NOT_AVAILABLE) if !has_context => Ok(Outcome::Locked),
            Some(_) if self.client.is_closed() => Err(classify(&error)),
            Some(_) => Ok(Outcome::Refused(error)),
        }
    }

    /// Whether no more is tried to find out which row it is.
    fn is_over(&mut self) -> bool {
        self.failures += 1;
        self.failures > FAILURES
    }

    async fn tell(&mut self, report: &mut TableReport, what: &str) -> Result<(), Fault> {
        let stuck = std::mem::take(&mut self.stuck);
        report.troubles.extend(stuck.troubles(self.client, self.target, what).await?);
        Ok(())
    }

    fn explain(&self, fault: Fault) -> Fault {
        if !fault.is_code(codes::INSUFFICIENT_PRIVILEGE) {
            return fault;
        }
        Fault::definite(
            fault.what,
            "run sql/grants/prune.sql, which `pgoutbox schema --audit-role NAME --stream-role NAME` prints too",
        )
    }

    /// A dry statement counts all, since it deletes none.
    fn batch(&self) -> i64 {
        if self.is_dry { i64::MAX } else { i64::try_from(self.prune.batch).unwrap_or(i64::MAX) }
    }

    fn seconds(&self) -> f64 {
        self.keep.as_secs_f64()
    }
}

/// Where rows are walked over, and what names one of them.
#[derive(Clone, Copy)]
struct Heap<'a> {
    schema: &'a str,
    name: &'a str,
    id: &'a str,
}

fn tids<'a>(
    from: &'a String,
    to: &'a String,
    batch: &'a i64,
    seconds: &'a f64,
    known: &'a Vec<String>,
) -> [(&'a (dyn ToSql + Sync), Type); 5] {
    [
        (from, Type::TEXT),
        (to, Type::TEXT),
        (batch, Type::INT8),
        (seconds, Type::FLOAT8),
        (known, Type::TEXT_ARRAY),
    ]
}

fn count(row: &Row) -> Result<u64, Fault> {
    Ok(u64::try_from(column::<i64>(row, "rows")?).unwrap_or(0))
}
