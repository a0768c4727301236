//! Settings of a table that another library or relay made: `tables.N.preset`.
//!
//! A preset is nothing but settings of the table, below all that anybody sets: `pgoutbox config` shows each
//! with the preset as its origin, and any of them can be set otherwise.

use super::origin::{SourceValues, ValueOrigin};
use super::raw::Raw;

/// Settings of a table by its kind.
struct Preset {
    name: &'static str,
    /// What makes such a table, for those who have none yet.
    maker: &'static str,
    /// Keys below the table, with their values as a variable would say them.
    settings: &'static [(&'static str, &'static str)],
}

const PRESETS: [Preset; 7] =
    [PHOENIX_MICRO, STRUCTUS, DEBEZIUM, PG_TRANSACTIONAL_OUTBOX, EVENTUATE, CAP, OPENOUTBOX];

/// The Elixir library. Its relay polls the rows without `relayed_at` and `failed_at`; its consumers make a text
/// of each header, which a table or an array is not, and know repeats by the `message_id`.
const PHOENIX_MICRO: Preset = Preset {
    name: "phoenix_micro",
    maker: "run `mix phoenix_micro.gen.migration` and `mix ecto.migrate`",
    settings: &[
        ("name", "outbox_messages"),
        ("exchange", "phoenix_micro"),
        ("routing_key", "{topic}"),
        ("columns.occurred_at", "inserted_at"),
        ("first_attempt", "1"),
        ("header_values", "text"),
        ("dead_letter_exchange", "phoenix_micro.dlx"),
    ],
};

/// The Kotlin library: an interface, with a table in its documentation. Its consumers know repeats by the id of
/// the event, which is not the row's key.
const STRUCTUS: Preset = Preset {
    name: "structus",
    maker: "create it as structus-kotlin's MessageOutboxRepository says it",
    settings: &[
        ("name", "message_outbox"),
        ("routing_key", "{event_type}"),
        ("columns.message_id", "event_id"),
        ("columns.occurred_at", "created_at"),
        ("columns.relayed_at", "published_at"),
        ("columns.attempt", "retry_count"),
    ],
};

/// The table of Debezium's outbox event router. With Quarkus' extension its rows are deleted in the
/// transaction that inserts them, so that nothing can be marked.
const DEBEZIUM: Preset = Preset {
    name: "debezium",
    maker: "create it as Debezium's page of the outbox event router says it, or let Hibernate do so",
    settings: &[
        ("name", "outboxevent"),
        ("exchange", "outbox.event.{aggregate_type}"),
        ("routing_key", "{aggregate_id}"),
        ("columns.aggregate_type", "aggregatetype"),
        ("columns.aggregate_id", "aggregateid"),
        ("columns.event_type", "type"),
        ("columns.occurred_at", "timestamp"),
        ("audit.mode", "none"),
        ("headers.id", "{id}"),
    ],
};

/// The Node library. Its publisher is written by its users, who hand the whole message on: what its inbox takes.
const PG_TRANSACTIONAL_OUTBOX: Preset = Preset {
    name: "pg_transactional_outbox",
    maker: "run the SQL of its DatabaseSetup.dropAndCreateTable",
    settings: &[
        ("name", "outbox"),
        ("routing_key", "{aggregate_type}.{event_type}"),
        ("columns.event_type", "message_type"),
        ("columns.headers", "metadata"),
        ("columns.occurred_at", "created_at"),
        ("columns.relayed_at", "processed_at"),
        ("columns.attempt", "started_attempts"),
        ("columns.failed_at", "abandoned_at"),
        ("body.id", "{id}"),
        ("body.aggregateType", "{aggregate_type}"),
        ("body.aggregateId", "{aggregate_id}"),
        ("body.messageType", "{event_type}"),
        ("body.segment", "{segment}"),
        ("body.concurrency", "{concurrency}"),
        ("body.payload", "{payload}"),
        ("body.metadata", "{metadata}"),
        ("body.createdAt", "{created_at}"),
    ],
};

/// Eventuate Tram: a fanout exchange for each destination. Its consumers read nothing but the body.
const EVENTUATE: Preset = Preset {
    name: "eventuate",
    maker: "run postgres/2.initialize-database.sql of eventuate-common",
    settings: &[
        ("schema", "eventuate"),
        ("name", "message"),
        ("exchange", "{destination}"),
        ("routing_key", "{headers.PARTITION_ID} | {headers.ID}"),
        ("columns.occurred_at", "creation_time"),
        ("mark.published", "1"),
        ("headers.key", "{headers.PARTITION_ID} | {headers.ID}"),
        ("body.payload", "{payload}"),
        ("body.headers", "{headers:json}"),
    ],
};

/// CAP for .NET: one column holds the headers and the value.
const CAP: Preset = Preset {
    name: "cap",
    maker: "start an application with CAP and UsePostgreSql once",
    settings: &[
        ("schema", "cap"),
        ("name", "published"),
        ("exchange", "cap.default.router"),
        ("routing_key", "{Name}"),
        ("columns.id", "Id"),
        ("columns.payload", "Content"),
        ("columns.occurred_at", "Added"),
        ("columns.attempt", "Retries"),
        ("envelope.payload", "{Content.Value}"),
        ("envelope.headers", "{Content.Headers}"),
        ("header_values", "text"),
        ("mark.StatusName", "Succeeded"),
        ("failed.StatusName", "Failed"),
    ],
};

/// The table of the Open Outbox specification. A payload is bytes of anything.
const OPENOUTBOX: Preset = Preset {
    name: "openoutbox",
    maker: "run schema/postgres/open-outbox.sql of its relay",
    settings: &[
        ("name", "openoutbox_events"),
        ("exchange", "openoutbox"),
        ("routing_key", "{event_type}"),
        ("columns.id", "event_id"),
        ("columns.aggregate_id", "partition_key"),
        ("columns.occurred_at", "created_at"),
        ("columns.attempt", "attempts"),
        ("properties.content_type", "{headers.content-type} | application/octet-stream"),
        ("mark.status", "DELIVERED"),
        ("mark.delivered_at", "now()"),
        ("failed.status", "DEAD"),
    ],
};

/// What makes a table of this preset.
pub(super) fn maker(name: &str) -> Option<&'static str> {
    PRESETS.iter().find(|preset| preset.name == name).map(|preset| preset.maker)
}

/// Adds the settings of the presets that tables are said to be of, where nobody set them. A name that is no
/// preset's is reported with the setting itself.
pub(super) fn apply(collected: &mut SourceValues) {
    let named: Vec<(String, &Preset)> = collected
        .found
        .iter()
        .filter_map(|(key, found)| {
            let table = key.strip_suffix(".preset").filter(|table| table.starts_with("tables."))?;
            let (Raw::Text(name) | Raw::Untyped(name)) = &found.raw else { return None };
            let preset = PRESETS.iter().find(|preset| preset.name == name)?;
            Some((table.to_owned(), preset))
        })
        .collect();
    for (table, preset) in named {
        let keys = || collected.found.keys();
        // One mark takes precedence over another as a whole.
        let own_mark = format!("{table}.mark.");
        let has_mark = keys().any(|key| key.starts_with(&own_mark))
            || collected.found.contains_key(&format!("{table}.columns.relayed_at"));
        let has_mode = collected.found.contains_key("audit.mode");
        for (key, value) in preset.settings {
            let is_left = match *key {
                "audit.mode" => has_mode,
                key => has_mark && key.starts_with("mark."),
            };
            if !is_left {
                let key = format!("{table}.{key}");
                collected.preset(&key, value, ValueOrigin::Preset(preset.name));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::kind::PRESETS as NAMES;
    use crate::config::{settings, value};

    #[test]
    fn each_name_is_that_of_a_preset() {
        assert_eq!(PRESETS.map(|preset| preset.name), NAMES);
    }

    /// A key that nobody knows would say nothing.
    #[test]
    fn each_setting_of_a_preset_is_one() {
        for preset in PRESETS {
            for (key, value) in preset.settings {
                let setting = settings::find(&format!("tables.0.{key}"));
                let setting = setting.unwrap_or_else(|| panic!("{}: {key}", preset.name));
                let read = value::parse(setting.kind, &Raw::Untyped((*value).to_owned()));
                assert!(read.is_ok(), "{}: {key} = {value}", preset.name);
            }
        }
    }
}
