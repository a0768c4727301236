//! Rows, a batch at a time.

use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use super::partitions::Parts;
use super::target::Target;
use crate::config::Prune;
use crate::error::Fault;
use crate::postgres::{classify, column, execute, query};
use crate::sql;

/// Blocks that one statement reads at most: 8 MiB.
const BLOCKS: i64 = 1024;

/// What deletes one table's rows.
pub(super) struct Work<'a> {
    pub(super) client: &'a Client,
    pub(super) prune: &'a Prune,
    pub(super) target: &'a Target,
    pub(super) keep: Duration,
    pub(super) is_dry: bool,
}

impl Work<'_> {
    /// Records of events done with, and their rows: before anything else, so that what goes on
    /// to look at rows need not ask for them.
    pub(super) async fn parked(&self) -> Result<u64, Fault> {
        let sql = self.target.render(sql::PRUNE_PARKED, &[])?;
        let mut total = 0;
        loop {
            let Some(row) = self.statement(&sql, &[&self.batch(), &self.seconds()]).await? else {
                return Ok(total);
            };
            let rows = count(&row)?;
            total += rows;
            if self.is_dry || rows < self.prune.batch as u64 {
                return Ok(total);
            }
            sleep(self.prune.pause).await;
        }
    }

    /// Rows whose mark is old: of the table, or of all partitions that are not dropped whole.
    pub(super) async fn marked(&self, parts: &Parts) -> Result<u64, Fault> {
        let relation = self.target.relation.to_string();
        let heaps =
            query(self.client, &sql::render(sql::HEAP, &[("relation", &relation)])?).await?;
        let mut total = 0;
        for heap in heaps {
            let (schema, name): (String, String) =
                (column(&heap, "schema")?, column(&heap, "name")?);
            if parts.is_dropped_whole(&schema, &name) {
                continue;
            }
            let names = [("schema", schema.as_str()), ("table", name.as_str())];
            let sql = self.target.render(sql::PRUNE_UPDATE, &names)?;
            total += self.walk(&sql, column(&heap, "blocks")?).await?;
        }
        Ok(total)
    }

    /// Old marks of `pgoutbox.relayed`, and their rows.
    pub(super) async fn marked_beside(&self, parts: &Parts) -> Result<u64, Fault> {
        let sql = "SELECT 'pgoutbox.relayed'::regclass::oid::text AS oid";
        let rows = query(self.client, sql).await?;
        let oid: String = rows.first().map_or(Ok(String::new()), |row| column(row, "oid"))?;
        let heaps = query(self.client, &sql::render(sql::HEAP, &[("relation", &oid)])?).await?;
        let blocks = heaps.first().map_or(Ok(0), |heap| column(heap, "blocks"))?;
        let default = parts.default_partition().to_string();
        let sql = self.target.render(sql::PRUNE_SIDE_TABLE, &[("default_partition", &default)])?;
        self.walk(&sql, blocks).await
    }

    /// Once over all blocks that there are now. There is no index on the mark, on purpose: so the
    /// place where the last batch ended is remembered instead.
    async fn walk(&self, sql: &str, blocks: i64) -> Result<u64, Fault> {
        let mut total = 0;
        let mut block = 0;
        while block < blocks {
            let stop = (block + BLOCKS).min(blocks);
            let (from, to) = (format!("({block},0)"), format!("({stop},0)"));
            let parameters: [&(dyn ToSql + Sync); 4] = [&from, &to, &self.batch(), &self.seconds()];
            let Some(row) = self.statement(sql, &parameters).await? else {
                block = stop;
                continue;
            };
            let rows = count(&row)?;
            total += rows;
            let is_full = !self.is_dry && rows >= self.prune.batch as u64;
            // More may wait in the block that the last one was in.
            block = if is_full { column::<i64>(&row, "last_block")?.max(block) } else { stop };
            if block < blocks {
                sleep(self.prune.pause).await;
            }
        }
        Ok(total)
    }

    /// Runs one statement; `None` where a lock stood in its way: at the next pass, then. A dry
    /// one is taken back.
    async fn statement(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, Fault> {
        if self.is_dry {
            execute(self.client, "BEGIN").await?;
        }
        let outcome = match self.client.prepare(sql).await {
            Ok(statement) => self.client.query_one(&statement, parameters).await,
            Err(error) => Err(error),
        };
        if self.is_dry {
            execute(self.client, "ROLLBACK").await?;
        }
        match outcome {
            Ok(row) => Ok(Some(row)),
            Err(error)
                if error.code() == Some(&tokio_postgres::error::SqlState::LOCK_NOT_AVAILABLE) =>
            {
                Ok(None)
            }
            Err(error) => Err(self.explain(classify(&error))),
        }
    }

    fn explain(&self, fault: Fault) -> Fault {
        if !fault.what.contains("42501") {
            return fault;
        }
        let what = format!("{}: {}", self.target.title(), fault.what);
        Fault::definite(
            what,
            "run sql/grants_prune.sql, which `pgoutbox schema --audit-role NAME --stream-role NAME` prints too",
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

fn count(row: &Row) -> Result<u64, Fault> {
    Ok(u64::try_from(column::<i64>(row, "rows")?).unwrap_or(0))
}
