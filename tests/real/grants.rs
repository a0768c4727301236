//! Every grant that the audit role lacks is found, named with its SQL, and repaired by it.

use anyhow::{Context, Result};
use harness::shared;
use pgoutbox::testing::config::{Config, Needs, Sources};
use pgoutbox::testing::slot::{self, Finding, Severity};

use crate::check::Checks as _;
use crate::check::{hint, paste};
use crate::setting::Setting;

struct Audit {
    owner: Setting,
    role: String,
    url: String,
    env: Vec<(&'static str, String)>,
}

impl Audit {
    /// What `init` makes with its roles, and these settings.
    async fn of(settings: &[(&'static str, &str)]) -> Result<Self> {
        Self::with("", settings).await
    }

    /// The same after this SQL.
    async fn with(sql: &str, settings: &[(&'static str, &str)]) -> Result<Self> {
        let mut owner = Setting::bare().await?;
        for (key, value) in settings {
            owner = owner.set(key, value);
        }
        owner.sql(sql).await?;
        let role = format!("{}_audit", owner.database);
        let stream = format!("{}_stream", owner.database);
        let init = ["init", "--stream-role", &stream, "--audit-role", &role];
        owner.program.succeed(&init).await?;
        let postgres = shared::postgres().await?;
        let url = |role: &str| postgres.url_as(role, postgres.port(), &owner.database);
        let mut env: Vec<_> =
            settings.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        let audit_url = url(&role);
        env.push(("postgres.url", audit_url.clone()));
        env.push(("postgres.stream_url", url(&stream)));
        env.push(("postgres.slot", owner.database.clone()));
        Ok(Self { owner, role, url: audit_url, env })
    }

    /// What `check` finds amiss about grants.
    async fn lacking(&self) -> Result<Vec<Finding>> {
        let env = self.env.iter().map(|(key, value)| {
            let name = format!("PGOUTBOX_{}", key.replace('.', "__").to_uppercase());
            (name.into(), value.into())
        });
        let sources = Sources { env: env.collect(), ..Sources::default() };
        let config = Config::load(&sources, Needs::POSTGRES)?;
        let client = harness::postgres::connect(&self.url).await?;
        let mut findings = slot::preflight(&client, &config).await?.findings;
        let is_about_grants = |finding: &Finding| finding.hint.contains("GRANT ");
        findings.retain(|finding| finding.severity != Severity::Good && is_about_grants(finding));
        Ok(findings)
    }

    /// Takes something from the role.
    async fn revoke(&self, what: &str) -> Result<()> {
        self.owner.sql(&format!("REVOKE {what} FROM {}", self.role)).await
    }

    /// Each of these, taken by itself: what is said of it, and that the SQL given repairs it.
    async fn repairs(&self, cases: &[(&str, &str, &str, &str)]) -> Result<()> {
        let none = self.lacking().await?;
        assert!(none.is_empty(), "init gives all that is needed: {none:?}");
        for (name, severity, revoked, says) in cases {
            self.revoke(revoked).await?;
            let found = self.lacking().await?;
            let finding = found.iter().find(|finding| finding.name == *name);
            let finding = finding.with_context(|| format!("{revoked}: no {name} in {found:?}"))?;
            let is_grave = finding.severity == Severity::Error;
            assert_eq!(if is_grave { "error" } else { "warning" }, *severity, "{finding:?}");
            assert!(finding.what.contains(says), "{revoked}: no {says} in {finding:?}");
            for finding in &found {
                paste(&self.owner.database_url, &finding.hint).await?;
            }
            let left = self.lacking().await?;
            assert!(left.is_empty(), "{revoked}: {found:?} did not fix {left:?}");
        }
        Ok(())
    }
}

#[tokio::test]
async fn of_marks_in_the_row_and_of_what_runs_beside() -> Result<()> {
    let audit = Audit::of(&[("postgres.on_slot_loss", "halt")]).await?;
    let missed = "may not look for rows of public.outbox_messages that were missed";
    audit
        .repairs(&[
            ("grant-mark", "error", "SELECT (id) ON outbox_messages", "may not write marks"),
            (
                "grant-mark",
                "error",
                "SELECT (relayed_at) ON outbox_messages",
                "may not write marks",
            ),
            (
                "grant-mark",
                "error",
                "UPDATE (relayed_at) ON outbox_messages",
                "may not write marks",
            ),
            ("grant-reconcile", "warning", "SELECT (occurred_at) ON outbox_messages", missed),
            ("grant-reconcile", "warning", "SELECT (xmin) ON outbox_messages", missed),
            ("grant-reconcile", "warning", "SELECT (ctid) ON outbox_messages", missed),
            (
                "grant-attempts",
                "warning",
                "UPDATE (attempt) ON outbox_messages",
                "events were tried: attempt",
            ),
            (
                "grant-attempts",
                "warning",
                "SELECT (last_error) ON outbox_messages",
                "events were tried: last_error",
            ),
            (
                "grant-attempts",
                "warning",
                "UPDATE (failed_at) ON outbox_messages",
                "events were tried: failed_at",
            ),
            ("grant-progress", "error", "USAGE ON SCHEMA pgoutbox", "may not keep its progress"),
            ("grant-progress", "error", "UPDATE ON pgoutbox.progress", "may not keep its progress"),
            ("grant-parked", "error", "DELETE ON pgoutbox.parked", "may not put events aside"),
            (
                "grant-catch-up-list",
                "error",
                "DELETE ON pgoutbox.catch_up_rows",
                "may not keep the list of a catch-up",
            ),
            (
                "grant-guard",
                "warning",
                "INSERT ON pgoutbox.guard",
                "may not write down what the guard",
            ),
        ])
        .await
}

#[tokio::test]
async fn of_catching_up_republishing_and_pruning() -> Result<()> {
    let audit = Audit::of(&[("reconcile.republish", "true"), ("prune.keep", "30days")]).await?;
    audit
        .repairs(&[
            (
                "grant-catch-up",
                "warning",
                "SELECT ON outbox_messages",
                "rows that a lost slot does not hold",
            ),
            ("grant-prune", "warning", "DELETE ON outbox_messages", "may not delete relayed rows"),
            (
                "grant-prune-own",
                "warning",
                "DELETE ON pgoutbox.relayed",
                "may not delete old marks and records",
            ),
            (
                "grant-prune-own",
                "warning",
                "UPDATE ON pgoutbox.relayed",
                "may not delete old marks and records",
            ),
        ])
        .await?;
    // Without it the next run could not even start: it reads the table first.
    let audit = Audit::of(&[]).await?;
    audit.owner.sql("SELECT pg_drop_replication_slot(current_database())").await?;
    let reads =
        [("grant-catch-up", "error", "SELECT ON outbox_messages", "a lost slot does not hold")];
    audit.repairs(&reads).await?;
    let halts = [("postgres.on_slot_loss", "halt"), ("reconcile.republish", "true")];
    let audit = Audit::of(&halts).await?;
    audit
        .repairs(&[(
            "grant-republish",
            "warning",
            "SELECT ON outbox_messages",
            "once more (reconcile.republish)",
        )])
        .await
}

#[tokio::test]
async fn of_the_other_kinds_of_marks() -> Result<()> {
    let halt = ("postgres.on_slot_loss", "halt");
    let audit = Audit::of(&[halt, ("audit.mode", "delete")]).await?;
    audit
        .repairs(&[
            ("grant-mark", "error", "DELETE ON outbox_messages", "may not write marks"),
            ("grant-reconcile", "warning", "SELECT (ctid) ON outbox_messages", "that were missed"),
        ])
        .await?;
    let audit = Audit::of(&[halt, ("audit.mode", "side_table")]).await?;
    audit
        .repairs(&[
            (
                "grant-relayed",
                "error",
                "INSERT ON pgoutbox.relayed",
                "may not write marks in pgoutbox.relayed",
            ),
            ("grant-reconcile", "warning", "SELECT (id) ON outbox_messages", "that were missed"),
        ])
        .await?;
    let audit = Audit::of(&[("audit.mode", "none")]).await?;
    audit
        .repairs(&[(
            "grant-attempts",
            "warning",
            "UPDATE (attempt) ON outbox_messages",
            "were tried: attempt",
        )])
        .await
}

/// An id of an extension's type, in a schema that needs its quotes and that not everybody may look into.
#[tokio::test]
async fn of_the_schema_of_a_type() -> Result<()> {
    let table = "CREATE SCHEMA \"My-Types\"; CREATE EXTENSION citext SCHEMA \"My-Types\";
         CREATE DOMAIN key AS \"My-Types\".citext;
         CREATE TABLE outbox_messages (id key PRIMARY KEY, topic text, payload jsonb, relayed_at timestamptz)";
    let audit = Audit::with(table, &[("postgres.on_slot_loss", "halt")]).await?;
    audit
        .repairs(&[(
            "grant-type",
            "error",
            "USAGE ON SCHEMA \"My-Types\"",
            "may not use schema \"My-Types\"",
        )])
        .await
}

/// A name that needs its quotes, and a schema that nobody else may use.
#[tokio::test]
async fn of_a_table_with_names_of_its_own() -> Result<()> {
    let settings = [
        ("tables.0.name", "shop.Outbox Rows"),
        ("tables.0.columns.attempt", "Tries"),
        ("postgres.on_slot_loss", "halt"),
    ];
    let audit = Audit::with(
        "CREATE SCHEMA shop;
         CREATE TABLE shop.\"Outbox Rows\" (id bigint PRIMARY KEY, payload jsonb, relayed_at timestamptz, \"Tries\" int)",
        &settings,
    )
    .await?;
    audit
        .repairs(&[
            (
                "grant-attempts",
                "warning",
                "UPDATE (\"Tries\") ON shop.\"Outbox Rows\"",
                "events were tried: Tries",
            ),
            (
                "grant-reconcile",
                "warning",
                "SELECT (xmin) ON shop.\"Outbox Rows\"",
                "that were missed",
            ),
            ("grant-reconcile", "warning", "USAGE ON SCHEMA shop", "that were missed"),
        ])
        .await
}

/// What tells the rows that are published is read beside the marks: columns of the rule, and of the
/// publication's row filter.
#[tokio::test]
async fn of_the_columns_that_filters_read() -> Result<()> {
    let halt = ("postgres.on_slot_loss", "halt");
    let rule = ("tables.0.only.event_type", "paid");
    let table = format!("{};", super::recipes::OUTBOX);
    // One that `init` makes has the rule as its row filter, where Postgres has these, and the columns by that.
    let plain = "CREATE PUBLICATION pgoutbox FOR TABLE outbox_messages WITH (publish = 'insert')";
    let audit = Audit::with(&format!("{table} {plain}"), &[halt, rule]).await?;
    let missed = "that were missed";
    audit
        .repairs(&[(
            "grant-reconcile",
            "warning",
            "SELECT (event_type) ON outbox_messages",
            missed,
        )])
        .await?;
    if audit.owner.ask::<i32>("SELECT current_setting('server_version_num')::int").await? < 150_000
    {
        // It has no row filters.
        return Ok(());
    }
    let publication = "CREATE PUBLICATION pgoutbox FOR TABLE outbox_messages WHERE (topic <> 'x') WITH (publish = 'insert')";
    let audit = Audit::with(&format!("{table} {publication}"), &[halt]).await?;
    audit
        .repairs(&[("grant-reconcile", "warning", "SELECT (topic) ON outbox_messages", missed)])
        .await
}

/// Reconciliation and pruning go to the partitions one by one: `init` grants of those that are there, what
/// pgoutbox makes has them from the start, and what somebody else made without is found.
#[tokio::test]
async fn of_partitions() -> Result<()> {
    let table = "CREATE TABLE outbox_messages (id int, occurred_at timestamptz, payload jsonb, topic text, relayed_at timestamptz)
             PARTITION BY RANGE (occurred_at);
         CREATE SCHEMA \"Leaves\";
         CREATE TABLE \"Leaves\".\"of old\" PARTITION OF outbox_messages FOR VALUES FROM ('2020-01-01') TO ('2021-01-01')";
    let settings = [
        ("postgres.on_slot_loss", "halt"),
        ("prune.keep", "30days"),
        ("prune.partition_span", "day"),
    ];
    let audit = Audit::with(table, &settings).await?;
    audit.owner.program.succeed(&["prune"]).await?;
    let made: i64 = audit
        .owner
        .ask("SELECT count(*) FROM pg_inherits WHERE inhparent = 'outbox_messages'::regclass")
        .await?;
    assert!(made > 1, "pruning makes those of the days to come");
    audit
        .repairs(&[
            (
                "grant-reconcile",
                "warning",
                "SELECT (xmin) ON \"Leaves\".\"of old\"",
                "in partitions of public.outbox_messages: \"Leaves\".\"of old\"",
            ),
            ("grant-reconcile", "warning", "USAGE ON SCHEMA \"Leaves\"", "in partitions of"),
            (
                "grant-prune",
                "warning",
                "DELETE ON \"Leaves\".\"of old\"",
                "may not delete relayed rows in partitions of",
            ),
        ])
        .await
}

/// The schema of an older pgoutbox, before it had the table.
#[tokio::test]
async fn init_adds_a_table_that_is_missing() -> Result<()> {
    let setting = Setting::shared().await?;
    let keeps = "INSERT INTO pgoutbox.relayed (outbox, id) VALUES ('outbox_messages', 'kept')";
    setting.sql(keeps).await?;
    for (table, name, severity) in [
        ("guard", "schema-outdated", "warning"),
        ("catch_up_rows", "schema-missing", "error"),
        ("parked", "schema-missing", "error"),
    ] {
        setting.sql(&format!("DROP TABLE pgoutbox.{table} CASCADE")).await?;
        let checked = setting.check().await?;
        let found = checked.has(name, severity);
        let what = format!(
            "schema pgoutbox lacks tables, indexes or functions of the relay's own: {table}"
        );
        assert_eq!((&found["what"], hint(found)), (&what.into(), "pgoutbox init"));
        assert_eq!(checked.code, Some(if severity == "error" { 1 } else { 0 }), "{checked}");
        let told = setting.program.succeed(&["init"]).await?;
        let line = format!("made    schema pgoutbox, of which were missing: {table}");
        assert!(told.contains(&line), "{told}");
        setting.check().await?.has_not(name);
        assert!(setting.program.succeed(&["init"]).await?.contains("found   schema pgoutbox"));
    }
    let kept: i64 = setting.ask("SELECT count(*) FROM pgoutbox.relayed").await?;
    assert_eq!(kept, 1, "what was there is left alone");
    Ok(())
}
