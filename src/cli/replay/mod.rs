//! `pgoutbox replay`: sends events once more.

mod chosen;
mod told;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use postgres_types::PgLsn;
use tokio_postgres::Client;

use super::attend::{Attendant, ended};
use super::bounds::in_order;
use super::parked::aggregate;
use super::say;
use crate::config::{AuditMode, Config, Needs, Sources, Table};
use crate::error::{Class, Fault};
use crate::gauge::Gauge;
use crate::operator::replay::{MarkFilter, Replay};
use crate::operator::usual_limits;
use crate::postgres::outbox::Outbox;
use crate::postgres::sql;
use crate::postgres::{self, Role, column, query};
use crate::rabbitmq::resend::{Fate, Item, Resender};
use crate::slot;
use crate::upkeep::horizon::{self, SlotReach};

/// Sends events once more: rows of the outbox table, or events that were discarded or
/// dead-lettered. With their own ids and the header `pgoutbox-replayed` = true, without a position,
/// in order, slowly. Neither the slot nor the relay takes notice.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Rows are sent by occurred_at and id, one of an aggregate at a time; behind one that is refused \
    no later one of its aggregate is sent. Exit code 1 where any was not delivered.\n\n\
    What was delivered in a time, as after an accident of a consumer's: --relayed-since and --relayed-until. \
    The mark is written a moment after the confirm, so take the range a few seconds wider.\n\n\
    What was committed in a time: --committed-since and --committed-until, where track_commit_timestamp \
    was on by then; sent in the order of the commits. The server knows the last transaction that wrote a row: \
    with audit.mode = update that of a marked row is the mark's, so it takes --only unrelayed then.\n\n\
    A row of the outbox does not hold the LSN of its commit, so --from-lsn and --to-lsn choose among \
    discarded and dead-lettered events only, which do.\n\n\
    Needs SELECT on the outbox table, and with --mark what marks need: better an operator's own role than \
    the relay's:\n  GRANT SELECT, UPDATE (relayed_at) ON outbox_messages TO operator;\n\n\
    Examples:\n  pgoutbox replay --id 0191… --id 0192…\n  \
    pgoutbox replay --aggregate order/7 --since 2h --dry-run\n  \
    pgoutbox replay --relayed-since 2026-11-22T10:00:00Z --relayed-until 2026-11-22T10:05:00Z\n  \
    pgoutbox replay --only unrelayed --mark\n  \
    pgoutbox replay --discarded --from-lsn 0/1A2B3C4 --to-lsn 0/1B00000"
)]
pub(super) struct Args {
    /// The row with this id; may be repeated
    #[arg(long = "id", value_name = "ID",
          value_parser = super::bounds::event_id("choose its row by --aggregate, --since or --only unrelayed"))]
    ids: Vec<String>,
    /// Rows of this aggregate
    #[arg(long, value_name = "TYPE/ID", value_parser = aggregate)]
    aggregate: Option<(String, String)>,
    /// Rows whose occurred_at is not before: 2026-11-22T10:00:00Z, 2026-11-22 (UTC), or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// Rows whose occurred_at is before
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
    /// Rows whose mark was written at this time or later
    #[arg(long, value_name = "TIME", value_parser = time)]
    relayed_since: Option<Timestamp>,
    /// Rows whose mark was written before
    #[arg(long, value_name = "TIME", value_parser = time)]
    relayed_until: Option<Timestamp>,
    /// Rows, or discarded and dead-lettered events, that were committed at this time or later
    #[arg(long, value_name = "TIME", value_parser = time)]
    committed_since: Option<Timestamp>,
    /// Rows, or discarded and dead-lettered events, that were committed before
    #[arg(long, value_name = "TIME", value_parser = time)]
    committed_until: Option<Timestamp>,
    /// relayed: rows with a mark. unrelayed: those without one that are not parked, and that the
    /// relay has had its chance at
    #[arg(long, value_name = "WHICH", default_value = "all", value_parser = ["relayed", "unrelayed", "all"])]
    only: String,
    /// Rows of this table; by default of all
    #[arg(long, value_name = "SCHEMA.TABLE")]
    table: Option<String>,
    /// Every row
    #[arg(long)]
    all: bool,
    /// The discarded or dead-lettered event with this number; may be repeated
    #[arg(long = "parked", value_name = "SEQ", conflicts_with_all = OF_ROWS)]
    seqs: Vec<i64>,
    /// All discarded events
    #[arg(long, conflicts_with_all = OF_ROWS)]
    discarded: bool,
    /// All dead-lettered events
    #[arg(long, conflicts_with_all = OF_ROWS)]
    dead_lettered: bool,
    /// Of those, the ones committed from here on
    #[arg(long, value_name = "LSN", value_parser = lsn)]
    from_lsn: Option<PgLsn>,
    /// Of those, the ones committed before
    #[arg(long, value_name = "LSN", value_parser = lsn)]
    to_lsn: Option<PgLsn>,
    /// Events in a second at most
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Mark rows that have no mark yet, once they are delivered, as audit.mode says; note on a
    /// discarded or dead-lettered event that it was replayed
    #[arg(long)]
    mark: bool,
    /// Begin behind this one, in the same order: a row's id, TABLE:ID where there are several tables, or the number
    /// of a parked event. What a replay that was interrupted says last
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// Ask nothing, on a terminal either
    #[arg(long)]
    yes: bool,
    /// Print what would be sent, and send nothing
    #[arg(long)]
    dry_run: bool,
    /// With --only unrelayed: how long the relay may take to come to what is committed now
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = super::bounds::span)]
    wait: Duration,
    /// Print what it came to as JSON
    #[arg(long)]
    json: bool,
}

/// What chooses among rows of the outbox only.
const OF_ROWS: [&str; 6] = ["ids", "since", "until", "relayed_since", "relayed_until", "all"];

pub(super) fn time(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    if let Ok(at) = text.parse::<jiff::civil::DateTime>() {
        return at.to_zoned(TimeZone::UTC).map(|at| at.timestamp()).map_err(|e| e.to_string());
    }
    let ago = super::bounds::span(text)
        .map_err(|_| "write 2026-11-22T10:00:00Z, 2026-11-22 (UTC), or 2h for two hours ago")?;
    Timestamp::now().checked_sub(ago).map_err(|error| error.to_string())
}

fn lsn(text: &str) -> Result<PgLsn, String> {
    text.parse().map_err(|_| "write an LSN, such as 0/1A2B3C4".to_owned())
}

impl Args {
    fn wants_parked(&self) -> bool {
        !self.seqs.is_empty() || self.discarded || self.dead_lettered
    }

    fn only(&self) -> MarkFilter {
        match self.only.as_str() {
            "relayed" => MarkFilter::Relayed,
            "unrelayed" => MarkFilter::Unrelayed,
            _ => MarkFilter::All,
        }
    }

    fn is_by_commit(&self) -> bool {
        self.committed_since.is_some() || self.committed_until.is_some()
    }

    fn is_by_mark(&self) -> bool {
        self.relayed_since.is_some() || self.relayed_until.is_some()
    }

    fn is_in_order(&self) -> Result<(), Fault> {
        in_order(("--since", self.since), ("--until", self.until))?;
        in_order(
            ("--committed-since", self.committed_since),
            ("--committed-until", self.committed_until),
        )?;
        in_order(("--relayed-since", self.relayed_since), ("--relayed-until", self.relayed_until))?;
        in_order(("--from-lsn", self.from_lsn), ("--to-lsn", self.to_lsn))
    }

    /// What cannot be done rightly is refused, with the reason.
    fn check(&self, config: &Config) -> Result<(), Fault> {
        self.is_in_order()?;
        let has_lsn = self.from_lsn.is_some() || self.to_lsn.is_some();
        if has_lsn && !self.wants_parked() {
            return Err(Fault::usage(
                "a row of the outbox does not hold the LSN of its commit, so none can be found by it",
                "choose rows by --relayed-since and --relayed-until (when they were delivered), by \
                 --committed-since and --committed-until, or by --since and --until (occurred_at); \
                 --from-lsn and --to-lsn go with --discarded or --dead-lettered",
            ));
        }
        let is_any = !self.ids.is_empty()
            || self.aggregate.is_some()
            || self.since.is_some()
            || self.until.is_some()
            || self.is_by_commit()
            || self.is_by_mark()
            || self.only() != MarkFilter::All
            || self.all;
        if !self.wants_parked() && !is_any {
            return Err(Fault::usage(
                "replay which events? None are selected",
                "pgoutbox replay --id ID, --aggregate TYPE/ID, --since TIME, --relayed-since TIME, --committed-since TIME, \
                 --only unrelayed, --parked SEQ, or --all",
            ));
        }
        if self.wants_parked() && self.only() != MarkFilter::All {
            return Err(Fault::usage(
                "--only chooses among rows of the outbox, not among parked events",
                "leave it out",
            ));
        }
        if self.is_by_mark() && self.only() == MarkFilter::Unrelayed {
            return Err(Fault::usage(
                "rows without a mark have no time at which it was written",
                "leave --only unrelayed out, or --relayed-since and --relayed-until",
            ));
        }
        let is_rewritten = self.only() != MarkFilter::Unrelayed
            && self.tables(config).any(|table| table.is_marked_in_rows());
        if self.is_by_commit() && !self.wants_parked() && is_rewritten {
            return Err(Fault::usage(
                "audit.mode is update: a mark rewrites the row, and when the row was first \
                 committed the server knows no more",
                "for what was delivered, choose by --relayed-since and --relayed-until, or by --since and --until \
                 (occurred_at); for what was not, add --only unrelayed",
            ));
        }
        self.tables(config).try_for_each(|table| self.check_table(config, table))
    }

    /// The tables that it is about; none where there is no such table, which is said later.
    fn tables<'c>(&self, config: &'c Config) -> impl Iterator<Item = &'c Table> {
        let wanted = self.table.clone();
        config
            .tables
            .iter()
            .filter(move |table| wanted.as_ref().is_none_or(|wanted| table.title() == *wanted))
    }

    /// Whether the marks of a table, or that it has none, say what is asked.
    fn check_table(&self, config: &Config, table: &Table) -> Result<(), Fault> {
        let what = |what: &str| match config.tables.len() {
            1 => what.to_owned(),
            _ => format!("{}: {what}", table.title()),
        };
        let fault = |why: &str, hint: &str| match config.tables.len() {
            1 => Err(Fault::usage(what(why), hint)),
            _ => {
                Err(Fault::usage(what(why), format!("{hint}; or choose another table by --table")))
            }
        };
        match table.audit_mode {
            AuditMode::None if self.is_by_mark() => fault(
                "audit.mode = none: no row is ever marked, and when it was delivered is not known",
                "choose by --since and --until (occurred_at), or by --committed-since and --committed-until",
            ),
            AuditMode::Delete if self.is_by_mark() => fault(
                "audit.mode is delete: a delivered row is gone",
                "consumers or backups may still have the event",
            ),
            AuditMode::Update if self.is_by_mark() && table.mark.time_column().is_none() => fault(
                "the mark has no time: when a row was delivered is not known",
                "choose by --since and --until (occurred_at), or add a column with \"now()\" to [tables.mark]",
            ),
            AuditMode::None if self.mark || self.only() != MarkFilter::All => fault(
                "audit.mode = none: no row is ever marked",
                "leave --mark and --only out, or choose another audit.mode",
            ),
            AuditMode::Delete if self.only() == MarkFilter::Relayed => fault(
                "audit.mode is delete: a delivered row is gone",
                "leave --only relayed out; consumers or backups may still have the event",
            ),
            _ => Ok(()),
        }
    }
}

/// Sends what was asked for, and says whether all of it was delivered.
///
/// # Errors
/// Postgres or RabbitMQ could not be reached or was lost, or the arguments are wrong.
pub(super) async fn run(args: &Args, sources: &Sources) -> Result<bool, Fault> {
    let needs = if args.dry_run { Needs::POSTGRES } else { Needs::ALL };
    let config = Config::load(sources, needs)?;
    if !config.has_patterns() {
        args.check(&config)?;
    }
    let (client, _driver) = postgres::connect(Role::Replay, &config.postgres).await?;
    let config = slot::expand(&client, &config).await?;
    args.check(&config)?;
    let outboxes = outboxes(args, &client, &config).await?;
    if args.is_by_commit() && !args.wants_parked() {
        commit_times(&client).await?;
    }
    let xmin = chance(args, &client, &config).await?;
    let is_json = args.json;
    let mut last_hint = String::new();
    let mut report = |item: &Item, fate: &Fate| told::print(item, fate, is_json, &mut last_hint);
    let mut replay = if args.dry_run {
        Replay::dry(&config, &client, &outboxes, usual_limits(&config), &mut report)
    } else {
        let resender = Resender::connect(&config, args.rate).await?;
        Replay::new(&config, &client, &outboxes, resender, args.mark, &mut report)
    };
    let after =
        args.after.as_deref().map(|after| told::place(args, &outboxes, after)).transpose()?;
    let Some(chosen) =
        chosen::choose(args, &client, &config, &outboxes, &xmin, after.as_ref(), &mut replay)
            .await?
    else {
        say("nothing was sent");
        return Ok(false);
    };
    // Not before the question: nobody could break it off.
    let (mut attendant, gauge) = (Attendant::begin(), Arc::new(Gauge::default()));
    gauge.expect(chosen.total());
    let mut replay = replay.attended(after.clone(), &gauge, attendant.shutdown());
    let title = || "replay:".to_owned();
    let sent = attendant.attend(title, &gauge, chosen.send(&args.ids, &mut replay)).await;
    let tally = match sent {
        Some(Ok(())) => attendant.attend(title, &gauge, replay.finish()).await,
        // Nothing was sent.
        Some(Err(fault)) if fault.class == Class::Usage => return Err(fault),
        Some(Err(fault)) => Some((replay.give_up().await, Err(fault))),
        None => Some((replay.give_up().await, Ok(()))),
    };
    let Some((tally, outcome)) = tally else {
        return Err(told::interrupted(&attendant, &gauge, None));
    };
    told::summary(args, &tally);
    if outcome.is_ok() && (attendant.signal.is_none() || gauge.is_full()) {
        return Ok(tally.is_complete());
    }
    let go_on = told::go_on(&outboxes, tally.last.as_ref().or(after.as_ref()));
    let done = format!("{} sent", gauge.counted());
    outcome.map_err(|fault| ended(fault, &done, &go_on))?;
    Err(told::interrupted(&attendant, &gauge, Some(&go_on)))
}

async fn outboxes(args: &Args, client: &Client, config: &Config) -> Result<Vec<Outbox>, Fault> {
    let mut outboxes = Vec::new();
    for number in 0..config.tables.len() {
        outboxes.push(Outbox::find(client, config, number).await?);
    }
    if let Some(wanted) = &args.table {
        outboxes.retain(|outbox| outbox.title() == *wanted);
        if outboxes.is_empty() {
            return Err(Fault::usage(
                format!("table {wanted} is not configured"),
                "write it as the configuration does, with its schema",
            ));
        }
    }
    for outbox in &outboxes {
        if outbox.time.is_none() && (args.since.is_some() || args.until.is_some()) {
            return Err(Fault::usage(
                format!("{} has no column for occurred_at to choose by", outbox.title()),
                "choose by --id or --aggregate, or another table by --table",
            ));
        }
        if args.aggregate.is_some() && outbox.has_aggregate != (true, true) {
            return Err(Fault::usage(
                format!("{} has no columns for aggregates to choose by", outbox.title()),
                "choose by --id or --since, or another table by --table",
            ));
        }
    }
    Ok(outboxes)
}

async fn commit_times(client: &Client) -> Result<(), Fault> {
    let rows = query(client, sql::SERVER).await?;
    if rows.first().map_or(Ok(false), |row| column(row, "has_commit_times"))? {
        return Ok(());
    }
    Err(Fault::definite(
        "track_commit_timestamp is off: this server does not keep when a transaction was committed",
        "ALTER SYSTEM SET track_commit_timestamp = on;  -- then restart Postgres: the times of commits are kept from then on. \
         Until then choose rows by --since and --until (occurred_at)",
    ))
}

/// For rows without a mark: those that the relay is about to send must not be sent twice.
async fn chance(args: &Args, client: &Client, config: &Config) -> Result<String, Fault> {
    if args.only() != MarkFilter::Unrelayed {
        return Ok(String::new());
    }
    let point = horizon::point(client).await?;
    // Where one slot is gone and another is not, rows that this one may still bring are left to it.
    let mut xmin = String::new();
    for slot in config.slots() {
        match horizon::wait(client, &slot, &point, args.wait).await? {
            SlotReach::Passed => xmin.clone_from(&point.xmin),
            SlotReach::NoSlot => {}
            SlotReach::Behind { bytes, is_active } => {
                return Err(Fault::definite(
                    format!(
                        "slot \"{slot}\" is {bytes} bytes of WAL behind: rows without a mark may still be on their way"
                    ),
                    if is_active {
                        "wait until the relay has caught up, or longer: --wait 5m"
                    } else {
                        "start the relay (pgoutbox run), then try again"
                    },
                ));
            }
        }
    }
    Ok(xmin)
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times_are_absolute_utc_or_ago() {
        let at = |text: &str| time(text).map(|at| at.to_string());
        assert_eq!(at("2026-11-22T10:00:00Z"), Ok("2026-11-22T10:00:00Z".into()));
        assert_eq!(at("2026-11-22T10:00:00+02:00"), Ok("2026-11-22T08:00:00Z".into()));
        assert_eq!(at("2026-11-22 10:00"), Ok("2026-11-22T10:00:00Z".into()));
        assert_eq!(at("2026-11-22"), Ok("2026-11-22T00:00:00Z".into()));
        assert!(time("2h").is_ok() && time("soon").is_err());
    }
}
