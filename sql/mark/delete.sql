-- Removes the rows of delivered events.
--   $1 text[]: ids, $2 xid[]: the transactions that wrote them, $3: when they happened, by the rows' account
DELETE FROM :"schema".:"table" AS outbox
 WHERE outbox.:"id":::"id_schema".:"id_type" = ANY (($1::text[]):::"id_schema".:"id_type"[])
   AND :is_same_table
   AND :is_event
RETURNING outbox.:"id"::text;
