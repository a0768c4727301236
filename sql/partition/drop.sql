-- Drops a table that was a partition. In the transaction that locked it and looked for rows that
-- must stay.
--   psql -v schema=public -v partition=outbox_messages_d20260101 -f partition/drop.sql
DROP TABLE :"schema".:"partition";
