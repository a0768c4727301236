//! One test's own corner of the servers, built step by step: a database, a vhost, a slot, settings of
//! the program, and then looks at what came of it.
//!
//! ```ignore
//! let setting = Setting::bare().await?.set("audit.mode", "delete");
//! setting.init().await?;
//! let consumer = setting.bound("#").await?;
//! let relay = setting.run()?;
//! ```
//!
//! Where nothing stands between these steps, [`Scenario`](crate::scenario::Scenario) says them at once.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use crate::checker::{self, Verdict};
use crate::consumer::{self, Consumer, Delivery, QueueType};
use crate::corner::Corner;
use crate::events::Events;
use crate::postgres::{self, Postgres};
use crate::rabbitmq::{self, RabbitMq};
use crate::relay::{Pgoutbox, Relay};
use crate::workload::{self, Ledger, Workload};
use crate::{shared, wait_for, wait_until};

/// How long anything may take on a busy machine before the test has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A database with the outbox, a vhost with the exchange, and the program set up for both.
#[derive(Clone)]
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
        let setting = Self::bare().await?;
        setting.init().await?;
        Ok(setting)
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
        let (corner, rabbitmq) = tokio::try_join!(Corner::new(), breakable())?;
        let setting = Self::in_corner(corner, &rabbitmq).await?;
        setting.init().await?;
        Ok((rabbitmq, setting))
    }

    /// On the shared Postgres, and with a broker that has streams and that no other test uses meanwhile: the
    /// relay's events go to a stream of this name.
    pub async fn streaming(stream: &str) -> Result<(MutexGuard<'static, RabbitMq>, Self)> {
        let (corner, rabbitmq) = tokio::try_join!(Corner::new(), streams())?;
        let setting = Self::in_corner(corner, &rabbitmq).await?.into_stream(stream, &rabbitmq);
        setting.init().await?;
        Ok((rabbitmq, setting))
    }

    /// Likewise, with a Postgres of its own, to be broken too.
    pub async fn streaming_from_own_postgres(
        stream: &str,
    ) -> Result<(Postgres, MutexGuard<'static, RabbitMq>, Self)> {
        let own = Postgres::start(postgres::Options::default());
        let (postgres, rabbitmq) = tokio::try_join!(own, streams())?;
        let (database, vhost) = (postgres.create_database().await?, rabbitmq.add_vhost().await?);
        let (database_url, amqp_url) = (postgres.url(&database), rabbitmq.url(&vhost));
        let setting = Self::with(database, vhost, database_url, amqp_url);
        let setting = setting.into_stream(stream, &rabbitmq);
        setting.init().await?;
        Ok((postgres, rabbitmq, setting))
    }

    fn into_stream(self, stream: &str, rabbitmq: &RabbitMq) -> Self {
        self.set("tables.0.sink", "stream")
            .set("tables.0.stream", stream)
            .set("amqp.stream_port", &rabbitmq.stream_port().to_string())
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
        let setting = Self::with(database, vhost, database_url, amqp_url);
        setting.init().await?;
        Ok(setting)
    }

    /// On the servers behind these URLs, where nothing is made.
    #[must_use]
    pub fn with(database: String, vhost: String, database_url: String, amqp_url: String) -> Self {
        let program = program(&database, &database_url, &amqp_url);
        Self { database, vhost, database_url, amqp_url, program }
    }

    /// On the shared Postgres, where nothing is made, and with a vhost of this broker.
    pub async fn in_corner(corner: Corner, rabbitmq: &RabbitMq) -> Result<Self> {
        let vhost = rabbitmq.add_vhost().await?;
        let (database, url, amqp_url) =
            (corner.database.clone(), corner.url.clone(), rabbitmq.url(&vhost));
        let setting = Self::with(database, vhost, url, amqp_url);
        Ok(Self { program: setting.program.in_corner(corner), ..setting })
    }

    pub async fn consumer(&self) -> Result<Consumer> {
        let options = consumer::Options { declare_exchange: false, ..Default::default() };
        Consumer::start(&self.amqp_url, options).await
    }

    /// One that keeps no content: for what is too much to keep.
    pub async fn counting_consumer(&self) -> Result<Consumer> {
        let options = consumer::Options {
            declare_exchange: false,
            queue_type: QueueType::Classic,
            keep_content: false,
            ..Default::default()
        };
        Consumer::start(&self.amqp_url, options).await
    }

    pub fn run(&self) -> Result<Relay> {
        self.program.spawn(&["run"])
    }

    /// A relay that runs, and where it serves HTTP.
    pub async fn serve(&self) -> Result<(Relay, SocketAddr)> {
        let relay = self.run()?;
        let address = relay.http(PATIENCE).await?;
        relay.reaches("running", PATIENCE).await?;
        Ok((relay, address))
    }

    pub async fn client(&self) -> Result<tokio_postgres::Client> {
        postgres::connect(&self.database_url).await
    }

    /// Runs SQL in the test's database.
    pub async fn sql(&self, sql: &str) -> Result<()> {
        Ok(self.client().await?.batch_execute(sql).await?)
    }

    pub async fn insert(&self, events: Events) -> Result<()> {
        self.sql(&events.sql()).await
    }

    /// Rows without their mark.
    pub async fn unmarked(&self) -> Result<usize> {
        checker::unmarked(&self.client().await?, &workload::Options::default().table).await
    }

    /// Waits until every row is marked.
    pub async fn all_marked(&self) -> Result<()> {
        let (mut line, table) = (Line::to(self), workload::Options::default().table);
        wait_until("all rows are marked", PATIENCE, async || {
            Ok(checker::unmarked(line.client().await?, &table).await? == 0)
        })
        .await
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
        ensure!(broken.is_empty(), "{broken:?}\n{verdict}\n{}", relay.log());
        Ok(verdict)
    }

    /// [`Setting::judge`] once the load has come to its end.
    pub async fn judge_load(
        &self,
        mut load: Workload,
        consumer: Consumer,
        relay: &Relay,
        repeats_allowed: usize,
    ) -> Result<Verdict> {
        load.stop();
        self.judge(&load.finish().await?, consumer, relay, repeats_allowed).await
    }

    /// The slot passes all that is committed now.
    pub async fn is_acknowledged(&self, relay: &Relay) -> Result<()> {
        let lsn: String = self.ask("SELECT pg_current_wal_lsn()::text").await?;
        let passed = format!(
            "SELECT confirmed_flush_lsn >= '{lsn}' FROM pg_replication_slots WHERE slot_name = '{}'",
            self.database
        );
        self.until("the slot to pass", &passed).await.with_context(|| relay.log())
    }

    /// A database and a vhost with nothing in them yet, on the servers that all tests share.
    pub async fn bare() -> Result<Self> {
        let (corner, rabbitmq) = tokio::try_join!(Corner::new(), shared::rabbitmq())?;
        Self::in_corner(corner, rabbitmq).await
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

    /// `check` asks for `init`, which can be run twice.
    pub async fn init_is_due(&self) -> Result<()> {
        let output = self.program.output(&["check"]).await?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(!output.status.success() && told.contains("pgoutbox init"), "{told}");
        for _ in 0..2 {
            self.init().await?;
        }
        Ok(())
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
        let mut line = Line::to(self);
        wait_until(what, PATIENCE, async || Ok(line.ask(sql).await?)).await
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

    /// The consumer's queue has what is published under this key too.
    pub async fn bind(&self, key: &str) -> Result<()> {
        let channel = self.channel().await?;
        let (queue, exchange) = ("consumer".into(), "outbox".into());
        let options = QueueBindOptions::default();
        Ok(channel.queue_bind(queue, exchange, key.into(), options, FieldTable::default()).await?)
    }

    /// Waits for what the parking holds: numbers of ids and states, in commit order: `2 parked, 3 queued`.
    pub async fn parking_is(&self, relay: &Relay, want: &str) -> Result<()> {
        let sql = "SELECT coalesce(string_agg(coalesce(regexp_replace(event_id, '^[0-]+', ''), 'NULL') || ' ' || state, ', '
                                              ORDER BY seq), '')
                     FROM pgoutbox.parked";
        let mut line = Line::to(self);
        wait_until(&format!("the parking to be {want:?}"), PATIENCE, async || {
            let is: String = line.ask(sql).await?;
            ensure!(is == want, "it is {is:?}");
            Ok(true)
        })
        .await
        .with_context(|| relay.log())
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

    /// Another exchange, and a queue that takes what is published to it.
    pub async fn exchange(&self, name: &str) -> Result<()> {
        let options = consumer::Options {
            exchange: name.to_owned(),
            queue_type: QueueType::Classic,
            ..Default::default()
        };
        consumer::declare(&self.channel().await?, &options).await
    }

    /// A queue named `full` with room for one message, bound by this key: it refuses the next. The exchange is
    /// there already.
    pub async fn full_queue(&self, key: &str) -> Result<lapin::Channel> {
        let channel = self.channel().await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
        arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare("full".into(), options, arguments).await?;
        let (queue, exchange, options) =
            ("full".into(), "outbox".into(), QueueBindOptions::default());
        channel.queue_bind(queue, exchange, key.into(), options, FieldTable::default()).await?;
        Ok(channel)
    }

    /// A channel to declare, bind and publish with.
    pub async fn channel(&self) -> Result<lapin::Channel> {
        Ok(rabbitmq::connect(&self.amqp_url).await?.create_channel().await?)
    }
}

/// The connection of one wait: made once, and again where the server ended it.
struct Line<'a> {
    setting: &'a Setting,
    client: Option<tokio_postgres::Client>,
}

impl<'a> Line<'a> {
    fn to(setting: &'a Setting) -> Self {
        Self { setting, client: None }
    }

    async fn client(&mut self) -> Result<&tokio_postgres::Client> {
        self.client.take_if(|client| client.is_closed());
        if self.client.is_none() {
            self.client = Some(self.setting.client().await?);
        }
        self.client.as_ref().context("a connection")
    }

    async fn ask<T>(&mut self, sql: &str) -> Result<T>
    where
        T: for<'t> tokio_postgres::types::FromSql<'t>,
    {
        let row = self.client().await?.query_one(sql, &[]).await;
        Ok(row.with_context(|| sql.to_owned())?.try_get(0)?)
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

/// A broker with streams, for tests one after the other, which may break it.
async fn streams() -> Result<MutexGuard<'static, RabbitMq>> {
    static RABBITMQ: OnceCell<Mutex<RabbitMq>> = OnceCell::const_new();
    let start = async || -> Result<Mutex<RabbitMq>> {
        let options =
            rabbitmq::Options { spare_vhosts: 16, has_streams: true, ..Default::default() };
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
    Pgoutbox::at(binary())
        .env("DATABASE_URL", database_url)
        .env("AMQP_URL", amqp_url)
        .env("PGOUTBOX_POSTGRES__SLOT", database)
}

/// Waits for so many deliveries, repeats counted, and looks at all there are.
pub async fn arrived(consumer: &Consumer, count: usize) -> Result<Vec<Delivery>> {
    wait_for(&format!("{count} deliveries"), PATIENCE, async || {
        let all = consumer.deliveries(<[Delivery]>::to_vec);
        let last = ids(all.get(all.len().saturating_sub(20)..).unwrap_or_default());
        ensure!(all.len() >= count, "{} came, at last: {last:?}", all.len());
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

/// The binary that cargo has built for the test that runs: it says where at run time, newer ones at
/// least; it stands above the test's own.
pub fn binary() -> PathBuf {
    let told = std::env::var_os("CARGO_BIN_EXE_pgoutbox").map(PathBuf::from);
    let above = || Some(std::env::current_exe().ok()?.parent()?.parent()?.join("pgoutbox"));
    told.or_else(above).unwrap_or_else(|| "pgoutbox".into())
}
