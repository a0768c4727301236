//! Takes events from RabbitMQ, and does the work of each once, with `sqlx`.
//!
//! The inbox has the ids of the messages whose work is done, and is written in the transaction of the work: a
//! repeat finds its id there. A process that is killed loses nothing: what it did not acknowledge comes again.
//!
//! `DATABASE_URL=postgres://… AMQP_URL=amqp://… cargo run --example sqlx-consumer`

use std::error::Error;

use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use serde_json::Value;
use sqlx::{PgConnection, PgPool};

async fn work(transaction: &mut PgConnection, event: &Value) -> Result<(), Box<dyn Error>> {
    let number = |name: &str| event[name].as_i64().ok_or_else(|| format!("no {name}"));
    let sql = "INSERT INTO shipments (order_id, step) VALUES ($1, $2)";
    let query = sqlx::query(sql).bind(number("order")?).bind(number("step")?);
    query.execute(transaction).await?;
    Ok(())
}

async fn once(pool: &PgPool, delivery: &Delivery) -> Result<(), Box<dyn Error>> {
    let id = delivery.properties.message_id().as_ref().ok_or("no message_id")?.to_string();
    // Rolled back where it is dropped before its commit.
    let mut transaction = pool.begin().await?;
    let sql = "INSERT INTO inbox (message_id) VALUES ($1) ON CONFLICT DO NOTHING";
    let inbox = sqlx::query(sql).bind(id).execute(&mut *transaction).await?;
    if inbox.rows_affected() == 1 {
        work(&mut transaction, &serde_json::from_slice(&delivery.data)?).await?;
    }
    Ok(transaction.commit().await?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let queue = std::env::var("QUEUES").unwrap_or_else(|_| "orders".to_owned());
    // It connects again by itself where a connection is lost.
    let pool = PgPool::connect(&std::env::var("DATABASE_URL")?).await?;
    let url = std::env::var("AMQP_URL")?;
    let broker = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = broker.create_channel().await?;
    channel.basic_qos(20, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let mut deliveries = channel
        .basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default())
        .await?;
    while let Some(delivery) = deliveries.next().await {
        let delivery = delivery?;
        match once(&pool, &delivery).await {
            Ok(()) => delivery.ack(BasicAckOptions::default()).await?,
            // No fault of the event: end, and be started again.
            Err(error) if pool.acquire().await.is_err() => return Err(error),
            Err(error) => {
                println!("event {:?} failed: {error}", delivery.properties.message_id());
                // Again at once, until the queue's own limit. (nack is no try from RabbitMQ 4.3 on.)
                delivery.reject(BasicRejectOptions { requeue: true }).await?
            }
        };
    }
    Err("the broker closed the connection".into())
}
