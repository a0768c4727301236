//! Rows that another mode has marked than their table's of today: `audit.mode` was changed, and their marks
//! were not moved. By today's mode they wait, and a catch-up publishes them again.

use tokio_postgres::Client;
use tracing::warn;

use crate::config::{AuditMode, Config, MarkValue, Table};
use crate::error::{Fault, codes};
use crate::postgres::grants::statements;
use crate::postgres::mark;
use crate::postgres::outbox::Outbox;
use crate::postgres::sql;
use crate::postgres::{column, query};

/// Nobody made such marks where there is nothing to read them from, or no right to.
const UNTOLD: [&str; 3] =
    [codes::INSUFFICIENT_PRIVILEGE, codes::UNDEFINED_TABLE, codes::QUERY_CANCELED];

/// What is to be said of them.
#[derive(Debug)]
pub(crate) struct FormerMarks {
    /// Which table, how many rows, and who marked them.
    pub what: String,
    /// SQL that moves the marks.
    pub hint: String,
}

/// Looks for them in a table; `None` where there are none, or that cannot be seen.
///
/// # Errors
/// The server cannot be asked, or a filter of rows raises.
pub(crate) async fn former_marks(
    client: &Client,
    config: &Config,
    number: usize,
) -> Result<Option<FormerMarks>, Fault> {
    let outbox = Outbox::find(client, config, number).await?;
    let table = &outbox.table;
    if !table.has_marks() {
        return Ok(None);
    }
    // A row may have no such column in another mode.
    let has = |name: &str| outbox.columns.iter().any(|column| column.name == name);
    let in_row = match table.mark.names().all(has) {
        true => mark::in_row(table),
        false => None,
    };
    let variables = [("in_row", in_row.as_deref().unwrap_or("false"))];
    let rows = match query(client, &outbox.render(sql::CHECK_FORMER_MARKS, &variables)?).await {
        Err(fault) if UNTOLD.iter().any(|code| fault.is_code(code)) => return Ok(None),
        rows => rows?,
    };
    let Some(row) = rows.first() else { return Ok(None) };
    let (in_rows, beside): (i64, i64) = (column(row, "in_rows")?, column(row, "beside")?);
    if in_rows + beside == 0 {
        return Ok(None);
    }
    let (title, mode) = (table.title(), table.audit_mode.name());
    let one = |rows: i64| if rows == 1 { "1 row".to_owned() } else { format!("{rows} rows") };
    let from = match (in_rows, beside) {
        (_, 0) => "update",
        (0, _) => "side_table",
        _ => "update or side_table",
    };
    Ok(Some(FormerMarks {
        what: format!(
            "{} of {title} were marked with audit.mode = \"{from}\", which \"{mode}\" does not see: they count as waiting, and a catch-up publishes them again",
            one(in_rows + beside)
        ),
        hint: hint(table, outbox.time.is_some(), in_row.as_deref(), (in_rows, beside))?,
    }))
}

/// Says so in the log, before a catch-up lists them. What cannot be seen is no reason not to make the slot.
pub(super) async fn tell(client: &Client, config: &Config) {
    for number in 0..config.tables.len() {
        let Ok(Some(former)) = former_marks(client, config, number).await else { continue };
        warn!(
            hint = former.hint,
            "rows are published again whose marks were not moved: {}", former.what
        );
    }
}

/// SQL that moves the marks to where the table's mode has them: each goes with the row that it is of.
fn hint(
    table: &Table,
    has_time: bool,
    in_row: Option<&str>,
    (in_rows, beside): (i64, i64),
) -> Result<String, Fault> {
    let title = sql::qualified(&table.schema, &table.name);
    let in_row = in_row.unwrap_or("false");
    let row_time = match has_time {
        true => {
            let time = sql::identifier(&table.columns.occurred_at.name);
            format!("coalesce(outbox.{time}::text, '')")
        }
        false => "NULL::text".to_owned(),
    };
    let at = table.mark.time_column().map(sql::identifier);
    let at = at.map_or_else(|| "now()".to_owned(), |at| format!("outbox.{at}"));
    let set = table.mark.0.iter().map(|column| {
        let name = sql::identifier(&column.name);
        match &column.value {
            MarkValue::Now => format!("{name} = mark.relayed_at"),
            MarkValue::Constant(text) => format!("{name} = {}", sql::literal(text)),
        }
    });
    let set = set.collect::<Vec<_>>().join(", ");
    let variables = [
        ("schema", table.schema.as_str()),
        ("table", &table.name),
        ("title", &title),
        ("id", &table.columns.id.name),
        ("row_time", &row_time),
        ("in_row", in_row),
        ("marked_at", &at),
        ("set_mark", &set),
    ];
    let render = |file| sql::render_some(file, &variables).map(|sql| statements(&sql));
    match table.audit_mode {
        AuditMode::SideTable => render(sql::MARK_MOVE_BESIDE),
        AuditMode::Update => render(sql::MARK_MOVE_INTO_ROWS),
        AuditMode::Delete | AuditMode::None => {
            let rows =
                (in_rows > 0).then(|| Ok(format!("DELETE FROM {title} AS outbox WHERE {in_row};")));
            let marks = (beside > 0).then(|| render(sql::MARK_REMOVE_BESIDE));
            let all: Result<Vec<_>, Fault> = rows.into_iter().chain(marks).collect();
            all.map(|all| all.join(" "))
        }
    }
}
