//! Every grant that the audit role lacks is found, named with its SQL, and mended by it.

use Severity::{Error, Warning};
use anyhow::{Context, Result};
use harness::shared;
use pgoutbox::config::{Config, Needs, Sources};
use pgoutbox::slot::{self, Finding, Severity};

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
        let is_about_grants = |finding: &Finding| finding.mend.contains("GRANT ");
        findings.retain(|finding| finding.severity != Severity::Good && is_about_grants(finding));
        Ok(findings)
    }

    /// Takes something from the role.
    async fn revoke(&self, what: &str) -> Result<()> {
        self.owner.sql(&format!("REVOKE {what} FROM {}", self.role)).await
    }

    /// Each of these, taken by itself: what is said of it, and that the SQL given mends it.
    async fn mends(&self, cases: &[(&str, Severity, &str)]) -> Result<()> {
        let none = self.lacking().await?;
        assert!(none.is_empty(), "init gives all that is needed: {none:?}");
        for (revoked, severity, says) in cases {
            self.revoke(revoked).await?;
            let found = self.lacking().await?;
            let finding = found.iter().find(|finding| finding.what.contains(says));
            let finding = finding.with_context(|| format!("{revoked}: no {says} in {found:?}"))?;
            assert_eq!(finding.severity, *severity, "{revoked}: {finding:?}");
            for finding in &found {
                self.owner.sql(&finding.mend).await.with_context(|| finding.mend.clone())?;
            }
            let left = self.lacking().await?;
            assert!(left.is_empty(), "{revoked}: {found:?} did not mend {left:?}");
        }
        Ok(())
    }
}

#[tokio::test]
async fn of_marks_in_the_row_and_of_what_runs_beside() -> Result<()> {
    let audit = Audit::of(&[("postgres.on_slot_loss", "halt")]).await?;
    let missed = "may not look for rows of public.outbox_messages that were missed";
    audit
        .mends(&[
            ("SELECT (id) ON outbox_messages", Error, "may not write marks"),
            ("SELECT (relayed_at) ON outbox_messages", Error, "may not write marks"),
            ("UPDATE (relayed_at) ON outbox_messages", Error, "may not write marks"),
            ("SELECT (occurred_at) ON outbox_messages", Warning, missed),
            ("SELECT (xmin) ON outbox_messages", Warning, missed),
            ("SELECT (ctid) ON outbox_messages", Warning, missed),
            ("UPDATE (attempt) ON outbox_messages", Warning, "events were tried: attempt"),
            ("SELECT (last_error) ON outbox_messages", Warning, "events were tried: last_error"),
            ("UPDATE (failed_at) ON outbox_messages", Warning, "events were tried: failed_at"),
            ("USAGE ON SCHEMA pgoutbox", Error, "may not keep its progress"),
            ("UPDATE ON pgoutbox.progress", Error, "may not keep its progress"),
            ("DELETE ON pgoutbox.parked", Error, "may not put events aside"),
            ("DELETE ON pgoutbox.catch_up_rows", Error, "may not keep the list of a catch-up"),
            ("INSERT ON pgoutbox.guard", Warning, "may not write down what the guard"),
        ])
        .await
}

#[tokio::test]
async fn of_catching_up_republishing_and_pruning() -> Result<()> {
    let audit = Audit::of(&[("reconcile.republish", "true"), ("prune.keep", "30days")]).await?;
    audit
        .mends(&[
            ("SELECT ON outbox_messages", Warning, "rows that a lost slot does not hold"),
            ("DELETE ON outbox_messages", Warning, "may not delete relayed rows"),
            ("DELETE ON pgoutbox.relayed", Warning, "may not delete old marks and records"),
            ("UPDATE ON pgoutbox.relayed", Warning, "may not delete old marks and records"),
        ])
        .await?;
    let halts = [("postgres.on_slot_loss", "halt"), ("reconcile.republish", "true")];
    let audit = Audit::of(&halts).await?;
    audit.mends(&[("SELECT ON outbox_messages", Warning, "once more (reconcile.republish)")]).await
}

#[tokio::test]
async fn of_the_other_kinds_of_marks() -> Result<()> {
    let halt = ("postgres.on_slot_loss", "halt");
    let audit = Audit::of(&[halt, ("audit.mode", "delete")]).await?;
    audit
        .mends(&[
            ("DELETE ON outbox_messages", Error, "may not write marks"),
            ("SELECT (ctid) ON outbox_messages", Warning, "that were missed"),
        ])
        .await?;
    let audit = Audit::of(&[halt, ("audit.mode", "side_table")]).await?;
    audit
        .mends(&[
            ("INSERT ON pgoutbox.relayed", Error, "may not write marks in pgoutbox.relayed"),
            ("SELECT (id) ON outbox_messages", Warning, "that were missed"),
        ])
        .await?;
    let audit = Audit::of(&[("audit.mode", "none")]).await?;
    audit.mends(&[("UPDATE (attempt) ON outbox_messages", Warning, "were tried: attempt")]).await
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
        .mends(&[
            ("UPDATE (\"Tries\") ON shop.\"Outbox Rows\"", Warning, "events were tried: Tries"),
            ("SELECT (xmin) ON shop.\"Outbox Rows\"", Warning, "that were missed"),
            ("USAGE ON SCHEMA shop", Warning, "that were missed"),
        ])
        .await
}

/// The schema of an older pgoutbox, before it had the table.
#[tokio::test]
async fn init_adds_a_table_that_is_missing() -> Result<()> {
    let setting = Setting::shared().await?;
    let keeps = "INSERT INTO pgoutbox.relayed (outbox, id) VALUES ('outbox_messages', 'kept')";
    setting.sql(keeps).await?;
    for (table, is_needed) in [("guard", false), ("catch_up_rows", true), ("parked", true)] {
        setting.sql(&format!("DROP TABLE pgoutbox.{table}")).await?;
        let output = setting.program.output(&["check"]).await?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = format!("schema pgoutbox lacks tables of the relay's own: {table}\n");
        assert!(told.contains(&line) && told.contains("mend: pgoutbox init"), "{told}");
        assert_eq!(output.status.success(), !is_needed, "{told}");
        let told = setting.program.succeed(&["init"]).await?;
        let line = format!("made    schema pgoutbox, of which were missing: {table}");
        assert!(told.contains(&line), "{told}");
        setting.program.succeed(&["check"]).await?;
        assert!(setting.program.succeed(&["init"]).await?.contains("found   schema pgoutbox"));
    }
    let kept: i64 = setting.ask("SELECT count(*) FROM pgoutbox.relayed").await?;
    assert_eq!(kept, 1, "what was there is left alone");
    Ok(())
}
