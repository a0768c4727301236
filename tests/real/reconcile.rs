//! Rows that are neither marked nor parked: found, told, and sent once more where that is wanted;
//! and `pgoutbox verify`, which tells the same of one moment.

use std::time::Duration;

use anyhow::{Context, Result};
use harness::relay::Relay;
use harness::scenario::{Scenario, Settings};
use harness::wait_for;
use lapin::types::AMQPValue;
use pgoutbox::testing::config::{Config, Needs, Sources};
use pgoutbox::testing::reconcile;
use serde_json::Value;

use crate::bare::{arrived, ids, uuid};
use crate::check::Checks as _;
use crate::replay::Replays as _;
use crate::setting::{PATIENCE, Setting};

/// What the relay says of missing rows.
const MISSING: &str = "rows are neither marked nor parked";

/// Quick keepalives and quick rounds.
const HASTY: Settings = &[
    ("postgres.wal_sender_timeout", "1s"),
    ("reconcile.interval", "1s"),
    ("reconcile.age", "1s"),
    ("audit.hold", "1s"),
    ("audit.give_up", "1s"),
    ("log.format", "json"),
];

fn told(relay: &Relay, text: &str) -> Vec<Value> {
    let lines = relay.log().lines().map(str::to_owned).collect::<Vec<_>>();
    let lines = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"].as_str().is_some_and(|said| said.contains(text))).collect()
}

/// Marks that are lost, and who finds it.
trait Verifies {
    /// Rows that have lost their mark, and one of them is parked.
    async fn lose_marks(&self) -> Result<()>;
    async fn verify(&self, code: i32) -> Result<Value>;
    async fn verify_within(&self, wait: &str, code: i32) -> Result<Value>;
}

impl Verifies for Setting {
    async fn lose_marks(&self) -> Result<()> {
        self.sql(&format!(
            "UPDATE outbox_messages SET relayed_at = NULL WHERE id IN ('{}', '{}', '{}')",
            uuid(4),
            uuid(5),
            uuid(6)
        ))
        .await?;
        self.put_aside(5, "parked").await
    }

    async fn verify(&self, code: i32) -> Result<Value> {
        self.verify_within("15s", code).await
    }

    async fn verify_within(&self, wait: &str, code: i32) -> Result<Value> {
        let output = self.program.output(&["verify", "--json", "--wait", wait]).await?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{told}{said}");
        serde_json::from_str(&told).with_context(|| said)
    }
}

#[tokio::test]
async fn missing_rows_are_named_with_what_helps() -> Result<()> {
    let setting = Scenario::with(HASTY).setting().await?;
    setting.fill(30).await?;
    let _queue = setting.bound("#").await?;
    let relay = setting.run()?;
    setting.all_marked().await?;
    // A round in which all is well; then the marks go.
    setting.lose_marks().await?;
    let line = wait_for("a warning", PATIENCE, async || Ok(told(&relay, MISSING).pop())).await?;
    assert_eq!(
        (&line["rows"], &line["table"]),
        (&2.into(), &"public.outbox_messages".into()),
        "{line}"
    );
    assert!(line["oldest"].as_str().is_some_and(|at| at.starts_with("20")), "{line}");
    let hint = line["hint"].as_str().context("no hint")?;
    assert_eq!(hint, "pgoutbox replay --table public.outbox_messages --only unrelayed --mark");
    assert_eq!(setting.unmarked().await?, 3, "nothing is sent unless asked for");
    // The hint as it is given.
    let args: Vec<&str> = hint.split(' ').skip(2).collect();
    assert!(setting.replay(0, &args).await?.contains("2 delivered"));
    let well = "every row is marked, parked or on its way again";
    wait_for("that all is well", PATIENCE, async || Ok(told(&relay, well).pop())).await?;
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn missing_rows_are_sent_once_more_where_that_is_wanted() -> Result<()> {
    for mode in ["update", "side_table", "delete"] {
        let (setting, consumer, relay) = Scenario::with(HASTY)
            .set("reconcile.republish", "true")
            .set("audit.mode", mode)
            .run("#")
            .await?;
        setting.fill(30).await?;
        let is_done = match mode {
            "update" => "SELECT count(*) = 0 FROM outbox_messages WHERE relayed_at IS NULL",
            "side_table" => "SELECT count(*) = 30 FROM pgoutbox.relayed",
            _ => "SELECT count(*) = 0 FROM outbox_messages",
        };
        setting.until("all is marked", is_done).await?;
        let expected = match mode {
            "update" => {
                setting.lose_marks().await?;
                vec![uuid(4), uuid(6)]
            }
            "side_table" => {
                let sql = format!("DELETE FROM pgoutbox.relayed WHERE id = '{}'", uuid(9));
                setting.sql(&sql).await?;
                vec![uuid(9)]
            }
            // One that the stream does not bring: as after a publication that was altered.
            _ => {
                setting
                    .sql(&format!(
                        "BEGIN; ALTER PUBLICATION pgoutbox SET (publish = '');
                         INSERT INTO outbox_messages (id, topic, payload) VALUES ('{}', 'good', '{{}}');
                         ALTER PUBLICATION pgoutbox SET (publish = 'insert'); COMMIT",
                        uuid(31)
                    ))
                    .await?;
                vec![uuid(31)]
            }
        };
        let came = arrived(&consumer, 30 + expected.len()).await.with_context(|| relay.log())?;
        let again = &came[30..];
        assert_eq!(ids(again), expected, "{mode}: {}", relay.log());
        if mode != "delete" {
            let header = again[0].header("pgoutbox-replayed");
            assert_eq!(header, Some(&AMQPValue::Boolean(true)), "{mode}");
            wait_for("the report", PATIENCE, async || Ok(told(&relay, "sent once more").pop()))
                .await?;
        }
        let is_marked = match mode {
            "update" => "SELECT count(*) = 1 FROM outbox_messages WHERE relayed_at IS NULL",
            _ => is_done,
        };
        setting.until("all is marked again", is_marked).await?;
        relay.drain(PATIENCE).await?;
        assert_eq!(consumer.total(), 30 + expected.len(), "{mode}: sent more than once");
    }
    Ok(())
}

/// A transaction that has been open since before the age is not missing when it commits, nor are
/// rows behind a slot that stands still.
#[tokio::test]
async fn what_may_be_on_its_way_is_not_missing() -> Result<()> {
    let (setting, consumer, relay) = Scenario::with(HASTY).run("#").await?;
    let mut client = setting.client().await?;
    let open = client.transaction().await?;
    let late = format!(
        "INSERT INTO outbox_messages (id, topic, payload, occurred_at) VALUES ('{}', 'good', '{{}}', now() - interval '1 hour')",
        uuid(1)
    );
    open.execute(&late, &[]).await?;
    // Rounds go by.
    setting.sql("INSERT INTO outbox_messages (id, topic, payload) VALUES (gen_random_uuid(), 'good', '{}')").await?;
    setting.all_marked().await?;
    let ledger = setting.verify(0).await?;
    assert_eq!(ledger["tables"][0]["committed"]["rows"], 1);
    open.commit().await?;
    arrived(&consumer, 2).await?;
    setting.all_marked().await?;
    relay.kill9().await?;
    assert!(told(&relay, MISSING).is_empty(), "{}", relay.log());
    // Behind the slot: an hour old, and waiting all the same.
    setting.sql(&late.replace(&uuid(1), &uuid(2))).await?;
    let ledger = setting.verify(1).await?;
    let table = &ledger["tables"][0];
    assert_eq!(
        (&table["waiting"]["rows"], &table["unmarked"]["rows"]),
        (&1.into(), &0.into()),
        "{ledger}"
    );
    assert!(table["waiting"]["age_seconds"].as_f64().is_some_and(|age| age > 3_500.0), "{ledger}");
    let what = ledger["findings"][0]["what"].as_str().unwrap_or_default();
    assert!(what.contains("nobody reads slot"), "{ledger}");
    assert!(has(&ledger, "slot-unread", "error"), "{ledger}");
    assert_eq!(ledger["findings"][0]["hint"], "pgoutbox run");
    // As `status` and `check` name it.
    let said = "no relay runs";
    let found = setting.check().await?;
    assert!(found.has("slot-unread", "warning")["what"].to_string().contains(said), "{found}");
    let status = setting.program.output(&["status"]).await?;
    assert_eq!(status.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&status.stdout).contains(said), "{status:?}");
    let relay = setting.run()?;
    setting.all_marked().await?;
    setting.check().await?.has_not("slot-unread");
    relay.drain(PATIENCE).await
}

/// Whether the ledger has this finding.
fn has(ledger: &Value, name: &str, severity: &str) -> bool {
    let findings = ledger["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    findings.iter().any(|finding| finding["name"] == name && finding["severity"] == severity)
}

#[tokio::test]
async fn verify_tells_a_relay_that_is_behind_from_one_that_is_stuck() -> Result<()> {
    let setting = Scenario::with(HASTY).set("reconcile.interval", "1h").setting().await?;
    let _queue = setting.bound("#").await?;
    let relay = setting.run()?;
    setting.fill(1).await?;
    setting.all_marked().await?;
    setting.program.succeed(&["pause"]).await?;
    relay.reaches("paused", PATIENCE).await?;
    setting.sql("INSERT INTO outbox_messages (topic, payload) VALUES ('good', '{}')").await?;
    let ledger = setting.verify_within("1s", 0).await?;
    assert!(has(&ledger, "relay-behind", "warning"), "{ledger}");
    setting.program.succeed(&["resume"]).await?;
    setting.all_marked().await?;
    let ledger = setting.verify(0).await?;
    assert!(!has(&ledger, "relay-behind", "warning"), "{ledger}");
    relay.drain(PATIENCE).await?;

    let stuck = setting
        .clone()
        .set("tables.0.exchange", "absent")
        .set("tables.0.on_failure", "block")
        .set("session.backoff_max", "1s");
    let relay = stuck.run()?;
    setting.sql("INSERT INTO outbox_messages (topic, payload) VALUES ('good', '{}')").await?;
    let is_stuck = "SELECT count(*) = 1 FROM pgoutbox.progress WHERE fault IS NOT NULL";
    setting.until("the relay to say that it is stuck", is_stuck).await?;
    let ledger = stuck.verify_within("1s", 1).await?;
    assert!(has(&ledger, "relay-stuck", "error"), "{ledger}");
    let found = stuck.check().await?;
    let same = &found.has("relay-stuck", "warning")["what"];
    assert!(same.to_string().contains("absent"), "{found}");
    relay.drain(PATIENCE).await?;
    let relay = setting.run()?;
    setting.all_marked().await?;
    let ledger = setting.verify(0).await?;
    assert!(!has(&ledger, "relay-stuck", "error"), "{ledger}");
    setting.check().await?.has_not("relay-stuck");
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn verify_adds_up_and_exits_by_what_is_wrong() -> Result<()> {
    // No rounds: they would have a say.
    let setting = Scenario::with(HASTY).set("reconcile.interval", "1h").setting().await?;
    let _queue = setting.bound("#").await?;
    setting.fill(30).await?;
    let relay = setting.run()?;
    setting.all_marked().await?;
    let ledger = setting.verify(0).await?;
    assert_eq!(ledger["is_well"], true);
    let rows = |ledger: &Value, kind: &str| ledger["tables"][0][kind]["rows"].as_i64();
    let all = |ledger: &Value| {
        ["committed", "delivered", "parked", "waiting", "unmarked"].map(|kind| rows(ledger, kind))
    };
    assert_eq!(all(&ledger), [30, 30, 0, 0, 0].map(Some), "{ledger}");
    setting.lose_marks().await?;
    let ledger = setting.verify(1).await?;
    assert_eq!(all(&ledger), [30, 27, 1, 0, 2].map(Some), "{ledger}");
    assert_eq!(ledger["parking"][0]["state"], "parked");
    assert!(has(&ledger, "rows-unmarked", "error"), "{ledger}");
    let hint = ledger["findings"][0]["hint"].as_str().unwrap_or_default();
    assert!(
        hint.starts_with("pgoutbox replay --table public.outbox_messages --only unrelayed"),
        "{ledger}"
    );
    let output = setting.program.output(&["verify", "--exact"]).await?;
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        told.contains("wrong     2 rows of public.outbox_messages neither delivered"),
        "{told}"
    );
    // Younger than the age: their marks may be on their way.
    let young = setting.clone().set("reconcile.age", "1h").verify(0).await?;
    assert_eq!(all(&young), [30, 27, 1, 2, 0].map(Some), "{young}");
    assert!(setting.replay(0, &["--only", "unrelayed", "--mark"]).await?.contains("2 marked"));
    setting.verify(0).await?;
    setting.sql("UPDATE pgoutbox.parked SET state = 'failed'").await?;
    let ledger = setting.verify(1).await?;
    let hint = ledger["findings"][0]["hint"].as_str().unwrap_or_default();
    assert!(hint.contains("pgoutbox parked retry --state failed"), "{ledger}");
    assert!(has(&ledger, "events-failed", "error"), "{ledger}");
    // Given up: on the record, and nothing is wrong any more.
    setting.sql("UPDATE pgoutbox.parked SET state = 'discarded'").await?;
    let ledger = setting.verify(0).await?;
    assert_eq!(all(&ledger), [30, 29, 1, 0, 0].map(Some), "{ledger}");
    relay.drain(PATIENCE).await?;
    setting.sql("SELECT pg_drop_replication_slot(current_database())").await?;
    let ledger = setting.verify(1).await?;
    assert_eq!(ledger["findings"][0]["hint"], "pgoutbox init", "{ledger}");
    assert!(has(&ledger, "slot-missing", "error"), "{ledger}");
    Ok(())
}

/// Two relays, one search; and a table in pieces is walked piece by piece.
#[tokio::test]
async fn a_partitioned_table_is_searched_once_however_many_relays_stand_by() -> Result<()> {
    let setting = Setting::bare()
        .await?
        .set("postgres.wal_sender_timeout", "1s")
        .set("reconcile.interval", "1s")
        .set("reconcile.age", "1s")
        .set("audit.hold", "1s")
        .set("audit.give_up", "1s")
        .set("reconcile.republish", "true")
        .set("log.format", "json");
    setting
        .sql(
            "CREATE TABLE outbox_messages (id uuid, aggregate_type text, aggregate_id text, event_type text,
                 topic text, payload jsonb, headers jsonb DEFAULT '{}', occurred_at timestamptz NOT NULL,
                 relayed_at timestamptz) PARTITION BY HASH (id);
             CREATE TABLE part_0 PARTITION OF outbox_messages FOR VALUES WITH (MODULUS 2, REMAINDER 0);
             CREATE TABLE part_1 PARTITION OF outbox_messages FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
        )
        .await?;
    setting.init().await?;
    let consumer = setting.bound("#").await?;
    let (relay, standby) = (setting.run()?, setting.run()?);
    setting.fill(40).await?;
    setting.all_marked().await?;
    // A few of either partition.
    setting
        .sql("UPDATE outbox_messages SET relayed_at = NULL WHERE aggregate_id IN ('3', '4')")
        .await?;
    let came = arrived(&consumer, 48).await.with_context(|| relay.log() + &standby.log())?;
    let again: Vec<String> = ids(&came[40..]);
    let expected: Vec<String> = (1..=40).filter(|n| n % 10 == 3 || n % 10 == 4).map(uuid).collect();
    assert_eq!(again, expected, "by occurred_at, across partitions");
    setting.all_marked().await?;
    relay.drain(PATIENCE).await?;
    standby.drain(PATIENCE).await?;
    assert_eq!(consumer.total(), 48);
    let rounds = told(&relay, MISSING).len() + told(&standby, MISSING).len();
    assert_eq!(rounds, 1, "{}", relay.log());
    Ok(())
}

/// As the relay asks for it after a failover of Postgres.
#[tokio::test]
async fn a_round_begins_when_it_is_asked_for() -> Result<()> {
    // Of its own: a transaction that another test keeps open has a round pass over what is written
    // after it, and the next round comes only after an hour.
    let (_postgres, setting) = Setting::own_postgres().await?;
    let setting = setting.set("postgres.wal_sender_timeout", "1s").set("reconcile.interval", "1h");
    let _queue = setting.bound("#").await?;
    pgoutbox::testing::install_provider();
    let env = [("DATABASE_URL", &setting.database_url), ("AMQP_URL", &setting.amqp_url)];
    let env = env.map(|(name, value)| (name.into(), value.as_str().into()));
    let mut config = Config::load(&Sources { env: env.into(), ..Sources::default() }, Needs::ALL)?;
    config.postgres.slot = setting.database.clone();
    config.reconcile.age = Duration::from_secs(1);
    config.reconcile.interval = Duration::from_secs(3_600);
    config.reconcile.republishes = true;
    // Before the relay's own, so that the lock is its.
    let reconciler = reconcile::spawn(&config);
    let lock =
        "SELECT count(*) = 1 FROM pg_locks JOIN pg_database AS of ON of.oid = pg_locks.database
                 WHERE locktype = 'advisory' AND of.datname = current_database()";
    setting.until("the lock is taken", lock).await?;
    let relay = setting.run()?;
    setting.fill(30).await?;
    setting.all_marked().await?;
    // The first may still be found by the round of the start.
    for round in 0..3 {
        let sql = format!("UPDATE outbox_messages SET relayed_at = NULL WHERE id = '{}'", uuid(4));
        setting.sql(&sql).await?;
        // A round passes over what is not older than every transaction that runs, those of the
        // relay's own batches among them.
        let is_older = format!(
            "SELECT xmin::text::bigint < pg_snapshot_xmin(pg_current_snapshot())::text::bigint
               FROM outbox_messages WHERE id = '{}'",
            uuid(4)
        );
        setting.until("nothing older runs", &is_older).await?;
        reconciler.trigger().now();
        setting.all_marked().await.with_context(|| format!("round {round}"))?;
    }
    relay.drain(PATIENCE).await
}
