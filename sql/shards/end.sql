-- The outbox is spread over as many relays as it was to be. What is kept of the slots before goes: a session that
-- still writes is refused, its row is gone.
--   psql -v slot=pgoutbox -v from='["pgoutbox"]' -f shards/end.sql
DELETE FROM pgoutbox.progress WHERE (:'from'::jsonb) ? progress.slot::text;
DELETE FROM pgoutbox.guard WHERE (:'from'::jsonb) ? guard.slot::text;
UPDATE pgoutbox.layout
   SET former = shards, shards = moving_to, moving_to = NULL, changed_at = now() WHERE slot = :'slot';
