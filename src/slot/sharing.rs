//! Two relays that mark the rows of one table: a mark says that a row was delivered, and not by whom.

use tokio_postgres::Client;

use super::Finding;
use crate::config::Config;
use crate::error::{Fault, codes};
use crate::postgres::outbox_table::OutboxTable;
use crate::postgres::sql;
use crate::postgres::{column, query};

const HINT: &str = "one relay with both destinations; or publications with row filters that share the rows; or, for one of the two, audit.mode = \"none\" and postgres.on_slot_loss = \"halt\"";

/// Other slots whose relays mark rows of tables that ours marks.
///
/// # Errors
/// The server cannot be asked.
pub(crate) async fn sharing(
    client: &Client,
    config: &Config,
    outboxes: &[OutboxTable],
) -> Result<Vec<Finding>, Fault> {
    let marked = config.tables.iter().zip(outboxes).filter(|(table, _)| table.has_marks());
    let relations: Vec<_> = marked.map(|(_, outbox)| outbox.relation.to_string()).collect();
    let relations = format!("{{{}}}", relations.join(","));
    let own = config.postgres.slot.as_str();
    let variables =
        [("slot", own), ("publication", &config.postgres.publication), ("relations", &relations)];
    let rows = match query(client, &sql::render(sql::SLOT_SHARING, &variables)?).await {
        // That is told of by itself.
        Err(fault) if fault.is_code(codes::UNDEFINED_TABLE) => return Ok(Vec::new()),
        Err(fault) if fault.is_code(codes::INSUFFICIENT_PRIVILEGE) => return Ok(Vec::new()),
        rows => rows?,
    };
    let finding = |row| {
        let (slot, table): (String, String) = (column(row, "slot")?, column(row, "table")?);
        Ok(Finding::warning(
            "slot-shares-marks",
            format!(
                "the relay of slot \"{slot}\" marks rows of {table} too, and a mark is of whoever comes first: should slot \"{own}\" be lost, what \"{slot}\" delivered is not published for it"
            ),
            HINT,
        ))
    };
    rows.iter().map(finding).collect()
}
