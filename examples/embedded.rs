//! A service that writes events and relays them itself.
//!
//! `pgoutbox init --declare` makes slot, publication and tables first. Then:
//! `DATABASE_URL=postgres://… AMQP_URL=amqp://… cargo run --example embedded`

use std::error::Error;
use std::time::Duration;

use pgoutbox::Relay;
use pgoutbox::outbox::{Event, enqueue};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let database_url = std::env::var("DATABASE_URL")?;
    let mut builder = Relay::builder()
        .set("postgres.url", &database_url)
        .set("amqp.url", std::env::var("AMQP_URL")?);
    if let Ok(slot) = std::env::var("PGOUTBOX_POSTGRES__SLOT") {
        builder = builder.set("postgres.slot", slot);
    }
    let relay = builder.build()?;
    let status = relay.status();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let relaying = tokio::spawn(relay.run(async {
        let _ = stopped.await;
    }));

    let (mut client, connection) =
        tokio_postgres::connect(&database_url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let transaction = client.transaction().await?;
    let event = Event::new("orders.paid", r#"{"order": 7}"#).aggregate("order", "7");
    let id = enqueue(&transaction, &event).await?;
    transaction.commit().await?;

    while status.now().await.delivered == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("event {id} is delivered");
    let _ = stop.send(());
    relaying.await??;
    println!("{}", status.now().await.state);
    Ok(())
}
