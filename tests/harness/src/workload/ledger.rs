//! What the writers know of what they wrote.

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use anyhow::Result;
use tokio_postgres::Client;
use uuid::Uuid;

#[derive(Clone, Debug)]
pub struct Event {
    pub aggregate: String,
    /// Rises by one in commit order within the aggregate.
    pub n: i64,
    /// When the commit was asked for: a delay measured from here is never flattered.
    pub commit_sent: SystemTime,
}

#[derive(Debug, Default)]
pub struct Ledger {
    pub committed: HashMap<Uuid, Event>,
    /// Of whole transactions and of savepoints.
    pub rolled_back: HashSet<Uuid>,
    /// The connection died while the commit was under way. Empty once resolved.
    pub unknown: HashMap<Uuid, SystemTime>,
}

impl Ledger {
    /// Of rows that a test wrote itself, all of them committed: `n` in their payload is the commit order.
    pub async fn of_rows(client: &Client, table: &str) -> Result<Ledger> {
        let sql = format!("SELECT id, payload->>'aggregate', (payload->>'n')::bigint FROM {table}");
        let commit_sent = SystemTime::now();
        let mut ledger = Ledger::default();
        for row in client.query(&sql, &[]).await? {
            let event = Event { aggregate: row.try_get(1)?, n: row.try_get(2)?, commit_sent };
            ledger.committed.insert(row.try_get(0)?, event);
        }
        Ok(ledger)
    }

    pub(super) async fn resolve(&mut self, client: &Client, table: &str) -> Result<()> {
        let ids: Vec<Uuid> = self.unknown.keys().copied().collect();
        let sql = format!(
            "SELECT id, payload->>'aggregate', (payload->>'n')::bigint FROM {table} WHERE id = ANY($1)"
        );
        for row in client.query(&sql, &[&ids]).await? {
            let id = row.try_get(0)?;
            if let Some(commit_sent) = self.unknown.remove(&id) {
                let event = Event { aggregate: row.try_get(1)?, n: row.try_get(2)?, commit_sent };
                self.committed.insert(id, event);
            }
        }
        self.rolled_back.extend(self.unknown.drain().map(|(id, _)| id));
        Ok(())
    }
}
