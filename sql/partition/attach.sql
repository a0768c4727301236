-- Puts a partition back that was detached and turned out to hold a row that must stay.
--   psql -v schema=public -v table=outbox_messages -v partition=outbox_messages_d20260101 \
--        -v lower='2026-01-01 00:00:00+00' -v upper='2026-01-02 00:00:00+00' \
--        -v comment='pgoutbox made this partition' -f partition/attach.sql
BEGIN;
SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '10s';
COMMENT ON TABLE :"schema".:"partition" IS :'comment';
ALTER TABLE :"schema".:"table" ATTACH PARTITION :"schema".:"partition"
    FOR VALUES FROM (:'lower') TO (:'upper');
COMMIT;
