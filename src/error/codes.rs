//! The codes of Postgres that something is done about by name.

/// 23514.
pub(crate) const CHECK_VIOLATION: &str = "23514";
/// 28000: a role that does not exist or may not log in, or no line in `pg_hba.conf`.
pub(crate) const INVALID_AUTHORIZATION_SPECIFICATION: &str = "28000";
/// 28P01.
pub(crate) const INVALID_PASSWORD: &str = "28P01";
/// OB001, of our own (`sql/init/schema.sql`): a later session owns the slot.
pub(crate) const TAKEN_OVER: &str = "OB001";
/// 3D000: no such database.
pub(crate) const INVALID_CATALOG_NAME: &str = "3D000";
/// 3F000: no such schema.
pub(crate) const INVALID_SCHEMA_NAME: &str = "3F000";
/// 42501.
pub(crate) const INSUFFICIENT_PRIVILEGE: &str = "42501";
pub(crate) const UNDEFINED_TABLE: &str = "42P01";
/// 42703.
pub(crate) const UNDEFINED_COLUMN: &str = "42703";
/// 42704: among others a publication that the stream needs.
pub(crate) const UNDEFINED_OBJECT: &str = "42704";
/// 53300.
pub(crate) const TOO_MANY_CONNECTIONS: &str = "53300";
/// 55000.
pub(crate) const OBJECT_NOT_IN_PREREQUISITE_STATE: &str = "55000";
/// 55006: among others a slot that is active for another walsender.
pub(crate) const OBJECT_IN_USE: &str = "55006";
/// 55P03: a lock was not had in time.
pub(crate) const LOCK_NOT_AVAILABLE: &str = "55P03";
/// 57014: cancelled, by `statement_timeout` or by somebody.
pub(crate) const QUERY_CANCELED: &str = "57014";
/// XX000: what the server's own code does not expect; among others a text of more than 1 GB.
pub(crate) const INTERNAL_ERROR: &str = "XX000";
/// 08P01: also what a pooler says to a parameter that it does not know.
pub(crate) const PROTOCOL_VIOLATION: &str = "08P01";
