-- Removes the rows that have a mark in pgoutbox.relayed. Variables as in mark/move_beside.sql.
--   psql -v schema=public -v table=outbox_messages -v title=public.outbox_messages -v id=id \
--        -v row_time="coalesce(outbox.occurred_at::text, '')" -f mark/remove_beside.sql
BEGIN;
-- As the relay reads the time.
SET LOCAL timezone = 'UTC';
SET LOCAL datestyle = 'ISO';
DELETE FROM :"schema".:"table" AS outbox
 USING pgoutbox.relayed AS mark
 WHERE mark.outbox = :'title'::regclass AND mark.id = outbox.:"id"::text
   AND pgoutbox.is_mark_of(mark, outbox.xmin, :row_time);
COMMIT;
