//! Databases of other encodings than UTF-8.

use anyhow::{Context, Result};
use harness::shared;

use crate::bare::{arrived, ids};
use crate::check::Checks as _;
use crate::setting::{PATIENCE, Setting, program};

/// A database of another encoding.
trait Encoded: Sized {
    /// A database of this encoding, with nothing in it yet.
    async fn of_encoding(encoding: &str) -> Result<Self>;
}

impl Encoded for Setting {
    async fn of_encoding(encoding: &str) -> Result<Self> {
        let (postgres, rabbitmq) = tokio::try_join!(shared::postgres(), shared::rabbitmq())?;
        let database = format!("{}_{}", postgres.create_database().await?, encoding.to_lowercase());
        let create = format!(
            "CREATE DATABASE {database} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
        );
        postgres.execute("postgres", &create).await?;
        let vhost = rabbitmq.add_vhost().await?;
        let (database_url, amqp_url) = (postgres.url(&database), rabbitmq.url(&vhost));
        let program = program(&database, &database_url, &amqp_url);
        Ok(Self { database, vhost, database_url, amqp_url, program })
    }
}

/// `init`, the stream, the parking and a catch-up; what consumers get is UTF-8.
#[tokio::test]
async fn texts_of_any_encoding_arrive_as_utf_8() -> Result<()> {
    for (encoding, word) in [
        ("LATIN1", "f\u{fc}r"),
        ("WIN1252", "\u{20ac} f\u{fc}r"),
        ("EUC_JP", "\u{65e5}\u{672c}"),
        ("SQL_ASCII", "\u{65e5}\u{672c} f\u{fc}r"),
    ] {
        let setting = Setting::of_encoding(encoding).await?;
        let table = format!(
            "CREATE TABLE outbox_messages (id text PRIMARY KEY, topic text, payload text, aggregate_type text, aggregate_id text, \"{word}\" text, relayed_at timestamptz)"
        );
        setting.sql(&table).await?;
        setting.init().await.with_context(|| encoding)?;
        let consumer = setting.bound("here").await?;
        let insert = async |n: u32, topic: &str| {
            let values = format!("'{word} {n}', '{topic}', '{word} {n}', '{word}', '{word}'");
            let columns = "id, topic, payload, aggregate_type, aggregate_id";
            setting.sql(&format!("INSERT INTO outbox_messages ({columns}) VALUES ({values})")).await
        };
        let relay = setting.run()?;
        insert(1, "here").await?;
        insert(2, word).await?;
        let refused = "SELECT count(*) = 1 FROM pgoutbox.parked WHERE last_error IS NOT NULL";
        setting.until("one to be parked", refused).await.with_context(|| relay.log())?;
        insert(3, "here").await?;
        let parked = "SELECT count(*) = 2 FROM pgoutbox.parked WHERE last_error IS NOT NULL OR state = 'queued'";
        setting.until("two to be parked", parked).await.with_context(|| relay.log())?;
        setting.program.succeed(&["parked", "discard", "--all", "--yes", "--note", word]).await?;
        relay.drain(PATIENCE).await?;
        insert(4, "here").await?;
        setting.sql("SELECT pg_drop_replication_slot(current_database())").await?;
        let relay = setting.run()?;
        let came = arrived(&consumer, 2).await.with_context(|| relay.log())?;
        assert_eq!(ids(&came), [format!("{word} 1"), format!("{word} 4")], "{encoding}");
        assert!(came.iter().all(|d| d.body.starts_with(word.as_bytes())), "{encoding}: {came:?}");
        relay.drain(PATIENCE).await?;
    }
    Ok(())
}

/// Postgres takes any bytes for text there: the one event is parked, and the stream goes on.
#[tokio::test]
async fn bytes_that_are_no_text_park_their_event() -> Result<()> {
    let setting = Setting::of_encoding("SQL_ASCII").await?;
    setting
        .sql("CREATE TABLE outbox_messages (id text PRIMARY KEY, topic text, payload text, relayed_at timestamptz)")
        .await?;
    setting.init().await?;
    setting.check().await?.has("encoding", "warning");
    let consumer = setting.bound("here").await?;
    let relay = setting.run()?;
    setting
        .sql(
            r"INSERT INTO outbox_messages VALUES ('1', 'here', 'one'), ('2', 'here', E'\xff'),
                  ('3', E'\xfc', 'three'), (E'\xe4', 'here', 'four'), ('5', 'here', 'five')",
        )
        .await?;
    let came = arrived(&consumer, 2).await.with_context(|| relay.log())?;
    assert_eq!(ids(&came), ["1", "5"]);
    let parked = "SELECT count(*) = 3 FROM pgoutbox.parked WHERE reason = 'unreadable'";
    setting.until("three to be parked", parked).await?;
    relay.drain(PATIENCE).await
}
