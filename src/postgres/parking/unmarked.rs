//! Records of events that are delivered, and whose marks are not known to be written.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio_postgres::{Error, Row, Statement};

use super::access::Access;
use super::locks::is_locked;
use super::refused_records::Write;
use crate::core::relay::marks::{Mark, Origin};

/// The statements, of one session.
pub(super) struct UnmarkedRecords {
    unmarked: Statement,
    marked: Statement,
    /// There may be some: an earlier session may have left them.
    may_be_some: AtomicBool,
}

impl UnmarkedRecords {
    pub(super) fn new(unmarked: Statement, marked: Statement) -> Self {
        Self { unmarked, marked, may_be_some: AtomicBool::new(true) }
    }

    /// A record is to stay behind its event.
    pub(super) fn expect_some(&self) {
        self.may_be_some.store(true, Ordering::Relaxed);
    }

    /// Their numbers, and the marks of those that have an id and whose table is configured.
    pub(super) async fn read(&self, access: Access<'_>) -> Result<Vec<(i64, Option<Mark>)>, Error> {
        if !self.may_be_some.swap(false, Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        let resting = access.unwritten.refused.passed_over();
        let rows = access.client.query(&self.unmarked, &[&access.scope.slot, &resting]).await?;
        if !(rows.is_empty() && resting.is_empty()) {
            // Looked at again, until there is none.
            self.may_be_some.store(true, Ordering::Relaxed);
        }
        let xid = |row: &Row, name| -> Result<Option<u32>, Error> {
            Ok(row.try_get::<_, Option<i64>>(name)?.and_then(|xid| u32::try_from(xid).ok()))
        };
        let one = |row: &Row| {
            let table = access.scope.table(row.try_get("outbox")?);
            let id: Option<String> = row.try_get("event_id")?;
            let occurred_at: Option<String> = row.try_get("occurred_at")?;
            let origin = Origin {
                xid: xid(row, "xid")?,
                xid_end: xid(row, "xid_end")?,
                occurred_at: occurred_at.map(String::into_boxed_str),
            };
            // What has no row has no mark.
            let is_row = row.try_get::<_, u32>("outbox")? != 0;
            let mark = id.filter(|_| is_row);
            let mark = mark.map(|id| Mark::new(None, table, id, None).from(origin));
            Ok((row.try_get("seq")?, mark))
        };
        // Those of a table that is configured no longer stay as they are.
        let is_configured = |one: &Result<(i64, Option<Mark>), Error>| match one {
            Ok((_, Some(mark))) => mark.table < access.scope.oids.len(),
            Ok((_, None)) | Err(_) => true,
        };
        rows.iter().map(one).filter(is_configured).collect()
    }

    /// The marks of these are written: their records end.
    pub(super) async fn end(&self, access: Access<'_>, seqs: &[i64]) -> Result<(), Error> {
        match access.client.execute(&self.marked, &[&seqs]).await {
            Err(error) if is_locked(&error) => return Err(error),
            Err(error) if error.as_db_error().is_some() => {}
            outcome => {
                outcome?;
                seqs.iter().for_each(|seq| access.unwritten.refused.forget(*seq));
                return Ok(());
            }
        }
        // One at a time, since one of them cannot go.
        for seq in seqs {
            match access.client.execute(&self.marked, &[&vec![*seq]]).await {
                Err(error) if error.as_db_error().is_some() => {
                    access.unwritten.refused.put_off(*seq, Write::Marked, &error);
                }
                outcome => {
                    outcome?;
                    access.unwritten.refused.forget(*seq);
                }
            }
        }
        Ok(())
    }
}
