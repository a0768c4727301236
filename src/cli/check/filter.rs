//! Whether the publication leaves out what the rules of tables leave out.

use tokio_postgres::Client;

use crate::config::{Config, Table};
use crate::error::Fault;
use crate::postgres::publication_filter::PublicationFilter;
use crate::postgres::sql;
use crate::postgres::{column, query};
use crate::slot::Finding;

/// Looks at each table that has a rule. What is not there, others say.
pub(super) async fn look(client: &Client, config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for table in &config.tables {
        if let Ok(found) = of_table(client, config, table).await {
            findings.extend(found);
        }
    }
    findings
}

async fn of_table(
    client: &Client,
    config: &Config,
    table: &Table,
) -> Result<Option<Finding>, Fault> {
    let name = &config.postgres.publication;
    let PublicationFilter { can_filter, is, wanted, .. } =
        PublicationFilter::look(client, name, table).await?;
    let title = table.title();
    let (quoted, place) = (sql::identifier(name), sql::qualified(&table.schema, &table.name));
    let set = |filter: &str| {
        format!(
            "BEGIN; ALTER PUBLICATION {quoted} DROP TABLE {place}; ALTER PUBLICATION {quoted} ADD TABLE {place} WHERE \
             ({filter}); COMMIT;  -- relay stopped: it makes its slot again, and lists what waits"
        )
    };
    Ok(match (is, wanted) {
        (Some(is), Some(wanted))
            if plan(client, &place, &is).await? == plan(client, &place, &wanted).await? =>
        {
            let what = format!("publication \"{name}\" leaves out what the rule of {title} does");
            Some(Finding::good("publication-rule", what))
        }
        // Rows of the share that the filter leaves out are nobody's.
        (Some(is), Some(wanted)) if table.share.is_some() => {
            let what = format!(
                "publication \"{name}\" filters the rows of {title} otherwise than its share asks for; its filter is {is}"
            );
            Some(Finding::error("shards-filter", what, set(&wanted)))
        }
        (Some(is), wanted) => {
            let what = format!(
                "publication \"{name}\" filters the rows of {title} otherwise than tables.N.only and except do: only \
                 those are relayed that both let pass; its filter is {is}"
            );
            let hint = wanted.map_or_else(
                || "change the filter or the rule, if that is not meant".to_owned(),
                |wanted| set(&wanted),
            );
            Some(Finding::warning("publication-row-filter", what, hint))
        }
        (None, Some(wanted)) if can_filter && table.share.is_none() => {
            let what = format!(
                "publication \"{name}\" sends rows of {title} that its rule leaves out: they are passed over, which \
                 costs their way"
            );
            Some(Finding::warning("publication-rule", what, set(&wanted)))
        }
        (None, _) => None,
    })
}

/// What the server makes of a condition: the same of two that say the same in other words.
async fn plan(client: &Client, place: &str, filter: &str) -> Result<String, Fault> {
    let asked = format!("EXPLAIN (VERBOSE, COSTS OFF) SELECT FROM {place} WHERE {filter}");
    let rows = query(client, &asked).await?;
    let lines = rows.iter().map(|row| column::<String>(row, "QUERY PLAN"));
    Ok(lines.collect::<Result<Vec<_>, _>>()?.join("\n"))
}
