//! Rows that cannot be listed, since something in them raises: the row filter, a cast, a column. One of
//! them fails the statement that lists all of them, so each is found, left out and named.

use tokio_postgres::{Client, SimpleQueryMessage};

use super::fetch::tell_passed_over;
use super::list::{Rows, waiting};
use crate::config::{Config, Table};
use crate::error::Fault;
use crate::postgres::outbox_table::OutboxTable;
use crate::postgres::{classify, column, is_of_shown_row, query, sql};

/// Places of a block, by which places of a table are counted on: more than there are rows in the largest
/// block that a server can have.
const PLACES: u64 = 1 << 11;

/// Rows that raise, of one table in which no other can be listed: then it is no fault of theirs.
const MOST_RAISING: usize = 100;

/// A row that cannot be listed.
pub(super) struct Raising {
    leaf: u32,
    leaf_name: String,
    place: u64,
    fault: Fault,
}

/// A table whose rows are tried, as its list sees them.
pub(super) struct TableTrial<'a> {
    pub(super) config: &'a Config,
    pub(super) table: &'a Table,
    pub(super) outbox: &'a OutboxTable,
    pub(super) rows: &'a Rows,
    pub(super) snapshot: &'a str,
}

impl TableTrial<'_> {
    /// Its rows that raise. Where some of a range do, it is halved until each stands alone.
    ///
    /// # Errors
    /// That of a row, where no row at all can be listed; or the connection is lost.
    pub(super) async fn raising(&self, client: &Client) -> Result<Vec<Raising>, Fault> {
        let (mut found, mut listed) = (Vec::new(), 0);
        let relation = self.outbox.relation.to_string();
        let leaves = sql::render(sql::TABLE_LEAVES, &[("relation", &relation)])?;
        for leaf in query(client, &leaves).await? {
            let (oid, name, pages): (u32, String, i64) =
                (column(&leaf, "leaf")?, column(&leaf, "shown")?, column(&leaf, "pages")?);
            let mut work = vec![(0, u64::try_from(pages).unwrap_or(0) * PLACES)];
            while let Some((from, to)) = work.pop() {
                let fault = match self.list(client, oid, from, to).await? {
                    Ok(rows) => {
                        listed += rows;
                        continue;
                    }
                    Err(fault) => fault,
                };
                if to - from > 1 {
                    let middle = from + (to - from) / 2;
                    work.extend([(middle, to), (from, middle)]);
                    continue;
                }
                if listed == 0 && found.len() >= MOST_RAISING {
                    return Err(fault);
                }
                found.push(Raising { leaf: oid, leaf_name: name.clone(), place: from, fault });
            }
        }
        Ok(found)
    }

    /// How many rows of a range of places wait. The inner error is of something in one of them.
    async fn list(
        &self,
        client: &Client,
        leaf: u32,
        from: u64,
        to: u64,
    ) -> Result<Result<u64, Fault>, Fault> {
        let (from, to) = (place(from), place(to));
        let among = format!(
            "outbox.tableoid = {leaf} AND outbox.ctid >= '{from}'::tid AND outbox.ctid < '{to}'::tid"
        );
        let mut sql = sql::render(sql::CATCH_UP_TRY_OPEN, &[("snapshot", self.snapshot)])?;
        let waiting = waiting(self.config, self.table, self.outbox, self.rows, &among)?;
        sql.push_str("WITH waiting AS MATERIALIZED (\n");
        sql.push_str(waiting.trim_end().trim_end_matches(';'));
        sql.push_str(")\n");
        let variables = [
            ("schema", self.table.schema.as_str()),
            ("table", &self.table.name),
            ("texts", &self.rows.texts),
        ];
        sql.push_str(&sql::render(sql::CATCH_UP_TRY, &variables)?);
        let answer = match client.simple_query(&sql).await {
            Err(error) if is_of_shown_row(&error) => return Ok(Err(classify(&error))),
            answer => answer.map_err(|error| classify(&error))?,
        };
        let rows = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
            _ => None,
        });
        Ok(Ok(rows.unwrap_or(0)))
    }
}

/// All rows but these, as an expression.
pub(super) fn all_but(raising: &[Raising]) -> String {
    let mut leaves: Vec<u32> = raising.iter().map(|row| row.leaf).collect();
    leaves.dedup();
    let of_leaf = leaves.iter().map(|leaf| {
        let places = raising.iter().filter(|row| row.leaf == *leaf);
        let places = places.map(|row| format!("\"{}\"", place(row.place))).collect::<Vec<_>>();
        format!(
            "(outbox.tableoid <> {leaf} OR outbox.ctid <> ALL ('{{{}}}'::tid[]))",
            places.join(",")
        )
    });
    of_leaf.collect::<Vec<_>>().join(" AND ")
}

/// Names each of them.
pub(super) async fn tell(client: &Client, table: &Table, raising: &[Raising]) {
    for row in raising {
        let place = place(row.place);
        let id = id(client, table, row.leaf, &place).await;
        tell_passed_over(table, id.as_deref(), (&row.leaf_name, &place), &row.fault);
    }
}

/// What is at a place, where that can be seen: showing it may raise as well.
async fn id(client: &Client, table: &Table, leaf: u32, place: &str) -> Option<String> {
    let variables = [
        ("schema", table.schema.as_str()),
        ("table", &table.name),
        ("id", &table.columns.id.name),
        ("leaf", &leaf.to_string()),
        ("place", place),
    ];
    let sql = sql::render(sql::CATCH_UP_PLACE, &variables).ok()?;
    column(query(client, &sql).await.ok()?.first()?, "id").ok()?
}

/// As the server writes it: block and number in it.
fn place(place: u64) -> String {
    format!("({},{})", place / PLACES, place % PLACES)
}
