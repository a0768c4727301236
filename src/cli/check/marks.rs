//! Whether a mark can be written: tried on a row, in a transaction that is rolled back. And whether rows have
//! marks that are not seen any more.

use tokio_postgres::Client;

use crate::config::{AuditMode, Config};
use crate::error::{Fault, codes};
use crate::postgres::mark::MarkSql;
use crate::postgres::outbox::Outbox;
use crate::postgres::sql;
use crate::postgres::{column, execute, query};
use crate::slot::{Finding, former_marks};

/// Somebody holds a lock on the row, or it takes too long to find: nothing is known then. A right that
/// is missing is found by itself.
const UNTOLD: [&str; 3] =
    [codes::LOCK_NOT_AVAILABLE, codes::QUERY_CANCELED, codes::INSUFFICIENT_PRIVILEGE];

/// Tries a mark in each table. What else is wrong with a table was found before.
pub(in crate::cli) async fn look(client: &Client, config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for number in 0..config.tables.len() {
        // What cannot be looked up is found by itself.
        if let Ok(Some(former)) = former_marks(client, config, number).await {
            findings.push(Finding::warning("mark-former", former.what, former.hint));
        }
    }
    for (number, table) in config.tables.iter().enumerate() {
        let (file, event) = match table.audit_mode {
            AuditMode::Update => (sql::CHECK_MARK_UPDATE, "u"),
            AuditMode::Delete => (sql::CHECK_MARK_DELETE, "d"),
            // Nobody but pgoutbox writes into pgoutbox.relayed.
            AuditMode::SideTable | AuditMode::None => continue,
        };
        let Ok(outbox) = Outbox::find(client, config, number).await else { continue };
        // What is not a table has no marks, and is found by itself.
        if let Ok(Some(beside)) = beside(client, &outbox, event).await {
            let tried = tried(client, &outbox, file).await;
            findings.extend(finding(&outbox, &beside, tried));
        }
    }
    findings
}

/// What became of a mark.
enum MarkTrial {
    Written,
    Swallowed,
    /// The table has no row.
    NoRow,
}

async fn tried(client: &Client, outbox: &Outbox, file: &str) -> Result<MarkTrial, Fault> {
    execute(client, "BEGIN; SET LOCAL lock_timeout = '1s'; SET LOCAL statement_timeout = '5s'")
        .await?;
    let tried = try_one(client, outbox, file).await;
    execute(client, "ROLLBACK").await?;
    tried
}

async fn try_one(client: &Client, outbox: &Outbox, file: &str) -> Result<MarkTrial, Fault> {
    let rows = query(client, &outbox.render(sql::CHECK_MARK_ROW, &[])?).await?;
    let id: Option<String> = rows.first().map(|row| column(row, "id")).transpose()?;
    let has_row = id.is_some();
    // Without a row it is planned all the same: a rule may stand against it.
    let id = id.unwrap_or_default();
    let rows = query(client, &outbox.render(file, &[("event_id", id.as_str())])?).await?;
    let is_marked = rows.first().map(|row| column::<bool>(row, "is_marked")).transpose()?;
    Ok(match (has_row, is_marked) {
        (false, _) => MarkTrial::NoRow,
        (true, Some(true)) => MarkTrial::Written,
        (true, _) => MarkTrial::Swallowed,
    })
}

/// Triggers and rules that run with each mark; `None` where it is not a table.
async fn beside(
    client: &Client,
    outbox: &Outbox,
    event: &str,
) -> Result<Option<Vec<String>>, Fault> {
    let relation = outbox.relation.to_string();
    let names = MarkSql::of(&outbox.table).names();
    let variables = [("relation", relation.as_str()), ("mark_names", &names), ("event", event)];
    let rows = query(client, &sql::render(sql::CHECK_PITFALLS, &variables)?).await?;
    match rows.first() {
        Some(row) if column(row, "is_table")? => Ok(Some(column(row, "beside_marks")?)),
        _ => Ok(None),
    }
}

fn finding(outbox: &Outbox, beside: &[String], tried: Result<MarkTrial, Fault>) -> Option<Finding> {
    let (title, names) = (outbox.title(), beside.join(", "));
    let hint = drops(outbox, beside);
    match tried {
        Ok(MarkTrial::Written) => None,
        Ok(MarkTrial::NoRow) if beside.is_empty() => None,
        Ok(MarkTrial::NoRow) => Some(Finding::unknown(
            "mark-untried",
            format!("{title} has no row to try a mark on; with each mark runs: {names}"),
            "insert an event, and run `pgoutbox check` again",
        )),
        Ok(MarkTrial::Swallowed) => Some(Finding::error(
            "mark-swallowed",
            format!(
                "a mark in {title} writes nothing, and says so nowhere ({names}): its rows would be published again and again"
            ),
            hint,
        )),
        Err(fault) if UNTOLD.iter().any(|code| fault.is_code(code)) => None,
        Err(fault) => Some(Finding::error(
            "mark-fails",
            format!("a mark in {title} fails: {}", fault.what),
            hint,
        )),
    }
}

/// Only one of them may be to blame, and the table's owner knows which.
fn drops(outbox: &Outbox, beside: &[String]) -> String {
    let table = sql::qualified(&outbox.table.schema, &outbox.table.name);
    let drops = beside.iter().map(|what| format!("DROP {what} ON {table};"));
    let drops = drops.collect::<Vec<_>>().join(" ");
    match drops.is_empty() {
        true => "correct what Postgres' message names, or choose another audit.mode: side_table writes nothing into the table".to_owned(),
        false => format!(
            "{drops}  -- or correct it, so that it lets marks pass; or choose another audit.mode: side_table writes nothing into the table"
        ),
    }
}
