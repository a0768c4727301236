//! Why a server lets a connection not in, and what would.

use super::server_error::{ServerError, server_error};
use super::sql;
use crate::config::{Host, Server};
use crate::error::{Fault, Kind, Peer, SqlState, codes, table};

/// Why a server did not let a connection in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denial {
    /// A pooler does not know a parameter of the connection.
    Pooler,
    /// The role does not exist.
    RoleMissing,
    /// The role may not log in.
    RoleLogin,
    /// One of the two: its words depend on the server's language.
    Role,
    /// No line of `pg_hba.conf` lets it in.
    Hba,
    /// Wrong password, or a role that does not exist.
    Password,
    /// The database does not exist.
    DatabaseMissing,
    /// The database takes no connections.
    DatabaseClosed,
    /// The role may not stream.
    Replication,
    /// The role may not connect to the database.
    Connect,
    /// All walsenders are in use.
    WalSenders,
    /// The role has as many connections as it may.
    RoleLimit,
    /// The database has as many connections as it may.
    DatabaseLimit,
    /// The server has as many connections as it may.
    Connections,
}

impl Denial {
    /// What `check` calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pooler => "pooler",
            Self::RoleMissing => "role-missing",
            Self::RoleLogin | Self::Role => "role-login",
            Self::Hba => "pg-hba",
            Self::Password => "postgres-login",
            Self::DatabaseMissing | Self::DatabaseClosed => "postgres-database",
            Self::Replication => "role-replication",
            Self::Connect => "role-connect",
            Self::WalSenders => "max-wal-senders",
            Self::RoleLimit | Self::DatabaseLimit | Self::Connections => "max-connections",
        }
    }

    /// Of an error while connecting. One code stands for several things, so the reporting function
    /// tells them apart, which no language changes; of two things that one function reports under
    /// one code, the words, where they are English.
    pub(crate) fn of(error: &ServerError, streams: bool) -> Option<Self> {
        let routine = error.routine.as_deref();
        Some(match (error.code.as_str(), routine) {
            (codes::PROTOCOL_VIOLATION, None) => Self::Pooler,
            (codes::INVALID_AUTHORIZATION_SPECIFICATION, Some("InitializeSessionUserId")) => {
                Self::of_role(&error.message)
            }
            (codes::INVALID_AUTHORIZATION_SPECIFICATION, _) => Self::Hba,
            (codes::INVALID_PASSWORD, _) => Self::Password,
            (codes::INVALID_CATALOG_NAME, _) => Self::DatabaseMissing,
            (codes::OBJECT_NOT_IN_PREREQUISITE_STATE, Some("CheckMyDatabase" | "InitPostgres")) => {
                Self::DatabaseClosed
            }
            (codes::INSUFFICIENT_PRIVILEGE, Some("InitPostgres")) if streams => Self::Replication,
            (codes::INSUFFICIENT_PRIVILEGE, Some("CheckMyDatabase")) => Self::Connect,
            (codes::TOO_MANY_CONNECTIONS, Some("InitializeSessionUserId")) => Self::RoleLimit,
            (codes::TOO_MANY_CONNECTIONS, Some("CheckMyDatabase")) => Self::DatabaseLimit,
            // Walsenders have places of their own.
            (codes::TOO_MANY_CONNECTIONS, Some("InitProcess")) if streams => Self::WalSenders,
            (codes::TOO_MANY_CONNECTIONS, _) => Self::Connections,
            _ => return None,
        })
    }

    fn of_role(message: &str) -> Self {
        if message.ends_with("does not exist") {
            Self::RoleMissing
        } else if message.ends_with("is not permitted to log in") {
            Self::RoleLogin
        } else {
            Self::Role
        }
    }

    /// What lets it in.
    pub(crate) fn hint(self, server: &Server, message: &str, streams: bool) -> String {
        let (role, database) = (sql::identifier(&server.user), sql::identifier(&server.database));
        let login = if streams { "LOGIN REPLICATION" } else { "LOGIN" };
        match self {
            Self::Pooler => "a pooler in between refuses it, and its log says why; or connect to Postgres itself: postgres.url and postgres.stream_url".to_owned(),
            Self::RoleMissing => format!(
                "CREATE ROLE {role} {login};  -- and its password: \\password {role}; then its \
                 grants: pgoutbox init --stream-role NAME --audit-role NAME"
            ),
            Self::RoleLogin => format!("ALTER ROLE {role} LOGIN;"),
            Self::Role => format!("CREATE ROLE {role} {login};  -- where it is there: ALTER ROLE {role} LOGIN;"),
            Self::Hba => format!(
                "put this line into pg_hba.conf, before the one that refuses: {}  -- then: SELECT pg_reload_conf();",
                hba_line(server, message)
            ),
            // The server says the same of a role that it does not have.
            Self::Password => format!(
                "\\password {role}  -- in psql, where the role is there; or check user and password in {}",
                server.password_place
            ),
            Self::DatabaseMissing => {
                format!("CREATE DATABASE {database};  -- or correct its name in the configuration")
            }
            Self::DatabaseClosed => format!("ALTER DATABASE {database} ALLOW_CONNECTIONS true;"),
            Self::Replication => {
                format!("ALTER ROLE {role} REPLICATION;  -- RDS: GRANT rds_replication TO {role};")
            }
            Self::Connect => format!("GRANT CONNECT ON DATABASE {database} TO {role};"),
            Self::WalSenders => "SHOW max_wal_senders;  -- set it higher and restart Postgres; or end one that nobody needs: SELECT pid, application_name FROM pg_stat_replication;".to_owned(),
            Self::RoleLimit => format!("ALTER ROLE {role} CONNECTION LIMIT -1;"),
            Self::DatabaseLimit => format!("ALTER DATABASE {database} CONNECTION LIMIT -1;"),
            Self::Connections => table::entry(
                Kind::Sql(SqlState::new(codes::TOO_MANY_CONNECTIONS)),
                Peer::Postgres,
            )
            .hint
            .to_owned(),
        }
    }
}

/// The server names the address that it saw us come from.
fn hba_line(server: &Server, message: &str) -> String {
    let (database, role) = (hba_name(&server.database), hba_name(&server.user));
    if server.host.starts_with('/') {
        return format!("local {database} {role} scram-sha-256");
    }
    let seen = message.split_once("host \"").and_then(|(_, rest)| rest.split('"').next());
    let address = match seen {
        Some(seen) if seen.contains(':') => format!("{seen}/128"),
        Some(seen) if seen.contains('.') => format!("{seen}/32"),
        _ => "ADDRESS/32".to_owned(),
    };
    format!("host {database} {role} {address} scram-sha-256")
}

/// As `pg_hba.conf` reads names.
fn hba_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What is said of a connection that did not come about: where to, and what lets it in.
pub(crate) fn not_in(server: &Server, streams: bool, mut fault: Fault) -> Fault {
    let denied = server_error(&fault)
        .and_then(|error| Some((Denial::of(error, streams)?, error.message.clone())));
    if let Some((denied, message)) = denied {
        fault = fault.hint(denied.hint(server, &message, streams));
    } else if fault.kind == Kind::Login {
        fault = fault.hint(format!(
            "check user and password in {}, and the server's pg_hba.conf",
            server.password_place
        ));
    }
    let stream = if streams { " (stream)" } else { "" };
    fault.what = format!("Postgres at {}{stream}: {}", address(server), fault.what);
    fault
}

/// Where a server is, for people. Never a password.
pub(crate) fn address(server: &Server) -> String {
    let hosts: Vec<_> =
        server.hosts().map(|Host { name, port }| format!("{name}:{port}")).collect();
    format!("{}/{}", hosts.join(","), server.database)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::server_error::tests::body;

    fn server() -> Server {
        Server {
            host: "db".to_owned(),
            port: 5432,
            others: Vec::new(),
            user: "relay".to_owned(),
            password: crate::config::Secret::default(),
            password_place: crate::config::Place::default(),
            database: "app".to_owned(),
            tls: crate::config::Tls::default(),
        }
    }

    #[test]
    fn a_code_of_a_connection_is_told_apart_by_who_reports_it() {
        let routines = [
            ("28000", "InitializeSessionUserId", "role \"x\" does not exist", Denial::RoleMissing),
            (
                "28000",
                "InitializeSessionUserId",
                "role \"x\" is not permitted to log in",
                Denial::RoleLogin,
            ),
            ("28000", "InitializeSessionUserId", "Rolle »x« existiert nicht", Denial::Role),
            ("28000", "ClientAuthentication", "kein Eintrag für Host »::1«", Denial::Hba),
            ("28P01", "auth_failed", "m", Denial::Password),
            ("3D000", "InitPostgres", "m", Denial::DatabaseMissing),
            ("55000", "CheckMyDatabase", "m", Denial::DatabaseClosed),
            ("42501", "InitPostgres", "m", Denial::Replication),
            ("42501", "CheckMyDatabase", "m", Denial::Connect),
            ("53300", "InitProcess", "m", Denial::WalSenders),
            ("53300", "InitializeSessionUserId", "m", Denial::RoleLimit),
            ("53300", "CheckMyDatabase", "m", Denial::DatabaseLimit),
            ("53300", "InitPostgres", "m", Denial::Connections),
        ];
        for (code, routine, message, denied) in routines {
            let error =
                ServerError::parse(&body(&[(b'C', code), (b'M', message), (b'R', routine)]));
            assert_eq!(Denial::of(&error, true), Some(denied), "{code} {routine}");
            assert!(!denied.hint(&server(), message, true).is_empty());
        }
        let pooler = ServerError::parse(&body(&[
            (b'C', "08P01"),
            (b'M', "unsupported startup parameter: options"),
        ]));
        assert_eq!(Denial::of(&pooler, false), Some(Denial::Pooler));
    }

    #[test]
    fn the_line_for_pg_hba_has_the_address_that_the_server_saw() {
        let what = "no pg_hba.conf entry for host \"10.0.0.7\", user \"relay\"";
        let line = "host \"app\" \"relay\" 10.0.0.7/32 scram-sha-256";
        assert_eq!(hba_line(&server(), what), line);
        assert!(hba_line(&server(), "kein Eintrag für Host »::1«").contains("ADDRESS"));
        assert!(hba_line(&server(), "host \"fe80::1\"").contains("fe80::1/128"));
    }
}
