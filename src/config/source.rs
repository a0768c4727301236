//! Where settings are written: variables, a file, flags.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use super::file;
use super::flags::Flags;
use super::problem::Problems;
use super::settings::{self, SETTINGS};
use super::value::Raw;

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

/// Where a value was written. The order is that of precedence: later wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ValueOrigin {
    /// Nowhere.
    Default,
    /// The preset of this name, which a table is said to be of.
    Preset(&'static str),
    /// A variable that other programs read too. Below the file, which was written for
    /// pgoutbox, while such a variable may be there for its neighbours.
    SharedEnv(String),
    /// A line of the file.
    File { path: PathBuf, line: usize },
    /// A variable of pgoutbox.
    Env(String),
    /// A flag.
    Flag(String),
}

impl ValueOrigin {
    /// Whether both have the same precedence.
    fn is_level_with(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// A path written here: in a file it is relative to the file's directory.
    pub(crate) fn resolve(&self, path: &str) -> PathBuf {
        match self {
            Self::File { path: file, .. } => match file.parent() {
                Some(directory) => directory.join(path),
                None => PathBuf::from(path),
            },
            _ => PathBuf::from(path),
        }
    }
}

impl fmt::Display for ValueOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Preset(name) => write!(f, "preset {name}"),
            Self::SharedEnv(name) | Self::Env(name) | Self::Flag(name) => f.write_str(name),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// A value as found.
#[derive(Debug, Clone)]
pub(crate) struct SourceValue {
    pub(crate) key: String,
    pub(crate) raw: Raw,
    pub(crate) origin: ValueOrigin,
    /// The secret's file, where the value was read from one that can be read again.
    pub(crate) file: Option<PathBuf>,
    is_from_file: bool,
}

/// All values found, the winning one of each key.
#[derive(Default)]
pub(crate) struct SourceValues {
    pub(crate) found: BTreeMap<String, SourceValue>,
    /// Keys of which a value could not be read: nothing else need be said about them.
    pub(crate) bad: Vec<String>,
}

impl SourceValues {
    /// Takes a value in, where its key is known, instead of an earlier one: sources are read in
    /// the order of precedence.
    pub(crate) fn add(
        &mut self,
        key: &str,
        raw: Raw,
        origin: ValueOrigin,
        problems: &mut Problems,
    ) {
        // A key of its own is never the `_file` of another.
        let (key, raw, file, is_from_file) = match (settings::find(key), secret_of(key)) {
            (None, Some(secret)) => match read_secret(&raw, &origin) {
                Ok((text, file)) => (secret, Raw::Untyped(text), file, true),
                Err(what) => {
                    problems.add(&origin, key, what, "name a readable text file");
                    self.bad.push(secret.to_owned());
                    return;
                }
            },
            (None, None) => {
                unknown(key, &origin, problems);
                return;
            }
            (Some(_), _) => (key, raw, None, false),
        };
        if let Some(old) = self.found.get(key)
            && old.origin.is_level_with(&origin)
            && old.is_from_file != is_from_file
        {
            let what = format!("is set twice, here and by {}: as it is and as a file", old.origin);
            problems.add(&origin, key, what, "keep one of the two");
        }
        let found = SourceValue { key: key.to_owned(), raw, origin, file, is_from_file };
        self.found.insert(key.to_owned(), found);
    }
}

impl SourceValues {
    /// Sets what nobody has set, nor tried to.
    pub(super) fn preset(&mut self, key: &str, value: &str, origin: ValueOrigin) {
        if self.found.contains_key(key) || self.bad.iter().any(|bad| bad == key) {
            return;
        }
        let raw = Raw::Untyped(value.to_owned());
        let found =
            SourceValue { key: key.to_owned(), raw, origin, file: None, is_from_file: false };
        self.found.insert(key.to_owned(), found);
    }
}

/// The secret that a key such as `postgres.url_file` names the file of.
fn secret_of(key: &str) -> Option<&str> {
    let secret = key.strip_suffix("_file")?;
    settings::find(secret).filter(|setting| setting.kind.is_secret())?;
    Some(secret)
}

/// A secret, and its file if that can be read again.
fn read_secret(raw: &Raw, origin: &ValueOrigin) -> Result<(String, Option<PathBuf>), String> {
    match raw {
        Raw::Text(path) | Raw::Untyped(path) => {
            let path = origin.resolve(path);
            let text = secret_file(&path)?;
            Ok((text, Some(path).filter(|path| is_regular(path))))
        }
        _ => Err("is not the path of a file".to_owned()),
    }
}

/// A pipe gives what it holds once.
pub(crate) fn is_regular(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file())
}

/// Reads a secret, its closing newline taken off.
pub(crate) fn secret_file(path: &Path) -> Result<String, String> {
    let mut text = fs::read_to_string(path).map_err(|error| cannot_read(path, &error))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    match text.is_empty() {
        true => Err(format!("{} is empty", path.display())),
        false => Ok(text),
    }
}

/// In words, why a file cannot be read.
pub(crate) fn cannot_read(path: &Path, error: &io::Error) -> String {
    // The error's own text for a file that is not UTF-8 is about a stream.
    match error.kind() {
        io::ErrorKind::InvalidData => format!("{} is not text", path.display()),
        _ => format!("{} cannot be read: {error}", path.display()),
    }
}

fn unknown(key: &str, origin: &ValueOrigin, problems: &mut Problems) {
    let as_written = |key: String| match origin {
        ValueOrigin::Env(_) | ValueOrigin::SharedEnv(_) => settings::env_name(&key),
        _ => key,
    };
    let hint = match settings::nearest(key) {
        Some(near) => format!("did you mean {}?", as_written(near)),
        None => "`pgoutbox config --docs` lists them all".to_owned(),
    };
    // A variable's name says the key already.
    let key = match origin {
        ValueOrigin::Env(_) => "",
        _ => key,
    };
    problems.add(origin, key, "there is no such setting", hint);
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
