-- Takes a partition out of its table, which is needed for itself for a moment: whoever comes
-- meanwhile waits, so not for long. The comment tells the next pass what this table was, should
-- this one be cut short.
--   psql -v schema=public -v table=outbox_messages -v partition=outbox_messages_d20260101 \
--        -v comment='...' -f partition/detach.sql
BEGIN;
SET LOCAL lock_timeout = '100ms';
ALTER TABLE :"schema".:"table" DETACH PARTITION :"schema".:"partition";
COMMENT ON TABLE :"schema".:"partition" IS :'comment';
COMMIT;
