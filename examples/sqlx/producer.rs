//! Writes orders with `sqlx`, each with its event in the same transaction: both are committed, or neither.
//!
//! `psql "$DATABASE_URL" -f examples/tables.sql`, then `DATABASE_URL=postgres://… cargo run --example sqlx-producer`

use std::error::Error;

use sqlx::PgPool;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let number = |name: &str, default: &str| {
        std::env::var(name).unwrap_or_else(|_| default.to_owned()).parse::<i64>()
    };
    let (first, count) = (number("FIRST", "1")?, number("COUNT", "20")?);
    let pool = PgPool::connect(&std::env::var("DATABASE_URL")?).await?;
    for order in first..first + count {
        // Rolled back where it is dropped before its commit.
        let mut transaction = pool.begin().await?;
        let sql = "INSERT INTO orders (id) VALUES ($1)";
        sqlx::query(sql).bind(order).execute(&mut *transaction).await?;
        // With sqlx's feature `json` the payload may be a `serde_json::Value`, without the cast.
        let sql = "SELECT pgoutbox.enqueue($1, $2::text::jsonb, aggregate_type => $3, aggregate_id => $4)";
        sqlx::query(sql)
            .bind("order.paid")
            .bind(format!(r#"{{"order": {order}, "step": 1}}"#))
            .bind("order")
            .bind(order.to_string())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
    }
    Ok(())
}
