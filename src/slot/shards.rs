//! The outbox spread over several relays: whether the server can, and whether the relay is one of those that it is
//! spread over now.

use tokio_postgres::Client;

use super::{Finding, catch_up};
use crate::config::{Config, Table};
use crate::error::{Fault, Kind};
use crate::postgres::publication_filter::{self, PublicationFilter};
use crate::postgres::share;
use crate::postgres::sql;
use crate::postgres::{column, query};

/// Over how many relays an outbox is spread, as the database has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// So many; 1: over none.
    pub of: u16,
    /// `pgoutbox reshard` is under way.
    pub moving_to: Option<u16>,
    /// Slots of so many may be left.
    pub former: Option<u16>,
}

impl Layout {
    /// One that was never spread.
    pub(crate) const ONE: Self = Self { of: 1, moving_to: None, former: None };

    /// Looks it up. `pgoutbox.layout` must be there.
    ///
    /// # Errors
    /// The connection is lost, or the role may not read it.
    pub(crate) async fn find(client: &Client, config: &Config) -> Result<Option<Self>, Fault> {
        let slot = [("slot", config.postgres.shards.slot.as_str())];
        let rows = query(client, &sql::render(sql::SHARDS_LAYOUT, &slot)?).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let number = |number: i32| u16::try_from(number).unwrap_or(1);
        Ok(Some(Self {
            of: number(column(row, "shards")?),
            moving_to: column::<Option<i32>>(row, "moving_to")?.map(number),
            former: column::<Option<i32>>(row, "former")?.map(number),
        }))
    }

    /// One relay has read all of it, and nobody has ever spread it.
    async fn of_one(client: &Client, config: &Config) -> Result<Option<Self>, Fault> {
        let shards = &config.postgres.shards;
        let is_it = shards.of > 1 && catch_up::is_known(client, &shards.slot).await?;
        Ok(is_it.then_some(Self::ONE))
    }

    /// What stands against a relay that is configured for another one.
    fn finding(self, config: &Config) -> Option<Finding> {
        let (slot, of) = (&config.postgres.shards.slot, config.postgres.shards.of);
        let relays = |of: u16| match of {
            1 => "one relay".to_owned(),
            _ => format!("{of} relays"),
        };
        if let Some(to) = self.moving_to {
            return Some(Finding::error(
                "shards-layout",
                format!("the outbox of slot \"{slot}\" is about to be spread over {}", relays(to)),
                format!("wait; or, where that was interrupted: pgoutbox reshard --to {to}"),
            ));
        }
        (self.of != of).then(|| {
            Finding::error(
                "shards-layout",
                format!(
                    "the outbox of slot \"{slot}\" is spread over {}, and postgres.shards is {of}",
                    relays(self.of)
                ),
                format!(
                    "set postgres.shards = {}; or spread it otherwise: pgoutbox reshard --to {of}",
                    self.of
                ),
            )
        })
    }
}

/// Refuses a relay of another layout. To be asked once the slot is taken as well: whoever spreads the outbox
/// otherwise says so first, and then waits until nobody has a slot.
///
/// # Errors
/// It is spread otherwise, or the connection is lost.
pub(crate) async fn is_of_layout(client: &Client, config: &Config) -> Result<(), Fault> {
    let layout = Layout::find(client, config).await?;
    let finding = layout.and_then(|layout| layout.finding(config));
    finding.map_or(Ok(()), |Finding { name, what, hint, .. }| {
        Err(Fault::definite(what, hint).found(Some(name)))
    })
}

/// What stands against spreading it, as it is configured.
pub(super) async fn look(
    client: &Client,
    config: &Config,
    (version, version_text): (i32, String),
    has_layout: bool,
) -> Result<Vec<Finding>, Fault> {
    let layout = match has_layout {
        true => Layout::find(client, config).await?.or(Layout::of_one(client, config).await?),
        false => None,
    };
    let mut findings: Vec<_> =
        layout.and_then(|layout| layout.finding(config)).into_iter().collect();
    let of = config.postgres.shards.of;
    if of == 1 {
        return Ok(findings);
    }
    if version < 150_000 {
        findings.push(Finding::error(
            "shards-unsupported",
            format!("postgres.shards is {of}, and Postgres {version_text} cannot filter the rows of a publication"),
            "set postgres.shards = 1, or use Postgres 15 or newer",
        ));
        return Ok(findings);
    }
    let asked = sql::render(sql::CHECK_SHARE_HASH, &[("text", share::PROBE)])?;
    let theirs = match query(client, &asked).await {
        Ok(rows) => rows.first().map(|row| column::<i64>(row, "hash")).transpose()?,
        // Its encoding has no such letter.
        Err(fault) if matches!(fault.kind, Kind::Sql(code) if code.class() == "22") => None,
        Err(fault) => return Err(fault),
    };
    if theirs != Some(share::probe_hash()) {
        findings.push(Finding::error(
            "shards-hash",
            "the server hashes texts otherwise than the relay: its encoding is not UTF8, or its byte order is another",
            "set postgres.shards = 1, or move to a database of encoding UTF8",
        ));
    }
    for table in &config.tables {
        findings.extend(unshared(client, config, table).await?);
    }
    if findings.is_empty()
        && let Some(share) = config.postgres.share
    {
        findings.push(Finding::good("shards", format!("shard {} of {of}", share.number)));
    }
    Ok(findings)
}

async fn unshared(
    client: &Client,
    config: &Config,
    table: &Table,
) -> Result<Option<Finding>, Fault> {
    // Of any share the same is to be said.
    let share = config.postgres.share.or_else(|| config.postgres.shards.shares().next());
    let table = Table { share, ..table.clone() };
    let publication = &config.postgres.publication;
    let found = PublicationFilter::look(client, publication, &table).await?;
    if let (Some(is), Some(wanted), true) =
        (&found.is, &found.wanted, config.postgres.share.is_some())
        && !found.has_share(client).await?
    {
        // What it lets pass and is not of the share is left out here, and comes nowhere else. One without a filter
        // is looked at with the publication.
        return Ok(Some(Finding::error(
            "shards-filter",
            format!(
                "publication \"{publication}\" filters the rows of {} otherwise than its share asks for; its filter \
                 is {is}",
                table.title()
            ),
            publication_filter::set(publication, &table, wanted),
        )));
    }
    Ok(found.unshared.map(|name| {
        Finding::error(
            "shards-column",
            format!(
                "the rows of {} cannot be spread by column \"{name}\": a row filter takes only text, varchar, char, uuid, \
                 smallint, integer, bigint and numeric",
                table.title()
            ),
            "map aggregate_id to a column of such a type (columns.aggregate_id), or set postgres.shards = 1",
        )
    }))
}
