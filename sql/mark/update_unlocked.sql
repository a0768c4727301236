-- The same, passing over rows that somebody holds a lock on.
--   $1 text[]: ids
UPDATE :"schema".:"table" AS outbox
   SET :"relayed_at" = now()
 WHERE outbox.:"id" IN (
           SELECT free.:"id" FROM :"schema".:"table" AS free
            WHERE free.:"id" = ANY (($1::text[]):::"id_schema".:"id_type"[])
              AND free.:"relayed_at" IS NULL
              FOR NO KEY UPDATE SKIP LOCKED)
RETURNING outbox.:"id"::text;
