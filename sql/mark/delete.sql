-- Removes the rows of delivered events.
--   $1 text[]: ids
DELETE FROM :"schema".:"table" AS outbox
 WHERE outbox.:"id":::"id_schema".:"id_type" = ANY (($1::text[]):::"id_schema".:"id_type"[])
   -- Another table may have the name by now, with the same ids.
   AND (quote_ident(:'schema') || '.' || quote_ident(:'table'))::regclass = :'relation'::oid
RETURNING outbox.:"id"::text;
