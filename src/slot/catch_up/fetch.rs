//! Reads rows of the list, in the form of the stream.

use std::collections::BTreeMap;
use std::sync::Arc;

use postgres_types::Type;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};
use tracing::warn;

use super::CatchUp;
use super::list::Names;
use crate::config::{Config, Table};
use crate::core::event::pgoutput::{Column, StoredRow, Tuple};
use crate::error::Fault;
use crate::postgres::mark::MarkSql;
use crate::postgres::outbox_table::OutboxTable;
use crate::postgres::sql;
use crate::postgres::{classify, column, is_of_shown_row, query};

/// Bytes of payload, as they are stored, in one chunk; one larger row alone still comes.
const CHUNK_BYTES: u64 = 8 << 20;

/// Columns of `catch_up_fetch.sql` before the table's own: number, last number, bytes before,
/// time of the commit, the transaction that wrote it, its texts by column where it was kept whole.
const META: usize = 6;

/// Rows that cannot be read, of one chunk in which no other can: then it is no fault of theirs.
const MOST_UNREADABLE: usize = 100;

/// Some rows of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The rows with their numbers, in order. Numbers of rows that are gone or marked meanwhile
    /// are missing.
    pub rows: Vec<(u64, StoredRow)>,
    /// Where the next chunk begins: the end of the list, where this was the last.
    pub next: u64,
}

/// Rows of the list from number `from` on, up to `limit` numbers, and fewer where they are large.
///
/// # Errors
/// Transient where the shape of a table changed since the session began; that of a row, where no
/// row at all can be read; or the connection is lost.
pub async fn fetch(
    client: &Client,
    config: &Config,
    outboxes: &[OutboxTable],
    catch_up: &CatchUp,
    from: u64,
    limit: u64,
) -> Result<Chunk, Fault> {
    let mut next = catch_up.total.min(from.saturating_add(limit));
    let mut rows = Vec::new();
    for (number, (table, outbox)) in config.tables.iter().zip(outboxes).enumerate() {
        let part = fetch_table(client, config, (number, table, outbox), from, next).await?;
        next = next.min(part.next);
        rows.extend(part.rows);
    }
    rows.retain(|(n, _)| *n < next);
    rows.sort_unstable_by_key(|(n, _)| *n);
    Ok(Chunk { rows, next })
}

/// Rows of one table. One that the server cannot show, since something in it raises or is not text, is
/// passed over, and the others come: where a statement fails over what is in its rows, it is halved until
/// that row stands alone.
async fn fetch_table(
    client: &Client,
    config: &Config,
    (number, table, outbox): (usize, &Table, &OutboxTable),
    from: u64,
    to: u64,
) -> Result<Chunk, Fault> {
    let (mut rows, mut unreadable) = (Vec::new(), Vec::new());
    let (mut work, mut next) = (vec![(from, to)], to);
    while let Some((from, to)) = work.pop() {
        let fetched = fetch_range(client, config, (number, table, outbox), from, to).await?;
        let fault = match fetched {
            Ok(part) => {
                rows.extend(part.rows);
                // Rows were left out at the end where they were too many bytes.
                if part.next < to {
                    next = part.next;
                    break;
                }
                continue;
            }
            Err(fault) => fault,
        };
        if to - from > 1 {
            let middle = from + (to - from) / 2;
            work.extend([(middle, to), (from, middle)]);
            continue;
        }
        if unreadable.len() >= MOST_UNREADABLE && rows.is_empty() {
            return Err(fault);
        }
        unreadable.push((from, fault));
    }
    for (n, fault) in unreadable {
        pass_over(client, config, table, n, &fault).await?;
    }
    Ok(Chunk { rows, next })
}

/// A row of the list that cannot be read is taken off it. It stays without a mark, so that whoever looks for such rows
/// finds it: were it on the list still, a later session would take it for delivered once it can be read.
async fn pass_over(
    client: &Client,
    config: &Config,
    table: &Table,
    n: u64,
    fault: &Fault,
) -> Result<(), Fault> {
    let variables = [("slot", config.postgres.slot.as_str()), ("n", &n.to_string())];
    let rows = query(client, &sql::render(sql::CATCH_UP_PASS_OVER, &variables)?).await?;
    let Some(row) = rows.first() else { return Ok(()) };
    let (id, leaf, place): (Option<String>, String, String) =
        (column(row, "id")?, column(row, "leaf")?, column(row, "place")?);
    tell_passed_over(table, id.as_deref(), (&leaf, &place), fault);
    Ok(())
}

/// Says that a row is passed over, and where it is.
pub(super) fn tell_passed_over(
    table: &Table,
    id: Option<&str>,
    (leaf, place): (&str, &str),
    fault: &Fault,
) {
    let title = table.title();
    let by = id.map_or("--only unrelayed".to_owned(), |id| format!("--id {id}"));
    let hint = format!(
        "{}; correct the row (SELECT * FROM {leaf} WHERE ctid = '{place}'), then: pgoutbox replay --table {title} {by} --mark",
        fault.hint
    );
    warn!(
        hint,
        event_id = id,
        table = title,
        "a row that waits cannot be read, and is passed over: it stays without a mark, and later ones of its aggregate go on: {}",
        fault.what
    );
}

/// The inner error is of something in the rows.
async fn fetch_range(
    client: &Client,
    config: &Config,
    (number, table, outbox): (usize, &Table, &OutboxTable),
    from: u64,
    to: u64,
) -> Result<Result<Chunk, Fault>, Fault> {
    let sql = fetch_sql(config, table, outbox, from, to)?;
    // The simple protocol: its texts are made by the same functions as the stream's, which a
    // cast to text is not (boolean, char, inet).
    let answer = match client.simple_query(&sql).await.map_err(|error| classify(&error)) {
        Err(fault) if is_of_shown_row(&fault) => return Ok(Err(fault)),
        answer => answer?,
    };
    let mut found = answer.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let Some(first) = found.next() else { return Ok(Ok(Chunk { rows: Vec::new(), next: to })) };
    let last_n: u64 = meta(&first, 1)?;
    let places = places(&first, table, outbox)?;
    let (mut rows, mut shapes) = (Vec::new(), vec![outbox.columns.clone()]);
    for row in std::iter::once(first).chain(found) {
        rows.push((meta(&row, 0)?, stored(&row, number, outbox, &places, &mut shapes)?));
    }
    let next = match rows.last() {
        Some((n, _)) if *n < last_n => n + 1,
        _ => to,
    };
    Ok(Ok(Chunk { rows, next }))
}

fn fetch_sql(
    config: &Config,
    table: &Table,
    outbox: &OutboxTable,
    from: u64,
    to: u64,
) -> Result<String, Fault> {
    let (names, marks) = (Names::of(table, outbox), MarkSql::of(table));
    let (relation, bytes) = (outbox.relation.to_string(), CHUNK_BYTES.to_string());
    let (from, to) = (from.to_string(), to.to_string());
    let own = [
        ("slot", config.postgres.slot.as_str()),
        ("from", &from),
        ("to", &to),
        ("bytes", &bytes),
        ("schema", &table.schema),
        ("table", &table.name),
        ("relation", &relation),
        ("mode", names.mode),
        ("id", names.id),
        ("payload", &table.columns.payload.name),
        ("occurred_at", names.occurred_at),
        ("time", names.time),
    ];
    let all: Vec<_> =
        own.into_iter().chain(outbox.id_base.of_id()).chain(marks.variables()).collect();
    sql::render_some(sql::CATCH_UP_FETCH, &all)
}

fn meta<T: std::str::FromStr>(row: &SimpleQueryRow, at: usize) -> Result<T, Fault> {
    let text = row.try_get(at).map_err(|error| classify(&error))?.unwrap_or_default();
    text.parse().map_err(|_| Fault::transient(format!("the list of rows cannot be read: {text:?}")))
}

/// Where each column of the table is in the answer.
fn places(row: &SimpleQueryRow, table: &Table, outbox: &OutboxTable) -> Result<Vec<usize>, Fault> {
    let columns = row.columns().iter().enumerate().skip(META);
    let place = |name: &str| columns.clone().find(|(_, column)| column.name() == name);
    let places = outbox.columns.iter().map(|column| place(&column.name).map(|(at, _)| at));
    places.collect::<Option<_>>().ok_or_else(|| {
        Fault::transient(format!("{}.{} has changed its columns", table.schema, table.name))
    })
}

fn stored(
    row: &SimpleQueryRow,
    table: usize,
    outbox: &OutboxTable,
    places: &[usize],
    shapes: &mut Vec<Arc<[Column]>>,
) -> Result<StoredRow, Fault> {
    let text = |at: usize| row.try_get(at).map_err(|error| classify(&error));
    let (columns, tuple) = match text(5)? {
        Some(kept) => {
            let KeptRow { columns, texts } = kept_row(kept, outbox)?;
            let tuple = Tuple::of_texts(texts.iter().map(|it| it.as_deref().map(str::as_bytes)));
            (shared(shapes, columns), tuple)
        }
        None => {
            let texts = places.iter().map(|at| Ok(text(*at)?.map(str::as_bytes)));
            let texts = texts.collect::<Result<Vec<_>, Fault>>()?;
            (outbox.columns.clone(), Tuple::of_texts(texts.into_iter()))
        }
    };
    Ok(StoredRow {
        table,
        columns,
        tuple: tuple.map_err(|error| Fault::transient(error.to_string()))?,
        commit_time: meta(row, 3)?,
        xid: Some(meta(row, 4)?),
    })
}

/// Rows of one shape share their columns.
fn shared(shapes: &mut Vec<Arc<[Column]>>, columns: Vec<Column>) -> Arc<[Column]> {
    if let Some(known) = shapes.iter().find(|known| ***known == *columns) {
        return Arc::clone(known);
    }
    let columns: Arc<[Column]> = columns.into();
    shapes.push(Arc::clone(&columns));
    columns
}

/// A row that the list kept whole, with columns of its own: what the table has got since is not among them.
#[derive(Debug, PartialEq, Eq)]
struct KeptRow {
    columns: Vec<Column>,
    texts: Vec<Option<String>>,
}

/// A column of such a row, as `catch_up/fetch.sql` says it.
#[derive(Deserialize)]
struct KeptColumn {
    /// That of today, where the table has the column still.
    name: String,
    is_there: bool,
    /// As the stream said it; `None`: it was not in the stream.
    #[serde(rename = "type")]
    type_oid: Option<u32>,
    text: Option<String>,
}

fn kept_row(kept: &str, outbox: &OutboxTable) -> Result<KeptRow, Fault> {
    let row = match kept.starts_with('[') {
        true => of_numbers(kept, outbox),
        false => of_names(kept, outbox),
    };
    row.map_err(|error| Fault::transient(format!("the list of rows cannot be read: {error}")))
}

fn of_numbers(kept: &str, outbox: &OutboxTable) -> Result<KeptRow, serde_json::Error> {
    let kept: Vec<KeptColumn> = serde_json::from_str(kept)?;
    let is_shown = |it: &KeptColumn| {
        !it.is_there || outbox.columns.iter().any(|column| column.name == it.name)
    };
    let shown = kept.into_iter().filter(is_shown).filter_map(|it| {
        let type_oid = it.type_oid?;
        Some((Column { name: it.name, type_oid }, it.text))
    });
    let (columns, texts) = shown.unzip();
    Ok(KeptRow { columns, texts })
}

/// Of a list that an earlier version made: it knew columns by their names alone. One that has another name by now is
/// another column, of a type that nobody knows.
fn of_names(kept: &str, outbox: &OutboxTable) -> Result<KeptRow, serde_json::Error> {
    let mut kept: BTreeMap<String, &RawValue> = serde_json::from_str(kept)?;
    let texts: Option<BTreeMap<String, &RawValue>> = match kept.get("texts") {
        Some(texts) if kept.len() == 1 => Some(serde_json::from_str(texts.get())?),
        _ => None,
    };
    let is_json = texts.is_none();
    kept = texts.unwrap_or(kept);
    let of_today: Vec<Column> =
        outbox.columns.iter().filter(|column| kept.contains_key(&column.name)).cloned().collect();
    let others: Vec<Column> = kept
        .keys()
        .filter(|name| outbox.columns.iter().all(|column| column.name != **name))
        .map(|name| Column { name: name.clone(), type_oid: Type::TEXT.oid() })
        .collect();
    let columns: Vec<Column> = of_today.into_iter().chain(others).collect();
    let text = |column: &Column| match kept.get(&column.name) {
        None => Ok(None),
        Some(value) if value.get() == "null" => Ok(None),
        Some(value) if !is_json || is_text(value, column) => serde_json::from_str(value.get()),
        // Version 0.1 kept JSON as it stood.
        Some(value) => Ok(Some(value.get().to_owned())),
    };
    let texts = columns.iter().map(text).collect::<Result<_, _>>()?;
    Ok(KeptRow { columns, texts })
}

fn is_text(value: &RawValue, column: &Column) -> bool {
    let is_json = [Type::JSON.oid(), Type::JSONB.oid()].contains(&column.type_oid);
    !is_json && value.get().starts_with('"')
}
