//! Follows a drain from outside: the count of the queue, and CPU time.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio_postgres::Client;

use crate::meter::{Meter, Who};
use crate::queue::{POLL, Queue};
use crate::report::{BROKER_CPU, Metric, Run, WALSENDER_CPU};
use crate::servers::Servers;

/// How often CPU time is read, in polls.
const SAMPLE: u64 = 5;
/// How often the relay's backends are looked for, once the first were found.
const SEARCH: u64 = 25;

/// The first look at which something was in the queue.
#[derive(Clone, Copy)]
pub struct First {
    pub at: Instant,
    pub count: u64,
    /// The relay's CPU time until then.
    pub relay: Duration,
}

pub struct Follow {
    client: Client,
    slot: String,
    pub meter: Meter,
    pub first: Option<First>,
    /// When the last event had come.
    pub end: Instant,
    events: u64,
    /// Events that had come by then, where a queue counts them.
    pub came: u64,
}

impl Follow {
    /// Before anybody is started.
    pub async fn begin(servers: &Servers, slot: &str, events: u64) -> Result<Self> {
        let mut meter = Meter::default();
        meter.add_old(Who::Broker, servers.beam)?;
        let client = servers.client().await?;
        let slot = slot.to_owned();
        Ok(Self { client, slot, meter, first: None, end: Instant::now(), events, came: events })
    }

    /// Until all events are in the queue, if there is one, and the others are done.
    pub async fn until(
        &mut self,
        mut queue: Option<&mut Queue>,
        mut others: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(120 + self.events / 200);
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut is_all_there = queue.is_none();
        for tick in 0.. {
            poll.tick().await;
            if let Some(queue) = queue.as_deref_mut().filter(|_| !is_all_there) {
                is_all_there = self.look(queue).await?;
            }
            let are_others_done = others()?;
            if is_all_there && are_others_done {
                break;
            }
            if tick % SEARCH == 0 || !self.meter.knows(Who::Walsender) {
                self.find_backends().await?;
            }
            if tick % SAMPLE == 0 {
                self.meter.sample();
            }
            if Instant::now() > deadline {
                bail!("the backlog of {} events is not drained", self.events);
            }
        }
        self.end = Instant::now();
        self.meter.sample_all();
        Ok(())
    }

    /// The relay's sessions and its walsender.
    pub async fn find_backends(&mut self) -> Result<()> {
        self.meter.find_backends(&self.client, &self.slot).await
    }

    async fn look(&mut self, queue: &mut Queue) -> Result<bool> {
        let count = queue.count().await?;
        if self.first.is_none() && count > 0 {
            self.meter.sample();
            let relay = self.meter.used(Who::Relay).unwrap_or_default();
            self.first = Some(First { at: Instant::now(), count, relay });
        }
        self.came = count;
        Ok(count >= self.events)
    }

    /// Events per second from the first that came on: start-up is told apart. Of a single one
    /// there is none.
    pub fn rate(&self) -> Option<f64> {
        let (first, more) = self.after_first()?;
        Some(more as f64 / (self.end - first.at).as_secs_f64())
    }

    /// The relay's CPU from the first that came to the last, in microseconds for each of them.
    pub fn flow(&self) -> Option<f64> {
        let (first, more) = self.after_first()?;
        let used = self.meter.used(Who::Relay)?.saturating_sub(first.relay);
        Some(used.as_secs_f64() * 1e6 / more as f64)
    }

    fn after_first(&self) -> Option<(First, u64)> {
        let first = self.first?;
        Some((first, self.came.saturating_sub(first.count))).filter(|(_, more)| *more > 0)
    }

    /// Microseconds of CPU per event.
    pub fn tell(&self, run: &mut Run, who: Who, metric: Metric) {
        if let Some(used) = self.meter.used(who) {
            run.set(metric, self.per_event(used));
        }
    }

    pub fn tell_servers(&self, run: &mut Run) {
        self.tell(run, Who::Walsender, WALSENDER_CPU);
        self.tell(run, Who::Broker, BROKER_CPU);
    }

    pub fn per_event(&self, used: Duration) -> f64 {
        used.as_secs_f64() * 1e6 / self.came as f64
    }

    pub fn client(&self) -> &Client {
        &self.client
    }
}
