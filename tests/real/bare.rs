//! A setting before `init`, with settings of its own, and looks at what came of it.

use anyhow::{Context, Result};
use harness::consumer::{self, Consumer, Delivery, QueueType};
use harness::{shared, wait_for, wait_until};
use lapin::types::AMQPValue;
use serde_json::Value;

use crate::setting::{PATIENCE, Setting, program};

impl Setting {
    /// A database and a vhost with nothing in them yet, on the servers that all tests share.
    pub async fn bare() -> Result<Self> {
        let (postgres, rabbitmq) = tokio::try_join!(shared::postgres(), shared::rabbitmq())?;
        let (database, vhost) = (postgres.create_database().await?, rabbitmq.add_vhost().await?);
        let (database_url, amqp_url) = (postgres.url(&database), rabbitmq.url(&vhost));
        let program = program(&database, &database_url, &amqp_url);
        Ok(Self { database, vhost, database_url, amqp_url, program })
    }

    /// One setting more, by its key in the file.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        let name = format!("PGOUTBOX_{}", key.replace('.', "__").to_uppercase());
        self.program = self.program.env(&name, value);
        self
    }

    pub async fn init(&self) -> Result<String> {
        self.program.succeed(&["init", "--declare", "--set", "amqp.connect_timeout=60s"]).await
    }

    /// `pgoutbox status --json`, whatever its exit code says.
    pub async fn status(&self) -> Result<Value> {
        let output = self.program.output(&["status", "--json"]).await?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// One value that SQL gives.
    pub async fn ask<T>(&self, sql: &str) -> Result<T>
    where
        T: for<'a> tokio_postgres::types::FromSql<'a>,
    {
        let row = self.client().await?.query_one(sql, &[]).await;
        Ok(row.with_context(|| sql.to_owned())?.try_get(0)?)
    }

    /// Waits until SQL says `true`.
    pub async fn until(&self, what: &str, sql: &str) -> Result<()> {
        let client = self.client().await?;
        wait_until(what, PATIENCE, async || Ok(client.query_one(sql, &[]).await?.try_get(0)?)).await
    }

    /// What comes of the exchange by this binding; the exchange is declared where it is not there.
    pub async fn bound(&self, binding: &str) -> Result<Consumer> {
        let options = consumer::Options {
            queue_type: QueueType::Classic,
            binding: binding.to_owned(),
            ..Default::default()
        };
        Consumer::start(&self.amqp_url, options).await
    }

    /// Puts the event of this number aside; for those who ask whether it is, not what it was.
    pub async fn put_aside(&self, number: u32, state: &str) -> Result<()> {
        self.sql(&format!(
            "INSERT INTO pgoutbox.parked (slot, outbox, event_id, commit_lsn, index, commit_time, state, is_holding, columns, cells)
             VALUES (current_database(), 'outbox_messages', '{}', '0/1', {number}, now(), '{state}', false, '[]', '{{}}')",
            uuid(number)
        ))
        .await
    }

    /// A channel to declare, bind and publish with.
    pub async fn channel(&self) -> Result<lapin::Channel> {
        Ok(harness::rabbitmq::connect(&self.amqp_url).await?.create_channel().await?)
    }
}

/// Waits for so many deliveries, repeats counted, and looks at all there are.
pub async fn arrived(consumer: &Consumer, count: usize) -> Result<Vec<Delivery>> {
    wait_for(&format!("{count} deliveries"), PATIENCE, async || {
        let all = consumer.deliveries(<[Delivery]>::to_vec);
        anyhow::ensure!(all.len() >= count, "{} came: {:?}", all.len(), ids(&all));
        Ok(Some(all))
    })
    .await
}

/// The `message_id`s, in the order in which they came.
pub fn ids(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(id).collect()
}

pub fn id(delivery: &Delivery) -> String {
    let id = delivery.properties.message_id().as_ref();
    id.map_or_else(String::new, |id| id.to_string())
}

/// A header that is text.
pub fn text<'a>(delivery: &'a Delivery, name: &str) -> Option<&'a str> {
    match delivery.header(name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        _ => None,
    }
}

/// An id that says where a row stands among others: `…0007`.
pub fn uuid(number: u32) -> String {
    format!("00000000-0000-0000-0000-{number:012}")
}
