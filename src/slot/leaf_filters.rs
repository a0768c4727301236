//! Row filters of partitions: one that is made later has none.

use tokio_postgres::Client;

use super::Finding;
use crate::config::{Config, Table};
use crate::error::Fault;
use crate::postgres::{column, query, sql};

/// What the filters of a table's partitions let pass that they may not be meant to.
pub(super) async fn look(
    client: &Client,
    config: &Config,
    table: &Table,
    oid: u32,
) -> Result<Option<Finding>, Fault> {
    let name = config.postgres.publication.as_str();
    let (relation, quoted) = (oid.to_string(), sql::identifier(name));
    let variables = [("publication", name), ("relation", relation.as_str())];
    let rows = query(client, &sql::render(sql::CHECK_LEAF_FILTERS, &variables)?).await?;
    let mut filtered: Vec<(String, String)> = Vec::new();
    for row in &rows {
        filtered.push((column(row, "leaf")?, column(row, "filter")?));
    }
    let Some((_, filter)) = filtered.first() else { return Ok(None) };
    let leaves: Vec<_> = filtered.iter().map(|(leaf, _)| leaf.as_str()).collect();
    let leaves = leaves.join(", ");
    let what = format!(
        "publication \"{name}\" filters the rows of partitions of {} by filters of their own ({leaves}): a partition that \
         is made later has none, and all of its rows are relayed",
        table.title()
    );
    let root = sql::qualified(&table.schema, &table.name);
    let via_root = format!("ALTER PUBLICATION {quoted} SET (publish_via_partition_root = true)");
    let hint = match filtered.iter().all(|(_, other)| other == filter) {
        true => format!(
            "{via_root}; ALTER PUBLICATION {quoted} DROP TABLE {leaves}, {root}; \
             ALTER PUBLICATION {quoted} ADD TABLE {root} WHERE ({filter});  -- relay stopped"
        ),
        false => format!(
            "{via_root}, take the partitions out of it, and give {root} one filter (WHERE) that does for all of them; relay stopped"
        ),
    };
    Ok(Some(Finding::warning("publication-partition-filter", what, hint)))
}
