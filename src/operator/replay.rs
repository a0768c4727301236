//! Sends rows of the outbox, or of the parking, once more: by the relay's own path from row to
//! message, without touching the slot.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use futures_util::StreamExt;
use tokio_postgres::{Client, Row, SimpleQueryMessage, SimpleQueryRow};

use crate::config::Config;
use crate::core::event::pgoutput::{Column, Tuple};
use crate::core::event::stored::{self, Reader, StoredMessage};
use crate::core::event::{Position, Refusal};
use crate::core::message::{Limits, Message};
use crate::core::relay::marks::Origin;
use crate::error::Fault;
use crate::operator::{self, ParkedEvent};
use crate::postgres::outbox::{Outbox, explain_filter};
use crate::postgres::sql;
use crate::postgres::{classify, column, is_of_shown_row, now_micros, query};
use crate::rabbitmq::resend::{Fate, Item, Resender};

/// Rows that are marked in one statement.
const MARKS: usize = 500;
/// Columns of `replay_rows.sql` before the table's own: number, the transaction that wrote the row.
const META: usize = 2;

/// Which rows of an outbox table are meant; what is empty is not asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct RowFilter {
    /// With one of these ids.
    pub ids: Vec<String>,
    /// Of this type of aggregate.
    pub aggregate_type: String,
    /// Of this aggregate.
    pub aggregate_id: String,
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
            report,
        }
    }

    /// Sends the rows of a table that a filter lets through: by the time of their commits where
    /// they are chosen by it, by `occurred_at`, and by id.
    ///
    /// # Errors
    /// A table cannot be read, or the connection to one of the servers is lost: what was sent until
    /// then stays sent.
    pub(crate) async fn rows(&mut self, outbox: &Outbox, filter: &RowFilter) -> Result<(), Fault> {
        let ids = serde_json::Value::from(filter.ids.clone()).to_string();
        let variables = [
            ("ids", ids.as_str()),
            ("wanted_type", &filter.aggregate_type),
            ("wanted_id", &filter.aggregate_id),
            ("since", &filter.since),
            ("until", &filter.until),
            ("committed_since", &filter.committed_since),
            ("committed_until", &filter.committed_until),
            ("relayed_since", &filter.relayed_since),
            ("relayed_until", &filter.relayed_until),
            ("only", filter.only.word()),
            ("xmin", &filter.xmin),
        ];
        query(self.client, &outbox.render(sql::REPLAY_SELECT, &variables)?)
            .await
            .map_err(|fault| explain_filter(fault, &outbox.title(), &outbox.filter))?;
        if !filter.committed_since.is_empty() || !filter.committed_until.is_empty() {
            self.tally.undated += undated(self.client, outbox).await?;
        }
        loop {
            let rows = query(self.client, sql::REPLAY_FETCH).await?;
            let keys = rows.iter().map(Key::read).collect::<Result<Vec<_>, _>>()?;
            if keys.is_empty() {
                break;
            }
            let found = keys.iter().filter_map(|key| key.id.as_ref());
            for id in found.filter(|id| filter.ids.contains(id)) {
                *self.asked.entry(id.clone()).or_default() += 1;
            }
            self.keys(outbox, &keys, filter.only).await?;
        }
        query(self.client, "CLOSE replay").await.map(drop)
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
        while let Some(keys) = work.pop() {
            let (done, outcome) = self.some_keys(outbox, keys, only).await?;
            let Err(fault) = outcome else { continue };
            let rest = keys.get(done..).unwrap_or_default();
            if let [key] = rest {
                let item = Item {
                    table: outbox.number,
                    id: key.id.clone().unwrap_or_default(),
                    seq: None,
                    is_shared: key.is_shared,
                    origin: Origin::default(),
                    aggregate: None,
                };
                self.one(item, Err(Refusal::unreadable("row", fault.what))).await?;
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
            let row = match stream.next().await {
                None => break Ok(()),
                Some(Err(error)) if is_of_shown_row(&error) => break Err(classify(&error)),
                Some(message) => match message.map_err(failed)? {
                    SimpleQueryMessage::Row(row) => row,
                    _ => continue,
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
        self.tally.gone += u64::try_from(done.saturating_sub(found)).unwrap_or(0);
        Ok((done, outcome))
    }

    /// Sends a dead-lettered or discarded event from its row in the parking.
    pub(crate) async fn parked(&mut self, event: &ParkedEvent) -> Result<(), Fault> {
        let Some(row) = operator::row(self.client, self.config, event).await? else {
            self.tally.gone += 1;
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
        let built = stored::build(self.config, &row, event.position, self.limits);
        self.one(item, built).await?;
        self.mark(MARKS, false).await
    }

    /// Waits for the last confirms, marks what is left to mark, and says what it all came to.
    pub(crate) async fn finish(mut self) -> Result<ReplayTally, Fault> {
        if let Some(resender) = &mut self.resender {
            resender.finish().await?;
        }
        self.settle();
        self.mark(1, true).await?;
        if let Some(resender) = self.resender.take() {
            resender.close().await;
        }
        Ok(self.tally)
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
        let message = built.and_then(|built| built.message.replayed());
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
