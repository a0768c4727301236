-- Tries to list some rows of a table and to keep them whole, and writes nothing: it raises where the list
-- would. "waiting" is catch_up/waiting.sql of those rows.
--   psql -v schema=public -v table=outbox_messages -v texts='outbox."id"' -f catch_up/try.sql
SELECT count((SELECT json_build_object('texts', row_to_json(kept))::jsonb FROM (SELECT :texts) AS kept)) AS rows
  FROM waiting
  JOIN :"schema".:"table" AS outbox ON outbox.tableoid = waiting.leaf AND outbox.ctid = waiting.place;
