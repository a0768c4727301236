-- The same, passing over rows that somebody holds a lock on.
--   $1 text[]: ids, $2 xid[]: the transactions that wrote them, $3: when they happened, by the rows' account
UPDATE :"schema".:"table" AS outbox
   SET :set_mark
 WHERE outbox.:"id":::"id_schema".:"id_type" IN (
           SELECT outbox.:"id":::"id_schema".:"id_type" FROM :"schema".:"table" AS outbox
            WHERE outbox.:"id":::"id_schema".:"id_type" = ANY (($1::text[]):::"id_schema".:"id_type"[])
              AND :is_event
              AND NOT (:marked)
              FOR NO KEY UPDATE SKIP LOCKED)
   AND :is_same_table
   AND :is_event
RETURNING outbox.:"id"::text;
