//! Rows that cannot be deleted, by what keeps them.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::{Client, Error};

use super::Trouble;
use super::target::Target;
use crate::error::Fault;
use crate::postgres::sql;
use crate::postgres::{classify, column, query};

/// Places of rows that could not be deleted lately: looking for them again is an error in the
/// server's log for each try.
#[derive(Debug, Default)]
pub(crate) struct UndeletablePlaces(BTreeMap<String, BTreeSet<u64>>);

impl UndeletablePlaces {
    pub(super) fn add(&mut self, table: &str, place: u64) {
        self.0.entry(table.to_owned()).or_default().insert(place);
    }

    pub(super) fn within<T>(
        &self,
        table: &str,
        (from, to): (u64, u64),
        as_sql: impl Fn(u64) -> T,
    ) -> Vec<T> {
        let places = self.0.get(table).into_iter().flat_map(|places| places.range(from..to));
        places.map(|place| as_sql(*place)).collect()
    }
}

/// Rows that are named.
const NAMED: usize = 5;

/// What one thing keeps.
#[derive(Default)]
struct Obstacle {
    rows: u64,
    ids: Vec<String>,
    /// There are more: they were not looked for one by one.
    is_part: bool,
    message: String,
    /// Of the constraint: schema, table and its name.
    constraint: Option<(String, String, String)>,
}

/// All of them, by SQLSTATE and constraint.
#[derive(Default)]
pub(super) struct UndeletableRows(BTreeMap<String, Obstacle>);

impl UndeletableRows {
    /// One row more, by its id; `None`: some rows, nobody knows which.
    pub(super) fn add(&mut self, error: &Error, id: Option<String>) {
        let server = error.as_db_error();
        let name = |text: Option<&str>| text.unwrap_or_default().to_owned();
        let constraint = server.and_then(|error| {
            Some((name(error.schema()), name(error.table()), error.constraint()?.to_owned()))
        });
        let code = error.code().map(|code| code.code()).unwrap_or_default();
        let kept = self.0.entry(format!("{code} {constraint:?}")).or_default();
        if kept.message.is_empty() {
            (kept.message, kept.constraint) = (classify(error).what, constraint);
        }
        match id {
            None => kept.is_part = true,
            Some(id) => {
                kept.rows += 1;
                if kept.ids.len() < NAMED {
                    kept.ids.push(id);
                }
            }
        }
    }

    /// In words, with the SQL that helps.
    pub(super) async fn troubles(
        self,
        client: &Client,
        target: &Target,
        what: &str,
    ) -> Result<Vec<Trouble>, Fault> {
        let mut troubles = Vec::new();
        for (key, kept) in self.0 {
            let rows = match (kept.rows, kept.is_part) {
                (0, _) => format!("{what} whose number was not counted"),
                (rows, true) => format!("{rows} or more {what}"),
                (rows, false) => format!("{rows} {what}"),
            };
            let ids = if kept.ids.is_empty() {
                String::new()
            } else {
                let dots = if kept.rows > kept.ids.len() as u64 { ", ..." } else { "" };
                format!(" (id {}{dots})", kept.ids.join(", "))
            };
            let title = target.title();
            let text =
                format!("{rows} of {title}{ids} cannot be deleted, and stay: {}", kept.message);
            let hint = match &kept.constraint {
                Some(constraint) => way_out(client, constraint).await?,
                None => None,
            };
            let general =
                "see what the table's triggers and rules do on DELETE; the other rows are pruned";
            let hint = hint.unwrap_or_else(|| general.to_owned());
            let fault = Fault::definite(text, hint);
            troubles.push(Trouble::new(format!("{title} {what} {key}"), fault));
        }
        Ok(troubles)
    }
}

/// A foreign key lets rows go if its own go with them.
async fn way_out(
    client: &Client,
    (schema, table, constraint): &(String, String, String),
) -> Result<Option<String>, Fault> {
    let variables = [
        ("schema", schema.as_str()),
        ("table", table.as_str()),
        ("constraint", constraint.as_str()),
    ];
    let rows = query(client, &sql::render(sql::PRUNE_CONSTRAINT, &variables)?).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let definition: String = column(row, "definition")?;
    let [schema, table, constraint] = [schema, table, constraint].map(|name| sql::identifier(name));
    // An action that is there already has failed itself.
    if !definition.starts_with("FOREIGN KEY") || definition.contains(" ON DELETE ") {
        return Ok(None);
    }
    let (key, rest) = match definition.find(" DEFERRABLE").or(definition.find(" NOT VALID")) {
        Some(at) => definition.split_at(at),
        None => (definition.as_str(), ""),
    };
    Ok(Some(format!(
        "delete the rows of {schema}.{table} that name them, or let those go with them: ALTER TABLE {schema}.{table} DROP CONSTRAINT {constraint}, ADD CONSTRAINT {constraint} {key} ON DELETE CASCADE{rest};"
    )))
}
