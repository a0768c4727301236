//! Everything that must be in place before the stream starts.

use tokio_postgres::Client;

use super::coverage::{self, Coverage};
use super::coverage_row::CoverageRow;
use super::table;
use super::{
    Finding, Severity, SlotState, found, is_paused, messages, own_tables, role, server, shards,
    state, tables_json, unread, verdict,
};
use crate::config::{Config, Table};
use crate::error::{Class, Fault, Kind};
use crate::postgres::outbox_table::OutboxTable;
use crate::postgres::sql;
use crate::postgres::{column, query};

/// How many tables that do not belong are named.
const SHOWN: usize = 10;

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
    pub tables: Vec<OutboxTable>,
    /// By what the tables are covered, where they are.
    pub coverage: Option<Coverage>,
    /// `server_version_num`.
    pub server_version: i32,
    /// A slot that is gone or lost is to stop the relay.
    pub is_halting: bool,
    /// The database says over how many relays the outbox is spread.
    pub has_layout: bool,
}

/// What a relay needs of it all, once nothing stands against starting.
#[derive(Debug, Clone)]
pub struct Prerequisites {
    /// One for each configured table, in their order.
    pub tables: Vec<OutboxTable>,
    /// What later answers of [`coverage`](super::coverage()) are compared with.
    pub coverage: Coverage,
    /// What works, but costs or endangers something.
    pub warnings: Vec<Finding>,
    /// The database says over how many relays the outbox is spread.
    pub has_layout: bool,
}

impl Preflight {
    /// Whether the relay may start.
    ///
    /// # Errors
    /// Everything that stands against it, with the SQL that helps.
    pub fn ready(self, config: &Config) -> Result<Prerequisites, Fault> {
        if let Some(mut fault) = Finding::fault(&self.findings) {
            if self.is_halting {
                fault.class = Class::Halt;
            }
            return Err(fault);
        }
        match self.coverage {
            Some(coverage) if self.tables.len() == config.tables.len() => Ok(Prerequisites {
                tables: self.tables,
                has_layout: self.has_layout,
                coverage,
                warnings: self
                    .findings
                    .into_iter()
                    .filter(|finding| finding.severity == Severity::Warning)
                    .collect(),
            }),
            _ => Err(Fault::transient("the catalog changed while it was read")),
        }
    }
}

/// The server is a standby: after a failover the name may soon lead elsewhere.
pub(crate) fn standby() -> Fault {
    let what = "this Postgres is a standby: it cannot be written to";
    Fault::transient(what)
        .kind(Kind::Standby)
        .hint("connect to the primary: a name that follows it, or several hosts in DATABASE_URL")
}

/// Looks at everything that must be in place, on the audit connection. Changes nothing.
///
/// # Errors
/// Transient where the server is a standby: after a failover the name may soon lead elsewhere. Or
/// the server cannot be asked. What stands against starting is in the findings.
pub async fn preflight(client: &Client, config: &Config) -> Result<Preflight, Fault> {
    let rows = query(client, sql::SERVER).await?;
    let row = rows.first().ok_or_else(|| Fault::transient("the query returned no rows"))?;
    if column(row, "is_standby")? {
        return Err(standby());
    }
    let mut findings = server::findings(row, config)?;
    let slot = state(client, &config.postgres.slot).await?;
    let own = own_tables::look(client, config).await?;
    let history = verdict::history(client, config, own.has_catch_up).await?;
    let is_halting = verdict::is_halting(config, slot.as_ref(), history);
    let is_gone = slot.as_ref().is_none_or(|slot| slot.why_lost().is_some());
    let is_paused = is_gone && is_paused(client, config).await;
    let unread = match slot {
        None => unread(client, config).await?,
        Some(_) => Vec::new(),
    };
    let known = (history, unread.as_slice());
    findings.extend(verdict::findings(row, slot.as_ref(), known, config, is_paused)?);
    let mut answers = coverage::ask(client, config).await?;
    elsewhere(client, config, &mut answers).await?;
    findings.extend(coverage::findings(config, &answers));
    // Where an outbox is none, what is there instead may well be meant.
    if answers.iter().all(CoverageRow::is_outbox) {
        findings.extend(strangers(client, config, &answers).await?);
    }
    let mut tables = Vec::new();
    let is_catching_up = verdict::is_table_read(config, slot.as_ref(), history);
    for (number, table) in config.tables.iter().enumerate() {
        let has_generated = answers.get(number).and_then(|answer| answer.has_generated);
        let (found, outbox) =
            table::look(client, config, (number, table), has_generated, is_catching_up).await?;
        findings.extend(found);
        findings.extend(table::mandatory(table));
        if !column::<bool>(row, "has_commit_times")? {
            findings.extend(outbox.as_ref().and_then(|outbox| table::order(table, outbox)));
        }
        tables.extend(outbox);
    }
    findings.extend(found::findings(config));
    findings.extend(messages::findings(config));
    let has_layout = own.has_layout;
    let version: (i32, String) = (column(row, "version")?, column(row, "version_text")?);
    // First of all: to a relay that is not to run nothing else matters.
    let of_shards = shards::look(client, config, version, has_layout).await?;
    findings.splice(0..0, of_shards);
    findings.extend(own.findings);
    findings.extend(role::look(client, config).await?);
    Ok(Preflight {
        findings,
        slot,
        has_publication: answers.iter().any(|answer| answer.publication.is_some()),
        tables,
        coverage: coverage::compile(config, &answers),
        server_version: column(row, "version")?,
        is_halting,
        has_layout,
    })
}

/// Where else tables of these names are, for those that are not where they should be.
async fn elsewhere(
    client: &Client,
    config: &Config,
    answers: &mut [CoverageRow],
) -> Result<(), Fault> {
    let missing = config.tables.iter().zip(answers).filter(|(_, answer)| answer.relation.is_none());
    for (table, answer) in missing {
        let variables = [("schema", table.schema.as_str()), ("table", &table.name)];
        let rows = query(client, &sql::render(sql::CHECK_ELSEWHERE, &variables)?).await?;
        answer.elsewhere = rows.iter().map(|row| column(row, "name")).collect::<Result<_, _>>()?;
        answer.renamed = renamed(client, config, table).await?;
    }
    Ok(())
}

/// A table that is renamed stays in the publication: one with the columns of an outbox, which is not
/// configured, is it.
async fn renamed(client: &Client, config: &Config, table: &Table) -> Result<Option<String>, Fault> {
    let tables = tables_json(config);
    let variables = [("publication", config.postgres.publication.as_str()), ("tables", &tables)];
    for row in query(client, &sql::render(sql::CHECK_OTHER_TABLES, &variables)?).await? {
        let columns: Vec<String> = column(&row, "columns")?;
        let mut of_outbox = [&table.columns.id, &table.columns.payload].into_iter();
        let has_all = of_outbox.all(|wanted| columns.contains(&wanted.name));
        if has_all && column(&row, "is_member")? {
            return column(&row, "name").map(Some);
        }
    }
    Ok(None)
}

async fn strangers(
    client: &Client,
    config: &Config,
    answers: &[CoverageRow],
) -> Result<Option<Finding>, Fault> {
    let publication = &config.postgres.publication;
    // Those that are left out belong to it, once they can be read.
    let found = config.found.iter().map(|it| serde_json::json!([it.schema, it.name]));
    let named = config.tables.iter().map(|it| serde_json::json!([it.schema, it.name]));
    let tables = serde_json::Value::Array(named.chain(found).collect()).to_string();
    let variables = [("publication", publication.as_str()), ("tables", &tables)];
    let rows = query(client, &sql::render(sql::CHECK_OTHER_TABLES, &variables)?).await?;
    let names = rows.iter().map(|row| column(row, "name")).collect::<Result<Vec<String>, _>>()?;
    if names.is_empty() {
        return Ok(None);
    }
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = if names.len() > SHOWN { ", …" } else { "" };
    let what = format!(
        "publication \"{publication}\" has other tables too, whose rows are sent and passed over: \
         {shown}{more}"
    );
    let are_members = rows.iter().map(|row| column(row, "is_member"));
    let are_members = are_members.collect::<Result<Vec<bool>, _>>()?.into_iter().all(|is| is);
    let hint = if answers.iter().any(|answer| answer.is_all_tables) {
        own_publication(config)
    } else if are_members && answers.iter().all(|answer| answer.member.is_some()) {
        let names = names.join(", ");
        format!("ALTER PUBLICATION {} DROP TABLE {names};", sql::identifier(publication))
    } else {
        format!("{}  -- relay stopped", coverage::set_tables(config))
    };
    Ok(Some(Finding::warning("publication-other-tables", what, hint)))
}

/// One for all tables cannot be made smaller.
fn own_publication(config: &Config) -> String {
    let (slot, publication) = (&config.postgres.slot, &config.postgres.publication);
    // Names of slots have at most 63 bytes, all of them ASCII.
    let name = format!("{}_outbox", slot.chars().take(56).collect::<String>());
    format!(
        "pgoutbox init --publication {name} --slot {name}  -- relay stopped; then say so in \
         postgres.publication and postgres.slot, and: SELECT pg_drop_replication_slot({}); DROP \
         PUBLICATION {};",
        sql::literal(slot),
        sql::identifier(publication)
    )
}
