//! A mark in `pgoutbox.relayed` is of one row, not of all that ever have its id.

use anyhow::{Context, Result};
use harness::events::rows;
use harness::scenario::{QUICK, Scenario};
use harness::wait_for;

use crate::bare::{arrived, ids, uuid};
use crate::place::Counted as _;
use crate::place::NUMBERED;
use crate::replay::Replays as _;
use crate::setting::{PATIENCE, Setting};

/// With a time of its own.
const TIMED: &str =
    "CREATE TABLE outbox_messages (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
         aggregate_type text, aggregate_id text, topic text, payload jsonb NOT NULL DEFAULT '{}',
         occurred_at timestamptz NOT NULL DEFAULT clock_timestamp())";
/// The same id on two days.
const PARTED: &str = "CREATE TABLE outbox_messages (id uuid, aggregate_type text, aggregate_id text, topic text,
         payload jsonb NOT NULL DEFAULT '{}', occurred_at timestamptz NOT NULL,
         PRIMARY KEY (id, occurred_at)) PARTITION BY RANGE (occurred_at);
     CREATE TABLE one PARTITION OF outbox_messages FOR VALUES FROM ('2026-01-01') TO ('2026-01-02');
     CREATE TABLE other PARTITION OF outbox_messages FOR VALUES FROM ('2026-01-02') TO ('2026-01-03')";

/// Waits for what `verify` counts: a row waits as long as any transaction of the server is older.
async fn counts(setting: &Setting, want: [i64; 5]) -> Result<()> {
    let mut last = [0; 5];
    wait_for("the ledger", PATIENCE, async || {
        last = setting.counts().await?;
        Ok((last == want).then_some(()))
    })
    .await
    .with_context(|| format!("want {want:?}, is {last:?}"))
}

const LATER: &str = "UPDATE pgoutbox.relayed SET relayed_at = now() - interval '2 hours'";

#[tokio::test]
async fn an_id_that_is_used_again_has_no_mark() -> Result<()> {
    for table in [NUMBERED, TIMED] {
        let (setting, consumer, relay) = Scenario::with(QUICK)
            .set("audit.mode", "side_table")
            .tables(table)
            .set("prune.keep", "1h")
            .run("good")
            .await?;
        setting.insert(rows(1, "good")).await?;
        setting.insert(rows(1, "good")).await?;
        assert_eq!(ids(&arrived(&consumer, 2).await?), ["1", "2"], "{}", relay.log());
        counts(&setting, [2, 2, 0, 0, 0]).await?;
        relay.drain(PATIENCE).await?;
        let old = "SELECT pg_drop_replication_slot(current_database()); TRUNCATE outbox_messages RESTART IDENTITY";
        setting.sql(old).await?;
        // The second in a savepoint.
        setting
            .sql(
                "BEGIN; INSERT INTO outbox_messages (topic) VALUES ('good'); SAVEPOINT within;
                 INSERT INTO outbox_messages (topic) VALUES ('good'); COMMIT",
            )
            .await?;
        counts(&setting, [2, 0, 0, 0, 2]).await?;
        let would = setting.replay(0, &["--only", "unrelayed", "--dry-run"]).await?;
        assert!(would.contains("2 would be sent"), "{would}");
        setting.sql(LATER).await?;
        setting.program.succeed(&["prune"]).await?;
        let left = "SELECT (SELECT count(*) FROM outbox_messages) * 10 + (SELECT count(*) FROM pgoutbox.relayed)";
        assert_eq!(setting.ask::<i64>(left).await?, 20, "the marks go, and no row that has none");
        let relay = setting.run()?;
        assert_eq!(ids(&arrived(&consumer, 4).await?), ["1", "2", "1", "2"], "{}", relay.log());
        counts(&setting, [2, 2, 0, 0, 0]).await?;
        // The same from the stream, beside the marks of the second.
        setting.sql("TRUNCATE outbox_messages RESTART IDENTITY").await?;
        setting.insert(rows(1, "good")).await?;
        arrived(&consumer, 5).await?;
        counts(&setting, [1, 1, 0, 0, 0]).await?;
        assert_eq!(setting.ask::<i64>("SELECT count(*) FROM pgoutbox.relayed").await?, 3);
        // An update of the row is none of the event.
        if table == TIMED {
            setting.sql("UPDATE outbox_messages SET aggregate_type = 'changed'").await?;
            counts(&setting, [1, 1, 0, 0, 0]).await?;
        }
        setting.sql(LATER).await?;
        setting.program.succeed(&["prune"]).await?;
        assert_eq!(setting.ask::<i64>(left).await?, 0);
        relay.drain(PATIENCE).await?;
    }
    Ok(())
}

#[tokio::test]
async fn two_rows_of_one_id_have_two_marks() -> Result<()> {
    let (setting, consumer, relay) =
        Scenario::with(QUICK).set("audit.mode", "side_table").tables(PARTED).run("good").await?;
    let id = uuid(1);
    let row = |day: u32| {
        format!(
            "INSERT INTO outbox_messages (id, topic, occurred_at) VALUES ('{id}', 'good', '2026-01-0{day} 12:00Z')"
        )
    };
    setting.sql(&row(1)).await?;
    arrived(&consumer, 1).await?;
    counts(&setting, [1, 1, 0, 0, 0]).await?;
    // The mark of the one says nothing of the other, which the slot does not hold.
    relay.drain(PATIENCE).await?;
    setting.sql("SELECT pg_drop_replication_slot(current_database())").await?;
    setting.sql(&row(2)).await?;
    counts(&setting, [2, 1, 0, 0, 1]).await?;
    let would = setting.replay(0, &["--only", "unrelayed", "--dry-run"]).await?;
    assert!(would.contains("1 would be sent"), "{would}");
    let relay = setting.run()?;
    arrived(&consumer, 2).await.with_context(|| relay.log())?;
    counts(&setting, [2, 2, 0, 0, 0]).await?;
    // One of the two is sent once more, and marked again.
    setting
        .sql("DELETE FROM pgoutbox.relayed WHERE ctid = (SELECT max(ctid) FROM pgoutbox.relayed)")
        .await?;
    counts(&setting, [2, 1, 0, 0, 1]).await?;
    let sent = setting.replay(0, &["--only", "unrelayed", "--mark"]).await?;
    assert!(sent.contains("1 delivered") && sent.contains("1 marked"), "{sent}");
    counts(&setting, [2, 2, 0, 0, 0]).await?;
    relay.drain(PATIENCE).await
}

/// Rows that the relay itself writes, where they show their tries, keep what tells them.
#[tokio::test]
async fn a_parked_event_that_is_delivered_has_its_mark() -> Result<()> {
    for time in ["", ", occurred_at timestamptz NOT NULL DEFAULT now()"] {
        let (setting, consumer, relay) = Scenario::with(QUICK).set("audit.mode", "side_table").tables(&format!(
            "CREATE TABLE outbox_messages (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                 aggregate_type text, aggregate_id text, topic text, payload jsonb NOT NULL DEFAULT '{{}}',
                 attempt int, last_error text, failed_at timestamptz{time})"
        )).set("parking.max_attempts", "1").run("good").await?;
        setting.insert(rows(1, "late")).await?;
        setting.insert(rows(1, "never")).await?;
        setting.parking_is(&relay, "1 failed, 2 failed").await?;
        let shown =
            "SELECT count(*) = 2 FROM outbox_messages WHERE failed_at IS NOT NULL AND attempt = 1";
        setting.until("the rows show it", shown).await?;
        setting.bind("late").await?;
        setting.program.succeed(&["parked", "retry", "--seq", "1"]).await?;
        arrived(&consumer, 1).await?;
        setting.parking_is(&relay, "2 failed").await?;
        let shown = "SELECT count(*) = 1 FROM outbox_messages WHERE failed_at IS NULL";
        setting.until("the row shows it no more", shown).await?;
        counts(&setting, [2, 1, 1, 0, 0]).await?;
        // Sent once more from the record, and marked.
        setting.program.succeed(&["parked", "discard", "--seq", "2", "--yes"]).await?;
        setting.bind("never").await?;
        let sent = setting.replay(0, &["--parked", "2", "--mark"]).await?;
        assert!(sent.contains("1 delivered") && sent.contains("1 marked"), "{sent}");
        counts(&setting, [2, 2, 0, 0, 0]).await?;
        relay.drain(PATIENCE).await?;
    }
    Ok(())
}

/// Marks of the version before know only the id, and count for whatever row has it.
#[tokio::test]
async fn marks_of_the_version_before_go_on() -> Result<()> {
    let setting =
        Scenario::with(QUICK).set("audit.mode", "side_table").tables(TIMED).setting().await?;
    let consumer = setting.bound("good").await?;
    setting
        .sql(
            "DROP FUNCTION pgoutbox.is_mark_of;
             ALTER TABLE pgoutbox.relayed DROP COLUMN event, DROP COLUMN xid_end, ADD PRIMARY KEY (outbox, id);
             INSERT INTO outbox_messages (topic) VALUES ('good'), ('good');
             INSERT INTO pgoutbox.relayed (outbox, id) VALUES ('outbox_messages', '1')",
        )
        .await?;
    setting.init_is_due().await?;
    // The relay of the version before may run on for a while.
    setting.sql("INSERT INTO pgoutbox.relayed (outbox, id) VALUES ('outbox_messages', '1') ON CONFLICT DO NOTHING").await?;
    setting.sql("SELECT pg_drop_replication_slot(current_database())").await?;
    let relay = setting.run()?;
    assert_eq!(ids(&arrived(&consumer, 1).await.with_context(|| relay.log())?), ["2"]);
    counts(&setting, [2, 2, 0, 0, 0]).await?;
    relay.drain(PATIENCE).await
}
