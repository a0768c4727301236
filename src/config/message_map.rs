//! From settings to what a message is made of.

use super::message::{
    CloudEvents, Envelope, Field, MessageMap, OF_SCHEMA, OF_TABLE, Property, Route, title,
};
use super::problem::Problems;
use super::values::Values;
use super::{Piece, Template};

/// Names that no header may have: RabbitMQ routes copies by the first two, and the relay says
/// the place of an event in the others.
const FORBIDDEN_HEADERS: [&str; 5] =
    ["CC", "BCC", "pgoutbox-commit-lsn", "pgoutbox-index", "pgoutbox-replayed"];
/// Attributes that CloudEvents has already.
const ATTRIBUTES: [&str; 10] = [
    "id",
    "source",
    "specversion",
    "type",
    "time",
    "subject",
    "datacontenttype",
    "dataschema",
    "data",
    "data_base64",
];
/// AMQP's limit for a name.
const NAME_BYTES: usize = 255;

/// Reads the message's part of a table whose settings stand below `key`.
pub(crate) fn message_map(
    values: &Values,
    key: &str,
    table: (&str, &str),
    problems: &mut Problems,
) -> MessageMap {
    let properties = Property::ALL.iter().filter_map(|property| {
        let key = format!("{key}.properties.{}", property.name());
        Some((*property, values.optional_template(&key)?))
    });
    let envelope = |name: &str| values.optional_template(&format!("{key}.envelope.{name}"));
    MessageMap {
        envelope: Envelope { payload: envelope("payload"), headers: envelope("headers") },
        properties: properties.collect(),
        headers: headers(values, &format!("{key}.headers"), problems),
        body: body(values, &format!("{key}.body"), problems),
        events: events(values, &format!("{key}.events")),
        cloudevents: cloudevents(values, &format!("{key}.cloudevents"), table, problems),
        broker_user: None,
    }
}

fn headers(values: &Values, section: &str, problems: &mut Problems) -> Vec<(String, Field)> {
    let headers = values.fields(section);
    for (name, _) in &headers {
        let key = format!("{section}.{name}");
        if FORBIDDEN_HEADERS.contains(&name.as_str()) {
            let what = "is a header that the broker or pgoutbox itself has a use for";
            problems.add(values.origin(&key), &key, what, "choose another name");
        } else if name.len() > NAME_BYTES || name.chars().any(char::is_control) {
            let hint = format!("give a name of at most {NAME_BYTES} bytes");
            problems.add(values.origin(&key), &key, "cannot be the name of a header", hint);
        }
    }
    headers
}

fn body(values: &Values, section: &str, problems: &mut Problems) -> Vec<(String, Field)> {
    let members = values.fields(section);
    for (name, _) in &members {
        let key = format!("{section}.{name}");
        let inner = format!("{name}.");
        if name.split('.').any(str::is_empty) {
            problems.add(values.origin(&key), &key, "has an empty name in it", "name each level");
        } else if let Some((other, _)) = members.iter().find(|(it, _)| it.starts_with(&inner)) {
            let what = format!("is a value, and an object with {other} in it");
            problems.add(values.origin(&key), &key, what, "take one of the two out");
        }
    }
    members
}

fn events(values: &Values, section: &str) -> Vec<Route> {
    let section = format!("{section}.");
    let mut types: Vec<&str> = values
        .keys()
        .filter_map(|key| key.strip_prefix(&section)?.rsplit_once('.'))
        .map(|(event_type, _)| event_type)
        .collect();
    types.sort_unstable();
    types.dedup();
    let route = |event_type: &str| Route {
        exchange: values.optional_template(&format!("{section}{event_type}.exchange")),
        routing_key: values.optional_template(&format!("{section}{event_type}.routing_key")),
        event_type: event_type.to_owned(),
    };
    types.into_iter().map(route).collect()
}

fn cloudevents(
    values: &Values,
    section: &str,
    (schema, name): (&str, &str),
    problems: &mut Problems,
) -> Option<CloudEvents> {
    let key = |name: &str| format!("{section}.{name}");
    let mode = values.text(&key("mode")).unwrap_or_default();
    let extensions = values.fields(&key("extensions"));
    for (name, _) in &extensions {
        let key = format!("{section}.extensions.{name}");
        let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if ATTRIBUTES.contains(&name.as_str()) {
            let what = "is an attribute that CloudEvents has already";
            problems.add(values.origin(&key), &key, what, "choose another name");
        } else if !name.bytes().all(is_allowed) || name.len() > 20 {
            let hint = "CloudEvents allows 1 to 20 of a-z and 0-9";
            problems.add(values.origin(&key), &key, "cannot be the name of an attribute", hint);
        }
    }
    if !matches!(mode.as_str(), "binary" | "structured") {
        return None;
    }
    let template = |name: &str| values.optional_template(&key(name));
    let text = |text: &str| Piece::Text(text.to_owned());
    let named = |name: &str| Piece::Column(name.to_owned());
    // Of a pattern, that of each table that is found.
    let of_table = match schema {
        "" => vec![text(&format!("/{}", title(schema, name)))],
        _ => vec![text("/"), named(OF_SCHEMA), text("."), named(OF_TABLE)],
    };
    Some(CloudEvents {
        is_structured: mode == "structured",
        prefix: values.text(&key("prefix")).unwrap_or_default(),
        source: template("source").unwrap_or(Template(vec![of_table])),
        event_type: template("type").unwrap_or(Template(Vec::new())),
        subject: template("subject").unwrap_or(Template(Vec::new())),
        dataschema: template("dataschema"),
        extensions,
    })
}
