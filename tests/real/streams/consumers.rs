//! Consumers of a super stream that share its partitions: one of them active for each, and the others behind it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use harness::relay::{Pgoutbox, Relay};

use super::STREAM;
use super::partitioned::{spread, write};
use crate::recipes::made_once;
use crate::setting::{PATIENCE, Setting};

pub(super) fn python() -> Result<PathBuf> {
    const PACKAGES: [&str; 2] = ["rstream==1.0.1", "psycopg[binary]==3.3.9"];
    let folder = made_once("streams-python", |folder| {
        let mut install = Command::new("sh");
        let steps = "python3 -m venv \"$0\" && \"$0/bin/python\" -m pip install --quiet \"$@\"";
        install.args(["-c", steps]).arg(folder).args(PACKAGES);
        install
    })?;
    Ok(folder.join("bin/python"))
}

async fn consumer(setting: &Setting, port: u16) -> Result<Relay> {
    let python = tokio::task::spawn_blocking(python).await??;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real/streams/single_active.py");
    Pgoutbox::at(python)
        .env("DATABASE_URL", &setting.database_url)
        .env("AMQP_URL", &setting.amqp_url)
        .env("STREAM_PORT", port.to_string())
        .env("SUPER_STREAM", STREAM)
        .spawn(&[&script.to_string_lossy()])
}

/// One of two is killed in the middle: the other goes on with its partitions, from the event behind the last that
/// was handled. Each event is handled once, those of an aggregate in their order.
#[tokio::test]
async fn one_that_is_killed_leaves_its_partitions_to_the_other() -> Result<()> {
    const ROWS: i64 = 600;
    let (rabbitmq, setting) = spread(3).await?;
    if rabbitmq.version().starts_with("3.10.") {
        // It has no single active consumers for streams; `tests/matrix.sh` runs this on a newer one.
        return Ok(());
    }
    let tables =
        "CREATE TABLE handled (n bigint GENERATED ALWAYS AS IDENTITY, message_id text PRIMARY KEY,
                      aggregate_id text NOT NULL, consumer integer NOT NULL);
                  CREATE TABLE offsets (stream text PRIMARY KEY, next bigint NOT NULL)";
    setting.sql(tables).await?;
    let mut consumers = Vec::new();
    for _ in 0..2 {
        consumers.push(consumer(&setting, rabbitmq.stream_port()).await?);
    }
    let logs = |consumers: &[Relay]| consumers.iter().map(Relay::log).collect::<String>();
    let handled = async |count: i64, consumers: &[Relay]| {
        let sql = format!("SELECT count(*) >= {count} FROM handled");
        setting.until("events to be handled", &sql).await.with_context(|| logs(consumers))
    };
    let relay = setting.run()?;
    write(&setting, 1..=ROWS / 2).await?;
    handled(ROWS / 6, &consumers).await?;
    consumers.remove(0).kill9().await?;
    write(&setting, ROWS / 2 + 1..=ROWS).await?;
    handled(ROWS, &consumers).await?;
    relay.drain(PATIENCE).await?;
    // By their numbers, which their ids are.
    let inverted = "SELECT count(*) FROM (
            SELECT message_id < lag(message_id) OVER (PARTITION BY aggregate_id ORDER BY n) AS is_inverted
              FROM handled) AS one WHERE is_inverted";
    assert_eq!(setting.ask::<i64>(inverted).await?, 0, "{}", logs(&consumers));
    assert_eq!(setting.ask::<i64>("SELECT count(*) FROM handled").await?, ROWS);
    Ok(())
}
