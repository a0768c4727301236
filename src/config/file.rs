//! The TOML file.

use std::fs;
use std::path::Path;

use toml_edit::{Document, Item, TableLike, Value};

use super::origin::{SourceValues, ValueOrigin, cannot_read};
use super::problem::Problems;
use super::raw::Raw;
use super::settings::{LISTS, is_section, pattern};

/// Reads a file into `collected`.
pub(crate) fn collect(
    path: &Path,
    is_named: bool,
    collected: &mut SourceValues,
    problems: &mut Problems,
) {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            let hint = match is_named {
                true => "name a readable file with --config or PGOUTBOX_CONFIG",
                false => "make it readable, or name another with --config",
            };
            problems.add("", "", cannot_read(path, &error), hint);
            return;
        }
    };
    let file = File { path, text: &text };
    match Document::parse(text.as_str()) {
        Ok(document) => file.table("", document.as_table(), collected, problems),
        Err(error) => {
            // The whole of toml's error shows the line, and with it perhaps a secret.
            let line = error.span().map_or(1, |span| file.line(span.start));
            let what = format!("is not TOML: {}", error.message().replace('\n', ", "));
            problems.add(
                ValueOrigin::File { path: path.to_owned(), line },
                "",
                what,
                "correct the line; texts stand in quotes, sections in [ ], tables in [[ ]]",
            );
        }
    }
}

struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    fn line(&self, at: usize) -> usize {
        let before = self.text.as_bytes().get(..at).unwrap_or_default();
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }

    fn table(
        &self,
        path: &str,
        table: &dyn TableLike,
        collected: &mut SourceValues,
        problems: &mut Problems,
    ) {
        for (name, item) in table.iter() {
            let key = match path {
                "" => name.to_owned(),
                path => format!("{path}.{name}"),
            };
            let span = table.key(name).and_then(toml_edit::Key::span).or(item.span());
            let origin = ValueOrigin::File {
                path: self.path.to_owned(),
                line: span.map_or(1, |span| self.line(span.start)),
            };
            self.item(&key, item, origin, collected, problems);
        }
    }

    fn item(
        &self,
        key: &str,
        item: &Item,
        origin: ValueOrigin,
        collected: &mut SourceValues,
        problems: &mut Problems,
    ) {
        let is_list = LISTS.contains(&pattern(key).as_str());
        match item {
            Item::ArrayOfTables(tables) if is_list => {
                for (index, table) in tables.iter().enumerate() {
                    self.table(&format!("{key}.{index}"), table, collected, problems);
                }
            }
            Item::Value(Value::Array(array))
                if is_list && array.iter().all(Value::is_inline_table) =>
            {
                let tables = array.iter().filter_map(Value::as_inline_table);
                for (index, table) in tables.enumerate() {
                    self.table(&format!("{key}.{index}"), table, collected, problems);
                }
            }
            _ if is_list => {
                let hint = format!("write [[{key}]] before the keys of each");
                problems.add(origin, key, "is not a list of tables", hint);
            }
            _ => match item.as_table_like() {
                Some(table) if is_section(key) => self.table(key, table, collected, problems),
                _ => collected.add(key, raw(item), origin, problems),
            },
        }
    }
}

fn raw(item: &Item) -> Raw {
    match item {
        Item::Value(value) => raw_value(value),
        other => Raw::Other(other.type_name()),
    }
}

fn raw_value(value: &Value) -> Raw {
    match value {
        Value::String(text) => Raw::Text(text.value().clone()),
        Value::Integer(number) => Raw::Integer(*number.value()),
        Value::Array(items) => Raw::List(items.iter().map(raw_value).collect()),
        Value::Boolean(flag) => Raw::Flag(*flag.value()),
        Value::Float(_) => Raw::Other("a fraction"),
        Value::Datetime(_) => Raw::Other("a date"),
        Value::InlineTable(_) => Raw::Other("a table"),
    }
}
