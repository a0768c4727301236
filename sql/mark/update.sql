-- Marks delivered events in their rows. A row that is not there, or is marked, is left out of
-- the answer.
--   $1 text[]: ids
UPDATE :"schema".:"table" AS outbox
   SET :"relayed_at" = now()
 WHERE outbox.:"id" = ANY (($1::text[]):::"id_schema".:"id_type"[])
   AND outbox.:"relayed_at" IS NULL
RETURNING outbox.:"id"::text;
