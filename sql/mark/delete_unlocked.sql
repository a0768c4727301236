-- The same, passing over rows that somebody holds a lock on.
--   $1 text[]: ids
DELETE FROM :"schema".:"table" AS outbox
 WHERE outbox.:"id" IN (
           SELECT free.:"id" FROM :"schema".:"table" AS free
            WHERE free.:"id" = ANY (($1::text[]):::"id_schema".:"id_type"[])
              FOR UPDATE SKIP LOCKED)
RETURNING outbox.:"id"::text;
