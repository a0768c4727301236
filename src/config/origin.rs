//! Values as they are found, and where each was written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use super::problem::Problems;
use super::raw::Raw;
use super::settings;

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
