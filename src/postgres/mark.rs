//! What a mark in its row is, as files of `sql/` want it.

use crate::config::{MarkValue, Table};
use crate::postgres::sql;

/// The variables about marks that files of `sql/` have. All but the names are expressions over a row by
/// the name of `outbox`: see [`sql`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MarkSql {
    marked: String,
    marked_at: String,
    set_mark: String,
    columns: String,
    names: String,
}

impl MarkSql {
    /// Those of a table. Where its rows carry no marks, none is marked.
    pub(crate) fn of(table: &Table) -> Self {
        let names: Vec<&str> = table.mark.names().collect();
        let columns = names.iter().map(|name| sql::identifier(name)).collect::<Vec<_>>();
        let set = table.mark.0.iter().map(|column| match &column.value {
            MarkValue::Now => format!("{} = now()", sql::identifier(&column.name)),
            MarkValue::Constant(text) => {
                format!("{} = {}", sql::identifier(&column.name), sql::literal(text))
            }
        });
        let time = table.mark.time_column().filter(|_| table.is_marked_in_rows());
        Self {
            marked: marked(table).unwrap_or_else(|| "false".to_owned()),
            marked_at: time.map_or_else(
                || "NULL::timestamptz".to_owned(),
                |column| format!("outbox.{}", sql::identifier(column)),
            ),
            set_mark: set.collect::<Vec<_>>().join(", "),
            columns: columns.join(", "),
            names: serde_json::json!(names).to_string(),
        }
    }

    /// The same, where a row whose mark has no time counts as marked at this time: an expression.
    pub(crate) fn marked_at(self, otherwise: &str) -> Self {
        match self.marked_at.starts_with("outbox.") {
            true => self,
            false => Self { marked_at: otherwise.to_owned(), ..self },
        }
    }

    /// The names of the columns, as JSON.
    pub(crate) fn names(self) -> String {
        self.names
    }

    /// What an UPDATE sets.
    pub(crate) fn set_mark(&self) -> &str {
        &self.set_mark
    }

    /// The variables.
    pub(crate) fn variables(&self) -> [(&'static str, &str); 5] {
        [
            ("marked", &self.marked),
            ("marked_at", &self.marked_at),
            ("set_mark", &self.set_mark),
            ("mark_columns", &self.columns),
            ("mark_names", &self.names),
        ]
    }
}

/// Whether a row is marked in itself; `None` where rows of this mode are not.
fn marked(table: &Table) -> Option<String> {
    if table.is_marked_in_rows() { in_row(table) } else { None }
}

/// Whether a row holds what the mark is in one, whatever mode the table has. Never NULL, whatever the columns
/// hold.
pub(crate) fn in_row(table: &Table) -> Option<String> {
    let holds = table.mark.0.iter().map(|column| {
        let name = sql::identifier(&column.name);
        match &column.value {
            MarkValue::Now => format!("outbox.{name} IS NOT NULL"),
            MarkValue::Constant(text) => {
                format!("outbox.{name} IS NOT DISTINCT FROM {}", sql::literal(text))
            }
        }
    });
    let holds: Vec<_> = holds.collect();
    (!holds.is_empty()).then(|| holds.join(" AND "))
}
