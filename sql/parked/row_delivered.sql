-- A failed event was delivered after all.
--   $1 text[]: ids
UPDATE :"schema".:"table" AS outbox
   SET :"failed_at" = NULL
 WHERE outbox.:"id":::"id_schema".:"id_type" = ANY (($1::text[]):::"id_schema".:"id_type"[]) AND outbox.:"failed_at" IS NOT NULL
   AND :is_same_table;
