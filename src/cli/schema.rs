//! `pgoutbox schema`: the SQL that `init` runs, for those who run it themselves.

use std::time::Duration;

use super::Roles;
use crate::config::{AuditMode, Config, Needs, PartitionSpan, Sources, Table};
use crate::core::partition;
use crate::error::Fault;
use crate::postgres::publication_filter::wanted;
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
    let shares = config.of_each_share();
    if config.postgres.shards.of > 1 {
        if args.server_version < 15 {
            return Err(Fault::usage(
                "before Postgres 15 a publication cannot filter rows: the outbox cannot be spread",
                "say which server it is for: --server-version 15; or set postgres.shards = 1",
            ));
        }
        parts.push(layout(&config)?);
    }
    for config in &shares {
        let filter = |table: &Table| default_filter(table, args.server_version);
        let filters: Vec<_> = config.tables.iter().map(filter).collect();
        parts.push(publication(config, &filters)?);
    }
    if let Some((stream, audit)) = args.roles.both() {
        parts.push(roles(&config, stream, audit)?);
        let grants = grants(&config, audit)?.into_iter().map(|part| part.sql).collect();
        parts.extend::<Vec<_>>(grants);
    }
    for config in &shares {
        parts.push(slot::creation(config, Duration::from_secs(30))?);
    }
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
    let type_name = if column == "id" { "uuid" } else { "text" };
    (column == "id" || texts.contains(&column)).then(|| type_name.to_owned())
}

/// By what the rows of a table are filtered, as the default table has its columns.
pub(super) fn default_filter(table: &Table, server_version: i32) -> Option<String> {
    let filter = wanted(table, default_type, |name| default_type(name).is_some() || name == "id");
    filter.ok().flatten().filter(|_| server_version >= 15)
}

/// Over how many relays the outbox is spread.
pub(super) fn layout(config: &Config) -> Result<String, Fault> {
    let shards = &config.postgres.shards;
    let of = shards.of.to_string();
    sql::render(sql::SHARDS_RECORD, &[("slot", shards.slot.as_str()), ("shards", &of)])
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

/// The roles, and what they may do with pgoutbox's own tables.
pub(super) fn roles(config: &Config, stream: &str, audit: &str) -> Result<String, Fault> {
    sql::render(sql::INIT_ROLES, &of_roles(config, stream, audit))
}

/// Whether they are there.
pub(super) fn roles_known(config: &Config, stream: &str, audit: &str) -> Result<String, Fault> {
    sql::render(sql::INIT_ROLES_KNOWN, &of_roles(config, stream, audit))
}

fn of_roles<'a>(
    config: &'a Config,
    stream: &'a str,
    audit: &'a str,
) -> [(&'static str, &'a str); 3] {
    let database = config.postgres.audit.database.as_str();
    [("stream_role", stream), ("audit_role", audit), ("database", database)]
}

/// What the audit role may do with one table, in one file of `sql/grants/`.
pub(super) struct GrantsPart<'a> {
    pub(super) table: &'a Table,
    /// What `init/grants_known.sql` calls it.
    pub(super) known_as: &'static str,
    pub(super) sql: String,
}

/// What the audit role needs of each table.
pub(super) fn grants<'a>(config: &'a Config, audit: &str) -> Result<Vec<GrantsPart<'a>>, Fault> {
    let mut parts: Vec<GrantsPart<'_>> = Vec::new();
    for table in &config.tables {
        let mut wanted = vec![("parked", sql::GRANTS_PARKED), ("type", sql::GRANTS_TYPE)];
        wanted.extend(match table.audit_mode {
            AuditMode::Update => Some(("update", sql::GRANTS_UPDATE)),
            AuditMode::Delete => Some(("delete", sql::GRANTS_DELETE)),
            AuditMode::SideTable => Some(("side_table", sql::GRANTS_SIDE_TABLE)),
            AuditMode::None => None,
        });
        if table.has_marks() {
            let is_pruning = config.prune.keep.is_some();
            let rest = [
                (config.is_catching_up(), "catch_up", sql::GRANTS_CATCH_UP),
                (is_pruning, "prune", sql::GRANTS_PRUNE),
                (true, "reconcile", sql::GRANTS_RECONCILE),
                // To read whole rows, likewise.
                (config.reconcile.republishes, "catch_up", sql::GRANTS_REPLAY),
            ];
            let rest = rest.into_iter().filter(|(is_wanted, ..)| *is_wanted);
            wanted.extend(rest.map(|(_, known_as, file)| (known_as, file)));
        }
        for (known_as, file) in wanted {
            let sql = grants_for(file, table, audit)?;
            // What is no matter of the table is the same for each.
            if parts.iter().all(|part| part.sql != sql) {
                parts.push(GrantsPart { table, known_as, sql });
            }
        }
    }
    Ok(parts)
}

/// Which of them the role has already.
pub(super) fn grants_known(table: &Table, audit: &str) -> Result<String, Fault> {
    grants_for(sql::INIT_GRANTS_KNOWN, table, audit)
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
