//! What each kind of fault means, and what helps: the one table.
//!
//! Transient unless proven otherwise: a relay that gives up is worse than one that tries. Messages
//! of Postgres may be in any language, so its code decides, never a word.
//!
//! **Invariant:** a hint says what helps, never what is done next. A relay tries again, and says when; a command
//! has ended.

use std::io::ErrorKind;

use super::{About, Class, Handshake, Kind, Peer, SqlState, codes};

/// What is done about a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may pass by itself, or be fixed by somebody while we wait.
    Passing,
    /// One row, or what the database itself does with that row, is the cause: others are not
    /// concerned. For a connection as a whole it is as [`Passing`](Self::Passing).
    OfRow,
    /// It waits for a person.
    Person,
}

/// A line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// What is done.
    pub verdict: Verdict,
    /// What helps. Never empty.
    pub hint: &'static str,
}

impl Entry {
    const fn passing(hint: &'static str) -> Self {
        Self { verdict: Verdict::Passing, hint }
    }

    const fn of_row(hint: &'static str) -> Self {
        Self { verdict: Verdict::OfRow, hint }
    }

    const fn person(hint: &'static str) -> Self {
        Self { verdict: Verdict::Person, hint }
    }

    /// What it means for a connection as a whole.
    pub(crate) fn class(&self) -> Class {
        match self.verdict {
            Verdict::Passing | Verdict::OfRow => Class::Transient,
            Verdict::Person => Class::Definite,
        }
    }
}

/// Where nothing better is known.
pub(crate) const LASTS: &str = "if it lasts, run `pgoutbox check`: it names what is wrong";
/// Where `check` finds out which of several things it is.
pub(crate) const CHECK: &str =
    "run `pgoutbox check`: it names what is wrong, and the SQL that fixes it";
/// For a missing right.
pub(crate) const GRANT: &str = "run `pgoutbox check` for the GRANT that is missing; `pgoutbox schema --stream-role NAME --audit-role NAME` shows them all";
/// For an error of the database's own code.
pub(crate) const TRIGGER: &str = "a trigger, rule or function of the database raised it: Postgres' log has its CONTEXT; correct that, or the row";
/// For a value that the database does not take.
const VALUE: &str = "the database does not take this row's value, or a trigger raised it: Postgres' log names the row and the statement; correct the row, the constraint or the trigger";
/// For a login that the server refused.
pub(crate) const LOGIN: &str =
    "check user and password in DATABASE_URL, and the server's pg_hba.conf";
/// For a defect.
pub(crate) const DEFECT: &str = "this is a defect of pgoutbox: please report it";
const LOG: &str = "look into Postgres' log for it";
const POOLER: &str = "connect to Postgres itself, not through a pooler in transaction mode; if there is no pooler, look into Postgres' log";

/// The line for a kind of fault.
pub(crate) fn entry(kind: Kind, peer: Peer) -> Entry {
    match (kind, peer) {
        (Kind::Own | Kind::PassedBy | Kind::Shape | Kind::ShardTaken, _) => Entry::passing(LASTS),
        (Kind::RowInStream, _) => Entry::passing(
            "no stream gets past that row. With on_slot_loss = \"catch_up\" and marks the slot is made again by itself, and the other rows are read from the table. Else correct the publication's row filter (ALTER PUBLICATION … SET TABLE … WHERE (…)) or the row, stop the relay, drop the slot (SELECT pg_drop_replication_slot('…');) and publish what it had not delivered, by pgoutbox replay or yourself",
        ),
        (Kind::Standby, _) => Entry::passing("name the primary in DATABASE_URL"),
        (Kind::Sql(code), _) => sql(code),
        (Kind::Amqp(code, about), _) => amqp(code, about),
        (Kind::Tls(failed), _) => handshake(failed, Some(peer)),
        (Kind::Io(kind), _) => io(kind, peer),
        (Kind::Timeout, Peer::Postgres) => Entry::passing(
            "the server, or the network to it, does not answer: check host and port in DATABASE_URL, firewalls in between, and the server's load",
        ),
        (Kind::Timeout, Peer::RabbitMq) => Entry::passing(
            "the broker, or the network to it, does not answer: check host and port of amqp.url, firewalls in between, and the broker's load",
        ),
        (Kind::Closed, Peer::Postgres) => Entry::passing(
            "look into Postgres' log for why it ended the connection (a restart, an administrator, a crash), else into the network and what stands in between",
        ),
        (Kind::Closed, Peer::RabbitMq) => Entry::passing(
            "look into RabbitMQ's log for why it ended the connection (a restart, an administrator, an alarm), else into the network and what stands in between",
        ),
        (Kind::Login, Peer::Postgres) => Entry::passing(LOGIN),
        (Kind::Login, Peer::RabbitMq) => amqp(403, About::Login),
        (Kind::Protocol, Peer::Postgres) => Entry::passing(
            "check that DATABASE_URL names a Postgres server, and what stands in between (a pooler, a proxy); if it is Postgres itself, please report it",
        ),
        (Kind::Protocol, Peer::RabbitMq) => Entry::passing(
            "check that amqp.url names RabbitMQ's AMQP port (5672, or 5671 with TLS), and what stands in between; if it is RabbitMQ itself, please report it",
        ),
    }
}

fn sql(code: SqlState) -> Entry {
    let entry = by_code(code.as_str());
    entry.unwrap_or_else(|| by_class(code.class()))
}

fn by_code(code: &str) -> Option<Entry> {
    Some(match code {
        "08P01" => Entry::passing(
            "a pooler or proxy in between may not know what we ask for: connect to Postgres itself",
        ),
        // "cached plan must not change result type".
        "0A000" => Entry::passing(
            "a table was altered while statements on it were prepared: a new session prepares them again; if it lasts, run `pgoutbox check`",
        ),
        "22021" | "22P05" => Entry::of_row(
            "the row holds text that the database's encoding cannot hold: correct the row; an outbox is best kept in a database with encoding UTF8",
        ),
        "25006" => Entry::passing(
            "the server takes no writes: it is a standby (name the primary in DATABASE_URL), or its disk is full, or somebody has made it read-only: SHOW default_transaction_read_only; SELECT pg_is_in_recovery();",
        ),
        "25P02" => {
            Entry::passing("an earlier error has ended the transaction: Postgres' log has it")
        }
        "25P03" | "25P04" | "57P05" => Entry::passing(
            "a timeout of the server ended the session (idle_in_transaction_session_timeout, transaction_timeout, idle_session_timeout): pgoutbox turns them off for itself; a pooler in between may undo that",
        ),
        "26000" | "42P05" | "34000" => Entry::passing(POOLER),
        // A password may be in the middle of its rotation: said, and tried again.
        "28000" | "28P01" => Entry::passing(LOGIN),
        "3D000" => Entry::person("create the database, or correct its name in DATABASE_URL"),
        // Publication, slot or plugin's option; schema, table, column or function.
        "42704" | "55000" | "3F000" | "42P01" | "42703" | "42883" => Entry::person(CHECK),
        "42501" => Entry::person(GRANT),
        "42601" | "42P02" => Entry::person(DEFECT),
        "42804" | "42809" | "42P16" | "42P17" | "42P18" | "42725" | "42846" | "42P13" | "42P19"
        | "42P20" | "42P21" | "42P22" | "42803" | "42702" | "428C9" => Entry::passing(
            "a column or a table is not as it was when the session began, or a trigger is at fault: a new session looks again; if it lasts, run `pgoutbox check`",
        ),
        "53100" => Entry::passing(
            "the server's disk is full: make room on it; the WAL is in pg_wal, `pgoutbox status` says how much of it the slot keeps",
        ),
        "53200" => Entry::passing(
            "the server is out of memory: look into its log, and lower its work_mem or its connections",
        ),
        "53300" => Entry::passing(
            "SHOW max_connections;  -- set it higher and restart Postgres; or end those that nobody needs: SELECT pid, usename, application_name, state FROM pg_stat_activity;",
        ),
        "53400" => Entry::person(
            "SHOW max_replication_slots;  -- set it higher and restart Postgres; or drop one that nobody uses: SELECT slot_name, active FROM pg_replication_slots;",
        ),
        "54000" => Entry::of_row(
            "a value of the row is larger than an index or a row can hold: correct the row, or the index",
        ),
        "55006" => Entry::passing("another pgoutbox holds the slot; a relay waits as its standby"),
        "55P03" => Entry::passing(
            "somebody holds a lock on the table: SELECT pid, usename, query FROM pg_stat_activity WHERE cardinality(pg_blocking_pids(pid)) > 0 OR state LIKE 'idle in transaction%';",
        ),
        "57014" => Entry::passing(
            "a statement took longer than it may, or was cancelled: look for locks and load on the server (pg_stat_activity)",
        ),
        "57P01" => Entry::passing(
            "an administrator ended the connection, or the server is restarting: Postgres' log says who",
        ),
        "57P02" => Entry::passing("a process of the server crashed: look into Postgres' log"),
        "57P03" => Entry::passing(
            "the server is starting, shutting down or in recovery: wait for it, and look into its log if it lasts",
        ),
        "57P04" => Entry::passing(
            "the database was dropped: create it, or correct its name in DATABASE_URL",
        ),
        "58P01" => Entry::person(
            "a file of the server's is missing: the pgoutput plugin (part of Postgres itself), or WAL that was removed by hand",
        ),
        codes::TAKEN_OVER => Entry::passing(
            "what this relay still had to write is left to the other one, whose standby this one is now; where the row of pgoutbox.progress was removed, the rows that wait are caught up with",
        ),
        "XX001" | "XX002" => Entry::passing(
            "the server finds its data damaged: look into Postgres' log, and REINDEX or restore what it names",
        ),
        _ => return None,
    })
}

fn by_class(class: &str) -> Entry {
    match class {
        "08" => entry(Kind::Closed, Peer::Postgres),
        // What a row's data, a constraint or a trigger can raise.
        "02" | "09" | "20" | "21" | "22" | "23" | "27" | "2F" | "38" | "39" | "44" | "54"
        | "HV" | "P0" => Entry::of_row(VALUE),
        "28" => Entry::passing(LOGIN),
        "25" | "2D" | "3B" | "40" => Entry::passing(
            "another transaction was in the way; if it lasts, look for triggers and locks on the table (pg_stat_activity, Postgres' log)",
        ),
        "42" | "3D" | "3F" => Entry::passing(CHECK),
        "53" => Entry::passing(
            "the server lacks a resource: look into Postgres' log for which, and give it more",
        ),
        "57" => {
            Entry::passing("somebody or something of the server's ended it: Postgres' log says who")
        }
        "58" | "F0" | "XX" | "72" => Entry::passing(LOG),
        _ => Entry::passing(
            "the database's own code may have raised it: Postgres' log has its CONTEXT",
        ),
    }
}

fn amqp(code: u16, about: About) -> Entry {
    let hint = match (about, code) {
        (About::Login, _) => {
            "check user and password of amqp.url: rabbitmqctl authenticate_user USER PASSWORD; \"guest\" may log in from the broker's own machine alone"
        }
        (About::VhostMissing, _) => "check the vhost of amqp.url: rabbitmqctl list_vhosts",
        (About::VhostForbidden, _) => {
            "give the user of amqp.url permissions on the vhost: rabbitmqctl set_permissions -p VHOST USER '^$' '.*' '^$'"
        }
        (About::VhostDown, _) => {
            "the vhost is down on this node: rabbitmqctl restart_vhost -p VHOST"
        }
        (About::VhostLimit, _) => {
            "the vhost has as many connections as it may: rabbitmqctl list_vhost_limits -p VHOST; raise max-connections (rabbitmqctl set_vhost_limits), or end some"
        }
        (About::UserLimit, _) => {
            "the user has as many connections as it may: rabbitmqctl list_user_limits --user USER; raise max-connections (rabbitmqctl set_user_limits), or end some"
        }
        (About::NodeLimit, _) => {
            "the node has as many connections as it may: raise connection_max in rabbitmq.conf, or end some"
        }
        (About::Code, 320) => {
            "an administrator or a shutdown closed the connection: RabbitMQ's log says why"
        }
        (About::Code, 403) => {
            "check the user's permissions on the vhost: rabbitmqctl list_permissions -p VHOST"
        }
        (About::Code, 404) => {
            "create what is missing: rabbitmqctl list_exchanges -p VHOST; `pgoutbox check` names it"
        }
        (About::Code, 405) => {
            "somebody has it for himself (exclusive): rabbitmqctl list_queues -p VHOST name exclusive"
        }
        (About::Code, 406) => {
            "it exists with other properties: bring the configuration in line with it, or delete it"
        }
        (About::Code, 501 | 502 | 503 | 505 | 540) => {
            "the broker does not take what was sent: RabbitMQ's log says why; `pgoutbox parked list` shows the events that it refuses"
        }
        (About::Code, 506) => {
            "the broker lacks a resource (memory, disk, file handles, channels): rabbitmq-diagnostics status"
        }
        (About::Code, 530) => {
            "the broker does not allow it: RabbitMQ's log says why; check the vhost of amqp.url (rabbitmqctl list_vhosts), the user's permissions and the connection limits"
        }
        (About::Code, 541) => "an internal error of the broker: look into RabbitMQ's log",
        (About::Code, _) => "look into RabbitMQ's log for it",
    };
    Entry::passing(hint)
}

/// The line for a handshake, with a server of any kind.
pub(crate) fn handshake(failed: Handshake, peer: Option<Peer>) -> Entry {
    Entry::passing(match failed {
        Handshake::NotTls if peer == Some(Peer::RabbitMq) => {
            "what listens there does not speak TLS: amqps:// wants the TLS port (5671 as a rule), amqp:// the one without (5672), for a network that is trusted"
        }
        Handshake::NotTls => {
            "what listens there does not speak TLS: use the TLS port, or a URL without TLS on a network that is trusted"
        }
        Handshake::Unsupported => {
            "turn ssl on in the server's postgresql.conf, or set sslmode=disable on a network that is trusted"
        }
        Handshake::Untrusted => {
            "check the CA file: it has to hold the authority of the server's certificate; `pgoutbox check` shows which that is"
        }
        Handshake::Name => {
            "connect to a name that the server's certificate holds, or get one for the name connected to; `pgoutbox check` shows its names"
        }
        Handshake::Expired => {
            "renew the server's certificate, and check the clock of both machines"
        }
        Handshake::Unusable => {
            "get another certificate for the server: X.509 version 3, with the name connected to as a subject alternative name, and not an authority's own; `pgoutbox check` shows what it is"
        }
        Handshake::Refused => {
            "check the client certificate (cert_file, key_file): the server asks for one of an authority that it trusts"
        }
        Handshake::Mismatch => {
            "server and pgoutbox have no version or cipher of TLS in common: allow TLS 1.2 or 1.3 at the server"
        }
        Handshake::File => "give a readable PEM file",
        Handshake::Other => {
            "check the CA file, the server's certificate and that its name is the host connected to"
        }
    })
}

fn io(kind: ErrorKind, peer: Peer) -> Entry {
    Entry::passing(match (kind, peer) {
        (ErrorKind::TimedOut, _) => return entry(Kind::Timeout, peer),
        (
            ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof,
            _,
        ) => return entry(Kind::Closed, peer),
        (ErrorKind::ConnectionRefused, Peer::Postgres) => {
            "nothing listens there: check host and port in DATABASE_URL, that Postgres runs and its listen_addresses"
        }
        (ErrorKind::ConnectionRefused, Peer::RabbitMq) => {
            "nothing listens there: check host and port of amqp.url and that RabbitMQ runs"
        }
        (
            ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
            | ErrorKind::AddrNotAvailable,
            _,
        ) => "there is no way to the host: check its name, routes and firewalls",
        (ErrorKind::PermissionDenied, _) => {
            "the operating system does not let this process connect: check the socket's permissions, and firewalls"
        }
        (ErrorKind::NotFound, Peer::Postgres) => {
            "there is no such socket or host: check the host in DATABASE_URL and that Postgres runs (unix_socket_directories)"
        }
        (_, Peer::Postgres) => {
            "check host and port in DATABASE_URL, and that Postgres runs there and is not behind a firewall"
        }
        (_, Peer::RabbitMq) => {
            "check host and port of amqp.url, and that RabbitMQ runs there and is not behind a firewall"
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At least one code of each class of Postgres' appendix A, and one of none.
    const CODES: [&str; 62] = [
        "01000", "02000", "03000", "08000", "08006", "08P01", "09000", "0A000", "0B000", "0F000",
        "0L000", "0P000", "0Z000", "10608", "20000", "21000", "22000", "22021", "22P02", "23000",
        "23502", "23503", "23505", "23514", "23P01", "24000", "25000", "25006", "25P02", "25P03",
        "25P04", "26000", "27000", "28000", "28P01", "2B000", "2D000", "2F000", "34000", "38000",
        "39000", "3B000", "3D000", "3F000", "40001", "40P01", "42000", "42501", "44000", "53100",
        "53300", "53400", "54000", "55000", "55P03", "57014", "57P05", "58030", "72000", "F0000",
        "P0001", "ZZ999",
    ];

    fn kinds() -> Vec<Kind> {
        let mut kinds = vec![
            Kind::Own,
            Kind::Standby,
            Kind::PassedBy,
            Kind::ShardTaken,
            Kind::Shape,
            Kind::RowInStream,
            Kind::Timeout,
            Kind::Closed,
            Kind::Login,
            Kind::Protocol,
        ];
        kinds.extend(CODES.map(|code| Kind::Sql(SqlState::new(code))));
        kinds.extend(
            [0, 320, 403, 404, 405, 406, 501, 506, 530, 541].map(|c| Kind::Amqp(c, About::Code)),
        );
        kinds.extend(
            [
                About::Login,
                About::VhostMissing,
                About::VhostForbidden,
                About::VhostDown,
                About::VhostLimit,
                About::UserLimit,
                About::NodeLimit,
            ]
            .map(|about| Kind::Amqp(530, about)),
        );
        kinds.extend(
            [
                Handshake::NotTls,
                Handshake::Unsupported,
                Handshake::Untrusted,
                Handshake::Name,
                Handshake::Expired,
                Handshake::Unusable,
                Handshake::Refused,
                Handshake::Mismatch,
                Handshake::File,
                Handshake::Other,
            ]
            .map(Kind::Tls),
        );
        kinds.extend(
            [
                ErrorKind::TimedOut,
                ErrorKind::ConnectionReset,
                ErrorKind::ConnectionRefused,
                ErrorKind::HostUnreachable,
                ErrorKind::PermissionDenied,
                ErrorKind::NotFound,
                ErrorKind::Other,
            ]
            .map(Kind::Io),
        );
        kinds
    }

    #[test]
    fn each_line_has_a_hint() {
        for kind in kinds() {
            for peer in [Peer::Postgres, Peer::RabbitMq] {
                let hint = entry(kind, peer).hint;
                assert!(hint.len() > 10, "{kind:?}");
                // Nothing of the server was looked at: a number may be less than what it has.
                assert!(!hint.contains("SET max_"), "{kind:?}: {hint}");
            }
        }
    }

    #[test]
    fn codes_decide() {
        for (code, class) in [
            ("57P01", Class::Transient),
            ("57P03", Class::Transient),
            ("55006", Class::Transient),
            ("28P01", Class::Transient),
            ("28000", Class::Transient),
            ("40001", Class::Transient),
            ("XX000", Class::Transient),
            ("25006", Class::Transient),
            ("23514", Class::Transient),
            ("3D000", Class::Definite),
            ("42704", Class::Definite),
            ("55000", Class::Definite),
            ("58P01", Class::Definite),
            ("42501", Class::Definite),
            ("42P01", Class::Definite),
        ] {
            assert_eq!(
                entry(Kind::Sql(SqlState::new(code)), Peer::Postgres).class(),
                class,
                "{code}"
            );
        }
    }

    #[test]
    fn what_a_row_raises_is_of_the_row() {
        for code in
            ["22003", "22P02", "23502", "23503", "23505", "23514", "23P01", "54000", "P0001"]
        {
            let entry = entry(Kind::Sql(SqlState::new(code)), Peer::Postgres);
            assert_eq!(entry.verdict, Verdict::OfRow, "{code}");
        }
    }
}
