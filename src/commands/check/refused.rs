//! What it means that Postgres did not let a connection in.

use crate::config::Server;
use crate::error::Fault;
use crate::slot::Finding;
use crate::sql;

/// What is said of a pooler in between.
pub(super) const POOLER: &str = "pooler";

/// By the SQLSTATE, since messages may be in any language; what one code alone does not tell, by
/// words where they are English. A pooler's always are. `streams`: whether it is the stream's role.
pub(super) fn finding(server: &Server, streams: bool, fault: Fault) -> Finding {
    let Fault { what, mend, .. } = fault;
    let (role, database) = (sql::identifier(&server.user), sql::identifier(&server.database));
    if what.contains("unsupported startup parameter") {
        return Finding::error(
            POOLER,
            format!("{what}: this is a pooler, and it does not let the connection through"),
            "connect to Postgres itself: postgres.url and postgres.stream_url",
        );
    }
    match code(&what) {
        Some("28000") if what.contains("does not exist") => {
            let more = if streams { " REPLICATION" } else { "" };
            let mend = format!(
                "CREATE ROLE {role} LOGIN{more};  -- and its password: \\password {role}; then its \
                 grants: pgoutbox init --stream-role NAME --audit-role NAME"
            );
            Finding::error("role-missing", what, mend)
        }
        Some("28000") if what.contains("not permitted to log in") => {
            Finding::error("role-login", what, format!("ALTER ROLE {role} LOGIN;"))
        }
        Some("28000") => {
            let line = hba_line(server, &what);
            let mend = format!(
                "put this line into pg_hba.conf, before the one that refuses: {line}  -- then: SELECT pg_reload_conf();"
            );
            Finding::error("pg-hba", what, mend)
        }
        // The server says the same of a role that it does not have.
        Some("28P01") => Finding::error(
            "postgres-login",
            what,
            format!(
                "\\password {role}  -- in psql, where the role is there; or mend user and password in \
                 the configuration"
            ),
        ),
        Some("3D000") => {
            let mend =
                format!("CREATE DATABASE {database};  -- or mend its name in the configuration");
            Finding::error("postgres-database", what, mend)
        }
        Some("55000") if what.contains("accepting connections") => {
            let mend = format!("ALTER DATABASE {database} ALLOW_CONNECTIONS true;");
            Finding::error("postgres-database", what, mend)
        }
        Some("42501") if ["walsender", "WAL sender"].iter().any(|word| what.contains(word)) => {
            Finding::error(
                "role-replication",
                what,
                format!("ALTER ROLE {role} REPLICATION;  -- RDS: GRANT rds_replication TO {role};"),
            )
        }
        Some("42501") => {
            let mend = format!("GRANT CONNECT ON DATABASE {database} TO {role};");
            Finding::error("role-connect", what, mend)
        }
        Some("53300") if what.contains("max_wal_senders") => Finding::error(
            "max-wal-senders",
            what,
            "ALTER SYSTEM SET max_wal_senders = 20;  -- then restart Postgres; or end one that nobody needs: SELECT pid, application_name FROM pg_stat_replication;",
        ),
        Some("53300") => {
            let mend = if what.contains("for role \"") {
                format!("ALTER ROLE {role} CONNECTION LIMIT -1;")
            } else if what.contains("for database \"") {
                format!("ALTER DATABASE {database} CONNECTION LIMIT -1;")
            } else {
                "ALTER SYSTEM SET max_connections = 200;  -- or more than there are, then restart Postgres; or end those that nobody needs: SELECT pid, usename, application_name, state FROM pg_stat_activity;".to_owned()
            };
            Finding::error("max-connections", what, mend)
        }
        _ if what.contains("asks for a password") || what.contains("password missing") => {
            Finding::error("postgres-login", what, mend)
        }
        _ => {
            let reach =
                "check host and port, and that Postgres runs there and is not behind a firewall";
            // A fault sends whoever runs a relay to this very command.
            let says = !mend.is_empty() && !mend.contains("pgoutbox check");
            let mend = if says { mend } else { reach.to_owned() };
            Finding::error("postgres-connection", what, mend)
        }
    }
}

pub(super) fn code(what: &str) -> Option<&str> {
    what.rsplit_once("(SQLSTATE ")?.1.split(')').next()
}

/// The server names the address that it saw us come from.
fn hba_line(server: &Server, what: &str) -> String {
    let (database, role) = (quoted(&server.database), quoted(&server.user));
    if server.host.starts_with('/') {
        return format!("local {database} {role} scram-sha-256");
    }
    let seen = what.split_once("host \"").and_then(|(_, rest)| rest.split('"').next());
    let address = match seen {
        Some(seen) if seen.contains(':') => format!("{seen}/128"),
        Some(seen) if seen.contains('.') => format!("{seen}/32"),
        _ => "ADDRESS/32".to_owned(),
    };
    format!("host {database} {role} {address} scram-sha-256")
}

/// As `pg_hba.conf` reads names.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        Server {
            host: "db".to_owned(),
            port: 5432,
            user: "relay".to_owned(),
            password: crate::config::Secret::default(),
            database: "app".to_owned(),
            tls: crate::config::Tls::default(),
        }
    }

    #[test]
    fn codes_name_the_finding() {
        for (what, name) in [
            ("x (SQLSTATE 28000)", "pg-hba"),
            ("role \"x\" does not exist (SQLSTATE 28000)", "role-missing"),
            ("role \"x\" is not permitted to log in (SQLSTATE 28000)", "role-login"),
            ("x (SQLSTATE 28P01)", "postgres-login"),
            ("x (SQLSTATE 3D000)", "postgres-database"),
            ("x is not currently accepting connections (SQLSTATE 55000)", "postgres-database"),
            (
                "must be superuser or replication role to start walsender (SQLSTATE 42501)",
                "role-replication",
            ),
            ("x (SQLSTATE 42501)", "role-connect"),
            ("exceeds max_wal_senders (SQLSTATE 53300)", "max-wal-senders"),
            ("x (SQLSTATE 53300)", "max-connections"),
            ("unsupported startup parameter: replication (SQLSTATE 08P01)", "pooler"),
            ("connection refused", "postgres-connection"),
        ] {
            assert_eq!(finding(&server(), false, Fault::transient(what)).name, name, "{what}");
        }
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
