//! `pgoutbox check`: each thing that can be wrong is broken by itself, is found by its name, and is
//! over once what was printed was done.

mod broker;
mod entry;
mod outbox;
mod server;
mod streams;

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use harness::certs::Authority;
use harness::pgbouncer::PgBouncer;
use harness::postgres::{self, Postgres, ServerTls, Shutdown};
use harness::{shared, wait_until};
use serde_json::Value;

use crate::setting::{PATIENCE, Setting};

/// What `check --json` says, and its exit code.
pub struct Checked {
    pub code: Option<i32>,
    findings: Vec<Value>,
}

impl Checked {
    /// What is amiss under this name.
    fn find(&self, name: &str) -> Option<&Value> {
        let is_it = |finding: &&Value| finding["name"] == name && finding["severity"] != "good";
        self.findings.iter().find(is_it)
    }

    pub fn has(&self, name: &str, severity: &str) -> &Value {
        let found = self.find(name);
        assert!(found.is_some(), "no {name} in {self}");
        let found = found.unwrap_or(&Value::Null);
        assert_eq!(found["severity"], severity, "{found}");
        assert!(found["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{found}");
        found
    }

    /// What is amiss under this name with what is named so.
    pub fn of(&self, name: &str, severity: &str, title: &str) -> Option<&Value> {
        let is_it = |finding: &&Value| {
            let what = finding["what"].as_str().unwrap_or_default();
            finding["name"] == name && finding["severity"] == severity && what.contains(title)
        };
        self.findings.iter().find(is_it)
    }

    pub fn has_not(&self, name: &str) {
        assert!(self.find(name).is_none(), "{name} in {self}");
    }

    /// The names of all errors.
    fn errors(&self) -> BTreeSet<&str> {
        let errors = self.findings.iter().filter(|finding| finding["severity"] == "error");
        errors.filter_map(|finding| finding["name"].as_str()).collect()
    }
}

impl std::fmt::Display for Checked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.findings.iter().try_for_each(|finding| writeln!(f, "{finding}"))
    }
}

pub fn hint(finding: &Value) -> &str {
    finding["hint"].as_str().unwrap_or_default()
}

/// What is printed, as an operator pastes it: the remark behind it is a comment there too.
pub async fn paste(url: &str, sql: &str) -> Result<String> {
    let (url, sql) = (url.to_owned(), sql.to_owned());
    let pasted = tokio::task::spawn_blocking(move || {
        let mut psql = Command::new("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", &url]);
        psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut psql = psql.spawn().context("psql comes with Postgres' client programs")?;
        psql.stdin.take().context("a pipe")?.write_all(sql.as_bytes())?;
        let output = psql.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "{sql}\n{said}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    });
    pasted.await?
}

/// What `check` finds, and what it says to do.
pub trait Checks {
    async fn check(&self) -> Result<Checked>;
    /// Does what is printed, as an operator would: psql, or the program itself.
    async fn carry_out(&self, finding: &Value) -> Result<()>;
    /// Breaks one thing by SQL, finds it, runs the SQL that is printed, and finds it no more.
    async fn repairs(&self, name: &str, severity: &str, broken_by: &str) -> Result<()>;
}

impl Checks for Setting {
    async fn check(&self) -> Result<Checked> {
        let output = self.program.output(&["check", "--json"]).await?;
        let json: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        let findings = json["findings"].as_array().context("no findings")?.clone();
        let severities: Vec<_> =
            findings.iter().map(|finding| rank(&finding["severity"])).collect();
        assert!(severities.is_sorted(), "the gravest come first: {severities:?}");
        Ok(Checked { code: output.status.code(), findings })
    }

    async fn carry_out(&self, finding: &Value) -> Result<()> {
        let hint = hint(finding);
        let command = hint.split("  -- ").next().unwrap_or_default();
        match command.strip_prefix("pgoutbox ") {
            Some(words) => {
                let words: Vec<_> = words.split(' ').collect();
                self.program.succeed(&words).await?
            }
            None => paste(&self.database_url, hint).await?,
        };
        Ok(())
    }

    async fn repairs(&self, name: &str, severity: &str, broken_by: &str) -> Result<()> {
        self.check().await?.has_not(name);
        self.sql(broken_by).await.with_context(|| broken_by.to_owned())?;
        let checked = self.check().await?;
        let code = if severity == "error" { 1 } else { 0 };
        assert_eq!(checked.code, Some(code), "{name}: {checked}");
        self.carry_out(checked.has(name, severity)).await.with_context(|| name.to_owned())?;
        self.check().await?.has_not(name);
        Ok(())
    }
}

fn rank(severity: &Value) -> usize {
    let order = ["error", "warning", "unknown", "good"];
    order.iter().position(|known| severity == known).unwrap_or(order.len())
}

/// What a fresh outbox has, on a server as the tests start it.
#[tokio::test]
async fn finds_nothing_where_all_is_well() -> Result<()> {
    let setting = Setting::shared().await?;
    let checked = setting.check().await?;
    assert_eq!((checked.code, checked.errors().len()), (Some(0), 0), "{checked}");
    for good in [
        "wal-level",
        "slot",
        "publication",
        "table",
        "schema",
        "stream",
        "broker",
        "exchange",
        "clock-skew",
    ] {
        let is_good = |finding: &&Value| finding["name"] == good && finding["severity"] == "good";
        assert!(checked.findings.iter().any(|finding| is_good(&finding)), "no {good} in {checked}");
    }
    checked.has("exchange-binding", "unknown");
    // The tests' server keeps WAL without a limit, which is worth a warning.
    checked.has("max-slot-wal-keep-size", "warning");
    let strict = setting.program.output(&["check", "--strict"]).await?;
    assert_eq!(strict.status.code(), Some(1));
    // The relay has the slot meanwhile, and keeps it.
    let relay = setting.run()?;
    let is_active =
        format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{}'", setting.database);
    setting.until("the relay to have the slot", &is_active).await?;
    let checked = setting.check().await?;
    assert_eq!(checked.code, Some(0), "{checked}");
    checked.has_not("slot-in-use");
    assert!(setting.ask::<bool>(&is_active).await?);
    relay.drain(PATIENCE).await
}

/// A server on which nothing is right, and nothing made: all of it at once, and all of it repaired.
#[tokio::test]
async fn finds_everything_at_once() -> Result<()> {
    let conf = [
        "wal_level = replica",
        "max_wal_senders = 0",
        "max_replication_slots = 0",
        "wal_sender_timeout = 0",
        "synchronous_standby_names = '*'",
        "synchronous_commit = local",
    ];
    let options = postgres::Options { conf: conf.map(str::to_owned).into(), ..Default::default() };
    let (postgres, rabbitmq) = tokio::try_join!(Postgres::start(options), shared::rabbitmq())?;
    let (database, vhost) = (postgres.create_database().await?, rabbitmq.add_vhost().await?);
    let (database_url, amqp_url) = (postgres.url(&database), rabbitmq.url(&vhost));
    let setting = Setting::with(database, vhost, database_url, amqp_url);
    let setting = setting.set("postgres.on_slot_loss", "halt");
    let wrong = rabbitmq.url_as("guest:wrong", rabbitmq.port(), &setting.vhost);
    let checked = setting.clone().set("amqp.url", &wrong).check().await?;
    assert_eq!(checked.code, Some(1), "{checked}");
    let errors = [
        "broker-login",
        "max-replication-slots",
        "max-wal-senders",
        "publication-missing",
        "schema-missing",
        "slot-missing",
        "table-missing",
        "wal-level",
    ];
    assert_eq!(checked.errors(), BTreeSet::from(errors), "{checked}");
    let warnings = ["max-slot-wal-keep-size", "synchronous-standby-names", "wal-sender-timeout"];
    for (name, severity) in [
        ("wal-level", "error"),
        ("max-wal-senders", "error"),
        ("max-replication-slots", "error"),
        ("max-slot-wal-keep-size", "warning"),
        ("synchronous-standby-names", "warning"),
        ("wal-sender-timeout", "warning"),
    ] {
        setting.carry_out(checked.has(name, severity)).await?;
    }
    postgres.stop(Shutdown::Fast, PATIENCE).await?;
    postgres.start_again().await?;
    let checked_again = setting.check().await?;
    for name in ["table-missing", "schema-missing", "publication-missing", "slot-missing"] {
        assert!(hint(checked_again.has(name, "error")).starts_with("pgoutbox init"));
    }
    assert!(hint(checked.has("synchronous-standby-names", "warning")).contains("standby1"));
    setting.carry_out(checked_again.has("schema-missing", "error")).await?;
    setting.carry_out(setting.check().await?.has("exchange-missing", "error")).await?;
    let checked = setting.check().await?;
    assert_eq!((checked.code, checked.errors().len()), (Some(0), 0), "{checked}");
    warnings.iter().for_each(|name| checked.has_not(name));
    // Whoever waits for a standby that is not there would wait for ever from here on.
    setting.sql("ALTER SYSTEM RESET synchronous_standby_names").await?;

    walsenders_run_out(&postgres, &setting).await?;
    the_slot_is_lost(&setting).await
}

async fn walsenders_run_out(postgres: &Postgres, setting: &Setting) -> Result<()> {
    setting.sql("ALTER SYSTEM SET max_wal_senders = 1").await?;
    postgres.stop(Shutdown::Fast, PATIENCE).await?;
    postgres.start_again().await?;
    let other =
        setting.clone().set("postgres.slot", "another").set("postgres.publication", "another");
    other.init().await?;
    let relay = other.run()?;
    let is_active = "SELECT active FROM pg_replication_slots WHERE slot_name = 'another'";
    setting.until("the other relay to have its slot", is_active).await?;
    let checked = setting.check().await?;
    assert_eq!(checked.errors(), BTreeSet::from(["max-wal-senders"]), "{checked}");
    // The relay that has the one walsender is well, but no other could take over.
    other.check().await?.has("max-wal-senders", "warning");
    setting.carry_out(checked.has("max-wal-senders", "error")).await?;
    relay.drain(PATIENCE).await?;
    postgres.stop(Shutdown::Fast, PATIENCE).await?;
    postgres.start_again().await?;
    setting.check().await?.has_not("max-wal-senders");
    Ok(())
}

async fn the_slot_is_lost(setting: &Setting) -> Result<()> {
    for sql in ["ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'", "SELECT pg_reload_conf()"] {
        setting.sql(sql).await?;
    }
    let is_lost = format!(
        "SELECT wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = '{}'",
        setting.database
    );
    wait_until("the slot to be lost", PATIENCE, async || {
        setting.sql("CREATE TABLE IF NOT EXISTS noise (n int)").await?;
        setting.sql("INSERT INTO noise VALUES (1)").await?;
        setting.sql("SELECT pg_switch_wal()").await?;
        setting.sql("CHECKPOINT").await?;
        setting.ask(&is_lost).await
    })
    .await?;
    let checked = setting.check().await?;
    let found = checked.has("slot-lost", "error");
    let by_itself = setting.clone().set("postgres.on_slot_loss", "catch_up").check().await?;
    assert_eq!(hint(by_itself.has("slot-lost", "warning")), "pgoutbox run");
    assert!(hint(found).contains("pgoutbox init"), "{found}");
    let (drop, init) = hint(found).split_once("then: ").context("two steps")?;
    paste(&setting.database_url, drop).await?;
    assert!(init.starts_with("pgoutbox init  -- "), "{init}");
    setting.init().await?;
    setting.check().await?.has_not("slot-lost");
    Ok(())
}

#[tokio::test]
async fn settings_of_the_server_that_are_odd() -> Result<()> {
    let (postgres, setting) = Setting::own_postgres().await?;
    let synchronous = format!("FIRST 2 (other, \"pgoutbox/{}\")", setting.database);
    let mut cases = vec![
        ("wal_sender_timeout", "1s", "wal-sender-timeout", "warning"),
        ("wal_sender_timeout", "1h", "wal-sender-timeout", "warning"),
        ("max_slot_wal_keep_size", "-1", "max-slot-wal-keep-size", "warning"),
        ("synchronous_standby_names", &synchronous, "synchronous-standby-names", "warning"),
    ];
    if postgres.version() >= 18 {
        cases.push((
            "idle_replication_slot_timeout",
            "1h",
            "idle-replication-slot-timeout",
            "warning",
        ));
    }
    for (setting_name, value, name, severity) in cases {
        let is_set = format!("SELECT current_setting('{setting_name}') = '{value}'");
        setting.sql(&format!("ALTER SYSTEM SET {setting_name} = '{value}'")).await?;
        setting.sql("SELECT pg_reload_conf()").await?;
        setting.until("the setting", &is_set).await?;
        setting.carry_out(setting.check().await?.has(name, severity)).await?;
        setting
            .until("the hint", &format!("SELECT NOT ({is_set})").replace("(SELECT", "("))
            .await?;
        setting.check().await?.has_not(name);
    }
    // The others are still waited for, in this case for ever.
    let others = "SELECT current_setting('synchronous_standby_names') = 'FIRST 1 (other)'";
    setting.until("the others", others).await?;
    for sql in ["ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()"] {
        setting.sql(sql).await?;
    }
    server::the_slot_is_about_to_be_lost(&setting).await?;
    // A server that only follows: the name leads to the wrong one.
    let standby = postgres.standby(&[]).await?;
    let checked =
        setting.clone().set("postgres.url", &standby.url(&setting.database)).check().await?;
    assert_eq!(checked.errors(), BTreeSet::from(["standby"]), "{checked}");
    checked.has("standby", "error");
    Ok(())
}

/// A partition made later has no filter, where the filters are the partitions' own.
#[tokio::test]
async fn filters_of_partitions() -> Result<()> {
    if shared::postgres().await?.version() < 15 {
        // Row filters are from 15 on.
        return Ok(());
    }
    let setting = Setting::bare().await?;
    setting
        .sql(
            "CREATE TABLE outbox_messages (id uuid, aggregate_type text, aggregate_id text, event_type text, topic text,
                 payload jsonb, headers jsonb, occurred_at timestamptz, relayed_at timestamptz, PRIMARY KEY (id, aggregate_type))
                 PARTITION BY LIST (aggregate_type);
             CREATE TABLE part_a PARTITION OF outbox_messages FOR VALUES IN ('a');
             CREATE TABLE \"Part B\" PARTITION OF outbox_messages FOR VALUES IN ('b')",
        )
        .await?;
    setting.init().await?;
    let each = "ALTER PUBLICATION pgoutbox SET (publish_via_partition_root = false); ALTER PUBLICATION pgoutbox ADD TABLE";
    let broken = format!("{each} part_a WHERE (topic <> ''), \"Part B\" WHERE (topic <> '')");
    setting.repairs("publication-partition-filter", "warning", &broken).await?;
    // The root has the filter now, and with it a partition that is made later.
    setting.check().await?.has("publication-row-filter", "warning");
    let filter = "SELECT rowfilter LIKE '(topic <>%' FROM pg_publication_tables WHERE tablename = 'outbox_messages'";
    assert!(setting.ask::<bool>(filter).await?);
    let whole = "ALTER PUBLICATION pgoutbox SET TABLE outbox_messages";
    setting.sql(whole).await?;
    // None does for both.
    let broken = format!("{each} part_a WHERE (topic <> ''), \"Part B\" WHERE (topic = '')");
    setting.sql(&broken).await?;
    let found = setting.check().await?;
    assert!(
        hint(found.has("publication-partition-filter", "warning")).contains("one filter"),
        "{found}"
    );
    // Without a filter there is nothing to miss.
    setting.sql(&format!("{whole}, part_a")).await?;
    setting.check().await?.has_not("publication-partition-filter");
    Ok(())
}

#[tokio::test]
async fn publications() -> Result<()> {
    let setting = Setting::shared().await?;
    let alter = "ALTER PUBLICATION pgoutbox";
    setting
        .repairs("publication-not-insert", "error", &format!("{alter} SET (publish = 'delete')"))
        .await?;
    let more = format!("{alter} SET (publish = 'insert, update')");
    setting.repairs("publication-not-insert-only", "error", &more).await?;
    let out = format!("{alter} DROP TABLE outbox_messages");
    setting.repairs("publication-without-table", "error", &out).await?;
    let strangers = format!(
        "CREATE TABLE stranger (n int); CREATE TABLE \"Other one\" (n int); {alter} ADD TABLE stranger, \"Other one\""
    );
    setting.repairs("publication-other-tables", "warning", &strangers).await?;
    let timeless = "ALTER TABLE outbox_messages DROP COLUMN occurred_at";
    setting.repairs("catch-up-order", "warning", timeless).await?;
    let other = format!("{timeless}, ADD COLUMN inserted_at timestamptz");
    setting.sql(&other).await?;
    let found = setting.check().await?;
    let said = found.has("catch-up-order", "warning")["hint"].to_string();
    assert!(said.contains("occurred_at = \\\"inserted_at\\\""), "{said}");
    setting.sql("ALTER TABLE outbox_messages RENAME COLUMN inserted_at TO occurred_at").await?;
    let unlogged = format!("{out}; ALTER TABLE outbox_messages SET UNLOGGED");
    setting.repairs("table-unlogged", "error", &unlogged).await?;
    let checked = setting.check().await?;
    setting.carry_out(checked.has("publication-without-table", "error")).await?;
    if shared::postgres().await?.version() >= 15 {
        let filter = format!("{alter} SET TABLE outbox_messages WHERE (topic <> '')");
        setting.repairs("publication-row-filter", "warning", &filter).await?;
        let list = format!("{alter} SET TABLE outbox_messages (id, topic, payload)");
        setting.repairs("publication-column-list", "error", &list).await?;
    }
    // It was recreated: too late for what the slot still reads.
    let again = "DROP PUBLICATION pgoutbox; CREATE PUBLICATION pgoutbox FOR TABLE outbox_messages WITH (publish = 'insert')";
    setting.sql(again).await?;
    let checked = setting.check().await?;
    let found = checked.has("publication-after-slot", "warning");
    // By the row that a relay keeps of its slot.
    let lose =
        "CREATE TABLE kept AS SELECT * FROM pgoutbox.progress; DELETE FROM pgoutbox.progress";
    setting.sql(lose).await?;
    setting.check().await?.has("publication-after-slot", "unknown");
    setting.sql("INSERT INTO pgoutbox.progress SELECT * FROM kept; DROP TABLE kept").await?;
    let drop = hint(found).split("stopped: ").nth(1).and_then(|sql| sql.split_once("then: "));
    let (drop, init) = drop.context("two steps")?;
    paste(&setting.database_url, drop).await?;
    assert!(init.starts_with("pgoutbox init  -- "), "{init}");
    setting.init().await?;
    let found = setting.check().await?;
    assert!(
        found.find("publication-after-slot").is_none_or(|it| it["severity"] == "unknown"),
        "{found}"
    );
    setting.sql("DROP PUBLICATION pgoutbox").await?;
    let checked = setting.check().await?;
    let found = checked.has("publication-missing", "error");
    let drop = hint(found).split("exists, first: ").nth(1).and_then(|sql| sql.split(';').next());
    paste(&setting.database_url, drop.context("no SQL")?).await?;
    setting.carry_out(found).await?;
    let checked = setting.check().await?;
    assert_eq!(checked.code, Some(0), "{checked}");
    Ok(())
}

#[tokio::test]
async fn tables_and_columns() -> Result<()> {
    let setting = Setting::shared().await?;
    let alter = "ALTER TABLE outbox_messages";
    setting.repairs("column-missing", "error", &format!("{alter} DROP COLUMN relayed_at")).await?;
    let index = "CREATE INDEX ON outbox_messages (relayed_at)";
    setting.repairs("mark-index", "warning", index).await?;
    let full = format!("{alter} REPLICA IDENTITY FULL");
    setting.repairs("replica-identity-full", "warning", &full).await?;
    let odd = setting.clone().set("tables.0.columns.occurred_at", "payload");
    odd.check().await?.has("column-type", "error");
    let odd = setting.clone().set("tables.0.columns.correlation_id", "nobody");
    odd.check().await?.has("column-missing", "error");
    let none = setting.clone().set("tables.0.name", "nowhere");
    let found = none.check().await?;
    let found = found.has("table-missing", "error");
    let said = hint(found);
    assert!(said.starts_with("ALTER TABLE public.outbox_messages RENAME TO "), "{said}");
    assert!(said.ends_with("pgoutbox init"), "{said}");
    // It makes the table, and leaves a publication that is there as it is.
    assert_eq!(none.program.output(&["init"]).await?.status.code(), Some(1));
    let checked = none.check().await?;
    checked.has_not("table-missing");
    none.carry_out(checked.has("publication-without-table", "error")).await?;
    let checked = none.check().await?;
    assert_eq!(checked.code, Some(0), "{checked}");
    let generated = "ADD COLUMN kind text GENERATED ALWAYS AS ('k' || topic) STORED";
    setting.sql(&format!("{alter} {generated}")).await?;
    let odd = setting.clone().set("tables.0.columns.event_type", "kind");
    let checked = odd.check().await?;
    let found = checked.has("column-generated", "error");
    if shared::postgres().await?.version() >= 18 {
        odd.carry_out(found).await?;
        odd.check().await?.has_not("column-generated");
    } else {
        assert!(hint(found).starts_with("map ordinary columns"), "{found}");
    }
    Ok(())
}

#[tokio::test]
async fn partitions() -> Result<()> {
    let setting = Setting::bare().await?;
    setting
        .sql(
            "CREATE TABLE outbox_messages (id uuid NOT NULL, topic text, payload jsonb, status text,
                 relayed_at timestamptz) PARTITION BY LIST (status);
             CREATE PUBLICATION pgoutbox FOR TABLE outbox_messages
                 WITH (publish = 'insert', publish_via_partition_root = false)",
        )
        .await?;
    let checked = setting.check().await?;
    checked.has("partition-key", "warning");
    setting.sql("CREATE TABLE paid PARTITION OF outbox_messages FOR VALUES IN ('paid')").await?;
    let leaf = setting.clone().set("tables.0.name", "paid").check().await?;
    leaf.has("table-is-partition", "warning");
    checked.has_not("table-is-partition");
    setting.carry_out(checked.has("publication-partition-root", "warning")).await?;
    let checked = setting.check().await?;
    checked.has_not("publication-partition-root");
    // Its rows come under the other name now.
    let leaf = setting.clone().set("tables.0.name", "paid").check().await?;
    let found = leaf.has("publication-partition-root", "error");
    assert_eq!(hint(found), "name the partitioned table in the configuration: [[tables]]");
    // Partitions that are found by their ids alone.
    setting.carry_out(checked.has("id-index", "warning")).await?;
    setting.check().await?.has_not("id-index");
    setting
        .sql(
            "DROP TABLE outbox_messages;
             CREATE TABLE outbox_messages (id uuid NOT NULL, topic text, payload jsonb,
                 relayed_at timestamptz) PARTITION BY RANGE (relayed_at)",
        )
        .await?;
    setting.check().await?.has("partition-key", "error");
    Ok(())
}

#[tokio::test]
async fn slots() -> Result<()> {
    let setting = Setting::shared().await?.set("postgres.on_slot_loss", "halt");
    let name = setting.database.clone();
    let drop = format!("SELECT pg_drop_replication_slot('{name}')");
    let unknown = setting.clone().set("postgres.slot", "never_there").check().await?;
    unknown.has("slot-missing", "error");

    setting.sql(&drop).await?;
    let found = setting.check().await?;
    let found = found.has("slot-missing", "error");
    assert!(hint(found).starts_with("pgoutbox init  -- "), "{found}");
    setting.init().await?;
    setting.check().await?.has_not("slot-missing");

    // Left to the relay, which recreates it.
    setting.sql(&drop).await?;
    let by_itself = setting.clone().set("postgres.on_slot_loss", "catch_up").check().await?;
    assert_eq!(hint(by_itself.has("slot-missing", "warning")), "pgoutbox run");
    setting.sql(&format!("SELECT pg_create_physical_replication_slot('{name}')")).await?;
    let found = setting.check().await?;
    let (_, pasted) =
        hint(found.has("slot-plugin", "error")).split_once("uses it: ").context("no SQL")?;
    let (pasted, then) = pasted.split_once(" then ").context("two steps")?;
    assert_eq!(then, "pgoutbox init");
    paste(&setting.database_url, pasted).await?;
    setting.init().await?;
    setting.check().await?.has_not("slot-plugin");
    setting.sql(&drop).await?;
    let other = format!("SELECT pg_create_logical_replication_slot('{name}', 'test_decoding')");
    setting.sql(&other).await?;
    let found = setting.check().await?;
    assert!(found.has("slot-plugin", "error")["what"].to_string().contains("(test_decoding)"));
    setting.sql(&drop).await?;

    let two_phase =
        format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput', false, true)");
    setting.sql(&two_phase).await?;
    let found = setting.check().await?;
    let (pasted, then) =
        hint(found.has("slot-two-phase", "error")).split_once(" then: ").context("two steps")?;
    paste(&setting.database_url, pasted).await?;
    assert!(then.starts_with("pgoutbox init  -- "), "{then}");
    setting.init().await?;
    setting.check().await?.has_not("slot-two-phase");
    setting.sql(&drop).await?;

    let owner = setting.client().await?;
    let temporary =
        format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput', true)");
    owner.batch_execute(&temporary).await?;
    let found = setting.check().await?;
    let found = found.has("slot-temporary", "error");
    assert_eq!(hint(found), "end that session, then: pgoutbox init");
    drop_session(owner, &setting).await?;
    setting.init().await?;
    setting.check().await?.has_not("slot-temporary");
    setting.sql(&drop).await?;

    let other = Setting::bare().await?;
    other.sql(&format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")).await?;
    setting.check().await?.has("slot-database", "error");
    // As the hint says: another name.
    let renamed = setting.clone().set("postgres.slot", &format!("{name}_2"));
    renamed.init().await?;
    renamed.check().await?.has_not("slot-database");
    other.sql(&drop).await?;
    setting.init().await?;

    let stranger = setting.clone().set("postgres.application_name", "somebody else");
    // Once ended, it does not come again meanwhile.
    let stranger =
        stranger.set("session.backoff_min", "60s").set("session.backoff_max", "60s").run()?;
    let is_active = format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{name}'");
    setting.until("somebody else to have the slot", &is_active).await?;
    let checked = setting.check().await?;
    let found = checked.has("slot-in-use", "warning");
    assert!(found["what"].as_str().is_some_and(|what| what.contains("somebody else")), "{found}");
    setting.carry_out(found).await?;
    setting
        .until("the slot to be free", &is_active.replace("SELECT active", "SELECT NOT active"))
        .await?;
    setting.check().await?.has_not("slot-in-use");
    stranger.kill9().await?;

    let failover = setting.set("postgres.failover", "true");
    let checked = failover.check().await?;
    if shared::postgres().await?.version() < 17 {
        checked.has("failover-unsupported", "error");
        return Ok(());
    }
    let found = checked.has("slot-failover", "warning");
    let on = hint(found).split("psql '").nth(1).and_then(|rest| rest.split('\'').next());
    let on = on.context("no connection")?;
    assert_eq!(on, format!("dbname={name} replication=database"));
    paste(&format!("{}?replication=database", failover.database_url), hint(found)).await?;
    failover.check().await?.has_not("slot-failover");
    Ok(())
}

/// Ends the session, and waits until what went with it is gone.
async fn drop_session(session: tokio_postgres::Client, setting: &Setting) -> Result<()> {
    drop(session);
    let is_gone = format!(
        "SELECT count(*) = 0 FROM pg_replication_slots WHERE slot_name = '{}'",
        setting.database
    );
    setting.until("the slot to be gone", &is_gone).await
}

#[tokio::test]
async fn roles() -> Result<()> {
    let owner = Setting::bare().await?;
    let setting = owner.with_roles().await?;
    let (stream, audit) = (owner.stream_role(), owner.audit_role());
    let well = setting.check().await?;
    assert_eq!((well.code, well.errors().len()), (Some(0), 0), "{well}");
    let database = &owner.database;
    for (name, severity, broken_by) in [
        ("role-replication", "error", format!("ALTER ROLE {stream} NOREPLICATION")),
        ("role-login", "error", format!("ALTER ROLE {stream} NOLOGIN")),
        (
            "role-connect",
            "error",
            format!(
                "GRANT CONNECT ON DATABASE {database} TO {audit}; REVOKE CONNECT ON DATABASE {database} FROM PUBLIC, {stream}"
            ),
        ),
        (
            "grant-mark",
            "error",
            format!("REVOKE UPDATE (relayed_at) ON outbox_messages FROM {audit}"),
        ),
        ("grant-progress", "error", format!("REVOKE UPDATE ON pgoutbox.progress FROM {audit}")),
        (
            "row-level-security",
            "error",
            "ALTER TABLE outbox_messages ENABLE ROW LEVEL SECURITY".to_owned(),
        ),
    ] {
        owner.sql(&broken_by).await?;
        let checked = setting.check().await?;
        let errors = BTreeSet::from([name]);
        assert_eq!(
            checked.errors(),
            if severity == "error" { errors } else { BTreeSet::new() },
            "{checked}"
        );
        let found = checked.has(name, severity);
        owner.carry_out(found).await?;
        setting.check().await?.has_not(name);
    }
    // A policy that takes rows away leaves one way only.
    let takes = "CREATE POLICY takes ON outbox_messages AS RESTRICTIVE USING (topic <> 'secret')";
    owner.sql(takes).await?;
    owner.carry_out(setting.check().await?.has("row-level-security", "error")).await?;
    setting.check().await?.has_not("row-level-security");
    let postgres = shared::postgres().await?;
    let nobody_there = postgres.url_as("nobody_there", postgres.port(), &owner.database);
    let nobody = setting.clone().set("postgres.stream_url", &nobody_there).check().await?;
    let found = nobody.has("role-missing", "error");
    assert!(hint(found).starts_with("CREATE ROLE \"nobody_there\" LOGIN REPLICATION;"), "{found}");
    owner.carry_out(found).await?;
    let there = setting.clone().set("postgres.stream_url", &nobody_there).check().await?;
    there.has_not("role-missing");
    there.has_not("role-replication");
    // The stream's walsender is seen with the stream's role, whatever the audit role may see.
    let relay = setting.run()?;
    let is_active =
        format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{database}'");
    owner.until("the relay to have the slot", &is_active).await?;
    setting.check().await?.has_not("slot-in-use");
    relay.drain(PATIENCE).await
}

/// A line of pg_hba.conf that refuses, and a password that is wrong.
#[tokio::test]
async fn who_is_not_let_in() -> Result<()> {
    let hba = ["host all locked all scram-sha-256", "host all refused all reject"];
    let options = postgres::Options { hba: hba.map(str::to_owned).into(), ..Default::default() };
    let (postgres, rabbitmq) = tokio::try_join!(Postgres::start(options), shared::rabbitmq())?;
    let (database, vhost) = (postgres.create_database().await?, rabbitmq.add_vhost().await?);
    let setting =
        Setting::of(database.clone(), vhost.clone(), postgres.url(&database), rabbitmq.url(&vhost))
            .await?;
    setting
        .sql("CREATE ROLE refused SUPERUSER LOGIN PASSWORD 'right'; CREATE ROLE locked SUPERUSER LOGIN PASSWORD 'right'")
        .await?;
    let as_role = |role: &str| postgres.url_as(role, postgres.port(), &database);
    let wrong = setting.clone().set("postgres.url", &as_role("locked:wrong")).check().await?;
    // Nothing of the broker is left out over it.
    assert_eq!(wrong.errors(), BTreeSet::from(["postgres-login"]), "{wrong}");
    assert!(hint(wrong.has("postgres-login", "error")).starts_with("\\password \"locked\"  -- "));
    assert!(wrong.findings.iter().any(|finding| finding["name"] == "exchange"), "{wrong}");
    let right = setting.clone().set("postgres.url", &as_role("locked:right")).check().await?;
    assert_eq!(right.code, Some(0), "{right}");

    let refused = setting.clone().set("postgres.stream_url", &as_role("refused:right"));
    let checked = refused.check().await?;
    assert_eq!(checked.errors(), BTreeSet::from(["pg-hba"]), "{checked}");
    let line = hint(checked.has("pg-hba", "error")).split("refuses: ").nth(1).context("no line")?;
    let line = line.split("  -- ").next().unwrap_or_default();
    let file = postgres.data().join("pg_hba.conf");
    let before = std::fs::read_to_string(&file)?;
    std::fs::write(&file, format!("{line}\n{before}"))?;
    setting.sql("SELECT pg_reload_conf()").await?;
    wait_until("the line to count", PATIENCE, async || {
        Ok(refused.check().await?.find("pg-hba").is_none())
    })
    .await?;
    let nowhere = setting.clone().set("postgres.url", &postgres.url("nowhere_at_all"));
    setting.carry_out(nowhere.check().await?.has("postgres-database", "error")).await?;
    nowhere.check().await?.has_not("postgres-database");
    let nobody = setting.set("postgres.url", "postgres://postgres@127.0.0.1:1/x").check().await?;
    assert_eq!(nobody.code, Some(1), "{nobody}");
    nobody.has("postgres-connection", "error");
    Ok(())
}

#[tokio::test]
async fn a_pooler_in_between() -> Result<()> {
    let setting = Setting::shared().await?;
    let postgres = shared::postgres().await?;
    let through = |pooler: &PgBouncer| postgres.url_on(pooler.port(), &setting.database);
    let direct = setting.clone().set("postgres.stream_url", &setting.database_url);

    // As it comes: it knows neither options nor replication.
    let plain = PgBouncer::start(postgres, &[]).await?;
    let checked = setting.clone().set("postgres.url", &through(&plain)).check().await?;
    assert_eq!(checked.errors(), BTreeSet::from(["pooler"]), "{checked}");
    let only_stream = setting.clone().set("postgres.stream_url", &through(&plain)).check().await?;
    assert_eq!(only_stream.errors(), BTreeSet::from(["pooler"]), "{only_stream}");
    assert!(hint(only_stream.has("pooler", "error")).contains("postgres.stream_url"));

    let lenient = "ignore_startup_parameters = extra_float_digits,options";
    let session = PgBouncer::start(postgres, &[lenient, "pool_mode = session"]).await?;
    let checked = direct.clone().set("postgres.url", &through(&session)).check().await?;
    assert_eq!(checked.code, Some(0), "{checked}");
    // The settings are made by statements there.
    checked.has_not("pooler");
    let refuses = direct.clone().set("postgres.url", &through(&plain)).check().await?;
    assert_eq!(refuses.code, Some(0), "{refuses}");

    let transaction = PgBouncer::start(postgres, &[lenient, "pool_mode = transaction"]).await?;
    let checked = direct.clone().set("postgres.url", &through(&transaction)).check().await?;
    assert_eq!(checked.errors(), BTreeSet::from(["pooler"]), "{checked}");
    direct.check().await?.has_not("pooler");
    Ok(())
}

/// Which certificate fails, and why; and which soon will.
#[tokio::test]
async fn certificates() -> Result<()> {
    let (ours, theirs) = (Authority::new("ours")?, Authority::new("theirs")?);
    let names = ["localhost", "127.0.0.1"];
    let files = tempfile::tempdir()?;
    let authority = files.path().join("ours.pem");
    std::fs::write(&authority, ours.pem())?;
    let tls = ServerTls { pair: ours.server(&names)?, ca: ours.pem().to_owned() };
    let options = postgres::Options { tls: Some(tls), ..Default::default() };
    let (postgres, rabbitmq) = tokio::try_join!(Postgres::start(options), shared::rabbitmq())?;
    let (database, vhost) = (postgres.create_database().await?, rabbitmq.add_vhost().await?);
    let setting =
        Setting::of(database.clone(), vhost.clone(), postgres.url(&database), rabbitmq.url(&vhost))
            .await?
            .set("postgres.ca_file", &authority.display().to_string());
    let well = setting.check().await?;
    assert_eq!(well.code, Some(0), "{well}");
    let is_shown =
        |finding: &Value| finding["name"] == "tls-certificate" && finding["severity"] == "good";
    assert!(well.findings.iter().any(is_shown), "{well}");

    let date = |days: i64| -> Result<(i32, u8, u8)> {
        let day =
            jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_hours(24 * days))?;
        let day = day.to_zoned(jiff::tz::TimeZone::UTC).date();
        Ok((day.year().into(), u8::try_from(day.month())?, u8::try_from(day.day())?))
    };
    for (pair, severity, says) in [
        (ours.server_until(&names, date(-3)?)?, "error", "CN=server expired at "),
        (ours.server_until(&names, date(4)?)?, "warning", "CN=server expires at "),
        (ours.server(&["db.example"])?, "error", "is for db.example, not for 127.0.0.1"),
        (theirs.server(&names)?, "error", "ends with an issuer CN=theirs, and trusted is"),
    ] {
        std::fs::write(postgres.data().join("server.crt"), &pair.cert)?;
        std::fs::write(postgres.data().join("server.key"), &pair.key)?;
        postgres.execute("postgres", "SELECT pg_reload_conf()").await?;
        let shown = harness::wait_for(says, PATIENCE, async || {
            let checked = setting.check().await?;
            let is_it = checked
                .find("tls-certificate")
                .is_some_and(|f| f["what"].as_str().is_some_and(|what| what.contains(says)));
            Ok(is_it.then_some(checked))
        })
        .await?;
        shown.has("tls-certificate", severity);
        let errors =
            if severity == "error" { BTreeSet::from(["tls-certificate"]) } else { BTreeSet::new() };
        assert_eq!(shown.errors(), errors, "{shown}");
        // Of the one server it is said once.
        let of_it = shown.findings.iter().filter(|finding| finding["name"] == "tls-certificate");
        assert_eq!(of_it.count(), 1, "{shown}");
    }
    // It takes the file with that authority, as the hint says.
    std::fs::write(&authority, theirs.pem())?;
    setting.check().await?.has_not("tls-certificate");
    // The relay's own.
    let (cert, key) = (files.path().join("own.crt"), files.path().join("own.key"));
    let with_own = setting
        .clone()
        .set("postgres.cert_file", &cert.display().to_string())
        .set("postgres.key_file", &key.display().to_string());
    for (name, severity, days, says) in [
        ("tls-client-certificate", "warning", 4, "expires at "),
        ("tls-client-certificate", "error", -3, "expired at "),
    ] {
        let own = ours.server_until(&names, date(days)?)?;
        std::fs::write(&cert, &own.cert)?;
        std::fs::write(&key, &own.key)?;
        let checked = with_own.check().await?;
        let found = checked.has(name, severity);
        assert!(found["what"].as_str().is_some_and(|what| what.contains(says)), "{found}");
    }
    let own = ours.server_until(&names, date(100)?)?;
    std::fs::write(&cert, &own.cert)?;
    std::fs::write(&key, &own.key)?;
    with_own.check().await?.has_not("tls-client-certificate");
    // A broker's are looked at in the same way.
    let servers = crate::tls::servers().await?;
    let url = servers.rabbitmq.tls_url("guest:guest", "localhost", "/");
    let checked = setting
        .set("amqp.url", &url)
        .set("amqp.ca_file", &authority.display().to_string())
        .check()
        .await?;
    let found = checked.has("tls-certificate", "error");
    assert!(hint(found).contains("amqp.ca_file"), "{found}");
    Ok(())
}

/// To look at an exchange is not a message: neither a queue nor a consumer gets one.
#[tokio::test]
async fn publishes_nothing_that_arrives() -> Result<()> {
    let setting = Setting::shared().await?;
    let consumer = setting.bound("#").await?;
    for _ in 0..3 {
        assert_eq!(setting.check().await?.code, Some(0));
    }
    let relay = setting.run()?;
    setting.sql("SELECT pgoutbox.enqueue('t', '{}')").await?;
    let came = crate::bare::arrived(&consumer, 1).await?;
    assert_eq!(came.len(), 1, "the one event, and it comes behind whatever check had sent");
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn events_that_no_queue_takes() -> Result<()> {
    let setting = Setting::shared().await?;
    let relay = setting.run()?;
    setting.sql("SELECT pgoutbox.enqueue('t', '{}')").await?;
    let parked = "SELECT count(*) = 1 FROM pgoutbox.parked WHERE reason = 'returned'";
    setting.until("the event to come back", parked).await?;
    let checked = setting.check().await?;
    let found = checked.has("exchange-binding", "warning");
    assert!(hint(found).contains("pgoutbox parked retry --reason returned"), "{found}");
    let consumer = setting.bound("#").await?;
    setting.program.succeed(&["parked", "retry", "--reason", "returned"]).await?;
    crate::bare::arrived(&consumer, 1).await?;
    setting.until("the parking to be empty", "SELECT count(*) = 0 FROM pgoutbox.parked").await?;
    setting.check().await?.has("exchange-binding", "unknown");
    relay.drain(PATIENCE).await
}

/// This machine's clock is off, for the program alone.
#[tokio::test]
async fn clocks_that_disagree() -> Result<()> {
    let home = tempfile::tempdir()?;
    let (source, library) = (home.path().join("clock.c"), home.path().join("clock.so"));
    std::fs::write(&source, include_str!("../chaos/clock.c"))?;
    let mut compiler = std::process::Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &source]).arg("-ldl");
    let compiled = compiler.output().context("the compiler that Rust links with")?;
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let offset = home.path().join("offset");
    let mut setting = Setting::shared().await?;
    setting.env("LD_PRELOAD", library.to_str().context("no UTF-8")?);
    setting.env("PGOUTBOX_TEST_CLOCK", offset.to_str().context("no UTF-8")?);
    for (seconds, says) in [(3_600, " behind this"), (-3_600, " ahead of this")] {
        std::fs::write(&offset, format!("{seconds}\n"))?;
        let checked = setting.check().await?;
        let found = checked.has("clock-skew", "warning");
        assert!(found["what"].as_str().is_some_and(|what| what.contains(says)), "{found}");
    }
    std::fs::write(&offset, "0\n")?;
    setting.check().await?.has_not("clock-skew");
    Ok(())
}
