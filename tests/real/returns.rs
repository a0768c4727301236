//! Returns and confirms as the real broker sends them: the window's rule rests on their order.

use std::collections::HashSet;
use std::time::Instant;

use anyhow::{Context, Result};
use harness::consumer::{self, QueueType};
use lapin::BasicProperties;
use pgoutbox::testing::config::{Config, Needs, Sources};
use pgoutbox::testing::core::message::Message;
use pgoutbox::testing::core::relay::window::{Answer, DeliveryOutcome, InFlight, Return, Window};
use pgoutbox::testing::publisher::{Publisher, Signal};

use crate::setting::Setting;

/// Messages for each share of unroutable ones.
const MESSAGES: u64 = 12_000;

struct Sent {
    id: String,
    is_routable: bool,
}

impl InFlight for Sent {
    fn is(&self, returned: &Return) -> bool {
        returned.message_id == self.id
    }

    fn bytes(&self) -> usize {
        1
    }
}

/// What a run counted.
#[derive(Default, Debug)]
struct Tally {
    delivered: u64,
    returned: u64,
    settled_wrongly: u64,
    /// Returns whose message was acked before: there must be none.
    too_late: u64,
}

async fn publisher(amqp_url: &str) -> Result<Publisher> {
    pgoutbox::testing::install_provider();
    let env = [("DATABASE_URL", "postgres://nobody@localhost/none"), ("AMQP_URL", amqp_url)];
    let env = env.map(|(name, value)| (name.into(), value.into()));
    let sources = Sources { env: env.into(), ..Sources::default() };
    let config = Config::load(&sources, Needs::ALL)?;
    let broker = config.amqp.brokers.first().context("no broker")?;
    Ok(Publisher::connect(broker, &config.amqp).await?)
}

fn message(sent: &Sent) -> Result<Message> {
    let routing_key = if sent.is_routable { "good" } else { "nobody" };
    let properties = BasicProperties::default().with_message_id(sent.id.as_str().into());
    let body = bytes::Bytes::from_static(b"x");
    Message::new("outbox", routing_key, &properties, body).map_err(anyhow::Error::msg)
}

/// Publishes with a rolling window; about one in `one_in` is unroutable.
async fn run(
    publisher: &mut Publisher,
    base: u64,
    window_size: usize,
    one_in: u64,
) -> Result<Tally> {
    // Its numbers go on from those of the publisher, which has been used before.
    let mut tally = Tally::default();
    let mut window: Window<Sent> = Window::default();
    let mut confirmed = HashSet::new();
    let mut sent = 0;
    while tally.delivered + tally.returned < MESSAGES {
        while sent < MESSAGES && window.len() < window_size && !window.must_empty() {
            let is_routable = fastrand::u64(..one_in) != 0;
            let one = Sent { id: sent.to_string(), is_routable };
            publisher.publish(message(&one)?);
            window.push(one);
            sent += 1;
        }
        let answers = match publisher.next().await {
            Ok(Signal::Answers(answers)) => answers,
            Ok(Signal::Blocked(_) | Signal::Reopened) => continue,
            Err(closure) => anyhow::bail!("{closure:?}"),
        };
        for mut answer in answers {
            match &mut answer {
                Answer::Return(returned) => {
                    let is_late = confirmed.contains(&returned.message_id.parse()?);
                    tally.too_late += u64::from(is_late);
                }
                Answer::Confirm { number, .. } => {
                    *number -= base;
                    confirmed.insert(*number);
                }
            }
            assert!(window.take(answer).is_ok(), "a return of what is not in flight");
        }
        window.settle(|one, outcome| {
            let is_delivered = outcome == DeliveryOutcome::Delivered;
            tally.delivered += u64::from(is_delivered);
            tally.returned += u64::from(!is_delivered);
            tally.settled_wrongly += u64::from(is_delivered != one.is_routable);
        });
    }
    Ok(tally)
}

async fn none_is_settled_wrongly(queue_type: QueueType) -> Result<()> {
    let setting = Setting::bare().await?;
    let options =
        consumer::Options { queue_type, binding: "good".to_owned(), ..Default::default() };
    consumer::declare(&setting.channel().await?, &options).await?;
    let mut publisher = publisher(&setting.amqp_url).await?;
    for (round, (window_size, one_in)) in (0..).zip([(512, 10), (1_000, 10), (1_000, 200)]) {
        let started = Instant::now();
        let tally = run(&mut publisher, round * MESSAGES, window_size, one_in).await?;
        println!(
            "{queue_type:?}, window {window_size}, 1 in {one_in}: {tally:?} in {:?}",
            started.elapsed()
        );
        assert_eq!(tally.settled_wrongly, 0, "{tally:?}");
        assert_eq!(tally.too_late, 0, "{tally:?}");
        assert!(tally.returned > 0 && tally.delivered > tally.returned, "{tally:?}");
    }
    publisher.close().await;
    Ok(())
}

#[tokio::test]
async fn none_is_settled_wrongly_by_a_classic_queue() -> Result<()> {
    none_is_settled_wrongly(QueueType::Classic).await
}

#[tokio::test]
async fn none_is_settled_wrongly_by_a_quorum_queue() -> Result<()> {
    none_is_settled_wrongly(QueueType::Quorum).await
}
