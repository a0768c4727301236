//! Publishes events once more, one by one: slowly, in order, with the window's rule for what was
//! delivered.
//!
//! At most one message of an aggregate, and of an id, is in flight, and behind one that is refused no later one
//! of its aggregate is sent: a replay must not make a hole that was not there.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::warn;

use crate::config::{Amqp, Config};
use crate::core::event::Refusal;
use crate::core::message::{Limits, Message};
use crate::core::relay::marks::Origin;
use crate::core::relay::window::{DeliveryOutcome, InFlight, Return, Stray, Window};
use crate::error::Fault;
use crate::rabbitmq::publisher::{Closure, Signal};
use crate::rabbitmq::sink::Sink;
use crate::within::in_time;

/// Messages in flight at most: a replay need not be fast, and what is in flight when the
/// connection is lost is sent again.
const WINDOW: usize = 64;
/// Bytes of their bodies.
const WINDOW_BYTES: usize = 16 << 20;
/// How far behind its pace a replay may catch up.
const SLACK: Duration = Duration::from_millis(10);

/// An event to be sent once more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    /// Which of the configured tables it is of.
    pub table: usize,
    /// Its id.
    pub id: String,
    /// Its number in `pgoutbox.parked`, where it comes from there.
    pub seq: Option<i64>,
    /// It has no id, or one that other rows have too: a mark of one is a mark of all.
    pub is_shared: bool,
    /// What distinguishes its row from others with its id.
    pub origin: Origin,
    /// Its aggregate, type and id, where it has one.
    pub aggregate: Option<(Option<String>, String)>,
}

impl Item {
    fn is_of(&self, other: &Self) -> bool {
        self.aggregate.is_some() && self.table == other.table && self.aggregate == other.aggregate
    }
}

/// What became of an event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fate {
    /// A queue took it.
    Delivered,
    /// It was refused, here or by the broker.
    Refused(Refusal),
    /// Not sent: an event before it of its aggregate was refused.
    Held,
    /// Not sent: only what would be sent was asked for.
    Dry(Box<Message>),
}

#[derive(Debug, Clone)]
struct PendingItem {
    item: Item,
    message: Message,
}

impl InFlight for PendingItem {
    fn is(&self, returned: &Return) -> bool {
        if self.message.stream().is_some() {
            return false;
        }
        let properties = self.message.properties();
        let own = properties.message_id().as_ref().map_or("", |id| id.as_str());
        returned.message_id == own
    }

    fn bytes(&self) -> usize {
        self.message.body.len()
    }
}

/// A connection of its own, at a pace of its own.
pub(crate) struct Resender<'a> {
    config: &'a Config,
    amqp: Amqp,
    publisher: Sink,
    window: Window<PendingItem>,
    /// In flight when the broker closed the channel: one of them did it.
    suspects: VecDeque<PendingItem>,
    refused: HashSet<(usize, Option<String>, String)>,
    settled: Vec<(Item, Fate)>,
    is_blocked: bool,
    /// The next channel is on its way.
    is_reopening: bool,
    period: Duration,
    next_at: Instant,
}

impl<'a> Resender<'a> {
    /// Connects to the first broker that answers.
    pub(crate) async fn connect(config: &'a Config, rate: u32) -> Result<Self, Fault> {
        let mut amqp = config.amqp.clone();
        amqp.connection_name.push_str(" replay");
        let publisher = connect(config, &amqp).await?;
        Ok(Self {
            config,
            amqp,
            publisher,
            window: Window::default(),
            suspects: VecDeque::new(),
            refused: HashSet::new(),
            settled: Vec::new(),
            is_blocked: false,
            is_reopening: false,
            period: Duration::from_secs(1) / rate.max(1),
            next_at: Instant::now(),
        })
    }

    /// What the broker takes.
    pub(crate) fn limits(&self) -> Limits {
        self.publisher.limits()
    }

    /// Sends an event when it is its turn. What is known of it and of others by then,
    /// [`settled`](Self::settled) says.
    ///
    /// # Errors
    /// The connection was lost; what was in flight may have arrived.
    pub(crate) async fn send(&mut self, item: Item, message: Message) -> Result<(), Fault> {
        while Instant::now() < self.next_at {
            let at = self.next_at;
            tokio::select! {
                () = sleep_until(at) => break,
                signal = self.publisher.next() => self.take(signal).await?,
            }
        }
        while self.window.len() >= WINDOW
            || self.window.bytes() >= WINDOW_BYTES
            || self.window.must_empty()
            || self.window.items().any(|sent| sent.item.is_of(&item) || sent.item.id == item.id)
            || !self.suspects.is_empty()
            || self.is_reopening
        {
            self.turn().await?;
        }
        if self.is_held(&item) {
            self.settled.push((item, Fate::Held));
            return Ok(());
        }
        self.publish(PendingItem { item, message });
        let earliest = Instant::now().checked_sub(SLACK).unwrap_or_else(Instant::now);
        self.next_at = (self.next_at + self.period).max(earliest);
        Ok(())
    }

    /// An event that could not even be sent holds its aggregate as well.
    pub(crate) fn refuse(&mut self, item: Item, refusal: Refusal) {
        if let Some((kind, id)) = item.aggregate.clone() {
            self.refused.insert((item.table, kind, id));
        }
        self.settled.push((item, Fate::Refused(refusal)));
    }

    /// Waits until everything sent has its fate.
    pub(crate) async fn finish(&mut self) -> Result<(), Fault> {
        while !self.window.is_empty() || !self.suspects.is_empty() {
            self.turn().await?;
        }
        Ok(())
    }

    /// What has become of events since this was last asked.
    pub(crate) fn settled(&mut self) -> Vec<(Item, Fate)> {
        std::mem::take(&mut self.settled)
    }

    /// Says goodbye.
    pub(crate) async fn close(self) {
        self.publisher.close().await;
    }

    fn is_held(&self, item: &Item) -> bool {
        let key = item.aggregate.clone().map(|(kind, id)| (item.table, kind, id));
        key.is_some_and(|key| self.refused.contains(&key))
    }

    fn publish(&mut self, sent: PendingItem) {
        self.publisher.publish(sent.message.clone());
        self.window.push(sent);
    }

    /// Waits for one thing to happen; suspects go one by one.
    async fn turn(&mut self) -> Result<(), Fault> {
        if self.window.is_empty() && !self.is_reopening {
            let Some(suspect) = self.suspects.pop_front() else { return Ok(()) };
            self.publish(suspect);
        }
        let (limit, what) = if self.is_blocked {
            (self.amqp.blocked_timeout, "RabbitMQ has blocked the connection")
        } else {
            (self.amqp.confirm_timeout, "RabbitMQ has confirmed nothing")
        };
        match in_time(limit, self.publisher.next()).await {
            Some(signal) => self.take(signal).await,
            None => Err(Fault::transient(format!("{what} for {}", crate::text::span(limit)))),
        }
    }

    async fn take(&mut self, signal: Result<Signal, Closure>) -> Result<(), Fault> {
        match signal {
            Ok(Signal::Blocked(why)) => {
                if let Some(why) = &why {
                    warn!(why, "RabbitMQ blocks the connection: the replay waits");
                }
                self.is_blocked = why.is_some();
            }
            Ok(Signal::Reopened) => self.is_reopening = false,
            Ok(Signal::Answers(answers)) => {
                let taken = answers.into_iter().try_for_each(|answer| self.window.take(answer));
                taken.map_err(Stray::fault)?;
                let mut settled = Vec::new();
                self.window.settle(|sent, outcome| settled.push((sent.item, outcome)));
                for (item, outcome) in settled {
                    self.settle(item, outcome);
                }
            }
            Err(Closure::RefusedOnChannel(why, _)) => {
                match self.publisher.reopen(&self.amqp) {
                    true => self.is_reopening = true,
                    false => self.connect_again().await?,
                }
                self.suspect(why);
            }
            Err(Closure::Refused(why)) => {
                self.connect_again().await?;
                self.suspect(why);
            }
            Err(Closure::Dropped(fault) | Closure::Lost(fault)) => return Err(fault),
        }
        Ok(())
    }

    fn settle(&mut self, item: Item, outcome: DeliveryOutcome) {
        match outcome {
            DeliveryOutcome::Delivered => self.settled.push((item, Fate::Delivered)),
            DeliveryOutcome::Returned(why) => self.refuse(item, Refusal::Returned { why }),
            DeliveryOutcome::Nacked => self.refuse(item, Refusal::Nacked),
        }
    }

    async fn connect_again(&mut self) -> Result<(), Fault> {
        self.publisher = connect(self.config, &self.amqp).await?;
        (self.is_blocked, self.is_reopening) = (false, false);
        Ok(())
    }

    /// The broker closes the channel, or the connection, over one message and takes all that are in flight
    /// along. Sent again one by one, the one that does it twice is convicted.
    fn suspect(&mut self, why: String) {
        let in_flight: Vec<PendingItem> = std::mem::take(&mut self.window).into_items();
        match <[PendingItem; 1]>::try_from(in_flight) {
            Ok([sent]) => self.refuse(sent.item, Refusal::Closed { why }),
            Err(several) => self.suspects.extend(several),
        }
    }
}

async fn connect(config: &Config, amqp: &Amqp) -> Result<Sink, Fault> {
    let mut last = Fault::usage("no broker is configured", "set AMQP_URL");
    for broker in &config.amqp.brokers {
        match Sink::connect(broker, amqp, config).await {
            Ok(publisher) => return Ok(publisher),
            Err(fault) => last = fault,
        }
    }
    Err(last)
}
