//! Takes events from RabbitMQ, and does the work of each once.
//!
//! The inbox has the ids of the messages whose work is done, and is written in the transaction of the work: a
//! repeat finds its id there. A process that is killed loses nothing: what it did not acknowledge comes again.
//!
//! `DATABASE_URL=postgres://… AMQP_URL=amqp://… cargo run --example consumer`

use std::error::Error;

use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use serde_json::Value;
use tokio_postgres::{Client, NoTls, Transaction};

async fn work(transaction: &Transaction<'_>, event: &Value) -> Result<(), Box<dyn Error>> {
    let number = |name: &str| event[name].as_i64().ok_or_else(|| format!("no {name}"));
    let sql = "INSERT INTO shipments (order_id, step) VALUES ($1, $2)";
    transaction.execute(sql, &[&number("order")?, &number("step")?]).await?;
    Ok(())
}

async fn once(db: &mut Client, delivery: &Delivery) -> Result<(), Box<dyn Error>> {
    let id = delivery.properties.message_id().as_ref().ok_or("no message_id")?.to_string();
    // Rolled back where it is dropped before its commit.
    let transaction = db.transaction().await?;
    let inbox = "INSERT INTO inbox (message_id) VALUES ($1) ON CONFLICT DO NOTHING";
    if transaction.execute(inbox, &[&id]).await? == 1 {
        work(&transaction, &serde_json::from_slice(&delivery.data)?).await?;
    }
    Ok(transaction.commit().await?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let queue = std::env::var("QUEUES").unwrap_or_else(|_| "orders".to_owned());
    let (mut db, connection) =
        tokio_postgres::connect(&std::env::var("DATABASE_URL")?, NoTls).await?;
    tokio::spawn(connection);
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
        match once(&mut db, &delivery).await {
            Ok(()) => delivery.ack(BasicAckOptions::default()).await?,
            // No fault of the event: end, and be started again.
            Err(error) if db.is_closed() => return Err(error),
            Err(error) => {
                println!("event {:?} failed: {error}", delivery.properties.message_id());
                // Again at once, until the queue's own limit. (nack is no try from RabbitMQ 4.3 on.)
                delivery.reject(BasicRejectOptions { requeue: true }).await?
            }
        };
    }
    Err("the broker closed the connection".into())
}
