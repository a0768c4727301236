//! Writes events into the outbox, in the caller's own transaction.
//!
//! ```no_run
//! # async fn example(client: &mut tokio_postgres::Client) -> Result<(), tokio_postgres::Error> {
//! use pgoutbox::outbox::{Event, enqueue};
//!
//! let transaction = client.transaction().await?;
//! transaction.execute("UPDATE orders SET state = 'paid' WHERE id = 7", &[]).await?;
//! let event = Event::new("orders.paid", r#"{"order": 7}"#).aggregate("order", "7").event_type("OrderPaid");
//! let id = enqueue(&transaction, &event).await?;
//! transaction.commit().await?;
//! println!("event {id}");
//! # Ok(())
//! # }
//! ```

use tokio_postgres::{Error, GenericClient};

/// One event, for [`enqueue`].
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Event<'a> {
    topic: &'a str,
    payload: &'a str,
    aggregate: Option<(&'a str, &'a str)>,
    event_type: Option<&'a str>,
    headers: Option<&'a str>,
    id: Option<&'a str>,
}

impl<'a> Event<'a> {
    /// An event of this topic, which becomes the routing key, with a body of JSON.
    pub fn new(topic: &'a str, payload: &'a str) -> Self {
        Self { topic, payload, ..Self::default() }
    }

    /// What it is about: type and id. Events of one aggregate are delivered in order.
    pub fn aggregate(self, aggregate_type: &'a str, aggregate_id: &'a str) -> Self {
        Self { aggregate: Some((aggregate_type, aggregate_id)), ..self }
    }

    /// Its type, which becomes the message's `type`.
    pub fn event_type(self, event_type: &'a str) -> Self {
        Self { event_type: Some(event_type), ..self }
    }

    /// Its headers: a JSON object.
    pub fn headers(self, headers: &'a str) -> Self {
        Self { headers: Some(headers), ..self }
    }

    /// Its id, a uuid; else the table makes one. Consumers know repeats by it.
    pub fn id(self, id: &'a str) -> Self {
        Self { id: Some(id), ..self }
    }
}

/// Writes an event by `pgoutbox.enqueue`, which `pgoutbox init` makes for the first table; returns its id. It is
/// published once the transaction is committed, and never where that is rolled back.
///
/// # Errors
/// The connection is lost; or what the function refuses, with SQLSTATE and hint: an empty or overlong topic, a payload or
/// headers that are not JSON of the right kind, an id that is not a uuid or used.
pub async fn enqueue<C: GenericClient>(client: &C, event: &Event<'_>) -> Result<String, Error> {
    let (aggregate_type, aggregate_id) = event.aggregate.unzip();
    let row = client
        .query_one(
            "SELECT pgoutbox.enqueue($1, $2::text::jsonb, $3, $4, $5, coalesce($6::text, '{}')::jsonb, $7::text::uuid)::text",
            &[
                &event.topic,
                &event.payload,
                &aggregate_type,
                &aggregate_id,
                &event.event_type,
                &event.headers,
                &event.id,
            ],
        )
        .await?;
    row.try_get(0)
}
