-- A failed event was delivered after all.
--   $1 text[]: ids, $2 xid[]: the transactions that wrote the rows, $3: when they happened, by the rows' account
UPDATE :"schema".:"table" AS outbox
   SET :"failed_at" = NULL
 WHERE outbox.:"id":::"id_schema".:"id_type" = ANY (($1::text[]):::"id_schema".:"id_type"[]) AND outbox.:"failed_at" IS NOT NULL
   AND :is_same_table
   AND :is_event;
