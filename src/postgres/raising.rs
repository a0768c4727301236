//! Rows over which a statement fails that reads many: something in them raises, a row filter, a cast, a value
//! that is too long to be shown. One of them fails it for all, so each is found and named, and the statement
//! is run for the others.

use tokio_postgres::Client;

use crate::config::Table;
use crate::error::Fault;
use crate::postgres::row_range::{PLACES, middle, tid};
use crate::postgres::{column, execute, is_of_shown_row, query, sql};

/// Rows that raise, of one table in which no other can be read: then it is no fault of theirs.
const MOST_RAISING: usize = 100;

/// A row that cannot be read.
#[derive(Debug, Clone)]
pub(crate) struct RaisingRow {
    /// Oid of the table or partition that has it.
    leaf: u32,
    /// The name of that, as SQL has it.
    pub leaf_name: String,
    place: u64,
    /// What it raises.
    pub fault: Fault,
}

impl RaisingRow {
    /// Its `ctid`.
    pub(crate) fn place(&self) -> String {
        tid(self.place)
    }

    /// Its id, where that can be seen: showing it may raise as well.
    pub(crate) async fn id(&self, client: &Client, table: &Table) -> Option<String> {
        let variables = [
            ("schema", table.schema.as_str()),
            ("table", &table.name),
            ("id", &table.columns.id.name),
            ("leaf", &self.leaf.to_string()),
            ("place", &self.place()),
        ];
        let sql = sql::render(sql::TABLE_PLACE, &variables).ok()?;
        column(query(client, &sql).await.ok()?.first()?, "id").ok()?
    }
}

/// A statement, tried for some rows of its table.
pub(crate) trait Trial {
    /// How many rows it reads where it may read those alone that `among` lets through: an expression over a row
    /// by the name of `outbox`. Nothing is left behind where it fails.
    fn rows(&self, client: &Client, among: &str)
    -> impl Future<Output = Result<u64, Fault>> + Send;
}

/// The rows of a table that raise. Where some of a range do, it is halved until each stands alone. Between two
/// trials nothing may move: they see one snapshot.
///
/// # Errors
/// That of a row, where no row at all can be read; or the connection is lost.
pub(crate) async fn raising(
    client: &Client,
    relation: u32,
    trial: &(impl Trial + Sync),
) -> Result<Vec<RaisingRow>, Fault> {
    let (mut found, mut read) = (Vec::new(), 0);
    let leaves = sql::render(sql::TABLE_LEAVES, &[("relation", &relation.to_string())])?;
    for row in query(client, &leaves).await? {
        let (leaf, name, pages): (u32, String, i64) =
            (column(&row, "leaf")?, column(&row, "shown")?, column(&row, "pages")?);
        let mut work = vec![(0, u64::try_from(pages).unwrap_or(0) * PLACES)];
        while let Some((from, to)) = work.pop() {
            let fault = match trial.rows(client, &within(leaf, from, to)).await {
                Ok(rows) => {
                    read += rows;
                    continue;
                }
                Err(fault) if is_of_shown_row(&fault) => fault,
                Err(fault) => return Err(fault),
            };
            if to - from > 1 {
                let middle = middle(from, to);
                work.extend([(middle, to), (from, middle)]);
                continue;
            }
            if read == 0 && found.len() >= MOST_RAISING {
                return Err(fault);
            }
            found.push(RaisingRow { leaf, leaf_name: name.clone(), place: from, fault });
        }
    }
    Ok(found)
}

fn within(leaf: u32, from: u64, to: u64) -> String {
    let (from, to) = (tid(from), tid(to));
    format!(
        "outbox.tableoid = {leaf} AND outbox.ctid >= '{from}'::tid AND outbox.ctid < '{to}'::tid"
    )
}

/// All rows but these, as an expression over one.
pub(crate) fn all_but(raising: &[RaisingRow]) -> String {
    if raising.is_empty() {
        return "true".to_owned();
    }
    let mut leaves: Vec<u32> = raising.iter().map(|row| row.leaf).collect();
    leaves.dedup();
    let of_leaf = leaves.iter().map(|leaf| {
        let places = raising.iter().filter(|row| row.leaf == *leaf);
        let places = places.map(|row| format!("\"{}\"", row.place())).collect::<Vec<_>>();
        format!(
            "(outbox.tableoid <> {leaf} OR outbox.ctid <> ALL ('{{{}}}'::tid[]))",
            places.join(",")
        )
    });
    of_leaf.collect::<Vec<_>>().join(" AND ")
}

/// A query that counts, within a transaction of the caller's.
pub(crate) struct CountQuery<F> {
    /// The query, by which rows are among those that it reads.
    pub sql: F,
    /// The column that says how many.
    pub rows: &'static str,
}

impl<F: Fn(&str) -> Result<String, Fault> + Sync> Trial for CountQuery<F> {
    async fn rows(&self, client: &Client, among: &str) -> Result<u64, Fault> {
        let sql = (self.sql)(among)?;
        let rows = in_savepoint(client, query(client, &sql)).await?;
        let rows = rows.first().map_or(Ok(0), |row| column::<i64>(row, self.rows))?;
        Ok(u64::try_from(rows).unwrap_or(0))
    }
}

/// Begins a transaction in which all is of one moment.
pub(crate) const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// Within a transaction of the caller's, which goes on where this fails.
pub(crate) async fn in_savepoint<T>(
    client: &Client,
    work: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    execute(client, "SAVEPOINT tried").await?;
    let outcome = work.await;
    let end = match outcome {
        Ok(_) => "RELEASE SAVEPOINT tried",
        Err(_) => "ROLLBACK TO SAVEPOINT tried; RELEASE SAVEPOINT tried",
    };
    match (outcome, execute(client, end).await) {
        (Ok(_), Err(fault)) => Err(fault),
        (outcome, _) => outcome,
    }
}
