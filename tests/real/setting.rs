//! One test's own corner of the shared servers: a database, a vhost, a slot.

use std::time::Duration;

use anyhow::Result;
use harness::consumer::{self, Consumer};
use harness::relay::{Pgoutbox, Relay};
use harness::{checker, shared, workload};

/// How long anything may take on a busy machine before the test has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone)]
/// A database with the outbox, a vhost with the exchange, and the program set up for both.
pub struct Setting {
    pub database: String,
    pub vhost: String,
    pub database_url: String,
    pub amqp_url: String,
    pub program: Pgoutbox,
}

impl Setting {
    /// On the servers that all tests share: for tests that do not break them.
    pub async fn shared() -> Result<Self> {
        let (postgres, rabbitmq) = tokio::try_join!(shared::postgres(), shared::rabbitmq())?;
        let (database, vhost) = (postgres.create_database().await?, rabbitmq.add_vhost().await?);
        let (database_url, amqp_url) = (postgres.url(&database), rabbitmq.url(&vhost));
        Self::of(database, vhost, database_url, amqp_url).await
    }

    /// On the servers behind these URLs. The slot is named after the database: slots are the
    /// whole server's.
    pub async fn of(
        database: String,
        vhost: String,
        database_url: String,
        amqp_url: String,
    ) -> Result<Self> {
        let program = program(&database, &database_url, &amqp_url);
        program.succeed(&["init", "--declare"]).await?;
        Ok(Self { database, vhost, database_url, amqp_url, program })
    }

    pub async fn consumer(&self) -> Result<Consumer> {
        let options = consumer::Options { declare_exchange: false, ..Default::default() };
        Consumer::start(&self.amqp_url, options).await
    }

    pub fn run(&self) -> Result<Relay> {
        self.program.spawn(&["run"])
    }

    pub async fn client(&self) -> Result<tokio_postgres::Client> {
        harness::postgres::connect(&self.database_url).await
    }

    /// Runs SQL in the test's database.
    pub async fn sql(&self, sql: &str) -> Result<()> {
        Ok(self.client().await?.batch_execute(sql).await?)
    }

    /// Waits until every row is marked.
    pub async fn all_marked(&self) -> Result<()> {
        let client = self.client().await?;
        harness::wait_until("all rows are marked", PATIENCE, async || {
            Ok(checker::unmarked(&client, workload::Options::default().table.as_str()).await? == 0)
        })
        .await
    }
}

/// The program under test, with its slot named after the database.
pub fn program(database: &str, database_url: &str, amqp_url: &str) -> Pgoutbox {
    Pgoutbox::at(env!("CARGO_BIN_EXE_pgoutbox"))
        .env("DATABASE_URL", database_url)
        .env("AMQP_URL", amqp_url)
        .env("PGOUTBOX_POSTGRES__SLOT", database)
}
