-- The same, passing over rows that somebody holds a lock on.
--   $1 text[]: ids
UPDATE :"schema".:"table" AS marked
   SET :set_mark
 WHERE marked.:"id":::"id_schema".:"id_type" IN (
           SELECT outbox.:"id":::"id_schema".:"id_type" FROM :"schema".:"table" AS outbox
            WHERE outbox.:"id":::"id_schema".:"id_type" = ANY (($1::text[]):::"id_schema".:"id_type"[])
              AND NOT (:marked)
              FOR NO KEY UPDATE SKIP LOCKED)
   AND :is_same_table
RETURNING marked.:"id"::text;
