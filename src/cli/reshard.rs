//! `pgoutbox reshard`: spreads the outbox over another number of relays.

use std::time::Duration;

use tokio_postgres::Client;

use super::{connect, init, say};
use crate::config::{Config, MOST_SHARDS, Needs, Sources};
use crate::error::Fault;
use crate::postgres::outbox::{columns, look_up};
use crate::postgres::{column, sql};
use crate::slot::{self, Finding, Layout, Reshard};
use crate::wal::Wal;

/// Spreads the outbox over another number of relays: no event is lost, and none of an aggregate comes before an earlier
/// one. The relays of today run on until it tells them to end; start those of the new number at any time, they wait for
/// their turn.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    pgoutbox reshard --to 4 --dry-run\n  \
    pgoutbox reshard --to 4\n  \
    pgoutbox reshard --to 1")]
pub(super) struct Args {
    /// Over how many; 1: one relay has all of it
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=i64::from(MOST_SHARDS)))]
    pub to: u16,
    /// Say what would be done, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// How long relays and slots may take at each step
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = super::bounds::span)]
    pub timeout: Duration,
}

/// Spreads it, and says so step by step.
///
/// # Errors
/// A server refuses a statement, or a relay does not get on or does not end: run again, it goes on from there.
pub(super) async fn run(args: &Args, sources: &Sources) -> Result<(), Fault> {
    let asked = Config::load(sources, Needs::POSTGRES)?;
    let client = connect(&asked).await?;
    let config = slot::expand_to_make(&client, &asked.of_share(None)).await?;
    let layout = Reshard::layout(&client, &config).await?;
    let to = match layout {
        Layout { of, moving_to: Some(to), .. } if args.to == of => to,
        Layout { moving_to: Some(to), .. } if args.to != to => {
            return Err(Fault::definite(
                format!("the outbox is about to be spread over {to} relays"),
                format!(
                    "pgoutbox reshard --to {to}  -- goes on; or, to leave it as it is: pgoutbox reshard --to {}",
                    layout.of
                ),
            ));
        }
        _ => args.to,
    };
    let as_owner = init::as_owner(&config);
    let (_, identity) = Wal::connect(&as_owner.postgres).await?;
    let client = &client;
    let reshard = |from: u16, to: u16| Reshard {
        client,
        from: config.spread(from),
        to: config.spread(to),
        identity: identity.clone(),
    };
    if to != args.to {
        return give_up(&reshard(layout.of, to), args.dry_run).await;
    }
    if to == layout.of {
        if let Some(former) = layout.former.filter(|_| !args.dry_run) {
            reshard(former, to).clear().await?;
        }
        say(format_args!("the outbox is spread over {} already", relays(to)));
        return Ok(());
    }
    let reshard = reshard(layout.of, to);
    fits(client, &reshard.to).await?;
    if args.dry_run {
        return outlook(&reshard).await;
    }
    carry_out(&reshard, args.timeout).await
}

fn relays(of: u16) -> String {
    match of {
        1 => "one relay".to_owned(),
        _ => format!("{of} relays"),
    }
}

async fn give_up(reshard: &Reshard<'_>, is_dry: bool) -> Result<(), Fault> {
    let of = relays(reshard.from.postgres.shards.of);
    if is_dry {
        say(format_args!("-- would leave the outbox spread over {of}"));
        return Ok(());
    }
    reshard.give_up().await?;
    say(format_args!("the outbox stays spread over {of}"));
    Ok(())
}

/// Whether the server and the tables can be spread like that.
async fn fits(client: &Client, to: &Config) -> Result<(), Fault> {
    let flight = slot::preflight(client, to).await?;
    let counts = |finding: &&Finding| {
        let is_of_layout = finding.name == "shards-layout" || finding.name == "shards-filter";
        let kinds = ["shards-", "table-", "column-", "schema-", "wal-level"];
        !is_of_layout && kinds.iter().any(|kind| finding.name.starts_with(kind))
    };
    let findings: Vec<_> = flight.findings.iter().filter(counts).cloned().collect();
    Finding::fault(&findings).map_or(Ok(()), Err)
}

/// What would be done.
async fn outlook(reshard: &Reshard<'_>) -> Result<(), Fault> {
    let (from, to) = (&reshard.from.postgres.shards, &reshard.to.postgres.shards);
    say(format_args!("-- from {} to {}", relays(from.of), relays(to.of)));
    for share in reshard.to.of_each_share() {
        if let Some(sql) = init::publication_sql(reshard.client, &share).await? {
            say(sql);
        }
    }
    let places = reshard.places().await?;
    let furthest = places.iter().map(|place| place.settled).max();
    for place in &places {
        say(format_args!(
            "-- slot {}: settled up to {}, {} events parked; its relay ends, and it is dropped",
            place.slot, place.settled, place.parked
        ));
    }
    say(format_args!(
        "-- slots {} would begin where the last of them stands; what was settled up to {} would be left out",
        to.slots().join(", "),
        furthest.map_or_else(|| "0/0".to_owned(), |lsn| lsn.to_string()),
    ));
    Ok(())
}

async fn carry_out(reshard: &Reshard<'_>, timeout: Duration) -> Result<(), Fault> {
    for share in reshard.to.of_each_share() {
        let name = &share.postgres.publication;
        match init::publication_sql(reshard.client, &share).await? {
            Some(sql) => {
                crate::postgres::execute(reshard.client, &sql).await?;
                say(format_args!("made    publication {name}"));
            }
            None => say(format_args!("found   publication {name}")),
        }
    }
    reshard.wait_for_publications(timeout).await?;
    say(format_args!("passed  each slot of today sees them"));
    reshard.stop_relays(timeout).await?;
    let places = reshard.places().await?;
    say(format_args!("stopped the relays of {}", reshard.from.postgres.shards.slots().join(", ")));
    let begin = reshard.make_slots(&places).await?;
    let slots = reshard.to.postgres.shards.slots().join(", ");
    say(format_args!("made    slots {slots}: they begin at {begin}"));
    let without = without_aggregate(reshard.client, &reshard.to).await?;
    reshard.commit(&places, begin, &without).await?;
    let of = reshard.to.postgres.shards.of;
    let parked: i64 = places.iter().map(|place| place.parked).sum();
    say(format_args!(
        "spread  over {}: postgres.shards = {of}; {parked} parked events went with their aggregates",
        relays(of)
    ));
    reshard.clear().await?;
    say(format_args!("dropped slots {}", reshard.from.postgres.shards.slots().join(", ")));
    if reshard.from.postgres.shards.of == 1 {
        let name = sql::identifier(&reshard.from.postgres.publication);
        say(format_args!("        hint: DROP PUBLICATION {name};  -- if no other relay reads it"));
    }
    Ok(())
}

/// Tables without a column of the aggregate's id.
async fn without_aggregate(client: &Client, config: &Config) -> Result<Vec<u32>, Fault> {
    let mut without = Vec::new();
    for table in &config.tables {
        let Some(row) = look_up(client, table).await? else { continue };
        let oid: u32 = column(&row, "oid")?;
        let columns = columns(client, oid).await?;
        let name = table.share_column(|name| columns.iter().any(|column| column.name == name));
        if name != table.columns.aggregate_id.name {
            without.push(oid);
        }
    }
    Ok(without)
}
