-- Removes the rows of delivered events, as mark/delete.sql does, in a table that is partitioned by
-- the time: only partitions of these events' times are looked at, not the index of each.
--   $1 text[]: ids, $2 xid[]: the transactions that wrote them, $3: when they happened, by the rows' account,
--   $4: from this time on, $5: up to this time
DELETE FROM :"schema".:"table" AS outbox
 WHERE outbox.:"id":::"id_schema".:"id_type" = ANY (($1::text[]):::"id_schema".:"id_type"[])
   AND outbox.:"occurred_at" >= $4 AND outbox.:"occurred_at" <= $5
   AND :is_same_table
   AND :is_event
RETURNING outbox.:"id"::text;
