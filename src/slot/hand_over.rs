//! A slot that begins where another stands: that of another relay, or of pgoutbox under another name.
//!
//! The server copies the slot with its place, so that what the other reader has acknowledged does not come
//! again, and all else does: no row of the table is looked at, and no mark is needed.

use tokio_postgres::Client;

use super::{Digest, SlotState, catch_up, coverage, state};
use crate::config::Config;
use crate::error::Fault;
use crate::postgres::sql;
use crate::postgres::{self, column, query};

/// After so many changes what a slot holds is not counted on.
const MOST_COUNTED: &str = "100000";

/// The slot that is to be begun at.
pub(crate) struct Predecessor<'a> {
    name: &'a str,
    state: SlotState,
}

impl<'a> Predecessor<'a> {
    /// Looks it up.
    ///
    /// # Errors
    /// It is not there, or no slot can begin where it stands.
    pub(crate) async fn find(
        client: &Client,
        config: &Config,
        name: &'a str,
    ) -> Result<Self, Fault> {
        let database = &config.postgres.audit.database;
        let Some(state) = state(client, name).await? else {
            return Err(Fault::definite(
                format!("slot \"{name}\" does not exist: there is no place to begin at"),
                "SELECT slot_name, database, confirmed_flush_lsn FROM pg_replication_slots;  -- those that are there",
            ));
        };
        let why = if state.plugin.is_none() {
            Some("it is a physical slot".to_owned())
        } else if state.database.as_ref() != Some(database) {
            Some(format!("it is of database \"{}\"", state.database.as_deref().unwrap_or_default()))
        } else {
            state.why_lost().map(|reason| format!("it is lost ({reason})"))
        };
        match why {
            Some(why) => Err(Fault::definite(
                format!("no slot can begin where \"{name}\" stands: {why}"),
                "pgoutbox init  -- without --from-slot: with marks, the rows that wait are listed and published first",
            )),
            None => Ok(Self { name, state }),
        }
    }

    /// Refuses while something has still to be done with it, and says what.
    pub(crate) async fn is_ready(&self, client: &Client, config: &Config) -> Result<(), Fault> {
        let (name, publication) = (self.name, &config.postgres.publication);
        let again = "run `pgoutbox init` with --from-slot again";
        let variables = [("from", name), ("publication", publication)];
        let rows = query(client, &sql::render(sql::SLOT_TOO_NEW, &variables)?).await?;
        let row = rows.first().ok_or_else(|| {
            Fault::transient(format!("slot \"{name}\" was there and is gone: {again}"))
        })?;
        if column::<bool>(row, "is_too_new")? && !self.knows_publication(client, config).await? {
            let lsn: String = column(row, "wal_lsn")?;
            return Err(Fault::definite(
                format!(
                    "publication \"{publication}\" is newer than what slot \"{name}\" still reads, and \
                     a slot does not see a publication that was made after"
                ),
                format!(
                    "let its reader go on beyond {lsn} (CHECKPOINT; makes that sooner), then stop it and {again}"
                ),
            ));
        }
        if self.state.is_active {
            let pid = self.state.active_pid.unwrap_or_default();
            return Err(Fault::definite(
                format!("slot \"{name}\" is in use by pid {pid}"),
                format!("stop what reads it, then {again}"),
            ));
        }
        if catch_up::report(client, name).await?.is_some_and(|report| !report.is_listed) {
            return Err(Fault::definite(
                format!("rows that slot \"{name}\" does not hold are not listed yet"),
                "pgoutbox init  -- without --from-slot: it lists them",
            ));
        }
        if catch_up::is_known(client, &config.postgres.slot).await? {
            let own = &config.postgres.slot;
            return Err(Fault::definite(
                format!("slot \"{own}\" was one of a relay here, of which there are records"),
                format!("choose another name: postgres.slot; or: pgoutbox uninstall --slot {own}"),
            ));
        }
        Ok(())
    }

    /// A relay of ours has read this slot with the publication as it is.
    async fn knows_publication(&self, client: &Client, config: &Config) -> Result<bool, Fault> {
        let asked = sql::render(sql::PROGRESS_COVERAGE, &[("slot", self.name)])?;
        let rows = query(client, &asked).await?;
        let kept: Option<i64> = rows.first().map_or(Ok(None), |row| column(row, "coverage"))?;
        let Some(kept) = kept.filter(|kept| *kept != 0) else { return Ok(false) };
        let now = coverage(client, config).await?.digest();
        Ok(Digest::of(kept).covered == now.covered)
    }

    /// Where it stands, and how many rows it holds, in words.
    pub(crate) async fn outlook(&self, client: &Client, config: &Config) -> Result<String, Fault> {
        let place = self.state.confirmed_flush_lsn.as_deref().unwrap_or("its beginning");
        let (name, publication) = (self.name, config.postgres.publication.as_str());
        let variables = [("from", name), ("publication", publication), ("most", MOST_COUNTED)];
        let rows = query(client, &sql::render(sql::SLOT_PEEK, &variables)?).await?;
        let row = rows.first().ok_or_else(|| Fault::transient("the query returned no rows"))?;
        let (rows, has_more): (i64, bool) = (column(row, "rows")?, column(row, "has_more")?);
        let least = if has_more { "at least " } else { "" };
        Ok(format!(
            "slot \"{name}\" stands at {place}; {least}{rows} rows of publication {publication} wait behind it"
        ))
    }

    /// Makes the configured slot where this one stands, and takes over what is kept of it; returns the LSN.
    ///
    /// # Errors
    /// The server's. No slot is left behind where what is kept of the other could not be taken over.
    pub(crate) async fn copy(&self, client: &Client, config: &Config) -> Result<String, Fault> {
        let own = config.postgres.slot.as_str();
        let variables = [("from", self.name), ("slot", own)];
        let rows = query(client, &sql::render(sql::SLOT_COPY, &variables)?).await?;
        let inherit = sql::render(sql::SLOT_INHERIT, &variables)?;
        if let Err(fault) = postgres::execute(client, &inherit).await {
            let drop = format!("SELECT pg_drop_replication_slot({})", sql::literal(own));
            let _ = postgres::execute(client, &drop).await;
            return Err(fault);
        }
        rows.first().map_or_else(
            || Err(Fault::transient("the query returned no rows")),
            |row| column(row, "lsn"),
        )
    }
}
