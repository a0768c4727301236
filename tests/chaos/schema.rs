//! What the stream is made of, changed or gone under load.

use anyhow::{Context, Result};

use crate::round::{Allowed, Outcome, Round, Stage};
use harness::setting::{PATIENCE, Setting};

/// Columns come, change and go; mapped ones change into types that can be read; the table is
/// written again.
const CHANGES: [&str; 9] = [
    "ALTER TABLE outbox_messages ADD COLUMN IF NOT EXISTS note text",
    "ALTER TABLE outbox_messages ADD COLUMN IF NOT EXISTS weight integer NOT NULL DEFAULT 7",
    "ALTER TABLE outbox_messages DROP COLUMN IF EXISTS weight",
    "ALTER TABLE outbox_messages DROP COLUMN IF EXISTS note",
    "VACUUM FULL outbox_messages",
    "ALTER TABLE outbox_messages ALTER COLUMN aggregate_id TYPE varchar(100)",
    "ALTER TABLE outbox_messages ALTER COLUMN aggregate_id TYPE text",
    "ALTER TABLE outbox_messages REPLICA IDENTITY FULL",
    "ALTER TABLE outbox_messages REPLICA IDENTITY DEFAULT",
];

pub async fn altered(round: Round) -> Result<Outcome> {
    let mut stage = Stage::start(&round, Setting::shared().await?).await?;
    let changes = if round.is_long { 20 } else { 5 };
    for _ in 0..changes {
        let change = CHANGES[fastrand::usize(0..CHANGES.len())];
        stage.moment().await?;
        stage.setting.sql(change).await.context(change)?;
    }
    stage.repaired().await?;
    stage.judge(Allowed::default()).await
}

/// The relay takes what the stream no longer has from the table. What a person has to repair it waits
/// for, and says so.
async fn caught_up(round: Round, breaks: &str, (says, repair): (&str, &str)) -> Result<Outcome> {
    let mut setting = Setting::shared().await?;
    setting.env("PGOUTBOX_POSTGRES__ON_SLOT_LOSS", "catch_up");
    let mut stage = Stage::start(&round, setting).await?;
    stage.moment().await?;
    let database = stage.setting.database.clone();
    let sql = breaks.replace("{slot}", &database);
    stage.setting.sql(&sql).await.context(sql)?;
    stage.while_committing().await?;
    if !repair.is_empty() {
        stage.relay.wait_for_log(says, PATIENCE).await?;
        stage.setting.sql(repair).await.context(repair.to_owned())?;
    }
    stage.repaired().await?;
    stage.judge(Allowed { any_repeats: true, ..Allowed::default() }).await
}

pub async fn publication_dropped(round: Round) -> Result<Outcome> {
    let repair = "CREATE PUBLICATION pgoutbox FOR TABLE outbox_messages
        WITH (publish = 'insert', publish_via_partition_root)";
    caught_up(round, "DROP PUBLICATION pgoutbox", ("does not exist cause=", repair)).await
}

/// With its rows, as by a migration that recreates it; the publication covers it no longer.
pub async fn table_dropped(round: Round) -> Result<Outcome> {
    let breaks = "BEGIN;
        CREATE TABLE renewed (LIKE outbox_messages INCLUDING ALL);
        LOCK outbox_messages; INSERT INTO renewed SELECT * FROM outbox_messages;
        DROP TABLE outbox_messages; ALTER TABLE renewed RENAME TO outbox_messages; COMMIT";
    let repair = "ALTER PUBLICATION pgoutbox ADD TABLE outbox_messages";
    caught_up(round, breaks, ("does not cover", repair)).await
}

pub async fn slot_dropped(round: Round) -> Result<Outcome> {
    let breaks = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots
            WHERE slot_name = '{slot}' AND active;
        DO $$ BEGIN
            LOOP
                BEGIN
                    PERFORM pg_drop_replication_slot('{slot}');
                    EXIT;
                EXCEPTION WHEN object_in_use THEN
                    PERFORM pg_terminate_backend(active_pid) FROM pg_replication_slots
                        WHERE slot_name = '{slot}' AND active;
                END;
            END LOOP;
        END $$";
    caught_up(round, breaks, ("", "")).await
}
