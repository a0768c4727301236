//! What all parts of the store work with: the connection, whose slot it is, and what is known of records
//! that could not be written.

use postgres_types::ToSql;
use tokio_postgres::{Client, Error, Row, Statement};

use super::deferred::DeferredAttempts;
use super::locks::Locks;
use super::refused_records::RefusedRecords;
use crate::error::Fault;
use crate::postgres::column;

/// Whose events the store has: a slot's, for one session.
pub(super) struct Scope {
    pub(super) slot: String,
    pub(super) session: String,
    /// The outbox tables, in the order in which they are configured.
    pub(super) oids: Vec<u32>,
    /// Of messages, whose numbers are behind those of the tables.
    pub(super) prefixes: Vec<String>,
    pub(super) still_ours: Statement,
}

/// What the store knows of records that it could not write.
#[derive(Default)]
pub(super) struct UnwrittenRecords {
    pub(super) refused: RefusedRecords,
    pub(super) deferred: DeferredAttempts,
    pub(super) locks: Locks,
}

/// A connection, and what the parts of the store share.
#[derive(Clone, Copy)]
pub(super) struct Access<'a> {
    pub(super) client: &'a Client,
    pub(super) scope: &'a Scope,
    pub(super) unwritten: &'a UnwrittenRecords,
}

impl Access<'_> {
    /// Writes something outside the transaction of the marks, unless a later session owns the slot.
    /// `write` is not to wait for an answer before all of it is on the wire.
    pub(super) async fn alone<T>(
        self,
        write: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let Self { client, scope, .. } = self;
        let ours: [&(dyn ToSql + Sync); 2] = [&scope.slot, &scope.session];
        // The question last: whatever the write waits for, it holds up nobody who takes the slot over.
        let (begin, written, ours, commit) = tokio::join!(
            biased;
            client.batch_execute("BEGIN"),
            write,
            client.execute(&scope.still_ours, &ours),
            client.batch_execute("COMMIT"),
        );
        begin?;
        let written = written?;
        ours?;
        commit?;
        Ok(written)
    }

    /// Which events are not to be tried now.
    pub(super) fn passed_over(self) -> Vec<i64> {
        let mut those = self.unwritten.refused.passed_over();
        those.extend(self.unwritten.deferred.seqs());
        those
    }
}

impl Scope {
    /// Which of the configured sources a record is of.
    pub(super) fn source(&self, row: &Row) -> Result<usize, Fault> {
        let prefix: Option<String> = column(row, "prefix")?;
        let Some(prefix) = prefix else { return Ok(self.table(column(row, "outbox")?)) };
        let number = self.prefixes.iter().position(|known| *known == prefix);
        Ok(number.map_or(usize::MAX, |number| self.oids.len() + number))
    }

    /// The prefix of a source; `None` of a table.
    pub(super) fn prefix(&self, source: usize) -> Option<&str> {
        let number = source.checked_sub(self.oids.len())?;
        self.prefixes.get(number).map(String::as_str)
    }

    /// Which of the configured tables it is; of one that is no longer configured, the try says so.
    pub(super) fn table(&self, outbox: u32) -> usize {
        self.oids.iter().position(|oid| *oid == outbox).unwrap_or(usize::MAX)
    }
}
