//! `pgoutbox init`: makes what is missing, in the right order.

mod slot;

use std::time::Duration;

use tokio_postgres::Client;

use super::{Roles, check, connect, say, schema};
use crate::config::{Config, Needs, PartitionSpan, Sources, Table};
use crate::error::{Class, Fault, codes};
use crate::output;
use crate::postgres::outbox::look_up;
use crate::postgres::publication_filter::PublicationFilter;
use crate::postgres::sql;
use crate::postgres::turn::Turn;
use crate::postgres::{self, column, query};
use crate::rabbitmq::declare;
use crate::slot::{self as slots, Finding, Severity, UnreadSlot, catch_up};
use crate::text::harmless;

/// Makes the outbox table, the relay's own schema, the publication and the slot, where they
/// are missing. What exists is checked, and never changed; only pgoutbox's own function is renewed
/// by a newer version.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    DATABASE_URL=postgres://owner@localhost/app pgoutbox init\n  \
    pgoutbox init --dry-run\n  \
    pgoutbox init --from-slot debezium\n  \
    pgoutbox init --shards 4\n  \
    pgoutbox init --stream-role pgoutbox_stream --audit-role pgoutbox_audit --declare")]
pub(super) struct Args {
    /// Print the SQL of what is missing, and run none of it
    #[arg(long)]
    pub dry_run: bool,
    /// Declare the exchange on RabbitMQ as well, and the queues of [[declare.queues]]; with --dry-run, say which are
    /// missing
    #[arg(long)]
    pub declare: bool,
    /// The outbox in partitions by time, of an hour, day, week or month
    #[arg(long, value_name = "SPAN", num_args = 0..=1, default_missing_value = "day", value_parser = schema::SPANS)]
    pub partitioned: Option<String>,
    /// The roles too
    #[command(flatten)]
    pub roles: Roles,
    /// Make the slot where another one stands, such as Debezium's; its reader is stopped first
    #[arg(long, value_name = "NAME")]
    pub from_slot: Option<String>,
    /// How long the slot may wait for transactions that are writing
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = super::bounds::span)]
    pub slot_timeout: Duration,
}

/// Makes what is missing, and says so of each thing.
///
/// # Errors
/// A server cannot be reached, or refuses a statement: what was made until then stays, and the next
/// run goes on from there.
pub(super) async fn run(args: &Args, sources: &Sources) -> Result<(), Fault> {
    let needs = if args.declare { Needs::ALL } else { Needs::POSTGRES };
    let asked = Config::load(sources, needs)?;
    if args.dry_run {
        return make(args, asked).await;
    }
    // Jobs of several slots may begin at once: what one makes the next one finds.
    let waits = || {
        output::err(
            "note: another pgoutbox init is at work in this database: this one waits for it",
        )
    };
    let turn = Turn::wait(&asked, "init", waits).await?;
    let made = make(args, asked).await;
    turn.end().await;
    made
}

async fn make(args: &Args, asked: Config) -> Result<(), Fault> {
    let client = connect(&asked).await?;
    let from = args.from_slot.as_deref();
    if from.is_some() && asked.postgres.shards.of > 1 {
        return Err(copy_for_all());
    }
    let mut shares = Vec::new();
    for asked in asked.of_each_share() {
        let config = slots::expand_to_make(&client, &asked).await?;
        let found = look(&client, &config).await?;
        if found.slot && !found.publication {
            return Err(slot_before_publication(&config));
        }
        if from.is_some() && found.slot {
            return Err(slot_before_copy(&config));
        }
        shares.push((asked, config, found));
    }
    let maker = Maker { client: &client, is_dry: args.dry_run };
    maker.common(args, &shares).await?;
    let mut made = Vec::new();
    for (asked, config, found) in shares {
        // Those that are in the publication.
        let config = match args.dry_run {
            true => config,
            false => slots::expand(&client, &asked).await?,
        };
        maker.slot(&config, &found, from, args.slot_timeout).await?;
        made.push(config);
    }
    if let (true, Some(config)) = (args.declare, made.first()) {
        declare(config, args.dry_run).await?;
    }
    for config in made.iter().filter(|_| !args.dry_run) {
        verify(&client, config).await?;
    }
    Ok(())
}

async fn declare(config: &Config, is_dry: bool) -> Result<(), Fault> {
    if !is_dry {
        declare::declare(config).await?.iter().for_each(say);
        return Ok(());
    }
    let missing = declare::missing(config).await?;
    missing.lines.iter().for_each(say);
    // What was printed is what is missing: this is none of it.
    if !missing.unseen.is_empty() {
        output::err(harmless(format_args!(
            "note: whether these are bound as [[declare.queues]] says, a broker does not tell: {}\n  hint: pgoutbox init --declare binds them again, which changes nothing where they are",
            missing.unseen.join(", ")
        )));
    }
    Ok(())
}

struct ExistingObjects {
    server_version: i32,
    slot: bool,
    /// It is to be recreated: the rows that wait were never listed.
    is_begun: bool,
    /// Tables are there that know of slots.
    has_own_slots: bool,
    publication: bool,
    /// Tables of the relay's own that are not there; `None` where their schema is not.
    missing: Option<Vec<String>>,
    enqueue: bool,
}

/// Looks before anything is made, so that what cannot end well does not begin.
async fn look(client: &Client, config: &Config) -> Result<ExistingObjects, Fault> {
    let flight = slots::preflight(client, config).await?;
    let rows = query(client, sql::SERVER).await?;
    let row = rows.first().ok_or_else(|| Fault::transient("the query returned no rows"))?;
    if column::<String>(row, "wal_level")? != "logical" {
        let stands_against = |finding: &&Finding| finding.name == "wal-level";
        let finding = flight.findings.iter().find(stands_against);
        let (what, hint) = finding.map_or(("wal_level is not logical", ""), |f| (&f.what, &f.hint));
        return Err(Fault::definite(what, hint));
    }
    // Of tables that are there: what is made beside them would serve nothing.
    let is_of_table = |finding: &Finding| {
        let kinds = ["shards-", "table-", "column-", "partition-", "mark-", "replica-identity-"];
        finding.name != "table-missing" && kinds.iter().any(|kind| finding.name.starts_with(kind))
    };
    let of_tables: Vec<_> = flight.findings.iter().filter(|f| is_of_table(f)).cloned().collect();
    if let Some(fault) = Finding::fault(&of_tables) {
        return Err(fault);
    }
    let schema = query(client, sql::CHECK_SCHEMA).await?;
    let own = schema.first().ok_or_else(|| Fault::transient("the query returned no rows"))?;
    let has_catch_up = column::<bool>(own, "has_catch_up")?;
    let report = match has_catch_up {
        true => catch_up::report(client, &config.postgres.slot).await?,
        false => None,
    };
    Ok(ExistingObjects {
        is_begun: report.is_some_and(|report| !report.is_listed),
        has_own_slots: has_catch_up,
        server_version: flight.server_version,
        slot: flight.slot.is_some(),
        publication: flight.has_publication,
        missing: match column(own, "has_schema")? {
            true => Some(column(own, "missing")?),
            false => None,
        },
        enqueue: column(own, "has_enqueue")?,
    })
}

/// A slot reads the catalog as it was when each row was written: one made before the
/// publication stops at the first row (14 to 17), or passes over them in silence (18).
fn slot_before_publication(config: &Config) -> Fault {
    let slot = &config.postgres.slot;
    Fault::definite(
        format!(
            "slot \"{slot}\" exists, but publication \"{}\" does not: a slot cannot use a \
             publication made after it; events committed since then are in the rows with \
             no mark",
            config.postgres.publication
        ),
        format!(
            "SELECT pg_drop_replication_slot({});  -- then run `pgoutbox init` again",
            sql::literal(slot)
        ),
    )
}

/// One that is there stands where it stands.
fn slot_before_copy(config: &Config) -> Fault {
    let slot = &config.postgres.slot;
    Fault::definite(
        format!("slot \"{slot}\" exists already: it cannot begin where another one stands"),
        format!(
            "choose another name: postgres.slot; or, if nobody needs it: SELECT pg_drop_replication_slot({});  -- then run `pgoutbox init` again",
            sql::literal(slot)
        ),
    )
}

/// One place is not one for each of several slots.
fn copy_for_all() -> Fault {
    Fault::definite(
        "an outbox that is spread over several relays cannot begin where one slot stands",
        "pgoutbox init --shards 1 --from-slot …  -- then: pgoutbox reshard",
    )
}

struct Maker<'a> {
    client: &'a Client,
    is_dry: bool,
}

impl Maker<'_> {
    /// All but the slots: what is one for all shares, and the publications.
    async fn common(
        &self,
        args: &Args,
        shares: &[(Config, Config, ExistingObjects)],
    ) -> Result<(), Fault> {
        let Some((asked, config, found)) = shares.first() else { return Ok(()) };
        for table in &config.tables {
            let span = args.partitioned.as_deref().and_then(PartitionSpan::read);
            self.table(config, table, found, span).await?;
        }
        self.own_schema(found).await?;
        self.enqueue(asked, found).await?;
        self.emit(config).await?;
        self.layout(config).await?;
        for (_, config, found) in shares {
            self.publication(config, found).await?;
        }
        if let Some((stream, audit)) = args.roles.both() {
            self.roles(config, stream, audit).await?;
        }
        Ok(())
    }

    /// Over how many relays the outbox is spread: before the first slot, so that no relay of another layout
    /// begins.
    async fn layout(&self, config: &Config) -> Result<(), Fault> {
        if config.postgres.shards.of == 1 {
            return Ok(());
        }
        let sql = schema::layout(config)?;
        if self.is_dry {
            say(sql);
            return Ok(());
        }
        postgres::execute(self.client, &sql).await
    }

    async fn make(&self, what: &str, sql: &str) -> Result<(), Fault> {
        self.carry_out("made", what, sql).await
    }

    async fn carry_out(&self, verb: &str, what: &str, sql: &str) -> Result<(), Fault> {
        if self.is_dry {
            say(sql);
            return Ok(());
        }
        postgres::execute(self.client, sql).await.map_err(|mut fault| {
            fault.what = format!("{what}: {}", fault.what);
            fault
        })?;
        say(format_args!("{verb:8}{what}"));
        Ok(())
    }

    fn found(&self, what: &str) {
        // A dry run prints what is to be run.
        if !self.is_dry {
            say(format_args!("found   {what}"));
        }
    }

    async fn columns(&self, table: &Table) -> Result<Option<Vec<(String, String)>>, Fault> {
        let Some(row) = look_up(self.client, table).await? else { return Ok(None) };
        let oid = column::<u32>(&row, "oid")?.to_string();
        let variables = [("relation", oid.as_str()), ("publication", "")];
        let rows = query(self.client, &sql::render(sql::CHECK_COLUMNS, &variables)?).await?;
        let pair = |row| Ok((column(row, "name")?, column(row, "type_name")?));
        rows.iter().map(pair).collect::<Result<_, Fault>>().map(Some)
    }

    async fn table(
        &self,
        config: &Config,
        table: &Table,
        found: &ExistingObjects,
        span: Option<PartitionSpan>,
    ) -> Result<(), Fault> {
        let what = format!("table {}.{}", table.schema, table.name);
        if self.columns(table).await?.is_some() {
            self.found(&what);
            return Ok(());
        }
        if let Some(maker) = table.maker {
            return Err(Fault::definite(
                format!(
                    "{what} does not exist, and its preset is of one that another library makes"
                ),
                format!("{maker}; then run `pgoutbox init` again"),
            ));
        }
        if let Some(other) = foreign_column(table) {
            return Err(Fault::definite(
                format!("{what} does not exist, and the default one has no column \"{other}\""),
                "create your table, or take your column names out of the configuration",
            ));
        }
        let outcome =
            self.make(&what, &schema::outbox(config, table, found.server_version, span)?).await;
        outcome.map_err(|fault| {
            if fault.is_code(codes::INVALID_SCHEMA_NAME) {
                return fault.hint(format!("CREATE SCHEMA {};", sql::identifier(&table.schema)));
            }
            fault
        })
    }

    async fn own_schema(&self, found: &ExistingObjects) -> Result<(), Fault> {
        let what = match &found.missing {
            Some(missing) if missing.is_empty() => {
                self.found("schema pgoutbox");
                return Ok(());
            }
            Some(missing) => {
                format!("schema pgoutbox, of which were missing: {}", missing.join(", "))
            }
            None => "schema pgoutbox".to_owned(),
        };
        self.make(&what, sql::INIT_SCHEMA).await
    }

    /// The function is pgoutbox's own, so a newer one replaces an older.
    async fn enqueue(&self, config: &Config, found: &ExistingObjects) -> Result<(), Fault> {
        let mut tables = config.tables.iter().filter(|it| !it.is_pattern);
        let Some(table) = tables.next() else { return Ok(()) };
        // In a dry run the table may not be there yet; the default one has all columns.
        if let Some(columns) = self.columns(table).await? {
            let has = |name: &str, of: &str| {
                columns.iter().any(|(n, t)| n == name && (of.is_empty() || t == of))
            };
            let lacks = ENQUEUED.into_iter().find(|(name, of)| !has(name, of));
            if let Some((name, of)) = lacks {
                // A dry run prints what is missing, and this is not.
                if !self.is_dry {
                    say(format_args!(
                        "skipped function pgoutbox.enqueue: {}.{} has no column {name} {of}",
                        table.schema, table.name
                    ));
                }
                return Ok(());
            }
        }
        let what = "function pgoutbox.enqueue";
        if found.enqueue && self.is_same_function(table).await? {
            self.found(what);
            return Ok(());
        }
        let verb = if found.enqueue { "renewed" } else { "made" };
        self.carry_out(verb, what, &schema::enqueue(table)?).await
    }

    /// Functions of pgoutbox's own, likewise.
    async fn emit(&self, config: &Config) -> Result<(), Fault> {
        if config.messages.is_empty() {
            return Ok(());
        }
        let bodies: Vec<&str> = sql::INIT_EMIT.split("$emit$").skip(1).step_by(2).collect();
        let bodies = serde_json::json!(bodies).to_string();
        let asked = sql::render(sql::INIT_EMIT_KNOWN, &[("bodies", &bodies)])?;
        let rows = query(self.client, &asked).await?;
        let is = |name| rows.first().map_or(Ok(false), |row| column::<bool>(row, name));
        let what = "functions pgoutbox.emit";
        if is("is_same")? {
            self.found(what);
            return Ok(());
        }
        let verb = if is("is_there")? { "renewed" } else { "made" };
        self.carry_out(verb, what, sql::INIT_EMIT).await
    }

    /// Whether the function is there as this version makes it for this table.
    async fn is_same_function(&self, table: &Table) -> Result<bool, Fault> {
        let body = sql::INIT_ENQUEUE.split("$enqueue$").nth(1).unwrap_or_default();
        let variables = [("schema", table.schema.as_str()), ("table", &table.name), ("body", body)];
        let rows = query(self.client, &sql::render(sql::INIT_ENQUEUE_KNOWN, &variables)?).await?;
        rows.first().map_or(Ok(false), |row| column(row, "is_same"))
    }

    async fn publication(&self, config: &Config, found: &ExistingObjects) -> Result<(), Fault> {
        let what = format!("publication {}", config.postgres.publication);
        if found.publication {
            self.found(&what);
            return Ok(());
        }
        self.make(&what, &publication(self.client, config, found.server_version).await?).await
    }

    /// The SQL of the roles and grants that are not there.
    async fn missing_grants(
        &self,
        config: &Config,
        stream: &str,
        audit: &str,
    ) -> Result<Vec<String>, Fault> {
        let mut missing = Vec::new();
        let asked = query(self.client, &schema::roles_known(config, stream, audit)?).await?;
        if !asked.first().map_or(Ok(false), |row| column::<bool>(row, "is_there"))? {
            missing.push(schema::roles(config, stream, audit)?);
        }
        for part in schema::grants(config, audit)? {
            let asked = query(self.client, &schema::grants_known(part.table, audit)?).await?;
            // In a dry run the table may not be there yet.
            if !asked.first().map_or(Ok(false), |row| column::<bool>(row, part.known_as))? {
                missing.push(part.sql);
            }
        }
        Ok(missing)
    }

    async fn roles(&self, config: &Config, stream: &str, audit: &str) -> Result<(), Fault> {
        let missing = self.missing_grants(config, stream, audit).await?;
        let what = format!("roles {stream} and {audit}, with their grants");
        if missing.is_empty() {
            self.found(&what);
            return Ok(());
        }
        let what = format!("{what}; without passwords: use \\password");
        let made = self.make(&what, &missing.join("\n")).await;
        made.map_err(|mut fault| {
            if !fault.is_code(codes::INSUFFICIENT_PRIVILEGE) {
                return fault;
            }
            // The roles are made within a DO block; what a function raises is not definite by itself.
            fault.class = Class::Definite;
            // Managed servers have no superuser, and before Postgres 16 nobody else makes the first.
            fault.hint(format!(
                "as the server's administrator: CREATE ROLE {stream} LOGIN REPLICATION; CREATE ROLE {audit} LOGIN;  \
                 -- Amazon RDS: CREATE ROLE {stream} LOGIN; GRANT rds_replication TO {stream}; then run this again, as the owner of the table"
            ))
        })
    }
}

/// The SQL of the publication, with its row filters.
async fn publication(client: &Client, config: &Config, version: i32) -> Result<String, Fault> {
    let mut filters = Vec::new();
    for table in &config.tables {
        let name = &config.postgres.publication;
        filters.push(match look_up(client, table).await? {
            Some(_) => PublicationFilter::look(client, name, table).await?.into_made(),
            // In a dry run it may not be there yet.
            None => schema::default_filter(table, version / 10_000),
        });
    }
    schema::publication(config, &filters)
}

/// The same where the publication is not there.
pub(super) async fn publication_sql(
    client: &Client,
    config: &Config,
) -> Result<Option<String>, Fault> {
    let flight = slots::preflight(client, config).await?;
    match flight.has_publication {
        true => Ok(None),
        false => publication(client, config, flight.server_version).await.map(Some),
    }
}

/// As the owner, who made everything else: the stream's role may have no password yet.
pub(super) fn as_owner(config: &Config) -> Config {
    let mut config = config.clone();
    config.postgres.stream = config.postgres.audit.clone();
    config
}

/// The columns that `pgoutbox.enqueue` writes, and the types it cannot do without.
const ENQUEUED: [(&str, &str); 7] = [
    ("id", "uuid"),
    ("topic", ""),
    ("payload", "jsonb"),
    ("headers", "jsonb"),
    ("aggregate_type", ""),
    ("aggregate_id", ""),
    ("event_type", ""),
];

/// A column that the configuration names and the default table does not have.
fn foreign_column(table: &Table) -> Option<&str> {
    const DEFAULT: [&str; 12] = [
        "id",
        "aggregate_type",
        "aggregate_id",
        "event_type",
        "topic",
        "payload",
        "headers",
        "occurred_at",
        "attempt",
        "relayed_at",
        "failed_at",
        "last_error",
    ];
    let columns = &table.columns;
    let all = [
        &columns.id,
        &columns.message_id,
        &columns.aggregate_type,
        &columns.aggregate_id,
        &columns.event_type,
        &columns.topic,
        &columns.payload,
        &columns.headers,
        &columns.occurred_at,
        &columns.correlation_id,
        &columns.content_type,
        &columns.traceparent,
        &columns.tracestate,
    ];
    let is_foreign = |name: &str| !name.is_empty() && !DEFAULT.contains(&name);
    let named = all.into_iter().filter(|c| c.is_explicit).map(|c| c.name.as_str());
    named.chain(table.mark.names()).find(|name| is_foreign(name))
}

/// What was found was not made here, so it is looked at like `check` does.
async fn verify(client: &Client, config: &Config) -> Result<(), Fault> {
    let flight = slots::preflight(client, config).await?;
    let unread = slots::unread(client, config).await?;
    let unread = unread.iter().map(UnreadSlot::finding);
    let sharing = slots::sharing(client, config, &flight.tables).await?;
    let all = flight.findings.iter().cloned().chain(unread).chain(sharing);
    for Finding { what, hint, .. } in all.filter(|f| f.severity == Severity::Warning) {
        say(format_args!("warning {what}\n        hint: {hint}"));
    }
    flight.ready(config)?;
    // Of rows that were there before.
    let tried = check::marks::look(client, config).await;
    Finding::fault(&tried).map_or(Ok(()), Err)
}
