//! Where events go: an exchange, or streams. A relay has one kind.

use crate::config::{Amqp, Broker, Config};
use crate::core::message::{Limits, Message};
use crate::error::Fault;
use crate::rabbitmq::publisher::{Closure, Publisher, Signal};
use crate::rabbitmq::stream::StreamPublisher;

/// The connection, or the connections, to one of the brokers.
pub(crate) enum Sink {
    /// By AMQP.
    Exchange(Box<Publisher>),
    /// By the stream protocol.
    Streams(StreamPublisher, Limits),
}

impl Sink {
    /// Connects to what the sources of the configuration ask for.
    ///
    /// # Errors
    /// Transient, whatever it is: a wrong password may be in the middle of its rotation.
    pub(crate) async fn connect(
        broker: &Broker,
        amqp: &Amqp,
        config: &Config,
    ) -> Result<Self, Fault> {
        if !config.is_stream() {
            return Publisher::connect(broker, amqp).await.map(Box::new).map(Self::Exchange);
        }
        let streams = StreamPublisher::connect(broker, amqp, config.streams()).await?;
        let limits = Limits {
            body: amqp.max_message_bytes,
            // What has no frame of its own is bounded with the message.
            header_frame: usize::MAX,
            stream: Some(streams.largest()),
        };
        Ok(Self::Streams(streams, limits))
    }

    /// What the broker takes.
    pub(crate) fn limits(&self) -> Limits {
        match self {
            Self::Exchange(publisher) => publisher.limits(),
            Self::Streams(_, limits) => *limits,
        }
    }

    /// Queues a message; messages are numbered from 0.
    pub(crate) fn publish(&mut self, message: Message) {
        match self {
            Self::Exchange(publisher) => publisher.publish(message),
            Self::Streams(streams, _) => streams.publish(message),
        }
    }

    /// Opens another channel, where there are channels.
    pub(crate) fn reopen(&mut self, amqp: &Amqp) {
        match self {
            Self::Exchange(publisher) => publisher.reopen(amqp),
            Self::Streams(..) => {}
        }
    }

    /// Waits for what comes back. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// The connection was lost, or the broker closed it: perhaps over something that was published.
    pub(crate) async fn next(&mut self) -> Result<Signal, Closure> {
        match self {
            Self::Exchange(publisher) => publisher.next().await,
            Self::Streams(streams, _) => streams.next().await,
        }
    }

    /// Says goodbye, where the protocol wants it.
    pub(crate) async fn close(self) {
        match self {
            Self::Exchange(publisher) => publisher.close().await,
            // Everything is confirmed: there is nothing to say.
            Self::Streams(..) => {}
        }
    }
}
