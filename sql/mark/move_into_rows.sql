-- Moves the marks in pgoutbox.relayed into the rows that they are of. Variables as in mark/move_beside.sql.
--   psql -v schema=public -v table=outbox_messages -v title=public.outbox_messages -v id=id \
--        -v row_time="coalesce(outbox.occurred_at::text, '')" -v in_row='outbox.relayed_at IS NOT NULL' \
--        -v set_mark='relayed_at = mark.relayed_at' -f mark/move_into_rows.sql
BEGIN;
-- As the relay reads the time.
SET LOCAL timezone = 'UTC';
SET LOCAL datestyle = 'ISO';
UPDATE :"schema".:"table" AS outbox
   SET :set_mark
  FROM pgoutbox.relayed AS mark
 WHERE mark.outbox = :'title'::regclass AND mark.id = outbox.:"id"::text
   AND pgoutbox.is_mark_of(mark, outbox.xmin, :row_time)
   AND NOT (:in_row);
COMMIT;
