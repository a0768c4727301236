//! Wrong addresses, names, rights and rows: on the servers that all tests share.

use anyhow::{Context, Result, ensure};
use harness::events::event;
use harness::shared;

use super::{Fault, Scene, Told, degraded, down, print};
use crate::check::Checks as _;
use crate::setting::{PATIENCE, Setting};

pub const ALL: [Fault; 20] = [
    down("role of Postgres missing", "role-missing"),
    down("database missing", "postgres-database"),
    down("wrong port of Postgres", "postgres-connection"),
    down("name of Postgres not resolved", "postgres-connection"),
    down("TLS asked of a Postgres without it", "tls-certificate"),
    down("wrong password at RabbitMQ", "broker-login"),
    down("virtual host missing", "broker-vhost"),
    down("wrong port of RabbitMQ", "broker-connection"),
    down("name of RabbitMQ not resolved", "broker-connection"),
    down("TLS on the plain port of RabbitMQ", "broker-connection"),
    down("publication missing", "publication-missing"),
    down("table missing", "table-missing"),
    down("column missing", "column-missing"),
    Fault {
        cause: "postgres-disk-full",
        check: "postgres-disk-full",
        ..down("no room on Postgres' disk", "")
    },
    degraded("slot taken by another relay", "standby", ""),
    down("slot taken by another program", "slot-in-use"),
    Fault { cause: "table-locked", ..degraded("table locked", "marks_refused", "table-locked") },
    degraded("no queue takes the event", "parked_events", ""),
    degraded("exchange missing", "parked_events", "exchange-missing"),
    degraded("event that makes no message", "parked_events", ""),
];

fn fault(name: &str) -> Result<&'static Fault> {
    ALL.iter().find(|fault| fault.name == name).with_context(|| name.to_owned())
}

/// Begins with these settings, and so never comes to run.
async fn never_runs(name: &str, set: &[(&str, &str)]) -> Result<Told> {
    let setting = Setting::shared().await?;
    let postgres = shared::postgres().await?;
    let rabbitmq = shared::rabbitmq().await?;
    let free = harness::free_port()?;
    let mut broken = setting.clone();
    for (key, value) in set {
        let value = value
            .replace("{database}", &setting.database)
            .replace("{vhost}", &setting.vhost)
            .replace("{pg}", &postgres.port().to_string())
            .replace("{mq}", &rabbitmq.port().to_string())
            .replace("{free}", &free.to_string());
        broken = broken.set(key, &value);
    }
    let scene = Scene::begin(&broken)?;
    setting.insert(event(1, "t")).await?;
    let told = scene.tells(fault(name)?).await;
    scene.relay.kill9().await?;
    told
}

#[tokio::test]
async fn what_postgres_cannot_be_reached_by_has_one_name() -> Result<()> {
    let told = [
        never_runs(
            "role of Postgres missing",
            &[("postgres.url", "postgres://nobody_here@127.0.0.1:{pg}/{database}")],
        )
        .await?,
        never_runs(
            "database missing",
            &[("postgres.url", "postgres://postgres@127.0.0.1:{pg}/not_there")],
        )
        .await?,
        never_runs(
            "wrong port of Postgres",
            &[("postgres.url", "postgres://postgres@127.0.0.1:{free}/{database}")],
        )
        .await?,
        never_runs(
            "name of Postgres not resolved",
            &[("postgres.url", "postgres://postgres@postgres.invalid:{pg}/{database}")],
        )
        .await?,
        never_runs(
            "TLS asked of a Postgres without it",
            &[("postgres.url", "postgres://postgres@127.0.0.1:{pg}/{database}?sslmode=require")],
        )
        .await?,
    ];
    print("postgres", &told)
}

#[tokio::test]
async fn what_rabbitmq_cannot_be_reached_by_has_one_name() -> Result<()> {
    let told = [
        never_runs(
            "wrong password at RabbitMQ",
            &[("amqp.url", "amqp://guest:wrong@127.0.0.1:{mq}/{vhost}")],
        )
        .await?,
        never_runs(
            "virtual host missing",
            &[("amqp.url", "amqp://guest:guest@127.0.0.1:{mq}/not_there")],
        )
        .await?,
        never_runs(
            "wrong port of RabbitMQ",
            &[("amqp.url", "amqp://guest:guest@127.0.0.1:{free}/{vhost}")],
        )
        .await?,
        never_runs(
            "name of RabbitMQ not resolved",
            &[("amqp.url", "amqp://guest:guest@rabbitmq.invalid:{mq}/{vhost}")],
        )
        .await?,
        never_runs(
            "TLS on the plain port of RabbitMQ",
            &[("amqp.url", "amqps://guest:guest@127.0.0.1:{mq}/{vhost}")],
        )
        .await?,
    ];
    print("rabbitmq", &told)
}

/// Runs, and then somebody changes the database.
async fn is_changed(name: &str, sql: &str) -> Result<Told> {
    let setting = Setting::shared().await?;
    let scene = Scene::running(&setting).await?;
    setting.sql(sql).await?;
    let told = scene.tells(fault(name)?).await;
    scene.relay.kill9().await?;
    told
}

#[tokio::test]
async fn what_somebody_changed_has_one_name() -> Result<()> {
    let told = [
        is_changed("publication missing", "DROP PUBLICATION pgoutbox").await?,
        is_changed("table missing", "ALTER TABLE outbox_messages RENAME TO gone").await?,
        is_changed(
            "column missing",
            "ALTER TABLE outbox_messages RENAME payload TO body;
             INSERT INTO outbox_messages (topic, body) VALUES ('t', '{}')",
        )
        .await?,
        // The server's code for it, raised where the relay writes: a disk that is full takes a machine of its own.
        is_changed(
            "no room on Postgres' disk",
            "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$;
             CREATE TRIGGER no_room BEFORE INSERT OR UPDATE ON pgoutbox.progress FOR EACH ROW EXECUTE FUNCTION no_room();
             INSERT INTO outbox_messages (topic, payload) VALUES ('t', '{}')",
        )
        .await?,
    ];
    print("changed", &told)
}

/// Ended with the test, whatever becomes of that.
struct Reader(std::process::Child);

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_slot_that_another_program_reads_has_one_name() -> Result<()> {
    let (postgres, setting) = (shared::postgres().await?, Setting::shared().await?);
    let mut program = postgres.program("pg_recvlogical");
    let (slot, url) = (&setting.database, &setting.database_url);
    program.args(["--dbname", url, "--slot", slot, "--start", "--file", "/dev/null"]);
    program.args(["--option", "proto_version=1", "--option", "publication_names=pgoutbox"]);
    let reader = Reader(program.spawn()?);
    let is_read = format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{slot}'");
    setting.until("the slot to be read", &is_read).await?;
    let _consumer = setting.consumer().await?;
    let scene = Scene::begin(&setting)?;
    let told = scene.tells(fault("slot taken by another program")?).await?;
    drop(reader);
    scene.is_ready().await?;
    setting.insert(event(1, "t")).await?;
    setting.all_marked().await?;
    scene.relay.kill9().await?;
    print("slot", &[told])
}

#[tokio::test]
async fn a_table_that_is_locked_has_one_name() -> Result<()> {
    let setting = Setting::shared().await?;
    let _consumer = setting.consumer().await?;
    let scene = Scene::running(&setting).await?;
    // Its event is delivered behind the lock's back.
    scene.relay.sigstop()?;
    setting.insert(event(1, "t")).await?;
    let locker = setting.client().await?;
    locker.batch_execute("BEGIN; LOCK outbox_messages").await?;
    scene.relay.sigcont()?;
    let told = scene.tells(fault("table locked")?).await?;
    setting.check().await?.has("table-locked", "warning");
    locker.batch_execute("COMMIT").await?;
    setting.all_marked().await?;
    let log = scene.relay.log();
    ensure!(log.matches("can be marked").count() == 1, "one line for one fault: {log}");
    ensure!(!log.contains("shows its tries"), "{log}");
    scene.relay.kill9().await?;
    print("lock", &[told])
}

#[tokio::test]
async fn what_concerns_some_events_has_one_name() -> Result<()> {
    let mut told = Vec::new();
    let setting = Setting::shared().await?.set("parking.backoff_min", "5m");
    let leader = Scene::running(&setting).await?;
    let standby = Scene::begin(&setting)?;
    standby.relay.reaches("standby", PATIENCE).await?;
    told.push(standby.tells(fault("slot taken by another relay")?).await?);
    standby.relay.kill9().await?;
    // No queue is bound.
    setting.insert(event(1, "nowhere")).await?;
    told.push(leader.tells(fault("no queue takes the event")?).await?);
    leader.relay.kill9().await?;

    let setting = Setting::shared().await?.set("parking.backoff_min", "5m");
    let wrong = setting.clone().set("tables.0.exchange", "not_there");
    let scene = Scene::running(&wrong).await?;
    setting.insert(event(1, "t")).await?;
    told.push(scene.tells(fault("exchange missing")?).await?);
    scene.relay.kill9().await?;

    let setting = Setting::shared().await?.set("parking.backoff_min", "5m");
    let _consumer = setting.consumer().await?;
    let scene = Scene::running(&setting).await?;
    // A routing key has 255 bytes.
    setting.insert(event(1, &"k".repeat(300))).await?;
    told.push(scene.tells(fault("event that makes no message")?).await?);
    scene.relay.kill9().await?;
    print("events", &told)
}
