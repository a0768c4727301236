//! One outbox table: whether its rows can be read, and marked at a fair price.

use tokio_postgres::Client;

use super::coverage::set_tables;
use super::{Finding, leaf_filters, pitfalls, privileges};
use crate::config::{AuditMode, Config, Table};
use crate::core::event::pgoutput::Column;
use crate::core::event::relation::{Mapping, TimeKind};
use crate::error::Fault;
use crate::postgres::outbox::{look_up, row_filter};
use crate::postgres::outbox_table::OutboxTable;
use crate::postgres::sql;
use crate::postgres::{ColumnType, column, query};

/// Columns that a relay writes after the insert: as a partition key they would move the row.
const WRITTEN: [&str; 3] = ["attempt", "failed_at", "last_error"];
/// Columns that somebody writes after the insert, by what they are usually called.
const LIKELY_WRITTEN: [&str; 6] =
    ["status", "state", "processed_at", "published", "delivered_at", "completed_at"];

/// Columns of the time, by what they are usually called.
const LIKELY_TIMES: [&str; 8] = [
    "inserted_at",
    "created_at",
    "created",
    "createdat",
    "created_on",
    "occurred_on",
    "event_time",
    "timestamp",
];

struct Shape {
    oid: u32,
    kind: String,
    persistence: String,
    is_identity_full: bool,
    root: Option<String>,
    is_partition: bool,
    partition_key: Option<String>,
    key_columns: Vec<String>,
    mark_indexes: Vec<String>,
}

struct Attribute {
    name: String,
    type_oid: u32,
    type_name: String,
    is_streamed: bool,
    is_listed: bool,
    /// By the audit role.
    is_readable: bool,
}

/// Looks at one table. Without the table itself there is nothing to say here: that it is
/// missing stands with the publication.
pub(super) async fn look(
    client: &Client,
    config: &Config,
    (number, table): (usize, &Table),
    has_generated: Option<bool>,
    is_catching_up: bool,
) -> Result<(Vec<Finding>, Option<OutboxTable>), Fault> {
    let Some(shape) = shape(client, table).await? else { return Ok((Vec::new(), None)) };
    // What it is instead stands with the publication.
    if !matches!(shape.kind.as_str(), "r" | "p") || shape.persistence == "t" {
        return Ok((Vec::new(), None));
    }
    let attributes = attributes(client, config, shape.oid, has_generated).await?;
    let mut findings = columns(config, (number, table), &attributes, has_generated.is_some());
    findings.extend(partition(table, &shape));
    findings.extend(partition_key(table, &shape));
    findings.extend(id_index(client, table, &shape).await?);
    findings.extend(id_values(client, config, table, &shape).await?);
    findings.extend(pitfalls::look(client, table, shape.oid).await?);
    findings.extend(leaf_filters::look(client, config, table, shape.oid).await?);
    findings.extend(marks(table, &shape));
    findings.extend(privileges::look(client, config, table, shape.oid, is_catching_up).await?);
    let named = |name: &str| attributes.iter().find(|attribute| attribute.name == name);
    let Some(id) = named(&table.columns.id.name) else { return Ok((findings, None)) };
    let id_base = ColumnType::find(client, shape.oid, &id.name).await?;
    let outbox = id_base.map(|id_base| OutboxTable {
        relation: shape.oid,
        id_type: id.type_name.clone(),
        id_base,
        partition_time: named(&table.columns.occurred_at.name)
            .filter(|time| shape.key_columns.contains(&time.name) && time.is_readable)
            .and_then(|time| TimeKind::of(time.type_oid)),
        has_mark: table.mark.names().all(|name| named(name).is_some()),
        columns: shown(&attributes, |attribute| attribute.is_streamed).into(),
        heir: None,
    });
    Ok((findings, outbox))
}

/// The columns that a table has today, as the stream shows them; none where it is not there.
pub(crate) async fn columns_of_today(
    client: &Client,
    config: &Config,
    table: &Table,
) -> Result<Vec<Column>, Fault> {
    let Some(row) = look_up(client, table).await? else { return Ok(Vec::new()) };
    let attributes = attributes(client, config, column(&row, "oid")?, None).await?;
    Ok(shown(&attributes, |attribute| attribute.is_streamed))
}

/// The same of a table that is not an outbox any more, and of which there is nothing to find.
pub(super) async fn outbox(
    client: &Client,
    config: &Config,
    table: &Table,
    oid: u32,
) -> Result<Option<OutboxTable>, Fault> {
    let attributes = attributes(client, config, oid, None).await?;
    let named = |name: &str| attributes.iter().find(|attribute| attribute.name == name);
    let Some(id) = named(&table.columns.id.name) else { return Ok(None) };
    Ok(ColumnType::find(client, oid, &id.name).await?.map(|id_base| OutboxTable {
        relation: oid,
        id_type: id.type_name.clone(),
        id_base,
        partition_time: None,
        has_mark: table.mark.names().all(|name| named(name).is_some()),
        columns: shown(&attributes, |attribute| attribute.is_streamed).into(),
        heir: None,
    }))
}

fn shown(attributes: &[Attribute], is_shown: fn(&Attribute) -> bool) -> Vec<Column> {
    let shown = attributes.iter().filter(|attribute| is_shown(attribute));
    shown.map(|a| Column { name: a.name.clone(), type_oid: a.type_oid }).collect()
}

async fn shape(client: &Client, table: &Table) -> Result<Option<Shape>, Fault> {
    let Some(row) = look_up(client, table).await? else { return Ok(None) };
    let row = &row;
    Ok(Some(Shape {
        oid: column(row, "oid")?,
        kind: column(row, "kind")?,
        persistence: column(row, "persistence")?,
        is_identity_full: column(row, "is_identity_full")?,
        root: column(row, "root")?,
        is_partition: column(row, "is_partition")?,
        partition_key: column(row, "partition_key")?,
        key_columns: column(row, "key_columns")?,
        mark_indexes: column(row, "mark_indexes")?,
    }))
}

async fn attributes(
    client: &Client,
    config: &Config,
    oid: u32,
    has_generated: Option<bool>,
) -> Result<Vec<Attribute>, Fault> {
    let relation = oid.to_string();
    let variables =
        [("relation", relation.as_str()), ("publication", &config.postgres.publication)];
    let rows = query(client, &sql::render(sql::CHECK_COLUMNS, &variables)?).await?;
    rows.iter()
        .map(|row| {
            let generated: String = column(row, "generated")?;
            let is_listed: Option<bool> = column(row, "is_listed")?;
            Ok(Attribute {
                name: column(row, "name")?,
                type_oid: column(row, "type_oid")?,
                type_name: column(row, "type_name")?,
                is_streamed: is_listed.unwrap_or(
                    generated.is_empty() || (generated == "s" && has_generated == Some(true)),
                ),
                is_listed: is_listed.unwrap_or(true),
                is_readable: column(row, "is_readable")?,
            })
        })
        .collect()
}

fn columns(
    config: &Config,
    (number, table): (usize, &Table),
    attributes: &[Attribute],
    can_send: bool,
) -> Vec<Finding> {
    let needs_mark = table.is_marked_in_rows();
    let all = Mapping::compile(number, table, &shown(attributes, |_| true), needs_mark);
    // What the table lacks is one thing; what it has and the stream does not show, another.
    let mut findings = mapping_errors(all.as_ref().err(), table, attributes);
    let streamed = shown(attributes, |attribute| attribute.is_streamed);
    let streamed = Mapping::compile(number, table, &streamed, false);
    match (&all, &streamed) {
        (Ok(_), Err(errors)) => {
            findings.extend(errors.iter().map(|error| hidden(config, attributes, can_send, error)))
        }
        (Ok(all), Ok(streamed)) if set_fields(all) != set_fields(streamed) => {
            findings.push(hidden(
                config,
                attributes,
                can_send,
                &format!("columns of {} that have a meaning do not come", table.title()),
            ));
        }
        _ => {}
    }
    if findings.is_empty() {
        findings.push(Finding::good(
            "table",
            format!("{} has the columns it needs, of types that can be read", table.title()),
        ));
    }
    findings
}

fn set_fields(mapping: &Mapping) -> [bool; 9] {
    [
        mapping.aggregate_type.is_some(),
        mapping.aggregate_id.is_some(),
        mapping.event_type.is_some(),
        mapping.headers.is_some(),
        mapping.occurred_at.is_some(),
        mapping.correlation_id.is_some(),
        mapping.content_type.is_some(),
        mapping.traceparent.is_some(),
        mapping.tracestate.is_some(),
    ]
}

fn mapping_errors(
    errors: Option<&Vec<String>>,
    table: &Table,
    attributes: &[Attribute],
) -> Vec<Finding> {
    let names: Vec<_> = attributes.iter().map(|a| a.name.as_str()).collect();
    let time = table.mark.time_column().filter(|name| !name.is_empty());
    let hint = |error: &str| {
        if let Some(mark) = time.filter(|_| error.ends_with("for the mark")) {
            format!(
                "ALTER TABLE {} ADD COLUMN {} timestamptz;  -- or choose another audit.mode",
                sql::qualified(&table.schema, &table.name),
                sql::identifier(mark),
            )
        } else {
            let place = match error.contains(" the mark") {
                true => "[tables.mark]",
                false => "[tables.columns]",
            };
            format!("name the right columns under {place}; the table has {}", names.join(", "))
        }
    };
    let finding = |error: &String| match error.contains("cannot be read as") {
        true => Finding::error("column-type", error, hint(error)),
        false => Finding::error("column-missing", error, hint(error)),
    };
    errors.into_iter().flatten().map(finding).collect()
}

fn hidden(config: &Config, attributes: &[Attribute], can_send: bool, error: &str) -> Finding {
    let publication = sql::identifier(&config.postgres.publication);
    if attributes.iter().any(|attribute| !attribute.is_listed) {
        return Finding::error(
            "publication-column-list",
            format!("{error} in the stream: the publication has a column list"),
            format!(
                "{}  -- relay stopped; or say in the configuration that there is no such field: headers = \"\"",
                set_tables(config)
            ),
        );
    }
    let what = format!("{error} in the stream: generated columns are not sent");
    let map = "map ordinary columns under [tables.columns]";
    let hint = match can_send {
        true => format!(
            "ALTER PUBLICATION {publication} SET (publish_generated_columns = stored);  -- relay \
             stopped; or {map}"
        ),
        false => format!("{map}: only Postgres 18 and newer can send generated ones"),
    };
    Finding::error("column-generated", what, hint)
}

fn partition(table: &Table, shape: &Shape) -> Option<Finding> {
    let root = shape.root.as_ref().filter(|_| shape.is_partition)?;
    Some(Finding::warning(
        "table-is-partition",
        format!("{} is a partition of {root}", table.title()),
        "name the partitioned table in the configuration, unless this one partition is all you mean",
    ))
}

fn partition_key(table: &Table, shape: &Shape) -> Option<Finding> {
    let key = shape.partition_key.as_ref()?;
    let has = |name: &str| shape.key_columns.iter().any(|column| column == name);
    let what = |column: &str| {
        format!(
            "{} is partitioned by {key}: writing {column} moves the row to another partition, \
             and a moved row is published again",
            table.title()
        )
    };
    let hint = "partition by a column that never changes, such as occurred_at: \
                make a new table, since a partition key cannot be altered";
    let written = WRITTEN.into_iter().find(|name| has(name));
    let mut marks = table.mark.names().filter(|_| table.is_marked_in_rows());
    if let Some(mark) = marks.find(|mark| has(mark)) {
        return Some(Finding::error("partition-key", what(mark), hint));
    }
    if let Some(column) = written {
        return Some(Finding::error("partition-key", what(column), hint));
    }
    let likely = LIKELY_WRITTEN.into_iter().find(|name| has(name))?;
    Some(Finding::warning("partition-key", what(likely), hint))
}

/// That what no queue takes is lost, where somebody wants it so.
pub(super) fn mandatory(table: &Table) -> Option<Finding> {
    let what = || {
        format!(
            "an event of {} that no queue takes counts as delivered, and is lost: mandatory is false",
            table.title()
        )
    };
    let hint = "meant for exchanges of plugins, such as x-delayed-message, that answer \"unroutable\" for what they \
                deliver; else set mandatory = true for this table";
    (!table.is_mandatory).then(|| Finding::warning("mandatory", what(), hint))
}

/// What a catch-up goes by, where the server does not keep when a transaction was committed.
pub(super) fn order(table: &Table, outbox: &OutboxTable) -> Option<Finding> {
    let mapped = table.columns.occurred_at.name.as_str();
    let is_time = |column: &&Column| TimeKind::of(column.type_oid).is_some();
    let mut times = outbox.columns.iter().filter(is_time);
    if !table.has_marks() || times.clone().any(|column| column.name == mapped) {
        return None;
    }
    let what = format!(
        "no column of {} says when an event happened: a catch-up publishes its rows in the order of \
         their ids, where these are numbers, else in that in which their transactions began; and a row that \
         was updated is told from another with its id by its content alone",
        table.title()
    );
    let likely = times.find(|column| LIKELY_TIMES.contains(&column.name.as_str()));
    let hint = match likely {
        Some(column) => {
            format!("map it under [tables.columns]: occurred_at = {:?}", column.name)
        }
        None => {
            let column = sql::identifier(if mapped.is_empty() { "occurred_at" } else { mapped });
            format!(
                "ALTER TABLE {} ADD COLUMN {column} timestamptz, ALTER COLUMN {column} SET DEFAULT \
                 clock_timestamp();  -- or have the server keep it: track_commit_timestamp = on",
                sql::qualified(&table.schema, &table.name)
            )
        }
    };
    Some(Finding::warning("catch-up-order", what, hint))
}

/// Marks find their rows by the id.
async fn id_index(client: &Client, table: &Table, shape: &Shape) -> Result<Option<Finding>, Fault> {
    let looks_up = matches!(table.audit_mode, AuditMode::Update | AuditMode::Delete);
    if !looks_up {
        return Ok(None);
    }
    let (id, relation) = (&table.columns.id.name, shape.oid.to_string());
    let variables = [("relation", relation.as_str()), ("id", id)];
    let rows = query(client, &sql::render(sql::CHECK_ID_INDEX, &variables)?).await?;
    let has_index = rows.first().map(|row| column(row, "has_id_index")).transpose()?;
    if has_index.unwrap_or(true) {
        return Ok(None);
    }
    let place = format!("{} ({})", sql::qualified(&table.schema, &table.name), sql::identifier(id));
    // Of a partitioned table it could not be unique by the id alone, nor be made concurrently.
    let hint = match shape.kind.as_str() {
        "p" => format!("CREATE INDEX ON {place};  -- locks the table against writes meanwhile"),
        _ => format!("CREATE UNIQUE INDEX CONCURRENTLY ON {place};"),
    };
    let what =
        format!("no index of {} begins with {id}: every mark reads all of it", table.title());
    Ok(Some(Finding::warning("id-index", what, hint)))
}

/// The id is the message's, and what marks find rows by.
async fn id_values(
    client: &Client,
    config: &Config,
    table: &Table,
    shape: &Shape,
) -> Result<Vec<Finding>, Fault> {
    let (id, relation) = (&table.columns.id.name, shape.oid.to_string());
    let variables = [("relation", relation.as_str()), ("id", id.as_str())];
    let rows = query(client, &sql::render(sql::CHECK_ID, &variables)?).await?;
    let Some(row) = rows.first() else { return Ok(Vec::new()) };
    let place = sql::qualified(&table.schema, &table.name);
    let quoted = sql::identifier(id);
    let mut findings = Vec::new();
    if column(row, "is_nullable")? {
        findings.push(Finding::warning(
            "id-nullable",
            format!(
                "{id} of {} may be NULL: such an event cannot be delivered, and is parked",
                table.title()
            ),
            format!("ALTER TABLE {place} ALTER COLUMN {quoted} SET NOT NULL;"),
        ));
    }
    if !column::<bool>(row, "is_unique")? {
        let hint = match shape.kind.as_str() {
            "p" => {
                let key = shape.key_columns.iter().filter(|column| *column != id);
                let columns =
                    std::iter::once(quoted).chain(key.map(|column| sql::identifier(column)));
                let columns = columns.collect::<Vec<_>>().join(", ");
                format!(
                    "CREATE UNIQUE INDEX ON {place} ({columns});  -- locks the table against writes meanwhile"
                )
            }
            _ => format!("CREATE UNIQUE INDEX CONCURRENTLY ON {place} ({quoted});"),
        };
        // A mark looks at no filter.
        let is_shared = table.audit_mode == AuditMode::Update
            && row_filter(client, config, table, shape.oid).await? != "true";
        let share = match is_shared {
            true => {
                "; where one of them is of another relay's share, it is marked and never published"
            }
            false => "",
        };
        findings.push(Finding::warning(
            "id-not-unique",
            format!(
                "nothing keeps two rows of {} from having one {id}: both are published, under one message_id, and \
                 the mark of one is a mark of both{share}",
                table.title()
            ),
            hint,
        ));
    }
    Ok(findings)
}

fn marks(table: &Table, shape: &Shape) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !table.is_marked_in_rows() {
        return findings;
    }
    for index in &shape.mark_indexes {
        findings.push(Finding::warning(
            "mark-index",
            format!(
                "index {index} covers {}: no mark can be a HOT update, each writes to every index",
                table.mark.names().collect::<Vec<_>>().join(" or ")
            ),
            format!("DROP INDEX CONCURRENTLY {index};  -- if no query of yours needs it"),
        ));
    }
    if shape.is_identity_full {
        findings.push(Finding::warning(
            "replica-identity-full",
            format!(
                "{} has REPLICA IDENTITY FULL: every mark writes the old row to the WAL as well",
                table.title()
            ),
            format!(
                "ALTER TABLE {} REPLICA IDENTITY DEFAULT;",
                sql::qualified(&table.schema, &table.name)
            ),
        ));
    }
    findings
}
