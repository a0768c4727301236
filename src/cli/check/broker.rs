//! What one broker lets us do.

use std::collections::BTreeSet;

use super::certificates;
use super::greeting::{Greeting, Kind, greet};
use crate::config::{Amqp, Broker, Config, OnFailure};
use crate::error::{self, About, Fault};
use crate::rabbitmq::publisher::Publisher;
use crate::rabbitmq::publisher::probe::ProbeReply;
use crate::rabbitmq::stream::{OLD_FOR_FILTERS, StreamPublisher};
use crate::slot::{Finding, Severity, cause, of_broker};

/// `max_message_size` where nobody has set it, by the first number of the version.
const LIMITS: [(u32, usize); 2] = [(3, 128 * MIB), (4, SMALLEST)];
const SMALLEST: usize = 16 * MIB;
const MIB: usize = 1024 * 1024;

/// What stands with all brokers. To reach one of them is enough to run.
pub(super) async fn look(config: &Config) -> Vec<Finding> {
    let mut all = Vec::new();
    let mut is_reached = false;
    for broker in &config.amqp.brokers {
        let (findings, is_in) = look_at(broker, config).await;
        is_reached |= is_in;
        all.push((findings, is_in));
    }
    let mut found = Vec::new();
    for (findings, is_in) in all {
        for finding in findings {
            let is_spare = is_reached && !is_in && finding.severity == Severity::Error;
            found.push(if is_spare { finding.with_severity(Severity::Warning) } else { finding });
        }
    }
    found
}

async fn look_at(broker: &Broker, config: &Config) -> (Vec<Finding>, bool) {
    let amqp = &config.amqp;
    let place = format!("RabbitMQ at {}:{}", broker.host, broker.port);
    let at = (broker.host.as_str(), broker.port);
    let kind = Kind::Broker { wants_version: amqp.max_message_bytes > SMALLEST };
    let greeting = greet(kind, at, &broker.tls, amqp.connect_timeout).await;
    let mut findings = certificates::findings(&place, &broker.host, &broker.tls, "amqp", &greeting);
    let publisher = match Publisher::connect(broker, amqp).await {
        Ok(publisher) => publisher,
        Err(fault) => {
            findings.extend(certificates::before(&findings, vec![refused(broker, fault)]));
            return (findings, false);
        }
    };
    findings.push(Finding::good("broker", format!("{place} lets \"{}\" in", broker.user)));
    findings.extend(size(&place, amqp, &greeting));
    if config.has_streams() {
        findings.extend(streams(broker, config).await);
    }
    if config.has_exchanges() {
        findings.extend(exchanges(&publisher, broker, config).await);
    }
    findings.extend(queues(&publisher, broker, config).await);
    publisher.close().await;
    (findings, true)
}

fn refused(broker: &Broker, fault: Fault) -> Finding {
    let (what, user) = (fault.what, quoted(&broker.user));
    let vhost = quoted(&broker.vhost);
    let refusal = of_broker(fault.kind);
    let ends = "or end some of its connections: rabbitmqctl list_connections pid user vhost";
    let hint = match fault.kind {
        error::Kind::Amqp(_, About::VhostForbidden) => {
            format!("rabbitmqctl set_permissions -p {vhost} {user} '^$' '.*' '^$'")
        }
        error::Kind::Amqp(_, About::VhostMissing) => {
            format!("rabbitmqctl add_vhost {vhost}  -- or correct the end of amqp.url")
        }
        error::Kind::Amqp(_, About::VhostDown) => format!("rabbitmqctl restart_vhost -p {vhost}"),
        error::Kind::Amqp(_, About::VhostLimit) => format!(
            "rabbitmqctl set_vhost_limits -p {vhost} '{{\"max-connections\":-1}}'  -- {ends}"
        ),
        error::Kind::Amqp(_, About::UserLimit) => {
            format!("rabbitmqctl set_user_limits {user} '{{\"max-connections\":-1}}'  -- {ends}")
        }
        error::Kind::Amqp(403, _) => format!(
            "rabbitmqctl change_password {user} 'PASSWORD'  -- the one in {}; where \
             `rabbitmqctl list_users` does not show the user: rabbitmqctl add_user {user} 'PASSWORD'; \
             and \"guest\" may log in from the broker's own machine alone",
            broker.password_place
        ),
        _ => fault.hint,
    };
    Finding::error(refusal, what, hint)
}

/// As a shell reads it.
pub(super) fn quoted(name: &str) -> String {
    format!("'{}'", name.replace('\'', r"'\''"))
}

fn size(place: &str, amqp: &Amqp, greeting: &Greeting) -> Option<Finding> {
    let name = "broker-max-message-size";
    if amqp.max_message_bytes <= SMALLEST {
        let what = "every RabbitMQ takes messages of amqp.max_message_bytes by default";
        return Some(Finding::good(name, what));
    }
    let version = greeting.version.as_deref()?;
    let major: u32 = version.split('.').next()?.parse().ok()?;
    let limit = LIMITS.into_iter().rev().find(|(from, _)| major >= *from)?.1;
    if amqp.max_message_bytes <= limit {
        let what = format!(
            "{place} is {version}, and by default takes messages of amqp.max_message_bytes"
        );
        return Some(Finding::good(name, what));
    }
    Some(Finding::warning(
        name,
        format!(
            "{place} is {version}, which by default takes messages of {limit} bytes at most, and \
             amqp.max_message_bytes is {}: a larger one closes the connection",
            amqp.max_message_bytes
        ),
        format!(
            "set amqp.max_message_bytes = \"{}MiB\"; or max_message_size = {} in rabbitmq.conf",
            limit / MIB,
            amqp.max_message_bytes
        ),
    ))
}

/// The exchanges that are known before there are rows.
async fn exchanges(publisher: &Publisher, broker: &Broker, config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut names = BTreeSet::new();
    for table in config.sources().filter(|table| table.stream.is_none()) {
        for exchange in table.exchanges() {
            match exchange.fixed() {
                Some(name) => _ = names.insert(name),
                None => findings.push(Finding::unknown(
                    "exchange",
                    format!(
                        "which exchanges {} names, its events decide: {exchange}",
                        table.title()
                    ),
                    format!("rabbitmqctl list_exchanges -p {}", quoted(&broker.vhost)),
                )),
            }
        }
        if let OnFailure::DeadLetter { exchange, .. } = &table.on_failure {
            names.insert(exchange);
        }
    }
    for name in names {
        let answer = publisher.takes(name, &config.amqp).await;
        findings.push(exchange(broker, config, name, answer));
    }
    findings
}

/// Whether the streams take messages from this user, by their own protocol.
async fn streams(broker: &Broker, config: &Config) -> Vec<Finding> {
    match StreamPublisher::connect(broker, &config.amqp, config.stream_sinks()).await {
        Ok(streams) => {
            let names: Vec<&str> = config.streams().into_iter().collect();
            let what =
                format!("streams take messages from \"{}\": {}", broker.user, names.join(", "));
            let without = streams
                .without_filters()
                .map(|what| Finding::warning("broker-stream-filter", what, OLD_FOR_FILTERS));
            [Finding::good("broker-stream", what)].into_iter().chain(without).collect()
        }
        Err(fault) => {
            let refusal_of_streams = match cause(&fault) {
                "relay-stuck" => "broker-stream-connection",
                named => named,
            };
            vec![Finding::error(refusal_of_streams, fault.what, fault.hint)]
        }
    }
}

fn exchange(broker: &Broker, config: &Config, name: &str, answer: ProbeReply) -> Finding {
    let (user, vhost) = (&broker.user, quoted(&broker.vhost));
    let called = if name.is_empty() {
        "the default exchange".to_owned()
    } else {
        format!("exchange \"{name}\"")
    };
    match answer {
        ProbeReply::Yes => {
            Finding::good("exchange", format!("{called} takes messages from \"{user}\""))
        }
        ProbeReply::Missing(_) => Finding::error(
            "exchange-missing",
            format!("{called} does not exist in vhost {vhost}"),
            format!(
                "pgoutbox init --declare  -- or: rabbitmqadmin --vhost={vhost} declare exchange name={} type={} durable=true",
                quoted(name),
                config.declare.exchange_type
            ),
        ),
        ProbeReply::Forbidden(why) => {
            let pattern = quoted(&format!(
                "^{}$",
                escaped(if name.is_empty() { "amq.default" } else { name })
            ));
            Finding::error(
                "exchange-permission",
                format!("\"{user}\" may not publish to {called} in vhost {vhost}: {why}"),
                format!(
                    "rabbitmqctl set_permissions -p {vhost} {} '^$' {pattern} '^$'",
                    quoted(user)
                ),
            )
        }
        ProbeReply::Blocked(why) => Finding::error(
            "broker-blocked",
            format!("RabbitMQ takes no messages from anybody: it has an alarm ({why})"),
            "clear its memory or disk alarm: rabbitmq-diagnostics alarms",
        ),
        ProbeReply::Other(why) => Finding::unknown(
            "exchange",
            format!("whether {called} takes messages cannot be seen: {why}"),
            format!("rabbitmqctl list_exchanges -p {vhost}"),
        ),
    }
}

/// A name in a regular expression.
fn escaped(name: &str) -> String {
    let escape = |c: char| match c.is_ascii_alphanumeric()
        || matches!(c, '_' | '-' | ' ')
        || !c.is_ascii()
    {
        true => c.to_string(),
        false => format!("\\{c}"),
    };
    name.chars().map(escape).collect()
}

/// What a binding costs that keeps nothing back: measured, see `docs/sizing.md`.
const TOPIC_COST: &str = "; where it is bound by # to a topic exchange, that costs the broker 40 µs an event more than a fanout or direct one";

/// Those that `init --declare` would make. To look for one may need rights that a relay has not.
async fn queues(publisher: &Publisher, broker: &Broker, config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut cost = (config.declare.exchange_type == "topic").then_some(TOPIC_COST);
    for (_, queue) in config.declare.each() {
        let (name, vhost) = (&queue.name, quoted(&broker.vhost));
        let is_all = queue.bindings.iter().any(|key| key == "#");
        findings.push(match publisher.has_queue(name, &config.amqp).await {
            ProbeReply::Yes => {
                // Once, however many there are.
                let cost = cost.take_if(|_| is_all).unwrap_or_default();
                Finding::good("queue", format!("queue \"{name}\" is there{cost}"))
            }
            ProbeReply::Missing(_) => Finding::warning(
                "queue-missing",
                format!("queue \"{name}\" of [[declare.queues]] does not exist in vhost {vhost}"),
                "pgoutbox init --declare",
            ),
            ProbeReply::Forbidden(why) | ProbeReply::Blocked(why) | ProbeReply::Other(why) => {
                Finding::unknown(
                    "queue",
                    format!("whether queue \"{name}\" is there cannot be seen: {why}"),
                    format!("rabbitmqctl list_queues -p {vhost} name"),
                )
            }
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_into_shells_and_patterns_as_they_are() {
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(escaped("a.b-c_ü*"), r"a\.b-c_ü\*");
    }

    #[test]
    fn the_limit_goes_by_the_version() {
        let severity = |version: &str, bytes| {
            let greeting = Greeting { version: Some(version.to_owned()), ..Greeting::default() };
            let amqp = Amqp {
                brokers: Vec::new(),
                heartbeat: std::time::Duration::ZERO,
                connect_timeout: std::time::Duration::ZERO,
                confirm_timeout: std::time::Duration::ZERO,
                blocked_timeout: std::time::Duration::ZERO,
                max_message_bytes: bytes,
                renewal: crate::config::Renewal::default(),
                connection_name: String::new(),
                stream_port: None,
                stream_addresses: Vec::new(),
            };
            size("there", &amqp, &greeting).map(|finding| finding.severity)
        };
        let mib = 1024 * 1024;
        assert_eq!(severity("3.10.8", 128 * mib), Some(Severity::Good));
        assert_eq!(severity("3.13.7", 128 * mib + 1), Some(Severity::Warning));
        assert_eq!(severity("4.0.5", 16 * mib), Some(Severity::Good));
        assert_eq!(severity("4.3.6", 16 * mib + 1), Some(Severity::Warning));
        assert_eq!(severity("5.0.0", 17 * mib), Some(Severity::Warning));
        assert_eq!(severity("unheard of", 17 * mib), None);
    }
}
