//! A value as it was written, and what is wrong with it.

/// A value as it was written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Raw {
    /// By a variable or a flag, where all is text.
    Untyped(String),
    /// A text of the file.
    Text(String),
    /// A whole number of the file.
    Integer(i64),
    /// `true` or `false` of the file.
    Flag(bool),
    /// A list of the file.
    List(Vec<Raw>),
    /// Anything else in the file, by name.
    Other(&'static str),
}

/// What is wrong with a value, and how to fix it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) what: String,
    pub(crate) hint: String,
}

impl Wrong {
    pub(crate) fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into() }
    }
}

/// A value for an error: quoted, cut, on one line.
pub(crate) fn quote(text: &str) -> String {
    let mut cut: String = text.chars().take(60).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    format!("{cut:?}")
}
