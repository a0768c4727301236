-- Tries to remove a row as a mark does, inside a transaction that is rolled back. No row where the DELETE
-- was swallowed.
--   psql -v schema=public -v table=outbox_messages -v id=id -v id_schema=pg_catalog -v id_type=uuid
--        -v event_id=00000000-0000-0000-0000-000000000001 -f check/mark_delete.sql
DELETE FROM :"schema".:"table" AS outbox
 WHERE outbox.:"id":::"id_schema".:"id_type" = ANY (array_remove(ARRAY[nullif(:'event_id', '')], NULL):::"id_schema".:"id_type"[])
RETURNING true AS is_marked;
