//! Writes orders, each with its event in the same transaction: both are committed, or neither.
//!
//! `psql "$DATABASE_URL" -f examples/tables.sql`, then `DATABASE_URL=postgres://… cargo run --example producer`

use std::error::Error;

use pgoutbox::outbox::{Event, enqueue};
use tokio_postgres::NoTls;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let number = |name: &str, default: &str| {
        std::env::var(name).unwrap_or_else(|_| default.to_owned()).parse::<i64>()
    };
    let (first, count) = (number("FIRST", "1")?, number("COUNT", "20")?);
    let (mut db, connection) =
        tokio_postgres::connect(&std::env::var("DATABASE_URL")?, NoTls).await?;
    tokio::spawn(connection);
    for order in first..first + count {
        // Rolled back where it is dropped before its commit.
        let transaction = db.transaction().await?;
        transaction.execute("INSERT INTO orders (id) VALUES ($1)", &[&order]).await?;
        let (payload, id) = (format!(r#"{{"order": {order}, "step": 1}}"#), order.to_string());
        enqueue(&transaction, &Event::new("order.paid", &payload).aggregate("order", &id)).await?;
        transaction.commit().await?;
    }
    Ok(())
}
