//! From settings to what runs beside the relay: pruning and the guard.

use super::values::Values;
use super::{Guard, GuardPolicy, PartitionSpan, Prune};

/// `[prune]`.
pub(crate) fn prune(values: &Values) -> Prune {
    let keep = "prune.keep";
    Prune {
        keep: values.is_set(keep).then(|| values.span(keep)),
        interval: values.span("prune.interval"),
        batch: values.number("prune.batch"),
        pause: values.span("prune.pause"),
        partitions_ahead: values.number("prune.partitions_ahead"),
        partition_span: values
            .text("prune.partition_span")
            .as_deref()
            .and_then(PartitionSpan::read),
    }
}

/// `[guard]`.
pub(crate) fn guard(values: &Values) -> Guard {
    Guard {
        policy: match values.text("guard.policy").as_deref() {
            Some("stop") => GuardPolicy::Stop,
            Some("drop_slot_and_catch_up_later") => GuardPolicy::DropSlot,
            _ => GuardPolicy::Alert,
        },
        interval: values.span("guard.interval"),
        warn_at: values.span("guard.warn_at"),
        warn_percent: values.number("guard.warn_percent"),
        act_percent: values.number("guard.act_percent"),
        disk_limit: values.size("guard.disk_limit"),
    }
}

impl PartitionSpan {
    /// From its word.
    pub(crate) fn read(word: &str) -> Option<Self> {
        [("hour", Self::Hour), ("day", Self::Day), ("week", Self::Week), ("month", Self::Month)]
            .into_iter()
            .find_map(|(known, span)| (known == word).then_some(span))
    }
}
