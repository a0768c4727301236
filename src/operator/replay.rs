//! Sends rows of the outbox, or of the parking, once more: by the relay's own path from row to
//! message, without touching the slot.

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;

use futures_util::StreamExt;
use tokio_postgres::{Client, Row, SimpleQueryMessage, SimpleQueryRow};

use crate::config::Config;
use crate::core::event::pgoutput::{Column, Tuple};
use crate::core::event::stored::{Reader, StoredMessage};
use crate::core::event::{Position, Refusal};
use crate::core::message::{Limits, Message};
use crate::core::relay::marks::Origin;
use crate::error::Fault;
use crate::gauge::Gauge;
use crate::operator::{self, ParkedEvent};
use crate::postgres::outbox::{Outbox, explain_filter};
use crate::postgres::raising::{self, CountQuery, RaisingRow};
use crate::postgres::sql;
use crate::postgres::{classify, column, execute, is_of_shown_row, now_micros, query};
use crate::rabbitmq::resend::{Fate, Item, Resender};
use crate::shutdown::Shutdown;

/// Rows that are marked in one statement.
const MARKS: usize = 500;
/// Rows that are shown before anything is sent.
const SHOWN: usize = 10;
/// Columns of `replay_rows.sql` before the table's own: number, the transaction that wrote the row.
const META: usize = 2;

/// Which rows of an outbox table are meant; what is empty is not asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct RowFilter {
    /// With one of these ids.
    pub ids: Vec<String>,
    /// Of this type of aggregate, which may be the empty text.
    pub aggregate_type: Option<String>,
    /// Of this aggregate, likewise.
    pub aggregate_id: Option<String>,
    /// From this time on, as [`Outbox::time_literal`] says it.
    pub since: String,
    /// Before this time.
    pub until: String,
    /// Written by transactions that committed from this time on. Only where the server keeps the
    /// times of commits; a row that was updated since counts as of its update.
    pub committed_since: String,
    /// Written by transactions that committed before this time.
    pub committed_until: String,
    /// With a mark that was written from this time on.
    pub relayed_since: String,
    /// With a mark that was written before this time.
    pub relayed_until: String,
    /// With a mark, without, or both.
    pub only: MarkFilter,
    /// Written by transactions before this one.
    pub xmin: String,
}

/// Rows with a mark, without one, or both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum MarkFilter {
    /// Both.
    #[default]
    All,
    /// With.
    Relayed,
    /// Without, and not parked.
    Unrelayed,
}

impl MarkFilter {
    fn word(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Relayed => "relayed",
            Self::Unrelayed => "unrelayed",
        }
    }
}

/// What a replay came to.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReplayTally {
    /// Events that a queue took.
    pub delivered: u64,
    /// Events that were refused: id and why.
    pub refused: Vec<(String, Refusal)>,
    /// Ids of events that were not sent, since one before them of their aggregate was refused.
    pub held: Vec<String>,
    /// Rows that were gone, marked or parked before their turn came.
    pub gone: u64,
    /// Rows that had no mark and have one now.
    pub marked: u64,
    /// Events that would have been sent.
    pub dry: u64,
    /// Rows that have no time of commit, where rows were chosen by it: none of them was.
    pub undated: u64,
    /// Ids of rows that have no mark all the same: a trigger or a rule undoes it.
    pub in_vain: Vec<String>,
    /// Ids that were asked for and that no row has.
    pub unknown: Vec<String>,
    /// Ids that were asked for and that several rows have, and how many: each of them is sent.
    pub shared: Vec<(String, u64)>,
    /// All up to here, in its order, have their fate.
    pub last: Option<ReplayPlace>,
}

impl ReplayTally {
    /// Everything that was sent was delivered.
    pub(crate) fn is_complete(&self) -> bool {
        self.refused.is_empty() && self.held.is_empty() && self.unknown.is_empty()
    }
}

/// A row, by where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    /// Its id, where it has one.
    pub id: Option<String>,
    /// Oid of the table or partition that held it.
    pub leaf: String,
    /// Its `ctid` there.
    pub place: String,
    /// It has no id, or one that other rows have too.
    pub is_shared: bool,
}

impl Key {
    fn read(row: &Row) -> Result<Self, Fault> {
        Ok(Self {
            id: column(row, "id")?,
            leaf: column(row, "leaf")?,
            place: column(row, "place")?,
            is_shared: column(row, "is_shared")?,
        })
    }

    fn as_json(&self) -> serde_json::Value {
        let Self { id, leaf, place, is_shared } = self;
        serde_json::json!({ "id": id, "leaf": leaf, "place": place, "is_shared": is_shared })
    }
}

/// Rows that were chosen, in a cursor on the server.
#[derive(Debug)]
pub(crate) struct ChosenRows<'a> {
    outbox: &'a Outbox,
    cursor: String,
    only: MarkFilter,
    /// The ids that were asked for.
    ids: Vec<String>,
    /// How many.
    pub rows: u64,
    /// Ids and aggregates of the first of them.
    pub first: Vec<(Option<String>, Option<String>)>,
}

/// The place of an event in the order of a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReplayPlace {
    /// A row of a table, by the table's number and the row's id.
    Row { table: usize, id: String },
    /// A row that has no id of its own.
    Nameless,
    /// A parked event.
    Parked(i64),
}

impl ReplayPlace {
    fn of(item: &Item) -> Self {
        match item.seq {
            Some(seq) => Self::Parked(seq),
            None if item.is_shared || item.id.is_empty() => Self::Nameless,
            None => Self::Row { table: item.table, id: item.id.clone() },
        }
    }
}

/// How far a replay is, in its order: those before have their fate.
#[derive(Debug, Default)]
struct Reach {
    last: Option<ReplayPlace>,
    /// Handed on, in order; and whether its fate is known.
    open: VecDeque<(Item, bool)>,
}

impl Reach {
    fn begin(&mut self, item: &Item) {
        self.open.push_back((item.clone(), false));
    }

    fn end(&mut self, item: &Item) {
        if let Some(entry) = self.open.iter_mut().find(|(one, done)| !*done && one == item) {
            entry.1 = true;
        }
        while let Some((item, true)) = self.open.front() {
            self.last = Some(ReplayPlace::of(item));
            self.open.pop_front();
        }
    }
}

/// Told of each event as soon as its fate is known.
pub(crate) type FateSink<'a> = &'a mut (dyn FnMut(&Item, &Fate) + Send);

/// One replay.
pub(crate) struct Replay<'a> {
    config: &'a Config,
    client: &'a Client,
    outboxes: &'a [Outbox],
    /// Nobody, where only what would be sent is asked for.
    resender: Option<Resender<'a>>,
    limits: Limits,
    marks: bool,
    delivered: Vec<Item>,
    /// Of the ids that were asked for, those that some row has, and how many have it.
    asked: BTreeMap<String, u64>,
    tally: ReplayTally,
    reach: Reach,
    gauge: Arc<Gauge>,
    /// Asks to send no more than what is in flight.
    stop: Option<Shutdown>,
    /// Without the header that tells a replay.
    is_plain: bool,
    /// Passed over, up to this place and with it.
    after: Option<ReplayPlace>,
    report: FateSink<'a>,
}

impl<'a> Replay<'a> {
    /// Sends through a connection of its own, and marks what is delivered, if that is wanted.
    pub(crate) fn new(
        config: &'a Config,
        client: &'a Client,
        outboxes: &'a [Outbox],
        resender: Resender<'a>,
        marks: bool,
        report: FateSink<'a>,
    ) -> Self {
        let limits = resender.limits();
        Self::with(config, client, outboxes, Some(resender), limits, marks, report)
    }

    /// Builds every message and sends none.
    pub(crate) fn dry(
        config: &'a Config,
        client: &'a Client,
        outboxes: &'a [Outbox],
        limits: Limits,
        report: FateSink<'a>,
    ) -> Self {
        Self::with(config, client, outboxes, None, limits, false, report)
    }

    fn with(
        config: &'a Config,
        client: &'a Client,
        outboxes: &'a [Outbox],
        resender: Option<Resender<'a>>,
        limits: Limits,
        marks: bool,
        report: FateSink<'a>,
    ) -> Self {
        Self {
            config,
            client,
            outboxes,
            resender,
            limits,
            marks,
            delivered: Vec::new(),
            asked: BTreeMap::new(),
            tally: ReplayTally::default(),
            reach: Reach::default(),
            gauge: Arc::default(),
            stop: None,
            is_plain: false,
            after: None,
            report,
        }
    }

    /// Begins behind this place, counts what it does, and sends nothing more once that is asked for.
    pub(crate) fn attended(
        mut self,
        after: Option<ReplayPlace>,
        gauge: &Arc<Gauge>,
        stop: Shutdown,
    ) -> Self {
        (self.after, self.gauge, self.stop) = (after, Arc::clone(gauge), Some(stop));
        self
    }

    /// The messages as the relay builds them, save for their position, which the rows do not have.
    #[must_use]
    pub(crate) fn plain(mut self) -> Self {
        self.is_plain = true;
        self
    }

    fn is_stopped(&self) -> bool {
        self.stop.as_ref().is_some_and(Shutdown::is_asked)
    }

    /// Chooses the rows of a table that a filter lets through, in the order in which they are sent: by the time
    /// of their commits where they are chosen by it, by `occurred_at`, and by id.
    ///
    /// # Errors
    /// A table cannot be read.
    pub(crate) async fn choose(
        &mut self,
        outbox: &'a Outbox,
        filter: &RowFilter,
    ) -> Result<ChosenRows<'a>, Fault> {
        let ids = serde_json::Value::from(filter.ids.clone()).to_string();
        let cursor = format!("replay_{}", outbox.number);
        let types = operator::wanted(&filter.aggregate_type);
        let of = operator::wanted(&filter.aggregate_id);
        let variables = [
            ("ids", ids.as_str()),
            ("wanted_types", &types),
            ("wanted_ids", &of),
            ("since", &filter.since),
            ("until", &filter.until),
            ("committed_since", &filter.committed_since),
            ("committed_until", &filter.committed_until),
            ("relayed_since", &filter.relayed_since),
            ("relayed_until", &filter.relayed_until),
            ("only", filter.only.word()),
            ("xmin", &filter.xmin),
        ];
        for row in select(self.client, outbox, &cursor, &variables).await? {
            let (id, place) = (row.id(self.client, &outbox.table).await, row.place());
            if let Some(id) = id.as_ref().filter(|id| filter.ids.contains(id)) {
                *self.asked.entry(id.clone()).or_default() += 1;
            }
            let fault = explain_filter(row.fault, &outbox.title(), &outbox.filter);
            let why = format!("{} (ctid '{place}' of {})", fault.what, row.leaf_name);
            self.unreadable(outbox, id, false, why).await?;
        }
        if !filter.committed_since.is_empty() || !filter.committed_until.is_empty() {
            self.tally.undated += undated(self.client, outbox).await?;
        }
        let rows = moved(self.client, "FORWARD ALL", &cursor).await?;
        moved(self.client, "ABSOLUTE 0", &cursor).await?;
        let first = fetch(self.client, &cursor).await?;
        moved(self.client, "ABSOLUTE 0", &cursor).await?;
        // A column that the table lacks stands for its id.
        let has_aggregate = outbox.has_aggregate == (true, true);
        let aggregate = |row| column::<Option<String>>(row, "aggregate");
        let shown = |row| Ok((column(row, "id")?, aggregate(row)?.filter(|_| has_aggregate)));
        let first = first.iter().take(SHOWN).map(shown).collect::<Result<_, Fault>>()?;
        let (only, ids) = (filter.only, filter.ids.clone());
        Ok(ChosenRows { outbox, cursor, only, ids, rows, first })
    }

    /// Sends chosen rows.
    ///
    /// # Errors
    /// The table cannot be read, or the connection to one of the servers is lost: what was sent until
    /// then stays sent.
    pub(crate) async fn chosen(&mut self, chosen: &ChosenRows<'_>) -> Result<(), Fault> {
        while !self.is_stopped() {
            let rows = fetch(self.client, &chosen.cursor).await?;
            let mut keys = rows.iter().map(Key::read).collect::<Result<Vec<_>, _>>()?;
            if keys.is_empty() {
                break;
            }
            let found = keys.iter().filter_map(|key| key.id.as_ref());
            for id in found.filter(|id| chosen.ids.contains(id)) {
                *self.asked.entry(id.clone()).or_default() += 1;
            }
            self.pass_over(chosen.outbox.number, &mut keys);
            self.keys(chosen.outbox, &keys, chosen.only).await?;
        }
        let close = sql::render("CLOSE :\"cursor\"", &[("cursor", &chosen.cursor)])?;
        query(self.client, &close).await.map(drop)
    }

    /// [`choose`](Self::choose) and [`chosen`](Self::chosen) of one table.
    ///
    /// # Errors
    /// The table cannot be read, or the connection to one of the servers is lost.
    pub(crate) async fn rows(
        &mut self,
        outbox: &'a Outbox,
        filter: &RowFilter,
    ) -> Result<(), Fault> {
        let chosen = self.choose(outbox, filter).await?;
        self.chosen(&chosen).await
    }

    /// Takes away what stands before the place behind which it begins, and that place.
    fn pass_over(&mut self, table: usize, keys: &mut Vec<Key>) {
        let Some(ReplayPlace::Row { table: of, id }) = &self.after else { return };
        let found = keys.iter().position(|key| *of == table && key.id.as_ref() == Some(id));
        let passed = found.map_or(keys.len(), |at| at + 1);
        keys.drain(..passed);
        self.gauge.advance(passed as u64);
        if found.is_some() {
            self.after = None;
        }
    }

    /// The place behind which it was to begin was not among what was chosen: nothing was sent.
    pub(crate) fn is_lost(&self) -> bool {
        self.after.is_some() && !self.is_stopped()
    }

    /// A row that the server cannot show.
    async fn unreadable(
        &mut self,
        outbox: &Outbox,
        id: Option<String>,
        is_shared: bool,
        why: String,
    ) -> Result<(), Fault> {
        let item = Item {
            table: outbox.number,
            id: id.unwrap_or_default(),
            seq: None,
            is_shared,
            origin: Origin::default(),
            aggregate: None,
        };
        self.one(item, Err(Refusal::unreadable("row", why))).await
    }

    /// Says which of the ids that were asked for of all tables no row has, or several.
    pub(crate) fn expect(&mut self, ids: &[String]) {
        let unknown = ids.iter().filter(|id| !self.asked.contains_key(*id));
        self.tally.unknown.extend(unknown.cloned());
        let shared = self.asked.iter().filter(|(_, rows)| **rows > 1);
        self.tally.shared.extend(shared.map(|(id, rows)| (id.clone(), *rows)));
    }

    /// Sends rows of a table, in this order. One that the server cannot show is refused, and the others
    /// go on: where a statement fails over what is in its rows, it is halved until that row stands alone.
    pub(crate) async fn keys(
        &mut self,
        outbox: &Outbox,
        keys: &[Key],
        only: MarkFilter,
    ) -> Result<(), Fault> {
        let mut work = vec![keys];
        while let Some(keys) = work.pop().filter(|_| !self.is_stopped()) {
            let (done, outcome) = self.some_keys(outbox, keys, only).await?;
            let Err(fault) = outcome else { continue };
            let rest = keys.get(done..).unwrap_or_default();
            if let [key] = rest {
                self.unreadable(outbox, key.id.clone(), key.is_shared, fault.what).await?;
            } else {
                let (first, second) = rest.split_at(rest.len() / 2);
                work.extend([second, first].into_iter().filter(|keys| !keys.is_empty()));
            }
        }
        self.mark(MARKS, false).await
    }

    /// Up to the first that the server cannot show: how many are done with, and what it said.
    async fn some_keys(
        &mut self,
        outbox: &Outbox,
        keys: &[Key],
        only: MarkFilter,
    ) -> Result<(usize, Result<(), Fault>), Fault> {
        let wanted = serde_json::Value::from_iter(keys.iter().map(Key::as_json)).to_string();
        let variables = [("rows", wanted.as_str()), ("only", only.word())];
        let sql = outbox.render(sql::REPLAY_ROWS, &variables)?;
        let failed = |error| classify(&error);
        let mut stream = pin!(self.client.simple_query_raw(&sql).await.map_err(failed)?);
        let mut reader: Option<(Reader<'_>, Arc<[Column]>)> = None;
        let (mut found, mut done) = (0_usize, 0_usize);
        let outcome = loop {
            if self.is_stopped() {
                return Ok((done, Ok(())));
            }
            let row = match stream.next().await {
                None => break Ok(()),
                Some(message) => match message.map_err(failed) {
                    Ok(SimpleQueryMessage::Row(row)) => row,
                    Ok(_) => continue,
                    Err(fault) if is_of_shown_row(&fault) => break Err(fault),
                    Err(fault) => return Err(fault),
                },
            };
            found += 1;
            let (reader, columns) = match &mut reader {
                Some(reader) => reader,
                None => reader.insert(shape(outbox, &row)?),
            };
            done = text(&row, 0)?.and_then(|text| text.parse().ok()).unwrap_or(0);
            let key = done.checked_sub(1).and_then(|at| keys.get(at));
            let is_shared = key.is_some_and(|key| key.is_shared);
            let item = Item { is_shared, ..item(outbox, columns, &row)? };
            let built = build(reader, &row, self.limits)?;
            self.one(item, built).await?;
        };
        if outcome.is_ok() {
            done = keys.len();
        }
        let gone = u64::try_from(done.saturating_sub(found)).unwrap_or(0);
        self.tally.gone += gone;
        self.gauge.advance(gone);
        Ok((done, outcome))
    }

    /// Sends a dead-lettered or discarded event from its row in the parking.
    pub(crate) async fn parked(&mut self, event: &ParkedEvent) -> Result<(), Fault> {
        if self.is_stopped() {
            return Ok(());
        }
        let Some(row) = operator::row(self.client, self.config, event).await? else {
            self.tally.gone += 1;
            self.gauge.advance(1);
            return Ok(());
        };
        let item = Item {
            table: row.table,
            id: event.event_id.clone().unwrap_or_else(|| format!("seq {}", event.seq)),
            seq: Some(event.seq),
            is_shared: false,
            origin: Origin::default(),
            aggregate: event.aggregate_id.clone().map(|id| (event.aggregate_type.clone(), id)),
        };
        let built = operator::message(self.client, self.config, event, (&row, self.limits)).await?;
        self.one(item, built).await?;
        self.mark(MARKS, false).await
    }

    /// Waits for the last confirms, marks what is left to mark, and says what it all came to, whatever becomes
    /// of it.
    pub(crate) async fn finish(mut self) -> (ReplayTally, Result<(), Fault>) {
        let outcome = match &mut self.resender {
            Some(resender) => resender.finish().await,
            None => Ok(()),
        };
        if outcome.is_err() {
            return (self.give_up().await, outcome);
        }
        self.settle();
        let outcome = self.mark(1, true).await;
        if let Some(resender) = self.resender.take() {
            resender.close().await;
        }
        (self.tally, outcome)
    }

    /// After a fault: marks what was delivered until then, as far as that can be done, and says
    /// what it came to.
    pub(crate) async fn give_up(mut self) -> ReplayTally {
        self.settle();
        // The fault that led here is the one to report.
        let _ = self.mark(1, true).await;
        self.tally
    }

    async fn one(
        &mut self,
        item: Item,
        built: Result<StoredMessage, Refusal>,
    ) -> Result<(), Fault> {
        let message = built.and_then(|built| match self.is_plain {
            true => built.message.unplaced(),
            false => built.message.replayed(),
        });
        self.reach.begin(&item);
        match (&mut self.resender, message) {
            (Some(resender), Ok(message)) => resender.send(item, message).await?,
            (Some(resender), Err(refusal)) => resender.refuse(item, refusal),
            (None, message) => self.count(item, dry(message)),
        }
        self.settle();
        Ok(())
    }

    fn settle(&mut self) {
        let settled = self.resender.as_mut().map(Resender::settled).unwrap_or_default();
        for (item, fate) in settled {
            self.count(item, fate);
        }
    }

    fn count(&mut self, item: Item, fate: Fate) {
        (self.report)(&item, &fate);
        self.reach.end(&item);
        self.tally.last.clone_from(&self.reach.last);
        self.gauge.advance(1);
        match fate {
            Fate::Delivered => {
                self.tally.delivered += 1;
                if self.marks {
                    self.delivered.push(item);
                }
            }
            Fate::Refused(refusal) => self.tally.refused.push((item.id, refusal)),
            Fate::Held => self.tally.held.push(item.id),
            Fate::Dry(_) => self.tally.dry += 1,
        }
    }

    /// Marks delivered rows once there are so many of them. Those that share their id at last: a
    /// mark of one is a mark of the others, which may still have to be sent.
    async fn mark(&mut self, at_least: usize, is_last: bool) -> Result<(), Fault> {
        let is_due = |item: &mut Item| is_last || !item.is_shared;
        if self.delivered.len() < at_least {
            return Ok(());
        }
        let delivered: Vec<Item> = self.delivered.extract_if(.., is_due).collect();
        for outbox in self.outboxes {
            let of_table = delivered.iter().filter(|item| item.table == outbox.number);
            let rows = of_table.clone().filter(|item| item.seq.is_none() && !item.id.is_empty());
            let rows = rows.map(|item| (item.id.clone(), item.origin.clone()));
            let mut rows: Vec<(String, Origin)> = rows.collect();
            let seqs: Vec<i64> = of_table.filter_map(|item| item.seq).collect();
            if !seqs.is_empty() {
                rows.extend(rows_of(self.client, outbox, &seqs).await?);
            }
            if !rows.is_empty() {
                let marked = outbox.mark(self.client, &rows).await?;
                self.tally.marked += u64::try_from(marked.rows).unwrap_or(0);
                self.tally.in_vain.extend(marked.in_vain);
            }
        }
        let seqs: Vec<i64> = delivered.iter().filter_map(|item| item.seq).collect();
        if !seqs.is_empty() {
            operator::note_replayed(self.client, &seqs).await?;
        }
        Ok(())
    }
}

/// Opens the cursor of the rows that are to be sent: it holds them on the server, by one scan, and keeps no
/// snapshot open while they are sent. Returns those that it has not, since the server cannot read them.
async fn select(
    client: &Client,
    outbox: &Outbox,
    cursor: &str,
    variables: &[(&str, &str)],
) -> Result<Vec<RaisingRow>, Fault> {
    let chosen = |among: &str| {
        let own = [("among", among)].into_iter();
        let all: Vec<_> = own.chain(variables.iter().copied()).collect();
        let sql = outbox.render(sql::REPLAY_SELECT, &all)?;
        Ok::<_, Fault>(sql.trim_end().trim_end_matches(';').to_owned())
    };
    let declared = |among: &str| {
        let held = format!("DECLARE {} SCROLL CURSOR WITH HOLD FOR", sql::identifier(cursor));
        Ok::<_, Fault>(format!("{held}\n{}", chosen(among)?))
    };
    let explained = |fault| explain_filter(fault, &outbox.title(), &outbox.filter);
    let fault = match execute(client, &declared("true")?).await {
        Err(fault) if is_of_shown_row(&fault) => fault,
        outcome => return outcome.map(|()| Vec::new()).map_err(explained),
    };
    execute(client, raising::BEGIN).await?;
    let found = async {
        let sql = |among: &str| {
            let tried = chosen(among)?;
            Ok(format!("WITH tried AS MATERIALIZED (\n{tried}) SELECT count(*) AS rows FROM tried"))
        };
        let trial = CountQuery { sql, rows: "rows" };
        let found = raising::raising(client, outbox.relation, &trial).await?;
        if found.is_empty() {
            return Err(fault);
        }
        execute(client, &declared(&raising::all_but(&found))?).await?;
        // Here the cursor is read, once.
        execute(client, "COMMIT").await?;
        Ok(found)
    };
    let found = found.await;
    if found.is_err() {
        execute(client, "ROLLBACK").await?;
    }
    found.map_err(explained)
}

/// The rows that records were made of, where these are still there.
async fn rows_of(
    client: &Client,
    outbox: &Outbox,
    seqs: &[i64],
) -> Result<Vec<(String, Origin)>, Fault> {
    let seqs = seqs.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
    let seqs = format!("{{{seqs}}}");
    let rows = query(client, &outbox.render(sql::REPLAY_MARKS, &[("seqs", &seqs)])?).await?;
    let row = |row| {
        let (xmin, time): (String, Option<String>) =
            (column(row, "xmin")?, column(row, "occurred_at")?);
        Ok((column(row, "id")?, origin(Some(&xmin), time.as_deref())))
    };
    rows.iter().map(row).collect()
}

/// Of a row as it stands in the table, written by this very transaction.
fn origin(xmin: Option<&str>, occurred_at: Option<&str>) -> Origin {
    let xid = xmin.and_then(|xmin| xmin.parse().ok());
    let xid_end = xid.map(|xid: u32| xid.wrapping_add(1));
    Origin { xid, xid_end, occurred_at: occurred_at.map(Box::from) }
}

/// Moves in a cursor, and says over how many rows.
async fn moved(client: &Client, whither: &str, cursor: &str) -> Result<u64, Fault> {
    let sql = sql::render(&format!("MOVE {whither} IN :\"cursor\""), &[("cursor", cursor)])?;
    let messages = client.simple_query(&sql).await.map_err(|error| classify(&error))?;
    let rows = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
        _ => None,
    });
    Ok(rows.unwrap_or(0))
}

async fn fetch(client: &Client, cursor: &str) -> Result<Vec<Row>, Fault> {
    query(client, &sql::render(sql::REPLAY_FETCH, &[("cursor", cursor)])?).await
}

async fn undated(client: &Client, outbox: &Outbox) -> Result<u64, Fault> {
    let rows = query(client, &outbox.render(sql::REPLAY_UNDATED, &[])?).await?;
    let count = rows.first().map_or(Ok(0), |row| column::<i64>(row, "rows"))?;
    Ok(u64::try_from(count).unwrap_or(0))
}

fn dry(message: Result<Message, Refusal>) -> Fate {
    match message {
        Ok(message) => Fate::Dry(Box::new(message)),
        Err(refusal) => Fate::Refused(refusal),
    }
}

/// The columns of the rows as they come, with the types that the catalog has for them.
fn shape<'a>(
    outbox: &'a Outbox,
    row: &SimpleQueryRow,
) -> Result<(Reader<'a>, Arc<[Column]>), Fault> {
    let named = |name: &str| outbox.columns.iter().find(|column| column.name == name).cloned();
    let columns = row.columns().iter().skip(META).map(|column| named(column.name()));
    let columns: Arc<[Column]> = columns.collect::<Option<_>>().ok_or_else(|| {
        Fault::transient(format!("{} was altered meanwhile", outbox.title())).hint("run it again")
    })?;
    let reader = Reader::new(outbox.number, &outbox.table, &columns).map_err(|errors| {
        Fault::definite(errors.join("\n  "), "name the right columns under [tables.columns]")
    })?;
    Ok((reader, columns))
}

fn text(row: &SimpleQueryRow, at: usize) -> Result<Option<&str>, Fault> {
    row.try_get(at).map_err(|error| classify(&error))
}

fn item(outbox: &Outbox, columns: &[Column], row: &SimpleQueryRow) -> Result<Item, Fault> {
    let field = |name: &str| {
        let at = columns.iter().position(|column| column.name == name);
        at.map_or(Ok(None), |at| text(row, at + META)).map(|text| text.map(str::to_owned))
    };
    let names = &outbox.table.columns;
    let kind = field(&names.aggregate_type.name)?;
    Ok(Item {
        table: outbox.number,
        id: field(&names.id.name)?.unwrap_or_default(),
        seq: None,
        is_shared: false,
        origin: origin(text(row, 1)?, field(&names.occurred_at.name)?.as_deref()),
        aggregate: field(&names.aggregate_id.name)?.map(|id| (kind, id)),
    })
}

/// When the row was committed is not known: where it has no time of its own, its message has
/// none that is true, and gets that of the replay.
fn build(
    reader: &mut Reader<'_>,
    row: &SimpleQueryRow,
    limits: Limits,
) -> Result<Result<StoredMessage, Refusal>, Fault> {
    let texts: Vec<Option<&str>> =
        (META..row.len()).map(|at| text(row, at)).collect::<Result<_, _>>()?;
    let texts = texts.into_iter().map(|text| text.map(str::as_bytes));
    let tuple = Tuple::of_texts(texts);
    let now = now_micros();
    Ok(match tuple {
        Ok(tuple) => reader.build(&tuple, now, Position::start(), limits),
        Err(error) => Err(Refusal::unreadable("row", error.to_string())),
    })
}
