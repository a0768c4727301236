-- Moves the marks that stand in rows into pgoutbox.relayed, each as the mark of its row.
-- row_time: what the row says of its time, as text, '' where it leaves it empty; null where the table has no such
-- column. in_row: whether a row is marked in itself.
--   psql -v schema=public -v table=outbox_messages -v title=public.outbox_messages -v id=id \
--        -v row_time="coalesce(outbox.occurred_at::text, '')" -v in_row='outbox.relayed_at IS NOT NULL' \
--        -v marked_at=outbox.relayed_at -f mark/move_beside.sql
BEGIN;
-- As the relay reads the time.
SET LOCAL timezone = 'UTC';
SET LOCAL datestyle = 'ISO';
INSERT INTO pgoutbox.relayed (outbox, id, relayed_at, event, xid_end)
SELECT :'title'::regclass, outbox.:"id"::text, :marked_at,
       coalesce(hashtextextended(nullif(:row_time, '') COLLATE "C", 0), outbox.xmin::text::bigint),
       CASE WHEN nullif(:row_time, '') IS NULL THEN (outbox.xmin::text::bigint + 1) % 4294967296 END
  FROM :"schema".:"table" AS outbox
 WHERE :in_row
    ON CONFLICT DO NOTHING;
COMMIT;
