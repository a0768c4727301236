//! An event is its place in commit order, not its id: an id may be used again.

use anyhow::{Context, Result};
use harness::events::rows;
use harness::scenario::{QUICK, Scenario};
use harness::wait_for;

use crate::bare::{arrived, ids};
use crate::check::Checks as _;
use crate::replay::Replays as _;
use crate::setting::{PATIENCE, Setting};

/// Ids from a sequence, and no column of the time: nothing but its transaction tells one row 1 from
/// the next.
pub const NUMBERED: &str =
    "CREATE TABLE outbox_messages (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
         aggregate_type text, aggregate_id text, topic text, payload jsonb NOT NULL DEFAULT '{}',
         relayed_at timestamptz)";

#[tokio::test]
async fn an_id_that_is_used_again_is_another_event() -> Result<()> {
    let (setting, consumer, relay) = Scenario::with(QUICK).tables(NUMBERED).run("good").await?;
    setting.insert(rows(1, "late")).await?;
    setting.parking_is(&relay, "1 parked").await?;
    setting.program.succeed(&["parked", "discard", "--all", "--yes"]).await?;
    setting.sql("TRUNCATE outbox_messages RESTART IDENTITY").await?;
    setting.insert(rows(1, "late")).await?;
    setting.parking_is(&relay, "1 discarded, 1 parked").await?;
    // The stream brings both again; what is there stays as it is.
    relay.kill9().await?;
    let again = "UPDATE pgoutbox.progress SET end_lsn = '0/0', commit_lsn = NULL, settled = 0";
    setting.sql(again).await?;
    let relay = setting.run()?;
    setting.insert(rows(1, "good")).await?;
    assert_eq!(ids(&arrived(&consumer, 1).await?), ["2"]);
    setting.parking_is(&relay, "1 discarded, 1 parked").await?;
    setting.bind("late").await?;
    setting.program.succeed(&["parked", "retry", "--all"]).await?;
    assert_eq!(ids(&arrived(&consumer, 2).await?), ["2", "1"]);
    setting.parking_is(&relay, "1 discarded").await?;
    setting.all_marked().await?;
    relay.drain(PATIENCE).await
}

/// Our own table in partitions: the same id on two days is no error there.
#[tokio::test]
async fn two_rows_of_one_id_are_two_events() -> Result<()> {
    let (setting, consumer, relay) = Scenario::with(QUICK).tables("CREATE TABLE outbox_messages (id uuid, aggregate_type text, aggregate_id text, topic text,
             payload jsonb NOT NULL DEFAULT '{}', occurred_at timestamptz NOT NULL, relayed_at timestamptz,
             PRIMARY KEY (id, occurred_at)) PARTITION BY RANGE (occurred_at);
         CREATE TABLE one PARTITION OF outbox_messages FOR VALUES FROM ('2026-01-01') TO ('2026-01-02');
         CREATE TABLE other PARTITION OF outbox_messages FOR VALUES FROM ('2026-01-02') TO ('2026-01-03')").run("good").await?;
    let id = crate::bare::uuid(1);
    setting
        .sql(&format!(
            "INSERT INTO outbox_messages (id, topic, occurred_at)
             VALUES ('{id}', 'late', '2026-01-01 12:00Z'), ('{id}', 'late', '2026-01-02 12:00Z')"
        ))
        .await?;
    setting.parking_is(&relay, "1 parked, 1 parked").await?;
    setting.bind("late").await?;
    setting.program.succeed(&["parked", "retry", "--all"]).await?;
    assert_eq!(ids(&arrived(&consumer, 2).await?), [id.clone(), id]);
    setting.parking_is(&relay, "").await?;
    setting.all_marked().await?;
    relay.drain(PATIENCE).await
}

/// A record that is done with hides no other row with its id; one that is not hides its own row, also
/// if it was written in a savepoint, or updated since.
#[tokio::test]
async fn a_record_counts_for_its_own_row_only() -> Result<()> {
    let (setting, consumer, relay) = Scenario::with(QUICK).tables(NUMBERED).run("good").await?;
    setting.insert(rows(1, "late")).await?;
    setting.parking_is(&relay, "1 parked").await?;
    setting.program.succeed(&["parked", "discard", "--all", "--yes"]).await?;
    setting.sql("TRUNCATE outbox_messages RESTART IDENTITY").await?;
    // Rows 1 and 2: parked, written in a savepoint, and one of them updated by its application.
    setting
        .sql(
            "BEGIN; SAVEPOINT within; INSERT INTO outbox_messages (topic) VALUES ('other'), ('other');
             RELEASE within; INSERT INTO outbox_messages (topic) VALUES ('good'); COMMIT",
        )
        .await?;
    setting.parking_is(&relay, "1 discarded, 1 parked, 2 parked").await?;
    assert_eq!(ids(&arrived(&consumer, 1).await?), ["3"]);
    setting.all_but_marked(2).await?;
    setting.sql("UPDATE outbox_messages SET aggregate_type = 'changed' WHERE id = 2").await?;
    assert_eq!(setting.counts().await?, [3, 1, 2, 0, 0]);
    relay.drain(PATIENCE).await?;
    // Without the slot all nets are asked: the discarded event's row is gone, a new one has its id.
    setting.sql("SELECT pg_drop_replication_slot(current_database())").await?;
    setting.sql("UPDATE pgoutbox.parked SET state = 'discarded'; TRUNCATE outbox_messages RESTART IDENTITY").await?;
    setting.insert(rows(1, "good")).await?;
    setting.insert(rows(1, "good")).await?;
    // A row waits as long as any transaction is open that is older: other tests have some.
    wait_for("a new row to be no discarded one", PATIENCE, async || {
        Ok((setting.counts().await? == [2, 0, 0, 0, 2]).then_some(()))
    })
    .await?;
    let would = setting.replay(0, &["--only", "unrelayed", "--dry-run"]).await?;
    assert!(would.contains("2 would be sent"), "{would}");
    let relay = setting.run()?;
    assert_eq!(ids(&arrived(&consumer, 3).await?), ["3", "1", "2"]);
    setting.all_marked().await?;
    relay.drain(PATIENCE).await
}

/// A discarded event's row that its application updates is known by its content, where it has no time of
/// its own; one whose content is another, or whose table was truncated, is in doubt, and is sent.
#[tokio::test]
async fn a_discarded_row_that_its_application_updates_stays_discarded() -> Result<()> {
    for (kind, payload) in [
        ("jsonb", r#"{"b": [1.50, "ü\\ \u0007"], "a": null}"#),
        ("json", r#"{"b" : 1e2,  "b":"\""}"#),
        ("text", "Grüße, \\ \"x\""),
        ("bytea", r"\x00ff5c"),
    ] {
        let (setting, consumer, relay) = Scenario::with(QUICK)
            .tables(&format!(
                "CREATE TABLE outbox_messages (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                 aggregate_type text, aggregate_id text, topic text, payload {kind} NOT NULL,
                 seen_by text, relayed_at timestamptz)"
            ))
            .run("good")
            .await?;
        let insert =
            format!("INSERT INTO outbox_messages (topic, payload) VALUES ('late', '{payload}')");
        setting.sql(&format!("{insert}; {insert}; {insert}")).await?;
        setting.parking_is(&relay, "1 parked, 2 parked, 3 parked").await?;
        setting.program.succeed(&["parked", "discard", "--all", "--yes"]).await?;
        setting
            .sql(
                "UPDATE outbox_messages SET seen_by = 'somebody';
                 UPDATE outbox_messages SET seen_by = 'again', topic = 'good' WHERE id = 2",
            )
            .await?;
        relay.drain(PATIENCE).await?;
        setting.sql("SELECT pg_drop_replication_slot(current_database())").await?;
        setting.until_counted([3, 0, 2, 0, 1]).await.context(kind)?;
        let would = setting.replay(0, &["--only", "unrelayed", "--dry-run"]).await?;
        assert!(would.contains("1 would be sent"), "{kind}: {would}");
        let relay = setting.run()?;
        assert_eq!(ids(&arrived(&consumer, 1).await?), ["2"], "{kind}: {}", relay.log());
        setting.all_but_marked(2).await?;
        relay.drain(PATIENCE).await?;
        setting.sql("SELECT pg_drop_replication_slot(current_database())").await?;
        let again =
            format!("TRUNCATE outbox_messages RESTART IDENTITY; {insert}, ('good', '{payload}')");
        setting.sql(&again).await?;
        let relay = setting.run()?;
        assert_eq!(ids(&arrived(&consumer, 2).await?), ["2", "2"], "{kind}: {}", relay.log());
        let want = "1 discarded, 2 discarded, 3 discarded, 1 parked";
        setting.parking_is(&relay, want).await.context(kind)?;
        relay.drain(PATIENCE).await?;
    }
    Ok(())
}

/// Rows, counted.
pub trait Counted {
    /// Waits for what `verify` counts: a row waits as long as any older transaction of the server does.
    async fn until_counted(&self, want: [i64; 5]) -> Result<()>;
    async fn all_but_marked(&self, unmarked: i64) -> Result<()>;
    /// What `verify` counts: committed, delivered, parked, waiting, unmarked.
    async fn counts(&self) -> Result<[i64; 5]>;
}

impl Counted for Setting {
    async fn until_counted(&self, want: [i64; 5]) -> Result<()> {
        let mut last = [0; 5];
        wait_for("the ledger", PATIENCE, async || {
            last = self.counts().await?;
            Ok((last == want).then_some(()))
        })
        .await
        .with_context(|| format!("want {want:?}, is {last:?}"))
    }

    async fn all_but_marked(&self, unmarked: i64) -> Result<()> {
        let sql =
            format!("SELECT count(*) = {unmarked} FROM outbox_messages WHERE relayed_at IS NULL");
        self.until("all but some are marked", &sql).await
    }

    async fn counts(&self) -> Result<[i64; 5]> {
        let output = self.program.output(&["verify", "--json"]).await?;
        let ledger: serde_json::Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        let count = |kind: &str| ledger["tables"][0][kind]["rows"].as_i64().unwrap_or(-1);
        Ok(["committed", "delivered", "parked", "waiting", "unmarked"].map(count))
    }
}

/// Ids that are no ids, no index to find rows by, times that are none: each row is published once.
#[tokio::test]
async fn a_catch_up_publishes_each_row_once_whatever_its_id() -> Result<()> {
    let setting = Scenario::with(QUICK).tables("CREATE TABLE outbox_messages (id text, aggregate_type text, aggregate_id text, topic text,
             payload jsonb NOT NULL DEFAULT '{}', occurred_at bigint, relayed_at timestamptz)").setting().await?;
    let consumer = setting.bound("#").await?;
    setting.sql("SELECT pg_drop_replication_slot(current_database())").await?;
    // Between the two of one id more than are fetched at once: a mark of the first is one of both.
    setting
        .sql(
            "INSERT INTO outbox_messages (id, topic, occurred_at) VALUES ('twin', 'first', 1), (NULL, 'none', 2), (NULL, 'none', 3);
             INSERT INTO outbox_messages (id, topic, occurred_at) SELECT 'f' || n, 'good', 10 + n FROM generate_series(1, 700) AS n;
             INSERT INTO outbox_messages (id, topic, occurred_at)
             VALUES ('twin', 'second', 5000), ('absurd', 'good', 9223372036854775807), ('before', 'good', -1), ('timeless', 'good', NULL)",
        )
        .await?;
    let relay = setting.run()?;
    let told = async || {
        let came = arrived(&consumer, 705).await;
        came.with_context(|| relay.log()).map(|came| ids(&came))
    };
    let came = told().await?;
    let fillers: Vec<String> = (1..=700).map(|n| format!("f{n}")).collect();
    let mut expected = vec!["twin".to_owned()];
    expected.extend(fillers);
    expected.extend(["twin", "absurd", "before", "timeless"].map(str::to_owned));
    assert_eq!(came, expected);
    setting.parking_is(&relay, "NULL parked, NULL parked").await?;
    setting.all_but_marked(2).await?;
    setting.sql("INSERT INTO outbox_messages (id, topic) VALUES ('streamed', 'good')").await?;
    arrived(&consumer, 706).await.with_context(|| relay.log())?;
    setting.all_but_marked(2).await?;
    assert_eq!(setting.counts().await?, [708, 706, 2, 0, 0]);
    // A mark of two rows that is lost: each is sent once more, and once.
    setting.sql("UPDATE outbox_messages SET relayed_at = NULL WHERE id = 'twin'").await?;
    let sent = setting.replay(0, &["--id", "twin", "--mark"]).await?;
    assert!(sent.contains("2 delivered") && sent.contains("2 marked"), "{sent}");
    assert!(sent.contains("shared   twin: 2 rows have this id"), "{sent}");
    let unknown = setting.replay(1, &["--id", "twin", "--id", "nobody"]).await?;
    assert!(unknown.contains("unknown  nobody") && unknown.contains("2 delivered"), "{unknown}");
    // A row without an id cannot be sent, and says so.
    let refused = setting.replay(1, &["--all", "--dry-run"]).await?;
    assert!(refused.contains("706 would be sent, 2 cannot be"), "{refused}");
    relay.drain(PATIENCE).await
}

/// A row that the publication's filter keeps back is none of this relay's, whichever way it is found.
#[tokio::test]
async fn a_row_filter_holds_for_all_who_look_at_the_table() -> Result<()> {
    let setting = Scenario::with(QUICK)
        .tables(NUMBERED)
        .set("reconcile.republish", "true")
        .set("reconcile.interval", "1s")
        .setting()
        .await?;
    let filter = "ALTER PUBLICATION pgoutbox SET TABLE outbox_messages WHERE (aggregate_type = 'public' AND 1 / (10 - id) >= 0)";
    if setting.ask::<i32>("SELECT current_setting('server_version_num')::int").await? < 150_000 {
        assert!(setting.sql(filter).await.is_err(), "there are no filters before Postgres 15");
        return Ok(());
    }
    setting.sql(filter).await?;
    setting.sql("SELECT pg_drop_replication_slot(current_database())").await?;
    let consumer = setting.bound("#").await?;
    let rows = "INSERT INTO outbox_messages (aggregate_type, topic)
        VALUES ('public', 'good'), ('secret', 'good'), (NULL, 'good'), ('public', 'good')";
    setting.sql(rows).await?;
    let listed = setting.program.succeed(&["init"]).await?;
    assert!(listed.contains("2 rows that waited before are listed"), "{listed}");
    let relay = setting.run()?;
    assert_eq!(ids(&arrived(&consumer, 2).await?), ["1", "4"], "{}", relay.log());
    setting.all_but_marked(2).await?;
    // One that reconciliation is to send once more, and in the same rounds no other.
    setting.sql("UPDATE outbox_messages SET relayed_at = NULL WHERE id = 4").await?;
    assert_eq!(ids(&arrived(&consumer, 3).await?), ["1", "4", "4"], "{}", relay.log());
    setting.all_but_marked(2).await?;
    assert_eq!(setting.counts().await?, [2, 2, 0, 0, 0]);
    let would = setting.replay(0, &["--all", "--dry-run"]).await?;
    assert!(would.contains("2 would be sent"), "{would}");
    relay.drain(PATIENCE).await?;
    assert_eq!(consumer.total(), 3);
    // A filter that cannot be worked out for some row is named.
    setting.sql("INSERT INTO outbox_messages (id, aggregate_type, topic) OVERRIDING SYSTEM VALUE VALUES (10, 'public', 'good')").await?;
    let told = setting.replay(1, &["--all", "--dry-run"]).await?;
    assert!(
        told.contains("refused  10: ") && told.contains("row filter of the publication"),
        "{told}"
    );
    assert!(told.contains("2 would be sent, 1 cannot be"), "{told}");
    Ok(())
}

/// A trigger that undoes the mark: what was sent once more is not sent without end.
#[tokio::test]
async fn what_cannot_be_marked_is_sent_once_more_and_no_more() -> Result<()> {
    let setting = Scenario::with(QUICK)
        .tables(NUMBERED)
        .set("reconcile.republish", "true")
        .set("reconcile.interval", "1s")
        .setting()
        .await?;
    setting
        .sql(
            "CREATE FUNCTION undo() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';
             CREATE TRIGGER undo BEFORE UPDATE ON outbox_messages FOR EACH ROW EXECUTE FUNCTION undo()",
        )
        .await?;
    let consumer = setting.bound("#").await?;
    let relay = setting.run()?;
    setting.insert(rows(1, "good")).await?;
    relay.wait_for_log("they are not sent again", PATIENCE).await?;
    relay.wait_for_log("they are not sent again", PATIENCE).await?;
    relay.drain(PATIENCE).await?;
    assert_eq!(ids(&arrived(&consumer, 2).await?), ["1", "1"]);
    Ok(())
}

/// What an id should be is said, with SQL that helps.
#[tokio::test]
async fn an_id_that_tells_no_row_apart_is_found() -> Result<()> {
    let plain = "CREATE TABLE outbox_messages (id text, topic text, payload jsonb DEFAULT '{}', relayed_at timestamptz)";
    let parted = "CREATE TABLE outbox_messages (id uuid NOT NULL, topic text, payload jsonb DEFAULT '{}',
             occurred_at timestamptz NOT NULL, relayed_at timestamptz) PARTITION BY RANGE (occurred_at)";
    let quick = |table: &str| Scenario::with(QUICK).tables(table);
    let setting = quick(plain).setting().await?;
    setting.carry_out(setting.check().await?.has("id-nullable", "warning")).await?;
    setting.check().await?.has_not("id-nullable");
    for table in [plain, parted] {
        let setting = quick(table).setting().await?;
        setting.carry_out(setting.check().await?.has("id-not-unique", "warning")).await?;
        setting.check().await?.has_not("id-not-unique");
    }
    let good = quick(NUMBERED).setting().await?.check().await?;
    good.has_not("id-nullable");
    good.has_not("id-not-unique");
    Ok(())
}
