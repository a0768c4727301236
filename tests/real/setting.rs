//! One test's own corner of the shared servers: a database, a vhost, a slot.

use std::time::Duration;

use anyhow::{Context, Result};
use harness::checker::{self, Verdict};
use harness::consumer::{self, Consumer};
use harness::postgres::{self, Postgres};
use harness::rabbitmq::{self, RabbitMq};
use harness::relay::{Pgoutbox, Relay};
use harness::workload::{self, Ledger};
use harness::{shared, wait_until};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

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

    /// With a Postgres of its own, to be broken, and the broker that all tests share.
    pub async fn own_postgres() -> Result<(Postgres, Self)> {
        let own = Postgres::start(postgres::Options::default());
        let (postgres, rabbitmq) = tokio::try_join!(own, shared::rabbitmq())?;
        let (database, vhost) = (postgres.create_database().await?, rabbitmq.add_vhost().await?);
        let (database_url, amqp_url) = (postgres.url(&database), rabbitmq.url(&vhost));
        let setting = Self::of(database, vhost, database_url, amqp_url).await?;
        Ok((postgres, setting))
    }

    /// On the shared Postgres, and with a broker that no other test uses meanwhile.
    pub async fn own_rabbitmq() -> Result<(MutexGuard<'static, RabbitMq>, Self)> {
        let (postgres, rabbitmq) = tokio::try_join!(shared::postgres(), breakable())?;
        let (database, vhost) = (postgres.create_database().await?, rabbitmq.add_vhost().await?);
        let (database_url, amqp_url) = (postgres.url(&database), rabbitmq.url(&vhost));
        let setting = Self::of(database, vhost, database_url, amqp_url).await?;
        Ok((rabbitmq, setting))
    }

    /// The program with one more setting, by its variable.
    pub fn env(&mut self, name: &str, value: &str) {
        self.program = self.program.clone().env(name, value);
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
        program.succeed(&["init", "--declare", "--set", "amqp.connect_timeout=60s"]).await?;
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

    /// Rows without their mark.
    pub async fn unmarked(&self) -> Result<usize> {
        checker::unmarked(&self.client().await?, &workload::Options::default().table).await
    }

    /// Waits until every row is marked.
    pub async fn all_marked(&self) -> Result<()> {
        wait_until("all rows are marked", PATIENCE, async || Ok(self.unmarked().await? == 0)).await
    }

    /// Waits for what was committed, drains the relay and judges. Every promise but the number
    /// of repeats must be kept.
    pub async fn judge(
        &self,
        ledger: &Ledger,
        consumer: Consumer,
        relay: &Relay,
        repeats_allowed: usize,
    ) -> Result<Verdict> {
        let came = consumer.wait_distinct(ledger.committed.len(), PATIENCE).await;
        came.with_context(|| relay.log())?;
        relay.drain(PATIENCE).await?;
        let verdict = checker::check(ledger, &consumer.finish(), self.unmarked().await?);
        let broken = verdict.broken(repeats_allowed);
        anyhow::ensure!(broken.is_empty(), "{broken:?}\n{verdict}\n{}", relay.log());
        Ok(verdict)
    }
}

/// A broker that tests break, one after the other: a node takes seconds to start.
async fn breakable() -> Result<MutexGuard<'static, RabbitMq>> {
    static RABBITMQ: OnceCell<Mutex<RabbitMq>> = OnceCell::const_new();
    let start = async || -> Result<Mutex<RabbitMq>> {
        let options = rabbitmq::Options { spare_vhosts: 16, ..Default::default() };
        Ok(Mutex::new(RabbitMq::start(options).await?))
    };
    let rabbitmq = RABBITMQ.get_or_try_init(start).await?.lock().await;
    if !rabbitmq.is_running() {
        // The test before failed while it was down.
        rabbitmq.start_again().await?;
    }
    Ok(rabbitmq)
}

/// A load that the relay keeps up with in a debug build, until it is stopped.
pub fn steady() -> workload::Options {
    workload::Options {
        until: workload::Until::Stopped,
        pause: Duration::from_millis(20),
        large: 300,
        ..Default::default()
    }
}

/// The program under test, with its slot named after the database.
pub fn program(database: &str, database_url: &str, amqp_url: &str) -> Pgoutbox {
    Pgoutbox::at(env!("CARGO_BIN_EXE_pgoutbox"))
        .env("DATABASE_URL", database_url)
        .env("AMQP_URL", amqp_url)
        .env("PGOUTBOX_POSTGRES__SLOT", database)
}
