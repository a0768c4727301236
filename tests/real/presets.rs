//! Tables that other libraries made: their own DDL, rows as they write them, and all that their consumers read
//! of a message. Each lives through a stream, a failure, a retry and a lost slot, and the library's own
//! queries say what is true of its rows.

mod cap;
mod debezium;
mod eventuate;
mod openoutbox;
mod pg_transactional_outbox;
mod phoenix_micro;
mod structus;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use harness::consumer::{self, Consumer, Delivery, QueueType};
use harness::relay::Relay;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, ExchangeKind};

use crate::bare::{arrived, id};
use crate::check::{Checks as _, paste};
use crate::setting::{PATIENCE, Setting};

/// What a library's consumers declare and bind their queue to.
#[derive(Clone)]
struct Exchange {
    name: &'static str,
    kind: ExchangeKind,
    is_durable: bool,
    binding: &'static str,
}

impl Exchange {
    fn topic(name: &'static str, binding: &'static str) -> Self {
        Self { name, kind: ExchangeKind::Topic, is_durable: true, binding }
    }

    async fn declare(&self, channel: &lapin::Channel) -> Result<()> {
        let options = ExchangeDeclareOptions { durable: self.is_durable, ..Default::default() };
        let (name, kind) = (self.name.into(), self.kind.clone());
        Ok(channel.exchange_declare(name, kind, options, FieldTable::default()).await?)
    }
}

/// A library's table with its preset, and a consumer.
struct World {
    setting: Setting,
    consumer: Consumer,
    seen: usize,
}

impl World {
    /// The library's table is there before anything of pgoutbox is; the exchange is its consumers'.
    async fn new(
        preset: &str,
        ddl: &str,
        exchange: Exchange,
        more: &[(&str, &str)],
    ) -> Result<Self> {
        let mut setting = Setting::bare()
            .await?
            .set("tables.0.preset", preset)
            .set("parking.max_attempts", "2")
            .set("parking.backoff_min", "1h")
            .set("parking.backoff_max", "1h");
        for (key, value) in more {
            setting = setting.set(&format!("tables.0.{key}"), value);
        }
        setting.sql(ddl).await?;
        exchange.declare(&setting.channel().await?).await?;
        let consumer = consumer::Options {
            queue_type: QueueType::Classic,
            exchange: exchange.name.to_owned(),
            declare_exchange: false,
            binding: exchange.binding.to_owned(),
            ..Default::default()
        };
        let consumer = Consumer::start(&setting.amqp_url, consumer).await?;
        setting.program.succeed(&["init"]).await?;
        Ok(Self { setting, consumer, seen: 0 })
    }

    async fn sql(&self, sql: &str) -> Result<()> {
        self.setting.sql(sql).await.with_context(|| sql.to_owned())
    }

    /// The message that comes next.
    async fn next(&mut self, relay: &Relay) -> Result<Delivery> {
        let came = arrived(&self.consumer, self.seen + 1).await.with_context(|| relay.log())?;
        let next = came.get(self.seen).context("a delivery")?.clone();
        self.seen += 1;
        Ok(next)
    }

    /// What a query of the library's own says, sooner or later.
    async fn says(&self, relay: &Relay, sql: &str) -> Result<()> {
        self.setting.until(sql, sql).await.with_context(|| relay.log())
    }

    /// The queue of the consumer takes more.
    async fn bind(&self, exchange: &str, key: &str) -> Result<()> {
        let channel = self.setting.channel().await?;
        let options = QueueBindOptions::default();
        let bound = channel.queue_bind(
            "consumer".into(),
            exchange.into(),
            key.into(),
            options,
            FieldTable::default(),
        );
        Ok(bound.await?)
    }

    /// An event that nobody listens to fails twice, which ends its tries; then somebody does, and it is
    /// delivered. `once` and `ended` are what its row says meanwhile.
    async fn fails(
        &mut self,
        relay: &Relay,
        insert: &str,
        (exchange, key): (&str, &str),
        [once, ended]: [&str; 2],
    ) -> Result<Delivery> {
        let parked = |state: &str| {
            format!("SELECT count(*) = 1 FROM pgoutbox.parked WHERE state = '{state}'")
        };
        let retry = ["parked", "retry", "--all"];
        self.sql(insert).await?;
        self.says(relay, &parked("parked")).await?;
        self.says(relay, once).await?;
        self.setting.program.succeed(&retry).await?;
        self.says(relay, &parked("failed")).await?;
        self.says(relay, ended).await?;
        self.bind(exchange, key).await?;
        self.setting.program.succeed(&retry).await?;
        let delivery = self.next(relay).await?;
        self.says(relay, "SELECT count(*) = 0 FROM pgoutbox.parked").await?;
        Ok(delivery)
    }

    /// The slot is lost, and these rows are written meanwhile: the ids of their messages as they come.
    async fn catches_up(
        &mut self,
        relay: Relay,
        inserts: &[String],
    ) -> Result<(Relay, Vec<String>)> {
        relay.drain(PATIENCE).await?;
        self.sql("SELECT pg_drop_replication_slot(current_database())").await?;
        for insert in inserts {
            self.sql(insert).await?;
        }
        let relay = self.setting.run()?;
        let mut ids = Vec::new();
        for _ in inserts {
            ids.push(id(&self.next(&relay).await?));
        }
        Ok((relay, ids))
    }

    /// Nothing came twice, and nothing else did.
    async fn ends(self, relay: Relay) -> Result<()> {
        relay.drain(PATIENCE).await?;
        ensure!(self.consumer.total() == self.seen, "{} of {}", self.consumer.total(), self.seen);
        Ok(())
    }
}

/// All of a message but its place in commit order.
struct Message<'a> {
    routing_key: &'a str,
    /// Without the headers; the delivery mode is always persistent.
    properties: BasicProperties,
    headers: Vec<(&'a str, AMQPValue)>,
    body: &'a [u8],
}

impl Message<'_> {
    /// Each property, each header with its type, each byte of the body.
    fn judge(&self, delivery: &Delivery) -> Result<()> {
        let came = &delivery.properties;
        let headers = came.headers().clone().unwrap_or_default();
        let mut headers: BTreeMap<String, AMQPValue> =
            headers.inner().iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
        for place in ["pgoutbox-commit-lsn", "pgoutbox-index"] {
            ensure!(headers.remove(place).is_some(), "no {place}");
        }
        let wanted: BTreeMap<String, AMQPValue> =
            self.headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        ensure!(headers == wanted, "{headers:#?}\nnot {wanted:#?}");
        let bare = |it: &BasicProperties| it.clone().with_headers(FieldTable::default());
        let (came, wanted) = (bare(came), bare(&self.properties).with_delivery_mode(2));
        ensure!(came == wanted, "{came:?}\nnot {wanted:?}");
        ensure!(delivery.routing_key == self.routing_key, "{}", delivery.routing_key);
        let shown = String::from_utf8_lossy(&delivery.body);
        ensure!(delivery.body == self.body, "{shown}");
        Ok(())
    }
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// A relay of the preset's name, each with its library's table.
const MADE: [(&str, &str); 6] = [
    ("phoenix_micro", phoenix_micro::DDL),
    ("structus", structus::DDL),
    ("debezium", debezium::DDL),
    ("eventuate", eventuate::DDL),
    ("cap", cap::DDL),
    ("openoutbox", openoutbox::DDL),
];

/// What `schema` prints is all that such a table needs, roles and their grants with it; and `config` says of
/// whom a setting is.
#[tokio::test]
async fn what_schema_prints_makes_a_relay_of_the_librarys_table() -> Result<()> {
    for (preset, ddl) in MADE {
        let setting = Setting::bare().await?.set("tables.0.preset", preset);
        setting.sql(ddl).await?;
        let [stream, audit] = ["stream", "audit"].map(|it| format!("{it}_{}", setting.database));
        let roles = ["schema", "--stream-role", &stream, "--audit-role", &audit];
        let schema = setting.program.succeed(&roles).await?;
        ensure!(!schema.contains("CREATE TABLE IF NOT EXISTS \"public\""), "{schema}");
        paste(&setting.database_url, &schema).await.context(preset)?;
        let checked = setting.check().await?;
        let errors = checked.to_string();
        let errors = errors.lines().filter(|line| line.contains("\"severity\":\"error\""));
        let errors: Vec<&str> = errors.filter(|line| !line.contains("exchange")).collect();
        ensure!(errors.is_empty(), "{preset}: {errors:#?}");
        let shown = setting.program.succeed(&["config", "--json"]).await?;
        let shown: serde_json::Value = serde_json::from_str(&shown)?;
        let origin = &shown["tables.0.name"]["origin"];
        ensure!(*origin == format!("preset {preset}"), "{preset}: {origin}");
        let own = setting.clone().set("tables.0.content_type", "text/plain");
        let shown = own.program.succeed(&["config", "--json"]).await?;
        let shown: serde_json::Value = serde_json::from_str(&shown)?;
        ensure!(shown["tables.0.content_type"]["value"] == "text/plain", "{shown}");
    }
    Ok(())
}

/// It is not for pgoutbox to make somebody else's table.
#[tokio::test]
async fn a_table_that_is_missing_is_named_with_what_makes_it() -> Result<()> {
    let setting = Setting::bare().await?;
    for (preset, maker) in [
        ("phoenix_micro", "mix phoenix_micro.gen.migration"),
        ("structus", "MessageOutboxRepository"),
        ("debezium", "outbox event router"),
        ("pg_transactional_outbox", "dropAndCreateTable"),
        ("eventuate", "2.initialize-database.sql"),
        ("cap", "UsePostgreSql"),
        ("openoutbox", "open-outbox.sql"),
    ] {
        let output = setting.program.output(&["init", "--preset", preset]).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1), "{preset}: {said}");
        for part in ["does not exist", "hint: ", maker] {
            ensure!(said.contains(part), "{preset}: {said}");
        }
    }
    let tables = "SELECT count(*) = 0 FROM pg_tables WHERE schemaname = 'public'";
    ensure!(setting.ask::<bool>(tables).await?);
    Ok(())
}
