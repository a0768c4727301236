//! What a row holds once its event is delivered.

use super::problem::Problems;
use super::values::Values;
use super::{AuditMode, Table};

/// How a constant says the time of the mark.
const NOW: &str = "now()";

/// What a row holds once its event is delivered: `columns.relayed_at`, or `[tables.mark]`. A row is
/// marked where each of the columns holds its value: a row that somebody marked in part is published
/// once more, rather than not at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MarkColumns(pub Vec<MarkColumn>);

/// A column of the mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkColumn {
    /// Its name; empty where the configuration says there is none (`""`).
    pub name: String,
    /// What it holds then.
    pub value: MarkValue,
}

/// What a column of the mark holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MarkValue {
    /// The time of the mark: timestamptz or timestamp. Any time is a mark.
    Now,
    /// This value, as text: of text, an enum, boolean or a whole number.
    Constant(String),
}

impl MarkColumns {
    /// The time of the mark in one column.
    pub fn time(column: &str) -> Self {
        Self(vec![MarkColumn { name: column.to_owned(), value: MarkValue::Now }])
    }

    /// The names of the columns.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|column| column.name.as_str())
    }

    /// The column that says when a row was marked, where one does.
    pub(crate) fn time_column(&self) -> Option<&str> {
        self.0.iter().find(|it| it.value == MarkValue::Now).map(|it| it.name.as_str())
    }
}

impl Table {
    /// The columns that show that tries have ended, beside `failed_at`, as JSON.
    pub(crate) fn failed_names(&self) -> String {
        let names: Vec<&str> = self.failed.iter().map(|(name, _)| name.as_str()).collect();
        serde_json::json!(names).to_string()
    }

    /// Whether its rows carry their marks.
    pub(crate) fn is_marked_in_rows(&self) -> bool {
        self.audit_mode == AuditMode::Update
    }

    /// Whether something says which of its rows were delivered.
    pub(crate) fn has_marks(&self) -> bool {
        self.audit_mode != AuditMode::None
    }
}

impl AuditMode {
    /// Its name in the settings, and in files of `sql/`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Update => "update",
            Self::Delete => "delete",
            Self::SideTable => "side_table",
            Self::None => "none",
        }
    }

    /// The mode of this name; `update` for any other, which the setting does not take.
    pub(crate) fn named(name: &str) -> Self {
        let all = [Self::Delete, Self::SideTable, Self::None];
        all.into_iter().find(|mode| mode.name() == name).unwrap_or(Self::Update)
    }
}

/// Reads the mark of a table whose settings stand below `key`.
pub(super) fn mark(values: &Values, key: &str, problems: &mut Problems) -> MarkColumns {
    let section = format!("{key}.mark");
    let mut columns = Vec::new();
    for (name, text) in values.texts(&section) {
        let key = format!("{section}.{name}");
        if name.len() > 63 || name.chars().any(char::is_control) {
            let hint = "Postgres has no longer names";
            problems.add(values.origin(&key), &key, "cannot be the name of a column", hint);
        }
        let is_call = text.trim_end().ends_with("()");
        let value = match text.as_str() {
            NOW => MarkValue::Now,
            _ if is_call => {
                let what = format!("is {text:?}, which is not a value that a mark can have");
                problems.add(values.origin(&key), &key, what, "write \"now()\" or a constant");
                continue;
            }
            _ => MarkValue::Constant(text),
        };
        columns.push(MarkColumn { name, value });
    }
    let column = format!("{key}.columns.relayed_at");
    if columns.is_empty() {
        return MarkColumns::time(&values.text(&column).unwrap_or_default());
    }
    if values.is_set(&column) && !values.is_preset(&column) {
        let what = "is set, and so is [tables.mark], which says what a marked row holds";
        problems.add(values.origin(&column), &column, what, "keep one of the two");
    }
    MarkColumns(columns)
}
