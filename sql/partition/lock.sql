-- Keeps everybody from a table that was a partition, for the last look at its rows.
--   psql -v schema=public -v partition=outbox_messages_d20260101 -f partition/lock.sql
LOCK TABLE :"schema".:"partition" IN ACCESS EXCLUSIVE MODE;
