//! Roles that Postgres does not let in, or does not show everything.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use harness::postgres::{self, Postgres, Shutdown};
use harness::shared;

use super::{hint, paste};
use crate::check::Checks as _;
use crate::setting::{PATIENCE, Setting};

/// A corner with the two roles that `init` makes, as its owner and as these sees it.
pub(super) async fn with_roles() -> Result<(Setting, Setting)> {
    let owner = Setting::bare().await?;
    let setting = owner.with_roles().await?;
    Ok((owner, setting))
}

#[tokio::test]
async fn an_audit_role_that_is_not_let_in() -> Result<()> {
    let (owner, setting) = with_roles().await?;
    let database = &owner.database;
    let role = format!("{database}_audit");
    let postgres = shared::postgres().await?;
    // Also the database that nobody gets into is opened from another.
    let elsewhere = postgres.url("postgres");
    for (name, broken_by) in [
        ("role-login", format!("ALTER ROLE {role} NOLOGIN")),
        ("role-connect", format!("REVOKE CONNECT ON DATABASE {database} FROM PUBLIC, {role}")),
        ("max-connections", format!("ALTER ROLE {role} CONNECTION LIMIT 0")),
        ("max-connections", format!("ALTER DATABASE {database} CONNECTION LIMIT 0")),
        ("postgres-database", format!("ALTER DATABASE {database} ALLOW_CONNECTIONS false")),
    ] {
        assert_eq!(setting.check().await?.code, Some(0), "before {broken_by}");
        paste(&elsewhere, &broken_by).await?;
        let checked = setting.check().await?;
        assert_eq!(checked.errors(), BTreeSet::from([name]), "{broken_by}: {checked}");
        paste(&elsewhere, hint(checked.has(name, "error"))).await?;
        setting.check().await?.has_not(name);
    }
    // One role for both.
    let nobody = format!("{database}_nobody");
    let url = postgres.url_as(&nobody, postgres.port(), database);
    let setting = owner.clone().set("postgres.url", &url);
    let checked = setting.check().await?;
    assert_eq!(checked.errors(), BTreeSet::from(["role-missing"]), "{checked}");
    owner.carry_out(checked.has("role-missing", "error")).await?;
    let checked = setting.check().await?;
    checked.has_not("role-missing");
    checked.has_not("role-replication");
    Ok(())
}

#[tokio::test]
async fn connections_run_out() -> Result<()> {
    let conf = ["max_connections = 6", "superuser_reserved_connections = 3"];
    let options = postgres::Options { conf: conf.map(str::to_owned).into(), ..Default::default() };
    let (postgres, rabbitmq) = tokio::try_join!(Postgres::start(options), shared::rabbitmq())?;
    let (database, vhost) = (postgres.create_database().await?, rabbitmq.add_vhost().await?);
    let owner =
        Setting::of(database.clone(), vhost.clone(), postgres.url(&database), rabbitmq.url(&vhost))
            .await?;
    owner.sql("CREATE ROLE plain LOGIN REPLICATION").await?;
    let url = postgres.url_as("plain", postgres.port(), &database);
    let setting = owner.clone().set("postgres.url", &url);
    setting.check().await?.has_not("max-connections");
    let mut sessions = Vec::new();
    while let Ok(session) = postgres::connect(&url).await {
        sessions.push(session);
        anyhow::ensure!(sessions.len() < 10, "the server takes more than it may");
    }
    let checked = setting.check().await?;
    assert_eq!(checked.errors(), BTreeSet::from(["max-connections"]), "{checked}");
    let finding = checked.has("max-connections", "error");
    assert!(hint(finding).starts_with("SHOW max_connections;  -- set it higher"), "{finding}");
    owner.carry_out(finding).await?;
    owner.sql("ALTER SYSTEM SET max_connections = 20").await?;
    postgres.stop(Shutdown::Fast, PATIENCE).await?;
    postgres.start_again().await?;
    for _ in 0..sessions.len() {
        sessions.push(postgres::connect(&url).await.context("more than before")?);
    }
    setting.check().await?.has_not("max-connections");
    Ok(())
}

/// A session's name is every role's to see; from where it comes is not.
#[tokio::test]
async fn a_slot_that_another_role_reads() -> Result<()> {
    let (owner, setting) = with_roles().await?;
    let is_active =
        format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{}'", owner.database);
    let relay = owner.run()?;
    owner.until("the owner's relay to have the slot", &is_active).await?;
    setting.check().await?.has_not("slot-in-use");
    relay.drain(PATIENCE).await?;
    let relay = owner.clone().set("postgres.application_name", "somebody else").run()?;
    owner.until("somebody else to have the slot", &is_active).await?;
    let checked = setting.check().await?;
    let found = checked.has("slot-in-use", "warning");
    for said in ["\"somebody else\" (role postgres", "an address that is not shown"] {
        assert!(found["what"].as_str().is_some_and(|what| what.contains(said)), "{found}");
    }
    relay.drain(PATIENCE).await
}
