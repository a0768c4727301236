-- Tries to list some rows of a table and to keep them whole, and writes nothing: it raises where the list
-- would. "waiting" is catch_up/waiting.sql of those rows.
--   psql -v schema=public -v table=outbox_messages -v texts='(1, $$id$$, 20, concat(outbox.id))' -f catch_up/try.sql
SELECT count((SELECT json_agg(kept)::jsonb FROM (VALUES :texts) AS kept (attnum, name, type, text))) AS rows
  FROM waiting
  JOIN :"schema".:"table" AS outbox ON outbox.tableoid = waiting.leaf AND outbox.ctid = waiting.place;
