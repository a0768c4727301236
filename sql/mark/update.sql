-- Marks delivered events in their rows. A row that is not there, or is marked, is left out of
-- the answer.
--   $1 text[]: ids, $2 xid[]: the transactions that wrote them, $3: when they happened, by the rows' account
UPDATE :"schema".:"table" AS outbox
   SET :set_mark
 WHERE outbox.:"id":::"id_schema".:"id_type" = ANY (($1::text[]):::"id_schema".:"id_type"[])
   AND :is_same_table
   AND :is_event
   AND NOT (:marked)
RETURNING outbox.:"id"::text;
