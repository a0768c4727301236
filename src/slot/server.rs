//! What of the server a relay needs, and what of it is dangerous.

use tokio_postgres::Row;

use super::Finding;
use crate::config::Config;
use crate::error::Fault;
use crate::postgres::column;

/// From the row of `server.sql`.
pub(super) fn findings(server: &Row, config: &Config) -> Result<Vec<Finding>, Fault> {
    let version: i32 = column(server, "version")?;
    let version_text: String = column(server, "version_text")?;
    let mut findings = Vec::new();
    if version < 140_000 {
        findings.push(Finding::error(
            "postgres-version",
            format!("Postgres {version_text} is too old"),
            "use Postgres 14 or newer",
        ));
    } else if let Some(minor) = minor_with_loss(version) {
        findings.push(Finding::warning(
            "postgres-minor",
            format!("Postgres {version_text} can lose rows when a publication is altered while rows are written"),
            format!("update to {minor} or newer"),
        ));
    } else {
        findings.push(Finding::good("postgres-version", format!("Postgres {version_text}")));
    }
    let wal_level: String = column(server, "wal_level")?;
    findings.push(if wal_level == "logical" {
        Finding::good("wal-level", "wal_level is logical")
    } else {
        Finding::error(
            "wal-level",
            format!("wal_level is {wal_level}: the WAL does not hold what a stream needs"),
            "ALTER SYSTEM SET wal_level = logical;  -- then restart Postgres (RDS: rds.logical_replication = 1, Cloud SQL: cloudsql.logical_decoding = on)",
        )
    });
    if config.postgres.is_failover && version < 170_000 {
        findings.push(Finding::error(
            "failover-unsupported",
            format!("postgres.failover is true, and Postgres {version_text} has no failover slots"),
            "set postgres.failover = false, or use Postgres 17 or newer",
        ));
    }
    if column::<i32>(server, "max_senders")? == 0 {
        findings.push(Finding::error(
            "max-wal-senders",
            "max_wal_senders is 0: nobody can stream",
            "ALTER SYSTEM SET max_wal_senders = 10;  -- then restart Postgres",
        ));
    }
    let synchronous: String = column(server, "synchronous_names")?;
    if matches_synchronous(&synchronous, &config.postgres.application_name) {
        findings.push(Finding::warning(
            "synchronous-standby-names",
            format!("synchronous_standby_names = '{synchronous}' counts the relay as a standby: commits wait for RabbitMQ's confirms"),
            "ALTER SYSTEM SET synchronous_standby_names = 'standby1'; SELECT pg_reload_conf();  -- the names of your standbys",
        ));
    }
    if column::<i64>(server, "keep_mb")? < 0 {
        findings.push(Finding::warning(
            "max-slot-wal-keep-size",
            "max_slot_wal_keep_size is -1: while the relay is down, WAL is kept until the disk is full",
            "ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; SELECT pg_reload_conf();  -- what you can spare; beyond it the slot is lost",
        ));
    }
    Ok(findings)
}

/// The first minor of a major that does not lose rows to DDL on a publication (May 2025).
fn minor_with_loss(version: i32) -> Option<&'static str> {
    match (version / 10_000, version % 10_000) {
        (14, ..18) => Some("14.18"),
        (15, ..13) => Some("15.13"),
        (16, ..9) => Some("16.9"),
        (17, ..5) => Some("17.5"),
        _ => None,
    }
}

/// Whether the list of synchronous standbys has this name in it. `FIRST 1 (a, b)`,
/// `ANY 2 (*)` or `a, b`; names compare without case, `*` is every name.
fn matches_synchronous(list: &str, name: &str) -> bool {
    let inner =
        list.split_once('(').map_or(list, |(_, inner)| inner.trim_end().trim_end_matches(')'));
    inner
        .split(',')
        .map(|entry| entry.trim().trim_matches('"'))
        .any(|entry| entry == "*" || (!entry.is_empty() && entry.eq_ignore_ascii_case(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_relay_among_synchronous_standbys() {
        for (list, is_match) in [
            ("*", true),
            ("ANY 1 (*)", true),
            ("FIRST 2 (a, \"pgoutbox/P\")", true),
            ("a, b", false),
            ("", false),
            ("2 (pgoutbox)", false),
        ] {
            assert_eq!(matches_synchronous(list, "pgoutbox/p"), is_match, "{list}");
        }
    }

    #[test]
    fn knows_the_minors_that_lose_rows() {
        assert_eq!(minor_with_loss(140_017), Some("14.18"));
        assert_eq!(minor_with_loss(140_018), None);
        assert_eq!(minor_with_loss(170_004), Some("17.5"));
        assert_eq!(minor_with_loss(180_000), None);
    }
}
