//! An outbox table as the catalog has it.

use std::sync::Arc;

use crate::core::event::pgoutput::Column;
use crate::core::event::relation::TimeKind;
use crate::postgres::ColumnType;

/// What the catalog knows of a configured table, for those who write SQL about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxTable {
    /// Oid of the table; of the root, where it is partitioned.
    pub relation: u32,
    /// Type of the id column as SQL writes it (`uuid`, `bigint`, `character varying(40)`).
    pub id_type: String,
    /// The same without its modifier and, for a domain, of what that is made.
    pub(crate) id_base: ColumnType,
    /// How its column of the time is read, where it is partitioned by that, and the audit role may.
    pub partition_time: Option<TimeKind>,
    /// Whether it has the column of the mark.
    pub has_mark: bool,
    /// Its columns as the stream shows them.
    pub columns: Arc<[Column]>,
    /// The table that has its name today, where it was renamed away.
    pub heir: Option<u32>,
}
