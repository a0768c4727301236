//! What `check` finds of a server of Postgres that no setting alone shows.

use anyhow::Result;
use harness::wait_until;

use crate::check::Checks as _;
use crate::setting::{PATIENCE, Setting};

/// Beyond its limit, and no checkpoint was there yet to remove what it needs.
pub(super) async fn the_slot_is_about_to_be_lost(setting: &Setting) -> Result<()> {
    setting.check().await?.has_not("slot-unreserved");
    for sql in ["ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'", "SELECT pg_reload_conf()"] {
        setting.sql(sql).await?;
    }
    setting.sql("CREATE TABLE noise (n int)").await?;
    let is_unreserved = format!(
        "SELECT wal_status = 'unreserved' FROM pg_replication_slots WHERE slot_name = '{}'",
        setting.database
    );
    wait_until("the slot to be about to be lost", PATIENCE, async || {
        setting.sql("INSERT INTO noise VALUES (1)").await?;
        setting.sql("SELECT pg_switch_wal()").await?;
        setting.ask(&is_unreserved).await
    })
    .await?;
    let checked = setting.check().await?;
    assert_eq!(checked.code, Some(0), "{checked}");
    setting.carry_out(checked.has("slot-unreserved", "warning")).await?;
    setting.until("the hint", &format!("SELECT NOT ({is_unreserved})")).await?;
    setting.check().await?.has_not("slot-unreserved");
    Ok(())
}

/// A server that says it is older than it is: the functions of a schema that comes first.
#[tokio::test]
async fn versions_that_are_too_old() -> Result<()> {
    let setting = Setting::shared().await?;
    let says = |number: u32, version: &str| {
        format!(
            "CREATE OR REPLACE FUNCTION old.current_setting(text) RETURNS text LANGUAGE sql STABLE AS $$
                 SELECT CASE $1 WHEN 'server_version_num' THEN '{number}' WHEN 'server_version' THEN '{version}'
                        ELSE pg_catalog.current_setting($1) END $$"
        )
    };
    setting.sql("CREATE SCHEMA old").await?;
    setting.sql(&says(150_018, "15.18")).await?;
    let first =
        format!("ALTER DATABASE {} SET search_path = old, pg_catalog, public", setting.database);
    setting.sql(&first).await?;
    for (name, severity, number, version, newer) in [
        ("postgres-minor", "warning", 150_012, "15.12", (150_014, "15.14")),
        ("postgres-minor", "warning", 150_013, "15.13", (150_014, "15.14")),
        ("postgres-version", "error", 130_022, "13.22", (140_018, "14.18")),
    ] {
        setting.check().await?.has_not(name);
        setting.sql(&says(number, version)).await?;
        let checked = setting.check().await?;
        let found = checked.has(name, severity);
        assert!(found["what"].as_str().is_some_and(|what| what.contains(version)), "{found}");
        let major = newer.1.split('.').next().unwrap_or_default();
        assert!(super::hint(found).contains(major), "{found}");
        setting.sql(&says(newer.0, newer.1)).await?;
        setting.check().await?.has_not(name);
    }
    Ok(())
}

/// Somebody has closed the catalog, which is everybody's as Postgres comes.
#[tokio::test]
async fn questions_that_are_not_answered() -> Result<()> {
    let (owner, setting) = super::entry::with_roles().await?;
    for closed in [
        "SELECT ON pg_replication_slots",
        "SELECT ON pg_publication",
        "EXECUTE ON FUNCTION pg_stat_get_wal_senders",
    ] {
        setting.check().await?.has_not("postgres-question");
        owner.sql(&format!("REVOKE {closed} FROM PUBLIC")).await?;
        let checked = setting.check().await?;
        assert_eq!(checked.errors().len(), 1, "{checked}");
        owner.carry_out(checked.has("postgres-question", "error")).await?;
        let checked = setting.check().await?;
        assert_eq!(checked.code, Some(0), "{checked}");
    }
    let mut holder = owner.client().await?;
    let held = holder.transaction().await?;
    held.batch_execute("LOCK TABLE pgoutbox.catch_up").await?;
    let pid: i32 = held.query_one("SELECT pg_backend_pid()", &[]).await?.try_get(0)?;
    let checked = setting.check().await?;
    let found = checked.has("postgres-question", "error");
    let told = super::paste(&owner.database_url, super::hint(found)).await?;
    assert!(told.lines().any(|line| line.starts_with(&format!("{pid}|"))), "{told}");
    held.rollback().await?;
    setting.check().await?.has_not("postgres-question");
    Ok(())
}
