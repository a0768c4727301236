//! The type of a column, under which an index on it can be used.

use tokio_postgres::{Client, Row};

use super::{column, query, sql};
use crate::error::Fault;

/// A type without its modifier; for a domain, the type that it is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ColumnType {
    pub(crate) schema: String,
    pub(crate) name: String,
}

impl ColumnType {
    /// Looks a column up; `None` where the table has none of that name. Operators of a type that an
    /// extension brings are found by the search path of the connection alone: this query adds the type's
    /// schema to it, so each connection asks for itself.
    ///
    /// # Errors
    /// What Postgres or the connection to it says, by [`classify`](super::classify).
    pub(crate) async fn find(
        client: &Client,
        relation: u32,
        column: &str,
    ) -> Result<Option<Self>, Fault> {
        let rows = query(client, &Self::sql(relation, column)?).await?;
        rows.first().map(Self::read).transpose()
    }

    /// The query of [`ColumnType::find`], for who takes the server's error as it is.
    pub(crate) fn sql(relation: u32, column: &str) -> Result<String, Fault> {
        let relation = relation.to_string();
        sql::render(sql::TABLE_ID_TYPE, &[("relation", &relation), ("id", column)])
    }

    /// Its answer.
    pub(crate) fn read(row: &Row) -> Result<Self, Fault> {
        Ok(Self { schema: column(row, "schema")?, name: column(row, "name")? })
    }

    /// As files of `sql/` name the type of the id.
    pub(crate) fn of_id(&self) -> [(&'static str, &str); 2] {
        [("id_schema", &self.schema), ("id_type", &self.name)]
    }

    /// As files of `sql/` name the type of the time.
    pub(crate) fn of_time(&self) -> [(&'static str, &str); 2] {
        [("time_schema", &self.schema), ("time_type", &self.name)]
    }
}
