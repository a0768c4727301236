//! Which rows of a table are published.

use super::values::Values;
use super::{ColumnRef, Columns, Table};

/// Which rows of a table are published: `[tables.only]` and `[tables.except]`. The others are nobody's:
/// neither published nor marked, and no catch-up, reconciliation, `verify`, `prune` or `replay` sees them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RowRule(pub Vec<Condition>);

/// What a row has to hold in a column, or must not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// A field, which stands for the column that it is mapped to, or a column.
    pub name: String,
    /// Its values, as text.
    pub values: Vec<String>,
    /// Rows with one of the values are left out; else all others are. NULL is not a value.
    pub is_except: bool,
}

impl Condition {
    /// The section that it stands in.
    pub(crate) fn section(&self) -> &'static str {
        if self.is_except { "except" } else { "only" }
    }
}

impl Columns {
    /// The field of this name.
    pub(crate) fn field(&self, name: &str) -> Option<&ColumnRef> {
        Some(match name {
            "id" => &self.id,
            "aggregate_type" => &self.aggregate_type,
            "aggregate_id" => &self.aggregate_id,
            "event_type" => &self.event_type,
            "topic" => &self.topic,
            "payload" => &self.payload,
            "headers" => &self.headers,
            "occurred_at" => &self.occurred_at,
            "correlation_id" => &self.correlation_id,
            "content_type" => &self.content_type,
            "traceparent" => &self.traceparent,
            "tracestate" => &self.tracestate,
            _ => return None,
        })
    }
}

impl Table {
    /// Not all of its rows are this relay's.
    pub(crate) fn has_filter(&self) -> bool {
        self.share.is_some() || !self.rule.0.is_empty()
    }

    /// The columns that its rule reads, as JSON.
    pub(crate) fn rule_names(&self) -> String {
        let names = self.rule.0.iter().map(|condition| self.column_of(&condition.name));
        serde_json::json!(names.collect::<Vec<_>>()).to_string()
    }

    /// The column that a name of a rule means.
    pub(crate) fn column_of<'a>(&'a self, name: &'a str) -> &'a str {
        let field = self.columns.field(name).filter(|field| !field.name.is_empty());
        field.map_or(name, |field| &field.name)
    }
}

/// Reads the rule of a table whose settings stand below `key`.
pub(super) fn rule(values: &Values, key: &str) -> RowRule {
    let section = |name: &str, is_except: bool| {
        let lists = values.lists(&format!("{key}.{name}"));
        lists.into_iter().map(move |(name, values)| Condition { name, values, is_except })
    };
    RowRule(section("only", false).chain(section("except", true)).collect())
}
