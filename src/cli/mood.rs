//! How it stands, in a word and a colour: one for `status`, `check` and `verify`.

use std::fmt::Display;

use crate::output;
use crate::slot::Severity;

/// What ends a colour.
const PLAIN: &str = "\x1b[0m";

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    /// Events get through.
    Good,
    /// They do, or nobody wants them to; worth a look.
    Warning,
    /// They do not.
    Bad,
}

impl Mood {
    /// Of the most severe of what was found.
    pub(super) fn of(worst: Option<Severity>) -> Self {
        match worst {
            Some(Severity::Error) => Self::Bad,
            Some(Severity::Warning | Severity::Unknown) => Self::Warning,
            Some(Severity::Good) | None => Self::Good,
        }
    }

    /// Its word, and what a terminal shows it in.
    fn shown(self) -> (&'static str, &'static str) {
        match self {
            Self::Good => ("ok", "\x1b[32m"),
            Self::Warning => ("warning", "\x1b[33m"),
            Self::Bad => ("down", "\x1b[1;31m"),
        }
    }

    /// Its word.
    pub(super) fn word(self) -> &'static str {
        self.shown().0
    }

    /// A text in its colour, where somebody sits before it who wants colours.
    pub(super) fn painted(self, text: impl Display) -> String {
        let wants =
            output::is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
        match wants {
            true => format!("{}{text}{PLAIN}", self.shown().1),
            false => text.to_string(),
        }
    }
}
