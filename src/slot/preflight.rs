//! Everything that must be in place before the stream starts.

use tokio_postgres::{Client, Row};

use super::coverage::{self, Answer, Coverage};
use super::table::{self, Outbox, statements};
use super::{Finding, GONE, Severity, SlotState, never_there, state, tables_json, ways_out};
use crate::catch_up;
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
    let own = own_schema(client, config).await?;
    let history = history(client, config, own.has_catch_up).await?;
    findings.extend(slot_findings(server, slot.as_ref(), history, config)?);
    let answers = coverage::ask(client, config).await?;
    findings.extend(coverage::findings(config, &answers));
    findings.extend(strangers(client, config, &answers).await?);
    let mut tables = Vec::new();
    let is_catching_up = is_table_read(config, slot.as_ref(), history);
    for (number, table) in config.tables.iter().enumerate() {
        let has_generated = answers.get(number).is_some_and(|answer| answer.has_generated);
        let (found, outbox) =
            table::look(client, config, (number, table), has_generated, is_catching_up).await?;
        findings.extend(found);
        tables.extend(outbox);
    }
    findings.extend(own.findings);
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
    if config.postgres.is_failover && version < 170_000 {
        findings.push(Finding::error(
            format!("postgres.failover is true, and Postgres {version_text} has no failover slots"),
            "set postgres.failover = false, or use Postgres 17 or newer",
        ));
    }
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

/// What this database knows of the slot.
#[derive(Clone, Copy, PartialEq, Eq)]
enum History {
    /// It never was one of a relay here.
    None,
    /// It was one.
    Known,
    /// Rows wait for it to be made, or to be published before its stream.
    CatchUp,
}

async fn history(client: &Client, config: &Config, has_catch_up: bool) -> Result<History, Fault> {
    let slot = &config.postgres.slot;
    if !has_catch_up {
        return Ok(History::None);
    }
    Ok(if catch_up::report(client, slot).await?.is_some() {
        History::CatchUp
    } else if catch_up::is_known(client, slot).await? {
        History::Known
    } else {
        History::None
    })
}

/// Whether `run` would read rows from the table now.
fn is_table_read(config: &Config, slot: Option<&SlotState>, history: History) -> bool {
    let is_gone = slot.is_none_or(|slot| slot.why_lost().is_some());
    let is_remade = is_gone && history != History::None;
    config.is_catching_up() && (is_remade || history == History::CatchUp)
}

/// A slot that is gone, or lost for this reason.
fn gone(config: &Config, reason: Option<&str>) -> Finding {
    let name = &config.postgres.slot;
    let what = match reason {
        Some(reason) => format!(
            "slot \"{name}\" is lost ({reason}); events committed since it last acknowledged are \
             not in the stream any more"
        ),
        None => format!(
            "slot \"{name}\" does not exist any more: {GONE}; events committed since are not in \
             the stream"
        ),
    };
    if config.is_catching_up() {
        return Finding::warning(
            format!(
                "{what}; `pgoutbox run` makes a new one, and publishes the rows that wait in the \
                 table first (postgres.on_slot_loss)"
            ),
            "pgoutbox run",
        );
    }
    let shown = match config.audit.mode {
        AuditMode::None => "",
        _ => ": the rows without a mark (relayed_at IS NULL) show them",
    };
    Finding::error(format!("{what}{shown}"), ways_out(config, reason.is_some()))
}

fn slot_findings(
    server: &Row,
    slot: Option<&SlotState>,
    history: History,
    config: &Config,
) -> Result<Vec<Finding>, Fault> {
    let name = &config.postgres.slot;
    let drop = format!("SELECT pg_drop_replication_slot({});", sql::literal(name));
    let database: String = column(server, "database")?;
    let Some(slot) = slot else {
        let (slots, most): (i32, i32) = (column(server, "slots")?, column(server, "max_slots")?);
        let mut findings = vec![match history {
            History::None => {
                let Fault { what, mend, .. } = never_there(config);
                Finding::error(what, mend)
            }
            History::Known | History::CatchUp => gone(config, None),
        }];
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
    if let Some(reason) = slot.why_lost() {
        return Ok(vec![gone(config, Some(reason))]);
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
    if config.postgres.is_failover && slot.is_failover == Some(false) {
        findings.push(Finding::warning(
            format!("slot \"{name}\" is no failover slot, though postgres.failover is true"),
            format!("ALTER_REPLICATION_SLOT {name} (FAILOVER true);  -- on a replication connection: psql 'dbname={database} replication=database'; relay stopped"),
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

/// pgoutbox's own tables.
struct Own {
    findings: Vec<Finding>,
    /// Those of the catch-up are there and can be read.
    has_catch_up: bool,
}

async fn own_schema(client: &Client, config: &Config) -> Result<Own, Fault> {
    let rows = query(client, sql::CHECK_SCHEMA).await?;
    let row = rows.first().ok_or_else(|| Fault::transient("the server said nothing"))?;
    let is = |name: &str| Ok::<_, Fault>(column::<Option<bool>>(row, name)?.unwrap_or(false));
    let role = &config.postgres.audit.user;
    let quoted = sql::identifier(role);
    let uses_relayed = config.audit.mode == AuditMode::SideTable;
    let has_all = is("has_progress")? && is("has_catch_up")? && is("has_parked")?;
    let missing: Vec<String> = column(row, "missing")?;
    let what = format!("schema pgoutbox lacks tables of the relay's own: {}", missing.join(", "));
    if !has_all || (uses_relayed && !is("has_relayed")?) {
        let findings = vec![Finding::error(what, "pgoutbox init")];
        return Ok(Own { findings, has_catch_up: false });
    }
    let mut findings = Vec::new();
    if !missing.is_empty() {
        findings.push(Finding::warning(what, "pgoutbox init"));
    }
    if is("has_guard")? && !is("can_guard")? {
        findings.push(Finding::warning(
            format!("role \"{role}\" may not write down what the guard over the WAL found"),
            format!("GRANT SELECT, INSERT, UPDATE ON pgoutbox.guard TO {quoted};"),
        ));
    }
    let is_pruning = config.prune.keep.is_some() && config.audit.mode != AuditMode::None;
    if is_pruning && is("has_relayed")? && !is("can_prune")? {
        findings.push(Finding::warning(
            format!("role \"{role}\" may not delete old marks and records (prune.keep)"),
            format!(
                "GRANT SELECT, DELETE, UPDATE ON pgoutbox.relayed, pgoutbox.parked TO {quoted};"
            ),
        ));
    }
    if !is("usage")? || !is("can_progress")? {
        findings.push(Finding::error(
            format!("role \"{role}\" may not keep its progress"),
            format!("GRANT USAGE ON SCHEMA pgoutbox TO {quoted}; GRANT SELECT, INSERT, UPDATE ON pgoutbox.progress TO {quoted};"),
        ));
    }
    if !is("can_park")? {
        findings.push(Finding::error(
            format!("role \"{role}\" may not put events aside"),
            format!("GRANT SELECT, INSERT, UPDATE, DELETE ON pgoutbox.parked TO {quoted}; GRANT SELECT ON pgoutbox.pause TO {quoted};"),
        ));
    }
    let has_catch_up = is("usage")? && is("can_progress")? && is("can_catch_up")?;
    if !is("can_catch_up")? {
        findings.push(Finding::error(
            format!("role \"{role}\" may not keep the list of a catch-up"),
            format!("GRANT SELECT, INSERT, UPDATE, DELETE ON pgoutbox.catch_up, pgoutbox.catch_up_rows TO {quoted}; GRANT SELECT ON pgoutbox.parked TO {quoted};"),
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
    Ok(Own { findings, has_catch_up })
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
