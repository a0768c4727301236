-- The same where there is no default partition: nobody waits. Outside of a transaction.
--   psql -v schema=public -v table=outbox_messages -v partition=outbox_messages_d20260101 \
--        -f partition/detach_concurrently.sql
ALTER TABLE :"schema".:"table" DETACH PARTITION :"schema".:"partition" CONCURRENTLY;
