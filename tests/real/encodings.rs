//! Databases of other encodings than UTF-8.

use anyhow::{Context, Result};
use harness::corner::Corner;
use harness::shared;

use crate::bare::{arrived, ids, text};
use crate::check::Checks as _;
use crate::replay::Replays as _;
use crate::setting::{PATIENCE, Setting};

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
        let url = postgres.url(&database);
        Self::in_corner(Corner { database, url }, rabbitmq).await
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
        // Its hash of a text is another than the relay's, which knows it as UTF-8.
        let can_filter = "SELECT current_setting('server_version_num')::int >= 150000";
        if encoding != "SQL_ASCII" && setting.ask(can_filter).await? {
            let spread = setting.set("postgres.shards", "2").set("postgres.shard", "0");
            spread.check().await?.has("shards-hash", "error");
        }
    }
    Ok(())
}

/// A row of a list that cannot be read is corrected before the list is through, and the relay starts again: it was not
/// sent, and is not marked as if.
#[tokio::test]
async fn a_listed_row_that_is_corrected_is_not_taken_for_delivered() -> Result<()> {
    let setting = Setting::of_encoding("SQL_ASCII").await?;
    let setting = setting.set("tables.0.on_failure", "block").set("session.backoff_max", "300ms");
    setting
        .sql("CREATE TABLE outbox_messages (id text PRIMARY KEY, topic text, payload text, relayed_at timestamptz)")
        .await?;
    setting.sql(r"INSERT INTO outbox_messages VALUES ('1', 'here', E'\xff'), ('2', 'here', 'two'), ('3', 'late', 'three')").await?;
    setting.init().await?;
    let consumer = setting.bound("here").await?;
    let relay = setting.run()?;
    let settled = "SELECT settled = 2 FROM pgoutbox.progress";
    setting.until("a place behind them", settled).await.with_context(|| relay.log())?;
    setting.sql("UPDATE outbox_messages SET payload = 'one' WHERE id = '1'").await?;
    relay.kill9().await?;
    let relay = setting.run()?;
    setting.bind("late").await?;
    let came = arrived(&consumer, 2).await.with_context(|| relay.log())?;
    assert_eq!(ids(&came), ["2", "3"]);
    let marks =
        "SELECT array_agg(id ORDER BY id) = '{1}' FROM outbox_messages WHERE relayed_at IS NULL";
    setting.until("the marks of the others", marks).await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await?;
    assert!(setting.ask::<bool>(marks).await?, "{}", relay.log());
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
    relay.drain(PATIENCE).await?;
    // Such rows of a catch-up's list, among others.
    setting.sql("SELECT pg_drop_replication_slot(current_database())").await?;
    setting
        .sql(
            r"INSERT INTO outbox_messages VALUES ('11', 'here', E'\xff'), ('12', 'here', 'twelve'),
                  (E'\xe4\xe4', 'here', 'x'), ('13', 'here', E'\xfe'), ('14', 'here', 'fourteen')",
        )
        .await?;
    let relay = setting.run()?;
    let came = arrived(&consumer, 4).await.with_context(|| relay.log())?;
    assert_eq!(ids(&came), ["1", "5", "12", "14"]);
    relay.reaches("running", PATIENCE).await?;
    // With the one whose record could not keep its id.
    assert_eq!(relay.log().matches("a row that waits cannot be read").count(), 4);
    relay.drain(PATIENCE).await?;
    // And of a replay: each is named, and the others are sent.
    let told = setting.replay(1, &["--id", "11", "--id", "12", "--id", "13", "--id", "14"]).await?;
    assert!(told.contains("2 delivered, 2 refused") && told.contains("refused  11"), "{told}");
    assert_eq!(ids(&arrived(&consumer, 6).await?)[4..], ["12", "14"]);
    Ok(())
}

/// A column that is worked out when a row is read, and raises for some.
#[tokio::test]
async fn a_row_that_raises_when_it_is_read_stops_no_other() -> Result<()> {
    if shared::postgres().await?.version() < 18 {
        // Before, no column is worked out when it is read.
        return Ok(());
    }
    let setting = Setting::bare().await?;
    setting
        .sql(
            "CREATE TABLE outbox_messages (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, topic text, payload text,
                 n int, share int GENERATED ALWAYS AS (100 / n) VIRTUAL, relayed_at timestamptz)",
        )
        .await?;
    setting.init().await?;
    let consumer = setting.bound("here").await?;
    setting.sql("SELECT pg_drop_replication_slot(current_database())").await?;
    setting
        .sql("INSERT INTO outbox_messages (topic, payload, n) SELECT 'here', 'x', n FROM unnest('{1,0,2,3,0,4}'::int[]) AS n")
        .await?;
    let relay = setting.run()?;
    let came = arrived(&consumer, 4).await.with_context(|| relay.log())?;
    assert_eq!(ids(&came), ["1", "3", "4", "6"]);
    relay.reaches("running", PATIENCE).await?;
    assert_eq!(relay.log().matches("a row that waits cannot be read").count(), 2);
    relay.drain(PATIENCE).await?;
    let told = setting.replay(1, &["--all"]).await?;
    assert!(told.contains("4 delivered, 2 refused"), "{told}");
    Ok(())
}

/// The server converts no content of a message: `pgoutbox.emit` writes UTF-8 whatever the database has, and
/// what others write in another encoding is no envelope.
#[tokio::test]
async fn what_is_emitted_in_any_encoding_arrives_as_utf_8() -> Result<()> {
    for (encoding, word, is_utf_8) in [
        ("LATIN1", "f\u{fc}r", false),
        ("WIN1252", "\u{20ac} f\u{fc}r", false),
        ("EUC_JP", "\u{65e5}\u{672c}", false),
        ("SQL_ASCII", "\u{65e5}\u{672c} f\u{fc}r", true),
    ] {
        let setting = Setting::of_encoding(encoding).await?.set("messages.0.prefix", "orders");
        setting.init().await.with_context(|| encoding)?;
        let consumer = setting.bound("#").await?;
        let relay = setting.run()?;
        let more = format!(
            "topic => 't', aggregate_type => '{word}', aggregate_id => '{word}', headers => '{{\"w\": \"{word}\"}}'"
        );
        setting
            .sql(&format!(
                "SELECT pgoutbox.emit('orders', jsonb '{{\"w\": \"{word}\"}}', {more}, id => '{word} 1');
                 SELECT pgoutbox.emit('orders', '{word}'::text, {more}, id => '{word} 2');
                 SELECT pg_logical_emit_message(true, 'orders', '{{\"id\": \"{word} 3\", \"topic\": \"t\", \"payload\": \"{word}\"}}');
                 SELECT pgoutbox.emit('orders', '{word}'::text, {more}, id => '{word} 4')"
            ))
            .await?;
        let numbers: &[u32] = if is_utf_8 { &[1, 2, 3, 4] } else { &[1, 2, 4] };
        let came = arrived(&consumer, numbers.len()).await.with_context(|| relay.log())?;
        let wanted: Vec<_> = numbers.iter().map(|n| format!("{word} {n}")).collect();
        assert_eq!(ids(&came), wanted, "{encoding}");
        assert_eq!(came[0].json()?["w"], word, "{encoding}");
        assert_eq!(String::from_utf8_lossy(&came[1].body), word, "{encoding}");
        for name in ["w", "aggregate_type", "aggregate_id"] {
            assert_eq!(text(&came[0], name), Some(word), "{encoding}: {name}");
        }
        let parked = i64::from(!is_utf_8);
        let parked = format!("SELECT count(*) = {parked} FROM pgoutbox.parked");
        setting.until("what is not UTF-8 to be parked", &parked).await.with_context(|| encoding)?;
        relay.drain(PATIENCE).await?;
    }
    Ok(())
}
