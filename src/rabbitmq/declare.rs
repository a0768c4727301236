//! What `init --declare` declares on RabbitMQ. `run` never declares: a relay needs the right
//! to write, and no more.

use std::collections::{BTreeMap, BTreeSet};

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};

use crate::config::{Config, Queue, StreamSink, Table};
use crate::error::{Fault, Kind};
use crate::rabbitmq::publisher::probe::ProbeReply;
use crate::rabbitmq::publisher::{self, Publisher};

/// The type of a queue that is a stream.
const STREAM: &str = "stream";

/// Declares the exchanges and streams of the tables, then the configured queues and their bindings; all
/// durable. What exists with other properties is an error, and is not changed. Returns a
/// line about each.
///
/// # Errors
/// The broker cannot be reached, or refuses a declaration: a permission is missing, or what is
/// there has other properties.
pub(crate) async fn declare(config: &Config) -> Result<Vec<String>, Fault> {
    let plan = Plan::of(config)?;
    let publisher = connect(config).await?;
    let outcome = plan.carry_out(publisher.channel()).await;
    publisher.close().await;
    outcome?;
    // The broker does not distinguish what it made from what it found as it should be.
    let exchanges = plan.exchanges.iter().map(|name| plan.exchange(name));
    let all = exchanges.chain(plan.queues.iter().map(queue));
    let all = all.chain(plan.super_streams.values().map(|sink| super_stream(sink)));
    Ok(all.map(|what| format!("declared {what}")).collect())
}

/// What [`declare`] would make.
pub(crate) struct Missing {
    /// A line about each.
    pub(crate) lines: Vec<String>,
    /// Queues that are there, and of which no broker says how they are bound.
    pub(crate) unseen: Vec<String>,
}

/// Looks for what [`declare`] would make, and makes none of it.
///
/// # Errors
/// The broker cannot be reached.
pub(crate) async fn missing(config: &Config) -> Result<Missing, Fault> {
    let plan = Plan::of(config)?;
    let publisher = connect(config).await?;
    let (mut lines, mut unseen) = (Vec::new(), Vec::new());
    for name in &plan.exchanges {
        let reply = publisher.has_exchange(name, &config.amqp).await;
        lines.extend(would(&plan.exchange(name), &reply));
    }
    for entry in &plan.queues {
        let reply = publisher.has_queue(&entry.0.name, &config.amqp).await;
        if reply == ProbeReply::Yes && !entry.0.bindings.is_empty() {
            unseen.push(entry.0.name.clone());
        }
        lines.extend(would(&queue(entry), &reply));
    }
    for sink in plan.super_streams.values() {
        // Its partitions are among the queues.
        let reply = publisher.has_exchange(&sink.name, &config.amqp).await;
        lines.extend(would(&super_stream(sink), &reply));
    }
    publisher.close().await;
    Ok(Missing { lines, unseen })
}

/// `None` where it is there.
fn would(what: &str, reply: &ProbeReply) -> Option<String> {
    match reply {
        ProbeReply::Yes => None,
        ProbeReply::Missing(_) => Some(format!("-- would declare {what}")),
        ProbeReply::Forbidden(why) | ProbeReply::Blocked(why) | ProbeReply::Other(why) => {
            Some(format!("-- would declare {what}; whether it is there cannot be seen: {why}"))
        }
    }
}

fn queue((queue, exchange): &(Queue, String)) -> String {
    let (kind, name) = (&queue.queue_type, &queue.name);
    let bound = match queue.bindings.join(", ") {
        keys if keys.is_empty() => String::new(),
        keys => format!(", bound to {exchange} by {keys}"),
    };
    let arguments = queue.arguments.iter().map(|(name, value)| format!(", {name} {value}"));
    format!("{kind} queue {name}{bound}{}", arguments.collect::<String>())
}

fn super_stream(sink: &StreamSink) -> String {
    format!("super stream {} of {} partitions", sink.name, sink.partitions.len())
}

/// The first broker that lets us in.
async fn connect(config: &Config) -> Result<Publisher, Fault> {
    let mut fault = Fault::usage("no broker is named", "export AMQP_URL=amqp://user:password@host");
    for broker in &config.amqp.brokers {
        match Publisher::connect(broker, &config.amqp).await {
            Ok(publisher) => return Ok(publisher),
            Err(refused) => fault = refused,
        }
    }
    Err(fault)
}

struct Plan<'a> {
    exchanges: BTreeSet<String>,
    kind: &'a str,
    queues: Vec<(Queue, String)>,
    super_streams: BTreeMap<&'a str, &'a StreamSink>,
}

impl<'a> Plan<'a> {
    fn of(config: &'a Config) -> Result<Self, Fault> {
        let fixed = |table: &Table| table.exchange.fixed().map(str::to_owned);
        // A stream is published to by itself.
        let exchanging = config.sources().filter(|source| source.stream.is_none());
        let templates = exchanging.flat_map(Table::exchanges);
        let mut exchanges: BTreeSet<_> =
            templates.filter_map(|template| template.fixed().map(str::to_owned)).collect();
        let first = config.sources().next().and_then(fixed);
        let asked: Vec<Queue> = config.declare.each().map(|(_, queue)| queue).collect();
        // What says how long such a stream keeps its events is declared as it stands there, and once.
        let is_asked =
            |name: &str| asked.iter().any(|queue| queue.queue_type == STREAM && queue.name == name);
        let streams = config.streams().into_iter().filter(|name| !is_asked(name));
        let mut queues: Vec<_> = streams.map(stream).collect();
        for queue in asked {
            if queue.bindings.is_empty() {
                queues.push((queue, String::new()));
                continue;
            }
            let exchange = queue.exchange.clone().or_else(|| first.clone()).ok_or_else(|| {
                Fault::usage(
                    format!("queue \"{}\" has no exchange to bind to: the table's is a template over columns", queue.name),
                    "name it: [[declare.queues]] exchange = \"…\"",
                )
            })?;
            exchanges.insert(exchange.clone());
            queues.push((queue, exchange));
        }
        // The default exchange and RabbitMQ's own are there already, and must not be declared.
        exchanges.retain(|name| !name.is_empty() && !name.starts_with("amq."));
        let super_streams = config.stream_sinks().filter(|sink| sink.is_super);
        let super_streams = super_streams.map(|sink| (&*sink.name, sink)).collect();
        Ok(Self { exchanges, kind: &config.declare.exchange_type, queues, super_streams })
    }

    fn exchange(&self, name: &str) -> String {
        format!("{} exchange {name}, durable", self.kind)
    }

    async fn carry_out(&self, channel: &Channel) -> Result<(), Fault> {
        for exchange in &self.exchanges {
            let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
            let kind = match self.kind {
                "direct" => ExchangeKind::Direct,
                "fanout" => ExchangeKind::Fanout,
                "headers" => ExchangeKind::Headers,
                "topic" => ExchangeKind::Topic,
                other => ExchangeKind::Custom(other.to_owned()),
            };
            channel
                .exchange_declare(exchange.as_str().into(), kind, options, FieldTable::default())
                .await
                .map_err(|error| refused(&format!("exchange {exchange}"), &error))?;
        }
        for (queue, exchange) in &self.queues {
            declare_queue(channel, queue, exchange).await?;
        }
        for sink in self.super_streams.values() {
            bind_partitions(channel, sink).await?;
        }
        Ok(())
    }
}

/// A stream that events go to, by no exchange.
fn stream(name: &str) -> (Queue, String) {
    let queue = Queue {
        name: name.to_owned(),
        count: 1,
        queue_type: STREAM.to_owned(),
        bindings: Vec::new(),
        exchange: None,
        arguments: Vec::new(),
    };
    (queue, String::new())
}

/// Makes a super stream of streams that are there: an exchange that says so, by which clients find the
/// partitions and their order (`rabbit_stream_manager.erl`).
async fn bind_partitions(channel: &Channel, sink: &StreamSink) -> Result<(), Fault> {
    let name = &*sink.name;
    let told = |error: lapin::Error| refused(&format!("super stream {name}"), &error);
    let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("x-super-stream".into(), AMQPValue::Boolean(true));
    let declared = channel.exchange_declare(name.into(), ExchangeKind::Direct, options, arguments);
    declared.await.map_err(told)?;
    for (order, partition) in (0_i64..).zip(sink.partitions.iter()) {
        let (key, options) = (order.to_string(), QueueBindOptions::default());
        let mut arguments = FieldTable::default();
        arguments.insert("x-stream-partition-order".into(), AMQPValue::LongLongInt(order));
        channel
            .queue_bind((&**partition).into(), name.into(), key.as_str().into(), options, arguments)
            .await
            .map_err(told)?;
    }
    Ok(())
}

async fn declare_queue(channel: &Channel, queue: &Queue, exchange: &str) -> Result<(), Fault> {
    let what = format!("queue {}", queue.name);
    let mut arguments = FieldTable::default();
    let queue_type = AMQPValue::LongString(queue.queue_type.as_str().into());
    arguments.insert("x-queue-type".into(), queue_type);
    for (name, value) in &queue.arguments {
        arguments.insert(name.as_str().into(), argument(value));
    }
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    channel
        .queue_declare(queue.name.as_str().into(), options, arguments)
        .await
        .map_err(|error| refused(&what, &error))?;
    for key in &queue.bindings {
        channel
            .queue_bind(
                queue.name.as_str().into(),
                exchange.into(),
                key.as_str().into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .map_err(|error| refused(&what, &error))?;
    }
    Ok(())
}

/// As RabbitMQ's own arguments are typed: whole numbers, flags and texts.
fn argument(value: &str) -> AMQPValue {
    match (value.parse::<i64>(), value.parse::<bool>()) {
        (Ok(number), _) => AMQPValue::LongLongInt(number),
        (_, Ok(flag)) => AMQPValue::Boolean(flag),
        _ => AMQPValue::LongString(value.into()),
    }
}

fn refused(what: &str, error: &lapin::Error) -> Fault {
    let fault = publisher::classify(error);
    let hint = match fault.kind {
        Kind::Amqp(403, _) => {
            "declare as a user who may configure it: rabbitmqctl set_permissions -p VHOST USER '.*' '.*' '.*'"
        }
        _ => fault.hint.as_str(),
    };
    Fault::definite(format!("{what} could not be declared: {error}"), hint).kind(fault.kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flags, Needs, Sources};

    #[test]
    fn a_stream_of_a_table_is_declared_once_with_the_arguments_that_it_is_given() {
        let text = r#"
            [[tables]]
            name = "public.outbox_messages"
            sink = "super_stream"
            stream = "orders"
            partitions = 2
            [[declare.queues]]
            name = "orders-1"
            queue_type = "stream"
            bindings = []
            arguments = { x-max-age = "7D" }
        "#;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let flags = Flags { config: Some(file.path().to_owned()), ..Flags::default() };
        let sources = Sources { flags, ..Sources::default() };
        let config = Config::load(&sources, Needs::NONE).unwrap();
        let plan = Plan::of(&config).unwrap();
        let told: Vec<String> = plan.queues.iter().map(queue).collect();
        assert_eq!(told, ["stream queue orders-0", "stream queue orders-1, x-max-age 7D"]);
    }
}
