//! Where events go: exchanges, streams, or both. Whatever goes where, messages have one order and one number
//! among all.

mod numbers;

use std::task::{Context, Poll};

use numbers::Numbers;

use crate::config::{Amqp, Broker, Config};
use crate::core::message::{Limits, Message};
use crate::error::Fault;
use crate::rabbitmq::publisher::{Closure, Publisher, Signal};
use crate::rabbitmq::stream::{StreamPublisher, StreamView};

/// The connections to one of the brokers.
pub(crate) struct Sink {
    /// By AMQP, where a source has an exchange.
    exchange: Option<Box<Publisher>>,
    /// By the stream protocol, where a source has a stream.
    streams: Option<StreamPublisher>,
    limits: Limits,
    /// Messages so far.
    published: u64,
    /// Where there are both: what number a message of the exchanges has among all.
    numbers: Numbers,
    /// Who is heard first: neither keeps the other waiting.
    is_streams_turn: bool,
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
        let streams = match config.has_streams() {
            true => Some(StreamPublisher::connect(broker, amqp, config.stream_sinks()).await?),
            false => None,
        };
        streams.iter().for_each(StreamPublisher::warn_of_filters);
        let exchange = match config.has_exchanges() {
            true => Some(Box::new(Publisher::connect(broker, amqp).await?)),
            false => None,
        };
        let limits = Limits {
            body: amqp.max_message_bytes,
            // No message has a header frame where there is no exchange.
            header_frame: exchange.as_ref().map_or(usize::MAX, |it| it.limits().header_frame),
            stream: streams.as_ref().map(StreamPublisher::largest),
        };
        let numbers = Numbers::default();
        Ok(Self { exchange, streams, limits, published: 0, numbers, is_streams_turn: false })
    }

    /// What the broker takes.
    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// The streams, where there are some.
    pub(crate) fn streams(&mut self) -> Option<&mut StreamPublisher> {
        self.streams.as_mut()
    }

    /// What can be seen of each stream.
    pub(crate) fn view(&self) -> Vec<StreamView> {
        self.streams.as_ref().map(StreamPublisher::view).unwrap_or_default()
    }

    /// Queues a message; messages are numbered from 0.
    pub(crate) fn publish(&mut self, message: Message) {
        let number = self.published;
        self.published += 1;
        match (&mut self.exchange, &mut self.streams) {
            (Some(exchange), None) => exchange.publish(message),
            (Some(exchange), Some(_)) if message.stream().is_none() => {
                self.numbers.push(number);
                exchange.publish(message);
            }
            (_, Some(streams)) => streams.publish(number, message),
            (None, None) => {}
        }
    }

    /// Opens another channel, where only exchanges are published to: messages are numbered from 0 again.
    /// Returns whether it does.
    pub(crate) fn reopen(&mut self, amqp: &Amqp) -> bool {
        match (&mut self.exchange, &self.streams) {
            (Some(exchange), None) => {
                exchange.reopen(amqp);
                true
            }
            _ => false,
        }
    }

    /// Waits for what comes back. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// A connection was lost, or the broker closed it: perhaps over something that was published.
    pub(crate) async fn next(&mut self) -> Result<Signal, Closure> {
        match (&mut self.exchange, &mut self.streams) {
            (Some(exchange), None) => exchange.next().await,
            (None, Some(streams)) => streams.next().await,
            _ => std::future::poll_fn(|cx| self.poll_both(cx)).await,
        }
    }

    fn poll_both(&mut self, cx: &mut Context<'_>) -> Poll<Result<Signal, Closure>> {
        self.is_streams_turn = !self.is_streams_turn;
        for is_of_streams in [self.is_streams_turn, !self.is_streams_turn] {
            let signal = match is_of_streams {
                true => self.streams.as_mut().map(|streams| streams.poll_next(cx)),
                false => self.exchange.as_mut().map(|exchange| exchange.poll_next(cx)),
            };
            match signal {
                Some(Poll::Ready(Ok(Signal::Answers(mut answers)))) if !is_of_streams => {
                    self.numbers.among_all(&mut answers);
                    return Poll::Ready(Ok(Signal::Answers(answers)));
                }
                Some(Poll::Ready(signal)) => return Poll::Ready(signal),
                Some(Poll::Pending) | None => {}
            }
        }
        Poll::Pending
    }

    /// Says goodbye, where the protocol wants it: to a stream there is nothing to say.
    pub(crate) async fn close(self) {
        if let Some(exchange) = self.exchange {
            exchange.close().await;
        }
    }
}
