//! The relay with the least rights that it can have.

use anyhow::Result;
use harness::consumer;
use harness::rabbitmq::Permissions;
use harness::shared;
use harness::workload::{self, Workload};

use crate::setting::Setting;

#[tokio::test]
async fn two_roles_and_a_user_that_may_only_publish() -> Result<()> {
    let mut setting = Setting::shared().await?;
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
