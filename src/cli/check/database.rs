//! What Postgres says to the audit role.

use jiff::Timestamp;
use tokio_postgres::{Client, Row};

use super::broker::quoted;
use super::refused::{self, POOLER};
use super::{clock, filter, locked, marks, relay};
use crate::cli;
use crate::config::Config;
use crate::error::{Fault, Kind, codes};
use crate::postgres::sql;
use crate::postgres::{column, query};
use crate::slot::{self, Finding};

const LOCKED: &str = "SELECT pid, state, query FROM pg_stat_activity WHERE pid IN (SELECT pid FROM pg_locks WHERE granted AND mode = 'AccessExclusiveLock');  -- end who holds the lock, or wait for it; then: pgoutbox check";
const NEW: &str = "publication-after-slot";
/// Below this a server that decodes a large transaction loses its clients.
const SHORT: i64 = 5_000;
/// Above this a client that is gone keeps its slot for long.
const LONG: i64 = 600_000;

/// What was found, and what of it the stream's connection is judged by.
#[derive(Default)]
pub(super) struct Database {
    pub(super) findings: Vec<Finding>,
    pub(super) is_slot_active: bool,
    /// The stream's role is none of the server's.
    pub(super) is_role_missing: bool,
}

/// Looks at all of it. What cannot be asked is a finding too.
pub(super) async fn look(config: &Config) -> Database {
    let server = &config.postgres.audit;
    let client = match cli::connect(config).await {
        Ok(client) => client,
        Err(fault) => {
            let streams = server.user == config.postgres.stream.user;
            let findings = vec![refused::finding(server, streams, fault)];
            return Database { findings, ..Database::default() };
        }
    };
    let mut database = Database::default();
    let config = match slot::expand(&client, config).await {
        Ok(config) => &config.clone(),
        Err(fault) => {
            database.findings.push(unasked(&config.postgres.audit.user, fault));
            config
        }
    };
    match slot::preflight(&client, config).await {
        Ok(flight) => {
            let mut waiting = relay::waiting(&client, config, &flight).await;
            match slot::sharing(&client, config, &flight.tables).await {
                Ok(sharing) => waiting.extend(sharing),
                Err(fault) => waiting.push(unasked(&config.postgres.audit.user, fault)),
            }
            database.findings = flight.findings;
            database.findings.extend(waiting);
            let slot = flight.slot.as_ref();
            database.is_slot_active = slot.is_some_and(|slot| slot.is_active);
            let tried = marks::look(&client, config).await;
            database.findings.extend(tried);
            database.findings.extend(filter::look(&client, config).await);
            database.findings.extend(locked::look(&client, config).await);
            match relay::look(&client, config, slot).await {
                Ok(fares) => database.findings.extend(fares),
                Err(fault) => {
                    database.findings.push(unasked(&config.postgres.audit.user, fault));
                }
            }
        }
        Err(fault) => database.findings.push(unasked(&config.postgres.audit.user, fault)),
    }
    if let Err(fault) = more(&client, config, &mut database).await {
        database.findings.push(unasked(&config.postgres.audit.user, fault));
    }
    database
}

/// A standby, or a question that failed.
fn unasked(role: &str, fault: Fault) -> Finding {
    let is_general = fault.has_general_hint();
    let Fault { what, hint, kind, .. } = fault;
    if kind == Kind::Standby {
        return Finding::error("standby", what, hint);
    }
    let hint = match kind {
        Kind::Sql(code) if code.as_str() == codes::INSUFFICIENT_PRIVILEGE => may_ask(&what, role),
        Kind::Sql(code)
            if [codes::LOCK_NOT_AVAILABLE, codes::QUERY_CANCELED].contains(&code.as_str()) =>
        {
            LOCKED.to_owned()
        }
        _ if is_general => {
            "look into Postgres' log for why, and run `pgoutbox check` again".to_owned()
        }
        _ => hint,
    };
    Finding::error("postgres-question", what, hint)
}

/// The catalog is everybody's, unless somebody has closed it.
fn may_ask(what: &str, role: &str) -> String {
    let role = sql::identifier(role);
    let refused = what.split_once("permission denied for ").map(|(_, rest)| rest);
    let mut words = refused.unwrap_or_default().split(' ');
    match (words.next(), words.next()) {
        (Some("table" | "view"), Some(name)) => format!("GRANT SELECT ON {name} TO {role};"),
        (Some("function"), Some(name)) => format!("GRANT EXECUTE ON FUNCTION {name} TO {role};"),
        _ => format!("GRANT to role {role} what Postgres' message names"),
    }
}

async fn more(client: &Client, config: &Config, found: &mut Database) -> Result<(), Fault> {
    let role = ("stream_role", config.postgres.stream.user.as_str());
    let asked = sql::render(sql::CHECK_SERVER, &[role])?;
    let before = Timestamp::now();
    let rows = query(client, &asked).await?;
    let after = Timestamp::now();
    let row = rows.first().ok_or_else(|| Fault::transient("the query returned no rows"))?;
    let theirs = Timestamp::from_microsecond(column(row, "clock_micros")?)
        .map_err(|error| Fault::transient(format!("cannot read Postgres' clock: {error}")))?;
    found.is_role_missing = !column::<bool>(row, "has_stream_role")?;
    let findings = &mut found.findings;
    findings.push(clock::finding(before, theirs, after));
    findings.extend(senders(row, found.is_slot_active)?);
    findings.extend(timeouts(row, config)?);
    findings.extend(too_new(client, config).await);
    findings.extend(pooler(client, config).await?);
    let user = slot::user(client, &config.postgres.slot).await?;
    findings.extend(user.and_then(|user| user.finding(config)));
    if config.has_exchanges() {
        findings.push(returned(client, config).await);
    }
    Ok(())
}

fn senders(row: &Row, is_active: bool) -> Result<Option<Finding>, Fault> {
    let (senders, most): (i32, i32) = (column(row, "senders")?, column(row, "max_senders")?);
    // That there are none at all stands with the server.
    if senders < most || most == 0 {
        return Ok(None);
    }
    let hint = format!(
        "ALTER SYSTEM SET max_wal_senders = {};  -- then restart Postgres; or end one that nobody needs: SELECT pid, application_name FROM pg_stat_replication;",
        most + 10
    );
    let what = format!("all {most} walsenders are in use (max_wal_senders)");
    Ok(Some(match is_active {
        true => Finding::warning(
            "max-wal-senders",
            format!("{what}: no standby of the relay gets one"),
            hint,
        ),
        false => Finding::error("max-wal-senders", format!("{what}: a relay gets none"), hint),
    }))
}

fn timeouts(row: &Row, config: &Config) -> Result<Vec<Finding>, Fault> {
    let mut findings = Vec::new();
    let (millis, shown): (i64, String) =
        (column(row, "wal_sender_timeout_ms")?, column(row, "wal_sender_timeout")?);
    let why = match millis {
        0 => Some("a walsender whose client is gone is never ended, and keeps its slot in use"),
        ..SHORT => Some("clients are lost while the server decodes a large transaction"),
        LONG.. if millis > LONG => Some("a client that is gone keeps its slot in use for so long"),
        _ => None,
    };
    if let Some(why) = why {
        findings.push(Finding::warning(
            "wal-sender-timeout",
            format!(
                "wal_sender_timeout is {shown}: {why} (the relay asks for {} of its own, postgres.wal_sender_timeout)",
                crate::text::span(config.postgres.wal_sender_timeout)
            ),
            "ALTER SYSTEM SET wal_sender_timeout = '1min'; SELECT pg_reload_conf();",
        ));
    }
    if let Some(timeout) = column::<Option<String>>(row, "idle_slot_timeout")? {
        findings.push(Finding::warning(
            "idle-replication-slot-timeout",
            format!(
                "idle_replication_slot_timeout is {timeout}: a relay that is down for so long loses its slot, and what it holds"
            ),
            "ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf();",
        ));
    }
    Ok(findings)
}

/// What the slot may be too old to know of. Nothing where the relay's own tables are not there: that
/// is said already.
async fn too_new(client: &Client, config: &Config) -> Option<Finding> {
    let (slot, publication) = (&config.postgres.slot, &config.postgres.publication);
    let variables = [("slot", slot.as_str()), ("publication", publication)];
    let asked = sql::render(sql::CHECK_PUBLICATION_AGE, &variables).ok()?;
    let rows = query(client, &asked).await.ok()?;
    let first = rows.first()?;
    let what = match column::<Option<String>>(first, "name").ok()? {
        None => format!("publication \"{publication}\" was made or altered"),
        Some(table) => format!("publication \"{publication}\" got {table}"),
    };
    let gap = "rows committed in between are not in its stream, and Postgres up to 17 ends the stream at one";
    let passes =
        "none is needed where no row was written in between: it passes as the relay goes on";
    if !column::<bool>(first, "is_newer_than_slot").ok()? {
        return Some(Finding::unknown(
            NEW,
            format!("whether {what} after slot \"{slot}\" was made cannot be seen yet: {gap}"),
            passes,
        ));
    }
    let name = sql::literal(slot);
    Some(Finding::warning(
        NEW,
        format!("{what} after slot \"{slot}\" was made: {gap}"),
        format!(
            "{passes}; else, relay stopped: SELECT pg_drop_replication_slot({name}); then: pgoutbox init  -- lists the rows that wait"
        ),
    ))
}

/// By what a connection of its own would have: a backend.
async fn pooler(client: &Client, config: &Config) -> Result<Option<Finding>, Fault> {
    let hint = "connect to Postgres itself: postgres.url, and postgres.stream_url for the stream";
    let other = cli::connect(config).await?;
    let asked = |client| query(client, "SELECT pg_backend_pid() AS backend_pid");
    let (one, two) = (asked(client).await?, asked(&other).await?);
    let pid = |rows: &[Row]| rows.first().map(|row| column::<i32>(row, "backend_pid")).transpose();
    if pid(&one)? == pid(&two)? {
        return Ok(Some(Finding::error(
            POOLER,
            "a pooler shares one session of Postgres among connections: the statements that the relay prepares, its locks and its notifications get lost",
            hint,
        )));
    }
    Ok(None)
}

/// No queue that is bound is seen without a message that it gets. What came back shows it.
async fn returned(client: &Client, config: &Config) -> Finding {
    let name = "exchange-binding";
    let vhost = config.amqp.brokers.first().map_or("/", |broker| &broker.vhost);
    let vhost = quoted(vhost);
    let slot = ("slot", config.postgres.slot.as_str());
    let asked = async {
        let rows = query(client, &sql::render(sql::CHECK_RETURNED, &[slot])?).await?;
        rows.first().map(|row| column::<i64>(row, "events")).transpose()
    };
    match asked.await {
        Ok(Some(events @ 1..)) => Finding::warning(
            name,
            format!(
                "no queue takes {events} events that wait in the parking: none is bound for them"
            ),
            format!(
                "bind a queue: rabbitmqadmin --vhost={vhost} declare binding source=EXCHANGE destination=QUEUE routing_key='#'  -- pgoutbox parked list --reason returned shows their keys; then: pgoutbox parked retry --reason returned"
            ),
        ),
        _ => Finding::unknown(
            name,
            "whether a queue is bound to each exchange cannot be seen without a message; events that no queue takes are parked",
            format!(
                "rabbitmqctl list_bindings -p {vhost} source_name routing_key destination_name"
            ),
        ),
    }
}
