//! The slot: made where events are committed from now on, with the rows that wait listed before it, or
//! made where another slot stands.

use std::time::Duration;

use super::{ExistingObjects, Maker, as_owner};
use crate::cli::say;
use crate::config::Config;
use crate::error::Fault;
use crate::postgres;
use crate::postgres::sql;
use crate::slot::catch_up::{self, Patience};
use crate::slot::{self, Finding, Predecessor};

impl Maker<'_> {
    pub(super) async fn slot(
        &self,
        config: &Config,
        found: &ExistingObjects,
        from: Option<&str>,
        timeout: Duration,
    ) -> Result<(), Fault> {
        let slot = &config.postgres.slot;
        let is_marking = config.has_marks();
        if let Some(from) = from {
            return self.copied(config, found, from).await;
        }
        if found.slot && !(found.is_begun && is_marking) {
            self.found(&format!("slot {slot}"));
            return Ok(());
        }
        // Of one that was there before all rows that wait are listed: what it was is gone.
        let is_known = found.has_own_slots && catch_up::is_known(self.client, slot).await?;
        let unread = match found.slot || is_known {
            true => Vec::new(),
            false => slot::unread(self.client, config).await?,
        };
        if let Some(fault) = unread.iter().find_map(|one| one.predecessor(slot)) {
            if !self.is_dry {
                return Err(fault);
            }
            say(format_args!("-- not yet: {}; {}", fault.what, fault.hint));
            return Ok(());
        }
        if self.is_dry {
            say(slot::creation(config, timeout)?);
            return self.outlook(config, found).await;
        }
        if !is_marking {
            return self.unlisted(config, timeout).await;
        }
        // A slot keeps WAL from the moment on that it is there: not before all else is well.
        let flight = slot::preflight(self.client, config).await?;
        let is_of_slot = |finding: &Finding| finding.name.starts_with("slot");
        let others: Vec<_> = flight.findings.into_iter().filter(|f| !is_of_slot(f)).collect();
        if let Some(fault) = Finding::fault(&others) {
            return Err(fault);
        }
        let config = as_owner(config);
        let why = "rows were there before the slot";
        let patience = Patience::command(timeout);
        let rows = catch_up::prepare(&config, self.client, &flight.tables, why, patience).await?;
        self.covered(&config).await;
        let waiting = match rows {
            0 => "no row waited before".to_owned(),
            1 => "1 row that waited before is listed, and published first".to_owned(),
            rows => format!("{rows} rows that waited before are listed, and published first"),
        };
        say(format_args!("made    slot {slot}: events committed from now on are in it; {waiting}"));
        Ok(())
    }

    /// One whose tables carry no marks: what was there before it is nobody's.
    async fn unlisted(&self, config: &Config, timeout: Duration) -> Result<(), Fault> {
        let slot = &config.postgres.slot;
        let lsn = slot::create(self.client, config, timeout).await?;
        // What was before it is not to be looked for: nothing tells.
        let forget = sql::render(sql::PROGRESS_FORGET_COVERAGE, &[("slot", slot)])?;
        postgres::execute(self.client, &forget).await?;
        catch_up::record_new(&as_owner(config), self.client, &lsn).await;
        self.covered(config).await;
        let before = match config.tables.is_empty() {
            true => "",
            false => {
                "; rows that are there already are not relayed, since with audit.mode none there is no record of what was delivered"
            }
        };
        say(format_args!("made    slot {slot}: events committed from {lsn} on are in it{before}"));
        Ok(())
    }

    /// One that begins where another stands.
    async fn copied(
        &self,
        config: &Config,
        found: &ExistingObjects,
        from: &str,
    ) -> Result<(), Fault> {
        let slot = &config.postgres.slot;
        let other = Predecessor::find(self.client, config, from).await?;
        if self.is_dry {
            let ready = match found.publication {
                true => other.is_ready(self.client, config).await,
                false => Err(Fault::definite(
                    format!("the publication has to be there before slot \"{from}\" passes it"),
                    "run it without --dry-run while its reader goes on: it makes all but the slot",
                )),
            };
            match ready {
                Ok(()) => {
                    say(sql::render(sql::SLOT_COPY, &[("from", from), ("slot", slot)])?);
                    say(format_args!("-- {}", other.outlook(self.client, config).await?));
                }
                Err(Fault { what, hint, .. }) => say(format_args!("-- not yet: {what}; {hint}")),
            }
            return Ok(());
        }
        other.is_ready(self.client, config).await?;
        let lsn = other.copy(self.client, config).await?;
        // That of another pgoutbox stays as that left it.
        if !catch_up::is_known(self.client, slot).await? {
            catch_up::record_new(&as_owner(config), self.client, &lsn).await;
            self.covered(config).await;
        }
        say(format_args!(
            "made    slot {slot}: it begins at {lsn}, where slot {from} stands; each slot keeps WAL until it is \
             dropped\n        hint: SELECT pg_drop_replication_slot({});  -- once you are not going back",
            sql::literal(from)
        ));
        Ok(())
    }

    /// What a dry run says of the rows that are there.
    async fn outlook(&self, config: &Config, found: &ExistingObjects) -> Result<(), Fault> {
        let is_whole = found.missing.as_ref().is_some_and(Vec::is_empty);
        let outboxes = slot::preflight(self.client, config).await?.tables;
        let is_whole = is_whole && outboxes.len() == config.tables.len();
        for (number, table) in config.tables.iter().enumerate() {
            if self.columns(table).await?.is_none() {
                continue;
            }
            let title = table.title();
            if !table.has_marks() {
                say(format_args!(
                    "-- rows of {title} that are there already would not be published: nothing tells which wait"
                ));
                continue;
            }
            let outbox = outboxes.get(number).filter(|_| is_whole);
            let waiting = catch_up::count(self.client, config, table, outbox).await?;
            say(format_args!(
                "-- {} rows of {title} wait: they would be listed, and published first",
                waiting.rows
            ));
            if let Some(what) = waiting.unreadable(&title) {
                say(format_args!("-- {what}"));
            }
        }
        Ok(())
    }

    /// Keeps how the tables are covered, so that what somebody changes, or does to the slot, before the
    /// first run is known. Best effort: `run` looks at all of it again.
    async fn covered(&self, config: &Config) {
        if let Ok(coverage) = slot::coverage(self.client, config).await {
            let number = coverage.digest().number();
            let _ = slot::record_coverage(self.client, &config.postgres.slot, number).await;
        }
    }
}
