//! Whether the publication leaves out what the rules of tables leave out.

use tokio_postgres::Client;

use crate::config::{Config, Table};
use crate::error::Fault;
use crate::postgres::publication_filter::{self, PublicationFilter};
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
    let found = PublicationFilter::look(client, name, table).await?;
    // That is said already.
    if !found.has_share(client).await? {
        return Ok(None);
    }
    let is_wanted = found.is_wanted(client).await?;
    let PublicationFilter { can_filter, is, wanted, .. } = found;
    let title = table.title();
    let set = |filter: &str| publication_filter::set(name, table, filter);
    Ok(match (is, wanted) {
        (Some(_), Some(_)) if is_wanted => {
            let what = format!("publication \"{name}\" leaves out what the rule of {title} does");
            Some(Finding::good("publication-rule", what))
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
