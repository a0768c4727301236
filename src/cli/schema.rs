//! `pgoutbox schema`: the SQL that `init` runs, for those who run it themselves.

use std::time::Duration;

use super::Roles;
use crate::config::{Config, Needs, PartitionSpan, Sources, Table};
use crate::core::partition;
use crate::error::Fault;
use crate::postgres::grants::mark_grants;
use crate::postgres::publication_filter::of_rule;
use crate::postgres::sql;
use crate::slot::{self, grants_for};

/// Prints the SQL of the outbox, the publication, the slot and the roles. Connects to nothing.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Examples:\n  \
    pgoutbox schema | psql -v ON_ERROR_STOP=1 app\n  \
    pgoutbox schema --stream-role pgoutbox_stream --audit-role pgoutbox_audit")]
pub(super) struct Args {
    /// Major version of the server: from 18 on, ids rise with time
    #[arg(long, value_name = "MAJOR", default_value_t = 14, value_parser = clap::value_parser!(i32).range(14..=99))]
    pub server_version: i32,
    /// The outbox in partitions by time, of an hour, day, week or month
    #[arg(long, value_name = "SPAN", num_args = 0..=1, default_missing_value = "day", value_parser = SPANS)]
    pub partitioned: Option<String>,
    /// The roles too
    #[command(flatten)]
    pub roles: Roles,
    /// What `uninstall` runs, instead
    #[arg(long, conflicts_with_all = ["stream_role", "audit_role"])]
    pub uninstall: bool,
}

/// The SQL, in the order in which it must run.
pub(super) fn run(args: &Args, sources: &Sources) -> Result<String, Fault> {
    let mut config = Config::load(sources, Needs::NONE)?;
    if args.uninstall {
        return uninstall(&config);
    }
    let mut parts = Vec::new();
    for pattern in config.tables.extract_if(.., |table| table.is_pattern) {
        parts.push(format!(
            "-- Tables that match {}: whoever makes one puts it into the publication, and grants what `pgoutbox \
             check` says.\n",
            pattern.title()
        ));
    }
    for table in &config.tables {
        if let Some(maker) = table.maker {
            parts.push(format!("-- Table {}: {maker}.\n", table.title()));
            continue;
        }
        let span = args.partitioned.as_deref().and_then(PartitionSpan::read);
        parts.push(outbox(&config, table, args.server_version * 10_000, span)?);
    }
    parts.push(sql::INIT_SCHEMA.to_owned());
    if let Some(table) = config.tables.first().filter(|table| table.maker.is_none()) {
        parts.push(enqueue(table)?);
    }
    if !config.messages.is_empty() {
        parts.push(sql::INIT_EMIT.to_owned());
    }
    let can_filter = args.server_version >= 15;
    let filter = |table: &Table| of_rule(table, default_type).filter(|_| can_filter);
    let filters: Vec<_> = config.tables.iter().map(filter).collect();
    parts.push(publication(&config, &filters)?);
    if let Some((stream, audit)) = args.roles.both() {
        parts.extend(roles(&config, stream, audit)?);
    }
    parts.push(slot::creation(&config, Duration::from_secs(30))?);
    Ok(parts.join("\n"))
}

/// Spans of partitions, as they are written.
pub(super) const SPANS: [&str; 4] = ["hour", "day", "week", "month"];

/// The default table; in partitions, with those of the present and of the time ahead.
pub(super) fn outbox(
    config: &Config,
    table: &Table,
    server_version: i32,
    span: Option<PartitionSpan>,
) -> Result<String, Fault> {
    let new_id = if server_version >= 180_000 { "uuidv7" } else { "gen_random_uuid" };
    let variables = [("schema", table.schema.as_str()), ("table", &table.name), ("new_id", new_id)];
    let Some(span) = span else { return sql::render(sql::INIT_OUTBOX, &variables) };
    let default = partition::default_name(&table.name);
    let mut out = sql::render(
        sql::INIT_OUTBOX_PARTITIONED,
        &[variables.as_slice(), &[("default", &default)]].concat(),
    )?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    for (lower, upper) in partition::missing(span, now, config.prune.partitions_ahead, &[]) {
        let name = partition::name(&table.name, span, lower);
        let (lower, upper) = (partition::bound(lower), partition::bound(upper));
        let bounds = [("partition", name.as_str()), ("lower", &lower), ("upper", &upper)];
        let names = [
            ("schema", table.schema.as_str()),
            ("table", &table.name),
            ("comment", partition::MADE),
        ];
        out.push_str(&sql::render(sql::PARTITION_CREATE, &[names.as_slice(), &bounds].concat())?);
    }
    Ok(out)
}

/// The function that writes into the first table.
pub(super) fn enqueue(table: &Table) -> Result<String, Fault> {
    sql::render(sql::INIT_ENQUEUE, &[("schema", &table.schema), ("table", &table.name)])
}

/// The types of columns of the default table by which rows may be left out.
pub(super) fn default_type(column: &str) -> Option<String> {
    let texts = ["topic", "event_type", "aggregate_type", "aggregate_id"];
    texts.contains(&column).then(|| "text".to_owned())
}

/// The publication with every table, each with its row filter; an empty one where there is none.
pub(super) fn publication(config: &Config, filters: &[Option<String>]) -> Result<String, Fault> {
    if config.tables.is_empty() {
        let publication = ("publication", config.postgres.publication.as_str());
        return sql::render(sql::INIT_PUBLICATION_EMPTY, &[publication]);
    }
    let mut out = String::new();
    for (number, table) in config.tables.iter().enumerate() {
        let file = if number == 0 { sql::INIT_PUBLICATION } else { sql::INIT_PUBLICATION_TABLE };
        let filter = filters.get(number).and_then(Option::as_ref);
        let filter = filter.map_or_else(String::new, |filter| format!("WHERE ({filter})"));
        let variables = [
            ("publication", config.postgres.publication.as_str()),
            ("schema", &table.schema),
            ("table", &table.name),
            ("where", &filter),
        ];
        out.push_str(&sql::render(file, &variables)?);
    }
    Ok(out)
}

/// The roles and what each table's marks need.
pub(super) fn roles(config: &Config, stream: &str, audit: &str) -> Result<Vec<String>, Fault> {
    let database = config.postgres.audit.database.as_str();
    let variables = [("stream_role", stream), ("audit_role", audit), ("database", database)];
    let mut parts = vec![sql::render(sql::INIT_ROLES, &variables)?];
    for table in &config.tables {
        parts.push(grants_for(sql::GRANTS_PARKED, table, audit)?);
        parts.push(grants_for(sql::GRANTS_TYPE, table, audit)?);
    }
    let marked = || config.tables.iter().filter(|table| table.has_marks());
    for table in marked() {
        let grants = mark_grants(table.audit_mode).unwrap_or_default();
        parts.push(grants_for(grants, table, audit)?);
        if config.is_catching_up() {
            parts.push(grants_for(sql::GRANTS_CATCH_UP, table, audit)?);
        }
    }
    for table in marked().filter(|_| config.prune.keep.is_some()) {
        parts.push(grants_for(sql::GRANTS_PRUNE, table, audit)?);
    }
    parts.dedup();
    for table in marked() {
        parts.push(grants_for(sql::GRANTS_RECONCILE, table, audit)?);
        if config.reconcile.republishes {
            parts.push(grants_for(sql::GRANTS_REPLAY, table, audit)?);
        }
    }
    Ok(parts)
}

/// What `uninstall` runs where other relays' slots are in the database.
pub(super) fn uninstall_share(config: &Config) -> Result<String, Fault> {
    sql::render(sql::INIT_UNINSTALL_SHARE, &[("slot", &config.postgres.slot)])
}

/// What `uninstall` runs.
pub(super) fn uninstall(config: &Config) -> Result<String, Fault> {
    let postgres = &config.postgres;
    sql::render(
        sql::INIT_UNINSTALL,
        &[("slot", &postgres.slot), ("publication", &postgres.publication)],
    )
}
