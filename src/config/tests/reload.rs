//! What SIGHUP changes is known of every setting.

use super::super::kind::ValueKind;
use super::super::settings::{Fallback, SETTINGS, Setting};
use super::super::{InForce, SettingsReport, plan};
use super::tls::with_files;
use super::*;

/// A value near the one that holds, so that nothing else has to change with it.
fn another(setting: &Setting) -> String {
    let fallback = match setting.fallback {
        Fallback::Value(text) => text,
        Fallback::Unset | Fallback::Derived(_) => "",
    };
    let parse = |text: &str| humantime::parse_duration(text).unwrap();
    let unlike = |words: &[&str]| words.iter().find(|word| **word != fallback).unwrap().to_string();
    match setting.kind {
        ValueKind::Constant
        | ValueKind::Argument
        | ValueKind::Text(_)
        | ValueKind::Name
        | ValueKind::Column
        | ValueKind::SlotName => "other".to_owned(),
        ValueKind::Secret => "name=another".to_owned(),
        ValueKind::Count { .. } if fallback.is_empty() => "7".to_owned(),
        ValueKind::Count { .. } => (fallback.parse::<u64>().unwrap() + 1).to_string(),
        ValueKind::Size { .. } if fallback.is_empty() => "1GiB".to_owned(),
        ValueKind::Size { .. } => {
            format!("{}KiB", fallback.parse::<bytesize::ByteSize>().unwrap().0 / 1024 + 1)
        }
        ValueKind::Span { .. } | ValueKind::Seconds { .. } if fallback.is_empty() => {
            "30days".to_owned()
        }
        ValueKind::Span { .. } => {
            let longer = parse(fallback) + std::time::Duration::from_millis(1);
            humantime::format_duration(longer).to_string()
        }
        ValueKind::Seconds { .. } => "11s".to_owned(),
        // It is what `audit.mode` says, where it is not set.
        ValueKind::Choice(_) if setting.key == "tables.*.audit.mode" => "delete".to_owned(),
        ValueKind::Choice(words) => unlike(words),
        ValueKind::Flag => unlike(&["true", "false"]),
        ValueKind::SslMode => "require".to_owned(),
        ValueKind::ExchangeType => "direct".to_owned(),
        ValueKind::File => "other.pem".to_owned(),
        ValueKind::Template if setting.key.ends_with(".user_id") => "{who}".to_owned(),
        ValueKind::Template => "fixed".to_owned(),
        ValueKind::Field => "7".to_owned(),
        ValueKind::LogFilter => "debug".to_owned(),
        ValueKind::Listen => "127.0.0.1:1".to_owned(),
        ValueKind::List => "a,b".to_owned(),
        ValueKind::PostgresUrl => "postgres://other:dbpw@db.example/app".to_owned(),
        ValueKind::AmqpUrl => "amqp://app:mqpw@other.example".to_owned(),
        ValueKind::HttpUrl => "http://other.example:4318".to_owned(),
    }
}

/// As [`beside`], of what says which streams events go to.
fn beside_a_stream(key: &str) -> Option<(&'static [&'static str], &'static [&'static str])> {
    Some(match key {
        "tables.0.sink" => (&[], &["tables.0.stream=events"]),
        "tables.0.stream" => (&["tables.0.sink=stream", "tables.0.stream=events"], &[]),
        "tables.0.partitions" => {
            (&["tables.0.sink=super_stream", "tables.0.stream=s", "tables.0.partitions=3"], &[])
        }
        "tables.0.filter_value" => (&["tables.0.sink=stream", "tables.0.stream=s"], &[]),
        "messages.0.filter_value" => {
            (&["messages.0.prefix=orders", "messages.0.sink=stream", "messages.0.stream=s"], &[])
        }
        "messages.0.partitions" => (
            &[
                "messages.0.prefix=orders",
                "messages.0.sink=super_stream",
                "messages.0.stream=s",
                "messages.0.partitions=3",
            ],
            &[],
        ),
        "messages.0.sink" => (&["messages.0.prefix=orders"], &["messages.0.stream=events"]),
        "messages.0.stream" => (
            &["messages.0.prefix=orders", "messages.0.sink=stream", "messages.0.stream=events"],
            &[],
        ),
        _ => return None,
    })
}

/// What a setting needs beside it; in the second list what goes with its other value.
fn beside(key: &str) -> (&'static [&'static str], &'static [&'static str]) {
    const AMQP_TLS: &[&str] = &["amqp.url=amqps://app:mqpw@mq.example"];
    const AMQP_PAIR: &[&str] = &[
        "amqp.url=amqps://app:mqpw@mq.example",
        "amqp.cert_file=good.pem",
        "amqp.key_file=good.pem",
    ];
    const PAIR: &[&str] = &["postgres.cert_file=good.pem", "postgres.key_file=good.pem"];
    const MESSAGES: &[&str] = &["messages.0.prefix=orders"];
    if let Some(beside) = beside_a_stream(key) {
        return beside;
    }
    match key {
        "amqp.ca_file" => (AMQP_TLS, &[]),
        "amqp.auth" => (AMQP_PAIR, &["amqp.url=amqps://mq.example"]),
        "amqp.cert_file" => (AMQP_PAIR, &["amqp.key_file=other.pem"]),
        "amqp.key_file" => (AMQP_PAIR, &["amqp.cert_file=other.pem"]),
        "postgres.cert_file" => (PAIR, &["postgres.key_file=other.pem"]),
        "postgres.key_file" => (PAIR, &["postgres.cert_file=other.pem"]),
        "postgres.stream_password" => {
            (&["postgres.stream_url=postgres://stream:old@db.example/app"], &[])
        }
        "tables.0.cloudevents.mode" | "messages.0.prefix" => (&[], &[]),
        "messages.0.cloudevents.mode" => (MESSAGES, &[]),
        key if key.starts_with("messages.0.cloudevents.") => {
            (&["messages.0.prefix=orders", "messages.0.cloudevents.mode=structured"], &[])
        }
        "messages.0.on_failure" => (MESSAGES, &["messages.0.dead_letter_exchange=letters"]),
        "messages.0.dead_letter_exchange" | "messages.0.dead_letter_routing_key" => (
            &[
                "messages.0.prefix=orders",
                "messages.0.on_failure=dead_letter",
                "messages.0.dead_letter_exchange=letters",
            ],
            &[],
        ),
        key if key.starts_with("messages.0.") => (MESSAGES, &[]),
        key if key.starts_with("tables.0.cloudevents.") => {
            (&["tables.0.cloudevents.mode=structured"], &[])
        }
        "tables.0.on_failure" => (&[], &["tables.0.dead_letter_exchange=letters"]),
        "tables.0.dead_letter_exchange" => {
            (&["tables.0.on_failure=dead_letter", "tables.0.dead_letter_exchange=letters"], &[])
        }
        "tables.0.dead_letter_routing_key" => {
            (&["tables.0.on_failure=dead_letter", "tables.0.dead_letter_exchange=letters"], &[])
        }
        "declare.queues.0.count" => (&["declare.queues.0.name=q{n}"], &[]),
        key if key.starts_with("declare.queues.0.") => (&["declare.queues.0.name=q"], &[]),
        "audit.give_up" => (&["reconcile.age=1h"], &[]),
        "otlp.ca_file" => (&["otlp.endpoint=https://c.example:4318"], &[]),
        key if key.starts_with("otlp.") => (&["otlp.endpoint=http://c.example:4318"], &[]),
        _ => (&[], &[]),
    }
}

fn in_force(tried: &mut Try, pairs: &[String]) -> InForce {
    let mut tried = tried.clone();
    for pair in pairs {
        // Files lie where the others do.
        let pair = match pair.split_once('=') {
            Some((key, name)) if name.ends_with(".pem") => {
                format!("{key}={}", tried.path(name).display())
            }
            _ => pair.clone(),
        };
        tried = tried.set(&pair);
    }
    let (config, explained): (Config, SettingsReport) =
        load(&tried.sources, Needs::ALL).unwrap_or_else(|fault| panic!("{pairs:?}: {fault}"));
    InForce { config, explained }
}

#[test]
fn each_setting_is_taken_over_or_named() {
    let mut tried = with_files();
    for setting in SETTINGS {
        let key = key_of(setting);
        let (first, second) = beside(&key);
        let owned = |pairs: &[&str]| pairs.iter().map(|pair| pair.to_string()).collect::<Vec<_>>();
        let before = owned(first);
        let mut after = [before.clone(), owned(second)].concat();
        after.push(format!("{key}={}", another(setting)));
        let current = in_force(&mut tried, &before);
        let mut read = in_force(&mut tried, &after);
        let plan = plan(&current, &mut read);
        // A password of a URL is the setting beside it.
        let is_it = |named: &String| *named == key;
        let lists = [&plan.sessions, &plan.restart, &plan.of_init];
        let named = lists.iter().filter(|list| list.iter().any(is_it)).count();
        if key == "log.level" {
            assert!(plan.has_level && current.is_same(&read), "{plan:?}");
            continue;
        }
        assert_eq!(named, 1, "{key} -> {after:?}: {plan:?}");
        let is_taken = plan.sessions.iter().any(is_it);
        assert_eq!(!current.is_same(&read), is_taken, "{key}: {plan:?}");
        // What a restart is needed for is named again by the next one.
        if plan.restart.iter().any(is_it) {
            let again = super::super::plan(&read.clone(), &mut in_force(&mut tried, &after));
            assert_eq!(again.restart, plan.restart);
        }
    }
}

#[test]
fn nothing_is_named_where_nothing_changed() {
    let mut tried = with_files();
    let current = in_force(&mut tried, &["amqp.confirm_timeout=1m".to_owned()]);
    let mut read = in_force(&mut tried, &["amqp.confirm_timeout=60s".to_owned()]);
    plan(&current, &mut read);
    assert!(current.is_same(&read), "another way to write the same");
}
