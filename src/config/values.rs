//! The values that won, each of its setting's type.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::amqp_url::AmqpUrl;
use super::message::Field;
use super::origin::{SourceValues, ValueOrigin};
use super::postgres_url::PostgresUrl;
use super::problem::Problems;
use super::raw::Raw;
use super::settings::{self, Fallback};
use super::value::{self, Value};
use super::{Place, Template, TlsMode};

/// What was set, by key.
pub(crate) struct Values {
    set: BTreeMap<String, (Value, Raw, ValueOrigin)>,
    files: BTreeMap<String, PathBuf>,
    bad: Vec<String>,
}

impl Values {
    /// Reads what was found; what cannot be read is reported, and counts as unset.
    pub(crate) fn read(collected: SourceValues, problems: &mut Problems) -> Self {
        let mut values = Self { set: BTreeMap::new(), files: BTreeMap::new(), bad: collected.bad };
        for (key, found) in collected.found {
            // A key that is not in the table has been reported.
            let Some(setting) = settings::find(&found.key) else {
                continue;
            };
            match value::parse(setting.kind, &found.raw) {
                Ok(value) => {
                    values.files.extend(found.file.map(|file| (key.clone(), file)));
                    values.set.insert(key, (value, found.raw, found.origin));
                }
                Err(wrong) => {
                    problems.add(found.origin, &key, wrong.what, wrong.hint);
                    values.bad.push(key);
                }
            }
        }
        values
    }

    /// Whether a value was given and could not be read: then no more is said about it.
    pub(crate) fn is_bad(&self, key: &str) -> bool {
        self.bad.iter().any(|bad| bad == key)
    }

    pub(crate) fn is_set(&self, key: &str) -> bool {
        self.set.contains_key(key)
    }

    /// Where a value was set.
    pub(crate) fn origin(&self, key: &str) -> ValueOrigin {
        self.set.get(key).map_or(ValueOrigin::Default, |(_, _, origin)| origin.clone())
    }

    /// Where a secret stands.
    pub(crate) fn place(&self, key: &str) -> Place {
        let file = self.files.get(key).cloned();
        let setting = if file.is_some() { format!("{key}_file") } else { key.to_owned() };
        let name = match self.origin(key) {
            ValueOrigin::Default | ValueOrigin::Preset(_) => setting,
            ValueOrigin::File { path, line } => format!("{setting}, {}:{line}", path.display()),
            // The name of a file's variable is not kept.
            ValueOrigin::Env(_) | ValueOrigin::Flag(_) if file.is_some() => setting,
            ValueOrigin::SharedEnv(name) | ValueOrigin::Env(name) | ValueOrigin::Flag(name) => name,
        };
        Place { name, file }
    }

    /// What was written, for showing.
    pub(crate) fn raw(&self, key: &str) -> Option<&Raw> {
        self.set.get(key).map(|(_, raw, _)| raw)
    }

    /// Number of tables under `tables` or `declare.queues`: one more than the highest index.
    pub(crate) fn indices(&self, list: &str) -> Vec<usize> {
        let mut indices: Vec<usize> = self
            .set
            .keys()
            .chain(&self.bad)
            .filter_map(|key| key.strip_prefix(list)?.strip_prefix('.')?.split('.').next())
            .filter_map(|index| index.parse().ok())
            .collect();
        indices.sort_unstable();
        indices.dedup();
        indices
    }

    fn get(&self, key: &str) -> Option<Value> {
        if let Some((value, _, _)) = self.set.get(key) {
            return Some(value.clone());
        }
        let setting = settings::find(key)?;
        match setting.fallback {
            // That every fallback can be read is held by a test.
            Fallback::Value(text) => {
                value::parse(setting.kind, &Raw::Untyped(text.to_owned())).ok()
            }
            Fallback::Unset | Fallback::Derived(_) => None,
        }
    }

    pub(crate) fn text(&self, key: &str) -> Option<String> {
        match self.get(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn number(&self, key: &str) -> usize {
        match self.get(key) {
            Some(Value::Number(number)) => usize::try_from(number).unwrap_or(usize::MAX),
            _ => 0,
        }
    }

    /// A number of bytes; `None` where there is none.
    pub(crate) fn size(&self, key: &str) -> Option<u64> {
        match self.get(key) {
            Some(Value::Number(number)) => Some(number),
            _ => None,
        }
    }

    pub(crate) fn flag(&self, key: &str) -> bool {
        matches!(self.get(key), Some(Value::Flag(true)))
    }

    pub(crate) fn span(&self, key: &str) -> Duration {
        match self.get(key) {
            Some(Value::Span(span)) => span,
            _ => Duration::ZERO,
        }
    }

    pub(crate) fn list(&self, key: &str) -> Vec<String> {
        match self.get(key) {
            Some(Value::List(list)) => list,
            _ => Vec::new(),
        }
    }

    pub(crate) fn template(&self, key: &str) -> Template {
        match self.get(key) {
            Some(Value::Template(template)) => template,
            _ => Template(Vec::new()),
        }
    }

    /// A template, where one is set.
    pub(crate) fn optional_template(&self, key: &str) -> Option<Template> {
        match self.get(key) {
            Some(Value::Template(template)) => Some(template),
            _ => None,
        }
    }

    /// The names below a section such as `tables.0.headers`, each with what is set of it, in
    /// the order of the names.
    pub(crate) fn fields(&self, section: &str) -> Vec<(String, Field)> {
        let section = format!("{section}.");
        let below =
            self.set.range(section.clone()..).take_while(|(key, _)| key.starts_with(&section));
        below
            .filter_map(|(key, (value, _, _))| match value {
                Value::Field(field) => {
                    Some((key.strip_prefix(&section)?.to_owned(), field.clone()))
                }
                _ => None,
            })
            .collect()
    }

    /// The names below a section such as `tables.0.mark`, each with its text, in the order of the names.
    pub(crate) fn texts(&self, section: &str) -> Vec<(String, String)> {
        let section = format!("{section}.");
        let below =
            self.set.range(section.clone()..).take_while(|(key, _)| key.starts_with(&section));
        below
            .filter_map(|(key, (value, _, _))| match value {
                Value::Text(text) => Some((key.strip_prefix(&section)?.to_owned(), text.clone())),
                _ => None,
            })
            .collect()
    }

    /// The names below a section such as `tables.0.only`, each with its list, in the order of the names.
    pub(crate) fn lists(&self, section: &str) -> Vec<(String, Vec<String>)> {
        let section = format!("{section}.");
        let below =
            self.set.range(section.clone()..).take_while(|(key, _)| key.starts_with(&section));
        below
            .filter_map(|(key, (value, _, _))| match value {
                Value::List(list) => Some((key.strip_prefix(&section)?.to_owned(), list.clone())),
                _ => None,
            })
            .collect()
    }

    /// Whether it is a table's preset that set it.
    pub(crate) fn is_preset(&self, key: &str) -> bool {
        matches!(self.origin(key), ValueOrigin::Preset(_))
    }

    /// The keys that are set.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.set.keys().map(String::as_str)
    }

    pub(crate) fn ssl_mode(&self, key: &str) -> Option<TlsMode> {
        match self.get(key) {
            Some(Value::SslMode(mode)) => Some(mode),
            _ => None,
        }
    }

    pub(crate) fn postgres_url(&self, key: &str) -> Option<PostgresUrl> {
        match self.get(key) {
            Some(Value::PostgresUrl(url)) => Some(*url),
            _ => None,
        }
    }

    pub(crate) fn amqp_urls(&self, key: &str) -> Vec<AmqpUrl> {
        match self.get(key) {
            Some(Value::AmqpUrl(urls)) => urls,
            _ => Vec::new(),
        }
    }
}
