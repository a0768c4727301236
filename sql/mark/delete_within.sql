-- Removes the rows of delivered events, as mark/delete.sql does, in a table that is partitioned by
-- the time: only partitions of these events' times are looked at, not the index of each.
--   $1 text[]: ids, $2: from this time on, $3: before this time
DELETE FROM :"schema".:"table" AS outbox
 WHERE outbox.:"id":::"id_schema".:"id_type" = ANY (($1::text[]):::"id_schema".:"id_type"[])
   AND outbox.:"occurred_at" >= $2 AND outbox.:"occurred_at" < $3
   AND :is_same_table
RETURNING outbox.:"id"::text;
