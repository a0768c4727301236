-- Ends a DETACH ... CONCURRENTLY that was cut short.
--   psql -v schema=public -v table=outbox_messages -v partition=outbox_messages_d20260101 \
--        -f partition/finalize.sql
ALTER TABLE :"schema".:"table" DETACH PARTITION :"schema".:"partition" FINALIZE;
