//! What a broker would say to a publish, asked without one that arrives.

use std::pin::pin;

use futures_util::{Stream, StreamExt};
use lapin::options::{BasicPublishOptions, ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Error, ErrorKind, Event, ExchangeKind};

use super::{Publisher, protocol_error};
use crate::config::Amqp;
use crate::within::in_time;

/// The routing key of a message that nobody gets.
const ROUTING_KEY: &str = "pgoutbox.check";

/// What the broker said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ProbeReply {
    /// It would do it.
    Yes,
    /// It is not there.
    Missing(String),
    /// This user may not.
    Forbidden(String),
    /// An alarm: it takes no messages from anybody.
    Blocked(String),
    /// Neither.
    Other(String),
}

impl Publisher {
    /// Whether the broker takes messages for an exchange from this user: one is published in a
    /// transaction that is rolled back, so nobody gets it. (A passive declare needs the right to
    /// `configure` from RabbitMQ 4.3 on, and says nothing about the right to write.)
    pub(crate) async fn takes(&self, exchange: &str, amqp: &Amqp) -> ProbeReply {
        let events = self.connection.events_listener();
        let asked = async {
            // Of its own: a refusal closes the channel.
            let channel = self.connection.create_channel().await?;
            channel.tx_select().await?;
            let options = BasicPublishOptions::default();
            let properties = BasicProperties::default();
            let key = ROUTING_KEY.into();
            channel.basic_publish(exchange.into(), key, options, &[], properties).await?;
            channel.tx_rollback().await?;
            channel.close(200, "done".into()).await
        };
        let asked = async {
            match asked.await {
                Err(error) if is_closed(&error) => Err(refusal(events).await.unwrap_or(error)),
                outcome => outcome,
            }
        };
        // A broker with an alarm says so once something is published, and answers nothing more.
        let alarm = alarm(self.connection.events_listener());
        tokio::select! {
            why = alarm => ProbeReply::Blocked(why),
            outcome = in_time(amqp.connect_timeout, asked) => answer(outcome),
        }
    }

    /// Whether an exchange is there. From RabbitMQ 4.3 on it takes the right to configure to ask.
    pub(crate) async fn has_exchange(&self, exchange: &str, amqp: &Amqp) -> ProbeReply {
        let asked = async {
            let channel = self.connection.create_channel().await?;
            let options = ExchangeDeclareOptions { passive: true, ..Default::default() };
            let (kind, arguments) = (ExchangeKind::Topic, FieldTable::default());
            channel.exchange_declare(exchange.into(), kind, options, arguments).await?;
            channel.close(200, "done".into()).await
        };
        answer(in_time(amqp.connect_timeout, asked).await)
    }

    /// Whether a queue is there.
    pub(crate) async fn has_queue(&self, queue: &str, amqp: &Amqp) -> ProbeReply {
        let asked = async {
            let channel = self.connection.create_channel().await?;
            let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
            channel.close(200, "done".into()).await
        };
        answer(in_time(amqp.connect_timeout, asked).await)
    }
}

/// A refusal that came between two calls: the second hears of a closed channel, not why.
fn is_closed(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidChannelState(..))
}

async fn refusal(events: impl Stream<Item = Event>) -> Option<Error> {
    let mut refusals = pin!(events.filter_map(async |event| match event {
        Event::Error(error) => Some(error),
        _ => None,
    }));
    refusals.next().await
}

async fn alarm(events: impl Stream<Item = Event>) -> String {
    let mut alarms = pin!(events.filter_map(async |event| match event {
        Event::ConnectionBlocked(why) => Some(why),
        _ => None,
    }));
    match alarms.next().await {
        Some(why) => why,
        None => std::future::pending().await,
    }
}

fn answer(outcome: Option<Result<(), Error>>) -> ProbeReply {
    match outcome {
        Some(Ok(())) => ProbeReply::Yes,
        None => ProbeReply::Other("no answer in time".to_owned()),
        Some(Err(error)) => match protocol_error(&error).map(|error| error.get_id()) {
            Some(404) => ProbeReply::Missing(error.to_string()),
            Some(403) => ProbeReply::Forbidden(error.to_string()),
            _ => ProbeReply::Other(error.to_string()),
        },
    }
}
