//! What is known of events that are not parked.

use tokio_postgres::Client;

use crate::config::{AuditMode, Config, Table};
use crate::error::Fault;
use crate::postgres::sql;
use crate::postgres::{column, query};
use crate::text::Shown;

/// In words. An event that is named is traced, also where it never failed.
pub(super) async fn told(client: &Client, config: &Config, ids: &[String]) -> String {
    let mut lines = vec!["no parked event fits".to_owned()];
    for id in ids {
        let mut is_found = false;
        for table in &config.tables {
            // Another table's id may be of another type: then it is not there.
            if let Ok(Some(mark)) = row(client, table, id).await {
                is_found = true;
                lines.push(line(config, table, id, mark.as_deref()));
            }
        }
        if !is_found {
            lines.push(format!(
                "event {} is in no outbox table: it was delivered and removed (audit.mode, pruning), deleted, or never committed",
                Shown(id)
            ));
        }
    }
    lines.join("\n")
}

fn line(config: &Config, table: &Table, id: &str, mark: Option<&str>) -> String {
    let (id, title) = (Shown(id), table.title());
    match (config.audit.mode, mark) {
        (_, Some(at)) => {
            format!("event {id} of {title} is delivered: marked at {}", Shown(at))
        }
        (AuditMode::Update, None) => format!(
            "event {id} of {title} has no mark: it waits for its turn (pgoutbox status), or for its mark"
        ),
        (_, None) => format!(
            "event {id} of {title} is in the table; with this audit.mode the row does not say whether it is delivered"
        ),
    }
}

/// Its mark, if the row is there.
async fn row(client: &Client, table: &Table, id: &str) -> Result<Option<Option<String>>, Fault> {
    let variables = [
        ("schema", table.schema.as_str()),
        ("table", table.name.as_str()),
        ("id", table.columns.id.name.as_str()),
        ("relayed_at", table.columns.relayed_at.name.as_str()),
        ("event_id", id),
    ];
    let rows = query(client, &sql::render(sql::TABLE_ROW, &variables)?).await?;
    rows.first().map(|row| column(row, "relayed_at")).transpose()
}
