//! What each kind of connection is set to, whatever a role, a database or a server has as its
//! default.
//!
//! They are the server's command line where that is taken, so that none of them is missed by the
//! first statement. A pooler may refuse that or drop it; then, and for what only newer servers
//! know, they are set by a statement before anything else.

use std::time::Duration;

use crate::config::{Postgres, Server};
use crate::error::Fault;
use crate::postgres::sql;

/// Which connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The relay's own: marks, progress, parked events.
    Session,
    /// The replication stream.
    Stream,
    /// The guard over the WAL.
    Guard,
    /// Pruning.
    Prune,
    /// Reconciliation.
    Reconcile,
    /// Reads rows to be sent or counted: `replay`, `verify`.
    Replay,
    /// Holds a turn: a transaction that stands still for as long as the turn lasts.
    Turn(&'static str),
    /// Actions of the console.
    Console,
    /// Drops the slot, as the role that reads it.
    Drop,
    /// `status`: a table that is locked is reported, not waited for.
    Status,
    /// Any other command.
    Command,
}

/// A setting and its value.
pub(crate) type RoleSetting = (&'static str, String);

/// The first version that has `transaction_timeout`.
const TRANSACTION_TIMEOUT: u32 = 17;

/// For all alike. A `search_path` is not among them: all names in our SQL are qualified, and the
/// operators of an id's type (citext) may be wherever the role has them.
const ALL: [(&str, &str); 17] = [
    // What managed services set when the disk is full: then above all the relay must go on, since
    // it is what frees the WAL.
    ("default_transaction_read_only", "off"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    // The relay's connections wait for events, for as long as none come.
    ("idle_session_timeout", "0"),
    // How values look as text, on the stream as in what is read from the table.
    ("datestyle", "ISO, MDY"),
    ("timezone", "UTC"),
    ("intervalstyle", APPLIED.1),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
    ("xmlbinary", "base64"),
    ("quote_all_identifiers", "off"),
    // How our SQL is read.
    ("standard_conforming_strings", "on"),
    ("array_nulls", "on"),
    ("transform_null_equals", "off"),
    // A role that is kept from rows sees fewer of them, as its policies say; `off` is an error.
    ("row_security", "on"),
    ("client_min_messages", "warning"),
    ("jit", "off"),
];

/// The server reports this one, and it is not its default: by it is seen whether the command line
/// came through.
pub(crate) const APPLIED: (&str, &str) = ("IntervalStyle", "iso_8601");

impl Role {
    /// How long its statements may take; zero for as long as it takes.
    fn statement_timeout(self) -> Duration {
        match self {
            Self::Session => Duration::from_secs(60),
            // Replication commands know none.
            Self::Stream => Duration::ZERO,
            Self::Guard | Self::Drop | Self::Turn(_) => Duration::from_secs(10),
            Self::Prune | Self::Reconcile => Duration::from_secs(600),
            // One scan finds the rows.
            Self::Replay => Duration::ZERO,
            Self::Console => Duration::from_secs(5),
            // Slot creation has a bound of its own.
            Self::Status | Self::Command => Duration::from_secs(30),
        }
    }

    /// How long it waits for others' locks.
    fn lock_timeout(self) -> Duration {
        match self {
            // A row that somebody locked must not hold up the marks of the others.
            Self::Session => Duration::from_millis(250),
            Self::Stream => Duration::ZERO,
            Self::Guard | Self::Drop | Self::Prune | Self::Turn(_) | Self::Status => {
                Duration::from_secs(1)
            }
            Self::Console => Duration::from_secs(2),
            // Patient with everybody.
            Self::Reconcile | Self::Replay | Self::Command => Duration::from_secs(10),
        }
    }

    /// How long a transaction of its may stand still: one that never ends would keep its locks on
    /// the application's rows.
    fn idle_in_transaction_timeout(self) -> Duration {
        match self {
            Self::Session
            | Self::Guard
            | Self::Drop
            | Self::Prune
            | Self::Console
            | Self::Status
            | Self::Command => Duration::from_secs(60),
            // What is read is sent in between, as fast as the broker takes it.
            Self::Stream | Self::Reconcile | Self::Replay | Self::Turn(_) => Duration::ZERO,
        }
    }

    fn synchronous_commit(self) -> &'static str {
        match self {
            // A mark that is lost in a crash of the server is noticed, since the LSN waits until
            // its mark is on disk: so nothing need wait for the disk here. Rows that come back
            // are pruned again.
            Self::Session | Self::Guard | Self::Drop | Self::Prune | Self::Turn(_) => "off",
            // On this server's disk, and no further: a standby that is waited for and never comes
            // would keep an operator's command waiting without end, which no timeout ends.
            Self::Reconcile
            | Self::Replay
            | Self::Stream
            | Self::Console
            | Self::Status
            | Self::Command => "local",
        }
    }

    /// Where it goes.
    pub(crate) fn server(self, config: &Postgres) -> &Server {
        match self {
            Self::Stream | Self::Drop => &config.stream,
            _ => &config.audit,
        }
    }

    /// The name that it is seen by in `pg_stat_activity`.
    pub(crate) fn application_name(self, config: &Postgres) -> String {
        let suffix = match self {
            Self::Session | Self::Stream => return config.application_name.clone(),
            Self::Guard | Self::Drop => "guard",
            Self::Turn(what) => &format!("{what} turn"),
            Self::Prune => "prune",
            Self::Reconcile => "reconcile",
            Self::Console => "console",
            // Not the relay's own name: that one is looked for in synchronous_standby_names.
            Self::Replay | Self::Status | Self::Command => return "pgoutbox".to_owned(),
        };
        // As long as Postgres takes.
        format!("{}/{suffix}", config.application_name).chars().take(63).collect()
    }

    /// What every server knows.
    pub(crate) fn settings(self, config: &Postgres) -> Vec<RoleSetting> {
        let timeout = |timeout: Duration| format!("{}ms", timeout.as_millis());
        let mut settings: Vec<RoleSetting> =
            ALL.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        settings.extend([
            ("statement_timeout", timeout(self.statement_timeout())),
            ("lock_timeout", timeout(self.lock_timeout())),
            ("idle_in_transaction_session_timeout", timeout(self.idle_in_transaction_timeout())),
            ("synchronous_commit", self.synchronous_commit().to_owned()),
        ]);
        if self == Self::Stream {
            settings.extend([
                ("wal_sender_timeout", timeout(config.wal_sender_timeout)),
                // The kernel's own, whatever a role has: it would also end the connection of a
                // client that is there and just does not read for so long (Linux counts a closed
                // window, `tcp_probe_timer`), which a paused relay does, or one whose broker has
                // an alarm. The walsender notices by itself who is gone, also while it waits to
                // write (`WalSndCheckTimeOut`).
                ("tcp_user_timeout", "0".to_owned()),
                ("tcp_keepalives_idle", "10".to_owned()),
            ]);
        }
        settings
    }

    /// What is still to be set once the server has said who it is: what only its version knows,
    /// and everything where the command line did not come through.
    pub(crate) fn rest(
        self,
        config: &Postgres,
        version: &str,
        is_applied: bool,
    ) -> Vec<RoleSetting> {
        let mut settings = if is_applied { Vec::new() } else { self.settings(config) };
        if major(version) >= TRANSACTION_TIMEOUT {
            // A transaction of 300,000 rows takes its time to decode.
            settings.push(("transaction_timeout", "0".to_owned()));
        }
        settings
    }
}

/// `17.2 (Debian 17.2-1)`, `18beta1`.
fn major(version: &str) -> u32 {
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

/// As a server's command line.
pub(crate) fn options(settings: &[RoleSetting]) -> String {
    let escape = |value: &str| value.replace('\\', r"\\").replace(' ', r"\ ");
    let option = |(name, value): &RoleSetting| format!("-c {name}={}", escape(value));
    settings.iter().map(option).collect::<Vec<_>>().join(" ")
}

/// As statements.
pub(crate) fn statements(settings: &[RoleSetting]) -> Result<String, Fault> {
    settings
        .iter()
        .map(|(name, value)| sql::render(sql::SERVER_SET, &[("name", name), ("value", value)]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        for (version, number) in
            [("15.10 (Debian 15.10-0+deb12u1)", 15), ("18beta1", 18), ("17devel", 17), ("", 0)]
        {
            assert_eq!(major(version), number, "{version}");
        }
    }

    #[test]
    fn values_with_spaces_stay_whole() {
        let settings = [("a", "read committed".to_owned()), ("b", r"\".to_owned())];
        assert_eq!(options(&settings), r"-c a=read\ committed -c b=\\");
    }
}
