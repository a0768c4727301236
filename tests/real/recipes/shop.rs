//! A shop whose orders are shipped by consumers in another process: `examples/`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use harness::events::{Events, counted};
use harness::relay::{Pgoutbox, Relay};
use harness::wait_until;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;

use super::{made_once, step};
use crate::setting::{PATIENCE, Setting};

pub(super) struct Shop {
    pub(super) setting: Setting,
    _folder: tempfile::TempDir,
}

impl Shop {
    /// With queues as a block of the manual has them.
    pub(super) async fn of_page(block: &str, changed: (&str, &str)) -> Result<Self> {
        let toml = step("consuming.md", block)?;
        ensure!(toml.contains(changed.0), "no {:?} in {block}", changed.0);
        Self::new(&toml.replace(changed.0, changed.1)).await
    }

    pub(super) async fn new(toml: &str) -> Result<Self> {
        let mut setting = Setting::bare().await?;
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("pgoutbox.toml");
        std::fs::write(&file, toml)?;
        setting.env("PGOUTBOX_CONFIG", &file.to_string_lossy());
        setting.sql(&std::fs::read_to_string(example("tables.sql"))?).await?;
        setting.init().await?;
        Ok(Self { setting, _folder: folder })
    }

    /// A program with the shop's servers in its environment.
    pub(super) fn program(&self, program: impl Into<PathBuf>) -> Result<Pgoutbox> {
        let url: tokio_postgres::Config = self.setting.database_url.parse()?;
        let port = url.get_ports().first().copied().unwrap_or(5432);
        let (user, database) = (url.get_user().unwrap_or("postgres"), &self.setting.database);
        let jdbc = format!("jdbc:postgresql://127.0.0.1:{port}/{database}?user={user}");
        Ok(Pgoutbox::at(program)
            .env("DATABASE_URL", &self.setting.database_url)
            .env("AMQP_URL", &self.setting.amqp_url)
            .env("JDBC_URL", jdbc))
    }

    /// The consumer in Python.
    pub(super) async fn consumer(&self, env: &[(&str, &str)]) -> Result<Relay> {
        let python = tokio::task::spawn_blocking(python).await??;
        let program =
            env.iter().fold(self.program(python)?, |it, (name, value)| it.env(name, value));
        program.spawn(&[&example("python/consumer.py").to_string_lossy()])
    }

    /// Steps of ten orders, each in a transaction of its own.
    pub(super) async fn paid(&self, steps: std::ops::RangeInclusive<i64>) -> Result<()> {
        self.setting.insert(paid(steps, "n % 10")).await
    }

    pub(super) async fn shipped(&self, count: i64, told: &[&Relay]) -> Result<()> {
        let client = self.setting.client().await?;
        let what = format!("{count} shipments");
        let waited = wait_until(&what, PATIENCE, async || {
            let shipped: i64 =
                client.query_one("SELECT count(*) FROM shipments", &[]).await?.get(0);
            ensure!(shipped >= count, "{shipped} are there");
            Ok(true)
        });
        waited.await.with_context(|| told.iter().map(|it| it.log()).collect::<String>())
    }

    /// Each step once, those of an order in their order.
    pub(super) async fn in_order(&self, count: i64) -> Result<()> {
        let shipped: i64 = self.setting.ask("SELECT count(*) FROM shipments").await?;
        assert_eq!(shipped, count, "shipments");
        let wrong =
            "SELECT count(*) FROM shipments AS first JOIN shipments AS later USING (order_id)
                      WHERE first.seq < later.seq AND first.step >= later.step";
        assert_eq!(self.setting.ask::<i64>(wrong).await?, 0, "out of order");
        Ok(())
    }

    /// How many messages a queue holds that nobody has taken.
    pub(super) async fn holds(&self, queue: &str) -> Result<u32> {
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let channel = self.setting.channel().await?;
        Ok(channel
            .queue_declare(queue.into(), options, FieldTable::default())
            .await?
            .message_count())
    }
}

/// Events of an order that an expression over their number names.
pub(super) fn paid(steps: std::ops::RangeInclusive<i64>, order: &str) -> Events {
    counted(steps)
        .topic("order.paid")
        .column("aggregate_type", "'order'")
        .column("aggregate_id", &format!("({order})::text"))
        .column("payload", &format!("jsonb_build_object('order', {order}, 'step', n)"))
}

pub(super) fn example(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(path)
}

/// With what the examples ask for.
pub(super) fn python() -> Result<PathBuf> {
    const PACKAGES: [&str; 3] = ["pika==1.4.4", "psycopg[binary]==3.3.9", "cloudevents==2.2.0"];
    let folder = made_once("examples-python", |folder| {
        let mut install = Command::new("sh");
        let steps = "python3 -m venv \"$0\" && \"$0/bin/python\" -m pip install --quiet \"$@\"";
        install.args(["-c", steps]).arg(folder).args(PACKAGES);
        install
    })?;
    Ok(folder.join("bin/python"))
}
