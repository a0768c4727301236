//! Everything that must be in place before the stream starts.

use tokio_postgres::{Client, Row};

use super::coverage::{self, Answer, Coverage};
use super::table::{self, Outbox, statements};
use super::{Finding, Severity, SlotState, state, tables_json};
use crate::config::{AuditMode, Config};
use crate::error::Fault;
use crate::postgres::{column, query};
use crate::sql;

/// All that was found.
#[derive(Debug, Clone)]
pub struct Preflight {
    /// In the order in which they were looked at.
    pub findings: Vec<Finding>,
    /// The slot, where it exists.
    pub slot: Option<SlotState>,
    /// The publication exists.
    pub has_publication: bool,
    /// One for each configured table that can be read.
    pub tables: Vec<Outbox>,
    /// By what the tables are covered, where they are.
    pub coverage: Option<Coverage>,
    /// `server_version_num`.
    pub server_version: i32,
}

/// What a relay needs of it all, once nothing stands against starting.
#[derive(Debug, Clone)]
pub struct Ready {
    /// One for each configured table, in their order.
    pub tables: Vec<Outbox>,
    /// What later answers of [`coverage`](super::coverage()) are compared with.
    pub coverage: Coverage,
    /// What works, but costs or endangers something.
    pub warnings: Vec<Finding>,
    /// `server_version_num`.
    pub server_version: i32,
}

impl Preflight {
    /// Whether the relay may start.
    ///
    /// # Errors
    /// Everything that stands against it, with the SQL that mends it.
    pub fn ready(self, config: &Config) -> Result<Ready, Fault> {
        if let Some(fault) = Finding::fault(&self.findings) {
            return Err(fault);
        }
        match self.coverage {
            Some(coverage) if self.tables.len() == config.tables.len() => Ok(Ready {
                tables: self.tables,
                coverage,
                warnings: self
                    .findings
                    .into_iter()
                    .filter(|finding| finding.severity == Severity::Warning)
                    .collect(),
                server_version: self.server_version,
            }),
            _ => Err(Fault::transient("the catalog changed while it was read")),
        }
    }
}

/// Looks at everything that must be in place, on the audit connection. Changes nothing.
///
/// # Errors
/// The connection's, and a standby, which is transient: after a failover the name may soon
/// lead elsewhere. What stands against starting is in the findings.
pub async fn preflight(client: &Client, config: &Config) -> Result<Preflight, Fault> {
    let rows = query(client, sql::SERVER).await?;
    let server = rows.first().ok_or_else(|| Fault::transient("the server said nothing"))?;
    if column(server, "is_standby")? {
        return Err(Fault::transient("this Postgres is a standby: it cannot be written to").mend(
            "connect to the primary: a name that follows it, or target_session_attrs of a pooler",
        ));
    }
    let mut findings = server_findings(server, config)?;
    let slot = state(client, &config.postgres.slot).await?;
    findings.extend(slot_findings(server, slot.as_ref(), config)?);
    let answers = coverage::ask(client, config).await?;
    findings.extend(coverage::findings(config, &answers));
    findings.extend(strangers(client, config, &answers).await?);
    let mut tables = Vec::new();
    for (number, table) in config.tables.iter().enumerate() {
        let has_generated = answers.get(number).is_some_and(|answer| answer.has_generated);
        let (found, outbox) = table::look(client, config, number, table, has_generated).await?;
        findings.extend(found);
        tables.extend(outbox);
    }
    findings.extend(own_schema(client, config).await?);
    findings.extend(stream_role(client, config).await?);
    Ok(Preflight {
        findings,
        slot,
        has_publication: answers.iter().any(|answer| answer.publication.is_some()),
        tables,
        coverage: coverage::compile(config, &answers),
        server_version: column(server, "version")?,
    })
}

fn server_findings(server: &Row, config: &Config) -> Result<Vec<Finding>, Fault> {
    let version: i32 = column(server, "version")?;
    let version_text: String = column(server, "version_text")?;
    let mut findings = Vec::new();
    if version < 140_000 {
        findings.push(Finding::error(
            format!("Postgres {version_text} is too old"),
            "use Postgres 14 or newer",
        ));
    } else if let Some(minor) = minor_with_loss(version) {
        findings.push(Finding::warning(
            format!("Postgres {version_text} can lose rows when a publication is altered while rows are written"),
            format!("update to {minor} or newer"),
        ));
    } else {
        findings.push(Finding::good(format!("Postgres {version_text}")));
    }
    let wal_level: String = column(server, "wal_level")?;
    findings.push(if wal_level == "logical" {
        Finding::good("wal_level is logical")
    } else {
        Finding::error(
            format!("wal_level is {wal_level}: the WAL does not hold what a stream needs"),
            "ALTER SYSTEM SET wal_level = logical;  -- then restart Postgres (RDS: rds.logical_replication = 1, Cloud SQL: cloudsql.logical_decoding = on)",
        )
    });
    if column::<i32>(server, "max_senders")? == 0 {
        findings.push(Finding::error(
            "max_wal_senders is 0: nobody can stream",
            "ALTER SYSTEM SET max_wal_senders = 10;  -- then restart Postgres",
        ));
    }
    let synchronous: String = column(server, "synchronous_names")?;
    if matches_synchronous(&synchronous, &config.postgres.application_name) {
        findings.push(Finding::warning(
            format!("synchronous_standby_names = '{synchronous}' counts the relay as a standby: commits wait for RabbitMQ's confirms"),
            "name your standbys there: ALTER SYSTEM SET synchronous_standby_names = 'standby1'; SELECT pg_reload_conf();",
        ));
    }
    if column::<i64>(server, "keep_mb")? < 0 {
        findings.push(Finding::warning(
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

fn slot_findings(
    server: &Row,
    slot: Option<&SlotState>,
    config: &Config,
) -> Result<Vec<Finding>, Fault> {
    let name = &config.postgres.slot;
    let drop = format!("SELECT pg_drop_replication_slot({});", sql::literal(name));
    let database: String = column(server, "database")?;
    let Some(slot) = slot else {
        let (slots, most): (i32, i32) = (column(server, "slots")?, column(server, "max_slots")?);
        let mut findings = vec![Finding::error(
            format!(
                "slot \"{name}\" does not exist; if it did before, events committed since it went \
                 are not in the stream: the rows with relayed_at IS NULL show them"
            ),
            "pgoutbox init",
        )];
        if slots >= most {
            findings.push(Finding::error(
                format!("all {most} replication slots are in use"),
                format!("ALTER SYSTEM SET max_replication_slots = {};  -- then restart Postgres; or drop a slot that nobody uses", most + 10),
            ));
        }
        return Ok(findings);
    };
    if slot.plugin.as_deref() != Some("pgoutput") {
        let plugin = slot.plugin.as_deref().unwrap_or("none: it is a physical slot");
        return Ok(vec![Finding::error(
            format!("slot \"{name}\" has another plugin than pgoutput ({plugin})"),
            format!(
                "choose another name (postgres.slot), or, if nobody uses it: {drop} then pgoutbox init"
            ),
        )]);
    }
    if slot.database.as_deref() != Some(database.as_str()) {
        return Ok(vec![Finding::error(
            format!(
                "slot \"{name}\" belongs to database \"{}\", not \"{database}\"",
                slot.database.as_deref().unwrap_or_default()
            ),
            "choose another name (postgres.slot): slots are one per server and name",
        )]);
    }
    if slot.is_temporary {
        return Ok(vec![Finding::error(
            format!("slot \"{name}\" is temporary: it goes with the session that made it"),
            "end that session, then: pgoutbox init",
        )]);
    }
    if slot.wal_status.as_deref() == Some("lost") || slot.invalidation_reason.is_some() {
        let reason = slot.invalidation_reason.as_deref().unwrap_or("the WAL it needs was removed");
        return Ok(vec![Finding::error(
            format!(
                "slot \"{name}\" is lost ({reason}); events committed since it last acknowledged are \
                 not in the stream any more: the rows with relayed_at IS NULL show them"
            ),
            format!("{drop} then: pgoutbox init"),
        )]);
    }
    let mut findings = vec![Finding::good(match slot.active_pid {
        Some(pid) => format!("slot \"{name}\" exists, in use by pid {pid}"),
        None => format!("slot \"{name}\" exists"),
    })];
    if slot.wal_status.as_deref() == Some("unreserved") {
        findings.push(Finding::warning(
            format!("slot \"{name}\" is about to be lost: it needs WAL beyond max_slot_wal_keep_size"),
            "start the relay, or raise max_slot_wal_keep_size: ALTER SYSTEM SET max_slot_wal_keep_size = '100GB'; SELECT pg_reload_conf();",
        ));
    }
    Ok(findings)
}

async fn strangers(
    client: &Client,
    config: &Config,
    answers: &[Answer],
) -> Result<Option<Finding>, Fault> {
    let publication = &config.postgres.publication;
    let tables = tables_json(config);
    let variables = [("publication", publication.as_str()), ("tables", &tables)];
    let rows = query(client, &sql::render(sql::OTHER_TABLES, &variables)?).await?;
    let names = rows.iter().map(|row| column(row, "name")).collect::<Result<Vec<String>, _>>()?;
    let Some(first) = names.first() else { return Ok(None) };
    let what = format!(
        "publication \"{publication}\" has other tables too, whose rows are sent and passed over: {}",
        names.join(", ")
    );
    // Tables that came with their schema, or with all, cannot be taken out one by one.
    let mend = if answers.iter().all(|answer| answer.member.is_some()) {
        format!("ALTER PUBLICATION {} DROP TABLE {first};", sql::identifier(publication))
    } else {
        "make a publication FOR TABLE of the outbox alone, with a slot of its own".to_owned()
    };
    Ok(Some(Finding::warning(what, mend)))
}

async fn own_schema(client: &Client, config: &Config) -> Result<Vec<Finding>, Fault> {
    let rows = query(client, sql::CHECK_SCHEMA).await?;
    let Some(row) = rows.first() else { return Ok(Vec::new()) };
    let is = |name: &str| Ok::<_, Fault>(column::<Option<bool>>(row, name)?.unwrap_or(false));
    let role = &config.postgres.audit.user;
    let quoted = sql::identifier(role);
    let uses_relayed = config.audit.mode == AuditMode::SideTable;
    if !is("has_progress")? || (uses_relayed && !is("has_relayed")?) {
        return Ok(vec![Finding::error(
            "schema pgoutbox lacks tables of the relay's own",
            "pgoutbox init",
        )]);
    }
    let mut findings = Vec::new();
    if !is("usage")? || !is("can_progress")? {
        findings.push(Finding::error(
            format!("role \"{role}\" may not keep its progress"),
            format!("GRANT USAGE ON SCHEMA pgoutbox TO {quoted}; GRANT SELECT, INSERT, UPDATE ON pgoutbox.progress TO {quoted};"),
        ));
    }
    if uses_relayed && !is("can_relayed")? {
        findings.push(Finding::error(
            format!("role \"{role}\" may not write marks in pgoutbox.relayed"),
            statements(&sql::render(sql::GRANTS_SIDE_TABLE, &[("audit_role", role)])?),
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::good("schema pgoutbox is there"));
    }
    Ok(findings)
}

async fn stream_role(client: &Client, config: &Config) -> Result<Option<Finding>, Fault> {
    let role = config.postgres.stream.user.as_str();
    let rows =
        query(client, &sql::render(sql::CHECK_STREAM_ROLE, &[("stream_role", role)])?).await?;
    let quoted = sql::identifier(role);
    let Some(row) = rows.first() else {
        // A name that pg_ident.conf maps to a role: logging in will tell.
        return Ok(None);
    };
    let database = sql::identifier(&config.postgres.stream.database);
    Ok(Some(if !column(row, "can_stream")? {
        Finding::error(
            format!("role \"{role}\" may not stream"),
            format!("ALTER ROLE {quoted} REPLICATION;  -- RDS: GRANT rds_replication TO {quoted};"),
        )
    } else if !column(row, "can_login")? {
        Finding::error(
            format!("role \"{role}\" may not log in"),
            format!("ALTER ROLE {quoted} LOGIN;"),
        )
    } else if !column(row, "can_connect")? {
        Finding::error(
            format!("role \"{role}\" may not connect to the database"),
            format!("GRANT CONNECT ON DATABASE {database} TO {quoted};"),
        )
    } else {
        Finding::good(format!("role \"{role}\" may stream"))
    }))
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
