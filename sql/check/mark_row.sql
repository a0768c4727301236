-- A row to try a mark on, locked by nobody.
--   psql -v schema=public -v table=outbox_messages -v id=id -f check/mark_row.sql
SELECT outbox.:"id"::text AS id FROM :"schema".:"table" AS outbox
 WHERE outbox.:"id" IS NOT NULL
 LIMIT 1;
