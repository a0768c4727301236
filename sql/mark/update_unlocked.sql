-- The same, passing over rows that somebody holds a lock on.
--   $1 text[]: ids
UPDATE :"schema".:"table" AS marked
   SET :set_mark
 WHERE marked.:"id" IN (
           SELECT outbox.:"id" FROM :"schema".:"table" AS outbox
            WHERE outbox.:"id" = ANY (($1::text[]):::"id_schema".:"id_type"[])
              AND NOT (:marked)
              FOR NO KEY UPDATE SKIP LOCKED)
RETURNING marked.:"id"::text;
