//! Which stream the events of each source go to.
//!
//! A stream drops an event whose id is not above the highest that it has. That says nothing of an event which goes to
//! another stream than before a crash: it was never there, and a later one may be. So while events may be in flight
//! it is written down where they go, and where that is another way than before they go under another name.
//!
//! To other partitions of the same super stream they do not go at all: there is no name under which what is in flight
//! would not come to two consumers, and to the second of them in the middle of what is later.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::readings;
use crate::config::{Config, Table};
use crate::error::Fault;

/// Where events go, source by source. A table that a pattern found goes where the pattern says: the first that
/// matches, so their order counts.
pub(super) fn of(config: &Config) -> Value {
    let is_found = |source: &Table| {
        let found = &config.found;
        found.iter().any(|it| it.schema == source.schema && it.name == source.name)
    };
    let all = config.sources().filter(|source| source.is_pattern || !is_found(source));
    all.map(|source| json!({"of": source.title(), "to": route(source)})).collect()
}

fn route(source: &Table) -> Value {
    let Some(sink) = &source.stream else { return Value::Null };
    let columns = &source.columns;
    // Rows that are passed over have ids like others.
    let passed_over = readings::rule(source);
    match sink.is_super {
        true => json!({
            "super_stream": *sink.name,
            "partitions": sink.partitions.len(),
            "by": [columns.aggregate_id.name, columns.id.name],
            "passed_over": passed_over,
        }),
        false => json!({"stream": *sink.name, "passed_over": passed_over}),
    }
}

/// Whether events may go to other streams than those of before; `None` where none was in flight.
///
/// # Errors
/// They would go to other partitions of a super stream.
pub(super) fn have_changed(before: Option<&str>, now: &Value) -> Result<bool, Fault> {
    let Some(before) = before else { return Ok(false) };
    // What cannot be read is not known: that is another way.
    let before: Value = serde_json::from_str(before).unwrap_or_default();
    let earlier = partitions(&before);
    for (name, count) in partitions(now) {
        if let Some(earlier) = earlier.get(name).filter(|earlier| **earlier != count) {
            return Err(Fault::halt(
                format!(
                    "super stream \"{name}\" is to have {count} partitions, and had {earlier} when this relay ended with events in flight: these would go to other partitions than before"
                ),
                format!(
                    "start once more with partitions = {earlier}, and stop that relay in good order (SIGTERM): it finishes what is in flight"
                ),
            ));
        }
    }
    Ok(before != *now)
}

/// How many partitions each super stream has.
fn partitions(routes: &Value) -> BTreeMap<&str, u64> {
    let all = routes.as_array().into_iter().flatten().filter_map(|it| it.get("to"));
    all.filter_map(|it| Some((it.get("super_stream")?.as_str()?, it.get("partitions")?.as_u64()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders(partitions: u64, by: &str) -> Value {
        let to = json!({"super_stream": "orders", "partitions": partitions, "by": [by, "id"]});
        json!([{"of": "public.a", "to": to}])
    }

    fn each(routes: &[(&str, Value)]) -> Value {
        routes.iter().map(|(of, to)| json!({"of": of, "to": to})).collect()
    }

    #[test]
    fn another_way_is_noticed() {
        let (s, t) = (json!({"stream": "s"}), json!({"stream": "t"}));
        let one = each(&[("public.a", s.clone()), ("public.*", t.clone())]);
        let spread = orders(3, "aggregate_id");
        let others = [
            each(&[("public.a", t.clone()), ("public.*", t.clone())]),
            each(&[("public.a", Value::Null), ("public.*", t.clone())]),
            each(&[("public.*", t.clone()), ("public.a", s.clone())]),
            each(&[("public.a", s.clone())]),
            each(&[("public.a", s.clone()), ("public.*", t), ("message:m", s)]),
            spread.clone(),
            orders(3, "customer"),
        ];
        for it in [&one, &spread] {
            assert!(matches!(have_changed(Some(&it.to_string()), it), Ok(false)));
            assert!(matches!(have_changed(None, it), Ok(false)));
            assert!(matches!(have_changed(Some("?"), it), Ok(true)));
            for other in others.iter().filter(|other| *other != it) {
                assert!(matches!(have_changed(Some(&it.to_string()), other), Ok(true)), "{other}");
            }
        }
    }

    #[test]
    fn other_partitions_are_refused() {
        let before = orders(3, "aggregate_id").to_string();
        let refused = have_changed(Some(&before), &orders(4, "aggregate_id")).unwrap_err();
        assert!(refused.what.contains("is to have 4 partitions, and had 3"), "{refused}");
        assert!(refused.hint.contains("partitions = 3"), "{}", refused.hint);
    }
}
