//! Workload, consumer and checker together, with a few lines in the relay's place.

use std::time::Duration;

use anyhow::Result;
use harness::consumer::{self, Consumer, QueueType};
use harness::postgres::{self, Postgres, Shutdown};
use harness::workload::{self, Ledger, Mix, Options, Until, Workload};
use harness::{checker, shared};
use lapin::BasicProperties;
use tokio_postgres::Client;

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_workload_knows_what_it_committed() -> Result<()> {
    let postgres = shared::postgres().await?;
    let database = postgres.create_database().await?;
    let client = postgres.connect(&database).await?;
    client.batch_execute(workload::TABLE).await?;
    let options =
        Options { aggregates: 5, until: Until::Transactions(400), large: 50, ..Options::default() };
    let ledger = Workload::start(&postgres.url(&database), options).await?.finish().await?;
    assert!(!ledger.rolled_back.is_empty());
    agrees(&client, &ledger).await
}

/// The table holds what the ledger says, and `n` has no gap.
async fn agrees(client: &Client, ledger: &Ledger) -> Result<()> {
    let rows = client.query("SELECT id FROM outbox_messages", &[]).await?;
    assert_eq!(rows.len(), ledger.committed.len());
    assert!(rows.iter().all(|row| ledger.committed.contains_key(&row.get(0))));
    let gaps = client.query_one(
        "SELECT count(*) FROM (SELECT count(*) AS c, max((payload->>'n')::bigint) AS m
            FROM outbox_messages GROUP BY payload->>'aggregate') AS a WHERE c <> m",
        &[],
    );
    assert_eq!(gaps.await?.get::<_, i64>(0), 0);
    Ok(())
}

#[tokio::test]
async fn lost_commits_are_resolved() -> Result<()> {
    let postgres = Postgres::start(postgres::Options::default()).await?;
    let client = postgres.connect("postgres").await?;
    client.batch_execute(workload::TABLE).await?;
    let options = Options { until: Until::Stopped, ..Options::default() };
    let mut workload = Workload::start(&postgres.url("postgres"), options).await?;
    for _ in 0..2 {
        let before = workload.committed();
        harness::wait_until("commits", SOON, async || Ok(workload.committed() > before + 50))
            .await?;
        postgres.stop(Shutdown::Immediate, SOON).await?;
        postgres.start_again().await?;
    }
    workload.stop();
    let ledger = workload.finish().await?;
    agrees(&postgres.connect("postgres").await?, &ledger).await
}

#[tokio::test]
async fn a_consumer_outlives_its_connection() -> Result<()> {
    let (postgres, rabbitmq) = tokio::try_join!(shared::postgres(), shared::rabbitmq())?;
    let (database, vhost) = (postgres.create_database().await?, rabbitmq.add_vhost().await?);
    let client = postgres.connect(&database).await?;
    client.batch_execute(workload::TABLE).await?;
    let proxy = harness::proxy::Proxy::start(rabbitmq.port()).await?;
    let options = consumer::Options { queue_type: QueueType::Classic, ..Default::default() };
    let consumer = Consumer::start(&rabbitmq.url_on(proxy.port(), &vhost), options).await?;

    let options =
        Options { until: Until::Transactions(50), mix: Mix::SINGLE, ..Options::default() };
    let ledger = Workload::start(&postgres.url(&database), options).await?.finish().await?;
    publish(&client, &rabbitmq.url(&vhost), "n <= 25").await?;
    consumer.wait_distinct(1, SOON).await?;
    proxy.cut(harness::proxy::Cut::Rst);
    publish(&client, &rabbitmq.url(&vhost), "n > 25").await?;
    consumer.wait_distinct(50, SOON).await?;

    let unmarked = checker::unmarked(&client, "outbox_messages").await?;
    let verdict = checker::check(&ledger, &consumer.finish(), unmarked);
    assert_eq!(verdict.broken(0), ["unmarked: 50, allowed: 0"], "{verdict}");
    Ok(())
}

/// The relay's place: rows in insertion order, which is commit order within an aggregate.
async fn publish(client: &Client, url: &str, which: &str) -> Result<()> {
    let channel = harness::rabbitmq::connect(url).await?.create_channel().await?;
    let sql = format!(
        "SELECT id, payload::text FROM (SELECT *, row_number() OVER (ORDER BY occurred_at) AS n FROM outbox_messages) AS o
         WHERE {which} ORDER BY n"
    );
    for row in client.query(&sql, &[]).await? {
        let properties = BasicProperties::default()
            .with_message_id(row.get::<_, uuid::Uuid>(0).to_string().into());
        let body: &str = row.get(1);
        channel
            .basic_publish(
                "outbox".into(),
                "order.placed".into(),
                Default::default(),
                body.as_bytes(),
                properties,
            )
            .await?
            .await?;
    }
    Ok(())
}
