//! Which row is that of an event: all that write marks into rows ask here. An id may have been used again, after
//! `TRUNCATE … RESTART IDENTITY` for one, and what has it now is another event's.
//!
//! For marks in `pgoutbox.relayed` the same is in `pgoutbox.is_mark_of`, for parked events in `pgoutbox.is_record_of`.

use std::error::Error as StdError;

use bytes::BytesMut;
use postgres_types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Error};

use super::content::Content;
use super::{ColumnType, sql};
use crate::config::Table;
use crate::core::event::Moment;
use crate::core::event::relation::TimeKind;
use crate::error::Fault;

/// What tells the rows of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EventRows {
    /// How its column of the time is read; `None` where it has none, or the role may not read that, or which
    /// transaction wrote a row: then the id alone tells.
    kind: Option<TimeKind>,
}

/// What is known of the row of an event beside its id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct EventRow<'a> {
    /// The id.
    pub id: &'a str,
    /// The transaction that wrote it.
    pub xid: Option<u32>,
    /// What its column of the time holds.
    pub moment: Option<Moment>,
}

impl EventRows {
    /// What is asked of a table, and of what the connected role may read of it.
    ///
    /// # Errors
    /// The file and its variables do not fit: a defect.
    pub(crate) fn sql(relation: u32, table: &Table) -> Result<String, Fault> {
        let relation = relation.to_string();
        let variables =
            [("relation", relation.as_str()), ("occurred_at", &table.columns.occurred_at.name)];
        sql::render(sql::MARK_TOLD_BY, &variables)
    }

    /// By the answer to [`sql`](Self::sql).
    ///
    /// # Errors
    /// What the server says, or that the connection is lost.
    pub(crate) async fn find(client: &Client, sql: &str) -> Result<Self, Error> {
        let rows = client.query_typed(sql, &[]).await?;
        let type_oid = rows.first().map(|row| row.try_get::<_, u32>("type_oid")).transpose()?;
        Ok(Self { kind: type_oid.and_then(TimeKind::of) })
    }

    /// A condition over a row by the name of `outbox`, which has the id of one of these events: it is the row of
    /// that one. The parameters are those of [`EventKeys`].
    ///
    /// 1. A row that says of its time what its event said is its own.
    /// 2. So is one that the event's transaction wrote: it may have changed the time itself.
    /// 3. An event that is known to have no time is told by its id.
    ///
    /// No operator orders transaction ids, and without one a comparison of rows is none: they are compared as text.
    /// Hashed, since each list is as long as a batch: and the later two are looked at only where the first says no.
    pub(crate) fn condition(self, table: &Table, id_type: &ColumnType) -> String {
        let Some(time_type) = self.kind.map(type_of) else { return "true".to_owned() };
        let kind = sql::qualified(&id_type.schema, &id_type.name);
        let id = format!("outbox.{}::{kind}", sql::identifier(&table.columns.id.name));
        let time = sql::identifier(&table.columns.occurred_at.name);
        let one = |second: &str, of_type: &str| {
            format!("unnest($1::text[], {second}::{of_type}[]) AS one (id, told)")
        };
        let (by_time, by_xid) = (one("$3", time_type.name()), one("$2", "xid"));
        format!(
            "(({id}, outbox.{time}) IN (SELECT one.id::{kind}, one.told FROM {by_time} WHERE one.told IS NOT NULL)
        OR ({id}, outbox.xmin::text) IN (SELECT one.id::{kind}, one.told::text FROM {by_xid} WHERE one.told IS NOT NULL)
        OR {id} IN (SELECT one.id::{kind} FROM {by_time} WHERE one.told IS NULL))"
        )
    }

    /// The same of a row and a record of the parking, by the name of `parked`: it is the row of the parked event.
    pub(crate) fn record_condition(self, table: &Table, content: &Content) -> String {
        if self.kind.is_none() {
            // A file that is there no more: the table was truncated since.
            return "(parked.filenode IS NULL OR parked.filenode = pg_relation_filenode(parked.outbox))"
                .to_owned();
        }
        let columns = &table.columns;
        let names = content.names().map(sql::literal).join(", ");
        let cells = content.names().map(|name| format!("outbox.{}::text", sql::identifier(name)));
        format!(
            "pgoutbox.is_record_of(parked, outbox.xmin, outbox.{}::text, ARRAY[{}, {names}], ARRAY[{}])",
            sql::identifier(&columns.occurred_at.name),
            sql::literal(&columns.id.name),
            cells.join(", ")
        )
    }

    /// The types of the parameters: they stand in no statement where the id alone tells.
    pub(crate) fn types(self) -> [Type; 3] {
        let time = match self.kind {
            Some(TimeKind::Timestamp) => Type::TIMESTAMP_ARRAY,
            Some(TimeKind::Epoch) => Type::INT8_ARRAY,
            Some(TimeKind::Timestamptz) | None => Type::TIMESTAMPTZ_ARRAY,
        };
        [Type::TEXT_ARRAY, Type::XID_ARRAY, time]
    }

    /// What a text of its column of the time says, in what is asked of it.
    pub(crate) fn moment(self, text: &str) -> Option<Moment> {
        Moment::parse(self.kind?, text)
    }

    /// The parameters for these events.
    pub(crate) fn keys<'a>(self, events: impl Iterator<Item = EventRow<'a>>) -> EventKeys<'a> {
        let mut keys = EventKeys::default();
        for EventRow { id, xid, moment } in events {
            keys.ids.push(id);
            if let Some(kind) = self.kind {
                keys.xids.push(xid.map(Xid));
                // Of a column that has another type by now it says nothing.
                keys.moments
                    .push(moment.filter(|moment| moment.kind == kind).map(ColumnTime::from));
            }
        }
        keys
    }
}

fn type_of(kind: TimeKind) -> Type {
    match kind {
        TimeKind::Timestamptz => Type::TIMESTAMPTZ,
        TimeKind::Timestamp => Type::TIMESTAMP,
        TimeKind::Epoch => Type::INT8,
    }
}

/// Events as statements take them.
#[derive(Debug, Default)]
pub(crate) struct EventKeys<'a> {
    ids: Vec<&'a str>,
    xids: Vec<Option<Xid>>,
    moments: Vec<Option<ColumnTime>>,
}

impl EventKeys<'_> {
    /// The first parameters of the statement.
    pub(crate) fn parameters(&self) -> [&(dyn ToSql + Sync); 3] {
        [&self.ids, &self.xids, &self.moments]
    }
}

/// A transaction id as a parameter.
#[derive(Debug)]
struct Xid(u32);

impl ToSql for Xid {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        out.extend_from_slice(&self.0.to_be_bytes());
        Ok(IsNull::No)
    }

    fn accepts(of: &Type) -> bool {
        *of == Type::XID
    }

    to_sql_checked!();
}

/// A [`Moment`] as a parameter of its column's type: as Postgres stores it.
#[derive(Debug)]
pub(crate) struct ColumnTime(i64);

impl From<Moment> for ColumnTime {
    fn from(moment: Moment) -> Self {
        Self(moment.value)
    }
}

impl ToSql for ColumnTime {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        out.extend_from_slice(&self.0.to_be_bytes());
        Ok(IsNull::No)
    }

    fn accepts(of: &Type) -> bool {
        [Type::TIMESTAMPTZ, Type::TIMESTAMP, Type::INT8].contains(of)
    }

    to_sql_checked!();
}
