//! What is wrong with the settings, collected so that all of it is reported at once.

use std::fmt::Write as _;

use crate::error::Fault;

/// Everything found wrong so far.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<Problem>);

/// One wrong setting.
#[derive(Debug, PartialEq, Eq)]
struct Problem {
    /// Where it was set: `pgoutbox.toml:12`, a variable's or a flag's name.
    origin: String,
    /// Key of the setting; empty where there is none.
    key: String,
    /// What is wrong. Never holds a secret.
    what: String,
    /// What to do about it.
    hint: String,
}

impl Problems {
    /// Adds a problem.
    pub(crate) fn add(
        &mut self,
        origin: impl ToString,
        key: impl Into<String>,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let problem = Problem {
            origin: origin.to_string(),
            key: key.into(),
            what: what.into(),
            hint: hint.into(),
        };
        // The stream's URL often is the audit's: no need to say the same twice.
        if !self.0.contains(&problem) {
            self.0.push(problem);
        }
    }

    /// The value, or one fault that lists all problems.
    pub(crate) fn or<T>(self, value: T) -> Result<T, Fault> {
        if self.0.is_empty() {
            return Ok(value);
        }
        let mut text = match self.0.len() {
            1 => "a setting is wrong".to_owned(),
            count => format!("{count} settings are wrong"),
        };
        for problem in &self.0 {
            let parts = [&problem.origin, &problem.key, &problem.what];
            let parts: Vec<&str> = parts.iter().map(|part| part.as_str()).collect();
            let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
            // Writing to a String cannot fail.
            let _ = write!(text, "\n  {}", parts.join(": "));
            if !problem.hint.is_empty() {
                let _ = write!(text, "\n    hint: {}", problem.hint);
            }
        }
        Err(Fault::usage(text, ""))
    }
}
