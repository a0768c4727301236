//! One transaction against the outbox.

use std::time::SystemTime;

use anyhow::{Result, anyhow};
use serde_json::json;
use tokio_postgres::{Client, Error, Statement};
use uuid::Uuid;

use super::{Ledger, Mix, Options, aggregate_id, ledger::Event};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Single,
    Several,
    RolledBack,
    Savepoints,
    Large,
}

impl Kind {
    pub(super) fn draw(mix: Mix) -> Kind {
        let weights = [
            (Kind::Single, mix.single),
            (Kind::Several, mix.several),
            (Kind::RolledBack, mix.rolled_back),
            (Kind::Savepoints, mix.savepoints),
            (Kind::Large, mix.large),
        ];
        let mut left =
            fastrand::u32(0..weights.iter().map(|(_, weight)| weight).sum::<u32>().max(1));
        for (kind, weight) in weights {
            if left < weight {
                return kind;
            }
            left -= weight;
        }
        Kind::Single
    }
}

/// A connection with the insert prepared.
pub(super) struct Session<'a> {
    pub(super) client: Client,
    insert: Statement,
    options: &'a Options,
}

/// What a transaction has done so far.
#[derive(Default)]
pub(super) struct Transaction {
    written: Vec<(Uuid, String, i64)>,
    rolled_back: Vec<Uuid>,
    /// An insert whose answer has not come.
    pending: Vec<Uuid>,
    /// Set once the server may have committed.
    commit_sent: Option<SystemTime>,
}

impl Transaction {
    /// It ended as intended.
    pub(super) fn settle(self, ledger: &mut Ledger) {
        let (committed, rolled_back) = (&mut ledger.committed, &mut ledger.rolled_back);
        rolled_back.extend(self.rolled_back);
        match self.commit_sent {
            Some(commit_sent) => committed.extend(
                self.written
                    .into_iter()
                    .map(|(id, aggregate, n)| (id, Event { aggregate, n, commit_sent })),
            ),
            None => rolled_back.extend(self.written.into_iter().map(|(id, ..)| id)),
        }
    }

    /// Its connection was lost.
    pub(super) fn lose(self, ledger: &mut Ledger) {
        ledger.rolled_back.extend(self.rolled_back);
        let open = self.written.into_iter().map(|(id, ..)| id).chain(self.pending);
        match self.commit_sent {
            Some(commit_sent) => ledger.unknown.extend(open.map(|id| (id, commit_sent))),
            None => ledger.rolled_back.extend(open),
        }
    }
}

impl<'a> Session<'a> {
    pub(super) async fn new(client: Client, options: &'a Options) -> Result<Session<'a>, Error> {
        let insert = client.prepare(&insert_sql(&options.table)).await?;
        Ok(Session { client, insert, options })
    }

    pub(super) async fn run(&self, kind: Kind, doing: &mut Transaction) -> Result<()> {
        match kind {
            Kind::Single => {
                // The statement is its own transaction.
                doing.commit_sent = Some(SystemTime::now());
                return self.insert(doing, self.draw_aggregate(), 1).await;
            }
            Kind::Several | Kind::RolledBack => {
                self.begin().await?;
                for aggregate in self.draw_aggregates(3) {
                    self.insert(doing, aggregate, fastrand::usize(1..=5)).await?;
                }
            }
            Kind::Savepoints => self.savepoints(doing).await?,
            Kind::Large => {
                self.begin().await?;
                let aggregates = self.draw_aggregates(4);
                let each = self.options.large.div_ceil(aggregates.len());
                for aggregate in aggregates {
                    self.insert(doing, aggregate, each).await?;
                }
            }
        }
        if kind == Kind::RolledBack {
            return Ok(self.client.batch_execute("ROLLBACK").await?);
        }
        doing.commit_sent = Some(SystemTime::now());
        Ok(self.client.batch_execute("COMMIT").await?)
    }

    async fn savepoints(&self, doing: &mut Transaction) -> Result<()> {
        self.begin().await?;
        for aggregate in self.draw_aggregates(3) {
            self.insert(doing, aggregate, 1).await?;
            let before = doing.written.len();
            self.client.batch_execute("SAVEPOINT s").await?;
            self.insert(doing, aggregate, fastrand::usize(1..=3)).await?;
            if fastrand::bool() {
                self.client.batch_execute("ROLLBACK TO s").await?;
                let undone = doing.written.drain(before..).map(|(id, ..)| id);
                doing.rolled_back.extend(undone);
            } else {
                self.client.batch_execute("RELEASE s").await?;
            }
            self.insert(doing, aggregate, 1).await?;
        }
        Ok(())
    }

    async fn begin(&self) -> Result<()> {
        Ok(self.client.batch_execute("BEGIN").await?)
    }

    async fn insert(&self, doing: &mut Transaction, aggregate: usize, count: usize) -> Result<()> {
        let aggregate = aggregate_id(aggregate);
        let ids: Vec<Uuid> = (0..count).map(|_| Uuid::now_v7()).collect();
        doing.pending.clone_from(&ids);
        let event_type = *fastrand::choice(&["placed", "paid", "shipped"])
            .ok_or_else(|| anyhow!("no event type"))?;
        // With and without a topic and headers: both ways must work.
        let topic = fastrand::bool().then(|| format!("shop.order.{event_type}"));
        let headers = if fastrand::bool() {
            json!({"tenant": "acme", "priority": fastrand::u8(..), "trial": true})
        } else {
            json!({})
        };
        let filler = "x".repeat(self.options.payload_bytes);
        let rows = self
            .client
            .query(&self.insert, &[&aggregate, &ids, &event_type, &topic, &headers, &filler])
            .await?;
        doing.pending.clear();
        for (id, row) in ids.into_iter().zip(&rows) {
            doing.written.push((id, aggregate.clone(), row.try_get(0)?));
        }
        anyhow::ensure!(
            rows.len() == count,
            "inserted {} of {count} events of {aggregate}",
            rows.len()
        );
        Ok(())
    }

    fn draw_aggregate(&self) -> usize {
        fastrand::usize(0..self.options.aggregates)
    }

    /// In one order for everybody, or writers would deadlock.
    fn draw_aggregates(&self, most: usize) -> Vec<usize> {
        let mut drawn: Vec<usize> =
            (0..fastrand::usize(1..=most)).map(|_| self.draw_aggregate()).collect();
        drawn.sort_unstable();
        drawn.dedup();
        drawn
    }
}

fn insert_sql(table: &str) -> String {
    format!(
        "WITH next AS (
            UPDATE harness.aggregates SET n = n + cardinality($2::uuid[]) WHERE id = $1
            RETURNING n - cardinality($2::uuid[]) AS n
        )
        INSERT INTO {table}
            (id, aggregate_type, aggregate_id, event_type, topic, payload, headers, occurred_at)
        SELECT new.id, 'order', $1::text, $3::text, $4::text,
            jsonb_build_object('aggregate', $1::text, 'n', next.n + new.k, 'sent_at', clock_timestamp(),
                'filler', $6::text),
            $5::jsonb, clock_timestamp()
        FROM next, unnest($2::uuid[]) WITH ORDINALITY AS new (id, k)
        ORDER BY new.k
        RETURNING (payload->>'n')::bigint"
    )
}
