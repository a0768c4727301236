//! The effective configuration with the origin of each value, secrets masked.

use std::fmt::Write as _;

use serde_json::{Map, json};

use super::Config;
use super::effective::EffectiveValues;
use super::kind::ValueKind;
use super::raw::Raw;
use super::settings::{self, Fallback, SETTINGS, Setting};
use super::values::Values;

/// What stands in a secret's place.
const MASK: &str = "***";

/// Every setting's effective value and origin, in the order of the documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsReport(Vec<Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// Key with its indices.
    key: String,
    /// Section and name in it, as the file has them.
    place: (String, String),
    /// `None` where the setting has no value.
    value: Option<Shape>,
    origin: String,
}

/// A value as it is printed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Shape {
    Text(String),
    Number(i64),
    Flag(bool),
    List(Vec<String>),
}

impl SettingsReport {
    pub(crate) fn new(config: &Config, values: &Values, shown: &EffectiveValues) -> Self {
        let mut entries = Vec::new();
        // Settings of one list stand together, table by table.
        let mut rest = SETTINGS;
        while let Some(first) = rest.first() {
            let list = first.key.split_once(".*").map(|(list, _)| list);
            let is_same =
                |setting: &&Setting| setting.key.split_once(".*").map(|(list, _)| list) == list;
            let count = rest.iter().take_while(is_same).count();
            let (group, others) = rest.split_at(count);
            rest = others;
            let repeats = match list {
                Some("tables") => config.tables.len(),
                Some("messages") => config.messages.len(),
                Some(_) => config.declare.queues.len(),
                None => 1,
            };
            for index in 0..repeats {
                let index = format!(".{index}");
                let first = entries.len();
                for setting in group {
                    let key = setting.key.replace(".*", &index);
                    entries.extend(
                        keys(setting, key, values)
                            .into_iter()
                            .map(|key| entry(setting, key, values, shown)),
                    );
                }
                by_section(entries.get_mut(first..).unwrap_or_default());
            }
        }
        Self(entries)
    }

    /// TOML that says the same as all sources together, but for the secrets.
    pub fn toml(&self) -> String {
        let mut text = String::new();
        let mut last = String::new();
        for entry in &self.0 {
            let (section, name) = &entry.place;
            if *section != last {
                let gap = if last.is_empty() { "" } else { "\n" };
                let _ = writeln!(text, "{gap}{}", header(section));
                section.clone_into(&mut last);
            }
            let _ = match &entry.value {
                Some(value) => writeln!(text, "{name} = {}  # {}", value.toml(), entry.origin),
                None => writeln!(text, "# {name} is not set"),
            };
        }
        text
    }

    /// Keys of which another has another value, wherever that is written. Secrets are masked in
    /// both, so not told apart.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let mut keys: Vec<String> = Vec::new();
        for (one, another) in [(self, other), (other, self)] {
            for entry in &one.0 {
                let there = another.0.iter().find(|it| it.key == entry.key);
                let is_other = there.is_none_or(|there| there.value != entry.value);
                if is_other && !keys.contains(&entry.key) {
                    keys.push(entry.key.clone());
                }
            }
        }
        keys
    }

    /// `key = value` as TOML says it; the key alone where it has no value.
    pub(crate) fn line(&self, key: &str) -> String {
        let value = self.0.iter().find(|entry| entry.key == key);
        match value.and_then(|entry| entry.value.as_ref()) {
            Some(value) => format!("{key} = {}", value.toml()),
            None => format!("{key} is not set"),
        }
    }

    /// Takes one value over from another.
    pub(crate) fn take(&mut self, key: &str, other: &Self) {
        let from = other.0.iter().find(|entry| entry.key == key);
        let to = self.0.iter_mut().find(|entry| entry.key == key);
        if let (Some(from), Some(to)) = (from, to) {
            to.clone_from(from);
        }
    }

    /// An object with `value` and `origin` of each key; the value is `null` where none is set.
    pub fn json(&self) -> serde_json::Value {
        let entries = self.0.iter().map(|entry| {
            let value = match &entry.value {
                Some(Shape::Text(text)) => json!(text),
                Some(Shape::Number(number)) => json!(number),
                Some(Shape::Flag(flag)) => json!(flag),
                Some(Shape::List(list)) => json!(list),
                None => json!(null),
            };
            (entry.key.clone(), json!({"value": value, "origin": entry.origin}))
        });
        entries.collect::<Map<_, _>>().into()
    }
}

impl Shape {
    fn toml(&self) -> String {
        let quoted = |text: &str| toml_edit::Value::from(text).to_string();
        match self {
            Self::Text(text) => quoted(text),
            Self::Number(number) => number.to_string(),
            Self::Flag(flag) => flag.to_string(),
            Self::List(list) => {
                let list: Vec<String> = list.iter().map(|text| quoted(text)).collect();
                format!("[{}]", list.join(", "))
            }
        }
    }
}

fn header(section: &str) -> String {
    // A list's own header; its sections hang below the last one opened.
    match section.rsplit_once('.') {
        Some((list, index)) if index.bytes().all(|b| b.is_ascii_digit()) => format!("[[{list}]]"),
        _ => {
            let below = |list: &'static str| {
                let (_, below) = section.strip_prefix(list)?.strip_prefix('.')?.split_once('.')?;
                Some(format!("[{list}.{below}]"))
            };
            ["tables", "messages"]
                .into_iter()
                .find_map(below)
                .unwrap_or_else(|| format!("[{section}]"))
        }
    }
}

/// Has each section in one piece, in the order of their first settings: TOML opens it once.
fn by_section(entries: &mut [Entry]) {
    let mut sections: Vec<String> = Vec::new();
    for entry in &*entries {
        if !sections.contains(&entry.place.0) {
            sections.push(entry.place.0.clone());
        }
    }
    entries.sort_by_key(|entry| sections.iter().position(|section| *section == entry.place.0));
}

/// The keys of a setting: of one with names, those that are set.
fn keys(setting: &Setting, key: String, values: &Values) -> Vec<String> {
    let Some((section, _)) = key.split_once('?') else {
        return vec![key];
    };
    let is_it = |key: &&str| {
        key.starts_with(section) && settings::find(key).is_some_and(|it| it.key == setting.key)
    };
    values.keys().filter(is_it).map(str::to_owned).collect()
}

/// Section and name of a key. A name that the user gave is quoted where TOML asks for it.
fn place(setting: &Setting, key: &str) -> (String, String) {
    let split = |key: &str| {
        let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
        (section.to_owned(), name.to_owned())
    };
    let Some(name) = settings::name(setting, key) else {
        return split(key);
    };
    let quoted = toml_edit::Key::new(name).to_string();
    let (_, rest) = setting.key.split_once('?').unwrap_or_default();
    let before = key.len() - rest.len() - name.len();
    let section = key.get(..before).unwrap_or_default();
    match rest.strip_prefix('.') {
        Some(rest) => (format!("{section}{quoted}"), rest.to_owned()),
        None => (section.trim_end_matches('.').to_owned(), quoted),
    }
}

fn entry(setting: &Setting, key: String, values: &Values, shown: &EffectiveValues) -> Entry {
    let origin = match values.is_set(&key) {
        true => values.origin(&key).to_string(),
        false => "default".to_owned(),
    };
    if let Some((value, origin)) = shown.get(&key) {
        return Entry {
            value: Some(Shape::Text(value.to_owned())),
            origin: origin.to_owned(),
            place: place(setting, &key),
            key,
        };
    }
    let fallback = match setting.fallback {
        Fallback::Value(text) => Some(Raw::Untyped(text.to_owned())),
        Fallback::Unset | Fallback::Derived(_) => None,
    };
    let raw = values.raw(&key).cloned().or(fallback);
    let value = raw.map(|raw| shape(setting.kind, raw));
    Entry { value, place: place(setting, &key), key, origin }
}

fn shape(kind: ValueKind, raw: Raw) -> Shape {
    // URLs come masked by way of `Shown`; should one not, it is all a secret.
    if kind.is_secret() {
        return Shape::Text(MASK.to_owned());
    }
    let text = |raw: &Raw| match raw {
        Raw::Text(text) | Raw::Untyped(text) => text.clone(),
        Raw::Integer(number) => number.to_string(),
        Raw::Flag(flag) => flag.to_string(),
        Raw::List(_) | Raw::Other(_) => String::new(),
    };
    match (kind, raw) {
        (_, Raw::Integer(number)) => Shape::Number(number),
        (_, Raw::Flag(flag)) => Shape::Flag(flag),
        (ValueKind::Flag, raw) => Shape::Flag(text(&raw) == "true"),
        (ValueKind::Count { .. }, raw) => match text(&raw).trim().parse() {
            Ok(number) => Shape::Number(number),
            Err(_) => Shape::Text(text(&raw)),
        },
        (ValueKind::List, Raw::Untyped(list)) => {
            Shape::List(list.split(',').map(|item| item.trim().to_owned()).collect())
        }
        (_, Raw::List(list)) => Shape::List(list.iter().map(text).collect()),
        (_, raw) => Shape::Text(text(&raw)),
    }
}
