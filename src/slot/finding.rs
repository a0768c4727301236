//! One thing that was looked at, and how it stands.

use crate::error::{Fault, Kind};

/// Severity of a [`Finding`]; the most severe comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The relay would lose events or not run.
    Error,
    /// Works, but costs or endangers something.
    Warning,
    /// Cannot be seen from here; the hint says who can.
    Unknown,
    /// As it should be.
    Good,
}

/// What a [`Finding`] may be called, of `check` and of `verify`. Alerts are built on these: one that
/// is renamed goes silent.
pub const NAMES: [&str; 134] = [
    "broker",
    "broker-blocked",
    "broker-connection",
    "broker-login",
    "broker-max-message-size",
    "broker-stream",
    "broker-stream-connection",
    "broker-stream-filter",
    "broker-stream-missing",
    "broker-stream-name",
    "broker-stream-permission",
    "broker-vhost",
    "broker-vhost-permission",
    "broker-connection-limit",
    "catch-up-order",
    "clock-skew",
    "column-generated",
    "column-missing",
    "column-type",
    "encoding",
    "events-failed",
    "exchange",
    "exchange-binding",
    "exchange-missing",
    "exchange-permission",
    "failover-unsupported",
    "grant-attempts",
    "grant-catch-up",
    "grant-catch-up-list",
    "grant-guard",
    "grant-mark",
    "grant-parked",
    "grant-progress",
    "grant-prune",
    "grant-prune-own",
    "grant-reconcile",
    "grant-relayed",
    "grant-republish",
    "grant-type",
    "id-index",
    "id-not-unique",
    "id-nullable",
    "idle-replication-slot-timeout",
    "mandatory",
    "mark-default",
    "mark-fails",
    "mark-former",
    "mark-index",
    "mark-swallowed",
    "mark-untried",
    "max-connections",
    "max-replication-slots",
    "max-slot-wal-keep-size",
    "max-wal-senders",
    "messages",
    "messages-mapping",
    "messages-slot-loss",
    "partition-foreign",
    "partition-key",
    "pattern-empty",
    "pg-hba",
    "pooler",
    "postgres-connection",
    "postgres-database",
    "postgres-disk-full",
    "postgres-login",
    "postgres-minor",
    "postgres-question",
    "postgres-version",
    "publication",
    "publication-after-slot",
    "publication-column-list",
    "publication-missing",
    "publication-not-insert",
    "publication-not-insert-only",
    "publication-other-tables",
    "publication-partition-filter",
    "publication-partition-root",
    "publication-row-filter",
    "publication-rule",
    "publication-without-table",
    "queue",
    "queue-missing",
    "relay-behind",
    "relay-stuck",
    "replica-identity-full",
    "replica-identity-missing",
    "role-connect",
    "role-login",
    "role-missing",
    "role-replication",
    "row-level-security",
    "rows-unmarked",
    "rows-unreadable",
    "rows-waiting",
    "schema",
    "schema-missing",
    "schema-outdated",
    "shards",
    "shards-column",
    "shards-filter",
    "shards-hash",
    "shards-layout",
    "shards-unsupported",
    "slot",
    "slot-database",
    "slot-failover",
    "slot-in-use",
    "slot-lost",
    "slot-missing",
    "slot-plugin",
    "slot-shares-marks",
    "slot-temporary",
    "slot-two-phase",
    "slot-unread",
    "slot-unread-other",
    "slot-unreserved",
    "standby",
    "stream",
    "synchronous-standby-names",
    "table",
    "table-children",
    "table-is-partition",
    "table-kind",
    "table-left-out",
    "table-locked",
    "table-missing",
    "table-referenced",
    "table-temporary",
    "table-unlogged",
    "tls-certificate",
    "tls-client-certificate",
    "wal-level",
    "wal-sender-timeout",
];

/// As long as one of these lasts, rows of a table pass by the slot.
const PASSED_BY: [&str; 3] = ["partition-foreign", "table-children", "table-unlogged"];

/// One thing that was looked at, and how it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at, such as `publication-missing`: the same in every version, for alerts
    /// to be built on.
    pub name: &'static str,
    /// Its severity.
    pub severity: Severity,
    /// What was found.
    pub what: String,
    /// The SQL or command that helps; empty when nothing needs doing.
    pub hint: String,
}

/// One for several of a name: of tables that are alike the first is described in full, and how many more
/// there are. `check` has each.
pub(crate) fn one_of_each(findings: Vec<Finding>) -> Vec<Finding> {
    let mut merged: Vec<(Finding, usize)> = Vec::new();
    for finding in findings {
        match merged.iter_mut().find(|(first, _)| first.name == finding.name) {
            Some((_, more)) => *more += 1,
            None => merged.push((finding, 0)),
        }
    }
    let told = |(mut finding, more): (Finding, usize)| {
        if more > 0 {
            finding.what = format!(
                "{}; {more} more {} like it, see `pgoutbox check`",
                finding.what,
                if more == 1 { "is" } else { "are" }
            );
        }
        finding
    };
    merged.into_iter().map(told).collect()
}

impl Finding {
    fn new(name: &'static str, severity: Severity, what: String, hint: String) -> Self {
        debug_assert!(NAMES.contains(&name), "{name} is not among the names of findings");
        Self { name, severity, what, hint }
    }

    /// As it should be.
    pub(crate) fn good(name: &'static str, what: impl Into<String>) -> Self {
        Self::new(name, Severity::Good, what.into(), String::new())
    }

    /// Not to be seen from here.
    pub(crate) fn unknown(
        name: &'static str,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::new(name, Severity::Unknown, what.into(), hint.into())
    }

    /// Works, but costs or endangers something.
    pub(crate) fn warning(
        name: &'static str,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::new(name, Severity::Warning, what.into(), hint.into())
    }

    /// The relay would lose events or not run.
    pub(crate) fn error(
        name: &'static str,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::new(name, Severity::Error, what.into(), hint.into())
    }

    /// Overrides the severity.
    #[must_use]
    pub(crate) fn with_severity(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }

    /// The errors among the findings as one definite fault; `None` when there are none.
    pub(crate) fn fault(findings: &[Self]) -> Option<Fault> {
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
        let fault = Fault::definite(join(|f| &f.what), join(|f| &f.hint));
        let fault = fault.found(errors.first().map(|first| first.name));
        let is_passed_by = errors.iter().any(|finding| PASSED_BY.contains(&finding.name));
        Some(if is_passed_by { fault.kind(Kind::PassedBy) } else { fault })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_tables_that_are_alike_are_one_line() {
        let of = |name, table: &str| Finding::warning(name, format!("{table} is so"), "SQL");
        let all = vec![
            of("id-index", "a"),
            of("catch-up-order", "a"),
            of("id-index", "b"),
            of("id-index", "c"),
        ];
        let said: Vec<_> = one_of_each(all).into_iter().map(|finding| finding.what).collect();
        assert_eq!(said, ["a is so; 2 more are like it, see `pgoutbox check`", "a is so"]);
    }
}
