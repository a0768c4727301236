//! By what content a row is known that has no time of its own.

use tokio_postgres::Client;

use super::{column, query, sql};
use crate::config::{Columns, Table};
use crate::error::Fault;

/// The columns by whose content a row is known that has no time of its own, as `pgoutbox.is_record_of`
/// wants them named: one that is not there, or that may not be read, as the id.
#[derive(Debug, Clone)]
pub(crate) struct Content([(&'static str, String); 4]);

impl Content {
    /// Looks them up.
    pub(crate) async fn find(client: &Client, relation: u32, table: &Table) -> Result<Self, Fault> {
        let relation = relation.to_string();
        let variables = [("relation", relation.as_str()), ("publication", "")];
        let rows = query(client, &sql::render(sql::CHECK_COLUMNS, &variables)?).await?;
        let mut readable: Vec<String> = Vec::new();
        for row in &rows {
            if column(row, "is_readable")? && column(row, "has_file")? {
                readable.push(column(row, "name")?);
            }
        }
        let Columns { id, payload, topic, aggregate_type, aggregate_id, .. } = &table.columns;
        let fields = [
            ("payload", payload),
            ("topic", topic),
            ("of_type", aggregate_type),
            ("of_id", aggregate_id),
        ];
        Ok(Self(fields.map(|(variable, field)| {
            let field = if readable.contains(&field.name) { field } else { id };
            (variable, field.name.clone())
        })))
    }

    /// As a file of `sql/` wants them.
    pub(crate) fn variables(&self) -> [(&'static str, &str); 4] {
        self.0.each_ref().map(|(variable, name)| (*variable, name.as_str()))
    }

    /// Their names.
    pub(crate) fn names(&self) -> [&str; 4] {
        self.0.each_ref().map(|(_, name)| name.as_str())
    }
}
