//! One thing that was looked at, and how it stands.

use crate::error::Fault;

/// How grave a [`Finding`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// As it should be.
    Good,
    /// Works, but costs or endangers something.
    Warning,
    /// The relay would lose events or not run.
    Error,
}

/// One thing that was looked at, and how it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How grave it is.
    pub severity: Severity,
    /// What was found.
    pub what: String,
    /// The SQL or command that mends it; empty when nothing needs doing.
    pub mend: String,
}

impl Finding {
    /// As it should be.
    pub fn good(what: impl Into<String>) -> Self {
        Self { severity: Severity::Good, what: what.into(), mend: String::new() }
    }

    /// Works, but costs or endangers something.
    pub fn warning(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, what: what.into(), mend: mend.into() }
    }

    /// The relay would lose events or not run.
    pub fn error(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { severity: Severity::Error, what: what.into(), mend: mend.into() }
    }

    /// The errors among the findings as one definite fault; `None` when there are none.
    pub fn fault(findings: &[Self]) -> Option<Fault> {
        let errors: Vec<_> = findings.iter().filter(|f| f.severity == Severity::Error).collect();
        if errors.is_empty() {
            return None;
        }
        let join = |part: fn(&Self) -> &str| {
            let mut lines: Vec<_> = errors
                .iter()
                .map(|finding| part(finding))
                .filter(|part| !part.is_empty())
                .collect();
            lines.dedup();
            lines.join("\n  ")
        };
        Some(Fault::definite(join(|f| &f.what), join(|f| &f.mend)))
    }
}
