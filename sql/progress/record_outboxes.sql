-- Remembers which tables are read as outboxes, by oid: [{"relation": 16389, "schema": ..., "name": ..., "publication": ..., "is_marked": true}, ...];
-- with "until": it has another name now, and what it held is done with once the slot is settled up to there.
--   psql -v slot=pgoutbox -v tables='[]' -f progress/record_outboxes.sql
UPDATE pgoutbox.progress SET tables = :'tables'::jsonb
 WHERE slot = :'slot' AND tables IS DISTINCT FROM :'tables'::jsonb
   AND set_config('synchronous_commit', 'local', true) = 'local';
