//! Where settings are written: variables, a file, flags.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use super::file;
use super::flags::Flags;
use super::origin::{SourceValues, ValueOrigin};
use super::problem::Problems;
use super::raw::Raw;
use super::settings::SETTINGS;

/// All that a configuration is read from.
#[derive(Clone, Default)]
pub struct Sources {
    /// The command line.
    pub flags: Flags,
    /// The environment.
    pub env: BTreeMap<OsString, OsString>,
    /// Files tried in turn where neither `--config` nor `PGOUTBOX_CONFIG` names one.
    pub default_files: Vec<PathBuf>,
}

impl Sources {
    /// What this process was started with.
    pub(crate) fn of_process(flags: Flags) -> Self {
        Self {
            flags,
            env: env::vars_os().collect(),
            default_files: vec![
                PathBuf::from("pgoutbox.toml"),
                PathBuf::from("/etc/pgoutbox/pgoutbox.toml"),
            ],
        }
    }
}

impl Sources {
    /// The configuration file that is read; `None` where there is none.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        let texts = Environment::new(self);
        // A variable that is not UTF-8 is reported by anyone who reads it.
        config_file(self, &texts, &mut Problems::default()).map(|(path, _)| path)
    }
}

// By hand: the environment holds secrets.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").field("flags", &self.flags).finish_non_exhaustive()
    }
}

/// Reads all sources; later ones win.
pub(crate) fn collect(sources: &Sources, problems: &mut Problems) -> SourceValues {
    let mut collected = SourceValues::default();
    let texts = Environment::new(sources);
    for setting in SETTINGS {
        if let Some(name) = setting.shared_env {
            shared(setting.key, name, &texts, &mut collected, problems);
        }
    }
    if let Some((path, is_named)) = config_file(sources, &texts, problems) {
        file::collect(&path, is_named, &mut collected, problems);
    }
    variables(&texts, &mut collected, problems);
    for (flag, key, value) in sources.flags.given() {
        let origin = ValueOrigin::Flag(flag.to_owned());
        collected.add(key, Raw::Untyped(value.to_owned()), origin, problems);
    }
    for pair in &sources.flags.set {
        let origin = ValueOrigin::Flag("--set".to_owned());
        // The pair may hold a secret, so only a key is ever repeated.
        match pair.split_once('=') {
            Some((key, value)) => {
                collected.add(key.trim(), Raw::Untyped(value.to_owned()), origin, problems);
            }
            None => problems.add(origin, "", "has no `=`", "write --set window.messages=500"),
        }
    }
    collected
}

/// A shared variable or its `_FILE`; empty ones count as unset, as compose files make them.
fn shared(
    key: &str,
    name: &str,
    texts: &Environment<'_>,
    collected: &mut SourceValues,
    problems: &mut Problems,
) {
    let file = format!("{name}_FILE");
    let names = [(key.to_owned(), name), (format!("{key}_file"), &file)];
    for (key, name) in names {
        if let Some(text) = texts.filled(name, problems) {
            let origin = ValueOrigin::SharedEnv(name.to_owned());
            collected.add(&key, Raw::Untyped(text.to_owned()), origin, problems);
        }
    }
}

fn variables(texts: &Environment<'_>, collected: &mut SourceValues, problems: &mut Problems) {
    for name in texts.0.keys().filter_map(|name| name.to_str()) {
        let Some(rest) = name.strip_prefix("PGOUTBOX_") else {
            continue;
        };
        if rest.contains("__") {
            if let Some(text) = texts.text(name, problems) {
                let key = rest.to_ascii_lowercase().replace("__", ".");
                let origin = ValueOrigin::Env(name.to_owned());
                collected.add(&key, Raw::Untyped(text.to_owned()), origin, problems);
            }
        } else if let Some(meant) = meant(rest) {
            let what = "looks like a setting, but sections are separated by two underscores";
            problems.add(name, "", what, format!("write {meant}"));
        }
    }
}

/// The variable meant by one whose underscores are too few. Others with the prefix may be
/// anybody's: Kubernetes sets `PGOUTBOX_SERVICE_HOST` for a service of this name.
fn meant(rest: &str) -> Option<String> {
    let flat = |text: &str| text.replace("__", "_");
    let rest = rest.strip_suffix("_FILE").unwrap_or(rest);
    SETTINGS
        .iter()
        .map(|setting| setting.env())
        .find(|env| flat(env).strip_prefix("PGOUTBOX_") == Some(rest))
}

/// The file to read, and whether it was asked for by name.
fn config_file(
    sources: &Sources,
    texts: &Environment<'_>,
    problems: &mut Problems,
) -> Option<(PathBuf, bool)> {
    if let Some(path) = &sources.flags.config {
        return Some((path.clone(), true));
    }
    if let Some(path) = texts.filled("PGOUTBOX_CONFIG", problems) {
        return Some((PathBuf::from(path), true));
    }
    let is_there = |path: &&PathBuf| path.exists();
    let path = sources.default_files.iter().find(is_there)?;
    Some((path.clone(), false))
}

/// The environment as text.
pub(crate) struct Environment<'a>(&'a BTreeMap<OsString, OsString>);

impl<'a> Environment<'a> {
    pub(crate) fn new(sources: &'a Sources) -> Self {
        Self(&sources.env)
    }

    /// A variable's text.
    pub(crate) fn text(&self, name: &str, problems: &mut Problems) -> Option<&'a str> {
        let value = self.0.get(std::ffi::OsStr::new(name))?;
        let text = value.to_str();
        if text.is_none() {
            problems.add(name, "", "is not UTF-8", "set it again");
        }
        text
    }

    /// A variable's text, where it is not empty.
    pub(crate) fn filled(&self, name: &str, problems: &mut Problems) -> Option<&'a str> {
        self.text(name, problems).filter(|text| !text.is_empty())
    }
}
