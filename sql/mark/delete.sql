-- Removes the rows of delivered events.
--   $1 text[]: ids
DELETE FROM :"schema".:"table" AS outbox
 WHERE outbox.:"id":::"id_schema".:"id_type" = ANY (($1::text[]):::"id_schema".:"id_type"[])
   AND :is_same_table
RETURNING outbox.:"id"::text;
