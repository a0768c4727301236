-- Tries a mark on a row, inside a transaction that is rolled back: whether it is there then. No row where
-- the UPDATE was swallowed.
--   psql -v schema=public -v table=outbox_messages -v id=id -v id_schema=pg_catalog -v id_type=uuid
--        -v marked='outbox.relayed_at IS NOT NULL' \
--        -v set_mark='relayed_at = now()' -v event_id=00000000-0000-0000-0000-000000000001 -f check/mark_update.sql
UPDATE :"schema".:"table" AS outbox
   SET :set_mark
 WHERE outbox.:"id":::"id_schema".:"id_type" = ANY (array_remove(ARRAY[nullif(:'event_id', '')], NULL):::"id_schema".:"id_type"[])
RETURNING (:marked) AS is_marked;
