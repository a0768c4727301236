//! What the broker answers, and when.

use std::time::Duration;

/// Says what is answered. A closure over each message is one.
pub trait Script: Send + 'static {
    /// A message came.
    fn publish(&mut self, publish: &Publish<'_>, answers: &mut Answers);

    /// Everything that the client has sent by now was handed to [`publish`](Self::publish).
    fn pause(&mut self, _answers: &mut Answers) {}

    /// Messages are read and kept, to be looked at. Without, they are only counted.
    fn keeps(&self) -> bool {
        true
    }
}

impl<F: FnMut(&Publish<'_>, &mut Answers) + Send + 'static> Script for F {
    fn publish(&mut self, publish: &Publish<'_>, answers: &mut Answers) {
        self(publish, answers);
    }
}

/// One ack for all that came together, at once; keeps nothing.
#[derive(Default)]
pub struct AckAtOnce {
    last: Option<u64>,
}

impl Script for AckAtOnce {
    fn publish(&mut self, publish: &Publish<'_>, _: &mut Answers) {
        self.last = Some(publish.tag);
    }

    fn pause(&mut self, answers: &mut Answers) {
        if let Some(tag) = self.last.take() {
            answers.ack_through(tag);
        }
    }

    fn keeps(&self) -> bool {
        false
    }
}

/// A message that came.
#[derive(Debug)]
pub struct Publish<'a> {
    /// Number of its connection, from 1; a channel that is opened in place of one that was closed
    /// counts as another.
    pub connection: u64,
    /// Its delivery tag there.
    pub tag: u64,
    /// Its number among all messages, from 1.
    pub number: u64,
    /// Its `message_id`; empty where messages are only counted.
    pub id: &'a str,
}

#[derive(Clone, Debug)]
pub(super) enum Answer {
    Ack { tag: u64, is_multiple: bool },
    Nack { tag: u64, is_multiple: bool },
    Return { tag: u64 },
    ReturnOf { id: String },
    UnreadableReturn,
    Blocked(String),
    Unblocked,
    CloseChannel(u16, String),
    CloseConnection(u16, String),
    HalfAnAck { tag: u64 },
    Silence,
    Cut,
}

/// What is answered, in this order.
#[derive(Default)]
pub struct Answers {
    queue: Vec<(Duration, Answer)>,
    delay: Duration,
}

impl Answers {
    /// What follows comes so much later.
    pub fn later(&mut self, delay: Duration) -> &mut Self {
        self.delay += delay;
        self
    }

    /// Acks one message.
    pub fn ack(&mut self, tag: u64) -> &mut Self {
        self.push(Answer::Ack { tag, is_multiple: false })
    }

    /// Acks all messages up to this one (`multiple`).
    pub fn ack_through(&mut self, tag: u64) -> &mut Self {
        self.push(Answer::Ack { tag, is_multiple: true })
    }

    pub fn nack(&mut self, tag: u64) -> &mut Self {
        self.push(Answer::Nack { tag, is_multiple: false })
    }

    pub fn nack_through(&mut self, tag: u64) -> &mut Self {
        self.push(Answer::Nack { tag, is_multiple: true })
    }

    /// `basic.return`, 312 NO_ROUTE. Its ack is an answer of its own.
    pub fn give_back(&mut self, tag: u64) -> &mut Self {
        self.push(Answer::Return { tag })
    }

    /// `basic.return` of a message with this id, whether there is one or not.
    pub fn give_back_one_of(&mut self, id: &str) -> &mut Self {
        self.push(Answer::ReturnOf { id: id.to_owned() })
    }

    /// `basic.return` with properties that end in the middle.
    pub fn give_back_unreadably(&mut self) -> &mut Self {
        self.push(Answer::UnreadableReturn)
    }

    /// `connection.blocked`; nothing more is read until [`unblock`](Self::unblock).
    pub fn block(&mut self, why: &str) -> &mut Self {
        self.push(Answer::Blocked(why.to_owned()))
    }

    pub fn unblock(&mut self) -> &mut Self {
        self.push(Answer::Unblocked)
    }

    /// What is still to be answered on the channel never is, nor is what still comes.
    pub fn close_channel(&mut self, code: u16, why: &str) -> &mut Self {
        self.push(Answer::CloseChannel(code, why.to_owned()))
    }

    pub fn close_connection(&mut self, code: u16, why: &str) -> &mut Self {
        self.push(Answer::CloseConnection(code, why.to_owned()))
    }

    /// The first half of an ack's frame. What follows can only be [`silence`](Self::silence) or [`cut`](Self::cut).
    pub fn half_an_ack(&mut self, tag: u64) -> &mut Self {
        self.push(Answer::HalfAnAck { tag })
    }

    /// Nothing more is written, heartbeats included.
    pub fn silence(&mut self) -> &mut Self {
        self.push(Answer::Silence)
    }

    /// The TCP connection is reset.
    pub fn cut(&mut self) -> &mut Self {
        self.push(Answer::Cut)
    }

    fn push(&mut self, answer: Answer) -> &mut Self {
        self.queue.push((self.delay, answer));
        self
    }

    /// Takes what was answered, with its delays.
    pub(super) fn take(&mut self) -> impl Iterator<Item = (Duration, Answer)> + '_ {
        self.delay = Duration::ZERO;
        self.queue.drain(..)
    }

    pub(super) fn now(self) -> Vec<Answer> {
        self.queue.into_iter().map(|(_, answer)| answer).collect()
    }
}
