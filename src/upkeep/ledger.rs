//! What became of every committed row: delivered, parked, waiting, or none of these.

use jiff::Timestamp;
use tokio_postgres::Client;

use crate::config::AuditMode;
use crate::error::Fault;
use crate::postgres::outbox::Outbox;
use crate::postgres::raising::{self, CountQuery, RaisingRow, in_savepoint};
use crate::postgres::sql;
use crate::postgres::{column, is_of_shown_row, query};

/// Pages that are read at most to count a table's rows: 100 MB. Of a larger one so many are
/// picked at random, and the count is an estimate.
const MOST_PAGES: i64 = 12_800;

/// Rows of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// How many.
    pub rows: i64,
    /// When the oldest of them happened, by its own account.
    pub oldest: Option<Timestamp>,
}

/// One table's rows. Committed are those that are there; the others add up to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableLedger {
    /// `schema.table`.
    pub title: String,
    /// CountQuery from a sample of its pages.
    pub is_estimate: bool,
    /// All rows.
    pub committed: Count,
    /// Rows with a mark; where marks are rows removed, or none at all, this is unknown.
    pub delivered: Option<Count>,
    /// Rows without a mark that stand in the parking, in whatever state.
    pub parked: i64,
    /// Rows without a mark that the relay has not come to, or whose mark may be on its way.
    pub waiting: Count,
    /// Rows without a mark that the relay has passed.
    pub unmarked: Count,
}

/// Parked events of one table in one state.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ParkedCount {
    /// `schema.table`.
    pub table: String,
    /// The state.
    pub state: String,
    /// How many.
    pub events: i64,
    /// When the oldest was parked.
    pub oldest: String,
    /// How long ago that was.
    pub age_seconds: f64,
}

/// What is counted of a table.
#[derive(Debug, Clone)]
pub(crate) struct Counting<'a> {
    outbox: &'a Outbox,
    xmin: &'a str,
    before: String,
    share: f64,
    /// Picks the same pages each time.
    seed: u32,
}

impl<'a> Counting<'a> {
    /// `xmin` is that of a point that the slot has passed; empty where it has passed none. What happened
    /// after `before` waits in any case.
    pub(crate) async fn of(
        client: &Client,
        outbox: &'a Outbox,
        xmin: &'a str,
        before: Timestamp,
        is_exact: bool,
    ) -> Result<Self, Fault> {
        let share = if is_exact { 1.0 } else { share(client, outbox).await? };
        let before = match outbox.time {
            Some(_) => outbox.time_literal(client, before).await?,
            None => String::new(),
        };
        Ok(Self { outbox, xmin, before, share, seed: fastrand::u32(..) })
    }

    fn sql(&self, among: &str) -> Result<String, Fault> {
        let (percent, seed) = (self.share * 100.0, self.seed);
        let sample = match self.share < 1.0 {
            true => format!("TABLESAMPLE SYSTEM ({percent}) REPEATABLE ({seed})"),
            false => String::new(),
        };
        let variables =
            [("xmin", self.xmin), ("before", &self.before), ("sample", &sample), ("among", among)];
        self.outbox.render(sql::LEDGER, &variables)
    }
}

/// Counts one table's rows. One that cannot be read fails it.
pub(crate) async fn table(client: &Client, counting: &Counting<'_>) -> Result<TableLedger, Fault> {
    rows_among(client, counting, "true").await
}

/// Counts one table's rows that can be read, and says which cannot: the row filter raises for them, say. Within
/// a transaction of the caller's in which all is of one moment.
pub(crate) async fn readable(
    client: &Client,
    counting: &Counting<'_>,
) -> Result<(TableLedger, Vec<RaisingRow>), Fault> {
    let counted = in_savepoint(client, rows_among(client, counting, "true")).await;
    let fault = match counted {
        Err(fault) if is_of_shown_row(&fault) => fault,
        counted => return Ok((counted?, Vec::new())),
    };
    let trial = CountQuery { sql: |among: &str| counting.sql(among), rows: "committed" };
    let raising = raising::raising(client, counting.outbox.relation, &trial).await?;
    if raising.is_empty() {
        return Err(fault);
    }
    Ok((rows_among(client, counting, &raising::all_but(&raising)).await?, raising))
}

async fn rows_among(
    client: &Client,
    counting: &Counting<'_>,
    among: &str,
) -> Result<TableLedger, Fault> {
    let (outbox, share) = (counting.outbox, counting.share);
    let rows = query(client, &counting.sql(among)?).await?;
    let row = rows.first().ok_or_else(|| Fault::transient("the query returned no rows"))?;
    let rows = |name: &str| column::<i64>(row, name).map(|rows| scaled(rows, share));
    let count = |name: &str| {
        let oldest: Option<String> = column(row, &format!("oldest_{name}"))?;
        let oldest = oldest.and_then(|text| outbox.time_of(&text));
        Ok::<_, Fault>(Count { rows: rows(name)?, oldest })
    };
    let has_marks = matches!(outbox.table.audit_mode, AuditMode::Update | AuditMode::SideTable);
    let mut ledger = TableLedger {
        title: outbox.title(),
        is_estimate: share < 1.0,
        committed: count("committed")?,
        delivered: if has_marks { Some(count("delivered")?) } else { None },
        parked: rows("parked")?,
        waiting: count("waiting")?,
        unmarked: count("missing")?,
    };
    if !outbox.table.has_marks() {
        // Without marks no row can lack one.
        (ledger.waiting, ledger.unmarked) = (Count::default(), Count::default());
    }
    Ok(ledger)
}

#[allow(clippy::cast_precision_loss)] // an estimate
async fn share(client: &Client, outbox: &Outbox) -> Result<f64, Fault> {
    let rows = query(client, &outbox.render(sql::TABLE_PAGES, &[])?).await?;
    let pages: i64 = rows.first().map_or(Ok(0), |row| column(row, "pages"))?;
    Ok(if pages <= MOST_PAGES { 1.0 } else { MOST_PAGES as f64 / pages as f64 })
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)] // an estimate
fn scaled(rows: i64, share: f64) -> i64 {
    if share < 1.0 { (rows as f64 / share) as i64 } else { rows }
}

/// The slot's parked events by table and state.
pub(crate) async fn parked(client: &Client, slot: &str) -> Result<Vec<ParkedCount>, Fault> {
    let rows = query(client, &sql::render(sql::LEDGER_PARKED, &[("slot", slot)])?).await?;
    let one = |row| {
        Ok(ParkedCount {
            table: column(row, "table")?,
            state: column(row, "state")?,
            events: column(row, "events")?,
            oldest: column(row, "oldest")?,
            age_seconds: column(row, "age_seconds")?,
        })
    };
    rows.iter().map(one).collect()
}
