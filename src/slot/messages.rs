//! Messages that are events: whether their templates can be made of an envelope, and what there is not
//! for an event without a row.

use super::Finding;
use crate::config::{Config, Table};
use crate::core::event::envelope::Shape;
use crate::core::event::relation::Mapping;

/// What holds for all of them; said at the start too.
pub(crate) const MESSAGES: &str = "events of [[messages]] have no row: no mark, no catch-up, no replay, no reconciliation; what is emitted while there is no slot is never relayed";

pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let wrong = |(number, source): (usize, &Table)| {
        let errors = Mapping::compile(number, source, &Shape::Json.columns(), false).err()?;
        let hint = "correct [[messages]], so that it names members of an envelope";
        Some(Finding::error("messages-mapping", errors.join("; "), hint))
    };
    let mut findings: Vec<_> = config.messages.iter().enumerate().filter_map(wrong).collect();
    if config.messages.is_empty() || !findings.is_empty() {
        return findings;
    }
    findings.push(match config.is_catching_up() {
        false => Finding::good("messages", MESSAGES),
        true => Finding::warning(
            "messages-slot-loss",
            "postgres.on_slot_loss is catch_up: a slot that is lost is made again, and messages that were emitted meanwhile are lost",
            "set postgres.on_slot_loss = \"halt\", or emit nothing that may be lost",
        ),
    });
    findings
}
