//! What the values of settings must look like.

use std::time::Duration;

use ValueKind::{
    AmqpUrl, Argument, Choice, Column, Constant, Count, ExchangeType, Field, File, Flag, HttpUrl,
    List, Listen, LogFilter, Name, PostgresUrl, Secret, Size, SlotName, Span, SslMode, Template,
    Text,
};

/// What a setting's value must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ValueKind {
    /// 1 to so many bytes without control characters.
    Text(usize),
    /// A Postgres name: 1 to 63 bytes.
    Name,
    /// A column's name, or empty for none.
    Column,
    /// What Postgres allows for a slot.
    SlotName,
    /// Any text; never shown.
    Secret,
    /// A number.
    Count { min: u64, max: u64 },
    /// A number of bytes with a unit.
    Size { min: u64, max: u64 },
    /// A duration with a unit.
    Span { min: Duration, max: Duration },
    /// A whole number of seconds, as the protocol counts them.
    Seconds { min: Duration, max: Duration },
    /// One of some words.
    Choice(&'static [&'static str]),
    /// `true` or `false`.
    Flag,
    /// libpq's `sslmode`.
    SslMode,
    /// RabbitMQ's exchange types, and `x-…` of plugins.
    ExchangeType,
    /// A PEM file.
    File,
    /// A template over columns.
    Template,
    /// What a header or a member of the body holds: a template, a number or a flag.
    Field,
    /// What a column of the mark holds: a text, a whole number or a flag.
    Constant,
    /// What an argument of a queue holds: the same, or an empty text.
    Argument,
    /// Directives of tracing's `EnvFilter`.
    LogFilter,
    /// An IP address and a port, or `off`.
    Listen,
    /// Texts of up to 255 bytes; comma-separated outside a file.
    List,
    /// A Postgres URL.
    PostgresUrl,
    /// AMQP URLs, comma-separated or as a list.
    AmqpUrl,
    /// An HTTP URL without login or query, or `off`.
    HttpUrl,
}

impl ValueKind {
    /// Whether the value holds, or may hold, a secret: it can come from a file, and is masked.
    pub(crate) fn is_secret(self) -> bool {
        matches!(self, Secret | PostgresUrl | AmqpUrl)
    }

    /// The bounds in words, for the documentation and for errors.
    pub(crate) fn bounds(self) -> String {
        let words = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
            words.join(", ")
        };
        match self {
            Text(max) => format!("1 to {max} bytes"),
            Name => "1 to 63 bytes".to_owned(),
            Column => "up to 63 bytes; empty for none".to_owned(),
            SlotName => "1 to 63 of `a`–`z`, `0`–`9`, `_`".to_owned(),
            Secret => String::new(),
            Count { min, max } => format!("{min} to {max}"),
            Size { min, max } => format!("{} to {}", size(min), size(max)),
            Span { min, max } => format!("{} to {}", span(min), span(max)),
            ValueKind::Seconds { min, max } => {
                format!("{} to {}, whole seconds", span(min), span(max))
            }
            Choice(choices) => words(choices),
            Flag => words(&FLAGS),
            SslMode => words(&SSL_MODES),
            ExchangeType => format!("{} or `x-…`", words(&EXCHANGE_TYPES)),
            File => "PEM file".to_owned(),
            Template => "template".to_owned(),
            Field => "template, number, `true` or `false`".to_owned(),
            Constant => "text, number, `true` or `false`".to_owned(),
            Argument => "text, which may be empty, number, `true` or `false`".to_owned(),
            LogFilter => "a level, or `target=level` pairs".to_owned(),
            Listen => "`IP:port`, or `off`".to_owned(),
            List => "list; comma-separated outside the file".to_owned(),
            PostgresUrl => "`postgres://…`".to_owned(),
            AmqpUrl => "`amqp://…`, `amqps://…`".to_owned(),
            HttpUrl => "`http://…`, `https://…`, or `off`".to_owned(),
        }
    }
}

/// A flag's words, in a variable.
pub(crate) const FLAGS: [&str; 2] = ["true", "false"];
/// `postgres.sslmode`'s words.
pub(crate) const SSL_MODES: [&str; 4] = ["disable", "require", "verify-ca", "verify-full"];
/// `audit.mode`'s words.
pub(crate) const AUDIT_MODES: [&str; 4] = ["update", "delete", "side_table", "none"];
/// `tables.*.sink`'s words.
pub(crate) const SINKS: [&str; 3] = ["exchange", "stream", "super_stream"];
/// `prune.partition_span`'s words.
pub(crate) const PARTITION_SPANS: [&str; 4] = ["hour", "day", "week", "month"];
/// `guard.policy`'s words.
pub(crate) const GUARD_POLICIES: [&str; 3] = ["alert", "stop", "drop_slot_and_catch_up_later"];
/// `declare.exchange_type`'s words.
pub(crate) const EXCHANGE_TYPES: [&str; 4] = ["topic", "direct", "fanout", "headers"];

/// `tables.N.preset`'s words: the names of all presets.
pub(crate) const PRESETS: [&str; 7] = [
    "phoenix_micro",
    "structus",
    "debezium",
    "pg_transactional_outbox",
    "eventuate",
    "cap",
    "openoutbox",
];

/// A number of bytes as it would be written.
pub(crate) fn size(bytes: u64) -> String {
    [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]
        .iter()
        .find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit))
        .map_or_else(|| format!("{bytes}B"), |(unit, name)| format!("{}{name}", bytes / unit))
}

/// A duration as it would be written.
pub(crate) fn span(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}
