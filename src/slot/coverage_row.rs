//! What the server answers of one table about the publication.

/// What the server answers for one table.
pub(super) struct CoverageRow {
    pub(super) publication: Option<u32>,
    pub(super) version: Option<String>,
    pub(super) owner: Option<u32>,
    pub(super) member_version: Option<String>,
    pub(super) is_insert: bool,
    pub(super) is_insert_only: bool,
    pub(super) is_via_root: bool,
    /// Whether it sends stored generated columns; `None` before Postgres 18, which cannot.
    pub(super) has_generated: Option<bool>,
    pub(super) relation: Option<u32>,
    pub(super) is_covered: bool,
    pub(super) is_partitioned: bool,
    pub(super) is_partition: bool,
    pub(super) is_table: bool,
    pub(super) is_temporary: bool,
    pub(super) is_unlogged: bool,
    pub(super) is_all_tables: bool,
    pub(super) is_older: bool,
    pub(super) made_with: Option<String>,
    pub(super) named_by: Option<String>,
    /// Where else there is a table of the name; looked up only for the message.
    pub(super) elsewhere: Vec<String>,
    /// What the publication has instead; likewise.
    pub(super) renamed: Option<String>,
    pub(super) member: Option<u32>,
    pub(super) member_schema: Option<u32>,
    pub(super) part_of: Option<String>,
    pub(super) is_filtered: bool,
    pub(super) row_filter: Option<String>,
    pub(super) column_list: Option<String>,
    pub(super) parts: UnstreamedParts,
}

/// What of a table is not in the stream, by name.
pub(super) struct UnstreamedParts {
    /// Tables that inherit from it: their rows come under those names.
    pub(super) children: Vec<String>,
    /// Unlogged partitions.
    pub(super) unlogged: Vec<String>,
    /// Partitions on other servers.
    pub(super) foreign: Vec<String>,
}

impl CoverageRow {
    /// A table that can be in a publication.
    pub(super) fn is_outbox(&self) -> bool {
        self.relation.is_some() && self.is_table && !self.is_temporary
    }
}
