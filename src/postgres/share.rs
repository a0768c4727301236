//! The share of a relay as a condition over rows.

use crate::config::{Share, Table};
use crate::core;
use crate::postgres::sql;

/// What both sides hash to see that they agree: letters beyond ASCII, and more than one block.
pub(crate) const PROBE: &str = "whose share is \u{e4}?";

/// The relay's own hash of [`PROBE`], as Postgres says it.
pub(crate) fn probe_hash() -> i64 {
    core::share::hash(PROBE.as_bytes()).cast_signed()
}

/// A row whose aggregate's id has this text, an expression, is of this share.
fn condition(share: Share, text: &str) -> String {
    let Share { number, of } = share;
    format!(
        "(hashtextextended(coalesce({text}, '') COLLATE \"C\", 0) & 9223372036854775807) % {of} = {number}"
    )
}

/// A row of a table is of this relay's share; `has` says which columns there are. `None` where all rows are.
pub(crate) fn of_rows(table: &Table, has: impl Fn(&str) -> bool) -> Option<String> {
    let column = sql::identifier(table.share_column(has));
    table.share.map(|share| condition(share, &format!("{column}::text")))
}

/// The same as a row filter of a publication may say it: without casts that call what a type's owner wrote.
///
/// # Errors
/// Nothing that such a filter may say makes a text of a column of this type.
pub(crate) fn of_publication(
    table: &Table,
    type_of: impl Fn(&str) -> Option<String>,
    has: impl Fn(&str) -> bool,
) -> Result<Option<String>, String> {
    let Some(share) = table.share else { return Ok(None) };
    let name = table.share_column(has);
    let column = sql::identifier(name);
    let type_name = type_of(name);
    // What a cast to text calls too, by its name.
    let text = match type_name.as_deref() {
        Some("text" | "character varying" | "character") => format!("{column}::text"),
        Some("uuid") => format!("textin(uuid_out({column}))"),
        Some("smallint") => format!("textin(int2out({column}))"),
        Some("integer") => format!("textin(int4out({column}))"),
        Some("bigint") => format!("textin(int8out({column}))"),
        Some("numeric") => format!("textin(numeric_out({column}))"),
        _ => return Err(name.to_owned()),
    };
    Ok(Some(condition(share, &text)))
}
