//! The publication no longer brings the outbox into the stream: the relay stops, and
//! acknowledges nothing that may have passed it by.

use anyhow::{Context, Result};
use harness::postgres::slot_lag_bytes;
use harness::wait_until;
use tokio_postgres::Client;

use crate::setting::{PATIENCE, Setting};

const INSERT: &str =
    "INSERT INTO outbox_messages (aggregate_type, aggregate_id, event_type, payload)
    VALUES ('order', 'one', 'placed', '{\"aggregate\": \"one\", \"n\": 1}')";

/// Breaks the publication with `sql`, inserts an event, and sees the relay end with `says` and
/// `mend`, before that event.
async fn stops(sql: &str, says: &str, mend: &[&str]) -> Result<()> {
    let setting = Setting::shared().await?;
    let client = setting.client().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    client.batch_execute(INSERT).await?;
    consumer.wait_distinct(1, PATIENCE).await?;
    wait_until("the event to be acknowledged", PATIENCE, async || {
        Ok(slot_lag_bytes(&client, &setting.database).await? < 1_000_000)
    })
    .await?;
    setting.all_marked().await?;

    client.batch_execute(sql).await?;
    let before = position(&client, "pg_current_wal_insert_lsn()").await?;
    client.batch_execute(INSERT).await?;
    // Keepalives behind the event, which would take the slot past it.
    client
        .batch_execute(
            "CREATE TABLE other (n int); INSERT INTO other SELECT generate_series(1, 9999)",
        )
        .await?;
    let status = relay.wait_exit(PATIENCE).await?;
    let log = relay.log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains(says), "no {says:?} in:\n{log}");
    assert!(mend.iter().any(|mend| log.contains(mend)), "none of {mend:?} in:\n{log}");
    let slot = slot_of(&setting);
    let confirmed = position(&client, &slot).await?;
    assert!(confirmed <= before, "acknowledged {confirmed}, the event is behind {before}:\n{log}");
    assert_eq!(consumer.total(), 1, "an event came that the publication does not cover");

    // It does not come back by itself either, and says the same.
    let again = setting.run()?;
    let status = again.wait_exit(PATIENCE).await.context("the second start")?;
    println!("{sql}\n{}\n{}", log.lines().last().unwrap_or_default(), again.log());
    assert_eq!(status.code(), Some(1), "{}", again.log());
    assert!(position(&client, &slot).await? <= before, "{}", again.log());
    Ok(())
}

/// What the slot has acknowledged, for [`position`].
fn slot_of(setting: &Setting) -> String {
    let name = &setting.database;
    format!("(SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{name}')")
}

async fn position(client: &Client, lsn: &str) -> Result<i64> {
    Ok(client.query_one(&format!("SELECT ({lsn} - '0/0')::bigint"), &[]).await?.try_get(0)?)
}

/// Postgres 14 to 17 end the stream at the next row; 18 passes over the row in silence.
#[tokio::test]
async fn the_publication_is_dropped() -> Result<()> {
    // The stream's own error leaves it to `check` to say what is to be done.
    let says = "publication \"pgoutbox\" does not exist";
    stops("DROP PUBLICATION pgoutbox", says, &["pgoutbox init", "pgoutbox check"]).await
}

#[tokio::test]
async fn the_table_is_taken_out() -> Result<()> {
    let says = "publication \"pgoutbox\" does not cover public.outbox_messages";
    let mend = "ALTER PUBLICATION \"pgoutbox\" ADD TABLE \"public\".\"outbox_messages\"";
    stops("ALTER PUBLICATION pgoutbox DROP TABLE outbox_messages", says, &[mend]).await
}

#[tokio::test]
async fn the_table_is_dropped_and_made_again() -> Result<()> {
    let sql = "CREATE TABLE copy (LIKE outbox_messages INCLUDING ALL);
        DROP TABLE outbox_messages; ALTER TABLE copy RENAME TO outbox_messages";
    let says = "does not cover public.outbox_messages";
    stops(sql, says, &["ADD TABLE \"public\".\"outbox_messages\""]).await
}

/// All is as it should be when somebody looks; what was written in between is not in the stream.
#[tokio::test]
async fn the_table_is_taken_out_and_put_back() -> Result<()> {
    let setting = Setting::shared().await?;
    let client = setting.client().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    client.batch_execute(INSERT).await?;
    consumer.wait_distinct(1, PATIENCE).await?;
    setting.all_marked().await?;
    let before = position(&client, "pg_current_wal_insert_lsn()").await?;
    let sql = "ALTER PUBLICATION pgoutbox DROP TABLE outbox_messages";
    client.batch_execute(sql).await?;
    client.batch_execute(INSERT).await?;
    client.batch_execute(&sql.replace("DROP", "ADD")).await?;
    client.batch_execute(INSERT).await?;
    let status = relay.wait_exit(PATIENCE).await?;
    assert_eq!(status.code(), Some(1), "{}", relay.log());
    assert!(relay.log().contains("was taken out and put back"), "{}", relay.log());
    let slot = slot_of(&setting);
    assert!(position(&client, &slot).await? <= before, "{}", relay.log());
    Ok(())
}
