-- Sees the tables as they were where the stream of the new slot begins: what was committed
-- before is here, what was committed later is there. REPEATABLE READ is also what tells two
-- relays that do this at once from one another: the second to write fails.
--   :'snapshot': snapshot_name of CREATE_REPLICATION_SLOT ... EXPORT_SNAPSHOT
BEGIN ISOLATION LEVEL REPEATABLE READ;
SET TRANSACTION SNAPSHOT :'snapshot';
SET LOCAL statement_timeout = 0;
SET LOCAL lock_timeout = '30s';
SET LOCAL idle_in_transaction_session_timeout = 0;
SET LOCAL synchronous_commit = local;
SET LOCAL timezone = 'UTC';
SET LOCAL datestyle = ISO;
SET LOCAL bytea_output = hex;
SET LOCAL intervalstyle = iso_8601;
SET LOCAL extra_float_digits = 1;
DELETE FROM pgoutbox.catch_up_rows WHERE slot = :'slot';
