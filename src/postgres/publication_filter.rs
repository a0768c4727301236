//! The rule and the share of a table as a row filter of the publication: what it leaves out need not be sent.
//!
//! It lets pass at least what they do, which the relay goes by all the same.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use crate::config::{Condition, Table};
use crate::error::Fault;
use crate::postgres::share;
use crate::postgres::sql;
use crate::postgres::{column, query};

/// What the server says of a filter for one table.
#[derive(Debug, Clone, Default)]
pub(crate) struct PublicationFilter {
    /// The publication can filter its rows.
    pub can_filter: bool,
    /// By what it does.
    pub is: Option<String>,
    /// By what it would, where the table has a rule that can be said so, or a share.
    pub wanted: Option<String>,
    /// The column by which rows are spread, where no filter can say that of a column of its type.
    pub unshared: Option<String>,
}

impl PublicationFilter {
    /// Of a table; nothing of one that is not there.
    ///
    /// # Errors
    /// The connection is lost, or something of the catalog is locked for too long.
    pub(crate) async fn look(
        client: &Client,
        publication: &str,
        table: &Table,
    ) -> Result<Self, Fault> {
        if !table.has_filter() {
            return Ok(Self::default());
        }
        let variables =
            [("publication", publication), ("schema", &table.schema), ("table", &table.name)];
        let rows = query(client, &sql::render(sql::CHECK_ROW_FILTER, &variables)?).await?;
        let Some(row) = rows.first() else { return Ok(Self::default()) };
        let types: String = column(row, "types")?;
        let types: BTreeMap<String, String> = serde_json::from_str(&types).unwrap_or_default();
        let columns: Vec<String> = column(row, "columns")?;
        let wanted = wanted(
            table,
            |name| types.get(name).cloned(),
            |name| columns.iter().any(|column| column == name),
        );
        let unshared = wanted.as_ref().err().cloned();
        Ok(Self {
            can_filter: column(row, "can_filter")?,
            is: column(row, "filter")?,
            wanted: wanted.unwrap_or_default(),
            unshared,
        })
    }

    /// The filter to make the publication with.
    pub(crate) fn into_made(self) -> Option<String> {
        self.wanted.filter(|_| self.can_filter)
    }
}

/// The share of a table and, as far as a row filter may say it, its rule: without types, collations and functions
/// of users, and without casts whose outcome a setting decides. `type_of` says the types that may stand there.
///
/// # Errors
/// The column by which rows are spread, where its type is none of them.
pub(crate) fn wanted(
    table: &Table,
    type_of: impl Fn(&str) -> Option<String>,
    has: impl Fn(&str) -> bool,
) -> Result<Option<String>, String> {
    let share = share::of_publication(table, &type_of, has)?;
    let conditions: Vec<String> = share.into_iter().chain(of_rule(table, type_of)).collect();
    Ok((!conditions.is_empty()).then(|| conditions.join(" AND ")))
}

fn of_rule(table: &Table, type_of: impl Fn(&str) -> Option<String>) -> Option<String> {
    let conditions = table.rule.0.iter().filter_map(|condition| {
        let name = table.column_of(&condition.name);
        compared(&sql::identifier(name), &type_of(name)?, condition)
    });
    let conditions: Vec<String> = conditions.collect();
    (!conditions.is_empty()).then(|| conditions.join(" AND "))
}

fn compared(column: &str, type_name: &str, condition: &Condition) -> Option<String> {
    let values = condition.values.iter();
    let (column, values) = match type_name {
        "text" | "character varying" | "character" | "boolean" => {
            (format!("{column}::text"), values.map(|text| sql::literal(text)).collect::<Vec<_>>())
        }
        "smallint" | "integer" | "bigint" => {
            let numbers: Result<Vec<i64>, _> = values.map(|text| text.parse()).collect();
            // As they are written: a minus of its own would be an operator.
            let numbers = numbers.ok()?.into_iter().map(|number| format!("'{number}'::bigint"));
            (column.to_owned(), numbers.collect())
        }
        _ => return None,
    };
    let is = if condition.is_except { "IS NOT TRUE" } else { "IS TRUE" };
    Some(format!("({column} IN ({})) {is}", values.join(", ")))
}
