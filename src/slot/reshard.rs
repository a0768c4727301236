//! Spreads an outbox over another number of relays, so that no event is lost and none of an aggregate comes before an
//! earlier one.
//!
//! An aggregate moves from the slot of its old share to that of its new one. What holds for each of its events is that
//! one slot brings it first, and that what comes later in commit order comes from the same or from a later one. That
//! follows from four steps:
//!
//! 1. The new publications are made while the relays run on. A slot sees the catalog as it was when a row was written, so
//!    a slot can only begin with a publication behind the place where no transaction is left that is older. Each old
//!    slot is waited for until it stands behind that (`slot/too_new.sql`).
//! 2. `pgoutbox.layout` says that nobody may run. A relay that runs finishes what is in flight, records how far it came,
//!    and ends; one that begins looks there before it makes a slot, and once more when it has the slot. So once no old
//!    slot is read, none will be: who took one before the row was written has it, and is waited for.
//! 3. Each old share `i` is settled up to a place `Pi`: every event of it that was committed before is delivered or
//!    parked, none behind it is. The new slots are copies of the old one that stands furthest behind, at `F`, and
//!    `F` is not behind any `Pi`. So the new slots bring every event that nobody settled: none is lost.
//!    What an old relay settled between `F` and its `Pi` they bring again. The places are kept with each new slot
//!    (`progress.former`), and its relay leaves out what the old share of the event had settled
//!    ([`FormerShares`](crate::core::former::FormerShares)): none comes twice, and what is left of an aggregate is all
//!    behind what was delivered of it: none is inverted. In a transaction that was cut in its middle no number tells its
//!    events apart any more, since each publication counts its own: of that one, what was settled comes again.
//! 4. Parked events go to the slot of the new share of their aggregate, in the transaction that makes the new layout
//!    valid and removes what is kept of the old slots. Only then may relays of the new layout run.
//!
//! Each step can be done again: until the last one commits nothing of the old layout is gone, and what was made of the
//! new one is made again. What is left of the old one is dropped afterwards.

use std::time::Duration;

use postgres_types::PgLsn;
use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, Row};

use super::{Layout, coverage};
use crate::config::Config;
use crate::error::Fault;
use crate::postgres::identity::Identity;
use crate::postgres::sql;
use crate::postgres::{self, column, query};
use crate::within::within;

/// How often slots are looked at that are waited for.
const POLL: Duration = Duration::from_millis(200);
/// How often the server is asked to say which transactions run.
const NUDGE: Duration = Duration::from_secs(2);

/// From one number of relays to another.
#[derive(Debug)]
pub(crate) struct Reshard<'a> {
    pub(crate) client: &'a Client,
    /// As it is spread now.
    pub(crate) from: Config,
    /// As it is to be.
    pub(crate) to: Config,
    /// Of which server's WAL places are.
    pub(crate) identity: Identity,
}

/// An old slot.
#[derive(Debug)]
pub(crate) struct OldSlot {
    pub(crate) slot: String,
    active_pid: Option<i32>,
    confirmed: PgLsn,
    /// Every event of its share that was committed before is settled.
    pub(crate) settled: PgLsn,
    pub(crate) parked: i64,
}

impl OldSlot {
    fn of(row: &Row) -> Result<Self, Fault> {
        let slot: String = column(row, "slot")?;
        let is = |name| Ok::<_, Fault>(column::<Option<bool>>(row, name)?.unwrap_or(false));
        let refused = |what: String, hint: &str| Err(Fault::definite(what, hint));
        if !is("is_there")? || is("is_lost")? {
            return refused(
                format!("slot \"{slot}\" is gone or lost: nothing tells where its share stands"),
                "start its relay, which makes it again and publishes the rows that wait; then run this again",
            );
        }
        if is("is_catching_up")? {
            return refused(
                format!("rows that slot \"{slot}\" does not hold are still to be published"),
                "let its relay run until `pgoutbox status` shows no catch-up; then run this again",
            );
        }
        if is("is_paused")? {
            return refused(
                format!("the relay of slot \"{slot}\" is paused: its share does not get on"),
                "pgoutbox resume; then run this again",
            );
        }
        let lsn = |name: &str| -> Result<PgLsn, Fault> {
            let text: Option<String> = column(row, name)?;
            let lsn = text.and_then(|text| text.parse().ok());
            lsn.ok_or_else(|| Fault::transient(format!("slot \"{slot}\" has no {name} LSN")))
        };
        Ok(Self {
            active_pid: column(row, "active_pid")?,
            confirmed: lsn("confirmed")?,
            settled: lsn("place")?,
            parked: column(row, "parked")?,
            slot,
        })
    }
}

impl Reshard<'_> {
    fn base(&self) -> &str {
        &self.from.postgres.shards.slot
    }

    fn old_slots(&self) -> String {
        serde_json::json!(self.from.postgres.shards.slots()).to_string()
    }

    fn new_slots(&self) -> String {
        serde_json::json!(self.to.postgres.shards.slots()).to_string()
    }

    /// Where the old slots stand, in the order of their shares.
    ///
    /// # Errors
    /// One of them is in no state to be left: it is gone, paused, or has rows to be caught up with.
    pub(crate) async fn places(&self) -> Result<Vec<OldSlot>, Fault> {
        let Identity { system_identifier, timeline } = &self.identity;
        let (slots, timeline) = (self.old_slots(), timeline.to_string());
        let variables = [
            ("slots", slots.as_str()),
            ("system_identifier", system_identifier),
            ("timeline", &timeline),
        ];
        let rows = query(self.client, &sql::render(sql::SHARDS_PLACES, &variables)?).await?;
        rows.iter().map(OldSlot::of).collect()
    }

    /// An old slot may not see one of the new publications yet.
    async fn is_too_new(&self) -> Result<bool, Fault> {
        for from in self.from.postgres.shards.slots() {
            for share in self.to.of_each_share() {
                let publication = share.postgres.publication.as_str();
                let variables = [("from", from.as_str()), ("publication", publication)];
                let rows = query(self.client, &sql::render(sql::SLOT_TOO_NEW, &variables)?).await?;
                if rows.first().map_or(Ok(true), |row| column(row, "is_too_new"))? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Waits until each old slot sees the new publications.
    ///
    /// # Errors
    /// It takes longer than `timeout`: the relay of one does not get on, or a transaction is open.
    pub(crate) async fn wait_for_publications(&self, timeout: Duration) -> Result<(), Fault> {
        let passed = async {
            let mut nudged: Option<Instant> = None;
            loop {
                self.places().await?;
                if !self.is_too_new().await? {
                    return Ok(());
                }
                if nudged.is_none_or(|at| at.elapsed() >= NUDGE) {
                    // Not everybody may: then it takes some seconds longer.
                    let _ = self.client.batch_execute(sql::SHARDS_NUDGE).await;
                    nudged = Some(Instant::now());
                }
                sleep(POLL).await;
            }
        };
        let slots = self.from.postgres.shards.slots().join(", ");
        within(timeout, passed, |bound| {
            let bound = crate::text::span(bound);
            Fault::definite(
                format!("within {bound} not each of {slots} has passed the place where the new publications were made"),
                "let the relays of today run on, and end transactions that have been open for long: SELECT pid, xact_start, query FROM pg_stat_activity WHERE backend_xid IS NOT NULL ORDER BY xact_start; then run this again",
            )
        })
        .await
    }

    /// Says that nobody may run, and waits until nobody does.
    ///
    /// # Errors
    /// A relay does not end in time.
    pub(crate) async fn stop_relays(&self, timeout: Duration) -> Result<(), Fault> {
        let (of, to) = (self.from.postgres.shards.of, self.to.postgres.shards.of);
        let (of, to) = (of.to_string(), to.to_string());
        let variables = [("slot", self.base()), ("shards", &of), ("to", &to)];
        postgres::execute(self.client, &sql::render(sql::SHARDS_BEGIN, &variables)?).await?;
        let stopped = async {
            loop {
                if self.places().await?.iter().all(|place| place.active_pid.is_none()) {
                    return Ok(());
                }
                sleep(POLL).await;
            }
        };
        let stopped = within(timeout, stopped, |bound| {
            let bound = crate::text::span(bound);
            Fault::transient(format!("a relay still reads one of the slots after {bound}"))
        });
        match stopped.await {
            Ok(()) => Ok(()),
            Err(fault) => {
                let places = self.places().await?;
                let read = places.iter().filter_map(|place| Some((&place.slot, place.active_pid?)));
                let read: Vec<_> = read
                    .map(|(slot, pid)| format!("slot \"{slot}\" is read by pid {pid}"))
                    .collect();
                let of = self.from.postgres.shards.of;
                Err(fault.hint(format!(
                    "{}: stop it, and run this again; or leave all as it was: pgoutbox reshard --to {of}",
                    read.join(", ")
                )))
            }
        }
    }

    /// Makes the new slots where the old one stands that is furthest behind; returns that place.
    ///
    /// # Errors
    /// The server refuses to copy the slot: there is room for no more, say.
    pub(crate) async fn make_slots(&self, places: &[OldSlot]) -> Result<PgLsn, Fault> {
        let behind = places.iter().min_by_key(|place| place.confirmed);
        let behind = behind.ok_or_else(|| Fault::transient("there is no slot to begin at"))?;
        // Of a run that was broken off.
        self.drop_slots(&self.new_slots()).await?;
        for slot in self.to.postgres.shards.slots() {
            let variables = [("from", behind.slot.as_str()), ("slot", &slot)];
            query(self.client, &sql::render(sql::SLOT_COPY, &variables)?).await?;
        }
        Ok(behind.confirmed)
    }

    /// Makes the new layout valid, with what is kept of the old slots: all of it or nothing.
    ///
    /// # Errors
    /// A statement is refused, or the connection is lost: then the old layout is still the one.
    pub(crate) async fn commit(
        &self,
        places: &[OldSlot],
        begin: PgLsn,
        without: &[u32],
    ) -> Result<(), Fault> {
        let Identity { system_identifier, timeline } = &self.identity;
        let (timeline, begin) = (timeline.to_string(), begin.to_string());
        let former: Vec<_> = places.iter().map(|place| place.settled.to_string()).collect();
        let former = serde_json::json!(former).to_string();
        let mut all = vec!["BEGIN;".to_owned()];
        let (from, slots) = (self.old_slots(), self.new_slots());
        let without = serde_json::json!(without).to_string();
        let moved = [("from", from.as_str()), ("slots", &slots), ("without", &without)];
        all.push(sql::render(sql::SHARDS_MOVE_PARKED, &moved)?);
        all.push(sql::render(sql::SHARDS_END, &[("slot", self.base()), ("from", &from)])?);
        for share in self.to.of_each_share() {
            let coverage = coverage(self.client, &share).await?.digest().number().to_string();
            let variables = [
                ("slot", share.postgres.slot.as_str()),
                ("system_identifier", system_identifier),
                ("timeline", &timeline),
                ("end_lsn", &begin),
                ("coverage", &coverage),
                ("former", &former),
            ];
            all.push(sql::render(sql::SHARDS_SETTLED, &variables)?);
        }
        all.push("COMMIT;".to_owned());
        let outcome = postgres::execute(self.client, &all.join("\n")).await;
        if outcome.is_err() {
            let _ = self.client.batch_execute("ROLLBACK").await;
        }
        outcome
    }

    /// Leaves the outbox spread as it is.
    ///
    /// # Errors
    /// A statement is refused, or the connection is lost.
    pub(crate) async fn give_up(&self) -> Result<(), Fault> {
        self.drop_slots(&self.new_slots()).await?;
        self.drop_publications(&self.to).await?;
        let slot = [("slot", self.base())];
        postgres::execute(self.client, &sql::render(sql::SHARDS_GIVE_UP, &slot)?).await
    }

    /// Drops what is left of the old layout.
    ///
    /// # Errors
    /// A statement is refused, or the connection is lost.
    pub(crate) async fn clear(&self) -> Result<(), Fault> {
        self.drop_slots(&self.old_slots()).await?;
        self.drop_publications(&self.from).await?;
        let slot = [("slot", self.base())];
        postgres::execute(self.client, &sql::render(sql::SHARDS_CLEARED, &slot)?).await
    }

    async fn drop_slots(&self, slots: &str) -> Result<(), Fault> {
        query(self.client, &sql::render(sql::SHARDS_DROP, &[("slots", slots)])?).await.map(drop)
    }

    /// Those of shares: nobody else reads them.
    async fn drop_publications(&self, of: &Config) -> Result<(), Fault> {
        for share in of.of_each_share().iter().filter(|config| config.postgres.share.is_some()) {
            let name = sql::identifier(&share.postgres.publication);
            postgres::execute(self.client, &format!("DROP PUBLICATION IF EXISTS {name}")).await?;
        }
        Ok(())
    }

    /// The layout as it is, where one is kept.
    ///
    /// # Errors
    /// Schema pgoutbox is not there, or of an earlier version.
    pub(crate) async fn layout(client: &Client, config: &Config) -> Result<Layout, Fault> {
        Ok(Layout::find(client, config).await?.unwrap_or(Layout::ONE))
    }
}
