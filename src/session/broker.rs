//! The broker's connection, until it is gone.

use tracing::warn;

use crate::config::Amqp;
use crate::core::event::Refusal;
use crate::core::message::Message;
use crate::rabbitmq::publisher::{Closure, Signal};
use crate::rabbitmq::sink::Sink;
use crate::rabbitmq::stream::StreamView;

/// It closes the channel, say, and what was delivered is still to be marked: nothing more is heard of it
/// then, unless there is to be another channel.
pub(super) struct BrokerConnection {
    publisher: Sink,
    is_gone: bool,
    /// Its words when it closed a channel, which were reported.
    told_closed: Option<String>,
}

impl BrokerConnection {
    pub(super) fn new(publisher: Sink) -> Self {
        Self { publisher, is_gone: false, told_closed: None }
    }

    /// The next signal; none ever comes once the broker is gone.
    pub(super) async fn next(&mut self) -> Result<Signal, Closure> {
        if self.is_gone {
            return std::future::pending().await;
        }
        let signal = self.publisher.next().await;
        self.is_gone = signal.is_err();
        signal
    }

    /// What can be seen of each stream.
    pub(super) fn streams(&self) -> Vec<StreamView> {
        self.publisher.view()
    }

    pub(super) fn publish(&mut self, message: Message) {
        self.publisher.publish(message);
    }

    /// Opens another channel, instead of the one that the broker closed.
    pub(super) fn reopen(&mut self, amqp: &Amqp) {
        self.publisher.reopen(amqp);
        self.is_gone = false;
    }

    /// Once for each of its words, in a session: which events it is over, their records say.
    pub(super) fn tell_closed(&mut self, why: &str, in_flight: usize) {
        if self.told_closed.as_deref() == Some(why) {
            return;
        }
        self.told_closed = Some(why.to_owned());
        let hint = Refusal::Closed { why: String::new() }.hint();
        warn!(
            hint,
            in_flight,
            "RabbitMQ closed the channel: {why}. A new one is opened, and what was in flight is published again"
        );
    }

    pub(super) async fn close(self) {
        self.publisher.close().await;
    }
}
