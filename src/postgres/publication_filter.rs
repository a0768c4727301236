//! The rule and the share of a table as a row filter of the publication: what it leaves out need not be sent.
//!
//! It lets pass at least what they do, which the relay goes by all the same.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use crate::config::{Condition, Table};
use crate::error::{Fault, Kind};
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
    /// What of that is the share.
    share: Option<String>,
    /// The types of the columns that a filter may name.
    types: BTreeMap<String, String>,
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
        let type_of = |name: &str| types.get(name).cloned();
        let has = |name: &str| columns.iter().any(|column| column == name);
        let wanted = wanted(table, type_of, has);
        let share = share::of_publication(table, type_of, has).ok().flatten();
        let unshared = wanted.as_ref().err().cloned();
        Ok(Self {
            can_filter: column(row, "can_filter")?,
            is: column(row, "filter")?,
            wanted: wanted.unwrap_or_default(),
            unshared,
            share,
            types,
        })
    }

    /// It filters by what it would, in whatever words.
    ///
    /// # Errors
    /// The connection is lost, or the server cannot plan a query.
    pub(crate) async fn is_wanted(&self, client: &Client) -> Result<bool, Fault> {
        let (Some(is), Some(wanted)) = (&self.is, &self.wanted) else { return Ok(false) };
        let wanted = self.plan(client, wanted).await?;
        Ok(wanted.is_some() && self.plan(client, is).await? == wanted)
    }

    /// The share is one of the conditions of the filter, where there are both: it lets pass no other rows, whatever
    /// else it asks for.
    ///
    /// # Errors
    /// The connection is lost, or the server cannot plan a query.
    pub(crate) async fn has_share(&self, client: &Client) -> Result<bool, Fault> {
        let (Some(is), Some(share)) = (&self.is, &self.share) else { return Ok(true) };
        let (is, share) = (self.plan(client, is).await?, self.plan(client, share).await?);
        Ok(is.zip(share).is_some_and(|(is, share)| is.contains(&share)))
    }

    /// What the server makes of a filter: the same of two that say the same in other words. No table is opened, and
    /// no right on it needed. `None` where it names what ours never does.
    async fn plan(&self, client: &Client, filter: &str) -> Result<Option<String>, Fault> {
        let columns = self.types.iter().map(|(name, of)| format!("{} {of}", sql::identifier(name)));
        let columns = columns.collect::<Vec<_>>().join(", ");
        let asked = format!(
            "EXPLAIN (VERBOSE, COSTS OFF) SELECT FROM jsonb_to_record('{{}}') AS outbox({columns}) WHERE {filter}"
        );
        let rows = match query(client, &asked).await {
            Err(fault) if matches!(fault.kind, Kind::Sql(code) if code.class() == "42") => {
                return Ok(None);
            }
            rows => rows?,
        };
        let lines = rows.iter().map(|row| column::<String>(row, "QUERY PLAN"));
        let lines = lines.collect::<Result<Vec<_>, Fault>>()?;
        let found = lines.iter().find_map(|line| line.trim().strip_prefix("Filter: "));
        Ok(found.map(str::to_owned))
    }

    /// The filter to make the publication with.
    pub(crate) fn into_made(self) -> Option<String> {
        self.wanted.filter(|_| self.can_filter)
    }
}

/// SQL that gives a table this filter.
pub(crate) fn set(publication: &str, table: &Table, filter: &str) -> String {
    let publication = sql::identifier(publication);
    let place = sql::qualified(&table.schema, &table.name);
    format!(
        "BEGIN; ALTER PUBLICATION {publication} DROP TABLE {place}; ALTER PUBLICATION {publication} ADD TABLE {place} \
         WHERE ({filter}); COMMIT;  -- relay stopped: it makes its slot again, and lists what waits"
    )
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
