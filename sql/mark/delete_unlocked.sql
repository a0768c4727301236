-- The same, passing over rows that somebody holds a lock on.
--   $1 text[]: ids
DELETE FROM :"schema".:"table" AS outbox
 WHERE outbox.:"id":::"id_schema".:"id_type" IN (
           SELECT free.:"id":::"id_schema".:"id_type" FROM :"schema".:"table" AS free
            WHERE free.:"id":::"id_schema".:"id_type" = ANY (($1::text[]):::"id_schema".:"id_type"[])
              FOR UPDATE SKIP LOCKED)
   AND :is_same_table
RETURNING outbox.:"id"::text;
