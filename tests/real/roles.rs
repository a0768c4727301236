//! The relay with the least rights that it can have.

use anyhow::{Context, Result};
use harness::consumer;
use harness::rabbitmq::Permissions;
use harness::shared;
use harness::workload::{self, Workload};
use pgoutbox::testing::config::{Config, Needs, Sources};
use pgoutbox::testing::slot;
use pgoutbox::testing::slot::catch_up;

use crate::setting::Setting;

#[tokio::test]
async fn two_roles_and_a_user_that_may_only_publish() -> Result<()> {
    // Nobody reads the table then.
    let mut setting = Setting::shared().await?.set("postgres.on_slot_loss", "halt");
    let (postgres, rabbitmq) = (shared::postgres().await?, shared::rabbitmq().await?);
    // Roles are the whole server's.
    let stream = format!("{}_stream", setting.database);
    let audit = format!("{}_audit", setting.database);
    setting.program.succeed(&["init", "--stream-role", &stream, "--audit-role", &audit]).await?;
    let write_only = Permissions { configure: "", write: "^outbox$", read: "" };
    rabbitmq.add_user("publisher", "secret", &setting.vhost, write_only).await?;
    let consumer = setting.consumer().await?;

    let (port, database) = (postgres.port(), setting.database.clone());
    setting.env("PGOUTBOX_POSTGRES__STREAM_URL", &postgres.url_as(&stream, port, &database));
    setting.env("DATABASE_URL", &postgres.url_as(&audit, port, &database));
    let amqp_url = rabbitmq.url_as("publisher:secret", rabbitmq.port(), &setting.vhost);
    setting.env("AMQP_URL", &amqp_url);
    setting.program.succeed(&["check"]).await?;
    let relay = setting.run()?;
    let options =
        workload::Options { until: workload::Until::Transactions(300), ..Default::default() };
    let ledger = Workload::start(&setting.database_url, options).await?.finish().await?;
    // With a relay at work: reconciliation reads what verify reads.
    setting.all_marked().await?;
    setting.program.succeed(&["verify"]).await?;
    setting.program.succeed(&["parked", "list"]).await?;
    setting.judge(&ledger, consumer, &relay, 0).await?;

    // The rights are as small as they are meant to be.
    let audit = harness::postgres::connect(&postgres.url_as(&audit, port, &database)).await?;
    let payload = audit.query("SELECT payload FROM outbox_messages", &[]).await;
    assert!(payload.is_err(), "the audit role reads payloads");
    let insert = audit.execute("INSERT INTO outbox_messages (payload) VALUES ('{}')", &[]).await;
    assert!(insert.is_err(), "the audit role writes events");
    let stream = harness::postgres::connect(&postgres.url_as(&stream, port, &database)).await?;
    let rows = stream.query("SELECT id FROM outbox_messages", &[]).await;
    assert!(rows.is_err(), "the stream role reads the table");
    let other = consumer::Options { queue: "other".to_owned(), ..Default::default() };
    assert!(
        harness::consumer::Consumer::start(&amqp_url, other).await.is_err(),
        "the publisher may declare"
    );
    Ok(())
}

/// As on a managed server: an owner who is no superuser, and an administrator who makes roles beforehand.
#[tokio::test]
async fn an_owner_who_is_no_superuser_makes_do_with_roles_that_are_there() -> Result<()> {
    let mut setting = Setting::bare().await?;
    let (postgres, database) = (shared::postgres().await?, setting.database.clone());
    let [owner, stream, audit] =
        ["owner", "stream", "audit"].map(|name| format!("{database}_{name}"));
    let admin = setting.client().await?;
    let owns = format!(
        "CREATE ROLE {owner} LOGIN REPLICATION; ALTER DATABASE {database} OWNER TO {owner}; ALTER SCHEMA public OWNER TO {owner}"
    );
    admin.batch_execute(&owns).await?;
    setting.env("DATABASE_URL", &postgres.url_as(&owner, postgres.port(), &database));
    let init = ["init", "--stream-role", &stream, "--audit-role", &audit];
    let refused = setting.program.output(&init).await?;
    let told = String::from_utf8_lossy(&refused.stderr);
    let hint = format!("CREATE ROLE {stream} LOGIN REPLICATION; CREATE ROLE {audit} LOGIN;");
    assert!(refused.status.code() == Some(1) && told.contains(&hint), "{told}");
    admin.batch_execute(&hint).await?;
    let made = setting.program.succeed(&init).await?;
    assert!(made.contains("made    slot"), "{made}");
    Ok(())
}

#[tokio::test]
async fn the_two_roles_make_up_for_a_lost_slot() -> Result<()> {
    let setting = Setting::shared().await?;
    let postgres = shared::postgres().await?;
    let stream = format!("{}_stream", setting.database);
    let audit = format!("{}_audit", setting.database);
    setting.program.succeed(&["init", "--stream-role", &stream, "--audit-role", &audit]).await?;
    let (port, database) = (postgres.port(), setting.database.clone());
    let stream = postgres.url_as(&stream, port, &database);
    let audit = postgres.url_as(&audit, port, &database);
    setting
        .sql("INSERT INTO outbox_messages (payload) SELECT '{}' FROM generate_series(1, 5)")
        .await?;
    setting.sql(&format!("SELECT pg_drop_replication_slot('{database}')")).await?;
    let env = [
        ("PGOUTBOX_POSTGRES__URL", audit.as_str()),
        ("PGOUTBOX_POSTGRES__STREAM_URL", &stream),
        ("PGOUTBOX_POSTGRES__SLOT", &database),
    ];
    let env = env.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    let config = Config::load(&Sources { env, ..Sources::default() }, Needs::POSTGRES)?;
    let client = harness::postgres::connect(&audit).await?;
    let ready = slot::preflight(&client, &config).await?.ready(&config)?;
    catch_up::ensure_slot(&config, &client, &ready.tables).await?;
    let pending = catch_up::pending(&client, &database).await?.context("no list")?;
    let chunk = catch_up::fetch(&client, &config, &ready.tables, &pending, 0, 10).await?;
    assert_eq!((chunk.rows.len(), chunk.next), (5, 5));
    catch_up::finish(&client, &database).await?;

    // Without the right to read the rows the relay still relays; that it could not catch up is
    // said beforehand, and stops it once it would have to.
    let role = format!("{database}_audit");
    setting
        .sql(&format!(
            "REVOKE SELECT ON outbox_messages FROM {role};
        GRANT SELECT (id, relayed_at) ON outbox_messages TO {role}"
        ))
        .await?;
    let preflight = slot::preflight(&client, &config).await?;
    let finding = preflight.findings.iter().find(|finding| finding.what.contains("may not read"));
    assert!(finding.is_some_and(|finding| finding.hint.contains("GRANT SELECT ON")), "{finding:?}");
    let ready = preflight.ready(&config)?;
    assert_eq!(catch_up::ensure_slot(&config, &client, &ready.tables).await?, None);
    setting.sql(&format!("SELECT pg_drop_replication_slot('{database}')")).await?;
    let fault = slot::preflight(&client, &config).await?.ready(&config).unwrap_err();
    assert!(fault.hint.contains("GRANT SELECT ON"), "{fault}");
    Ok(())
}
