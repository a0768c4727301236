//! What is known of events that are not parked.

use serde_json::Value;
use tokio_postgres::Client;

use crate::config::{Config, MarkColumn, MarkValue, Table};
use crate::error::Fault;
use crate::postgres::outbox::Outbox;
use crate::postgres::sql;
use crate::postgres::{column, query};
use crate::text::Printable;

/// In words. An event that is named is traced, also where it never failed.
pub(super) async fn told(client: &Client, config: &Config, ids: &[String]) -> String {
    let mut lines = vec!["no parked event fits".to_owned()];
    for id in ids {
        let mut is_found = false;
        for (number, table) in config.tables.iter().enumerate() {
            // Another table's id may be of another type: then it is not there.
            if let Ok(Some(row)) = row(client, config, number, id).await {
                is_found = true;
                lines.push(line(table, id, &row));
            }
        }
        if !is_found {
            lines.push(format!(
                "event {} is in no outbox table: it was delivered and removed (audit.mode, pruning), deleted, or never committed",
                Printable(id)
            ));
        }
    }
    if !config.messages.is_empty() {
        lines.push(
            "an event that was emitted has no row: once it is delivered, it leaves no trace"
                .to_owned(),
        );
    }
    lines.join("\n")
}

fn line(table: &Table, id: &str, row: &Value) -> String {
    let (id, title) = (Printable(id), table.title());
    if !table.is_marked_in_rows() {
        return format!(
            "event {id} of {title} is in the table; with this audit.mode the row does not say whether it is delivered"
        );
    }
    if !table.mark.0.iter().all(|column| holds(column, row)) {
        return format!(
            "event {id} of {title} has no mark: it waits for its turn (pgoutbox status), or for its mark"
        );
    }
    let at = table.mark.time_column().and_then(|column| row.get(column)?.as_str());
    let at = at.map_or(String::new(), |at| format!(" at {}", Printable(at)));
    format!("event {id} of {title} is delivered: marked{at}")
}

/// Whether a column of a row, as JSON says it, holds what a marked row has there.
fn holds(column: &MarkColumn, row: &Value) -> bool {
    match (&column.value, row.get(&column.name)) {
        (_, None | Some(Value::Null)) => false,
        (MarkValue::Now, Some(_)) => true,
        (MarkValue::Constant(text), Some(Value::String(held))) => held.trim_end() == text,
        (MarkValue::Constant(text), Some(held)) => is_written(held, text),
    }
}

/// The row, if it is there.
async fn row(
    client: &Client,
    config: &Config,
    number: usize,
    id: &str,
) -> Result<Option<Value>, Fault> {
    let outbox = Outbox::find(client, config, number).await?;
    let sql = outbox.render(sql::TABLE_ROW, &[("event_id", id)])?;
    let rows = query(client, &sql).await?;
    let content = rows.first().map(|row| column::<String>(row, "content")).transpose()?;
    Ok(content.and_then(|content| serde_json::from_str(&content).ok()))
}

/// Whether JSON writes a value as this text.
fn is_written(value: &Value, text: &str) -> bool {
    let written = value.to_string();
    written == text
}
