//! From settings to tables and queues.

use super::effective::EffectiveValues;
use super::mark::mark;
use super::message_map::message_map;
use super::preset::maker;
use super::problem::Problems;
use super::rule::rule;
use super::stream_sink::stream_sink;
use super::values::Values;
use super::{AuditMode, Broker, ColumnRef, Columns, MarkColumns, OnFailure, Queue, Table};

/// `[[tables]]` and `[[messages]]`.
pub(crate) fn sources(
    values: &Values,
    broker: Option<&Broker>,
    problems: &mut Problems,
    shown: &mut EffectiveValues,
) -> [Vec<Table>; 2] {
    let mut sources = [tables(values, problems, shown), messages(values, problems)];
    for source in sources.iter_mut().flatten() {
        source.message.broker_user = broker.map(|broker| broker.user.clone());
    }
    sources
}

/// One of default names where neither a table nor a message is set.
fn tables(values: &Values, problems: &mut Problems, shown: &mut EffectiveValues) -> Vec<Table> {
    let least = usize::from(values.indices("messages").is_empty());
    let count = count(values, "tables", problems).max(least);
    (0..count).map(|index| table(values, &format!("tables.{index}"), problems, shown)).collect()
}

fn messages(values: &Values, problems: &mut Problems) -> Vec<Table> {
    let count = count(values, "messages", problems);
    (0..count).map(|index| message(values, &format!("messages.{index}"), problems)).collect()
}

/// `[[declare.queues]]`.
pub(crate) fn queues(values: &Values, problems: &mut Problems) -> Vec<Queue> {
    let count = count(values, "declare.queues", problems);
    (0..count).map(|index| queue(values, &format!("declare.queues.{index}"), problems)).collect()
}

/// How many of a list there are; a gap is reported, for its place says which table is meant.
fn count(values: &Values, list: &str, problems: &mut Problems) -> usize {
    let indices = values.indices(list);
    let gap = indices.iter().enumerate().find(|(want, is)| want != *is);
    if let Some((want, is)) = gap {
        let what = format!("there is a {list}.{is} but no {list}.{want}");
        problems.add("", list, what, "count from 0 without a gap");
        return want;
    }
    indices.len()
}

fn table(
    values: &Values,
    key: &str,
    problems: &mut Problems,
    shown: &mut EffectiveValues,
) -> Table {
    let text = |name: &str| values.text(&format!("{key}.{name}"));
    let name = text("name").unwrap_or_default();
    let schema = text("schema").unwrap_or_default();
    let schema_key = format!("{key}.schema");
    // Where the schema is set too the name is meant to the letter, dots and all.
    let (schema, name) = match name.split_once('.') {
        Some((schema, name)) if !values.is_set(&schema_key) => {
            let name_key = format!("{key}.name");
            let origin = values.origin(&name_key);
            shown.set(&schema_key, schema, &origin);
            shown.set(&name_key, name, &origin);
            (schema.to_owned(), name.to_owned())
        }
        _ => (schema, name),
    };
    let pattern = pattern(values, key, problems);
    let is_pattern = pattern.is_some();
    let columns = columns(values, &format!("{key}.columns"));
    let source = source(values, key, pattern.unwrap_or((schema, name)), columns, problems);
    let mark = mark(values, key, problems);
    Table { is_pattern, audit_mode: audit_mode(values, key), mark, ..source }
}

/// The patterns of schema and name, where the table is not named.
fn pattern(values: &Values, key: &str, problems: &mut Problems) -> Option<(String, String)> {
    let pattern_key = format!("{key}.pattern");
    let pattern = values.text(&pattern_key)?;
    let named = ["name", "schema"].map(|name| format!("{key}.{name}"));
    for name in named.iter().filter(|name| values.is_set(name) && !values.is_preset(name)) {
        let what = format!("is set beside {pattern_key}");
        problems.add(values.origin(name), name, what, "a table has a name or a pattern");
    }
    let (schema, name) = pattern.split_once('.').unwrap_or(("*", &pattern));
    if schema.is_empty() || name.is_empty() {
        let hint = "such as \"tenant_*.outbox\", or \"public.*_outbox\"";
        problems.add(values.origin(&pattern_key), &pattern_key, "is not schema.table", hint);
    }
    Some((schema.to_owned(), name.to_owned()))
}

fn message(values: &Values, key: &str, problems: &mut Problems) -> Table {
    let prefix_key = format!("{key}.prefix");
    if !values.is_set(&prefix_key) && !values.is_bad(&prefix_key) {
        problems.add("", &prefix_key, "is not set", "name the prefix of the messages");
    }
    let prefix = values.text(&prefix_key).unwrap_or_default();
    source(values, key, (String::new(), prefix), members(), problems)
}

/// What does not depend on whether it is a table; without marks.
fn source(
    values: &Values,
    key: &str,
    (schema, name): (String, String),
    columns: Columns,
    problems: &mut Problems,
) -> Table {
    let text = |name: &str| values.text(&format!("{key}.{name}"));
    Table {
        maker: text("preset").and_then(|name| maker(&name)),
        message: message_map(values, key, (&schema, &name), problems),
        schema,
        name,
        is_pattern: false,
        columns,
        stream: stream_sink(values, key, problems),
        exchange: values.template(&format!("{key}.exchange")),
        routing_key: values.template(&format!("{key}.routing_key")),
        content_type: text("content_type").unwrap_or_default(),
        app_id: text("app_id"),
        on_failure: on_failure(values, key, problems),
        has_text_headers: text("header_values").as_deref() == Some("text"),
        first_attempt: u32::try_from(values.number(&format!("{key}.first_attempt"))).unwrap_or(0),
        failed: values.texts(&format!("{key}.failed")),
        rule: rule(values, key),
        share: None,
        audit_mode: AuditMode::None,
        mark: MarkColumns::default(),
        is_mandatory: values.flag(&format!("{key}.mandatory")),
        is_holding: values.flag(&format!("{key}.hold_aggregate")),
    }
}

fn on_failure(values: &Values, key: &str, problems: &mut Problems) -> OnFailure {
    let exchange_key = format!("{key}.dead_letter_exchange");
    let exchange = values.text(&exchange_key);
    match values.text(&format!("{key}.on_failure")).as_deref() {
        Some("block") => OnFailure::Block,
        Some("dead_letter") => {
            if exchange.is_none() && !values.is_bad(&exchange_key) {
                let hint = "name the exchange that takes what cannot be delivered";
                problems.add("", &exchange_key, "is not set", hint);
            }
            OnFailure::DeadLetter {
                exchange: exchange.unwrap_or_default(),
                routing_key: values.text(&format!("{key}.dead_letter_routing_key")),
            }
        }
        _ => OnFailure::Park,
    }
}

fn audit_mode(values: &Values, key: &str) -> AuditMode {
    let own = values.text(&format!("{key}.audit.mode"));
    AuditMode::named(&own.or_else(|| values.text("audit.mode")).unwrap_or_default())
}

fn columns(values: &Values, key: &str) -> Columns {
    Columns::each(|name| {
        let key = format!("{key}.{name}");
        ColumnRef {
            name: values.text(&key).unwrap_or_default(),
            is_explicit: values.is_set(&key) && !values.is_preset(&key),
        }
    })
}

/// The members of an envelope.
fn members() -> Columns {
    Columns::each(|name| {
        let is_member = !matches!(name, "message_id" | "attempt" | "last_error" | "failed_at");
        let name = if is_member { name } else { "" };
        ColumnRef { name: name.to_owned(), is_explicit: true }
    })
}

fn queue(values: &Values, key: &str, problems: &mut Problems) -> Queue {
    let text = |name: &str| values.text(&format!("{key}.{name}"));
    let name_key = format!("{key}.name");
    if !values.is_set(&name_key) && !values.is_bad(&name_key) {
        problems.add("", &name_key, "is not set", "name the queue");
    }
    Queue {
        name: text("name").unwrap_or_default(),
        queue_type: text("queue_type").unwrap_or_default(),
        count: u32::try_from(values.number(&format!("{key}.count"))).unwrap_or(1),
        bindings: values.list(&format!("{key}.bindings")),
        exchange: text("exchange"),
        arguments: values.texts(&format!("{key}.arguments")),
    }
}
