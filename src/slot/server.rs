//! What of the server a relay needs, and what of it is dangerous.

use tokio_postgres::Row;

use super::Finding;
use crate::config::Config;
use crate::error::Fault;
use crate::postgres::column;
use crate::postgres::sql;

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
    } else if let Some(minor) = minor_that_stops(version) {
        findings.push(Finding::warning(
            "postgres-minor",
            format!("Postgres {version_text} can stop the stream (\"invalid memory alloc request size\") when the schema changes beside many open transactions"),
            format!("update to {minor} or newer"),
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
    if column::<String>(server, "encoding")? == "SQL_ASCII" {
        findings.push(Finding::warning(
            "encoding",
            "the database's encoding is SQL_ASCII: Postgres takes any bytes for text, and an event with bytes that are no UTF-8 is parked",
            "have the application write UTF-8, or move to a database of encoding UTF8: pg_dump --encoding=UTF8, createdb --encoding=UTF8 --template=template0, pg_restore",
        ));
    }
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
            match without(&synchronous, &config.postgres.application_name) {
                Some(others) => format!(
                    "ALTER SYSTEM SET synchronous_standby_names = {}; SELECT pg_reload_conf();",
                    sql::literal(&others)
                ),
                None => "ALTER SYSTEM SET synchronous_standby_names = 'standby1'; SELECT pg_reload_conf();  -- first put the names of your standbys there, or none: commits wait for one that is missing".to_owned(),
            },
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

/// The first good minor, for the four that no longer lose rows, by a change that hands each
/// transaction's invalidations on to all others, and theirs again.
fn minor_that_stops(version: i32) -> Option<&'static str> {
    matches!(version, 140_018 | 150_013 | 160_009 | 170_005)
        .then(|| minor_with_loss(version - 1))?
}

/// What to update to from a minor that loses rows to DDL on a publication (until May 2025).
fn minor_with_loss(version: i32) -> Option<&'static str> {
    match (version / 10_000, version % 10_000) {
        (14, ..18) => Some("14.19"),
        (15, ..13) => Some("15.14"),
        (16, ..9) => Some("16.10"),
        (17, ..5) => Some("17.6"),
        _ => None,
    }
}

/// Whether the list of synchronous standbys has this name in it. `FIRST 1 (a, b)`,
/// `ANY 2 (*)` or `a, b`; names compare without case, `*` is every name.
fn matches_synchronous(list: &str, name: &str) -> bool {
    names(list).1.any(|entry| is_every(entry) || is_name(entry, name))
}

/// What stands before the parentheses, where there are any, and the names as they are written.
fn names(list: &str) -> (Option<&str>, impl Iterator<Item = &str>) {
    let (head, inner) = match list.split_once('(') {
        Some((head, inner)) => (Some(head.trim()), inner.trim_end().trim_end_matches(')')),
        None => (None, list),
    };
    (head, inner.split(',').map(str::trim))
}

fn is_every(entry: &str) -> bool {
    entry.trim_matches('"') == "*"
}

fn is_name(entry: &str, name: &str) -> bool {
    let entry = entry.trim_matches('"');
    !entry.is_empty() && entry.eq_ignore_ascii_case(name)
}

/// The list without this name; `None` where it means every name.
fn without(list: &str, name: &str) -> Option<String> {
    let (head, entries) = names(list);
    let entries: Vec<_> = entries.filter(|entry| !is_name(entry, name)).collect();
    if entries.iter().any(|entry| is_every(entry)) {
        return None;
    }
    let Some(head) = head.filter(|_| !entries.is_empty()) else { return Some(entries.join(", ")) };
    // Commits would wait for more than there are.
    let (kind, count) = head.rsplit_once(' ').unwrap_or(("", head));
    let count = count.parse::<usize>().map_or(1, |count| count.min(entries.len()));
    Some(format!("{kind} {count} ({})", entries.join(", ")).trim_start().to_owned())
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
    fn takes_the_relay_out_of_the_list() {
        for (list, left) in [
            ("ANY 1 (*)", None),
            ("pgoutbox/p", Some("")),
            ("a, \"pgoutbox/P\", b", Some("a, b")),
            ("FIRST 2 (a, \"pgoutbox/p\")", Some("FIRST 1 (a)")),
            ("2 (\"pgoutbox/p\", a, b)", Some("2 (a, b)")),
        ] {
            assert_eq!(without(list, "pgoutbox/p").as_deref(), left, "{list}");
        }
    }

    #[test]
    fn knows_the_minors_that_lose_rows() {
        assert_eq!(minor_with_loss(140_017), Some("14.19"));
        assert_eq!(minor_with_loss(140_018), None);
        assert_eq!(minor_with_loss(170_004), Some("17.6"));
        for (version, minor) in
            [(140_018, "14.19"), (150_013, "15.14"), (160_009, "16.10"), (170_005, "17.6")]
        {
            assert_eq!(minor_with_loss(version), None);
            assert_eq!(minor_that_stops(version), Some(minor));
            assert_eq!(minor_that_stops(version + 1), None);
            assert_eq!(minor_that_stops(version - 1), None);
        }
        assert_eq!(minor_with_loss(180_000), None);
    }
}
