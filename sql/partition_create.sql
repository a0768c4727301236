-- One partition. Made beside the table and then attached: so the table is never locked against
-- writers, as it would be by CREATE TABLE ... PARTITION OF. But for the default partition, which
-- is read through under a lock: not for longer than the timeout. The comment says whose it is: only
-- what has it is ever dropped.
--   psql -v schema=public -v table=outbox_messages -v partition=outbox_messages_d20270101 \
--        -v lower='2027-01-01 00:00:00+00' -v upper='2027-01-02 00:00:00+00' \
--        -v comment='pgoutbox made this partition' -f partition_create.sql
BEGIN;
SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '2s';
CREATE TABLE :"schema".:"partition" (LIKE :"schema".:"table" INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE)
    WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01,
          autovacuum_vacuum_insert_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE :"schema".:"table" ATTACH PARTITION :"schema".:"partition"
    FOR VALUES FROM (:'lower') TO (:'upper');
COMMENT ON TABLE :"schema".:"partition" IS :'comment';
COMMIT;
